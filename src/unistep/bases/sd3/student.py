"""Stable Diffusion 3 and its one-step student TSD-SR (arXiv 2411.18263).

    z_hat = z - v(z, 1000, c)        z the encoder's latent, unshifted; c one fixed prompt

TSD-SR is a LoRA on the transformer (modulations and patch embedding included) and one on the VAE's encoder.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...autoencoder.codecs import KLCodec
from ...diffusion.denoiser import Cond, Denoiser
from ...diffusion.process import Process, flow
from ...diffusion.sampler import Sampler
from ...errors import ConfigError, ModelError
from ...extras import extra
from ...students.latent import LatentConfig
from ...students.onestep import load_exactly
from .. import lora
from ..diffusersfolder import read_component, read_config
from .mmdit import FoldedMMDiT, MMDiTConfig, fold, positions

CLIP_TOKENS, T5_TOKENS = 77, 256
STEPS = 28
"""Of the many-step sampler, where no other number is asked for: SD3's own default."""
FLOW_MATCHING = "FlowMatchEulerDiscreteScheduler"

State = dict[str, Tensor]


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


class SD3Denoiser(Denoiser):
    """diffusers' transformer, which predicts the flow's velocity; cond holds prompt and pooled."""

    def __init__(self, transformer: Any, process: Process):
        super().__init__()
        self.transformer, self.process = transformer, process

    def forward(self, z_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
        z, *given = inputs(self.transformer, self.process, z_t, t, cond)
        v = self.transformer(z, *given, return_dict=False)[0]
        return self.process.clean(v.float(), z_t.float(), t, cond.y)


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


@torch.no_grad()
def encoded(
    folder: Path, suffix: str, tokenizer: Any, encoder: Any, length: int, texts: Sequence[str],
    device: torch.device | str, take: Callable[[Any], tuple[Tensor, ...]],
) -> list[tuple[Tensor, ...]]:  # fmt: skip
    """What `take` takes of text_encoder{suffix}'s output for each text, padded or cut to `length` tokens."""
    read_config(folder, f"text_encoder{suffix}")
    read_config(folder, f"tokenizer{suffix}", "tokenizer_config.json")
    try:
        words = tokenizer.from_pretrained(folder / f"tokenizer{suffix}", local_files_only=True)
        model = encoder.from_pretrained(
            folder / f"text_encoder{suffix}", local_files_only=True, use_safetensors=True, dtype=torch.float32
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise ModelError(
            f"expected {folder} to hold tokenizer{suffix} and the safetensors of text_encoder{suffix}, found "
            f"others: {' '.join(str(error).split())[:200]}"
        ) from error
    try:
        model.eval().to(device)
    except torch.OutOfMemoryError:  # T5 takes 19 GB: slowly is better than not at all
        model.to("cpu")
    many = words(list(texts), padding="max_length", max_length=length, truncation=True, return_tensors="pt")
    # One by one: then an embedding does not depend on the texts that it was made with.
    return [
        tuple(t.cpu() for t in take(model(ids[None].to(model.device), output_hidden_states=True)))
        for ids in many.input_ids
    ]


def compose(clip: list[Tensor], t5: Tensor) -> Tensor:
    """CLIP's hidden states [1, 77, D_i] side by side, widened with zeros to T5's [1, 256, D], then T5's."""
    both = torch.cat(clip, dim=2)
    return torch.cat([F.pad(both, (0, t5.shape[2] - both.shape[2])), t5], dim=1)
