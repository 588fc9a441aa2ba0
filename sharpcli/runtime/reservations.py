"""Reservations of files to write: locked files next to their targets, `.NAME.sharp.part`.

Creating one proves that the folder is writable, and its lock keeps other runs out until the run
releases it, also after the target is written. New content goes to `.NAME.new.sharp.part`, which
replaces the target in one step. A killed run leaves these files behind without their locks; the
next run in the folder removes them.

Who has locked a file checks that it still has its name: its owner may have renamed or removed it in
between. While it has its name and is locked, nobody else renames or removes it.
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

__all__ = [
    "InUseError",
    "is_at",
    "is_reserved",
    "lock",
    "release",
    "remove_dead",
    "replace",
    "reserve",
]

_SUFFIX = ".sharp.part"
_LONGEST_NAME = 255  # bytes in a file name on common file systems
# Seconds that another run may have between locking a part and writing its name into it, seconds for
# which one may hold the lock just to check whether a part is in use, and between two tries.
_PATIENCE, _LOOKING, _PAUSE = 0.3, 10.0, 0.03
# Errors of file systems without locks or without fsync.
_UNSUPPORTED = (errno.ENOSYS, errno.ENOTSUP, errno.EINVAL, errno.ENOLCK)
_HOLDER = re.compile(rb"(?P<process>\d+) on (?P<host>[\w.-]+)")
_NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)

_reserved: dict[Path, int] = {}  # target → descriptor of its part


class InUseError(SharpError):
    """Another run is writing to the file."""


def _part_of(target: Path, kind: str = "") -> Path:
    part = f".{target.name}{kind}{_SUFFIX}"
    if len(os.fsencode(part)) > _LONGEST_NAME:
        part = f".{hashlib.sha256(os.fsencode(target.name)).hexdigest()[:32]}{kind}{_SUFFIX}"
    return target.with_name(part)


def _new_of(target: Path) -> Path:
    """The file that receives the target's new content."""
    return _part_of(target, ".new")


def reserve(target: Path, path: Path) -> None:
    """Create and lock the part of a target; raises `OSError`, or `SharpError` if a run holds it."""
    part = _part_of(target)
    try:
        handle = _locked(part)
    except BlockingIOError as error:
        raise _held(path, _start_of(part)) from error
    try:
        os.ftruncate(handle, 0)
        # Writing allocates a disk block, so a full disk fails before the work.
        write_all(handle, [memoryview(f"{os.getpid()} on {socket.gethostname()}".encode())])
    except OSError:
        part.unlink()
        os.close(handle)
        raise
    _reserved[target] = handle


def _locked(part: Path) -> int:
    """Open and lock a part, made if it is not there; `BlockingIOError` if another run holds it."""
    begun = time.monotonic()
    while True:
        handle, ours = os.open(part, os.O_RDWR | os.O_CREAT | _NO_FOLLOW, 0o666), False
        try:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise OSError(errno.EEXIST, f"{part} is in the way")
            lock(handle)
            ours = is_at(part, handle)
            if ours:
                return handle
        except BlockingIOError:
            waited = time.monotonic() - begun
            if waited > _LOOKING or (waited > _PATIENCE and _names_a_run(_start_of(part))):
                raise
            time.sleep(_PAUSE)
        finally:
            if not ours:
                os.close(handle)


def is_at(path: Path, handle: int) -> bool:
    """Whether the open file still has this name."""
    try:
        return os.path.samestat(path.stat(), os.fstat(handle))
    except FileNotFoundError:
        return False


def _names_a_run(holder: bytes) -> bool:
    """Whether a part names a run that may live; else who holds it only looks whether it is dead."""
    known = _HOLDER.fullmatch(holder)
    if known is None or known["host"].decode() != socket.gethostname():
        return known is not None
    number = int(known["process"])
    try:
        os.kill(number, 0)
    except OverflowError:
        return False
    except OSError as error:
        return error.errno == errno.EPERM
    return number != os.getpid()  # an earlier process may have had this one's number


def _start_of(part: Path) -> bytes:
    """The part's first bytes, which name the run that holds it; empty if the part is gone."""
    try:
        with part.open("rb") as file:
            return file.read(200)
    except FileNotFoundError:
        return b""


def is_reserved(target: Path) -> bool:
    """Whether this process has reserved the target."""
    return target in _reserved


def _held(path: Path, holder: bytes) -> SharpError:
    """The error that another run holds the file; `holder` is what that run wrote about itself."""
    known = _HOLDER.fullmatch(holder)
    process = f" (process {holder.decode()})" if known else ""
    return InUseError(
        f"{path}: another run is writing to it{process}",
        f"wait for it to end, or write to another {setting('output')}",
    )


def replace(target: Path, pieces: Sequence[memoryview]) -> None:
    """Write the content of a reserved target in one step; the reservation stays."""
    new = _new_of(target)
    handle = _locked(new)
    try:
        os.ftruncate(handle, 0)  # a killed run may have left it
        write_all(handle, pieces)
        with contextlib.suppress(FileNotFoundError):  # a new file gets permissions from the umask
            new.chmod(stat.S_IMODE(target.stat().st_mode))
        try:
            os.fsync(handle)  # network file systems report a full disk here
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                raise
        new.replace(target)
    except BaseException:
        new.unlink(missing_ok=True)
        raise
    finally:
        os.close(handle)


def release(target: Path) -> None:
    """Release a reservation."""
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
    own = {part for target in _reserved for part in (_part_of(target), _new_of(target))}
    with os.scandir(folder) as entries:
        parts = [Path(entry.path) for entry in entries if entry.name.endswith(_SUFFIX)]
    for part in parts:
        if part in own:
            continue
        with contextlib.suppress(OSError):  # another user's, or locked by a live run
            handle = os.open(part, os.O_RDWR | os.O_NONBLOCK | _NO_FOLLOW)
            try:
                lock(handle, must=True)
                if is_at(part, handle):
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
