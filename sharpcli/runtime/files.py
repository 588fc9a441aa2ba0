"""Write files atomically, by one run at a time. All other modules write through this one.

A run reserves its output files before it computes anything. The reservation is a locked file next
to the target, `.NAME.sharp.part`. Creating it proves that the folder is writable, and its lock
keeps other runs out. Later it receives the new content and replaces the target in one step. A
killed run leaves this file behind without its lock; the next run in the folder removes it.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import itertools
import os
import re
import socket
import stat
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from sharpcli.errors import SharpError, setting
from sharpcli.runtime import interruption
from sharpcli.runtime.processes import is_first
from sharpcli.runtime.streams import drop_stdout

__all__ = [
    "InUseError",
    "beside",
    "cache_folder",
    "is_special",
    "lock",
    "problem_of",
    "rescue",
    "reserved",
    "save",
    "write_whole",
]

_SUFFIX = ".sharp.part"
_LONGEST_NAME = 255  # bytes in a file name on common file systems
# Seconds for which another run may hold the lock just to check whether this part is in use.
_PATIENCE = 0.3
# Errors of file systems without locks or without fsync.
_UNSUPPORTED = (errno.ENOSYS, errno.ENOTSUP, errno.EINVAL, errno.ENOLCK)

_reserved: dict[Path, int] = {}  # target → descriptor of its part


class InUseError(SharpError):
    """Another run is writing to the file."""


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
                _release(target)


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
                _release(target)


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
                _write_all(handle, _pieces(content))
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


def problem_of(path: Path) -> str | None:
    """Why `path` cannot be written, as far as its metadata show; None if it seems writable."""
    number = _descriptor(path)
    if number is not None:
        return _problem_of_stream(number)
    target = _target(path)
    try:
        mode = target.stat().st_mode
    except FileNotFoundError:
        mode = stat.S_IFREG
    except OSError as error:
        return _reason(error)
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


def _named(path: Path, work: Callable[[], None]) -> None:
    """Do `work`; an `OSError` becomes a `SharpError` that names `path`."""
    try:
        work()
    except OSError as error:
        raise _unwritable(path, _reason(error)) from error


def _begin(path: Path, taken: list[Path]) -> None:
    """Check and reserve one file, and append its target to `taken`."""
    problem = problem_of(path)
    if problem:
        raise _unwritable(path, problem)
    if not is_special(path):
        target = _target(path)
        _clean(target.parent)
        _reserve(target, path)
        taken.append(target)


def _write(path: Path, pieces: Sequence[memoryview], taken: list[Path]) -> None:
    """Write to one file; a reservation made only for this is appended to `taken`."""
    if _target(path) not in _reserved:
        _begin(path, taken)
    if is_special(path):
        _write_special(path, pieces)
    else:
        _replace(_target(path), pieces)


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


def _reason(error: OSError) -> str:
    if error.errno == errno.ENXIO:
        return "nobody reads this pipe"
    return error.strerror or str(error)


def _descriptor(path: Path) -> int | None:
    """The number of the process's stream that `path` names (`/dev/stdout` is 1), else None.

    Such a path is never resolved to its file, because the stream has its own position in that file.
    """
    own = {Path("/dev/fd"), _target(Path("/proc/self/fd"))}
    name = Path.cwd() / path
    for _ in range(40):  # as many links as Linux follows
        if name.name.isdecimal() and {name.parent, _target(name.parent)} & own:
            return int(name.name)
        if not os.path.islink(name):  # noqa: PTH114 (is_symlink raises for names that are too long)
            return None
        name = name.parent / name.readlink()
    return None


def _target(path: Path) -> Path:
    """The file that a link points to; a dangling link does not raise."""
    return Path(os.path.realpath(path))


def is_special(path: Path) -> bool:
    """Whether the path is a device, a pipe or a stream; these are written to, never replaced."""
    if _descriptor(path) is not None:
        return True
    target = _target(path)
    return os.path.exists(target) and not target.is_file()  # noqa: PTH110 (as in _descriptor)


def _write_special(path: Path, pieces: Sequence[memoryview]) -> None:
    number = _descriptor(path)
    if number is not None:
        sys.stdout.flush()  # keeps the order: earlier output first
        handle = os.dup(number)
    else:
        # Without O_NONBLOCK a named pipe without a reader would block the run forever.
        handle = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
        os.set_blocking(handle, True)
    try:
        _write_all(handle, pieces)
    finally:
        os.close(handle)


def _write_all(handle: int, pieces: Sequence[memoryview]) -> None:
    for piece in pieces:
        rest = piece.cast("B")
        while rest:
            rest = rest[os.write(handle, rest) :]


def _part_of(target: Path) -> Path:
    part = f".{target.name}{_SUFFIX}"
    if len(os.fsencode(part)) > _LONGEST_NAME:
        part = f".{hashlib.sha256(os.fsencode(target.name)).hexdigest()[:32]}{_SUFFIX}"
    return target.with_name(part)


def _reserve(target: Path, path: Path) -> None:
    """Create and lock the part of a target; raises `OSError`, or `SharpError` if a run holds it."""
    part, until = _part_of(target), time.monotonic() + _PATIENCE
    while True:
        handle = os.open(part, os.O_RDWR | os.O_CREAT | _NO_FOLLOW, 0o666)
        try:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise OSError(errno.EEXIST, f"{part} is in the way")
            lock(handle)
            if os.fstat(handle).st_nlink:  # else it belonged to a dead run and was just removed
                os.ftruncate(handle, 0)
                # Writing allocates a disk block, so a full disk fails before the work.
                try:
                    _write_all(handle, _pieces(f"{os.getpid()} on {socket.gethostname()}"))
                except OSError:
                    part.unlink()
                    raise
                _reserved[target] = handle
                return
        except BlockingIOError as error:
            if time.monotonic() > until:
                raise _held(path, os.read(handle, 200)) from error
            time.sleep(_PATIENCE / 10)
        finally:
            if target not in _reserved:
                os.close(handle)


def _held(path: Path, holder: bytes) -> SharpError:
    """The error that another run holds the file; `holder` is what that run wrote about itself."""
    known = re.fullmatch(rb"\d+ on [\w.-]+", holder)
    process = f" (process {holder.decode()})" if known else ""
    return InUseError(
        f"{path}: another run is writing to it{process}",
        f"wait for it to end, or write to another {setting('output')}",
    )


def _replace(target: Path, pieces: Sequence[memoryview]) -> None:
    """Write the content into the reserved part and rename the part to the target."""
    handle, part = _reserved[target], _part_of(target)
    os.lseek(handle, 0, os.SEEK_SET)
    os.ftruncate(handle, 0)
    _write_all(handle, pieces)
    with contextlib.suppress(FileNotFoundError):  # a new file gets its permissions from the umask
        part.chmod(stat.S_IMODE(target.stat().st_mode))
    try:
        os.fsync(handle)  # network file systems report a full disk here
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
    part.replace(target)
    _reserved.pop(target)
    os.close(handle)


def _release(target: Path) -> None:
    """Release a reservation unless it has become the target."""
    handle = _reserved.pop(target, None)
    if handle is not None:
        with contextlib.suppress(OSError):  # the folder has become read-only or was removed
            _part_of(target).unlink()
        os.close(handle)


def _release_all() -> None:
    for target in list(_reserved):
        _release(target)


interruption.before_leaving(_release_all)


def _clean(folder: Path) -> None:
    """Remove the parts of dead runs, that is, the unlocked ones."""
    own = {_part_of(target) for target in _reserved}
    with os.scandir(folder) as entries:
        parts = [Path(entry.path) for entry in entries if entry.name.endswith(_SUFFIX)]
    for part in parts:
        if part in own:
            continue
        with contextlib.suppress(OSError):  # another user's, or locked by a live run
            handle = os.open(part, os.O_RDWR | os.O_NONBLOCK | _NO_FOLLOW)
            try:
                lock(handle, must=True)
                part.unlink()
            finally:
                os.close(handle)


_NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)


def lock(handle: int, *, must: bool = False) -> None:
    """Lock a file for this process until the process ends or closes the file.

    On a file system without locks nothing is locked.

    Raises:
        BlockingIOError: Another process has the lock.
        OSError: The file cannot be locked for another reason, or with `must`, at all.
    """
    try:
        import fcntl
    except ImportError:  # on Windows an open file cannot be removed anyway
        return
    try:
        # lockf locks per process, not per open file: children that outlive a killed run do not
        # hold the lock.
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            raise BlockingIOError(error.errno, error.strerror) from error
        if must or error.errno not in _UNSUPPORTED:
            raise


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
