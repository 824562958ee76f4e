"""Tiles of a latent, their weights, and how they come together again."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from unistep.students.blend import averaged, blended, gaussian, starts


@pytest.mark.parametrize(
    ("length", "tile", "overlap", "expected"),
    [
        (100, 64, 8, [0, 36]),
        (120, 64, 8, [0, 56]),
        (121, 64, 8, [0, 56, 57]),
        (256, 64, 8, [0, 56, 112, 168, 192]),
        (128, 96, 32, [0, 32]),
        (256, 96, 32, [0, 64, 128, 160]),
        (64, 64, 8, [0]),
    ],
)
def test_starts_are_those_of_the_released_code(length, tile, overlap, expected):
    assert starts(length, tile, overlap) == expected


@given(st.integers(1, 200), st.integers(2, 64), st.integers(0, 31))
def test_starts_cover_everything(length, tile, overlap):
    overlap = min(overlap, tile - 1)
    found = starts(length, tile, overlap)
    tile = min(tile, length)
    assert found[0] == 0 and found[-1] + tile == length and found == sorted(set(found))
    assert all(b <= a + tile - min(overlap, tile - 1) for a, b in itertools.pairwise(found))


def test_weights_are_the_transcribed_ones():
    def g(i: int, m: float, n: int) -> float:
        return math.exp(-((i - m) ** 2) / (n * n) / (2 * 0.01)) / math.sqrt(2 * math.pi * 0.01)

    for asymmetric, middle in ((False, (6 - 1) / 2), (True, 6 / 2)):
        w = gaussian(6, 9, asymmetric)
        assert w.shape == (6, 9) and w.dtype == torch.float64
        for y in range(6):
            for x in range(9):
                assert w[y, x].item() == pytest.approx(g(y, middle, 6) * g(x, (9 - 1) / 2, 9), rel=1e-12)
    assert torch.equal(gaussian(8, 8), gaussian(8, 8).flip(0)) and torch.equal(
        gaussian(8, 8), gaussian(8, 8).T
    )


@given(st.integers(5, 40), st.integers(5, 40), st.integers(4, 12), st.integers(0, 3), st.integers(1, 5))
def test_what_does_not_depend_on_the_place_is_whole(h, w, tile, overlap, batch):
    z = torch.randn(1, 2, h, w, generator=torch.Generator().manual_seed(h * w))
    out = blended(lambda piece, _: 3 * piece - 1, z, None, tile, overlap, batch=batch)
    assert torch.allclose(out, 3 * z - 1, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sums_are_float32_whatever_is_added(dtype):
    """Tiles in half precision come together as the same values do in float32; each says another number."""
    z = torch.randn(1, 3, 23, 31, generator=torch.Generator().manual_seed(0)).to(dtype)

    def both(latent: Tensor) -> tuple[Tensor, Tensor]:
        one, other = (iter(torch.arange(1000).to(dtype) / 7) for _ in range(2))
        return (
            blended(lambda piece, _: 0 * piece + next(one).to(piece), latent, None, 8, 3),
            averaged(lambda piece: 0 * piece + next(other).to(piece), latent, 8, 3, 1),
        )

    for found, wanted in zip(both(z), both(z.float()), strict=True):
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-5)


def test_the_image_is_cut_with_the_latent():
    image = torch.arange(20 * 24.0).reshape(1, 1, 20, 24).expand(1, 3, 20, 24)
    z = image[:, :1, ::2, ::2]

    def fn(piece: Tensor, view: Tensor | None) -> Tensor:
        assert view is not None and view.shape[-2:] == (2 * piece.shape[-2], 2 * piece.shape[-1])
        assert torch.equal(view[:, :1, ::2, ::2], piece)
        return piece

    assert torch.allclose(blended(fn, z, image, 6, 2, batch=3), z)


def test_neighbours_fade_into_each_other():
    """Each tile says its own number: between two, the result goes from one to the other without a step."""
    count = iter(range(100))
    out = blended(lambda piece, _: torch.full_like(piece, next(count)), torch.zeros(1, 1, 8, 14), None, 8, 2)
    row = out[0, 0, 0]
    assert torch.equal(row[:6], torch.zeros(6)) and torch.equal(row[8:], torch.ones(6))
    assert 0 < row[6] < 1 and 0 < row[7] < 1 and row[6] == pytest.approx(1 - row[7].item(), abs=1e-6)


def test_a_small_area_is_whole_whatever_its_sides():
    seen = []

    def fn(piece: Tensor, _: Tensor | None) -> Tensor:
        seen.append(tuple(piece.shape[-2:]))
        return piece

    blended(fn, torch.zeros(1, 1, 4, 16), None, 8, 2)
    blended(fn, torch.zeros(1, 1, 4, 17), None, 8, 2)
    assert seen[0] == (4, 16) and set(seen[1:]) == {(4, 4)}
    seen.clear()
    blended(fn, torch.zeros(1, 1, 4, 16), None, 8, 2, whole_area=False)
    assert set(seen) == {(4, 4)}


def test_progress_ends_at_the_end():
    told: list[tuple[int, int]] = []
    blended(
        lambda p, _: p, torch.zeros(1, 1, 20, 20), None, 8, 2, batch=4, progress=lambda *t: told.append(t)
    )
    assert told[-1][0] == told[-1][1] and [done for done, _ in told] == sorted(done for done, _ in told)


def test_even_averages_over_patches():
    image = torch.randn(1, 3, 9, 11, generator=torch.Generator().manual_seed(0))
    out = averaged(lambda p: p.repeat_interleave(2, 2).repeat_interleave(2, 3), image, 4, 3, 2)
    assert torch.allclose(out, image.repeat_interleave(2, 2).repeat_interleave(2, 3), atol=1e-6)
