"""The forward process of every base model, as one affine family.

    z_t = a_t z_0 + b_t y + s_t eps          y: low-quality latent, eps ~ N(0, I)

                a                b      s                  the network predicts
    DDPM        sqrt(abar_t)     0      sqrt(1 - abar_t)   "eps" or "v"   Stable Diffusion 2
    flow        1 - sigma_t      0      sigma_t            "flow"         Stable Diffusion 3
    shift       1 - eta_t        eta_t  kappa sqrt(eta_t)  "z0"           arXiv 2307.12348, TAD-SR Eq. 1

`t` indexes the table in increasing noise; t = -1 is the clean end (a = 1, b = s = 0). Everything outside this
file speaks z_0: `clean` is the only place that knows what a network's raw output means.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Process:
    """Three tables of T coefficients (float64) and the meaning of the network's output."""

    a: Tensor
    b: Tensor
    s: Tensor
    predicts: str
    markov: str = "scale"
    """How noise is carried to the next step: "scale" (DDPM, flow: by a_t / a_s) or "add" (shift)."""

    def __post_init__(self) -> None:
        if self.predicts not in ("eps", "v", "flow", "z0"):
            raise ValueError(f'predicts must be "eps", "v", "flow" or "z0", found "{self.predicts}"')
        if self.markov not in ("scale", "add"):
            raise ValueError(f'markov must be "scale" or "add", found "{self.markov}"')

    def __len__(self) -> int:
        return len(self.s)

    def at(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """a, b, s at t [B] (int64, -1 for the clean end), each shaped [B, 1, 1, 1], float32."""

        def gather(table: Tensor, clean: float) -> Tensor:
            value = table.float().to(t.device)[t.clamp_min(0)]  # float32 first: some devices have no float64
            return torch.where(t < 0, clean, value).view(-1, 1, 1, 1)

        return gather(self.a, 1.0), gather(self.b, 0.0), gather(self.s, 0.0)

    def perturb(self, z0: Tensor, eps: Tensor, t: Tensor, y: Tensor) -> Tensor:
        """z_t, the noised latent [B, C, H, W] (of residual shifting: TAD-SR Eq. 1)."""
        a, b, s = self.at(t)
        return a * z0 + b * y + s * eps

    def clean(self, out: Tensor, z_t: Tensor, t: Tensor, y: Tensor) -> Tensor:
        """The z_0 that a network's raw output at z_t stands for."""
        a, b, s = self.at(t)
        if self.predicts == "z0":
            return out
        if self.predicts == "eps":
            return (z_t - b * y - s * out) / a
        if self.predicts == "v":
            return a * z_t - s * out
        return z_t - s * out

    def raw(self, z0: Tensor, z_t: Tensor, t: Tensor, y: Tensor) -> Tensor:
        """What a network must put out at z_t to mean z_0: the inverse of `clean`; t not the clean end."""
        a, b, s = self.at(t)
        if self.predicts == "z0":
            return z0
        if self.predicts == "eps":
            return (z_t - b * y - a * z0) / s
        if self.predicts == "v":
            return (a * z_t - z0) / s
        return (z_t - z0) / s

    def noise(self, z0: Tensor, z_t: Tensor, t: Tensor, y: Tensor) -> Tensor:
        """The eps that leads from z_0 to z_t; t must not be the clean end."""
        a, b, s = self.at(t)
        return (z_t - a * z0 - b * y) / s

    def step(self, z0: Tensor, z_t: Tensor, t: Tensor, r: Tensor, y: Tensor) -> Tensor:
        """Deterministic step t -> r < t with the estimate z_0: DDIM, flow Euler and TAD-SR Eq. 3."""
        return self.perturb(z0, self.noise(z0, z_t, t, y), r, y)

    def posterior(self, z0: Tensor, z_t: Tensor, t: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Mean [B, C, H, W], variance [B, 1, 1, 1] of q(z_{t-1} | z_t, z_0, y) (shift: TAD-SR Eq. 2)."""
        a_t, b_t, s_t = self.at(t)
        a_r, b_r, s_r = self.at(t - 1)
        rho = a_t / a_r if self.markov == "scale" else torch.ones_like(a_t)
        gain = rho * s_r**2 / s_t**2
        mean = a_r * z0 + b_r * y + gain * (z_t - a_t * z0 - b_t * y)
        return mean, s_r**2 * (1 - rho * gain)


def ddpm(
    steps: int = 1000, beta_start: float = 0.00085, beta_end: float = 0.012, predicts: str = "eps"
) -> Process:
    """Stable Diffusion's schedule: betas linear in their square root."""
    beta = torch.linspace(beta_start**0.5, beta_end**0.5, steps, dtype=torch.float64) ** 2
    abar = (1 - beta).cumprod(0)
    return Process(abar.sqrt(), torch.zeros_like(abar), (1 - abar).sqrt(), predicts)


def flow(steps: int = 1000, shift: float = 3.0) -> Process:
    """Rectified flow (arXiv 2403.03206): sigma = shift u / (1 + (shift - 1) u), u = (t + 1) / steps."""
    u = torch.arange(1, steps + 1, dtype=torch.float64) / steps
    sigma = shift * u / (1 + (shift - 1) * u)
    return Process(1 - sigma, torch.zeros_like(sigma), sigma, "flow")


def residual_shift(
    steps: int = 15,
    kappa: float = 2.0,
    min_noise_level: float = 0.04,
    etas_end: float = 0.99,
    power: float = 0.3,
) -> Process:
    """Residual shifting (arXiv 2307.12348): sqrt(eta) geometric up to `etas_end`, warped by `power`."""
    start = min(min_noise_level / kappa, min_noise_level)
    ramp = (torch.arange(steps, dtype=torch.float64) / max(steps - 1, 1)) ** power
    eta = (start * (etas_end / start) ** ramp) ** 2
    return Process(1 - eta, eta, kappa * eta.sqrt(), "z0", markov="add")
