"""What becomes of the properties of XMP when a picture is turned upright and resized, or loses its place.

Source: XMP, part 2; the namespaces of Adobe, IPTC, the Metadata Working Group, Google, Apple and drones.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from fractions import Fraction
from typing import NamedTuple

from unistep.image.resized import Change, change, ratio

RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
DIMENSIONS = "http://ns.adobe.com/xap/1.0/sType/Dimensions#"

# What stands for pictures, videos and packets beside this one, which are not carried.
ATTACHED_SPACES = re.compile(
    r"http://ns\.(?:adobe\.com/hdr-|apple\.com/(?:hdrgainmap|pixeldatainfo|depth)|google\.com/photos/"
    r"(?:1\.0/(?:depthmap|image|audio|container|focus)|dd/1\.0))",
    re.IGNORECASE,
)
ATTACHED = re.compile(r"MicroVideo|MotionPhoto|HDRGainMap|Video(?:Length|Offset)$", re.IGNORECASE)
# The place by local names in any namespace; and what its maker alone can read. Titles, captions, keywords and
# the creator's own address are what people chose to say, and stay.
PLACE = re.compile(
    r"gps|latitude|long?t?itude|altitude|location|province|country|coordinate|coverage|landmark|homepoint"
    r"|^(?:city|state|region|place|address|venue|lat|lon|long|lng|alt)$|^geo(?!m)|worldregion|placename"
    r"|easting|northing|^utm"
    r"|(?-i:(?<=[a-z])(?:City|Lat|Lon|Lng|Long|Alt)$)|makernote|shot_?log",
    re.IGNORECASE,
)
CONTACT = re.compile(r"CiAdr")
# The names of sizes in pixels, and which side they follow; those of panoramas scale with the picture.
SIDES = {"ImageWidth": 0, "PixelXDimension": 0, "ImageLength": 1, "PixelYDimension": 1}
PANORAMA = {
    f"{name}{side}{unit}": axis
    for name, unit, sides in (
        ("FullPano", "Pixels", ("Width", "Height")),
        ("CroppedAreaImage", "Pixels", ("Width", "Height")),
        ("CroppedArea", "Pixels", ("Left", "Top")),
        ("LargestValidInteriorRect", "", ("Width", "Height")),
        ("LargestValidInteriorRect", "", ("Left", "Top")),
    )
    for axis, side in enumerate(sides)
}
FOCAL = {"FocalPlaneXResolution": 0, "FocalPlaneYResolution": 1}
SUBJECT, REGIONS = ("SubjectArea", "SubjectLocation"), ("Regions", "RegionInfo", "ImageRegion")
DIGEST, APPLIED, UNIT = "NativeDigest", "AppliedToDimensions", "rbUnit"
TOLD = {*SIDES, *PANORAMA, *FOCAL, "Orientation", UNIT}

UNDECLARED = "properties of its XMP in namespaces that it does not declare are dropped"
ALONE = "what its XMP says of a video, a depth map or a gain map beside the picture is dropped"
EXTENDED = "the extension of its XMP is not kept"
OUTLINES = "the regions in its XMP cannot be made true for the turned picture and are dropped"
PIXELS = "numbers of its XMP that count its old pixels cannot be made true and are dropped"


class Name(NamedTuple):
    """A name as written, its namespace ("" for none, None where its prefix is not known) and local part."""

    written: str
    space: str | None
    local: str


@dataclass
class Rules:
    """What becomes of a property, by what the packet says as a whole.

    told: the values of the names in TOLD. new: width and height. gps: whether the place may stay. turned: the
    orientation 1..8 that the picture had, None to believe the packet. notes: what was lost so far.
    """

    told: dict[str, str]
    new: tuple[int, int]
    gps: bool
    turned: int | None
    notes: dict[str, None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        turn = self.turned or _whole(self.told.get("Orientation", ""))
        self.turn = turn if 1 <= turn <= 8 else None
        sizes = (("PixelXDimension", "PixelYDimension"), ("ImageWidth", "ImageLength"))
        self.change = self._change(*sizes[0]) or self._change(*sizes[1])
        self.panorama = self._change("CroppedAreaImageWidthPixels", "CroppedAreaImageHeightPixels")

    def _change(self, width: str, height: str) -> Change | None:
        old = _whole(self.told.get(width, "")), _whole(self.told.get(height, ""))
        return change(old, self.new, self.turn or 1)

    def value(self, name: Name, applied: bool) -> str | None:
        """The new value of a property, "" for its old one, None to drop it.

        applied: whether it is within the dimensions that regions apply to.
        """
        local, space = name.local, name.space
        if space is None:
            return self._drop(UNDECLARED)
        if space == RDF:
            return ""
        if ATTACHED_SPACES.match(space) or ATTACHED.match(local):
            return self._drop(ALONE)
        if local == "HasExtendedXMP":
            return self._drop(EXTENDED)
        if local in ("Thumbnails", DIGEST):
            return None
        if not self.gps and PLACE.search(local) and not CONTACT.match(local):
            return None
        if local in REGIONS and (self.turn != 1 or "pixel" in self.told.get(UNIT, "")):
            return self._drop(OUTLINES)
        return self._number(name, applied)

    def _number(self, name: Name, applied: bool) -> str | None:
        local = name.local
        if local == "Orientation":
            return "1"
        if local in SIDES and name.space:
            return str(self.new[SIDES[local]])
        if applied and name.space == DIMENSIONS and local in ("w", "h"):
            return str(self.new["wh".index(local)])
        if local in SUBJECT and not (self.turn == 1 and self.change and self.change.nothing):
            return self._drop(PIXELS)
        if local in FOCAL:
            return self._focal(FOCAL[local])
        if local in PANORAMA:
            known, old = self.panorama, _whole(self.told.get(local, ""), -1)
            if known is None or known.turn != 1 or old < 0:
                return self._drop(PIXELS)
            return str(round(old * (known.y if PANORAMA[local] else known.x)))
        return ""

    def _focal(self, axis: int) -> str | None:
        if self.change and self.change.nothing:
            return ""
        swapped = axis ^ (self.turn is not None and self.turn >= 5)
        old = _fraction(self.told.get([*FOCAL][swapped], ""))
        pair = ratio(old * (self.change.y if axis else self.change.x)) if self.change and old else None
        return f"{pair[0]}/{pair[1]}" if pair else self._drop(PIXELS)

    def _drop(self, note: str) -> str | None:
        self.notes[note] = None
        return None


def _whole(text: str, default: int = 0) -> int:
    return int(text) if re.fullmatch(r"\s*\+?[0-9]{1,9}\s*", text) else default


def _fraction(text: str) -> Fraction | None:
    found = re.fullmatch(r"\s*([0-9]{1,10}(?:\.[0-9]{1,20})?)(?:/([0-9]{1,10}))?\s*", text)
    if not found or (found[2] and not int(found[2])):
        return None
    return Fraction(found[1]) / int(found[2] or 1)
