"""WebP, chunk by chunk: the pixels go to a decoder alone, so that nothing beside them can spoil them.

Source: RFC 9649.
"""

from __future__ import annotations

import struct

from unistep.image.metadata import orientation
from unistep.image.stored import Header, make_header

PIXELS = (b"VP8X", b"ANIM", b"ANMF", b"ALPH", b"VP8 ", b"VP8L")
ANIMATED, BESIDE = 0x02, 0x2C  # flags of VP8X: has frames; has a profile, EXIF, XMP


class Chunks:
    """`pixels`: the (first) picture, without profile, EXIF and XMP. Raises ValueError where there is none."""

    def __init__(self, data: bytes) -> None:
        self.found: dict[bytes, bytes] = {}
        kept, at = list[bytes](), 12
        while at + 8 <= len(data):
            name, size = struct.unpack_from("<4sI", data, at)
            body = data[at + 8 : at + 8 + size]
            later = name == b"ANMF" and any(chunk.startswith(name) for chunk in kept)  # frames not needed
            if name in PIXELS and not later:
                if name == b"VP8X" and len(body) >= 10:
                    body = bytes([body[0] & ~BESIDE]) + body[1:]
                kept.append(struct.pack("<4sI", name, size) + body + b"\0" * (len(body) % 2))
            elif len(body) == size and not later:
                self.found.setdefault(name, body)
            at += 8 + size + size % 2
        head = b"".join(kept)
        self.size = _size(head)
        self.animated = head[:4] == b"VP8X" and bool(head[8] & ANIMATED)
        self.pixels = b"RIFF" + struct.pack("<I", 4 + len(head)) + b"WEBP" + head

    def header(self) -> Header:
        exif = self.found.get(b"EXIF", b"").removeprefix(b"Exif\0\0")
        return make_header(
            "WEBP",
            self.size,
            orientation(exif),
            notes=["animated: only the first frame is read"] if self.animated else [],
            icc=self.found.get(b"ICCP"),
            exif=exif or None,
            xmp=self.found.get(b"XMP ") or None,
            dpi=None,
        )


def _size(chunks: bytes) -> tuple[int, int]:
    kind = chunks[:4]
    if len(chunks) >= 18 and kind == b"VP8X":
        return 1 + int.from_bytes(chunks[12:15], "little"), 1 + int.from_bytes(chunks[15:18], "little")
    if len(chunks) >= 18 and kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", chunks, 14)
        return width & 0x3FFF, height & 0x3FFF
    if len(chunks) >= 13 and kind == b"VP8L":
        packed = struct.unpack_from("<I", chunks, 9)[0]
        return 1 + (packed & 0x3FFF), 1 + (packed >> 14 & 0x3FFF)
    raise ValueError("it has no pixels")
