"""Stable Diffusion 2.1, opened for training."""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..denoiser import Cond, Denoiser, Features, filled
from ..errors import ConfigError
from ..process import Process
from .extras import extra
from .sd21 import T_OSEDIFF, open_process, open_unet, open_vae

TARGETS = (
    r"(.*\.)?(to_q|to_k|to_v|to_out\.0|proj_in|proj_out|ff\.net\.0\.proj|ff\.net\.2"
    r"|conv|conv1|conv2|conv_in|conv_out|conv_shortcut)"
)
"""Layers of the UNet that a LoRA trains: OSEDiff's, which are all but the time embedding's."""


class SD21Denoiser(Denoiser):
    """The UNet, whatever it predicts, as a denoiser. A learned `prompt` goes before the condition's."""

    def __init__(self, unet: Any, process: Process, prompt: Tensor | None = None):
        super().__init__()
        self.unet, self.process = unet, process
        self.prompt = None if prompt is None else nn.Parameter(prompt.detach().clone())

    def forward(self, z_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
        prompt = cond.prompt if self.prompt is None else self.prompt
        out = self.unet(
            z_t.to(self.unet.dtype), t, expanded(prompt, z_t, self.unet.dtype), return_dict=False
        )[0]
        return self.process.clean(out.float(), z_t.float(), t, cond.y)


class SD21Features(Features):
    """The UNet's down blocks, each after its change of size, and its middle block (DFOSD Sec. 3.3)."""

    def __init__(self, unet: Any, process: Process):
        super().__init__()
        self.unet, self.process = unet, process
        self.widths = (*unet.config.block_out_channels, unet.config.block_out_channels[-1])
        for name in ("up_blocks", "conv_norm_out", "conv_out"):
            delattr(unet, name)

    def forward(self, z_t: Tensor, t: Tensor, cond: Cond) -> list[Tensor]:
        x = z_t.to(self.unet.dtype)
        prompt = expanded(cond.prompt, x, x.dtype)
        time = self.unet.time_embedding(self.unet.get_time_embed(x, t))
        x, maps = self.unet.conv_in(x), []
        for block in self.unet.down_blocks:
            crosses = (
                {"encoder_hidden_states": prompt} if getattr(block, "has_cross_attention", False) else {}
            )
            x, _ = block(x, time, **crosses)
            maps.append(x)
        maps.append(self.unet.mid_block(x, time, encoder_hidden_states=prompt))
        return [m.float() for m in maps]


def expanded(prompt: Tensor | None, z: Tensor, dtype: torch.dtype) -> Tensor:
    """A prompt [1 or B, tokens, D] for every latent of the batch."""
    if prompt is None:
        raise ConfigError("expected the condition to hold a prompt's embedding on the base sd21, found none")
    return prompt.to(z.device, dtype).expand(len(z), -1, -1)


class SD21Base:
    """Stable Diffusion 2.1 (`denoiser.Base`): every role trains a LoRA of its own.

    All copies share the base's tensors, which are never trained: a role costs its LoRA alone. (Adapters that
    are switched within one network lose gradients where another is active during the backward pass.)
    """

    sigma_data = 1.0
    """Latents are scaled to unit variance."""

    def __init__(
        self,
        folder: Path,
        prompt: Tensor,
        null: Tensor | None = None,
        *,
        t_student: int = T_OSEDIFF,
        rank: int = 16,
        learned: bool = False,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ):
        """prompt, null [1, tokens, 1024]: embeddings of the prompt and, for guidance, of the empty one.

        t_student: the index that one-step students are asked at. learned: the student's own embedding is
        trained, from `prompt` on (DFOSD). dtype: of the frozen UNet; LoRAs and autoencoder are float32.
        """
        self.device, self.rank, self.t_student, self.learned = torch.device(device), rank, t_student, learned
        self.unet = open_unet(folder)[1].to(self.device, dtype)
        self.codec = open_vae(folder).to(self.device, torch.float32)
        self.ddpm = open_process(folder)
        self.prompt = prompt.to(self.device)
        self.null_prompt = None if null is None else null.to(self.device)
        self.guided = null is not None

    def process(self, view: str) -> Process:
        """Raises ConfigError for a view other than ddpm."""
        if view != "ddpm":
            raise ConfigError(f"expected method.process to be ddpm on the base sd21, found “{view}”")
        return self.ddpm

    def shared(self) -> Any:
        """A copy of the UNet whose tensors are the base's own."""
        tensors: dict[int, Any] = {id(p): p for p in [*self.unet.parameters(), *self.unet.buffers()]}
        return copy.deepcopy(self.unet, tensors)

    def adapted(self, unet: Any, role: str) -> Any:
        """`unet` with a LoRA, at first zero, unless `role` is the teacher."""
        if role != "teacher":
            peft = extra("peft")
            config = peft.LoraConfig(r=self.rank, lora_alpha=self.rank, target_modules=TARGETS)
            peft.inject_adapter_in_model(config, unet)
        return unet

    def denoiser(self, role: str, view: str) -> SD21Denoiser:
        learned = self.prompt if self.learned and role == "student" else None
        return SD21Denoiser(self.adapted(self.shared(), role), self.process(view), learned)

    def features(self, role: str, view: str) -> SD21Features:
        features = SD21Features(self.shared(), self.process(view))
        self.adapted(features.unet, role)
        return features

    @torch.no_grad()
    def encode(self, x: Tensor) -> Tensor:
        """x [B, 3, H, W] in [-1, 1], sides multiples of 8 -> the posterior's mean [B, 4, H/8, W/8]."""
        return self.codec.encode(x)

    def decode(self, z: Tensor) -> Tensor:
        return self.codec.decode(z)

    def cond(self, x_lq: Tensor) -> Cond:
        """x_lq [B, 3, h, w] in [-1, 1], h and w even; y is the latent of its enlargement."""
        x = F.interpolate(x_lq, scale_factor=4, mode="bicubic", align_corners=False).clamp(-1, 1)
        return Cond(image=x_lq, y=self.encode(x), prompt=self.prompt)

    def null(self, cond: Cond) -> Cond | None:
        return None if self.null_prompt is None else replace(cond, prompt=self.null_prompt)

    def check_student(self, view: str, t: int) -> None:
        """Raises ConfigError unless t is the index that the base was opened for."""
        self.process(view)
        if t != self.t_student:
            raise ConfigError(
                f"expected method.t_student to be {self.t_student}, as the base sd21 was opened, found {t}"
            )

    @torch.no_grad()
    def restore(self, student: nn.Module, x_lq: Tensor) -> Tensor:
        """[B, 3, h, w] -> [B, 3, 4h, 4w], both in [0, 1]; h and w even."""
        cond = self.cond(x_lq.to(self.device) * 2 - 1)
        z_hat = student(cond.y, filled(self.t_student, cond.y), cond)
        return (self.decode(z_hat).cpu() + 1) / 2
