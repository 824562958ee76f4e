"""AVIF's properties of the picture that Pillow does not tell: colour code points and the clean aperture.

Source: ISO/IEC 14496-12 (boxes), 23008-12 (items and properties), MIAF (clean aperture in whole pixels).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import suppress

from unistep.image.cicp import Cicp

Box = tuple[bytes, int, int]  # name, start and end of its content
Area = tuple[int, int, int, int]  # left, top, right, bottom
MATRIX_OF_RGB = 2  # unspecified


class Properties:
    """`cicp` and `area` of the primary item; None where the file does not tell."""

    def __init__(self, data: bytes) -> None:
        self.cicp: Cicp | None = None
        self.area: Area | None = None
        # a file without these boxes tells nothing; a decoder says what else is wrong with it
        with suppress(struct.error, IndexError, ZeroDivisionError, StopIteration, KeyError):
            self._read(data)

    def _read(self, data: bytes) -> None:
        meta = {name: (start, end) for name, start, end in _inside(data, *_named(data, b"meta"), skip=4)}
        at = meta[b"pitm"][0]
        item = struct.unpack_from(">H" if data[at] == 0 else ">I", data, at + 4)[0]
        parts = list(_boxes(data, *meta[b"iprp"]))
        properties = [
            box for name, start, end in parts if name == b"ipco" for box in _boxes(data, start, end)
        ]
        own = [properties[i - 1] for i in _indices(data, parts, item) if 1 <= i <= len(properties)]
        size, clap = None, None
        for name, start, _ in own:
            if name == b"colr" and data[start : start + 4] == b"nclx" and self.cicp is None:
                self.cicp = struct.unpack_from(">HH", data, start + 4)
            elif name == b"ispe":
                size = struct.unpack_from(">II", data, start + 4)
            elif name == b"clap":
                clap = struct.unpack_from(">IIIIiIiI", data, start)
        if size and clap:
            self.area = _area(size, clap)


def _area(size: tuple[int, int], clap: tuple[int, ...]) -> Area | None:
    """The aperture; None where it is not of whole pixels within the picture: readers ignore it then."""
    spans = []
    for side, (extent, per, offset, parts) in zip(
        size, (clap[:2] + clap[4:6], clap[2:4] + clap[6:8]), strict=True
    ):
        length, rest = divmod(extent, per)
        # the middle of the aperture lies `offset` beside the middle of the picture
        doubled = (side - length) * parts + 2 * offset
        start, half = divmod(doubled, 2 * parts)
        if rest or half or length < 1 or start < 0 or start + length > side:
            return None
        spans.append((start, start + length))
    (left, right), (top, bottom) = spans
    return left, top, right, bottom


def _boxes(data: bytes, start: int, end: int) -> Iterator[Box]:
    while start + 8 <= end:
        size, name = struct.unpack_from(">I4s", data, start)
        head = 8
        if size == 1:
            size, head = struct.unpack_from(">Q", data, start + 8)[0], 16
        stop = end if size == 0 else start + size
        if stop > end or stop < start + head:
            return
        yield name, start + head, stop
        start = stop


def _inside(data: bytes, start: int, end: int, skip: int) -> Iterator[Box]:
    return _boxes(data, start + skip, end)


def _named(data: bytes, name: bytes) -> tuple[int, int]:
    return next((start, end) for found, start, end in _boxes(data, 0, len(data)) if found == name)


def _indices(data: bytes, parts: list[Box], item: int) -> list[int]:
    """The numbers, from 1, of an item's properties."""
    found = []
    for name, start, _ in parts:
        if name != b"ipma":
            continue
        version, wide = data[start], data[start + 3] & 1
        count, at = struct.unpack_from(">I", data, start + 4)[0], start + 8
        for _ in range(count):
            number = struct.unpack_from(">H" if version == 0 else ">I", data, at)[0]
            at += 2 if version == 0 else 4
            entries, at = data[at], at + 1
            for _ in range(entries):
                if number == item:
                    value = struct.unpack_from(">H", data, at)[0] & 0x7FFF if wide else data[at] & 0x7F
                    found.append(value)
                at += 2 if wide else 1
    return found
