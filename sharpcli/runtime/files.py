"""The one place that writes files: whole or not at all, by one run at a time, and never in vain.

A run reserves its output files before it works. The reservation is a locked file beside the target,
`.NAME.sharp.part`: making it proves that the folder can be written, its lock keeps other runs off,
and it later takes the new content and replaces the target in one step. What a killed run leaves
behind is that file without its lock, and the next run in the folder removes it.
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
_LONGEST_NAME = 255  # bytes of a file's name on common file systems
# Seconds for which a lock may be held by a run that only looks whether this part is in use.
_PATIENCE = 0.3
# What file systems without locks, or without fsync, answer.
_UNSUPPORTED = (errno.ENOSYS, errno.ENOTSUP, errno.EINVAL, errno.ENOLCK)

_reserved: dict[Path, int] = {}  # target → descriptor of its part


class InUseError(SharpError):
    """Another run is writing to the file."""


Content = str | bytes | Sequence[bytes | memoryview]


@contextlib.contextmanager
def reserved(*paths: Path | None) -> Iterator[None]:
    """Keep these files for this run: what cannot be written is said now, before any work.

    Raises `SharpError` for a folder that is missing or read-only, a full disk, a target that is no
    file, and a file that another run is writing. A path of None is skipped.
    Devices, pipes and the process's own streams are checked and not reserved. Of several processes
    only the first one reserves.
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
    """Write text or bytes to `path`, whole or not at all; raises `SharpError` naming the file.

    A link is followed; a device, a pipe or a stream of the process (`/dev/stdout`) is written to,
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
    """`write_whole` for what took work to find: where it fails, the content is kept elsewhere.

    In the user's cache folder, else among temporary files, else, if it is text, on standard output.
    Raises `SharpError` that says why the file could not be written, and where its content is.
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
    """Write a result that has no other place to a new file in the user's cache folder.

    Where that cannot be written, among temporary files. Gives its path, or None where neither
    takes it.
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
        except OSError:  # the next place is tried; the caller still has the content
            if path is not None:
                path.unlink(missing_ok=True)
            continue
        return path
    return None


def beside(path: Path) -> Path:
    """A name beside `path` that no file has, for an incomplete result: `r.interrupted.json`."""
    return next(name for name in _names(path, ".interrupted") if not os.path.lexists(name))


def cache_folder() -> Path:
    """The user's cache folder, where freedesktop.org's base directories put it."""
    chosen = os.environ.get("XDG_CACHE_HOME")
    if chosen:
        return Path(chosen) / "sharpcli"
    try:
        return Path.home() / ".cache" / "sharpcli"
    except RuntimeError:  # a user without a home
        return Path(tempfile.gettempdir()) / "sharpcli"


def problem_of(path: Path) -> str | None:
    """Why `path` cannot be written as far as a look at it tells, None where it can."""
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
        return f"the folder {folder} may not be written to"
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
    return "the stream is closed, or is for reading" if readable_only else None


def _named(path: Path, work: Callable[[], None]) -> None:
    """Do `work`, with `path` named in what goes wrong."""
    try:
        work()
    except OSError as error:
        raise _unwritable(path, _reason(error)) from error


def _begin(path: Path, taken: list[Path]) -> None:
    """Check and reserve one file; its target is noted in `taken`."""
    problem = problem_of(path)
    if problem:
        raise _unwritable(path, problem)
    if not is_special(path):
        target = _target(path)
        _clean(target.parent)
        _reserve(target, path)
        taken.append(target)


def _write(path: Path, pieces: Sequence[memoryview], taken: list[Path]) -> None:
    """Write to one file; what is reserved for this alone is noted in `taken`."""
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
        "name a file in a folder that exists, may be written to and has room",
    )


def _reason(error: OSError) -> str:
    if error.errno == errno.ENXIO:
        return "nobody reads this pipe"
    return error.strerror or str(error)


def _descriptor(path: Path) -> int | None:
    """The number of the process's stream that `path` names (`/dev/stdout` is 1), None for others.

    Such a path is never resolved to the file behind it: the stream has its own place in that file.
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
    """The file that a link leads to; never raises for one that leads nowhere."""
    return Path(os.path.realpath(path))


def is_special(path: Path) -> bool:
    """Whether the path is a device, a pipe or a stream, which is written to and never replaced."""
    if _descriptor(path) is not None:
        return True
    target = _target(path)
    return os.path.exists(target) and not target.is_file()  # noqa: PTH110 (as in _descriptor)


def _write_special(path: Path, pieces: Sequence[memoryview]) -> None:
    number = _descriptor(path)
    if number is not None:
        sys.stdout.flush()  # what was printed before comes before
        handle = os.dup(number)
    else:
        # Without O_NONBLOCK a named pipe that nobody reads would hold the run for ever.
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
    """Make and lock the part of a target; raises `OSError`, and `SharpError` where a run has it."""
    part, until = _part_of(target), time.monotonic() + _PATIENCE
    while True:
        handle = os.open(part, os.O_RDWR | os.O_CREAT | _NO_FOLLOW, 0o666)
        try:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise OSError(errno.EEXIST, f"{part} is in the way")
            lock(handle)
            if os.fstat(handle).st_nlink:  # else it was a dead run's, and has just been removed
                os.ftruncate(handle, 0)
                # This takes a block of the disk, so that a full one shows before the work.
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
    """Another run has the file; `holder` is what it wrote about itself."""
    known = re.fullmatch(rb"\d+ on [\w.-]+", holder)
    process = f" (process {holder.decode()})" if known else ""
    return InUseError(
        f"{path}: another run is writing to it{process}",
        f"wait for it to end, or write to another {setting('output')}",
    )


def _replace(target: Path, pieces: Sequence[memoryview]) -> None:
    """Put the content into the reserved part, and the part in the target's place."""
    handle, part = _reserved[target], _part_of(target)
    os.lseek(handle, 0, os.SEEK_SET)
    os.ftruncate(handle, 0)
    _write_all(handle, pieces)
    with contextlib.suppress(FileNotFoundError):  # a new file has what the umask leaves it
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
    """Give a reservation back, if it has not become the target."""
    handle = _reserved.pop(target, None)
    if handle is not None:
        with contextlib.suppress(OSError):  # the folder has become read-only, or is gone
            _part_of(target).unlink()
        os.close(handle)


def _release_all() -> None:
    for target in list(_reserved):
        _release(target)


interruption.before_leaving(_release_all)


def _clean(folder: Path) -> None:
    """Remove the parts of dead runs: those that nobody has locked."""
    own = {_part_of(target) for target in _reserved}
    with os.scandir(folder) as entries:
        parts = [Path(entry.path) for entry in entries if entry.name.endswith(_SUFFIX)]
    for part in parts:
        if part in own:
            continue
        with contextlib.suppress(OSError):  # another user's, or locked by a run that is alive
            handle = os.open(part, os.O_RDWR | os.O_NONBLOCK | _NO_FOLLOW)
            try:
                lock(handle, must=True)
                part.unlink()
            finally:
                os.close(handle)


_NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)


def lock(handle: int, *, must: bool = False) -> None:
    """Lock a file for this process alone, until it ends however it does or closes the file.

    Raises `BlockingIOError` where another process has the lock. On a file system without locks
    nothing is locked, unless it `must` be.
    """
    try:
        import fcntl
    except ImportError:  # Windows lets nobody remove a file that is open
        return
    try:
        # Of the process, not of the open file: children that outlive a killed run do not hold it.
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            raise BlockingIOError(error.errno, error.strerror) from error
        if must or error.errno not in _UNSUPPORTED:
            raise


def _new_file(path: Path) -> tuple[Path, int]:
    """Make and open a file of this name, or of one with a number where that is taken."""
    for name in _names(path):
        with contextlib.suppress(FileExistsError):
            return name, os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    raise AssertionError("the names never end")


def _names(path: Path, mark: str = "") -> Iterator[Path]:
    """`NAME{mark}.json`, `NAME{mark}-2.json`, `NAME{mark}-3.json`, … without end."""
    for number in itertools.count(1):
        count = "" if number == 1 else f"-{number}"
        yield path.with_name(f"{path.stem}{mark}{count}{path.suffix}")
