"""A paper's table as the plan of a run: which sets and metrics it takes, what stands beside its results."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ..errors import ConfigError
from .manifests import manifest
from .measuring import Measure
from .metrics import METRICS
from .published import Table, table


@dataclass(frozen=True)
class Preset:
    table: Table
    sets: tuple[str, ...]
    """Those of the table's that are measured, in its order."""
    metrics: tuple[str, ...]
    """What is measured, as `measuring.measures` takes it."""
    whole: bool
    """Whether these are all metrics of the table that can be measured, none chosen by the user."""

    @property
    def missing(self) -> tuple[str, ...]:
        """The table's sets that are not measured."""
        return tuple(name for name in self.table.sets if name not in self.sets)

    @property
    def note(self) -> str:
        """On what is missing; "" where nothing is."""
        if not self.missing:
            return ""
        more = " ".join(f"--set {name}=FOLDER" for name in self.missing)
        return f"only a part of {self.table.name}: {', '.join(self.missing)} not measured ({more})"

    def ordered(self, measures: Sequence[Measure]) -> list[Measure]:
        """As the paper's columns stand; what it has no column for comes last."""
        place = {column.key: i for i, column in enumerate(self.table.columns)}
        return sorted(measures, key=lambda one: place.get(one.name, len(place)))

    def said(self, border: int) -> dict[str, Any]:
        """For results.json: the published numbers of the measured sets, and what a caption says of them."""
        columns = [column for column in self.table.columns if self.whole or column.key in self.metrics]
        differs = list(self.table.differs)
        compared = any(METRICS[column.key].needs_reference for column in columns if not column.why)
        if border and compared:
            differs.append(f"a border of {border} pixels is left out here, none in the paper's numbers")
        rows = {
            name: [
                {"method": row.method, "steps": row.steps, "values": dict(row.values)}
                for row in self.table.rows if row.on == name
            ]
            for name in self.sets
        }  # fmt: skip
        return {
            "preset": self.table.name, "paper": self.table.paper, "source": self.table.source,
            "table": self.table.number, "about": self.table.about, "rows": rows,
            "columns": [asdict(column) for column in columns],
            "says": list(self.table.says), "differs": differs, "notes": list(self.table.notes),
            "left_out": {
                "sets": list(self.missing),
                "metrics": [column.label for column in self.table.columns if column not in columns],
            },
        }  # fmt: skip


def preset(
    name: str, sets: Sequence[str], metrics: Sequence[str] | None = None, others: Sequence[str] = ()
) -> Preset:
    """The run that makes the table `name`.

    Args:
        sets: names of sets of the field that are given, in whatever case; not all of the table's are needed.
        metrics: those that the user chose; None: all of the table that can be measured.
        others: options that give pictures of other sets.

    Raises ConfigError for an unknown table, one without pictures, a set that is not the table's, or none.
    """
    found = table(name)
    wanted = ", ".join(found.sets)
    if not wanted:
        raise ConfigError(
            f"expected a table of measures of pictures, found {found.title}: unistep bench measures such, "
            f"and unistep eval --preset {found.name} alone shows it"
        )
    if others:
        raise ConfigError(
            f"expected the sets of {found.name} alone ({wanted}), found {', '.join(others)}: measure those "
            "in a run without --preset"
        )
    if not sets:
        raise ConfigError(f"expected --set NAME=FOLDER with sets of {found.name} ({wanted}), found none")
    given = [manifest(one).name for one in sets]
    foreign = [one for one in given if one not in found.sets]
    if foreign:
        raise ConfigError(
            f"expected sets of {found.name} ({wanted}), found {', '.join(foreign)}: numbers of another set "
            "or protocol never stand in its table, measure it in a run without --preset"
        )
    own = tuple(column.key for column in found.columns if not column.why)
    kept = tuple(one for one in found.sets if one in given)
    return Preset(found, kept, tuple(metrics) if metrics else own, not metrics)
