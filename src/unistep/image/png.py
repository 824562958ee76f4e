"""PNG, chunk by chunk: the pixels go to a decoder alone, so that nothing beside them can spoil them.

What goes with the pixels is found wherever it lies, before them or behind them. A chunk beside the pixels
that is damaged is left out, and said. Source: PNG, third edition.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterable, Iterator
from contextlib import suppress

from unistep.image import cicp
from unistep.image.metadata import orientation
from unistep.image.stored import CAPS, GREY, RGB, Header, Undecodable, make_header

SIGNATURE = b"\x89PNG\r\n\x1a\n"
PIXELS = (b"IHDR", b"PLTE", b"IDAT")
XMP_KEYWORD = "XML:com.adobe.xmp"
XMP_NAMESPACE = b"http://ns.adobe.com/xap/1.0/\0"
MAX_TEXT = 4 << 20  # bytes of one text, and of all texts together
# Texts that repeat, in ImageMagick's or a file manager's words, what changes with the picture.
STALE = re.compile(r"^(exif:|date:|png:|tiff:|xmp:|icc:|Thumb::|Raw profile type |photoshop:)", re.IGNORECASE)


class Chunks:
    """The chunks of a file: `pixels` (a file of nothing else), the others by name, `texts`, `notes`."""

    def __init__(self, data: bytes) -> None:
        self.notes: list[str] = []
        self.texts: dict[str, str] = {}
        self.found: dict[bytes, bytes] = {}
        kept: list[bytes] = []
        transparency = b""
        for name, start, size, whole in _walk(data):
            body = data[start : start + size]
            chunk = data[start - 8 : start + size + 4] if whole else chunk_of(name, body)
            if not kept and name != b"IHDR":
                kind = "an iPhone app's PNG" if name == b"CgBI" else f"a PNG that begins with {name!r}"
                raise Undecodable(f"it is {kind}, a kind that is not read")
            if name in PIXELS:
                kept.append(chunk)
                continue
            if not whole or zlib.crc32(name + body) != int.from_bytes(chunk[-4:], "big"):
                self.notes.append(f"its {name.decode('ascii', 'replace')} chunk is damaged and left out")
            elif name == b"tRNS":
                transparency = transparency or chunk
                self.found.setdefault(name, body)
            elif name in (b"tEXt", b"zTXt", b"iTXt"):
                self._text(name, body)
            else:
                self.found.setdefault(name, body)
        if not kept or len(kept[0]) != 25:
            raise ValueError("no IHDR chunk")
        width, height, self.depth, self.kind = struct.unpack_from(">IIBB", kept[0], 8)
        self.size = width, height
        if self.kind == 3 and transparency:
            at = next((i for i, chunk in enumerate(kept) if chunk[4:8] == b"IDAT"), len(kept))
            kept.insert(at, transparency)
        self.pixels = b"".join([SIGNATURE, *kept, chunk_of(b"IEND", b"")])

    @property
    def clear(self) -> tuple[int, ...] | None:
        """The grey or RGB code that is transparent."""
        body, count = self.found.get(b"tRNS", b""), {0: 1, 2: 3}.get(self.kind, 0)
        if not count or len(body) < 2 * count:
            return None
        return struct.unpack_from(f">{count}H", body)

    def _text(self, name: bytes, body: bytes) -> None:
        keyword, _, rest = body.partition(b"\0")
        try:
            if name == b"iTXt":
                packed, rest = rest[:1] == b"\1", rest[2:].partition(b"\0")[2].partition(b"\0")[2]
                text = (inflate(rest) if packed else rest).decode("utf-8", "replace")
            else:
                text = (inflate(rest[1:]) if name == b"zTXt" else rest).decode("latin-1")
        except ValueError:
            self.notes.append("a text that is damaged or too long is left out")
            return
        self.texts.setdefault(keyword.decode("latin-1"), text)

    def raw_profile(self, *kinds: str) -> bytes:
        """A block that ImageMagick and its kin wrote as text, in hexadecimal digits."""
        for kind in kinds:
            text = self.texts.get(f"Raw profile type {kind}", "")
            with suppress(ValueError):
                _, _, digits = text.lstrip("\n").split("\n", 2)  # the kind, the length, the digits
                return bytes.fromhex("".join(digits.split()))
        return b""


def header(chunks: Chunks) -> Header:
    """What the chunks say. Raises Undecodable for colours that are not read."""
    found, notes = chunks.found, chunks.notes
    exif = found.get(b"eXIf") or chunks.raw_profile("exif", "APP1")
    if exif.startswith(XMP_NAMESPACE):
        exif = b""
    exif = exif.removeprefix(b"Exif\0\0")
    xmp = chunks.texts.get(XMP_KEYWORD, "").encode()
    xmp = xmp or chunks.raw_profile("xmp", "APP1").removeprefix(XMP_NAMESPACE)
    if b"acTL" in found:
        notes.append("animated: only the first frame is read")
    icc, codes = _colour(chunks)
    x, y, unit = struct.unpack(">IIB", found[b"pHYs"]) if len(found.get(b"pHYs", b"")) == 9 else (0, 0, 0)
    return make_header(
        "PNG",
        chunks.size,
        orientation(exif),
        notes=notes,
        icc=icc,
        exif=exif or None,
        xmp=xmp if b"<" in xmp else None,
        dpi=(x * 0.0254, y * 0.0254) if unit == 1 else None,
        cicp=codes,
        texts=_kept(chunks.texts),
    )


def _kept(texts: dict[str, str]) -> Iterator[tuple[str, str]]:
    room = MAX_TEXT
    for keyword, text in texts.items():
        if keyword != XMP_KEYWORD and not STALE.match(keyword) and len(text) <= room:
            room -= len(text)
            yield keyword, text


def _colour(chunks: Chunks) -> tuple[bytes | None, cicp.Cicp | None]:
    """The profile in the specification's order: cICP, iCCP, sRGB, then gAMA with cHRM."""
    found, family = chunks.found, GREY if chunks.kind in (0, 4) else RGB
    if len(found.get(b"cICP", b"")) == 4:
        primaries, transfer, matrix, full = found[b"cICP"]
        if matrix or not full:
            raise Undecodable(
                "its colours are in YCbCr or of a narrow range (cICP), which is not read in PNG"
            )
        return cicp.profile_of((primaries, transfer), family), (primaries, transfer)
    name, _, packed = found.get(b"iCCP", b"").partition(b"\0")
    if name or packed:
        with suppress(ValueError):
            return inflate(packed[1:], CAPS["ICC"] + 1), None
        chunks.notes.append("its colour profile is damaged or too large, and ignored")
    if icc := chunks.raw_profile("icc", "icm"):
        return icc, None
    if b"sRGB" in found or not {b"gAMA", b"cHRM"} & found.keys():
        return None, None
    try:
        gamma, points = cicp.SRGB_CURVE, cicp.BT709
        if b"gAMA" in found:
            gamma = cicp.gamma_of(int.from_bytes(found[b"gAMA"], "big") / 1e5)
        if len(found.get(b"cHRM", b"")) == 32:
            points = tuple(value / 1e5 for value in struct.unpack(">8I", found[b"cHRM"]))
        return cicp.matrix_profile(points, gamma, family), None
    except ValueError as error:
        chunks.notes.append(f"its colours count as sRGB: {error}")
        return None, None


def _walk(data: bytes) -> Iterator[tuple[bytes, int, int, bool]]:
    """(name, start, size, whole) of every chunk before IEND; the last one may be cut."""
    at = len(SIGNATURE)
    while at + 8 <= len(data):
        size, name = struct.unpack_from(">I4s", data, at)
        if name == b"IEND":
            return
        whole = at + 12 + size <= len(data)
        yield name, at + 8, size if whole else len(data) - at - 8, whole
        at += 12 + size


def inflate(data: bytes, most: int = MAX_TEXT) -> bytes:
    """Up to `most` bytes of a zlib stream. Raises ValueError where it is damaged or longer."""
    stream = zlib.decompressobj()
    try:
        made = stream.decompress(data, most)
    except zlib.error as error:
        raise ValueError(str(error)) from error
    if not stream.eof:
        raise ValueError("it is cut off or too long")
    return made


def chunk_of(name: bytes, data: bytes) -> bytes:
    """A chunk, with its length and check sum."""
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def text_chunks(texts: Iterable[tuple[str, str]]) -> Iterator[bytes]:
    """Texts as chunks: tEXt where Latin-1 can say them, which every program reads, else iTXt."""
    for keyword, text in texts:
        key = keyword.encode("latin-1", "replace")[:79] or b"Comment"
        try:
            yield chunk_of(b"tEXt", key + b"\0" + text.encode("latin-1"))
        except UnicodeEncodeError:
            yield chunk_of(b"iTXt", key + b"\0\0\0\0\0" + text.encode("utf-8", "replace"))
