"""Tiled equals whole; memory that runs out; values that are not finite; what is held in memory meanwhile."""

import tracemalloc
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from unistep.errors import ConfigError, MemoryLimit, ModelError
from unistep.pixels import tiling
from unistep.pixels.tiling import bands, spans


def nearest(x: Tensor) -> Tensor:
    return x.repeat_interleave(4, 2).repeat_interleave(4, 3)


class Pyramid(nn.Module):
    """Sees 9 pixels, pads to multiples of 4 by reflection, works at a quarter of the resolution inside."""

    overlap = 12

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.fine = nn.Conv2d(3, 6, 3, padding=1)
            self.down = nn.Conv2d(6, 6, 4, 4)
            self.coarse = nn.Conv2d(6, 6, 3, padding=1)
            self.out = nn.Conv2d(6, 48, 3, padding=1)
        self.sizes: list[tuple[int, ...]] = []

    def forward(self, x: Tensor) -> Tensor:
        self.sizes.append(tuple(x.shape))
        height, width = x.shape[2:]
        x = F.pad(x, (0, -width % 4, 0, -height % 4), mode="reflect")
        a = torch.tanh(self.fine(x))
        a = a + F.interpolate(self.coarse(torch.tanh(self.down(a))), scale_factor=4)
        y = F.pixel_shuffle(self.out(a), 4)
        return y[..., : 4 * height, : 4 * width]


PYRAMID = Pyramid()


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((height, width, 3), np.float32)


def tiled(model, image: np.ndarray, **options) -> np.ndarray:
    return np.concatenate(list(bands(model, image, **options)))


def whole(model, image: np.ndarray) -> np.ndarray:
    x = torch.from_numpy(image * 2 - 1).permute(2, 0, 1)[None]
    with torch.inference_mode():
        return (model(x)[0] * 0.5 + 0.5).clamp(0, 1).permute(1, 2, 0).numpy()


sizes = st.integers(1, 90)


@settings(max_examples=60, deadline=None)
@given(sizes, sizes, st.integers(1, 50), st.integers(0, 20), st.integers(1, 5))
def test_identity_at_any_size_tile_and_overlap(height, width, tile, overlap, batch) -> None:
    image = noise(height, width)
    result = tiled(nearest, image, tile=tile, overlap=overlap, batch=batch)
    np.testing.assert_allclose(result, image.repeat(4, 0).repeat(4, 1), rtol=0, atol=1e-6)


@settings(max_examples=60, deadline=None)
@given(
    sizes.map(lambda n: n + 3),
    sizes.map(lambda n: n + 3),
    st.integers(1, 40),
    st.integers(9, 20),
    st.integers(1, 5),
)
def test_convolutions_at_any_size_and_tile(height, width, tile, overlap, batch) -> None:
    image = noise(height, width)
    result = tiled(PYRAMID, image, tile=tile, overlap=overlap, batch=batch)
    np.testing.assert_allclose(result, whole(PYRAMID, image), rtol=0, atol=2e-6)


def test_too_small_an_overlap_shows() -> None:
    image = noise(64, 64)
    assert np.abs(tiled(PYRAMID, image, tile=16, overlap=0) - whole(PYRAMID, image)).max() > 1e-3


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 3000), st.integers(1, 100), st.integers(0, 20), st.integers(0, 200))
def test_spans_cover_in_equal_windows(length, quarter, margin, start) -> None:
    tile, margin, start = 4 * quarter, 4 * margin, 4 * start
    pieces = spans(start, start + length, tile, margin)
    assert pieces[0][0] == start and pieces[-1][1] == start + length
    assert all(a[1] == b[0] and a[1] % 4 == 0 for a, b in pairwise(pieces))
    windows = [min(b + margin, start + length) - max(a - margin, 0) for a, b in pieces]
    assert max(windows) <= tile + 2 * margin
    assert set(windows[:-1]) <= {windows[0]} and windows[-1] <= windows[0]


def test_windows_are_batched() -> None:
    model = Pyramid()
    tiled(model, noise(80, 200), tile=32, overlap=8, batch=4)
    assert max(size[0] for size in model.sizes) == 4
    assert len(model.sizes) < len([1 for _ in spans(0, 80, 32, 8) for _ in spans(0, 200, 32, 8)])


def test_progress_reaches_the_end_once() -> None:
    seen = []
    tiled(nearest, noise(50, 70), tile=16, overlap=4, batch=2, progress=lambda *at: seen.append(at))
    assert seen == sorted(set(seen)) and seen[-1] == (50 * 70, 50 * 70) and len(seen) > 4


class Fails:
    """Nearest, but the calls of the given numbers fail first, or all windows above an area."""

    def __init__(self, error: Exception, calls: tuple[int, ...] = (), area: int = 1 << 60) -> None:
        self.error, self.calls, self.area, self.count, self.computed = error, calls, area, 0, 0

    def __call__(self, x: Tensor) -> Tensor:
        self.count += 1
        if self.count in self.calls or x.shape[0] * x.shape[2] * x.shape[3] > self.area:
            raise self.error
        self.computed += x.shape[0] * x.shape[2] * x.shape[3]
        return nearest(x)


OUT = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    MemoryError(),
]


@pytest.mark.parametrize("error", OUT, ids=lambda e: type(e).__name__)
@pytest.mark.parametrize("call", [1, 2, 5, 8])
def test_memory_that_runs_out_halves_the_tile_and_keeps_what_is_done(error, call) -> None:
    image = noise(150, 140)
    model = Fails(error, (call,))
    result = tiled(model, image, tile=48, overlap=0, batch=1)
    np.testing.assert_allclose(result, image.repeat(4, 0).repeat(4, 1), rtol=0, atol=1e-6)
    assert model.computed == 150 * 140  # without overlap: every pixel was computed once


def test_batch_shrinks_before_the_tile() -> None:
    image = noise(64, 256)
    model = Fails(OUT[0], area=64 * 64)
    tiled(model, image, tile=64, overlap=0, batch=4)
    assert model.count - 2 == 4  # 4 windows failed, 2 failed, then one at a time


def test_no_memory_at_all() -> None:
    with pytest.raises(MemoryLimit, match="16 x 16"):
        tiled(Fails(OUT[0], area=100), noise(70, 70), tile=64)


def test_other_errors_pass() -> None:
    with pytest.raises(RuntimeError, match="shape mismatch"):
        tiled(Fails(RuntimeError("shape mismatch"), (1,)), noise(20, 20))


class LowOverflows(nn.Module):
    """Not finite under autocast where the input is bright; finite in float32."""

    def __init__(self, always: bool = False) -> None:
        super().__init__()
        self.always, self.exact = always, 0

    def forward(self, x: Tensor) -> Tensor:
        lower = torch.is_autocast_enabled("cpu")
        self.exact += not lower
        bad = (x > 0.99).any((1, 2, 3), keepdim=True) & torch.tensor(self.always or lower)
        return torch.where(bad, torch.inf, nearest(x))


def test_a_window_that_is_not_finite_runs_again_in_float32() -> None:
    image = noise(64, 64) * 0.9
    image[40, 50] = 1
    model = LowOverflows()
    result = tiled(model, image, tile=16, overlap=0, batch=4, dtype=torch.bfloat16)
    np.testing.assert_allclose(result, image.repeat(4, 0).repeat(4, 1), rtol=0, atol=1e-6)
    assert 1 <= model.exact <= 4


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_not_finite_in_float32_is_an_error(dtype) -> None:
    with pytest.raises(ModelError, match="not finite"):
        tiled(LowOverflows(always=True), np.ones((20, 20, 3), np.float32), dtype=dtype)


def test_autocast_is_used() -> None:
    image = noise(20, 20)
    lower = tiled(PYRAMID, image, dtype=torch.bfloat16)
    assert 0 < np.abs(lower - whole(PYRAMID, image)).max() < 0.1


def test_wrong_scale_is_named() -> None:
    with pytest.raises(ModelError, match="upscales by 4"):
        tiled(lambda x: x, noise(20, 20))


@pytest.mark.parametrize("tile", [0, -4, 1.5, "large", True])
def test_bad_tile(tile) -> None:
    with pytest.raises(ConfigError, match="tile"):
        tiled(nearest, noise(20, 20), tile=tile)


def peak(height: int, width: int) -> int:
    """Bytes that numpy held at most at once, beyond the input, while bands were dropped as they came."""
    image = np.zeros((height, width, 3), np.float32)
    tracemalloc.start()
    for _ in bands(nearest, image, tile=32, overlap=8):
        pass
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return most


def test_memory_does_not_grow_with_the_height() -> None:
    small, large = peak(128, 128), peak(1024, 128)
    assert large < 1.2 * small


def test_the_model_sees_windows_of_bounded_size() -> None:
    model = Pyramid()
    tiled(model, noise(300, 130), tile=32)
    assert max(n * h * w for n, _, h, w in model.sizes) <= (32 + 2 * 12) ** 2


def test_automatic_tile_follows_the_free_memory(monkeypatch) -> None:
    sides = []
    for free in (1 << 20, 200 << 20, 64 << 30):
        monkeypatch.setattr(tiling, "free_memory", lambda device, free=free: free)
        sides.append(tiling.automatic_tile(torch.device("cpu"), 16))
    assert sides[0] == tiling.SMALLEST < sides[1] < sides[2] == tiling.CPU_SIDE
    assert all(side % 4 == 0 for side in sides)


def test_free_memory_of_this_machine_is_plausible() -> None:
    assert 1 << 20 < tiling.free_memory(torch.device("cpu")) < 1 << 50
