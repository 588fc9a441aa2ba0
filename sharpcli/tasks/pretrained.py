"""A model's configuration and its tokenizer from a local folder, as transformers saves them.

Only data are read: no code of the folder is run, no pickle is opened, and nothing is downloaded.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib
import json
import operator
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sharpcli.errors import SharpError, setting
from sharpcli.tasks.notes import note

__all__ = [
    "build",
    "identity",
    "longest_input",
    "padded",
    "padding_in",
    "padding_token",
    "read_config",
    "read_tokenizer",
    "tokenized",
]

_LARGEST = 64 * 2**20  # bytes of a JSON file: a tokenizer of 250,000 words takes 17 MB
# Files of which each alone makes a tokenizer.
_TOKENIZERS = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "vocab.json",
    "vocab.txt",
)
# Keys of config.json that do not change the model.
_VOLATILE = ("_name_or_path", "transformers_version", "dtype", "torch_dtype", "use_cache")


@contextlib.contextmanager
def _offline() -> Iterator[Any]:
    """The transformers package, without network and without its own warnings while active.

    Raises:
        SharpError: it is not installed.
    """
    try:
        constants: Any = importlib.import_module("huggingface_hub.constants")
        transformers: Any = importlib.import_module("transformers")
    except ImportError as error:
        raise SharpError(
            f"transformers cannot be imported: {error}", "pip install 'sharpcli[hf]'"
        ) from error
    logging = transformers.utils.logging
    offline, verbosity = constants.HF_HUB_OFFLINE, logging.get_verbosity()
    constants.HF_HUB_OFFLINE = True
    logging.set_verbosity_error()
    try:
        yield transformers
    finally:
        constants.HF_HUB_OFFLINE = offline
        logging.set_verbosity(verbosity)


def read_config(task: str, model: str | None) -> Any:
    """The configuration in the folder `model`.

    Raises:
        SharpError: no folder is known, it holds no configuration, or one that needs its own code.
    """
    if model is None:
        raise SharpError(
            f"{task}: no folder with the model's config.json is known",
            f"measure a checkpoint whose folder holds one, or name it: "
            f"{setting('options.model', 'FOLDER')}",
        )
    folder = Path(model)
    table = _table(task, folder, "config.json")
    if table is None:
        adapter = _table(task, folder, "adapter_config.json") or {}
        base = adapter.get("base_model_name_or_path")
        raise SharpError(
            f"{task}: {folder} holds no config.json"
            + (f"; it is an adapter of {str(base)[:200]!r}" if base else ""),
            f"name the folder of the {'base ' if base else ''}model: "
            f"{setting('options.model', 'FOLDER')}",
        )
    _refuse_code(task, folder / "config.json", table)
    if "quantization_config" in table:
        raise SharpError(
            f"{task}: {folder / 'config.json'} describes quantised weights",
            "curvature needs weights in floating point: measure the model before quantisation, or "
            "convert it with model.dequantize() and save it again",
        )
    kind = table.get("model_type")
    with _offline() as transformers:
        if kind not in transformers.models.auto.configuration_auto.CONFIG_MAPPING:
            raise SharpError(
                f"{task}: {folder / 'config.json'} has the model_type {str(kind)[:200]!r}, which "
                f"transformers {transformers.__version__} does not know",
                "install the version of transformers that saved it",
            )
        with _said(task, folder / "config.json"):
            config = transformers.AutoConfig.from_pretrained(
                str(folder), local_files_only=True, trust_remote_code=False
            )
    config.use_cache = False  # the outputs are needed, not the keys and values
    return config


def build(task: str, config: Any, kind: str) -> Any:
    """The model of a configuration, in float32, by the class `kind` as `AutoModelForCausalLM`.

    Raises:
        SharpError: this configuration has no model of that kind.
    """
    import torch

    with _offline() as transformers:
        auto = getattr(transformers, kind)
        if type(config) not in auto._model_mapping:
            raise SharpError(
                f"{task}: transformers has no {kind.removeprefix('Auto')} for the "
                f"model_type '{config.model_type}'",
                f"write a task file instead: {_TEMPLATE}",
            )
        # Every operation of eager attention has second derivatives.
        return auto.from_config(config, dtype=torch.float32, attn_implementation="eager")


_TEMPLATE = "`sharp init --template causal-lm` has the lines for a model of transformers"


def read_tokenizer(task: str, model: str | None, tokenizer: str | None = None) -> Any:
    """The tokenizer in a folder: `tokenizer` if given, else the model's or the folder above it.

    Raises:
        SharpError: no tokenizer is there, or one that needs its own code.
    """
    folder = Path(tokenizer or model or ".")
    if tokenizer is None and not _has_tokenizer(folder) and _has_tokenizer(folder.parent):
        note(f"the tokenizer is that of {folder.parent}: {folder} has none")
        folder = folder.parent
    if not _has_tokenizer(folder):
        raise SharpError(
            f"{task}: {folder} holds no tokenizer (tokenizer.json or tokenizer_config.json)",
            "save it there with tokenizer.save_pretrained(folder), or name its folder: "
            f"{setting('options.tokenizer', 'FOLDER')}",
        )
    table = _table(task, folder, "tokenizer_config.json") or {}
    _refuse_code(task, folder / "tokenizer_config.json", table)
    return _tokenizer(task, folder.resolve(), _stamp(folder))


@functools.lru_cache(maxsize=4)  # train and test data, padding and model ask for the same one
def _tokenizer(task: str, folder: Path, _: object) -> Any:
    with _offline() as transformers, _said(task, folder):
        return transformers.AutoTokenizer.from_pretrained(
            str(folder), local_files_only=True, trust_remote_code=False
        )


def _has_tokenizer(folder: Path) -> bool:
    return any((folder / name).is_file() for name in _TOKENIZERS)


def _stamp(folder: Path) -> object:
    """Changes when a file of the configuration or the tokenizer does."""
    names = ("config.json", *_TOKENIZERS)
    files = [folder / name for name in names if (folder / name).is_file()]
    return tuple((str(file), file.stat().st_mtime_ns) for file in files)


def padding_token(config: Any, tokenizer: Any) -> int:
    """The token that fills rows up: the model's or the tokenizer's own, else the end of text."""
    text = config.get_text_config()
    names = (text.pad_token_id, tokenizer.pad_token_id, text.eos_token_id, tokenizer.eos_token_id)
    for found in names:
        found = found[0] if isinstance(found, list) and found else found
        if isinstance(found, int) and 0 <= found < text.vocab_size:
            return found
    return 0


def padding_in(task: str, model: str | None, tokenizer: str | None) -> int:
    """The padding token of the model and the tokenizer in these folders."""
    stamps = [_stamp(Path(each)) for each in (model, tokenizer) if each is not None]
    return _padding_in(task, model, tokenizer, tuple(stamps))


@functools.lru_cache(maxsize=4)  # every batch asks for it
def _padding_in(task: str, model: str | None, tokenizer: str | None, _: object) -> int:
    return padding_token(read_config(task, model), read_tokenizer(task, model, tokenizer))


def longest_input(config: Any, tokenizer: Any) -> int | None:
    """How many tokens the model takes; None if nothing says so."""
    text = config.get_text_config()
    taken = 0
    if text.model_type in _OFFSET_POSITIONS and text.pad_token_id is not None:
        taken = text.pad_token_id + 1
    positions = getattr(text, "max_position_embeddings", None)
    limits = [positions - taken] if isinstance(positions, int) else []
    limits.append(tokenizer.model_max_length)  # one without a limit has 1e30
    return min((each for each in limits if 0 < each < _UNLIMITED), default=None)


_UNLIMITED = 10**9  # tokens
# Models that count positions from pad_token_id + 1.
_OFFSET_POSITIONS = (
    "camembert",
    "data2vec-text",
    "ibert",
    "longformer",
    "mpnet",
    "roberta",
    "roberta-prelayernorm",
    "xlm-roberta",
    "xlm-roberta-xl",
    "xmod",
)


@dataclass(frozen=True)
class Tokens:
    """The tokens of each text, and which text of a pair each is from (None where all are 0)."""

    tokens: list[list[int]]
    types: list[list[int]] | None


def tokenized(
    task: str, tokenizer: Any, config: Any, *texts: Sequence[str], most: int | None = None
) -> Tokens:
    """The tokens of each text, or of each pair of two lists of texts, special tokens included.

    With `most`, texts are cut as the tokenizer cuts them for a model of so many tokens.

    Raises:
        SharpError: the tokenizer gives tokens that the model does not have.
    """
    limits = {} if most is None else {"truncation": True, "max_length": most}
    with _offline():
        found = tokenizer(*map(list, texts), add_special_tokens=True, verbose=False, **limits)
    ids: list[list[int]] = found["input_ids"]
    types: list[list[int]] = found.get("token_type_ids", [])
    size = config.get_text_config().vocab_size
    largest = max((max(each) for each in ids if each), default=0)
    if largest >= size:
        raise SharpError(
            f"{task}: the tokenizer gives the token {largest}, and the model's tokens end at "
            f"{size - 1}",
            "model and tokenizer do not belong together: name the right one, "
            f"{setting('options.tokenizer', 'FOLDER')}",
        )
    # Where all are 0, models take them for granted, and GPT-2 would add an embedding for them.
    return Tokens(ids, types if any(map(any, types)) else None)


def padded(rows: Sequence[Mapping[str, Any]], token: int) -> dict[str, Any]:
    """A batch of rows with `input_ids` (T,) of unequal lengths, its attention mask, and labels.

    Padding is at the end whatever the tokenizer's side is: positions then count from the first
    token of each text, so that the outputs are those without padding. Labels for each token are
    padded with −100, which no loss counts.
    """
    import torch
    from torch.nn.utils.rnn import pad_sequence

    tokens = [row["input_ids"] for row in rows]
    batch = {
        "input_ids": pad_sequence(tokens, batch_first=True, padding_value=token),
        "attention_mask": pad_sequence([torch.ones_like(row) for row in tokens], batch_first=True),
    }
    if "token_type_ids" in rows[0]:
        types = [row["token_type_ids"] for row in rows]
        batch["token_type_ids"] = pad_sequence(types, batch_first=True)
    labels = [row["labels"] for row in rows]
    if labels[0].ndim == 1 and all(map(operator.is_, labels, tokens)):
        batch["labels"] = pad_sequence(labels, batch_first=True, padding_value=_IGNORED)
    else:
        batch["labels"] = torch.stack(labels)
    return batch


_IGNORED = -100


def identity(folder: str) -> str:
    """Identifies the configuration and the tokenizer in a folder, wherever it is.

    Cost: reads these files.
    """
    found = hashlib.sha256()
    path = Path(folder)
    for name in ("config.json", *_TOKENIZERS):
        if not (path / name).is_file():
            continue
        content = (path / name).read_bytes()
        if name == "config.json":
            with contextlib.suppress(ValueError, AttributeError):  # then by its bytes
                table = json.loads(content)
                kept = {key: value for key, value in table.items() if key not in _VOLATILE}
                content = json.dumps(kept, sort_keys=True).encode()
        found.update(f"\0{name}\0{len(content)}\0".encode() + content)
    return found.hexdigest()


def _table(task: str, folder: Path, name: str) -> dict[str, Any] | None:
    """A JSON object in the folder, None if there is no such file."""
    path = folder / name
    try:
        if path.stat().st_size > _LARGEST:
            raise SharpError(f"{task}: {path} is too large for a configuration", "check the file")
        table = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise SharpError(
            f"{task}: {path} cannot be read: {error.strerror}", "check its permissions"
        ) from error
    except (ValueError, RecursionError) as error:
        raise SharpError(f"{task}: {path} is not JSON", "copy or download it again") from error
    if not isinstance(table, dict):
        raise SharpError(f"{task}: {path} is not a JSON object", "copy or download it again")
    return table


def _refuse_code(task: str, path: Path, table: dict[str, Any]) -> None:
    """Raise `SharpError` if a configuration names code of its own."""
    if table.get("auto_map"):
        raise SharpError(
            f"{task}: {path} names code of its own (auto_map), and sharp runs no code of a "
            "checkpoint",
            "where a class of transformers itself was trained, delete auto_map from that file; "
            f"otherwise write a task file that imports the model: {_TEMPLATE}",
        )


@contextlib.contextmanager
def _said(task: str, path: Path) -> Iterator[None]:
    """What transformers cannot read becomes a message with the file."""
    try:
        yield
    except SharpError:
        raise
    except Exception as error:  # a file may have anything wrong: transformers raises many kinds
        first = next(iter(str(error).splitlines()), "")
        raise SharpError(
            f"{task}: transformers cannot read {path}: {type(error).__name__}: {first[:300]}",
            "check the file, or install the version of transformers that saved it",
        ) from error
