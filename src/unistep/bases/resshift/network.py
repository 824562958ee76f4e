"""ResShift's network as a denoiser of its process, its variants, and its unfolded file."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...autoencoder.codecs import VQCodec
from ...diffusion.denoiser import Cond, Denoiser, Features
from ...diffusion.process import Process, residual_shift
from ...errors import ConfigError, ModelError
from ...tensors import load_exactly, part
from .swin import SwinConfig, SwinUNet


@dataclass(frozen=True)
class ResShiftConfig:
    """ResShift, trained as a whole (`train.init`: an unfolded file, `unistep models convert --unfolded`)."""

    variant: str = ""
    """What `train.init` must be of: resshift-15, resshift-4, resshift-faces, ...; empty: of any."""
    checkpointing: bool = False
    """Blocks are computed again in the backward pass instead of kept: less memory, more arithmetic."""
    sha256: str = ""
    """What `train.init` must hash to; empty: the run remembers what it found."""


@dataclass(frozen=True)
class Variant:
    """What a released file does not tell by its shapes."""

    method: str
    steps: int
    """T of the process that the network was trained on; its one step is at index T - 1."""
    min_noise_level: float
    scale: int = 4
    """Between the low-quality image and the result; faces: 1."""
    kappa: float = 2.0

    def process(self) -> Process:
        return residual_shift(self.steps, self.kappa, self.min_noise_level)


VARIANTS = {
    "resshift-15": Variant("resshift", 15, 0.04),
    "resshift-4": Variant("resshift", 4, 0.2),
    "resshift-faces": Variant("resshift", 4, 0.2, scale=1),
    "sinsr": Variant("sinsr", 15, 0.04),
    "tadsr": Variant("tadsr", 15, 0.04),
    "tadsr-faces": Variant("tadsr", 4, 0.2, scale=1),
}
FILES = {
    "resshift_realsrx4_s15": "resshift-15",
    "resshift_realsrx4_s4": "resshift-4",
    "resshift_bicsrx4_s4": "resshift-4",
    "resshift_faceir_s4": "resshift-faces",
    "sinsr": "sinsr",
    "tad-sr": "tadsr",
    "tad-faceir": "tadsr-faces",
}
"""How the names of released files begin, in lower case -> the variant."""


def variant_of(name: str) -> str:
    """The variant of a released file by its name. Raises ConfigError if it does not tell."""
    for start, variant in FILES.items():
        if name.lower().startswith(start):
            return variant
    raise ConfigError(
        f"expected --variant to be one of {', '.join(VARIANTS)}, found none, and “{name}” does not tell it"
    )


class SwinDenoiser(Denoiser):
    """f at every time of its process."""

    def __init__(self, net: SwinUNet, process: Process):
        super().__init__()
        self.net, self.process = net, process

    def forward(self, z_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
        x, image = net_input(self.net, self.process, z_t, t, cond)
        out: Tensor = self.net(x, image, t)
        return out.float()


class Taps(Features):
    """The encoder half: outputs of the downsamplings, of the last input block and of the middle (TAD-SR)."""

    def __init__(self, net: SwinUNet, process: Process):
        super().__init__()
        self.net, self.process = net, process
        self.indices, self.widths = tuple(net.taps), tuple(net.taps.values())
        del net.output_blocks, net.out

    def forward(self, z_t: Tensor, t: Tensor, cond: Cond) -> list[Tensor]:
        x, image = net_input(self.net, self.process, z_t, t, cond)
        maps = self.net.encode(x, image, self.net.code(t))
        return [maps[index].float() for index in self.indices]


def net_input(net: SwinUNet, process: Process, z_t: Tensor, t: Tensor, cond: Cond) -> tuple[Tensor, Tensor]:
    """z_t / sqrt(kappa^2 eta_t + 1) and the image, in the network's dtype."""
    s = process.at(t)[2]
    return (z_t / (s**2 + 1).sqrt()).to(net.dtype), cond.image.to(net.dtype)


def open_net(config: SwinConfig, tensors: Mapping[str, Tensor]) -> SwinUNet:
    """The denoiser of an unfolded file. Raises ModelError."""
    with torch.device("meta"):
        net = SwinUNet(config)
    load_exactly(net, part(tensors, "denoiser.net."), "a denoiser of ResShift")
    return net


def opened(
    header: Mapping[str, Any], tensors: Mapping[str, Tensor], folded: bool
) -> tuple[SwinConfig, VQCodec, Process]:
    """What a file's header describes, with the autoencoder filled. Raises ModelError."""
    try:
        if header["folded"] != folded:
            raise ModelError(
                f"expected a file that is {'folded' if folded else 'unfolded'}, found one that is not"
            )
        config, process = SwinConfig(**header["denoiser"]), VARIANTS[header["variant"]].process()
        codec = VQCodec.from_config(header["codec"])
    except (KeyError, TypeError, ValueError, ConfigError) as error:
        raise ModelError(
            f"expected the header of a ResShift model, found a damaged one: {error!r}"
        ) from error
    load_exactly(codec, part(tensors, "codec."), "a VQ autoencoder")
    return config, codec.eval().requires_grad_(False), process
