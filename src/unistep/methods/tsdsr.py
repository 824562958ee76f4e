"""TSD-SR: one-step super-resolution with target score distillation (CVPR 2025, arXiv 2411.18263).

Players: student = G_theta, one step from the low-quality latent; teacher = eps_psi, the frozen base; score
(the loop's critic) = eps_phi, a copy of the base that is fitted to the student's outputs.

    z_L                     batch.cond.y
    z_hat, z                z_hat, batch.z_hq
    x_hat_H, x_H            decode(z_hat), batch.x_hq
    z_hat_t, z_t            z_hat_t, z_t
    eps_psi(z_hat_t)        psi_hat
    eps_psi(z_t)            psi
    eps_phi(z_hat_t)        phi_hat
    sigma_t, w(t)           s of Process.at(t), weight(process, t)
    lambda, gamma           lambda_vsd, gamma
    N, s, weight (DASM)     dasm_steps, dasm_stride, dasm_weight

A network's prediction is of its own kind (eps, v or the flow's velocity): `Process.raw` of its z_0.
The ablations of the paper, as settings:

    Tab. 4 w/o TSM          lambda_vsd=1
    Tab. 4 w/o DASM         dasm_steps=0
    Fig. 4 (a) naive VSD    lambda_vsd=1 dasm_steps=0
    Fig. 4 (b) MSE          gamma=0 weight_mse=1
    Tab. 7                  dasm_steps=2|4|8 dasm_stride=25|50|100
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from ..diffusion.denoiser import (
    Base,
    Batch,
    Cond,
    Denoiser,
    Distance,
    Method,
    Terms,
    check_times,
    filled,
    join,
)
from ..diffusion.process import Process
from ..diffusion.sampler import guide
from ..errors import ConfigError, check_range
from ..losses.terms import push

BIAS = 25
"""Half the width of `dasm_random_bias`."""


@dataclass(frozen=True)
class TSDSRConfig:
    """The paper's values (Algorithm 1, supplement D and F). Fields `released_*` are what the authors' trainer
    does otherwise; `TSDSRConfig.released()` switches them on."""

    process: str = "flow"
    t_student: int = 999
    """The student's one time: the far end, sigma = 1."""
    t_min: int = 50
    """Smallest t of the teacher and the score network (Algorithm 1, lines 8 and 23)."""
    t_max: int = 950
    """Largest t, included. The authors draw 50 to 949, counted from the noisy end: again 50 to 949 here."""
    lambda_vsd: float = 0.7
    """lambda (Eq. 5): 1 is VSD alone, 0 is TSM alone. The released value; the paper states none."""
    gamma: float = 1.0
    """gamma (Eq. 8). The released value; the paper states none."""
    guidance: float = 7.5
    """Classifier-free guidance of both networks (supplement F); 1 needs no null condition."""
    dasm_steps: int = 4
    """N (Tab. 7): moves along the trajectory, N + 1 evaluations; 0 turns DASM off."""
    dasm_stride: int = 50
    """s (Tab. 7), in indices."""
    dasm_weight: float = 0.3
    """Weight of the evaluations after the first, which has 1 (Algorithm 1, line 18; the authors' value)."""
    dasm_random_bias: bool = False
    """The authors' option: the chain's end is shifted by an integer from -25 to 24, one for the batch."""
    weight_lpips: float = 1.0
    """L_Rec (Eq. 7)."""
    weight_mse: float = 0.0
    """Squared error of the latent (Fig. 4 b). Differs from the paper: the released trainer adds it, at 1."""
    released_skip_last: bool = False
    """No evaluation after the last move: N evaluations instead of N + 1."""
    released_first_t: bool = False
    """The networks are told the first sample's t for the whole batch, though each was noised with its own."""
    released_no_grad: bool = False
    """The TSD term is computed without a gradient: it is logged, but moves nothing."""
    released_score: bool = False
    """The score network's loss is on z_0, with a random weight (`score_loss_released`)."""

    def __post_init__(self) -> None:
        check_range("method", self, "gamma guidance dasm_weight weight_lpips weight_mse dasm_steps", 0)
        check_range("method", self, "lambda_vsd", 0, 1)
        check_range("method", self, "dasm_stride", 1)
        if not 0 <= self.t_min <= self.t_max:
            raise ConfigError(
                f"expected 0 <= method.t_min <= method.t_max, found {self.t_min} and {self.t_max}"
            )
        if self.released_skip_last and not self.dasm_steps:
            raise ConfigError(
                "expected method.dasm_steps to be 1 or more with method.released_skip_last, found 0"
            )
        if self.dasm_random_bias and self.dasm_steps * self.dasm_stride < BIAS:
            raise ConfigError(
                f"expected method.dasm_steps * method.dasm_stride to be {BIAS} or more with "
                f"method.dasm_random_bias, found {self.dasm_steps * self.dasm_stride}"
            )
        if not ((self.gamma and not self.released_no_grad) or self.weight_lpips or self.weight_mse):
            raise ConfigError(
                "expected a loss that moves the student, found none; set method.weight_lpips, "
                "method.weight_mse, or method.gamma without method.released_no_grad"
            )

    @classmethod
    def released(cls, **changes: Any) -> "TSDSRConfig":
        """The arithmetic of the authors' trainer as shipped: DASM off, which there is N = 1.

        `released(dasm_steps=4)` is its `--use_dasm`.
        """
        values: dict[str, Any] = {
            "t_max": 949, "dasm_steps": 1, "weight_mse": 1.0, "released_skip_last": True,
            "released_first_t": True, "released_no_grad": True, "released_score": True,
        }  # fmt: skip
        return cls(**{**values, **changes})


class ScoreDistilled(Method):
    """The players of TSD-SR and OSEDiff: a frozen teacher, and one that is fitted to the student."""

    teacher: Denoiser

    def __init__(
        self, config: Any, student: Denoiser, teacher: Denoiser, score: Denoiser | None,
        decode: Callable[[Tensor], Tensor], lpips: Distance | None = None,
    ):  # fmt: skip
        self.config, self.student, self.teacher, self.critic = config, student, teacher, score
        self.decode, self.lpips, self.t_student = decode, lpips, config.t_student
        self.last = check_times(config, ("t_student", "t_max"), teacher.process)

    @classmethod
    def of(
        cls, config: Any, base: Base, perceptual: Callable[[str], Distance], scored: float, compared: float
    ) -> Self:
        """scored, compared: weights of the score's loss and of LPIPS; 0: its network is not opened."""
        student, teacher = (base.denoiser(role, config.process) for role in ("student", "teacher"))
        score = base.denoiser("score", config.process) if scored else None
        if score is not None and config.guidance != 1 and not base.guided:
            raise unguided(config.guidance)
        lpips = perceptual("lpips") if compared else None
        return cls(config, student, teacher, score, base.decode, lpips)

    def null(self, batch: Batch) -> Cond | None:
        """The condition without content, None where guidance is 1. Raises ConfigError if there is none."""
        if self.config.guidance == 1:
            return None
        if batch.null is None:
            raise unguided(self.config.guidance)
        return batch.null


class TSDSR(ScoreDistilled):
    """Algorithm 1. `lpips` is None where its weight is 0, the score network (`critic`) where gamma is."""

    config: TSDSRConfig

    def __init__(self, config: TSDSRConfig, student: Denoiser, teacher: Denoiser, *more: Any):
        if teacher.process.predicts == "z0":
            # The directions are descended, and z_0 has the opposite sign of noise: the student would flee z.
            raise ConfigError("expected method.process to be one whose network predicts noise or velocity, "
                              f"found “{config.process}”, which predicts z_0; set flow or ddpm")  # fmt: skip
        super().__init__(config, student, teacher, *more)
        reach = config.dasm_steps * config.dasm_stride
        if reach > self.last:
            raise ConfigError(f"expected method.dasm_steps * method.dasm_stride to be at most "
                              f"{self.last}, the last index of the process, found {reach}")  # fmt: skip

    @classmethod
    def build(cls, config: TSDSRConfig, base: Base, perceptual: Callable[[str], Distance]) -> "TSDSR":
        return cls.of(config, base, perceptual, config.gamma, config.weight_lpips)

    def generate(self, batch: Batch) -> Tensor:
        """Line 5: z_hat; the low-quality latent stands where the noise of the last time would be."""
        cond = batch.cond
        z_hat: Tensor = self.student(cond.y, filled(self.config.t_student, cond.y), cond)
        return z_hat

    def generator_loss(self, batch: Batch, z_hat: Tensor) -> Terms:
        """Eq. (8). Lines 6 to 20: `lpips` is L_Rec, `tsd` is gamma L_Reg; `mse` is not in Eq. 8."""
        c = self.config
        terms: Terms = {}
        if self.critic is not None:
            t, eps = self.draw(z_hat)
            bias = int(torch.randint(-BIAS, BIAS, ())) if c.dasm_random_bias else 0
            null = self.null(batch)
            vsd_sum, tsm_sum = directions(
                self.teacher, self.critic, z_hat.detach(), batch.z_hq, eps, t, batch.told, null, c, bias
            )
            pushed = z_hat.detach() if c.released_no_grad else z_hat
            terms["tsd"] = c.gamma * push(pushed, tsd(vsd_sum, tsm_sum, c.lambda_vsd))
        if self.lpips is not None:
            terms["lpips"] = c.weight_lpips * reconstruction(z_hat, batch.x_hq, self.decode, self.lpips)
        if c.weight_mse:
            terms["mse"] = c.weight_mse * F.mse_loss(z_hat, batch.z_hq)
        return terms

    def critic_loss(self, batch: Batch, z_fake: Tensor) -> Terms:
        """Lines 23 to 26: the score network is an ordinary diffusion model of the student's outputs."""
        if self.critic is None:
            return {}
        t, eps = self.draw(z_fake)
        if self.config.released_score:
            u = torch.randn(len(t), device=t.device)
            return {"score": score_loss_released(self.critic, z_fake, eps, t, u, batch.told)}
        return {"score": score_loss(self.critic, z_fake, eps, t, batch.told)}

    def draw(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Lines 8 and 23: t [B] from t_min to t_max, both included, and eps."""
        t = torch.randint(self.config.t_min, self.config.t_max + 1, (len(z),), device=z.device)
        return t, torch.randn_like(z)


def unguided(guidance: float) -> ConfigError:
    """What there is to say where guidance finds no null condition."""
    return ConfigError("expected method.guidance to be 1 on a base without a null condition, "
                       f"found {guidance}; set method.guidance=1")  # fmt: skip


def weight(process: Process, t: Tensor) -> Tensor:
    """w(t) of Eq. 3 to 5 [B, 1, 1, 1], which the paper leaves open: s_t^2, as released."""
    _, _, s = process.at(t)
    return s**2


def vsd(psi_hat: Tensor, phi_hat: Tensor, w: Tensor) -> Tensor:
    """Eq. (3). Teacher against score network, both at the student's z_hat_t."""
    return w * (psi_hat - phi_hat)


def tsm(psi_hat: Tensor, psi: Tensor, w: Tensor) -> Tensor:
    """Eq. (4). Teacher at the student's z_hat_t against the teacher at the target's z_t."""
    return w * (psi_hat - psi)


def tsd(vsd_sum: Tensor, tsm_sum: Tensor, lambda_vsd: float) -> Tensor:
    """Eq. (5). psi_hat - psi + lambda (psi - phi_hat), sorted by VSD and TSM."""
    return lambda_vsd * vsd_sum + (1 - lambda_vsd) * tsm_sum


@torch.no_grad()
def directions(
    teacher: Denoiser, score: Denoiser, z_hat: Tensor, z: Tensor, eps: Tensor, t: Tensor,
    cond: Cond, null: Cond | None, c: TSDSRConfig, bias: int = 0,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Lines 9 to 19: the VSD and the TSM direction [B, C, h, w], each summed along the trajectory.

    z_hat, z, eps [B, C, h, w]; t [B] of the first evaluation; `null` is None for guidance 1.
    """
    process = teacher.process
    z_hat_t, z_t = process.perturb(z_hat, eps, t, cond.y), process.perturb(z, eps, t, cond.y)
    if c.released_first_t:
        t = t[:1].expand_as(t)
    times = dasm_times(t, c.dasm_steps, c.dasm_stride, bias)
    if c.released_skip_last:
        times = times[:-1]
    vsd_sum, tsm_sum = torch.zeros_like(z_hat), torch.zeros_like(z_hat)
    chain = dasm(teacher, score, z_hat_t, z_t, times, cond, null, c.guidance)
    for i, (t, (psi_hat, psi, phi_hat)) in enumerate(zip(times, chain, strict=True)):
        w = weight(process, t) * (c.dasm_weight if i else 1.0)
        vsd_sum += vsd(psi_hat, phi_hat, w)
        tsm_sum += tsm(psi_hat, psi, w)
    return vsd_sum, tsm_sum


def dasm_times(t: Tensor, steps: int, stride: int, bias: int = 0) -> Tensor:
    """Lines 13 and 14: t, t - s, ..., t - N s, as [N + 1, B] int64 from t [B].

    Differs from the paper, which does not say what happens where t < N s (its own t = 50, N s = 200): as
    released, the chain then ends at index 0 and its times are spread evenly, rounded up.
    """
    span = t - (t - steps * stride - bias).clamp_min(0)
    return torch.stack([t - span * i // max(steps, 1) for i in range(steps + 1)])


def dasm(
    teacher: Denoiser, score: Denoiser, z_hat_t: Tensor, z_t: Tensor, times: Tensor,
    cond: Cond, null: Cond | None, guidance: float,
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:  # fmt: skip
    """Eq. (6). Yields (psi_hat, psi, phi_hat) at each of `times` [n, B], lines 12 to 18.

    Between two of them the student's sample z_hat_t moves by the score network's prediction, which has fitted
    its distribution, and the target's z_t by the teacher's.
    """
    process, y = teacher.process, cond.y
    both = join(cond, cond), null and join(null, null)
    for i, t in enumerate(times):
        psi_hat_0, psi_0 = predict(
            teacher, torch.cat([z_hat_t, z_t]), torch.cat([t, t]), *both, guidance
        ).chunk(2)
        phi_hat_0 = predict(score, z_hat_t, t, cond, null, guidance)
        yield (
            process.raw(psi_hat_0, z_hat_t, t, y),
            process.raw(psi_0, z_t, t, y),
            process.raw(phi_hat_0, z_hat_t, t, y),
        )
        if i + 1 < len(times):
            z_hat_t = process.step(phi_hat_0, z_hat_t, t, times[i + 1], y)
            z_t = process.step(psi_0, z_t, t, times[i + 1], y)


def predict(net: Denoiser, z_t: Tensor, t: Tensor, cond: Cond, null: Cond | None, guidance: float) -> Tensor:
    """The guided z_0 in one call of the network; `null` is None for guidance 1."""
    if null is None:
        z0: Tensor = net(z_t, t, cond)
        return z0
    z0, z0_null = net(torch.cat([z_t, z_t]), torch.cat([t, t]), join(cond, null)).chunk(2)
    return guide(z0, z0_null, guidance)


def reconstruction(
    z_hat: Tensor, x_hq: Tensor, decode: Callable[[Tensor], Tensor], lpips: Distance
) -> Tensor:
    """Eq. (7). L_Rec: the perceptual distance of the decoded output."""
    return lpips(decode(z_hat), x_hq)


def score_loss(score: Denoiser, z_hat: Tensor, eps: Tensor, t: Tensor, cond: Cond) -> Tensor:
    """Eq. (9). Squared error of the prediction against eps' (noise, v or velocity); a mean, not guided."""
    process = score.process
    z_t = process.perturb(z_hat, eps, t, cond.y)
    prediction = process.raw(score(z_t, t, cond), z_t, t, cond.y)
    return F.mse_loss(prediction, process.raw(z_hat, z_t, t, cond.y))


def score_loss_released(
    score: Denoiser, z_hat: Tensor, eps: Tensor, t: Tensor, u: Tensor, cond: Cond
) -> Tensor:
    """Differs from the paper (Eq. 9): the error is on z_0, with random weights that know no t.

    As released, the mean of the weights multiplies the mean error of the batch; u ~ N(0, 1) [B].
    """
    z_t = score.process.perturb(z_hat, eps, t, cond.y)
    return 0.5 * u.sigmoid().mean() * F.mse_loss(score(z_t, t, cond), z_hat)
