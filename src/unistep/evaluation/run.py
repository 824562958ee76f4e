"""An evaluation: everyone who is judged, on every set, by every metric; each image is measured once.

A sample is measured for all or for none: where one of them has no usable result for it, the rule of
`pairing.settle` stops the run, or leaves it out for everybody, which the caption says. A mean is given only
where every image of the set has a value, and of whole sets (FID) one number stands in its place: the set's,
without an interval or a test. `results` depends on nothing but what was measured: no time, no
path, numbers of six digits after the point, so that two runs, or one that was killed and gone on with, give
the same bytes.
"""

import functools
import importlib.metadata
import itertools
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from .. import __version__
from ..errors import ModelError, UnistepError
from . import setwide
from .journal import Journal, key_of
from .judged import Judged, Model, machine
from .keeping import Pictures
from .measuring import Measure, Value
from .sets import PictureSet, Sample
from .statistics import SAID, interval, paired

FORMAT = 1
Progress = Callable[[float, str], None]
"""Share of the work that is done, from 0 to 1, and what was done last."""


@dataclass(frozen=True)
class Evaluation:
    judged: Sequence[Judged]
    sets: Sequence[PictureSet]
    """As `judged.agreed` gives them."""
    measures: Sequence[Measure]
    device: str = "auto"
    published: Mapping[str, Any] | None = None
    """What a paper has beside the results (`presets.Preset.said`); nothing that is measured depends on it."""

    def key(self, who: Judged, on: PictureSet, sample: Sample) -> str:
        """Of all that a result depends on."""
        place = versions(who.settings.device) if isinstance(who, Model) else {}
        return key_of(FORMAT, who.said, who.digest(on, sample), sample.sha256, on.scale, place)

    def useful(self, on: PictureSet) -> list[Measure]:
        """Measures of images."""
        return [one for one in self.measures if not one.of_sets and not one.lacks(on.reference)]

    def set_wide(self, on: PictureSet) -> list[Measure]:
        """Measures of whole sets."""
        return [one for one in self.measures if one.of_sets and not one.lacks(on.reference)]


def measure(
    run: Evaluation,
    journal: Journal,
    progress: Progress = lambda part, line: None,
    keep: Pictures | None = None,
) -> None:
    """Measures what the journal does not have. Models are opened one after the other, where there is work.

    keep: where results are kept as pictures too; those that are not there are made again.

    Raises ModelError for a result of another size, and what a model raises; what was measured is kept.
    """
    work = [
        (who, on, sample, sample.size[0] * sample.size[1] * on.scale**2)
        for who in run.judged
        for on in run.sets
        for sample in on.samples
        if missing(run, journal, who, on, sample)
        or features(run, journal, who, on, sample)
        or (keep is not None and keep.lack(run.key(who, on, sample), who.name, on, sample))
    ]
    total, done = sum(pixels for *_, pixels in work), 0
    last: Judged | None = None
    for who, on, sample, pixels in work:
        if who is not last:
            last, enlarge = who, who.open()
        try:
            low, truth = on.load(sample)
            result = enlarge(on, sample, low)
        except UnistepError as error:
            raise type(error)(f"{who.name} on {on.name}/{sample.name}: {error}") from error
        wanted = (low.shape[0] * on.scale, low.shape[1] * on.scale, 3)
        if result.shape != wanted:
            raise ModelError(f"expected {who.name} to give {wanted}, found {result.shape} for {sample.name}")
        key = run.key(who, on, sample)
        if keep is not None:
            keep.add(key, who.name, on, sample, (low, truth, result))
        setwide.keep(features(run, journal, who, on, sample), journal, result, truth)
        if left := missing(run, journal, who, on, sample):
            journal.add(key, {name: one.value(result, truth) for name, one in left.items()})
        done += pixels
        progress(done / total, f"{who.name}  {on.name}/{sample.name}")
    for on in run.sets:
        for one, who in itertools.product(run.set_wide(on), run.judged):
            if measure_key(one) not in journal.get(key := set_key(run, who, on, one)):
                journal.add(key, {measure_key(one): setwide.distance(one, journal, sides(run, who, on, one))})
                progress(1.0, f"{who.name}  {on.name}  {one.label}")


def missing(
    run: Evaluation, journal: Journal, who: Judged, on: PictureSet, sample: Sample
) -> dict[str, Measure]:
    """Measures whose values the journal does not have, by their keys."""
    have = journal.get(run.key(who, on, sample))
    return {key: one for one in run.useful(on) if (key := measure_key(one)) not in have}


def features(
    run: Evaluation, journal: Journal, who: Judged, on: PictureSet, sample: Sample
) -> setwide.Wanted:
    """Features that are not kept yet of a result and of its truth."""
    of_sets = run.set_wide(on)
    return setwide.missing(of_sets, journal, run.key(who, on, sample), sample) if of_sets else {}


def set_key(run: Evaluation, who: Judged, on: PictureSet, one: Measure) -> str:
    """Of all that a value of a whole set depends on."""
    return key_of(FORMAT, "set", *sides(run, who, on, one))


def sides(run: Evaluation, who: Judged, on: PictureSet, one: Measure) -> tuple[list[str], list[str]]:
    """The keys of the features that a value of a whole set is made of: results, references."""
    return setwide.sides(one, [run.key(who, on, sample) for sample in on.samples], on.samples)


def measure_key(one: Measure) -> str:
    """The metric's name and what it was opened with."""
    return f"{one.name} {key_of(one.said)[:16]}"


def values(run: Evaluation, journal: Journal, who: Judged, on: PictureSet, one: Measure) -> list[Value]:
    """Of every image, in the set's order."""
    return [journal.get(run.key(who, on, sample))[measure_key(one)] for sample in on.samples]


def results(run: Evaluation, journal: Journal) -> dict[str, Any]:
    """What results.json holds, from a journal that has everything."""
    scores, tests = [], []
    for on in run.sets:
        whole: dict[str, dict[str, np.ndarray]] = {}
        for one in run.measures:
            for who in run.judged:
                line: dict[str, Any] = {"set": on.name, "judged": who.name, "metric": one.name}
                found: list[Value] = []
                line["why"] = one.lacks(on.reference)
                line |= {"images": len(on.samples), "mean": None, "low": None, "high": None}
                if one.of_sets and not line["why"]:
                    value = journal.get(set_key(run, who, on, one))[measure_key(one)]
                    line |= {"why": value} if isinstance(value, str) else {"mean": rounded(value)}
                    scores.append(line)
                    continue
                if not line["why"]:
                    found = values(run, journal, who, on, one)
                    line["why"] = _why(found)
                numbers = np.array([value for value in found if not isinstance(value, str)], np.float64)
                if not line["why"]:
                    line["mean"] = rounded(float(numbers.mean()))
                    low, high = interval(numbers) or (None, None)
                    line |= {"low": rounded(low), "high": rounded(high)}
                    if one.metric.higher_is_better is not None:
                        whole.setdefault(one.name, {})[who.name] = numbers
                scores.append(line)
        for test in paired(whole):
            p = {key: float(f"{test[key]:.4g}") for key in ("p", "p_holm")}
            tests.append({"set": on.name, **test, "difference": rounded(test["difference"]), **p})
    beside = {} if run.published is None else {"published": dict(run.published)}
    return beside | {
        "format": FORMAT,
        "order": {
            "judged": [who.name for who in run.judged],
            "sets": [on.name for on in run.sets],
            "metrics": [one.name for one in run.measures],
        },
        "judged": {who.name: who.said for who in run.judged},
        "sets": {on.name: said(on) for on in run.sets},
        "metrics": {one.name: one.said for one in run.measures},
        "scores": scores,
        "tests": tests,
        "statistics": SAID,
        "versions": versions(run.device),
    }


def said(on: PictureSet) -> dict[str, Any]:
    """What a caption says of a set."""
    known = None if on.known is None else asdict(on.known)
    degradation = None if on.preset is None else {"preset": on.preset, "seed": on.seed}
    return {
        "images": len(on.samples), "scale": on.scale, "reference": on.reference, "sha256": on.sha256,
        "degradation": degradation, "manifest": known, "notes": list(on.notes),
    }  # fmt: skip


def images(run: Evaluation, journal: Journal) -> list[dict[str, str]]:
    """A line for each image of a set and everyone who is judged; a value that does not exist is empty."""
    lines = []
    for on in run.sets:
        columns = {
            (who.name, one.name): values(run, journal, who, on, one)
            for who in run.judged for one in run.useful(on)
        }  # fmt: skip
        for i, sample in enumerate(on.samples):
            for who in run.judged:
                line = {"set": on.name, "image": sample.name, "judged": who.name}
                for one in run.measures:
                    if one.of_sets:
                        continue
                    value = columns.get((who.name, one.name), [""] * len(on.samples))[i]
                    line[one.name] = "" if isinstance(value, str) else f"{value:.6f}"
                lines.append(line)
    return lines


@functools.cache  # part of the key of every value
def versions(device: str) -> dict[str, str]:
    """Of what computes; `device` is where models run."""
    return {
        "unistep": __version__, "python": platform.python_version(), "torch": torch.__version__,
        "numpy": np.__version__, "pillow": importlib.metadata.version("pillow"), "machine": machine(device),
    }  # fmt: skip


def rounded(value: float | None) -> float | None:
    """Six digits after the point; -0 is 0."""
    return None if value is None else round(value, 6) + 0.0


def _why(found: Sequence[Value]) -> str:
    """Why there is no mean: "" if every image has a value."""
    reasons = [value for value in found if isinstance(value, str)]
    return f"{len(reasons)} of {len(found)} images have no value: {reasons[0]}" if reasons else ""
