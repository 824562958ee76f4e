"""The papers' tables as data: numbers that were published, and what is known of how they were made.

A file of `papers/` is a paper: `paper`, `source`; `says` (its protocol), `differs` (what is made otherwise
here), `variants` (of a metric, by its key), `others` (columns that METRICS may lack, why) and `tables`. Of a
table: `number` as printed, `about`, `columns` (keys of METRICS or of `others`), `notes`, and `rows`, a text
for each set of sets.toml, or for "" where nothing is measured on pictures. A line of it is a method, its
steps (or -), and a number for each column (or -), every digit as printed. A * after a number: printed in bold
or colour, which stands for the best `starred` of a column; a _: underlined, the second best. They are here as
far as the copies that were read show them, and serve as a checksum alone.
"""

import difflib
import functools
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any

from ..data.presets import DEGRADATIONS
from ..errors import ConfigError
from .metrics import METRICS

PAPERS = ("tsd-sr", "dfosd", "tad-sr")
ROMAN = {"I": 1, "II": 2, "III": 3, "IV": 4, "V": 5, "VI": 6, "VII": 7, "VIII": 8}
NONE = "-"


@dataclass(frozen=True)
class Column:
    key: str
    """Of METRICS, or a name of the paper's file."""
    label: str
    unit: str
    better: str
    """"higher", "lower", or "near 1"."""
    variant: str
    """How the paper's is computed, as far as it is known."""
    why: str
    """Why METRICS lacks it; "" for what METRICS has."""


@dataclass(frozen=True)
class Row:
    on: str
    """A set of sets.toml, or ""."""
    method: str
    steps: int | None
    """None where the table does not say."""
    values: Mapping[str, str]
    """Column -> number as printed; nothing where there is none."""
    marks: Mapping[str, str]
    """Column -> "*" or "_"."""


@dataclass(frozen=True)
class Table:
    """A table of a paper."""

    name: str
    """tsd-sr-table-1"""
    paper: str
    source: str
    number: str
    about: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    says: tuple[str, ...]
    differs: tuple[str, ...]
    notes: tuple[str, ...]
    starred: int

    @property
    def sets(self) -> tuple[str, ...]:
        """Test sets in the table's order; none where nothing is measured on pictures."""
        return tuple(dict.fromkeys(row.on for row in self.rows if row.on))

    @property
    def title(self) -> str:
        return f"{self.paper}, Table {self.number}: {self.about}"


@functools.cache
def tables() -> dict[str, Table]:
    """Name -> table, paper by paper, in the order of their numbers."""
    return {table.name: table for stem in PAPERS for table in _paper(stem)}


def table(name: str) -> Table:
    """The table of this name, in whatever case. Raises ConfigError for an unknown one."""
    known = tables()
    if name.lower() in known:
        return known[name.lower()]
    if name in DEGRADATIONS:
        hint = f"a degradation of --hr is --degradation {name}"
    else:
        near = difflib.get_close_matches(name.lower(), known, n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else "unistep eval --presets lists them"
    raise ConfigError(f"expected --preset with the name of a paper's table, found “{name}”: {hint}")


def _paper(stem: str) -> Iterator[Table]:
    text = (resources.files("unistep") / "evaluation" / "papers" / f"{stem}.toml").read_text(encoding="utf-8")
    paper = tomllib.loads(text)
    for entry in paper["tables"]:
        number = entry["number"]
        columns = tuple(_column(key, paper) for key in entry["columns"])
        rows = tuple(
            _row(on, line, columns) for on, lines in entry["rows"].items() for line in lines.splitlines()
        )
        yield Table(
            f"{stem}-table-{ROMAN.get(number, number)}", paper["paper"], paper["source"], number,
            entry["about"], columns, rows, tuple(paper["says"]), tuple(paper["differs"]),
            tuple(entry.get("notes", ())), entry.get("starred", 0),
        )  # fmt: skip


def _column(key: str, paper: Mapping[str, Any]) -> Column:
    if key not in METRICS:
        other = paper["others"][key]
        return Column(key, other["label"], other["unit"], other["better"], "", other["why"])
    metric = METRICS[key]
    better = {True: "higher", False: "lower", None: "near 1"}[metric.higher_is_better]
    return Column(key, metric.label, metric.unit, better, paper["variants"].get(key, ""), "")


def _row(on: str, line: str, columns: tuple[Column, ...]) -> Row:
    method, steps, numbers = (part.strip() for part in line.split("|"))
    values, marks = {}, {}
    for column, cell in zip(columns, numbers.split(), strict=True):
        hit = re.fullmatch(r"([^*_]+)([*_]?)", cell)
        assert hit is not None, line
        if hit[1] != NONE:
            values[column.key] = hit[1]
        if hit[2]:
            marks[column.key] = hit[2]
    return Row(on, method, None if steps == NONE else int(steps), values, marks)
