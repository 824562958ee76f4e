"""Stable Diffusion 3, opened for training."""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..denoiser import Cond, Features, filled
from ..errors import ConfigError
from ..process import Process, flow
from .extras import extra
from .sd3 import SD3Denoiser, inputs, open_schedule, open_transformer, open_vae

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
            c, x = block(hidden_states=x, encoder_hidden_states=c, temb=modulation)
            if i in self.taps:
                maps.append(x.transpose(1, 2).unflatten(2, (rows, -1)).float())
        return maps


class SD3Base:
    """Stable Diffusion 3 (`denoiser.Base`): every role trains a LoRA of its own.

    All copies share the base's tensors, which are never trained: a role costs its LoRA alone. (Adapters that
    are switched within one network lose gradients where another is active during the backward pass.)
    """

    sigma_data = 1.0
    """Latents are scaled to unit variance."""

    def __init__(
        self,
        folder: Path,
        prompt: tuple[Tensor, Tensor],
        null: tuple[Tensor, Tensor] | None = None,
        *,
        rank: int = 64,
        shift: bool = False,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ):
        """prompt, null: ([1, tokens, 4096], [1, 2048]), as `encode_prompt` gives them; null for guidance.

        shift: whether latents are shifted, as in SD3's own pipeline; TSD-SR leaves it out. dtype: of the
        frozen transformer; LoRAs and autoencoder are float32.
        """
        self.device, self.rank = torch.device(device), rank
        self.transformer = open_transformer(folder)[1].to(self.device, dtype)
        self.codec = open_vae(folder, shift).to(self.device, torch.float32)
        self.flow = flow(*open_schedule(folder))
        self.prompt, self.pooled = (p.to(self.device) for p in prompt)
        self.without = None if null is None else [p.to(self.device) for p in null]
        self.guided = null is not None

    def process(self, view: str) -> Process:
        """Raises ConfigError for a view other than flow."""
        if view != "flow":
            raise ConfigError(f"expected method.process to be flow on the base sd3, found “{view}”")
        return self.flow

    def shared(self) -> Any:
        """A copy of the transformer whose tensors are the base's own."""
        net = self.transformer
        tensors: dict[int, Any] = {id(p): p for p in [*net.parameters(), *net.buffers()]}
        return copy.deepcopy(net, tensors)

    def adapted(self, transformer: Any, role: str) -> Any:
        """`transformer` with a LoRA, at first zero, unless `role` is the teacher."""
        if role != "teacher":
            peft = extra("peft")
            targets = TARGETS if role == "student" else ATTENTION
            config = peft.LoraConfig(r=self.rank, lora_alpha=self.rank, target_modules=targets)
            peft.inject_adapter_in_model(config, transformer)
        return transformer

    def denoiser(self, role: str, view: str) -> SD3Denoiser:
        return SD3Denoiser(self.adapted(self.shared(), role), self.process(view))

    def features(self, role: str, view: str) -> SD3Features:
        features = SD3Features(self.shared(), self.process(view))
        self.adapted(features.transformer, role)
        return features

    @torch.no_grad()
    def encode(self, x: Tensor) -> Tensor:
        """x [B, 3, H, W] in [-1, 1], sides multiples of 16 -> the posterior's mean [B, 16, H/8, W/8]."""
        return self.codec.encode(x)

    def decode(self, z: Tensor) -> Tensor:
        return self.codec.decode(z)

    def cond(self, x_lq: Tensor) -> Cond:
        """x_lq [B, 3, h, w] in [-1, 1], h and w multiples of 4; y is the latent of its enlargement."""
        x = F.interpolate(x_lq, scale_factor=4, mode="bicubic", align_corners=False).clamp(-1, 1)
        return Cond(image=x_lq, y=self.encode(x), prompt=self.prompt, pooled=self.pooled)

    def null(self, cond: Cond) -> Cond | None:
        if self.without is None:
            return None
        prompt, pooled = self.without
        return replace(cond, prompt=prompt, pooled=pooled)

    def check_student(self, view: str, t: int) -> None:
        """Raises ConfigError unless t is the far end, sigma = 1, at which a student is folded."""
        last = len(self.process(view)) - 1
        if t != last:
            raise ConfigError(f"expected method.t_student to be {last} on the base sd3, found {t}")

    @torch.no_grad()
    def restore(self, student: nn.Module, x_lq: Tensor) -> Tensor:
        """[B, 3, h, w] -> [B, 3, 4h, 4w], both in [0, 1]; h and w multiples of 4."""
        cond = self.cond(x_lq.to(self.device) * 2 - 1)
        z_hat = student(cond.y, filled(len(self.flow) - 1, cond.y), cond)
        return (self.decode(z_hat).cpu() + 1) / 2
