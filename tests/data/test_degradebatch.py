"""A batch degraded at once: each image as alone, but for its noise, by as many operators as two images."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from test_degrade import photographs
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from unistep.data import degrade as module
from unistep.data.degrade import MODES, REDUCE, Blur, Draw, Noise, degrade
from unistep.data.degradebatch import (
    blurred,
    carried_out,
    compressed,
    degrade_batch,
    noisy,
    photon_noise,
    plan,
    resized,
)
from unistep.data.filters import bivariate_kernel, filter2d, jpeg
from unistep.data.pairs import DataConfig, Pairs
from unistep.data.presets import DEGRADATIONS, Degradation, FaceDegradation
from unistep.errors import ConfigError
from unistep.image import Picture, write_image

SIZES = [(37, 50), (64, 20), (8, 9), (50, 50)]
SECOND_ORDER = [name for name, params in DEGRADATIONS.items() if name not in ("bicubic", "faces")]


def canvas() -> Tensor:
    """Images of SIZES, with what must not be read around them."""
    x = torch.full((4, 3, 64, 50), 1e6)
    for i, (h, w) in enumerate(SIZES):
        x[i, :, :h, :w] = photographs(1, h, w, seed=i)[0]
    return x


def each(x: Tensor, sizes: list[tuple[int, int]]) -> list[Tensor]:
    return [image[None, :, :h, :w].contiguous() for image, (h, w) in zip(x, sizes, strict=True)]


def quiet(params: Degradation | FaceDegradation, **settings):
    """Noise of no strength."""
    ranges = ("noise_range", "noise_range2", "poisson_scale_range", "poisson_scale_range2")
    none = {name: (0.0, 0.0) for name in ranges if hasattr(params, name)}
    return dataclasses.replace(params, **none | settings)


@pytest.fixture
def silent(monkeypatch):
    """The path of single images without noise, which then takes no number from its generator either."""
    monkeypatch.setattr(Draw, "normal", lambda self, shape, like: torch.zeros(shape))
    monkeypatch.setattr(module, "poisson_noise", lambda x, generator, *, gray: torch.zeros_like(x))


# Each operator


@pytest.mark.parametrize(
    "wanted", [[(10, 12), (70, 25), (1, 9), (33, 120)], [(37, 50), (80, 80), (3, 2), (2, 25)]]
)
@pytest.mark.parametrize("mode", [*MODES, REDUCE])
def test_resizing(mode, wanted):
    how = {"mode": "bicubic", "antialias": True} if mode == REDUCE else {"mode": mode}
    x = canvas()
    found = resized(x, SIZES, wanted, [mode] * 4)
    for one, size, image in zip(each(found, wanted), wanted, each(x, SIZES), strict=True):
        torch.testing.assert_close(one, F.interpolate(image, size, **how), atol=1e-5, rtol=0)


def test_resizing_of_some():
    x, wanted = canvas(), [SIZES[0], (30, 30), SIZES[2], (60, 60)]
    found = each(resized(x, SIZES, wanted, [None, "area", None, "bicubic"]), wanted)
    before = each(x, SIZES)
    assert torch.equal(found[0], before[0]) and torch.equal(found[2], before[2])
    torch.testing.assert_close(found[1], F.interpolate(before[1], (30, 30), mode="area"))


def test_blurs():
    """Borders reflect as far as an image's own kernel reaches, and repeat in an image too small for it."""
    kernels = [bivariate_kernel(k, 2.0, 3.0, 0.4, isotropic=False) for k in (21, 7, 17)]
    x = canvas()
    found = each(blurred(x, SIZES, [*kernels, None]), SIZES)
    for one, image, kernel in zip(found, each(x, SIZES), kernels, strict=False):
        torch.testing.assert_close(one, filter2d(image, kernel), atol=2e-6, rtol=0)
    assert torch.equal(found[3], each(x, SIZES)[3])


def test_compression():
    qualities, x = [30.0, 90.0, None, 60.0], canvas()
    for one, image, quality in zip(
        each(compressed(x, SIZES, qualities), SIZES), each(x, SIZES), qualities, strict=True
    ):
        expected = image if quality is None else jpeg(image, quality)
        torch.testing.assert_close(one, expected, atol=2e-6, rtol=0)


# Pairs without noise


@pytest.mark.parametrize("name", DEGRADATIONS)
def test_without_noise_each_image_is_as_alone(name, silent):
    """All that is drawn is the same; a value now and then is rounded to another coefficient or level."""
    x, indices = photographs(12, 96, 64), list(range(20, 32))
    params = quiet(DEGRADATIONS[name])
    expected, truth = degrade(x, params, seed=3, indices=indices)
    found, x_hq = degrade_batch(x, [params] * len(x), seed=3, indices=indices)
    assert found.shape == expected.shape and torch.allclose(x_hq, truth, atol=1e-6)
    off = (found - expected).abs() > 1e-4
    assert off.float().mean() < 2e-3 and (found - expected).abs().max() < 3.1 / 255
    assert not off.flatten(1).any(dim=1).all()


def test_presets_mix_and_the_truth_is_sharpened(silent):
    x, names = photographs(5, 64, 64), ["realesrgan", "bicubic", "light", "mild", "compressed"]
    params = [quiet(DEGRADATIONS[name]) for name in names]
    found, x_hq = degrade_batch(x, params, seed=1, indices=range(5), usm=True)
    for i, each_ in enumerate(params):
        expected, truth = degrade(x[i : i + 1], each_, seed=1, indices=[i], usm=True)
        assert torch.allclose(x_hq[i], truth[0], atol=1e-6)
        assert ((found[i] - expected[0]).abs() > 1e-4).float().mean() < 2e-3


def test_grey_pairs(silent):
    x = photographs(3, 32, 32)
    params = [quiet(DEGRADATIONS["faces"], gray_prob=p, downsample_range=(1, 2)) for p in (1.0, 0.0, 1.0)]
    found, x_hq = degrade_batch(x, params, seed=0, indices=[4, 5, 6])
    for i, probability in enumerate((1.0, 0.0, 1.0)):
        for image in (found[i], x_hq[i]):
            assert torch.equal(image, image[:1].expand_as(image)) == bool(probability)


# Noise


def test_gaussian_noise():
    x = torch.full((4, 3, 64, 64), 0.5)
    kinds = [Noise(True, gray, (s, s)) for gray, s in ((False, 10.0), (True, 20.0), (False, 0.0))]
    noise = noisy(x, [(64, 64)] * 4, [*kinds, None], torch.Generator().manual_seed(0)) - 0.5
    assert noise[0].std().item() == pytest.approx(10 / 255, rel=0.03)
    assert noise[1].std().item() == pytest.approx(20 / 255, rel=0.03)
    assert noise.mean(dim=(1, 2, 3)).abs().max() < 1 / 255 and not noise[2:].any()
    assert noise[0, 0].ne(noise[0, 1]).any() and torch.equal(noise[1, 0], noise[1, 2])
    assert abs(torch.corrcoef(noise[:2, 0].flatten(1))[0, 1]) < 0.05  # each image has its own


@pytest.mark.parametrize("gray", [False, True])
def test_photon_noise_has_the_statistics_of_that_of_one_image(gray):
    """Means 0 and variances in proportion to the levels, by a count that the image's own levels decide."""
    few = (photographs(1, 64, 64) * 4).round() / 4
    x = torch.cat([few, photographs(1, 64, 64, seed=1)])
    inside = torch.ones(2, 1, 64, 64, dtype=torch.bool)
    inside[0, :, :, 40:] = False
    x[0, :, :, 40:] = torch.rand(3, 64, 24)  # levels beyond the image do not count
    chosen, generator = torch.full((2, 1, 1, 1), gray), torch.Generator().manual_seed(0)
    ours = torch.stack([photon_noise(x, inside, chosen, generator) for _ in range(80)])
    for i, w in ((0, 40), (1, 64)):
        theirs = torch.stack(
            [
                module.poisson_noise(x[i : i + 1, ..., :w].contiguous(), generator, gray=gray)
                for _ in range(80)
            ]
        )
        mine = ours[:, i : i + 1, : 1 if gray else 3, :, :w]
        assert mine.var().item() == pytest.approx(theirs.var().item(), rel=0.05)
        assert abs(mine.mean() - theirs.mean()) < 5e-4
        by_pixel = torch.stack([mine.var(dim=0).flatten(), theirs.var(dim=0).flatten()])
        assert torch.corrcoef(by_pixel)[0, 1] > 0.5 or by_pixel[1].std() < 1e-4


@pytest.mark.parametrize("name", SECOND_ORDER)
def test_noisy_pairs_are_as_noisy(name):
    x = photographs(1, 48, 48).expand(64, -1, -1, -1)
    indices, params = list(range(64)), DEGRADATIONS[name]
    alone, _ = degrade(x, params, seed=0, indices=indices)
    together, _ = degrade_batch(x, [params] * 64, seed=0, indices=indices)
    ours, theirs = ((y - F.avg_pool2d(y, 3, 1, 1)).std() for y in (together, alone))
    assert ours.item() == pytest.approx(theirs.item(), rel=0.1)
    assert not torch.equal(together, alone)


# What a batch depends on


def test_the_same_batch_comes_again():
    x = photographs(4, 48, 48)
    # Noise comes once, and the canvas keeps its size: only another seed makes another noise of image 8.
    alike = {"resize_prob": (0, 0, 1), "gaussian_noise_prob": 1.0, "gaussian_noise_prob2": 1.0}
    params = [dataclasses.replace(DEGRADATIONS["realesrgan"], **alike, noise_range2=(0, 0))] * 4
    first, _ = degrade_batch(x, params, seed=3, indices=[5, 6, 7, 8])
    torch.rand(3)  # the global stream plays no part
    assert torch.equal(degrade_batch(x, params, seed=3, indices=[5, 6, 7, 8])[0], first)
    for seed, indices in ((4, [5, 6, 7, 8]), (3, [9, 6, 7, 8])):
        other, _ = degrade_batch(x, params, seed=seed, indices=indices)
        assert not torch.equal(other[3], first[3])  # the noise is the batch's


def test_a_run_goes_on_with_the_same_batches(tmp_path):
    files = []
    for i in range(3):
        files.append(tmp_path / f"{i}.png")
        write_image(files[-1], Picture(photographs(1, 48, 48, i)[0].permute(1, 2, 0).contiguous().numpy()))
    config = DataConfig(patch=32, degrade_on="device")

    def made(start: int, offsets: list[int]) -> tuple[Tensor, Tensor]:
        pairs = Pairs(files, config, seed=2, start=start)
        samples = pairs.__getitems__(offsets)
        assert samples.x_lq is None
        return pairs.degraded(samples)

    for one, other in zip(made(0, [4, 5, 6, 7]), made(4, [0, 1, 2, 3]), strict=True):
        assert torch.equal(one, other)
    x_lq, x_hq = Pairs(files, config, seed=2)[4]
    assert x_lq.shape == (3, 8, 8) and torch.equal(x_hq, made(4, [0])[1][0])


def test_wrong_sides_are_refused():
    with pytest.raises(ConfigError, match="sides divisible by 4, found 33x32"):
        degrade_batch(torch.zeros(1, 3, 32, 33), [DEGRADATIONS["light"]], seed=0, indices=[0])
    with pytest.raises(ValueError):
        degrade_batch(torch.zeros(2, 3, 32, 32), [DEGRADATIONS["light"]], seed=0, indices=[0])


class Operators(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += 1
        return func(*args, **kwargs or {})


@pytest.mark.parametrize("name", [*SECOND_ORDER, "faces"])
def test_operators_do_not_grow_with_the_batch(name):
    counts = {}
    for batch in (2, 8, 16):
        x, params = photographs(batch, 48, 48), DEGRADATIONS[name]
        # With the second blur always, two images use what many do.
        params = dataclasses.replace(params, **{} if name == "faces" else {"second_blur_prob": 1.0})
        plans = [plan(params, Draw(1, index), 48, 48) for index in range(batch)]
        with Operators() as mode:
            carried_out(x, plans, torch.Generator().manual_seed(0))
        counts[batch] = mode.count
    assert counts[8] <= 1.3 * counts[2] and counts[16] <= 1.3 * counts[2]
    assert any(isinstance(step, Blur) for step in plans[0])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", DEGRADATIONS)
def test_a_gpu_gives_what_the_cpu_gives(name):
    x, params, indices = photographs(8, 128, 128), [quiet(DEGRADATIONS[name])] * 8, list(range(8))
    here, there = (degrade_batch(y, params, seed=0, indices=indices) for y in (x, x.cuda()))
    for one, other in zip(here, there, strict=True):
        assert other.is_cuda and ((one - other.cpu()).abs() > 1e-4).float().mean() < 5e-3
    noisy_ = [DEGRADATIONS[name]] * 8
    one, other = (degrade_batch(x.cuda(), noisy_, seed=0, indices=indices)[0] for _ in range(2))
    assert torch.equal(one, other)
