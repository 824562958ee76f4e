"""EXIF, made true for a picture that has been turned upright and resized. (XMP: `xmp`.)

EXIF is edited in place, because the notes of camera makers point into it. Without the place it is written
anew, of fields that the standard knows, so that nothing stays that was not read. Whatever cannot be read is
dropped, for it cannot be made true.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterable
from fractions import Fraction
from itertools import pairwise

from unistep.image.ifd import EXIF_IFD, GPS_IFD, INTEROP_IFD, Directory, Entry, Field, Tiff, Tree, serialise
from unistep.image.makernotes import MAKER_NOTE, can_move
from unistep.image.resized import Change, change, ratio

ORIENTATION, SUB_IFDS = 0x0112, 0x014A
THUMBNAIL_AT, THUMBNAIL_SIZE = 0x0201, 0x0202
WIDTHS, HEIGHTS = (0x0100, 0xA002, 0x1001), (0x0101, 0xA003, 0x1002)
RESOLUTIONS, FOCAL_PLANE = (0x011A, 0x011B), (0xA20E, 0xA20F)  # across and down
SUBJECTS = (0x9214, 0xA214)  # area, location
# Pictures below; blocks (XMP, Photoshop) that files have other places for, and that are not made true here.
STALE = {SUB_IFDS, 0x02BC, 0x8649}

# What a TIFF file's main directory and an EXIF block have in common: facts about the picture, none about its
# storage.
DESCRIPTIVE = frozenset(
    {0x010D, 0x010E, 0x010F, 0x0110, 0x011A, 0x011B, 0x0128, 0x0131, 0x0132, 0x013B, 0x013C, 0x4746, 0x4749}
    | {0x8298, EXIF_IFD, GPS_IFD, 0x9C9B, 0x9C9C, 0x9C9D, 0x9C9E, 0x9C9F}
)
# The fields that EXIF 3.0 knows, but for the place and the notes of makers, some of which hold it.
PLACELESS = DESCRIPTIVE - {GPS_IFD} | {ORIENTATION, *WIDTHS, *HEIGHTS} | {0x0102, 0x0103, 0x0106, 0x0115}
PLACELESS |= {0x011C, 0x012D, 0x013E, 0x013F, 0x0211, 0x0212, 0x0213, 0x0214}
BELOW_PLACELESS = frozenset(
    {1, 2, 0x1000, 0x1001, 0x1002, INTEROP_IFD, 0x829A, 0x829D, 0xA500}
    | {*range(0x8822, 0x8836), *range(0x9000, 0x9013), *range(0x9101, 0x9406), *range(0xA000, 0xA470)}
) - {GPS_IFD, MAKER_NOTE}

DAMAGED = "its EXIF is damaged and is dropped"
PARTS = "parts of its EXIF cannot be read and are dropped"
OLD_PIXELS = "numbers of its EXIF that count its old pixels cannot be made true and are dropped"
UNKNOWN = "fields of its EXIF that no standard knows could hold the place and are dropped"
MOVED_NOTES = "the notes of the camera's maker in its EXIF are not true in a TIFF and are dropped"
PLACED_NOTES = "the notes of the camera's maker in its EXIF can hold the place and are dropped"

Span = tuple[int, int]


def orientation(exif: bytes | None) -> int:
    """EXIF orientation 1..8 of an EXIF block (TIFF header first); 1 when it has none or is damaged."""
    try:
        tiff = Tiff(exif or b"")
        return _turn(tiff, tiff.directory(tiff.first, whole=False))
    except ValueError:
        return 1


def rewrite_exif(
    exif: bytes, width: int, height: int, *, gps: bool = True, moved: bool = False
) -> tuple[bytes | None, list[str]]:
    """Make an EXIF block true: orientation, sizes and numbers of pixels where it has them; without thumbnail;
    and without the place if not wanted, nor anything that could hold it unseen (the notes of the camera's
    maker, fields that the standard does not know).

    exif: the block from its TIFF header on. moved: whether its fields go to a TIFF file (`tiff_from_exif`).
    Returns the new block, or None when nothing in it can be kept, and notes of what is lost, one sentence
    each. The notes of the camera's maker are kept as they are; what they hold is known to the maker alone.
    """
    try:
        block = _Block(bytearray(exif))
        block.make_true(width, height)
        if moved and gps:
            block.notes.update(dict.fromkeys(lost_by_moving(block.tiff, block.main)))
        made = bytes(block.data) if gps else block.placeless()
    except (ValueError, struct.error):
        return None, [DAMAGED]
    return made, [*block.notes]


def without_orientation(exif: bytes) -> bytes:
    """The block without its orientation field, for formats that keep the orientation elsewhere."""
    data = bytearray(exif)
    with contextlib.suppress(ValueError):
        tiff = Tiff(data)
        main = tiff.directory(tiff.first)
        if ORIENTATION in main.entries:
            _remove(tiff, data, main, {main.entries[ORIENTATION].at})
    return bytes(data)


def exif_from_tiff(tiff: Tiff, directory: Directory) -> bytes | None:
    """An EXIF block of what a directory of a TIFF file says about the picture, its orientation included."""
    tree = tiff.tree(directory, DESCRIPTIVE)
    turn = _turn(tiff, directory)
    if turn != 1:
        tree[ORIENTATION] = 3, 1, struct.pack(tiff.order + "H", turn)
    return _block(tiff.order, tree)


def tiff_from_exif(exif: bytes | None) -> tuple[str, dict[int, Field | Tree]]:
    """The byte order of an EXIF block, and its fields for the main directory of a TIFF file."""
    try:
        tiff = Tiff(exif or b"")
        return tiff.order, tiff.tree(tiff.directory(tiff.first, whole=False), DESCRIPTIVE)
    except ValueError:
        return "<", {}


def lost_by_moving(tiff: Tiff, directory: Directory) -> list[str]:
    """What of a directory cannot go from EXIF to TIFF or back, one sentence each."""
    below = tiff.below(directory, EXIF_IFD)
    entry = below.entries.get(MAKER_NOTE) if below else None
    return [MOVED_NOTES] if entry and not can_move(tiff.raw(entry)) else []


class _Block:
    """An EXIF block that is edited in place. Raises ValueError when there is nothing in it to read."""

    def __init__(self, data: bytearray) -> None:
        self.data, self.notes = data, dict[str, None]()
        self.tiff = Tiff(data)
        if self.tiff.big:
            raise ValueError("not an EXIF block")
        self._find()
        self._mend()

    def _find(self) -> None:
        """Find the directories, as far as they lie apart, each by the field that points to it."""
        self.main = self.tiff.directory(self.tiff.first, whole=False)
        self.found: dict[int, Directory] = {0: self.main}
        self.lost: dict[int, set[int]] = {0: set(), EXIF_IFD: set()}  # fields that point to nothing
        for parent, tag in ((0, EXIF_IFD), (0, GPS_IFD), (EXIF_IFD, INTEROP_IFD)):
            above = self.found.get(parent)
            if above and tag in above.entries:
                below = self.tiff.below(above, tag)
                if below and all(_apart(below.spans[0], other.spans[0]) for other in self.found.values()):
                    self.found[tag] = below
                else:
                    self.lost[parent].add(above.entries[tag].at)

    def _mend(self) -> None:
        """Take out what cannot be read."""
        for tag, directory in self.found.items():
            gone = {*directory.unread} | self.lost.get(tag, set())
            if gone or self.tiff.unpack("H", directory.at) != directory.count:
                self.notes[PARTS] = None
                self._remove(directory, gone)
        self._find()

    def make_true(self, width: int, height: int) -> None:
        """Remove the thumbnail, and set what depends on the size and the orientation."""
        self._remove_thumbnail()
        turn, made = _turn(self.tiff, self.main), self._change(width, height)
        numbers = {ORIENTATION: (3, 1)} | {tag: (4, width) for tag in WIDTHS}
        numbers |= {tag: (4, height) for tag in HEIGHTS}
        for directory in [*self.found.values()]:
            for tag in numbers.keys() & directory.entries.keys():
                kind, value = numbers[tag]
                number = struct.pack(self.tiff.order + ("H" if kind == 3 else "I"), value)
                self._write(directory.entries[tag], kind, 1, number)
            gone = {directory.entries[tag].at for tag in STALE & directory.entries.keys()}
            if turn >= 5:
                gone |= self._swap(
                    [directory.entries[tag] for tag in RESOLUTIONS if tag in directory.entries]
                )
            if not (made and made.nothing):
                untrue = self._scale(directory, turn, made) | self._move(directory, made)
                self.notes |= {OLD_PIXELS: None} if untrue else {}
                gone |= untrue
            if gone:
                self._remove(directory, gone)
        self._find()

    def placeless(self) -> bytes | None:
        """The block written anew, of fields that are known not to be the place."""
        reaching = _reaching(span for directory in self.found.values() for span in directory.spans)
        for directory in self.found.values():
            fields = directory.entries.values()
            gone = {e.at for e in fields if e.size > 4 and (e.data_at, e.data_at + e.size) in reaching}
            if gone:
                self.notes[PARTS] = None
                self._remove(directory, gone)
        if GPS_IFD in self.found:
            self._blank(self.found[GPS_IFD].spans)
        self._find()
        exif = self.found.get(EXIF_IFD)
        if exif and MAKER_NOTE in exif.entries:
            self.notes[PLACED_NOTES] = None
        known = {0: PLACELESS | {GPS_IFD}, EXIF_IFD: BELOW_PLACELESS | {GPS_IFD, MAKER_NOTE}}
        if any(self.found[tag].entries.keys() - known[tag] for tag in known.keys() & self.found.keys()):
            self.notes[UNKNOWN] = None
        return _block(self.tiff.order, self.tiff.tree(self.main, PLACELESS, BELOW_PLACELESS))

    def _change(self, width: int, height: int) -> Change | None:
        for tag, sides in ((EXIF_IFD, (0xA002, 0xA003)), (0, (0x0100, 0x0101))):
            entries = self.found[tag].entries if tag in self.found else {}
            old = self.tiff.number(entries.get(sides[0])), self.tiff.number(entries.get(sides[1]))
            if made := change(old, (width, height), _turn(self.tiff, self.main)):
                return made
        return None

    def _scale(self, directory: Directory, turn: int, made: Change | None) -> set[int]:
        """Make the densities of the sensor's pixels those of new ones; return the fields that cannot be."""
        entries = [directory.entries[tag] for tag in FOCAL_PLANE if tag in directory.entries]
        old = [self._ratio(entry) for entry in entries]
        if not made or None in old or (turn >= 5 and len(old) == 1):
            return {entry.at for entry in entries}
        gone = set()
        for entry, value in zip(entries, reversed(old) if turn >= 5 else old, strict=True):
            pair = ratio((value or 0) * (made.x if entry.tag == FOCAL_PLANE[0] else made.y))
            if pair:
                self._write(entry, 5, 1, struct.pack(self.tiff.order + "II", *pair))
            else:
                gone.add(entry.at)
        return gone

    def _move(self, directory: Directory, made: Change | None) -> set[int]:
        """Move the subject to where it is now; return the fields that cannot tell."""
        gone = set()
        for entry in (directory.entries[tag] for tag in SUBJECTS if tag in directory.entries):
            values = self.tiff.numbers(entry) if entry.count <= 4 else ()
            if made and len(values) >= 2:
                sizes = [values[2], values[-1]] if len(values) > 2 else []
                sizes = sizes[::-1] if made.turn >= 5 else sizes
                sides = [round(side * scale) for side, scale in zip(sizes, (made.x, made.y), strict=False)]
                moved = [*made.point(values[0], values[1]), *sides[: len(values) - 2]]
                if all(0 <= value <= 65535 for value in moved):
                    self._write(entry, 3, len(moved), struct.pack(f"{self.tiff.order}{len(moved)}H", *moved))
                    continue
            gone.add(entry.at)
        return gone

    def _swap(self, pair: list[Entry]) -> set[int]:
        """Exchange across and down, of a picture that lay on its side; return what has no partner."""
        if len(pair) != 2:
            return {entry.at for entry in pair}
        a, b = (slice(entry.at + 2, entry.at + 12) for entry in pair)
        self.data[a], self.data[b] = self.data[b], self.data[a]
        return set()

    def _ratio(self, entry: Entry) -> Fraction | None:
        if entry.type != 5:
            return None
        above, below = struct.unpack_from(self.tiff.order + "II", self.data, entry.data_at)
        return Fraction(above, below) if above and below else None

    def _write(self, entry: Entry, kind: int, count: int, value: bytes) -> None:
        """Give a field another value, which lies in its record or at the end of the block."""
        if len(value) > 4:
            self.data += bytes(len(self.data) % 2)
            at = struct.pack(self.tiff.order + "I", len(self.data))
            self.data += value
            value = at
        struct.pack_into(self.tiff.order + "HI4s", self.data, entry.at + 2, kind, count, value)

    def _remove(self, directory: Directory, records: set[int]) -> None:
        _remove(self.tiff, self.data, directory, records)

    def _remove_thumbnail(self) -> None:
        if not self.main.next:
            return
        struct.pack_into(self.tiff.order + "I", self.data, self.main.next_at, 0)
        with contextlib.suppress(ValueError):
            thumbnail = self.tiff.directory(self.main.next, whole=False)
            start = self.tiff.number(thumbnail.entries.get(THUMBNAIL_AT))
            size = self.tiff.number(thumbnail.entries.get(THUMBNAIL_SIZE))
            used = [(0, 8), *(span for directory in self.found.values() for span in directory.spans)]
            self._blank([*thumbnail.spans, (start, start + size)], used)
            end = max(start, *(end for _, end in used))
            if start > 0 and not any(
                self.data[end:]
            ):  # nearly always it comes last, and the block can end there
                del self.data[end:]
        self._find()

    def _blank(self, spans: list[Span], used: Iterable[Span] = ()) -> None:
        """Overwrite these bytes with zeros, but for those that are used."""
        before = bytes(self.data)
        for start, end in _merged(spans, len(before)):
            self.data[start:end] = bytes(end - start)
        for start, end in _merged(used, len(before)):
            self.data[start:end] = before[start:end]


def _turn(tiff: Tiff, directory: Directory) -> int:
    value = tiff.number(directory.entries.get(ORIENTATION), 1)
    return value if 1 <= value <= 8 else 1


def _block(order: str, tree: Tree) -> bytes | None:
    if not tree:
        return None
    header = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8)
    return header + serialise(order, 8, tree)


def _remove(tiff: Tiff, data: bytearray, directory: Directory, records: set[int]) -> None:
    """Take records out of a table: those behind them, and the offset of the next directory, move up."""
    places = range(directory.at + 2, directory.next_at, 12)
    kept = [bytes(data[at : at + 12]) for at in places if at not in records]
    table = struct.pack(tiff.order + "H", len(kept)) + b"".join(kept)
    end = directory.next_at + 4
    table += struct.pack(tiff.order + "I", directory.next)
    data[directory.at : end] = table.ljust(end - directory.at, b"\0")


def _apart(one: Span, other: Span) -> bool:
    return one[1] <= other[0] or other[1] <= one[0]


def _merged(spans: Iterable[Span], size: int) -> list[Span]:
    """The same bytes, each once, as far as there are any."""
    made: list[Span] = []
    for start, end in sorted((max(0, start), min(end, size)) for start, end in spans):
        if made and start <= made[-1][1]:
            made[-1] = made[-1][0], max(end, made[-1][1])
        elif start < end:
            made.append((start, end))
    return made


def _reaching(spans: Iterable[Span]) -> set[Span]:
    """Those that reach into another; the very same may be shared."""
    ordered = sorted(set(spans), key=lambda span: (span[0], -span[1]))
    return {one for one, following in pairwise(ordered) if following[0] < one[1]}
