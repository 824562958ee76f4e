"""Stable Diffusion 2.1 and XL as published, without weights, for plans; and tiny ones, for tests."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ...autoencoder.codecs import KLCodec
from ...diffusion.process import ddpm
from ...extras import extra
from ...students.latent import LatentConfig, LatentStudent
from .. import tiny
from ..diffusersfolder import read_config
from ..latentbase import Opened
from ..tiny import draw, fit, noised, read_sizes, save, stable_diffusion_scheduler, text_encoder, vae
from .base import SD21Base
from .network import SD21Config, encode_prompt, open_process
from .sdunet import FoldedUNet
from .sdxl import SCALING, TOKENS

SIZES = read_sizes(__file__)
UNET, TINY, TINY_XL = (SIZES[name] for name in ("unet", "tiny", "tiny_xl"))


def shapes(config: SD21Config, folder: Path | None) -> SD21Base:
    """On the meta device: of the size of the model in `folder`, of which JSON is read, or as published."""
    table = read_config(folder, "unet") if folder else UNET
    with torch.device("meta"):
        unet = extra("diffusers").UNet2DConditionModel.from_config(table)
        prompt = torch.empty(1, TOKENS, unet.config.cross_attention_dim)
    codec = KLCodec.from_config(read_config(folder, "vae") if folder else tiny.PUBLISHED_VAE)
    opened = Opened(unet, codec, open_process(folder) if folder else ddpm())
    return SD21Base(opened, config, lambda text: (prompt, None), "meta")


def untrained() -> LatentStudent:
    """A folded student of the published sizes, used as OSEDiff's; the autoencoder is on the meta device."""
    codec = KLCodec.from_config(tiny.PUBLISHED_VAE)
    return LatentStudent(
        FoldedUNet(), codec, LatentConfig(resample="pillow", tile=96, overlap=32, colour="adain")
    )


def published(header: Mapping[str, Any]) -> bool:
    """Whether header["student"] is of the published UNet."""
    widths: list[int] = UNET["block_out_channels"]
    return list(header.get("denoiser", {}).get("widths", ())) == widths


def write(folder: Path, prediction: str = "epsilon") -> Path:
    model = extra("diffusers").UNet2DConditionModel(**TINY)
    draw(model)
    z = vae(folder, tiny.VAE)
    process = stable_diffusion_scheduler(folder, prediction)
    text_encoder(folder, "", TINY["cross_attention_dim"], projected=False)
    z_t, t, out = noised(process, z, z)
    prompt = encode_prompt(folder, "").expand(len(z), -1, -1)
    fit(model.conv_out, lambda: model(z_t, t, prompt), out)
    save(folder, "unet", model)
    return folder


def write_sdxl(folder: Path) -> Path:
    """Only its encoder half is ever used, so nothing is fitted."""
    model = extra("diffusers").UNet2DConditionModel(**TINY_XL)
    draw(model)
    save(folder, "unet", model)
    vae(folder, {**tiny.VAE, "scaling_factor": SCALING})
    stable_diffusion_scheduler(folder, "epsilon")
    for suffix, width in tiny.ENCODERS.items():
        text_encoder(folder, suffix, width, projected=suffix == "_2")
    return folder
