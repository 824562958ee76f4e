"""Stable Diffusion 3 as published, without weights, for plans; and a tiny one with weights, for tests."""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from ...autoencoder.codecs import KLCodec
from ...diffusion.denoiser import Cond
from ...diffusion.process import flow
from ...extras import extra
from .. import tiny
from ..diffusersfolder import read_config
from ..latentbase import Opened
from ..tiny import draw, fit, noised, save, scheduler, text_encoder, vae
from .base import SD3Base
from .network import (
    CLIP_TOKENS,
    T5_TOKENS,
    SD3Config,
    SD3Denoiser,
    empty_transformer,
    encode_prompt,
    open_schedule,
)

TRANSFORMER: dict[str, Any] = {
    "attention_head_dim": 64, "caption_projection_dim": 1536, "in_channels": 16, "joint_attention_dim": 4096,
    "num_attention_heads": 24, "num_layers": 24, "out_channels": 16, "patch_size": 2,
    "pooled_projection_dim": 2048, "pos_embed_max_size": 192, "sample_size": 128,
}  # fmt: skip
"""SD3-medium (Esser et al. 2024, arXiv 2403.03206)."""
VAE: dict[str, Any] = {
    **tiny.PUBLISHED_VAE, "latent_channels": 16, "scaling_factor": 1.5305, "shift_factor": 0.0609,
    "use_quant_conv": False, "use_post_quant_conv": False,
}  # fmt: skip
TINY: dict[str, Any] = {
    "attention_head_dim": 8, "caption_projection_dim": 32, "in_channels": 16, "joint_attention_dim": 32,
    "num_attention_heads": 4, "num_layers": 4, "out_channels": 16, "patch_size": 2,
    "pooled_projection_dim": 24, "pos_embed_max_size": 48, "sample_size": 32,
}  # fmt: skip
TINY_VAE = {**tiny.VAE, "latent_channels": 16, "scaling_factor": 1.5305, "shift_factor": 0.0609,
           "use_quant_conv": False, "use_post_quant_conv": False}  # fmt: skip


def shapes(config: SD3Config, folder: Path | None) -> SD3Base:
    """On the meta device: of the size of the model in `folder`, of which JSON is read, or as published."""
    transformer = empty_transformer(read_config(folder, "transformer") if folder else TRANSFORMER)
    codec = KLCodec.from_config(read_config(folder, "vae") if folder else VAE, config.shift)
    process = flow(*open_schedule(folder)) if folder else flow()
    widths = transformer.config.joint_attention_dim, transformer.config.pooled_projection_dim
    with torch.device("meta"):
        words = torch.empty(1, CLIP_TOKENS + T5_TOKENS, widths[0]), torch.empty(1, widths[1])
    return SD3Base(Opened(transformer, codec, process), config, lambda text: words, "meta")


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
