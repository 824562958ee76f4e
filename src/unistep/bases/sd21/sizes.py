"""Stable Diffusion 2.1 and XL as published, without weights, for plans; and tiny ones, for tests."""

from pathlib import Path
from typing import Any

import torch

from ...autoencoder.codecs import KLCodec
from ...diffusion.process import ddpm
from ...extras import extra
from .. import tiny
from ..diffusersfolder import read_config
from ..latentbase import Opened
from ..tiny import draw, fit, noised, save, stable_diffusion_scheduler, text_encoder, vae
from .base import SD21Base
from .network import SD21Config, encode_prompt, open_process
from .sdxl import SCALING, TOKENS

UNET: dict[str, Any] = {
    "attention_head_dim": [5, 10, 20, 20], "block_out_channels": [320, 640, 1280, 1280],
    "cross_attention_dim": 1024, "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
    "in_channels": 4, "layers_per_block": 2, "out_channels": 4, "sample_size": 64,
    "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3, "use_linear_projection": True,
}  # fmt: skip
"""Stable Diffusion 2 and 2.1 (Rombach et al. 2022, arXiv 2112.10752)."""
CROSS, PLAIN = "CrossAttn{}Block2D", "{}Block2D"
TINY: dict[str, Any] = {
    "attention_head_dim": [2, 4, 4, 4], "block_out_channels": [16, 32, 32, 32], "cross_attention_dim": 16,
    "down_block_types": [kind.format("Down") for kind in (CROSS, CROSS, CROSS, PLAIN)],
    "up_block_types": [kind.format("Up") for kind in (PLAIN, CROSS, CROSS, CROSS)],
    "layers_per_block": 1, "norm_num_groups": 8, "sample_size": 16, "use_linear_projection": True,
}  # fmt: skip
TINY_XL: dict[str, Any] = {
    "attention_head_dim": [2, 4, 4], "block_out_channels": [16, 32, 32], "cross_attention_dim": 24,
    "down_block_types": [kind.format("Down") for kind in (PLAIN, CROSS, CROSS)],
    "up_block_types": [kind.format("Up") for kind in (CROSS, CROSS, PLAIN)],
    "layers_per_block": 1, "norm_num_groups": 8, "sample_size": 16, "use_linear_projection": True,
    "transformer_layers_per_block": [1, 1, 2], "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8, "projection_class_embeddings_input_dim": 64,
}  # fmt: skip


def shapes(config: SD21Config, folder: Path | None) -> SD21Base:
    """On the meta device: of the size of the model in `folder`, of which JSON is read, or as published."""
    table = read_config(folder, "unet") if folder else UNET
    with torch.device("meta"):
        unet = extra("diffusers").UNet2DConditionModel.from_config(table)
        prompt = torch.empty(1, TOKENS, unet.config.cross_attention_dim)
    codec = KLCodec.from_config(read_config(folder, "vae") if folder else tiny.PUBLISHED_VAE)
    opened = Opened(unet, codec, open_process(folder) if folder else ddpm())
    return SD21Base(opened, config, lambda text: (prompt, None), "meta")


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
