"""TIFF files, written: one page of strips of about 256 KiB, deflated with horizontal differencing.

Source: TIFF 6.0 and its technical notes.
"""

from __future__ import annotations

import struct
import zlib
from itertools import accumulate
from typing import Any

import numpy as np
import numpy.typing as npt

from unistep.image.ifd import Field, Tree, serialise
from unistep.image.tiff import (
    BITS,
    COLOURMAP,
    COMPRESSION,
    EXTRA,
    HEIGHT,
    ICC,
    INTERPRETATION,
    PLANES,
    ROWS,
    SAMPLES,
    STRIP_BYTES,
    STRIPS,
    WIDTH,
    XMP,
)

PREDICTOR = 317
X_RESOLUTION, Y_RESOLUTION, RESOLUTION_UNIT = 282, 283, 296
PHOTOMETRIC = {"grey": 1, "rgb": 2, "palette": 3, "cmyk": 5}
MAX_BYTES = (1 << 32) - (1 << 24)  # offsets have 32 bits
DEFLATE, DIFFERENCES, STRAIGHT_ALPHA, INCH = 8, 2, 2, 2


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
