"""Tables of an evaluation in Markdown and LaTeX: best in bold, second best underlined, the protocol below.

Made from what results.json holds alone, so that they can be made again from the file.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from . import beside
from .beside import ARROWS, NONE
from .setwide import NO_INTERVAL, small
from .statistics import places

SETTINGS = (
    "device", "dtype", "tile", "colour", "fidelity", "seed", "steps", "decoder", "decoder_sha256", "weights",
    "vae_tiles", "offload", "compile", "reproduce",
)  # fmt: skip
"""Of a model, in a caption's order."""
Results = Mapping[str, Any]


def digits(metric: Mapping[str, Any]) -> int:
    """After the point: as this field's tables have them."""
    return 3 if metric["unit"] == "dB" else 4


def markdown(results: Results) -> str:
    """All tables, each with its caption and paired tests."""
    parts = []
    for name in results["order"]["sets"]:
        head, rows, notes = _table(results, name, _markdown_cell)
        published = published_rows(results, name)
        if published:
            over = [f"*{beside.title(results)}*", *[""] * (len(head) - 1)]
            published = [over, *published]
        parts += [f"## {name}\n", _grid(head, [*rows, *published])]
        parts += [f"[{i}] {why}.\n" for i, why in enumerate(notes, 1)]
        parts += [f"{line}\n" for line in caption(results, name)]
        tests = [test for test in results["tests"] if test["set"] == name]
        if tests:
            parts += ["Paired tests:\n", _grid(_TESTS, [_test(results, test) for test in tests])]
    return "\n".join(parts)


def latex(results: Results) -> str:
    """All tables as `table` environments, which need no package."""
    parts = []
    for name in results["order"]["sets"]:
        head, rows, notes = _table(results, name, _latex_cell)
        lines = [" & ".join(map(escaped, head)) + r" \\ \hline"]
        lines += [" & ".join([escaped(row[0]), *row[1:]]) + r" \\" for row in rows]
        published = published_rows(results, name)
        if published:
            over = f"\\multicolumn{{{len(head)}}}{{l}}{{\\textit{{{escaped(beside.title(results))}}}}}"
            lines += [r"\hline", over + r" \\"]
            lines += [" & ".join(map(escaped, row)) + r" \\" for row in published]
        said = [*(f"[{i}] {why}." for i, why in enumerate(notes, 1)), *caption(results, name)]
        opening = ["\\begin{table}", "\\centering", "\\begin{tabular}{l" + "c" * (len(head) - 1) + "}"]
        closing = ["\\end{tabular}", "\\caption{" + escaped(" ".join(said)) + "}", "\\end{table}\n"]
        parts.append("\n".join([*opening, *lines, *closing]))
    return "\n".join(parts)


def caption(results: Results, name: str) -> Iterator[str]:
    """All that makes the numbers of a set comparable, a sentence or two a line."""
    on, rules = results["sets"][name], results["statistics"]
    made = on["degradation"]
    how = f", degraded by {made['preset']}, seed {made['seed']}" if made else ""
    yield f"{name}: {on['images']} images, x{on['scale']}{how}, sha256 {on['sha256'][:12]}."
    if on["manifest"]:
        yield f"Protocol of {name}: crop: {on['manifest']['crop']}; licence: {on['manifest']['licence']}."
    if on["notes"]:
        yield f"Note: {'; '.join(on['notes'])}."
    for key in results["order"]["metrics"]:
        metric = results["metrics"][key]
        files = "".join(f", {file} {digest[:12]}" for file, digest in metric["files"].items())
        border = f" Border of {metric['border']} pixels left out." if metric["border"] else ""
        yield f"{metric['label']}: {metric['protocol'].rstrip('.')}{files}.{border}"
        if metric.get("over") == "sets":
            yield from _of_sets(results, name, key)
    for who in results["order"]["judged"]:
        yield f"{who}: {_identity(results['judged'][who])}."
    yield from beside.caption(results, name)
    yield "Results are rounded to 8 bits before they are measured. Bold: best; underlined: second best."
    yield f"In brackets: {rules['interval']}."
    if any(test["set"] == name for test in results["tests"]):
        yield f"Test: {rules['test']}; correction: {rules['correction']}."
    yield "Versions: " + ", ".join(f"{key} {value}" for key, value in results["versions"].items()) + "."


def _of_sets(results: Results, name: str, key: str) -> Iterator[str]:
    """What is to be known of a distance between whole sets, where it has a value."""
    if all(s["mean"] is None for s in results["scores"] if (s["set"], s["metric"]) == (name, key)):
        return
    metric = results["metrics"][key]
    if reference := metric["reference_set"]:
        notes = "".join(f", {note}" for note in reference["notes"])
        yield (
            f"Reference set of {metric['label']}: {reference['name']}, {reference['images']} images, sha256 "
            f"{reference['sha256'][:12]}{notes}."
        )
    warning = small(metric, results["sets"][name]["images"])
    yield f"{metric['label']}: {f'{warning}; ' if warning else ''}{NO_INTERVAL}."


def shown(results: Results, name: str, cell: "Cell") -> tuple[list[str], list[list[str]], list[str]]:
    """The table of a set for another kind of page: (head, rows, notes that its cells name by place from 1).

    A row is the name, then for each metric what `cell` makes of a number, its interval ("" if there is none)
    and its place: 1 best, 2 second best, 0.
    """
    return _table(results, name, cell)


def tests(results: Results, name: str) -> tuple[tuple[str, ...], list[list[str]]]:
    """(head, rows) of the paired tests of a set."""
    return _TESTS, [_test(results, test) for test in results["tests"] if test["set"] == name]


def escaped(text: str) -> str:
    """As LaTeX shows it."""
    special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
               "↑": r"$\uparrow$", "↓": r"$\downarrow$", "→": r"$\rightarrow$", "—": "---",
               "†": r"$\dagger$"}  # fmt: skip
    special |= {c: f"\\{c}" for c in "&%$#_{}"}
    return re.sub(r"[\\~^↑↓→—†&%$#_{}]", lambda hit: special[hit[0]], text)


_TESTS = ("metric", "models", "mean difference", "p", "p (Holm)")
Cell = Callable[[str, str, int], str]
"""The number, its interval, its place (1, 2, or 0) -> the cell."""


def _table(results: Results, name: str, cell: Cell) -> tuple[list[str], list[list[str]], list[str]]:
    """(head, rows, reasons of cells without a number, which name them by place from 1)."""
    scores = {(s["judged"], s["metric"]): s for s in results["scores"] if s["set"] == name}
    judged = results["order"]["judged"]
    metrics = {key: results["metrics"][key] for key in results["order"]["metrics"]}
    head = ["model", *(metric["label"] + ARROWS[metric["better"]] for metric in metrics.values())]
    notes: list[str] = []
    columns = []
    for key, metric in metrics.items():
        of, n = [scores[who, key] for who in judged], digits(metric)
        higher = {"higher": True, "lower": False}.get(metric["better"])
        column = []
        for score, place in zip(of, places([s["mean"] for s in of], higher, n), strict=True):
            if score["mean"] is None:
                why = f"{metric['label']}: {score['why']}"
                notes += [] if why in notes else [why]
                column.append(f"{NONE} [{notes.index(why) + 1}]")
            else:
                span = "" if score["low"] is None else f"[{score['low']:.{n}f}, {score['high']:.{n}f}]"
                column.append(cell(f"{score['mean']:.{n}f}", span, place))
        columns.append(column)
    for lacking in beside.lacking(results):
        head.append(beside.heading(lacking))
        notes.append(f"{lacking['label']}: {lacking['why']}")
        columns.append([f"{NONE} [{len(notes)}]"] * len(judged))
    rows = [[who, *(column[i] for column in columns)] for i, who in enumerate(judged)]
    return head, rows, notes


def published_rows(results: Results, name: str) -> list[list[str]]:
    """Of a paper's table, each with as many cells as the rows of `_table`; none without a preset."""
    keys = [*results["order"]["metrics"], *(column["key"] for column in beside.lacking(results))]
    return beside.rows(results, name, keys)


def _markdown_cell(number: str, span: str, place: int) -> str:
    return f"{ {1: f'**{number}**', 2: f'<u>{number}</u>'}.get(place, number) } {span}".rstrip()


def _latex_cell(number: str, span: str, place: int) -> str:
    marked = {1: f"\\textbf{{{number}}}", 2: f"\\underline{{{number}}}"}.get(place, number)
    return f"{marked} {{\\scriptsize {span}}}" if span else marked


def _test(results: Results, test: Mapping[str, Any]) -> list[str]:
    metric = results["metrics"][test["metric"]]
    difference = f"{test['difference']:+.{digits(metric)}f}"
    return [
        metric["label"],
        f"{test['a']} - {test['b']}",
        difference,
        f"{test['p']:g}",
        f"{test['p_holm']:g}",
    ]


def _identity(entry: Mapping[str, Any]) -> str:
    if entry["kind"] == "results":
        return f"pictures of the folder {entry['folder']}"
    if entry["kind"] == "bicubic":
        return str(entry["how"])
    said = [f"{entry['file']}, sha256 {entry['sha256'][:12]}"]
    for key in SETTINGS:
        if (value := entry.get(key)) is not None:
            word = key.replace("_", " ")
            shown = value[:12] if key == "decoder_sha256" else value
            said.append(word if value is True else f"{word} {shown}")
    return ", ".join(said)


def _grid(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in (head, *rows)]
    return "\n".join([lines[0], "|" + "---|" * len(head), *lines[1:]]) + "\n"
