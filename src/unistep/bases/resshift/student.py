"""ResShift (arXiv 2307.12348), and its one-step students SinSR (arXiv 2311.14760) and TAD-SR (2408.07476).

    z_T = y + kappa sqrt(eta_T) eps,    z_hat = f(z_T / sqrt(kappa^2 eta_T + 1), x_lq, T)

y is the latent of the bicubic enlargement. The one-step students run f once; the teacher draws z_{t-1} from
the posterior T times (`sample_posterior`), SinSR's teacher steps deterministically (`denoiser.sample`).
"""

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...autoencoder.codecs import VQCodec
from ...autoencoder.vq import VQConfig
from ...diffusion.denoiser import Cond, Denoiser, filled
from ...diffusion.process import Process, resshift
from ...diffusion.sampler import Sampler
from ...errors import ConfigError, ModelError
from ...students.latent import LatentConfig
from ...students.onestep import OneStep, load_exactly, part
from .swin import SwinConfig, SwinUNet, fold, official


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
        return resshift(self.steps, self.kappa, self.min_noise_level)


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
    config, vq_config = SwinConfig.infer(state, image_size), VQConfig.infer(codec)
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
    latent = LatentConfig(
        scale=kind.scale,
        shortest=0,
        tile=512,  # as the authors cut: the network's statistics are of the whole tile
        overlap=64,
        noise=process.s[-1].item(),
        colour="none",
    )
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


class SwinDenoiser(Denoiser):
    """f at every time of its process."""

    def __init__(self, net: SwinUNet, process: Process):
        super().__init__()
        self.net, self.process = net, process

    def forward(self, z_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
        x, image = net_input(self.net, self.process, z_t, t, cond)
        out: Tensor = self.net(x, image, t)
        return out.float()


def net_input(net: SwinUNet, process: Process, z_t: Tensor, t: Tensor, cond: Cond) -> tuple[Tensor, Tensor]:
    """z_t / sqrt(kappa^2 eta_t + 1) and the image, in the network's dtype."""
    s = process.at(t)[2]
    return (z_t / (s**2 + 1).sqrt()).to(net.dtype), cond.image.to(net.dtype)


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


@torch.no_grad()
def sample_posterior(
    denoiser: Denoiser, process: Process, z: Tensor, cond: Cond, noises: Iterable[Tensor]
) -> Tensor:
    """ResShift's own sampler: from z_T down to z_0, each z_{t-1} drawn from q(z_{t-1} | z_t, z_0, y).

    noises: standard normal, of z's shape, one for each t = T - 1 .. 1.
    """
    for t, eps in zip(reversed(range(1, len(process))), noises, strict=True):
        z0 = denoiser(z, filled(t, z), cond)
        mean, variance = process.posterior(z0, z, filled(t, z), cond.y)
        z = mean + variance.sqrt() * eps
    out: Tensor = denoiser(z, filled(0, z), cond)
    return out
