"""`unistep bench`: what models cost, side by side; the work is in `evaluation.cost`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Group, Parameter

from unistep.command.habits import tile_of
from unistep.command.options import Compile, Device, Dtype, argument, option
from unistep.command.report import clean, draw, erase
from unistep.errors import ConfigError

WHAT = Parameter(group=Group.create_ordered("What is measured"))
HOW = Parameter(group=Group.create_ordered("How models run"))
SHOWN = Parameter(group=Group.create_ordered("What is shown"))


def _sizes(kind: object, tokens: Sequence[Any]) -> tuple[float, ...]:
    said = tokens[0].value
    try:
        return tuple(float(part) for part in said.split(","))
    except ValueError as error:
        raise ConfigError(
            f"expected --sizes as numbers with commas, such as 0.25,1,4, found {said!r}"
        ) from error


def bench(
    models: Annotated[
        list[str] | None,
        argument("MODEL", "[NAME=]MODEL[,OPTION=VALUE...], one or more. Default: the packaged model."),
    ] = None,
    /,
    *,
    size: Annotated[int, option("Side of the small picture, in pixels. Default: 128."), WHAT] = 128,
    repeat: Annotated[int, option("Rounds, of which the median counts. Default: 30."), WHAT] = 30,
    growth: Annotated[bool, option("Results of 0.25, 1, 4 and 16 megapixels, too."), WHAT] = False,
    sizes: Annotated[
        tuple[float, ...],
        option("Results of these megapixels, too.", converter=_sizes, n_tokens=1, metavar="A,B,..."),
        WHAT,
    ] = (),
    limit: Annotated[
        float, option("Seconds that a run may take to be measured, of --growth. Default: 60."), WHAT
    ] = 60,
    no_files: Annotated[bool, option("Leave picture files out."), WHAT] = False,
    count: Annotated[bool, option("Only count: nothing is run."), WHAT] = False,
    baseline: Annotated[str | None, option("Name that ratios are to. Default: the first."), WHAT] = None,
    peaks: Annotated[
        tuple[float, float] | None,
        option("The device's peaks, instead of measuring them.", metavar="TFLOP/s GB/s"),
        WHAT,
    ] = None,
    device: Annotated[Device, HOW] = "auto",
    dtype: Annotated[Dtype, HOW] = "auto",
    threads: Annotated[int | None, option("Of the CPU. Default: as torch has them."), HOW] = None,
    tile: Annotated[
        int | Literal["auto"],
        option("As unistep upscale.", "-t", converter=tile_of, n_tokens=1, metavar="PIXELS"),
        HOW,
    ] = "auto",
    vae_tiles: Annotated[
        Literal["auto", "whole", "exact", "fast"], option("As unistep upscale."), HOW
    ] = "auto",
    colour: Annotated[
        Literal["wavelet", "adain", "none"] | None, option("As unistep upscale.", "--color"), HOW
    ] = None,
    compile: Annotated[Compile, HOW] = False,
    markdown: Annotated[bool, option("Tables in Markdown."), SHOWN] = False,
    json: Annotated[bool, option("One JSON object, for programs."), SHOWN] = False,
    plot: Annotated[
        Path | None, option("A plot of growth; needs the extra eval.", metavar="FILE.png|.svg"), SHOWN
    ] = None,
    out: Annotated[
        Path | None, option("Folder for bench.json, table.md and growth.png.", "-o"), SHOWN
    ] = None,
) -> int:
    """Measure what models cost: arithmetic, time and memory, side by side, against what the device can do."""
    if json and markdown:
        raise ConfigError("--json and --markdown exclude each other: give one of them, or --out for both")
    if peaks is not None and not min(peaks) > 0:
        raise ConfigError(f"expected --peaks to be two numbers above 0, found {peaks[0]:g},{peaks[1]:g}")
    from unistep.counting.operators import Peaks
    from unistep.evaluation.cost import growth as growing
    from unistep.evaluation.cost import plot as plotting
    from unistep.evaluation.cost import tables, writing
    from unistep.evaluation.cost.participants import Ways
    from unistep.evaluation.cost.run import Settings
    from unistep.evaluation.cost.run import bench as measure
    from unistep.evaluation.cost.wanted import wanted

    if growth and sizes:
        raise ConfigError("--growth and --sizes exclude each other: --growth is --sizes 0.25,1,4,16")
    sizes = growing.DEFAULT if growth else sizes
    if plot is not None and not sizes:
        raise ConfigError("--plot draws how cost grows: give --growth or --sizes")
    if plot is not None or (out is not None and sizes):
        plotting.checked(plot or Path(writing.PLOT))
    given = None if peaks is None else Peaks(peaks[0] * 1e12, peaks[1] * 1e9)
    ways = Ways(device, dtype, tile, vae_tiles, colour, compile)
    settings = Settings(
        size, repeat, given, baseline, tuple(sizes), limit, not no_files, count, threads, ways
    )
    everyone = wanted(models or [])
    if out is not None:
        writing.prepare(out)
    found = measure(everyone, settings, _tick)
    if sys.stderr.isatty():
        erase()
    if plot is not None:
        plotting.draw(found, plot)
    if out is not None:
        writing.write(found, out)
    if json:
        print(writing.text_of(found), end="")
    else:
        made = tables.markdown(found) if markdown else tables.text(found)
        print("\n".join(map(clean, made.rstrip("\n").split("\n"))))
    return 0


def _tick(line: str) -> None:
    if sys.stderr.isatty():
        draw(0, line)
