"""From noise to a clean latent: deterministic steps, guidance, and a teacher's own sampler as a module."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from ..errors import ConfigError
from .denoiser import Cond, Denoiser, filled
from .process import Process


def guide(z0: Tensor, z0_null: Tensor, scale: float) -> Tensor:
    """Classifier-free guidance on z_0: affine, so the same as on eps or v."""
    return z0_null + scale * (z0 - z0_null)


@torch.no_grad()
def sample(
    denoiser: Callable[[Tensor, Tensor, Cond], Tensor],
    process: Process,
    z: Tensor,
    times: Sequence[int],
    cond: Cond,
) -> Tensor:
    """Deterministic multi-step sampling (TAD-SR Eq. 3, DDIM, Euler): from z at times[0] down to z_0."""
    for t, r in zip(times, [*times[1:], -1], strict=True):
        z0 = denoiser(z, filled(t, z), cond)
        z = process.step(z0, z, filled(t, z), filled(r, z), cond.y) if r >= 0 else z0
    return z


def times(process: Process, steps: int) -> list[int]:
    """`steps` indices of the process from its last down, evenly spread, the last one above the clean end."""
    last = len(process) - 1
    return [last - round(i * (last + 1) / steps) for i in range(steps)]


def start(process: Process, t: int, y: Tensor) -> Tensor:
    """What a one-step student is given at index t: y itself, or y with the noise of a process that ends in y.

    The student is used so too; where a process ends in noise alone, students start from y.
    """
    ends_in_y = process.b[t] > 0
    return process.perturb(y, torch.randn_like(y), filled(t, y), y) if ends_in_y else y


class Sampler(nn.Module):
    """The teacher's own way: many steps of an unfolded denoiser.

    Args:
        steps: how many, evenly spread over the process.
        stochastic: draws from the posterior, in all steps of the process, instead of stepping
            deterministically.
        prompt, pooled: what the denoiser is conditioned on besides the image, [1, ...] each; or None.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        steps: int,
        *,
        multiple: int,
        stochastic: bool,
        prompt: Tensor | None = None,
        pooled: Tensor | None = None,
    ):
        super().__init__()
        process = denoiser.process
        if not 1 <= steps <= len(process):
            raise ConfigError(f"expected steps to be from 1 to {len(process)} for this model, found {steps}")
        self.denoiser, self.process, self.multiple = denoiser, process, multiple
        self.times, self.stochastic = times(process, steps), stochastic
        self.prompt: Tensor | None
        self.pooled: Tensor | None
        self.register_buffer("prompt", prompt)
        self.register_buffer("pooled", pooled)

    def forward(self, z: Tensor, t: int, y: Tensor, image: Tensor | None) -> Tensor:
        """z_0 at z_t = z, all [B, C, h, w]."""
        prompt, pooled = (
            None if p is None else p.expand(len(z), *p.shape[1:]) for p in (self.prompt, self.pooled)
        )
        cond = Cond(image=y if image is None else image, y=y, prompt=prompt, pooled=pooled)
        z0: Tensor = self.denoiser(z, filled(t, z), cond)
        return z0
