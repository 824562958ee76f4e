"""Bases without weights, on the meta device: of the size that their files' headers say, or as published."""

from pathlib import Path
from typing import Any

import torch

from ..autoencoder.codecs import KLCodec
from ..autoencoder.vq import VQ, VQConfig
from ..diffusion.denoiser import Base
from ..diffusion.process import flow
from ..extras import extra
from . import BASES
from .compact.base import CompactBase, CompactConfig, CompactDenoiser
from .diffusersfolder import read_config
from .latentbase import Opened
from .resshift.base import ResShiftBase
from .resshift.swin import SwinConfig, SwinUNet
from .sd3 import student as sd3
from .sd3.base import SD3Base
from .sd21 import student as sd21
from .sd21.base import SD21Base
from .settings import ResShiftConfig, SD3Config, SD21Config


def published(config: Any) -> Base:
    """The base of a configuration at the size at which it is published; the compact one as configured."""
    if isinstance(config, CompactConfig):
        compact = CompactBase(CompactDenoiser(config), "meta")  # of which copies alone are on that device
        compact.cond(torch.empty(1, 3, 4, 4, device="meta"))  # it keeps what the first batch needs
        return compact
    made: Any = next(made for made, of in BASES.values() if of is type(config))
    base: Base = made.published(config)
    return base


def of_folder(folder: Path, config: SD3Config | SD21Config) -> Base:
    """The Stable Diffusion in a folder in the diffusers layout, of which only the JSON files are read.

    Raises ModelError for another model.
    """
    if isinstance(config, SD3Config):
        transformer = sd3.empty_transformer(read_config(folder, "transformer"))
        codec = KLCodec.from_config(read_config(folder, "vae"), config.shift)
        widths = transformer.config.joint_attention_dim, transformer.config.pooled_projection_dim
        words = _empty(1, sd3.CLIP_TOKENS + sd3.T5_TOKENS, widths[0]), _empty(1, widths[1])
        return SD3Base(
            Opened(transformer, codec, flow(*sd3.open_schedule(folder))), config, lambda text: words, "meta"
        )
    with torch.device("meta"):
        unet = extra("diffusers").UNet2DConditionModel.from_config(read_config(folder, "unet"))
    prompt = _empty(1, sd3.CLIP_TOKENS, unet.config.cross_attention_dim)
    opened = Opened(unet, KLCodec.from_config(read_config(folder, "vae")), sd21.open_process(folder))
    return SD21Base(opened, config, lambda text: (prompt, None), "meta")


def of_header(header: dict[str, Any], config: ResShiftConfig) -> Base:
    """The ResShift whose unfolded file has this header. Raises ModelError for another file's."""
    with torch.device("meta"):
        net, vq = SwinUNet(SwinConfig(**header["denoiser"])), VQ(VQConfig(**header["codec"]))
    tensors = {f"denoiser.net.{name}": p for name, p in net.state_dict().items()}
    tensors |= {f"codec.vq.{name}": p for name, p in vq.state_dict().items()}
    return ResShiftBase(header, tensors, config, "meta")


def _empty(*shape: int) -> torch.Tensor:
    return torch.empty(shape, device="meta")
