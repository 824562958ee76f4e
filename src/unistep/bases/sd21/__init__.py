"""Stable Diffusion 2 and 2.1 (Rombach et al. 2022, arXiv 2112.10752): base of OSEDiff, PiSA-SR and DFOSD."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from ...errors import ConfigError
from .. import known
from ..adapted import AdaptedFace
from ..diffusersfolder import read_config
from ..face import Source, Sources, Tiny
from ..known import APACHE, MIT, OPENRAIL, Known
from ..prompts import Prompts, TextEncoders
from ..tiny import seeded
from . import sizes, student
from .authors import CONVERSIONS
from .base import SD21Base
from .network import SD21Config, encode_prompts

WITHDRAWN = (
    "its publisher has withdrawn it from the hub; pull a copy that you trust as OWNER/REPO, or give "
    "the folder of one that you have"
)
PULLED = known.components("unet", "vae", "scheduler", "text_encoder", "tokenizer")
PULLED_XL = known.components(
    "unet", "vae", "scheduler", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2"
)


class SD21Face(AdaptedFace):
    name, title, Config, Base = "sd21", "SD2, SD2.1", SD21Config, SD21Base
    start = "the folder of Stable Diffusion 2 or 2.1 in the diffusers layout, or a pulled model"
    components = ("unet", "vae")
    text = TextEncoders(
        suffixes=("",),
        component="unet",
        widths=("cross_attention_dim",),
        encode=lambda folder, texts, device: [(one, None) for one in encode_prompts(folder, texts, device)],
    )
    files = ("critic", *AdaptedFace.files)
    tiny_decoder = "taesd"
    conversions = CONVERSIONS
    models: ClassVar = {
        "sd21-base": Known(
            "Stable Diffusion 2.1 base",
            "base of OSEDiff, PiSA-SR and DFOSD",
            OPENRAIL,
            "stabilityai/stable-diffusion-2-1-base",
            patterns=PULLED,
            note=WITHDRAWN,
        ),
        "sd2-base": Known(
            "Stable Diffusion 2 base",
            "base of students of Stable Diffusion 2",
            OPENRAIL,
            "stabilityai/stable-diffusion-2-base",
            patterns=PULLED,
            note=WITHDRAWN,
        ),
        "sdxl-base": Known(
            "Stable Diffusion XL base",
            "discriminator of dfosd-sd21-sdxl",
            OPENRAIL,
            "stabilityai/stable-diffusion-xl-base-1.0",
            patterns=PULLED_XL,
        ),
        "taesd": Known(
            "TAESD, a tiny autoencoder for Stable Diffusion 1 and 2",
            "--decoder tiny for students of Stable Diffusion 2",
            MIT,
            "madebyollin/taesd",
        ),
        "osediff": Known(
            "OSEDiff, one step of Stable Diffusion 2.1 base",
            "restores, once converted with its base",
            f"{APACHE}; with its base: {OPENRAIL}",
            files=("https://github.com/cswry/OSEDiff/raw/main/preset/models/osediff.pkl",),
            convert="unistep models convert {folder}/osediff.pkl NAME.safetensors --base sd21-base",
        ),
    }

    def others(self, config: SD21Config) -> dict[str, tuple[str, ...]]:
        return {"critic": self.components} if config.critic else {}

    def check(self, config: SD21Config, source: Source, recipe: str) -> None:
        super().check(config, source, recipe)
        if read_config(source.path, "unet").get("addition_embed_type"):
            raise ConfigError(
                f"expected train.init to be {self.start}, found Stable Diffusion XL in {source.path}: take "
                f"the base of {recipe}"
            )

    def open(
        self, config: SD21Config, sources: Sources, device: torch.device, prompts: Prompts | None = None
    ) -> SD21Base:
        critic = str(sources["base.critic"].path) if config.critic else ""
        config = dataclasses.replace(config, critic=critic)
        base: SD21Base = super().open(config, sources, device, prompts)
        return base

    def shapes(self, config: SD21Config, source: Source | None = None) -> SD21Base:
        return sizes.shapes(config, source.path if source else None)

    def tiny(self, config: SD21Config, folder: Path) -> Tiny:
        with seeded(folder):
            init = sizes.write(folder)
        critic = ""
        if config.critic:
            with seeded(folder / "critic"):
                critic = str(sizes.write_sdxl(folder / "critic"))
        return Tiny(dataclasses.replace(config, dtype="fp32", critic=critic), str(init), rate=2e-3)

    def student(self, header: dict[str, Any], tensors: Mapping[str, Tensor]) -> Any:
        return student.student(header, tensors)
