"""Many steps of an unfolded denoiser: how a teacher answers before it is distilled."""

from torch import Tensor, nn

from ..errors import ConfigError
from .denoiser import Cond, Denoiser, filled, times


class Sampler(nn.Module):
    """The teacher's own way: many steps of an unfolded denoiser.

    Args:
        steps: how many, evenly spread over the process.
        stochastic: draws from the posterior (ResShift, all its steps) instead of stepping deterministically.
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
