"""Stable Diffusion 2 and 2.1: their settings, their files, the UNet as a denoiser, the text encoder."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...autoencoder.codecs import KLCodec
from ...diffusion.denoiser import Cond, Denoiser, Features
from ...diffusion.process import Process, ddpm
from ...errors import ConfigError, ModelError, check_choices, check_range
from ...extras import extra
from ...tensors import load_exactly
from ..adapted import AdaptedConfig
from ..diffusersfolder import read_component, read_config
from ..prompts import encoded
from .sdunet import UNetConfig

OLD_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
"""The VAE's attention as the published weights of Stable Diffusion call it."""


@dataclass(frozen=True)
class SD21Config(AdaptedConfig):
    """Stable Diffusion 2 or 2.1 (`train.init`: its folder in the diffusers layout, or a pulled name)."""

    t_student: int = 999
    """The index at which one-step students are asked."""
    train_conv_in: bool = False
    """The student's first convolution is trained as a whole too (OSEDiff, as released)."""
    critic: str = ""
    """Folder of SDXL, whose UNet DFOSD's discriminator then starts from (Tab. 6); empty: this base's own."""
    critic_latents: str = "as-is"
    """What that discriminator is given: this base's latents "as-is", or decoded and "re-encoded" by its own
    autoencoder."""
    critic_text: str = "empty"
    """What it is told: the "empty" text by its own text encoders, or "zeros", as its own pipeline has it."""
    critic_size: int = 0
    """Pixels per side of original and target that its time ids claim; 0: those of the picture it looks at."""

    def __post_init__(self) -> None:
        super().__post_init__()
        choices = {"critic_latents": ("as-is", "re-encoded"), "critic_text": ("empty", "zeros")}
        check_choices("base", self, choices)
        check_range("base", self, "t_student critic_size", 0)


def open_unet(folder: Path) -> tuple[dict[str, Any], Any]:
    """The configuration and the UNet2DConditionModel in folder/unet. Raises ModelError."""
    config, state = read_component(folder, "unet")
    kind = extra("diffusers").UNet2DConditionModel
    try:
        UNetConfig.of(config, 1, 1, -1)  # refuses the UNets of other models
        with torch.device("meta"):
            unet = kind.from_config(config)
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(
            f"expected the configuration of a UNet in {folder / 'unet'}, found another ({error!r})"
        ) from error
    load_exactly(unet, state, f"{folder / 'unet'}")
    return config, unet.eval().requires_grad_(False)


def open_vae(folder: Path) -> KLCodec:
    """The codec in folder/vae. Raises ModelError."""
    config, state = read_component(folder, "vae")
    codec = KLCodec.from_config(config)
    named = {
        re.sub(r"(?<=\.attentions\.0\.)(query|key|value|proj_attn)(?=\.)", lambda m: OLD_NAMES[m[0]], name): p
        for name, p in state.items()
    }
    load_exactly(codec.vae, named, f"{folder / 'vae'}")
    return codec.eval().requires_grad_(False)


def open_process(folder: Path) -> Process:
    """The schedule in folder/scheduler; its `prediction_type` says what the UNet predicts (2.1 at 768: v)."""
    config = read_config(folder, "scheduler", "scheduler_config.json")
    kinds = {"epsilon": "eps", "v_prediction": "v"}
    kind, schedule = config.get("prediction_type", "epsilon"), config.get("beta_schedule")
    if schedule != "scaled_linear" or kind not in kinds:
        raise ModelError(
            f"expected the scheduler of {folder} to be scaled_linear and to predict epsilon or v_prediction, "
            f"found {schedule} and {kind}"
        )
    try:
        return ddpm(config["num_train_timesteps"], config["beta_start"], config["beta_end"], kinds[kind])
    except (KeyError, TypeError) as error:
        raise ModelError(f"expected the scheduler of {folder} to have its numbers, found {config}") from error


def affine(process: Process, t: int) -> tuple[float, float]:
    """(skip, gain): z_0 = skip z_t + gain out at timestep t, what `process.clean` is for b = 0."""
    one, zero, index = torch.ones(1, 1, 1, 1), torch.zeros(1, 1, 1, 1), torch.tensor([t])
    return process.clean(zero, one, index, zero).item(), process.clean(one, zero, index, zero).item()


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


def encode_prompt(folder: Path, text: str) -> Tensor:
    """[1, 77, 1024] float32: what the UNet sees of `text`, by the folder's own tokenizer and text encoder.

    Longer texts are cut at 77 tokens. Raises ModelError where one of the two is missing.
    """
    return encode_prompts(folder, [text])[0]


def encode_prompts(folder: Path, texts: Sequence[str], device: torch.device | str = "cpu") -> list[Tensor]:
    """`encode_prompt` of many texts, on the CPU: the encoder is loaded once and works on `device`."""
    clip = "transformers.models.clip."
    kinds = (
        extra("transformers", clip + "tokenization_clip").CLIPTokenizer,
        extra("transformers", clip + "modeling_clip").CLIPTextModel,
    )
    many = encoded(folder, "", *kinds, None, texts, device, lambda out: (out.last_hidden_state,))
    return [one for (one,) in many]
