"""`unistep prepare`: the run's lines and its bar on the terminal."""

from __future__ import annotations

from pathlib import Path

from unistep.command.report import Live
from unistep.training.prepare import main


def run(
    recipe: str,
    data: Path,
    out: Path,
    settings: list[str],
    *,
    crops: int | None,
    embedding: Path | None,
    negative: Path | None,
) -> int:
    live = Live()
    main(recipe, data, out, settings, crops, (embedding, negative), live.report, live.tick)
    return 0
