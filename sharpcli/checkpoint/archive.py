"""Read the directory of a zip archive, as far as files of `torch.save` need it.

torch stores every member without compression, so each member is a range of the file's bytes and
nothing is unpacked. `zipfile` is not used: it trusts the sizes in the directory, and takes twenty
times the directory's size in memory.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from sharpcli.checkpoint.contents import allowance, quoted

__all__ = ["ArchiveError", "Member", "data_offset", "read_directory"]

# record layouts, from APPNOTE.TXT of the zip format
_END = struct.Struct("<4sHHHHIIH")
_LOCATOR64 = struct.Struct("<4sIQI")
_END64 = struct.Struct("<4sQHHIIQQQQ")
_ENTRY = struct.Struct("<4sHHHHHHIIIHHHHHII")
_LOCAL = struct.Struct("<4sHHHHHIIIHH")

_LONGEST_COMMENT = 65535  # bytes; its length has two bytes
_IN_EXTRA = 0xFFFFFFFF  # the size or offset is in the zip64 extra field instead
_ENTRY_MEMORY = 400  # bytes of Python objects for one member, measured


class ArchiveError(ValueError):
    """Why an archive is refused, as text for a message; `hint` is empty for a damaged archive."""

    def __init__(self, reason: str, hint: str = "") -> None:
        super().__init__(reason)
        self.hint = hint


class Member(NamedTuple):
    """One member: the offset of its local header, its size in bytes and its CRC-32."""

    name: str
    header: int
    size: int
    crc: int


def read_directory(file: BinaryIO, size: int) -> dict[str, Member]:
    """Return the members by name of an archive of `size` bytes.

    They are stored without compression, and fit in the file together.

    Raises:
        ArchiveError: the directory is damaged, or a member is encrypted or compressed.
    """
    begin, length, count = _end_of_directory(file, size)
    if count * _ENTRY_MEMORY > allowance(size):
        raise ArchiveError(f"it has {count} members in {size} bytes")
    file.seek(begin)
    entries = file.read(length)
    members: dict[str, Member] = {}
    lowered: set[str] = set()
    position = unpacked = 0
    for _ in range(count):
        member, position = _member(entries, position)
        # torch's reader ignores case in names, so it could take either of the two
        if member.name.lower() in lowered:
            raise ArchiveError(f"it has two members with the name {quoted(member.name)}")
        lowered.add(member.name.lower())
        members[member.name] = member
        unpacked += member.size
        if unpacked > size:
            raise ArchiveError(f"its members claim more than its {size} bytes")
    return members


def data_offset(file: BinaryIO, member: Member, size: int) -> int:
    """The offset of the data of `member`; raises `ArchiveError` if they do not fit in the file."""
    header = _record(file, _LOCAL, member.header, b"PK\x03\x04", size)
    begin = member.header + _LOCAL.size + header[-2] + header[-1]
    if begin + member.size > size:
        raise ArchiveError(f"its member {quoted(member.name)} reaches past the end of the file")
    return begin


def _end_of_directory(file: BinaryIO, size: int) -> tuple[int, int, int]:
    """Offset and length of the directory in bytes, and its number of members."""
    tail_begin = max(0, size - _END.size - _LONGEST_COMMENT)
    file.seek(tail_begin)
    tail = file.read(size - tail_begin)
    found = tail.rfind(b"PK\x05\x06")
    if found < 0 or len(tail) - found < _END.size:
        raise ArchiveError("it has no directory at its end")
    end = _END.unpack_from(tail, found)
    count, length, begin = end[4:7]
    if count == 0xFFFF or _IN_EXTRA in (length, begin):
        locator = tail_begin + found - _LOCATOR64.size
        end64_begin = _record(file, _LOCATOR64, locator, b"PK\x06\x07", size)[2]
        count, length, begin = _record(file, _END64, end64_begin, b"PK\x06\x06", size)[7:10]
    if begin + length > size or count * _ENTRY.size > length:
        raise ArchiveError("its directory lies outside the file")
    return begin, length, count


def _record(
    file: BinaryIO, layout: struct.Struct, offset: int, signature: bytes, size: int
) -> tuple[int, ...]:
    if not 0 <= offset <= size - layout.size:
        raise ArchiveError("its directory points outside the file")
    file.seek(offset)
    fields = layout.unpack(file.read(layout.size))
    if fields[0] != signature:
        raise ArchiveError("its directory points to something that is not a record")
    return fields


def _member(entries: bytes, position: int) -> tuple[Member, int]:
    """The member whose entry begins at `position`, and where the next entry begins."""
    if len(entries) - position < _ENTRY.size:
        raise ArchiveError("its directory breaks off")
    fields = _ENTRY.unpack_from(entries, position)
    signature, _, _, flags, method, _, _, crc, packed, size, *rest = fields
    name_length, extra_length, comment_length, _, _, _, header = rest
    name_end = position + _ENTRY.size + name_length
    extra_end = name_end + extra_length
    if signature != b"PK\x01\x02" or extra_end + comment_length > len(entries):
        raise ArchiveError("its directory is damaged")
    raw = entries[position + _ENTRY.size : name_end]
    try:
        name = raw.decode("utf-8" if flags & 0x800 else "cp437")
    except UnicodeDecodeError as error:
        raise ArchiveError("the name of a member is not valid text") from error
    if _IN_EXTRA in (size, packed, header):
        large = _zip64_fields(entries[name_end:extra_end])
        size, packed, header = (
            next(large, _IN_EXTRA) if value == _IN_EXTRA else value
            for value in (size, packed, header)
        )
    if flags & 1:
        raise ArchiveError(
            f"its member {quoted(name)} is encrypted", "save it again without encryption"
        )
    if method or packed != size:
        raise ArchiveError(
            f"its member {quoted(name)} is compressed ({packed} bytes would unpack to {size}); "
            "torch.save never compresses",
            "save it again with torch.save, or as safetensors",
        )
    return Member(name, header, size, crc), extra_end + comment_length


def _zip64_fields(extra: bytes) -> Iterator[int]:
    """The 64-bit values of the zip64 extra field, in order."""
    position = 0
    while len(extra) - position >= 4:
        kind, length = struct.unpack_from("<HH", extra, position)
        if kind == 1:
            values = extra[position + 4 : position + 4 + length]
            return iter(struct.unpack(f"<{len(values) // 8}Q", values[: len(values) // 8 * 8]))
        position += 4 + length
    return iter(())
