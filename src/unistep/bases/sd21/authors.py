"""OSEDiff and PiSA-SR: the files of their authors, read into students of Stable Diffusion 2.1, and written.

    OSEDiff  (arXiv 2406.08177)   z_hat = (z - sqrt(1 - abar_t) eps(z, t, c)) / sqrt(abar_t),   t = 999
    PiSA-SR  (arXiv 2412.03017)   z_hat = z - eps(z, t, ""),                                    t = 1

Both are LoRAs on the UNet; OSEDiff's has another on the VAE's encoder and a trained first convolution.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...errors import ConfigError, ModelError
from ...students.latent import LatentConfig
from ...tensors import load_exactly, part
from .. import lora
from ..conversion import DTYPES, Conversion, Files, Request, Tensors, only
from .network import affine, encode_prompt, open_process, open_unet, open_vae
from .student import State, folded

T_OSEDIFF, T_PISASR = 999, 1
ALPHA = 8
"""PEFT's lora_alpha where none is given, as in both methods: a LoRA of rank r counts 8 / r times."""
TERMS = "derived from Stable Diffusion 2: CreativeML Open RAIL++-M License"


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


def _prompt(base: Path, files: Files, request: Request) -> Tensor:
    if request.unfolded:
        raise ConfigError(
            "expected --unfolded with a model whose teacher starts from the low-quality picture, found a "
            "student of Stable Diffusion 2: leave it out"
        )
    if request.embedding is not None:
        return only(files.read(request.embedding), request.embedding)
    return encode_prompt(base, request.prompt or "")


def _osediff(files: Files, request: Request) -> tuple[Any, Tensors]:
    base = request.pretrained(files.path, "Stable Diffusion 2.1 base")
    prompt = _prompt(base, files, request)
    return build_osediff(base, files.tensors, files.values, prompt, dtype=DTYPES[request.dtype])


def _pisasr(files: Files, request: Request) -> tuple[Any, Tensors]:
    base = request.pretrained(files.path, "Stable Diffusion 2.1 base")
    prompt = _prompt(base, files, request)
    return build_pisasr(
        base, files.tensors, files.values, prompt, lambda_pix=request.pix, lambda_sem=request.sem,
        dtype=DTYPES[request.dtype],
    )  # fmt: skip


def _osediff_archive(files: Mapping[str, Tensors]) -> dict[str, Any] | None:
    """None for a student that did not train all that theirs has."""
    if not files.keys() >= {"unet.safetensors", "vae.safetensors"}:
        return None
    unet, vae = (lora.strip(files[f"{name}.safetensors"], f"{name}.") for name in ("unet", "vae"))
    return osediff_file(unet, vae)


CONVERSIONS = {
    "pisasr": Conversion(
        recognised=lambda files: "unet_lora_encoder_modules_pix" in files.values,
        build=_pisasr,
        licences={"pisasr": f"Apache-2.0 (by its README); {TERMS}"},
    ),
    "osediff": Conversion(
        recognised=lambda files: "unet_lora_encoder_modules" in files.values,
        build=_osediff,
        licences={"osediff": f"Apache-2.0; {TERMS}"},
        archive=_osediff_archive,
        archived_as="osediff.pkl",
    ),
}
