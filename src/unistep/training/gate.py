"""Is the teacher good enough to teach? Its samples are measured before a student learns from them."""

from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..diffusion.denoiser import Base, Denoiser, filled
from ..diffusion.sampler import sample, times
from ..errors import ConfigError
from ..evaluation.metrics import gradient_energy, psnr_y, swd

STEPS = 8
ENERGY = 0.1
"""The gradient energy of its samples may differ by this share from the photographs'."""


@dataclass(frozen=True)
class Gate:
    """A teacher's samples of photographs, beside its own answer in one step.

    PSNR is reported, not judged: a sample is one of many that are likely, so those of a good teacher lose
    PSNR, by design, against an answer that is their mean.
    """

    steps: int
    psnr_gain: float
    """PSNR-Y over bicubic, dB."""
    gradient_energy: float
    """Of the photographs' own (1 is equal)."""
    swd: float
    """Sliced Wasserstein distance to the photographs, as a ratio to bicubic's."""
    swd_slot: float
    """The same for the one-step answer."""
    crops: str = "held-out crops"
    """Of which photographs."""

    @property
    def passes(self) -> bool:
        return abs(self.gradient_energy - 1) <= ENERGY and self.swd < self.swd_slot

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"passes": self.passes}

    def __str__(self) -> str:
        reasons = []
        if abs(self.gradient_energy - 1) > ENERGY:
            reasons.append(
                f"gradient energy {self.gradient_energy:.2f}, expected {1 - ENERGY} to {1 + ENERGY}"
            )
        if self.swd >= self.swd_slot:
            reasons.append(f"SWD {self.swd:.2f}, expected below its one-step answer's {self.swd_slot:.2f}")
        verdict = "below its gate (" + "; ".join(reasons) + ")" if reasons else "good enough to teach"
        return (
            f"teacher: {verdict}; {self.steps}-step samples of {self.crops}: PSNR {self.psnr_gain:+.2f} dB "
            f"against bicubic, gradient energy {self.gradient_energy:.2f}, SWD {self.swd:.2f}"
        )


@torch.no_grad()
def measure(teacher: Denoiser, base: Base, x_lq: Tensor, x_hq: Tensor, steps: int = STEPS) -> Gate:
    """The gate of `teacher` on pairs in [0, 1], deterministic steps from seeded noise.

    Pairs are cropped to what the base takes. Raises ConfigError for pairs that are smaller than that.
    """
    process, scale = teacher.process, x_hq.shape[-1] // x_lq.shape[-1]
    h, w = (side // base.multiple * base.multiple for side in x_lq.shape[-2:])
    if not (h and w):
        raise ConfigError(
            f"expected held-out photographs of {base.multiple * scale} pixels or more on each side, on which "
            "the teacher is measured, found smaller ones: add some, or take them out"
        )
    x_lq, x_hq = x_lq[..., :h, :w], x_hq[..., : h * scale, : w * scale]
    generator = torch.Generator().manual_seed(0)
    samples, slots = [], []
    for x in torch.split(x_lq, 4):
        cond = base.cond(x * 2 - 1)
        eps = torch.randn(cond.y.shape, generator=generator).to(cond.y)
        last = filled(len(process) - 1, cond.y)
        z_last = process.perturb(cond.y, eps, last, cond.y)
        samples.append(sample(teacher, process, z_last, times(process, steps), cond))
        slots.append(teacher(z_last, last, cond))
    outputs, one_step = (
        torch.cat([((base.decode(z).cpu() + 1) / 2).clamp(0, 1) for z in zs]) for zs in (samples, slots)
    )
    bicubic = F.interpolate(x_lq, scale_factor=scale, mode="bicubic").clamp(0, 1)
    distance = swd(bicubic, x_hq).mean()
    return Gate(
        steps,
        (psnr_y(outputs, x_hq) - psnr_y(bicubic, x_hq)).mean().item(),
        gradient_energy(outputs, x_hq).mean().item(),
        (swd(outputs, x_hq).mean() / distance).item(),
        (swd(one_step, x_hq).mean() / distance).item(),
    )
