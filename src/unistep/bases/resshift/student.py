"""ResShift (arXiv 2307.12348), and its one-step students SinSR (arXiv 2311.14760) and TAD-SR (2408.07476).

    z_T = y + kappa sqrt(eta_T) eps,    z_hat = f(z_T / sqrt(kappa^2 eta_T + 1), x_lq, T)

y is the latent of the bicubic enlargement. The one-step students run f once; the teacher draws z_{t-1} from
the posterior T times, SinSR's teacher steps deterministically (`Sampler`, `sampler.sample`).
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ...autoencoder.codecs import VQCodec
from ...autoencoder.vq import VQConfig
from ...diffusion.process import Process
from ...diffusion.sampler import Sampler
from ...errors import ConfigError, ModelError
from ...students.latent import LatentConfig
from ...students.onestep import OneStep
from ...tensors import load_exactly, part
from .network import VARIANTS, SwinDenoiser, open_net, opened
from .swin import SwinConfig, SwinUNet, fold, official, unwrapped


def build(
    unet: Mapping[str, Tensor],
    vq: Mapping[str, Tensor],
    *,
    variant: str,
    dtype: torch.dtype = torch.float16,
    folded: bool = True,
    image_size: int | None = None,
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """(header["student"], tensors) of a student's file, from the authors' state dicts.

    Args:
        unet, vq: state dicts, with or without "module." and "_orig_mod." and what follows from the shape.
        variant: a name of VARIANTS.
        folded: for one step; False keeps time as an input, for many.
        image_size: side of the latents that the network was built for; None: by `SwinConfig.infer`.

    Raises:
        ConfigError: no such variant.
        ModelError: missing or surplus tensors, or parts that do not go together.
    """
    if variant not in VARIANTS:
        raise ConfigError(f"expected the variant to be one of {', '.join(VARIANTS)}, found “{variant}”")
    kind, state, codec = VARIANTS[variant], official(unet), official(vq)
    config, vq_config = SwinConfig.infer(unwrapped(unet), image_size), VQConfig.infer(codec)
    process = kind.process()
    with torch.device("meta"):
        load_exactly(SwinUNet(config), state, "ResShift's Swin-UNet")
    load_exactly(VQCodec.from_config(dataclasses.asdict(vq_config)).vq, codec, "a VQ autoencoder")
    ratio = config.lq_size // config.image_size
    if config.channels != vq_config.embed_dim or ratio * kind.scale != vq_config.factor:
        raise ModelError(
            f"expected for {variant} an autoencoder of {config.channels} channels and {ratio * kind.scale} "
            f"pixels per latent, found one of {vq_config.embed_dim} channels and {vq_config.factor} pixels"
        )
    if folded:
        state = fold(state, config, kind.steps - 1, input_scale(process))
    latent = latent_config(kind.scale, process)
    header = {
        "base": "resshift",
        "method": kind.method,
        "variant": variant,
        "folded": folded,
        "denoiser": dataclasses.asdict(config),
        "codec": dataclasses.asdict(vq_config),
        "latent": dataclasses.asdict(latent),
    }
    tensors = {f"denoiser.net.{name}": tensor.to(dtype) for name, tensor in state.items()}
    return header, tensors | {f"codec.vq.{name}": tensor.to(dtype) for name, tensor in codec.items()}


def latent_config(scale: int, process: Process) -> LatentConfig:
    """How a student treats a whole picture."""
    # tiles as the authors cut: the network's statistics are of the whole tile
    noise = process.s[-1].item()
    return LatentConfig(scale=scale, shortest=0, tile=512, overlap=64, noise=noise, colour="none")


def input_scale(process: Process) -> float:
    """1 / sqrt(kappa^2 eta_T + 1): brings z_T to unit variance, if the latents have it."""
    return float((process.s[-1] ** 2 + 1) ** -0.5)


class FoldedSwin(OneStep):
    """f at the one time T - 1: time and the input's scale are constants in its weights."""

    def __init__(self, config: SwinConfig):
        super().__init__()
        self.net = SwinUNet(config, folded=True)
        self.multiple = config.multiple

    def forward(self, z: Tensor, image: Tensor | None = None) -> Tensor:
        if image is None:
            raise ConfigError("expected the low-quality image beside the latent, found none")
        out: Tensor = self.net(z.to(self.net.dtype), image.to(self.net.dtype))
        return out.float()


def student(header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> tuple[FoldedSwin, VQCodec]:
    """The modules of a folded file, in its dtype. Raises ModelError."""
    config, codec, _ = opened(header, tensors, folded=True)
    with torch.device("meta"):
        denoiser = FoldedSwin(config)
    load_exactly(denoiser, part(tensors, "denoiser."), "a folded denoiser of ResShift")
    return denoiser.eval().requires_grad_(False), codec


def teacher(
    header: Mapping[str, Any], tensors: Mapping[str, Tensor], steps: int | None = None
) -> tuple[Sampler, VQCodec]:
    """The many-step sampler of an unfolded file. `steps`: None: as trained; fewer are deterministic.

    Raises ModelError for the file, ConfigError for `steps`.
    """
    config, codec, process = opened(header, tensors, folded=False)
    denoiser = SwinDenoiser(open_net(config, tensors), process).eval().requires_grad_(False)
    steps = len(process) if steps is None else steps
    whole = steps == len(process)  # the posterior leads from t to t - 1 alone
    return Sampler(denoiser, steps, multiple=config.multiple, stochastic=whole), codec
