"""ResShift (Yue et al. 2023, arXiv 2307.12348), the base of SinSR and TAD-SR."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from ...errors import ConfigError
from ...students.latent import LatentStudent
from ...tensors import part, read_tensors
from ..conversion import DTYPES, Conversion, Files, Request, Tensors
from ..face import FROM_NOTHING, Face, Source, Sources, Tiny
from ..known import read_models
from ..prompts import Prompts
from ..tiny import seeded
from . import sizes, student
from .base import ResShiftBase
from .network import VARIANTS, ResShiftConfig, variant_of

CLEAN = "its directions are differences of noise or velocity, and this base's network predicts z_0"
SLAB = "S-Lab License 1.0: non-commercial use only"


def _recognised(files: Files) -> bool:
    inner = {re.sub(r"^(state_dict/)?(module\.)?(_orig_mod\.)?", "", name) for name in files.tensors}
    return {"input_blocks.0.0.weight", "out.2.weight"} <= inner


def _build(files: Files, request: Request) -> tuple[Any, Tensors]:
    if request.vae is None:
        raise ConfigError(
            f"{files.path}: expected --vae, the file of its VQ autoencoder (autoencoder_vq_f4.pth, or "
            "ffhq512_vq_f8_dim8_face.pth for faces), found none"
        )
    vq = files.read(request.vae)
    variant = request.variant or variant_of(files.path.name)
    if variant not in VARIANTS:
        raise ConfigError(f"expected --variant to be one of {', '.join(VARIANTS)}, found “{variant}”")
    # ResShift itself was not trained for one step
    folded = not request.unfolded and VARIANTS[variant].method != "resshift"
    return student.build(
        _inner(files.tensors), _inner(vq), variant=variant, dtype=DTYPES[request.dtype], folded=folded
    )


def _inner(tensors: Mapping[str, Tensor]) -> Tensors:
    """A state dict, whether it lies under "state_dict" or not."""
    return part(tensors, "state_dict/") or dict(tensors)


class ResShiftFace(Face):
    """Trained as a whole, used folded."""

    name, title, Config = "resshift", "ResShift", ResShiftConfig
    start = "an unfolded file of ResShift (unistep models convert --unfolded)"
    obstacles: ClassVar = {"teacher": FROM_NOTHING, "tsdsr": CLEAN}
    teacher = staticmethod(student.teacher)
    student = staticmethod(student.student)
    models: ClassVar = read_models(Path(__file__).parent)
    conversions: ClassVar = {
        "resshift": Conversion(
            recognised=_recognised,
            build=_build,
            licences={
                "resshift": SLAB,
                "sinsr": f"CC BY-NC-SA 4.0: non-commercial use only; built on ResShift: {SLAB}",
                "tadsr": f"built on SinSR and ResShift: {SLAB}",
            },
        )
    }

    def open(
        self, config: ResShiftConfig, sources: Sources, device: torch.device, prompts: Prompts | None = None
    ) -> ResShiftBase:
        init = sources["train.init"]
        return ResShiftBase(init.header.get("student", {}), read_tensors(init.path), config, device)

    def untrained(self) -> LatentStudent:
        return sizes.untrained()

    def shapes(self, config: ResShiftConfig, source: Source | None = None) -> ResShiftBase:
        return sizes.shapes(config, source.header["student"] if source else None)

    def tiny(self, config: ResShiftConfig, folder: Path) -> Tiny:
        faces = config.variant == "resshift-faces"
        with seeded(folder):
            init = sizes.write(folder, "resshift-faces" if faces else "resshift-15")
        return Tiny(config, str(init), rate=3e-5, patch=128 if faces else 64)  # faces: 8 pixels per latent
