"""Stable Diffusion 2 and 2.1 (Rombach et al. 2022, arXiv 2112.10752): base of OSEDiff, PiSA-SR and DFOSD."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch

from ...errors import ConfigError
from ...students.latent import LatentStudent
from ..adapted import AdaptedFace
from ..diffusersfolder import read_config
from ..face import Source, Sources, Tiny
from ..known import read_models
from ..prompts import Prompts, TextEncoders
from ..tiny import seeded
from . import sizes, student
from .authors import CONVERSIONS
from .base import SD21Base
from .network import SD21Config, encode_prompts
from .sdxl import TOKENS


class SD21Face(AdaptedFace):
    name, title, Config, Base = "sd21", "SD2, SD2.1", SD21Config, SD21Base
    start = "the folder of Stable Diffusion 2 or 2.1 in the diffusers layout, or a pulled model"
    components = ("unet", "vae")
    text = TextEncoders(
        suffixes=("",),
        component="unet",
        widths=SD21Base.text_keys,
        encode=lambda folder, texts, device: [(one, None) for one in encode_prompts(folder, texts, device)],
        tokens=(TOKENS,),
        published=(sizes.SIZES["text_encoder"],),
    )
    files = ("critic", *AdaptedFace.files)
    tiny_decoder = "taesd"
    conversions = CONVERSIONS
    student = staticmethod(student.student)
    models: ClassVar = read_models(Path(__file__).parent)

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

    def untrained(self) -> LatentStudent:
        return sizes.untrained()

    def published(self, header: Mapping[str, Any]) -> bool:
        return sizes.published(header)

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
