"""The command `unistep`.

This module holds names, defaults and help; the work is imported inside each command, so that help needs
no torch. Exit codes are stable: 0 everything done, 1 something failed, 2 the command line makes no sense,
130 interrupted. An error is one line on stderr, `unistep: <file>: <reason>`; UNISTEP_DEBUG=1 adds the
traceback.
"""

from __future__ import annotations

import os
import re
import sys
import traceback
from collections.abc import Sequence
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, CycloptsError, Group

from unistep.command.cli_models import models
from unistep.command.cli_train import export, prepare, train
from unistep.command.options import argument, option
from unistep.command.report import clean, complain
from unistep.errors import ConfigError, UnistepError
from unistep.recipes import examples

DONE, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130

OUTPUT = Group.create_ordered("Output")
SIZE = Group.create_ordered("Size: one of these; x4 if none is given")
WAY = Group.create_ordered("How")
LARGE = Group.create_ordered("Students of large models")
CODES = "Exit codes: 0 all done, 1 something failed, 2 wrong usage, 130 interrupted."


def _version() -> str:
    from importlib.metadata import version

    return version("unistep")


app = App(
    name="unistep",
    help="Make small, blurry photographs large and sharp with a one-step diffusion model.",
    help_epilogue=f"""Examples:
  unistep upscale photo.jpg
  unistep upscale holidays -o large --recursive

{CODES}""",
    help_format="plaintext",
    version=_version,
    version_flags=["--version", "-V"],
    result_action="return_value",
    suppress_keyboard_interrupt=False,
)
app.command(models)
app.command(
    train,
    help_epilogue=examples.TRAIN,
)
app.command(prepare, help_epilogue=examples.PREPARE)
app.command(export, help_epilogue=examples.EXPORT)


def _fit(kind: object, tokens: Sequence[Any]) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)[xX×](\d+)", tokens[0].value)
    if not match:
        raise ConfigError(f"--fit takes WIDTHxHEIGHT, such as 1920x1080, found {tokens[0].value!r}")
    return int(match[1]), int(match[2])


def _tile(kind: object, tokens: Sequence[Any]) -> int | str:
    text = tokens[0].value
    if text == "auto":
        return "auto"
    if not (text.isascii() and text.isdigit() and int(text)):
        raise ConfigError(f"--tile takes auto or a number of pixels from 1 upward, found {text!r}")
    return int(text)


@app.command(
    usage="Usage: unistep upscale [OPTIONS] INPUT...",
    help_epilogue=f"""Examples:
  unistep upscale photo.jpg                  writes photo_x4.jpg beside it
  unistep upscale trip -o large -s 2 -r      mirrors the tree into large/

When a run was stopped, the same command does the rest. A name that begins with
a dash comes after --.

{CODES}""",
)
def upscale(
    inputs: Annotated[list[Path], argument("INPUT", "Pictures and folders, as many as you like.")],
    /,
    *,
    output: Annotated[
        Path | None,
        option(
            "Folder for the results; for one picture also a file name. Default: beside each source.",
            *("--output", "-o"),
            group=OUTPUT,
        ),
    ] = None,
    format: Annotated[
        Literal["jpeg", "png", "webp", "tiff", "bmp", "avif"] | None,
        option("jpeg, png, webp, tiff, bmp or avif. Default: as the source.", "--format", "-f", group=OUTPUT),
    ] = None,
    suffix: Annotated[
        str | None,
        option("Added to names. Default: _x4 (the factor); nothing with --output.", "--suffix", group=OUTPUT),
    ] = None,
    recursive: Annotated[
        bool, option("Also the folders inside a folder.", "--recursive", "-r", group=OUTPUT)
    ] = False,
    existing: Annotated[
        Literal["skip", "overwrite", "rename"],
        option("Where a result exists: skip (default), overwrite, rename.", "--existing", group=OUTPUT),
    ] = "skip",
    metadata: Annotated[
        Literal["keep", "strip", "no-gps"],
        option("keep (default), strip, or no-gps: all but the place.", "--metadata", group=OUTPUT),
    ] = "keep",
    quality: Annotated[
        int | None, option("1 to 100, for JPEG, WebP and AVIF.", "--quality", group=OUTPUT)
    ] = None,
    scale: Annotated[
        float | None, option("Factor from 1 to 8, such as 2.5.", "--scale", "-s", group=SIZE)
    ] = None,
    width: Annotated[
        int | None, option("Width in pixels; the height follows.", "--width", group=SIZE)
    ] = None,
    height: Annotated[
        int | None, option("Height in pixels; the width follows.", "--height", group=SIZE)
    ] = None,
    fit: Annotated[
        tuple[int, int] | None,
        option(
            "As large as fits into a box, such as 1920x1080.",
            "--fit",
            group=SIZE,
            converter=_fit,
            n_tokens=1,
            metavar="WxH",
        ),
    ] = None,
    megapixels: Annotated[float | None, option("Millions of pixels.", "--megapixels", group=SIZE)] = None,
    model: Annotated[
        str | None,
        option("Name or .safetensors file. Default: the packaged model.", "--model", "-m", group=WAY),
    ] = None,
    device: Annotated[
        str, option("auto (default), cpu, cuda, cuda:1 ...", "--device", "-d", group=WAY)
    ] = "auto",
    tile: Annotated[
        int | Literal["auto"],
        option(
            "Side of the pieces that are computed at once; smaller takes less memory. Default: auto.",
            *("--tile", "-t"),
            group=WAY,
            converter=_tile,
            n_tokens=1,
            metavar="PIXELS",
        ),
    ] = "auto",
    colour: Annotated[
        Literal["wavelet", "adain", "none"] | None,
        option(
            "Hold the source's colours: wavelet, adain or none. Default: as the model needs.",
            "--colour",
            "--color",
            group=WAY,
        ),
    ] = None,
    fidelity: Annotated[
        float | None,
        option(
            "0 (restored detail) to 1 (plain, smallest error). Default: as the model needs.",
            "--fidelity",
            group=WAY,
        ),
    ] = None,
    seed: Annotated[int, option("For models that draw noise.", "--seed", group=WAY)] = 0,
    dtype: Annotated[
        Literal["auto", "float32", "float16", "bfloat16"],
        option("auto (default: as the device is fast), float32, float16, bfloat16.", "--dtype", group=WAY),
    ] = "auto",
    vae_tiles: Annotated[
        Literal["auto", "whole", "exact", "fast"],
        option(
            "The autoencoder: auto (default), whole, exact (in blocks, the same result), fast (close to it).",
            "--vae-tiles",
            group=LARGE,
        ),
    ] = "auto",
    decoder: Annotated[
        str | None,
        option("tiny, or the file of a TAESD decoder: quicker, less fine.", "--decoder", group=LARGE),
    ] = None,
    steps: Annotated[int | None, option("Steps of a teacher's own sampler.", "--steps", group=LARGE)] = None,
    weights: Annotated[
        Literal["full", "int8", "int4"],
        option("full (default), int8 or int4: smaller in memory, less exact.", "--weights", group=LARGE),
    ] = "full",
    offload: Annotated[
        bool, option("Keep weights in host memory; slower.", "--offload", group=LARGE)
    ] = False,
    compile: Annotated[
        bool, option("torch.compile: slow start, then faster.", "--compile", group=LARGE)
    ] = False,
    reproduce: Annotated[
        bool,
        option("As the authors' own script does it, to the 8-bit level.", "--reproduce", group=LARGE),
    ] = False,
    jsonl: Annotated[bool, option("JSON lines on stdout, for programs.", "--jsonl", group=WAY)] = False,
    dry_run: Annotated[bool, option("Only say what would be done.", "--dry-run", group=WAY)] = False,
) -> int:
    """Enlarge pictures and folders of pictures."""
    from unistep.command import upscale as command
    from unistep.upscaling import folders as batch

    given = {"scale": scale, "width": width, "height": height, "fit": fit, "megapixels": megapixels}
    sizing = {name: value for name, value in given.items() if value is not None} or {"scale": 4.0}
    if len(sizing) > 1:
        raise ConfigError(f"--{' and --'.join(sizing)} exclude each other: give one of them")
    if quality is not None and not 1 <= quality <= 100:
        raise ConfigError(f"--quality goes from 1 to 100, found {quality}")
    if fidelity is not None and not 0 <= fidelity <= 1:
        raise ConfigError(f"expected --fidelity to be from 0 to 1, found {fidelity}")
    jobs = batch.plan(
        inputs, output, sizing=sizing, suffix=suffix, format=format, recursive=recursive, existing=existing
    )
    if dry_run:
        return command.dry_run(jobs, jsonl=jsonl)
    return command.upscale(
        jobs,
        sizing=sizing,
        model=model,
        device=device,
        tile=tile,
        colour=colour,
        fidelity=fidelity,
        seed=seed,
        dtype=dtype,
        vae_tiles=vae_tiles,
        options={
            "steps": steps,
            "decoder": decoder,
            "weights": weights,
            "offload": offload,
            "compile": compile,
        },
        reproduce=reproduce,
        metadata=metadata,
        quality=quality,
        jsonl=jsonl,
    )


@app.command(help_epilogue="")
def info(
    model: Annotated[
        str | None, argument("MODEL", "Name or .safetensors file. Default: the packaged model.")
    ] = None,
    /,
) -> int:
    """Show what a model's file says about itself: recipe, steps, data, scores."""
    from unistep.command import models as command

    return command.info(model)


@app.command(help_epilogue="Exit codes: 0 all well, 1 something to look at.")
def doctor() -> int:
    """Check this machine: Python, torch, device, memory, codecs, disk."""
    from unistep.command import doctor as command

    return command.doctor()


@app.command(help_epilogue="Example:\n  unistep degrade photos pairs --preset light --seed 1")
def degrade(
    source: Annotated[Path, argument("IN", "A picture or a folder of pictures.")],
    out: Annotated[Path, argument("OUT", "Folder for the pairs.")],
    /,
    *,
    preset: Annotated[
        Literal["realesrgan", "light", "bicubic", "mild", "faces"],
        option("realesrgan (default), light, bicubic, mild or faces.", "--preset"),
    ] = "realesrgan",
    seed: Annotated[int, option("The same seed gives the same pairs. Default: 0.", "--seed")] = 0,
) -> int:
    """Make training pairs: OUT/hr and OUT/lr, as PNG."""
    from unistep.data.pairs import write_pairs

    def report(line: str) -> None:
        print(clean(line), file=sys.stderr)

    failed = write_pairs(source, out, preset=preset, seed=seed, report=report)
    return FAILED if failed else DONE


@app.command(help_epilogue="Example:\n  unistep bench --size 256 --repeat 10")
def bench(
    model: Annotated[
        str | None, argument("MODEL", "Name or .safetensors file. Default: the packaged model.")
    ] = None,
    /,
    *,
    size: Annotated[int, option("Side of the small picture, in pixels. Default: 128.", "--size")] = 128,
    device: Annotated[str, option("auto (default), cpu, cuda, cuda:1 ...", "--device", "-d")] = "auto",
    dtype: Annotated[
        Literal["auto", "float32", "float16", "bfloat16"],
        option("auto (default: as the device is fast), float32, float16, bfloat16.", "--dtype"),
    ] = "auto",
    repeat: Annotated[int, option("Runs, of which the median counts. Default: 30.", "--repeat")] = 30,
    compile: Annotated[bool, option("torch.compile: slow start, then faster.", "--compile")] = False,
    peaks: Annotated[
        tuple[float, float] | None,
        option("The device's peaks, instead of measuring them.", "--peaks", metavar="TFLOP/s GB/s"),
    ] = None,
    json: Annotated[bool, option("One JSON object, for programs.", "--json")] = False,
) -> int:
    """Measure a model's speed and memory here, against what the device can do at most."""
    from unistep.command import bench as command

    return command.run(
        model, size=size, device=device, dtype=dtype, repeat=repeat, compile=compile, peaks=peaks,
        as_json=json,
    )  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line (default: that of the process) and give its exit code."""
    try:
        for stream in (sys.stdout, sys.stderr):  # file names need not be valid text
            if isinstance(stream, TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")
        code = app(arguments, exit_on_error=False, print_error=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else DONE
    except (CycloptsError, ConfigError) as error:
        return _fail(error, USAGE)
    except UnistepError as error:
        return _fail(error, FAILED)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # the reader of our lines has left, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except Exception as error:
        return _fail(f"{type(error).__name__}: {error} (a defect: UNISTEP_DEBUG=1 shows where)", FAILED)


def _fail(error: object, code: int) -> int:
    if os.environ.get("UNISTEP_DEBUG") == "1":
        traceback.print_exc()
    complain(" ".join(str(error).split()))
    return code


if __name__ == "__main__":
    sys.exit(main())
