"""TIFF where Pillow falls short: 16-bit colour, CMYK with alpha, and whole EXIF.

Written files have one page of strips of about 256 KiB, deflated with horizontal differencing.
Source: TIFF 6.0 and its technical notes.
"""

from __future__ import annotations

import struct
import zlib
from itertools import accumulate
from typing import Any

import imagecodecs
import numpy as np
import numpy.typing as npt

from unistep.image.ifd import Field, Tiff, Tree, serialise
from unistep.image.metadata import ORIENTATION, exif_from_tiff
from unistep.image.stored import CMYK, GREY, RGB, Header, Stored, Undecodable, make_header, unmultiply

WIDTH, HEIGHT, BITS, COMPRESSION, INTERPRETATION = 256, 257, 258, 259, 262
STRIPS, SAMPLES, ROWS, STRIP_BYTES, PLANES, PREDICTOR = 273, 277, 278, 279, 284, 317
X_RESOLUTION, Y_RESOLUTION, RESOLUTION_UNIT, COLOURMAP, EXTRA, SAMPLE_FORMAT = 282, 283, 296, 320, 338, 339
XMP, ICC = 700, 34675

CHANNELS = {0: 1, 1: 1, 2: 3, 5: 4}  # by interpretation: white is zero, black is zero, RGB, CMYK
PHOTOMETRIC = {"grey": 1, "rgb": 2, "palette": 3, "cmyk": 5}
MAX_BYTES = (1 << 32) - (1 << 24)  # offsets have 32 bits
DEFLATE, DIFFERENCES, STRAIGHT_ALPHA, INCH = 8, 2, 2, 2


def header(data: bytes) -> Header:
    """The header of a TIFF or BigTIFF file. Raises ValueError when it is damaged."""
    tiff = Tiff(memoryview(data))
    main = tiff.directory(tiff.first)
    entries = main.entries
    turn = tiff.number(entries.get(ORIENTATION), 1)
    x, y = (tiff.ratio(entries.get(tag)) for tag in (X_RESOLUTION, Y_RESOLUTION))
    unit = {2: 1.0, 3: 2.54}.get(tiff.number(entries.get(RESOLUTION_UNIT), 2))
    return make_header(
        "TIFF",
        (tiff.number(entries.get(WIDTH)), tiff.number(entries.get(HEIGHT))),
        turn if 1 <= turn <= 8 else 1,
        notes=["several pages: only the first is read"] if main.next else [],
        icc=tiff.raw(entries.get(ICC)),
        exif=exif_from_tiff(tiff),
        xmp=tiff.raw(entries.get(XMP)),
        dpi=(x * unit, y * unit) if unit else None,
    )


def codes(data: bytes, header: Header) -> Stored | None:
    """The codes of a file with 16 bits, or of CMYK with alpha; None for what Pillow reads well.

    Raises Undecodable for samples of another kind.
    """
    tiff = Tiff(memoryview(data))
    entries = tiff.directory(tiff.first).entries
    bits = set(tiff.numbers(entries.get(BITS))) or {1}
    kinds = set(tiff.numbers(entries.get(SAMPLE_FORMAT))) or {1}
    samples = tiff.number(entries.get(SAMPLES), 1)
    interpretation = tiff.number(entries.get(INTERPRETATION), 1)
    if not kinds <= {1, 4} or (max(bits) > 8 and bits != {16}):
        raise Undecodable("its samples are neither 8-bit nor 16-bit whole numbers; convert it to 16-bit")
    if bits != {16} and not (interpretation == 5 and samples > 4):
        return None
    channels = CHANNELS.get(interpretation)
    if channels is None or samples < channels:
        raise Undecodable("its 16-bit pixels are neither grey, RGB nor CMYK")
    width, height = tiff.number(entries.get(WIDTH)), tiff.number(entries.get(HEIGHT))
    if interpretation == 5:  # the decoder refuses CMYK, but takes RGB with more samples, stored alike
        patched = bytearray(data)
        struct.pack_into(tiff.order + "H", patched, entries[INTERPRETATION].data_at, 2)
        data = bytes(patched)
    found = imagecodecs.tiff_decode(data)
    if tiff.number(entries.get(PLANES), 1) == 2 and found.shape == (samples, height, width):
        found = np.moveaxis(found, 0, -1)
    found = found.reshape(height, width, samples)
    colour, alpha = found[..., :channels], None
    extra = tiff.number(entries.get(EXTRA))
    if samples > channels and extra in (1, STRAIGHT_ALPHA):
        alpha = found[..., channels]
        colour = unmultiply(colour, alpha) if extra == 1 else colour
    if interpretation == 0:
        colour = np.iinfo(colour.dtype).max - colour
    return Stored(header, {1: GREY, 3: RGB, 4: CMYK}[channels], colour, alpha)


def encode_tiff(
    codes: npt.NDArray[Any],
    family: str,
    *,
    palette: npt.NDArray[np.uint8] | None = None,
    order: str = "<",
    described: Tree | None = None,
    icc: bytes | None = None,
    xmp: bytes | None = None,
    dpi: tuple[float, float] | None = None,
) -> bytes:
    """Encode uint8 or uint16 codes [H,W,C] as a TIFF file.

    family: "grey", "rgb", "cmyk", each with one channel more for straight alpha, or "palette" (uint8 [H,W,1],
    with palette [n,3]). order and described: byte order and further fields, from `metadata.tiff_from_exif`.
    """
    height, width, channels = codes.shape
    colours = {"grey": 1, "rgb": 3, "palette": 1, "cmyk": 4}[family]
    rows = max(1, (1 << 18) // codes[:1].nbytes)
    strips = [_strip(codes[top : top + rows], order, family) for top in range(0, height, rows)]
    offsets = list(accumulate(map(len, strips), initial=8))[:-1]

    def short(*values: int) -> Field:
        return 3, len(values), struct.pack(f"{order}{len(values)}H", *values)

    def long(*values: int) -> Field:
        return 4, len(values), struct.pack(f"{order}{len(values)}I", *values)

    def ratio(value: float) -> Field:
        return 5, 1, struct.pack(order + "II", round(value * 1000), 1000)

    tree: dict[int, Field | Tree] = dict(described or {})
    tree |= {WIDTH: long(width), HEIGHT: long(height), BITS: short(*[8 * codes.itemsize] * channels)}
    tree |= {COMPRESSION: short(DEFLATE), INTERPRETATION: short(PHOTOMETRIC[family]), STRIPS: long(*offsets)}
    tree |= {SAMPLES: short(channels), ROWS: long(rows), STRIP_BYTES: long(*map(len, strips))}
    tree |= {PLANES: short(1), PREDICTOR: short(1 if family == "palette" else DIFFERENCES)}
    if dpi:
        tree |= {X_RESOLUTION: ratio(dpi[0]), Y_RESOLUTION: ratio(dpi[1]), RESOLUTION_UNIT: short(INCH)}
    if palette is not None:
        colourmap = np.zeros((3, 256), np.uint16)
        colourmap[:, : len(palette)] = palette[:, :3].T.astype(np.uint16) * 257
        tree[COLOURMAP] = short(*colourmap.ravel().tolist())
    if channels > colours:
        tree[EXTRA] = short(STRAIGHT_ALPHA)
    if xmp:
        tree[XMP] = (1, len(xmp), xmp)
    if icc:
        tree[ICC] = (7, len(icc), icc)
    body = b"".join(strips)
    end = 8 + len(body) + len(body) % 2
    magic = b"II*\0" if order == "<" else b"MM\0*"
    header = magic + struct.pack(order + "I", end)
    return b"".join([header, body, bytes(len(body) % 2), serialise(order, end, tree)])


def _strip(codes: npt.NDArray[Any], order: str, family: str) -> bytes:
    if family != "palette":
        differences = codes[:, 1:] - codes[:, :-1]  # wraps around, as it should
        codes = np.concatenate([codes[:, :1], differences], axis=1)
    return zlib.compress(codes.astype(f"{order}u{codes.itemsize}").tobytes(), 6)
