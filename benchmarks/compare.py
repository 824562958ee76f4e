"""Three methods and their ablations on one teacher, the same photographs and equal CPU time.

    python benchmarks/compare.py --data TRAINING_PHOTOS --teacher FILE --out OUT --budget CPU_SECONDS \
        --ablations --small-teacher FILE --pairs FOLDER_WITH_lr_AND_hr --lq LOW_QUALITY_PHOTOS \
        --niqe niqe_pris_params.npz --lpips squeezenet1_1.safetensors lpips_v0.1_squeeze_heads.safetensors \
        --peer realesr-general-x4v3=realesr_general_x4v3.safetensors

Each row of `runs.py` is trained on one thread for a budget of CPU seconds, then measured as in quality.py on
the photographs that training kept out. Stop it at will: the same command goes on, and finished runs are not
run again. OUT gets a folder per run, table.md, table.csv and figure.png. Exits with 1 if a row failed.
"""

import argparse
import hashlib
import math
import statistics
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from figure import bundled, figure
from quality import (
    Method,
    Sample,
    alone,
    bicubic,
    degraded,
    heading,
    held_out,
    mean,
    measure,
    named,
    pairs,
    peer,
    scores,
    shown,
    student,
    write_csv,
)
from runs import ABLATIONS, ROWS, Job, plan, read_json, train_all, write_json

from unistep.errors import UnistepError
from unistep.evaluation.metrics import METRICS, Score
from unistep.models.checkpoint import read_header, resolve

SLOT = "one-step slot"
ABLATION_SETS = ("light", "pairs")
"""What the many rows of the ablations are measured on."""
COSTS = {"steps": "steps", "cpu_seconds": "CPU s", "peak_mib": "peak MiB"}
Results = dict[str, list[dict[str, float]]]
"""Set -> the measures of each of its images."""


@dataclass(frozen=True)
class Entry:
    """Something to measure. Entries of the same group and row are one line of the table."""

    group: str
    row: str
    run: str
    file: Path | None
    open: Callable[[], Method]
    header: dict[str, Any] = field(default_factory=dict)
    cost: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Line:
    """A line of a table: `values` are means over the images, one of each run."""

    row: str
    images: int
    values: dict[str, list[float]]
    marks: str = ""
    unranked: frozenset[str] = frozenset()


def entries(args: argparse.Namespace, jobs: list[Job]) -> list[Entry]:
    """Baselines, then every run that has weights."""

    def weights(group: str, row: str, run: str, file: Path, cost: dict[str, Any]) -> Entry:
        return Entry(group, row, run, file, lambda: student(file), read_header(file), cost)

    found = [
        Entry("methods", "bicubic", "bicubic", None, lambda: bicubic),
        weights("methods", SLOT, "slot", args.teacher, {}),
    ]
    found += [Entry("methods", n, f"peer-{n}", f, lambda f=f: peer(f)) for n, f in args.peer]
    if args.small_teacher:
        found.append(weights("ablations", SLOT, "slot-small", args.small_teacher, {}))
    for job in jobs:
        if job.weights.exists():
            group = "ablations" if job.ablation else "methods"
            cost = read_json(job.folder / "cost.json")
            found.append(weights(group, job.row, job.folder.name, job.weights, cost))
    return found


def sha256(*parts: bytes) -> str:
    total = hashlib.sha256()
    for part in parts:
        total.update(hashlib.sha256(part).digest())
    return total.hexdigest()


def fingerprint(sets: dict[str, list[Sample]]) -> str:
    """Of all that is measured on."""
    parts = [name.encode() for name in sets]
    for samples in sets.values():
        for sample in samples:
            parts += [x.numpy().tobytes() for x in (sample.lq, sample.hr) if x is not None]
    return sha256(*parts)


def evaluated(
    entry: Entry, sets: dict[str, list[Sample]], inputs: str, measures: dict[str, Score], cache: Path
) -> Results:
    """The measures of one entry's results, rounded to 8 bits; kept in `cache` as long as nothing changed."""
    key = sha256(entry.file.read_bytes() if entry.file else b"", inputs.encode(), repr([*measures]).encode())
    file = cache / entry.group / f"{entry.run}.json"
    kept = read_json(file)
    if kept.get("key") != key:
        method, results = entry.open(), {}
        with torch.inference_mode():  # of this thread
            for name, samples in sets.items():
                if entry.group == "ablations" and name not in ABLATION_SETS:
                    continue
                outputs = ((method(s.lq).clamp(0, 1) * 255).round() / 255 for s in samples)
                results[name] = [measure(measures, x, s.hr) for x, s in zip(outputs, samples, strict=True)]
        kept = {"key": key, "results": results}
        write_json(file, kept)
        print(f"{entry.run}: measured", file=sys.stderr, flush=True)
    found: Results = kept["results"]
    return found


def on_squeezenet(header: dict[str, Any]) -> bool:
    """Whether one of the runs that made these weights had a loss on the features of SqueezeNet."""
    runs = [part["run"] for part in header.get("history", [])]
    return any(
        run["train"].get("features") == "squeezenet"
        and (run["method"].get("weight_lpips") or run["method"].get("spatial", "mse") != "mse")
        for run in runs
    )


def weak(header: dict[str, Any]) -> bool:
    return not header.get("teacher", {"passes": True})["passes"]


def lines(
    group: list[Entry], results: dict[str, Results], set_name: str, measures: dict[str, Score]
) -> list[Line]:
    """The lines of one set, a row's runs gathered."""
    out = []
    for row in dict.fromkeys(entry.row for entry in group):
        runs = [entry for entry in group if entry.row == row]
        images = [results[entry.run][set_name] for entry in runs]
        values = {name: [mean([x[name] for x in one]) for one in images] for name in measures}
        marks = "†" if any(weak(entry.header) for entry in runs) else ""
        trained_on = any(on_squeezenet(entry.header) for entry in runs)
        unranked = frozenset({"lpips_squeeze"} if trained_on else ())
        out.append(Line(row, len(images[0]), values, marks, unranked))
    return out


def spread(values: list[float]) -> float:
    """Sample standard deviation; nan for fewer than two."""
    return statistics.stdev(values) if len(values) > 1 else math.nan


def best(table: list[Line], name: str) -> float:
    """The best mean of the ranked lines; nan for a measure without a direction."""
    means = [mean(line.values[name]) for line in table if name not in line.unranked]
    means = [value for value in means if not math.isnan(value)]
    higher = METRICS[name].higher_is_better
    return math.nan if higher is None or not means else (max if higher else min)(means)


def cell(line: Line, name: str, top: float) -> str:
    """Mean ± spread; bold if it is the best, in brackets if it is not ranked."""
    value, sd = mean(line.values[name]), spread(line.values[name])
    text = shown(name, value) + ("" if math.isnan(sd) else f" ± {shown(name, sd)}")
    if name in line.unranked and not math.isnan(value):
        return f"({text})"
    return f"**{text}**" if value == top else text


def rows_of(heads: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    return "\n".join("| " + " | ".join(row) + " |" for row in [heads, ["---"] * len(heads), *rows]) + "\n"


def markdown(table: list[Line], measures: dict[str, Score]) -> str:
    names = [name for name in measures if any(not math.isnan(mean(line.values[name])) for line in table)]
    tops = {name: best(table, name) for name in names}
    body = [[line.row + line.marks, *(cell(line, name, tops[name]) for name in names)] for line in table]
    return rows_of(["row", *map(heading, names)], body)


def costs(group: list[Entry]) -> str:
    """What the training of each row cost: the mean of its runs."""
    body = []
    for row in dict.fromkeys(entry.row for entry in group if entry.cost):
        runs = [entry.cost for entry in group if entry.row == row]
        values = {name: mean([float(run[name]) for run in runs]) for name in COSTS}
        per_step = values["cpu_seconds"] / values["steps"]
        body.append([row, str(len(runs)), *(f"{value:.0f}" for value in values.values()), f"{per_step:.2f}"])
    return rows_of(["row", "runs", *COSTS.values(), "CPU s a step"], body) if body else ""


def footnotes(found: list[Entry]) -> str:
    notes = ["± is the standard deviation over seeds. Bold: the best mean of a column that has a direction."]
    for group in dict.fromkeys(e.group for e in found if weak(e.header)):
        gates = [e.header["teacher"] for e in found if e.group == group and weak(e.header)]
        energy, swd, slot = (mean([g[key] for g in gates]) for key in ("gradient_energy", "swd", "swd_slot"))
        notes.append(
            f"† {group}: the teacher is below its gate. The {gates[0]['steps']}-step samples that each run "
            f"measured have a mean gradient energy of {energy:.2f} and an SWD of {swd:.2f}, in one step "
            f"{slot:.2f}, as ratios to bicubic's."
        )
    if any(on_squeezenet(entry.header) for entry in found):
        notes.append(
            "(…) A loss on SqueezeNet's features trained this row, so that LPIPS-squeeze* does not rank it."
        )
    return "\n\n".join(notes) + "\n"


def report(
    found: list[Entry], results: dict[str, Results], sets: list[str], measures: dict[str, Score]
) -> str:
    """table.md."""
    parts = []
    for title in dict.fromkeys(entry.group for entry in found):
        group = [entry for entry in found if entry.group == title]
        cost = costs(group)
        parts += [f"## {title}: cost of training\n", cost] if cost else []
        for name in (name for name in sets if name in results[group[0].run]):
            table = lines(group, results, name, measures)
            parts += [f"## {title}: {name} ({table[0].images} images)\n", markdown(table, measures)]
    return "\n".join([*parts, footnotes(found)])


def flat(
    found: list[Entry], results: dict[str, Results], measures: dict[str, Score]
) -> list[dict[str, object]]:
    """table.csv: a line per run and set."""
    return [
        {
            "group": entry.group, "row": entry.row, "run": entry.run, "set": name, "images": len(images),
            **{measure: mean([x[measure] for x in images]) for measure in measures},
            **{cost: entry.cost.get(cost, "") for cost in COSTS},
        }
        for entry in found
        for name, images in results[entry.run].items()
    ]  # fmt: skip


def arguments() -> argparse.Namespace:
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    p.add_argument("--data", type=Path, required=True, help="folder of training photographs")
    p.add_argument("--teacher", type=resolve, required=True, help="a model's name or a Unistep file")
    p.add_argument("--out", type=Path, required=True, help="folder for the runs, the tables and the figure")
    p.add_argument("--budget", type=float, help="CPU seconds of each run")
    p.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    p.add_argument("--ablations", action="store_true", help="also the ablations, with the first seed")
    p.add_argument("--small-teacher", type=resolve, help="the teacher of the ablations")
    p.add_argument("--ablation-budget", type=float, default=600, help="CPU seconds of each ablation")
    p.add_argument("--only", nargs="+", metavar="ROW", choices=[*ROWS, *ABLATIONS], help="only these rows")
    p.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of every run")
    p.add_argument("--jobs", type=int, default=2, help="trainings at a time, one thread each")
    p.add_argument("--report", action="store_true", help="train nothing; measure what is there")
    p.add_argument("--pairs", type=Path, help="folder with lr/ and hr/")
    p.add_argument("--lq", type=Path, help="folder of low-quality photographs without a reference")
    p.add_argument("--niqe", type=Path, metavar="NPZ", help="NIQE's pristine model")
    p.add_argument("--lpips", type=Path, nargs=2, metavar=("SQUEEZENET", "HEADS"), help="for LPIPS-squeeze*")
    p.add_argument(
        "--peer", type=named, action="append", default=[], metavar="[NAME=]FILE", help="SRVGGNetCompact x4"
    )
    p.add_argument("--limit", type=int, help="images per set")
    p.add_argument("--figure-from", choices=("held-out", "skimage"), default="held-out")
    args = p.parse_args()
    if args.budget is None and not args.report:
        p.error("--budget is needed to train: CPU seconds of each run")
    if args.ablations and not args.small_teacher:
        p.error("--ablations needs --small-teacher")
    return args


def measured_on(args: argparse.Namespace) -> dict[str, list[Sample]]:
    photographs = held_out(args.data)[: args.limit]
    sets = {preset: list(degraded(photographs, preset, 0)) for preset in ("light", "realesrgan")}
    if args.pairs:
        sets["pairs"] = list(pairs(args.pairs, args.limit))
    if args.lq:
        sets["lq"] = list(alone(args.lq, args.limit))
    return sets


def run(args: argparse.Namespace) -> list[str]:
    """Returns what failed."""
    more = (args.data, args.out)
    jobs = plan(ROWS, False, args.seeds, args.teacher, *more, args.budget or 0.0, args.set, args.only)
    if args.ablations:
        jobs += plan(ABLATIONS, True, args.seeds[:1], args.small_teacher, *more, args.ablation_budget,
                     args.set, args.only, args.teacher)  # fmt: skip
    failures: list[str] = []
    if not args.report:
        failures = train_all(jobs, args.jobs, lambda text: print(text, file=sys.stderr, flush=True))

    sets, measures = measured_on(args), scores(args)
    inputs, found = fingerprint(sets), entries(args, jobs)
    with ThreadPoolExecutor(args.jobs) as pool:
        cache = args.out / "evaluation"
        everything = pool.map(lambda e: evaluated(e, sets, inputs, measures, cache), found)
        results = {e.run: result for e, result in zip(found, everything, strict=True)}
    write_csv(args.out / "table.csv", flat(found, results, measures))
    text = report(found, results, list(sets), measures)
    (args.out / "table.md").write_text(text, encoding="utf-8")
    print(text)
    columns: dict[str, Entry] = {}
    for entry in found:
        if entry.group == "methods":
            columns.setdefault(entry.row, entry)  # of several seeds the first
    light = sets["light"]
    chosen = bundled() if args.figure_from == "skimage" else (light[:: max(1, len(light) // 4)][:4], {})
    figure(*chosen, {row: e.open() for row, e in columns.items()}).save(args.out / "figure.png")
    return failures


if __name__ == "__main__":
    try:
        with torch.inference_mode():
            failed = run(arguments())
    except (UnistepError, OSError) as error:
        sys.exit(f"compare: {error}")
    except KeyboardInterrupt:
        sys.exit("compare: stopped; the same command goes on")
    sys.exit("\n".join(["compare: some rows failed", *failed]) if failed else 0)
