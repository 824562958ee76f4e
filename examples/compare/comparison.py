"""What a comparison trained, measured, and its report: tables over the runs and images of each row."""

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from equaltime import read_json, write_json
from photos import Method, Sample, measure, rounded
from tables import best, heading, mean, shown, spread, table, write_csv

from unistep.data.skipping import ignore
from unistep.evaluation.metrics import Score

COSTS = {"steps": "steps", "cpu_seconds": "CPU s", "peak_mib": "peak MiB"}
ABLATION_SETS = ("light", "pairs")
"""What the many rows of the ablations are measured on."""
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
    entry: Entry, sets: dict[str, list[Sample]], inputs: str, measures: dict[str, Score], cache: Path,
    say: Callable[[str], None] = ignore,
) -> Results:  # fmt: skip
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
                results[name] = [measure(measures, rounded(method, s.lq), s.hr) for s in samples]
        kept = {"key": key, "results": results}
        write_json(file, kept)
        say(f"{entry.run}: measured")
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


def cell(line: Line, name: str, top: float) -> str:
    """Mean ± spread; bold if it is the best, in brackets if it is not ranked."""
    value, sd = mean(line.values[name]), spread(line.values[name])
    text = shown(name, value) + ("" if math.isnan(sd) else f" ± {shown(name, sd)}")
    if name in line.unranked and not math.isnan(value):
        return f"({text})"
    return f"**{text}**" if value == top else text


def markdown(found: list[Line], measures: dict[str, Score]) -> str:
    names = [name for name in measures if any(not math.isnan(mean(line.values[name])) for line in found)]
    tops = {
        name: best(name, (mean(line.values[name]) for line in found if name not in line.unranked))
        for name in names
    }
    body = [[line.row + line.marks, *(cell(line, name, tops[name]) for name in names)] for line in found]
    return table(["row", *map(heading, names)], body)


def costs(group: list[Entry]) -> str:
    """What the training of each row cost: the mean of its runs."""
    body = []
    for row in dict.fromkeys(entry.row for entry in group if entry.cost):
        runs = [entry.cost for entry in group if entry.row == row]
        values = {name: mean([float(run[name]) for run in runs]) for name in COSTS}
        per_step = values["cpu_seconds"] / values["steps"]
        body.append([row, str(len(runs)), *(f"{value:.0f}" for value in values.values()), f"{per_step:.2f}"])
    return table(["row", "runs", *COSTS.values(), "CPU s a step"], body) if body else ""


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
            found_lines = lines(group, results, name, measures)
            parts += [f"## {title}: {name} ({found_lines[0].images} images)\n"]
            parts += [markdown(found_lines, measures)]
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


def write_report(
    out: Path, found: list[Entry], results: dict[str, Results], sets: list[str], measures: dict[str, Score]
) -> str:
    """Writes table.csv and table.md, and gives the last one's text."""
    write_csv(out / "table.csv", flat(found, results, measures))
    text = report(found, results, sets, measures)
    (out / "table.md").write_text(text, encoding="utf-8")
    return text
