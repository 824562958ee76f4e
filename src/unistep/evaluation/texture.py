"""Texture: how much of it there is, whether it is like the reference's, and whether it lies on a lattice."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from .planes import check, luma, separable


def gradient_energy(image: Tensor, reference: Tensor) -> Tensor:
    """Mean squared forward difference of the luma over that of the reference, [B] float64.

    Below 1 soft, above 1 harsh or noisy; nan where the reference is flat. At least 2x2 pixels.
    """
    check(image, reference, least=2)

    def energy(x: Tensor) -> Tensor:
        y = luma(x)
        return y.diff(dim=2).square().mean((1, 2, 3)) + y.diff(dim=3).square().mean((1, 2, 3))

    below = energy(reference)
    return torch.where(below > 0, energy(image) / below, torch.nan)


def grid(image: Tensor) -> Tensor:
    """Grid number: how far the luma's spectrum stands out at periods of 4 and 2 pixels, [B] float64.

    Power of the row and of the column spectra (averaged over rows, over columns) at 1/4 and 1/2 cycles per
    pixel, each over the (lower) median of the bins 4 to 12 away, averaged. About 1 for photographs.
    Upsampling leaves a lattice there that PSNR, NIQE and LPIPS forgive and eyes do not. Sides are cropped to
    a multiple of 4; at least 64x64 pixels; nan or inf for an image without texture.
    """
    check(image, least=64)
    y = luma(image)[:, 0]
    ratios = []
    for rows in (y, y.mT):
        n = rows.shape[-1] // 4 * 4
        power = torch.fft.rfft(rows[..., :n]).abs().square().mean(1)  # [B, n/2 + 1]
        for k in (n // 4, n // 2):
            around = [j for d in range(4, 13) for j in (k - d, k + d) if j <= n // 2]
            ratios.append(power[:, k] / power[:, around].median(1).values)
    return torch.stack(ratios).mean(0)


def swd(
    image: Tensor, reference: Tensor, *, patches: int = 1024, directions: int = 256, seed: int = 0
) -> Tensor:
    """Laplacian-pyramid sliced Wasserstein distance x 1000 (Karras et al. 2018), [B] float64; 0 if equal.

    On each level (down to 16 pixels), 7x7 RGB patches at seeded positions, the same in both images, are
    projected on seeded unit directions; the mean distance of the sorted projections, averaged over levels. At
    least 32x32 pixels. Differs from the paper: the sets are single images, both divided by the reference's
    deviation per channel, so that lost contrast counts.
    """
    check(image, reference, least=32)
    random = torch.Generator().manual_seed(seed)
    totals: list[Tensor] = []
    for a, b in zip(_laplacian(image.double()), _laplacian(reference.double()), strict=True):
        height, width = a.shape[2] - 6, a.shape[3] - 6
        at = torch.randint(height * width, (patches,), generator=random).to(a.device)
        std = b.std((2, 3), keepdim=True).clamp_min(1e-6)
        u = torch.randn(147, directions, dtype=torch.float64, generator=random).to(a.device)
        u = u / u.norm(dim=0)
        p, q = ((_patches(x / std, at) @ u).sort(1).values for x in (a, b))
        totals.append((p - q).abs().mean((1, 2)))
    return 1000 * torch.stack(totals).mean(0)


def _patches(x: Tensor, at: Tensor) -> Tensor:
    """7x7 patches of [B,3,H,W] at flat positions `at` of the valid region -> [B, len(at), 147]."""
    width = x.shape[3] - 6
    offset = torch.arange(7, device=x.device)
    row = (at // width).view(-1, 1, 1) + offset.view(1, 7, 1)
    column = (at % width).view(-1, 1, 1) + offset.view(1, 1, 7)
    return x[:, :, row, column].permute(0, 2, 1, 3, 4).flatten(2)


def _laplacian(x: Tensor) -> list[Tensor]:
    """Burt-Adelson pyramid, finest level first; the last, 16 to 31 pixels on its shorter side, is plain."""
    binomial = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0], dtype=x.dtype, device=x.device) / 16

    def blur(z: Tensor, stride: int = 1) -> Tensor:
        flat = F.pad(z.flatten(0, 1).unsqueeze(1), (2, 2, 2, 2), mode="reflect")
        flat = separable(flat, binomial, stride)
        return flat.view(*z.shape[:2], *flat.shape[2:])

    halvings = (min(x.shape[2:]) // 16).bit_length() - 1
    gaussian = [x[..., : x.shape[2] >> halvings << halvings, : x.shape[3] >> halvings << halvings]]
    for _ in range(halvings):
        gaussian.append(blur(gaussian[-1], 2))
    up = [blur(F.interpolate(low, scale_factor=2, mode="nearest")) for low in gaussian[1:]]
    return [fine - coarse for (fine, _), coarse in zip(pairwise(gaussian), up, strict=True)] + gaussian[-1:]
