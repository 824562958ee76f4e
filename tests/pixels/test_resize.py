"""Exact sizes, and resampling to them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from unistep.errors import ConfigError
from unistep.pixels.resize import MAX_SCALE, centre, covering, resize, target_size

SIZES = st.integers(1, 40)


def noise(height, width, channels=3):
    return np.random.default_rng(height * 100 + width).random((height, width, channels), dtype=np.float32)


@settings(max_examples=80, deadline=None)
@given(SIZES, SIZES, SIZES, SIZES, st.integers(1, 4))
def test_exact_shape_and_constants_stay(height, width, to_height, to_width, channels):
    out = resize(noise(height, width, channels), to_width, to_height)
    assert out.shape == (to_height, to_width, channels) and out.dtype == np.float32 and np.isfinite(out).all()
    flat = np.full((height, width, channels), 0.3, np.float32)
    assert np.abs(resize(flat, to_width, to_height) - 0.3).max() < 1e-6


def test_same_size_is_the_same():
    image = noise(9, 11)
    assert np.array_equal(resize(image, 11, 9), image)


@settings(max_examples=40, deadline=None)
@given(SIZES, SIZES, st.data())
def test_shrinking_keeps_the_mean(height, width, data):
    to_height, to_width = data.draw(st.integers(1, height)), data.draw(st.integers(1, width))
    image = noise(height, width)
    out = resize(image, to_width, to_height)
    assert np.allclose(out.mean(axis=(0, 1)), image.mean(axis=(0, 1)), atol=1e-5)
    assert out.min() >= image.min() - 1e-6 and out.max() <= image.max() + 1e-6


def test_shrinking_by_whole_factors_averages_blocks():
    image = noise(12, 20)
    assert np.allclose(resize(image, 5, 4), image.reshape(4, 3, 5, 4, 3).mean(axis=(1, 3)), atol=1e-6)


def test_areas_are_shared_exactly():
    out = resize(np.array([[[0.0], [1.0], [2.0]]], np.float32), 2, 1)  # an output pixel covers 1.5 pixels
    assert np.allclose(out.ravel(), [(0 + 0.5) / 1.5, (0.5 + 2) / 1.5])


@pytest.mark.parametrize("size", [(33, 47), (20, 21), (80, 64)])
def test_enlarging_agrees_with_pillow(size):
    image = noise(20, 16, 1)
    theirs = Image.fromarray(image[..., 0]).resize(size[::-1], Image.Resampling.BICUBIC)
    inner = slice(8, -8)  # Pillow leaves out what lies beyond an edge
    ours = resize(image, size[1], size[0])[..., 0]
    assert np.abs(ours - np.asarray(theirs))[inner, inner].max() < 1e-5


def test_enlarging_keeps_straight_lines():
    ramp = np.linspace(0, 1, 12, dtype=np.float32)[None, :, None].repeat(3, axis=0)
    steps = np.diff(resize(ramp, 48, 3)[1, 8:-8, 0])
    assert np.allclose(steps, 1 / 44, atol=1e-6)


def test_axes_are_independent():
    image = noise(10, 30)
    assert np.allclose(resize(image, 15, 25), resize(resize(image, 15, 10), 15, 25), atol=1e-6)
    assert np.allclose(resize(image, 15, 25), resize(image.swapaxes(0, 1), 25, 15).swapaxes(0, 1), atol=1e-6)


def test_bands_do_not_show(monkeypatch):
    image = noise(30, 7)
    whole = resize(image, 9, 71), resize(image, 3, 11)
    monkeypatch.setattr("unistep.pixels.resize.BAND", 1)
    assert np.array_equal(resize(image, 9, 71), whole[0]) and np.array_equal(resize(image, 3, 11), whole[1])


@pytest.mark.parametrize("bad", [((3, 3), 2, 2), ((0, 3, 3), 2, 2), ((3, 3, 3), 0, 2), ((3, 3, 3), 2, -1)])
def test_impossible_resizes(bad):
    shape, width, height = bad
    with pytest.raises(ValueError):
        resize(np.zeros(shape, np.float32), width, height)


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 9000), st.integers(1, 9000), st.floats(1, 8))
def test_scale(width, height, scale):
    found = target_size(width, height, scale=scale)
    assert all(
        abs(side - before * scale) <= 0.5001 for side, before in zip(found, (width, height), strict=True)
    )


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 2000), st.integers(1, 2000), st.integers(1, 8000), st.integers(1, 8000))
def test_sides_and_boxes_are_exact(width, height, to_width, to_height):
    if to_width <= 8 * width:
        found = target_size(width, height, to_width=to_width)
        assert found[0] == to_width and abs(found[1] - height * to_width / width) <= max(
            0.5001, 1 - 1 / width
        )
    if to_height <= 8 * height:
        assert target_size(width, height, to_height=to_height)[1] == to_height
    if min(to_width / width, to_height / height) <= 8:
        found = target_size(width, height, fit=(to_width, to_height))
        assert found[0] <= to_width and found[1] <= to_height
        assert found[0] == to_width or found[1] == to_height


@settings(max_examples=300, deadline=None)
@given(st.integers(1, 2000), st.integers(1, 2000), st.integers(1, 8000), st.integers(1, 8000))
def test_both_sides_fit_fill_or_stretch(width, height, to_width, to_height):
    asked, largest = {"to_width": to_width, "to_height": to_height}, max(to_width / width, to_height / height)
    for box in ("fill", "stretch"):
        if largest <= MAX_SCALE:
            assert target_size(width, height, **asked, box=box) == (to_width, to_height)
        elif largest > MAX_SCALE * (1 + 1e-6):
            with pytest.raises(ConfigError, match="width and height ask for"):
                target_size(width, height, **asked, box=box)
    if min(to_width / width, to_height / height) <= MAX_SCALE:
        assert target_size(width, height, **asked) == target_size(width, height, fit=(to_width, to_height))
    across, down = covering(width, height, (to_width, to_height))
    assert across >= to_width and down >= to_height and (across == to_width or down == to_height)
    assert abs(across - width * largest) <= 0.5001 and abs(down - height * largest) <= 0.5001


@given(SIZES, SIZES, st.data())
def test_the_centre_is_in_the_middle(height, width, data):
    to_height, to_width = data.draw(st.integers(1, height)), data.draw(st.integers(1, width))
    found = centre(np.stack(np.indices((height, width)), axis=-1).astype(np.float32), to_width, to_height)
    assert found.shape == (to_height, to_width, 2) and found.flags.c_contiguous
    before, after = found[0, 0], (height - 1, width - 1) - found[-1, -1]
    assert set(after - before) <= {0, 1}, "as much on both sides"


def test_sizes_by_hand():
    assert target_size(101, 77, scale=4) == (404, 308)
    assert target_size(101, 77, scale=2.5) == (253, 193)  # 252.5 and 192.5: halves go up
    assert target_size(1000, 1, to_width=10) == (10, 1)
    assert target_size(400, 300, fit=(1000, 1000)) == (1000, 750)
    assert target_size(400, 300, fit=(200, 1000)) == (200, 150)
    assert target_size(400, 300, megapixels=1.92) == (1600, 1200)
    assert target_size(3, 7, scale=8) == (24, 56)
    assert target_size(3, 7, to_width=24) == (24, 56)
    assert target_size(400, 300, to_width=1000, to_height=1000) == (1000, 750)
    assert target_size(400, 300, to_width=200, to_height=1000, box="fill") == (200, 1000)
    assert covering(400, 300, (1000, 1000)) == (1333, 1000)
    assert covering(400, 300, (200, 100)) == (200, 150)


@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"scale": 2.0, "to_width": 5},
        {"scale": 0.99},
        {"scale": 8.01},
        {"scale": float("nan")},
        {"scale": float("inf")},
        {"to_width": 0},
        {"to_height": -3},
        {"fit": (0, 10)},
        {"megapixels": 0.0},
        {"to_width": 801},
        {"to_height": 1000},
        {"fit": (900, 900)},
        {"megapixels": 1.0},
        {"to_width": 10, "box": "fill"},
        {"fit": (10, 10), "box": "stretch"},
        {"to_width": 10, "to_height": 10, "box": "crop"},
        {"to_width": 10, "to_height": 10, "fit": (10, 10)},
        {"to_width": 10, "to_height": 0, "box": "fill"},
        {"to_width": 100, "to_height": 801, "box": "stretch"},
        {"to_width": 801, "to_height": 100, "box": "fill"},
        {"to_width": 801, "to_height": 900},
    ],
)
def test_sizes_that_cannot_be(asked):
    with pytest.raises(ConfigError) as caught:
        target_size(100, 100, **asked)
    assert "\n" not in str(caught.value)
