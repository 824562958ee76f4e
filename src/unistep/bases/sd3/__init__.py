"""Stable Diffusion 3 (Esser et al. 2024, arXiv 2403.03206), the base of TSD-SR."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor

from ...errors import ModelError
from ...students.latent import LatentStudent
from ...tensors import part
from ..adapted import AdaptedFace
from ..conversion import DTYPES, Conversion, Files, Request, Tensors, only
from ..face import Source, Tiny
from ..known import read_models
from ..prompts import Embedding, TextEncoders
from ..tiny import seeded
from . import sizes, student
from .base import SD3Base
from .network import CLIP_TOKENS, T5_TOKENS, SD3Config, encode_prompt, encode_prompts

PARTS = ("transformer", "vae")
TITLE = "Stable Diffusion 3 medium"


def embeddings(folder: Path, read: Callable[[Path], Tensors]) -> tuple[Tensor, Tensor]:
    """([1, 333, 4096], [1, 2048]) of one text: TSD-SR's prompt_embeds and pool_embeds. Raises ModelError."""
    prompt, pooled = (only(read(file), file) for file in _embedded(folder))
    return (prompt[None] if prompt.ndim == 2 else prompt), pooled.reshape(1, -1)


def _embedded(folder: Path) -> list[Path]:
    found = []
    for stem in ("prompt_embeds", "pool_embeds"):
        files = [folder / f"{stem}{suffix}" for suffix in (".safetensors", ".pt")]
        there = [file for file in files if file.is_file()]
        if not there:
            raise ModelError(f"{folder}: expected {stem}.pt or {stem}.safetensors in it, found neither")
        found.append(there[0])
    return found


def _tsdsr(files: Files, request: Request) -> tuple[Any, Tensors]:
    base = request.pretrained(files.path, TITLE)
    if request.prompt is not None:
        prompt, pooled = encode_prompt(base, request.prompt)
    else:
        prompt, pooled = embeddings(request.embedding or files.path, files.read)
    parts = {name: part(files.tensors, f"{name}/") for name in PARTS}
    return student.build(
        base, parts, prompt, pooled, dtype=DTYPES[request.dtype], folded=not request.unfolded
    )


def _tsdsr_sources(src: Path, request: Request) -> list[Path]:
    return [] if request.prompt is not None else _embedded(request.embedding or src)


class SD3Face(AdaptedFace):
    name, title, Config, Base = "sd3", "SD3", SD3Config, SD3Base
    start = "the folder of Stable Diffusion 3 in the diffusers layout, or a pulled model"
    components = PARTS
    text = TextEncoders(
        suffixes=("", "_2", "_3"),
        component="transformer",
        widths=SD3Base.text_keys,
        encode=lambda folder, texts, device: [*encode_prompts(folder, texts, device)],
        tokens=(CLIP_TOKENS, CLIP_TOKENS, T5_TOKENS),
        published=sizes.TEXT_ENCODERS,
    )
    tiny_decoder = "taesd3"
    teacher = staticmethod(student.teacher)
    student = staticmethod(student.student)
    models: ClassVar = read_models(Path(__file__).parent)
    conversions: ClassVar = {
        "tsdsr": Conversion(
            recognised=lambda files: files.path.is_dir(),
            build=_tsdsr,
            licences={"tsdsr": f"Apache-2.0; derived from {TITLE}: Stability AI Community License"},
            parts=PARTS,
            sources=_tsdsr_sources,
        )
    }

    def untrained(self) -> LatentStudent:
        return sizes.untrained()

    def published(self, header: Mapping[str, Any]) -> bool:
        return sizes.published(header)

    def shapes(self, config: SD3Config, source: Source | None = None) -> SD3Base:
        return sizes.shapes(config, source.path if source else None)

    def tiny(self, config: SD3Config, folder: Path) -> Tiny:
        with seeded(folder):
            init = sizes.write(folder)
        return Tiny(dataclasses.replace(config, dtype="fp32"), str(init), rate=2e-3)

    def embedding(self, folder: Path, read: Callable[[Path], Tensors]) -> Embedding:
        return embeddings(folder, read)
