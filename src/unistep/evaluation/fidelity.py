"""PSNR and SSIM, of the luma and of the three channels, by the protocols of the field.

    protocol   PSNR                                    SSIM                                   whose tables
    pyiqa      as they are, 1e-8 added to the error    rounded to integers, clamped at 0      TSD-SR, OSEDiff
    rounded    rounded to integers                     rounded to integers                    SinSR, TAD-SR
    basicsr    as they are                             as they are

Of 8-bit images the channels are integers anyway; the luma is not. Equal images have 80 dB by pyiqa, else
infinitely many.
"""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from ..errors import ConfigError
from .planes import check, luma, separable

Protocol = Literal["pyiqa", "basicsr", "rounded"]


def psnr_y(image: Tensor, reference: Tensor, *, protocol: Protocol = "pyiqa", border: int = 0) -> Tensor:
    """Peak signal-to-noise ratio of the luma, in dB, [B] float64; `border` pixels are left out on each side.

    Rounding moves it by up to half a dB at 46 dB. Raises ImageError for images that differ in shape.
    """
    return _psnr(*_planes(luma, image, reference, protocol, border, least=1), protocol)


def psnr_rgb(image: Tensor, reference: Tensor, *, protocol: Protocol = "pyiqa", border: int = 0) -> Tensor:
    """Peak signal-to-noise ratio of the three channels' common squared error, in dB, [B] float64."""
    return _psnr(*_planes(_channels, image, reference, protocol, border, least=1), protocol)


def ssim_y(image: Tensor, reference: Tensor, *, protocol: Protocol = "pyiqa", border: int = 0) -> Tensor:
    """Structural similarity of the luma, [B] float64, at most 1, of equal images 1.

    Wang et al. 2004: 11x11 Gaussian, sigma 1.5, valid. pyiqa clamps contrast-structure at 0. At least 11x11
    pixels inside the border, else ImageError.
    """
    return _ssim(*_planes(luma, image, reference, protocol, border, least=11), protocol)


def ssim_rgb(image: Tensor, reference: Tensor, *, protocol: Protocol = "pyiqa", border: int = 0) -> Tensor:
    """The mean of the three channels' structural similarities, [B] float64; otherwise as `ssim_y`."""
    return _ssim(*_planes(_channels, image, reference, protocol, border, least=11), protocol)


def _channels(image: Tensor) -> Tensor:
    return image.double() * 255


def _planes(
    of: Callable[[Tensor], Tensor],
    image: Tensor,
    reference: Tensor,
    protocol: str,
    border: int,
    least: int,
) -> tuple[Tensor, Tensor]:
    """What is compared, in 0..255, without the border."""
    if protocol not in ("pyiqa", "basicsr", "rounded"):
        raise ConfigError(f"No protocol {protocol!r}: take 'pyiqa', 'basicsr' or 'rounded'.")
    check(image, reference, least=2 * border + least)
    height, width = image.shape[2:]
    x, y = (of(z)[..., border : height - border, border : width - border] for z in (image, reference))
    return x, y


def _psnr(x: Tensor, y: Tensor, protocol: str) -> Tensor:
    if protocol == "rounded":
        x, y = x.round(), y.round()
    mse = ((x - y) / 255).square().mean((1, 2, 3))
    return -10 * torch.log10(mse + 1e-8 if protocol == "pyiqa" else mse)


def _ssim(x: Tensor, y: Tensor, protocol: str) -> Tensor:
    if protocol != "basicsr":
        x, y = x.round(), y.round()
    batch = len(x)
    x, y = (z.flatten(0, 1).unsqueeze(1) for z in (x, y))
    g = torch.exp(-torch.arange(-5, 6, dtype=x.dtype, device=x.device).square() / (2 * 1.5**2))
    g = g / g.sum()
    mx, my = separable(x, g), separable(y, g)
    vx, vy = separable(x * x, g) - mx * mx, separable(y * y, g) - my * my
    vxy = separable(x * y, g) - mx * my
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    contrast_structure = (2 * vxy + c2) / (vx + vy + c2)
    if protocol == "pyiqa":
        contrast_structure = contrast_structure.relu()
    maps = (2 * mx * my + c1) / (mx * mx + my * my + c1) * contrast_structure
    return maps.view(batch, -1).mean(1)
