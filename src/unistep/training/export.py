"""A trained student as one file that `unistep upscale -m` runs, and in the layout of its method's authors."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from ..atomic import atomic_write
from ..bases import face_of
from ..errors import ConfigError, TrainingError
from ..recipes.config import Run, kind
from ..tensors import read_header, read_tensors, save_weights
from .opening import open_run
from .runfolder import SETTINGS, WEIGHTS, settings

STUDENT = "student.safetensors"
"""What a finished run on a large base leaves beside its weights."""


def export(
    folder: Path, out: Path, authors: Path | None = None, dtype: torch.dtype = torch.float16,
    report: Callable[[str], None] = print,
) -> Path:  # fmt: skip
    """Folds the best weights of the run in `folder` into the file `out`, and returns that.

    Args:
        authors: a folder for the LoRA files, or the whole network's state dict, in the authors' layout,
            float32.
        dtype: of the tensors in `out`.

    Raises TrainingError for a folder without a run or without weights; ConfigError and ModelError if the
    base cannot be opened, or is another than the run's.
    """
    run, header = read_run(folder)
    if face_of(run.base).whole:
        raise ConfigError(
            f"expected a run on a large base, found {folder} on one that needs no export ({kind(run.base)}): "
            f"unistep upscale -m {folder / WEIGHTS}"
        )
    weights = read_tensors(folder / WEIGHTS)
    base = open_run(run, torch.device("cpu")).base
    student, tensors = base.export(weights, kind(run.method), dtype)
    about = {key: value for key, value in header.items() if key != "format"}
    out.parent.mkdir(parents=True, exist_ok=True)
    save_weights(out, tensors, {**about, "student": student}, dtype)
    report(f"{out}: unistep upscale -m {out} PICTURE")
    if authors is not None:
        authors.mkdir(parents=True, exist_ok=True)
        files = base.layout(weights)
        for name, state in files.items():
            with atomic_write(authors / name) as file:
                file.write(save({key: p.float().contiguous() for key, p in state.items()}))
            report(f"{authors / name}: {len(state)} tensors in the authors' layout")
        conversion = face_of(run.base).conversions.get(kind(run.method))
        archive = conversion and conversion.archive(files)
        if conversion and archive:
            with atomic_write(authors / conversion.archived_as) as file:
                torch.save(archive, file)
            report(f"{authors / conversion.archived_as}: as the authors' own script reads it")
    return out


def read_run(folder: Path) -> tuple[Run, dict[str, Any]]:
    """The run in `folder`, its paths as they were given, and the header of its weights."""
    if not (folder / SETTINGS).is_file():
        raise TrainingError(
            f"{folder}: expected the folder of a training run with its {SETTINGS}, found none: give the "
            "--out of unistep train"
        )
    run = Run.from_dict(settings(folder / SETTINGS))
    if not (folder / WEIGHTS).exists():
        raise TrainingError(
            f"{folder}: expected {WEIGHTS}, found none: the run has not reached its first validation "
            "(train.validate_every)"
        )
    return run, read_header(folder / WEIGHTS)
