"""A denoiser over a latent of any size: tiles of one size, blended with Gaussian weights.

Blending z_0 is blending the prediction: z_0 is affine in it, and the weights of a latent sum to one.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

Fn = Callable[[Tensor, Tensor | None], Tensor]


def starts(length: int, tile: int, overlap: int) -> list[int]:
    """Where tiles begin that cover `length`: every tile - overlap, the last one moved back to end with it."""
    if length <= tile:
        return [0]
    step = tile - overlap
    count = math.ceil((length - tile) / step) + 1
    return [min(i * step, length - tile) for i in range(count)]


def bell(length: int, centre: float) -> Tensor:
    """[length] float64: a Gaussian of variance 0.01 length^2 about `centre`, as one-step upscalers use it."""
    i = torch.arange(length, dtype=torch.float64)
    return torch.exp(-((i - centre) ** 2) / (2 * 0.01 * length**2)) / math.sqrt(2 * math.pi * 0.01)


def gaussian(height: int, width: int, asymmetric: bool = False) -> Tensor:
    """[height, width] float64 weights of a tile.

    `asymmetric`: the centre of the rows is height / 2 instead of (height - 1) / 2: the released code of
    TSD-SR and OSEDiff is off by half a latent there.
    """
    centre = height / 2 if asymmetric else (height - 1) / 2
    return bell(height, centre)[:, None] * bell(width, (width - 1) / 2)


def blended(
    fn: Fn,
    z: Tensor,
    image: Tensor | None,
    tile: int,
    overlap: int,
    *,
    batch: int = 1,
    asymmetric: bool = False,
    whole_area: bool = True,
    progress: Callable[[int, int], object] | None = None,
) -> Tensor:
    """fn(z, image) in tiles: [1, C, h, w] -> [1, C', h, w].

    Args:
        image: [1, 3, H, W], H / h = W / w a whole number: cut together with the latent; or None.
        batch: tiles per call.
        whole_area: a latent of at most tile^2 values per channel is computed at once, whatever its sides (the
            authors' rule); otherwise both sides must fit.
        progress: called with (tiles done, tiles in all).
    """
    h, w = z.shape[-2:]
    if (h * w <= tile * tile) if whole_area else max(h, w) <= tile:
        result = fn(z, image)
        if progress:
            progress(1, 1)
        return result
    tile = min(tile, h, w)
    overlap = min(overlap, tile // 2)
    ratio = 0 if image is None else image.shape[-1] // w
    weights = gaussian(tile, tile, asymmetric).to(z.device, torch.float32)
    corners = [(y, x) for y in starts(h, tile, overlap) for x in starts(w, tile, overlap)]
    total = torch.zeros(0)
    share = torch.zeros(h, w, device=z.device)
    for at in range(0, len(corners), batch):
        group = corners[at : at + batch]
        pieces = torch.cat([z[..., y : y + tile, x : x + tile] for y, x in group])
        views = None
        if image is not None:
            side = tile * ratio
            views = torch.cat([image[..., y * ratio :, x * ratio :][..., :side, :side] for y, x in group])
        out = fn(pieces, views).float()
        if not len(total):
            total = torch.zeros(1, out.shape[1], h, w, device=out.device)
        for (y, x), piece in zip(group, out, strict=True):
            total[0, :, y : y + tile, x : x + tile] += piece * weights
            share[y : y + tile, x : x + tile] += weights
        if progress:
            progress(min(at + batch, len(corners)), len(corners))
    return total / share


def averaged(fn: Callable[[Tensor], Tensor], image: Tensor, patch: int, stride: int, scale: int) -> Tensor:
    """SinSR's way: fn on overlapping patches of the low-quality image, results averaged evenly.

    [1, 3, H, W] -> [1, 3, scale H, scale W]. Patches begin every `stride`; those that would leave the image
    are moved back to its border, once.
    """

    def begins(length: int) -> list[int]:
        return sorted({min(at, max(0, length - patch)) for at in range(0, length, stride)})

    h, w = image.shape[-2:]
    total = torch.zeros(1, 3, scale * h, scale * w, device=image.device)
    share = torch.zeros(scale * h, scale * w, device=image.device)
    for y in begins(h):
        for x in begins(w):
            out = fn(image[..., y : y + patch, x : x + patch])
            rows = slice(scale * y, scale * y + out.shape[-2])
            columns = slice(scale * x, scale * x + out.shape[-1])
            total[..., rows, columns] += out
            share[rows, columns] += 1
    return total / share
