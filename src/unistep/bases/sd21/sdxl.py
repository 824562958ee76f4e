"""SDXL (arXiv 2307.01952): the trunk of DFOSD's stronger discriminator (arXiv 2410.04224, Tab. 6).

The student stays Stable Diffusion 2.1. The paper does not say how its latents become SDXL's, nor what SDXL is
told beside them; each of these is a setting (`SD21Config.critic_*`).
"""

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...autoencoder.codecs import KLCodec
from ...diffusion.denoiser import Cond, Features
from ...diffusion.process import Process, ddpm
from ...errors import ModelError
from ...extras import extra
from ...tensors import load_exactly
from .. import lora
from ..adapted import DTYPES
from ..diffusersfolder import read_component, read_config
from ..prompts import encoded
from ..tiny import PUBLISHED_VAE, read_sizes
from .network import SD21Config, open_process, open_vae

TOKENS = 77
UNET = read_sizes(__file__)["unet_xl"]
"""As published (Podell et al. 2023)."""
SCALING = 0.13025
"""Of its autoencoder, which else is that of Stable Diffusion 2."""
TARGETS = (
    r"(.*\.)?(to_q|to_k|to_v|to_out\.0|proj_in|proj_out|ff\.net\.0\.proj|ff\.net\.2"
    r"|conv|conv1|conv2|conv_in|conv_shortcut)"
)
"""Layers that the discriminator's LoRA trains: all but those of the embeddings."""
LATER = ("up_blocks.", "conv_norm_out.", "conv_out.")
"""Begins of the names of all after the middle block, which is neither read nor kept."""

Words = tuple[Tensor, Tensor]
"""[1, tokens, 2048] and [1, 1280]: what SDXL is told."""


class SDXLFeatures(Features):
    """SDXL's down blocks, each after its change of size, and its middle block; its process is SDXL's own.

    What it is told is its own, whatever the condition holds: a text of its own encoders and the time ids.
    """

    prompt: Tensor
    pooled: Tensor

    def __init__(
        self,
        unet: Any,
        process: Process,
        words: Words,
        size: int = 0,
        codec: KLCodec | None = None,
        decode: Callable[[Tensor], Tensor] | None = None,
    ):
        """size: pixels per side that the time ids claim; 0: those of the picture. codec: SDXL's own, and
        `decode` the student's: latents are decoded and encoded again; None: they are taken as they are."""
        super().__init__()
        self.unet, self.process, self.size, self.codec, self.decode = unet, process, size, codec, decode
        self.widths = (*unet.config.block_out_channels, unet.config.block_out_channels[-1])
        for name, tensor in zip(("prompt", "pooled"), words, strict=True):
            self.register_buffer(name, tensor, persistent=False)

    def latent(self, z: Tensor) -> Tensor:
        """SDXL's latent of the picture that z shows, or z; the gradient goes through."""
        if self.codec is None or self.decode is None:
            return z
        x, meta = self.decode(z).float(), z.device.type == "meta"  # which knows no autocast
        with contextlib.nullcontext() if meta else torch.autocast(z.device.type, enabled=False):
            return self.codec.encode(x)  # SDXL's encoder overflows in float16

    def forward(self, z_t: Tensor, t: Tensor, cond: Cond) -> list[Tensor]:
        net, like = self.unet, self.unet.time_embedding.linear_1.bias
        x, (h, w) = z_t.to(like), (8 * side for side in z_t.shape[-2:])
        prompt, pooled = (one.to(like).expand(len(x), *one.shape[1:]) for one in (self.prompt, self.pooled))
        told = {"text_embeds": pooled, "time_ids": time_ids(self.size or h, self.size or w, x)}
        time = net.time_embedding(net.get_time_embed(x, t))
        time = time + net.get_aug_embed(time, prompt, told)
        x, maps = net.conv_in(x), []
        for block in net.down_blocks:
            crosses = {"encoder_hidden_states": prompt} if hasattr(block, "attentions") else {}
            x, _ = block(x, time, **crosses)
            maps.append(x)
        maps.append(net.mid_block(x, time, encoder_hidden_states=prompt))
        return [m.float() for m in maps]


def time_ids(h: int, w: int, like: Tensor) -> Tensor:
    """[B, 6]: a picture of original size (h, w), uncropped, that is to be (h, w) (SDXL Sec. 2.2)."""
    return torch.tensor([h, w, 0, 0, h, w], dtype=like.dtype, device=like.device).expand(len(like), -1)


def empty_unet(config: dict[str, Any], where: str) -> Any:
    """The encoder half of SDXL's UNet on the meta device. Raises ModelError for another model's config."""
    if config.get("addition_embed_type") != "text_time":
        raise ModelError(
            f"expected {where} to be SDXL, whose UNet is told a text and sizes (addition_embed_type "
            f"text_time), found {config.get('addition_embed_type')}: set base.critic to SDXL's folder"
        )
    try:
        with torch.device("meta"):
            unet = extra("diffusers").UNet2DConditionModel.from_config(config)
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(
            f"expected the configuration of SDXL in {where}, found another ({error!r})"
        ) from error
    for name in LATER:
        delattr(unet, name.removesuffix("."))
    return unet.eval().requires_grad_(False)


def open_features(
    config: SD21Config, decode: Callable[[Tensor], Tensor], device: torch.device | str = "cpu"
) -> SDXLFeatures:
    """The discriminator's trunk from the folder `config.critic`, with a LoRA to be trained.

    decode: of the student's latents. Raises ModelError for a folder without what the settings need.
    """
    folder = Path(config.critic)
    table, state = read_component(folder, "unet")
    unet = empty_unet(table, str(folder))
    kept = {name: tensor for name, tensor in state.items() if not name.startswith(LATER)}
    load_exactly(unet, kept, f"{folder / 'unet'}")
    codec = open_vae(folder) if config.critic_latents == "re-encoded" else None
    words = zeros(unet) if config.critic_text == "zeros" else encode_prompt(folder, "")
    return adapted(unet, codec, open_process(folder), words, config, decode, device)


def without_weights(config: SD21Config, decode: Callable[[Tensor], Tensor]) -> SDXLFeatures:
    """The trunk on the meta device: what a plan counts. As published, where the folder is not here."""
    folder = Path(config.critic)
    here = (folder / "unet" / "config.json").is_file()
    unet = empty_unet(read_config(folder, "unet") if here else UNET, str(folder))
    vae = read_config(folder, "vae") if here else {**PUBLISHED_VAE, "scaling_factor": SCALING}
    codec = KLCodec.from_config(vae) if config.critic_latents == "re-encoded" else None
    return adapted(unet, codec, ddpm(), zeros(unet), config, decode, "meta")


def adapted(
    unet: Any,
    codec: KLCodec | None,
    process: Process,
    words: Words,
    config: SD21Config,
    decode: Callable[[Tensor], Tensor],
    device: torch.device | str,
) -> SDXLFeatures:
    """The parts as a trunk: frozen, stored as `config.dtype`, with a LoRA of `config.rank_score`."""
    unet.to(device, DTYPES[config.dtype])
    if codec is not None:
        codec.to(device, torch.float32).eval().requires_grad_(False)
    if config.checkpointing:
        for module in (unet, *([] if codec is None else [codec.vae])):
            module.enable_gradient_checkpointing()
    lora.adapt(unet, TARGETS, config.rank_score, config.alpha)
    features = SDXLFeatures(unet, process, words, config.critic_size, codec, decode)
    return features.to(device)


def zeros(unet: Any) -> Words:
    """What SDXL's own pipeline puts in the place of an empty text (`force_zeros_for_empty_prompt`)."""
    table, device = unet.config, unet.device
    pooled = table.projection_class_embeddings_input_dim - 6 * table.addition_time_embed_dim
    shapes = (1, TOKENS, table.cross_attention_dim), (1, pooled)
    prompt, vector = (torch.zeros(shape, device=device) for shape in shapes)
    return prompt, vector


def encode_prompt(folder: Path, text: str) -> Words:
    """What SDXL's two text encoders make of `text`, float32. Raises ModelError where one is missing."""
    clip = "transformers.models.clip."
    tokenizer = extra("transformers", clip + "tokenization_clip").CLIPTokenizer
    kinds = extra("transformers", clip + "modeling_clip")

    def of(suffix: str, kind: Any, take: Callable[[Any], tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
        return encoded(folder, suffix, tokenizer, kind, TOKENS, [text], "cpu", take)[0]

    (one,) = of("", kinds.CLIPTextModel, lambda out: (out.hidden_states[-2],))
    two, pooled = of(
        "_2", kinds.CLIPTextModelWithProjection, lambda out: (out.hidden_states[-2], out.text_embeds)
    )
    return torch.cat([one, two], dim=2), pooled
