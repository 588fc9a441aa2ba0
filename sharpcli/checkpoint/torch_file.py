"""Files of `torch.save`, read by this package itself; torch's own reader never sees them.

A file has pickles, which describe the tensors, and the tensors' bytes. The pickles are read as
plain values (see `plain_pickle`), and each tensor is made of bytes that were read from the file and
are known to be there. Both kinds of file are read: zip archives, and what torch before 1.6 wrote.
"""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import Any

from sharpcli.checkpoint.archive import ArchiveError
from sharpcli.checkpoint.contents import allowance, listed, open_error, regular_size
from sharpcli.checkpoint.pickled_tensors import DAMAGED, stored_elsewhere
from sharpcli.checkpoint.plain_pickle import PickleError, read_pickle
from sharpcli.checkpoint.torch_formats import (
    CONVERT,
    SAVE_WEIGHTS,
    ForeignError,
    read_archive,
    read_legacy,
)
from sharpcli.errors import SharpError

__all__ = ["looks_like_torch", "read_torch", "refuse_text_pickle"]

_ZIP = b"PK\x03\x04"
_PICKLES = tuple(bytes([0x80, protocol]) for protocol in range(2, 6))
_HARMLESS = (
    "collections.OrderedDict",
    "collections.Counter",
    "collections.defaultdict",
    "_codecs.encode",
    "argparse.Namespace",
    "torch.serialization._get_layout",
    "numpy.dtype",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
)
# classes that stand for themselves, as in `defaultdict(int)`
_BUILTINS = (
    *("bool", "bytearray", "bytes", "complex", "dict", "float", "frozenset", "int", "list", "long"),
    *("object", "range", "set", "slice", "str", "tuple", "unicode"),
)


def looks_like_torch(head: bytes) -> bool:
    """Whether a file that starts with `head` is a zip archive or a binary pickle."""
    return head.startswith((_ZIP, *_PICKLES))


def refuse_text_pickle(path: Path) -> None:
    """Raise where the file is a pickle of the oldest, textual kind that would run code."""
    imports: dict[str, None] = {}
    size = regular_size(path)
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        try:
            read_pickle(data, 0, allowance(size), {}, stored_elsewhere, imports)
        except PickleError:
            return
    _refuse_imports(path, imports)


def read_torch(path: Path, *, mapped: bool = False) -> Any:
    """The object in a file of `torch.save`, tensors on the CPU; raises `SharpError`, runs nothing.

    Mappings become dicts, tensors that cannot be measured `NotPlain`, objects of classes that are
    not read a `Stub`. `mapped` leaves the data on disk until they are used, where the file's
    format allows it.
    Cost: the file's size in memory.
    """
    size = regular_size(path)
    imports: dict[str, None] = {}
    try:
        with path.open("rb") as file:
            if file.read(4) == _ZIP:
                value = read_archive(file, size, imports, mapped=mapped)
            else:
                value = read_legacy(file, size, imports)
    except OSError as error:
        raise open_error(path, error) from error
    except ArchiveError as error:
        kind = "refused" if error.hint else "is a corrupt zip archive"
        raise SharpError(f"{path}: {kind}: {error}", error.hint or DAMAGED) from error
    except PickleError as error:
        _refuse_imports(path, imports)
        raise SharpError(f"{path}: its pickle cannot be read: {error}", DAMAGED) from error
    except ForeignError as error:
        _refuse_imports(path, imports)
        raise SharpError(f"{path}: {error.message}", error.hint) from error
    _refuse_imports(path, imports)
    return value


def _refuse_imports(path: Path, imports: dict[str, None]) -> None:
    """Raise where the pickle asks for what is not plain data, saying what it is."""
    foreign = [name for name in imports if not _is_harmless(name)]
    if any(name.startswith("torch.nn.modules.") for name in foreign):
        own = [name for name in foreign if not name.startswith("torch.")] or foreign
        raise SharpError(
            f"{path}: refused: holds a whole pickled module ({listed(own, 2)}), which only "
            "loads by running its code",
            SAVE_WEIGHTS,
        )
    if foreign:
        raise SharpError(
            f"{path}: refused: its pickle would run code on loading: it asks for "
            f"{listed(foreign, 3)}",
            CONVERT,
        )


def _is_harmless(name: str) -> bool:
    """Whether a file of plain tensors may name this; it is not imported either way."""
    return (
        name in _HARMLESS
        or name.removeprefix("builtins.") in _BUILTINS
        or (name.startswith("torch.") and name.count(".") == 1)
        or name.startswith(
            ("torch._utils.", "torch._tensor.", "torch.storage.", "torch.nn.parameter.")
        )
        or (name.startswith("torch.cuda.") and name.endswith("Storage"))
    )
