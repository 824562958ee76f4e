"""What a run says while it works: lines and a bar for people on stderr, JSON lines for programs on stdout."""

from __future__ import annotations

import json
import math
import os
import shutil
import sys
import time
import traceback
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unistep.upscaling.job import Job, Size, Status

BAR = 24  # characters
ENDS: dict[Status, str] = {"done": "done", "skipped": "skipped", "failed": "failed", "passed": "passed over"}
SHOWN = 3  # names of files that are passed over for one reason


def clean(text: object) -> str:
    """Text on one line that cannot steer a terminal: a file name may hold newlines and escapes."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in str(text))


def complain(text: object, about: object = None) -> None:
    """The one form of an error: `unistep: <file>: <reason>` on stderr."""
    print(f"unistep: {'' if about is None else f'{clean(about)}: '}{clean(text)}", file=sys.stderr)


def say(line: str) -> None:
    """A line for people, on stderr."""
    print(clean(line), file=sys.stderr)


def emit(event: str, **fields: Any) -> None:
    """One JSON object on one line of stdout, at once; bytes of names that are not UTF-8 stay, as \\udcXX."""
    print(json.dumps({"event": event, **fields}), flush=True)


def emit_job(event: str, job: Job) -> None:
    emit(
        event,
        input=str(job.input),
        output=None if job.output is None else str(job.output),
        status=job.status,
        seconds=round(job.seconds, 3),
        input_size=job.input_size,
        output_size=job.output_size,
        message=job.message,
    )


def rest(jobs: Sequence[Job]) -> None:
    """Lines for people on what was left as it is: files that are passed over, and results that are stale."""
    passed: dict[str, list[str]] = {}
    for job in jobs:
        if job.status == "passed":
            passed.setdefault(job.message, []).append(str(job.input))
    for why, names in passed.items():
        more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        say(f"passed over {len(names)} ({why}): {', '.join(names[:SHOWN])}{more}")
    stale = sum(job.stale for job in jobs)
    if stale:
        say(f"{stale} of the results that exist are stale: --existing update does them again")


def duration(seconds: float) -> str:
    """4.2 s, 1:07 or 2:03:09."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def times(size: Size | None) -> str:
    return "?" if size is None else f"{size[0]}x{size[1]}"


class Report:
    """Follows a run: call `start` before, `show` with every result, `finish` once; it gives the exit code."""

    def __init__(self, jobs: Sequence[Job], *, jsonl: bool) -> None:
        jobs = [job for job in jobs if job.status != "passed"]
        self.count = len(jobs)
        # Output pixels of each job: the time goes with them, not with the number of files.
        self.pixels = [math.prod(j.output_size or (0,)) if j.status == "todo" else 0 for j in jobs]
        self.work = sum(self.pixels)
        self.jsonl = jsonl
        self.bar = sys.stderr.isatty() and not jsonl
        self.results: list[Job] = []
        self.passed: list[Job] = []
        self.began = time.perf_counter()

    def start(self) -> None:
        if self.jsonl:
            emit("start", files=self.count, output_pixels=self.work)
        self.began = time.perf_counter()
        self._draw()

    def advance(self, done: int, total: int) -> None:
        """How much of the file under work is done, in any unit."""
        self._draw(done / total)

    def show(self, result: Job) -> None:
        if result.status == "passed":
            self.passed.append(result)
            if self.jsonl:
                emit_job("passed", result)
            return
        self.results.append(result)
        if self.jsonl:
            emit_job("file", result)
        else:
            self._say(result)
        if result.error is not None and os.environ.get("UNISTEP_DEBUG") == "1":
            traceback.print_exception(result.error)
        self._draw()

    def finish(self, *, interrupted: bool = False) -> int:
        """The summary and the failures; the exit code: 0 all done, 1 a file failed, 130 interrupted."""
        self._erase()
        count = Counter(r.status for r in [*self.results, *self.passed])
        seconds = time.perf_counter() - self.began
        code = 130 if interrupted else 1 if count["failed"] else 0
        if self.jsonl:
            numbers = {s: count[s] for s in ENDS}
            emit("end", **numbers, seconds=round(seconds, 3), exit_code=code)
        else:
            parts = [f"{count[s]} {word}" for s, word in ENDS.items() if count[s] or s == "done"]
            print(f"{', '.join(parts)} in {duration(seconds)}", file=sys.stderr)
            rest([*self.results, *self.passed])
        for result in self.results:
            if result.status == "failed":
                complain(result.message, result.input)
        if interrupted:
            complain(f"interrupted after {len(self.results)} of {self.count}; the same command does the rest")
        return code

    def _say(self, result: Job) -> None:
        if self.count == 1 and result.status == "failed":
            return  # the list of failures says it
        self._erase()
        line = f"[{len(self.results)}/{self.count}] {clean(result.input)}"
        if result.status == "done":
            line += f" -> {clean(result.output)}  {times(result.input_size)} -> {times(result.output_size)}"
            line += f"  {duration(result.seconds)}"
            line += f"  ({clean(result.message)})" if result.message else ""
        else:
            line += f"  {result.status}: {clean(result.message)}"
        print(line, file=sys.stderr)

    def _draw(self, fraction: float = 0.0) -> None:
        if not self.bar or not self.work or len(self.results) == self.count:
            return
        done = len(self.results)
        part = (sum(self.pixels[:done]) + fraction * self.pixels[done]) / self.work
        spent = time.perf_counter() - self.began
        left = f"ETA {duration(spent / part - spent)}" if part > 0 else "ETA ..."
        draw(part, f"{part:4.0%}  {done}/{self.count}  {left}")

    def _erase(self) -> None:
        if self.bar:
            erase()


class Live:
    """A training run: on a terminal a line that is drawn anew, and lines that stay; elsewhere all stay."""

    def __init__(self) -> None:
        self.bar = sys.stderr.isatty()

    def tick(self, part: float, line: str) -> None:
        if self.bar:
            draw(part, line)
        else:
            self.report(line)

    def report(self, line: str) -> None:
        if self.bar:
            erase()
        print(line, flush=True)


def draw(part: float, text: str) -> None:
    """A bar with `part` (0..1) of it filled and a text, over what stands on the line."""
    filled = round(part * BAR)
    line = f"[{'#' * filled}{'-' * (BAR - filled)}] {text}"
    print(f"\r{line[: shutil.get_terminal_size().columns - 1]}\x1b[K", end="", file=sys.stderr, flush=True)


def erase() -> None:
    print("\r\x1b[K", end="", file=sys.stderr, flush=True)
