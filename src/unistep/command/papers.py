"""What `unistep eval` shows of the papers' tables when nothing is to be measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from unistep.command.report import clean

if TYPE_CHECKING:
    from unistep.evaluation.published import Table


def listed() -> str:
    """All tables, two lines each: name and title; sets and columns."""
    from unistep.evaluation.published import tables

    lines = []
    for one in tables().values():
        columns = ", ".join(column.label for column in one.columns)
        on = f"{', '.join(one.sets)}: " if one.sets else ""
        lines += [f"{one.name:16}{one.title}", f"{'':16}{on}{columns}"]
    return "\n".join([*lines, "", "unistep eval --preset NAME shows the published numbers."])


def shown(name: str) -> str:
    """A table as it was published, with all that is known of it. Raises ConfigError for an unknown name."""
    from unistep.evaluation.beside import NONE, heading, named
    from unistep.evaluation.published import table

    found = table(name)
    lines = [found.title, f"{found.source}; as published, nothing is measured here", ""]
    head = [heading(asdict(column)) for column in found.columns]
    for on in found.sets or ("",):
        rows = [
            [named(row.method, row.steps), *(row.values.get(column.key, NONE) for column in found.columns)]
            for row in found.rows if row.on == on
        ]  # fmt: skip
        lines += [*_columns([[on, *head], *rows]), ""]
    lines += _remarks(found)
    if found.sets:
        sets = " ".join(f"--set {on}=FOLDER" for on in found.sets)
        lines += ["", f"unistep eval --preset {found.name} {sets} --model MODEL --out OUT"]
    return "\n".join(map(clean, lines))


def _remarks(found: Table) -> list[str]:
    variants = [f"{column.label}: {column.variant}" for column in found.columns if column.variant]
    lacks = [f"{column.label}: {column.why}" for column in found.columns if column.why]
    parts: list[tuple[str, Sequence[str]]] = [
        ("Protocol", [*found.says, *variants] if found.sets else []), ("Notes", found.notes),
        ("Known differences", found.differs if found.sets else []), ("Not among Unistep's metrics", lacks),
    ]  # fmt: skip
    return [line for what, of in parts if of for line in (f"{what}:", *(f"- {text}" for text in of))]


def _columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Cells under each other: names to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(n) for cell, n in zip(row[1:], widths[1:], strict=True))]
        )
        for row in rows
    ]
