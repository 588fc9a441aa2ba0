"""The built-in task `hf-sequence-classification`: a classifier of transformers on your records.

Configuration and tokenizer come from the checkpoint's own folder. Its configuration says what the
labels are: one class of several (cross-entropy), several labels at once (`problem_type`; binary
cross-entropy, the mean over the labels), or numbers (`num_labels` of 1; squared error).
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sharpcli.errors import SharpError, counted, did_you_mean, setting

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["PACKAGE", "SUMMARY", "collate", "data", "loss", "metrics", "model", "predict"]

NAME = "hf-sequence-classification"
SUMMARY = "a text classifier of Hugging Face, on your data"
PACKAGE = "transformers"
EXTRA = "hf"
FOLDER = "model"  # the option that is the checkpoint's folder where the user does not set it
EXAMPLE = "sharp measure checkpoint-500 -t hf-sequence-classification -O data=FILE.jsonl"

_TEXTS = ("text", "sentence", "content")
_PAIRS = (
    ("sentence1", "sentence2"),
    ("premise", "hypothesis"),
    ("question1", "question2"),
    ("question", "sentence"),
)
_LABELS = ("label", "labels")
_SINGLE, _MULTI, _NUMBERS = (
    "single_label_classification",
    "multi_label_classification",
    "regression",
)
_SHOWN = 60  # characters of a label in a message


def identities() -> Mapping[str, Any]:
    """What identifies the files that options name, wherever they are."""
    from sharpcli.tasks.pretrained import identity
    from sharpcli.tasks.records import digest

    return {"model": identity, "tokenizer": identity, "data": digest, "test_data": digest}


def model(model: str | None = None, tokenizer: str | None = None) -> nn.Module:
    """The model of the configuration in the folder `model`, without weights."""
    from sharpcli.tasks.pretrained import build, padding_token, read_config, read_tokenizer

    config = read_config(NAME, model)
    made: nn.Module = build(NAME, config, "AutoModelForSequenceClassification")
    if config.get_text_config().pad_token_id is None:
        # A decoder looks for the last token before the padding. Its embedding must not know the
        # padding: that would leave a row out of the gradient.
        words = read_tokenizer(NAME, model, tokenizer)
        own: Any = made.config
        own.get_text_config().pad_token_id = padding_token(config, words)
    return made


def data(
    split: str,
    data: str,
    test_data: str | None = None,
    column: str | None = None,
    second_column: str | None = None,
    label: str | None = None,
    length: int | None = None,
    model: str | None = None,
    tokenizer: str | None = None,
) -> Any:
    """Rows of tokens and a label, which `collate` pads.

    Args:
        split: "train" or "test".
        data: records with a text and a label (.jsonl, .csv).
        test_data: the test data; without it every tenth record of `data`.
        column: of the text; `text` or `sentence`, or the first of a pair.
        second_column: of the second text of a pair.
        label: the column of the label.
        length: tokens of a text, at most; what the model takes.
        model: the folder of the model.
        tokenizer: the folder of the tokenizer, if it is another.
    """
    from sharpcli.tasks.notes import note
    from sharpcli.tasks.records import share_of, stamp

    own = test_data is not None
    option = "test_data" if own and split == "test" else "data"
    path = str(test_data if option == "test_data" else data)
    columns = (column, second_column, label)
    made = _rows(path, option, stamp(path), columns, length, model, tokenizer)
    for said in made.notes:
        note(said)
    if own:
        return made.rows
    return share_of(made.rows, split, path=path, option="test_data")


@dataclass(frozen=True)
class _Made:
    rows: Sequence[Mapping[str, Tensor]]
    notes: tuple[str, ...]


@functools.lru_cache(maxsize=2)  # both splits may come from one file
def _rows(
    path: str,
    option: str,
    _: object,
    columns: tuple[str | None, str | None, str | None],
    length: int | None,
    model: str | None,
    tokenizer: str | None,
) -> _Made:
    import torch

    from sharpcli.tasks.pretrained import (
        longest_input,
        padding_token,
        read_config,
        read_tokenizer,
        tokenized,
    )
    from sharpcli.tasks.records import column_of, read_records

    config = read_config(NAME, model)
    words = read_tokenizer(NAME, model, tokenizer)
    records = read_records(NAME, path, f"options.{option}")
    names = _text_columns(path, records, columns)
    label = column_of(NAME, path, records, columns[2], _LABELS, "options.label")
    texts = [[str(record[name]) for record in records] for name in names]
    limit = longest_input(config, words)
    if length is not None and not 1 <= length <= (limit or length):
        raise SharpError(
            f"{NAME}: {setting('options.length', length)}: the model takes 1 to "
            f"{limit or 'any number of'} tokens",
            f"take {setting('options.length', limit or 512)}",
        )
    most = limit if length is None else length
    found = tokenized(NAME, words, config, *texts)
    cut = 0 if most is None else sum(len(each) > most for each in found.tokens)
    if cut:
        found = tokenized(NAME, words, config, *texts, most=most)
    empty = next((n for n, each in enumerate(found.tokens, 1) if not each), None)
    if empty is not None:
        raise SharpError(
            f"{NAME}: {path}, record {empty} has an empty text", "leave it out of the data"
        )
    ending = padding_token(config, words)
    if config.get_text_config().pad_token_id is None and any(
        each[-1] == ending for each in found.tokens
    ):
        raise SharpError(
            f"{NAME}: the model has no padding token (pad_token_id), and texts of {path} end in "
            f"the token {ending}, which would serve as one",
            "write the pad_token_id of the training into config.json",
        )
    labels = _labels(path, label, records, config)
    rows = [
        {"input_ids": torch.tensor(tokens), "labels": each}
        for tokens, each in zip(found.tokens, labels, strict=True)
    ]
    for row, kinds in zip(rows, found.types or [], strict=False):
        row["token_type_ids"] = torch.tensor(kinds)
    said = [f"{path}: texts from {' and '.join(names)}, labels from {label}"]
    if cut:
        said.append(f"{path}: {counted(cut, 'text')} of {len(rows):,} cut to {most} tokens")
    return _Made(rows, tuple(said))


def _text_columns(
    path: str, records: Sequence[Mapping[str, Any]], asked: tuple[str | None, ...]
) -> tuple[str, ...]:
    """The column of the texts, or the two of a pair."""
    from sharpcli.tasks.records import column_of

    first, second, _ = asked
    if first is None and second is None:
        pairs = [pair for pair in _PAIRS if all(name in records[0] for name in pair)]
        if len(pairs) == 1:
            first, second = pairs[0]
    rows = [dict(record) for record in records]
    first = column_of(NAME, path, rows, first, _TEXTS, "options.column")
    if second is None:
        return (first,)
    return first, column_of(NAME, path, rows, second, (), "options.second_column")


def _labels(
    path: str, column: str, records: Sequence[Mapping[str, Any]], config: Any
) -> list[Tensor]:
    """A tensor for each record: a class, zeros and ones in int64 for several labels, or numbers."""
    import torch

    kind = config.problem_type or _kind_of(records[0][column], config.num_labels)
    read = {_SINGLE: _class, _MULTI: _several, _NUMBERS: _numbers}.get(kind)
    if read is None:
        raise SharpError(
            f"{NAME}: the problem_type {str(kind)[:_SHOWN]!r} of config.json is unknown",
            f"it is one of {_SINGLE}, {_MULTI}, {_NUMBERS}",
        )
    numbers = kind == _SINGLE and _are_numbers(
        path, column, [record[column] for record in records], config
    )
    dtype = torch.float32 if kind == _NUMBERS else torch.int64
    found = []
    for number, record in enumerate(records, 1):
        try:
            label = float(record[column]) if numbers else record[column]
            found.append(torch.tensor(read(label, config), dtype=dtype))
        except (ValueError, TypeError, OverflowError) as error:
            said = str(error) if isinstance(error, _LabelError) else "is not a label"
            names = ", ".join(str(each)[:_SHOWN] for each in list(config.label2id)[:10])
            raise SharpError(
                f"{NAME}: {path}, record {number}: {column} {str(record[column])[:_SHOWN]!r} {said}"
                f" (config.json: {kind}, {counted(config.num_labels, 'label')})",
                f"labels are numbers, or names of label2id in config.json ({names})"
                if kind != _NUMBERS
                else f"a regression needs {counted(config.num_labels, 'number')} a record",
            ) from error
    return found


def _are_numbers(path: str, column: str, labels: Sequence[Any], config: Any) -> bool:
    """Whether texts such as "1" are the classes' numbers; where not, they may be names.

    The names of five stars may be "1" to "5", and their numbers 0 to 4. All labels decide.

    Raises:
        SharpError: they may be both, and the classes would be others.
    """
    texts = {label for label in labels if isinstance(label, str)}
    names = {label: int(config.label2id[label]) for label in texts if label in config.label2id}
    valid = {str(number) for number in range(config.num_labels)}
    if not texts <= valid:
        return False
    other = next((each for each in sorted(names) if int(each) != names[each]), None)
    if other is not None and len(names) == len(texts):
        raise SharpError(
            f"{NAME}: {path}: the {column} {other!r} may be the number of a class or its name, "
            f"and label2id in config.json gives the number {names[other]} for the name",
            'write records (.jsonl) with numbers that are no text, as {"label": '
            f"{names[other]}}}: these are never names",
        )
    return True


class _LabelError(ValueError):
    """What is wrong with a label, as the end of a sentence."""


def _kind_of(label: Any, labels: int) -> str:
    """What transformers takes a first label for, where the configuration does not say."""
    if labels == 1:
        return _NUMBERS
    return _MULTI if isinstance(_from_json(label), list) else _SINGLE


def _class(label: Any, config: Any) -> int:
    if isinstance(label, str) and label in config.label2id:
        return int(config.label2id[label])
    number = float(label)
    if number != int(number):
        raise _LabelError("is no whole number")
    if not 0 <= number < config.num_labels:
        raise _LabelError(f"is not in 0 … {config.num_labels - 1}")
    return int(number)


def _several(label: Any, config: Any) -> list[int]:
    """Zeros and ones, one for each label, from these or from the names of those that hold."""
    given = _from_json(label)
    if not isinstance(given, list):
        raise _LabelError("is no list")
    if all(isinstance(each, str) for each in given):
        wrong = [each for each in given if each not in config.label2id]
        if wrong:
            raise _LabelError(f"names no label: {did_you_mean(wrong[0], config.label2id)}")
        held = {int(config.label2id[each]) for each in given}
        return [int(place in held) for place in range(config.num_labels)]
    if len(given) != config.num_labels or any(each not in (0, 1) for each in given):
        raise _LabelError(f"is no list of names, nor of {config.num_labels} zeros and ones")
    return [int(each) for each in given]


def _numbers(label: Any, config: Any) -> float | list[float]:
    given = _from_json(label)
    values = [float(each) for each in given] if isinstance(given, list) else [float(given)]
    if len(values) != config.num_labels:
        raise _LabelError(f"holds {counted(len(values), 'number')}")
    return values[0] if config.num_labels == 1 else values


def _from_json(label: Any) -> Any:
    """A list that a CSV file holds as text, as "[0, 1]"; anything else as it is."""
    if isinstance(label, str) and label.lstrip().startswith("["):
        return json.loads(label)
    return label


def collate(
    rows: list[Any], model: str | None = None, tokenizer: str | None = None
) -> dict[str, Tensor]:
    """A padded batch with its attention mask; padding is at the end."""
    from sharpcli.tasks.pretrained import padded, padding_in

    return padded(rows, padding_in(NAME, model, tokenizer))


def predict(model: nn.Module, batch: Any) -> Tensor:
    """The scores of the labels, (N, C)."""
    logits: Tensor = model(**{k: v for k, v in batch.items() if k != "labels"}).logits
    return logits


def loss(outputs: Tensor, batch: Any) -> Any:
    """Each example's loss and its weight 1, in float64: labels of float32 are numbers."""
    import torch

    from sharpcli.tasks.defaults import cross_entropy
    from sharpcli.tasks.float_losses import binary_cross_entropy, squared_error

    labels = batch["labels"]
    if labels.is_floating_point():
        values = squared_error(outputs.reshape(labels.shape), labels)
    elif labels.ndim == 2:
        values = binary_cross_entropy(outputs, labels)
    else:
        return cross_entropy(NAME, outputs, (None, labels))
    return values, torch.ones_like(values)


# The outputs are natural parameters in all three: of a categorical distribution, of independent
# binary ones, and the mean of a normal one.
loss.exponential_family = True  # type: ignore[attr-defined]


def metrics(outputs: Tensor, batch: Any) -> Mapping[str, Any]:
    """The accuracy; of several labels the share of labels that are right; none for numbers."""
    from sharpcli.tasks import defaults

    labels = batch["labels"]
    if labels.ndim == 2 and not labels.is_floating_point():
        return {"accuracy": ((outputs > 0) == labels.bool()).to(outputs.dtype).mean(1)}
    return defaults.metrics(outputs, (None, labels))
