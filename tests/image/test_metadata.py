"""EXIF and XMP: kept, made true, without thumbnail, without place; damaged ones never break anything."""

import struct
from io import BytesIO

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import photo, pil, saved
from PIL import Image

from unistep.image import Picture, Source, metadata, read_image, write_image
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


XMP = b"""<?xpacket begin="" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" xmlns:exif="http://ns.adobe.com/exif/1.0/"
 xmlns:dc="http://purl.org/dc/elements/1.1/" xmlns:drone="http://www.dji.com/drone-dji/1.0/"
 tiff:Orientation="6" exif:GPSLatitude="48,51.5N" drone:GpsLongitude="2.29" dc:format="image/jpeg">
<tiff:ImageWidth>640</tiff:ImageWidth><exif:PixelYDimension>480</exif:PixelYDimension>
<exif:GPSLongitude>2,17.4E</exif:GPSLongitude><dc:creator>\xc3\x89milie &amp; Co</dc:creator>
</rdf:Description></rdf:RDF></x:xmpmeta><?xpacket end="w"?>"""


@pytest.mark.parametrize("order", ["<", ">"])
def test_exif_is_made_true(order):
    block = exif_block(order)
    assert metadata.orientation(block) == 6
    made, _ = metadata.rewrite_exif(block, 4000, 3000)
    exif = seen(made)
    assert exif[0x0112] == 1 and exif[0x0100] == 4000 and exif[0x010F] == "Unistep Cameras"
    below = exif.get_ifd(EXIF_IFD)
    assert (below[0xA002], below[0xA003], below[0x9003]) == (4000, 3000, "2026:01:02 03:04:05")
    assert exif.get_ifd(GPS_IFD)[1] == "N"
    assert made.index(MAKER_NOTE) == block.index(MAKER_NOTE)  # it holds offsets, so it must not move


def test_thumbnail_is_gone():
    made, _ = metadata.rewrite_exif(exif_block(), 9, 9)
    assert THUMBNAIL in exif_block() and b"little" not in made
    assert Tiff(made).directory(8).next == 0
    assert len(made) < len(exif_block())


@pytest.mark.parametrize("order", ["<", ">"])
def test_place_is_gone(order):
    made, _ = metadata.rewrite_exif(exif_block(order), 9, 9, gps=False)
    assert PLACE in exif_block(order) and PLACE not in made
    exif = seen(made)
    assert GPS_IFD not in exif and exif[0x010F] == "Unistep Cameras" and exif[0x0112] == 1
    assert exif.get_ifd(EXIF_IFD)[0xA002] == 9


@pytest.mark.parametrize("behind", [{}, {0x9C9B: (1, 8, b"a title\0")}])
def test_place_and_pictures_below_go_together(behind):
    tree = {
        0x010F: text("Unistep Cameras"),
        0x014A: (4, 1, struct.pack("<I", 8)),
        GPS_IFD: {2: (5, 3, PLACE)},
    }
    block = b"II*\0\x08\0\0\0" + serialise("<", 8, tree | behind)
    made, _ = metadata.rewrite_exif(block, 9, 9, gps=False)
    assert PLACE in block and PLACE not in made
    assert set(seen(made)) == {0x010F, *behind}


def test_directories_are_written_and_read_by_the_rules():
    block = b"II*\0\x08\0\0\0" + serialise("<", 8, {0x010E: text("four"), EXIF_IFD: {0x9003: text("x")}})
    tiff = Tiff(block)
    assert tiff.number(tiff.directory(8).entries[EXIF_IFD]) % 2 == 0  # on a word boundary
    twice = bytearray(block)
    twice[10 + 12 : 10 + 14] = struct.pack("<H", 0x010E)  # the first of two fields with one tag counts
    assert Tiff(twice).raw(Tiff(twice).directory(8).entries[0x010E]) == b"four\0"


def test_exif_without_those_fields_is_left_as_it_is():
    block = b"II*\0\x08\0\0\0" + serialise("<", 8, {0x013B: text("Someone")})
    assert metadata.rewrite_exif(block, 9, 9, gps=False) == (block, [])
    assert metadata.orientation(block) == metadata.orientation(None) == metadata.orientation(b"junk") == 1


@pytest.mark.parametrize("broken", [b"", b"junk and more junk", exif_block()[:20], b"II*\0\xff\xff\xff\x7f"])
def test_exif_that_cannot_be_read_is_dropped(broken):
    assert metadata.rewrite_exif(broken, 9, 9) == (None, [metadata.DAMAGED])


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=8),
    st.integers(0, 300),
    st.booleans(),
)
def test_damaged_exif_never_breaks(tmp_path_factory, changes, cut, gps):
    block = bytearray(exif_block())
    for place, value in changes:
        block[place % len(block)] = value
    block = bytes(block[: len(block) - cut if cut > 200 else len(block)])
    assert 1 <= metadata.orientation(block) <= 8
    made, _ = metadata.rewrite_exif(block, 70000, 5, gps=gps)
    assert made is None or metadata.orientation(made) == 1 or metadata.orientation(block) != 1
    metadata.tiff_from_exif(block)
    picture = Picture(np.zeros((3, 4, 3), np.float32), None, Source(exif=block))
    folder = tmp_path_factory.mktemp("exif")
    for suffix in ("tif", "jpg", "avif"):
        write_image(folder / f"out.{suffix}", picture)
        assert read_image(folder / f"out.{suffix}").rgb.shape == (3, 4, 3)


def source_file(format):
    return saved(pil(photo(10, 14, 3), "RGB"), format, exif=b"Exif\0\0" + exif_block(), xmp=XMP)


@pytest.mark.parametrize("came_as", ["JPEG", "PNG", "WEBP", "AVIF"])
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif", "avif"])
def test_metadata_through_files(tmp_path, came_as, suffix):
    if came_as == "PNG":
        write_image(tmp_path / "in.png", read_image(source_file("JPEG")))
        picture = read_image(tmp_path / "in.png")
    else:
        picture = read_image(source_file(came_as))
        assert picture.rgb.shape == (14, 10, 3)
    larger = Picture(np.zeros((30, 20, 3), np.float32), None, picture.source)
    found = {}
    for choice in ("keep", "no-gps", "strip"):
        path = tmp_path / f"{choice}.{suffix}"
        write_image(path, larger, metadata=choice)
        assert read_image(path).rgb.shape == (30, 20, 3)
        with Image.open(path) as image:
            exif = image.getexif()
            found[choice] = (exif.get(0x010F), exif.get(0x0112, 1), bool(exif.get_ifd(GPS_IFD)))
            below = exif.get_ifd(EXIF_IFD)
            if choice != "strip":
                assert (below[0xA002], below[0xA003]) == (20, 30)
                notes = MAKER_NOTE if choice == "keep" else None  # they can hold the place
                assert below.get(0x927C) == notes
            assert (b"GPSLongitude" in image.info.get("xmp", b"")) == (choice == "keep")
            assert ("xmp" in image.info) == (choice != "strip")
        assert (PLACE in path.read_bytes()) == (choice == "keep")
    maker = "Unistep Cameras"
    assert found == {"keep": (maker, 1, True), "no-gps": (maker, 1, False), "strip": (None, 1, False)}


@pytest.mark.parametrize("order", ["<", ">"])
def test_16_bit_tiff_carries_exif_of_either_byte_order(tmp_path, order):
    source = Source(depth=16, exif=exif_block(order))
    codes = np.random.default_rng(0).integers(0, 65536, (6, 7, 3), dtype=np.uint16)
    write_image(tmp_path / "a.tif", Picture(codes / np.float32(65535), None, source))
    again = read_image(tmp_path / "a.tif")
    assert (tmp_path / "a.tif").read_bytes()[:2] == (b"II" if order == "<" else b"MM")
    assert np.array_equal(np.round(again.rgb * 65535), codes)
    write_image(tmp_path / "b.jpg", again)
    with Image.open(tmp_path / "b.jpg") as image:
        exif = image.getexif()
        assert exif[0x010F] == "Unistep Cameras" and exif.get_ifd(EXIF_IFD)[0xA002] == 7
        assert exif.get_ifd(EXIF_IFD)[0x927C] == MAKER_NOTE and exif.get_ifd(GPS_IFD)[1] == "N"


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "AVIF"])
@pytest.mark.parametrize("broken", [b"junk", b"II*\0\xff\xff\xff\x7f", exif_block()[:30], b"\0" * 40])
def test_damaged_exif_breaks_no_file(tmp_path, format, broken):
    good = source_file(format)
    at = good.index(b"Unistep Cameras") if format != "PNG" else None
    if format == "PNG":  # Pillow writes what it is given
        data = saved(pil(photo(10, 14, 3), "RGB"), "PNG", exif=b"Exif\0\0" + broken)
    else:
        start = good.rindex(b"II*\0" if b"II*\0" in good[:at] else b"MM\0*", 0, at)
        data = good[:start] + broken.ljust(len(exif_block()), b"\0") + good[start + len(exif_block()) :]
    picture = read_image(data)
    write_image(tmp_path / "out.jpg", picture)
    assert picture.rgb.shape[2] == 3


def test_oversized_metadata_is_noted_and_dropped():
    big = b"II*\0\x08\0\0\0" + serialise("<", 8, {0x010E: text("x" * (1 << 20))})
    picture = read_image(saved(pil(photo(4, 4, 3), "RGB"), "PNG", exif=b"Exif\0\0" + big))
    assert picture.source.exif is None and "EXIF" in picture.source.notes[0]


def test_jpeg_leaves_out_what_does_not_fit(tmp_path):
    big = b"II*\0\x08\0\0\0" + serialise("<", 8, {0x010E: text("x" * 70_000)})
    xmp = XMP.replace(b"image/jpeg", b"x" * 70_000)
    picture = Picture(np.zeros((3, 3, 3), np.float32), None, Source(exif=big, xmp=xmp))
    write_image(tmp_path / "out.jpg", picture)
    with Image.open(tmp_path / "out.jpg") as image:
        assert "exif" not in image.info and "xmp" not in image.info
    write_image(tmp_path / "out.png", picture)
    assert read_image(tmp_path / "out.png").source.exif == big


def test_pillow_finds_nothing_odd_in_the_result(tmp_path):
    write_image(
        tmp_path / "out.tif", Picture(np.zeros((3, 3, 3), np.float32), None, Source(exif=exif_block()))
    )
    with Image.open(BytesIO((tmp_path / "out.tif").read_bytes())) as image:
        image.load()
        assert image.tag_v2[0x010F] == "Unistep Cameras"
