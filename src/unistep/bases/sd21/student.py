"""The one-step students of Stable Diffusion 2.1: a UNet that is folded at one time and one prompt."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from ...autoencoder.codecs import KLCodec
from ...errors import ModelError
from ...students.latent import LatentConfig
from ...tensors import load_exactly
from .sdunet import FoldedUNet, UNetConfig, fold

State = dict[str, Tensor]


def folded(
    method: str,
    config: Mapping[str, Any],
    unet: State,
    codec: KLCodec,
    prompt: Tensor,
    at: tuple[int, float, float],
    latent: LatentConfig,
    dtype: torch.dtype,
) -> tuple[dict[str, Any], State]:
    """(header, tensors) of a student: `unet` with its LoRA merged, folded at `at` = (t, skip, gain)."""
    t, skip, gain = at
    if prompt.ndim != 3 or (len(prompt), prompt.shape[2]) != (1, config.get("cross_attention_dim")):
        raise ModelError(
            f"expected the prompt's embedding to be [1, tokens, {config.get('cross_attention_dim')}], "
            f"found {list(prompt.shape)}"
        )
    shape = UNetConfig.of(config, prompt.shape[1], skip, gain)
    with torch.device("meta"):
        net = FoldedUNet(shape)
    load_exactly(net, fold(unet, shape, t, prompt), f"{method}'s UNet")
    both = nn.ModuleDict({"denoiser": net, "codec": codec})
    header = {
        "base": "sd21",
        "method": method,
        "folded": True,
        "denoiser": asdict(shape),
        "codec": codec.config,
        "latent": asdict(latent),
    }
    return header, {name: p.detach().to(dtype).contiguous() for name, p in both.state_dict().items()}


def student(header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> tuple[FoldedUNet, KLCodec]:
    """The networks of a student's file. Raises ModelError for other settings, missing or surplus tensors."""
    try:
        fields: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in header["denoiser"].items()
        }
        with torch.device("meta"):
            net = FoldedUNet(UNetConfig(**fields))
        codec = KLCodec.from_config(header["codec"])
    except (AttributeError, KeyError, TypeError) as error:
        raise ModelError(f"expected the header of a student of SD 2.1, found another ({error})") from error
    both = nn.ModuleDict({"denoiser": net, "codec": codec}).eval().requires_grad_(False)
    load_exactly(both, tensors, "a student of SD 2.1")
    return net, codec
