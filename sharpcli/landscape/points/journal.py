"""Store finished points on disk, so that a killed run can continue where it stopped."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from io import FileIO
from pathlib import Path
from typing import Any

from sharpcli.errors import SharpError, setting
from sharpcli.runtime.destinations import is_special
from sharpcli.runtime.files import cache_folder
from sharpcli.runtime.processes import is_first
from sharpcli.runtime.reservations import is_at, lock

__all__ = ["Journal", "differences"]

_FORMAT = "sharpcli-points/1"
_LONGEST = 60  # characters of a value in a message: lists of points are cut
_TOLD = 3  # differences from another run that a message names
_HASH = re.compile(r"[0-9a-f]{64}")
# What the user sets, by the beginning of its place in the header.
_SETTINGS = ("settings.", "task.options.", "task.name")
# What may follow from a setting: named where no setting differs.
_FOLLOWING = ("task.examples", "task.fingerprint", "data", "environment.device")
_BEGINNING = json.dumps({"format": _FORMAT}, separators=(",", ":")).encode()[:-1]


class Journal:
    """An append-only file of JSON lines: a header that describes the run, then groups of points.

    It is next to the output, as `result.json.partial`; without an output it is in the user's cache
    folder, under a name made from the header. `resume=False` starts over.

    Each line is written at once and flushed; an unfinished last line is cut off. The file is locked
    while a run writes to it.
    """

    def __init__(self, output: Path | None = None, *, resume: bool = True) -> None:
        # If the output is a device or a pipe, no file can be next to it.
        special = output is not None and is_special(output)
        self._output, self._resume = None if special else output, resume
        self._file: FileIO | None = None
        self._found: dict[tuple[str, int], Any] = {}
        self._owned = self._holds_points = False
        self.path: Path | None = None
        self.problem: str | None = None

    def check(self) -> None:
        """Raise `SharpError` if no file can be next to the output, before anything is read."""
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
                f"name an {setting('output')} in a folder that exists and may be written to",
            )

    def begin(self, run: Mapping[str, Any]) -> None:
        """Open the file for a run, described by JSON values, and read its finished points.

        If the cache folder cannot be written, nothing is kept and `problem` says why. Among several
        processes, only the first one keeps the file.

        Raises:
            SharpError: the file belongs to another run (the message names the differences), is
                being written by another process, or cannot be written.
        """
        if not is_first():
            return
        header = json.loads(json.dumps({"format": _FORMAT, **run}))
        self.path = self._place(header)
        try:
            if self._output is None:
                self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = _locked(self.path)
        except BlockingIOError as error:
            raise SharpError(
                f"{self.path}: another run is writing to it",
                f"wait for it to end, or write to another {setting('output')}",
            ) from error
        except OSError as error:
            if self._output is not None:
                raise self._unwritable(error) from error
            self.problem, self.path = f"{self.path.parent}: {error.strerror}", None
            return
        try:
            self._file.seek(0)
            content = self._file.read() if self._resume else b""
            self._refuse_foreign(content)
            whole = content.split(b"\n")[:-1]  # the rest after the last line end is unfinished
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
        """The values of a part's finished groups, by the index of their first point."""
        return {first: values for (of, first), values in self._found.items() if of == part}

    def add(self, part: str, first: int, values: Any) -> None:
        """Append a group of points; raises `SharpError` if the disk is full."""
        if self._file is not None:
            self._write({"part": part, "first": first, "values": values})
            self._holds_points |= part != "together"

    def close(self) -> None:
        """Close the file and keep it for a later run if it has points."""
        file, self._file = self._file, None
        if file is None or self.path is None:
            return
        if self._owned and not self._holds_points:
            _remove(self.path, file)
        file.close()

    def discard(self) -> None:
        """Close and remove the file, once the result is saved."""
        file, self._file = self._file, None
        if self.path is not None:
            _remove(self.path, file)

    @property
    def folder(self) -> Path:
        """The file's folder, or the nearest existing folder above it."""
        if self._output is not None:
            return self._output.parent
        return next(place for place in (cache_folder(), *cache_folder().parents) if place.is_dir())

    def _place(self, header: Mapping[str, Any]) -> Path:
        if self._output is not None:
            return self._output.with_name(f"{self._output.name}.partial")
        name = hashlib.sha256(json.dumps(header, sort_keys=True).encode()).hexdigest()[:16]
        return cache_folder() / f"{name}.partial"

    def _refuse_foreign(self, content: bytes) -> None:
        """Raise `SharpError` if the file is not a (possibly just begun) file of points."""
        if content[: len(_BEGINNING)] != _BEGINNING[: len(content)]:
            raise SharpError(
                f"{self.path}: does not hold the finished points of a run",
                f"remove it, or start over with {setting('resume', False)}, which replaces it",
            )

    def _read(self, lines: list[bytes], header: Mapping[str, Any]) -> bool:
        """Read finished points. False for another run's file without points, error for one with."""
        try:
            found, *records = map(json.loads, lines)
            if found["format"] != _FORMAT:
                raise ValueError(f"its format is {found['format']!r}")
            unequal = differences(found, header)
            groups = {(r["part"], r["first"]): r["values"] for r in records}
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise SharpError(
                f"{self.path}: the finished points of a run that it holds are damaged ({error})",
                f"start over with {setting('resume', False)}, or remove it",
            ) from error
        holds_points = any(part != "together" for part, _ in groups)
        if unequal and holds_points:
            told, more = unequal[:_TOLD], len(unequal) - _TOLD
            told += [f"and {more} more"] if more > 0 else []
            raise SharpError(
                f"{self.path}: holds the finished points of another run: {'; '.join(told)}",
                f"repeat that run's command to finish it, write to another {setting('output')}, or "
                f"start over with {setting('resume', False)}",
            )
        if not unequal:
            self._found, self._holds_points = groups, holds_points
        return not unequal

    def _write(self, record: Mapping[str, Any]) -> None:
        assert self._file is not None, "begin() comes first"
        try:
            line = json.dumps(record, separators=(",", ":")).encode() + b"\n"
            while line:
                line = line[self._file.write(line) :]
        except OSError as error:
            raise self._unwritable(error) from error

    def _unwritable(self, error: OSError) -> SharpError:
        output = setting("output")
        hint = f"points are kept there as they come: name an {output} that can be written to"
        if self._holds_points:
            hint = "finished points are kept: make room, and the same command goes on from there"
        elif self._output is None:
            hint = f"points are kept there as they come: name an {output}, or set XDG_CACHE_HOME"
        return SharpError(f"{self.path}: cannot be written: {error.strerror}", hint)


def _locked(path: Path) -> FileIO:
    """Open and lock a file; raises `BlockingIOError` if another run holds it."""
    while True:
        file = path.open("a+b", buffering=0)
        try:
            lock(file.fileno())
            if is_at(path, file.fileno()):  # else the run that had it has just removed it
                return file
        except OSError:
            file.close()
            raise
        file.close()


def _remove(path: Path, file: FileIO | None) -> None:
    """Remove a file while it is locked, so that no other run begins in it before it goes."""
    if file is not None and os.name == "nt":  # which removes no open file, and has no locks
        file.close()
    path.unlink(missing_ok=True)
    if file is not None:
        file.close()


def differences(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """The differences of two headers, one sentence each.

    If the commands differ, only these are named, since all settings differ then.
    """
    if found.get("kind") != wanted.get("kind"):
        return [f"the command was sharp {found.get('kind')} and is sharp {wanted.get('kind')}"]
    unequal = list(_unequal(found, wanted, ""))
    if any(key.startswith(_SETTINGS) for key, _, _ in unequal):
        unequal = [each for each in unequal if not each[0].startswith(_FOLLOWING)]
    return list(dict.fromkeys(_sentence(*each) for each in unequal))


def _unequal(found: Any, wanted: Any, key: str) -> Iterator[tuple[str, Any, Any]]:
    """Every value that differs: its key in the header, its old and its new value."""
    if isinstance(found, Mapping) and isinstance(wanted, Mapping):
        for name in [*wanted, *(n for n in found if n not in wanted)]:
            place = f"{key}.{name}" if key else str(name)
            yield from _unequal(found.get(name), wanted.get(name), place)
    elif _are_lists(found, wanted) and not key.startswith("settings."):
        for index, (a, b) in enumerate(zip(found, wanted, strict=True)):
            yield from _unequal(a, b, f"{key}[{index}]")
    elif found != wanted:
        yield key, found, wanted


def _are_lists(found: Any, wanted: Any) -> bool:
    return isinstance(found, list) and isinstance(wanted, list) and len(found) == len(wanted)


def _sentence(key: str, found: Any, wanted: Any) -> str:
    given = key.startswith(_SETTINGS)
    name = setting(key.removeprefix("settings.")) if given else _about(key)
    was, now = (_written(key, x) if given else _short(x) for x in (found, wanted))
    if was == now:  # they differ in what is not shown
        was, now = _short(found), _short(wanted)
    return f"{name} was {was} and is {now}"


def _about(key: str) -> str:
    """A description of a header's key that is not an option."""
    kind, _, name = key.partition(".")
    words = {"checkpoints": "checkpoint", "trajectories": setting("trajectories")}
    return f"{words[kind]} {name}" if kind in words else key


def _written(key: str, value: Any) -> str:
    """A setting's value as a person writes it."""
    if value is None or value is False or value == []:
        return "not given"
    if value is True:
        return "given"
    if isinstance(value, Mapping):
        return str(value.get("kind"))  # of a curved path
    if key == "settings.grid.points":
        return "x".join(map(str, value))
    if key == "settings.grid.ranges":
        return ",".join(f"{low:g}:{high:g}" for low, high in value)
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _short(value: Any) -> str:
    if value is None:
        return "absent"
    text = _HASH.sub(lambda found: f"{found[0][:8]}…", json.dumps(value, ensure_ascii=False))
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST // 2]}…"
