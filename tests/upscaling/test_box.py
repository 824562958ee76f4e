"""A width and a height together: within them, covering them, or stretched to them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from unistep.errors import ConfigError, ImageError
from unistep.image import Picture
from unistep.pixels.resize import resize
from unistep.upscaling.upscaler import Upscaler

SIDES = st.integers(1, 16)


class Nearest(nn.Module):
    scale, overlap = 4, 4

    def forward(self, x: Tensor) -> Tensor:
        return x.repeat_interleave(4, 2).repeat_interleave(4, 3)


NEAREST = Upscaler(Nearest(), "cpu")


def noise(height: int, width: int, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(height * 100 + width).random((height, width, channels), np.float32)


@given(SIDES, SIDES, st.data(), st.sampled_from(["fill", "stretch"]), st.booleans())
def test_fill_and_stretch_are_exact(height, width, data, box, alpha) -> None:
    to_height, to_width = data.draw(st.integers(1, 8 * height)), data.draw(st.integers(1, 8 * width))
    picture = Picture(noise(height, width), noise(height, width, 1)[..., 0] if alpha else None)
    found = NEAREST(picture, width=to_width, height=to_height, box=box)
    assert found.rgb.shape == (to_height, to_width, 3)
    assert (found.alpha.shape if found.alpha is not None else None) == (
        (to_height, to_width) if alpha else None
    )
    pixels = (noise(height, width) * 255).astype(np.uint8)
    assert NEAREST(pixels, width=to_width, height=to_height, box=box).shape == (to_height, to_width, 3)


@given(SIDES, SIDES, st.integers(1, 100), st.integers(1, 100))
def test_fit_is_the_largest_inside(height, width, to_height, to_width) -> None:
    image, box = noise(height, width), (min(to_width, 8 * width), min(to_height, 8 * height))
    both = NEAREST(image, width=box[0], height=box[1])
    assert np.array_equal(both, NEAREST(image, fit=box)), "as --fit"
    assert both.shape[1] == box[0] or both.shape[0] == box[1]


@pytest.mark.parametrize(
    ("size", "whole"), [((48, 48), (72, 48)), ((60, 16), (60, 40)), ((11, 20), (30, 20))]
)
def test_fill_is_the_middle_of_the_picture_that_covers(size, whole) -> None:
    picture = Picture(noise(10, 15), noise(10, 15, 1)[..., 0])
    found = NEAREST(picture, width=size[0], height=size[1], box="fill")
    covers = NEAREST(picture, fit=whole)
    left, top = (whole[0] - size[0]) // 2, (whole[1] - size[1]) // 2
    inside = slice(top, top + size[1]), slice(left, left + size[0])
    assert np.array_equal(found.rgb, covers.rgb[inside])
    assert np.array_equal(found.alpha, covers.alpha[inside])
    assert found.rgb.base is None, "what stood over is not kept in memory"


def test_stretch_resamples_each_axis_on_its_own() -> None:
    image = noise(10, 15)
    found = NEAREST(image, width=40, height=70, box="stretch")
    whole = resize(image.repeat(4, 0).repeat(4, 1), 40, 70).clip(0, 1)
    np.testing.assert_allclose(found, whole, rtol=0, atol=2e-6)


def test_boxes_that_cannot_be() -> None:
    for asked, words in (
        ({"width": 40, "box": "fill"}, "needs both a width and a height"),
        ({"box": "stretch"}, "needs both a width and a height"),
        ({"width": 40, "height": 40, "box": "crop"}, "box must be one of fit, fill, stretch"),
        ({"width": 121, "height": 40, "box": "stretch"}, "8 times is the most"),
        ({"width": 10, "height": 81, "box": "fill"}, "8 times is the most"),
        ({"width": 40, "height": 40, "scale": 2}, "exactly one of"),
    ):
        with pytest.raises(ConfigError, match=words):
            NEAREST(noise(10, 15), **asked)
    with pytest.raises(ImageError, match="60 x 40 pixels, more than the limit"):  # it is what must be made
        NEAREST(noise(10, 15), width=4, height=40, box="fill", max_output_pixels=1000)


def test_a_separation_is_cut_with_its_picture() -> None:
    """CMYK without a profile: `fill` cuts the inks that the new file follows where it cuts the picture."""
    inks = np.zeros((8, 16, 4), np.uint8)
    inks[..., 3] = np.arange(16) * 10
    picture = Picture(np.zeros((8, 16, 3), np.float32), inks=inks)
    filled = Upscaler(Nearest(), "cpu")(picture, width=16, height=16, box="fill")
    assert filled.rgb.shape == (16, 16, 3)
    np.testing.assert_array_equal(filled.inks, inks[:, 4:12])
