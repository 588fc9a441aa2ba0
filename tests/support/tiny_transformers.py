"""Small models of transformers with a tokenizer of bytes, written as their Trainer leaves them."""

import json
import string

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

END, PADDING = 256, 257
VOCABULARY = 258


def tokenizer(*, padding=False, side="right", longest=64):
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: number for number, letter in enumerate(letters)}
    made = Tokenizer(models.BPE(vocab={**vocabulary, "<end>": END, "<pad>": PADDING}, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=made,
        eos_token="<end>",
        padding_side=side,
        model_max_length=longest,
        **({"pad_token": "<pad>"} if padding else {}),
    )


def of_bert(path):
    """A tokenizer of letters with BERT's special tokens and types; writes its vocabulary."""
    letters = [*string.ascii_lowercase, *string.digits]
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{c}" for c in letters)]
    path.write_text("\n".join(words), "utf-8")
    return transformers.BertTokenizer(str(path), model_max_length=64)


def gpt2(**options):
    return transformers.GPT2Config(
        vocab_size=VOCABULARY,
        n_positions=64,
        n_embd=8,
        n_layer=1,
        n_head=2,
        bos_token_id=END,
        eos_token_id=END,
        **options,
    )


def llama(**options):
    return transformers.LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=8,
        intermediate_size=12,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=64,
        pad_token_id=PADDING,
        bos_token_id=END,
        eos_token_id=END,
        **options,
    )


def bert(**options):
    return transformers.BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=12,
        max_position_embeddings=64,
        pad_token_id=PADDING,
        **options,
    )


def saved(folder, kind, config, words, *, seed=0):
    """Write a model of the class `kind` and a tokenizer; returns the model in float64."""
    torch.manual_seed(seed)
    config._attn_implementation = "eager"  # the fused kernels have no second derivative
    model = kind(config)
    for parameter in model.parameters():  # the heads of new models are all but constant
        torch.nn.init.normal_(parameter, std=0.3)
    model.tie_weights()
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    return model.double().eval()


def records(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return str(path)
