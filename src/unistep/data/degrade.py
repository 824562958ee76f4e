"""The second-order Real-ESRGAN degradation (arXiv 2107.10833) and that of blind faces, seeded per image.

`degrade` makes the low-quality image of a pair. Image `index` under `seed` always gets the same random
numbers, whatever the batch, the worker or the device that asks, so a data set is named by its seed. On an
accelerator sums are rounded in another order: a pixel now and then falls on the next of its 256 levels, and
photon noise, whose draws depend on all levels before, is then another draw of the same distribution.

Images go one by one: how many numbers photon noise takes from the generator depends on the image, so that
what is drawn after it is unknown before. `degradebatch` takes noise from elsewhere, and all images at once.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import ConfigError
from .filters import bivariate_kernel, filter2d, jpeg, sinc_kernel, usm_sharpen
from .presets import SMALLEST_KERNEL, Degradation, FaceDegradation, preset

MODES = ("area", "bilinear", "bicubic")
REDUCE = "antialiased bicubic"


class Blur(NamedTuple):
    kernel: Tensor
    """[k, k] float64, sums to 1."""


class Resize(NamedTuple):
    size: tuple[int, int]
    mode: str
    """One of MODES, or REDUCE."""


class Noise(NamedTuple):
    gaussian: bool
    """Photon noise otherwise."""
    gray: bool
    amounts: tuple[float, float]
    """How strong: drawn after the noise, from this range."""


class Jpeg(NamedTuple):
    quality: float


class Grey(NamedTuple):
    """Of both images of the pair; the last step."""


Step = Blur | Resize | Noise | Jpeg | Grey


def mixed(seed: int, index: int) -> int:
    """One seed, from 0 to 2**63 - 1, for two numbers."""
    return (seed * 0x9E3779B97F4A7C15 + index * 0xBF58476D1CE4E5B9 + 0x94D049BB133111EB) % 2**63


class Draw:
    """The random numbers of one image, drawn on the CPU by a generator seeded by (seed, index)."""

    def __init__(self, seed: int, index: int):
        self.generator = torch.Generator("cpu").manual_seed(mixed(seed, index))

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
    check_sides(x, params.scale)
    x = usm_sharpen(x) if usm else x
    pairs = [
        _degrade_one(image, params, Draw(seed, index))
        for image, index in zip(x[:, None], indices, strict=True)
    ]
    x_lq, x_hq = (torch.cat(images) for images in zip(*pairs, strict=True))
    return eight_bits(x_lq), x_hq


def check_sides(x: Tensor, scale: int) -> None:
    """Raises ConfigError unless both sides of [B, C, H, W] are divisible by `scale`."""
    h, w = x.shape[-2:]
    if h % scale or w % scale:
        raise ConfigError(f"expected sides divisible by {scale}, found {w}x{h}: crop the image first")


def eight_bits(x: Tensor) -> Tensor:
    """Rounded to the 256 levels of [0, 1]."""
    return (x * 255).round().clamp(0, 255) / 255


def grey(x: Tensor) -> Tensor:
    """The luma of [B, 3, H, W], three times (Rec. 601, as OpenCV's)."""
    weights = torch.tensor([0.299, 0.587, 0.114], device=x.device).view(1, 3, 1, 1)
    return (x * weights).sum(dim=1, keepdim=True).expand_as(x)


def _degrade_one(x_hq: Tensor, params: Degradation | FaceDegradation, draw: Draw) -> tuple[Tensor, Tensor]:
    x = x_hq
    for step in steps(params, draw, x.shape[-2], x.shape[-1]):
        match step:
            case Blur(kernel):
                x = filter2d(x, kernel)
            case Resize(size, mode):
                x = _resize(x, size, mode)
            case Noise():
                x = _add_noise(x, step, draw)
            case Jpeg(quality):
                x = jpeg(x.clamp(0, 1), quality)
            case Grey():
                x, x_hq = grey(x), grey(x_hq)
    return x, x_hq


def steps(params: Degradation | FaceDegradation, draw: Draw, h: int, w: int) -> Iterator[Step]:
    """What happens to an image of h x w pixels. Each step is drawn when it is asked for, and a Noise is to
    draw its noise and its amount from `draw` before the next is: in this order data sets were made."""
    if isinstance(params, FaceDegradation):
        return _steps_of_faces(params, draw, h, w)
    return _steps(params, draw, h // params.scale, w // params.scale)


def _steps_of_faces(p: FaceDegradation, draw: Draw, h: int, w: int) -> Iterator[Step]:
    yield Blur(
        bivariate_kernel(
            p.blur_kernel_size,
            draw.uniform(*p.blur_sigma),
            draw.uniform(*p.blur_sigma),
            draw.uniform(-math.pi, math.pi),
            isotropic=p.kernel_list[draw.pick(p.kernel_prob)] == "iso",
        )
    )
    factor = draw.uniform(*p.downsample_range)
    yield Resize((max(1, int(h // factor)), max(1, int(w // factor))), "bilinear")
    yield Noise(True, False, p.noise_range)
    yield Jpeg(draw.uniform(*p.jpeg_range))
    yield Resize((h // p.scale, w // p.scale), "bilinear")
    if draw.chance(p.gray_prob):
        yield Grey()


def _steps(p: Degradation, draw: Draw, h: int, w: int) -> Iterator[Step]:
    """h, w: of the low-quality image."""
    if not p.second_order:
        yield Resize((h, w), REDUCE)
        return
    sizes, sizes2 = (
        list(range(SMALLEST_KERNEL, k + 1, 2)) for k in (p.blur_kernel_size, p.blur_kernel_size2)
    )

    yield Blur(_random_kernel(draw, sizes, p.kernel_list, p.kernel_prob, p.sinc_prob,
                              p.blur_sigma, p.betag_range, p.betap_range))  # fmt: skip
    factor = _random_factor(draw, p.resize_prob, p.resize_range)
    yield _random_resize(draw, (max(1, int(p.scale * h * factor)), max(1, int(p.scale * w * factor))))
    yield _random_noise(draw, p.gaussian_noise_prob, p.noise_range, p.poisson_scale_range, p.gray_noise_prob)
    yield Jpeg(draw.uniform(*p.jpeg_range))

    if draw.chance(p.second_blur_prob):
        yield Blur(_random_kernel(draw, sizes2, p.kernel_list2, p.kernel_prob2, p.sinc_prob2,
                                  p.blur_sigma2, p.betag_range2, p.betap_range2))  # fmt: skip
    factor = _random_factor(draw, p.resize_prob2, p.resize_range2)
    yield _random_resize(draw, (max(1, int(h * factor)), max(1, int(w * factor))))
    yield _random_noise(
        draw, p.gaussian_noise_prob2, p.noise_range2, p.poisson_scale_range2, p.gray_noise_prob2
    )

    # The last sinc imitates sharpening and its ringing; it comes before or after the last JPEG.
    sinc_last = draw.chance(0.5)
    final: list[Step] = [_final_sinc(draw, sizes)] if draw.chance(p.final_sinc_prob) else []
    compressed, resized = Jpeg(draw.uniform(*p.jpeg_range2)), _random_resize(draw, (h, w))
    yield from [compressed, resized, *final] if sinc_last else [resized, *final, compressed]


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


def _final_sinc(draw: Draw, sizes: list[int]) -> Blur:
    size = sizes[draw.integer(len(sizes))]
    return Blur(sinc_kernel(size, draw.uniform(math.pi / 3, math.pi)))


def _random_factor(draw: Draw, prob: tuple[float, float, float], bounds: tuple[float, float]) -> float:
    direction = draw.pick(prob)
    if direction == 0:
        return draw.uniform(1, bounds[1])
    return draw.uniform(bounds[0], 1) if direction == 1 else 1.0


def _random_resize(draw: Draw, size: tuple[int, int]) -> Resize:
    return Resize(size, MODES[draw.integer(len(MODES))])


def _resize(x: Tensor, size: tuple[int, int], mode: str) -> Tensor:
    if mode == REDUCE:
        return F.interpolate(x, size, mode="bicubic", antialias=True)
    resized: Tensor = F.interpolate(x, size, mode=mode)
    return resized


def _random_noise(
    draw: Draw, gaussian_prob: float, sigma: tuple[float, float], poisson: tuple[float, float],
    gray_prob: float,
) -> Noise:  # fmt: skip
    """Its amount is a share of the range for Gaussian noise, a factor for photon noise."""
    gaussian, gray = draw.chance(gaussian_prob), draw.chance(gray_prob)
    return Noise(gaussian, gray, sigma if gaussian else poisson)


def _add_noise(x: Tensor, step: Noise, draw: Draw) -> Tensor:
    if step.gaussian:
        noise = draw.normal((1, 1 if step.gray else 3, *x.shape[-2:]), x)
        return (x + noise * (draw.uniform(*step.amounts) / 255)).clamp(0, 1)
    noise = poisson_noise(x, draw.generator, gray=step.gray)
    return (x + noise * draw.uniform(*step.amounts)).clamp(0, 1)


def poisson_noise(x: Tensor, generator: torch.Generator, *, gray: bool) -> Tensor:
    """Shot noise of one image [1, 3, H, W]: [1, 3 or 1, H, W]. More levels in use make more photons."""
    levels = (x * 255).round().clamp(0, 255) / 255
    if gray:
        weights = torch.tensor([0.2989, 0.587, 0.114], device=x.device).view(1, 3, 1, 1)
        levels = ((levels * weights).sum(dim=1, keepdim=True) * 255).round() / 255
    used = torch.bincount((levels * 255).round().long().flatten(), minlength=256).count_nonzero()
    count = 2 ** math.ceil(math.log2(max(2, int(used))))
    photons: Tensor = torch.poisson((levels * count).cpu(), generator=generator).to(x)
    noise: Tensor = photons / count - levels
    return noise
