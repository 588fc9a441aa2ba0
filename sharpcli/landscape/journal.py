"""Finished points on disk as they come, so that a run that is killed goes on where it stopped."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from io import FileIO
from pathlib import Path
from typing import Any

from ..errors import SharpError
from ..processes import is_first

__all__ = ["Journal"]

_FORMAT = "sharpcli-points/1"
_LONGEST = 60  # characters of a value in a message: hashes and lists of points are cut
_BEGINNING = json.dumps({"format": _FORMAT}, separators=(",", ":")).encode()[:-1]


class Journal:
    """One append-only file of JSON lines: what the run is, then each group of points as it is done.

    It stands beside the result, `result.json.partial`, or without one in the user's cache folder
    under a name made from the run itself. `resume=False` starts over.

    A line is written whole and flushed; one that a killed run left unfinished is cut off. The file
    is locked while a run writes to it.
    """

    def __init__(self, output: Path | None = None, *, resume: bool = True) -> None:
        # A device or a pipe takes the result, but nothing can be kept beside it.
        special = output is not None and output.exists() and not output.is_file()
        self._output, self._resume = None if special else output, resume
        self._file: FileIO | None = None
        self._found: dict[tuple[str, int], Any] = {}
        self._owned = self._holds_points = False
        self.path: Path | None = None
        self.problem: str | None = None

    def check(self) -> None:
        """Raise `SharpError` where no file can be beside the result, before anything is read."""
        if self._output is None:
            return
        problem = None
        if not self.folder.is_dir():
            problem = f"there is no folder {self.folder}"
        elif not os.access(self.folder, os.W_OK):
            problem = f"the folder {self.folder} may not be written to"
        if problem:
            raise SharpError(
                f"{self._output}: cannot be written: {problem}",
                "name an --output in a folder that exists and may be written to",
            )

    def begin(self, run: Mapping[str, Any]) -> None:
        """Open the file for a run, described by JSON values, and read what is finished.

        Raises `SharpError` where the file belongs to another run (naming what differs), is being
        written by another process, or cannot be written. Where it is the cache folder that cannot
        be written, nothing is kept and `problem` says why. Of several processes the first one
        keeps the file.
        """
        if not is_first():
            return
        header = json.loads(json.dumps({"format": _FORMAT, **run}))
        self.path = self._place(header)
        try:
            if self._output is None:
                self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("a+b", buffering=0)
        except OSError as error:
            if self._output is not None:
                raise self._unwritable(error) from error
            self.problem, self.path = f"{self.path.parent}: {error.strerror}", None
            return
        try:
            _lock(self._file, self.path)
            self._file.seek(0)
            content = self._file.read() if self._resume else b""
            self._refuse_foreign(content)
            whole = content.split(b"\n")[:-1]  # what follows the last line end is unfinished
            if whole and not self._read(whole, header):
                whole = []
            self._file.truncate(sum(len(line) + 1 for line in whole))
            self._owned = True
            if not whole:
                self._write(header)
        except SharpError:
            self.close()
            raise

    def finished(self, part: str) -> dict[int, Any]:
        """The values of a part's finished groups of points, by the index of their first point."""
        return {first: values for (of, first), values in self._found.items() if of == part}

    def add(self, part: str, first: int, values: Any) -> None:
        """Append a group of points; raises `SharpError` where the disk is full."""
        if self._file is not None:
            self._write({"part": part, "first": first, "values": values})
            self._holds_points |= part != "together"

    def close(self) -> None:
        """Close the file and leave it for a later run, unless it holds no points."""
        if self._file is not None:
            self._file.close()
            self._file = None
            if self.path is not None and self._owned and not self._holds_points:
                self.path.unlink(missing_ok=True)

    def discard(self) -> None:
        """Remove the file: the result is where it belongs."""
        self.close()
        if self.path is not None:
            self.path.unlink(missing_ok=True)

    @property
    def folder(self) -> Path:
        """Where the file stands, or the nearest folder above that there is."""
        if self._output is not None:
            return self._output.parent
        return next(place for place in (_cache(), *_cache().parents) if place.is_dir())

    def _place(self, header: Mapping[str, Any]) -> Path:
        if self._output is not None:
            return self._output.with_name(f"{self._output.name}.partial")
        name = hashlib.sha256(json.dumps(header, sort_keys=True).encode()).hexdigest()[:16]
        return _cache() / f"{name}.partial"

    def _refuse_foreign(self, content: bytes) -> None:
        """Never write over a file that is not a (possibly just begun) file of points."""
        if content[: len(_BEGINNING)] != _BEGINNING[: len(content)]:
            raise SharpError(
                f"{self.path}: does not hold the finished points of a run",
                "remove it, or start over with --no-resume, which replaces it",
            )

    def _read(self, lines: list[bytes], header: Mapping[str, Any]) -> bool:
        """Take over what is finished; whether the file is this run's. One without points may go."""
        try:
            found, *records = map(json.loads, lines)
            if found["format"] != _FORMAT:
                raise ValueError(f"its format is {found['format']!r}")
            difference = _difference(found, header)
            groups = {(r["part"], r["first"]): r["values"] for r in records}
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise SharpError(
                f"{self.path}: the finished points of a run that it holds are damaged ({error})",
                "start over with --no-resume, or remove it",
            ) from error
        holds_points = any(part != "together" for part, _ in groups)
        if difference and holds_points:
            raise SharpError(
                f"{self.path}: holds the finished points of another run: {difference}",
                "repeat that run's command to finish it, write to another --output, or start over "
                "with --no-resume",
            )
        if not difference:
            self._found, self._holds_points = groups, holds_points
        return not difference

    def _write(self, record: Mapping[str, Any]) -> None:
        assert self._file is not None, "begin() comes first"
        try:
            line = json.dumps(record, separators=(",", ":")).encode() + b"\n"
            while line:
                line = line[self._file.write(line) :]
        except OSError as error:
            raise self._unwritable(error) from error

    def _unwritable(self, error: OSError) -> SharpError:
        hint = "points are kept there as they come: name an --output that can be written to"
        if self._holds_points:
            hint = "finished points are kept: make room, and the same command goes on from there"
        elif self._output is None:
            hint = "points are kept there as they come: name an --output, or set XDG_CACHE_HOME"
        return SharpError(f"{self.path}: cannot be written: {error.strerror}", hint)


def _cache() -> Path:
    """The user's cache folder, where freedesktop.org's base directories put it."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sharpcli"


def _lock(file: FileIO, path: Path) -> None:
    """Keep other processes off; the lock goes with the process, however it ends."""
    try:
        import fcntl
    except ImportError:  # Windows keeps a second writer off by itself
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise SharpError(
            f"{path}: another run is writing to it",
            "wait for it to end, or write to another --output",
        ) from error


def _difference(found: Any, wanted: Any, key: str = "") -> str:
    """The first value in which two headers differ, "" where they are equal."""
    if isinstance(found, Mapping) and isinstance(wanted, Mapping):
        for name in [*wanted, *(n for n in found if n not in wanted)]:
            difference = _difference(
                found.get(name), wanted.get(name), f"{key}.{name}" if key else str(name)
            )
            if difference:
                return difference
        return ""
    if isinstance(found, list) and isinstance(wanted, list) and len(found) == len(wanted):
        pairs = enumerate(zip(found, wanted, strict=True))
        return next(filter(None, (_difference(a, b, f"{key}[{i}]") for i, (a, b) in pairs)), "")
    return "" if found == wanted else f"{key} was {_short(found)} and is {_short(wanted)}"


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST // 2]}…"
