"""EXIF and XMP, made true for a picture that has been turned upright and resized.

EXIF is edited in place, because the notes of camera makers point into it; XMP as XML, with its prefixes kept.
Whatever cannot be read cannot be made true, and is dropped.
"""

from __future__ import annotations

import contextlib
import struct
import xml.dom.minidom
from xml.parsers.expat import ExpatError

from unistep.image.ifd import EXIF_IFD, GPS_IFD, Directory, Entry, Field, Tiff, Tree, serialise

ORIENTATION, SUB_IFDS = 0x0112, 0x014A
THUMBNAIL_AT, THUMBNAIL_SIZE = 0x0201, 0x0202
WIDTHS, HEIGHTS = (0x0100, 0xA002), (0x0101, 0xA003)

# What a TIFF file's main directory and an EXIF block have in common: facts about the picture, none about its
# storage.
DESCRIPTIVE = frozenset(
    {0x010D, 0x010E, 0x010F, 0x0110, 0x011A, 0x011B, 0x0128, 0x0131, 0x0132, 0x013B, 0x013C, 0x4746, 0x4749}
    | {0x8298, EXIF_IFD, GPS_IFD, 0x9C9B, 0x9C9C, 0x9C9D, 0x9C9E, 0x9C9F}
)
DROPPED = {"Thumbnails", "HasExtendedXMP"}  # a picture of the old state; a pointer to what is not carried


def orientation(exif: bytes | None) -> int:
    """EXIF orientation 1..8 of an EXIF block (TIFF header first); 1 when it has none or is damaged."""
    try:
        tiff = Tiff(exif or b"")
        value = tiff.number(tiff.directory(tiff.first).entries.get(ORIENTATION), 1)
    except ValueError:
        return 1
    return value if 1 <= value <= 8 else 1


def rewrite_exif(exif: bytes, width: int, height: int, *, gps: bool = True) -> bytes | None:
    """Set orientation and pixel size in an EXIF block where it has them, remove its thumbnail, and GPS if not
    wanted.

    exif: the block from its TIFF header on. Returns the new block, or None when it is too damaged to be made
    true. The notes of the camera's maker are kept as they are; what they hold is known to the maker alone.
    """
    data = bytearray(exif)
    try:
        tiff = Tiff(data)
        if tiff.big:
            return None
        main = tiff.directory(tiff.first)
        _remove_thumbnail(tiff, data, main)
        _set(tiff, data, main.entries.get(ORIENTATION), 3, 1)
        below = [tiff.directory(tiff.number(main.entries[EXIF_IFD]))] if EXIF_IFD in main.entries else []
        for directory in [main, *below]:
            for tags, value in ((WIDTHS, width), (HEIGHTS, height)):
                for tag in tags:
                    _set(tiff, data, directory.entries.get(tag), 4, value)
        if SUB_IFDS in main.entries:
            _remove(tiff, data, main, SUB_IFDS)
            main = tiff.directory(tiff.first)  # the records behind it have moved
        if not gps and GPS_IFD in main.entries:
            _blank(tiff, data, tiff.directory(tiff.number(main.entries[GPS_IFD])))
            _remove(tiff, data, main, GPS_IFD)
    except (ValueError, struct.error):
        return None
    return bytes(data)


def without_orientation(exif: bytes) -> bytes:
    """The block without its orientation field, for formats that keep the orientation elsewhere."""
    data = bytearray(exif)
    with contextlib.suppress(ValueError):
        tiff = Tiff(data)
        main = tiff.directory(tiff.first)
        if ORIENTATION in main.entries:
            _remove(tiff, data, main, ORIENTATION)
    return bytes(data)


def exif_from_tiff(tiff: Tiff) -> bytes | None:
    """An EXIF block of what the main directory of a TIFF file says about the picture."""
    tree = tiff.tree(tiff.directory(tiff.first), DESCRIPTIVE)
    if not tree:
        return None
    header = (b"II*\0" if tiff.order == "<" else b"MM\0*") + struct.pack(tiff.order + "I", 8)
    return header + serialise(tiff.order, 8, tree)


def tiff_from_exif(exif: bytes | None) -> tuple[str, dict[int, Field | Tree]]:
    """The byte order of an EXIF block, and its fields for the main directory of a TIFF file."""
    try:
        tiff = Tiff(exif or b"")
        return tiff.order, tiff.tree(tiff.directory(tiff.first), DESCRIPTIVE)
    except ValueError:
        return "<", {}


def rewrite_xmp(xmp: bytes, width: int, height: int, *, gps: bool = True) -> bytes | None:
    """Set orientation and pixel size in an XMP packet where it has them, remove thumbnails, and GPS if not
    wanted.

    Returns the new packet, or None when it is not XML, or has a document type (whose entities could grow
    without end).
    """
    if b"<!" in xmp.replace(b"<!--", b"").replace(b"<![CDATA[", b""):
        return None
    truth = {"Orientation": 1, "ImageWidth": width, "ImageLength": height}
    truth |= {"PixelXDimension": width, "PixelYDimension": height}
    try:
        document = xml.dom.minidom.parseString(xmp.rstrip(b"\0 \r\n\t"))
    except (ExpatError, ValueError, LookupError):
        return None
    try:
        elements = document.getElementsByTagName("*")
        for element in [*elements]:
            for name in [*element.attributes.keys()]:
                local = name.split(":")[-1]
                if _dropped(local, gps):
                    element.removeAttribute(name)
                elif local in truth and ":" in name:
                    element.setAttribute(name, str(truth[local]))
            local = element.tagName.split(":")[-1]
            if _dropped(local, gps) and element.parentNode is not None:
                element.parentNode.removeChild(element)
            elif local in truth:
                for child in [*element.childNodes]:
                    element.removeChild(child)
                element.appendChild(document.createTextNode(str(truth[local])))
        return "".join(node.toxml() for node in document.childNodes).encode("utf-8")
    except (ValueError, RecursionError):
        return None


def _dropped(local: str, gps: bool) -> bool:
    return local in DROPPED or (not gps and local.lower().startswith("gps"))


def _set(tiff: Tiff, data: bytearray, entry: Entry | None, kind: int, value: int) -> None:
    """Make a field one number, which lies in its record."""
    if entry is not None:
        number = struct.pack(tiff.order + ("H" if kind == 3 else "I"), value).ljust(4, b"\0")
        struct.pack_into(tiff.order + "HI4s", data, entry.at + 2, kind, 1, number)


def _remove(tiff: Tiff, data: bytearray, directory: Directory, tag: int) -> None:
    """Take one record out: those behind it, and the offset of the next directory, move up."""
    entry = directory.entries[tag]
    end = directory.next_at + 4
    data[entry.at : end] = data[entry.at + 12 : end] + bytes(12)
    struct.pack_into(tiff.order + "H", data, directory.at, directory.count - 1)


def _blank(tiff: Tiff, data: bytearray, directory: Directory) -> None:
    """Overwrite a directory and its data with zeros."""
    for entry in directory.entries.values():
        data[entry.data_at : entry.data_at + entry.size] = bytes(entry.size)
    size = min(directory.next_at + 4, len(data)) - directory.at
    data[directory.at : directory.at + size] = bytes(size)


def _remove_thumbnail(tiff: Tiff, data: bytearray, main: Directory) -> None:
    if not main.next:
        return
    struct.pack_into(tiff.order + "I", data, main.next_at, 0)
    thumbnail = tiff.directory(main.next)
    start = tiff.number(thumbnail.entries.get(THUMBNAIL_AT))
    size = tiff.number(thumbnail.entries.get(THUMBNAIL_SIZE))
    _blank(tiff, data, thumbnail)
    if start and start + size <= len(data):
        data[start : start + size] = bytes(size)
        if not any(data[start:]):  # nearly always the thumbnail comes last, and the block can end before it
            del data[start:]
