"""Where a base, a method and a run's settings meet: what the run names is found once, then opened."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..bases import face_of
from ..bases.face import Source, Sources
from ..bases.prompts import Prompts
from ..data.pairs import Photographs
from ..data.shards import PROMPTS
from ..diffusion.denoiser import Base, Denoiser, Distance, Method
from ..errors import ConfigError, ModelError
from ..losses.perceptual import TeacherFeatures, open_distance
from ..models.checkpoint import load_student, resolve
from ..models.hub import component_folder, home
from ..recipes.config import Run, TrainConfig, kind, method_of
from .gate import STEPS, measure
from .progress import Validation

NETWORKS = ("init", "plain", "critic_init")
"""Settings of train that name models."""
FILES = ("features_file", "features_heads")
"""Settings of train that name other files."""
EQUAL = "equal"
"""train.features_heads where every channel is to count the same, and the loss is not LPIPS."""
GATED = 8
"""How many crops the teacher is measured on."""


@dataclass(frozen=True)
class Opened:
    """A run with what it names, found, and its base, open."""

    run: Run
    sources: Sources
    base: Base
    restore: "Restore | None" = None
    """The network of train.restorer; None where the data hold its results already."""

    @property
    def digests(self) -> dict[str, str]:
        """Setting -> SHA-256 of the file that it names."""
        return {setting: source.sha256 for setting, source in self.sources.items()}

    @property
    def history(self) -> list[Any]:
        """Of the weights that the run starts from: the runs that made them."""
        init = self.sources.get("train.init")
        return [] if init is None or init.components else list(init.header.get("history", []))


def check_run(run: Run) -> None:
    """Raises ConfigError for what is wrong before anything is looked for."""
    t, base, method = run.train, face_of(run.base), method_of(run)
    if reason := base.obstacles.get(kind(run.method)):
        raise ConfigError(
            f"expected a base on which {kind(run.method)} can train a student, found {base.name} "
            f"({reason}): take another recipe"
        )
    if t.critic_init and not method.critic_file:
        raise ConfigError(
            f"expected train.critic_init to be empty for {run.name}, whose critic starts from no file, found "
            f"“{t.critic_init}”: empty it"
        )
    if bool(t.restorer) != method.restores:
        wanted = "to name a one-step model (a name or a file)" if method.restores else "to be empty"
        raise ConfigError(
            f"expected train.restorer {wanted} for {run.name}, whose method learns from "
            f"{'its results' if method.restores else 'none'}, found “{t.restorer}”: set train.restorer"
        )
    if not t.init and not method.pretrains:
        raise ConfigError(f"expected train.init to name {base.start}, found nothing: set train.init")


def find(run: Run) -> dict[str, Source]:
    """Setting -> the model or file that it names: looked for once, and not yet read.

    Raises ConfigError for settings that cannot be and for another base, ModelError for what is not there.
    """
    check_run(run)
    base, found = face_of(run.base), dict[str, Source]()
    once = functools.cache(source)  # several settings may name one model
    for name in NETWORKS:
        named = getattr(run.train, name)
        if named and (name, named) != ("plain", "self"):
            try:
                found[f"train.{name}"] = once(named, base.components)
            except ModelError as error:
                raise ModelError(f"train.{name}: {error}") from error
    if run.train.restorer:
        try:
            found["train.restorer"] = once(run.train.restorer, ())
        except ModelError as error:
            raise ModelError(f"train.restorer: {error}") from error
    for name, components in base.others(run.base).items():
        found[f"base.{name}"] = once(getattr(run.base, name), components)
    for section, names in (("train", FILES), ("base", base.files)):
        for name in names:
            path = Path(getattr(getattr(run, section), name))
            if f"{section}.{name}" not in found and path.is_file():
                found[f"{section}.{name}"] = Source(str(path), path)
    if (init := found.get("train.init")) is None:
        return found
    base.check(run.base, init, run.name)
    wanted = getattr(run.base, "sha256", "")
    if wanted not in ("", wanted and init.sha256):
        raise ConfigError(
            f"expected {init.name} to be the base of {run.name} with sha256 {wanted}, found {init.sha256}: "
            "take the right one, or empty base.sha256"
        )
    return found


def source(name: str, components: tuple[str, ...]) -> Source:
    """A model by its name: a file, or a folder with these components. Raises ModelError if it is not here."""
    return Source(name, component_folder(name) if components else resolve(name), components)


def open_run(
    run: Run,
    device: torch.device,
    photographs: Photographs | None = None,
    sources: Sources | None = None,
) -> Opened:
    """The run's base on `device`. sources: what the run names, where it is found already (`find`).

    The texts of `photographs` are embedded where the run asks for them, before the base takes any memory.
    Raises ConfigError or ModelError, before anything large is read where that is possible.
    """
    sources = find(run) if sources is None else sources
    base, prompts = face_of(run.base), None
    if base.text is not None:
        own = [photographs.folder / PROMPTS] if photographs and photographs.prepared else []
        prompts = open_prompts(run, sources, device, own)
        told = photographs.texts() if photographs and run.data.prompts else []
        prompts.fill([run.base.prompt, run.base.negative, *told])
    made = base.open(run.base, sources, device, prompts)
    restorer = sources.get("train.restorer")
    restore = None
    if restorer is not None and not (photographs and photographs.ready):
        restore = Restore(restorer, made.scale, device, run.train.precision)
    return Opened(run, sources, made, restore)


def open_restorer(source: Source, scale: int) -> nn.Module:
    """The model of train.restorer, on the CPU: [B, 3, h, w] -> [B, 3, s h, s w], both in [-1, 1].

    Raises ConfigError for another scale than the base's and for a model of whole pictures, ModelError.
    """
    try:
        net = load_student(source.path)
    except ModelError as error:
        raise ModelError(f"train.restorer: {error}") from error
    found = None if hasattr(net, "place") else getattr(net, "scale", None)
    if found != scale:
        raise ConfigError(
            f"{source.path}: expected train.restorer to be a network that enlarges pieces by {scale}, as "
            f"the base does, found one {'of whole pictures' if found is None else f'of scale {found}'}: "
            "name another"
        )
    return net


class Restore:
    """The one-step model of train.restorer, frozen: [B, 3, h, w] -> [B, 3, s h, s w], both in [-1, 1].

    Raises what `open_restorer` does.
    """

    def __init__(self, source: Source, scale: int, device: torch.device, wish: str):
        from .steps import DTYPES, precision  # which imports this module

        net = open_restorer(source, scale)
        self.net = net.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.dtype = DTYPES[precision(wish)]

    @torch.no_grad()
    def __call__(self, x_lq: Tensor) -> Tensor:
        with torch.autocast(x_lq.device.type, self.dtype, enabled=self.dtype != torch.float32):
            x: Tensor = self.net(x_lq.contiguous(memory_format=torch.channels_last))
        return x.float().clamp(-1, 1).contiguous()


def open_prompts(run: Run, sources: Sources, device: torch.device, more: Sequence[Path] = ()) -> Prompts:
    """The base's texts as embeddings, kept for all runs; `more`: folders in which some may be, too."""
    return face_of(run.base).prompts(sources["train.init"], home() / "embeddings", device, *more)


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
        if not face_of(run.base).own_features:
            check_features(form, t)
        if t.features == "teacher":
            if not t.init:
                raise ConfigError(
                    "expected train.features to be squeezenet, alexnet or vgg16 where train.init names no "
                    "teacher, found “teacher”: set one of them"
                )
            teacher = TeacherFeatures(base.features("teacher", "ddpm"), base.encode, base.cond)
        heads = "" if t.features_heads == EQUAL else t.features_heads
        return open_distance(form, t.features, t.features_file, heads, teacher, device)

    method = method_of(run).build(run.method, base, perceptual)
    if method.t_student is not None:
        base.check_student(run.method.process, method.t_student)
    for player in (method.student, method.critic):
        if player is not None:
            player.to(device)
    return method


def lessons(
    method: Method, opened: Opened, validate: Validation, held_out: bool, report: Callable[[str], None]
) -> dict[str, Any]:
    """What a student's header says: its plain reconstruction, and how good its teacher's samples are."""
    if method.pretrains:
        return {}
    run, base, about = opened.run, face_of(opened.run.base), dict[str, Any]()
    if base.whole and run.train.plain != "self":
        plain = opened.sources.get("train.plain") or opened.sources["train.init"]
        about["plain"] = {"name": plain.path.stem, "sha256": plain.sha256}
    if (restorer := opened.sources.get("train.restorer")) is not None:
        about["restorer"] = {"name": restorer.path.stem, "sha256": restorer.sha256}
    if isinstance(method.teacher, Denoiser) and base.sees:
        x_lq, x_hq = (x[:GATED] for x in validate.pairs[validate.presets[-1]])
        steps = min(STEPS, len(method.teacher.process))
        gate = measure(method.teacher, opened.base, x_lq, x_hq, steps)
        if not held_out:
            gate = dataclasses.replace(gate, crops="training crops")
        report(str(gate))
        about["teacher"] = gate.to_dict()
    return about
