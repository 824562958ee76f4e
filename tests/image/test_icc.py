"""Colour profiles: float, unclipped, there and back."""

import icc_profiles
import imagecodecs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import MODES, codes_of, photo, pil, ramp16, saved
from PIL import Image

from unistep.image import Picture, Source, icc, read_image, write_image


@pytest.mark.parametrize("profile", [icc_profiles.srgb(), imagecodecs.cms_profile("srgb"), None])
def test_srgb_is_left_alone(tmp_path, profile):
    codes = photo(30, 40, 3)
    picture = read_image(saved(pil(codes, "RGB"), "PNG", icc_profile=profile))
    assert np.array_equal(picture.rgb, codes / np.float32(255))
    write_image(tmp_path / "out.png", picture)
    assert np.array_equal(codes_of(tmp_path / "out.png", "RGB"), codes)
    assert read_image(tmp_path / "out.png").source.icc == profile


PROFILES = {
    "p3": icc_profiles.display_p3(),
    "adobe": icc_profiles.adobe_rgb(),
    "sampled": icc_profiles.rgb_profile(
        icc_profiles.DISPLAY_P3, icc_profiles.table(np.linspace(0, 1, 1024) ** 1.8)
    ),
}


EVERY = PROFILES | {
    "grey": icc_profiles.grey_profile(icc_profiles.gamma(2.2)),
    "cmyk": icc_profiles.cmyk_profile(),
}


@pytest.mark.parametrize("name", PROFILES)
@pytest.mark.parametrize("suffix", ["png", "tif", "jpg", "webp", "avif"])
def test_rgb_profiles_come_back(tmp_path, name, suffix):
    codes = np.random.default_rng(3).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    picture = read_image(saved(pil(codes, "RGB"), "PNG", icc_profile=PROFILES[name]))
    assert picture.rgb.min() < -0.05 and picture.rgb.max() > 1.02  # nothing is clipped to sRGB
    path = tmp_path / f"out.{suffix}"
    write_image(path, picture)
    with Image.open(path) as image:
        assert image.info["icc_profile"] == PROFILES[name]
    if suffix in ("png", "tif"):
        assert np.abs(codes_of(path, "RGB").astype(int) - codes).max() <= 1


def test_rgb_profiles_come_back_at_16_bits(tmp_path):
    codes = ramp16(3)
    for profile in PROFILES.values():
        source = Source(depth=16, icc=profile)
        picture = Picture(icc.parse(profile).decode(codes), None, source)
        write_image(tmp_path / "out.tif", picture)
        found = imagecodecs.tiff_decode((tmp_path / "out.tif").read_bytes())
        assert np.abs(found.astype(int) - codes).max() <= 48  # float32, a fifth of an 8-bit level


def test_known_colours():
    red = np.array([[[255, 0, 0]]], np.uint8)
    assert np.allclose(icc.parse(PROFILES["p3"]).decode(red), [1.0931, -0.2267, -0.1501], atol=2e-3)
    green = np.array([[[0, 255, 0]]], np.uint8)
    linear = icc.srgb_to_linear(icc.parse(PROFILES["adobe"]).decode(green))
    assert np.allclose(linear, [-0.3984, 1.0, -0.0429], atol=2e-3)
    for profile in PROFILES.values():
        white = icc.parse(profile).decode(np.full((1, 1, 3), 255, np.uint8))
        assert np.abs(white - 1).max() < 1e-3


def test_the_same_colours_as_little_cms():
    codes = np.random.default_rng(4).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    for profile in PROFILES.values():
        ours = np.clip(icc.parse(profile).decode(codes), 0, 1)
        theirs = imagecodecs.cms_transform(
            codes, profile, imagecodecs.cms_profile("srgb"), colorspace="rgb", intent=1
        )
        assert np.abs(ours * 255 - theirs).max() <= 2


@pytest.mark.parametrize(
    "numbers",
    [
        (0, 1.7),
        (1, 1.7, 1.1, -0.1),
        (2, 1.7, 0.95, -0.1, 0.05),
        (3, 1.7, 0.9, 0.1, 0.3, 0.1),
        (4, 1.7, 0.9, 0.05, 0.3, 0.1, 0.02, 0.01),
    ],
)
def test_parametric_curves_agree_with_little_cms(numbers):
    profile = icc_profiles.grey_profile(icc_profiles.parametric(*numbers))
    codes = np.arange(256, dtype=np.uint8).reshape(16, 16, 1)
    theirs = imagecodecs.cms_transform(
        codes[..., 0] / np.float32(255),
        profile,
        imagecodecs.cms_profile("xyz"),
        colorspace="gray",
        outcolorspace="xyz",
        outdtype=np.float32,
        intent=1,
    )[..., 1]
    ours = icc.srgb_to_linear(icc.parse(profile).decode(codes)[..., 1])
    assert np.abs(ours - np.clip(theirs, 0, 1)).max() < 1e-4


@pytest.mark.parametrize("gamma", [1.0, 1.8, 2.2])
def test_grey_profiles_come_back(tmp_path, gamma):
    codes = np.arange(256, dtype=np.uint8).reshape(16, 16, 1)
    profile = icc_profiles.grey_profile(icc_profiles.gamma(gamma))
    picture = read_image(saved(pil(codes, "L"), "PNG", icc_profile=profile))
    assert picture.source.family == "grey"
    expected = icc.linear_to_srgb((codes / 255.0) ** (round(gamma * 256) / 256))
    assert np.allclose(picture.rgb, expected, atol=1e-4)
    for suffix in ("png", "tif", "jpg"):
        write_image(tmp_path / f"out.{suffix}", picture)
        with Image.open(tmp_path / f"out.{suffix}") as image:
            assert image.mode == "L" and image.info["icc_profile"] == profile
    assert np.array_equal(codes_of(tmp_path / "out.png", "L")[..., None], codes)
    write_image(tmp_path / "out.webp", picture)  # has no grey: RGB cannot have a grey profile
    with Image.open(tmp_path / "out.webp") as image:
        assert image.mode == "RGB" and "icc_profile" not in image.info


def test_cmyk_profile_comes_back(tmp_path):
    profile = icc_profiles.cmyk_profile()
    rgb = photo(24, 24, 3) / 255.0
    black = 1 - rgb.max(axis=-1, keepdims=True)
    ink = np.concatenate([(1 - rgb - black) / (1 - black), black], axis=-1)
    codes = np.round(ink * 255).astype(np.uint8)
    picture = read_image(saved(pil(codes, "CMYK"), "TIFF", icc_profile=profile))
    assert picture.source.notes == ()
    assert np.abs(picture.rgb - rgb).max() < 0.03  # tables of 9 points an axis
    for suffix in ("tif", "jpg"):
        write_image(tmp_path / f"out.{suffix}", picture)
        again = read_image(tmp_path / f"out.{suffix}")
        assert again.source.family == "cmyk" and again.source.icc == profile
        assert np.abs(again.rgb - picture.rgb).mean() < 0.02


@pytest.mark.parametrize("space", ["RGB", "L"])
def test_broken_profiles_are_noted_and_dropped(tmp_path, space):
    good = icc_profiles.display_p3() if space == "RGB" else icc_profiles.grey_profile(icc_profiles.gamma(2.2))
    other = icc_profiles.cmyk_profile()
    codes = photo(5, 6, MODES[space])
    for broken in (good[:100], good[:200], good[:-40], bytes(300), good.replace(b"curv", b"????"), other):
        if broken == good:
            continue
        if space == "RGB":
            broken = broken.replace(b"para", b"????")
        picture = read_image(saved(pil(codes, space), "TIFF", icc_profile=broken))
        assert np.array_equal(picture.rgb, np.broadcast_to(codes / np.float32(255), picture.rgb.shape))
        assert picture.source.icc is None and "profile" in picture.source.notes[0]
        write_image(tmp_path / "out.png", picture)
        with Image.open(tmp_path / "out.png") as image:
            assert "icc_profile" not in image.info


@settings(max_examples=80, deadline=None)
@given(st.sampled_from(sorted(EVERY)), st.integers(0, 10**6), st.integers(0, 255), st.booleans())
def test_damaged_profiles_never_break(name, place, value, cut):
    data = bytearray(EVERY[name])
    data[place % min(len(data), 600)] = value
    data = bytes(data[: len(data) - place % 300 if cut else len(data)])
    try:
        parsed = icc.parse(data)
    except ValueError:
        return
    rgb = parsed.decode(photo(3, 3, icc.CHANNELS[parsed.space]))
    assert np.isfinite(parsed.encode(np.nan_to_num(rgb))).all()
