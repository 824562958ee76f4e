"""Pre-training of a diffusion teacher on the compact base: its denoiser, and its one-step slot.

Players: student = the compact denoiser D(w, y, s) (bases/compact/network.py); no critic.

    denoise   E || D(w, y, s) - r_0 ||^2 / c_out(s)^2    ln s ~ N(ln s_mean, s_std^2), in [s_min, s_max]
    slot      | D(0, y, inf) - r_0 | / sigma_data        the answer from y alone, in one step
    edge      the slot's error in its image gradients: edges come early, grain does not pay
    lpips     a perceptual distance of the slot's image, if a feature network is given
    grid      the slot's error folded at a period of 4 pixels: a pattern locked to the low-resolution pixels
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, cast

import torch
from torch import Tensor, nn

from ..diffusion.denoiser import Base, Batch, Distance, Method, Terms
from ..errors import ConfigError, check_range
from ..losses.terms import edge_loss, grid_loss


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
        check_range("method", self, "slot_share", 0, 1)
        if not 0 < self.s_min <= self.s_max or self.s_mean <= 0:
            raise ConfigError(f"expected 0 < method.s_min <= method.s_max and method.s_mean > 0, "
                              f"found {self.s_min}, {self.s_max} and {self.s_mean}")  # fmt: skip


class ResidualBase(Base, Protocol):
    """A base whose network can be asked for the residual itself, at any noise-to-signal ratio."""

    def residual(self) -> nn.Module:
        """(w [B, C, h, w], image [B, 3, h, w], s [B]) -> r_0, trainable."""
        ...


class Teacher(Method):
    """Method: see the module's docstring. `sigma_data` and `decode` come from the base."""

    critic: nn.Module | None = None
    pretrains = True

    def __init__(
        self, config: TeacherConfig, student: nn.Module, sigma_data: float,
        decode: Callable[[Tensor], Tensor], perceptual: Distance | None = None,
    ):  # fmt: skip
        self.config, self.student, self.sigma_data = config, student, sigma_data
        self.decode, self.perceptual = decode, perceptual

    @classmethod
    def build(cls, config: TeacherConfig, base: Base, perceptual: Callable[[str], Distance]) -> "Teacher":
        distance = perceptual("lpips") if config.weight_lpips else None
        student = cast(ResidualBase, base).residual()
        return cls(config, student, base.sigma_data, base.decode, distance)

    def split(self, batch: Batch) -> int:
        """How many images of the batch, the first ones, train the denoiser."""
        return len(batch.x_lq) - round(self.config.slot_share * len(batch.x_lq))

    def generate(self, batch: Batch) -> Tensor:
        """The slot's z_hat of the images after `split`; the denoiser's error on the first ones is kept."""
        n, y = self.split(batch), batch.cond.y
        z_hat = y[n:]
        if len(z_hat):
            slot = torch.zeros_like(z_hat), batch.cond.image[n:], y.new_full((len(z_hat),), math.inf)
            z_hat = z_hat + self.student(*slot)
        if n:
            r0 = (batch.z_hq - y)[:n]
            self.s = sample_s(self.config, n, r0.device)
            w = r0 + self.s.view(-1, 1, 1, 1) * torch.randn_like(r0)
            self.error = (self.student(w, batch.cond.image[:n], self.s) - r0).square().mean(dim=(1, 2, 3))
        return z_hat

    def generator_loss(self, batch: Batch, z_hat: Tensor) -> Terms:
        """`denoise` on the first images of the batch, the slot's terms on the others."""
        c, sd, n = self.config, self.sigma_data, self.split(batch)
        terms: Terms = {}
        if n:
            weight = 1 / sd**2 + 1 / self.s**2  # 1 / c_out^2
            terms["denoise"] = c.weight_denoise * (weight * self.error).mean()
        if len(z_hat):
            terms["slot"] = c.weight_slot * (z_hat - batch.z_hq[n:]).abs().mean() / sd
            x_hat, x_hq = self.decode(z_hat), batch.x_hq[n:]
            if c.weight_edge:
                terms["edge"] = c.weight_edge * edge_loss(x_hat, x_hq) / sd
            if self.perceptual is not None:
                terms["lpips"] = c.weight_lpips * self.perceptual(x_hat, x_hq)
            if c.weight_grid:
                terms["grid"] = c.weight_grid * grid_loss(x_hat, x_hq) / sd
        return terms


def sample_s(c: TeacherConfig, n: int, device: torch.device) -> Tensor:
    """n noise-to-signal ratios, log-normal and clipped."""
    return (math.log(c.s_mean) + c.s_std * torch.randn(n, device=device)).exp().clamp(c.s_min, c.s_max)
