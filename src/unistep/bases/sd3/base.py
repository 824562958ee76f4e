"""Stable Diffusion 3, opened for training."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...diffusion.process import flow
from ..latentbase import LatentBase, Opened
from .network import SD3Config, SD3Denoiser, SD3Features, open_schedule, open_transformer, open_vae
from .student import build

ATTENTION = ["to_k", "to_q", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj"]
"""Layers that the LoRA of a score network or critic trains (TSD-SR's released fake-score model)."""
TARGETS = [*ATTENTION, "proj", "linear", "proj_out"]
"""Those of the student's: also patch embedding, modulations and first feed-forward layers (TSD-SR)."""


class SD3Base(LatentBase):
    """Stable Diffusion 3, opened for training. h and w times `scale` must be multiples of 16."""

    name, view, component = "sd3", "flow", "transformer"
    prefixes = ("transformer.", "transformer.")
    clothed, taps = SD3Denoiser, SD3Features
    text_keys = ("joint_attention_dim", "pooled_projection_dim")
    config: SD3Config

    @classmethod
    def read(cls, folder: Path, config: SD3Config) -> Opened:
        transformer, codec = open_transformer(folder)[1], open_vae(folder, config.shift)
        return Opened(transformer, codec, flow(*open_schedule(folder)), folder)

    @property
    def t_student(self) -> int:
        """The far end, sigma = 1."""
        return len(self.only) - 1

    def targets(self, role: str) -> list[str]:
        return TARGETS if role == "student" else ATTENTION

    def export(
        self, weights: Mapping[str, Tensor], method: str, dtype: torch.dtype
    ) -> tuple[dict[str, Any], dict[str, Tensor]]:
        files = self.layout(weights)
        loras = {name.removesuffix(".safetensors"): file for name, file in files.items()}
        prompt, pooled = self.learned(files)
        header, tensors = build(self.folder, loras, prompt, pooled, dtype=dtype, shifted=self.config.shift)
        return header | {"method": method}, tensors
