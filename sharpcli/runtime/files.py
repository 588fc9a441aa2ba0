"""Write files atomically, by one run at a time. All other modules write through this one.

A run reserves its output files before it computes anything (`reservations`), and holds them until
its work is over. It writes its result to a file beside the target, which replaces the target in one
step.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from sharpcli.errors import SharpError
from sharpcli.runtime import interruption
from sharpcli.runtime.destinations import (
    is_special,
    problem_of,
    reason_of,
    target_of,
    write_all,
    write_special,
)
from sharpcli.runtime.processes import is_first
from sharpcli.runtime.reservations import (
    InUseError,
    is_reserved,
    release,
    remove_dead,
    replace,
    reserve,
)
from sharpcli.runtime.streams import drop_stdout

__all__ = ["beside", "cache_folder", "rescue", "reserved", "reserved_within", "save", "write_whole"]

Content = str | bytes | Sequence[bytes | memoryview]


@contextlib.contextmanager
def reserved(*paths: Path | None) -> Iterator[None]:
    """Reserve these files for this run, so that unwritable ones fail before any work.

    A missing or read-only folder, a full disk, a target that is not a file, or a file that another
    run is writing gives a `SharpError`. A path of None is skipped. Devices, pipes and the process's
    own streams are checked but not reserved. Of several processes only the first one reserves.
    """
    taken: list[Path] = []
    try:
        with interruption.deferred():
            for path in dict.fromkeys(paths) if is_first() else ():
                if path is not None:
                    _named(path, functools.partial(_begin, path, taken))
        yield
    finally:
        with interruption.deferred():
            for target in taken:
                release(target)


@contextlib.contextmanager
def reserved_within(seconds: float, path: Path) -> Iterator[None]:
    """`reserved`, but wait for so long while another process holds the file.

    Raises:
        InUseError: It holds it for longer.
    """
    until = time.monotonic() + seconds
    while True:
        with contextlib.ExitStack() as held:
            try:
                held.enter_context(reserved(path))
            except InUseError:
                if time.monotonic() > until:
                    raise
                continue
            yield
            return


def write_whole(path: Path, content: Content) -> None:
    """Write text or bytes to `path` atomically; a failure is a `SharpError` that names the file.

    Links are followed. A device, a pipe or a stream of the process (`/dev/stdout`) is written to,
    never replaced. The file keeps its permissions. An interrupt waits until the file is written.
    """
    taken: list[Path] = []
    with interruption.deferred():
        try:
            _named(path, lambda: _write(path, _pieces(content), taken))
        finally:
            for target in taken:
                release(target)


def save(path: Path, content: Content) -> None:
    """`write_whole` for an expensive result: if it fails, the content is saved elsewhere.

    The places are the user's cache folder, the temporary folder and, for text, standard output.

    Raises:
        SharpError: Why the file could not be written, and where its content is.
    """
    try:
        write_whole(path, content)
    except SharpError as error:
        with interruption.deferred():
            kept = rescue(path.name, content)
            if kept is not None:
                hint = f"nothing is lost: the result is in {kept}"
            elif isinstance(content, str) and _is_printed(content):
                hint = "nothing is lost: the result is on standard output"
            else:
                raise
        raise SharpError(error.message, hint) from error


def rescue(name: str, content: Content) -> Path | None:
    """Write a result to a new file in the user's cache folder, or else in the temporary folder.

    Returns its path, or None if neither folder can be written.
    """
    places: tuple[Callable[[], Path], ...] = (
        lambda: cache_folder() / "rescued",
        lambda: Path(tempfile.gettempdir()),
    )
    for place in places:
        path = None
        try:
            folder = place()
            folder.mkdir(parents=True, exist_ok=True)
            path, handle = _new_file(folder / (name or "result"))
            try:
                write_all(handle, _pieces(content))
            finally:
                os.close(handle)
        except OSError:  # try the next place; the caller still has the content
            if path is not None:
                path.unlink(missing_ok=True)
            continue
        return path
    return None


def beside(path: Path) -> Path:
    """An unused name next to `path` for an incomplete result: `r.interrupted.json`."""
    return next(name for name in _names(path, ".interrupted") if not os.path.lexists(name))


def cache_folder() -> Path:
    """The user's cache folder, by freedesktop.org's base directory specification."""
    chosen = os.environ.get("XDG_CACHE_HOME")
    if chosen:
        return Path(chosen) / "sharpcli"
    try:
        return Path.home() / ".cache" / "sharpcli"
    except RuntimeError:  # a user without a home
        return Path(tempfile.gettempdir()) / "sharpcli"


def _named(path: Path, work: Callable[[], None]) -> None:
    """Do `work`; an `OSError` becomes a `SharpError` that names `path`."""
    try:
        work()
    except OSError as error:
        raise _unwritable(path, reason_of(error)) from error


def _begin(path: Path, taken: list[Path]) -> None:
    """Check and reserve one file, and append its target to `taken`."""
    problem = problem_of(path)
    if problem:
        raise _unwritable(path, problem)
    target = target_of(path)
    if not is_special(path) and not is_reserved(target):
        remove_dead(target.parent)
        reserve(target, path)
        taken.append(target)


def _write(path: Path, pieces: Sequence[memoryview], taken: list[Path]) -> None:
    """Write to one file; a reservation made only for this is appended to `taken`."""
    if not is_reserved(target_of(path)):
        _begin(path, taken)
    if is_special(path):
        write_special(path, pieces)
    else:
        replace(target_of(path), pieces)


def _pieces(content: Content) -> list[memoryview]:
    if isinstance(content, str):
        content = content.encode("utf-8", "backslashreplace")
    return [memoryview(each) for each in ([content] if isinstance(content, bytes) else content)]


def _is_printed(text: str) -> bool:
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except OSError:  # no reader, or a full disk
        drop_stdout()
        return False
    return True


def _unwritable(path: Path, problem: str) -> SharpError:
    return SharpError(
        f"{path}: cannot be written: {problem}",
        "name a file in a folder that exists, is writable and has free space",
    )


def _new_file(path: Path) -> tuple[Path, int]:
    """Create and open a file of this name; if the name is taken, a number is added to it."""
    for name in _names(path):
        with contextlib.suppress(FileExistsError):
            return name, os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    raise AssertionError("the names never end")


def _names(path: Path, mark: str = "") -> Iterator[Path]:
    """`NAME{mark}.json`, `NAME{mark}-2.json`, `NAME{mark}-3.json`, … without end."""
    for number in itertools.count(1):
        count = "" if number == 1 else f"-{number}"
        yield path.with_name(f"{path.stem}{mark}{count}{path.suffix}")
