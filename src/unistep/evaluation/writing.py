"""The files of an evaluation: results.json, images.csv, table.md and table.tex, each whole or not there."""

import csv
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..atomic import atomic_write, remove_leftovers
from ..errors import DataError
from .journal import Journal
from .run import Evaluation, images, results
from .tables import latex, markdown

JOURNAL, RESULTS, IMAGES = "journal.jsonl", "results.json", "images.csv"


def text_of(found: Mapping[str, Any]) -> str:
    """results.json: keys sorted, so that equal results are equal bytes."""
    return json.dumps(found, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def write(run: Evaluation, journal: Journal, out: Path) -> str:
    """Writes all files of a measured run into `out`; gives table.md. Raises DataError."""
    found, lines = results(run, journal), images(run, journal)
    table = io.StringIO()
    writer = csv.DictWriter(table, list(lines[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    texts = {RESULTS: text_of(found), IMAGES: table.getvalue()}
    texts |= {"table.md": markdown(found), "table.tex": latex(found)}
    try:
        remove_leftovers(out)
        for name, text in texts.items():
            with atomic_write(out / name) as file:
                file.write(text.encode("utf-8", "surrogateescape"))
    except OSError as error:
        raise DataError(f"expected to write into {out}, found: {error}") from error
    return texts["table.md"]
