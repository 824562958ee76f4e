"""`unistep upscale`: plan, load the model if there is work, run, report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from unistep.command.report import Report, clean, complain, emit_job, times
from unistep.errors import ConfigError
from unistep.image import Metadata, Picture
from unistep.upscaling import folders as batch


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
    dtype: str,
    vae_tiles: str,
    options: dict[str, Any],
    reproduce: bool,
    metadata: Metadata,
    quality: int | None,
    jsonl: bool,
) -> int:
    """Do the jobs and say so; the exit code. An already finished folder does not even load the model."""
    if reproduce and (tile, vae_tiles, seed) != ("auto", "auto", 0):
        raise ConfigError(
            "--reproduce takes no --tile, --vae-tiles or --seed: it does as the authors' script does"
        )
    report, whole = Report(jobs, jsonl=jsonl), _whole(sizing) if reproduce else 0
    try:
        upscaler: Any = None
        if any(job.status == "todo" for job in jobs):
            from unistep.students.onestep import Options
            from unistep.upscaling.upscaler import Upscaler

            upscaler = Upscaler.from_pretrained(
                model, device=device, dtype=dtype, fidelity=fidelity, options=Options(**options)
            )

        def enlarge(picture: Picture) -> Picture:
            larger: Picture
            if reproduce:
                larger = upscaler.reproduce(picture, whole, colour)
            else:
                larger = upscaler(
                    picture, **sizing, tile=tile, colour=colour, seed=seed, vae_tiles=vae_tiles,
                    progress=report.advance,
                )  # fmt: skip
            return larger

        report.start()
        for result in batch.run(jobs, enlarge, metadata=metadata, quality=quality):
            report.show(result)
    except KeyboardInterrupt:
        return report.finish(interrupted=True)
    return report.finish()


def _whole(sizing: dict[str, Any]) -> int:
    """The authors' --upscale. Raises ConfigError for sizes that their scripts cannot make."""
    scale = sizing.get("scale")
    if scale is None or scale != int(scale):
        raise ConfigError(
            f"--reproduce takes a whole --scale, found {sizing}: the authors' scripts know no other"
        )
    return int(scale)


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
