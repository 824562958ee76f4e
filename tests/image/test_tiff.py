"""TIFFs of all kinds, written here or by tifffile, against the numbers that went in."""

import io
import struct

import numpy as np
import pytest
import tifffile
from pictures import photo, pil, ramp16, saved
from PIL import Image

from unistep.errors import ImageError
from unistep.image import probe, read_image, write_image
from unistep.image.lab import lab_to_srgb

CODES = photo(20, 28, 3)


def tiff(array, *, byteorder="<", bigtiff=False, **options):
    file = io.BytesIO()
    options = {"photometric": "rgb", "metadata": None, "software": False} | options
    tifffile.imwrite(file, array, byteorder=byteorder, bigtiff=bigtiff, **options)
    return file.getvalue()


def fields(width, height, bits, photometric, pixels, *, samples=1, order="<", more=(), at=None):
    """A file of one strip, by hand; `more` are (tag, type, values)."""
    sizes = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i"}
    entries = [(256, 4, [width]), (257, 4, [height]), (258, 3, [bits] * samples), (259, 3, [1])]
    entries += [(262, 3, [photometric]), (273, 4, [8]), (277, 3, [samples]), (278, 4, [height])]
    entries += [(279, 4, [len(pixels)]), *more]
    pixels += b"\0" * (len(pixels) % 2)
    start = 8 + len(pixels)
    body, records = b"", b""
    room = start + 2 + 12 * len(entries) + 4
    for tag, kind, values in sorted(entries):
        data = struct.pack(f"{order}{len(values)}{sizes[kind]}", *values)
        place = data.ljust(4, b"\0") if len(data) <= 4 else struct.pack(order + "I", room + len(body))
        body += data if len(data) > 4 else b""
        records += struct.pack(order + "HHI", tag, kind, len(values)) + place
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", start)
    return head + pixels + struct.pack(order + "H", len(entries)) + records + bytes(4) + body


def off(picture, wanted):
    return float(np.abs(picture.rgb - wanted).max())


@pytest.mark.parametrize("bigtiff", [False, True])
@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("compression", [None, "deflate", "lzw", "packbits", "zstd", "lzma", "webp", "png"])
def test_compressions_and_byte_orders(byteorder, bigtiff, compression):
    arguments = {"lossless": True} if compression == "webp" else None
    data = tiff(
        CODES, byteorder=byteorder, bigtiff=bigtiff, compression=compression, compressionargs=arguments
    )
    assert off(read_image(data), CODES / 255) < 1e-6
    if compression not in ("webp", "png"):
        deep = ramp16(3, 20, 28)
        picture = read_image(tiff(deep, byteorder=byteorder, bigtiff=bigtiff, compression=compression))
        assert picture.source.depth == 16 and off(picture, deep / 65535) < 1e-6


@pytest.mark.parametrize("compression", [None, "lzw", "deflate"])
@pytest.mark.parametrize("tile", [None, (16, 16)])
@pytest.mark.parametrize("deep", [False, True])
def test_planes_tiles_and_alpha(compression, tile, deep):
    top = 65535 if deep else 255
    for channels, photometric in ((1, "minisblack"), (3, "rgb"), (4, "separated")):
        codes = ramp16(channels + 1, 20, 28) if deep else photo(20, 28, channels + 1)
        data = tiff(
            np.moveaxis(codes, -1, 0), photometric=photometric, planarconfig="separate",
            extrasamples=["unassalpha"], compression=compression, tile=tile,
        )  # fmt: skip
        picture = read_image(data)
        assert np.abs(picture.alpha - codes[..., -1] / top).max() < 1e-6
        if channels == 4:
            wanted = (1 - codes[..., :3] / top) * (1 - codes[..., 3:4] / top)
        else:
            wanted = np.broadcast_to(codes[..., :-1] / top, (20, 28, 3))
        seen = picture.alpha > 0
        assert np.abs(picture.rgb - wanted)[seen].max() < 1e-5


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_colour_maps_of_8_and_16_bits(tmp_path, bits, wide):
    """Some writers fill the 16-bit map with 8-bit values; a picture is not black for it."""
    rng = np.random.default_rng(bits)
    table = rng.integers(0, 256, (3, 1 << bits))
    indices = rng.integers(0, 1 << bits, (9, 16))
    rows = np.packbits((indices[..., None] >> np.arange(bits)[::-1]) & 1).tobytes()
    colours = (table * 257 if wide else table).ravel().tolist()
    picture = read_image(fields(16, 9, bits, 3, rows, more=[(320, 3, colours)]))
    assert picture.source.family == "palette"
    assert off(picture, table.T[indices] / 255) < 1e-6
    write_image(tmp_path / "out.tif", picture)
    assert off(read_image(tmp_path / "out.tif"), table.T[indices] / 255) < 1e-6


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 32])
@pytest.mark.parametrize("photometric", [0, 1])
def test_grey_of_any_whole_number_of_bits(bits, photometric):
    values = np.random.default_rng(bits).integers(0, 1 << bits, (6, 16), dtype=np.uint64)
    if bits <= 16 and bits not in (8, 16):
        flags = (values[..., None] >> np.arange(bits)[::-1].astype(np.uint64)) & np.uint64(1)
        rows = np.packbits(flags.astype(np.uint8)).tobytes()
    else:
        rows = values.astype(f"<u{bits // 8}").tobytes()
    picture = read_image(fields(16, 6, bits, photometric, rows))
    light = values / float((1 << bits) - 1)
    assert picture.source.family == "grey" and picture.source.depth == (8 if bits <= 8 else 16)
    assert off(picture, (light if photometric else 1 - light)[..., None]) < (1e-5 if bits > 8 else 1 / 254)


@pytest.mark.parametrize("kind", [1, 3, 4, 6, 8, 9])
@pytest.mark.parametrize("order", ["<", ">"])
def test_orientation_of_any_whole_number(tmp_path, kind, order):
    data = fields(28, 20, 8, 2, CODES.tobytes(), samples=3, order=order, more=[(274, kind, [6])])
    assert probe(data) == (20, 28)
    assert off(read_image(data), np.rot90(CODES, -1) / 255) < 1e-6
    write_image(tmp_path / "out.tif", read_image(data))
    assert off(read_image(tmp_path / "out.tif"), np.rot90(CODES, -1) / 255) < 1e-6


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("photometric", [8, 9])
def test_lab(photometric, deep):
    """White, black, middle grey and red, as CIE 15 has them (relative to D50)."""
    lab = np.array([[100, 0, 0], [0, 0, 0], [50, 0, 0], [54.29, 80.80, 69.89]])
    wanted = np.array([[1, 1, 1], [0, 0, 0], [0.4663, 0.4663, 0.4663], [1, 0, 0]])
    if photometric == 8:
        light = lab[:, :1] * ((65535 if deep else 255) / 100)
        codes = np.concatenate([light, lab[:, 1:] * (256 if deep else 1)], axis=1)
    else:
        light = lab[:, :1] * ((65280 if deep else 255) / 100)
        codes = np.concatenate([light, (lab[:, 1:] + 128) * (256 if deep else 1)], axis=1)
    codes = np.round(codes).astype(np.int32).astype(np.uint16 if deep else np.uint8)[None]
    data = fields(4, 1, 16 if deep else 8, photometric, codes.tobytes(), samples=3)
    picture = read_image(data)
    assert off(picture, wanted) < (0.01 if deep else 0.03)
    assert "Lab" in picture.source.notes[0] and picture.source.depth == (16 if deep else 8)
    assert lab_to_srgb(codes, signed=photometric == 8).dtype == codes.dtype


def test_ycbcr():
    """Uncompressed, one value of colour for each pixel, in planes or not."""
    r, g, b = (CODES[..., i].astype(float) for i in range(3))
    y = 0.299 * r + 0.587 * g + 0.114 * b
    planes = np.stack([y, (b - y) / 1.772 + 128, (r - y) / 1.402 + 128])
    planes = np.clip(np.round(planes), 0, 255).astype(np.uint8)
    more = [(530, 3, [1, 1])]
    chunky = fields(28, 20, 8, 6, np.moveaxis(planes, 0, -1).tobytes(), samples=3, more=more)
    assert off(read_image(chunky), CODES / 255) < 0.02
    for compression in (None, "lzw"):
        apart = tiff(
            planes, photometric="ycbcr", planarconfig="separate", subsampling=(1, 1), compression=compression
        )
        assert off(read_image(apart), CODES / 255) < 0.02
    jpeg = saved(pil(CODES, "RGB"), "TIFF", compression="jpeg", quality=100)
    seen = np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB")) / 255  # through libtiff
    assert off(read_image(jpeg), seen) < 0.02


def test_fax():
    page = np.random.default_rng(0).random((24, 32)) < 0.3
    for way in ("group3", "group4"):
        data = saved(Image.fromarray(page), "TIFF", compression=way)
        assert off(read_image(data), page[..., None].astype(float)) == 0


def test_the_picture_is_never_a_thumbnail(tmp_path):
    small, large = photo(10, 14, 3), photo(40, 56, 3, seed=1)
    for first, second in ((1, 0), (0, 1)):
        file = io.BytesIO()
        with tifffile.TiffWriter(file) as writer:
            for kind in (first, second):
                options = {"photometric": "rgb", "metadata": None, "subfiletype": kind}
                writer.write(small if kind else large, **options)
        picture = read_image(file.getvalue())
        assert off(picture, large / 255) < 1e-6 and picture.source.notes == ()
        assert probe(file.getvalue()) == (56, 40)
    alone = tiff(small, subfiletype=1)
    assert "smaller copy" in read_image(alone).source.notes[0]


def test_a_fault_in_a_later_page_costs_nothing():
    data = bytearray(tiff(CODES))
    at = struct.unpack_from("<I", data, 4)[0]
    count = struct.unpack_from("<H", data, at)[0]
    struct.pack_into("<I", data, at + 2 + 12 * count, len(data) + 1000)  # the next page lies outside
    assert off(read_image(bytes(data)), CODES / 255) < 1e-6
    struct.pack_into("<I", data, at + 2 + 12 * count, at)  # or is this one again
    assert off(read_image(bytes(data)), CODES / 255) < 1e-6


RAW = {
    "DNG": [(50706, 1, [1, 4, 0, 0])],
    "colour filter array": [(262, 3, [32803])],
    "linear raw": [(262, 3, [34892])],
    "Nikon": [(259, 3, [34713])],
    "Sony": [(259, 3, [32767])],
}


@pytest.mark.parametrize("name", RAW)
def test_camera_raw_is_refused_whatever_its_name(tmp_path, name):
    more = RAW[name]
    data = fields(28, 20, 8, 2, CODES.tobytes(), samples=3)
    tags = {tag for tag, _, _ in more}
    base = [(256, 4, [28]), (257, 4, [20]), (258, 3, [8, 8, 8]), (259, 3, [1]), (262, 3, [2])]
    data = raw_below(small=CODES, entries=[e for e in base if e[0] not in tags] + more)
    for suffix in (".tif", ".jpg", ".nef"):
        path = tmp_path / f"photo{suffix}"
        path.write_bytes(data)
        for look in (probe, read_image):
            with pytest.raises(ImageError, match="camera raw file, which is not read: develop it"):
                look(path)


def raw_below(small, entries):
    """A thumbnail whose SubIFD, in front of it, has `entries`."""
    below = struct.pack("<H", len(entries))
    room = 8 + 2 + 12 * len(entries) + 4
    body = b""
    for tag, kind, values in sorted(entries):
        data = struct.pack(f"<{len(values)}{ {1: 'B', 3: 'H', 4: 'I'}[kind] }".replace(" ", ""), *values)
        place = data.ljust(4, b"\0") if len(data) <= 4 else struct.pack("<I", room + len(body))
        body += data if len(data) > 4 else b""
        below += struct.pack("<HHI", tag, kind, len(values)) + place
    below += bytes(4) + body
    below += b"\0" * (len(below) % 2)
    thumbnail = fields(28, 20, 8, 2, below + small.tobytes(), samples=3, more=[(254, 4, [1]), (330, 4, [8])])
    return thumbnail


def test_tiffs_named_as_camera_raw(tmp_path):
    path = tmp_path / "old.dcr"
    path.write_bytes(tiff(CODES))
    with pytest.raises(ImageError, match="camera raw"):
        read_image(path)


@pytest.mark.parametrize(
    "options, word",
    [
        ({"more": [(339, 3, [3])], "bits": 32}, "whole numbers"),
        ({"more": [(339, 3, [2])], "bits": 16}, "whole numbers"),
        ({"photometric": 32844, "bits": 16}, "neither grey"),
        ({"photometric": 10, "bits": 8}, "neither grey"),
        ({"samples": 40, "bits": 8}, "40 samples"),
    ],
)
def test_kinds_that_are_not_read(options, word):
    options = {"photometric": 1, "more": (), "samples": 1} | options
    pixels = bytes(4 * 4 * options["samples"] * options["bits"] // 8)
    data = fields(
        4,
        4,
        options["bits"],
        options["photometric"],
        pixels,
        samples=options["samples"],
        more=options["more"],
    )
    with pytest.raises(ImageError, match=word) as caught:
        read_image(data)
    assert "damaged" not in str(caught.value) and "not read" in str(caught.value)


def test_compression_that_is_not_read():
    data = fields(4, 4, 8, 1, bytes(16)).replace(
        struct.pack("<HHIHH", 259, 3, 1, 1, 0), struct.pack("<HHIHH", 259, 3, 1, 9999, 0)
    )
    with pytest.raises(ImageError, match=r"compression \(9999\) is of a kind"):
        read_image(data)


@pytest.mark.parametrize("compression", [None, "lzw", "deflate", "jpeg"])
def test_missing_strips_are_damage(compression):
    data = tiff(photo(64, 64, 3), compression=compression, rowsperstrip=8)
    with pytest.raises(ImageError, match="damaged or cut off"):
        read_image(data[: len(data) // 2])


def test_a_jpeg_that_is_larger_than_its_strip_is_refused():
    large = saved(pil(photo(900, 900, 3), "RGB"), "JPEG")
    data = fields(16, 16, 8, 6, large, samples=3).replace(
        struct.pack("<HHIHH", 259, 3, 1, 1, 0), struct.pack("<HHIHH", 259, 3, 1, 7, 0)
    )
    with pytest.raises(ImageError, match="another size"):
        read_image(data)


def test_strip_sizes_that_count_too_much():
    pixels = CODES.tobytes()
    data = fields(28, 20, 8, 2, pixels, samples=3)
    size = struct.pack("<HHII", 279, 4, 1, len(pixels))
    data = data.replace(size, struct.pack("<HHII", 279, 4, 1, 10**7))
    assert off(read_image(data), CODES / 255) < 1e-6
