"""The second-order Real-ESRGAN degradation (arXiv 2107.10833) and that of blind faces, seeded per image.

`degrade` makes the low-quality image of a pair. Image `index` under `seed` always gets the same random
numbers, whatever the batch, the worker or the device that asks, so a data set is named by its seed. On an
accelerator sums are rounded in another order: a pixel now and then falls on the next of its 256 levels, and
photon noise, whose draws depend on all levels before, is then another draw of the same distribution.
"""

import math
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import ConfigError
from .filters import bivariate_kernel, filter2d, jpeg, sinc_kernel, usm_sharpen

KERNELS = ("iso", "aniso", "generalized_iso", "generalized_aniso", "plateau_iso", "plateau_aniso")
MODES = ("area", "bilinear", "bicubic")
SMALLEST_KERNEL = 7
"""Kernel sizes are drawn from the odd numbers from here up to blur_kernel_size."""


@dataclass(frozen=True)
class Degradation:
    """The parameters under their community names; the defaults are Real-ESRGAN's. Noise in levels of 255."""

    scale: int = 4
    # first order
    blur_kernel_size: int = 21
    kernel_list: tuple[str, ...] = KERNELS
    kernel_prob: tuple[float, ...] = (0.45, 0.25, 0.12, 0.03, 0.12, 0.03)
    sinc_prob: float = 0.1
    blur_sigma: tuple[float, float] = (0.2, 3.0)
    betag_range: tuple[float, float] = (0.5, 4.0)
    betap_range: tuple[float, float] = (1.0, 2.0)
    resize_prob: tuple[float, float, float] = (0.2, 0.7, 0.1)
    """up, down, keep"""
    resize_range: tuple[float, float] = (0.15, 1.5)
    gaussian_noise_prob: float = 0.5
    """Poisson noise otherwise"""
    noise_range: tuple[float, float] = (1.0, 30.0)
    poisson_scale_range: tuple[float, float] = (0.05, 3.0)
    gray_noise_prob: float = 0.4
    jpeg_range: tuple[float, float] = (30.0, 95.0)
    # second order
    second_order: bool = True
    """False leaves only the bicubic reduction by `scale`."""
    second_blur_prob: float = 0.8
    blur_kernel_size2: int = 21
    kernel_list2: tuple[str, ...] = KERNELS
    kernel_prob2: tuple[float, ...] = (0.45, 0.25, 0.12, 0.03, 0.12, 0.03)
    sinc_prob2: float = 0.1
    blur_sigma2: tuple[float, float] = (0.2, 1.5)
    betag_range2: tuple[float, float] = (0.5, 4.0)
    betap_range2: tuple[float, float] = (1.0, 2.0)
    resize_prob2: tuple[float, float, float] = (0.3, 0.4, 0.3)
    resize_range2: tuple[float, float] = (0.3, 1.2)
    gaussian_noise_prob2: float = 0.5
    noise_range2: tuple[float, float] = (1.0, 25.0)
    poisson_scale_range2: tuple[float, float] = (0.05, 2.5)
    gray_noise_prob2: float = 0.4
    jpeg_range2: tuple[float, float] = (30.0, 95.0)
    final_sinc_prob: float = 0.8

    def __post_init__(self) -> None:
        for name in ("blur_kernel_size", "blur_kernel_size2"):
            if getattr(self, name) < SMALLEST_KERNEL:
                raise ConfigError(
                    f"expected {name} to be {SMALLEST_KERNEL} or more, found {getattr(self, name)}"
                )
        for kinds, shares in ((self.kernel_list, self.kernel_prob), (self.kernel_list2, self.kernel_prob2)):
            if len(kinds) != len(shares) or not set(kinds) <= set(KERNELS):
                raise ConfigError(
                    f"expected a kernel_prob for each of kernel_list, out of {', '.join(KERNELS)}, "
                    f"found {list(kinds)} and {list(shares)}"
                )


@dataclass(frozen=True)
class FaceDegradation:
    """Blind face restoration: x_lq = grey(up(jpeg(down(x * k) + n))), as large as x (GFPGAN, 2101.04061).

    The defaults are those of the released training for faces of arXiv 2307.12348
    (faceir_gfpgan512_lpips.yaml), which made TAD-SR's teacher; TAD-SR itself says only "a typical
    degradation model". Ours: JPEG is DiffJPEG's (4:2:0, no entropy coding), where the reference calls
    OpenCV's encoder.
    """

    scale: int = 1
    blur_kernel_size: int = 41
    kernel_list: tuple[str, ...] = ("iso", "aniso")
    kernel_prob: tuple[float, ...] = (0.5, 0.5)
    blur_sigma: tuple[float, float] = (0.1, 15.0)
    downsample_range: tuple[float, float] = (0.8, 32.0)
    noise_range: tuple[float, float] = (0.0, 20.0)
    jpeg_range: tuple[float, float] = (30.0, 100.0)
    gray_prob: float = 0.01
    """Both images of the pair become grey (gt_gray), so that no colour is invented for old photographs."""


_LIGHT = Degradation(
    resize_range=(0.3, 1.5),
    noise_range=(1.0, 15.0),
    poisson_scale_range=(0.05, 2.0),
    jpeg_range=(60.0, 95.0),
    second_blur_prob=0.5,
    resize_range2=(0.6, 1.2),
    noise_range2=(1.0, 12.0),
    poisson_scale_range2=(0.05, 1.0),
    jpeg_range2=(60.0, 100.0),
)
DEGRADATIONS: dict[str, Degradation | FaceDegradation] = {
    "realesrgan": Degradation(),  # OSEDiff's and Real-ESRGAN's values
    "light": _LIGHT,  # AdcSR's, S3Diff's and SeeSR's params_realesrgan
    "bicubic": replace(_LIGHT, second_order=False),
    # Ours: blurred and compressed, but hardly noisy. In the others noise always comes with blur: a network
    # that saw only them answers every blur with more smoothing.
    "mild": replace(
        _LIGHT,
        blur_sigma=(0.2, 2.0),
        sinc_prob=0.05,
        resize_range=(0.5, 1.2),
        noise_range=(0.0, 6.0),
        poisson_scale_range=(0.0, 0.5),
        jpeg_range=(80.0, 98.0),
        second_blur_prob=0.3,
        blur_sigma2=(0.2, 1.0),
        resize_range2=(0.7, 1.2),
        noise_range2=(0.0, 4.0),
        poisson_scale_range2=(0.0, 0.3),
        jpeg_range2=(75.0, 100.0),
        final_sinc_prob=0.4,
    ),
    "faces": FaceDegradation(),
}


class Draw:
    """The random numbers of one image, drawn on the CPU by a generator seeded by (seed, index)."""

    def __init__(self, seed: int, index: int):
        mixed = (seed * 0x9E3779B97F4A7C15 + index * 0xBF58476D1CE4E5B9 + 0x94D049BB133111EB) % 2**63
        self.generator = torch.Generator("cpu").manual_seed(mixed)

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        share = torch.rand((), generator=self.generator, dtype=torch.float64, device="cpu").item()
        return low + (high - low) * share

    def chance(self, probability: float) -> bool:
        return self.uniform() < probability

    def integer(self, n: int) -> int:
        """Uniform in 0 .. n - 1."""
        return int(torch.randint(n, (), generator=self.generator, device="cpu").item())

    def pick(self, probabilities: tuple[float, ...]) -> int:
        weights = torch.tensor(probabilities, dtype=torch.float32, device="cpu")
        return int(torch.multinomial(weights, 1, generator=self.generator).item())

    def normal(self, shape: tuple[int, ...], like: Tensor) -> Tensor:
        return torch.randn(shape, generator=self.generator, device="cpu").to(like)


def preset(name: str) -> Degradation | FaceDegradation:
    """The named preset of DEGRADATIONS. Raises ConfigError for an unknown name."""
    if name not in DEGRADATIONS:
        raise ConfigError(f"expected a degradation out of {', '.join(DEGRADATIONS)}, found “{name}”")
    return DEGRADATIONS[name]


def without_grey(params: Degradation | FaceDegradation) -> Degradation | FaceDegradation:
    """`params` that leave the high-quality image as it is, for pairs whose latent is fixed."""
    return replace(params, gray_prob=0.0) if isinstance(params, FaceDegradation) else params


def degrade(
    x: Tensor,
    params: Degradation | FaceDegradation | str,
    *,
    seed: int,
    indices: list[int],
    usm: bool = False,
) -> tuple[Tensor, Tensor]:
    """Low- and high-quality images of pairs: ([B, 3, H/scale, W/scale], [B, 3, H, W]), both in [0, 1].

    x: [B, 3, H, W] float32 in [0, 1], sides divisible by `scale`; indices: B numbers that name the images.
    The low-quality image is rounded to 8 bits. `usm` sharpens the ground truth before (and so the low-quality
    image too), as Real-ESRGAN and SeeSR do. Raises ConfigError for other sides.
    """
    params = preset(params) if isinstance(params, str) else params
    h, w = x.shape[-2:]
    if h % params.scale or w % params.scale:
        raise ConfigError(f"expected sides divisible by {params.scale}, found {w}x{h}: crop the image first")
    x = usm_sharpen(x) if usm else x
    # Each image has its own sizes on the way, so images go one by one; the batch is what comes in and out.
    pairs = []
    for image, index in zip(x[:, None], indices, strict=True):
        draw = Draw(seed, index)
        if isinstance(params, FaceDegradation):
            pairs.append(_degrade_face(image, params, draw))
        else:
            pairs.append((_degrade_one(image, params, draw), image))
    x_lq, x_hq = (torch.cat(images) for images in zip(*pairs, strict=True))
    return (x_lq * 255).round().clamp(0, 255) / 255, x_hq


def _degrade_face(x: Tensor, p: FaceDegradation, draw: Draw) -> tuple[Tensor, Tensor]:
    h, w = x.shape[-2:]
    kernel = bivariate_kernel(
        p.blur_kernel_size,
        draw.uniform(*p.blur_sigma),
        draw.uniform(*p.blur_sigma),
        draw.uniform(-math.pi, math.pi),
        isotropic=p.kernel_list[draw.pick(p.kernel_prob)] == "iso",
    )
    factor = draw.uniform(*p.downsample_range)
    small = (max(1, int(h // factor)), max(1, int(w // factor)))
    lq = F.interpolate(filter2d(x, kernel), small, mode="bilinear")
    noise = draw.normal((1, 3, *small), lq) * (draw.uniform(*p.noise_range) / 255)
    lq = jpeg((lq + noise).clamp(0, 1), draw.uniform(*p.jpeg_range))
    lq = F.interpolate(lq, (h // p.scale, w // p.scale), mode="bilinear")
    return (_grey(lq), _grey(x)) if draw.chance(p.gray_prob) else (lq, x)


def _grey(x: Tensor) -> Tensor:
    """The luma of [B, 3, H, W], three times (Rec. 601, as OpenCV's)."""
    weights = torch.tensor([0.299, 0.587, 0.114], device=x.device).view(1, 3, 1, 1)
    return (x * weights).sum(dim=1, keepdim=True).expand_as(x)


def _degrade_one(x: Tensor, p: Degradation, draw: Draw) -> Tensor:
    h, w = x.shape[-2] // p.scale, x.shape[-1] // p.scale
    if not p.second_order:
        return F.interpolate(x, (h, w), mode="bicubic", antialias=True)
    sizes, sizes2 = (
        list(range(SMALLEST_KERNEL, k + 1, 2)) for k in (p.blur_kernel_size, p.blur_kernel_size2)
    )

    x = filter2d(x, _random_kernel(draw, sizes, p.kernel_list, p.kernel_prob, p.sinc_prob,
                                   p.blur_sigma, p.betag_range, p.betap_range))  # fmt: skip
    factor = _random_factor(draw, p.resize_prob, p.resize_range)
    x = _resize(x, (max(1, int(p.scale * h * factor)), max(1, int(p.scale * w * factor))), draw)
    x = _add_noise(x, draw, p.gaussian_noise_prob, p.noise_range, p.poisson_scale_range, p.gray_noise_prob)
    x = jpeg(x, draw.uniform(*p.jpeg_range))

    if draw.chance(p.second_blur_prob):
        x = filter2d(x, _random_kernel(draw, sizes2, p.kernel_list2, p.kernel_prob2, p.sinc_prob2,
                                       p.blur_sigma2, p.betag_range2, p.betap_range2))  # fmt: skip
    factor = _random_factor(draw, p.resize_prob2, p.resize_range2)
    x = _resize(x, (max(1, int(h * factor)), max(1, int(w * factor))), draw)
    x = _add_noise(
        x, draw, p.gaussian_noise_prob2, p.noise_range2, p.poisson_scale_range2, p.gray_noise_prob2
    )

    # The last sinc imitates sharpening and its ringing; it comes before or after the last JPEG.
    sinc_last = draw.chance(0.5)
    final = _final_sinc(draw, sizes) if draw.chance(p.final_sinc_prob) else None
    quality = draw.uniform(*p.jpeg_range2)
    if sinc_last:
        x = jpeg(x.clamp(0, 1), quality)
    x = _resize(x, (h, w), draw)
    x = x if final is None else filter2d(x, final)
    return x if sinc_last else jpeg(x.clamp(0, 1), quality)


def _random_kernel(
    draw: Draw, sizes: list[int], kinds: tuple[str, ...], probs: tuple[float, ...], sinc_prob: float,
    sigma: tuple[float, float], betag: tuple[float, float], betap: tuple[float, float],
) -> Tensor:  # fmt: skip
    size = sizes[draw.integer(len(sizes))]
    if draw.chance(sinc_prob):
        return sinc_kernel(size, draw.uniform(math.pi / (3 if size < 13 else 5), math.pi))
    kind = kinds[draw.pick(probs)]
    isotropic = kind.endswith("iso") and not kind.endswith("aniso")

    def beta(low: float, high: float) -> float:
        return draw.uniform(low, 1) if draw.chance(0.5) else draw.uniform(1, high)

    return bivariate_kernel(
        size,
        draw.uniform(*sigma),
        draw.uniform(*sigma),
        draw.uniform(-math.pi, math.pi),
        isotropic=isotropic,
        generalized=beta(*betag) if kind.startswith("generalized") else None,
        plateau=beta(*betap) if kind.startswith("plateau") else None,
    )


def _final_sinc(draw: Draw, sizes: list[int]) -> Tensor:
    size = sizes[draw.integer(len(sizes))]
    return sinc_kernel(size, draw.uniform(math.pi / 3, math.pi))


def _random_factor(draw: Draw, prob: tuple[float, float, float], bounds: tuple[float, float]) -> float:
    direction = draw.pick(prob)
    if direction == 0:
        return draw.uniform(1, bounds[1])
    return draw.uniform(bounds[0], 1) if direction == 1 else 1.0


def _resize(x: Tensor, size: tuple[int, int], draw: Draw) -> Tensor:
    mode = MODES[draw.integer(len(MODES))]
    resized: Tensor = F.interpolate(x, size, mode=mode)
    return resized


def _add_noise(
    x: Tensor, draw: Draw, gaussian_prob: float, sigma: tuple[float, float], poisson: tuple[float, float],
    gray_prob: float,
) -> Tensor:  # fmt: skip
    gaussian, gray = draw.chance(gaussian_prob), draw.chance(gray_prob)
    shape = (1, 1 if gray else 3, *x.shape[-2:])
    if gaussian:
        return (x + draw.normal(shape, x) * (draw.uniform(*sigma) / 255)).clamp(0, 1)
    return (x + poisson_noise(x, draw.generator, gray=gray) * draw.uniform(*poisson)).clamp(0, 1)


def poisson_noise(x: Tensor, generator: torch.Generator, *, gray: bool) -> Tensor:
    """Shot noise of one image [1, 3, H, W]: [1, 3 or 1, H, W]. More levels in use make more photons."""
    levels = (x * 255).round().clamp(0, 255) / 255
    if gray:
        weights = torch.tensor([0.2989, 0.587, 0.114], device=x.device).view(1, 3, 1, 1)
        levels = ((levels * weights).sum(dim=1, keepdim=True) * 255).round() / 255
    count = 2 ** math.ceil(math.log2(max(2, len(torch.unique(levels)))))
    photons: Tensor = torch.poisson((levels * count).cpu(), generator=generator).to(x)
    noise: Tensor = photons / count - levels
    return noise
