"""SinSR: one-step super-resolution by distilling a deterministic sampler (arXiv 2311.14760).

Players: student f_theta, one step from z_T, which also learns the way back; teacher F, the frozen multi-step
base, sampled without noise. There is no critic.

    x, y                x_hq, x_lq; their latents z_hq, cond.y
    z_T ~ N(y, kappa^2 eta_T)     z_T
    F(z_T, y)           z_tch, what the teacher's steps give
    f_theta(z_T, y, T)  z_hat
    f_theta(., y, 0)    invert: from a clean latent back to its z_T
    f_theta(f_theta(z_0, y, 0), y, T)   z_gt: to z_T and back, from the high-quality latent

The paper is not quoted by its equations here: names and values are those of the authors' released trainer.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..diffusion.denoiser import Base, Batch, Cond, Denoiser, Distance, Method, Terms, check_steps, filled
from ..diffusion.process import Process
from ..diffusion.sampler import sample, times
from ..errors import ConfigError, check_range


@dataclass(frozen=True)
class SinSRConfig:
    """The released weights; `released` also scales the inverse's input as the authors' code does."""

    process: str
    """The base's; the paper's is residual shifting."""
    weight_distill: float = 1.0
    """Weight of L_distill (released)."""
    weight_inverse: float = 1.0
    """Weight of L_inverse (released: learn_xT)."""
    weight_gt: float = 1.0
    """Weight of L_gt, the consistency-preserving loss (released: finetune_use_gt)."""
    teacher_steps: int = 15
    """Deterministic steps of the teacher (released)."""
    released_scale: bool = False
    """The inverse is asked at index 0, but its input is scaled as at the last index."""

    def __post_init__(self) -> None:
        check_range("method", self, "weight_distill weight_inverse weight_gt", 0)
        check_range("method", self, "teacher_steps", 1)
        if not (self.weight_distill or self.weight_gt):
            raise ConfigError(
                "expected a loss that moves the student's answer at its last index, found none; set "
                "method.weight_distill or method.weight_gt"
            )

    @classmethod
    def released(cls, process: str, **changes: Any) -> "SinSRConfig":
        """What the authors' trainer does, with `changes`."""
        return cls(process, **{"released_scale": True, **changes})


class SinSR(Method):
    """The student learns its teacher's map from noise to latents, and that map's inverse."""

    teacher: Denoiser
    critic = None

    def __init__(self, config: SinSRConfig, student: Denoiser, teacher: Denoiser):
        self.config, self.student, self.teacher = config, student, teacher
        self.process = teacher.process
        check_steps(config, ("teacher_steps",), self.process)

    @classmethod
    def build(cls, config: SinSRConfig, base: Base, perceptual: Callable[[str], Distance]) -> "SinSR":
        return cls(config, base.denoiser("student", config.process), base.denoiser("teacher", config.process))

    def generate(self, batch: Batch) -> Tensor:
        """z_hat [B, C, h, w]. What else the losses need of the student is kept: `z_T_hat` and `z_gt`.

        z_hat comes first: autocast keeps the weights that it casts, and those cast without a gradient would
        have none in the later calls either.
        """
        c, cond, process = self.config, batch.cond, self.process
        T = filled(len(process) - 1, cond.y)
        self.z_T = process.perturb(cond.y, torch.randn_like(cond.y), T, cond.y)
        z_hat: Tensor = self.student(self.z_T, T, cond)
        if c.weight_distill or c.weight_inverse:
            self.z_tch = sample(self.teacher, process, self.z_T, times(process, c.teacher_steps), batch.told)
        if c.weight_inverse:
            self.z_T_hat = self.invert(self.z_tch, cond)
        if c.weight_gt:
            with torch.no_grad():
                z_T_gt = self.invert(batch.z_hq, cond)
            self.z_gt: Tensor = self.student(z_T_gt, T, cond)
        return z_hat

    def generator_loss(self, batch: Batch, z_hat: Tensor) -> Terms:
        """`distill`, `inverse` and `gt`; z_hat, and what is kept, are of the same `generate`."""
        c = self.config
        terms: Terms = {}
        if c.weight_distill:
            terms["distill"] = c.weight_distill * distill(z_hat, self.z_tch)
        if c.weight_inverse:
            terms["inverse"] = c.weight_inverse * inverse(self.z_T_hat, self.z_T)
        if c.weight_gt:
            terms["gt"] = c.weight_gt * consistency(self.z_gt, batch.z_hq)
        return terms

    def invert(self, z_0: Tensor, cond: Cond) -> Tensor:
        """f_theta(z_0, y, 0) -> the z_T that z_0 came from. The student does not denoise at index 0 any more.

        The authors' code scales this input by the deviation of the last index. A denoiser of the base itself
        scales by that of the index it is asked at, so here the input is multiplied by what is between them.
        """
        t = filled(0, z_0)
        if self.config.released_scale:
            z_0 = z_0 * deviation(self.process, t) / deviation(self.process, t + len(self.process) - 1)
        out: Tensor = self.student(z_0, t, cond)
        return out


def deviation(process: Process, t: Tensor) -> Tensor:
    """sqrt(s_t^2 + 1) [B, 1, 1, 1]: of z_t, where latents have unit variance; what the base divides by."""
    _, _, s = process.at(t)
    return (s**2 + 1).sqrt()


def distill(z_hat: Tensor, z_tch: Tensor) -> Tensor:
    """L_distill: mean squared error of the student's one step to the teacher's many."""
    return F.mse_loss(z_hat, z_tch)


def inverse(z_T_hat: Tensor, z_T: Tensor) -> Tensor:
    """L_inverse: mean squared error of the way back, from the teacher's answer to the z_T it came from."""
    return F.mse_loss(z_T_hat, z_T)


def consistency(z_gt: Tensor, z_hq: Tensor) -> Tensor:
    """L_gt: mean squared error of the high-quality latent's way to its z_T, which is fixed, and back."""
    return F.mse_loss(z_gt, z_hq)
