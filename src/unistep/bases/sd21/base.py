"""Stable Diffusion 2.1, opened for training."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...diffusion.denoiser import Features
from ...students.latent import LatentConfig
from ...tensors import load_exactly
from .. import lora
from ..latentbase import LatentBase, Opened
from . import sdxl
from .network import SD21Config, SD21Denoiser, SD21Features, affine, open_process, open_unet, open_vae
from .student import folded

TARGETS = (
    r"(.*\.)?(to_q|to_k|to_v|to_out\.0|proj_in|proj_out|ff\.net\.0\.proj|ff\.net\.2"
    r"|conv|conv1|conv2|conv_in|conv_out|conv_shortcut)"
)
"""Layers of the UNet that a LoRA trains: OSEDiff's, which are all but the time embedding's."""


class OwnConv(nn.Conv2d):
    """A convolution trained as a whole, in float32 amid a network of less."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.to(self.weight)).to(x)


class SD21Base(LatentBase):
    """Stable Diffusion 2 or 2.1, opened for training. h and w times `scale` must be multiples of 8."""

    name, view, component = "sd21", "ddpm", "unet"
    prefixes = ("unet.", "vae.")
    clothed, taps = SD21Denoiser, SD21Features
    text_keys = ("cross_attention_dim",)
    config: SD21Config

    @classmethod
    def read(cls, folder: Path, config: SD21Config) -> Opened:
        return Opened(open_unet(folder)[1], open_vae(folder), open_process(folder), folder)

    @property
    def t_student(self) -> int:
        return self.config.t_student

    def targets(self, role: str) -> str:
        return TARGETS

    def features(self, role: str, view: str) -> Features:
        if role == "critic" and self.config.critic:
            self.process(view)
            if self.device.type == "meta":
                return sdxl.without_weights(self.config, self.decode)
            return sdxl.open_features(self.config, self.decode, self.device)
        return super().features(role, view)

    def inject(self, net: Any, role: str, rank: int) -> None:
        super().inject(net, role, rank)
        if role == "student" and self.config.train_conv_in:
            old = net.conv_in.base_layer
            device = old.weight.device
            own = OwnConv(
                old.in_channels, old.out_channels, old.kernel_size, padding=old.padding, device=device
            )
            if device.type != "meta":
                own.load_state_dict(old.state_dict())
            net.conv_in.base_layer = own

    def export(
        self, weights: Mapping[str, Tensor], method: str, dtype: torch.dtype
    ) -> tuple[dict[str, Any], dict[str, Tensor]]:
        config, net = open_unet(self.folder)
        codec = open_vae(self.folder)
        files = self.layout(weights)
        unet, vae = ({name: p.float() for name, p in m.state_dict().items()} for m in (net, codec.vae))
        own = lora.strip(files["unet.safetensors"], "unet.")
        whole = {name: own.pop(name) for name in [*own] if ".base_layer." in name}
        unet |= {name.replace(".base_layer", ""): p.float() for name, p in whole.items()}
        lora.merge(unet, own)
        if "vae.safetensors" in files:
            lora.merge(vae, lora.strip(files["vae.safetensors"], "vae."))
        load_exactly(codec.vae, vae, "the student's autoencoder")
        (prompt,) = self.learned(files)
        at = (self.t_student, *affine(self.only, self.t_student))
        latent = LatentConfig(resample="torch", tile=96, overlap=32, shortest=512, colour="adain")
        return folded(method, config, unet, codec, prompt, at, latent, dtype)
