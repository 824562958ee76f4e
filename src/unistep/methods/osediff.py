"""OSEDiff: one-step super-resolution with variational score distillation in latent space (arXiv 2406.08177).

Players: student = G_theta, one step from the low-quality latent; teacher = eps_phi, the frozen base, guided;
score (the loop's critic) = eps_phi', a copy of the base that is fitted to the student's outputs, unguided.

    z_L                     batch.cond.y
    z_hat, x_hat_H, x_H     z_hat, decode(z_hat) within [-1, 1], batch.x_hq
    z_t                     z_t: z_hat, noised
    c_y, negative prompt    batch.told, batch.null
    lambda_1, lambda_2      lambda_1, lambda_2

Values are those of the authors' released trainer. The score distillation is computed on z_0, as released:
networks that predict noise, v or a velocity give the same direction.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..diffusion.denoiser import Base, Batch, Cond, Denoiser, Distance, Terms, filled
from ..diffusion.sampler import start
from ..errors import ConfigError, check_range
from .tsdsr import ScoreDistilled, predict, score_loss

W_MIN = 1e-6
"""Where teacher and student agree to the last bit the direction is 0, not 0 / 0. Not in the authors' code."""


@dataclass(frozen=True)
class OSEDiffConfig:
    """The released values."""

    process: str = "ddpm"
    t_student: int = 999
    """The student's one time: the far end (released)."""
    t_min: int = 20
    """Smallest t of the score distillation (released); the score network is fitted at every t."""
    t_max: int = 979
    """Largest t of the score distillation, included (released)."""
    guidance: float = 7.5
    """Classifier-free guidance of the teacher against the negative prompt (released); 1 needs none."""
    weight_mse: float = 1.0
    """The squared error of the decoded images (released)."""
    lambda_1: float = 2.0
    """Weight of LPIPS (released, whose network is VGG-16: train.features=vgg16)."""
    lambda_2: float = 1.0
    """Weight of the score distillation (released)."""

    def __post_init__(self) -> None:
        check_range("method", self, "guidance weight_mse lambda_1 lambda_2", 0)
        if not 0 <= self.t_min <= self.t_max:
            raise ConfigError(
                f"expected 0 <= method.t_min <= method.t_max, found {self.t_min} and {self.t_max}"
            )
        if not (self.weight_mse or self.lambda_1 or self.lambda_2):
            raise ConfigError("expected a loss that moves the student, found none; set method.weight_mse")


class OSEDiff(ScoreDistilled):
    """`lpips` is None where lambda_1 is 0, the score network (`critic`) where lambda_2 is."""

    config: OSEDiffConfig

    @classmethod
    def build(cls, config: OSEDiffConfig, base: Base, perceptual: Callable[[str], Distance]) -> "OSEDiff":
        return cls.of(config, base, perceptual, config.lambda_2, config.lambda_1)

    def generate(self, batch: Batch) -> Tensor:
        """z_hat; the low-quality latent stands where the noise of the last time would be."""
        t, cond = self.config.t_student, batch.cond
        z_L = start(self.teacher.process, t, cond.y)
        z_hat: Tensor = self.student(z_L, filled(t, z_L), cond)
        return z_hat

    def generator_loss(self, batch: Batch, z_hat: Tensor) -> Terms:
        """`mse` + lambda_1 `lpips` (the data terms) + lambda_2 `vsd`."""
        c = self.config
        terms: Terms = {}
        if c.weight_mse or self.lpips is not None:
            x_hat = self.decode(z_hat).clamp(-1, 1)
        if c.weight_mse:
            terms["mse"] = c.weight_mse * F.mse_loss(x_hat, batch.x_hq)
        if self.lpips is not None:
            terms["lpips"] = c.lambda_1 * self.lpips(x_hat, batch.x_hq)
        if self.critic is not None:
            t = torch.randint(c.t_min, c.t_max + 1, (len(z_hat),), device=z_hat.device)
            eps, null = torch.randn_like(z_hat), self.null(batch)
            towards = direction(
                self.teacher, self.critic, z_hat.detach(), eps, t, batch.told, null, c.guidance
            )
            terms["vsd"] = c.lambda_2 * vsd(z_hat, towards)
        return terms

    def critic_loss(self, batch: Batch, z_fake: Tensor) -> Terms:
        """The score network is an ordinary diffusion model of the student's outputs, at every t."""
        if self.critic is None:
            return {}
        t = torch.randint(len(self.critic.process), (len(z_fake),), device=z_fake.device)
        return {"score": score_loss(self.critic, z_fake, torch.randn_like(z_fake), t, batch.told)}


@torch.no_grad()
def direction(
    teacher: Denoiser, score: Denoiser, z_hat: Tensor, eps: Tensor, t: Tensor,
    cond: Cond, null: Cond | None, guidance: float,
) -> Tensor:  # fmt: skip
    """(z_0 of the score network - z_0 of the guided teacher) / w [B, C, h, w], both at z_t.

    w is the mean distance of z_hat to the teacher's z_0, of each sample, at least W_MIN. `null` is None for
    guidance 1.
    """
    z_t = teacher.process.perturb(z_hat, eps, t, cond.y)
    z_0 = predict(teacher, z_t, t, cond, null, guidance)
    w = (z_hat - z_0).abs().mean(dim=(1, 2, 3), keepdim=True).clamp_min(W_MIN)
    out: Tensor = (score(z_t, t, cond) - z_0) / w
    return out


def vsd(z_hat: Tensor, towards: Tensor) -> Tensor:
    """A loss whose gradient with respect to z_hat is 2 / numel of the direction: released without a half."""
    return F.mse_loss(z_hat, (z_hat - towards).detach())
