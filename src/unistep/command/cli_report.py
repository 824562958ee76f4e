"""`unistep report`: what `unistep eval` wrote, as one page to look at."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from unistep.command.options import argument, option
from unistep.command.report import say
from unistep.errors import ConfigError, DataError

EXAMPLES = """Examples:
  unistep report result
  unistep report result --bench bench.json --out page.html

The gallery needs the pictures that unistep eval --keep-pictures keeps. See docs/report.md.

Exit codes: 0 done, 1 something failed, 2 wrong usage."""


def report(
    results: Annotated[list[Path], argument("RESULTS", "The folder that unistep eval wrote.")],
    /,
    *,
    out: Annotated[Path | None, option("The page. Default: RESULTS/report.html.", "-o")] = None,
    bench: Annotated[
        list[Path] | None, option("What unistep bench --json wrote; may be repeated.", metavar="FILE")
    ] = None,
    title: Annotated[str | None, option("Of the page. Default: the names of the sets.")] = None,
    crops: Annotated[int, option("In the gallery, of each set. Default: 24.")] = 24,
    crop_size: Annotated[int, option("Side of a crop, in pixels. Default: 256.")] = 256,
    max_mb: Annotated[float, option("The page is no larger; crops are left out. Default: 30.")] = 30.0,
) -> int:
    """Make one HTML page of an evaluation: tables, plots, a gallery. It needs no network."""
    if len(results) != 1:
        raise ConfigError(
            f"expected one folder of unistep eval, found {len(results)}: a page is of one evaluation, which "
            "may have any number of models and sets"
        )
    from unistep.atomic import atomic_write
    from unistep.evaluation.report.page import MB, Options, page
    from unistep.evaluation.report.reading import read

    folder = results[0].parent if results[0].suffix == ".json" else results[0]
    target = out or folder / "report.html"
    data, note = page(read(results[0]), bench or [], Options(crops, crop_size, max_mb, title))
    try:
        with atomic_write(target) as file:
            file.write(data)
    except OSError as error:
        raise DataError(f"expected to write {target}, found: {error}") from error
    if note:
        say(note)
    say(f"{target}: {len(data) / MB:.1f} MB")
    return 0
