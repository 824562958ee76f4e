"""Files to samples: what a file is, and its stored codes, as they lie in the file.

A file is known by its first bytes, never by its name, and only the formats named here are ever decoded.
Pillow decodes what has 8 bits; what has 16 goes through imagecodecs, because Pillow silently cuts 16-bit
colour to 8. The size in the header is checked before anything is decoded.
"""

from __future__ import annotations

import re
import struct
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from io import BytesIO
from typing import Any

import imagecodecs
import numpy as np
from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from unistep.image import tiff
from unistep.image.metadata import orientation
from unistep.image.stored import CMYK, GREY, PALETTE, RGB, Header, Stored, Undecodable, make_header, split

READABLE = "JPEG, PNG, WebP, TIFF, BMP, AVIF and GIF"
MAX_SCANS = 500  # of a progressive JPEG; honest ones have about ten, hostile ones cost minutes

Opener = Callable[[BytesIO], ImageFile.ImageFile]
OPENERS: dict[str, Opener] = {
    "JPEG": lambda file: JpegImagePlugin.jpeg_factory(file),
    "PNG": PngImagePlugin.PngImageFile,
    "WEBP": WebPImagePlugin.WebPImageFile,
    "TIFF": TiffImagePlugin.TiffImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
    "AVIF": AvifImagePlugin.AvifImageFile,
    "GIF": GifImagePlugin.GifImageFile,
}
AVIF_BRANDS = (b"avif", b"avis")


def sniff(head: bytes) -> str | None:
    """The format that the first 64 bytes of a file announce."""
    if head[:3] == b"\xff\xd8\xff":
        return "JPEG"
    if head[:8] == b"\x89PNG\r\n\x1a\n":
        return "PNG"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    if head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return "TIFF"
    if head[:6] in (b"GIF87a", b"GIF89a"):
        return "GIF"
    if head[:2] == b"BM":
        return "BMP"
    if head[4:8] == b"ftyp" and any(brand in head[8:64] for brand in AVIF_BRANDS):
        return "AVIF"
    return None


def look(data: bytes, max_pixels: int) -> Header:
    """The header of a file, from its bytes. Raises Undecodable."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _open(data, max_pixels)[0]


def decode(data: bytes, max_pixels: int) -> Stored:
    """Header and codes of the (first) picture in a file, from its bytes. Raises Undecodable."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of damaged metadata, which is simply not kept
        header, image = _open(data, max_pixels)
        try:
            stored = _codes(data, header, image)
        except Undecodable:
            raise
        except MemoryError:
            raise Undecodable(f"its {header.width} x {header.height} pixels do not fit in memory") from None
        except Exception as error:
            raise Undecodable(f"its data is damaged or cut off ({_reason(error)})") from error
    height, width = stored.colour.shape[:2]
    swapped = stored.header.orientation >= 5
    if (width, height) != ((header.height, header.width) if swapped else (header.width, header.height)):
        raise Undecodable("its data has another size than its header says")
    return stored


def _open(data: bytes, max_pixels: int) -> tuple[Header, ImageFile.ImageFile | None]:
    """The header, and Pillow's image if the file is not a TIFF, whose header is read here."""
    if not data:
        raise Undecodable("it is empty")
    format = sniff(data[:64])
    if format is None:
        raise Undecodable(f"it is not a picture in a known format ({READABLE} are read)")
    if format == "WEBP":  # its decoder makes room for all pixels at once, so its size is needed before
        _check_size(*_webp_size(data), max_pixels)
    if format == "JPEG" and data.count(b"\xff\xda") > MAX_SCANS:
        raise Undecodable(f"it has more than {MAX_SCANS} scans, which no camera or program writes")
    try:
        image = _opened(format, data) if format != "TIFF" else None
        header = _header(format, image) if image is not None else tiff.header(data)
    except Exception as error:
        raise Undecodable(f"its {format} header is damaged ({_reason(error)})") from error
    _check_size(header.width, header.height, max_pixels)
    return header, image


def _opened(format: str, data: bytes) -> ImageFile.ImageFile:
    # The plug-ins are called directly: nothing else can be tried, and Pillow's own cap on pixels, which is a
    # setting of the whole process, stays as it is.
    try:
        return OPENERS[format](BytesIO(data))
    except Exception:
        if format != "AVIF":
            raise
        # Pillow refuses an AVIF whose EXIF is damaged. An item of an unknown type is ignored, so rename it.
        return OPENERS[format](BytesIO(re.sub(rb"(infe.{8})Exif", rb"\1skip", data, flags=re.DOTALL)))


def _header(format: str, image: ImageFile.ImageFile) -> Header:
    info, notes = image.info, []
    if getattr(image, "is_animated", False) and format != "JPEG":
        notes.append("animated: only the first frame is read")
    exif = _bytes(info.get("exif"))
    if exif is None and "Raw profile type exif" in info:
        with suppress(Exception):
            exif = image.getexif().tobytes()
    exif = exif.removeprefix(b"Exif\0\0") if exif else None
    return make_header(
        format,
        image.size,
        orientation(exif),
        notes=notes,
        icc=_bytes(info.get("icc_profile")),
        exif=exif,
        xmp=_bytes(info.get("xmp")),
        dpi=info.get("dpi"),
    )


def _codes(data: bytes, header: Header, image: ImageFile.ImageFile | None) -> Stored:
    if header.format == "PNG" and data[24] == 16:
        return split(header, imagecodecs.png_decode(data))
    if image is None:
        stored = tiff.codes(data, header)
        if stored is not None:
            return stored
        image = _opened("TIFF", data)
        image.info.pop("xmp", None)  # Pillow turns TIFF upright by itself, and must do it by nothing else
        header = replace(header, orientation=1)
    image.load()
    if image.mode == "CMYK":
        return Stored(header, CMYK, np.asarray(image))
    if image.mode not in ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "YCbCr"):
        raise Undecodable(f"its pixels are of the kind {image.mode!r}; convert it to grey, RGB or CMYK")
    transparent = "transparency" in image.info or image.mode in ("LA", "La", "PA", "RGBA", "RGBa")
    family = PALETTE if image.mode in ("P", "PA") else GREY if image.mode in ("1", "L", "LA", "La") else RGB
    mode = ("LA" if transparent else "L") if family == GREY else ("RGBA" if transparent else "RGB")
    return replace(split(header, np.asarray(_converted(image, mode))), family=family)


def _converted(image: Image.Image, mode: str) -> Image.Image:
    if image.mode in ("PA", "La", "RGBa"):
        image = image.convert("RGBA" if image.mode != "La" else "LA")
    return image if image.mode == mode else image.convert(mode)


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if width < 1 or height < 1:
        raise Undecodable("it has no pixels")
    if width * height > max_pixels:
        found, cap = f"{width} x {height} = {width * height / 1e6:.4g} megapixels", f"{max_pixels / 1e6:.4g}"
        raise Undecodable(f"it has {found}, and at most {cap} are read")


def _webp_size(data: bytes) -> tuple[int, int]:
    kind = data[12:16]
    if len(data) >= 30 and kind == b"VP8X":
        return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
    if len(data) >= 30 and kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return width & 0x3FFF, height & 0x3FFF
    if len(data) >= 25 and kind == b"VP8L":
        packed = struct.unpack_from("<I", data, 21)[0]
        return 1 + (packed & 0x3FFF), 1 + (packed >> 14 & 0x3FFF)
    raise Undecodable("its WEBP header is damaged")


def _bytes(value: Any) -> bytes | None:
    if isinstance(value, str):
        return value.encode("utf-8", "replace")
    return bytes(value) if isinstance(value, bytes | bytearray) else None


def _reason(error: Exception) -> str:
    """One short line of a decoder's complaint."""
    line = " ".join(str(error).split())[:120]
    return "".join(c for c in line if c.isprintable()) or type(error).__name__
