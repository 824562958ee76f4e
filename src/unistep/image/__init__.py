"""Image files: read as what the network needs, written back as what they were.

`read_image` gives upright, straight, sRGB-encoded float colour, whatever the file held; `Source` remembers
what that was, and `write_image` goes back to it: the colour space (the same profile is embedded again), the
family (grey, palette, CMYK), 16 bits, EXIF and XMP, as far as the format of the new file can hold them. What
a format cannot hold becomes the nearest thing that it can:

    family      kept by                 elsewhere
    grey        JPEG PNG TIFF BMP       RGB with three equal channels
    palette     PNG TIFF BMP            RGB; a TIFF or BMP with alpha is RGB too
    CMYK        JPEG TIFF               RGB in sRGB; so too where its profile works one way only
    16 bits     PNG TIFF                rounded to 8 bits
    alpha       PNG WebP TIFF AVIF      laid over white
    profile     all but BMP             converted to sRGB

1-bit pictures count as 8-bit grey. A palette of more than 256 colours is adapted to the picture; up to 256 it
is exact. GIF is read but not written. Colours that a file signals without a profile (CICP, gamma,
chromaticities) get one. CMYK without a profile keeps its separation: the inks of the new file follow those of
the old one. Texts of PNG are kept in PNG. Not carried over: frames and pages beyond the first, IPTC-IIM,
comments and other chunks.
"""

from __future__ import annotations

import math
import os
import stat
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from unistep.atomic import atomic_write
from unistep.errors import ImageError
from unistep.image import cicp, icc
from unistep.image.decoders import decode, look, sniff
from unistep.image.encoders import FORMATS, Sheet, encode
from unistep.image.metadata import orientation, rewrite_exif
from unistep.image.pixels import Floats, bleed, pillow, quantise, upright
from unistep.image.stored import CMYK, GREY, PALETTE, RGB, Codes, Stored, Undecodable
from unistep.image.tiff import RAW
from unistep.image.tiffwriting import MAX_BYTES
from unistep.image.xmp import rewrite_xmp

Metadata = Literal["keep", "strip", "no-gps"]
PathLike = str | os.PathLike[str]

MAX_PIXELS = 200_000_000
ONE_WAY = "its colour profile works one way only: the picture is converted to sRGB"
# Suffixes of camera raw files, some of which are TIFFs that do not say so.
RAW_SUFFIXES = (
    *(".3fr", ".arw", ".cr2", ".cr3", ".crw", ".dcr", ".dng", ".erf", ".fff", ".iiq", ".k25", ".kdc", ".mef"),
    *(".mos", ".mrw", ".nef", ".nrw", ".orf", ".pef", ".raf", ".raw", ".rw2", ".rwl", ".sr2", ".srf", ".srw"),
)


@dataclass(frozen=True)
class Source:
    """What a picture was stored as.

    format: "JPEG", "PNG", "WEBP", "TIFF", "BMP", "AVIF" or "GIF". family: "grey", "rgb", "palette" or "cmyk".
    depth: 8 or 16 bits a channel. icc, exif (from its TIFF header on, orientation as found) and xmp: bytes as
    found. dpi: across and down the upright picture. notes: what a user should know, one sentence each. cicp:
    the code points of primaries and transfer function that icc was made from. texts: keywords and texts.
    """

    format: str = "PNG"
    family: str = RGB
    depth: int = 8
    icc: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None
    dpi: tuple[float, float] | None = None
    notes: tuple[str, ...] = ()
    cicp: tuple[int, int] | None = None
    texts: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Picture:
    """An upright picture.

    rgb: float32 [H,W,3], sRGB-encoded, 0..1 within sRGB; colours of a wider gamut lie below 0 or above 1.
    alpha: float32 [H,W] 0..1, straight (rgb is not multiplied by it), or None. Where a file is fully
    transparent, rgb has the colours of the nearest visible pixels, so that resampling does not darken edges.
    inks: uint8 [h,w,4], the separation of CMYK without a profile, of any size; a new file's follows it.
    """

    rgb: Floats
    alpha: Floats | None = None
    source: Source | None = None
    inks: Codes | None = None


def probe(path: PathLike | bytes, *, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """(width, height) of the upright picture, from its header. Raises ImageError as `read_image` does."""
    name, data = _load(path, max_pixels)
    try:
        header = look(data, max_pixels)
    except Undecodable as error:
        raise ImageError(f"{name}: {error}") from error
    return header.width, header.height


def read_image(path: PathLike | bytes, *, max_pixels: int = MAX_PIXELS) -> Picture:
    """Read the (first) picture of a JPEG, PNG, WebP, TIFF, BMP, AVIF or GIF file, or of the bytes of one.

    The format is found by the first bytes, never by the name. Files with more than `max_pixels` pixels are
    refused from their header. Raises ImageError, which names the file and the reason.
    """
    name, data = _load(path, max_pixels)
    try:
        stored = decode(data, max_pixels)
    except Undecodable as error:
        raise ImageError(f"{name}: {error}") from error
    del data
    try:
        return _picture(stored)
    except MemoryError:
        height, width = stored.colour.shape[:2]
        raise ImageError(f"{name}: its {width} x {height} pixels do not fit in memory") from None


def write_image(
    path: PathLike,
    picture: Picture,
    *,
    format: str | None = None,
    metadata: Metadata = "keep",
    quality: int | None = None,
) -> tuple[str, ...]:
    """Write a picture as its `source` was, as far as the format can (see above). The file is whole or not
    there.

    format: "jpeg", "png", "webp", "tiff", "bmp" or "avif"; by default what the name ends in says. metadata:
    "keep" EXIF and XMP (made true: upright, of the new size, without thumbnail), "strip" them, or "no-gps":
    keep them without the place. The colour profile is always kept. quality: 1..100 of JPEG (default 95, with
    full colour resolution), WebP (95) and AVIF (90). An existing file is replaced. Returns what of EXIF, XMP
    and texts could not be kept, one sentence each. Raises ImageError when the picture or the format cannot
    be, or the disk is full.
    """
    name = shown(path)
    kind = _format(name, Path(path).suffix, format)
    if metadata not in ("keep", "strip", "no-gps"):
        raise ImageError(f"{name}: metadata must be 'keep', 'strip' or 'no-gps', not {metadata!r}")
    if quality is not None and not 1 <= quality <= 100:
        raise ImageError(f"{name}: the quality must be from 1 to 100, not {quality}")
    _check(name, picture, kind)
    try:
        sheet, notes = _sheet(picture, kind, metadata)
        data = encode(sheet, kind, quality)
    except MemoryError:
        raise ImageError(f"{name}: there is not enough memory to encode it as {kind}") from None
    except (OSError, ValueError, RuntimeError) as error:
        raise ImageError(f"{name}: it cannot be encoded as {kind} ({error})") from error
    try:
        with atomic_write(path) as file:
            file.write(data)
    except OSError as error:
        raise ImageError(f"{name}: it cannot be written ({error.strerror or error})") from error
    return tuple(notes)


def shown(path: PathLike | bytes) -> str:
    """A file's name as it can be printed on one line, whatever it is made of."""
    if isinstance(path, bytes):
        return "the given data"
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in os.fspath(path))


def _load(path: PathLike | bytes, max_pixels: int) -> tuple[str, bytes]:
    if isinstance(path, bytes):
        return shown(path), path
    name = shown(path)
    try:
        with open(path, "rb", opener=_open_at_once) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise ImageError(f"{name}: it is not a file")
            if status.st_size > 16 * max_pixels + (64 << 20):
                cap = f"{max_pixels / 1e6:.4g} megapixels"
                raise ImageError(f"{name}: the file is larger than any picture of {cap}, the cap")
            data = file.read()
    except IsADirectoryError:
        raise ImageError(f"{name}: it is a folder, not a file") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ImageError(f"{name}: it cannot be read ({reason})") from error
    if sniff(data[:64]) == "TIFF" and name.lower().endswith(RAW_SUFFIXES):
        raise ImageError(f"{name}: {RAW}")
    return name, data


def _open_at_once(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))  # a pipe without a writer must not hang


def _profile(source: Source) -> tuple[icc.Profile, str | None]:
    """The profile that a source's codes are in, and what is wrong with the embedded one."""
    fallback: icc.Profile = icc.NaiveCmyk() if source.family == CMYK else icc.Srgb(_space(source.family))
    if source.icc is None:
        return fallback, None
    try:
        profile = icc.parse(source.icc)
    except ValueError as error:
        return fallback, f"its colour profile is ignored: {error}"
    if profile.space != _space(source.family):
        found = f"it is for {profile.space}, not for {_space(source.family)}"
        return fallback, f"its colour profile is ignored: {found}"
    return profile, None


def _space(family: str) -> str:
    return RGB if family == PALETTE else family


def _picture(stored: Stored) -> Picture:
    h, depth = stored.header, 8 * stored.colour.itemsize
    embedded = h.icc or cicp.adobe_rgb(h.exif, stored.family)
    source = Source(h.format, stored.family, depth, embedded, h.exif, h.xmp, h.dpi, h.notes, h.cicp, h.texts)
    profile, trouble = _profile(source)
    if not profile.invertible:
        family, trouble = GREY if source.family == GREY else RGB, ONE_WAY
        source = replace(source, family=family)
    if trouble:
        source = replace(source, icc=None, cicp=None, notes=(*source.notes, trouble))
    turn = h.orientation
    codes = upright(stored.colour, turn)
    rgb, inks = profile.decode(codes), None
    if isinstance(profile, icc.NaiveCmyk):
        inks = codes if depth == 8 else (codes >> 8).astype(np.uint8)
    if stored.alpha is None:
        return Picture(rgb, None, source, inks)
    alpha = upright(stored.alpha, turn).astype(np.float32) / np.float32(np.iinfo(stored.alpha.dtype).max)
    return Picture(bleed(rgb, alpha), alpha, source, inks)


def _format(name: str, suffix: str, wanted: str | None) -> str:
    if wanted is not None:
        key = {"jpg": "JPEG", "tif": "TIFF"}.get(wanted.lower().lstrip("."), wanted.upper().lstrip("."))
        found = key if key in FORMATS else None
    else:
        found = next((key for key, form in FORMATS.items() if suffix.lower() in form.suffixes), None)
    if found is None:
        known = ", ".join(form.suffixes[0] for form in FORMATS.values())
        raise ImageError(f"{name}: the format {wanted or suffix!r} cannot be written; use one of {known}")
    return found


def _check(name: str, picture: Picture, kind: str) -> None:
    rgb, alpha = picture.rgb, picture.alpha
    if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.size == 0:
        raise ImageError(f"{name}: rgb must have the shape [H,W,3] with H, W >= 1, not {list(rgb.shape)}")
    if alpha is not None and alpha.shape != rgb.shape[:2]:
        raise ImageError(f"{name}: alpha is {list(alpha.shape)} and must be {list(rgb.shape[:2])}, as rgb is")
    for part in (rgb, alpha):
        if part is not None and not (np.issubdtype(part.dtype, np.floating) and np.isfinite(part).all()):
            raise ImageError(f"{name}: the picture must be made of finite floating-point numbers, and is not")
    height, width = rgb.shape[:2]
    form = FORMATS[kind]
    if max(width, height) > form.side or width * height > form.pixels:
        fit = min(form.side, math.isqrt(form.pixels))
        found = f"the picture is {width} x {height}"
        raise ImageError(f"{name}: {kind} holds at most {fit} pixels a side, and {found}; use PNG or TIFF")
    source = picture.source or Source()
    samples = (4 if source.family == CMYK else 3) + (alpha is not None)
    if kind in ("TIFF", "BMP") and width * height * samples * source.depth // 8 > MAX_BYTES:
        raise ImageError(f"{name}: {width} x {height} pixels can be more than the 4 GiB of {kind}; use PNG")


def _sheet(picture: Picture, kind: str, keep: Metadata) -> tuple[Sheet, list[str]]:
    """The codes for a file of this kind and what goes with them; and what could not be kept."""
    form, source = FORMATS[kind], picture.source or Source()
    height, width = picture.rgb.shape[:2]
    family = source.family if source.family in form.families else RGB
    depth = source.depth if form.deep and family != PALETTE else 8
    profile, trouble = _profile(source)
    embedded = source.icc if trouble is None else None
    if profile.space != _space(family) or not form.profile:
        profile, embedded = icc.Srgb(_space(family)), None
    alpha, channels = picture.alpha if form.alpha else None, icc.CHANNELS[profile.space]
    codes = np.empty((height, width, channels + (alpha is not None)), np.uint8 if depth == 8 else np.uint16)
    paper = profile.encode(np.ones((1, 1, 3), np.float32))
    step = max(1, icc.BAND // width)
    for top in range(0, height, step):  # in bands: a second picture of floats would double the memory
        rows = slice(top, top + step)
        colours = picture.rgb[rows].astype(np.float32, copy=False)
        if isinstance(profile, icc.NaiveCmyk) and picture.inks is not None:
            values = profile.encode(colours, _rows_of(picture.inks, rows, width, height))
        else:
            values = profile.encode(colours)
        if picture.alpha is not None and alpha is None:
            values = paper + (values - paper) * picture.alpha[rows, :, None]
        quantise(values, depth, out=codes[rows, :, :channels])
    if alpha is not None:
        quantise(alpha, depth, out=codes[..., channels])
    exif = xmp = None
    notes: list[str] = []
    texts: tuple[tuple[str, str], ...] = ()
    if keep != "strip":
        gps = keep == "keep"
        if source.exif:
            exif, told = rewrite_exif(source.exif, width, height, gps=gps, moved=kind == "TIFF")
            notes.extend(told)
        if source.xmp:
            xmp, told = rewrite_xmp(source.xmp, width, height, gps=gps, turned=orientation(source.exif))
            notes.extend(told)
        texts = source.texts
        if texts and kind != "PNG":
            notes.append(f"its texts ({', '.join(key for key, _ in texts)[:60]}) have no place in {kind}")
            texts = ()
    code_points = source.cicp if embedded else None
    return Sheet(codes, family, alpha is not None, embedded, exif, xmp, source.dpi, code_points, texts), notes


def _rows_of(inks: Codes, rows: slice, width: int, height: int) -> Codes:
    """These rows of the separation, resampled to width x height."""
    h, w = inks.shape[:2]
    top, bottom = rows.start, min(rows.stop, height)
    box = (0, top * h / height, w, bottom * h / height)
    size, way = (width, bottom - top), Image.Resampling.BICUBIC
    planes = (pillow(inks[..., i], "L").resize(size, way, box) for i in range(4))
    return np.stack([np.asarray(plane) for plane in planes], axis=-1)
