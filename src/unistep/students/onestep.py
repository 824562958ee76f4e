"""What a one-step student of a latent base consists of, and the way it is read from its file."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ..errors import ModelError


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
        """z [B, C, h, w], a scaled latent (ResShift: z_T) -> z_hat [B, C, h, w], float32.

        image [B, 3, H, W] in [-1, 1]: the low-quality image, where the base is conditioned on it.
        """


def load_exactly(module: nn.Module, tensors: Mapping[str, Tensor], what: str) -> None:
    """Puts `tensors` into a module, which may be on the meta device. Raises ModelError with what differs."""
    own: dict[str, Any] = module.state_dict()
    missing, surplus = sorted(own.keys() - tensors.keys()), sorted(tensors.keys() - own.keys())
    other = [
        f"{name} {list(tensors[name].shape)} for {list(own[name].shape)}"
        for name in own.keys() & tensors.keys()
        if own[name].shape != tensors[name].shape
    ]
    if missing or surplus or other:
        parts = (("missing", missing), ("surplus", surplus), ("of another shape", sorted(other)))
        found = "; ".join(f"{len(names)} {kind}: {_few(names)}" for kind, names in parts if names)
        raise ModelError(f"expected the tensors of {what}, found {found}")
    module.load_state_dict(dict(tensors), strict=True, assign=True)


def part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors under `prefix`, without it."""
    return {name.removeprefix(prefix): p for name, p in tensors.items() if name.startswith(prefix)}


def _few(names: list[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
