"""Kinds, exact sizes, colours and memory of the upscaler, with models that can be read."""

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor, nn

from unistep.errors import ConfigError, ImageError, MemoryLimit, ModelError
from unistep.image import Picture, Source
from unistep.pixels.colour import adain, wavelet
from unistep.pixels.kinds import MODES
from unistep.pixels.resize import resize
from unistep.upscaling.upscaler import Upscaler


class Nearest(nn.Module):
    scale, overlap = 4, 4

    def forward(self, x: Tensor) -> Tensor:
        return x.repeat_interleave(4, 2).repeat_interleave(4, 3)


class Tinted(Nearest):
    """Adds a colour cast and contrast, and remembers what it saw."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x)
        return super().forward(x) * 1.2 + torch.tensor([0.1, -0.1, 0.05]).view(1, 3, 1, 1)


class Noisy(Nearest):
    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        return y + 0.1 * torch.randn_like(y)


NEAREST = Upscaler(Nearest(), "cpu")


def noise(height: int, width: int, channels: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((height, width, channels), np.float32)


def repeated(array: np.ndarray) -> np.ndarray:
    return array.repeat(4, 0).repeat(4, 1)


def tinted(rgb: np.ndarray) -> np.ndarray:
    x = repeated(rgb).astype(np.float64) * 2 - 1
    return ((x * 1.2 + [0.1, -0.1, 0.05]) * 0.5 + 0.5).clip(0, 1).astype(np.float32)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.floats(1, 8), st.integers(4, 24), st.booleans())
def test_any_factor_gives_the_exact_size(height, width, scale, tile, twice) -> None:
    result = NEAREST(noise(height, width), scale, tile=tile, twice=twice)
    wanted = [max(1, int(np.floor(round(side * scale, 6) + 0.5))) for side in (height, width)]
    assert list(result.shape) == [*wanted, 3]
    assert np.isfinite(result).all() and result.min() >= 0 and result.max() <= 1


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 30), st.integers(1, 30), st.floats(1, 8), st.integers(4, 24))
def test_any_factor_is_the_resampled_model_output(height, width, scale, tile) -> None:
    image = noise(height, width)
    result = NEAREST(image, scale, tile=tile)
    whole = resize(repeated(image), result.shape[1], result.shape[0]).clip(0, 1)
    np.testing.assert_allclose(result, whole, rtol=0, atol=2e-6)


@pytest.mark.parametrize(
    ("asked", "wanted"),
    [
        ({}, (80, 120)),
        ({"scale": 2.5}, (50, 75)),
        ({"width": 100}, (67, 100)),
        ({"height": 100}, (100, 150)),
        ({"fit": (64, 64)}, (43, 64)),
        ({"megapixels": 0.006}, (63, 95)),
        ({"width": 10}, (7, 10)),
    ],
)
def test_sizes_can_be_asked_for_in_five_ways(asked, wanted) -> None:
    assert NEAREST(noise(20, 30), **asked).shape[:2] == wanted


def test_two_sizes_exclude_each_other() -> None:
    for asked in ({"width": 100, "fit": (100, 100)}, {"scale": 2, "width": 100}):
        with pytest.raises(ConfigError, match="exactly one"):
            NEAREST(noise(20, 30), **asked)


def test_twice_runs_the_model_on_its_own_result() -> None:
    image = noise(6, 5)
    model = Tinted()
    Upscaler(model, "cpu")(image, 8, twice=True)
    assert [tuple(x.shape[2:]) for x in model.seen] == [(6, 5), (24, 20)]
    np.testing.assert_allclose(
        NEAREST(image, 8, twice=True), image.repeat(8, 0).repeat(8, 1), rtol=0, atol=1e-6
    )


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float16, np.float32, np.float64])
@pytest.mark.parametrize("shape", [(9, 7), (9, 7, 1), (9, 7, 2), (9, 7, 3), (9, 7, 4)])
def test_arrays_keep_their_shape_and_depth(dtype, shape) -> None:
    levels = np.iinfo(dtype).max if np.dtype(dtype).kind == "u" else 1
    values = np.random.default_rng(0).random(shape) * levels
    array = np.rint(values).astype(dtype) if levels > 1 else values.astype(dtype)
    result = NEAREST(array)
    assert result.dtype == dtype and result.shape == (36, 28, *shape[2:])
    channels = result.reshape(36, 28, -1)
    colours = 3 if channels.shape[2] > 2 else 1
    wanted = repeated(array.reshape(9, 7, -1))[..., :colours].astype(np.float64)
    if channels.shape[2] in (2, 4):
        alpha = resize(array.reshape(9, 7, -1)[..., -1:].astype(np.float32) / levels, 28, 36).clip(0, 1)
        wanted = np.concatenate([wanted, alpha.astype(np.float64) * levels], 2)
    exact = {2: 1e-3}.get(np.dtype(dtype).itemsize, 1e-6) if levels == 1 else 0.51
    np.testing.assert_allclose(channels.astype(np.float64), wanted, rtol=0, atol=exact)


@pytest.mark.parametrize("mode", [*MODES, "I;16"])
def test_pillow_images_keep_their_mode(mode) -> None:
    base = Image.fromarray(np.rint(noise(9, 7, 4) * 255).astype(np.uint8))
    if mode == "I;16":
        image = Image.fromarray(np.rint(noise(9, 7, 1)[..., 0] * 65535).astype(np.uint16))
    elif mode == "La":
        image = base.convert("LA").convert("La")
    elif mode == "PA":
        image = base.convert("LA").convert("PA")
    elif mode in ("RGBA", "RGBa", "LA"):
        image = base.convert(mode)
    else:
        image = base.convert("RGB").convert(mode)
    image.info["icc_profile"] = b"profile"
    result = NEAREST(image)
    changed = {"1": "L", "P": "RGB", "PA": "RGBA", "La": "LA", "RGBa": "RGBA", "RGBX": "RGB"}
    assert result.mode == changed.get(mode, mode) and result.size == (28, 36)
    assert result.info["icc_profile"] == b"profile"
    if result.mode in ("L", "RGB", "CMYK", "YCbCr", "I;16"):
        same = image.convert(result.mode) if image.mode != result.mode else image
        distance = np.abs(np.asarray(result).astype(int) - repeated(np.asarray(same)).astype(int)).max()
        if mode == "CMYK":  # Pillow's CMYK has no black of its own
            rgb = np.asarray(image.convert("RGB")).astype(int)
            distance = np.abs(np.asarray(result.convert("RGB")).astype(int) - repeated(rgb)).max()
        assert distance <= (3 if mode == "YCbCr" else 1)


def test_a_transparent_colour_becomes_alpha() -> None:
    image = Image.fromarray(np.zeros((4, 4, 3), np.uint8))
    image.putpixel((0, 0), (255, 0, 0))
    image.info["transparency"] = (0, 0, 0)
    result = NEAREST(image)
    assert result.mode == "RGBA" and "transparency" not in result.info
    assert result.getpixel((0, 0))[3] == 255 and result.getpixel((15, 15))[3] == 0


def test_a_picture_keeps_its_source_and_is_not_changed() -> None:
    rgb, alpha = noise(8, 9), noise(8, 9, 1)[..., 0]
    alpha[2:5] = 0
    picture = Picture(rgb.copy(), alpha.copy(), Source(format="JPEG"))
    result = NEAREST(picture)
    assert isinstance(result, Picture) and result.source is picture.source
    assert (
        result.rgb.dtype == np.float32 and result.rgb.shape == (32, 36, 3) and result.alpha.shape == (32, 36)
    )
    np.testing.assert_array_equal(picture.rgb, rgb)
    np.testing.assert_array_equal(picture.alpha, alpha)


def test_alpha_edges_have_no_dark_fringes() -> None:
    array = np.zeros((12, 12, 4), np.float32)  # black where nothing is seen
    array[:, :6] = [1, 0.5, 0, 1]

    class Blurred(Nearest):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(nn.functional.avg_pool2d(x, 5, 1, 2, count_include_pad=False))

    result = Upscaler(Blurred(), "cpu")(array)
    visible = result[..., 3] > 0
    np.testing.assert_allclose(
        result[visible][:, :3], np.tile([[1, 0.5, 0]], (visible.sum(), 1)), rtol=0, atol=1e-6
    )
    assert result[..., 3].min() == 0 and result[..., 3].max() == 1


def test_colours_outside_the_gamut_survive() -> None:
    rgb = noise(10, 11)
    rgb[2:5, 3:6] = [1.2, -0.1, 0.5]
    model = Tinted()
    upscaler = Upscaler(model, "cpu")
    result = upscaler(Picture(rgb), 3).rgb
    assert all(float(x.min()) >= -1 and float(x.max()) <= 1 for x in model.seen)
    inside = resize(tinted(rgb.clip(0, 1)), 33, 30).clip(0, 1)
    np.testing.assert_allclose(result, inside + resize(rgb - rgb.clip(0, 1), 33, 30), rtol=0, atol=2e-6)
    assert result.max() > 1.15 and result.min() < -0.05


@pytest.mark.parametrize(("fix", "function"), [("wavelet", wavelet), ("adain", adain)])
@pytest.mark.parametrize("scale", [4, 2.5])
def test_colour_fixes_in_bands_equal_the_whole(fix, function, scale) -> None:
    rgb = noise(50, 20) * 0.5 + 0.2
    result = Upscaler(Tinted(), "cpu")(rgb, scale, tile=8, colour=fix)
    reference = resize(rgb, 80, 200) if fix == "wavelet" else rgb
    whole = function(tinted(rgb), reference)
    whole = resize(whole, result.shape[1], result.shape[0]) if scale != 4 else whole
    np.testing.assert_allclose(result, whole.clip(0, 1), rtol=0, atol=5e-6)
    cast = np.abs(tinted(rgb).mean((0, 1)) - rgb.mean((0, 1))).max()
    assert np.abs(result.mean((0, 1)) - rgb.mean((0, 1))).max() < 0.2 * cast


def test_the_model_names_its_default_colour_fix() -> None:
    rgb = noise(20, 20)
    model = Tinted()
    plain = Upscaler(model, "cpu")(rgb)
    np.testing.assert_allclose(plain, tinted(rgb), rtol=0, atol=1e-6)
    model.colour = "adain"
    np.testing.assert_array_equal(Upscaler(model, "cpu")(rgb), Upscaler(Tinted(), "cpu")(rgb, colour="adain"))
    np.testing.assert_array_equal(Upscaler(model, "cpu")(rgb, colour="none"), plain)


def test_seeds() -> None:
    upscaler, rgb = Upscaler(Noisy(), "cpu"), noise(6, 6)
    before = torch.random.get_rng_state()
    first = upscaler(rgb, seed=1)
    assert torch.equal(before, torch.random.get_rng_state())
    np.testing.assert_array_equal(first, upscaler(rgb, seed=1))
    assert np.abs(first - upscaler(rgb, seed=2)).max() > 0.01
    np.testing.assert_array_equal(first, upscaler(rgb, seed=1 + 2**64))  # any whole number is one


def test_progress() -> None:
    seen = []
    NEAREST(noise(30, 40), 2, tile=8, progress=lambda *at: seen.append(at))
    assert len(seen) > 2 and seen == sorted(seen) and seen[-1][0] == seen[-1][1]


@pytest.mark.parametrize(
    ("image", "says"),
    [
        (np.zeros((4, 4, 5), np.uint8), "1..4"),
        (np.zeros(4, np.uint8), "1..4"),
        (np.zeros((0, 4, 3), np.uint8), "H, W >= 1"),
        (np.zeros((4, 4), np.int32), "uint8"),
        (np.zeros((4, 4), bool), "uint8"),
        (np.full((4, 4), 255.0), "0 to 1"),
        (np.full((4, 4), np.nan), "finite"),
        (np.full((4, 4), np.inf), "finite"),
        (Picture(np.full((4, 4, 3), np.nan, np.float32)), "finite"),
        (Picture(np.zeros((4, 4, 3), np.float32), np.full((4, 4), np.nan, np.float32)), "finite"),
        (Picture(np.zeros((4, 4), np.float32)), "rgb"),
        (Picture(np.zeros((4, 4, 3), np.float32), np.zeros((4, 5), np.float32)), "alpha"),
        (Image.new("F", (4, 4)), "mode"),
        ("photo.jpg", "str"),
    ],
)
def test_what_is_no_picture_is_an_error(image, says) -> None:
    with pytest.raises(ImageError, match=says):
        NEAREST(image)


def test_settings_that_cannot_be_are_errors() -> None:
    with pytest.raises(ConfigError, match="colour"):
        NEAREST(noise(4, 4), colour="lab")
    with pytest.raises(ConfigError, match="tile"):
        NEAREST(noise(4, 4), tile=0)
    with pytest.raises(ConfigError, match="scale"):
        NEAREST(noise(4, 4), 9)
    with pytest.raises(ConfigError, match="device"):
        Upscaler(Nearest(), "abacus")
    with pytest.raises(ConfigError, match="dtype"):
        Upscaler(Nearest(), "cpu", "int4")


def test_too_many_output_pixels_are_refused_before_any_work() -> None:
    model = Tinted()
    with pytest.raises(ImageError, match="800 x 400 pixels"):
        Upscaler(model, "cpu")(noise(100, 200), max_output_pixels=319_999)
    assert not model.seen
    assert Upscaler(model, "cpu")(noise(10, 20), max_output_pixels=3200).shape == (40, 80, 3)


def test_a_result_that_does_not_fit_is_a_memory_error(monkeypatch) -> None:
    def full(*args, **kwargs):
        raise MemoryError

    monkeypatch.setattr("unistep.upscaling.upscaler.tiling.bands", full)
    with pytest.raises(MemoryLimit, match="smaller size"):
        NEAREST(noise(4, 4))


def test_model_that_is_not_finite() -> None:
    class Broken(Nearest):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * torch.nan

    with pytest.raises(ModelError, match="not finite"):
        Upscaler(Broken(), "cpu")(noise(4, 4))


def test_from_pretrained_loads_the_named_model(monkeypatch) -> None:
    asked = []

    def load(name, fidelity, options):
        asked.append((name, fidelity))
        model = Nearest()
        model.info = {"steps": 7}
        return model

    monkeypatch.setattr("unistep.upscaling.upscaler.load_student", load)
    upscaler = Upscaler.from_pretrained("some.safetensors", device="cpu", dtype="float16")
    assert upscaler.info == {"steps": 7} and upscaler.device.type == "cpu" and upscaler.dtype == torch.float16
    Upscaler.from_pretrained(device="cpu", fidelity=0.5)
    assert asked == [("some.safetensors", None), (None, 0.5)]


def test_automatic_device_and_dtype() -> None:
    upscaler = Upscaler(nn.Sequential(nn.Conv2d(3, 3, 1), Nearest()).half())
    if upscaler.device.type == "cpu":
        assert upscaler.dtype == torch.float32
    assert all(parameter.dtype == torch.float32 for parameter in upscaler.model.parameters())
    assert Upscaler(Nearest(), "cpu", torch.bfloat16).dtype == Upscaler(Nearest(), "cpu", "bfloat16").dtype


def extra(height: int, **options) -> int:
    """The most bytes that numpy held at once beyond the input and the output."""
    picture = Picture(noise(height, 64) * 0.8 + 0.1)
    tracemalloc.start()
    result = NEAREST(picture, tile=16, **options)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return most - result.rgb.nbytes


@pytest.mark.parametrize(
    "options", [{}, {"scale": 2}, {"scale": 7}, {"colour": "wavelet"}, {"colour": "adain"}]
)
def test_memory_does_not_grow_beyond_input_and_output(options) -> None:
    small, large = extra(512, **options), extra(2048, **options)  # both more than one chunk of rows
    assert large < 1.2 * small + (1 << 17)


def test_wide_gamut_memory() -> None:
    def most(height: int) -> int:
        picture = Picture(noise(height, 64) * 1.2)
        tracemalloc.start()
        result = NEAREST(picture, tile=16)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak - result.rgb.nbytes

    assert most(1024) < 1.2 * most(256) + (1 << 17)


def test_grey_stays_grey_with_a_model_that_colours() -> None:
    result = Upscaler(Tinted(), "cpu")(noise(6, 6, 1)[..., 0])
    wanted = tinted(np.repeat(noise(6, 6, 1), 3, 2)) @ np.array([0.299, 0.587, 0.114])
    np.testing.assert_allclose(result, wanted, rtol=0, atol=1e-6)


@pytest.mark.parametrize("colour", ["none", "wavelet", "adain"])
@pytest.mark.parametrize("levels, grey", [(0, True), (1, True), (3, False)])
def test_grey_that_is_stored_as_rgb_gets_no_colour(levels, grey, colour) -> None:
    """Rounding may have set its channels one level apart."""
    rgb = np.repeat(np.round(noise(8, 8, 1) * 250), 3, 2)
    rgb[..., 1] += levels * (np.arange(8) % 2)
    result = Upscaler(Tinted(), "cpu")((rgb / 255).astype(np.float32), colour=colour)
    assert (np.ptp(result, axis=2).max() == 0) == grey


def test_a_tile_of_any_size_gives_the_same_picture() -> None:
    rgb = noise(50, 60)
    picture = replace(Picture(rgb), alpha=noise(50, 60, 1)[..., 0])
    one, two = NEAREST(picture, 3.3, tile=12), NEAREST(picture, 3.3, tile=1000)
    np.testing.assert_allclose(one.rgb, two.rgb, rtol=0, atol=2e-6)
    np.testing.assert_array_equal(one.alpha, two.alpha)
