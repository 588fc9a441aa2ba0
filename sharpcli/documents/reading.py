"""Saved results read back, as far as they keep the contract. Knows no torch."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sharpcli.documents.results import SCHEMA, Document
from sharpcli.documents.schema import problem_of
from sharpcli.errors import SharpError

__all__ = ["load_document", "parse_document"]

_SAVED = "pass a file that sharp wrote as JSON"


def load_document(path: str | Path) -> Document:
    """Read a saved result; raises `SharpError` naming the file where it is none."""
    try:
        text = Path(path).read_bytes()
    except OSError as error:
        raise SharpError(
            f"{path}: cannot be read: {error.strerror}", "check the path and its permissions"
        ) from error
    return parse_document(text, str(path))


def parse_document(text: str | bytes, name: str) -> Document:
    """Read a result from JSON text or its bytes.

    Errors call it `name`: a path, or "standard input".
    """
    if not text.strip():
        raise SharpError(
            f"{name}: is empty",
            "the command that was to write it said on stderr why it did not: run it again",
        )
    try:
        document = json.loads(
            text, parse_int=_integer, parse_constant=_refused, object_pairs_hook=_once
        )
    except RecursionError as error:
        raise SharpError(f"{name}: is not a result: lists in lists without end", _SAVED) from error
    except ValueError as error:
        raise SharpError(f"{name}: is not JSON ({error})", _SAVED) from error
    found = document.get("schema") if isinstance(document, dict) else None
    if found != SCHEMA:
        later = isinstance(found, str) and re.fullmatch(r"sharpcli/\d{1,9}", found)
        raise SharpError(
            f'{name}: is not a {SCHEMA} document ("schema" is {json.dumps(found)[:80]})',
            "a later sharp wrote it: pip install -U sharpcli" if later else _SAVED,
        )
    if problem := problem_of(document):
        raise SharpError(f"{name}: {problem}", f"the file is damaged or was changed: {_SAVED}")
    return dict(document)


def _refused(constant: str) -> None:
    raise ValueError(f"{constant} is no number of JSON")


def _integer(digits: str) -> float:
    """A whole number; what float64 cannot hold is infinite, and refused with its place."""
    return int(digits) if len(digits) <= sys.float_info.max_10_exp else float(digits)


def _once(pairs: Sequence[tuple[str, Any]]) -> Document:
    """An object of JSON; two values of one key would hide one of them."""
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {json.dumps(twice)[:80]} is there twice")
    return found
