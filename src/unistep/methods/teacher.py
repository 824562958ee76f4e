"""Pre-training of a diffusion teacher on the compact base: its denoiser, and its one-step slot.

Players: student = the compact denoiser D(w, y, s) (design of the network: bases/compact.py); no critic.

    denoise   E || D(w, y, s) - r_0 ||^2 / c_out(s)^2    ln s ~ N(ln s_mean, s_std^2), in [s_min, s_max]
    slot      | D(0, y, inf) - r_0 | / sigma_data        the answer from y alone, in one step
    edge      the slot's error in its image gradients: edges come early, grain does not pay
    lpips     a perceptual distance of the slot's image, if a feature network is given
    grid      the slot's error folded at a period of 4 pixels: a pattern locked to the low-resolution pixels
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..denoiser import Batch, Terms
from ..errors import ConfigError


@dataclass(frozen=True)
class TeacherConfig:
    """Loss terms are divided by sigma_data (or its square), so that weights of 1 are comparable."""

    s_mean: float = 0.12
    s_std: float = 1.2
    s_min: float = 0.005
    s_max: float = 5.0
    slot_share: float = 0.7
    """Share of the batch that trains the one-step slot; the rest trains the denoiser."""
    weight_denoise: float = 1.0
    weight_slot: float = 1.0
    weight_edge: float = 0.0
    weight_lpips: float = 0.0
    weight_grid: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.slot_share <= 1:
            raise ConfigError(f"expected method.slot_share to be from 0 to 1, found {self.slot_share}")
        if not 0 < self.s_min <= self.s_max or self.s_mean <= 0:
            raise ConfigError(f"expected 0 < method.s_min <= method.s_max and method.s_mean > 0, "
                              f"found {self.s_min}, {self.s_max} and {self.s_mean}")  # fmt: skip


class Teacher:
    """Method: see the module's docstring. `sigma_data` and `decode` come from the base."""

    critic: nn.Module | None = None

    def __init__(
        self, config: TeacherConfig, student: nn.Module, sigma_data: float,
        decode: Callable[[Tensor], Tensor], perceptual: Callable[[Tensor, Tensor], Tensor] | None = None,
    ):  # fmt: skip
        self.config, self.student, self.sigma_data = config, student, sigma_data
        self.decode, self.perceptual = decode, perceptual

    def generator_loss(self, batch: Batch) -> tuple[Terms, Tensor]:
        """`denoise` on the first images of the batch, the slot's terms on the others; z_hat is the slot's."""
        c, sd, n = self.config, self.sigma_data, len(batch.x_lq)
        split = n - round(c.slot_share * n)
        s = torch.full((n,), math.inf, device=batch.x_lq.device)
        s[:split] = sample_s(c, split, s.device)
        r0 = batch.z_hq - batch.cond.y
        w = torch.zeros_like(r0)
        w[:split] = r0[:split] + s[:split].view(-1, 1, 1, 1) * torch.randn_like(r0[:split])
        r = self.student(w, batch.cond.image, s)

        terms: Terms = {}
        if split:
            weight = 1 / sd**2 + 1 / s[:split] ** 2  # 1 / c_out^2
            error = (r[:split] - r0[:split]).square().mean(dim=(1, 2, 3))
            terms["denoise"] = c.weight_denoise * (weight * error).mean()
        z_hat = batch.cond.y[split:] + r[split:]
        if split < n:
            terms["slot"] = c.weight_slot * (r[split:] - r0[split:]).abs().mean() / sd
            x_hat, x_hq = self.decode(z_hat), batch.x_hq[split:]
            if c.weight_edge:
                terms["edge"] = c.weight_edge * edge_loss(x_hat, x_hq) / sd
            if c.weight_lpips and self.perceptual is not None:
                terms["lpips"] = c.weight_lpips * self.perceptual(x_hat, x_hq)
            if c.weight_grid:
                terms["grid"] = c.weight_grid * grid_loss(x_hat, x_hq) / sd
        return terms, z_hat

    def critic_loss(self, batch: Batch, z_fake: Tensor) -> Terms:
        """A teacher has no critic."""
        return {}


def sample_s(c: TeacherConfig, n: int, device: torch.device) -> Tensor:
    """n noise-to-signal ratios, log-normal and clipped."""
    return (math.log(c.s_mean) + c.s_std * torch.randn(n, device=device)).exp().clamp(c.s_min, c.s_max)


def edge_loss(x: Tensor, target: Tensor) -> Tensor:
    """Mean absolute error of horizontal and vertical differences, at distances 1 and 2 pixels."""
    error = x - target
    distances = [error[..., d:, :] - error[..., :-d, :] for d in (1, 2)]
    distances += [error[..., d:] - error[..., :-d] for d in (1, 2)]
    return torch.stack([d.abs().mean() for d in distances]).mean()


def grid_loss(x: Tensor, target: Tensor, period: int = 4, window: int = 8) -> Tensor:
    """Mean absolute error of the period x period sub-pixel positions, each averaged over windows of cells.

    Errors of content average out over a window; a pattern that repeats in every cell does not.
    """
    b, c, h, w = x.shape
    cells = F.pixel_unshuffle(x - target, period).reshape(b, c * period**2, h // period, w // period)
    size = min(window, h // period, w // period)
    folded = F.avg_pool2d(cells, size, stride=max(1, size // 2))
    folded = folded.reshape(b, c, period**2, *folded.shape[-2:])
    return (folded - folded.mean(dim=2, keepdim=True)).abs().mean()
