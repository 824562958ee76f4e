"""What a one-step student of a latent base consists of, and what may be asked of it."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True)
class Options:
    """What only students of large models know; the embedded ones refuse all but the defaults."""

    steps: int | None = None
    """Steps of the teacher's own sampler; None: what the file is for, as a rule one."""
    decoder: str | None = None
    """"tiny" (a pulled TAESD) or a .safetensors file of one; None: the model's own."""
    weights: str = "full"
    """full, int8 or int4: how the denoiser's weights are stored while it runs."""
    offload: bool = False
    """Weights stay in host memory; each block's visit the device."""
    compile: bool = False
    """torch.compile over encoder, denoiser and decoder (CUDA graphs on a GPU): slow start, fast runs."""


class OneStep(nn.Module, ABC):
    """A folded denoiser: time and prompt are constants in it, so that a latent is all it takes."""

    multiple: int = 1
    """Sides of the latent must be multiples of it."""

    @abstractmethod
    def forward(self, z: Tensor, image: Tensor | None = None) -> Tensor:
        """z [B, C, h, w], a scaled latent (of residual shifting: z_T) -> z_hat [B, C, h, w], float32.

        image [B, 3, H, W] in [-1, 1]: the low-quality image, where the base is conditioned on it.
        """
