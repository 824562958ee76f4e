"""Stable Diffusion 3: its settings, its files, its network as a denoiser, its text encoders."""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...autoencoder.codecs import KLCodec
from ...diffusion.denoiser import Cond, Denoiser, Features
from ...diffusion.process import Process
from ...errors import ConfigError, ModelError
from ...extras import extra
from ...tensors import load_exactly
from ..adapted import AdaptedConfig
from ..diffusersfolder import read_component, read_config
from ..prompts import encoded
from .mmdit import MMDiTConfig

CLIP_TOKENS, T5_TOKENS = 77, 256
FLOW_MATCHING = "FlowMatchEulerDiscreteScheduler"


@dataclass(frozen=True)
class SD3Config(AdaptedConfig):
    """Stable Diffusion 3 (`train.init`: its folder in the diffusers layout, or a pulled model's name)."""

    shift: bool = False
    """Whether latents are shifted, as in SD3's own pipeline; TSD-SR leaves it out."""


def empty_transformer(config: Mapping[str, Any]) -> Any:
    """diffusers' SD3Transformer2DModel on the meta device. Raises ModelError for another configuration."""
    MMDiTConfig.of(config, 1)
    kind = extra("diffusers").SD3Transformer2DModel
    try:
        with torch.device("meta"):
            return kind.from_config(dict(config)).eval().requires_grad_(False)
    except (TypeError, ValueError, KeyError) as error:
        raise ModelError(f"expected the configuration of an SD3 transformer, found {dict(config)}") from error


def open_transformer(folder: Path) -> tuple[dict[str, Any], Any]:
    """The configuration and the SD3Transformer2DModel in folder/transformer. Raises ModelError."""
    config, state = read_component(folder, "transformer")
    transformer = empty_transformer(config)
    load_exactly(transformer, state, f"{folder / 'transformer'}")
    return config, transformer


def open_vae(folder: Path, shift: bool = False) -> KLCodec:
    """The codec in folder/vae. shift: whether its shift_factor counts (TSD-SR: no). Raises ModelError."""
    config, state = read_component(folder, "vae")
    codec = KLCodec.from_config(config, shift)
    load_exactly(codec.vae, state, f"{folder / 'vae'}")
    return codec.eval().requires_grad_(False)


def open_schedule(folder: Path) -> tuple[int, float]:
    """(steps, shift) of `process.flow` in folder/scheduler; without one, SD3's own. Raises ModelError."""
    if not (folder / "scheduler").is_dir():
        return 1000, 3.0
    config = read_config(folder, "scheduler", "scheduler_config.json")
    try:
        if config.get("_class_name", FLOW_MATCHING) != FLOW_MATCHING:
            raise ValueError(config["_class_name"])
        return int(config["num_train_timesteps"]), float(config["shift"])
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(
            f"expected the scheduler of {folder} to be {FLOW_MATCHING} with num_train_timesteps and shift, "
            f"found {config}; give the folder of SD3-medium"
        ) from error


class SD3Denoiser(Denoiser):
    """diffusers' transformer, which predicts the flow's velocity; cond holds prompt and pooled."""

    def __init__(self, transformer: Any, process: Process):
        super().__init__()
        self.transformer, self.process = transformer, process

    def forward(self, z_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
        z, *given = inputs(self.transformer, self.process, z_t, t, cond)
        v = self.transformer(z, *given, return_dict=False)[0]
        return self.process.clean(v.float(), z_t.float(), t, cond.y)


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


def inputs(
    transformer: Any, process: Process, z_t: Tensor, t: Tensor, cond: Cond
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(z_t, prompt, pooled, timestep) as the transformer takes them. Raises ConfigError without a prompt."""
    if cond.prompt is None or cond.pooled is None:
        raise ConfigError("expected the condition to hold a prompt's embeddings on the base sd3, found none")
    like, batch = transformer.context_embedder.bias, len(z_t)
    prompt, pooled = (p.to(like).expand(batch, *p.shape[1:]) for p in (cond.prompt, cond.pooled))
    return z_t.to(like), prompt, pooled, 1000 * process.at(t)[2].flatten()


def encode_prompt(folder: Path, text: str) -> tuple[Tensor, Tensor]:
    """([1, 333, 4096], [1, 2048]) float32: what the transformer sees of `text`, by the folder's encoders.

    Longer texts are cut at 77 (CLIP) and 256 (T5) tokens. Without text_encoder_3 zeros take T5's place, as in
    diffusers. Raises ModelError where an encoder or a tokenizer is missing.
    """
    return encode_prompts(folder, [text])[0]


def encode_prompts(
    folder: Path, texts: Sequence[str], device: torch.device | str = "cpu"
) -> list[tuple[Tensor, Tensor]]:
    """`encode_prompt` of many texts, on the CPU; each encoder is loaded once, alone, onto `device`."""
    models = "transformers.models."
    kinds = (
        extra("transformers", models + "clip.tokenization_clip").CLIPTokenizer,
        extra("transformers", models + "clip.modeling_clip").CLIPTextModelWithProjection,
    )
    clip = [
        encoded(folder, suffix, *kinds, CLIP_TOKENS, texts, device, lambda out: (out.hidden_states[-2],
                                                                                 out.text_embeds))
        for suffix in ("", "_2")
    ]  # fmt: skip
    if (folder / "text_encoder_3").is_dir():
        kinds = (
            extra("transformers", models + "t5.tokenization_t5").T5Tokenizer,
            extra("transformers", models + "t5.modeling_t5").T5EncoderModel,
        )
        t5 = encoded(folder, "_3", *kinds, T5_TOKENS, texts, device, lambda out: (out.last_hidden_state,))
    else:
        width = read_config(folder, "transformer").get("joint_attention_dim", 4096)
        t5 = [(torch.zeros(1, T5_TOKENS, width),)] * len(texts)
    return [
        (compose([one[0], two[0]], long), torch.cat([one[1], two[1]], dim=1))
        for one, two, (long,) in zip(*clip, t5, strict=True)
    ]


def compose(clip: list[Tensor], t5: Tensor) -> Tensor:
    """CLIP's hidden states [1, 77, D_i] side by side, widened with zeros to T5's [1, 256, D], then T5's."""
    both = torch.cat(clip, dim=2)
    return torch.cat([F.pad(both, (0, t5.shape[2] - both.shape[2])), t5], dim=1)
