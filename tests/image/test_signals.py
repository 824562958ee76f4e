"""Colour that a file signals by other means than a profile, and profiles that lead nowhere back."""

import re
import struct
import zlib
from dataclasses import replace

import icc_profiles
import numpy as np
import pytest
from pictures import photo, pil, saved

from unistep.errors import ImageError
from unistep.image import icc, read_image, write_image

CODES = photo(24, 32, 3)
P3 = (31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000)


def off(one, other):
    return np.abs(one - other)


def chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(*chunks, codes=CODES, mode="RGB"):
    data = saved(pil(codes, mode), "PNG")
    return data[:33] + b"".join(chunks) + data[33:]


def nclx(primaries, transfer):
    """An AVIF whose code points are these."""
    data = saved(pil(CODES, "RGB"), "AVIF", quality=100, subsampling="4:4:4")
    points = struct.pack(">HH", primaries, transfer)
    return re.sub(rb"(?<=colrnclx)....", lambda _: points, data, count=1, flags=re.DOTALL)


CICP = chunk(b"cICP", bytes([12, 13, 0, 1]))
GAMA = chunk(b"gAMA", struct.pack(">I", 45455))
CHRM = chunk(b"cHRM", struct.pack(">8I", *P3))
ICCP = chunk(b"iCCP", b"p3\0\0" + zlib.compress(icc_profiles.display_p3()))
SRGB = chunk(b"sRGB", b"\0")


@pytest.mark.parametrize("chunks", [(ICCP,), (CICP,), (GAMA, CHRM), (CHRM,), (CICP, SRGB, GAMA)])
def test_every_way_of_saying_display_p3(tmp_path, chunks):
    picture = read_image(png(*chunks))
    wanted = icc.parse(icc_profiles.display_p3()).decode(CODES)
    assert off(picture.rgb, wanted).max() < 5e-4
    for suffix in (".png", ".tif", ".jpg", ".webp", ".avif"):
        write_image(tmp_path / f"again{suffix}", picture, quality=100)
        again = read_image(tmp_path / f"again{suffix}")
        assert off(again.rgb, wanted).mean() < (0.06 if suffix == ".webp" else 0.02)
        assert np.array_equal(icc.parse(again.source.icc).to_srgb, icc.parse(picture.source.icc).to_srgb)


def test_display_p3_of_avif_stays_in_its_code_points(tmp_path):
    picture = read_image(nclx(12, 13))
    assert picture.source.cicp == (12, 13)
    assert off(picture.rgb, icc.parse(icc_profiles.display_p3()).decode(CODES)).mean() < 0.02
    write_image(tmp_path / "again.avif", picture, quality=100)
    assert b"colrnclx\0\x0c\0\x0d" in (tmp_path / "again.avif").read_bytes()
    write_image(tmp_path / "again.png", picture)
    assert b"cICP\x0c\x0d\0\1" in (tmp_path / "again.png").read_bytes()
    assert read_image(tmp_path / "again.png").source.cicp == (12, 13)


def test_code_points_of_srgb_convert_nothing():
    assert read_image(png(chunk(b"cICP", bytes([1, 13, 0, 1])))).source.icc is None
    assert read_image(nclx(1, 13)).source.icc is None
    assert read_image(nclx(2, 2)).source.icc is None


def test_order_of_precedence():
    plain = CODES.astype(np.float32) / 255
    adobe = chunk(b"iCCP", b"a\0\0" + zlib.compress(icc_profiles.adobe_rgb()))
    assert read_image(png(CICP, adobe)).source.cicp == (12, 13)
    wanted = icc.parse(icc_profiles.adobe_rgb()).decode(CODES)
    assert off(read_image(png(adobe, GAMA, CHRM)).rgb, wanted).max() < 1e-4
    assert off(read_image(png(SRGB, GAMA, CHRM)).rgb, plain).max() < 1e-6


def test_gamma_alone_is_a_power():
    picture = read_image(png(chunk(b"gAMA", struct.pack(">I", 100_000))))  # linear
    linear = CODES / 255
    wanted = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    assert off(picture.rgb, wanted).max() < 2e-3
    grey = read_image(png(chunk(b"gAMA", struct.pack(">I", 100_000)), codes=CODES[..., :1], mode="L"))
    assert grey.source.family == "grey" and off(grey.rgb[..., 0], wanted[..., 0]).max() < 2e-3
    assert read_image(png(GAMA)).source.icc is None  # 1/2.2 is how sRGB is told to old readers
    broken = read_image(png(chunk(b"gAMA", bytes(4))))
    assert broken.source.icc is None and "gamma" in broken.source.notes[0]


@pytest.mark.parametrize("transfer, word", [(16, "PQ"), (18, "HLG")])
def test_hdr_is_refused(transfer, word):
    for data in (png(chunk(b"cICP", bytes([9, transfer, 0, 1]))), nclx(9, transfer)):
        with pytest.raises(ImageError, match=f"HDR.*{word}"):
            read_image(data)


def test_unknown_code_points_are_refused():
    for codes in ([99, 13, 0, 1], [1, 99, 0, 1], [1, 13, 0, 0]):
        with pytest.raises(ImageError, match="not read"):
            read_image(png(chunk(b"cICP", bytes(codes))))


def test_adobe_rgb_of_cameras(tmp_path):
    """DCF's way: no profile, but R03 in EXIF's interoperability directory."""
    exif = (
        b"II*\0\x08\0\0\0" + b"\1\0" + struct.pack("<HHII", 0x8769, 4, 1, 26) + bytes(4)
        + b"\1\0" + struct.pack("<HHII", 0xA005, 4, 1, 44) + bytes(4)
        + b"\1\0" + struct.pack("<HHI4s", 1, 2, 4, b"R03\0") + bytes(4)
    )  # fmt: skip
    data = saved(pil(CODES, "RGB"), "JPEG", quality=100, subsampling=0, exif=b"Exif\0\0" + exif)
    wanted = icc.parse(icc_profiles.adobe_rgb()).decode(CODES)
    assert off(read_image(data).rgb, wanted).mean() < 0.01


def bmp_v4(endpoints, gamma, codes=CODES):
    rows = np.ascontiguousarray(codes[::-1, :, ::-1]).tobytes()
    height, width = codes.shape[:2]
    info = struct.pack("<IiiHHIIiiII", 108, width, height, 1, 24, 0, len(rows), 0, 0, 0, 0)
    info += bytes(16) + struct.pack("<I", 0)
    info += struct.pack("<9i", *[round(v * 2**30) for v in np.ravel(endpoints)])
    info += struct.pack("<3I", *[round(gamma * 65536)] * 3)
    return b"BM" + struct.pack("<IHHI", 122 + len(rows), 0, 0, 122) + info + rows


@pytest.mark.parametrize("gamma", [461 / 256, 256 / 461])
@pytest.mark.parametrize("way", ["values", "chromaticities"])
def test_calibrated_bmp(gamma, way):
    x, y = 0.3127, 0.3290
    points = np.array([(*p, 1 - sum(p)) for p in icc_profiles.ADOBE_RGB])
    if way == "values":
        points = points * np.linalg.solve(points.T, [x / y, 1, (1 - x - y) / y])[:, None]
    curve = icc_profiles.gamma(461 / 256)
    wanted = icc.parse(icc_profiles.rgb_profile(icc_profiles.ADOBE_RGB, curve)).decode(CODES)
    assert off(read_image(bmp_v4(points, gamma)).rgb, wanted).max() < 0.01


def one_way(profile):
    """A profile without its way back."""
    return profile.replace(b"B2A0", b"gon0").replace(b"B2A1", b"gon1")


def test_one_way_profile_is_converted(tmp_path):
    press = icc_profiles.cmyk_profile()
    codes = photo(20, 16, 4)
    wanted = read_image(saved(pil(codes, "CMYK"), "TIFF", icc_profile=press))
    found = read_image(saved(pil(codes, "CMYK"), "TIFF", icc_profile=one_way(press)))
    assert off(found.rgb, wanted.rgb).max() < 1e-4
    assert found.source.family == "rgb" and found.source.icc is None
    assert "converted to sRGB" in found.source.notes[-1]
    write_image(tmp_path / "out.tif", found)
    again = read_image(tmp_path / "out.tif")
    assert again.source.family == "rgb" and off(again.rgb, found.rgb.clip(0, 1)).max() < 0.003


def test_profile_whose_way_back_leads_elsewhere(tmp_path):
    press = icc_profiles.cmyk_profile()
    tags = icc._tags(press)
    wrong = icc_profiles._lut16(np.zeros(2**3 * 4), 2, 3, 4)  # no ink, whatever the colour
    tags[b"B2A0"] = tags[b"B2A1"] = wrong
    made = bytearray(icc_profiles.profile(b"CMYK", b"Lab ", tags))
    made[12:16] = b"prtr"
    assert icc.parse(press).invertible and not icc.parse(bytes(made)).invertible
    found = read_image(saved(pil(photo(9, 7, 4), "CMYK"), "TIFF", icc_profile=bytes(made)))
    assert found.source.family == "rgb" and "converted to sRGB" in found.source.notes[-1]


def test_tables_come_before_curves():
    """A profile with both is read by its tables, as the standard says."""
    tags = icc._tags(icc_profiles.srgb())
    clut = np.zeros((2, 2, 2, 3))
    clut[..., 0] = 0.5  # Lab of the middle grey for every colour
    clut[..., 1:] = 128 / 255
    tags[b"A2B0"] = icc_profiles._lut16(clut * 65535, 2, 3, 3)
    found = icc.parse(icc_profiles.profile(b"RGB ", b"Lab ", tags))
    assert off(found.decode(CODES), found.decode(CODES[:1, :1])).max() < 1e-3


def test_cmyk_without_a_profile_keeps_its_inks(tmp_path):
    inks = np.array([[60, 50, 50, 0], [70, 60, 60, 80], [0, 0, 0, 100], [60, 60, 60, 100], [0, 0, 0, 0]])
    codes = np.round(inks * 2.55).astype(np.uint8).repeat(12, axis=0)[None].repeat(40, axis=0)
    for name, options in (("a.tif", {}), ("a.jpg", {"quality": 100, "subsampling": 0})):
        picture = read_image(saved(pil(codes, "CMYK"), "JPEG" if name.endswith("jpg") else "TIFF", **options))
        larger = np.repeat(np.repeat(picture.rgb, 2, axis=0), 2, axis=1)
        write_image(tmp_path / name, replace(picture, rgb=larger), quality=100)
        again = read_image(tmp_path / name)
        assert again.source.family == "cmyk"
        found = again.inks[40, 12::24] / 2.55
        assert np.abs(found - inks).max() < 4, found
        assert off(again.rgb, larger).max() < 0.03


def test_cmyk_without_a_profile_keeps_colours_where_the_picture_changed(tmp_path):
    picture = read_image(saved(pil(photo(20, 16, 4), "CMYK"), "TIFF"))
    other = np.random.default_rng(0).random((40, 32, 3), dtype=np.float32)
    write_image(tmp_path / "out.tif", replace(picture, rgb=other))
    assert off(read_image(tmp_path / "out.tif").rgb, other).max() < 0.02
