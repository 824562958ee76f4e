"""DFOSD (D3SR): distillation-free one-step diffusion for real-world super-resolution (arXiv 2410.04224).

Players: student = the generator's denoiser, one step from the low-quality latent; critic = D_theta, the
noise-aware discriminator (NAD): the encoder half of the base, with small heads that vote region by region.
There is no teacher.

    z_L, z_H                        batch.cond.y, batch.z_hq
    z_hat_H, x_hat_H                z_hat, decode(z_hat)
    x_H                             batch.x_hq
    T_L                             t_student
    sqrt(abar_t), sqrt(1-abar_t)    a, s of Process.at(t)
    F(z, t)                         diffuse(process, z, t, eps, y)
    D_theta                         critic; its logits are log(D / (1 - D))
    S                               sobel
    lambda_1, lambda_2              lambda_adv, lambda_perceptual

The ablations of the paper, as settings:

    Tab. 5    spatial=mse|lpips|ea-lpips|dists|ea-dists
    Tab. 6    discriminator=none|vanilla|diffusion-gan|nad
"""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..diffusion.denoiser import (
    Base,
    Batch,
    Cond,
    Denoiser,
    Distance,
    Features,
    Method,
    Terms,
    check_times,
    filled,
)
from ..diffusion.process import Process
from ..diffusion.sampler import start
from ..errors import ConfigError, check_choices, check_range
from ..losses.terms import edge_loss, grid_loss

SPATIAL = ("mse", "lpips", "ea-lpips", "dists", "ea-dists")
Kernel = tuple[tuple[float, ...], ...]
G_X: Kernel = ((-1.0, 0.0, 1.0), (-2.0, 0.0, 2.0), (-1.0, 0.0, 1.0))
G_Y: Kernel = ((-1.0, -2.0, -1.0), (0.0, 0.0, 0.0), (1.0, 2.0, 1.0))


@dataclass(frozen=True)
class DFOSDConfig:
    """The paper gives no values of T_L, lambda_1, lambda_2 or of the heads: those here are ours."""

    process: str = "ddpm"
    t_student: int = 999
    """T_L (Eq. 1). Differs from the paper, which says "intermediate" and gives no value: the far end is the
    compact base's one-step slot; at an intermediate t its network would take z_L for a noised z_H."""
    spatial: str = "ea-dists"
    """What Eq. 8 adds to the squared error: mse (nothing), lpips, ea-lpips, dists, ea-dists (Tab. 5)."""
    weight_mse: float = 1.0
    """The squared error of the decoded images (Eq. 8)."""
    lambda_perceptual: float = 1.0
    """lambda_2 (Eq. 8)."""
    lambda_adv: float = 0.1
    """lambda_1 (Sec. 3.4)."""
    discriminator: str = "nad"
    """Tab. 6: none; vanilla (sees no noise); diffusion-gan (a range of t that adapts); nad (all of it)."""
    t_nad_min: int = 0
    """Smallest t of the discriminator."""
    t_nad_max: int = 999
    """Largest t of the discriminator, included; the paper's range is [0, T]. Where the compact base ignores
    the latent (s / a > 5: above t = 795 of ddpm) the discriminator has nothing to judge."""
    taps: str = "all"
    """Which maps of the trunk vote: all, or mid. Differs from the paper, whose Fig. 2 taps the middle block
    alone: in the compact base that is one vote per 16 x 16 pixels, while the others judge finer regions."""
    head_width: int = 64
    """Hidden channels of a head."""
    condition_discriminator: bool = True
    """Differs from the paper, whose discriminator never sees the low-quality image: the networks of the
    compact base need it. False puts zeros in its place, but keeps y, where their residual starts."""
    ada_target: float = 0.6
    """diffusion-gan: d_target (arXiv 2206.02262), above which the discriminator counts as overfitting."""
    ada_every: int = 4
    """diffusion-gan: updates of the discriminator from one move of the range to the next (same source)."""
    ada_step: int = 4
    """diffusion-gan: indices by which the range moves; its authors' constant C depends on their batch."""
    weight_edge: float = 0.0
    """Error of image differences (`losses.edge_loss`). Not in the paper: it keeps edges without grain."""
    weight_grid: float = 0.0
    """Error locked to 4x4 cells (`losses.grid_loss`). Not in the paper: adversaries may bring such errors."""

    def __post_init__(self) -> None:
        options = {"spatial": SPATIAL, "discriminator": ("none", *DISCRIMINATORS), "taps": ("all", "mid")}
        check_choices("method", self, options)
        weights = "weight_mse lambda_perceptual lambda_adv weight_edge weight_grid"
        check_range("method", self, weights, 0)
        check_range("method", self, "head_width ada_every ada_step", 1)
        if not -1 < self.ada_target < 1:
            raise ConfigError(f"expected method.ada_target to be between -1 and 1, found {self.ada_target}")
        if not 0 <= self.t_nad_min <= self.t_nad_max:
            raise ConfigError("expected 0 <= method.t_nad_min <= method.t_nad_max, "
                              f"found {self.t_nad_min} and {self.t_nad_max}")  # fmt: skip
        perceptual = self.lambda_perceptual if self.spatial != "mse" else 0
        adversarial = self.lambda_adv if self.discriminator != "none" else 0
        if not (self.weight_mse or perceptual or adversarial or self.weight_edge or self.weight_grid):
            raise ConfigError("expected a loss that moves the student, found none; set method.weight_mse")


class DFOSD(Method):
    """Section 3.4. `critic` is None for discriminator none or lambda_adv 0, `distance` where unneeded."""

    critic_file = True

    def __init__(
        self, config: DFOSDConfig, student: Denoiser, critic: "NoiseAwareDiscriminator | None",
        decode: Callable[[Tensor], Tensor], distance: Distance | None = None,
    ):  # fmt: skip
        self.config, self.student, self.critic = config, student, critic
        self.decode, self.distance, self.t_student = decode, distance, config.t_student
        self.name = config.discriminator.replace("-", "_")
        times = ("t_student", "t_nad_max") if critic is not None else ("t_student",)
        check_times(config, times, student.process)

    @classmethod
    def build(cls, config: DFOSDConfig, base: Base, perceptual: Callable[[str], Distance]) -> "DFOSD":
        student, critic, distance = base.denoiser("student", config.process), None, None
        if config.discriminator != "none" and config.lambda_adv:
            critic = DISCRIMINATORS[config.discriminator](base.features("critic", config.process), config)
        if config.spatial != "mse" and config.lambda_perceptual:
            distance = perceptual(config.spatial.removeprefix("ea-"))
        return cls(config, student, critic, base.decode, distance)

    def generate(self, batch: Batch) -> Tensor:
        """z_hat_H in one step."""
        z_l = start(self.student.process, self.config.t_student, batch.cond.y)
        return one_step(self.student, z_l, self.config.t_student, batch.cond)

    def generator_loss(self, batch: Batch, z_hat: Tensor) -> Terms:
        """L_spatial + lambda_1 L_G; the adversarial term has the discriminator's name."""
        c = self.config
        x_hat, x_hq = self.decode(z_hat), batch.x_hq
        terms = spatial_loss(c, x_hat, x_hq, self.distance)
        if self.critic is not None:
            t, eps = self.critic.draw(z_hat)
            terms[self.name] = c.lambda_adv * adversarial_loss(self.critic(z_hat, t, eps, batch.told))
        if c.weight_edge:
            terms["edge"] = c.weight_edge * edge_loss(x_hat, x_hq)
        if c.weight_grid:
            terms["grid"] = c.weight_grid * grid_loss(x_hat, x_hq)
        return terms

    def critic_loss(self, batch: Batch, z_fake: Tensor) -> Terms:
        """L_D on pairs. Both of a pair get the same t and eps, so that only the images differ."""
        if self.critic is None:
            return {}
        t, eps = self.critic.draw(z_fake)
        fake, real = self.critic(z_fake, t, eps, batch.told), self.critic(batch.z_hq, t, eps, batch.told)
        self.critic.adapt(real)
        return {self.name: discriminator_loss(fake, real)}


def one_step(student: Denoiser, z_l: Tensor, t_student: int, cond: Cond) -> Tensor:
    """Eq. (1). z_hat_H = (z_L - sqrt(1 - abar) eps_theta(z_L; T_L)) / sqrt(abar), abar at T_L.

    A Denoiser already answers with z_0: the arithmetic is that of `Process.clean`.
    """
    z_hat: Tensor = student(z_l, filled(t_student, z_l), cond)
    return z_hat


def adversarial_loss(fake: list[Tensor]) -> Tensor:
    """Eq. (2). - log D(F(z_hat_H, t)), of logits [B, 1, h, w] per map: mean over regions, then over maps."""
    return torch.stack([F.softplus(-logits).mean() for logits in fake]).mean()


def discriminator_loss(fake: list[Tensor], real: list[Tensor]) -> Tensor:
    """Eq. (3). - log(1 - D(F(z_hat_H, t))) - log D(F(z_H, t)); means as in Eq. 2.

    Differs from the paper, which prints + log(1 - D(F(z_H, t))): its first term has the wrong sign and the
    real latent where the generated one belongs, so that it would not depend on the generator at all.
    """
    not_fake = torch.stack([F.softplus(logits).mean() for logits in fake]).mean()
    return not_fake + adversarial_loss(real)


def diffuse(process: Process, z: Tensor, t: Tensor, eps: Tensor, y: Tensor) -> Tensor:
    """Eq. (4). F(z, t) = sqrt(abar_t) z + sqrt(1 - abar_t) eps; y counts in residual shifting alone."""
    return process.perturb(z, eps, t, y)


def edge_aware(distance: Distance, x: Tensor, target: Tensor) -> Tensor:
    """Eq. (5). The distance of the images plus that of their edges."""
    return distance(x, target) + distance(sobel(x), sobel(target))


def sobel(x: Tensor, eps: float = 1e-6) -> Tensor:
    """Eq. (6), (7). Edge maps of images [B, C, H, W] in [-1, 1]: float32, in [-1, 1] for feature networks.

    Open in the paper: here each channel has its own edges, borders are repeated, and the magnitude is that of
    images in [0, 1] over its largest value, the root of 20. `eps` keeps the root's gradient finite.
    """
    padded = F.pad((x.float() + 1) / 2, (1, 1, 1, 1), mode="replicate")
    magnitude = (filtered(padded, G_X) ** 2 + filtered(padded, G_Y) ** 2 + eps).sqrt()
    return 2 * magnitude / math.sqrt(20) - 1


def filtered(padded: Tensor, kernel: Kernel) -> Tensor:
    """[B, C, H + 2, W + 2] -> [B, C, H, W]. Not a convolution call: autocast would round the pixels first."""
    h, w = padded.shape[-2] - 2, padded.shape[-1] - 2
    taps = ((i, j, k) for i, row in enumerate(kernel) for j, k in enumerate(row) if k)
    return sum((k * padded[..., i : i + h, j : j + w] for i, j, k in taps), start=padded.new_zeros(()))


def spatial_loss(c: DFOSDConfig, x_hat: Tensor, x_hq: Tensor, distance: Distance | None) -> Terms:
    """Eq. (8). `mse`, and lambda_2 times the distance under the option's name."""
    terms: Terms = {}
    if c.weight_mse:
        terms["mse"] = c.weight_mse * F.mse_loss(x_hat, x_hq)
    if distance is not None:
        if c.spatial.startswith("ea-"):
            distance = functools.partial(edge_aware, distance)
        terms[c.spatial.replace("-", "_")] = c.lambda_perceptual * distance(x_hat, x_hq)
    return terms


class NoiseAwareDiscriminator(nn.Module):
    """D_theta (Sec. 3.2): a pretrained trunk looks at a diffused latent, and each region has a vote.

    A head is conv1x1, SiLU, conv1x1: the paper's MLP, whose shape it leaves open.
    """

    def __init__(self, trunk: Features, config: DFOSDConfig):
        super().__init__()
        self.trunk, self.config = trunk, config
        self.first = 0 if config.taps == "all" else len(trunk.widths) - 1
        self.heads = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(width, config.head_width, 1), nn.SiLU(), nn.Conv2d(config.head_width, 1, 1)
            )
            for width in trunk.widths[self.first :]
        )

    def draw(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """t [B] from t_nad_min to t_nad_max, both included, and eps."""
        t = torch.randint(self.config.t_nad_min, self.config.t_nad_max + 1, (len(z),), device=z.device)
        return t, torch.randn_like(z)

    def forward(self, z: Tensor, t: Tensor, eps: Tensor, cond: Cond) -> list[Tensor]:
        """Clean latents z [B, C, h, w], t [B], eps -> logits [B, 1, h_i, w_i] of each map that votes."""
        if not self.config.condition_discriminator:
            cond = replace(cond, image=torch.zeros_like(cond.image))
        maps = self.trunk(diffuse(self.trunk.process, self.trunk.latent(z), t, eps, cond.y), t, cond)
        return [head(m).float() for head, m in zip(self.heads, maps[self.first :], strict=True)]

    def adapt(self, real: list[Tensor]) -> None:
        """Called with the logits of the real latents at each update; only `AdaptiveDiscriminator` learns."""


class VanillaDiscriminator(NoiseAwareDiscriminator):
    """The same networks on latents without noise, at the first index (Tab. 6)."""

    def draw(self, z: Tensor) -> tuple[Tensor, Tensor]:
        return filled(0, z), torch.zeros_like(z)


class AdaptiveDiscriminator(NoiseAwareDiscriminator):
    """The same networks with Diffusion-GAN's range of t (Tab. 6; arXiv 2206.02262).

    t is uniform in [t_nad_min, t_top]; t_top starts at t_nad_min and moves with r_d = E[sign(D(real) - 0.5)]:
    up where it exceeds `ada_target`, else down. Its authors also leave half of the images clean.
    """

    t_top: Tensor
    signs: Tensor
    calls: Tensor

    def __init__(self, trunk: Features, config: DFOSDConfig):
        super().__init__(trunk, config)
        self.register_buffer("t_top", torch.tensor(config.t_nad_min))
        self.register_buffer("signs", torch.tensor(0.0))
        self.register_buffer("calls", torch.tensor(0))

    def draw(self, z: Tensor) -> tuple[Tensor, Tensor]:
        t = torch.randint(self.config.t_nad_min, int(self.t_top) + 1, (len(z),), device=z.device)
        return t, torch.randn_like(z)

    @torch.no_grad()
    def adapt(self, real: list[Tensor]) -> None:
        c = self.config
        self.signs += torch.stack([logits.sign().mean() for logits in real]).mean()
        self.calls += 1
        if self.calls == c.ada_every:
            overfits = (self.signs / self.calls - c.ada_target).sign().long()
            self.t_top.add_(c.ada_step * overfits).clamp_(c.t_nad_min, c.t_nad_max)
            self.signs.zero_()
            self.calls.zero_()


DISCRIMINATORS: dict[str, type[NoiseAwareDiscriminator]] = {
    "vanilla": VanillaDiscriminator,
    "diffusion-gan": AdaptiveDiscriminator,
    "nad": NoiseAwareDiscriminator,
}
