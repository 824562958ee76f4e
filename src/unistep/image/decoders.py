"""Files to samples: what a file is, and its stored codes, as they lie in the file.

A file is known by its first bytes, never by its name, and only the formats named here are ever decoded. Each
container is walked here: what goes with the pixels is read from it, and the pixels alone go to a decoder, so
that nothing beside them can spoil them. Pillow decodes 8 bits; more goes through imagecodecs and tifffile,
because Pillow silently cuts 16-bit colour to 8. The size in the header is checked before anything is decoded.
"""

from __future__ import annotations

import re
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
    WebPImagePlugin,
)

from unistep.image import avif, bmp, cicp, jpeg, png, tiff, webp
from unistep.image.metadata import orientation
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
    split,
    widened,
)

READABLE = "JPEG, PNG, WebP, TIFF, BMP, AVIF and GIF"

Opener = Callable[[BytesIO], ImageFile.ImageFile]
OPENERS: dict[str, Opener] = {
    "JPEG": JpegImagePlugin.JpegImageFile,
    "PNG": PngImagePlugin.PngImageFile,
    "WEBP": WebPImagePlugin.WebPImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
    "AVIF": AvifImagePlugin.AvifImageFile,
    "GIF": GifImagePlugin.GifImageFile,
}
AVIF_BRANDS = (b"avif", b"avis")
# Pictures that are known and not read, by their first bytes.
UNREAD = (
    (rb"....ftyp(crx )|IIR[OS]|MMOR|IIU\0|FUJIFILMCCD-RAW|FOVb|\0MRM", "camera raw"),
    (rb"....ftyp(hei[cxms]|hev[cxms]|mif1|msf1)", "HEIC"),
    (rb"\0\0\0\x0cJXL |\xff\x0a", "JPEG XL"),
    (rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51", "JPEG 2000"),
    (rb"II\xbc", "JPEG XR"),
    (rb"8BP[SB]", "Photoshop"),
    (rb"\x76\x2f\x31\x01", "OpenEXR"),
    (rb"#\?(RADIANCE|RGBE)", "Radiance"),
    (rb"DDS ", "DDS"),
    (rb"\0\0[\1\2]\0", "icon"),
    (rb"qoif", "QOI"),
    (rb"P[1-7][\s#]", "Netpbm"),
    (rb"(\xef\xbb\xbf)?\s*(<\?xml[^>]*>\s*)?(<!--.{0,400}-->\s*)?<svg", "SVG"),
)
KINDS = re.compile(r"unsupported|not supported|unknown|not implemented|can ?not (read|decode|handle)", re.I)

Reader = Callable[[], Stored]


def sniff(head: bytes) -> str | None:
    """The format that the first 64 bytes of a file announce."""
    if head[:3] == b"\xff\xd8\xff":
        return "JPEG"
    if head[:8] == png.SIGNATURE:
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


def unread(head: bytes) -> str | None:
    """The kind of picture, known and not read, that the first bytes of a file announce."""
    return next((name for magic, name in UNREAD if re.match(magic, head, re.DOTALL)), None)


def look(data: bytes, max_pixels: int) -> Header:
    """The header of a file, from its bytes. Raises Undecodable."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _open(data, max_pixels)[0]


def decode(data: bytes, max_pixels: int) -> Stored:
    """Header and codes of the (first) picture in a file, from its bytes. Raises Undecodable."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of damaged metadata, which is simply not kept
        header, read = _open(data, max_pixels)
        try:
            stored = read()
        except Undecodable:
            raise
        except MemoryError:
            raise Undecodable(f"its {header.width} x {header.height} pixels do not fit in memory") from None
        except Exception as error:
            raise Undecodable(_told(error, header.format, "its data is damaged or cut off")) from error
    height, width = stored.colour.shape[:2]
    swapped = stored.header.orientation >= 5
    if (width, height) != ((header.height, header.width) if swapped else (header.width, header.height)):
        raise Undecodable("its data has another size than its header says")
    return stored


def _open(data: bytes, max_pixels: int) -> tuple[Header, Reader]:
    """The header, and what reads the codes."""
    if not data:
        raise Undecodable("it is empty")
    format = sniff(data[:64])
    if format is None:
        kind = unread(data[:1024])
        if kind == "camera raw":
            raise Undecodable(tiff.RAW)
        if kind:
            raise Undecodable(f"it is of a kind that is not read ({kind}): convert it to JPEG, PNG or TIFF")
        raise Undecodable(f"it is not a picture in a known format ({READABLE} are read)")
    try:
        header, read = READERS[format](data)
    except Undecodable:
        raise
    except Exception as error:
        raise Undecodable(_told(error, format, f"its {format} header is damaged")) from error
    _check_size(header.width, header.height, max_pixels)
    return header, read


def _jpeg(data: bytes) -> tuple[Header, Reader]:
    found = jpeg.Segments(data)
    header = found.header()

    def read() -> Stored:
        if found.components not in (1, 3, 4):
            raise Undecodable(f"it has {found.components} components, a kind of JPEG that is not read")
        if found.process == 3 or found.bits > 8:
            codes: Codes = imagecodecs.jpeg8_decode(found.pixels)
            return split(header, widened(codes, found.bits))
        return _by_pillow(_opened("JPEG", found.pixels), header)

    return header, read


def _png(data: bytes) -> tuple[Header, Reader]:
    found = png.Chunks(data)
    header = png.header(found)

    def read() -> Stored:
        if found.depth == 16:
            stored, most = split(header, imagecodecs.png_decode(found.pixels)), 65535
        else:
            stored = _by_pillow(_opened("PNG", found.pixels), header)
            most = 255
        if found.clear is None or stored.alpha is not None:
            return stored
        levels = (1 << found.depth) - 1
        clear = np.array([(code & levels) * (most // levels) for code in found.clear], stored.colour.dtype)
        hidden = (stored.colour == clear).all(axis=-1)
        return replace(stored, alpha=np.where(hidden, 0, most).astype(stored.colour.dtype))

    return header, read


def _webp(data: bytes) -> tuple[Header, Reader]:
    found = webp.Chunks(data)
    header = found.header()
    return header, lambda: _by_pillow(_opened("WEBP", found.pixels), header)


def _tiff(data: bytes) -> tuple[Header, Reader]:
    page = tiff.Page(data)
    header = page.header()
    return header, lambda: tiff.codes(data, page, header)


def _bmp(data: bytes) -> tuple[Header, Reader]:
    found = bmp.bitmap(data)
    if found is None:
        return _plain("BMP", _opened("BMP", data))
    header = bmp.header(data, found)

    def read() -> Stored:
        stored = bmp.codes(data, found, header)
        return stored or _by_pillow(_opened("BMP", data), header)

    return header, read


def _avif(data: bytes) -> tuple[Header, Reader]:
    told = avif.Properties(data)
    image = _opened_avif(data)
    icc, codes = _bytes(image.info.get("icc_profile")), None
    if icc is None and told.cicp is not None:
        icc, codes = cicp.profile_of(told.cicp, RGB), told.cicp
    area, size = told.area, image.size
    if area:
        size = area[2] - area[0], area[3] - area[1]
    notes = ["animated: only the first frame is read"] if getattr(image, "is_animated", False) else []
    exif = (_bytes(image.info.get("exif")) or b"").removeprefix(b"Exif\0\0")
    xmp = _bytes(image.info.get("xmp"))
    header = make_header(
        "AVIF",
        size,
        orientation(exif),
        notes=notes,
        icc=icc,
        exif=exif or None,
        xmp=xmp,
        dpi=None,
        cicp=codes,
    )

    def read() -> Stored:
        stored = _by_pillow(image, header)
        if not area:
            return stored
        window = slice(area[1], area[3]), slice(area[0], area[2])
        alpha = None if stored.alpha is None else stored.alpha[window]
        return replace(stored, colour=stored.colour[window], alpha=alpha)

    return header, read


def _gif(data: bytes) -> tuple[Header, Reader]:
    image = _opened("GIF", data)
    covered = image.tile[0].extents if image.tile else None
    header, read = _plain("GIF", image)
    notes = []
    with suppress(Exception):  # a fault in a later frame is none of the first one's
        if _opened("GIF", data).is_animated:  # type: ignore[attr-defined]
            notes.append("animated: only the first frame is read")
    _, _, packet = data.partition(b"\x21\xff\x0bXMP DataXMP")
    end = packet.find(b"\x01\xff\xfe\xfd")  # the trailer that lets other readers skip the packet
    header = replace(header, notes=tuple(notes), xmp=packet[:end] if end > 0 else None)

    def read_frame() -> Stored:
        stored = replace(read(), header=header)
        if covered in (None, (0, 0, *image.size)):
            return stored
        left, top, right, bottom = covered
        alpha = np.zeros(stored.colour.shape[:2], np.uint8)  # what no frame has painted yet is clear
        alpha[top:bottom, left:right] = 255 if stored.alpha is None else stored.alpha[top:bottom, left:right]
        return replace(stored, alpha=alpha)

    return header, read_frame


def _plain(format: str, image: ImageFile.ImageFile) -> tuple[Header, Reader]:
    """A format of which nothing but pixels is read."""
    header = make_header(
        format, image.size, 1, notes=[], icc=None, exif=None, xmp=None, dpi=image.info.get("dpi")
    )
    return header, lambda: _by_pillow(image, header)


READERS: dict[str, Callable[[bytes], tuple[Header, Reader]]] = {
    "JPEG": _jpeg, "PNG": _png, "WEBP": _webp, "TIFF": _tiff, "BMP": _bmp, "AVIF": _avif, "GIF": _gif,
}  # fmt: skip


def _opened(format: str, data: bytes) -> ImageFile.ImageFile:
    # The plug-ins are called directly: nothing else can be tried, and Pillow's own cap on pixels, which is a
    # setting of the whole process, stays as it is.
    return OPENERS[format](BytesIO(data))


def _opened_avif(data: bytes) -> ImageFile.ImageFile:
    try:
        return _opened("AVIF", data)
    except Exception:
        # Pillow refuses an AVIF whose EXIF is damaged. An item of an unknown type is ignored, so rename it.
        return _opened("AVIF", re.sub(rb"(infe.{8})Exif", rb"\1skip", data, flags=re.DOTALL))


def _by_pillow(image: ImageFile.ImageFile, header: Header) -> Stored:
    image.load()
    if image.mode == "CMYK":
        return Stored(header, CMYK, np.asarray(image))
    if image.mode not in ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "YCbCr"):
        raise Undecodable(f"its pixels are of the kind {image.mode!r}, which is not read")
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


def _bytes(value: Any) -> bytes | None:
    if isinstance(value, str):
        return value.encode("utf-8", "replace")
    return bytes(value) if isinstance(value, bytes | bytearray) else None


def _told(error: Exception, format: str, else_: str) -> str:
    """What a decoder's complaint comes to: a kind that it does not know, or damage."""
    line = " ".join(str(error).split())[:120]
    reason = "".join(c for c in line if c.isprintable()) or type(error).__name__
    if isinstance(error, NotImplementedError) or KINDS.search(reason):
        return f"it is of a kind of {format} that is not read ({reason}): convert it to JPEG, PNG or TIFF"
    return f"{else_} ({reason})"
