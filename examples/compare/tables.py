"""Figures as Markdown tables, with the digits and the direction of each measure."""

import csv
import math
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path

from unistep.evaluation.metrics import METRICS

Rows = list[dict[str, object]]
"""Of a set, an image and a method: a line with a value for each measure."""
DIGITS = {"psnr_y": 3, "niqe": 2, "grid": 2, "swd": 1}
"""After the point; of other measures 4."""


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head, *body = ("| " + " | ".join(line) + " |" for line in [heads, *rows])
    return "\n".join([head, "|" + "---|" * len(heads), *body]) + "\n"


def mean(values: Iterable[float]) -> float:
    """Of those that are known; nan if none is."""
    known = [v for v in values if not math.isnan(v)]
    return sum(known) / len(known) if known else math.nan


def spread(values: Sequence[float]) -> float:
    """Sample standard deviation; nan for fewer than two."""
    return statistics.stdev(values) if len(values) > 1 else math.nan


def best(name: str, values: Iterable[float]) -> float:
    """Of a measure's values; nan for a measure without a direction, or where none is known."""
    known = [value for value in values if not math.isnan(value)]
    higher = METRICS[name].higher_is_better
    return math.nan if higher is None or not known else (max if higher else min)(known)


def heading(name: str) -> str:
    return METRICS[name].heading


def shown(name: str, value: float) -> str:
    """Empty for nan."""
    return "" if math.isnan(value) else f"{value:.{DIGITS.get(name, 4)}f}"


def write_csv(path: Path, rows: Rows) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
