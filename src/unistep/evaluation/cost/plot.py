"""A plot of how cost grows: seconds and memory against megapixels, from a benchmark's JSON object."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...atomic import atomic_write
from ...errors import ConfigError, DataError
from ...extras import extra

KINDS = (".png", ".svg")
WIDTH, HEIGHT, DPI = 11.0, 4.6, 130
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000")
"""That people without full colour vision tell apart (Okabe and Ito 2008); then they begin again."""
MARKS = "osD^vPX"


def checked(path: Path) -> None:
    """Raises ConfigError for a plot that cannot be drawn into `path`."""
    if path.suffix.lower() not in KINDS:
        raise ConfigError(f"expected --plot FILE.png or FILE.svg, found {path.name}")
    extra("matplotlib")


def _mega(value: int | None) -> float:
    """Megabytes; what is not known is not drawn."""
    return float("nan") if value is None else value / 1e6


def draw(found: Mapping[str, Any], path: Path) -> None:
    """Measured values are marks with lines, counted ones dashed lines. Raises ConfigError, DataError."""
    checked(path)
    figure = extra("matplotlib", "matplotlib.figure").Figure((WIDTH, HEIGHT), layout="constrained")
    left, right = figure.subplots(1, 2)
    ticker = extra("matplotlib", "matplotlib.ticker")
    for i, model in enumerate(found["models"]):
        colour, mark = COLOURS[i % len(COLOURS)], MARKS[i % len(MARKS)]
        ran = [line for line in model["growth"] if line["seconds"] is not None]
        style: dict[str, Any] = {"color": colour, "marker": mark, "label": model["name"]}
        size = [line["megapixels"] for line in ran]
        every = [line["megapixels"] for line in model["growth"]]
        low, high = ([line["spread"]["seconds"][key] for line in ran] for key in ("low", "high"))
        left.plot(size, [line["seconds"] for line in ran], **style)
        left.fill_between(size, low, high, color=colour, alpha=0.2, linewidth=0)
        right.plot(size, [_mega(line["measured_peak_bytes"]) for line in ran], **style)
        dashed: dict[str, Any] = {"color": colour, "linewidth": 1, "linestyle": "--"}
        right.plot(every, [_mega(line["peak_bytes"]) for line in model["growth"]], **dashed)
        if model.get("bound_fused") and model["gmacs"]:
            # the roofline of the size that was counted in full, by the work of each size
            bound = [model["bound_fused"] * line["gmacs"] / model["gmacs"] for line in model["growth"]]
            left.plot(every, bound, **dashed)
    ticks = sorted({line["megapixels"] for model in found["models"] for line in model["growth"]})
    for axes, label, what in (
        (left, "seconds", "least time by the counted work"),
        (right, "peak memory, MB", "counted, whole picture at once"),
    ):
        axes.set(xscale="log", yscale="log", xlabel="megapixels of the result (1024 x 1024)", ylabel=label)
        axes.set_xticks(ticks, [f"{tick:.3g}" for tick in ticks])
        axes.minorticks_off()
        axes.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(ticker.FuncFormatter(lambda value, place: f"{value:g}"))
        axes.grid(alpha=0.3)
        axes.plot([], [], "--", color="grey", linewidth=1, label=what)
        axes.legend(fontsize="small", frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
    left.set_title(f"Time: unistep upscale, {found['machine']}", fontsize="medium")
    right.set_title("Memory beyond the program's own, with weights", fontsize="medium")
    try:
        with atomic_write(path) as file:
            figure.savefig(file, format=path.suffix[1:].lower(), dpi=DPI)
    except OSError as error:
        raise DataError(f"expected to write {path}, found: {error}") from error
