"""Keep the results of finished checkpoints on disk, for the same command after a kill."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Mapping
from io import FileIO
from pathlib import Path
from typing import Any

import torch

from sharpcli.checkpoint import Checkpoint
from sharpcli.checkpoint.contents import sha256_of
from sharpcli.documents.results import CheckpointResult, Failure, LayerResult
from sharpcli.documents.scalars import to_plain
from sharpcli.documents.statuses import Outcome
from sharpcli.errors import SharpError, counted, setting
from sharpcli.landscape.points.journal import differences
from sharpcli.runs.study import Study
from sharpcli.runtime.destinations import is_special
from sharpcli.runtime.processes import is_first, share
from sharpcli.runtime.progress import UNSAID, Notes
from sharpcli.runtime.version import __version__

__all__ = ["Finished", "restored"]

_FORMAT = "sharpcli-checkpoints/1"
_BEGINNING = json.dumps({"format": _FORMAT}, separators=(",", ":")).encode()[:-1]
# Settings that decide about memory and about what is compared.
_INDIFFERENT = {"batch_size", "memory", "baseline"}
OptimizerFile = Callable[[], Path | None] | None
_TOLD = 3  # differences from another run that a note names


class Finished:
    """The finished checkpoints of a run, in `result.json.partial` next to its output.

    It is a file of JSON lines: a header with the settings and versions of a run, then a line for
    each checkpoint that the run has finished, written at once. A run with other settings adds a
    header and lines of its own and leaves the others; the file is removed when a run has ended and
    its result is written. An unfinished last line is cut off.

    Without an output nothing is written, and nothing to a device or a pipe. The command has
    reserved the output, so no other run writes to this file.

    Args:
        output: The file that the result goes to.
        resume: Use what an earlier run has finished. Otherwise the file is replaced.
        notes: Receives what was used, and why not.
    """

    def __init__(
        self, output: Path | None = None, *, resume: bool = True, notes: Notes = UNSAID
    ) -> None:
        self.path: Path | None = None
        if output is not None and not is_special(output):
            self.path = output.with_name(f"{output.name}.partial")
        self._resume, self._notes = resume, notes
        self._header: dict[str, Any] = {}
        self._found: dict[str, Mapping[str, Any]] = {}
        self._next: dict[str, Any] | None = None
        self._said: set[str] = set()
        self._complete = 0  # bytes of complete lines
        self._begun = False  # whether this run's header is in the file

    def begin(
        self, kind: str, settings: Mapping[str, Any], packages: Mapping[str, str] | None = None
    ) -> None:
        """Read what earlier runs of the same command, described by JSON values, have finished.

        If it was called so before, the run goes on: with checkpoints of another task, for example.
        `packages` identify the code of measures that packages bring, by name. A `SharpError` says
        that the file does not hold finished checkpoints, or is damaged.
        """
        header = _through_json(
            {
                "format": _FORMAT,
                "kind": kind,
                "sharpcli": __version__,
                "torch": str(torch.__version__),
                "settings": _decisive(settings),
                **({"packages": packages} if packages else {}),
            }
        )
        if header == self._header:
            return
        self._header = header
        if self.path is not None and self._resume and is_first() and self.path.is_file():
            self._read(self.path)
        self._found = share(self._found)

    def result_of(
        self, path: Path, checkpoint: Checkpoint, study: Study, state: OptimizerFile = None
    ) -> Mapping[str, Any] | None:
        """The finished result of this checkpoint in JSON types, if it would be the same now.

        Otherwise the next result that is added is this checkpoint's. `state` gives the file with
        the optimizer's state, where a measure reads it.
        """
        if self.path is None:
            return None
        sha256 = checkpoint.sha256
        described = {**_described(study), "metadata": _through_json(dict(checkpoint.metadata))}
        if state is not None:
            described["optimizer_state"] = _digest(state())
        self._next = {"path": str(path), "sha256": sha256, "task": described}
        record = self._found.get(str(path))
        if record is None:
            return None
        again = None
        if record["sha256"] != sha256:
            again = f"it has changed since its result in {self.path}"
        elif unequal := _changes(record["task"], described):
            again = "; ".join(unequal[:_TOLD])
        if again is None:
            self._next = None
            result: Mapping[str, Any] = record["result"]
            return result
        if again not in self._said:
            self._said.add(again)
            self._notes.note(
                f"{path} is measured again, as are others for the same reason: {again}"
            )
        return None

    def add(self, result: Any) -> None:
        """Append a finished result, if it is new.

        Raises:
            SharpError: the file cannot be written.
        """
        record, self._next = self._next, None
        if self.path is None or record is None or not is_first():
            return
        record = {**record, "result": to_plain(result)}
        try:
            with self.path.open("r+b" if self._complete else "wb", buffering=0) as file:
                file.truncate(self._complete)
                file.seek(self._complete)
                lines = [record] if self._begun else [self._header, record]
                self._complete += _written(file, lines)
                self._begun = True
        except OSError as error:
            raise SharpError(
                f"{self.path}: cannot be written: {error.strerror}",
                "finished checkpoints are kept: make room, and the same command goes on from there",
            ) from error

    def discard(self) -> None:
        """Remove the file, once the result is saved."""
        if self.path is not None and is_first():
            self.path.unlink(missing_ok=True)

    def _read(self, path: Path) -> None:
        """Read the results of runs with this header, and note how the others differ."""
        try:
            content = path.read_bytes()
        except OSError as error:
            raise SharpError(
                f"{path}: cannot be read: {error.strerror}",
                f"remove it, or start over with {setting('resume', False)}, which replaces it",
            ) from error
        if content[: len(_BEGINNING)] != _BEGINNING[: len(content)]:
            raise self._foreign(path, "it begins otherwise")
        lines = content.split(b"\n")[:-1]  # the rest after the last line end is unfinished
        others: list[tuple[Mapping[str, Any], int]] = []
        ours = False
        try:
            for line in lines:
                record = json.loads(line)
                if "format" in record:
                    if record["format"] != _FORMAT:
                        raise ValueError(f"its format is {record['format']!r}")
                    ours = record == self._header
                    if not ours:
                        others.append((record, 0))
                elif ours:
                    self._found[record["path"]] = {
                        name: record[name] for name in ("sha256", "task", "result")
                    }
                else:
                    other, lines_before = others.pop()
                    others.append((other, lines_before + 1))
        except (ValueError, TypeError, KeyError, IndexError) as error:
            raise self._foreign(path, str(error)) from error
        self._complete = sum(len(line) + 1 for line in lines)
        if self._found:
            count = counted(len(self._found), "checkpoint")
            self._notes.note(f"{path}: {count} finished by a former run")
        for other, results in others:
            if results:
                unequal = differences(other, self._header)
                more = len(unequal) - _TOLD
                why = "; ".join(unequal[:_TOLD]) + (f"; and {more} more" if more > 0 else "")
                self._notes.note(
                    f"{path}: not used: {counted(results, 'checkpoint')} finished by a run with "
                    f"other settings ({why})"
                )

    @staticmethod
    def _foreign(path: Path, why: str) -> SharpError:
        return SharpError(
            f"{path}: does not hold the finished checkpoints of a run ({why})",
            f"remove it, or start over with {setting('resume', False)}, which replaces it",
        )


def _written(file: FileIO, records: list[dict[str, Any]]) -> int:
    """Write a line for each record, and return how many bytes they are."""
    lines = b"".join(
        json.dumps(record, separators=(",", ":"), allow_nan=False).encode() + b"\n"
        for record in records
    )
    left = lines
    while left:
        left = left[file.write(left) :]
    return len(lines)


def restored(kept: Mapping[str, Any]) -> CheckpointResult:
    """A kept result of `sharp measure`; its measures stay in JSON types."""
    layers = [
        LayerResult(**{**layer, "error": layer.get("error") and Failure(**layer["error"])})
        for layer in kept.get("layers", ())
    ]
    return CheckpointResult(**{**kept, "status": Outcome(kept["status"]), "layers": layers})


def _decisive(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings without those that never change a checkpoint's result."""
    return {
        name: _decisive(value) if isinstance(value, Mapping) else value
        for name, value in settings.items()
        if name not in _INDIFFERENT
    }


def _described(study: Study) -> dict[str, Any]:
    """What a result depends on besides the checkpoint and the settings: the task and its data."""
    described: dict[str, Any] = _through_json({**study.description(), "data": study.digests})
    return {**described, "model": study.own_tensors}


def _changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What is not as it was, of the checkpoint's own files and of the task."""
    own = ("metadata", "optimizer_state")
    parts: list[dict[str, Any]] = []
    for each in (before, now):
        task = {name: value for name, value in each.items() if name not in own}
        parts.append({"task": task, **{name: each[name] for name in own if name in each}})
    return differences(*parts)


def _digest(file: Path | None) -> str | None:
    """A file's SHA-256; None where it cannot be read, which the measure that reads it says."""
    with contextlib.suppress(OSError):
        if file is not None:
            return sha256_of(file)
    return None


def _through_json(value: Any) -> Any:
    return json.loads(json.dumps(to_plain(value)))
