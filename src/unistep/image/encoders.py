"""Samples to files: what each format can hold, and the bytes of a file."""

from __future__ import annotations

import re
import struct
import warnings
import zlib
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import imagecodecs
import numpy as np
from PIL import Image

from unistep.image import metadata
from unistep.image.pixels import pillow, to_palette
from unistep.image.png import XMP_KEYWORD, chunk_of, text_chunks
from unistep.image.stored import CMYK, GREY, PALETTE, Codes
from unistep.image.tiffwriting import encode_tiff


@dataclass(frozen=True)
class Format:
    """What a format can hold: RGB always, other families as named; `side` and `pixels` are its limits.

    quality: the default of lossy formats, None for lossless ones.
    """

    suffixes: tuple[str, ...]
    side: int
    families: frozenset[str]
    pixels: int = 1 << 62
    deep: bool = False
    alpha: bool = True
    profile: bool = True
    quality: int | None = None


FORMATS = {
    "JPEG": Format((".jpg", ".jpeg", ".jfif"), 65500, frozenset({GREY, CMYK}), alpha=False, quality=95),
    "PNG": Format((".png",), 1_000_000, frozenset({GREY, PALETTE}), deep=True),
    "WEBP": Format((".webp",), 16383, frozenset(), quality=95),
    "TIFF": Format((".tif", ".tiff"), 1_000_000, frozenset({GREY, PALETTE, CMYK}), deep=True),
    "BMP": Format((".bmp", ".dib"), 1_000_000, frozenset({GREY, PALETTE}), alpha=False, profile=False),
    "AVIF": Format((".avif",), 32768, frozenset(), pixels=1 << 28, quality=90),
}
MAX_SEGMENT = 65533  # bytes in one segment of a JPEG


@dataclass(frozen=True)
class Sheet:
    """Codes to store and what goes with them.

    codes: uint8 or uint16 [H,W,C], the last channel alpha if `alpha`.
    """

    codes: Codes
    family: str
    alpha: bool = False
    icc: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None
    dpi: tuple[float, float] | None = None
    cicp: tuple[int, int] | None = None
    texts: tuple[tuple[str, str], ...] = ()


def encode(sheet: Sheet, format: str, quality: int | None) -> bytes:
    """The bytes of a file in one of `FORMATS`. The sheet must be within what the format can hold."""
    if format == "PNG":
        return _png(sheet)
    if format == "TIFF":
        return _tiff(sheet)
    options: dict[str, Any] = {}
    if FORMATS[format].quality is not None:
        options["quality"] = FORMATS[format].quality if quality is None else quality
        options |= {"icc_profile": sheet.icc} if sheet.icc else {}
    exif, xmp = sheet.exif, sheet.xmp
    if format == "JPEG":
        options["subsampling"] = 0
        exif = exif if exif and len(exif) + 6 <= MAX_SEGMENT else None
        xmp = xmp if xmp and len(xmp) + 29 <= MAX_SEGMENT else None
    elif format == "AVIF":
        options["subsampling"] = "4:4:4"
        exif = metadata.without_orientation(exif) if exif else None
    elif format == "WEBP":
        options["use_sharp_yuv"] = True  # WebP halves the resolution of colour; this halves it with care
    if format != "BMP":
        options |= {"exif": b"Exif\0\0" + exif} if exif else {}
        options |= {"xmp": xmp} if xmp else {}
    if sheet.dpi and format in ("JPEG", "BMP"):
        options["dpi"] = sheet.dpi
    file = BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's AVIF writer reads EXIF, and warns of what is damaged in it
        _image(sheet)[0].save(file, format, **options)
    data = file.getvalue()
    if format == "AVIF" and sheet.cicp:  # Pillow writes those of sRGB, and the matrix of BT.601
        points = struct.pack(">HH", *sheet.cicp)
        data = re.sub(rb"(?<=colrnclx)....", lambda _: points, data, count=1, flags=re.DOTALL)
    return data


def _image(sheet: Sheet) -> tuple[Image.Image, bytes | None]:
    """8-bit codes as a Pillow image, and the alpha of its palette if there is one."""
    codes = sheet.codes
    channels = codes.shape[2]
    if sheet.family == PALETTE:
        indices, palette = to_palette(codes)
        image = pillow(indices, "P")
        image.putpalette(palette[:, :3].tobytes())
        return image, palette[:, 3].tobytes() if channels == 4 else None
    mode = "CMYK" if sheet.family == CMYK else {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}[channels]
    return pillow(codes, mode), None


def _png(sheet: Sheet) -> bytes:
    if sheet.family == PALETTE:
        image, alphas = _image(sheet)
        file = BytesIO()
        image.save(file, "PNG", **({"transparency": alphas} if alphas else {}))
        data = bytes(file.getvalue())
    else:
        data = bytes(imagecodecs.png_encode(np.ascontiguousarray(sheet.codes), level=6))
    chunks = []
    if sheet.cicp:
        chunks.append(chunk_of(b"cICP", bytes([*sheet.cicp, 0, 1])))
    if sheet.icc:
        chunks.append(chunk_of(b"iCCP", b"ICC profile\0\0" + zlib.compress(sheet.icc)))
    if sheet.dpi:
        x, y = (round(value / 0.0254) for value in sheet.dpi)
        chunks.append(chunk_of(b"pHYs", struct.pack(">IIB", x, y, 1)))
    if sheet.exif:
        chunks.append(chunk_of(b"eXIf", sheet.exif))
    if sheet.xmp:
        chunks.append(chunk_of(b"iTXt", XMP_KEYWORD.encode() + b"\0\0\0\0\0" + sheet.xmp))
    chunks.extend(text_chunks(sheet.texts))
    return b"".join([data[:33], *chunks, data[33:]])  # 8 bytes of signature and 25 of header come first


def _tiff(sheet: Sheet) -> bytes:
    order, described = metadata.tiff_from_exif(sheet.exif)
    codes, family, palette = sheet.codes, sheet.family, None
    if family == PALETTE and sheet.alpha:  # a TIFF palette has no transparency
        family = "rgb"
    elif family == PALETTE:
        codes, palette = to_palette(codes)
        codes = codes[..., None]
    return encode_tiff(
        codes,
        family,
        palette=palette,
        order=order,
        described=described,
        icc=sheet.icc,
        xmp=sheet.xmp,
        dpi=sheet.dpi,
    )
