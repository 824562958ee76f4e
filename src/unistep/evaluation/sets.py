"""What is measured on: sets of low-quality pictures, each with its truth or without.

Four ways to one: a folder of low-quality pictures, two folders matched by name (`pairing`), clean photographs
that are degraded by a preset and a seed, and a folder that is to be a set of the field (`manifests`). Files
are read as everywhere in Unistep, upright and in sRGB, and rounded to 8 bits; alpha is left out. Every file
is opened once before anything is measured, so that what cannot be used is known while the rule can still
decide.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ..data.degrade import degrade
from ..data.presets import preset as degradation
from ..errors import ConfigError, DataError, UnistepError
from ..image import read_image
from ..image.pixels import quantise
from ..image.stored import Codes
from .manifests import Manifest, Size, manifest
from .pairing import ENDING, Problem, Rule, listed, match, pictures, settle, stem, unique

LOW = ("lq", "lr", "test_lr", "low", "input")
HIGH = ("hq", "hr", "gt", "test_hr", "high", "target")
"""Folders inside that of a set of pairs, in whatever case."""
LEAST = 64
"""Sides of a clean photograph, in pixels: degradations blur with kernels of up to 41."""
Loaded = tuple[Codes, Codes | None]
"""uint8 [h, w, 3] and its truth, [scale h, scale w, 3]."""


@dataclass(frozen=True)
class Sample:
    """One picture of a set. Of degraded ones `low` is None, and `index` seeds the degradation."""

    name: str
    low: Path | None
    high: Path | None
    index: int = 0
    size: Size = (0, 0)
    """Of the low-quality picture, once it is known."""
    sha256: str = ""
    """Of the pixels and what is done to them."""


@dataclass(frozen=True)
class PictureSet:
    """Samples in the order of their names; `problems` are those that are not among them."""

    name: str
    samples: tuple[Sample, ...]
    scale: int
    reference: bool
    preset: str | None = None
    seed: int = 0
    known: Manifest | None = None
    problems: tuple[Problem, ...] = ()
    notes: tuple[str, ...] = ()
    """What a caption must say: files left out, a set that is not the one its name says."""

    @property
    def sha256(self) -> str:
        """Of all names and pixels."""
        lines = "".join(f"{sample.name}\0{sample.sha256}\n" for sample in self.samples)
        return hashlib.sha256(lines.encode()).hexdigest()

    def load(self, sample: Sample) -> Loaded:
        """The pictures of a sample, uint8 [h, w, 3]. Raises ImageError."""
        if sample.low is not None:
            return read(sample.low), None if sample.high is None else read(sample.high)
        assert sample.high is not None and self.preset is not None
        return degraded(sample.high, self.preset, self.seed, sample.index)

    def without(self, names: Iterable[str], why: str) -> "PictureSet":
        """Without some of its samples, which the caption says."""
        names = set(names)
        gone = [sample.name for sample in self.samples if sample.name in names]
        if not gone:
            return self
        note = f"left out, {why}: {', '.join(gone)}"
        kept = tuple(sample for sample in self.samples if sample.name not in names)
        if not kept:
            raise DataError(f"expected a sample of {self.name} that can be measured, found none: {note}")
        return replace(self, samples=kept, notes=(*self.notes, note))


@dataclass(frozen=True)
class ReferenceSet:
    """Images whose distribution results should have."""

    name: str
    files: tuple[tuple[Path, str], ...]
    """Each with the SHA-256 of its bytes."""
    notes: tuple[str, ...] = ()

    @property
    def said(self) -> dict[str, Any]:
        """What a caption says; the hash is of the files' hashes, whatever the files are called."""
        lines = "\n".join(sorted(digest for _, digest in self.files))
        return {
            "name": self.name, "images": len(self.files), "notes": list(self.notes),
            "sha256": hashlib.sha256(lines.encode()).hexdigest(),
        }  # fmt: skip


def read(path: Path) -> Codes:
    """The colours of a file, uint8 [h, w, 3]. Raises ImageError."""
    return quantise(read_image(path).rgb, 8)


def digest(codes: Codes) -> str:
    """SHA-256 of pixels and their shape."""
    return hashlib.sha256(str(codes.shape).encode() + codes.tobytes()).hexdigest()


def degraded(path: Path, preset: str, seed: int, index: int) -> tuple[Codes, Codes]:
    """A clean photograph's low-quality picture and truth; its right and lower edge are cut to whole pixels.

    Equal to what `data.degrade` makes of it, whatever else is in the set. Raises ImageError.
    """
    clean, scale = read(path), degradation(preset).scale
    clean = clean[: len(clean) // scale * scale, : clean.shape[1] // scale * scale]
    x = torch.from_numpy(clean).permute(2, 0, 1)[None].float() / 255
    with torch.inference_mode():
        low, high = degrade(x, preset, seed=seed, indices=[index])
    both = ((y[0].permute(1, 2, 0) * 255).round().byte().numpy() for y in (low, high))
    return next(both), next(both)


def of_low(name: str, folder: Path, scale: int = 4, known: Manifest | None = None) -> PictureSet:
    """Low-quality pictures without a truth. Raises DataError for a folder without pictures."""
    found, problems = _listing(folder)
    samples = [Sample(stem(file), file, None) for file in found]
    return _opened(PictureSet(name, tuple(samples), scale, False, known=known), problems)


def of_pairs(name: str, low: Path, high: Path, scale: int = 4, known: Manifest | None = None) -> PictureSet:
    """Two folders, matched by name; the truth is exactly `scale` times as large. Raises DataError."""
    (lows, bad), (highs, worse) = _listing(low), _listing(high)
    return _paired(PictureSet(name, (), scale, True, known=known), lows, highs, [*bad, *worse])


def of_clean(name: str, folder: Path, preset: str, seed: int = 0) -> PictureSet:
    """Clean photographs that are degraded when they are needed; a file's place in the folder is its index.

    Raises DataError for a folder without pictures, ConfigError for an unknown preset.
    """
    scale = degradation(preset).scale
    files, bad = pictures(folder)
    index = {file: i for i, file in enumerate(files)}
    found, problems = unique(files)
    samples = [Sample(stem(file), None, file, index[file]) for file in found]
    return _opened(PictureSet(name, tuple(samples), scale, True, preset, seed), [*bad, *problems])


def of_name(name: str, folder: Path) -> PictureSet:
    """The folder that is to be a set of the field. Where it is not, the notes say so.

    Pairs lie in folders named as in LOW and HIGH, or in one folder with names that end in _LR4 and _HR and
    the like. Raises ConfigError for an unknown name, DataError for a folder without the pairs it should have.
    """
    known = manifest(name)
    if not known.reference:
        return of_low(known.name, folder, known.scale, known)
    inside = {path.name.lower(): path for path in sorted(folder.glob("*/"))}
    low, high = ([inside[key] for key in names if key in inside] for names in (LOW, HIGH))
    if len(low) == len(high) == 1:
        return of_pairs(known.name, low[0], high[0], known.scale, known)
    files, problems = _listing(folder)
    halves: dict[bool, list[Path]] = {False: [], True: []}  # low first
    for file in files:
        ending = ENDING.search(stem(file))
        halves[ending is not None and ending[0].strip("_-").lower() in HIGH].append(file)
    if not all(halves.values()):
        raise DataError(
            f"expected the pairs of {known.name} in {folder}, in folders such as lq and gt or with names "
            f"that end in _LR4 and _HR, found {len(low)} and {len(high)}: arrange them so, or take "
            "--pairs LOW HIGH"
        )
    return _paired(
        PictureSet(known.name, (), known.scale, True, known=known), halves[False], halves[True], problems
    )


def first(whole: PictureSet, limit: int | None) -> PictureSet:
    """The first samples by name, which the notes say."""
    if limit is None or limit >= len(whole.samples):
        return whole
    if limit < 1:
        raise ConfigError(f"expected --limit to be 1 or more, found {limit}")
    note = f"only the first {limit} of {len(whole.samples)} images by name"
    return replace(whole, samples=whole.samples[:limit], notes=(*whole.notes, note))


def decided(found: PictureSet, rule: Rule) -> PictureSet:
    """The set under the rule (`pairing.settle`): with "skip", its problems become a note.

    Raises DataError where the rule stops the run, or nothing is left.
    """
    settle(f"the set {found.name}", found.problems, rule)
    if not found.samples:
        raise DataError(
            f"expected a sample of {found.name} that can be measured, found none: {listed(found.problems)}"
        )
    if not found.problems:
        return found
    return replace(found, problems=(), notes=(*found.notes, f"left out: {listed(found.problems)}"))


def _listing(folder: Path) -> tuple[list[Path], list[Problem]]:
    found, bad = pictures(folder)
    found, twice = unique(found)
    return found, [*bad, *twice]


def _paired(
    empty: PictureSet, low: Sequence[Path], high: Sequence[Path], problems: Sequence[Problem]
) -> PictureSet:
    found = match(low, high)
    alone = [Problem(file, "no file with this name on the other side", stem(file))
             for file in (*found.left, *found.right)]  # fmt: skip
    samples = tuple(Sample(stem(pair[0]), *pair) for pair in found.pairs)
    return _opened(replace(empty, samples=samples), [*problems, *alone])


def _opened(found: PictureSet, problems: Sequence[Problem]) -> PictureSet:
    """With the size and hash of every sample; those that cannot be used are problems."""
    checked = [_checked(found, sample) for sample in found.samples]
    good = [one for one in checked if isinstance(one, Sample)]
    bad = [*problems, *(one for one in checked if isinstance(one, Problem))]
    notes = [] if found.known is None else found.known.differences([sample.size for sample in good])
    return replace(found, samples=tuple(good), problems=tuple(bad), notes=(*found.notes, *notes))


def _checked(found: PictureSet, sample: Sample) -> Sample | Problem:
    parts: dict[Path, Codes] = {}
    for path in (sample.low, sample.high):
        if path is not None:
            try:
                parts[path] = read(path)
            except (UnistepError, OSError) as error:
                return Problem(path, " ".join(str(error).removeprefix(f"{path}: ").split()), sample.name)
    hashed = hashlib.sha256(f"{found.preset} {found.seed} {sample.index}".encode() if found.preset else b"")
    for codes in parts.values():
        hashed.update(digest(codes).encode())
    *_, last = parts.values()
    height, width = last.shape[:2]
    if sample.low is None:
        assert sample.high is not None
        if min(height, width) < LEAST:
            why = f"{width}x{height}, a clean photograph needs {LEAST}x{LEAST}"
            return Problem(sample.high, why, sample.name)
        size = (width // found.scale, height // found.scale)
    else:
        size = (parts[sample.low].shape[1], parts[sample.low].shape[0])
        wanted = (size[0] * found.scale, size[1] * found.scale)
        if sample.high is not None and (width, height) != wanted:
            why = f"{width}x{height}, x{found.scale} of {size[0]}x{size[1]} is {wanted[0]}x{wanted[1]}"
            return Problem(sample.high, why, sample.name)
    return replace(sample, size=size, sha256=hashed.hexdigest())
