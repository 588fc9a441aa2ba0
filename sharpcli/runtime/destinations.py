"""What a path to write to is (file, device, pipe, stream), and whether it can be written."""

from __future__ import annotations

import errno
import os
import stat
import sys
from collections.abc import Sequence
from pathlib import Path

__all__ = ["is_special", "problem_of", "reason_of", "target_of", "write_all", "write_special"]


def problem_of(path: Path) -> str | None:
    """Why `path` cannot be written, as far as its metadata show; None if it seems writable."""
    number = _descriptor(path)
    if number is not None:
        return _problem_of_stream(number)
    target = target_of(path)
    try:
        mode = target.stat().st_mode
    except FileNotFoundError:
        mode = stat.S_IFREG
    except OSError as error:
        return reason_of(error)
    if stat.S_ISDIR(mode):
        return "it is a folder"
    if stat.S_ISSOCK(mode) or stat.S_ISBLK(mode):
        return f"it is a {'socket' if stat.S_ISSOCK(mode) else 'disk'}"
    if target.exists() and not os.access(target, os.W_OK):
        return "it is read-only"
    if not stat.S_ISREG(mode):
        return None
    folder = target.parent if path.is_symlink() else path.parent
    if not folder.is_dir():
        return f"there is no folder {folder}"
    if not os.access(folder, os.W_OK | os.X_OK):
        return f"the folder {folder} is not writable"
    return None


def _problem_of_stream(number: int) -> str | None:
    try:
        os.fstat(number)
    except OSError:
        return "the stream is closed"
    try:
        import fcntl
    except ImportError:  # Windows
        return None
    readable_only = fcntl.fcntl(number, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY
    return "the stream is closed, or only for reading" if readable_only else None


def reason_of(error: OSError) -> str:
    """What an error of the system says, in plain words."""
    if error.errno == errno.ENXIO:
        return "nobody reads this pipe"
    return error.strerror or str(error)


def _descriptor(path: Path) -> int | None:
    """The number of the process's stream that `path` names (`/dev/stdout` is 1), else None.

    Such a path is never resolved to its file, because the stream has its own position in that file.
    """
    own = {Path("/dev/fd"), target_of(Path("/proc/self/fd"))}
    name = Path.cwd() / path
    for _ in range(40):  # as many links as Linux follows
        if name.name.isdecimal() and {name.parent, target_of(name.parent)} & own:
            return int(name.name)
        if not os.path.islink(name):  # noqa: PTH114 (is_symlink raises for names that are too long)
            return None
        name = name.parent / name.readlink()
    return None


def target_of(path: Path) -> Path:
    """The file that a link points to; a dangling link does not raise."""
    return Path(os.path.realpath(path))


def is_special(path: Path) -> bool:
    """Whether the path is a device, a pipe or a stream; these are written to, never replaced."""
    if _descriptor(path) is not None:
        return True
    target = target_of(path)
    return os.path.exists(target) and not target.is_file()  # noqa: PTH110 (as in _descriptor)


def write_special(path: Path, pieces: Sequence[memoryview]) -> None:
    """Write to a device, a pipe or a stream."""
    number = _descriptor(path)
    if number is not None:
        sys.stdout.flush()  # keeps the order: earlier output first
        handle = os.dup(number)
    else:
        # Without O_NONBLOCK a named pipe without a reader would block the run forever.
        handle = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
        os.set_blocking(handle, True)
    try:
        write_all(handle, pieces)
    finally:
        os.close(handle)


def write_all(handle: int, pieces: Sequence[memoryview]) -> None:
    """Write all pieces to an open file, however many writes that takes."""
    for piece in pieces:
        rest = piece.cast("B")
        while rest:
            rest = rest[os.write(handle, rest) :]
