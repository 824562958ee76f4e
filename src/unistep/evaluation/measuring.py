"""The metrics of a run: which are measured with which files, which cannot be and why."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import ConfigError, ImageError, ModelError
from ..image.stored import Codes
from ..tensors import sha256
from .metrics import METRICS, Metric, Score

Value = float | str
"""A number, or why there is none."""


@dataclass(frozen=True)
class Measure:
    """A metric as a run has it; without a `score` it is absent, and `why` says the reason."""

    name: str
    metric: Metric
    files: tuple[tuple[str, str], ...] = ()
    """(name, SHA-256) of each file that it was opened with."""
    score: Score | None = None
    why: str = ""
    border: int = 0
    """Pixels that are left out on each side, where it compares with the truth."""

    @property
    def said(self) -> dict[str, Any]:
        """What a caption says; two measures with the same are the same."""
        metric = self.metric
        better = {True: "higher", False: "lower", None: "near 1"}[metric.higher_is_better]
        return {
            "label": metric.label, "protocol": metric.protocol, "unit": metric.unit, "better": better,
            "reference": metric.needs_reference, "border": self.border if metric.needs_reference else 0,
            "files": dict(self.files), "absent": self.why,
        }  # fmt: skip

    def lacks(self, reference: bool) -> str:
        """Why it says nothing about a set with or without truths; "" where it does."""
        if self.score is None:
            return self.why
        return "needs a truth, this set has none" if self.metric.needs_reference and not reference else ""

    def value(self, result: Codes, truth: Codes | None) -> Value:
        """Of pictures uint8 [H, W, 3] of one size."""
        assert self.score is not None
        pictures = [result, truth] if self.metric.needs_reference and truth is not None else [result]
        cut = self.border if len(pictures) == 2 else 0
        try:
            with torch.inference_mode():
                found = float(self.score(*(_tensor(codes, cut) for codes in pictures)))
        except ImageError as error:
            return " ".join(str(error).split())
        return found if math.isfinite(found) else f"the value is {found}"


def measures(
    names: Sequence[str] | None, files: Mapping[str, Sequence[Path]], border: int = 0
) -> list[Measure]:
    """Metrics ready to use, in the table's order.

    Args:
        names: None: all that need no file, and those whose files are given.
        files: of a metric, in the order in which it names them.

    Raises ConfigError for an unknown metric, too few or too many files or a border below 0; ModelError for
    files that it cannot use. A metric that is asked for without its files is not an error but absent.
    """
    for name in [*(names or ()), *files]:
        if name not in METRICS:
            raise ConfigError(f"expected a metric ({', '.join(METRICS)}), found “{name}”")
    if border < 0:
        raise ConfigError(f"expected --border to be 0 or more, found {border}")
    wanted = [
        name for name in METRICS
        if (name in names if names else not METRICS[name].files) or name in files
    ]  # fmt: skip
    return [_measure(name, files.get(name, ()), border) for name in wanted]


def _measure(name: str, files: Sequence[Path], border: int) -> Measure:
    metric = METRICS[name]
    for file in files:
        if not file.is_file():
            raise ModelError(f"expected a file of {name} at {file}, found none: name one that exists")
    try:
        score = metric.open(*files)
    except (ConfigError, ModelError) as error:
        if files:
            raise
        needs = ", ".join(metric.files)
        why = f"its files are not here: {needs} (--file {name}=PATH)" if needs else str(error)
        return Measure(name, metric, (), None, why, border)
    return Measure(name, metric, tuple((file.name, sha256(file)) for file in files), score, "", border)


def _tensor(codes: Codes, cut: int) -> Tensor:
    """uint8 [H, W, 3] -> [1, 3, H, W] float32 in [0, 1], without a border."""
    height, width = codes.shape[:2]
    if 2 * cut >= min(height, width):
        raise ImageError(f"a border of {cut} leaves nothing of {width}x{height}")
    inside = codes[cut : height - cut, cut : width - cut]
    return torch.from_numpy(inside.copy()).permute(2, 0, 1)[None].float() / 255
