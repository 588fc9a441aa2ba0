"""Text records of a data file: JSON lines, CSV or TSV, and the columns that matter."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from sharpcli.errors import SharpError, counted, did_you_mean, setting
from sharpcli.tasks.notes import note

__all__ = [
    "Record",
    "column_of",
    "digest",
    "is_records",
    "read_records",
    "read_text",
    "share_of",
    "stamp",
]

Record = dict[str, Any]
Row = TypeVar("Row")

_SEPARATORS = {".csv": ",", ".tsv": "\t"}
_JSON = (".jsonl", ".ndjson", ".json")
# Without test data of its own, every tenth record or the last tenth of a text is held out.
_HELD_OUT = 10


def is_records(path: str) -> bool:
    """Whether a file holds records, by its name, and not one text."""
    return Path(path).suffix.lower() in (*_JSON, *_SEPARATORS)


def read_records(task: str, path: str, option: str) -> list[Record]:
    """The records of a file: a JSON object a line, or a row of CSV or TSV below its header.

    Raises:
        SharpError: the file cannot be read or a line is no record; the message names the line.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in (*_JSON, *_SEPARATORS):
        raise SharpError(
            f"{task}: {path} is none of {', '.join((*_JSON, *_SEPARATORS))}",
            f"name a file with a JSON object on each line: {setting(option, 'FILE.jsonl')}",
        )
    text = read_text(task, path, option)
    found = _rows(task, path, text, _SEPARATORS[suffix]) if suffix in _SEPARATORS else None
    records = _lines(task, path, text) if found is None else found
    if not records:
        raise SharpError(f"{task}: {path} holds no records", "check the file")
    return records


def read_text(task: str, path: str, option: str) -> str:
    """A file's text in UTF-8.

    Raises:
        SharpError: it cannot be read.
    """
    try:
        return Path(path).read_text("utf-8-sig")
    except FileNotFoundError as error:
        raise SharpError(
            f"{task}: there is no file {path}", f"name the data: {setting(option, 'FILE')}"
        ) from error
    except OSError as error:
        raise SharpError(
            f"{task}: {path} cannot be read: {error.strerror}", f"see {setting(option, 'FILE')}"
        ) from error
    except UnicodeDecodeError as error:
        raise SharpError(
            f"{task}: {path} is not text in UTF-8: {error.reason} at byte {error.start}",
            "convert it: iconv -t UTF-8",
        ) from error


def digest(path: str) -> str:
    """Identifies a file's content, wherever it is; the path itself where it cannot be read."""
    try:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return path


def stamp(path: str) -> object:
    """Changes when the file does."""
    try:
        status = Path(path).stat()
    except OSError:
        return None
    return str(Path(path).resolve()), status.st_mtime_ns, status.st_size


def _rows(task: str, path: str, text: str, separator: str) -> list[Record]:
    # `splitlines` would also divide at a form feed or a Unicode separator within a text.
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    try:
        header = next(lines, [])
        rows = [(lines.line_num, row) for row in lines if row]
    except csv.Error as error:
        raise SharpError(
            f"{task}: {path}, line {lines.line_num}: {error}", "correct this line"
        ) from error
    for line, row in rows:
        if len(row) != len(header):
            raise SharpError(
                f"{task}: {path}, line {line}: has {counted(len(row), 'column')}, and the header "
                f"{len(header)}",
                "put text with the separator in quotes",
            )
    return [dict(zip(header, row, strict=True)) for _, row in rows]


def _lines(task: str, path: str, text: str) -> list[Record]:
    """JSON lines; also one JSON list of objects."""
    if text.lstrip().startswith("["):
        try:
            every = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise SharpError(f"{task}: {path} is not JSON: {error}", "check the file") from error
        numbered = list(enumerate(every, 1))
    else:
        numbered = []
        for number, line in enumerate(text.split("\n"), 1):
            if line.strip():
                try:
                    numbered.append((number, json.loads(line)))
                except (ValueError, RecursionError) as error:
                    raise SharpError(
                        f"{task}: {path}, line {number} is not JSON: {error}",
                        "each line holds one JSON object",
                    ) from error
    for number, record in numbered:
        if not isinstance(record, dict):
            raise SharpError(
                f"{task}: {path}, record {number} is no JSON object",
                'write records as {"text": "…", "label": …}',
            )
    return [record for _, record in numbered]


def column_of(
    task: str,
    path: str,
    records: Sequence[Record],
    asked: str | None,
    known: Sequence[str],
    option: str,
) -> str:
    """The column `asked` for, or the only one of the `known` names that the records have.

    Raises:
        SharpError: it is missing, in the first record or in another, or several are there.
    """
    columns = list(records[0])
    found = [name for name in known if name in columns] if asked is None else [asked]
    if len(found) != 1:
        which = f"both {' and '.join(found)}" if found else f"none of {', '.join(known)}"
        raise SharpError(
            f"{task}: the records of {path} have {which} (columns: {', '.join(columns)})",
            f"name the column: {setting(option, (found or columns or ['NAME'])[0])}",
        )
    for number, record in enumerate(records, 1):
        if record.get(found[0]) is None:
            raise SharpError(
                f"{task}: {path}, record {number} has no '{found[0]}': "
                f"{did_you_mean(found[0], record)}",
                f"name the column: {setting(option, 'NAME')}",
            )
    return found[0]


def share_of(
    rows: Sequence[Row],
    split: str,
    *,
    path: str,
    option: str,
    rows_are: str = "record",
    last: bool = False,
) -> list[Row] | None:
    """The rows of a split of one file, with a note; None for "test" where there is only one row.

    Args:
        rows: all of them.
        split: "train" or "test".
        path: the file.
        option: which would name the test data.
        rows_are: what a row is, for the note.
        last: whether the last tenth is for testing, or every tenth.
    """
    places = _held_out(len(rows), split, last=last)
    if not places:
        return None
    note(
        f"test data: {'the last tenth' if last else 'every tenth'} of the "
        f"{counted(len(rows), rows_are)} of {path}; {setting(f'options.{option}', 'FILE')} names "
        "others"
    )
    return [rows[place] for place in places]


def _held_out(count: int, split: str, *, last: bool) -> range | list[int]:
    """The places of a split among `count` rows: the last tenth is for testing, or every tenth.

    Empty for "test" where there is only one row.
    """
    if last:
        train = count - max(count // _HELD_OUT, min(1, count - 1))
        return range(train) if split == "train" else range(train, count)
    period = min(_HELD_OUT, max(count, 2))
    test = split == "test"
    return [place for place in range(count) if (place % period == period - 1) == test]
