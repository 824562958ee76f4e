"""Where a base, a method and a run's settings meet."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from ..bases import (
    CompactBase,
    CompactConfig,
    ResShiftBase,
    ResShiftConfig,
    SD3Base,
    SD3Config,
    SD21Base,
    SD21Config,
)
from ..bases.compact.base import CompactDenoiser
from ..bases.diffusersfolder import fingerprint, read_config
from ..bases.prompts import Prompts
from ..data.pairs import Photographs
from ..data.shards import PROMPTS
from ..diffusion.denoiser import Base, Denoiser, Distance, Method
from ..errors import ConfigError, ModelError
from ..losses.perceptual import TeacherFeatures, open_distance
from ..methods import METHODS, DFOSDConfig, OSEDiffConfig, Teacher, TSDSRConfig, obstacle
from ..models import checkpoint
from ..models.download import sha256
from ..models.hub import component_folder, home
from ..recipes.config import Run, TrainConfig, kind
from .gate import STEPS, measure
from .progress import Validation
from .runfolder import FILES

STARTS = {
    "compact": "the teacher (a model's name or a Unistep file)",
    "sd3": "the folder of Stable Diffusion 3 in the diffusers layout, or a pulled model",
    "sd21": "the folder of Stable Diffusion 2 or 2.1 in the diffusers layout, or a pulled model",
    "resshift": "an unfolded file of ResShift (unistep models convert --unfolded)",
}
"""Base -> what its train.init is."""
COMPONENTS = {"sd3": ("transformer", "vae"), "sd21": ("unet", "vae"), "sdxl": ("unet", "vae")}
"""Base -> the parts of its folder that training reads."""
EQUAL = "equal"
"""train.features_heads where every channel is to count the same, and the loss is not LPIPS."""
GATED = 8
"""How many crops the teacher is measured on."""


def check_run(run: Run) -> None:
    """Raises ConfigError for what is wrong before anything is opened."""
    t = run.train
    if reason := obstacle(kind(run.method), kind(run.base)):
        raise ConfigError(
            f"expected a base on which {kind(run.method)} can train a student, found {kind(run.base)} "
            f"({reason}): take another recipe"
        )
    if t.critic_init and kind(run.method) != "dfosd":
        raise ConfigError(
            f"expected train.critic_init to be empty for {run.name}, whose critic starts from no file, found "
            f"“{t.critic_init}”: empty it"
        )
    if not t.init and kind(run.method) != "teacher":
        raise ConfigError(
            f"expected train.init to name {STARTS[kind(run.base)]}, found nothing: set train.init"
        )


def open_base(
    run: Run, device: torch.device, photographs: Photographs | None = None
) -> tuple[Base, dict[str, Any]]:
    """The base of the run on `device`, and the header of the weights that it starts from ({} for none).

    The texts of `photographs` are embedded where the run asks for them, before the base takes any memory.
    Raises ConfigError or ModelError, before anything large is read where that is possible.
    """
    check_run(run)
    t = run.train
    if isinstance(run.base, CompactConfig):
        return open_compact(run, device)
    found = base_digest(run)
    if run.base.sha256 not in ("", found):
        raise ConfigError(
            f"expected {t.init} to be the base of {run.name} with sha256 {run.base.sha256}, found {found}: "
            "take the right one, or empty base.sha256"
        )
    if isinstance(run.base, ResShiftConfig):
        header = checkpoint.read_header(checkpoint.resolve(t.init))
        tensors = checkpoint.read_tensors(checkpoint.resolve(t.init))
        return ResShiftBase(header.get("student", {}), tensors, run.base, device), {}
    folder = component_folder(t.init)
    for component in COMPONENTS[kind(run.base)]:  # another model is known by what it lacks
        if not (folder / component / "config.json").is_file():
            raise ConfigError(
                f"expected train.init to be {STARTS[kind(run.base)]}, found {folder} without {component}/: "
                f"take the base of {run.name}"
            )
    if isinstance(run.base, SD21Config) and read_config(folder, "unet").get("addition_embed_type"):
        raise ConfigError(
            f"expected train.init to be {STARTS['sd21']}, found Stable Diffusion XL in {folder}: take the "
            f"base of {run.name}"
        )
    own = [photographs.folder / PROMPTS] if photographs and photographs.prepared else []
    prompts = open_prompts(run, device, own)
    told = photographs.texts() if photographs and run.data.prompts else []
    prompts.fill([run.base.prompt, run.base.negative, *told])
    if isinstance(run.base, SD3Config):
        return SD3Base(folder, run.base, prompts, device), {}
    critic = str(component_folder(run.base.critic)) if run.base.critic else ""
    return SD21Base(folder, dataclasses.replace(run.base, critic=critic), prompts, device), {}


def open_prompts(run: Run, device: torch.device, more: Sequence[Path] = ()) -> Prompts:
    """The base's texts as embeddings, kept for all runs; `more`: folders in which some may be, too."""
    return Prompts(component_folder(run.train.init), kind(run.base), home() / "embeddings", device, more)


def open_compact(run: Run, device: torch.device) -> tuple[Base, dict[str, Any]]:
    """The compact base and the header of train.init."""
    opened = {}
    for setting, name in networks(run).items():
        try:
            opened[setting] = checkpoint.load_denoiser(name)
        except ModelError as error:
            raise ModelError(f"train.{setting}: {error}") from error
        found = opened[setting][0].config
        if found != run.base and setting != "critic_init":
            raise ConfigError(
                f"expected train.{setting} to hold a network of {run.base}, found {found}: "
                "set base.widths and base.blocks"
            )
    assert isinstance(run.base, CompactConfig)
    denoiser, header = opened["init"] if run.train.init else (CompactDenoiser(run.base), {})
    critic = opened["critic_init"][0] if run.train.critic_init else None
    return CompactBase(denoiser, device, critic), header


def networks(run: Run) -> dict[str, str]:
    """Setting of train -> the model's name, the Unistep file or the folder that it names."""
    named = {setting: getattr(run.train, setting) for setting in ("init", "plain", "critic_init")}
    return {s: name for s, name in named.items() if name and (s, name) != ("plain", "self")}


def digests(run: Run) -> dict[str, str]:
    """Setting -> SHA-256 of the network that it names."""
    found = {f"train.{setting}": digest(name, kind(run.base)) for setting, name in networks(run).items()}
    if isinstance(run.base, SD21Config) and run.base.critic:
        found["base.critic"] = digest(run.base.critic, "sdxl")
    for section, name in FILES:
        path = Path(getattr(getattr(run, section), name, ""))
        if f"{section}.{name}" not in found and path.is_file():
            found[f"{section}.{name}"] = digest(str(path), "")
    return found


def base_digest(run: Run) -> str:
    """SHA-256 of what train.init names, "" for nothing."""
    return digest(run.train.init, kind(run.base)) if run.train.init else ""


def digest(name: str, base: str) -> str:
    """SHA-256 of a file, or of the components of a base's folder that training reads."""
    parts = COMPONENTS.get(base, ())
    path = component_folder(name) if parts else checkpoint.resolve(name)
    files = [file for part in parts for file in sorted((path / part).glob("*.safetensors"))] or [path]
    return _digest(path, parts, tuple((file.stat().st_size, file.stat().st_mtime_ns) for file in files))


@functools.cache
def _digest(path: Path, parts: tuple[str, ...], unchanged: tuple[tuple[int, int], ...]) -> str:
    """Read once for as long as sizes and times stay: a base has gigabytes."""
    return fingerprint(path, parts) if parts else sha256(path)


def check_features(form: str, t: TrainConfig) -> None:
    """Raises ConfigError for a perceptual loss that would not be what a paper's recipe means."""
    if t.features == "teacher":
        raise ConfigError(
            "expected train.features to be squeezenet, alexnet or vgg16 on a large base, found “teacher”: "
            "set one of them"
        )
    if form == "lpips" and not t.features_heads:
        raise ConfigError(
            f"expected train.features_heads to name the published heads of LPIPS for {t.features}, on whose "
            f"scale the recipe's weights are, found nothing: name them, or set train.features_heads={EQUAL}"
        )


def build(run: Run, base: Base, device: torch.device) -> Method:
    """The run's method on its players."""

    def perceptual(form: str) -> Distance:
        teacher, t = None, run.train
        if not isinstance(run.base, CompactConfig):
            check_features(form, t)
        if run.train.features == "teacher":
            if not run.train.init:
                raise ConfigError(
                    "expected train.features to be squeezenet, alexnet or vgg16 where train.init names no "
                    "teacher, found “teacher”: set one of them"
                )
            teacher = TeacherFeatures(base.features("teacher", "ddpm"), base.encode, base.cond)
        heads = "" if t.features_heads == EQUAL else t.features_heads
        return open_distance(form, t.features, t.features_file, heads, teacher, device)

    made: type[Method] = METHODS[kind(run.method)][0]
    method = made.build(run.method, base, perceptual)
    if isinstance(run.method, TSDSRConfig | DFOSDConfig | OSEDiffConfig):
        base.check_student(run.method.process, run.method.t_student)
    for player in (method.student, method.critic):
        if player is not None:
            player.to(device)
    return method


def lessons(
    method: Method, base: Base, run: Run, validate: Validation, held_out: bool, report: Callable[[str], None]
) -> dict[str, Any]:
    """What a student's header says: its plain reconstruction, and how good its teacher's samples are."""
    if isinstance(method, Teacher):
        return {}
    about: dict[str, Any] = {}
    if isinstance(run.base, CompactConfig) and run.train.plain != "self":
        file = checkpoint.resolve(run.train.plain or run.train.init)
        about["plain"] = {"name": file.stem, "sha256": sha256(file)}
    teacher = getattr(method, "teacher", None)
    # A Stable Diffusion knows nothing of the low-quality image: its samples are no measure of a teacher.
    if isinstance(teacher, Denoiser) and isinstance(run.base, CompactConfig | ResShiftConfig):
        x_lq, x_hq = (x[:GATED] for x in validate.pairs[validate.presets[-1]])
        gate = measure(teacher, base, x_lq, x_hq, min(STEPS, len(teacher.process)))
        if not held_out:
            gate = dataclasses.replace(gate, crops="training crops")
        report(str(gate))
        about["teacher"] = gate.to_dict()
    return about
