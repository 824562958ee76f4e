"""Stable Diffusion 3, opened for training."""

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from ...autoencoder.codecs import KLCodec
from ...diffusion.denoiser import Cond, Features
from ...diffusion.process import Process, flow
from .. import published
from ..latentbase import LatentBase, Opened
from ..settings import SD3Config
from . import student as sd3
from .student import SD3Denoiser, inputs

ATTENTION = ["to_k", "to_q", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj"]
"""Layers that the LoRA of a score network or critic trains (TSD-SR's released fake-score model)."""
TARGETS = [*ATTENTION, "proj", "linear", "proj_out"]
"""Those of the student's: also patch embedding, modulations and first feed-forward layers (TSD-SR)."""


class SD3Features(Features):
    """The picture's tokens after each quarter of the transformer's blocks, as maps of one size."""

    def __init__(self, transformer: Any, process: Process):
        super().__init__()
        self.transformer, self.process = transformer, process
        count = len(transformer.transformer_blocks)
        self.taps = sorted({(k * count + 3) // 4 - 1 for k in range(1, 5)})
        self.widths = (transformer.inner_dim,) * len(self.taps)
        del transformer.norm_out, transformer.proj_out

    def forward(self, z_t: Tensor, t: Tensor, cond: Cond) -> list[Tensor]:
        net, maps = self.transformer, []
        z, c, pooled, time = inputs(net, self.process, z_t, t, cond)
        rows = z.shape[-2] // net.config.patch_size
        x, c, modulation = net.pos_embed(z), net.context_embedder(c), net.time_text_embed(time, pooled)
        for i, block in enumerate(net.transformer_blocks):
            if net.gradient_checkpointing and torch.is_grad_enabled():
                block = functools.partial(net._gradient_checkpointing_func, block)
            c, x = block(x, c, modulation)
            if i in self.taps:
                maps.append(x.transpose(1, 2).unflatten(2, (rows, -1)).float())
        return maps


class SD3Base(LatentBase):
    """Stable Diffusion 3, opened for training. h and w times `scale` must be multiples of 16."""

    name, view, component = "sd3", "flow", "transformer"
    prefixes = ("transformer.", "transformer.")
    config: SD3Config

    @classmethod
    def read(cls, folder: Path, config: SD3Config) -> Opened:
        transformer, codec = sd3.open_transformer(folder)[1], sd3.open_vae(folder, config.shift)
        return Opened(transformer, codec, flow(*sd3.open_schedule(folder)), folder)

    @classmethod
    def published(cls, config: SD3Config) -> Self:
        transformer = sd3.empty_transformer(published.SD3_TRANSFORMER)
        codec = KLCodec.from_config(published.SD3_VAE, config.shift)
        words = [torch.empty(1, *shape, device="meta") for shape in published.SD3_WORDS]
        return cls(Opened(transformer, codec, flow()), config, lambda text: (words[0], words[1]), "meta")

    @property
    def t_student(self) -> int:
        """The far end, sigma = 1."""
        return len(self.only) - 1

    def targets(self, role: str) -> list[str]:
        return TARGETS if role == "student" else ATTENTION

    def widths(self) -> tuple[int, ...]:
        return self.net.config.joint_attention_dim, self.net.config.pooled_projection_dim

    def clothed(self, net: Any) -> SD3Denoiser:
        return SD3Denoiser(net, self.only)

    def taps(self, net: Any) -> SD3Features:
        return SD3Features(net, self.only)

    def export(
        self, weights: Mapping[str, Tensor], method: str, dtype: torch.dtype
    ) -> tuple[dict[str, Any], dict[str, Tensor]]:
        files = self.layout(weights)
        loras = {name.removesuffix(".safetensors"): file for name, file in files.items()}
        prompt, pooled = self.learned(files)
        header, tensors = sd3.build(
            self.folder, loras, prompt, pooled, dtype=dtype, shifted=self.config.shift
        )
        return header | {"method": method}, tensors
