"""Blur kernels, per-image filtering, JPEG and sharpening in torch, on the device of their input.

They agree with BasicSR's `degradations`, `DiffJPEG` and `USMSharp`, which the field trains with
(tests/golden). Images are [B, 3, H, W] float32 in [0, 1].
"""

import math
from collections.abc import Sequence
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

FOURIER = 11
"""Kernels from this side on are applied to waves: an image then costs the same for all sizes."""


def _grid(size: int) -> Sequence[Tensor]:
    axis = torch.arange(size, dtype=torch.float64, device="cpu") - size // 2
    return torch.meshgrid(axis, axis, indexing="xy")


def bivariate_kernel(
    size: int,
    sigma_x: float,
    sigma_y: float,
    theta: float,
    *,
    isotropic: bool,
    generalized: float | None = None,
    plateau: float | None = None,
) -> Tensor:
    """[size, size] float64, sums to 1: exp(-q/2), exp(-q^beta/2) (`generalized`) or 1/(1+q^beta) (`plateau`).

    q is the squared Mahalanobis distance; sigma in pixels, theta in radians. An isotropic kernel uses sigma_x
    alone.
    """
    x, y = _grid(size)
    if isotropic:
        q = (x**2 + y**2) / sigma_x**2
    else:
        u, v = math.cos(theta) * x + math.sin(theta) * y, -math.sin(theta) * x + math.cos(theta) * y
        q = u**2 / sigma_x**2 + v**2 / sigma_y**2
    if plateau is not None:
        kernel = 1 / (1 + q**plateau)
    else:
        kernel = torch.exp(-0.5 * q ** (1.0 if generalized is None else generalized))
    return kernel / kernel.sum()


def sinc_kernel(size: int, cutoff: float) -> Tensor:
    """[size, size] float64, sums to 1: the circular low-pass with `cutoff` in radians per pixel, (0, pi]."""
    x, y = _grid(size)
    r = (x**2 + y**2).sqrt()
    kernel: Tensor = cutoff * torch.special.bessel_j1(cutoff * r) / (2 * math.pi * r)
    kernel[size // 2, size // 2] = cutoff**2 / (4 * math.pi)
    return kernel / kernel.sum()


def filter2d(x: Tensor, kernel: Tensor) -> Tensor:
    """Correlates image i with kernel i: x [B, C, H, W], kernel [B, k, k] or [k, k]; borders reflect."""
    k = kernel.shape[-1]
    mode = "reflect" if k // 2 < min(x.shape[-2:]) else "replicate"
    return correlate(F.pad(x, [k // 2] * 4, mode=mode), kernel.to(x))


def correlate(x: Tensor, kernel: Tensor) -> Tensor:
    """The part of [B, C, H, W] in which kernel i ([B, k, k] or [k, k]) fits into image i: k - 1 shorter."""
    b, c, h, w = x.shape
    k = kernel.shape[-1]
    if k < FOURIER:
        weight = kernel.expand(b, k, k).repeat_interleave(c, dim=0)[:, None]
        return F.conv2d(x.reshape(1, b * c, h, w), weight, groups=b * c).reshape(b, c, h - k + 1, w - k + 1)
    sides = (_smooth(h), _smooth(w))
    waves = torch.fft.rfft2(kernel.expand(b, k, k)[:, None], s=sides).conj()
    x = torch.fft.irfft2(torch.fft.rfft2(x, s=sides) * waves, s=sides)
    return x[..., : h - k + 1, : w - k + 1]


def _smooth(side: int) -> int:
    """The first multiple of 4 from `side` on without a prime factor above 7: of it transforms are fast."""
    side += -side % 4
    while True:
        rest = side
        for prime in (2, 3, 5, 7):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return side
        side += 4


_LUMINANCE = torch.tensor([
    [16, 11, 10, 16, 24, 40, 51, 61], [12, 12, 14, 19, 26, 58, 60, 55], [14, 13, 16, 24, 40, 57, 69, 56],
    [14, 17, 22, 29, 51, 87, 80, 62], [18, 22, 37, 56, 68, 109, 103, 77], [24, 35, 55, 64, 81, 104, 113, 92],
    [49, 64, 78, 87, 103, 121, 120, 101], [72, 92, 95, 98, 112, 100, 103, 99],
], dtype=torch.float32)  # fmt: skip
_CHROMINANCE = torch.full((8, 8), 99.0)
_CHROMINANCE[:4, :4] = torch.tensor(
    [[17, 18, 24, 47], [18, 21, 26, 66], [24, 26, 56, 99], [47, 66, 99, 99]], dtype=torch.float32
)
_TO_YCC = torch.tensor([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]])
_TO_RGB = torch.tensor([[1.0, 0.0, 1.402], [1.0, -0.344136, -0.714136], [1.0, 1.772, 0.0]])


@cache
def _dct() -> Tensor:
    """The orthonormal DCT-II of 8x8 blocks, [64, 64]: blocks as vectors make one large product."""
    n = torch.arange(8, dtype=torch.float64, device="cpu")
    matrix = torch.cos((2 * n[None] + 1) * n[:, None] * math.pi / 16) / 2
    matrix[0] /= math.sqrt(2)
    return torch.kron(matrix, matrix).float()


def jpeg(x: Tensor, quality: Tensor | float) -> Tensor:
    """The losses of JPEG at `quality` ([B] or one number, 1..99) with 4:2:0 chroma. Result in [0, 1]."""
    b, _, h, w = x.shape
    q = torch.as_tensor(quality, dtype=torch.float32, device=x.device).expand(b).clamp(1.0, 99.0)
    factor = torch.where(q < 50, 5000 / q, 200 - 2 * q) / 100
    x = F.pad(x, (0, -w % 16, 0, -h % 16)) * 255  # zeros, as DiffJPEG does
    ycc = (_TO_YCC.to(x) @ x.flatten(2)).reshape(x.shape)
    luma = _quantise(ycc[:, :1] - 128, _LUMINANCE.T.to(x), factor) + 128  # DiffJPEG transposes its tables
    chroma = _quantise(F.avg_pool2d(ycc[:, 1:], 2), _CHROMINANCE.to(x), factor)
    ycc = torch.cat([luma, chroma.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)], dim=1)
    return (_TO_RGB.to(x) @ ycc.flatten(2)).reshape(x.shape).clamp(0, 255)[..., :h, :w] / 255


def _quantise(plane: Tensor, table: Tensor, factor: Tensor) -> Tensor:
    """Rounds the 8x8 DCT coefficients of [B, C, H, W] to multiples of table * factor."""
    b, c, h, w = plane.shape
    dct = _dct().to(plane)
    blocks = plane.reshape(b, c, h // 8, 8, w // 8, 8).transpose(3, 4).reshape(b, -1, 64)
    step = (table * factor[:, None, None]).reshape(b, 1, 64)
    blocks = (torch.round(blocks @ dct.T / step) * step) @ dct
    return blocks.reshape(b, c, h // 8, w // 8, 8, 8).transpose(3, 4).reshape(b, c, h, w)


def usm_sharpen(x: Tensor, weight: float = 0.5, radius: int = 50, threshold: float = 10) -> Tensor:
    """Unsharp masking where the difference to the blurred image exceeds `threshold` (of 255); in [0, 1]."""
    size = radius + 1 - radius % 2
    sigma = 0.3 * ((size - 1) * 0.5 - 1) + 0.8
    axis = torch.exp(
        -0.5 * ((torch.arange(size, dtype=torch.float64, device="cpu") - size // 2) / sigma) ** 2
    )
    reflect = size // 2 < min(x.shape[-2:])
    # The Gaussian is a product of two: with the borders in a matrix for each axis it costs two products.
    down, across = (_blurring(axis / axis.sum(), side, reflect).to(x) for side in x.shape[-2:])
    residue = x - down @ x @ across.T
    mask = down @ (residue.abs() * 255 > threshold).to(x) @ across.T
    sharp = (x + weight * residue).clamp(0, 1)
    return mask * sharp + (1 - mask) * x


def _blurring(weights: Tensor, side: int, reflect: bool) -> Tensor:
    """[side, side]: what `weights`, centred on each pixel of an axis, take from which pixel."""
    places = torch.arange(side, device="cpu")[:, None] + torch.arange(len(weights), device="cpu")
    places = places - len(weights) // 2
    last = side - 1
    places = last - (places.abs() - last).abs() if reflect else places.clamp(0, last)
    return weights.new_zeros(side, side).scatter_add_(1, places, weights.expand(side, -1))
