"""Files that are no pictures, damaged, hostile or only oddly named."""

import os
import struct
import zlib

import icc_profiles
import imagecodecs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import photo, pil, ramp16, saved
from PIL import Image

from unistep.errors import ImageError
from unistep.image import Picture, probe, read_image, write_image


def refused(source, *words, header=True, **options):
    """Reading raises one line with the words; looking at the header does too, if `header`."""
    with pytest.raises(ImageError) as caught:
        read_image(source, **options)
    message = str(caught.value)
    assert "\n" not in message and all(word in message for word in words), message
    if header:
        with pytest.raises(ImageError):
            probe(source, **options)


def test_what_is_not_a_picture(tmp_path):
    text = tmp_path / "holiday.jpg"
    text.write_text("Dear diary, no picture today.")
    refused(text, "holiday.jpg", "not a picture")
    empty = tmp_path / "empty.png"
    empty.touch()
    refused(empty, "empty.png", "empty")
    refused(tmp_path, tmp_path.name, "folder")
    refused(tmp_path / "missing.png", "missing.png", "No such file")
    refused(b"%PDF-1.7 ....", "not a picture")
    refused(b"%!PS-Adobe-3.0 EPSF-3.0\n", "not a picture")
    pipe = tmp_path / "pipe.png"
    os.mkfifo(pipe)
    refused(pipe, "pipe.png")
    odd = tmp_path / "two\nlines.jpg"
    odd.write_text("text")
    refused(odd, "lines.jpg")


def test_mislabelled_pictures_are_read(tmp_path):
    path = tmp_path / "really-a-png.jpg"
    path.write_bytes(saved(pil(photo(4, 5, 3), "RGB"), "PNG"))
    assert read_image(path).source.format == "PNG"


@pytest.mark.parametrize("name", ["with space.png", "日本語 ü.png", "-rf.png", "..png.png"])
def test_odd_names(tmp_path, name):
    write_image(tmp_path / name, Picture(np.zeros((1, 1, 3), np.float32)))
    assert probe(tmp_path / name) == (1, 1)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def png_header(width, height):
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))


def test_bombs_are_refused_from_the_header():
    end = struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))
    refused(png_header(60_000, 60_000) + end, "60000 x 60000", "at most 200")
    webp = b"RIFF" + struct.pack("<I", 40) + b"WEBPVP8X" + struct.pack("<I", 10) + bytes(4)
    refused(webp + (16382).to_bytes(3, "little") * 2 + bytes(20), "16383 x 16383")
    bmp = bytearray(saved(pil(photo(2, 2, 3), "RGB"), "BMP"))
    bmp[18:26] = struct.pack("<ii", 50_000, 50_000)
    refused(bytes(bmp), "50000 x 50000")
    refused(png_header(0, 5) + end)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF", "BMP", "AVIF", "GIF"])
def test_cap_on_pixels(format):
    data = saved(pil(photo(20, 30, 3), "RGB"), format)
    assert read_image(data, max_pixels=600).rgb.shape == (20, 30, 3)
    refused(data, "30 x 20", max_pixels=599)


def test_float_tiff_is_refused():
    data = saved(Image.fromarray(np.ones((4, 4), np.float32)), "TIFF")
    refused(data, "16-bit", header=False)


def test_jpeg_with_endless_scans_is_refused():
    data = saved(pil(photo(16, 16, 3), "RGB"), "JPEG", progressive=True)
    scan = data[data.rindex(b"\xff\xda") : -2]
    refused(data[:-2] + scan * 600 + data[-2:], "scans")
    assert read_image(data + scan * 600).rgb.shape == (16, 16, 3)  # behind the picture, they are none of it


def samples():
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "Maker"
    profile = icc_profiles.display_p3()
    for format in ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "AVIF", "GIF"):
        yield format, saved(pil(photo(24, 20, 3), "RGB"), format, exif=exif, icc_profile=profile)
    yield "PNG-16", imagecodecs.png_encode(ramp16(3, 16, 16))
    yield "TIFF-16", imagecodecs.tiff_encode(ramp16(3, 16, 16), photometric=2, compression=8)
    yield "JPEG-CMYK", saved(pil(photo(16, 16, 4), "CMYK"), "JPEG", progressive=True)
    yield "PNG-palette", saved(pil(photo(24, 20, 3), "RGB").quantize(16), "PNG")


SAMPLES = dict(samples())


@pytest.mark.parametrize("name", SAMPLES)
@settings(max_examples=60, deadline=None)
@given(st.data())
def test_damaged_files_give_a_picture_or_an_error(name, data):
    blob = bytearray(SAMPLES[name])
    for _ in range(data.draw(st.integers(0, 4))):
        # damage is most interesting in headers
        end = data.draw(st.sampled_from([64, 600, len(blob)]))
        blob[data.draw(st.integers(0, min(end, len(blob)) - 1))] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        blob = blob[: data.draw(st.integers(0, len(blob)))]
    try:
        picture = read_image(bytes(blob), max_pixels=1_000_000)
    except ImageError as error:
        assert "\n" not in str(error) and str(error).startswith("the given data: ")
    else:
        assert picture.rgb.ndim == 3 and np.isfinite(picture.rgb).all()


@pytest.mark.parametrize("name", SAMPLES)
def test_truncated_files_are_refused(name):
    blob = SAMPLES[name]
    if name == "TIFF":  # its directory lies at the end
        blob = blob[:-40]
    refused(blob[: len(blob) // 2], header=False)
