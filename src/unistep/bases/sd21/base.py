"""Stable Diffusion 2.1, opened for training."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from ...autoencoder.codecs import KLCodec
from ...diffusion.denoiser import Cond, Denoiser, Features
from ...diffusion.process import Process, ddpm
from ...errors import ConfigError
from ...extras import extra
from ...students.latent import LatentConfig
from ...students.onestep import load_exactly
from .. import lora, published
from ..latentbase import LatentBase, Opened
from ..settings import SD21Config
from . import sdxl
from . import student as sd21

TARGETS = (
    r"(.*\.)?(to_q|to_k|to_v|to_out\.0|proj_in|proj_out|ff\.net\.0\.proj|ff\.net\.2"
    r"|conv|conv1|conv2|conv_in|conv_out|conv_shortcut)"
)
"""Layers of the UNet that a LoRA trains: OSEDiff's, which are all but the time embedding's."""


class SD21Denoiser(Denoiser):
    """The UNet, whatever it predicts, as a denoiser."""

    def __init__(self, unet: Any, process: Process):
        super().__init__()
        self.unet, self.process = unet, process

    def forward(self, z_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
        z, prompt = inputs(self.unet, z_t, cond)
        out = self.unet(z, t, prompt, return_dict=False)[0]
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
        x, prompt = inputs(self.unet, z_t, cond)
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


def inputs(unet: Any, z_t: Tensor, cond: Cond) -> tuple[Tensor, Tensor]:
    """(z_t, prompt) as the UNet takes them. Raises ConfigError without a prompt."""
    if cond.prompt is None:
        raise ConfigError("expected the condition to hold a prompt's embedding on the base sd21, found none")
    like = unet.time_embedding.linear_1.bias
    return z_t.to(like), cond.prompt.to(like).expand(len(z_t), -1, -1)


class OwnConv(nn.Conv2d):
    """A convolution trained as a whole, in float32 amid a network of less."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.to(self.weight)).to(x)


class SD21Base(LatentBase):
    """Stable Diffusion 2 or 2.1, opened for training. h and w times `scale` must be multiples of 8."""

    name, view, component = "sd21", "ddpm", "unet"
    prefixes = ("unet.", "vae.")
    config: SD21Config

    @classmethod
    def read(cls, folder: Path, config: SD21Config) -> Opened:
        return Opened(sd21.open_unet(folder)[1], sd21.open_vae(folder), sd21.open_process(folder), folder)

    @classmethod
    def published(cls, config: SD21Config) -> Self:
        with torch.device("meta"):
            unet = extra("diffusers").UNet2DConditionModel.from_config(published.SD21_UNET)
            prompt = torch.empty(1, *published.SD21_WORDS)
        opened = Opened(unet, KLCodec.from_config(published.SD21_VAE), ddpm())
        return cls(opened, config, lambda text: (prompt, None), "meta")

    @property
    def t_student(self) -> int:
        return self.config.t_student

    def targets(self, role: str) -> str:
        return TARGETS

    def widths(self) -> tuple[int, ...]:
        return (self.net.config.cross_attention_dim,)

    def clothed(self, net: Any) -> SD21Denoiser:
        return SD21Denoiser(net, self.only)

    def taps(self, net: Any) -> SD21Features:
        return SD21Features(net, self.only)

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
        config, net = sd21.open_unet(self.folder)
        codec = sd21.open_vae(self.folder)
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
        at = (self.t_student, *sd21.affine(self.only, self.t_student))
        latent = LatentConfig(resample="torch", tile=96, overlap=32, shortest=512, colour="adain")
        return sd21.folded(method, config, unet, codec, prompt, at, latent, dtype)
