"""Stable Diffusion 3 as published, without weights, for plans; and a tiny one with weights, for tests."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from ...autoencoder.codecs import KLCodec
from ...diffusion.denoiser import Cond
from ...diffusion.process import flow
from ...extras import extra
from ...students.latent import LatentConfig, LatentStudent
from .. import tiny
from ..diffusersfolder import read_config
from ..latentbase import Opened
from ..tiny import draw, fit, noised, read_sizes, save, scheduler, text_encoder, vae
from .base import SD3Base
from .mmdit import FoldedMMDiT, MMDiTConfig
from .network import (
    CLIP_TOKENS,
    T5_TOKENS,
    SD3Config,
    SD3Denoiser,
    empty_transformer,
    encode_prompt,
    open_schedule,
)

SIZES = read_sizes(__file__)
TRANSFORMER, VAE, TINY, TINY_VAE = (SIZES[name] for name in ("transformer", "vae", "tiny", "tiny_vae"))


TEXT_ENCODERS: tuple[dict[str, Any], ...] = tuple(
    SIZES[f"text_encoder{suffix}"] for suffix in ("", "_2", "_3")
)


def shapes(config: SD3Config, folder: Path | None) -> SD3Base:
    """On the meta device: of the size of the model in `folder`, of which JSON is read, or as published."""
    transformer = empty_transformer(read_config(folder, "transformer") if folder else TRANSFORMER)
    codec = KLCodec.from_config(read_config(folder, "vae") if folder else VAE, config.shift)
    process = flow(*open_schedule(folder)) if folder else flow()
    widths = transformer.config.joint_attention_dim, transformer.config.pooled_projection_dim
    with torch.device("meta"):
        words = torch.empty(1, CLIP_TOKENS + T5_TOKENS, widths[0]), torch.empty(1, widths[1])
    return SD3Base(Opened(transformer, codec, process), config, lambda text: words, "meta")


def untrained() -> LatentStudent:
    """A folded student of the published sizes, as TSD-SR's is used; the autoencoder is on the meta device."""
    return LatentStudent(FoldedMMDiT(MMDiTConfig()), KLCodec.from_config(VAE), LatentConfig())


def published(header: Mapping[str, Any]) -> bool:
    """Whether header["student"], folded or not, is of the published transformer."""
    table = header.get("denoiser", {})
    names = {"layers": "num_layers", "heads": "num_attention_heads", "head": "attention_head_dim"}
    return all(table.get(ours, table.get(name)) == TRANSFORMER[name] for ours, name in names.items())


def write(folder: Path) -> Path:
    model = extra("diffusers").SD3Transformer2DModel(**TINY)
    draw(model)
    z = vae(folder, TINY_VAE)
    process = flow(1000, 3.0)
    scheduler(folder, _class_name="FlowMatchEulerDiscreteScheduler", num_train_timesteps=1000, shift=3.0)
    save(folder, "transformer", model)
    for suffix, width in tiny.ENCODERS.items():
        text_encoder(folder, suffix, width)
    prompt, pooled = encode_prompt(folder, "")
    z_t, t, v = noised(process, z, z)
    denoiser, cond = SD3Denoiser(model, process), Cond(z, z, prompt, pooled)
    p = TINY["patch_size"]
    b, c, h, w = v.shape
    tokens = F.pixel_unshuffle(v, p).view(b, c, p * p, h // p, w // p).transpose(1, 2).flatten(1, 2)
    fit(model.proj_out, lambda: denoiser(z_t, t, cond), tokens.flatten(2).transpose(1, 2))
    save(folder, "transformer", model)
    return folder
