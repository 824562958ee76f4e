"""NIQE: how far a picture's statistics are from those of natural photographs; no reference."""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import ImageError, ModelError
from .planes import check, luma, separable


class Niqe:
    """NIQE (Mittal et al. 2013) by BasicSR's protocol: rounded luma, 96x96 blocks, two scales; [B] float64.

    pristine: the .npz with `mu_pris_param` [1,36], `cov_pris_param` [36,36] and `gaussian_window` [7,7].
    Only whole blocks count, and at least one is needed. nan if no block has texture.
    Where one block alone has texture, its covariance is a number, as in BasicSR: its 36 features' variance.
    Grain can lower this number: never read it alone.
    """

    _alphas = torch.arange(200, 10001, dtype=torch.float64) / 1000

    def __init__(self, pristine: str | Path) -> None:
        try:
            with np.load(pristine, allow_pickle=False) as file:
                self.mu = torch.from_numpy(file["mu_pris_param"]).double().reshape(36)
                self.cov = torch.from_numpy(file["cov_pris_param"]).double().reshape(36, 36)
                self.window = torch.from_numpy(file["gaussian_window"]).double().reshape(1, 1, 7, 7)
        except (OSError, ValueError, KeyError, RuntimeError, EOFError) as error:
            raise ModelError(f"{pristine} is not a NIQE pristine model in BasicSR's form: {error}") from error

    def __call__(self, image: Tensor) -> Tensor:
        check(image)
        rows, columns = image.shape[2] // 96, image.shape[3] // 96
        if not rows * columns:
            raise ImageError(f"NIQE needs a whole block of 96x96 pixels, not {tuple(image.shape[2:])}.")
        y = luma(image[..., : rows * 96, : columns * 96].cpu())
        y = ((y / 255).float() * 255).round().double()  # float32, as BasicSR: so its ties are rounded
        return torch.stack([self._distance(one.unsqueeze(0)) for one in y])

    def _distance(self, y: Tensor) -> Tensor:
        features = torch.cat([self._features(y, 96), self._features(_halve(y), 48)], 1)  # [blocks, 36]
        whole = features[~features.isnan().any(1)]
        if not len(whole):
            return torch.tensor(torch.nan, dtype=torch.float64)
        d = self.mu - features.nanmean(0)
        spread = torch.cov(whole.T if len(whole) > 1 else whole[0])
        distance: Tensor = d @ torch.linalg.pinv((self.cov + spread) / 2) @ d
        return distance.sqrt()

    def _features(self, y: Tensor, block: int) -> Tensor:
        # float32, as BasicSR: in flat places its rounding is all the texture there is, and decides on nan
        y = y.float()
        mean = self._filtered(y)
        sigma = (self._filtered(y.square()) - mean.square()).abs().sqrt()
        mscn = ((y - mean) / (sigma + 1)).double()
        tiles = mscn.unfold(2, block, block).unfold(3, block, block).reshape(-1, block, block)
        alpha, left, right = self._aggd(tiles)
        out = [alpha, (left + right) / 2]
        for shift in ((0, 1), (1, 0), (1, 1), (1, -1)):  # four neighbours, wrapped at the block's edge
            alpha, left, right = self._aggd(tiles * tiles.roll(shift, (1, 2)))
            out += [alpha, (right - left) * _gamma(2 / alpha) / _gamma(1 / alpha), left, right]
        return torch.stack(out, 1)

    def _filtered(self, y: Tensor) -> Tensor:
        """y through the window: summed in float64, float32."""
        return F.conv2d(F.pad(y.double(), (3, 3, 3, 3), mode="replicate"), self.window).float()

    def _aggd(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Asymmetric generalised Gaussian fitted to each x[i] by moments: shape, left and right scale."""
        x = x.flatten(1)
        left = (x.square() * (x < 0)).sum(1).div((x < 0).sum(1)).sqrt()
        right = (x.square() * (x > 0)).sum(1).div((x > 0).sum(1)).sqrt()
        g = left / right
        r = x.abs().mean(1).square() / x.square().mean(1) * (g**3 + 1) * (g + 1) / (g**2 + 1) ** 2
        table = _gamma(2 / self._alphas).square() / (_gamma(1 / self._alphas) * _gamma(3 / self._alphas))
        alpha = self._alphas[(table - r.unsqueeze(1)).abs().argmin(1)]
        ratio = (_gamma(1 / alpha) / _gamma(3 / alpha)).sqrt()
        return alpha, left * ratio, right * ratio


def _gamma(x: Tensor) -> Tensor:
    return torch.lgamma(x).exp()


def _halve(y: Tensor) -> Tensor:
    """MATLAB's imresize(y, 0.5) of an even-sided [1,1,H,W]: antialiased bicubic (a = -0.5), mirrored."""
    k = torch.tensor([-3.0, -9.0, 29.0, 111.0], dtype=y.dtype) / 256  # at 7/4, 5/4, 3/4 and 1/4, halved
    k = torch.cat([k, k.flip(0)])
    for axis in (2, 3):
        n = y.shape[axis]
        index = torch.cat([torch.arange(2, -1, -1), torch.arange(n), torch.arange(n - 1, n - 4, -1)])
        y = y.index_select(axis, index)
    return separable(y, k, stride=2)
