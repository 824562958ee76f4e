"""Stable Diffusion 3 and its one-step student TSD-SR (arXiv 2411.18263).

    z_hat = z - v(z, 1000, c)        z the encoder's latent, unshifted; c one fixed prompt

TSD-SR is a LoRA on the transformer (modulations and patch embedding included) and one on the VAE's encoder.
"""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...autoencoder.codecs import KLCodec
from ...diffusion.process import Process, flow
from ...diffusion.sampler import Sampler
from ...errors import ModelError
from ...students.latent import LatentConfig
from ...tensors import load_exactly
from .. import lora
from .mmdit import FoldedMMDiT, MMDiTConfig, fold, positions
from .network import SD3Denoiser, empty_transformer, open_schedule, open_transformer, open_vae

STEPS = 28
"""Of the many-step sampler, where no other number is asked for: SD3's own default."""

State = dict[str, Tensor]


def build(
    base: Path,
    lora_dir: Mapping[str, Mapping[str, Tensor]],
    prompt_embeds: Tensor,
    pooled: Tensor,
    *,
    dtype: torch.dtype = torch.float16,
    folded: bool = True,
    shifted: bool = False,
) -> tuple[dict[str, Any], State]:
    """(header, tensors) of TSD-SR's student from SD3-medium and the authors' LoRA files.

    Args:
        base: SD3-medium in the diffusers layout; transformer/ and vae/ are read.
        lora_dir: tensors of transformer.safetensors and vae.safetensors under "transformer" and "vae"; a part
            that is not there stays the base's.
        prompt_embeds, pooled: [1, tokens, 4096] and [1, 2048], of the one prompt.
        dtype: of the tensors that are returned.
        folded: False keeps time and prompt as inputs, for the many-step sampler.
        shifted: whether latents are, as in SD3's own pipeline; the authors' LoRA leaves it out.

    Raises ModelError for another base, another LoRA and embeddings of another shape.
    """
    config, transformer = open_transformer(base)
    codec = open_vae(base, shifted)
    if prompt_embeds.ndim == 2:
        prompt_embeds = prompt_embeds[None]
    pooled = pooled.reshape(1, -1)
    wanted = (transformer.config.joint_attention_dim, transformer.config.pooled_projection_dim)
    if (
        prompt_embeds.ndim != 3
        or len(prompt_embeds) != 1
        or (prompt_embeds.shape[2], pooled.shape[1]) != wanted
    ):
        raise ModelError(
            f"expected prompt embeddings [1, tokens, {wanted[0]}] and pooled ones [1, {wanted[1]}], found "
            f"{list(prompt_embeds.shape)} and {list(pooled.shape)}; take those made for this base"
        )
    for part, module in (("transformer", transformer), ("vae", codec.vae)):
        if part not in lora_dir:
            continue
        # Wide enough that only the result is rounded to `dtype`, wherever the base is stored in less.
        state = {name: p.to(torch.promote_types(p.dtype, dtype)) for name, p in module.state_dict().items()}
        delta = lora.strip(lora_dir[part], "transformer.")  # in the VAE's file too
        lora.rank(delta)
        try:
            lora.merge(state, delta)
        except ModelError as error:
            raise ModelError(f"{part}.safetensors: {error}") from error
        module.load_state_dict(state, assign=True)
    shape = MMDiTConfig.of(config, prompt_embeds.shape[1])
    latent = LatentConfig(resample="torch", tile=64, overlap=8, shortest=512, colour="wavelet")
    header: dict[str, Any] = {
        "base": "sd3", "method": "tsdsr", "folded": folded, "codec": codec.config, "latent": asdict(latent),
    }  # fmt: skip
    denoiser: nn.Module
    if folded:
        table = transformer.pos_embed.pos_embed.float()
        if not torch.allclose(table, positions(shape.grid, shape.grid, shape), atol=5e-3):
            raise ModelError(
                "expected the transformer's positions to be sines and cosines, found trained ones"
            )
        with torch.device("meta"):
            denoiser = FoldedMMDiT(shape)
        load_exactly(denoiser, fold(transformer.state_dict(), shape, prompt_embeds, pooled), "SD3")
        header["denoiser"] = asdict(shape)
    else:
        steps, shift = open_schedule(base)
        denoiser = sampler(transformer, flow(steps, shift), STEPS, prompt_embeds, pooled)
        plain = {key: value for key, value in transformer.config.items() if not key.startswith("_")}
        header["denoiser"] = {**plain, "tokens": shape.tokens, "steps": steps, "shift": shift}
    both = nn.ModuleDict({"denoiser": denoiser, "codec": codec})
    return header, {name: p.detach().to(dtype).contiguous() for name, p in both.state_dict().items()}


def student(header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> tuple[FoldedMMDiT, KLCodec]:
    """The networks of a folded student's file. Raises ModelError for other settings or tensors."""
    try:
        with torch.device("meta"):
            net = FoldedMMDiT(MMDiTConfig(**header["denoiser"]))
        codec = KLCodec.from_config(header["codec"])
    except (AttributeError, KeyError, TypeError) as error:
        raise ModelError(f"expected the header of a student of SD3, found another ({error!r})") from error
    _fill(net, codec, tensors)
    return net, codec


def teacher(
    header: Mapping[str, Any], tensors: Mapping[str, Tensor], steps: int | None = None
) -> tuple[Sampler, KLCodec]:
    """The networks of an unfolded file, sampled in `steps`. Raises ModelError for other settings, tensors."""
    try:
        config = dict(header["denoiser"])
        tokens, process = (
            int(config.pop("tokens")),
            flow(int(config.pop("steps")), float(config.pop("shift"))),
        )
        transformer = empty_transformer(config)
        prompt = torch.empty(1, tokens, config["joint_attention_dim"], device="meta")
        pooled = torch.empty(1, config["pooled_projection_dim"], device="meta")
        codec = KLCodec.from_config(header["codec"])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ModelError(f"expected the header of an unfolded SD3, found another ({error!r})") from error
    net = sampler(transformer, process, STEPS if steps is None else steps, prompt, pooled)
    _fill(net, codec, tensors)
    return net, codec


def sampler(transformer: Any, process: Process, steps: int, prompt: Tensor, pooled: Tensor) -> Sampler:
    """The transformer with its own many-step sampler (Euler)."""
    multiple = transformer.config.patch_size
    net = SD3Denoiser(transformer, process)
    return Sampler(net, steps, multiple=multiple, stochastic=False, prompt=prompt, pooled=pooled)


def _fill(denoiser: nn.Module, codec: KLCodec, tensors: Mapping[str, Tensor]) -> None:
    both = nn.ModuleDict({"denoiser": denoiser, "codec": codec}).eval().requires_grad_(False)
    load_exactly(both, tensors, "a student of SD3")
