"""How sure a number is: bootstrap intervals of means, paired tests between models, best and second best."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..extras import extra

Values = npt.NDArray[np.float64]
RESAMPLES, SEED, LEVEL = 10_000, 0, 0.95
EXACT = 50
"""Differences up to which the test's distribution is counted and not approximated."""
SAID = {
    "interval": f"mean over images, {LEVEL:.0%} percentile bootstrap, {RESAMPLES} resamples of images, "
    f"seed {SEED}",
    "test": "Wilcoxon signed-rank test of the images' differences, two-sided; differences of 0 are left "
    f"out; exact for up to {EXACT} others without ties, else normal, corrected for ties, not for continuity",
    "correction": "Holm, over all pairs of models and all metrics with a direction of one set",
}
"""The rules, as captions say them."""


def interval(values: Values) -> tuple[float, float] | None:
    """Of the mean of [n] values; the same values give the same numbers. None for fewer than two."""
    n = len(values)
    if n < 2:
        return None
    random, means = np.random.default_rng(SEED), np.empty(RESAMPLES)
    step = max(1, 1_000_000 // n)
    for start in range(0, RESAMPLES, step):
        rows = min(step, RESAMPLES - start)
        means[start : start + rows] = values[random.integers(0, n, (rows, n))].mean(1)
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def signed_rank(a: Values, b: Values) -> float:
    """p of the Wilcoxon signed-rank test (1945) on pairs [n], by SAID's rule; 1 if all are equal.

    Raises ConfigError without scipy.
    """
    differences = a - b
    differences = differences[differences != 0]
    if not len(differences):
        return 1.0
    ties = len(np.unique(np.abs(differences))) < len(differences)
    stats: Any = extra("scipy", "scipy.stats")
    method = "approx" if ties or len(differences) > EXACT else "exact"
    return float(stats.wilcoxon(differences, correction=False, method=method).pvalue)


def holm(p: Sequence[float]) -> list[float]:
    """p adjusted for their number (Holm 1979), in their order."""
    order = sorted(range(len(p)), key=lambda i: p[i])
    out, least = [0.0] * len(p), 0.0
    for rank, i in enumerate(order):
        least = max(least, min(1.0, (len(p) - rank) * p[i]))
        out[i] = least
    return out


def paired(values: Mapping[str, Mapping[str, Values]]) -> list[dict[str, Any]]:
    """All pairs of models: metric -> model -> values [n] of the same images, to one line for each test."""
    lines: list[dict[str, Any]] = []
    for metric, models in values.items():
        for a, b in itertools.combinations(models, 2):
            difference = float((models[a] - models[b]).mean())
            p = signed_rank(models[a], models[b])
            lines.append(
                {"metric": metric, "a": a, "b": b, "images": len(models[a]), "difference": difference, "p": p}
            )
    for line, p in zip(lines, holm([line["p"] for line in lines]), strict=True):
        line["p_holm"] = p
    return lines


def places(values: Sequence[float | None], higher: bool | None, digits: int) -> list[int]:
    """1 for the best, 2 for the second best, 0 for others; equal where equal as shown.

    No value and a metric without a direction are never placed; a single value is not either.
    """
    shown = [None if value is None else round(value, digits) for value in values]
    known = sorted({value for value in shown if value is not None}, reverse=bool(higher))
    if higher is None or sum(value is not None for value in shown) < 2:
        return [0] * len(values)
    return [
        0 if value is None else (known.index(value) + 1) % 3 * (known.index(value) < 2) for value in shown
    ]
