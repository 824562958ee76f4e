"""The files of a benchmark: bench.json, table.md and growth.png, each whole or not there."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...atomic import atomic_write, remove_leftovers
from ...errors import DataError
from . import plot
from .tables import markdown

JSON, TABLE, PLOT = "bench.json", "table.md", "growth.png"


def text_of(found: Mapping[str, Any]) -> str:
    return json.dumps(found, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def prepare(out: Path) -> None:
    """Makes the folder. Raises DataError where it cannot be: before the hard work, not after."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        remove_leftovers(out)
    except OSError as error:
        raise DataError(f"expected --out to be a folder to write into, found {out}: {error}") from error


def write(found: Mapping[str, Any], out: Path) -> None:
    """Raises DataError, ConfigError."""
    try:
        for name, text in ((JSON, text_of(found)), (TABLE, markdown(found))):
            with atomic_write(out / name) as file:
                file.write(text.encode("utf-8", "surrogateescape"))
    except OSError as error:
        raise DataError(f"expected to write into {out}, found: {error}") from error
    if any(model["growth"] for model in found["models"]):
        plot.draw(found, out / PLOT)
