"""Reservations of files to write: locked files next to their targets, `.NAME.sharp.part`.

Creating one proves that the folder is writable, and its lock keeps other runs out. Later it
receives the new content and replaces the target in one step. A killed run leaves it behind without
its lock; the next run in the folder removes it.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import socket
import stat
import time
from collections.abc import Sequence
from pathlib import Path

from sharpcli.errors import SharpError, setting
from sharpcli.runtime import interruption
from sharpcli.runtime.destinations import write_all

__all__ = ["InUseError", "is_reserved", "lock", "release", "remove_dead", "replace", "reserve"]

_SUFFIX = ".sharp.part"
_LONGEST_NAME = 255  # bytes in a file name on common file systems
# Seconds for which another run may hold the lock just to check whether this part is in use.
_PATIENCE = 0.3
# Errors of file systems without locks or without fsync.
_UNSUPPORTED = (errno.ENOSYS, errno.ENOTSUP, errno.EINVAL, errno.ENOLCK)
_NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)

_reserved: dict[Path, int] = {}  # target → descriptor of its part


class InUseError(SharpError):
    """Another run is writing to the file."""


def _part_of(target: Path) -> Path:
    part = f".{target.name}{_SUFFIX}"
    if len(os.fsencode(part)) > _LONGEST_NAME:
        part = f".{hashlib.sha256(os.fsencode(target.name)).hexdigest()[:32]}{_SUFFIX}"
    return target.with_name(part)


def reserve(target: Path, path: Path) -> None:
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
                holder = f"{os.getpid()} on {socket.gethostname()}".encode()
                try:
                    write_all(handle, [memoryview(holder)])
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


def is_reserved(target: Path) -> bool:
    """Whether this process has reserved the target."""
    return target in _reserved


def _held(path: Path, holder: bytes) -> SharpError:
    """The error that another run holds the file; `holder` is what that run wrote about itself."""
    known = re.fullmatch(rb"\d+ on [\w.-]+", holder)
    process = f" (process {holder.decode()})" if known else ""
    return InUseError(
        f"{path}: another run is writing to it{process}",
        f"wait for it to end, or write to another {setting('output')}",
    )


def replace(target: Path, pieces: Sequence[memoryview]) -> None:
    """Write the content into the reserved part and rename the part to the target."""
    handle, part = _reserved[target], _part_of(target)
    os.lseek(handle, 0, os.SEEK_SET)
    os.ftruncate(handle, 0)
    write_all(handle, pieces)
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


def release(target: Path) -> None:
    """Release a reservation unless it has become the target."""
    handle = _reserved.pop(target, None)
    if handle is not None:
        with contextlib.suppress(OSError):  # the folder has become read-only or was removed
            _part_of(target).unlink()
        os.close(handle)


def _release_all() -> None:
    for target in list(_reserved):
        release(target)


interruption.before_leaving(_release_all)


def remove_dead(folder: Path) -> None:
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
