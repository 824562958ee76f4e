"""EXIF blocks: made true, without thumbnail, without the place; one broken part does not cost the rest."""

import struct

import pytest
from exif_blocks import (
    MAKER_NOTE,
    PLACE,
    THUMBNAIL,
    block_of,
    exif_block,
    patched,
    record,
    seen,
    shorts,
    text,
)

from unistep.image import metadata
from unistep.image.ifd import EXIF_IFD, GPS_IFD, Tiff, serialise


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
    assert exif.get_ifd(EXIF_IFD)[0xA002] == exif[0x0100] == 9


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


@pytest.mark.parametrize("kind", [1, 3, 4, 6, 8, 9])
@pytest.mark.parametrize("order", ["<", ">"])
def test_orientation_of_any_type_of_integer(kind, order):
    data = struct.pack(order + {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i"}[kind], 6)
    block = block_of({0x0112: (kind, 1, data)}, order)
    assert metadata.orientation(block) == 6
    made, _ = metadata.rewrite_exif(block, 9, 9)
    assert metadata.orientation(made) == 1 and seen(made)[0x0112] == 1


# What is broken, and the fields that it costs.
BROKEN = {
    "a directory outside": (lambda b: patched(b, record(b, EXIF_IFD) + 8, "I", 1 << 20), {EXIF_IFD}),
    "one below it outside": (lambda b: patched(b, record(b, EXIF_IFD, 0xA005) + 8, "I", 7), {0xA005}),
    "one that is the main one": (lambda b: patched(b, record(b, GPS_IFD) + 8, "I", 8), {GPS_IFD}),
    "a field outside": (lambda b: patched(b, record(b, EXIF_IFD, 0x9003) + 8, "I", 1 << 20), {0x9003}),
    "a field too long": (lambda b: patched(b, record(b, EXIF_IFD, 0x9003) + 4, "I", 1 << 31), {0x9003}),
    "a field of no type": (lambda b: patched(b, record(b, 0x013B) + 2, "H", 77), {0x013B}),
    "a field twice": (lambda b: patched(b, record(b, 0x013B), "H", 0x010F), {0x013B}),
}


@pytest.mark.parametrize("damage", BROKEN)
@pytest.mark.parametrize("gps", [True, False])
def test_one_broken_part_does_not_cost_the_rest(damage, gps):
    below = {0x9003: text("2026:01:02 03:04:05"), 0xA002: shorts(640), 0xA005: {1: text("R98")}}
    tree = {0x010F: text("Unistep"), 0x013B: text("Ada"), EXIF_IFD: below, GPS_IFD: {2: (5, 3, PLACE)}}
    breaks, lost = BROKEN[damage]
    made, notes = metadata.rewrite_exif(breaks(block_of(tree)), 9, 9, gps=gps)
    assert notes == [metadata.PARTS] and metadata.rewrite_exif(made, 9, 9, gps=gps) == (made, [])
    lost = lost | ({GPS_IFD} if not gps else set())
    found = Tiff(made).tree(Tiff(made).directory(8))
    assert found.keys() == tree.keys() - lost and found[0x010F] == text("Unistep")
    assert EXIF_IFD in lost or found[EXIF_IFD].keys() == below.keys() - lost
    assert gps or PLACE not in made


def test_a_broken_thumbnail_costs_nothing_else():
    block = exif_block()
    at = Tiff(block).directory(8).next_at
    for offset in (1 << 20, len(block) - 1, 3, record(block, EXIF_IFD) - 2, Tiff(block).directory(8).at):
        made, notes = metadata.rewrite_exif(patched(block, at, "I", offset), 4000, 3000)
        exif = seen(made)
        assert notes == [] and exif[0x010F] == "Unistep Cameras" and Tiff(made).directory(8).next == 0
        assert exif.get_ifd(EXIF_IFD)[0x927C] == MAKER_NOTE and exif.get_ifd(GPS_IFD)[1] == "N"


def test_a_thumbnail_that_lies_nowhere_costs_nothing():
    block = exif_block()
    for value in (0, 1 << 30):
        made, _ = metadata.rewrite_exif(
            patched(block, block.index(struct.pack("<HHI", 0x0201, 4, 1)) + 8, "I", value), 9, 9
        )
        assert seen(made)[0x010F] == "Unistep Cameras"


def test_a_block_that_is_cut_off_keeps_what_is_whole():
    tree = {tag: shorts(tag) for tag in range(0x9201, 0x9221)}
    block = block_of({0x010F: text("Unistep"), EXIF_IFD: tree})
    end = record(block, EXIF_IFD, 0x9211) + 5
    for gps in (True, False):
        made, notes = metadata.rewrite_exif(block[:end], 9, 9, gps=gps)
        assert notes == [metadata.PARTS] and metadata.rewrite_exif(made, 9, 9, gps=gps) == (made, [])
        exif = seen(made)
        assert exif[0x010F] == "Unistep" and set(exif.get_ifd(EXIF_IFD)) == set(range(0x9201, 0x9211))


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(
    ("turn", "size", "area", "focal"),
    [
        (1, (600, 400), [201, 61, 40, 20], (2000, 4000)),
        (2, (600, 400), [399, 61, 40, 20], (2000, 4000)),
        (3, (600, 400), [399, 339, 40, 20], (2000, 4000)),
        (4, (600, 400), [201, 339, 40, 20], (2000, 4000)),
        (5, (400, 600), [61, 201, 20, 40], (4000, 2000)),
        (6, (400, 600), [339, 201, 20, 40], (4000, 2000)),
        (7, (400, 600), [339, 399, 20, 40], (4000, 2000)),
        (8, (400, 600), [61, 399, 20, 40], (4000, 2000)),
    ],
)
def test_numbers_of_pixels_follow_the_picture(order, turn, size, area, focal):
    def ratio(above, below=1):
        return 5, 1, struct.pack(order + "II", above, below)

    below = {0xA002: shorts(300, order=order), 0xA003: shorts(200, order=order)}
    below |= {0x9214: shorts(100, 30, 20, 10, order=order), 0xA214: shorts(100, 30, order=order)}
    below |= {0xA20E: ratio(1000), 0xA20F: ratio(4000, 2)}
    below[0xA005] = {0x1001: shorts(300, order=order), 0x1002: shorts(200, order=order)}
    tree = {0x0112: shorts(turn, order=order), 0x011A: ratio(72), 0x011B: ratio(96), EXIF_IFD: below}
    block = block_of(tree, order)
    made, notes = metadata.rewrite_exif(block, *size)
    assert notes == [] and metadata.rewrite_exif(made, *size) == (made, [])
    exif = seen(made)
    assert (exif[0x011A], exif[0x011B]) == ((96, 72) if turn >= 5 else (72, 96))
    below = exif.get_ifd(EXIF_IFD)
    assert (below[0xA002], below[0xA003]) == size and (below[0xA20E], below[0xA20F]) == focal
    assert [*below[0x9214]] == area and [*below[0xA214]] == area[:2]
    assert (exif.get_ifd(0xA005)[0x1001], exif.get_ifd(0xA005)[0x1002]) == size


@pytest.mark.parametrize("sides", [(), (640, 480), (200, 300), (300, 0)])
def test_numbers_of_another_picture_go(sides):
    below = {0xA20E: (5, 1, struct.pack("<II", 9, 1)), 0x9214: shorts(1, 2), 0x9003: text("x")}
    below |= dict(zip((0xA002, 0xA003), map(shorts, sides), strict=False))
    made, notes = metadata.rewrite_exif(block_of({EXIF_IFD: below}), 600, 400)
    assert notes == [metadata.OLD_PIXELS]
    assert not {0xA20E, 0x9214} & set(seen(made).get_ifd(EXIF_IFD)) and seen(made).get_ifd(EXIF_IFD)[0x9003]


HIDDEN = b"Here is the place"
HIDING = {
    "XMP": {0x02BC: (1, len(HIDDEN), HIDDEN)},
    "IPTC": {0x83BB: (7, len(HIDDEN), HIDDEN)},
    "Photoshop's": {0x8649: (7, len(HIDDEN), HIDDEN)},
    "GeoTIFF": {0x87B1: (2, len(HIDDEN), HIDDEN)},
    "a maker's": {0xC634: (1, len(HIDDEN), HIDDEN)},
    "padding": {EXIF_IFD: {0x9003: text("x"), 0xEA1C: (7, len(HIDDEN), HIDDEN)}},
    "a place below": {EXIF_IFD: {0x9003: text("x"), GPS_IFD: {0x001C: (7, len(HIDDEN), HIDDEN)}}},
    "a place": {GPS_IFD: {0x001C: (7, len(HIDDEN), HIDDEN)}},
}


@pytest.mark.parametrize("where", HIDING)
def test_the_place_hides_nowhere(where):
    block = block_of({0x010F: text("Maker")} | HIDING[where])
    for hiding in (block, block + HIDDEN, patched(block, 4, "I", 8) + bytes(8) + HIDDEN):
        made, _ = metadata.rewrite_exif(hiding, 9, 9, gps=False)
        assert HIDDEN in hiding and HIDDEN not in made
        assert seen(made)[0x010F] == "Maker" and metadata.rewrite_exif(made, 9, 9, gps=False) == (made, [])


def pointed(block, tag, at, count):
    """The block with a field that has its data elsewhere."""
    return patched(patched(block, record(block, tag) + 8, "I", at), record(block, tag) + 4, "I", count)


def test_a_field_that_reaches_into_the_place_goes():
    block = block_of({0x010F: text("Maker"), 0x013B: text("Artist"), GPS_IFD: {2: (5, 3, PLACE)}})
    maker, place = block.index(b"Maker"), block.index(PLACE)
    lost = patched(block, record(block, GPS_IFD) + 8, "I", 1 << 20)  # so that no one knows what lies there
    for hiding in (block, lost, pointed(lost, 0x013B, maker, 6)):
        hiding = pointed(hiding, 0x010F, maker, place + 24 - maker)
        made, notes = metadata.rewrite_exif(hiding, 9, 9, gps=False)
        assert notes == [metadata.PARTS] and PLACE not in made
        assert seen(made).keys() == {0x013B}
    assert PLACE not in metadata.rewrite_exif(pointed(block, 0x010F, place, 24), 9, 9, gps=False)[0]
    both = pointed(block, 0x013B, maker, 6)  # two fields may be one
    assert metadata.rewrite_exif(both, 9, 9, gps=False)[1] == []


def test_what_has_its_own_place_in_a_file_goes():
    stale = {0x014A: (4, 1, bytes(4)), 0x02BC: (1, 5, b"<xmp>"), 0x8649: (7, 8, b"8BIM1036")}
    made, _ = metadata.rewrite_exif(block_of({0x010F: text("Maker")} | stale), 9, 9)
    assert seen(made).keys() == {0x010F}


def test_a_tiff_passes_its_orientation_on():
    for turn in (1, 3, 6):
        tiff = Tiff(block_of({0x010F: text("Maker"), 0x0112: shorts(turn)}))
        exif = metadata.exif_from_tiff(tiff, tiff.directory(8))
        assert metadata.orientation(exif) == turn and seen(exif)[0x010F] == "Maker"


def test_fields_that_share_bytes_do_not_multiply():
    many = bytearray(block_of({tag: (7, 5, b"12345") for tag in range(0x9000, 0x9800)}))
    entries = Tiff(many).directory(8).entries.values()
    many += bytes((1 << 20) - len(many))
    for entry in entries:
        struct.pack_into("<II", many, entry.at + 4, (1 << 20) - 30000, 29000)
    tree = Tiff(many).tree(Tiff(many).directory(8))
    assert 0 < sum(len(data) for _, _, data in tree.values()) <= 1 << 20
    for gps in (True, False):
        made, _ = metadata.rewrite_exif(bytes(many), 9, 9, gps=gps)
        assert made is None or len(made) <= len(many)


@pytest.mark.parametrize("gps", [True, False])
def test_directories_in_a_circle_come_to_an_end(gps):
    inner = {EXIF_IFD: {1: text("one")}, GPS_IFD: {1: text("two")}, 0xA005: {1: text("R98")}}
    loop = block_of({0x010F: text("x"), EXIF_IFD: inner})
    at = Tiff(loop).number(Tiff(loop).directory(8).entries[EXIF_IFD])
    for tag in inner:
        loop = patched(loop, record(loop, EXIF_IFD, tag) + 8, "I", at)
    assert 0x010F in metadata.tiff_from_exif(loop)[1]
    made, notes = metadata.rewrite_exif(loop, 9, 9, gps=gps)
    assert metadata.PARTS in notes and seen(made)[0x010F] == "x"
    assert metadata.rewrite_exif(made, 9, 9, gps=gps) == (made, [])
