"""BMP whose pixels lie in bit fields, and the colours that the later headers tell.

Pillow reads palettes, run lengths and 24 bits; 16 and 32 bits with any masks are read here. A mask of alpha
that is zero everywhere was never meant: every viewer shows such a file opaque.
Source: Microsoft, BITMAPV5HEADER.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np

from unistep.image import cicp
from unistep.image.stored import RGB, Codes, Header, Stored, Undecodable, make_header, split, widened

PLAIN, FIELDS, FIELDS_WITH_ALPHA = 0, 3, 6
CALIBRATED, EMBEDDED = 0, 0x4D424544  # "MBED"
READ = (PLAIN, 1, 2, FIELDS, FIELDS_WITH_ALPHA)  # 1 and 2 are run lengths


@dataclass(frozen=True)
class Bitmap:
    """The header of a file that has at least the 40 bytes of Windows 3."""

    info: int
    width: int
    height: int
    bits: int
    compression: int
    offset: int


def bitmap(data: bytes) -> Bitmap | None:
    """The header; None for the ones before Windows 3. Raises ValueError for a file that is cut within it."""
    if len(data) < 18:
        raise ValueError("it is cut off")
    (offset, info) = struct.unpack_from("<II", data, 10)
    if info < 40:
        return None
    if len(data) < 14 + info:
        raise ValueError("it is cut off")
    width, height, _, bits, compression = struct.unpack_from("<iiHHI", data, 18)
    return Bitmap(info, width, height, bits, compression, offset)


def header(data: bytes, found: Bitmap) -> Header:
    """Raises ValueError or Undecodable."""
    if found.compression not in READ:
        raise Undecodable(f"its compression ({found.compression}) is of a kind that is not read")
    x, y = struct.unpack_from("<ii", data, 38)
    notes: list[str] = []
    try:
        icc = _colour(data, found)
    except ValueError as error:
        icc = None
        notes.append(f"its colours count as sRGB: {error}")
    size = found.width, abs(found.height)
    dpi = x * 0.0254, y * 0.0254
    return make_header("BMP", size, 1, notes=notes, icc=icc, exif=None, xmp=None, dpi=dpi)


def _colour(data: bytes, found: Bitmap) -> bytes | None:
    if found.info < 108:
        return None
    kind = struct.unpack_from("<I", data, 70)[0]
    if kind == EMBEDDED and found.info >= 124:
        start, size = struct.unpack_from("<II", data, 126)
        return data[14 + start : 14 + start + size]
    numbers = struct.unpack_from("<12i", data, 74)
    if kind != CALIBRATED or not all(numbers):
        return None
    ends = np.reshape(numbers[:9], (3, 3)) / 2**30  # XYZ of red, green, blue
    gammas = np.array(numbers[9:]) / 2**16
    if np.ptp(gammas) > 0.01:
        raise ValueError("its channels have different gammas")
    white = ends.sum(0)
    if np.allclose(ends.sum(1), 1, atol=1e-3):  # chromaticities, whose sum is no white
        white = np.array([cicp.D65[0], cicp.D65[1], 1 - sum(cicp.D65)])
    points = [value for x, y, z in (white, *ends) for value in (x / (x + y + z), y / (x + y + z))]
    gamma = float(gammas[0] if gammas[0] >= 1 else 1 / gammas[0])  # writers have it both ways
    return cicp.matrix_profile(tuple(points), cicp.SRGB_CURVE if abs(gamma - 2.2) < 0.02 else gamma, RGB)


def codes(data: bytes, found: Bitmap, header: Header) -> Stored | None:
    """The codes of 16 or 32 bits a pixel; None for what Pillow reads."""
    if found.bits not in (16, 32) or found.compression not in (PLAIN, FIELDS, FIELDS_WITH_ALPHA):
        return None
    masks = _masks(data, found)
    stride = (found.width * found.bits + 31) // 32 * 4
    rows = abs(found.height)
    if found.offset + stride * (rows - 1) + found.width * found.bits // 8 > len(data):
        raise Undecodable("its data is damaged or cut off (the last rows are missing)")
    block = np.zeros(stride * rows, np.uint8)
    stored = np.frombuffer(data, np.uint8, min(len(block), len(data) - found.offset), found.offset)
    block[: len(stored)] = stored
    words = block.reshape(rows, stride).view(f"<u{found.bits // 8}")[:, : found.width]
    if found.height > 0:
        words = words[::-1]
    planes = [_plane(words, mask) for mask in masks if mask]
    if len(planes) == 4 and not planes[3].any():
        planes.pop()
    return split(header, np.stack(planes, axis=-1))


def _masks(data: bytes, found: Bitmap) -> tuple[int, ...]:
    if found.compression == PLAIN:
        return (0x7C00, 0x3E0, 0x1F, 0) if found.bits == 16 else (0xFF0000, 0xFF00, 0xFF, 0)
    alpha = found.info >= 56 or found.compression == FIELDS_WITH_ALPHA
    if len(data) < 70:
        raise ValueError("it is cut off")
    masks = struct.unpack_from("<4I", data, 54)
    if not all(masks[:3]):
        raise Undecodable("it has no bits for one of its colours, a kind of BMP that is not read")
    return masks if alpha else (*masks[:3], 0)


def _plane(words: Codes, mask: int) -> Codes:
    """One channel in 8 bits: fewer are spread, more are rounded."""
    shift = (mask & -mask).bit_length() - 1
    most = mask >> shift
    values = (words & np.array(mask, words.dtype)) >> np.array(shift, words.dtype)
    if most == 255:
        return np.asarray(values, np.uint8)
    if most < 255 and most & (most + 1) == 0:
        return widened(values, most.bit_length())
    made: Codes = np.rint(values.astype(np.float64) * (255 / most)).astype(np.uint8)
    return made
