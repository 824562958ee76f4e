"""`unistep upscale`: plan, load the model if there is work, run, report. Its help needs no torch."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Group, Parameter

from unistep.command.habits import Format, device_of, dtype_of, format_of, model_of, tile_of
from unistep.command.options import Compile, Device, Dtype, argument, option
from unistep.command.report import Report, clean, complain, emit_job, rest, times
from unistep.errors import ConfigError

if TYPE_CHECKING:
    from unistep.image import Picture
    from unistep.upscaling.job import Job

OUTPUT = Parameter(group=Group.create_ordered("Output"))
SIZE = Parameter(group=Group.create_ordered("Size: one of these; x4 if none is given"))
WAY = Parameter(group=Group.create_ordered("How"))
HABIT = Parameter(show=False)
LARGE = Parameter(group=Group.create_ordered("Students of large models"))


def _fit(kind: object, tokens: Sequence[Any]) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)[xX×](\d+)", tokens[0].value)
    if not match:
        raise ConfigError(f"--fit takes WIDTHxHEIGHT, such as 1920x1080, found {tokens[0].value!r}")
    return int(match[1]), int(match[2])


def upscale(
    inputs: Annotated[
        list[Path] | None, argument("INPUT", "Pictures and folders, as many as you like.")
    ] = None,
    /,
    *,
    output: Annotated[
        Path | None,
        option(
            "Folder for the results; for one picture also a file name. Default: beside each source.", "-o"
        ),
        OUTPUT,
    ] = None,
    format: Annotated[
        Format | None,
        option(
            "jpeg, png, webp, tiff, bmp or avif. Default: as the source.",
            "-f",
            converter=format_of,
            metavar="FORMAT",
        ),
        OUTPUT,
    ] = None,
    suffix: Annotated[
        str | None, option("Added to names. Default: _x4 (the factor); nothing with --output."), OUTPUT
    ] = None,
    recursive: Annotated[bool, option("Also the folders inside a folder.", "-r"), OUTPUT] = False,
    existing: Annotated[
        Literal["skip", "update", "overwrite", "rename"],
        option(
            "Where a result exists: skip (default), update (if its source is newer or the size another), "
            "overwrite, rename."
        ),
        OUTPUT,
    ] = "skip",
    metadata: Annotated[
        Literal["keep", "strip", "no-gps"],
        option("keep (default), strip, or no-gps: all but the place."),
        OUTPUT,
    ] = "keep",
    quality: Annotated[int | None, option("1 to 100, for JPEG, WebP and AVIF."), OUTPUT] = None,
    scale: Annotated[float | None, option("Factor from 1 to 8, such as 2.5.", "-s"), SIZE] = None,
    width: Annotated[int | None, option("Width in pixels; the height follows, or see --box."), SIZE] = None,
    height: Annotated[int | None, option("Height in pixels; the width follows."), SIZE] = None,
    box: Annotated[
        Literal["fit", "fill", "stretch"] | None,
        option("--width with --height: fit within (default), fill (what stands over is cut off), stretch."),
        SIZE,
    ] = None,
    fit: Annotated[
        tuple[int, int] | None,
        option("As large as fits into a box, such as 1920x1080.", converter=_fit, n_tokens=1, metavar="WxH"),
        SIZE,
    ] = None,
    megapixels: Annotated[float | None, option("Millions of pixels."), SIZE] = None,
    model: Annotated[
        str | None, option("Name or .safetensors file. Default: the packaged model.", "-m"), WAY
    ] = None,
    device: Annotated[Device, WAY] = "auto",
    tile: Annotated[
        int | Literal["auto"],
        option(
            "Side of the pieces that are computed at once; smaller takes less memory. Default: auto.",
            "-t",
            converter=tile_of,
            n_tokens=1,
            metavar="PIXELS",
        ),
        WAY,
    ] = "auto",
    colour: Annotated[
        Literal["wavelet", "adain", "none"] | None,
        option("Hold the source's colours: wavelet, adain or none. Default: as the model needs.", "--color"),
        WAY,
    ] = None,
    fidelity: Annotated[
        float | None,
        option("0 (restored detail) to 1 (plain, smallest error). Default: as the model needs."),
        WAY,
    ] = None,
    seed: Annotated[int, option("For models that draw noise."), WAY] = 0,
    dtype: Annotated[Dtype, WAY] = "auto",
    vae_tiles: Annotated[
        Literal["auto", "whole", "exact", "fast"],
        option(
            "The autoencoder: auto (default), whole, exact (in blocks, the same result), fast (close to it)."
        ),
        LARGE,
    ] = "auto",
    decoder: Annotated[
        str | None, option("tiny, or the file of a TAESD decoder: quicker, less fine."), LARGE
    ] = None,
    steps: Annotated[int | None, option("Steps of a teacher's own sampler."), LARGE] = None,
    weights: Annotated[
        Literal["full", "int8", "int4"],
        option("full (default), int8 or int4: smaller in memory, less exact."),
        LARGE,
    ] = "full",
    offload: Annotated[bool, option("Keep weights in host memory; slower."), LARGE] = False,
    compile: Annotated[Compile, LARGE] = False,
    reproduce: Annotated[
        bool, option("As the authors' own script does it, to the 8-bit level."), LARGE
    ] = False,
    jsonl: Annotated[bool, option("JSON lines on stdout, for programs."), WAY] = False,
    dry_run: Annotated[bool, option("Only say what would be done."), WAY] = False,
    more: Annotated[list[Path] | None, option("As INPUT.", "-i", name="--input"), HABIT] = None,
    model_name: Annotated[str | None, option("As --model.", "-n"), HABIT] = None,
    gpu: Annotated[str | None, option("As --device: 0 for cuda:0, -1 for cpu.", "-g"), HABIT] = None,
    fp32: Annotated[bool, option("As --dtype float32."), HABIT] = False,
) -> int:
    """Enlarge pictures and folders of pictures."""
    from unistep.upscaling import folders as batch
    from unistep.upscaling.noise import caught

    inputs = [*(inputs or []), *(more or [])]
    if not inputs:
        raise ConfigError("expected an INPUT, a picture or a folder, found none")
    model, device, precision = model_of(model, model_name), device_of(device, gpu), dtype_of(dtype, fp32)
    given = {"scale": scale, "width": width, "height": height, "fit": fit, "megapixels": megapixels}
    sizing: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    sizing = sizing or {"scale": 4.0}
    both = list(sizing) == ["width", "height"]
    if len(sizing) > 1 and not both:
        raise ConfigError(f"--{' and --'.join(sizing)} exclude each other: give one of them")
    if box and not both:
        raise ConfigError(f"--box {box} needs --width and --height, found --{' and --'.join(sizing)}")
    sizing |= {"box": box} if box else {}
    if quality is not None and not 1 <= quality <= 100:
        raise ConfigError(f"--quality goes from 1 to 100, found {quality}")
    if fidelity is not None and not 0 <= fidelity <= 1:
        raise ConfigError(f"expected --fidelity to be from 0 to 1, found {fidelity}")
    with caught([]):  # what is wrong with a file is said when it is read
        jobs = batch.plan(
            inputs, output, sizing=sizing, suffix=suffix, format=format, recursive=recursive,
            existing=existing, exact_size=not reproduce,
        )  # fmt: skip
    if dry_run:
        return _dry_run(jobs, jsonl=jsonl)
    if reproduce and (tile, vae_tiles, seed) != ("auto", "auto", 0):
        raise ConfigError(
            "--reproduce takes no --tile, --vae-tiles or --seed: it does as the authors' script does"
        )
    report, whole = Report(jobs, jsonl=jsonl), _whole(sizing) if reproduce else 0
    try:
        upscaler: Any = None
        if any(job.status == "todo" for job in jobs):  # a finished folder does not even load the model
            from unistep.students.onestep import Options
            from unistep.upscaling.upscaler import Upscaler

            options = Options(steps, decoder, weights, offload, compile)
            upscaler = Upscaler.from_pretrained(
                model, device=device, dtype=precision, fidelity=fidelity, options=options
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
        for result in batch.run(jobs, enlarge, metadata=metadata, quality=quality, hush=True):
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


def _dry_run(jobs: Sequence[Job], *, jsonl: bool) -> int:
    """What would be done, on stdout; 1 if it is known already that a file will fail."""
    for job in jobs:
        if jsonl:
            emit_job("passed" if job.status == "passed" else "plan", job)
        elif job.status == "todo":
            sizes = f"{times(job.input_size)} -> {times(job.output_size)}"
            print(f"{clean(job.input)} -> {clean(job.output)}  {sizes}")
        elif job.status == "skipped":
            print(f"{clean(job.input)} skipped: {clean(job.message)}")
    failed = [job for job in jobs if job.status == "failed"]
    if not jsonl:
        rest(jobs)
    for job in failed:
        complain(job.message, job.input)
    return 1 if failed else 0
