"""Published numbers beside measured ones: rows and columns of their own, and what a caption says of them.

They are no part of ranks, intervals and tests, and keep the digits that they were published with. Made from
what results.json holds alone ("published", `presets.Preset.said`).
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

DAGGER = "†"
NONE = "—"
ARROWS = {"higher": " ↑", "lower": " ↓", "near 1": " →1"}
"""After the name of a column: which numbers are better."""


def lacking(results: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The paper's columns that the run has no measure for; `why` says the reason."""
    published = results.get("published")
    return [column for column in published["columns"] if column["why"]] if published else []


def heading(column: Mapping[str, Any]) -> str:
    """Of a published column: label, unit, and which way is better."""
    unit = f" [{column['unit']}]" if column["unit"] else ""
    return f"{column['label']}{unit}{ARROWS[column['better']]}"


def title(results: Mapping[str, Any]) -> str:
    """The line over the published rows."""
    published = results["published"]
    return f"published in {published['paper']}, Table {published['table']} {DAGGER}"


def rows(results: Mapping[str, Any], name: str, keys: Sequence[str]) -> list[list[str]]:
    """The published rows of a set, with a cell for each column of `keys`."""
    published = results.get("published")
    found = published["rows"].get(name, []) if published else []
    return [
        [f"{named(row['method'], row['steps'])} {DAGGER}", *(row["values"].get(key, NONE) for key in keys)]
        for row in found
    ]


def named(method: str, steps: int | None) -> str:
    """Method and steps as TAD-SR's tables have them: SeeSR (teacher), 50 is SeeSR-50 (teacher)."""
    name, gap, more = method.partition(" (")
    return method if steps is None else f"{name}-{steps}{gap}{more}"


def caption(results: Mapping[str, Any], name: str) -> Iterator[str]:
    """What the published rows of a set are, a sentence or two a line."""
    published = results.get("published")
    if not published or name not in published["rows"]:
        return
    yield (
        f"{DAGGER} Published numbers, not measured here and no part of ranks, intervals and tests: "
        f"{published['paper']} ({published['source']}), Table {published['table']}: {published['about']}."
    )
    shown = [column for column in published["columns"] if column["variant"]]
    variants = [f"{column['label']}: {column['variant']}" for column in shown]
    for what, lines in (
        (f"Protocol of {published['paper']}", [*published["says"], *variants]),
        ("On these numbers", published["notes"]),
        ("Known differences", published["differs"]),
    ):
        if lines:
            yield f"{what}: {'; '.join(lines)}."
    left = published["left_out"]
    if left["sets"] or left["metrics"]:
        yield f"Of Table {published['table']} not measured here: {', '.join(left['sets'] + left['metrics'])}."
