"""The authors' own files, recognised and turned into one student file.

    TSD-SR     folder with transformer.safetensors and vae.safetensors (LoRA), prompt embeddings  + SD3
    OSEDiff    osediff.pkl (LoRA)                                                                 + SD2.1
    PiSA-SR    pisa_sr.pkl (two LoRAs)                                                            + SD2.1
    ResShift, SinSR, TAD-SR     .pth of the network                                               + VQ .pth

The result holds the whole student: merged, folded, with its settings, licence and the SHA-256 of its sources.
Pickles are read by `convert` alone, in a process of their own.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ..bases.resshift import student as resshift
from ..bases.sd3 import student as sd3
from ..bases.sd21 import student as sd21
from ..errors import ConfigError, ModelError
from ..students.onestep import part
from .checkpoint import save_weights
from .convert import unpacked
from .download import sha256

KINDS = ("tsdsr", "osediff", "pisasr", "resshift")
SD3_TERMS = "derived from Stable Diffusion 3 medium: Stability AI Community License"
SD2_TERMS = "derived from Stable Diffusion 2: CreativeML Open RAIL++-M License"
NTU = "S-Lab License 1.0: non-commercial use only"
LICENCES = {
    "tsdsr": f"Apache-2.0; {SD3_TERMS}",
    "osediff": f"Apache-2.0; {SD2_TERMS}",
    "pisasr": f"Apache-2.0 (by its README); {SD2_TERMS}",
    "resshift": NTU,
    "sinsr": f"CC BY-NC-SA 4.0: non-commercial use only; built on ResShift: {NTU}",
    "tadsr": f"built on SinSR and ResShift: {NTU}",
}
"""What governs the weights, so far as their authors say it."""
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Request:
    """What to convert besides the source itself; None where a kind does not need it."""

    kind: str
    """One of KINDS; resshift: SinSR and TAD-SR too."""
    base: Path | None = None
    """Folder of the pretrained model in diffusers' layout (SD3, SD2.1)."""
    vae: Path | None = None
    """The VQ autoencoder's file (ResShift family)."""
    embedding: Path | None = None
    """Prompt embeddings: a folder with prompt_embeds and pool_embeds (TSD-SR), or a file of one tensor."""
    prompt: str | None = None
    """Text that the base's own encoder turns into the embedding."""
    variant: str | None = None
    """A name of `resshift.VARIANTS`, where the file does not tell."""
    pix: float = 1.0
    """PiSA-SR: how much of its pixel-level LoRA is merged."""
    sem: float = 1.0
    """PiSA-SR: how much of its semantic LoRA is merged."""
    dtype: str = "float16"
    """How the weights are stored: float32, float16 or bfloat16."""
    unfolded: bool = False
    """Keep time and prompt as inputs: the teacher, for its own many-step sampler."""


def student(src: Path, dst: Path, request: Request) -> dict[str, Any]:
    """Writes the student made of `src` to `dst`, atomically; gives its header.

    Raises ConfigError if something is missing in the request, ModelError for files that are not what they
    should be; nothing is written then.
    """
    if dst.suffix != ".safetensors" or dst.exists():
        found = "one that exists" if dst.exists() else f"“{dst.name}”"
        raise ConfigError(f"{dst}: expected the name of a new .safetensors file, found {found}: name another")
    if request.dtype not in DTYPES:
        raise ConfigError(f"expected --dtype to be one of {', '.join(DTYPES)}, found {request.dtype!r}")
    if request.kind not in KINDS:
        raise ConfigError(f"expected --kind to be one of {', '.join(KINDS)}, found {request.kind!r}")
    tensors, values = _read(src)
    try:
        entry, weights = BUILDERS[request.kind](src, tensors, values, request)
    except ModelError as error:
        raise ModelError(f"{src}: {error}") from error
    files = [src] if src.is_file() else sorted(src.glob("*.safetensors"))
    files += [file for file in (request.vae, request.embedding) if file is not None and file.is_file()]
    if request.kind == "tsdsr" and request.prompt is None:
        files += [_one_of(request.embedding or src, stem) for stem in ("prompt_embeds", "pool_embeds")]
    header = {
        "student": entry,
        "licence": LICENCES[entry["method"]],
        "sources": [{"file": file.name, "sha256": sha256(file)} for file in dict.fromkeys(files)],
    }
    if request.prompt is not None:
        header["prompt"] = request.prompt
    if request.base is not None:
        header["sources"].append({"base": request.base.name})
    try:
        save_weights(dst, weights, header, DTYPES[request.dtype])
    except OSError as error:
        raise ModelError(f"{dst}: cannot be written: {error}") from error
    return header


def recognise(src: Path) -> str:
    """Which of KINDS the files are, or "tensors" for any other pickled state dict. Raises ModelError."""
    tensors, values = _read(src)
    if "unet_lora_encoder_modules_pix" in values:
        return "pisasr"
    if "unet_lora_encoder_modules" in values:
        return "osediff"
    if src.is_dir():
        return "tsdsr"
    inner = {re.sub(r"^(state_dict/)?(module\.)?(_orig_mod\.)?", "", name) for name in tensors}
    if {"input_blocks.0.0.weight", "out.2.weight"} <= inner:
        return "resshift"
    if src.suffix == ".safetensors":
        raise ModelError(
            f"{src}: expected the files of {', '.join(KINDS)}, or pickled tensors, found a file of "
            f"other names ({', '.join(sorted(tensors)[:3])}): nothing is to be converted"
        )
    return "tensors"


def _read(src: Path) -> tuple[Tensors, dict[str, Any]]:
    """Tensors and values of a folder of LoRA files, of a .safetensors file or of a pickled one."""
    if src.is_dir():
        found = {file.stem: file for file in src.glob("*.safetensors")}
        if not {"transformer", "vae"} <= set(found):
            raise ModelError(
                f"{src}: expected a folder with transformer.safetensors and vae.safetensors (TSD-SR), "
                f"found {', '.join(sorted(found)) or 'neither'}"
            )
        return {
            f"{file}/{name}": tensor
            for file in ("transformer", "vae")
            for name, tensor in _safe(found[file]).items()
        }, {}
    return (_safe(src), {}) if src.suffix == ".safetensors" else unpacked(src)


def _safe(file: Path) -> Tensors:
    try:
        return load_file(file)
    except (SafetensorError, OSError) as error:
        raise ModelError(
            f"{file}: expected a .safetensors file, found something else or a damaged one: {error}"
        ) from error


def _base(src: Path, request: Request, name: str) -> Path:
    if request.base is None:
        raise ConfigError(
            f"{src}: expected --base, the folder of {name}, since the file holds only what was trained; "
            f"`unistep models pull` gets it"
        )
    return request.base


def _embedding(file: Path) -> Tensor:
    """The one tensor of a file."""
    tensors = _safe(file) if file.suffix == ".safetensors" else unpacked(file)[0]
    if len(tensors) != 1:
        raise ModelError(f"{file}: expected one tensor, the embedding, found {len(tensors)}")
    return next(iter(tensors.values())).float()


def embeddings(folder: Path) -> tuple[Tensor, Tensor]:
    """([1, 333, 4096], [1, 2048]) of one text: TSD-SR's prompt_embeds and pool_embeds. Raises ModelError."""
    prompt, pooled = (_embedding(_one_of(folder, stem)) for stem in ("prompt_embeds", "pool_embeds"))
    return (prompt[None] if prompt.ndim == 2 else prompt), pooled.reshape(1, -1)


def _one_of(folder: Path, stem: str) -> Path:
    for suffix in (".safetensors", ".pt"):
        if (file := folder / f"{stem}{suffix}").is_file():
            return file
    raise ModelError(f"{folder}: expected {stem}.pt or {stem}.safetensors in it, found neither")


def _tsdsr(src: Path, tensors: Tensors, values: Mapping[str, Any], request: Request) -> tuple[Any, Tensors]:
    base = _base(src, request, "Stable Diffusion 3 medium")
    if request.prompt is not None:
        prompt, pooled = sd3.encode_prompt(base, request.prompt)
    else:
        prompt, pooled = embeddings(request.embedding or src)
    parts = {name: part(tensors, f"{name}/") for name in ("transformer", "vae")}
    return sd3.build(base, parts, prompt, pooled, dtype=DTYPES[request.dtype], folded=not request.unfolded)


def _sd2_prompt(base: Path, request: Request) -> Tensor:
    if request.unfolded:
        raise ConfigError(
            "expected --unfolded with TSD-SR or ResShift, whose teachers start from the low-quality picture, "
            "found a student of Stable Diffusion 2: leave it out"
        )
    if request.embedding is not None:
        return _embedding(request.embedding)
    return sd21.encode_prompt(base, request.prompt or "")


def _osediff(src: Path, tensors: Tensors, values: Mapping[str, Any], request: Request) -> tuple[Any, Tensors]:
    base = _base(src, request, "Stable Diffusion 2.1 base")
    prompt = _sd2_prompt(base, request)
    return sd21.build_osediff(base, tensors, values, prompt, dtype=DTYPES[request.dtype])


def _pisasr(src: Path, tensors: Tensors, values: Mapping[str, Any], request: Request) -> tuple[Any, Tensors]:
    base = _base(src, request, "Stable Diffusion 2.1 base")
    prompt = _sd2_prompt(base, request)
    return sd21.build_pisasr(
        base, tensors, values, prompt, lambda_pix=request.pix, lambda_sem=request.sem,
        dtype=DTYPES[request.dtype],
    )  # fmt: skip


def _resshift(
    src: Path, tensors: Tensors, values: Mapping[str, Any], request: Request
) -> tuple[Any, Tensors]:
    if request.vae is None:
        raise ConfigError(
            f"{src}: expected --vae, the file of its VQ autoencoder (autoencoder_vq_f4.pth, or "
            "ffhq512_vq_f8_dim8_face.pth for faces), found none"
        )
    vq, _ = _read(request.vae)
    variant = request.variant or resshift.variant_of(src.name)
    if variant not in resshift.VARIANTS:
        raise ConfigError(
            f"expected --variant to be one of {', '.join(resshift.VARIANTS)}, found “{variant}”"
        )
    # ResShift itself was not trained for one step
    folded = not request.unfolded and resshift.VARIANTS[variant].method != "resshift"
    return resshift.build(
        _opened(tensors), _opened(vq), variant=variant, dtype=DTYPES[request.dtype], folded=folded
    )


def _opened(tensors: Mapping[str, Tensor]) -> Tensors:
    """A state dict, whether it lies under "state_dict" or not."""
    return part(tensors, "state_dict/") or dict(tensors)


BUILDERS: dict[str, Callable[[Path, Tensors, Mapping[str, Any], Request], tuple[Any, Tensors]]] = {
    "tsdsr": _tsdsr,
    "osediff": _osediff,
    "pisasr": _pisasr,
    "resshift": _resshift,
}
