"""The built-in task `hf-causal-lm`: a causal language model of transformers on a text of yours.

Configuration and tokenizer come from the checkpoint's own folder. The loss is in nats for a token:
an example's is the sum over its tokens, weighed by their number, so neither batches nor padding
change it.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sharpcli.errors import SharpError, counted, setting

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = [
    "PACKAGE",
    "SUMMARY",
    "collate",
    "data",
    "loss",
    "metrics",
    "model",
    "predict",
    "smoothed_loss",
]

NAME = "hf-causal-lm"
SUMMARY = "a causal language model of Hugging Face, on your text"
PACKAGE = "transformers"
EXTRA = "hf"
FOLDER = "model"  # the option that is the checkpoint's folder where the user does not set it
EXAMPLE = "sharp measure checkpoint-500 -t hf-causal-lm -O text=FILE"

_BLOCK = 1024  # tokens, at most, as in transformers' own run_clm.py
_COLUMNS = ("text", "content")


def identities() -> Mapping[str, Any]:
    """What identifies the files that options name, wherever they are."""
    from sharpcli.tasks.pretrained import identity
    from sharpcli.tasks.records import digest

    return {"model": identity, "tokenizer": identity, "text": digest, "test_text": digest}


def model(model: str | None = None) -> nn.Module:
    """The model of the configuration in the folder `model`, without weights."""
    from sharpcli.tasks.notes import note
    from sharpcli.tasks.pretrained import build, read_config

    config = read_config(NAME, model)
    named = [str(each) for each in config.architectures or []]
    if named and all(each.endswith("ForMaskedLM") for each in named):
        raise SharpError(
            f"{NAME}: {model} holds a masked language model ({named[0]}), whose tokens see those "
            "that follow",
            "write a task file with its masked tokens: `sharp init --template causal-lm`",
        )
    if getattr(config, "output_router_logits", False):
        note("the loss is the language model's alone: the router's auxiliary loss is not in it")
    made: nn.Module = build(NAME, config, "AutoModelForCausalLM")
    return made


def data(
    split: str,
    text: str,
    test_text: str | None = None,
    block: int | None = None,
    pack: bool | None = None,
    column: str | None = None,
    model: str | None = None,
    tokenizer: str | None = None,
) -> Any:
    """Token blocks (N, block) of one text, or one row for each record of a JSON or CSV file.

    Args:
        split: "train" or "test".
        text: a text file, or records (.jsonl, .csv).
        test_text: the test data; without it a tenth of `text`.
        block: tokens of a row, at most; 1,024 or what the model takes.
        pack: join all tokens and cut them into full blocks. By default so for a text, not for
            records.
        column: of the records' text.
        model: the folder of the model.
        tokenizer: the folder of the tokenizer, if it is another.
    """
    from sharpcli.tasks.notes import note
    from sharpcli.tasks.records import share_of, stamp

    own = test_text is not None
    option = "test_text" if own and split == "test" else "text"
    path = str(test_text if option == "test_text" else text)
    made = _rows(path, option, stamp(path), block, pack, column, model, tokenizer)
    for said in made.notes:
        note(said)
    if own:
        return _joined(made.rows)
    rows = share_of(
        made.rows,
        split,
        path=path,
        option="test_text",
        rows_are="block" if made.packed else "record",
        last=made.packed,
    )
    return None if rows is None else _joined(rows)


@dataclass(frozen=True)
class _Made:
    """Rows of tokens (T,) each, whether they are blocks of one text, and notes on them."""

    rows: Sequence[Tensor]
    packed: bool
    notes: tuple[str, ...]


@functools.lru_cache(maxsize=2)  # both splits may come from one file
def _rows(
    path: str,
    option: str,
    _: object,
    block: int | None,
    pack: bool | None,
    column: str | None,
    model: str | None,
    tokenizer: str | None,
) -> _Made:
    import itertools

    import torch

    from sharpcli.tasks.pretrained import longest_input, read_config, read_tokenizer, tokenized
    from sharpcli.tasks.records import column_of, is_records, read_records, read_text

    config = read_config(NAME, model)
    words = read_tokenizer(NAME, model, tokenizer)
    limit = longest_input(config, words)
    size = _block_size(block, limit)
    packed = not is_records(path) if pack is None else pack
    if is_records(path):
        records = read_records(NAME, path, f"options.{option}")
        name = column_of(NAME, path, records, column, _COLUMNS, "options.column")
        texts = [str(record[name]) for record in records]
    else:
        whole = read_text(NAME, path, f"options.{option}")
        texts = [whole] if packed else [line for line in whole.split("\n") if line.strip()]
    found = tokenized(NAME, words, config, texts).tokens
    if not packed:
        return _apart(path, found, size)
    stream = torch.tensor(list(itertools.chain(*found)), dtype=torch.int64)
    if len(stream) < 2:
        raise SharpError(f"{NAME}: {path} has fewer than two tokens", "name a text")
    size = min(size, len(stream))
    blocks, rest = divmod(len(stream), size)
    left = f", and the last {counted(rest, 'token')} are left out" if rest else ""
    said = (
        f"{path}: {counted(len(stream), 'token')} in {counted(blocks, 'block')} of {size}{left}; "
        f"{setting('options.block', 'N')} sets the size"
    )
    return _Made(tuple(stream[: blocks * size].view(blocks, size)), True, (said,))


def _apart(path: str, found: list[list[int]], size: int) -> _Made:
    """A row for each text, of at most `size` tokens."""
    import torch

    notes = []
    if cut := sum(len(each) > size for each in found):
        notes.append(
            f"{path}: {counted(cut, 'text')} of {len(found):,} are cut to {size} tokens; "
            f"{setting('options.block', 'N')} sets the size"
        )
    kept = [torch.tensor(each[:size]) for each in found if len(each) > 1]
    if len(kept) < len(found):
        notes.append(
            f"{path}: {counted(len(found) - len(kept), 'text')} of one token or none left out: "
            "nothing is predicted there"
        )
    if not kept:
        raise SharpError(f"{NAME}: {path} has no text of two tokens", "check the file")
    if len({len(each) for each in kept}) > 1:
        notes.append(
            "the loss is the mean over all predicted tokens; the Trainer's eval_loss averages "
            "over batches, and differs where texts differ in length"
        )
    return _Made(tuple(kept), False, tuple(notes))


def _block_size(asked: int | None, limit: int | None) -> int:
    """Tokens of a row, at most; raises `SharpError` for more than the model takes."""
    if asked is None:
        return min(_BLOCK, limit or _BLOCK)
    if asked < 2 or asked > (limit or asked):
        raise SharpError(
            f"{NAME}: {setting('options.block', asked)}: the model takes blocks of 2 to "
            f"{limit or 'any number of'} tokens",
            f"take {setting('options.block', min(_BLOCK, limit or _BLOCK))}",
        )
    return asked


def _joined(rows: Sequence[Tensor]) -> Any:
    """Tensors (N, T) of rows of one length; otherwise rows that `collate` pads."""
    import torch

    if len({len(row) for row in rows}) == 1:
        tokens = torch.stack(list(rows))
        return tokens, tokens
    return [{"input_ids": row, "labels": row} for row in rows]


def collate(rows: list[Any], model: str | None = None, tokenizer: str | None = None) -> Any:
    """A padded batch with its attention mask; padding is at the end, where no token sees it.

    Blocks of one length make a pair of tensors.
    """
    from torch.utils.data import default_collate

    from sharpcli.tasks.pretrained import padded, padding_in

    if not isinstance(rows[0], Mapping):
        return default_collate(rows)
    return padded(rows, padding_in(NAME, model, tokenizer))


def predict(model: nn.Module, batch: Any) -> Tensor:
    """The scores of the next token, (N, T, V)."""
    if isinstance(batch, Mapping):
        found = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
    else:
        found = model(input_ids=batch[0])
    logits: Tensor = found.logits
    return logits


def loss(outputs: Tensor, batch: Any) -> Any:
    """For each example the sum of its tokens' cross-entropies, and how many tokens count."""
    from sharpcli.tasks.defaults import cross_entropy

    return cross_entropy(NAME, *_shifted(outputs, batch))


loss.exponential_family = True  # type: ignore[attr-defined]  # the logits are natural parameters


def smoothed_loss(outputs: Tensor, batch: Any, smoothing: float) -> Any:
    """The loss with label smoothing."""
    from sharpcli.tasks.defaults import cross_entropy

    return cross_entropy(NAME, *_shifted(outputs, batch), smoothing)


def metrics(outputs: Tensor, batch: Any) -> Mapping[str, Any]:
    """The accuracy of the next token."""
    from sharpcli.tasks import defaults

    return defaults.metrics(*_shifted(outputs, batch))


def _shifted(outputs: Tensor, batch: Any) -> tuple[Tensor, tuple[None, Tensor]]:
    """Scores (N, T − 1, V) and the tokens that they are for, (N, T − 1)."""
    labels = batch["labels"] if isinstance(batch, Mapping) else batch[1]
    return outputs[:, :-1], (None, labels[:, 1:])
