"""`unistep upscale`: plan, load the model if there is work, run, report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from unistep import batch
from unistep.commands.report import Report, clean, complain, emit_job, times
from unistep.image import Metadata, Picture


def upscale(
    jobs: Sequence[batch.Job],
    *,
    sizing: dict[str, Any],
    model: str | None,
    device: str,
    tile: int | str,
    colour: str | None,
    fidelity: float | None,
    seed: int,
    metadata: Metadata,
    quality: int | None,
    jsonl: bool,
) -> int:
    """Do the jobs and say so; the exit code. An already finished folder does not even load the model."""
    report = Report(jobs, jsonl=jsonl)
    try:
        upscaler: Any = None
        if any(job.status == "todo" for job in jobs):
            from unistep.upscaler import Upscaler

            upscaler = Upscaler.from_pretrained(model, device=device, fidelity=fidelity)

        def enlarge(picture: Picture) -> Picture:
            larger: Picture = upscaler(
                picture, **sizing, tile=tile, colour=colour, seed=seed, progress=report.advance
            )
            return larger

        report.start()
        for result in batch.run(jobs, enlarge, metadata=metadata, quality=quality):
            report.show(result)
    except KeyboardInterrupt:
        return report.finish(interrupted=True)
    return report.finish()


def dry_run(jobs: Sequence[batch.Job], *, jsonl: bool) -> int:
    """What `upscale` would do, on stdout; 1 if it is known already that a file will fail."""
    for job in jobs:
        if jsonl:
            emit_job("plan", job)
        elif job.status == "todo":
            sizes = f"{times(job.input_size)} -> {times(job.output_size)}"
            print(f"{clean(job.input)} -> {clean(job.output)}  {sizes}")
        elif job.status == "skipped":
            print(f"{clean(job.input)} skipped: {clean(job.message)}")
    failed = [job for job in jobs if job.status == "failed"]
    for job in failed:
        complain(job.message, job.input)
    return 1 if failed else 0
