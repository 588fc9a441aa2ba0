"""Checkpoints that transformers writes have the numbers of the live model."""

from __future__ import annotations

import json

import pytest
import torch
from live_models import assert_equal, measured, module_of, perturbed

pytest.importorskip("transformers")

GPT2 = """
import torch
from transformers import GPT2Config, GPT2LMHeadModel

def model():
    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config(
        vocab_size=7, n_positions=5, n_embd=4, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0,
        attn_implementation="eager",
    ))

def data(split):
    if split == "train":
        words = torch.randint(0, 7, (9, 5), generator=torch.Generator().manual_seed(3))
        return words, words

def predict(model, batch):
    return model(batch[0]).logits

def loss(outputs, batch):
    logits = outputs[:, :-1].transpose(1, 2)
    return torch.nn.functional.cross_entropy(logits, batch[1][:, 1:], reduction="none").mean(1)
"""
BERT = """
import torch
from transformers import BertConfig, BertForSequenceClassification

def model():
    torch.manual_seed(0)
    return BertForSequenceClassification(BertConfig(
        vocab_size=7, hidden_size=4, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=4, max_position_embeddings=6, num_labels=3,
        attn_implementation="eager",
    ))

def data(split):
    if split == "train":
        generator = torch.Generator().manual_seed(3)
        words = torch.randint(0, 7, (9, 5), generator=generator)
        return words, torch.randint(0, 3, (9,), generator=generator)

def predict(model, batch):
    return model(input_ids=batch[0]).logits

def loss(outputs, batch):
    return torch.nn.functional.cross_entropy(outputs, batch[1], reduction="none")
"""


def written(folder, source):
    path = folder / "task.py"
    path.write_text(source)
    module = module_of(path)
    return path, module, perturbed(module.model())


@pytest.mark.parametrize("shards", ["50GB", "1KB"])
def test_a_language_model_with_its_tied_head_left_out(tmp_path, shards):
    path, task, model = written(tmp_path, GPT2)
    model.save_pretrained(tmp_path / "run", max_shard_size=shards)
    result = measured(path, tmp_path / "run")
    assert_equal(result, task, model)
    assert any("'lm_head.weight' from" in note for note in result.checkpoint["notes"])


def test_the_layout_of_the_hub_without_the_models_own_prefix(tmp_path):
    path, task, model = written(tmp_path, GPT2)
    model.transformer.save_pretrained(tmp_path / "run")
    result = measured(path, tmp_path / "run")
    assert_equal(result, task, model)
    assert "prefix 'transformer.' added" in result.checkpoint["notes"]


def test_constants_of_older_releases_are_left_out(tmp_path):
    path, task, model = written(tmp_path, GPT2)
    old = dict(model.state_dict())
    old["transformer.h.0.attn.bias"] = torch.ones(5, 5).tril().view(1, 1, 5, 5)
    old["transformer.h.0.attn.masked_bias"] = torch.tensor(-1e4)
    torch.save(old, tmp_path / "pytorch_model.bin")
    result = measured(path, tmp_path / "pytorch_model.bin")
    assert_equal(result, task, model)
    assert any(
        "attn.masked_bias' not in the model: left out" in n for n in result.checkpoint["notes"]
    )


def test_a_classifier_with_the_first_names_of_layer_norms(tmp_path):
    path, task, model = written(tmp_path, BERT)
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        ): t
        for name, t in model.state_dict().items()
    }
    old["bert.embeddings.position_ids"] = torch.arange(6)[None]
    torch.save(old, tmp_path / "pytorch_model.bin")
    result = measured(path, tmp_path / "pytorch_model.bin")
    assert_equal(result, task, model)
    assert "6 tensors 'gamma' or 'beta' read as 'weight' or 'bias'" in result.checkpoint["notes"]


def test_an_encoder_alone_takes_the_head_of_the_task(tmp_path):
    path, task, model = written(tmp_path, BERT)
    model.bert.save_pretrained(tmp_path / "run")
    refused = measured(path, tmp_path / "run")
    assert "2 missing" in refused.error.message and "partial=True" in refused.error.hint
    result = measured(path, tmp_path / "run", partial=True)
    live = task.model()
    live.bert.load_state_dict(model.bert.state_dict())
    for parameter in live.classifier.parameters():
        parameter.requires_grad_(False)
    assert_equal(result, task, live)


def test_a_folder_of_the_trainer(tmp_path):
    pytest.importorskip("accelerate")
    from transformers import Trainer, TrainingArguments

    path, task, model = written(tmp_path, BERT)
    words, labels = task.data("train")
    rows = [{"input_ids": w, "labels": y} for w, y in zip(words, labels, strict=True)]
    arguments = TrainingArguments(
        tmp_path / "runs", max_steps=2, save_steps=2, report_to=[], use_cpu=True, disable_tqdm=True
    )
    Trainer(model, arguments, train_dataset=rows).train()
    result = measured(path, tmp_path / "runs" / "checkpoint-2")
    assert_equal(result, task, model)
    state = json.loads((tmp_path / "runs" / "checkpoint-2" / "trainer_state.json").read_text())
    assert result.checkpoint["metadata"]["global_step"] == state["global_step"] == 2


def test_a_configuration_of_another_model_is_said(tmp_path):
    path, _, model = written(tmp_path, GPT2)
    model.save_pretrained(tmp_path / "run")
    assert not any("config.json" in n for n in measured(path, tmp_path / "run").checkpoint["notes"])
    path.write_text(GPT2.replace("n_head=2", "n_head=1"))
    notes = measured(path, tmp_path / "run").checkpoint["notes"]
    assert (
        "config.json describes another model than the task's: 'n_head' is '2' in it and '1' in the "
        "model"
    ) in notes
