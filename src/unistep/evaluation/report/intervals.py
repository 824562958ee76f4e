"""Where the lines of interval plots lie: means and their intervals, side by side for all who are judged."""

import math
from dataclasses import dataclass
from typing import Any

from ..beside import ARROWS
from ..tables import Results, digits

WIDTH, MARGIN, ROW, TOP, AXIS = 340, 12, 34, 6, 24
"""Of a plot, in its own units."""
TICKS = 6
LONGEST = 34
"""Letters of a name; more are cut."""


@dataclass(frozen=True)
class Row:
    name: str
    short: str
    text: str
    """The number and its interval."""
    colour: int
    y: int
    x: float
    low: float
    high: float


@dataclass(frozen=True)
class Plot:
    title: str
    rows: tuple[Row, ...]
    ticks: tuple[tuple[float, str], ...]
    width: int
    height: int

    @property
    def said(self) -> str:
        """For those who do not see it."""
        return f"{self.title}: " + "; ".join(f"{row.name} {row.text}" for row in self.rows)


def intervals(results: Results, name: str) -> list[Plot]:
    """A plot for each metric that has a mean of anybody on a set."""
    found = []
    for key in results["order"]["metrics"]:
        scores = {s["judged"]: s for s in results["scores"] if s["set"] == name and s["metric"] == key}
        known = {who: s for who, s in scores.items() if s["mean"] is not None}
        if known:
            found.append(_plot(results, results["metrics"][key], known))
    return found


def _plot(results: Results, metric: dict[str, Any], scores: dict[str, dict[str, Any]]) -> Plot:
    numbers = [score[key] for score in scores.values() for key in ("mean", "low", "high")]
    ends = [number for number in numbers if number is not None]
    least, most = min(ends), max(ends)
    if least == most:
        least, most = least - 0.5, most + 0.5
    span = (WIDTH - 2 * MARGIN) / (most - least)

    def across(value: float) -> float:
        return float(round(MARGIN + (value - least) * span, 2))

    n, rows = digits(metric), list[Row]()
    for i, who in enumerate(results["order"]["judged"]):
        if who in scores:
            mean, low, high = (scores[who][key] for key in ("mean", "low", "high"))
            text = f"{mean:.{n}f}" + ("" if low is None else f" [{low:.{n}f}, {high:.{n}f}]")
            at = across(mean)
            ends_at = (at, at) if low is None else (across(low), across(high))
            rows.append(Row(who, _cut(who), text, i, TOP + ROW * len(rows), at, *ends_at))
    marks = tuple((across(tick), f"{tick:g}") for tick in ticks(least, most))
    title = metric["label"] + ARROWS[metric["better"]]
    return Plot(title, tuple(rows), marks, WIDTH, TOP + ROW * len(rows) + AXIS)


def ticks(least: float, most: float) -> list[float]:
    """Round numbers from `least` to `most`, about TICKS of them."""
    rough = (most - least) / TICKS
    power = 10 ** math.floor(math.log10(rough))
    step = next(step * power for step in (1, 2, 5, 10) if step * power >= rough)
    first = math.ceil(least / step)
    return [round(i * step, 10) for i in range(first, math.floor(most / step) + 1)]


def _cut(name: str) -> str:
    return name if len(name) <= LONGEST else name[: LONGEST - 1] + "…"
