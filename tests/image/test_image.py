"""Image files: orientation, families, depths and alpha there and back."""

import struct
import zlib
from io import BytesIO

import imagecodecs
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import MODES, codes_of, photo, pil, ramp16, saved
from PIL import Image, ImageOps

from unistep.image import Picture, Source, probe, read_image, write_image
from unistep.image.tiffwriting import encode_tiff
from unistep.pixels.resize import resize

LOSSLESS = {"L": ("png", "tif", "bmp"), "LA": ("png", "tif")}
LOSSLESS |= {"RGB": LOSSLESS["L"], "RGBA": LOSSLESS["LA"]}


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation(tmp_path, format, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = saved(pil(photo(21, 34, 3), "RGB"), format, exif=exif)
    with Image.open(BytesIO(data)) as image:
        expected = np.asarray(ImageOps.exif_transpose(image))
    picture = read_image(data)
    assert np.array_equal(picture.rgb, expected / np.float32(255))
    assert probe(data) == (expected.shape[1], expected.shape[0])
    write_image(tmp_path / "out.png", picture)
    assert np.array_equal(codes_of(tmp_path / "out.png", "RGB"), expected)
    with Image.open(tmp_path / "out.png") as image:
        assert image.getexif().get(0x0112, 1) == 1


def test_orientations_differ():
    stored = photo(6, 9, 3)
    seen = set()
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        seen.add(read_image(saved(pil(stored, "RGB"), "PNG", exif=exif)).rgb.tobytes())
    assert len(seen) == 8


def test_dpi_is_kept_and_turned(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    picture = read_image(saved(pil(photo(8, 5, 3), "RGB"), "PNG", exif=exif, dpi=(300, 150)))
    assert picture.source.dpi == pytest.approx((150, 300), abs=0.02)
    for suffix in ("png", "tif", "jpg", "bmp"):
        write_image(tmp_path / f"out.{suffix}", picture)
        with Image.open(tmp_path / f"out.{suffix}") as image:
            assert tuple(map(float, image.info["dpi"])) == pytest.approx((150, 300), abs=0.02)


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(sorted(LOSSLESS)), st.integers(1, 40), st.integers(1, 40), st.data())
def test_lossless_round_trips_are_exact(tmp_path_factory, mode, height, width, data):
    suffix = data.draw(st.sampled_from(LOSSLESS[mode]))
    path = tmp_path_factory.mktemp("trip") / f"out.{suffix}"
    codes = photo(height, width, MODES[mode])
    write_image(path, read_image(saved(pil(codes, mode), "PNG")))
    found = codes_of(path, mode).reshape(codes.shape)
    visible = codes[..., -1] > 0 if mode in ("LA", "RGBA") else np.ones(codes.shape[:2], bool)
    assert np.array_equal(found[visible], codes[visible])
    if mode in ("LA", "RGBA"):
        assert np.array_equal(found[..., -1], codes[..., -1])


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(sorted(MODES)),
    st.sampled_from(["jpg", "png", "webp", "tif", "bmp", "avif"]),
    st.integers(1, 30),
    st.integers(1, 30),
)
def test_any_family_in_any_format(tmp_path_factory, mode, suffix, height, width):
    path = tmp_path_factory.mktemp("any") / f"out.{suffix}"
    picture = read_image(saved(pil(photo(height, width, MODES[mode]), mode), "TIFF"))
    assert picture.source.family == {"L": "grey", "LA": "grey", "CMYK": "cmyk"}.get(mode, "rgb")
    write_image(path, picture)
    again = read_image(path)
    assert probe(path) == (width, height)
    assert again.rgb.shape == (height, width, 3) and again.rgb.dtype == np.float32
    assert np.isfinite(again.rgb).all()
    keeps = {"grey": ("jpg", "png", "tif", "bmp"), "cmyk": ("jpg", "tif"), "rgb": ()}[picture.source.family]
    assert again.source.family == (picture.source.family if suffix in keeps else "rgb")
    assert (again.alpha is not None) == (picture.alpha is not None and suffix not in ("jpg", "bmp"))
    if picture.alpha is not None and again.alpha is not None:
        assert np.abs(again.alpha - picture.alpha).max() < (0.1 if suffix in ("webp", "avif") else 1e-6)
    elif picture.alpha is None and suffix in ("png", "tif", "bmp"):
        assert np.abs(again.rgb - picture.rgb).max() < 0.004


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bits_are_exact(tmp_path, channels, suffix):
    codes = ramp16(channels)
    if channels in (2, 4):
        codes[..., -1] |= 1  # nothing fully transparent, so all colours count
    picture = read_image(imagecodecs.png_encode(codes))
    assert picture.source.depth == 16
    assert (picture.alpha is not None) == (channels in (2, 4))
    path = tmp_path / f"out.{suffix}"
    write_image(path, picture)
    decoder = imagecodecs.png_decode if suffix == "png" else imagecodecs.tiff_decode
    found = decoder(path.read_bytes())
    assert found.dtype == np.uint16 and np.array_equal(found.reshape(codes.shape), codes)
    again = read_image(path)
    assert again.source.depth == 16 and np.array_equal(again.rgb, picture.rgb)


def test_every_16_bit_code_survives(tmp_path):
    codes = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    write_image(tmp_path / "ramp.png", read_image(imagecodecs.png_encode(codes)))
    assert np.array_equal(imagecodecs.png_decode((tmp_path / "ramp.png").read_bytes()), codes)


@pytest.mark.parametrize(
    "options",
    [
        {"byteorder": ">"},
        {"tile": (16, 16)},
        {"planarconfig": "separate"},
        {"compression": "lzw", "predictor": True},
        {"bigtiff": True},
    ],
    ids=["big-endian", "tiled", "planar", "lzw", "big"],
)
def test_16_bit_tiff_variants(options):
    codes = ramp16(3)
    stored = np.ascontiguousarray(np.moveaxis(codes, -1, 0)) if "planarconfig" in options else codes
    file = BytesIO()
    tifffile.imwrite(file, stored, photometric="rgb", metadata=None, **options)
    picture = read_image(file.getvalue())
    assert picture.source.depth == 16
    assert np.array_equal(picture.rgb, codes / np.float32(65535))


def test_16_bit_white_is_zero():
    codes = ramp16(1)
    picture = read_image(imagecodecs.tiff_encode(codes[..., 0], photometric=0))
    assert np.array_equal(picture.rgb[..., 1], (65535 - codes[..., 0]) / np.float32(65535))


def test_transparent_colour_of_16_bit_png():
    codes = ramp16(3)
    data = imagecodecs.png_encode(codes)
    key = b"tRNS" + struct.pack(">3H", *map(int, codes[3, 4]))
    chunk = struct.pack(">I", 6) + key + struct.pack(">I", zlib.crc32(key))
    picture = read_image(data[:33] + chunk + data[33:])
    assert picture.alpha is not None and picture.alpha[3, 4] == 0 and picture.alpha.sum() == 40 * 33 - 1


def test_16_bits_become_8_where_they_must(tmp_path):
    picture = read_image(imagecodecs.png_encode(ramp16(3)))
    write_image(tmp_path / "out.bmp", picture)
    assert np.abs(read_image(tmp_path / "out.bmp").rgb - picture.rgb).max() <= 0.5 / 255 + 1e-6


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [4, 5])
def test_cmyk_tiff(tmp_path, dtype, channels):
    levels = np.iinfo(dtype).max
    codes = np.random.default_rng(2).integers(0, levels + 1, (9, 14, channels)).astype(dtype)
    codes[..., :4][codes[..., :4] == 0] = 1
    codes[..., :3] -= codes[..., :3].min(axis=-1, keepdims=True)  # the most black: unique inks
    codes[..., 3] //= 2
    codes[..., 4:] |= 1
    picture = read_image(encode_tiff(codes, "cmyk"))
    assert picture.source.family == "cmyk" and picture.source.depth == 8 * codes.itemsize
    ink = codes.astype(np.float64) / levels
    assert np.allclose(picture.rgb, (1 - ink[..., :3]) * (1 - ink[..., 3:4]), atol=1e-6)
    write_image(tmp_path / "out.tif", picture)
    again = read_image(tmp_path / "out.tif")
    assert again.source.family == "cmyk" and again.source.depth == picture.source.depth
    assert np.abs(again.rgb - picture.rgb).max() <= 2 / levels
    assert (again.alpha is None) == (channels == 4)
    if channels == 5:
        assert np.array_equal(again.alpha, picture.alpha)


def test_tiff_that_is_multiplied_by_alpha():
    straight, alpha = np.full((4, 4, 3), 40000, np.uint16), np.full((4, 4, 1), 32768, np.uint16)
    stored = np.concatenate([(straight * (alpha / 65535)).round().astype(np.uint16), alpha], axis=-1)
    picture = read_image(imagecodecs.tiff_encode(stored, photometric=2, extrasample=1))
    assert np.abs(picture.rgb * 65535 - 40000).max() < 3


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif"])
def test_palette_is_exact_up_to_256_colours(tmp_path, suffix):
    image = pil(photo(50, 40, 3), "RGB").quantize(200)
    expected = np.asarray(image.convert("RGB"))
    picture = read_image(saved(image, "PNG"))
    assert picture.source.family == "palette"
    write_image(tmp_path / f"out.{suffix}", picture)
    with Image.open(tmp_path / f"out.{suffix}") as found:
        assert found.mode == "P"
        assert np.array_equal(np.asarray(found.convert("RGB")), expected)


@pytest.mark.parametrize("channels", [3, 4])
def test_palette_of_more_colours_is_adapted(tmp_path, channels):
    codes = photo(60, 60, channels)
    rgb = codes[..., :3] / np.float32(255)
    alpha = codes[..., 3] / np.float32(255) if channels == 4 else None
    write_image(tmp_path / "out.png", Picture(rgb, alpha, Source(family="palette")))
    again = read_image(tmp_path / "out.png")
    assert again.source.family == "palette"
    assert (again.alpha is not None) == (channels == 4)
    assert np.abs(again.rgb - rgb).mean() < 0.08


def test_transparent_palette_is_exact(tmp_path):
    image = pil(photo(30, 30, 3), "RGB").quantize(64)
    data = saved(image, "PNG", transparency=bytes(range(0, 256, 4)))
    picture = read_image(data)
    write_image(tmp_path / "out.png", picture)
    again = read_image(tmp_path / "out.png")
    assert picture.alpha is not None and 0 < picture.alpha.mean() < 1
    assert again.source.family == "palette"
    assert np.array_equal(again.alpha, picture.alpha)
    assert np.array_equal(again.rgb[picture.alpha > 0], picture.rgb[picture.alpha > 0])


def test_one_bit_is_grey(tmp_path):
    image = pil(photo(20, 20, 1), "L").convert("1")
    picture = read_image(saved(image, "PNG"))
    assert picture.source.family == "grey" and picture.source.depth == 8
    write_image(tmp_path / "out.png", picture)
    assert np.array_equal(codes_of(tmp_path / "out.png", "L"), np.asarray(image.convert("L")))


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG", "AVIF"])
def test_animations_give_their_first_frame(tmp_path, format):
    frames = [Image.new("RGB", (12, 8), colour) for colour in ("red", "blue")]
    picture = read_image(saved(frames[0], format, save_all=True, append_images=frames[1:]))
    assert any("first frame" in note for note in picture.source.notes)
    assert np.abs(picture.rgb - [1, 0, 0]).max() < 0.05


def test_pages_give_the_first():
    frames = [Image.new("RGB", (12, 8), colour) for colour in ("red", "blue")]
    picture = read_image(saved(frames[0], "TIFF", save_all=True, append_images=frames[1:]))
    assert any("first" in note for note in picture.source.notes)
    assert np.abs(picture.rgb - [1, 0, 0]).max() == 0


def test_no_dark_fringes():
    y, x = np.mgrid[0:41, 0:41]
    inside = (y - 20) ** 2 + (x - 20) ** 2 < 150
    codes = np.zeros((41, 41, 4), np.uint8)  # black hides under the transparency
    codes[inside] = (250, 200, 100, 255)
    picture = read_image(saved(pil(codes, "RGBA"), "PNG"))
    larger = resize(picture.rgb, 164, 164)
    assert np.abs(larger - np.array([250, 200, 100]) / 255).max() < 1e-5


def test_hidden_colours_come_from_the_nearest_visible_ones():
    codes = np.zeros((16, 64, 4), np.uint8)
    codes[:, :4] = (255, 0, 0, 255)
    codes[:, -4:] = (0, 0, 255, 255)
    rgb = read_image(saved(pil(codes, "RGBA"), "PNG")).rgb
    assert np.array_equal(rgb[8, 6], [1, 0, 0]) and np.array_equal(rgb[8, -7], [0, 0, 1])


def test_fully_transparent_is_left_alone():
    picture = read_image(saved(pil(np.zeros((5, 7, 4), np.uint8), "RGBA"), "PNG"))
    assert not picture.rgb.any() and not picture.alpha.any()


@pytest.mark.parametrize("suffix", ["jpg", "bmp"])
def test_no_alpha_lays_over_white(tmp_path, suffix):
    rgb = np.zeros((16, 16, 3), np.float32)
    alpha = np.full((16, 16), 0.25, np.float32)
    write_image(tmp_path / f"out.{suffix}", Picture(rgb, alpha))
    assert np.abs(read_image(tmp_path / f"out.{suffix}").rgb - 0.75).max() < 0.01
