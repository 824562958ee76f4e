"""EXIF blocks and an XMP packet as cameras write them, and where their fields lie."""

import struct

from PIL import Image

from unistep.image.ifd import EXIF_IFD, GPS_IFD, Tiff, serialise

MAKER_NOTE = b"note with offsets" * 4
PLACE = struct.pack("<6I", 48, 1, 51, 1, 2997, 100)  # 48 deg 51' 29.97"
THUMBNAIL = b"\xff\xd8 a little picture \xff\xd9" * 3


def text(value):
    data = value.encode() + b"\0"
    return 2, len(data), data


def exif_block(order="<", gps=True, thumbnail=True):
    """An EXIF block as a camera writes it: orientation 6, 640 x 480, notes, a place, a thumbnail."""

    def short(value):
        return 3, 1, struct.pack(order + "H", value)

    tree = {
        0x010F: text("Unistep Cameras"),
        0x0112: short(6),
        0x0100: short(640),
        EXIF_IFD: {0x9003: text("2026:01:02 03:04:05"), 0xA002: short(640), 0xA003: short(480)}
        | {0x927C: (7, len(MAKER_NOTE), MAKER_NOTE)},
    }
    if gps:
        tree[GPS_IFD] = {1: text("N"), 2: (5, 3, PLACE)}
    block = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8)
    block += serialise(order, 8, tree)
    if thumbnail:
        at = len(block)
        fields = {0x0103: short(6), 0x0201: (4, 1, struct.pack(order + "I", at + 2 + 12 * 3 + 4))}
        fields[0x0202] = (4, 1, struct.pack(order + "I", len(THUMBNAIL)))
        block += serialise(order, at, fields) + THUMBNAIL
        main = Tiff(block).directory(8)
        block = block[: main.next_at] + struct.pack(order + "I", at) + block[main.next_at + 4 :]
    return block


def seen(block):
    exif = Image.Exif()
    exif.load(b"Exif\0\0" + block)
    return exif


def block_of(tree, order="<"):
    return (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8) + serialise(order, 8, tree)


def shorts(*values, order="<"):
    return 3, len(values), struct.pack(f"{order}{len(values)}H", *values)


def record(block, *tags):
    """Where the record of a field lies, by the tags that lead to it."""
    tiff = Tiff(block)
    directory = tiff.directory(8)
    for tag in tags[:-1]:
        directory = tiff.directory(tiff.number(directory.entries[tag]))
    return directory.entries[tags[-1]].at


def patched(block, at, code, value):
    made = bytearray(block)
    struct.pack_into("<" + code, made, at, value)
    return bytes(made)


XMP = b"""<?xpacket begin="" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" xmlns:exif="http://ns.adobe.com/exif/1.0/"
 xmlns:dc="http://purl.org/dc/elements/1.1/" xmlns:drone="http://www.dji.com/drone-dji/1.0/"
 tiff:Orientation="6" exif:GPSLatitude="48,51.5N" drone:GpsLongitude="2.29" dc:format="image/jpeg">
<tiff:ImageWidth>640</tiff:ImageWidth><exif:PixelYDimension>480</exif:PixelYDimension>
<exif:GPSLongitude>2,17.4E</exif:GPSLongitude><dc:creator>\xc3\x89milie &amp; Co</dc:creator>
</rdf:Description></rdf:RDF></x:xmpmeta><?xpacket end="w"?>"""
