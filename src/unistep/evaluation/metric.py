"""What a metric says about itself, and how it is opened."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from torch import Tensor

from ..errors import ConfigError
from .files import FoundFile, WeightsFile, find

Score = Callable[..., Tensor]


@dataclass(frozen=True)
class Metric:
    """One measure.

    label: its name in tables. function: the score itself, or, where `files` or `package` is named, what opens
    it: called with the paths of `files`, it gives the score.
    higher_is_better: None if the best is near 1. range: the values that it can have, in `unit`.
    protocol: what makes a number comparable. source: who says so, the paper first.
    over: "images", scored one by one -> [B], or "sets", scored as a whole (`distributions.SetScore`).
    package: the optional package that computes it, "" if Unistep does.
    reference_set: whether the references of sets are one that the user names, instead of the truths.
    by_name: whether it is measured only where it is asked for: another metric under the name of a field.
    """

    label: str
    function: Callable[..., object]
    higher_is_better: bool | None
    needs_reference: bool
    range: tuple[float, float]
    protocol: str
    source: str
    unit: str = ""
    files: tuple[WeightsFile, ...] = ()
    over: Literal["images", "sets"] = "images"
    package: str = ""
    reference_set: bool = False
    by_name: bool = False

    @property
    def lower_is_better(self) -> bool:
        return self.higher_is_better is False

    @property
    def arrow(self) -> str:
        return {True: "↑", False: "↓", None: "→1"}[self.higher_is_better]

    @property
    def heading(self) -> str:
        """The head of its column: label and arrow."""
        return f"{self.label} {self.arrow}"

    @property
    def self_contained(self) -> bool:
        """Whether it opens with no file and no package."""
        return not self.files and not self.package

    def open(self, *paths: str | Path) -> Score:
        """The score, ready to call; `paths` in the order of `files`.

        Raises ConfigError for another number of paths, ModelError for wrong files, AbsentMetric without the
        package.
        """
        if len(paths) != len(self.files):
            wanted = ", ".join(file.what for file in self.files) or "no file"
            raise ConfigError(f"{self.label} is opened with {wanted}, not with {len(paths)} path(s).")
        score = self.function if self.self_contained else self.function(*paths)
        return score  # type: ignore[return-value]

    def open_from(self, given: Mapping[str, str | Path] | None = None) -> "Opened":
        """The score with the files that it was opened with, and their SHA-256.

        given: key of a file -> path (`WeightsFile.key`); others come from the torch hub cache. Raises
        AbsentMetric if a file or the package is not there, ModelError for a wrong one.
        """
        found = tuple(find(file, given or {}) for file in self.files)
        return Opened(self, self.open(*(file.path for file in found)), found)


@dataclass(frozen=True)
class Opened:
    """A metric that is ready, and what its number depends on."""

    metric: Metric
    score: Score
    files: tuple[FoundFile, ...]

    @property
    def label(self) -> str:
        """The metric's, with a star if a file is not proven to be the one that the papers have."""
        plain = self.metric.label.rstrip("*")
        return plain + ("*" if any(file.proven is False for file in self.files) else "")

    @property
    def heading(self) -> str:
        return f"{self.label} {self.metric.arrow}"
