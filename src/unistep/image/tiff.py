"""TIFF files, read: which page is the picture, and its samples as grey, RGB, palette or CMYK codes.

The directories are read here and the samples by tifffile, except what libtiff alone undoes (subsampled YCbCr,
old JPEG, fax). Camera raw files are TIFFs too, whose first page is often a thumbnail: they are refused.
Source: TIFF 6.0 and its technical notes; BigTIFF; DNG 1.7.
"""

from __future__ import annotations

import logging
import struct
from io import BytesIO

import imagecodecs
import numpy as np
import tifffile

from unistep.image.ifd import Directory, Tiff
from unistep.image.jpeg import Segments
from unistep.image.lab import lab_to_srgb
from unistep.image.metadata import ORIENTATION, SUB_IFDS, exif_from_tiff, lost_by_moving
from unistep.image.stored import (
    CMYK,
    GREY,
    PALETTE,
    RGB,
    Codes,
    Header,
    Stored,
    Undecodable,
    make_header,
    resolution,
    unmultiply,
    widened,
)

KIND, OLD_KIND, WIDTH, HEIGHT, BITS, COMPRESSION, INTERPRETATION = 254, 255, 256, 257, 258, 259, 262
STRIPS, SAMPLES, ROWS, STRIP_BYTES, PLANES, COLOURMAP = 273, 277, 278, 279, 284, 320
TILE_WIDTH, TILE_HEIGHT, TILES, TILE_BYTES, INKS, EXTRA, SAMPLE_FORMAT = 322, 323, 324, 325, 332, 338, 339
XMP, DNG_VERSION, ICC = 700, 50706, 34675
REDUCED, MASK = 1, 4

CHANNELS = {0: 1, 1: 1, 2: 3, 3: 1, 4: 1, 5: 4, 6: 3, 8: 3, 9: 3}  # by interpretation
INVERTED, YCBCR, CIELAB, ICCLAB = 0, 6, 8, 9
SENSOR = (32803, 34892)  # colour filter array, linear raw
ASSOCIATED, STRAIGHT = 1, 2
FAX, OLD_JPEG, JPEG = (2, 3, 4), 6, 7
RAW_COMPRESSIONS = (32767, 34713, 65000, 65535)  # Sony, Nikon, Kodak, Pentax
COMPRESSIONS = {1, *FAX, 5, OLD_JPEG, JPEG, 8, 32773, 32946, 33003, 33005, 34712, 34925, 34927, 34933, 34934}
COMPRESSIONS |= {22610, 50000, 50001, 50002, 52546}  # JPEG XR, Zstandard, WebP, JPEG XL
MAX_PAGES = 4096
RAW = "it is a camera raw file, which is not read: develop it first, into a TIFF or a JPEG"

logging.getLogger("tifffile").addHandler(logging.NullHandler())  # what it remarks on is no one's concern here


class Page:
    """The directory of the picture, and what it says. Raises ValueError, or Undecodable for raw files."""

    def __init__(self, data: bytes) -> None:
        self.tiff = tiff = Tiff(memoryview(data))
        self.notes: list[str] = []
        if data[8:10] == b"CR" or data[8:12] == b"IIII":  # Canon, Phase One
            raise Undecodable(RAW)
        pages = _chain(tiff)
        below = [page for parent in pages[:16] for page in _sub_pages(tiff, parent)]
        if any(_is_raw(tiff, page) for page in [*pages, *below]):
            raise Undecodable(RAW)
        whole = [page for page in pages if not _is_reduced(tiff, page)]
        if not whole:
            whole = [page for page in below if not _is_reduced(tiff, page)][:1]
        if not whole:
            self.notes.append("its only page says that it is a smaller copy of another picture")
        elif len(whole) > 1:
            self.notes.append("several pages: only the first is read")
        self.directory = (whole or pages)[0]
        self.entries = self.directory.entries

    def number(self, tag: int, default: int = 0) -> int:
        return self.tiff.number(self.entries.get(tag), default)

    def numbers(self, tag: int) -> tuple[int, ...]:
        return self.tiff.numbers(self.entries.get(tag))

    def header(self) -> Header:
        turn, lab = self.number(ORIENTATION, 1), self.number(INTERPRETATION, 1) in (CIELAB, ICCLAB)
        if lab:
            self.notes.append("its colours are converted from Lab to sRGB")
        self.notes += lost_by_moving(self.tiff, self.directory)
        return make_header(
            "TIFF",
            (self.number(WIDTH), self.number(HEIGHT)),
            turn if 1 <= turn <= 8 else 1,
            notes=self.notes,
            icc=None if lab else self.tiff.raw(self.entries.get(ICC)),
            exif=exif_from_tiff(self.tiff, self.directory),
            xmp=self.tiff.raw(self.entries.get(XMP)),
            dpi=resolution(self.tiff.data, self.directory.at),
        )


def codes(data: bytes, page: Page, header: Header) -> Stored:
    """The picture's codes. Raises Undecodable for samples of a kind that is not read, or cut off."""
    samples, interpretation = page.number(SAMPLES, 1), page.number(INTERPRETATION, 1)
    bits = set(page.numbers(BITS)[:samples]) or {1}
    kinds = set(page.numbers(SAMPLE_FORMAT)[:samples]) or {1}
    width, height = page.number(WIDTH), page.number(HEIGHT)
    channels, compression = CHANNELS.get(interpretation), page.number(COMPRESSION, 1)
    if not kinds <= {1, 4} or len(bits) > 1 or max(bits) not in (*range(1, 17), 32):
        raise Undecodable(
            "its samples are not whole numbers of 1 to 16 or 32 bits, all alike, a kind that is not read: "
            "convert it to 16-bit"
        )
    if channels is None or (interpretation == 5 and page.number(INKS, 1) != 1):
        raise Undecodable(
            "its pixels are neither grey, RGB, palette, YCbCr, Lab nor CMYK: a kind that is not read"
        )
    if compression not in COMPRESSIONS:
        raise Undecodable(f"its compression ({compression}) is of a kind that is not read")
    if not channels <= samples <= channels + 16:
        raise Undecodable(f"it has {samples} samples a pixel, a kind of TIFF that is not read")
    _check_strips(data, page)
    alone = interpretation == YCBCR and compression != JPEG  # only libtiff makes RGB of it
    if alone or compression in (*FAX, OLD_JPEG):
        return _by_libtiff(data, page, header)
    found = _samples(data, page).reshape(height, width, samples)
    kind = page.number(EXTRA, STRAIGHT if (interpretation, samples) == (2, 4) else 0)
    colour, alpha = found[..., :channels], None
    if samples > channels and kind in (ASSOCIATED, STRAIGHT):
        alpha = widened(found[..., channels], max(bits))
    family = {1: GREY, 3: RGB, 4: CMYK}[channels]
    if interpretation == 3:
        colour, family = _coloured(colour[..., 0], page, max(bits)), PALETTE
        alpha = None if alpha is None else _as(alpha, colour.dtype)
    elif interpretation in (CIELAB, ICCLAB):
        colour = lab_to_srgb(colour, signed=interpretation == CIELAB)
    else:
        colour = widened(colour, max(bits))
    if interpretation == INVERTED:
        colour = np.iinfo(colour.dtype).max - colour
    if alpha is not None and kind == ASSOCIATED:
        colour = unmultiply(colour, alpha)
    return Stored(header, family, colour, alpha)


def _samples(data: bytes, page: Page) -> Codes:
    """The samples as tifffile finds them in a file that begins with the page, last axis samples."""
    with tifffile.TiffFile(BytesIO(_starting_with(data, page))) as file:
        found = file.pages.first
        samples: Codes = np.asarray(found.asarray(maxworkers=1))
        samples = samples.astype(np.uint8) if samples.dtype == bool else samples
        if found.axes.startswith("S"):
            samples = np.moveaxis(samples, 0, -1)
    return samples


def _by_libtiff(data: bytes, page: Page, header: Header) -> Stored:
    """8-bit codes as libtiff shows the page."""
    made = imagecodecs.tiff_decode(_starting_with(data, page), asrgb=True)
    if page.number(INTERPRETATION, 1) in (0, 1):
        return Stored(header, GREY, made[..., :1])
    return Stored(header, RGB, made[..., :3])


def _starting_with(data: bytes, page: Page) -> bytes:
    """The file with the page as its first and only one, lying as it is stored (libtiff would turn it)."""
    tiff, patched = page.tiff, bytearray(data)
    wide = "Q" if tiff.big else "I"
    struct.pack_into(tiff.order + wide, patched, 8 if tiff.big else 4, page.directory.at)
    if page.directory.next:
        struct.pack_into(tiff.order + wide, patched, page.directory.next_at, 0)
    if (turn := page.entries.get(ORIENTATION)) is not None:
        number = struct.pack(tiff.order + "H", 1).ljust(8 if tiff.big else 4, b"\0")
        at = turn.at
        struct.pack_into(tiff.order + "HH", patched, at, ORIENTATION, 3)
        struct.pack_into(tiff.order + wide, patched, at + 4, 1)
        patched[at + (12 if tiff.big else 8) : at + tiff.record] = number
    return bytes(patched)


def _coloured(indices: Codes, page: Page, bits: int) -> Codes:
    """8-bit colours of indices. Some writers fill the 16-bit map with 8-bit values."""
    values = page.numbers(COLOURMAP)
    if len(values) != 3 << bits:
        raise Undecodable("its table of colours is damaged or cut off")
    table = np.array(values, np.uint32).reshape(3, -1).T
    if table.max() > 255:
        table >>= 8
    made: Codes = table.astype(np.uint8)[indices]
    return made


def _as(codes: Codes, kind: np.dtype) -> Codes:
    return codes if codes.dtype == kind else (codes >> 8).astype(kind)


def _check_strips(data: bytes, page: Page) -> None:
    """What lies outside the file is missing; and no JPEG in it may be larger than its place."""
    starts = page.numbers(STRIPS) or page.numbers(TILES)
    sizes = page.numbers(STRIP_BYTES) or page.numbers(TILE_BYTES)
    if page.number(COMPRESSION, 1) == OLD_JPEG:
        return  # its pointers lead elsewhere
    if not {STRIPS, TILES} & page.entries.keys() or (sizes and len(starts) != len(sizes)):
        raise Undecodable("its data is damaged or cut off (the table of its strips)")
    most = len(data)
    if page.number(COMPRESSION, 1) == 1 and page.number(PLANES, 1) == 1:  # some writers count too much
        rows = min(page.number(ROWS) or page.number(TILE_HEIGHT), page.number(HEIGHT))
        row = (page.number(TILE_WIDTH) or page.number(WIDTH)) * page.number(SAMPLES, 1) * page.number(BITS, 1)
        most = rows * -(-row // 8) or most
    ends = [start + min(size, most) for start, size in zip(starts, sizes, strict=False)]
    if len(sizes) == len(starts) and max(ends, default=0) > len(data):
        raise Undecodable("its data is damaged or cut off (strips are missing)")
    if page.number(COMPRESSION, 1) == JPEG:
        room = (
            max(page.number(WIDTH), page.number(TILE_WIDTH)),
            max(page.number(HEIGHT), page.number(TILE_HEIGHT)),
        )
        for start, size in zip(starts, sizes, strict=False):
            width, height = Segments(data[start : start + size]).size
            if width > room[0] + 64 or height > room[1] + 64:
                raise Undecodable("its data has another size than its header says")


def _chain(tiff: Tiff) -> list[Directory]:
    pages: list[Directory] = []
    at, seen = tiff.first, set[int]()
    while at and at not in seen and len(pages) < MAX_PAGES:
        seen.add(at)
        try:
            pages.append(tiff.directory(at))
        except ValueError:
            if not pages:
                raise
            break  # what a later page has is not needed
        at = pages[-1].next
    if not pages:
        raise ValueError("no directory")
    return pages


def _sub_pages(tiff: Tiff, page: Directory) -> list[Directory]:
    found = []
    for at in tiff.numbers(page.entries.get(SUB_IFDS))[:16]:
        try:
            found.append(tiff.directory(at))
        except ValueError:
            continue
    return found


def _is_reduced(tiff: Tiff, page: Directory) -> bool:
    kind, old = (tiff.number(page.entries.get(tag)) for tag in (KIND, OLD_KIND))
    return bool(kind & (REDUCED | MASK)) or old == 2 or WIDTH not in page.entries


def _is_raw(tiff: Tiff, page: Directory) -> bool:
    return (
        DNG_VERSION in page.entries
        or tiff.number(page.entries.get(INTERPRETATION)) in SENSOR
        or tiff.number(page.entries.get(COMPRESSION)) in RAW_COMPRESSIONS
    )
