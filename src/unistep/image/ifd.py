"""Directories of TIFF, which EXIF shares: found in place, and written anew.

`Tiff` finds every entry with its place in the bytes, so that EXIF can be edited without moving anything:
notes of camera makers hold offsets that break when they are moved. `serialise` writes a fresh tree of
directories. Source: TIFF 6.0, section 2; BigTIFF; EXIF 3.0, section 4.6.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Container, Mapping
from dataclasses import dataclass

from unistep.image.makernotes import MAKER_NOTE, can_move

SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
SIZES |= {16: 8, 17: 8, 18: 8, 129: 1}  # of BigTIFF; UTF-8 of EXIF 3
NUMBERS = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i", 13: "I", 16: "Q", 17: "q", 18: "Q"}
EXIF_IFD, GPS_IFD, INTEROP_IFD = 0x8769, 0x8825, 0xA005
BELOW = (EXIF_IFD, GPS_IFD, INTEROP_IFD)
NOT_MOVED = (13, 16, 17, 18)  # types of offsets, and those that only BigTIFF has
MOST_FIELDS, MOST_NUMBERS, MOST_BYTES = 4096, 1 << 21, 1 << 20  # of a directory, of a field, of a tree


@dataclass(frozen=True)
class Entry:
    """One field: where its record lies, where its data lies, and what they say."""

    tag: int
    type: int
    count: int
    at: int
    data_at: int
    size: int


@dataclass(frozen=True)
class Directory:
    """The fields of one directory by tag, and where the offset of the next directory lies.

    unread: where records lie that cannot be read: of no known type, with data outside the file, or with a tag
    that came before.
    """

    at: int
    entries: dict[int, Entry]
    count: int
    next_at: int
    next: int
    unread: tuple[int, ...] = ()

    @property
    def spans(self) -> list[tuple[int, int]]:
        """Start and end of the table (of a classic TIFF), and of what its fields hold outside it."""
        fields = [(e.data_at, e.data_at + e.size) for e in self.entries.values() if e.size > 4]
        return [(self.at, self.next_at + 4), *fields]


Field = tuple[int, int, bytes]  # type, count, data in the byte order of the tree
Tree = Mapping[int, "Field | Tree"]  # by tag; a tree is a directory of its own


class Tiff:
    """A view on the bytes of a TIFF file or of an EXIF block. Raises ValueError when they are not one."""

    def __init__(self, data: bytes | bytearray | memoryview) -> None:
        self.data = data
        order = {b"II": "<", b"MM": ">"}.get(bytes(data[:2]))
        if order is None or len(data) < 8:
            raise ValueError("no TIFF header")
        self.order = order
        version = struct.unpack_from(order + "H", data, 2)[0]
        if version not in (42, 43):
            raise ValueError("no TIFF header")
        self.big = version == 43
        self.record = 20 if self.big else 12
        self.first = self.unpack("Q", 8) if self.big else self.unpack("I", 4)

    def unpack(self, code: str, at: int) -> int:
        try:
            value: int = struct.unpack_from(self.order + code, self.data, at)[0]
        except struct.error as error:
            raise ValueError("a directory is cut off") from error
        return value

    def directory(self, at: int, *, whole: bool = True) -> Directory:
        """The directory at an offset. Fields that do not fit in the data are left out; so are records beyond
        the end of the data where it need not be whole.
        """
        big, entries, unread = self.big, dict[int, Entry](), []
        told = self.unpack("Q" if big else "H", at) if at >= 8 else MOST_FIELDS + 1
        start = at + (8 if big else 2)
        count = min(told, (len(self.data) - start) // self.record)
        if told > MOST_FIELDS or (count < told and (whole or not count)):
            raise ValueError("a directory is cut off")
        for record in range(start, start + count * self.record, self.record):
            tag, kind = self.unpack("H", record), self.unpack("H", record + 2)
            number = self.unpack("Q" if big else "I", record + 4)
            size = SIZES.get(kind, 0) * number
            data_at = record + (12 if big else 8)
            if size > (8 if big else 4):
                data_at = self.unpack("Q" if big else "I", data_at)
            if kind not in SIZES or data_at + size > len(self.data) or tag in entries:
                unread.append(record)
            elif size:
                entries[tag] = Entry(tag, kind, number, record, data_at, size)
        next_at = start + count * self.record
        whole = count == told and next_at + (8 if big else 4) <= len(self.data)
        follows = self.unpack("Q" if big else "I", next_at) if whole else 0
        return Directory(at, entries, count, next_at, follows, tuple(unread))

    def below(self, directory: Directory, tag: int) -> Directory | None:
        """The directory that a field points to, as far as it can be read; None where there is nothing to
        read.
        """
        try:
            return self.directory(self.number(directory.entries.get(tag)), whole=False)
        except ValueError:
            return None

    def raw(self, entry: Entry | None) -> bytes:
        """The data of a field as it lies there; empty for no field."""
        return bytes(self.data[entry.data_at : entry.data_at + entry.size]) if entry else b""

    def numbers(self, entry: Entry | None) -> tuple[int, ...]:
        """The values of a field of whole numbers; empty for another type or no field."""
        code = NUMBERS.get(entry.type) if entry else None
        if entry is None or code is None or entry.count > MOST_NUMBERS:
            return ()
        return struct.unpack_from(f"{self.order}{entry.count}{code}", self.data, entry.data_at)

    def number(self, entry: Entry | None, default: int = 0) -> int:
        return next(iter(self.numbers(entry)), default)

    def ratio(self, entry: Entry | None) -> float:
        """The first value of a field of fractions; NaN for another type, no field or a division by zero."""
        if entry is None or entry.type != 5:
            return math.nan
        above, below = struct.unpack_from(self.order + "II", self.data, entry.data_at)
        return above / below if below else math.nan

    def tree(
        self,
        directory: Directory,
        tags: Container[int] = range(1 << 16),
        below: Container[int] = range(1 << 16),
        depth: int = 3,
    ) -> dict[int, Field | Tree]:
        """The fields of a directory with these tags, and the EXIF, GPS and Interop directories under it with
        those; without what does not stay true at another place, and what is larger than 1 MiB.
        """
        made: dict[int, Field | Tree] = {}
        room = MOST_BYTES
        for tag, entry in directory.entries.items():
            if tag not in tags:
                continue
            if tag in BELOW:
                inner = self.below(directory, tag) if depth else None
                fields = self.tree(inner, below, below, depth - 1) if inner else {}
                if fields:
                    made[tag] = fields
            elif entry.type not in NOT_MOVED and entry.size <= room:
                data = self.raw(entry)
                if tag != MAKER_NOTE or can_move(data):
                    made[tag] = (entry.type, entry.count, data)
                    room -= entry.size
        return made


def serialise(order: str, base: int, tree: Tree) -> bytes:
    """Write a directory, its data and the directories under it; offsets count from a file in which it lies at
    `base`.

    order: "<" or ">", the byte order of the header and of all data in the tree.
    """
    head = 2 + 12 * len(tree) + 4
    records, body = bytearray(struct.pack(order + "H", len(tree))), bytearray()
    for tag in sorted(tree):
        value = tree[tag]
        body += bytes(len(body) % 2)
        at = base + head + len(body)
        if isinstance(value, Mapping):
            records += struct.pack(order + "HHII", tag, 4, 1, at)
            body += serialise(order, at, value)
            continue
        kind, count, data = value
        records += struct.pack(order + "HHI", tag, kind, count)
        if len(data) <= 4:
            records += data.ljust(4, b"\0")
        else:
            records += struct.pack(order + "I", at)
            body += data
    return bytes(records + struct.pack(order + "I", 0) + body)
