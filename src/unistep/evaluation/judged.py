"""Who is judged: models, bicubic, and pictures that any program has made. Results have 8 bits."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ..errors import ConfigError, UnistepError, check_distinct
from ..image import Picture
from ..image.pixels import quantise
from ..image.stored import Codes
from ..models.checkpoint import DEFAULT, decoder_file, resolve
from ..tensors import sha256
from ..upscaling.upscaler import Upscaler
from .pairing import Problem, Rule, match, pictures, settle, unique
from .sets import PictureSet, Sample, digest, read
from .settings import Settings, split

BICUBIC = "bicubic"
"""The name of what is no model."""
Enlarge = Callable[[PictureSet, Sample, Codes], Codes]
"""A sample of a set and its low-quality picture, uint8 [h, w, 3], to the result [scale h, scale w, 3]."""


class Judged(ABC):
    name: str

    @property
    @abstractmethod
    def said(self) -> dict[str, Any]:
        """What identifies it, for captions; no path, so that a run elsewhere says the same."""

    @abstractmethod
    def open(self) -> Enlarge:
        """Loads what it needs; called only where there is work."""

    def check(self, on: PictureSet) -> tuple[list[Problem], list[str]]:
        """Samples that it has no usable result for, and what a caption should say besides."""
        return [], []

    def digest(self, on: PictureSet, sample: Sample) -> str:
        """The same as long as the result on this sample is."""
        return ""


@dataclass(frozen=True)
class Bicubic(Judged):
    """Pillow's bicubic (a = -0.5), the usual baseline."""

    name: str = BICUBIC

    @property
    def said(self) -> dict[str, Any]:
        return {"kind": "bicubic", "how": "Pillow, a = -0.5"}

    def open(self) -> Enlarge:
        def enlarge(on: PictureSet, sample: Sample, low: Codes) -> Codes:
            size = (low.shape[1] * on.scale, low.shape[0] * on.scale)
            return np.asarray(Image.fromarray(low).resize(size, Image.Resampling.BICUBIC))

        return enlarge


class Model(Judged):
    """Any model that `unistep upscale` takes, by the same code.

    Raises ModelError if there is no such file, ConfigError for settings of students that it is none of.
    """

    def __init__(self, name: str, model: str | None, settings: Settings) -> None:
        self.name, self.settings, self.path = name, settings, resolve(model)
        decoder = decoder_file(self.path, settings.options)
        self.decoder = None if decoder is None else sha256(decoder)
        self.sha256 = sha256(self.path)

    @property
    def said(self) -> dict[str, Any]:
        decoder = {"decoder_sha256": self.decoder} if self.decoder else {}
        return {
            "kind": "model", "file": self.path.name, "sha256": self.sha256, **self.settings.said, **decoder,
        }  # fmt: skip

    def open(self) -> Enlarge:
        s = self.settings
        upscaler = Upscaler.from_pretrained(
            self.path, device=s.device, dtype=s.dtype, fidelity=s.fidelity, options=s.options
        )

        def enlarge(on: PictureSet, sample: Sample, low: Codes) -> Codes:
            picture = Picture(low.astype(np.float32) / np.float32(255))
            if s.reproduce:
                return quantise(upscaler.reproduce(picture, on.scale, s.colour).rgb, 8)
            larger = upscaler(
                picture, on.scale, tile=s.tile, colour=s.colour, seed=s.seed, vae_tiles=s.vae_tiles
            )
            return quantise(larger.rgb, 8)

        return enlarge


class Results(Judged):
    """Pictures made by any program, matched with samples by name as pairs are (`pairing`).

    They lie in a folder named as the set inside `folder`, where there is one, else in `folder`. A missing,
    unreadable or differently sized picture is a problem; one of no sample is only said.
    """

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.folder = name, folder
        self.files: dict[tuple[str, str], tuple[Path, str]] = {}
        """Set and sample -> file and hash of its pixels."""

    @property
    def said(self) -> dict[str, Any]:
        return {"kind": "results", "folder": self.folder.resolve().name}

    def check(self, on: PictureSet) -> tuple[list[Problem], list[str]]:
        inside = self.folder / on.name
        folder = inside if inside.is_dir() else self.folder
        found, problems = pictures(folder)
        found, twice = unique(found)
        problems += twice
        samples = {Path(f"{sample.name}.png"): sample for sample in on.samples}
        matched = match(list(samples), found)
        for key, file in matched.pairs:
            sample = samples[key]
            try:
                codes = read(file)
            except (UnistepError, OSError) as error:
                problems.append(Problem(file, " ".join(str(error).split()), sample.name))
                continue
            wanted = (sample.size[0] * on.scale, sample.size[1] * on.scale)
            if codes.shape[1::-1] != wanted:
                why = f"{codes.shape[1]}x{codes.shape[0]}, expected {wanted[0]}x{wanted[1]}"
                problems.append(Problem(file, why, sample.name))
            else:
                self.files[on.name, sample.name] = file, digest(codes)
        problems = [problem for problem in problems if problem.name in {s.name for s in on.samples}]
        known = {problem.name for problem in problems}
        missing = [samples[key].name for key in matched.left if samples[key].name not in known]
        problems += [Problem(folder / name, "no result of this name", name) for name in missing]
        more = len(matched.right)
        return problems, [f"{self.name}: {more} pictures of no sample"] if more else []

    def digest(self, on: PictureSet, sample: Sample) -> str:
        return self.files[on.name, sample.name][1]

    def open(self) -> Enlarge:
        return lambda on, sample, low: read(self.files[on.name, sample.name][0])


def judged(
    models: list[tuple[str, str]], results: list[tuple[str, Path]], settings: Settings
) -> list[Judged]:
    """Models (or "bicubic") and folders of results under their names.

    A model may have settings of its own (`settings.split`). Raises ConfigError, ModelError.
    """
    found: list[Judged] = []
    for name, text in models:
        model, own = split(text)
        if model == BICUBIC and own:
            raise ConfigError(f"expected {BICUBIC} without settings, found {', '.join(own)}: leave them out")
        found.append(Bicubic(name) if model == BICUBIC else Model(name, model or DEFAULT, settings.own(own)))
    found += [Results(name, folder) for name, folder in results]
    check_distinct("model", [one.name for one in found])
    if not found:
        raise ConfigError("expected someone to judge, found none: give --model or --results")
    return found


def agreed(judged: Sequence[Judged], sets: Sequence[PictureSet], rule: Rule) -> list[PictureSet]:
    """The sets with the samples that everybody has a result for. Raises DataError where the rule stops."""
    kept = []
    for on in sets:
        for who in judged:
            problems, notes = who.check(on)
            settle(f"the results {who.name} for {on.name}", problems, rule)
            on = on.without([problem.name for problem in problems], f"no usable result of {who.name}")
            on = _noted(on, notes)
        kept.append(on)
    return kept


def _noted(on: PictureSet, notes: Sequence[str]) -> PictureSet:
    return replace(on, notes=(*on.notes, *notes)) if notes else on


def machine(device: str) -> str:
    """What models run on, in words that do not change between two runs on it."""
    kind = torch.accelerator.current_accelerator() if device != "cpu" else None
    if kind is None:
        return "cpu"
    return str(torch.cuda.get_device_name()) if kind.type == "cuda" else kind.type
