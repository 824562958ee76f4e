"""EXIF and XMP through files: kept, made true, without place; damaged ones never break anything."""

from io import BytesIO

import numpy as np
import pytest
from exif_blocks import MAKER_NOTE, PLACE, XMP, block_of, exif_block, seen, text
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import photo, pil, saved
from PIL import Image

from unistep.image import Picture, Source, metadata, read_image, write_image
from unistep.image.ifd import EXIF_IFD, GPS_IFD, Tiff, serialise


@pytest.mark.parametrize(
    ("note", "stays"),
    [
        (b"Nikon\0\x02\x10\0\0MM\0*\0\0\0\x08\0\0", True),
        (b"Apple iOS\0\0\1MM\0\0", True),
        (b"FUJIFILM\x0c\0\0\0\0\0", True),
        (b"OLYMPUS\0II\3\0\0\0", True),
        (b"[ae_dbg_info: 1]\0\0", True),
        (b"\x22\0\1\0\3\0\x2e\0\0\0\xdc\3\0\0", False),  # as Canon's
        (b"Nikon\0\x01\0\x0b\0\2\0", False),
        (b"OLYMP\0\1\0\0\0", False),
        (b"SONY DSC \0\0\0\x22\0\1\x10", False),
        (b"Panasonic\0\0\0\x22\0\1\0\3", False),
    ],
)
def test_notes_of_makers_stay_true_or_go(tmp_path, note, stays):
    block = block_of({0x010F: text("Maker"), EXIF_IFD: {0x9003: text("x"), 0x927C: (7, len(note), note)}})
    assert metadata.rewrite_exif(block, 9, 9) == (block, [])  # in place they stay
    assert metadata.rewrite_exif(block, 9, 9, moved=True)[1] == ([] if stays else [metadata.MOVED_NOTES])
    write_image(tmp_path / "a.tif", Picture(np.zeros((3, 4, 3), np.float32), None, Source(exif=block)))
    written = (tmp_path / "a.tif").read_bytes()
    with Image.open(BytesIO(written)) as image:
        for exif in (seen(read_image(written).source.exif), image.getexif()):
            assert exif[0x010F] == "Maker" and exif.get_ifd(EXIF_IFD)[0x9003] == "x"
            assert exif.get_ifd(EXIF_IFD).get(0x927C) == (note if stays else None)
    assert (note in written) == stays
    tiff = Tiff(block)
    assert metadata.lost_by_moving(tiff, tiff.directory(8)) == ([] if stays else [metadata.MOVED_NOTES])
    made, notes = metadata.rewrite_exif(block, 9, 9, gps=False)
    assert (
        note not in made and notes == [metadata.PLACED_NOTES] and seen(made).get_ifd(EXIF_IFD)[0x9003] == "x"
    )


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
    assert made is None or metadata.orientation(made) == 1
    assert made is None or metadata.rewrite_exif(made, 70000, 5, gps=gps) == (made, [])
    assert gps or made is None or PLACE not in made
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


def test_what_is_lost_is_said_by_the_writer(tmp_path):
    canon = b"\x22\0\1\0\3\0\x2e\0\0\0\xdc\3\0\0"
    block = block_of({0x010F: text("Maker"), EXIF_IFD: {0x9003: text("x"), 0x927C: (7, len(canon), canon)}})
    picture = Picture(np.zeros((3, 4, 3), np.float32), source=Source("JPEG", exif=block))
    assert write_image(tmp_path / "a.jpg", picture) == ()
    assert write_image(tmp_path / "a.tif", picture) == (metadata.MOVED_NOTES,)
    assert write_image(tmp_path / "a.jpg", picture, metadata="no-gps") == (metadata.PLACED_NOTES,)
    assert write_image(tmp_path / "a.jpg", picture, metadata="strip") == ()
    tiff = Tiff(block)
    assert metadata.lost_by_moving(tiff, tiff.directory(tiff.first)) == [metadata.MOVED_NOTES]
