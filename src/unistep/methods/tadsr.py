"""TAD-SR: one-step super-resolution with time-aware distillation (He et al., arXiv 2408.07476).

Players: student f_theta, one step from z_T; teacher F_phi, the frozen multi-step base; its frozen encoder
Enc_phi; critic = the heads D_psi of the time-aware discriminator, which judge the encoder's maps.

    x, y                    x_hq, x_lq; z_0 = z_hq, z_y = cond.y
    z_T ~ N(y, kappa^2 eta_T)     z_T, from `prior`
    z_0^stu, z_0^tch        z_hat (z_stu), z_tch
    t, t'                   t; drawn below t_dis for the discriminator and below t_hsd for the score
    eta_t, kappa sqrt(eta_t)      the tables b and s of `Process`; a = 1 - eta_t
    Eq. (1), (2), (3)       Process.perturb, Process.posterior, Process.step

The paper counts steps from 1, `Process` from 0: its t' in [1, 3] are the indices 0, 1, 2, which are also
Algorithm 1's U(0, T/5) at T = 15.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import spectral_norm

from ..diffusion.denoiser import (
    Base,
    Batch,
    Cond,
    Denoiser,
    Distance,
    Features,
    Method,
    Terms,
    check_steps,
    filled,
)
from ..diffusion.process import Process
from ..diffusion.sampler import sample, times
from ..errors import ConfigError, check_choices, check_range
from ..losses.terms import push

Predictor = Callable[[Tensor, Tensor, Cond], Tensor]
"""F_phi: (z_t, t, cond) -> z_0."""

KERNEL = 9
"""Tokens that a head sees at once, around a ring of all (released)."""
CHOICES = {
    "score": ("hsd", "sds"),
    "noise": ("normal", "uniform"),
    "weighting": ("heads", "tokens"),
}


@dataclass(frozen=True)
class TADSRConfig:
    """The paper's settings; `released` gives those of the authors' code where it departs from them."""

    process: str
    """The base's; the paper's is residual shifting (Section III)."""
    weight_distill: float = 1.0
    """Weight of L_distill, Eq. (13)."""
    lambda_hsd: float = 1.0
    """lambda_1, Section V-A: 1 for super-resolution, 0.1 for faces."""
    lambda_adv: float = 0.02
    """lambda_2, Section V-A: 0.02 for super-resolution, 0.2 for faces. 0: no discriminator."""
    teacher_steps: int = 15
    """Deterministic steps of the teacher's answer z_0^tch (T of Algorithm 1, line 8)."""
    score: str = "hsd"
    """"hsd", Eq. (7), or "sds", Eq. (5): the ablation of Table V."""
    t_hsd: int = 3
    """t' is drawn from this many smallest steps: [1, 3] in Section IV-B, U(0, T/5) in Algorithm 1."""
    t_dis: int = 15
    """The discriminator's t is drawn from this many smallest steps: U(0, T), Algorithm 1. Released: T - 1."""
    time_aware: bool = True
    """Modulate the maps by t, Eq. (10); False is the plain GAN of Table V."""
    c_dim: int = 1
    """Logits of a head per position of its map. Released: 64."""
    embed_dim: int = 160
    """Width of the embedding of t (released; the paper does not say)."""
    weighting: str = "heads"
    """"heads": each head counts the same (Section IV-B). "tokens": each logit does (released)."""
    noise: str = "normal"
    """eps of the scores and the discriminator: "normal", or "uniform" in [0, 1) (released)."""
    scaled_twice: bool = False
    """Divide z_t' by its standard deviation before a teacher that does so itself (released)."""

    def __post_init__(self) -> None:
        check_range("method", self, "weight_distill lambda_hsd lambda_adv", 0)
        check_range("method", self, "teacher_steps t_hsd t_dis c_dim", 1)
        check_choices("method", self, CHOICES)
        if not (self.weight_distill or self.lambda_hsd or self.lambda_adv):
            raise ConfigError("expected a loss that moves the student, found none; set method.weight_distill")
        if self.embed_dim < 2 or self.embed_dim % 2:
            raise ConfigError(f"expected method.embed_dim to be even and 2 or more, found {self.embed_dim}")

    @classmethod
    def released(cls, process: str, **changes: Any) -> "TADSRConfig":
        """What the authors' code does at T = 15, defects included, with `changes`."""
        own = {"t_dis": 14, "c_dim": 64, "weighting": "tokens", "noise": "uniform", "scaled_twice": True}
        return cls(process, **{**own, **changes})


class TADSR(Method):
    """Method: Algorithm 1. A step is `generate`, `critic_loss`, `generator_loss`, in this order.

    The later two reuse what the earlier drew: the teacher starts from the student's z_T, and the student is
    judged by the updated critic at the critic's own t and eps.
    """

    teacher: Denoiser
    critic_first = True

    def __init__(
        self, config: TADSRConfig, student: Denoiser, teacher: Denoiser,
        features: Features | None = None, critic: "TimeAwareDiscriminator | None" = None,
    ):  # fmt: skip
        """`features` and `critic` are used where lambda_adv is more than 0."""
        self.config, self.student, self.teacher = config, student, teacher
        self.features, self.process = features, teacher.process
        self.critic = critic if config.lambda_adv else None
        check_steps(config, ("teacher_steps", "t_hsd", "t_dis"), self.process)

    @classmethod
    def build(cls, config: TADSRConfig, base: Base, perceptual: Callable[[str], Distance]) -> "TADSR":
        view = config.process
        players = base.denoiser("student", view), base.denoiser("teacher", view)
        if not config.lambda_adv:
            return cls(config, *players)
        features = base.features("teacher", view)
        c = config
        critic = TimeAwareDiscriminator(features.widths, c.c_dim, c.embed_dim, c.time_aware)
        return cls(config, *players, features, critic)

    def generate(self, batch: Batch) -> Tensor:
        """z_0^stu [B, C, h, w] (Algorithm 1, lines 5 to 7)."""
        y = batch.cond.y
        T = filled(len(self.process) - 1, y)
        self.z_T = prior(self.process, draw_eps("normal", y), T, y)
        return self.student(self.z_T, T, batch.cond)  # type: ignore[no-any-return]

    def critic_loss(self, batch: Batch, z_fake: Tensor) -> Terms:
        """`gan`: Eq. (12) (Algorithm 1, lines 11 to 14)."""
        if self.critic is None:
            return {}
        self.t = draw_t(self.config.t_dis, z_fake)
        self.eps = draw_eps(self.config.noise, z_fake)
        with torch.no_grad():
            maps_real, maps_fake = self.maps(batch.z_hq, batch.told), self.maps(z_fake, batch.told)
        real, fake = self.critic(maps_real, self.t), self.critic(maps_fake, self.t)
        return {"gan": adversarial_critic(real, fake, self.config.weighting)}

    def generator_loss(self, batch: Batch, z_hat: Tensor) -> Terms:
        """`distill`, `hsd` or `sds`, and `gan`: the terms of Eq. (13) (Algorithm 1, lines 18 to 24)."""
        c, cond, process = self.config, batch.told, self.process
        terms: Terms = {}
        if c.weight_distill or (c.lambda_hsd and c.score == "hsd"):
            z_tch = sample(self.teacher, process, self.z_T, times(process, c.teacher_steps), cond)
        if c.weight_distill:
            terms["distill"] = c.weight_distill * distill(z_hat, z_tch)
        if c.lambda_hsd:
            t, eps, z_stu = draw_t(c.t_hsd, z_hat), draw_eps(c.noise, z_hat), z_hat.detach()
            if c.score == "hsd":
                direction = hsd(self.predict, process, z_stu, z_tch, t, eps, cond)
            else:
                direction = sds(self.predict, process, z_stu, t, eps, cond)
            terms[c.score] = c.lambda_hsd * push(z_hat, direction)  # omega = 1/CS and a mean over the batch
        if self.critic is not None:
            fake = self.critic(self.maps(z_hat, cond), self.t)
            terms["gan"] = c.lambda_adv * adversarial_generator(fake, c.weighting)
        return terms

    def maps(self, z: Tensor, cond: Cond) -> list[Tensor]:
        """Eq. (9). F_k of z noised at the critic's t and eps."""
        assert self.features is not None
        z_t = self.process.perturb(z, self.eps, self.t, cond.y)
        return self.features(z_t, self.t, cond)  # type: ignore[no-any-return]

    def predict(self, z_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
        """F_phi(z_t, y, t), as the scores ask for it.

        Differs from the paper only if `scaled_twice`: the released code divides z_t by sqrt(1 + s_t^2), the
        standard deviation for latents of unit variance, and its teacher does so again.
        """
        if self.config.scaled_twice:
            _, _, s = self.process.at(t)
            z_t = z_t / (1 + s**2).sqrt()
        return self.teacher(z_t, t, cond)  # type: ignore[no-any-return]


def draw_t(below: int, like: Tensor) -> Tensor:
    """[B] int64: times in [0, below)."""
    return torch.randint(below, (len(like),), device=like.device)


def draw_eps(kind: str, like: Tensor) -> Tensor:
    """Noise in the shape of `like`: "normal", or "uniform" in [0, 1)."""
    return torch.randn_like(like) if kind == "normal" else torch.rand_like(like)


def prior(process: Process, eps: Tensor, T: Tensor, y: Tensor) -> Tensor:
    """The text under Eq. (6). z_T ~ N(y, kappa^2 eta_T): Eq. (1) with y in the place of z_0.

    Differs from the paper: Algorithm 1, line 6, noises x, of which 1 - eta_T would be left; nobody has x
    when the student is used. The released code starts from y as here.
    """
    return process.perturb(y, eps, T, y)


def distill(z_stu: Tensor, z_tch: Tensor) -> Tensor:
    """Eq. (6). Mean squared error of the student's answer to the teacher's."""
    return F.mse_loss(z_stu, z_tch)


@torch.no_grad()
def sds(predict: Predictor, process: Process, z_stu: Tensor, t: Tensor, eps: Tensor, cond: Cond) -> Tensor:
    """Eq. (5), (14). The direction eps_phi(z_t) - eps [B, C, h, w] of score distillation sampling.

    Differs from the paper: the factor dz_t/dz_0 = 1 - eta_t is left out, as in the released code.
    """
    z_t = process.perturb(z_stu, eps, t, cond.y)
    return process.noise(predict(z_t, t, cond), z_t, t, cond.y) - eps


@torch.no_grad()
def hsd(
    predict: Predictor, process: Process, z_stu: Tensor, z_tch: Tensor, t: Tensor, eps: Tensor, cond: Cond
) -> Tensor:
    """Eq. (7), (8), (15), (16). eps_phi(z_t'^stu) - eps_phi(z_t'^tch) [B, C, h, w], in terms of z_0.

    Both are noised by the same eps, so that it cancels. omega = 1/CS is left to the mean of the loss.
    """
    predicted_stu = predict(process.perturb(z_stu, eps, t, cond.y), t, cond)
    predicted_tch = predict(process.perturb(z_tch, eps, t, cond.y), t, cond)
    return omega_2(process, t) * (z_stu - z_tch + predicted_tch - predicted_stu)


def omega_2(process: Process, t: Tensor) -> Tensor:
    """Eq. (8). (1 - eta_t') / (kappa sqrt(eta_t')) [B, 1, 1, 1], without omega.

    Differs from the paper: it prints sqrt(eta kappa), against the variance kappa^2 eta of its Eq. (1).
    """
    a, _, s = process.at(t)
    return a / s


def adversarial_generator(fake: list[Tensor], weighting: str) -> Tensor:
    """Eq. (11). What the student minimises; the heads are averaged (Section IV-B), not summed."""
    return average([-logits for logits in fake], weighting)


def adversarial_critic(real: list[Tensor], fake: list[Tensor], weighting: str) -> Tensor:
    """Eq. (12). Hinge loss of the heads; they are averaged (Section IV-B), not summed."""
    return average([F.relu(1 + logits) for logits in fake], weighting) + average(
        [F.relu(1 - logits) for logits in real], weighting
    )


def average(heads: list[Tensor], weighting: str) -> Tensor:
    """Mean over the heads of their means ("heads") or over all their values ("tokens")."""
    if weighting == "heads":
        return torch.stack([values.mean() for values in heads]).mean()
    return torch.cat([values.flatten() for values in heads]).mean()


class TimeAwareDiscriminator(nn.Module):
    """D_psi: one head per map of the frozen teacher's encoder, each told the time."""

    def __init__(
        self, widths: tuple[int, ...], c_dim: int = 1, embed_dim: int = 160, time_aware: bool = True
    ):
        super().__init__()
        self.embed_dim = embed_dim
        self.modulate = nn.ModuleList(Modulate(width, embed_dim, time_aware) for width in widths)
        self.heads = nn.ModuleList(head(width, c_dim) for width in widths)

    def forward(self, maps: list[Tensor], t: Tensor) -> list[Tensor]:
        """Maps [B, C_k, h_k, w_k] and their times [B] -> logits [B, c_dim, h_k w_k] float32.

        Raises ConfigError for a map that is too small for the heads.
        """
        embedding = sinusoid(t, self.embed_dim)
        if (least := min(one[0, 0].numel() for one in maps)) < KERNEL // 2:
            raise ConfigError(
                f"expected maps of {KERNEL // 2} positions or more for the discriminator of TAD-SR, found "
                f"one of {least}: make data.patch larger"
            )
        # contiguous: on channels-last maps that need no gradient themselves, the backward pass of GroupNorm's
        # weights crashes PyTorch 2.13 on the CPU.
        return [
            head(modulate(one.contiguous(), embedding).flatten(2)).float()
            for one, modulate, head in zip(maps, self.modulate, self.heads, strict=True)
        ]


class Modulate(nn.Module):
    """Eq. (10). Norm(F_k) * (1 + gamma_k) + beta_k, then SiLU and a convolution.

    The convolution starts at zero: a new critic says the same of every map, and moves no student before its
    own first step.
    """

    def __init__(self, width: int, embed_dim: int, time_aware: bool):
        super().__init__()
        self.norm = nn.GroupNorm(groups(width, 32), width)
        self.time = nn.Linear(embed_dim, 2 * width) if time_aware else None
        self.out = nn.Conv2d(width, width, 3, padding=1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """F_k [B, C, h, w], embedding of t [B, embed_dim] -> [B, C, h, w]."""
        x = self.norm(x)
        if self.time is not None:
            gamma, beta = self.time(F.silu(embedding))[..., None, None].chunk(2, dim=1)
            x = x * (1 + gamma) + beta
        return self.out(F.silu(x))  # type: ignore[no-any-return]


class Residual(nn.Sequential):
    """(f(x) + x) / sqrt(2): keeps the variance."""

    def forward(self, x: Tensor) -> Tensor:
        return (super().forward(x) + x) / math.sqrt(2)  # type: ignore[no-any-return, no-untyped-call]


def head(width: int, c_dim: int) -> nn.Sequential:
    """D_psi,k on tokens [B, width, L] -> [B, c_dim, L], as released: a StyleGAN-T head."""

    def block(kernel: int) -> tuple[nn.Module, ...]:
        return conv(width, width, kernel), nn.GroupNorm(groups(width, 4), width), nn.LeakyReLU(0.2)

    return nn.Sequential(*block(1), Residual(*block(KERNEL)), conv(width, c_dim, 1))


def conv(width: int, out: int, kernel: int) -> nn.Module:
    """A convolution over tokens, closed to a ring, of spectral norm 1."""
    return spectral_norm(nn.Conv1d(width, out, kernel, padding=kernel // 2, padding_mode="circular"))


def groups(width: int, most: int) -> int:
    """The largest divisor of `width` up to `most`."""
    return max(n for n in range(1, most + 1) if width % n == 0)


def sinusoid(t: Tensor, dim: int) -> Tensor:
    """[B] -> [B, dim]: cosines, then sines, of wavelengths 2 pi to 2 pi 10^4 steps."""
    rates = torch.exp(-math.log(10_000) * torch.arange(dim // 2, device=t.device) / (dim // 2))
    angles = t[:, None].float() * rates
    return torch.cat([angles.cos(), angles.sin()], dim=1)
