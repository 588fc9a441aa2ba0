"""Tensors in a temporary file, mapped into memory, for data that would fill the memory."""

from __future__ import annotations

import ctypes
import errno
import math
import mmap
import os
import shutil
import tempfile
import weakref
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from sharpcli.errors import SharpError, setting
from sharpcli.runtime.memory import readable_size

__all__ = ["HUGE_PAGE", "PageWindow", "Spool", "is_mapped", "release_mapped_pages"]

# Small tensors share a piece of the file of this size, since a process may hold 65,530 mappings.
_SEGMENT = 64 * 2**20
# Tensors begin at multiples of this, a cache line.
_ALIGNED = 64
# Mappings below this are not worth a system call.
_LEAST_MAPPED = 2**20
# Pages of files are given back after this many bytes were read. Around each place that is read the
# system maps at least the first number of bytes, and the second where its cache holds huge pages,
# as ext4 does for a file written in one go: 1,024 random rows of 12 kB mapped 1.7 of 2 GB.
_WINDOW, _AROUND, HUGE_PAGE = 64 * 2**20, 2**16, 2**21
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_IN_MEMORY = ("tmpfs", "ramfs")
_DONTNEED = 4  # MADV_DONTNEED of Linux, which Python's mmap names only for its own mappings


class Spool:
    """A temporary file of tensors, in the user's temporary folder.

    It has no name there from the start (on Windows: until it is closed), so that it goes with the
    process, even if that is killed.
    """

    def __init__(self) -> None:
        self.folder = _folder()
        self.bytes = 0
        self._file = tempfile.TemporaryFile(prefix="sharp-", dir=self.folder)  # noqa: SIM115
        weakref.finalize(self, self._file.close)  # mappings keep what they need of it
        self._segment, self._used = memoryview(b""), 0

    def empty(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """A tensor in the file. Its space is reserved, so that writing to it cannot fail.

        A `SharpError` says that the disk is full.
        """
        size = math.prod(shape) * dtype.itemsize
        if size == 0:
            return torch.empty(tuple(shape), dtype=dtype)
        if self._used + size > len(self._segment):
            self._segment, self._used = self._reserved(max(size, _SEGMENT)), 0
        part = self._segment[self._used : self._used + size]
        self._used += -(-size // _ALIGNED) * _ALIGNED
        return torch.frombuffer(part, dtype=dtype).view(tuple(shape))

    def copy(self, tensor: Tensor) -> Tensor:
        """A copy of a tensor in the file."""
        return self.empty(tensor.shape, tensor.dtype).copy_(tensor)

    def _reserved(self, size: int) -> memoryview:
        """A new piece at the end of the file."""
        size = -(-size // mmap.ALLOCATIONGRANULARITY) * mmap.ALLOCATIONGRANULARITY
        try:
            self._reserve(size)
        except OSError as error:
            if error.errno not in _FULL:
                raise
            free = readable_size(shutil.disk_usage(self.folder).free)
            raise SharpError(
                f"{self.folder}: the data do not fit in memory, and the disk has no room for "
                f"{readable_size(size)} more of them ({free} free)",
                f"name a folder on a larger disk by the environment variable TMPDIR, measure some "
                f"{setting('samples')}, or raise {setting('memory')}",
            ) from error
        piece = mmap.mmap(self._file.fileno(), size, offset=self.bytes)
        self.bytes += size
        return memoryview(piece)

    def _reserve(self, size: int) -> None:
        """Make the file longer, and make sure that the disk has the blocks."""
        descriptor = self._file.fileno()
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(descriptor, self.bytes, size)
            return
        os.lseek(descriptor, self.bytes, os.SEEK_SET)
        zeros = bytes(2**20)
        for start in range(0, size, len(zeros)):
            os.write(descriptor, zeros[: size - start])


def _folder() -> Path:
    """The temporary folder; /var/tmp if that is in memory and the user has named none."""
    folder = Path(tempfile.gettempdir())
    named = any(os.environ.get(name) for name in ("TMPDIR", "TEMP", "TMP"))
    other = Path("/var/tmp")
    if not named and _in_memory(folder) and os.access(other, os.W_OK) and not _in_memory(other):
        return other
    return folder


def _in_memory(folder: Path) -> bool:
    """Whether a folder is on a file system that takes memory, which only Linux says."""
    try:
        mounts = Path("/proc/self/mounts").read_text().splitlines()
    except OSError:
        return False
    kinds = {fields[1]: fields[2] for fields in map(str.split, mounts) if len(fields) > 2}
    places = [folder.resolve(), *folder.resolve().parents]
    return next((kinds[str(p)] for p in places if str(p) in kinds), "") in _IN_MEMORY


def release_mapped_pages() -> None:
    """Give back the memory of pages of mapped files, of spools and of the task's own files.

    They stay what they are, and in the system's cache while that has room: the next use maps them
    again. Private mappings are left alone, since their pages may hold changes. Does nothing where
    the system is not Linux. Cost: a few milliseconds, and page faults when they are read again.
    """
    for start, stop in _shared_mappings():
        _libc().madvise(ctypes.c_void_p(start), ctypes.c_size_t(stop - start), _DONTNEED)


class PageWindow:
    """Counts what is read from mapped files, and gives their pages back when they are many."""

    def __init__(self) -> None:
        self._read, self._least = 0, _pages_of_files()

    def read(self, size: int, pieces: int = 1, around: int = _AROUND) -> None:
        """Count `size` bytes, in so many places with `around` bytes mapped for each."""
        self._read += max(size, pieces * around)
        if self._read <= _WINDOW:
            return
        self._read = 0
        held = _pages_of_files()
        self._least = min(self._least, held)  # libraries have pages too
        if held - self._least > _WINDOW // 2:
            release_mapped_pages()
            self._least = _pages_of_files()


def _pages_of_files() -> int:
    """The bytes of files, of libraries too, that are mapped into memory; 0 if not on Linux."""
    try:
        shared = int(Path("/proc/self/statm").read_bytes().split()[2])
    except OSError:
        return 0
    return shared * mmap.PAGESIZE


def is_mapped(tensor: Tensor) -> bool:
    """Whether a tensor's numbers are in a mapped file, which Linux says."""
    address = tensor.untyped_storage().data_ptr() if tensor.device.type == "cpu" else 0
    return any(start <= address < stop for start, stop in _shared_mappings())


def _shared_mappings() -> list[tuple[int, int]]:
    """First and last address of each large shared mapping of a regular file."""
    try:
        lines = Path("/proc/self/maps").read_text().splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        fields = line.split(maxsplit=5)
        if len(fields) < 6 or not fields[1].endswith("s") or fields[4] == "0":
            continue
        start, stop = (int(each, 16) for each in fields[0].split("-"))
        if stop - start >= _LEAST_MAPPED and not fields[5].startswith("/dev/"):
            found.append((start, stop))
    return found


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
