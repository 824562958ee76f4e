"""The metrics of a run: which are measured with which files, which cannot be and why."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import ConfigError, ImageError, near
from ..image.stored import Codes
from .distributions import SetScore
from .files import AbsentMetric
from .inception import Inception
from .metrics import METRICS, Metric, Score
from .sets import ReferenceSet

Value = float | str
"""A number, or why there is none."""


@dataclass(frozen=True)
class Measure:
    """A metric as a run has it; without a `score` it is absent, and `why` says the reason."""

    name: str
    metric: Metric
    label: str
    """The metric's, starred where a file is not proven to be its authors'."""
    files: tuple[tuple[str, str], ...] = ()
    """(key, SHA-256) of each file that it was opened with."""
    score: Score | None = None
    why: str = ""
    border: int = 0
    """Pixels that are left out on each side, where it compares an image with its truth."""
    reference_set: ReferenceSet | None = None
    """What sets are compared with instead of their truths."""

    @property
    def of_sets(self) -> bool:
        """Whether it scores whole sets, as FID does; then there is no value of an image."""
        return self.metric.over == "sets"

    @property
    def said(self) -> dict[str, Any]:
        """What a caption says; two measures with the same are the same."""
        metric = self.metric
        better = {True: "higher", False: "lower", None: "near 1"}[metric.higher_is_better]
        said = {
            "label": self.label, "protocol": metric.protocol, "unit": metric.unit, "better": better,
            "reference": metric.needs_reference, "border": self.border if metric.needs_reference else 0,
            "files": dict(self.files), "absent": self.why,
        }  # fmt: skip
        if self.of_sets:
            known = self.reference_set and self.reference_set.said
            said |= {"over": "sets", "border": 0, "reference_set": known}
        return said

    def lacks(self, reference: bool) -> str:
        """Why it says nothing about a set with or without truths; "" where it does."""
        if self.score is None:
            return self.why
        if self.metric.reference_set:
            return "" if self.reference_set else "needs a reference set: give --reference-set FOLDER"
        return "needs a truth, this set has none" if self.metric.needs_reference and not reference else ""

    def value(self, result: Codes, truth: Codes | None) -> Value:
        """Of pictures uint8 [H, W, 3] of one size."""
        assert self.score is not None and not self.of_sets
        pictures = [result, truth] if self.metric.needs_reference and truth is not None else [result]
        cut = self.border if len(pictures) == 2 else 0
        try:
            with torch.inference_mode():
                return number(float(self.score(*(batch(codes, cut) for codes in pictures))))
        except ImageError as error:
            return " ".join(str(error).split())


def measures(
    names: Sequence[str] | None, files: Mapping[str, Path], border: int = 0, reference_set: bool = False
) -> list[Measure]:
    """Metrics ready to use, in the table's order.

    Args:
        names: None: all that need nothing, and those of which a file is given.
        files: by their keys (`WeightsFile.key`); others are looked for in the torch hub cache.
        reference_set: whether there will be one: without it what compares with one is measured by name alone.

    Raises ConfigError for an unknown metric or file, or a border below 0; ModelError for files that it cannot
    use. A metric that is asked for without its files is not an error but absent.
    """
    for name in names or ():
        if name not in METRICS:
            raise ConfigError(
                f"expected a metric ({', '.join(METRICS)}), found “{name}”{near(name, METRICS)}"
            )
    if reference_set and names and not any(METRICS[name].reference_set for name in names):
        with_one = ", ".join(name for name, metric in METRICS.items() if metric.reference_set)
        raise ConfigError(
            f"expected --metric {with_one} for --reference-set, found {', '.join(names)}: add it, or leave "
            "the reference set out"
        )
    keys = dict.fromkeys(file.key for metric in METRICS.values() for file in metric.files)
    for key in files:
        if key not in keys:
            raise ConfigError(
                f"expected --file KEY=PATH with a key out of {', '.join(keys)}, found “{key}”"
                f"{near(key, keys)}"
            )
    if border < 0:
        raise ConfigError(f"expected --border to be 0 or more, found {border}")

    def wanted(name: str, metric: Metric) -> bool:
        if names:
            return name in names
        if metric.by_name or (metric.reference_set and not reference_set):
            return False
        return metric.self_contained or any(file.key in files for file in metric.files)

    found = [_measure(name, files, border) for name, metric in METRICS.items() if wanted(name, metric)]
    networks: dict[Any, Inception] = {}
    for one in found:  # in memory once
        if isinstance(one.score, SetScore):
            one.score.network = networks.setdefault(one.files, one.score.network)
    return found


def _measure(name: str, files: Mapping[str, Path], border: int) -> Measure:
    metric = METRICS[name]
    try:
        opened = metric.open_from(files)
    except AbsentMetric as error:
        return Measure(name, metric, metric.label, (), None, " ".join(str(error).split()), border)
    found = tuple((file.key, file.sha256) for file in opened.files)
    return Measure(name, metric, opened.label, found, opened.score, "", border)


def number(found: float) -> Value:
    return found if math.isfinite(found) else f"the value is {found}"


def batch(codes: Codes, cut: int = 0) -> Tensor:
    """uint8 [H, W, 3] -> [1, 3, H, W] float32 in [0, 1], without a border."""
    height, width = codes.shape[:2]
    if 2 * cut >= min(height, width):
        raise ImageError(f"a border of {cut} leaves nothing of {width}x{height}")
    inside = codes[cut : height - cut, cut : width - cut]
    return torch.from_numpy(inside.copy()).permute(2, 0, 1)[None].float() / 255
