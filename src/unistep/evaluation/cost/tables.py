"""Tables of a benchmark, for a terminal and in Markdown, made from its JSON object alone."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Bench = Mapping[str, Any]
NONE = "—"
MEASURED, COUNTED = "measured", "counted"


@dataclass(frozen=True)
class Table:
    title: str
    head: list[str]
    rows: list[list[str]]
    notes: list[str]


def markdown(found: Bench) -> str:
    parts = []
    for table in tables(found):
        lines = [
            "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |"
            for row in [table.head, *table.rows]
        ]
        rule = "|" + "---|" * len(table.head)
        parts.append("\n".join([f"## {table.title}\n", lines[0], rule, *lines[1:], "", *_apart(table.notes)]))
    return "\n".join(parts)


def text(found: Bench) -> str:
    """Columns one below the other; the first to the left, numbers to the right."""
    parts = []
    for table in tables(found):
        rows = [table.head, *table.rows]
        widths = [max(len(row[i]) for row in rows) for i in range(len(table.head))]
        left = [all(not cell[:1].isdigit() for cell in column[1:]) for column in zip(*rows, strict=True)]
        lines = [
            "  ".join(
                cell.ljust(width) if to_left else cell.rjust(width)
                for cell, width, to_left in zip(row, widths, left, strict=True)
            ).rstrip()
            for row in rows
        ]
        parts.append(
            "\n".join([table.title, *(f"  {line}" for line in lines), *(f"  {n}" for n in table.notes)])
        )
    return "\n\n".join(parts) + "\n"


def tables(found: Bench) -> list[Table]:
    made = [_network(found)]
    if any(model["stages"] for model in found["models"]):
        made.append(_stages(found))
    if any(model["growth"] for model in found["models"]):
        made.append(_growth(found))
    return made


def _network(found: Bench) -> Table:
    models, base = found["models"], found["baseline"]
    ran, several = models[0]["seconds"] is not None, len(models) > 1
    peaks = found["peaks"]
    memory = f"{found['how']['peak_bytes']}: weights and activations of one call"

    def row(name: str, cell: Callable[[Any], str], how: str) -> list[str]:
        return [name, *(cell(model) for model in models), how]

    def ratio(key: str) -> list[list[str]]:
        if not several:
            return []
        of = f"of {base}" if not key.endswith("seconds") else f"of {base}, within each round"
        return [row("  times", lambda m: _times(m["ratios"][key]), of)]

    runs = f"{MEASURED}, median [quartiles] of {models[0]['runs']}"
    runs += ", compiled" if models[0]["compiled"] else ""
    rows = [
        row("result", lambda m: _pixels(m["output"]), f"of {found['size']} x {found['size']} pixels"),
        row("computes in", lambda m: f"{m['dtype']}, {m['device']}", ""),
        row("parameters", lambda m: f"{m['parameters'] / 1e6:.3f} M", COUNTED),
        row(
            "GMAC", lambda m: _number(m["gmacs"], ".2f"), f"{COUNTED}: convolutions, linear layers, attention"
        ),
        *ratio("gmacs"),
        row("  in attention", lambda m: _number(m["gmacs_attention"], ".2f"), COUNTED),
        row("operators", lambda m: str(m["operators"]), f"{COUNTED}, before any compiler"),
        row("weights", lambda m: _mega(m["weight_bytes"]), f"{COUNTED}, as they lie in memory"),
        row("peak memory", lambda m: _mega(m["peak_bytes"]), memory),
        *ratio("peak_bytes"),
    ]
    if ran:
        rows += [
            row("seconds", lambda m: _seconds(m, "seconds"), f"{runs}: one call of the network"),
            *ratio("seconds"),
            row("CPU seconds", lambda m: _seconds(m, "cpu_seconds"), f"{runs}, all threads"),
            *ratio("cpu_seconds"),
        ]
    if ran and models[0]["picture"]:
        rows += [
            row("picture file", lambda m: _seconds(m["picture"], "seconds"),
                f"{runs}: read, tiles, colours, write"),
            *ratio("picture_seconds"),
            row("  CPU seconds", lambda m: _seconds(m["picture"], "cpu_seconds"), f"{runs}, all threads"),
        ]  # fmt: skip
    if peaks:
        rows += [
            row("peak arithmetic", lambda m: f"{m['peak_tflops']:.3f} TFLOP/s",
                f"{peaks}: product of matrices"),
            row("peak bandwidth", lambda m: f"{m['peak_gbs']:.1f} GB/s", f"{peaks}: copy, both ways"),
            row("least time, fused", lambda m: _number(m["bound_fused"], ".4f"),
                f"{COUNTED} work at these peaks"),
            row("least time, eager", lambda m: _number(m["bound_eager"], ".4f"),
                f"{COUNTED}, with every operator's own memory traffic"),
        ]  # fmt: skip
    if ran:
        rows.append(
            row("efficiency", lambda m: _number(m["efficiency"], ".1%"), "least time, fused, over seconds")
        )
    threads = _plural(found["threads"], "thread")
    said = f"unistep {found['unistep']}, torch {found['torch']}, {found['machine']}, {threads}"
    notes = [said + (", taking turns" if several and ran else "")]
    notes += [f"{m['name']}: {m['how']}" for m in models if m["kind"] in ("architecture", "bicubic")]
    return Table("Cost of one picture", ["", *(m["name"] for m in models), ""], rows, notes)


def _stages(found: Bench) -> Table:
    head = ["model", "part", "calls", "parameters, M", "GMAC", "in attention", "operators", "seconds"]
    rows, notes = [], ["Parameters, GMAC and operators are counted, seconds measured: medians [quartiles]."]
    for model in found["models"]:
        for stage in model["stages"]:
            rows.append(
                [model["name"], stage["name"], str(stage["calls"]), *_work(stage), _seconds(stage, "seconds")]
            )
            if "why" in stage:
                notes.append(f"{model['name']}: {stage['why']}.")
        texts = [stage for stage in model["stages"] if stage["name"] == "text encoder"]
        if texts:
            both = [model, *texts]
            whole: dict[str, Any] = {
                key: sum(one[key] for one in both)
                for key in ("parameters", "operators", "gmacs", "gmacs_attention")
            }
            known = all(one["seconds"] is not None for one in both)
            seconds = f"{sum(one['seconds'] for one in both):.4f}" if known else NONE
            rows.append(
                [model["name"], "without text encoder", "", *_work(model), _seconds(model, "seconds")]
            )
            rows.append([model["name"], "with text encoder", "", *_work(whole), seconds])
    return Table("Parts", head, rows, notes)


def _work(one: Mapping[str, Any]) -> list[str]:
    return [
        f"{one['parameters'] / 1e6:.3f}",
        f"{one['gmacs']:.2f}",
        f"{one['gmacs_attention']:.2f}",
        str(one["operators"]),
    ]


def _growth(found: Bench) -> Table:
    head = ["result", "megapixels", "model", "GMAC", "seconds", "CPU seconds", "CPU s per megapixel",
            "peak, MB", "peak at once, MB"]  # fmt: skip
    notes = [
        "GMAC are counted: one call for the whole picture, denoisers in their tiles.",
        "Seconds and peak are measured, medians [quartiles]: unistep upscale in memory, in tiles and blocks.",
        "Peak at once is counted: weights and activations of calls for the whole picture.",
        "A megapixel is 1024 x 1024 pixels.",
    ]
    rows, why = [], dict[str, list[str]]()
    for i in range(len(found["models"][0]["growth"])):
        for model in found["models"]:
            line = model["growth"][i]
            cpu = line["cpu_seconds"]
            rows.append([
                _pixels(line["output"]), f"{line['megapixels']:.3g}", model["name"], f"{line['gmacs']:.2f}",
                _seconds(line, "seconds"), _seconds(line, "cpu_seconds"),
                NONE if cpu is None else f"{cpu / line['megapixels']:.3f}",
                *(_mega(line[key]).removesuffix(" MB") for key in ("measured_peak_bytes", "peak_bytes")),
            ])  # fmt: skip
            if line["why"] and model["seconds"] is not None:
                why.setdefault(f"{model['name']}: {line['why']}", []).append(_pixels(line["output"]))
    notes += [f"Not measured, {', '.join(sizes)}: {reason}." for reason, sizes in why.items()]
    return Table("Growth", head, rows, notes)


def _seconds(one: Mapping[str, Any], key: str) -> str:
    if one[key] is None:
        return NONE
    spread = one["spread"][key]
    return f"{_short(one[key])} [{_short(spread['low'])}, {_short(spread['high'])}]"


def _short(seconds: float) -> str:
    return f"{seconds:.2f}" if seconds >= 10 else f"{seconds:.4f}"


def _times(value: Any) -> str:
    if value is None:
        return NONE
    if isinstance(value, Mapping):
        return f"{value['median']:.2f} [{value['low']:.2f}, {value['high']:.2f}]"
    return f"{value:.2f}"


def _number(value: float | None, form: str) -> str:
    return NONE if value is None else format(value, form)


def _mega(value: int | None) -> str:
    return NONE if value is None else f"{value / 1e6:.1f} MB"


def _pixels(size: Sequence[int]) -> str:
    return f"{size[0]} x {size[1]}"


def _plural(number: int, what: str) -> str:
    return f"{number} {what}{'s' if number != 1 else ''}"


def _apart(notes: Sequence[str]) -> list[str]:
    return [line for note in notes for line in (note, "")]
