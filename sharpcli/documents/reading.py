"""Read saved results and check them against the schema. Does not import torch."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sharpcli.documents.results import SCHEMA, Document
from sharpcli.documents.schema import problem_of
from sharpcli.documents.showing import Shown
from sharpcli.errors import SharpError

__all__ = ["SavedResult", "load_document", "load_result", "parse_document"]

_SAVED = "pass a file that sharp wrote as JSON"


@dataclass(frozen=True, repr=False)
class SavedResult(Shown):
    """A saved result, which shows itself as a fresh one does."""

    document: Document

    def _document(self) -> Document:
        return self.document


def load_result(path: str | Path) -> SavedResult:
    """Read a saved result, to show it or to compare it; errors are those of `load_document`."""
    return SavedResult(load_document(path))


def load_document(path: str | Path) -> Document:
    """Read a saved result and check it against the schema.

    Raises:
        SharpError: The file cannot be read or is not a result; the message names it.

    Example:
        >>> from tempfile import mkdtemp
        >>> from sharpcli.documents import environment, results
        >>> report = results.Report("inspect", {}, environment.environment(), {}, [])
        >>> file = Path(mkdtemp(), "result.json")
        >>> _ = file.write_text(results.dumps(results.to_document(report)))
        >>> load_document(file)["kind"]
        'inspect'
    """
    try:
        text = Path(path).read_bytes()
    except OSError as error:
        raise SharpError(
            f"{path}: cannot be read: {error.strerror}", "check the path and its permissions"
        ) from error
    return parse_document(text, str(path))


def parse_document(text: str | bytes, name: str) -> Document:
    """Read a result from JSON text or its bytes.

    Args:
        text: The JSON document.
        name: What errors call it: a path, or "standard input".

    Raises:
        SharpError: The text is empty, not JSON, or not a result of this version.
    """
    if not text.strip():
        raise SharpError(
            f"{name}: is empty",
            "the command that should have written it printed the reason on stderr: run it again",
        )
    try:
        document = json.loads(
            text, parse_int=_integer, parse_constant=_refused, object_pairs_hook=_once
        )
    except RecursionError as error:
        raise SharpError(f"{name}: is not a result: lists nested too deeply", _SAVED) from error
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
    raise ValueError(f"{constant} is not a JSON number")


def _integer(digits: str) -> float:
    """An integer; one too large for float64 becomes infinite and is refused later, by its key."""
    return int(digits) if len(digits) <= sys.float_info.max_10_exp else float(digits)


def _once(pairs: Sequence[tuple[str, Any]]) -> Document:
    """A JSON object; a repeated key is an error, because one of its values would be lost."""
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {json.dumps(twice)[:80]} appears twice")
    return found
