"""A training run's folder: its settings, its state, its best weights; one run at a time."""

import contextlib
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from ..bases import face_of
from ..errors import TrainingError
from ..recipes.config import Run
from ..tensors import read_header, read_tensors, save_weights
from .opening import FILES, NETWORKS
from .players import Player

STATE = "state.safetensors"
WEIGHTS = "weights.safetensors"
LOCK = "run.lock"
FREE = {"train": ("micro", "sharding"), "data": ("workers", "memory", "strict")}
"""Settings that a run may be resumed with other values of: they decide how it is computed, not what."""


@contextlib.contextmanager
def locked(out: Path) -> Iterator[None]:
    """Makes the folder and holds it for this run alone; the system lets go of it when the process ends.

    Raises TrainingError if another run holds it.
    """
    from filelock import FileLock, Timeout

    out.mkdir(parents=True, exist_ok=True)
    lock = FileLock(out / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise TrainingError(
            f"expected {out} to be free, found another run writing to it: wait for it, or name another --out"
        ) from error
    try:
        yield
    finally:
        lock.release()


def save_state(
    path: Path, table: Mapping[str, Player], step: int, run: Run, files: Mapping[str, str], write: bool = True
) -> None:
    """Everything that a resumed run needs, atomically. `files`: setting -> SHA-256 of its network's file.

    write: False for the processes that only give their parts of split networks.
    """
    tensors = {f"{name}.{key}": t for name, player in table.items() for key, t in player.state().items()}
    if write:
        about = {"step": step, "run": run.to_dict(), "files": files}
        save_weights(path, tensors, about, torch.float32)


def load_state(path: Path, table: Mapping[str, Player], files: Mapping[str, str]) -> int:
    """Restores the players and returns the step they were saved at.

    Raises TrainingError if one of the run's `files` holds other bytes than it did then.
    """
    header, tensors = read_header(path), read_tensors(path)
    for setting, digest in files.items():
        before = header.get("files", files).get(setting)
        if digest != before:
            raise TrainingError(
                f"{path.parent} holds another run ({setting} named a file with sha256 {before}, now "
                f"{digest}): put that file back, or name another --out"
            )
    for name, player in table.items():
        prefix = f"{name}."
        player.load_state(
            {key.removeprefix(prefix): t for key, t in tensors.items() if key.startswith(prefix)}
        )
    return int(header["step"])


def compare(out: Path, run: Run) -> None:
    """Raises TrainingError, naming what differs, if `out` holds another run."""
    file = out / "run.json"
    if not file.exists():
        return
    old, new = json.loads(file.read_text()), json.loads(run.to_json())
    changed = [
        f"{section}.{key}: {old[section].get(key)} -> {value}"
        for section in new
        if section != "name"
        for key, value in new[section].items()
        if old.get(section, {}).get(key) != value and key not in FREE.get(section, ())
    ]
    if changed or old["name"] != new["name"]:
        what = "; ".join(changed) or f"recipe: {old['name']} -> {new['name']}"
        raise TrainingError(
            f"{out} holds another run ({what}): resume with the same settings, or name another --out"
        )


def portable(run: Run) -> dict[str, Any]:
    """The run for a weights file's header: files by name alone, where they lie is nobody's business."""
    public = run.to_dict()
    for section, names in (("train", (*NETWORKS, *FILES)), ("base", face_of(run.base).files)):
        for name in names:
            public[section][name] = Path(public[section][name]).name
    return public


def best_score(weights: Path) -> float:
    """The held-out score of the weights that are already there; minus infinity if there are none."""
    return float(read_header(weights)["scores"]["score"]) if weights.exists() else -math.inf
