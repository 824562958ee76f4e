"""The colour fixes against the authors' numbers, and in bands against the whole."""

import goldens
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.numpy import load_file

from unistep.pixels.colour import HALO, Moments, adain, low_pass, moments, wavelet, wavelet_bands

GOLDEN = goldens.GOLDEN / "colorfix"
TENSORS = load_file(GOLDEN / "tensors.safetensors")


def picture(name: str) -> np.ndarray:
    return np.asarray(Image.open(GOLDEN / f"{name}.png").convert("RGB"))


def pixels(name: str) -> np.ndarray:
    return picture(name).astype(np.float32) / 255


def tensor(name: str) -> np.ndarray:
    return TENSORS[name][0].transpose(1, 2, 0)


def same_file(fixed: np.ndarray, name: str) -> bool:
    """Whether the 8-bit picture is the authors', which is cut off where ours is rounded."""
    levels = np.rint(fixed.clip(0, 1) * 255) - picture(name)
    return bool(np.abs(levels).max() <= 1)


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((height, width, 3), np.float32)


@pytest.mark.parametrize("case", [0, 1])
def test_wavelet_golden(case: int) -> None:
    target, source = pixels(f"target_{case}"), pixels(f"source_{case}")
    fixed = wavelet(target, source)
    np.testing.assert_allclose(fixed, tensor(f"wavelet_{case}"), rtol=0, atol=1e-6)
    np.testing.assert_allclose(target - low_pass(target), tensor(f"wavelet_{case}_high"), rtol=0, atol=1e-6)
    np.testing.assert_allclose(low_pass(target), tensor(f"wavelet_{case}_low"), rtol=0, atol=1e-6)
    assert same_file(fixed, f"wavelet_{case}")


def test_wavelet_golden_with_a_small_source() -> None:
    target, source = pixels("target_2"), Image.open(GOLDEN / "source_2.png").convert("RGB")
    resized = np.asarray(source.resize(target.shape[1::-1])).astype(np.float32) / 255
    assert same_file(wavelet(target, resized), "wavelet_2_source_pil_resized")


@pytest.mark.parametrize("case", [0, 1, 2])
def test_adain_golden(case: int) -> None:
    target, source = pixels(f"target_{case}"), pixels(f"source_{case}")
    fixed = adain(target, source)
    np.testing.assert_allclose(fixed, tensor(f"adain_{case}"), rtol=0, atol=1e-6)
    assert same_file(fixed, f"adain_{case}")
    found = moments(target)  # the two names are swapped in the recorded file
    np.testing.assert_allclose(found.std, TENSORS[f"meanstd_{case}_mean"].ravel(), rtol=0, atol=1e-6)
    np.testing.assert_allclose(found.mean, TENSORS[f"meanstd_{case}_std"].ravel(), rtol=0, atol=1e-6)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 60), min_size=1, max_size=6), st.integers(1, 40), st.integers(0, 9))
def test_wavelet_in_bands_equals_the_whole(heights: list[int], width: int, seed: int) -> None:
    height = sum(heights)
    target, reference = noise(height, width, seed), noise(height, width, seed + 100)
    bands = np.split(target, np.cumsum(heights)[:-1])
    fixed = list(wavelet_bands(bands, lambda start, stop: reference[start:stop], height))
    np.testing.assert_allclose(np.concatenate(fixed), wavelet(target, reference), rtol=0, atol=1e-6)


def test_wavelet_bands_hold_back_only_the_halo() -> None:
    seen = 0

    def bands():
        nonlocal seen
        for _ in range(20):
            seen += 16
            yield np.zeros((16, 4, 3), np.float32)

    done, spans = 0, []

    def reference(start: int, stop: int) -> np.ndarray:
        spans.append(stop - start)
        return np.zeros((stop - start, 4, 3), np.float32)

    for rows in wavelet_bands(bands(), reference, 320):
        done += len(rows)
        assert done == (seen - HALO if seen < 320 else 320)
    assert done == 320
    assert max(spans) <= 2 * HALO + 16


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 12), min_size=1, max_size=5), st.integers(1, 12), st.integers(0, 9))
def test_moments_in_portions_equal_the_whole(heights: list[int], width: int, seed: int) -> None:
    image = noise(sum(heights), width, seed)
    added = Moments()
    for band in np.split(image, np.cumsum(heights)[:-1]):
        added.add(band)
    flat = image.reshape(-1, 3).astype(np.float64)
    variance = flat.var(0, ddof=1) if len(flat) > 1 else np.zeros(3)
    np.testing.assert_allclose(added.mean, flat.mean(0), rtol=0, atol=1e-9)
    np.testing.assert_allclose(added.std, np.sqrt(variance + 1e-5), rtol=0, atol=1e-9)


def test_fixes_keep_a_picture_that_has_the_colours_already() -> None:
    image = noise(40, 50)
    np.testing.assert_allclose(wavelet(image, image), image, rtol=0, atol=1e-6)
    np.testing.assert_allclose(adain(image, image), image, rtol=0, atol=1e-6)
