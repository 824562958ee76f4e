"""Stable Diffusion 2.1 (and 2-base): reading it, and its one-step students OSEDiff and PiSA-SR.

    OSEDiff  (arXiv 2406.08177)   z_hat = (z - sqrt(1 - abar_t) eps(z, t, c)) / sqrt(abar_t),   t = 999
    PiSA-SR  (arXiv 2412.03017)   z_hat = z - eps(z, t, ""),                                    t = 1

Both are LoRAs on the UNet; OSEDiff's has another on the VAE's encoder and a trained first convolution.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...autoencoder.codecs import KLCodec
from ...diffusion.process import Process, ddpm
from ...errors import ModelError
from ...extras import extra
from ...students.latent import LatentConfig
from ...students.onestep import load_exactly, part
from .. import lora
from ..diffusersfolder import read_component, read_config
from .sdunet import FoldedUNet, UNetConfig, fold

T_OSEDIFF, T_PISASR = 999, 1
ALPHA = 8
"""PEFT's lora_alpha where none is given, as in both methods: a LoRA of rank r counts 8 / r times."""
OLD_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
"""The VAE's attention as the published weights of Stable Diffusion call it."""

State = dict[str, Tensor]


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


def merge(
    weights: State, state: State, modules: Mapping[str, list[str]], rank: int, what: str, share: float = 1.0
) -> None:
    """Merges PEFT's adapters into `weights`, `share` of them. `modules`: the layers of each adapter.

    Raises ModelError that lists what is missing and what is surplus, and for another rank.
    """
    wanted = {f"{m}.lora_{x}.{name}.weight" for name, layers in modules.items() for m in layers for x in "AB"}
    missing, surplus = sorted(wanted - state.keys()), sorted(state.keys() - wanted)
    if missing or surplus:
        raise ModelError(
            f"expected the LoRA of {what} to have the layers that it lists, found {len(missing)} missing "
            f"({', '.join(missing[:5])}) and {len(surplus)} surplus ({', '.join(surplus[:5])}); "
            "download the file again"
        )
    for name in modules:
        own = {key: tensor for key, tensor in state.items() if key.endswith(f".{name}.weight")}
        delta = lora.strip(own, adapter=name)
        if lora.rank(delta) != rank:
            raise ModelError(f"expected the LoRA of {what} to have rank {rank}, found {lora.rank(delta)}")
        lora.merge(weights, delta, share * ALPHA / rank)


def named(values: Mapping[str, Any], *names: str) -> list[Any]:
    """The ranks and lists under `names`. Raises ModelError for one that is not there."""
    missing = [name for name in names if not isinstance(values.get(name), int | list)]
    if missing:
        raise ModelError(
            f"expected the authors' file to hold {', '.join(names)}, found no {', '.join(missing)}; "
            "another file may have its name"
        )
    return [values[name] for name in names]


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


def build_osediff(
    base: Path,
    tensors: Mapping[str, Tensor],
    values: Mapping[str, Any],
    prompt_embeds: Tensor,
    *,
    dtype: torch.dtype = torch.float16,
) -> tuple[dict[str, Any], State]:
    """OSEDiff's student from SD2.1-base and osediff.pkl (cswry/OSEDiff), for one fixed prompt.

    Args:
        base: SD2.1-base in the diffusers layout.
        tensors, values: what osediff.pkl holds; tensors under "state_dict_unet/" and "state_dict_vae/".
        prompt_embeds: [1, tokens, 1024], e.g. `encode_prompt`'s. (Theirs tags every picture anew.)
        dtype: of the tensors that are returned.

    Raises ModelError for another base, another format (AdcSR's file of the same name) and another rank.
    """
    if not any(name.startswith("state_dict_unet/") for name in tensors):
        kinds = sorted({name.partition("/")[0] for name in tensors})
        raise ModelError(
            "expected osediff.pkl with state_dict_unet and state_dict_vae, as OSEDiff publishes it, found "
            f"{', '.join(kinds[:5]) or 'no tensors'}; download OSEDiff's (AdcSR has another of that name)"
        )
    places = ("encoder", "decoder", "others")
    rank, rank_vae, vae_modules, *modules = named(
        values, "rank_unet", "rank_vae", "vae_lora_encoder_modules",
        *(f"unet_lora_{place}_modules" for place in places),
    )  # fmt: skip
    config, net = open_unet(base)
    codec = open_vae(base)
    unet, vae = ({name: p.float() for name, p in m.state_dict().items()} for m in (net, codec.vae))
    own = part(tensors, "state_dict_unet/")
    trained = {name: own.pop(name) for name in [*own] if ".base_layer." in name}
    if set(trained) != {"conv_in.base_layer.weight", "conv_in.base_layer.bias"}:
        raise ModelError(
            "expected osediff.pkl to hold conv_in.base_layer.weight and .bias, found "
            f"{', '.join(sorted(trained)) or 'none'}; download OSEDiff's file again"
        )
    # The first convolution was trained as a whole, and has a LoRA on top.
    unet |= {name.replace(".base_layer", ""): p.float() for name, p in trained.items()}
    lists = {f"default_{place}": names for place, names in zip(places, modules, strict=True)}
    merge(unet, own, lists, rank, "osediff.pkl's UNet")
    vae_lora = part(tensors, "state_dict_vae/")
    merge(vae, vae_lora, {"default_encoder": vae_modules}, rank_vae, "osediff.pkl's VAE")
    load_exactly(codec.vae, vae, "OSEDiff's VAE")
    at = (T_OSEDIFF, *affine(open_process(base), T_OSEDIFF))
    latent = LatentConfig(resample="pillow", tile=96, overlap=32, shortest=512, colour="adain")
    return folded("osediff", config, unet, codec, prompt_embeds, at, latent, dtype)


def osediff_file(unet: Mapping[str, Tensor], vae: Mapping[str, Tensor]) -> dict[str, Any]:
    """What osediff.pkl holds: the inverse of `build_osediff`.

    unet, vae: LoRAs that count once, under "<layer>.lora_A.weight" and "<layer>.lora_B.weight"; unet with the
    first convolution, trained as a whole, under "conv_in.base_layer.weight" and ".bias".
    """

    def place(layer: str) -> str:
        starts = {"encoder": ("down_blocks.", "conv_in"), "decoder": ("up_blocks.", "conv_out")}
        return next((name for name, start in starts.items() if layer.startswith(start)), "others")

    def stored(own: Mapping[str, Tensor], split: bool) -> tuple[dict[str, list[str]], State, int]:
        layers: dict[str, list[str]] = {"encoder": [], "decoder": [], "others": []}
        state: State = {}
        rank = lora.rank(own)
        for name, tensor in own.items():
            layer, found, half = name.removesuffix(".weight").partition(".lora_")
            if not found:
                state[name] = tensor
                continue
            to = place(layer) if split else "encoder"
            if half == "A":
                layers[to].append(layer)
            state[f"{layer}.lora_{half}.default_{to}.weight"] = tensor * (rank / ALPHA if half == "B" else 1)
        return layers, state, rank

    lists, unet_state, rank_unet = stored(unet, True)
    vae_lists, vae_state, rank_vae = stored(vae, False)
    return {
        "vae_lora_encoder_modules": vae_lists["encoder"],
        **{f"unet_lora_{name}_modules": layers for name, layers in lists.items()},
        "rank_unet": rank_unet,
        "rank_vae": rank_vae,
        "state_dict_unet": unet_state,
        "state_dict_vae": vae_state,
    }


def build_pisasr(
    base: Path,
    tensors: Mapping[str, Tensor],
    values: Mapping[str, Any],
    prompt_embeds: Tensor,
    *,
    lambda_pix: float = 1.0,
    lambda_sem: float = 1.0,
    dtype: torch.dtype = torch.float16,
) -> tuple[dict[str, Any], State]:
    """PiSA-SR's student from SD2.1-base and pisa_sr.pkl (csslc/PiSA-SR); its VAE is the base's.

    Args:
        base, tensors, values, dtype: as in `build_osediff`; tensors under "state_dict_unet/" alone.
        prompt_embeds: of the empty prompt, as theirs.
        lambda_pix, lambda_sem: how much of the pixel-level and of the semantic LoRA is merged. Both at 1 is
            their --default; otherwise theirs mixes the outputs of two passes, which is not the same.

    Raises ModelError for another base, another format and another rank.
    """
    config, net = open_unet(base)
    unet = {name: p.float() for name, p in net.state_dict().items()}
    own = part(tensors, "state_dict_unet/")
    for kind, share in (("pix", lambda_pix), ("sem", lambda_sem)):
        places = ("encoder", "decoder", "others")
        rank, *modules = named(
            values, f"lora_rank_unet_{kind}", *(f"unet_lora_{place}_modules_{kind}" for place in places)
        )
        lists = {f"default_{place}_{kind}": names for place, names in zip(places, modules, strict=True)}
        mine = {name: own.pop(name) for name in [*own] if name.endswith(f"_{kind}.weight")}
        merge(unet, mine, lists, rank, f"pisa_sr.pkl ({kind})", share)
    if own:
        raise ModelError(
            f"expected pisa_sr.pkl to hold LoRAs called pix and sem alone, found {', '.join(sorted(own)[:5])}"
        )
    # OSEDiff's settings, from which it descends: there is no recorded run to hold its own to.
    latent = LatentConfig(resample="pillow", tile=96, overlap=32, shortest=512, colour="adain")
    at = (T_PISASR, 1.0, -1.0)
    return folded("pisasr", config, unet, open_vae(base), prompt_embeds, at, latent, dtype)


def encode_prompt(folder: Path, text: str) -> Tensor:
    """[1, 77, 1024] float32: what the UNet sees of `text`, by the folder's own tokenizer and text encoder.

    Longer texts are cut at 77 tokens. Raises ModelError where one of the two is missing.
    """
    return encode_prompts(folder, [text])[0]


def encode_prompts(folder: Path, texts: Sequence[str], device: torch.device | str = "cpu") -> list[Tensor]:
    """`encode_prompt` of many texts, on the CPU: the encoder is loaded once and works on `device`."""
    clip = "transformers.models.clip."
    tokenizer_kind = extra("transformers", clip + "tokenization_clip").CLIPTokenizer
    encoder_kind = extra("transformers", clip + "modeling_clip").CLIPTextModel
    read_config(folder, "text_encoder")
    read_config(folder, "tokenizer", "tokenizer_config.json")
    try:
        tokenizer = tokenizer_kind.from_pretrained(folder / "tokenizer", local_files_only=True)
        encoder = encoder_kind.from_pretrained(
            folder / "text_encoder", local_files_only=True, use_safetensors=True, dtype=torch.float32
        )
    except Exception as error:  # tokenizers raises plain ones
        raise ModelError(
            f"expected {folder} to hold a CLIP tokenizer and the safetensors of a CLIP text encoder, found "
            f"others: {' '.join(str(error).split())[:200]}"
        ) from error
    length = tokenizer.model_max_length
    many = tokenizer(
        list(texts), padding="max_length", max_length=length, truncation=True, return_tensors="pt"
    )
    encoder = encoder.eval().to(device)
    with torch.no_grad():  # one by one: an embedding does not depend on the texts that it was made with
        return [encoder(ids[None].to(device))[0].cpu() for ids in many.input_ids]
