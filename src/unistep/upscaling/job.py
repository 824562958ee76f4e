"""One input of a run and what becomes of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Status = Literal["todo", "done", "skipped", "failed", "passed"]
Size = tuple[int, int]


@dataclass(frozen=True)
class Job:
    """One input and what is to become, or became, of it. Sizes are (width, height) in upright pixels.

    `message` is one line: the reason of a failure or a skip, or notes. `error` is what was raised, for a
    caller who wants the traceback. With `replace` the output may exist already and is then replaced; with
    `stale` there is a result already, but not the one that was asked for. A file in a folder that is not read
    at all is "passed" over; one that was named by itself is tried.
    """

    input: Path
    output: Path | None = None
    status: Status = "todo"
    seconds: float = 0.0
    input_size: Size | None = None
    output_size: Size | None = None
    message: str = ""
    error: Exception | None = None
    replace: bool = False
    stale: bool = False
