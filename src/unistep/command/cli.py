"""The command `unistep`.

Commands declare names, defaults and help; the work is imported inside each of them, so that help needs no
torch. Exit codes are stable: 0 everything done, 1 something failed, 2 the command line makes no sense,
130 interrupted. An error is one line on stderr, `unistep: <file>: <reason>`; UNISTEP_DEBUG=1 adds the
traceback.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, CycloptsError

from unistep.command.bench import bench
from unistep.command.cli_models import info, models
from unistep.command.cli_report import EXAMPLES as REPORTS
from unistep.command.cli_report import report
from unistep.command.cli_study import study
from unistep.command.cli_train import export, prepare, train
from unistep.command.doctor import doctor
from unistep.command.evaluate import EXAMPLES, evaluate
from unistep.command.options import argument, option
from unistep.command.report import complain, say
from unistep.command.upscale import upscale
from unistep.errors import ConfigError, UnistepError
from unistep.recipes import examples

DONE, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130
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
app.command(train, help_epilogue=examples.TRAIN)
app.command(prepare, help_epilogue=examples.PREPARE)
app.command(export, help_epilogue=examples.EXPORT)
app.command(
    upscale,
    usage="Usage: unistep upscale [OPTIONS] INPUT...",
    help_epilogue=f"""Examples:
  unistep upscale photo.jpg                  writes photo_x4.jpg beside it
  unistep upscale trip -o large -s 2 -r      mirrors the tree into large/

When a run was stopped, the same command does the rest. A name that begins with
a dash comes after --. Other tools' -i INPUT, -n MODEL, -g GPU, -t 0 and --fp32
are understood.

{CODES}""",
)
app.command(
    info,
    help="Show what a model's file says about itself: recipe, steps, data, scores.",
    help_epilogue="",
)
app.command(doctor, help_epilogue="Exit codes: 0 all well, 1 something to look at.")
app.command(evaluate, name="eval", usage="Usage: unistep eval [OPTIONS]", help_epilogue=EXAMPLES)
app.command(report, usage="Usage: unistep report [OPTIONS] RESULTS", help_epilogue=REPORTS)
app.command(study)
app.command(bench, usage="Usage: unistep bench [OPTIONS] [MODEL...]", help_epilogue=examples.BENCH)


@app.command(help_epilogue="Example:\n  unistep degrade photos pairs --preset light --seed 1")
def degrade(
    source: Annotated[Path, argument("IN", "A picture or a folder of pictures.")],
    out: Annotated[Path, argument("OUT", "Folder for the pairs.")],
    /,
    *,
    preset: Annotated[
        Literal["realesrgan", "light", "bicubic", "mild", "compressed", "faces"],
        option("realesrgan (default), light, bicubic, mild, compressed or faces."),
    ] = "realesrgan",
    seed: Annotated[int, option("The same seed gives the same pairs. Default: 0.")] = 0,
) -> int:
    """Make training pairs: OUT/hr and OUT/lr, as PNG."""
    from unistep.data.write import write_pairs

    return FAILED if write_pairs(source, out, preset=preset, seed=seed, report=say) else DONE


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
