"""PNG, JPEG, WebP, GIF and BMP whose pixels are whole, whatever lies beside them; AVIF's clean aperture."""

import re
import struct
import zlib

import icc_profiles
import imagecodecs
import numpy as np
import pytest
from pictures import photo, pil, ramp16, saved
from PIL import Image

from unistep.errors import ImageError
from unistep.image import probe, read_image, write_image

CODES = photo(24, 32, 3)
PNG = saved(pil(CODES, "RGB"), "PNG")
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="r#"/></x:xmpmeta>'
EXIF = b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"  # orientation 6


def chunk(name, data, *, wrong=False):
    check = zlib.crc32(name + data) ^ wrong
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", check)


def codes(picture):
    return np.round(picture.rgb * 255)


def behind(*chunks):
    """Chunks between the pixels and the end."""
    return PNG[:-12] + b"".join(chunks) + PNG[-12:]


@pytest.mark.parametrize("place", ["before", "behind"])
def test_what_lies_behind_the_pixels_is_seen(tmp_path, place):
    parts = chunk(b"eXIf", EXIF) + chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP)
    data = behind(parts) if place == "behind" else PNG[:33] + parts + PNG[33:]
    picture = read_image(data)
    assert picture.rgb.shape[:2] == (32, 24) and probe(data) == (24, 32)
    assert picture.source.exif == EXIF and picture.source.xmp == XMP
    write_image(tmp_path / "out.png", picture)
    again = read_image(tmp_path / "out.png")
    assert again.rgb.shape[:2] == (32, 24) and again.source.xmp is not None


def test_profiles_as_text():
    """ImageMagick writes blocks as hexadecimal digits."""
    for kind, block, prefix in (("exif", EXIF, b"Exif\0\0"), ("xmp", XMP, b""), ("APP1", EXIF, b"Exif\0\0")):
        text = f"\n{kind}\n{len(prefix + block):8d}\n{(prefix + block).hex()}\n".encode()
        packed = chunk(b"zTXt", f"Raw profile type {kind}\0\0".encode() + zlib.compress(text))
        source = read_image(behind(packed)).source
        assert (source.exif if prefix else source.xmp) == block
        assert source.texts == ()


def test_generators_texts_are_kept(tmp_path):
    recipe = 'a cat, "sharp"\nSteps: 20, Seed: 1'
    graph = '{"1": {"text": "猫"}}'
    data = behind(
        chunk(b"tEXt", b"parameters\0" + recipe.encode()),
        chunk(b"iTXt", b"workflow\0\0\0\0\0" + graph.encode()),
        chunk(b"tEXt", b"exif:GPSLatitude\x0051/1"),
        chunk(b"tEXt", b"date:create\x002026"),
    )
    picture = read_image(data)
    assert picture.source.texts == (("parameters", recipe), ("workflow", graph))
    write_image(tmp_path / "out.png", picture)
    with Image.open(tmp_path / "out.png") as image:
        image.load()
        assert image.text == {"parameters": recipe, "workflow": graph}
    notes = write_image(tmp_path / "out.jpg", picture)
    assert "parameters, workflow" in notes[0] and "JPEG" in notes[0]
    write_image(tmp_path / "bare.png", picture, metadata="strip")
    assert read_image(tmp_path / "bare.png").source.texts == ()


@pytest.mark.parametrize("name", [b"tEXt", b"zTXt", b"iTXt", b"iCCP", b"eXIf", b"pHYs", b"gAMA", b"tIME"])
def test_a_damaged_chunk_costs_itself_alone(name):
    for data in (
        PNG[:33] + chunk(name, b"Comment\0hello", wrong=True) + PNG[33:],
        behind(chunk(name, b"ab", wrong=True)),
    ):
        picture = read_image(data)
        assert np.array_equal(codes(picture), CODES)
        assert name.decode() in picture.source.notes[0]


def test_large_texts_and_profiles_do_not_cost_the_picture():
    noise = np.random.default_rng(0).integers(0, 256, 3 << 20, dtype=np.uint8).tobytes()
    profile = icc_profiles.display_p3()
    padded = bytearray(profile + noise[: (2 << 20) - len(profile)])
    struct.pack_into(">I", padded, 0, len(padded))
    data = behind(chunk(b"iCCP", b"big\0\0" + zlib.compress(bytes(padded))))
    assert read_image(data).source.icc == bytes(padded)
    bomb = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(64 << 20)))
    for data in (behind(bomb), PNG[:33] + bomb + PNG[33:], behind(chunk(b"tEXt", b"Comment\0" + noise))):
        assert np.array_equal(codes(read_image(data)), CODES)


@pytest.mark.parametrize("end", [1, 4, 8, 11, 12])
def test_a_cut_end_of_png_is_no_damage(end):
    assert np.array_equal(codes(read_image(PNG[:-end])), CODES)
    half = PNG[:-12] + struct.pack(">I", 9999) + b"IDAT"  # the head of a chunk that never came
    assert np.array_equal(codes(read_image(half)), CODES)


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("colour", ["grey", "rgb"])
def test_the_transparent_code_of_png(depth, colour):
    if colour == "rgb" and depth < 8:
        pytest.skip("PNG has no such kind")
    levels, channels = (1 << depth) - 1, 1 if colour == "grey" else 3
    values = np.random.default_rng(depth).integers(0, min(levels, 3) + 1, (8, 16, channels))
    clear = values[3, 5]
    if depth < 8:
        rows = np.packbits((values[..., 0, None] >> np.arange(depth)[::-1]) & 1, axis=None).reshape(8, -1)
    else:
        rows = values.reshape(8, -1).astype(f">u{depth // 8}").view(np.uint8)
    body = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    kind = 0 if colour == "grey" else 2
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 16, 8, depth, kind, 0, 0, 0))
    data += chunk(b"tRNS", struct.pack(f">{channels}H", *clear)) + chunk(b"IDAT", body) + chunk(b"IEND", b"")
    picture = read_image(data)
    assert np.array_equal(picture.alpha == 0, (values == clear).all(axis=-1))
    seen = picture.alpha > 0
    assert np.abs(picture.rgb[seen][:, :channels] - values[seen] / levels).max() < 1e-6


def test_an_iphone_apps_png_is_of_a_kind_that_is_not_read():
    with pytest.raises(ImageError, match=r"iPhone.*not read"):
        read_image(PNG[:8] + chunk(b"CgBI", b"\x50\0\x20\x06") + PNG[8:])


JPEG = saved(pil(CODES, "RGB"), "JPEG", quality=95)


def segment(marker, body):
    return bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body


def test_what_follows_a_jpeg_is_none_of_it():
    """Motion photos: a film behind the picture, in which anything may lie."""
    film = b"ftypmp42" + b"\xff\xda\0\x08" * 600 + JPEG + b"\xff\xe1\0\x10Exif\0\0" + EXIF[:8]
    picture = read_image(JPEG + film)
    assert np.array_equal(picture.rgb, read_image(JPEG).rgb) and picture.source.exif is None


@pytest.mark.parametrize(
    "odd",
    [
        segment(0xE0, b""),
        segment(0xE0, b"JFIF\0"),
        segment(0xE1, b"Exif\0\0II*\0\xff\xff\xff\xff"),
        segment(0xE2, b"MPF\0MM\0*\0\0\0\x08\xff\xff"),
        segment(0xED, b"Photoshop 3.0\0008BIM\xff\xff"),
        segment(0xFE, b"\xff\xd9\xff\xda"),
        segment(0xE3, b"\xff\xc0" * 30000),
        b"\xff\xff\xff" + segment(0xEF, b"x"),
    ],
)
def test_odd_segments_do_not_cost_the_picture(odd):
    picture = read_image(JPEG[:2] + odd + JPEG[2:])
    assert np.array_equal(picture.rgb, read_image(JPEG).rgb)


def test_an_empty_jfif_segment_keeps_the_colours():
    start = JPEG.index(b"JFIF")
    bare = JPEG[:2] + segment(0xE0, b"JFIF\0") + JPEG[start + 14 :]
    assert np.array_equal(read_image(bare).rgb, read_image(JPEG).rgb)
    named = bytearray(bare)  # components called R, G and B, which without JFIF would be taken at their word
    for head, step in ((named.index(b"\xff\xc0") + 10, 3), (named.index(b"\xff\xda") + 5, 2)):
        named[head : head + 3 * step : step] = b"RGB"
    assert np.array_equal(read_image(bytes(named)).rgb, read_image(JPEG).rgb)


@pytest.mark.parametrize("bits", [12, 16])
def test_deep_jpeg(bits):
    ramp = (ramp16(1, 16, 24)[..., 0] >> (16 - bits)).astype(np.uint16)
    try:
        data = imagecodecs.jpeg8_encode(ramp, lossless=True, bitspersample=bits)
    except Exception as error:
        pytest.skip(str(error))
    picture = read_image(data)
    assert picture.source.depth == 16
    assert np.abs(picture.rgb[..., 0] - ramp / ((1 << bits) - 1)).max() < 1e-4


def test_incomplete_profile_of_jpeg_is_ignored():
    part = segment(0xE2, b"ICC_PROFILE\0\1\2" + icc_profiles.display_p3()[:200])
    source = read_image(JPEG[:2] + part + JPEG[2:]).source
    assert source.icc is None and "incomplete" in source.notes[0]
    data = saved(pil(CODES, "RGB"), "JPEG", icc_profile=icc_profiles.display_p3() + bytes(200_000))
    assert len(read_image(data).source.icc) > 200_000  # in four segments


def test_faults_in_later_frames_cost_nothing():
    frames = [pil(photo(20, 30, 3, seed), "RGB") for seed in range(3)]
    for format in ("GIF", "PNG", "WEBP"):
        whole = saved(frames[0], format, save_all=True, append_images=frames[1:])
        first = read_image(whole)
        cut = read_image(whole[: len(whole) * 2 // 3])
        assert np.array_equal(first.rgb, cut.rgb)


def test_xmp_of_gif():
    data = saved(pil(CODES, "RGB"), "GIF")
    trailer = b"\x01" + bytes(range(255, -1, -1)) + b"\0"
    at = data.index(b"\x2c", 13 + 3 * 2 ** ((data[10] & 7) + 1))
    data = data[:at] + b"\x21\xff\x0bXMP DataXMP" + XMP + trailer + data[at:]
    assert read_image(data).source.xmp == XMP


def test_what_a_gif_does_not_paint_is_clear():
    painted = pil(photo(10, 12, 1), "L").convert("P")
    data = bytearray(saved(painted, "GIF"))
    struct.pack_into("<HH", data, 6, 20, 16)  # a larger screen
    picture = read_image(bytes(data))
    assert picture.alpha.shape == (16, 20)
    assert picture.alpha[:10, :12].all() and not picture.alpha[10:].any() and not picture.alpha[:, 12:].any()


def test_webp_with_damage_beside_the_pixels():
    data = saved(pil(CODES, "RGB"), "WEBP", lossless=True, exif=b"Exif\0\0" + EXIF, xmp=XMP)
    assert probe(data) == (24, 32)
    moving = saved(pil(CODES, "RGB"), "WEBP", save_all=True, append_images=[pil(CODES[::-1], "RGB")], xmp=XMP)
    assert read_image(moving).source.xmp == XMP
    cut = data[: data.index(b"EXIF") + 12]
    picture = read_image(cut)
    assert picture.source.exif is None and np.array_equal(codes(picture), CODES)


def avif_with_aperture(left, top, width, height):
    """An AVIF of 32 x 24 whose clean aperture is this window; an unused property is made into it."""
    data = saved(pil(CODES, "RGB"), "AVIF", quality=100, subsampling="4:4:4")
    height_, width_ = CODES.shape[:2]
    offsets = [2 * left + width - width_, 2 * top + height - height_]
    body = struct.pack(">IIIIiIiI", width, 1, height, 1, offsets[0], 2, offsets[1], 2)
    clap = struct.pack(">I4s", 8 + len(body), b"clap") + body
    size = len(clap) + 1
    ipco = data.index(b"ipco") - 4
    length = struct.unpack_from(">I", data, ipco)[0]
    count = 0
    at = ipco + 8
    while at < ipco + length:
        at += struct.unpack_from(">I", data, at)[0]
        count += 1
    ipma = data.index(b"ipma") - 4
    entries = data[ipma + 18]  # of the only item: its properties, a byte each
    made = bytearray(data)
    made[ipma + 18] = entries + 1
    made[ipma + 19 + entries : ipma + 19 + entries] = bytes([0x80 | (count + 1)])
    made[ipco + length : ipco + length] = clap
    for name, grown in ((b"ipma", 1), (b"ipco", len(clap)), (b"iprp", size), (b"meta", size)):
        place = made.index(name) - 4
        struct.pack_into(">I", made, place, struct.unpack_from(">I", made, place)[0] + grown)
    at = made.index(b"iloc")
    for place in range(at, at + 40):  # the only 32-bit number there that points at the pixels
        if struct.unpack_from(">I", made, place)[0] == data.index(b"mdat") + 4:
            struct.pack_into(">I", made, place, data.index(b"mdat") + 4 + size)
            break
    else:
        raise AssertionError("no offset of the pixels found")
    return bytes(made)


def test_clean_aperture_of_avif():
    whole = read_image(saved(pil(CODES, "RGB"), "AVIF", quality=100, subsampling="4:4:4")).rgb
    data = avif_with_aperture(4, 6, 16, 10)
    assert probe(data) == (16, 10)
    assert np.array_equal(read_image(data).rgb, whole[6:16, 4:20])
    assert read_image(avif_with_aperture(20, 6, 16, 10)).rgb.shape == whole.shape  # leads outside: ignored


def bmp(bits, masks, values, header=108, top_down=False, compression=3):
    """A file of 16- or 32-bit words [H,W] with masks of red, green, blue and alpha."""
    height, width = values.shape
    stride = (width * bits + 31) // 32 * 4
    rows = np.zeros((height, stride), np.uint8)
    rows[:, : width * bits // 8] = values.astype(f"<u{bits // 8}").view(np.uint8)
    rows = rows if top_down else rows[::-1]
    info = struct.pack(
        "<IiiHHIIiiII",
        header,
        width,
        -height if top_down else height,
        1,
        bits,
        compression,
        rows.size,
        0,
        0,
        0,
        0,
    )
    info += struct.pack("<4I", *masks)
    info = (
        info[:header].ljust(header, b"\0") if header > 40 else info[: 40 + (12 if compression == 3 else 16)]
    )
    if header >= 108:
        info = info[:56] + b"BGRs" + info[60:]
    offset = 14 + len(info)
    return b"BM" + struct.pack("<IHHI", offset + rows.size, 0, 0, offset) + info + rows.tobytes()


FIELDS = {
    "565": (16, (0xF800, 0x7E0, 0x1F, 0)),
    "4444": (16, (0xF00, 0xF0, 0xF, 0xF000)),
    "231": (16, (0x30, 0xE, 1, 0)),
    "8888": (32, (0xFF0000, 0xFF00, 0xFF, 0xFF000000)),
    "rgba": (32, (0xFF000000, 0xFF0000, 0xFF00, 0xFF)),
    "10 bits": (32, (0x3FF00000, 0xFFC00, 0x3FF, 0)),
    "111110": (32, (0xFFE00000, 0x1FFC00, 0x3FF, 0)),
}


@pytest.mark.parametrize("top_down", [False, True])
@pytest.mark.parametrize("name", FIELDS)
def test_bit_fields_of_bmp(name, top_down):
    bits, masks = FIELDS[name]
    values = np.random.default_rng(0).integers(0, 1 << bits, (9, 13), dtype=np.uint64)
    picture = read_image(bmp(bits, masks, values, top_down=top_down))
    shifts = [(mask & -mask).bit_length() - 1 for mask in masks]
    planes = [
        ((values & np.uint64(m)) >> np.uint64(s)) / (m >> s) for m, s in zip(masks, shifts, strict=True) if m
    ]
    seen = np.ones((9, 13), bool)
    if masks[3]:
        assert np.abs(picture.alpha - planes[3]).max() < 0.003
        seen = picture.alpha > 0
    else:
        assert picture.alpha is None
    assert np.abs(picture.rgb - np.stack(planes[:3], axis=-1))[seen].max() < 0.003


@pytest.mark.parametrize("header", [40, 56, 108, 124])
def test_alpha_of_bmp_that_is_zero_everywhere_was_never_meant(header):
    values = np.random.default_rng(0).integers(0, 1 << 24, (5, 7), dtype=np.uint64)
    masks = FIELDS["8888"][1]
    opaque = read_image(bmp(32, masks, values, header, compression=3 if header > 40 else 6))
    assert opaque.alpha is None
    assert np.array_equal(np.round(opaque.rgb[..., 0] * 255), values >> np.uint64(16))


def test_bmp_of_other_kinds():
    values = np.zeros((4, 4), np.uint64)
    for compression in (4, 5):
        with pytest.raises(ImageError, match=rf"compression \({compression}\) is of a kind"):
            read_image(bmp(32, (0, 0, 0, 0), values, compression=compression))
    with pytest.raises(ImageError, match="no bits for one of its colours"):
        read_image(bmp(16, (0xFF00, 0, 0xFF, 0), values))
    with pytest.raises(ImageError, match="cut off"):
        read_image(bmp(16, FIELDS["565"][1], values)[:-3])


def test_profile_inside_bmp():
    profile = icc_profiles.display_p3()
    rows = np.ascontiguousarray(CODES[::-1, :, ::-1]).tobytes()
    info = struct.pack("<IiiHHIIiiII", 124, 32, 24, 1, 24, 0, len(rows), 0, 0, 0, 0).ljust(124, b"\0")
    info = info[:56] + b"DEBM" + info[60:112] + struct.pack("<II", 124 + len(rows), len(profile)) + bytes(4)
    data = b"BM" + struct.pack("<IHHI", 138 + len(rows) + len(profile), 0, 0, 138) + info + rows + profile
    assert read_image(data).source.icc == profile


@pytest.mark.parametrize(
    "head, kind",
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC"),
        (b"\0\0\0\x18ftypcrx \0\0\0\1crx isom", "camera raw"),
        (b"IIRO\x08\0\0\0", "camera raw"),
        (b"FUJIFILMCCD-RAW 0201", "camera raw"),
        (b"\xff\x0a\xfa\x7f", "JPEG XL"),
        (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000"),
        (b"8BPS\0\1", "Photoshop"),
        (b'<?xml version="1.0"?>\n<!-- a -->\n<svg xmlns="x">', "SVG"),
    ],
)
def test_known_kinds_that_are_not_read(head, kind):
    with pytest.raises(ImageError) as caught:
        read_image(head + bytes(100))
    assert kind in str(caught.value) and "not read" in str(caught.value)
    assert re.search("damaged|known format", str(caught.value)) is None
