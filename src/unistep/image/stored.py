"""What readers of files hand over: a header, and codes as they are stored."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from unistep.image.ifd import Tiff

Codes = npt.NDArray[Any]  # uint8 or uint16

GREY, RGB, PALETTE, CMYK = "grey", "rgb", "palette", "cmyk"
CAPS = {"ICC": 8 << 20, "EXIF": 1 << 20, "XMP": 1 << 20}  # bytes of what goes with the pixels


class Undecodable(Exception):
    """A file that cannot be decoded; the message is the reason, to be put behind the file's name."""


@dataclass(frozen=True)
class Header:
    """What the first look at a file says.

    `width` and `height` are as seen, after `orientation` (1..8) is applied, and so is `dpi` (across, down).
    `icc` is what the colours are in, whatever said so; `cicp` are the code points if it was made from them.
    `texts` are keywords and texts, as PNG has them.
    """

    format: str
    width: int
    height: int
    orientation: int
    notes: tuple[str, ...] = ()
    icc: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None
    dpi: tuple[float, float] | None = None
    cicp: tuple[int, int] | None = None
    texts: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Stored:
    """Codes as stored, not yet upright.

    colour: uint8 or uint16 [H,W,C], C = 1 for grey, 3 for RGB and palette, 4 for CMYK (all bits set = full
    ink). alpha: [H,W] of the same type, straight, or None.
    """

    header: Header
    family: str
    colour: Codes
    alpha: Codes | None = None


def make_header(
    format: str,
    stored_size: tuple[int, int],
    orientation: int,
    *,
    notes: list[str],
    icc: bytes | None,
    exif: bytes | None,
    xmp: bytes | None,
    dpi: Any,
    cicp: tuple[int, int] | None = None,
    texts: Iterable[tuple[str, str]] = (),
) -> Header:
    """A header from what a file says, with sizes turned upright and blocks above their caps dropped and
    noted.
    """
    width, height = stored_size[::-1] if orientation >= 5 else stored_size
    kept: dict[str, bytes | None] = {}
    for name, block in (("ICC", icc), ("EXIF", exif), ("XMP", xmp)):
        if block and len(block) > CAPS[name]:
            notes.append(f"{name} data of more than {CAPS[name] >> 20} MiB is not kept")
        kept[name] = block if block and len(block) <= CAPS[name] else None
    return Header(
        format,
        width,
        height,
        orientation,
        tuple(notes),
        kept["ICC"],
        kept["EXIF"],
        kept["XMP"],
        _dpi(dpi, orientation),
        cicp,
        tuple(texts),
    )


def split(header: Header, codes: Codes) -> Stored:
    """Grey or RGB codes [H,W] or [H,W,C]; the second or fourth channel is alpha."""
    codes = codes if codes.ndim == 3 else codes[..., None]
    channels = codes.shape[2]
    alpha = codes[..., -1] if channels in (2, 4) else None
    return Stored(header, GREY if channels < 3 else RGB, codes[..., : channels - (alpha is not None)], alpha)


def widened(codes: Codes, bits: int) -> Codes:
    """Codes of 1..32 bits as 8-bit ones (from at most 8) or 16-bit ones, white staying white."""
    if bits in (8, 16):
        return codes
    kind, levels = (np.uint8, 255) if bits < 8 else (np.uint16, 65535)
    most = (1 << bits) - 1
    made: Codes = ((codes.astype(np.uint64) * levels + most // 2) // most).astype(kind)
    return made


def unmultiply(codes: Codes, alpha: Codes) -> Codes:
    """Straight colours from colours that were stored multiplied by alpha."""
    levels = np.iinfo(codes.dtype).max
    straight = codes / np.maximum(alpha, 1)[..., None] * levels
    made: Codes = np.minimum(np.rint(straight), levels).astype(codes.dtype)
    return made


def resolution(data: bytes | bytearray | memoryview, at: int | None = None) -> tuple[float, float] | None:
    """Pixels an inch, across and down, that a directory of TIFF or EXIF (the first, or at `at`) tells."""
    try:
        tiff = Tiff(data)
        entries = tiff.directory(tiff.first if at is None else at).entries
        x, y = (tiff.ratio(entries.get(tag)) for tag in (0x011A, 0x011B))
        unit = {2: 1.0, 3: 2.54}.get(tiff.number(entries.get(0x0128), 2))
    except ValueError:
        return None
    return (x * unit, y * unit) if unit else None


def _dpi(value: Any, orientation: int) -> tuple[float, float] | None:
    try:
        x, y = (float(part) for part in value)
    except (TypeError, ValueError, ZeroDivisionError, OverflowError):
        return None
    if not (1 <= x <= 65535 and 1 <= y <= 65535):  # also refuses NaN
        return None
    return (y, x) if orientation >= 5 else (x, y)
