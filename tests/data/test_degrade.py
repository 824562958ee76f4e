"""The degradation: equal to BasicSR's parts (golden numbers), the field's values, seeded image by image."""

import dataclasses
import json
import math
from collections import Counter

import goldens
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor
from torch.overrides import TorchFunctionMode

from unistep.data import degrade as module
from unistep.data import filters
from unistep.data.degrade import Draw, degrade, poisson_noise
from unistep.data.filters import bivariate_kernel, filter2d, jpeg, sinc_kernel, usm_sharpen
from unistep.data.presets import DEGRADATIONS, Degradation, FaceDegradation, without_grey
from unistep.errors import ConfigError

GOLDEN = goldens.GOLDEN / "degradation"
TENSORS = load_file(GOLDEN / "tensors.safetensors")
KERNELS = json.loads((GOLDEN / "kernels.json").read_text())["kernels"]
IMG = TENSORS["img"]


def photographs(n: int, h: int, w: int, seed: int = 0) -> Tensor:
    """Smooth images with edges, [n, 3, h, w] in [0, 1]."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand((n, 3, max(2, h // 8), max(2, w // 8)), generator=generator)
    x = F.interpolate(coarse, (h, w), mode="bilinear")
    return torch.where(x > 0.7, 1 - x, x)


# Golden numbers


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("kind", ["gaussian", "generalized", "plateau"])
def test_kernels(name, kind):
    k = KERNELS[name]
    beta = {} if kind == "gaussian" else {kind: k[f"beta_{kind}"]}
    kernel = bivariate_kernel(
        k["kernel_size"], k["sig_x"], k["sig_y"], k["theta"], isotropic=k["isotropic"], **beta
    )
    torch.testing.assert_close(kernel, TENSORS[f"kernel/{name}_{kind}"], atol=1e-12, rtol=0)


@pytest.mark.parametrize("size", [7, 13, 21])
@pytest.mark.parametrize("cutoff", [math.pi / 5, 1.3, math.pi])
def test_sinc(size, cutoff):
    kernel = sinc_kernel(size, cutoff)
    expected = TENSORS[f"kernel/sinc_k{size}_w{cutoff:.4f}_pad0"]
    torch.testing.assert_close(
        kernel, expected, atol=2e-7, rtol=0
    )  # torch's Bessel function has about 8 digits
    # BasicSR pads all kernels to 21 with zeros; that changes no result where the border is far
    padded = F.pad(kernel, [(21 - size) // 2] * 4)
    torch.testing.assert_close(padded, TENSORS[f"kernel/sinc_k{size}_w{cutoff:.4f}_pad21"], atol=2e-7, rtol=0)
    inner = slice(10, -10), slice(10, -10)
    torch.testing.assert_close(filter2d(IMG, kernel)[..., *inner], filter2d(IMG, padded)[..., *inner])


def test_filter2d():
    one, two = (TENSORS[f"kernel_random_mixed/seed{seed}"] for seed in (555, 556))
    torch.testing.assert_close(filter2d(IMG, one), TENSORS["op/filter2D_single"], atol=2e-6, rtol=0)
    both = torch.stack([one, two])
    torch.testing.assert_close(filter2d(IMG, both), TENSORS["op/filter2D_perimage"], atol=2e-6, rtol=0)
    assert not torch.allclose(
        filter2d(IMG, two.T), filter2d(IMG, two), atol=1e-3
    )  # the test would see a flip


@pytest.mark.parametrize("quality", [10.0, 30.0, 55.0, 75.0, 95.0, 99.0])
def test_jpeg(quality):
    torch.testing.assert_close(jpeg(IMG, quality), TENSORS[f"jpeg/q{quality}_nondiff"], atol=2e-6, rtol=0)


def test_jpeg_per_image():
    # The record holds DiffJPEG's factors: it overwrites the qualities it is given, here 30 and 95.
    torch.testing.assert_close(TENSORS["jpeg/per_image_quality"], torch.tensor([5000 / 30, 200 - 190]) / 100)
    expected = TENSORS["jpeg/per_image_nondiff"]
    torch.testing.assert_close(jpeg(IMG, torch.tensor([30.0, 95.0])), expected, atol=2e-6, rtol=0)
    assert torch.isfinite(jpeg(IMG, 100.0)).all()  # where DiffJPEG divides by zero


def test_usm():
    # The record is 2.2e-6 from the same in float64: it adds up the 2601 products of its kernel in float32.
    torch.testing.assert_close(usm_sharpen(IMG), TENSORS["op/USMSharp_default"], atol=3e-6, rtol=0)
    torch.testing.assert_close(usm_sharpen(IMG, 1.0, 50, 5), TENSORS["op/USMSharp_w1_t5"], atol=3e-6, rtol=0)


@pytest.mark.parametrize(("h", "w"), [(60, 60), (26, 64), (25, 40), (4, 5)])
def test_usm_is_the_two_dimensional_filter(h, w):
    """With its reflected borders, or repeated ones where the image is smaller than the filter's half."""
    x = photographs(2, h, w, seed=h)
    axis = torch.exp(-0.5 * (torch.arange(-25, 26, dtype=torch.float64) / 8.0) ** 2)
    kernel = torch.outer(axis, axis) / axis.sum() ** 2
    residue = x.double() - filter2d(x.double(), kernel)
    mask = filter2d((residue.abs() * 255 > 10).double(), kernel)
    expected = mask * (x + 0.5 * residue).clamp(0, 1) + (1 - mask) * x
    torch.testing.assert_close(usm_sharpen(x).double(), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("size", [7, 11, 21, 41])
def test_filters_are_sums_of_products(size):
    """Small kernels and large ones, which go through waves, on images of any sides, larger or smaller."""
    for i, (h, w) in enumerate([(50, 37), (size, size + 1), (size // 2 + 1, 64), (3, 5)]):
        x = photographs(2, h, w, seed=i)
        kernels = torch.stack([bivariate_kernel(size, 1.0 + j, 3.0, 0.3, isotropic=False) for j in range(2)])
        mode = "reflect" if size // 2 < min(h, w) else "replicate"
        padded = F.pad(x.double(), [size // 2] * 4, mode=mode)
        expected = torch.cat([
            F.conv2d(image.unsqueeze(1), kernel[None, None]).transpose(0, 1)
            for image, kernel in zip(padded, kernels, strict=True)
        ])  # fmt: skip
        torch.testing.assert_close(filter2d(x, kernels).double(), expected, atol=2e-6, rtol=0)


@pytest.mark.parametrize("gray", [False, True])
def test_poisson_noise(gray):
    """The same random numbers give BasicSR's very noise."""
    noise = 1.7 * poisson_noise(IMG[:1], torch.Generator().manual_seed(555), gray=gray)
    expected = TENSORS[f"noise/poisson_pt_scale1.7_gray_case{int(gray)}"]
    torch.testing.assert_close(noise.expand_as(expected), expected, atol=1e-6, rtol=0)


# Values

KINDS = ("iso", "aniso", "generalized_iso", "generalized_aniso", "plateau_iso", "plateau_aniso")
SHARES = (0.45, 0.25, 0.12, 0.03, 0.12, 0.03)
REALESRGAN = {
    "scale": 4, "blur_kernel_size": 21, "kernel_list": KINDS, "kernel_prob": SHARES, "sinc_prob": 0.1,
    "blur_sigma": (0.2, 3), "betag_range": (0.5, 4), "betap_range": (1, 2), "resize_prob": (0.2, 0.7, 0.1),
    "resize_range": (0.15, 1.5), "gaussian_noise_prob": 0.5, "noise_range": (1, 30),
    "poisson_scale_range": (0.05, 3), "gray_noise_prob": 0.4, "jpeg_range": (30, 95), "second_order": True,
    "second_blur_prob": 0.8, "blur_kernel_size2": 21, "kernel_list2": KINDS, "kernel_prob2": SHARES,
    "sinc_prob2": 0.1, "blur_sigma2": (0.2, 1.5), "betag_range2": (0.5, 4), "betap_range2": (1, 2),
    "resize_prob2": (0.3, 0.4, 0.3), "resize_range2": (0.3, 1.2), "gaussian_noise_prob2": 0.5,
    "noise_range2": (1, 25), "poisson_scale_range2": (0.05, 2.5), "gray_noise_prob2": 0.4,
    "jpeg_range2": (30, 95), "final_sinc_prob": 0.8,
}  # fmt: skip
LIGHT = REALESRGAN | {
    "resize_range": (0.3, 1.5), "noise_range": (1, 15), "poisson_scale_range": (0.05, 2),
    "jpeg_range": (60, 95), "second_blur_prob": 0.5, "resize_range2": (0.6, 1.2), "noise_range2": (1, 12),
    "poisson_scale_range2": (0.05, 1), "jpeg_range2": (60, 100),
}  # fmt: skip
FACES = {
    "scale": 1, "blur_kernel_size": 41, "kernel_list": ("iso", "aniso"), "kernel_prob": (0.5, 0.5),
    "blur_sigma": (0.1, 15), "downsample_range": (0.8, 32), "noise_range": (0, 20), "jpeg_range": (30, 100),
    "gray_prob": 0.01,
}  # fmt: skip
"""ResShift's faceir_gfpgan512_lpips.yaml."""


def test_presets_hold_the_published_values():
    assert dataclasses.asdict(DEGRADATIONS["realesrgan"]) == REALESRGAN
    assert dataclasses.asdict(DEGRADATIONS["light"]) == LIGHT
    assert not DEGRADATIONS["bicubic"].second_order
    assert dataclasses.asdict(DEGRADATIONS["faces"]) == FACES
    assert set(DEGRADATIONS) == {"realesrgan", "light", "bicubic", "mild", "compressed", "faces"}


# Pairs


@pytest.mark.parametrize("name", DEGRADATIONS)
def test_a_pair_depends_on_seed_and_index_alone(name):
    x = photographs(4, 48, 64)
    together, _ = degrade(x, name, seed=3, indices=[5, 6, 7, 8])
    for i, index in enumerate((5, 6, 7, 8)):
        alone, _ = degrade(x[i : i + 1], name, seed=3, indices=[index])
        assert torch.equal(alone[0], together[i])
    shuffled, _ = degrade(x[[2, 0]], name, seed=3, indices=[7, 5])
    assert torch.equal(shuffled, together[[2, 0]])
    torch.rand(3)  # the global stream plays no part
    assert torch.equal(degrade(x, name, seed=3, indices=[5, 6, 7, 8])[0], together)


def test_other_seeds_and_indices_give_other_pairs():
    x = photographs(1, 48, 48).expand(3, -1, -1, -1)
    a, b, c = (
        degrade(x, "light", seed=seed, indices=[i, i + 1, i + 2])[0] for seed, i in ((0, 0), (1, 0), (0, 3))
    )
    pictures = [*a, *b, *c]
    assert all(not torch.equal(p, q) for i, p in enumerate(pictures) for q in pictures[:i])


@given(
    st.integers(1, 12),
    st.integers(1, 12),
    st.sampled_from(sorted(DEGRADATIONS)),
    st.integers(0, 2**40),
    st.booleans(),
)
def test_any_size_gives_8_bit_values_in_range(h, w, name, index, usm):
    x = photographs(1, 4 * h, 4 * w, index % 1000)
    lq, hq = degrade(x, name, seed=index % 7, indices=[index], usm=usm)
    h, w = (4 * side // DEGRADATIONS[name].scale for side in (h, w))
    assert lq.shape == (1, 3, h, w) and hq.shape == x.shape and lq.dtype == hq.dtype == torch.float32
    for image in (lq, hq):
        assert image.min() >= 0 and image.max() <= 1
    assert torch.equal((lq * 255).round() / 255, lq)
    grey = name == "faces" and torch.equal(hq, hq[:, :1].expand_as(hq))
    assert usm or grey or torch.equal(hq, x)


def test_usm_sharpens_both():
    x = photographs(1, 64, 64)
    lq, hq = degrade(x, "bicubic", seed=0, indices=[0], usm=True)
    plain, _ = degrade(x, "bicubic", seed=0, indices=[0])
    assert torch.equal(hq, usm_sharpen(x)) and not torch.equal(hq, x) and not torch.equal(lq, plain)


def test_bicubic_is_the_antialiased_reduction():
    x = photographs(1, 64, 48)
    expected = F.interpolate(x, scale_factor=0.25, mode="bicubic", antialias=True)
    lq, _ = degrade(x, "bicubic", seed=0, indices=[0])
    torch.testing.assert_close(lq, expected.clamp(0, 1), atol=0.5 / 255 + 1e-6, rtol=0)


def test_the_presets_are_ordered_by_damage():
    x, indices = photographs(8, 64, 64), list(range(8))
    clean, _ = degrade(x, "bicubic", seed=0, indices=indices)
    light, hard = (
        (degrade(x, name, seed=0, indices=indices)[0] - clean).abs().mean()
        for name in ("light", "realesrgan")
    )
    assert 0 < light < hard


def test_every_branch_is_reached(monkeypatch):
    """Which operators ran, with what, over 300 images."""
    seen = Counter()
    betas, sizes, qualities, cutoffs, sigmas = [], set(), [], [], []
    calls = []

    def bivariate(size, sx, sy, theta, *, isotropic, generalized=None, plateau=None):
        kind = "generalized" if generalized is not None else "plateau" if plateau is not None else "gaussian"
        seen[kind, isotropic] += 1
        betas.append(generalized or plateau or 1.0)
        sizes.add(size)
        sigmas.extend((sx, sy))
        return bivariate_kernel(
            size, sx, sy, theta, isotropic=isotropic, generalized=generalized, plateau=plateau
        )

    def sinc(size, cutoff):
        seen["sinc"] += 1
        calls.append("sinc")
        cutoffs.append(cutoff)
        return sinc_kernel(size, cutoff)

    def poisson(x, generator, *, gray):
        seen["poisson", gray] += 1
        return poisson_noise(x, generator, gray=gray)

    def compressed(x, quality):
        qualities.append(quality)
        calls.append("jpeg")
        return jpeg(x, quality)

    def interpolate(x, size, mode):
        seen["resize", mode] += 1
        calls.append(("to", size))
        return F.interpolate(x, size, mode=mode)

    normal = Draw.normal

    def gaussian(self, shape, like):
        seen["gaussian noise", shape[1] == 1] += 1
        return normal(self, shape, like)

    monkeypatch.setattr(module, "bivariate_kernel", bivariate)
    monkeypatch.setattr(module, "sinc_kernel", sinc)
    monkeypatch.setattr(module, "poisson_noise", poisson)
    monkeypatch.setattr(module, "jpeg", compressed)
    monkeypatch.setattr(module, "F", type("F", (), {"interpolate": staticmethod(interpolate)}))
    monkeypatch.setattr(Draw, "normal", gaussian)
    x = photographs(1, 32, 32)
    sinc_last, first_sizes, second_sizes, blurs = Counter(), set(), set(), Counter()
    for i in range(300):
        calls.clear()
        before = sum(seen[k] for k in seen if k == "sinc" or k[0] in ("gaussian", "generalized", "plateau"))
        degrade(x, "realesrgan", seed=0, indices=[i])
        after = sum(seen[k] for k in seen if k == "sinc" or k[0] in ("gaussian", "generalized", "plateau"))
        blurs[after - before] += 1
        steps = [c for c in calls if c != "sinc"]
        assert (
            len(steps) == 5 and steps[1] == "jpeg"
        )  # resize, jpeg, resize, then resize and jpeg in some order
        sinc_last[steps[3] == "jpeg"] += 1
        first_sizes.add(steps[0][1][0])
        second_sizes.add(steps[2][1][0])
    assert set(seen) == {
        *((kind, iso) for kind in ("gaussian", "generalized", "plateau") for iso in (True, False)),
        "sinc",
        *((noise, gray) for noise in ("poisson", "gaussian noise") for gray in (True, False)),
        *(("resize", mode) for mode in ("area", "bilinear", "bicubic")),
    }  # fmt: skip
    assert sizes == set(range(7, 22, 2)) and set(sinc_last) == {True, False}
    assert set(blurs) == {1, 2, 3}  # one always, the second mostly, the last sinc mostly
    assert min(betas) < 1 < max(betas) <= 4 and min(betas) >= 0.5
    assert min(sigmas) >= 0.2 and max(sigmas) <= 3
    assert 30 <= min(qualities) < 40 and 85 < max(qualities) <= 95
    assert math.pi / 5 <= min(cutoffs) < 1.3 and 2.5 < max(cutoffs) <= math.pi
    assert min(first_sizes) < 8 and max(first_sizes) > 40 and 32 in first_sizes  # down, up, keep
    assert min(second_sizes) < 4 and max(second_sizes) == 9 and 8 in second_sizes
    share = sum(n for k, n in seen.items() if k[0] == "gaussian noise") / 600
    assert 0.4 < share < 0.6


def test_parameters_are_obeyed():
    """Probabilities of 0 and 1 switch the parts off and on."""
    x = photographs(1, 64, 64)
    quiet = Degradation(
        kernel_list=("iso",), kernel_prob=(1.0,), kernel_list2=("iso",), kernel_prob2=(1.0,), sinc_prob=0,
        sinc_prob2=0, blur_sigma=(0.1, 0.1), resize_prob=(0, 0, 1), resize_prob2=(0, 0, 1),
        gaussian_noise_prob=1, noise_range=(0, 0), gaussian_noise_prob2=1, noise_range2=(0, 0),
        jpeg_range=(99, 99), jpeg_range2=(99, 99), second_blur_prob=0, final_sinc_prob=0,
    )  # fmt: skip
    noisy = dataclasses.replace(quiet, noise_range2=(30, 30), gray_noise_prob2=1.0)

    def gap(params: Degradation) -> Tensor:
        return degrade(x, params, seed=0, indices=[0])[0] - degrade(x, quiet, seed=0, indices=[0])[0]

    assert not gap(quiet).any()
    spread = gap(noisy)
    assert 20 / 255 < spread.std() < 40 / 255
    assert (spread - spread.mean(dim=1, keepdim=True)).std() < 12 / 255  # grey: the channels move together
    assert gap(dataclasses.replace(quiet, jpeg_range2=(5, 5))).abs().mean() > 0.01
    two = dataclasses.replace(quiet, scale=2)
    assert degrade(x, two, seed=0, indices=[0])[0].shape[-1] == 32


def test_small_kernels():
    x = photographs(1, 32, 32)
    degrade(x, Degradation(blur_kernel_size=7, blur_kernel_size2=11), seed=0, indices=[0])
    for name in ("blur_kernel_size", "blur_kernel_size2"):
        with pytest.raises(ConfigError, match=f"expected {name} to be 7 or more, found 5"):
            Degradation(**{name: 5})
    for kinds, shares in (((), (1.0,)), (("iso",), (0.5, 0.5)), (("round",), (1.0,))):
        with pytest.raises(ConfigError, match="expected a kernel_prob for each of kernel_list"):
            Degradation(kernel_list2=kinds, kernel_prob2=shares)


def test_wrong_use_is_refused():
    with pytest.raises(ConfigError, match="sides divisible by 4, found 33x32"):
        degrade(torch.zeros(1, 3, 32, 33), "light", seed=0, indices=[0])
    names = "realesrgan, light, bicubic, mild, compressed, faces"
    with pytest.raises(ConfigError, match=f"out of {names}, found “lite”"):
        degrade(torch.zeros(1, 3, 32, 32), "lite", seed=0, indices=[0])
    with pytest.raises(ValueError):
        degrade(torch.zeros(2, 3, 32, 32), "light", seed=0, indices=[0])


def test_tensors_stay_on_their_device(device="meta"):
    """The filters ask their input where to work (shapes alone are followed here)."""
    x = torch.empty(2, 3, 32, 32, device=device)
    assert filter2d(x, sinc_kernel(7, 2.0)).device == x.device
    assert jpeg(x, 50.0).device == usm_sharpen(x).device == x.device


def test_random_numbers_and_tables_are_made_on_the_cpu():
    """Whatever torch's default device is: each tensor is then moved to where the image is.

    On the device "meta" whatever did not say where it is made would have no values, and raise.
    """
    x = photographs(2, 48, 48)
    for name in DEGRADATIONS:
        expected = degrade(x, name, seed=1, indices=[4, 9], usm=True)
        filters._dct.cache_clear()
        with torch.device("meta"):
            found = degrade(x, name, seed=1, indices=[4, 9], usm=True)
        filters._dct.cache_clear()
        assert all(torch.equal(*both) for both in zip(found, expected, strict=True))


class Elsewhere(TorchFunctionMode):
    """Counts the calls that bring an image's values to Python or to the CPU."""

    def __init__(self) -> None:
        super().__init__()
        self.left: Counter[str] = Counter()

    def __torch_function__(self, func, types, args=(), kwargs=None):
        name = getattr(func, "__name__", "")
        given = next((a for a in args if isinstance(a, Tensor)), None)
        if (
            name in ("cpu", "numpy", "tolist", "item", "__float__", "__int__", "__bool__")
            and given.numel() > 1
        ):
            self.left[name] += 1
        return func(*args, **kwargs or {})


@pytest.mark.parametrize("name", DEGRADATIONS)
def test_images_stay_where_they_are(name, monkeypatch):
    """Photons alone are drawn on the CPU, where the generator is."""
    x, photons = photographs(1, 48, 48), []
    monkeypatch.setattr(module, "poisson_noise", lambda *a, **k: photons.append(1) or poisson_noise(*a, **k))
    for index in range(6):
        with Elsewhere() as mode:
            photons.clear()
            degrade(x, name, seed=0, indices=[index])
        assert dict(mode.left) == ({"cpu": len(photons)} if photons else {})


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", DEGRADATIONS)
def test_a_gpu_gives_what_the_cpu_gives(name):
    x, indices = photographs(8, 128, 128), list(range(8))
    here, there = (degrade(y, name, seed=0, indices=indices) for y in (x, x.cuda()))
    for one, other in zip(here, there, strict=True):
        assert other.is_cuda
        gap = (one - other.cpu()).abs() * 255
        assert gap.mean() < 0.5 and (gap > 1.5).float().mean() < 0.05


# Faces


def faces(**settings) -> FaceDegradation:
    """Without damage but for the settings."""
    none = {"blur_sigma": (0.01, 0.01), "downsample_range": (1, 1), "noise_range": (0, 0),
            "jpeg_range": (99, 99), "gray_prob": 0.0}  # fmt: skip
    return FaceDegradation(**none | settings)


def test_each_part_of_the_degradation_of_faces():
    x = photographs(1, 64, 80)

    def made(**settings) -> Tensor:
        lq, hq = degrade(x, faces(**settings), seed=0, indices=[3])
        assert lq.shape == x.shape and torch.equal(hq, x)
        return lq

    def eight(y: Tensor) -> Tensor:
        return (y.clamp(0, 1) * 255).round() / 255

    assert torch.equal(made(), eight(jpeg(x, 99.0)))
    assert torch.equal(made(jpeg_range=(30, 30)), eight(jpeg(x, 30.0)))
    kernel = bivariate_kernel(41, 2.0, 2.0, 0.0, isotropic=True)
    blurred = made(blur_sigma=(2, 2), kernel_list=("iso",), kernel_prob=(1.0,))
    torch.testing.assert_close(blurred, eight(jpeg(filter2d(x, kernel), 99.0)), atol=1.01 / 255, rtol=0)
    small = F.interpolate(x, (21, 26), mode="bilinear")  # sides are rounded down
    enlarged = F.interpolate(jpeg(small, 99.0), (64, 80), mode="bilinear")
    assert torch.equal(made(downsample_range=(3, 3)), eight(enlarged))
    grain = made(noise_range=(20, 20)) - made()
    assert 12 / 255 < grain.std() < 22 / 255 and grain.mean().abs() < 3 / 255
    assert (grain - grain.mean(dim=1, keepdim=True)).std() > 8 / 255  # in colour


def test_a_grey_pair_is_grey_on_both_sides():
    x = photographs(1, 32, 32)
    lq, hq = degrade(x, faces(gray_prob=1.0), seed=0, indices=[0])
    for image in (lq, hq):
        assert torch.equal(image, image[:, :1].expand_as(image))
    luma = (x * torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)).sum(1, keepdim=True)
    torch.testing.assert_close(hq[:, :1], luma)
    one, two = (degrade(x, p, seed=0, indices=[0]) for p in (faces(), without_grey(faces(gray_prob=1.0))))
    assert torch.equal(one[0], two[0]) and torch.equal(two[1], x)
    found = [degrade(x[..., :16, :16], "faces", seed=0, indices=[i])[1] for i in range(400)]
    assert 0 < sum(torch.equal(hq, hq[:, :1].expand_as(hq)) for hq in found) < 14  # one in a hundred


def test_values_of_the_degradation_of_faces(monkeypatch):
    """Over 300 images: every range is used to its ends and not left."""
    sizes, qualities, sigmas, kinds, factors, noises = set(), [], [], Counter(), [], []

    def kernel(size, sx, sy, theta, *, isotropic):
        sizes.add(size)
        sigmas.extend((sx, sy))
        kinds[isotropic] += 1
        assert -math.pi <= theta <= math.pi
        return bivariate_kernel(7, sx, sy, theta, isotropic=isotropic)

    def noise(self, shape, like):
        factors.append(64 / shape[-1])
        return torch.ones(shape)

    def compressed(x, quality):
        qualities.append(quality)
        noises.append((x.median() * 255).item())
        return x

    monkeypatch.setattr(module, "bivariate_kernel", kernel)
    monkeypatch.setattr(module, "jpeg", compressed)
    monkeypatch.setattr(Draw, "normal", noise)
    for i in range(300):
        degrade(torch.zeros(1, 3, 64, 64), "faces", seed=0, indices=[i])
    assert sizes == {41} and 0.4 < kinds[True] / 300 < 0.6
    assert 0.1 <= min(sigmas) < 0.5 and 14.5 < max(sigmas) <= 15
    assert 30 <= min(qualities) < 32 and 98 < max(qualities) <= 100
    assert min(factors) < 1 and max(factors) == 32
    assert 0 <= min(noises) < 1 and 19 < max(noises) <= 20
