"""JPEG, segment by segment, to the end of the picture: what follows it (motion photos, gain maps, other
pictures) is none of it.

The coded picture goes to a decoder alone; what the application segments say is read here.
Source: ITU-T T.81 annex B; JFIF 1.02; EXIF 2.32; XMP part 3; ICC.1:2022 annex B.4.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator

from unistep.image.metadata import orientation
from unistep.image.stored import Header, Undecodable, make_header, resolution

MAX_SCANS = 500  # of a progressive JPEG; honest ones have about ten, hostile ones cost minutes
EXIF, XMP, ICC = b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0", b"ICC_PROFILE\0"
SOI, EOI, SOS, COM, DNL = 0xD8, 0xD9, 0xDA, 0xFE, 0xDC
ALONE = (0x01, *range(0xD0, SOI + 1))  # markers without a length
TABLES = (0xC4, 0xC8, 0xCC)  # in the range of the frame headers, and none
MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
FIRST = re.compile(rb"\xff+[^\x00\xff]")


class Segments:
    """`pixels`: the file without what is beside the picture. `process`: 0 to 15 of its frame header."""

    def __init__(self, data: bytes) -> None:
        self.process, self.bits, self.size, self.components = -1, 0, (0, 0), 0
        self.exif = self.xmp = b""
        self.profile: dict[int, bytes] = {}
        self.parts = 0
        self.density: tuple[int, int, int] | None = None
        jfif, kept, scans = False, [b"\xff\xd8"], 0
        for marker, start, end in _walk(data):
            body = data[start:end]
            if marker == 0xE0:
                jfif = jfif or body.startswith(b"JFIF")
                if body.startswith(b"JFIF\0") and len(body) >= 12:
                    self.density = self.density or struct.unpack_from(">BHH", body, 7)
            elif marker == 0xE1:
                self._app1(body)
            elif marker == 0xE2 and body.startswith(ICC) and len(body) > 14:
                self.profile.setdefault(body[12], body[14:])
                self.parts = body[13]
            elif 0xE0 <= marker <= 0xEF and not (marker == 0xEE and body.startswith(b"Adobe")):
                pass
            elif marker != COM:
                scans += marker == SOS
                if 0xC0 <= marker <= 0xCF and marker not in TABLES and self.process < 0 and len(body) >= 6:
                    self.process = marker & 15
                    self.bits, height, width, self.components = struct.unpack_from(">BHHB", body)
                    self.size = width, height
                kept.append(data[start - (2 if marker == EOI else 4) : end])
        if scans > MAX_SCANS:
            raise Undecodable(f"it has more than {MAX_SCANS} scans, which no camera or program writes")
        if self.process < 0:
            raise ValueError("no frame header")
        if jfif:  # without it a decoder would guess the colours by the names of the components
            kept.insert(1, b"\xff\xe0" + struct.pack(">H5sHBHHBB", 16, b"JFIF\0", 0x102, 0, 1, 1, 0, 0))
        self.pixels = b"".join(kept)

    def _app1(self, body: bytes) -> None:
        if body.startswith(EXIF):
            self.exif = self.exif or body[len(EXIF) :]
        elif body.startswith(XMP):
            self.xmp = self.xmp or body[len(XMP) :]

    def header(self) -> Header:
        """Raises Undecodable for a kind that is not read."""
        if not self.size[1]:
            raise Undecodable("its height stands behind the picture (DNL), a kind of JPEG that is not read")
        notes = []
        whole = self.parts and all(i in self.profile for i in range(1, self.parts + 1))
        if self.profile and not whole:
            notes.append("its colour profile is incomplete and ignored")
        icc = b"".join(self.profile[i] for i in range(1, self.parts + 1)) if whole else None
        unit, x, y = self.density or (0, 0, 0)
        inches = {1: 1.0, 2: 2.54}.get(unit)
        return make_header(
            "JPEG",
            self.size,
            orientation(self.exif),
            notes=notes,
            icc=icc,
            exif=self.exif or None,
            xmp=self.xmp or None,
            dpi=(x * inches, y * inches) if inches else resolution(self.exif),
        )


def _walk(data: bytes) -> Iterator[tuple[int, int, int]]:
    """(marker, start, end) of every segment up to the end of the picture; a scan ends with its coded data."""
    at = 2
    while found := FIRST.search(data, at):
        at, marker = found.end(), data[found.end() - 1]
        if marker == EOI:
            yield marker, at, at
            return
        if marker in ALONE:
            continue
        if at + 2 > len(data):
            return
        end = at + max(2, int.from_bytes(data[at : at + 2], "big"))
        start = at + 2
        if marker == SOS:
            behind = MARKER.search(data, end)
            end = behind.start() if behind else len(data)
        if end > len(data) and marker != SOS:
            return
        yield marker, start, end
        at = end
