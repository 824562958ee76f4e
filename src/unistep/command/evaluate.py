"""`unistep eval`: names, defaults and help; the work is in `evaluation`."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Group, Parameter

from unistep.command.habits import tile_of
from unistep.command.options import Compile, Device, Dtype, option
from unistep.command.report import clean, complain, draw, duration, erase, say
from unistep.errors import ConfigError, UnistepError, check_distinct

if TYPE_CHECKING:
    from unistep.evaluation.sets import PictureSet

WHO = Parameter(group=Group.create_ordered("Who is judged"))
ON = Parameter(group=Group.create_ordered("On which pictures"))
PAPER = Parameter(group=Group.create_ordered("Tables of papers"))
BY = Parameter(group=Group.create_ordered("By what"))
WAY = Parameter(group=Group.create_ordered("How models run"))
CI = Parameter(group=Group.create_ordered("Two results against each other"))
STEPS = 10
"""Lines that tell how far it is, where there is no terminal."""

EXAMPLES = """Examples:
  unistep eval --model bicubic --model compact-sharp --hr photos --degradation light --out result
  unistep eval --results theirs=folder --set RealSR=RealSRVal_crop128 --out result
  unistep eval --preset tsd-sr-table-1 --set RealSR=RealSRVal_crop128 --model bicubic --out result
  unistep eval --compare old/results.json new/results.json --fail-if "lpips>+0.01"

When a run was stopped, the same command does the rest. See docs/eval.md.

Exit codes: 0 all done, 1 something failed or a --fail-if holds, 2 wrong usage, 130 interrupted."""


def evaluate(
    *,
    model: Annotated[
        list[str] | None,
        option(
            "bicubic, a name or a .safetensors file; KEY=VALUE: how this one runs. May be repeated.",
            "-m",
            metavar="[NAME=]MODEL[,KEY=VALUE ...]",
        ),
        WHO,
    ] = None,
    results: Annotated[
        list[str] | None,
        option("Pictures that any program made; may be repeated.", metavar="NAME=FOLDER"),
        WHO,
    ] = None,
    set: Annotated[
        list[str] | None,
        option("A set of the field, such as RealSR or LFW; may be repeated.", metavar="NAME=FOLDER"),
        ON,
    ] = None,
    pairs: Annotated[
        list[tuple[str, Path]] | None,
        option("Two folders, matched by name; may be repeated.", metavar="[NAME=]LOW HIGH"),
        ON,
    ] = None,
    lq: Annotated[
        list[str] | None,
        option("Low-quality pictures without a truth; may be repeated.", metavar="[NAME=]FOLDER"),
        ON,
    ] = None,
    hr: Annotated[
        list[str] | None,
        option("Clean photographs, to degrade; may be repeated.", metavar="[NAME=]FOLDER"),
        ON,
    ] = None,
    degradation: Annotated[
        list[str] | None, option("Of --hr; may be repeated. Default: realesrgan."), ON
    ] = None,
    degrade_seed: Annotated[int, option("Of the degradation. Default: 0."), ON] = 0,
    scale: Annotated[int, option("Of --pairs and --lq. Default: 4."), ON] = 4,
    limit: Annotated[int | None, option("Only the first images of each set, by name."), ON] = None,
    unmatched: Annotated[
        Literal["stop", "skip"],
        option("Files without a partner, of a wrong size or unreadable: stop (default) or skip them."),
        ON,
    ] = "stop",
    preset: Annotated[
        str | None,
        option(
            "A paper's table: its metrics, on those of its sets that --set gives. Alone: show it.",
            metavar="TABLE",
        ),
        PAPER,
    ] = None,
    presets: Annotated[bool, option("List the papers' tables."), PAPER] = False,
    metric: Annotated[
        list[str] | None,
        option("May be repeated. Default: all that need no file, or whose files are given."),
        BY,
    ] = None,
    file: Annotated[
        list[str] | None,
        option("A file that metrics need, by its key in docs/evaluate.md.", metavar="KEY=PATH"),
        BY,
    ] = None,
    border: Annotated[
        int, option("Pixels left out on each side by metrics with a truth. Default: 0."), BY
    ] = 0,
    reference_set: Annotated[
        Path | None,
        option("Pictures that fid_f compares with, such as the faces of FFHQ.", metavar="FOLDER"),
        BY,
    ] = None,
    out: Annotated[Path | None, option("Folder for results and tables.", "-o"), BY] = None,
    keep_pictures: Annotated[
        bool, option("Write every result, its input and truth as PNG too: unistep report shows them."), BY
    ] = False,
    device: Annotated[Device, WAY] = "auto",
    dtype: Annotated[Dtype, WAY] = "auto",
    tile: Annotated[
        int | Literal["auto"],
        option("As unistep upscale.", "-t", converter=tile_of, n_tokens=1, metavar="PIXELS"),
        WAY,
    ] = "auto",
    colour: Annotated[
        Literal["wavelet", "adain", "none"] | None, option("As unistep upscale.", "--color"), WAY
    ] = None,
    fidelity: Annotated[float | None, option("As unistep upscale."), WAY] = None,
    seed: Annotated[int, option("For models that draw noise. Default: 0."), WAY] = 0,
    vae_tiles: Annotated[
        Literal["auto", "whole", "exact", "fast"], option("As unistep upscale."), WAY
    ] = "auto",
    decoder: Annotated[str | None, option("As unistep upscale.", metavar="tiny|FILE"), WAY] = None,
    steps: Annotated[int | None, option("As unistep upscale."), WAY] = None,
    weights: Annotated[Literal["full", "int8", "int4"], option("As unistep upscale."), WAY] = "full",
    offload: Annotated[bool, option("As unistep upscale."), WAY] = False,
    compile: Annotated[Compile, WAY] = False,
    reproduce: Annotated[bool, option("As unistep upscale."), WAY] = False,
    compare: Annotated[tuple[Path, Path] | None, option("Two results.json.", metavar="OLD NEW"), CI] = None,
    fail_if: Annotated[
        list[str] | None,
        option("Exit with 1 where NEW minus OLD is so; may be repeated.", metavar="METRIC>+NUMBER"),
        CI,
    ] = None,
) -> int:
    """Measure models and result folders on test sets: tables, intervals, paired tests."""
    if compare is not None:
        return _compare(compare, fail_if or [])
    if fail_if:
        raise ConfigError("--fail-if needs --compare OLD NEW: two results.json")
    if presets or (preset and not (model or results or set or pairs or lq or hr or out)):
        from unistep.command import papers

        print(papers.shown(preset) if preset else papers.listed())
        return 0
    if out is None:
        raise ConfigError("expected --out FOLDER, found none")
    from unistep.evaluation.journal import Journal
    from unistep.evaluation.judged import agreed, judged
    from unistep.evaluation.keeping import Pictures
    from unistep.evaluation.measuring import measures
    from unistep.evaluation.run import Evaluation, measure
    from unistep.evaluation.settings import Settings
    from unistep.evaluation.setwide import compared
    from unistep.evaluation.writing import JOURNAL, RESULTS, write
    from unistep.extras import extra

    extra("scipy")  # said before hours of work
    table = None
    if preset is not None:
        from unistep.evaluation.presets import preset as plan

        others = [name for name, given in (("--pairs", pairs), ("--lq", lq), ("--hr", hr)) if given]
        table = plan(preset, [text.partition("=")[0] for text in set or []], metric, others)
        metric = list(table.metrics)
        if table.note:
            say(table.note)
    how = Settings(
        device, dtype, tile, colour, fidelity, seed, steps, decoder, weights, vae_tiles, offload, compile,
        reproduce,
    )  # fmt: skip
    who = judged(
        [_model(text) for text in model or []],
        [(name, Path(path)) for name, path in map(_named, results or [])],
        how,
    )
    by = measures(metric, _files(file or []), border, reference_set is not None)
    sets = _sets(
        set or [], pairs or [], lq or [], hr or [], degradation or ["realesrgan"], degrade_seed, scale
    )
    from unistep.evaluation.sets import decided, first

    on = agreed(who, [first(decided(one, unmatched), limit) for one in sets], unmatched)
    for one in on:
        for note in one.notes:
            say(f"{one.name}: {note}")
    by, published = (table.ordered(by), table.said(border)) if table else (by, None)
    keep = Pictures.of(out, [one.name for one in who], [one.name for one in on]) if keep_pictures else None
    bar = _Bar()
    try:
        with Journal(out / JOURNAL) as journal:
            if reference_set is not None:
                by = compared(by, reference_set, journal, unmatched, bar.tick)
                bar.end()
                bar = _Bar()
            run = Evaluation(who, on, by, device, published)
            measure(run, journal, bar.tick, keep)
            bar.end()
            print(clean_lines(write(run, journal, out)))
            if keep is not None:
                keep.finish(out / RESULTS)
    except KeyboardInterrupt:
        bar.end()
        complain("interrupted; the same command does the rest")
        return 130
    except UnistepError:  # its sentence is not written over the bar
        bar.end()
        raise
    return 0


def _compare(files: tuple[Path, Path], texts: Sequence[str]) -> int:
    from unistep.evaluation.comparing import Condition, compare, read_results

    conditions = [Condition.read(text) for text in texts]
    old, new = (read_results(file) for file in files)
    lines, failures = compare(old, new, conditions)
    for line in lines:
        print(clean(line))
    for failure in failures:
        complain(f"fails: {failure}")
    return 1 if failures else 0


def _sets(
    known: Sequence[str], pairs: Sequence[tuple[str, Path]], lq: Sequence[str], hr: Sequence[str],
    degradations: Sequence[str], seed: int, scale: int,
) -> list[PictureSet]:  # fmt: skip
    from unistep.evaluation import sets

    found = []
    for text in known:
        name, sign, path = text.partition("=")
        if not sign:
            raise ConfigError(f"expected --set NAME=FOLDER, found {text!r}")
        found.append(sets.of_name(name, Path(path)))
    for low, high in pairs:
        name, path = _named(low)
        found.append(sets.of_pairs(name, Path(path), high, scale))
    for name, path in map(_named, lq):
        found.append(sets.of_low(name, Path(path), scale))
    for name, path in map(_named, hr):
        found += [sets.of_clean(f"{name}-{how}", Path(path), how, seed) for how in degradations]
    check_distinct("set", [one.name for one in found])
    if not found:
        raise ConfigError("expected pictures to measure on, found none: give --set, --pairs, --lq or --hr")
    return found


def _named(text: str) -> tuple[str, str]:
    """NAME=VALUE, or a value that names itself: a file without its suffix, the last part of a path."""
    hit = re.fullmatch(r"([^=/\\]+)=(.+)", text)
    if hit:
        name, value = hit[1], hit[2]
    else:
        path = Path(text)
        name, value = path.stem if path.suffix == ".safetensors" else path.resolve().name, text
    if name in ("", ".", ".."):
        raise ConfigError(f"expected NAME=VALUE with a name, found {text!r}")
    return name, value


def _model(text: str) -> tuple[str, str]:
    """[NAME=]MODEL[,KEY=VALUE ...] -> the name, without NAME= with the settings in it, and the rest."""
    from unistep.evaluation.settings import split

    whole, own = split(text)
    name, value = _named(whole)
    if value == whole:
        name += "".join(f",{key.replace('_', '-')}={Path(value).name}" for key, value in own.items())
    return name, value + text[len(whole) :]


def _files(texts: Sequence[str]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for text in texts:
        key, sign, path = text.partition("=")
        if not sign:
            raise ConfigError(f"expected --file KEY=PATH, found {text!r}")
        found[key] = Path(path)
    return found


def clean_lines(text: str) -> str:
    """A table whose names cannot steer a terminal."""
    return "\n".join(map(clean, text.split("\n")))


class _Bar:
    """How far it is: a line drawn anew on a terminal, elsewhere a few lines."""

    def __init__(self) -> None:
        self.bar, self.began, self.told = sys.stderr.isatty(), time.perf_counter(), 0

    def tick(self, part: float, line: str) -> None:
        spent = time.perf_counter() - self.began
        text = f"{part:4.0%}  ETA {duration(spent / part - spent)}  {clean(line)}"
        if self.bar:
            draw(part, text)
        elif int(part * STEPS) > self.told:
            self.told = int(part * STEPS)
            say(text)

    def end(self) -> None:
        if self.bar:
            erase()
