"""A training run's folder: its settings, its state, its best weights; one run at a time."""

import contextlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ..atomic import held
from ..bases import face_of
from ..data.skipping import Report
from ..errors import ConfigError, ModelError, TrainingError
from ..recipes.config import Run
from ..tensors import few, part, read_header, read_tensors, save_weights
from .opening import FILES, NETWORKS
from .players import Player, learning_rate

SETTINGS = "run.json"
STATE = "state.safetensors"
WEIGHTS = "weights.safetensors"
FREE = {"train": ("micro", "sharding"), "data": ("workers", "memory", "strict")}
"""Settings that a run may be resumed with other values of: they decide how it is computed, not what."""
UNREADABLE = (OSError, ValueError, TypeError, KeyError, RecursionError, ConfigError, ModelError)
"""What a file that is damaged, or of another kind or version, leads to."""
Table = dict[str, Any]


@contextlib.contextmanager
def locked(out: Path) -> Iterator[None]:
    """Makes the folder and holds it for this run alone; the system lets go of it when the process ends.

    Raises TrainingError if another run holds it.
    """
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(held(out))
        except BlockingIOError as error:
            raise TrainingError(
                f"expected {out} to be free, found another run writing to it: wait for it, or name another "
                "--out"
            ) from error
        yield


@dataclass(frozen=True)
class Past:
    """What a run knows of itself before its next step."""

    data: Table
    """The data set, as `Photographs.record` has it; nothing in a process that does not write."""
    step: int = 0
    """The last that was saved."""
    changes: tuple[Table, ...] = ()
    """What was another until a "step": "train.steps", "data"."""


def save_state(
    path: Path, table: Mapping[str, Player], step: int, run: Run, files: Mapping[str, str], past: Past,
    write: bool = True,
) -> None:  # fmt: skip
    """Everything that a resumed run needs, atomically. `files`: setting -> SHA-256 of its network's file.

    write: False for the processes that only give their parts of split networks.
    """
    tensors = {f"{name}.{key}": t for name, player in table.items() for key, t in player.state().items()}
    if write:
        about = {"step": step, "run": run.to_dict(), "files": files, "data": past.data}
        about |= {"changes": past.changes} if past.changes else {}
        save_weights(path, tensors, about, torch.float32)


def load_state(
    out: Path, table: Mapping[str, Player], files: Mapping[str, str], run: Run, data: Table, report: Report
) -> Past:
    """Restores the players from the state in `out`, if there is one; says what has changed since then.

    Raises TrainingError if one of the run's `files` holds other bytes than it did then, if `data` is another
    data set in a strict run, or for a damaged state.
    """
    path = out / STATE
    if not path.exists():
        return Past(data)
    header = read_state(path)
    for setting, digest in files.items():
        before = header.get("files", files).get(setting)
        if digest != before:
            raise TrainingError(
                f"{out} holds another run ({setting} named a file with sha256 {before}, now "
                f"{digest}): put that file back, or name another --out"
            )
    step, changes = header["step"], list(header.get("changes", ()))
    changed = changes_since(header, run, data)
    if "data" in changed:
        what = f"the data set has changed since step {step} ({told(changed['data'], data)})"
        if run.data.strict:
            raise TrainingError(f"{out}: {what}: put it back, go on without --strict, or name another --out")
        report(f"{out}: {what}; --strict refuses that")
    if (steps := changed.get("train.steps")) is not None:
        report(f"{out}: {longer(run, steps, step)}")
    try:
        tensors = read_tensors(path)
        for name, player in table.items():
            player.load_state(part(tensors, f"{name}."))
    except KeyError as error:
        raise damaged(path, ValueError(f"one without {error}")) from error
    except ModelError as error:
        raise damaged(path, error) from error
    if changed and step < run.train.steps:
        changes.append({"step": step, **changed})
    return Past(data, step, tuple(changes))


def read_state(path: Path) -> Table:
    """The header of a run's state. Raises TrainingError for a damaged one, or another file."""
    try:
        header = read_header(path)
        kinds = {"files": dict, "data": dict, "changes": list}
        right = all(isinstance(header.get(key, kind()), kind) for key, kind in kinds.items())
        if type(header.get("step")) is not int or header["step"] < 0 or not right:
            raise ValueError("another file")
        if "run" in header:
            Run.from_dict(header["run"])
    except UNREADABLE as error:
        raise damaged(path, error) from error
    return header


def damaged(path: Path, error: Exception) -> TrainingError:
    """What to do about a state that cannot be read."""
    said = "" if isinstance(error, ModelError) else f"{path}: expected the state of a run, found "
    return TrainingError(
        f"{said}{error}: put a copy back, delete it to begin at step 0, or name another --out"
    )


def changes_since(header: Table, run: Run, data: Table) -> Table:
    """ "train.steps" and "data" as they were when a state was saved, so far as they are others now."""
    changed: Table = {}
    steps = header.get("run", {}).get("train", {}).get("steps", run.train.steps)
    if steps != run.train.steps:
        changed["train.steps"] = steps
    before = header.get("data", {})
    if data and before and before != data:
        changed["data"] = before
    return changed


def told(before: Table, data: Table) -> str:
    """How two data sets differ, in words."""
    counts = [
        f"{data.get(key)} {name} now, {before.get(key)} then"
        for key, name in (("images", "training images"), ("held_out", "held out"))
        if before.get(key) != data.get(key)
    ]
    if not counts and all(before.get(key) == data.get(key) for key in ("sha256", "held_out_sha256")):
        return "other texts"
    return "; ".join(counts) or f"{data.get('images')} training images as before, but not the same ones"


def longer(run: Run, steps: int, step: int) -> str:
    """What it means that a run of `steps`, of which it took `step`, is to have more."""
    goes = f"goes on to step {run.train.steps} instead of {steps}"
    before = replace(run, train=replace(run.train, steps=steps))
    if not step or learning_rate(before, step - 1) == learning_rate(run, step - 1):
        return f"{goes}, as if that had been asked for from the start"
    return (
        f"{goes}; the learning rate fell along the cosine of {steps} steps so far and takes up that of "
        f"{run.train.steps}, so a run of {run.train.steps} from the start would end in other weights"
    )


def settings(file: Path) -> Table:
    """The settings of a run as they stand in `file`. Raises TrainingError for a damaged one, or another."""
    try:
        text = file.read_text(encoding="utf-8")
        if not text.strip("\0 \r\n\t"):
            raise ValueError("nothing is in it")
        table: Table = json.loads(text)
        Run.from_dict(table)
    except UNREADABLE as error:
        raise TrainingError(
            f"{file}: expected the settings of a training run, found a damaged file or one of another "
            f"version ({error}): put a copy back, or delete it, and the same unistep train writes it anew"
        ) from error
    return table


def compare(out: Path, run: Run) -> None:
    """Raises TrainingError, naming what differs, if `out` holds another run, or one that is longer."""
    found = [settings(out / SETTINGS)] if (out / SETTINGS).exists() else []
    if (out / STATE).exists() and "run" in (header := read_state(out / STATE)):
        found.append(header["run"])
    for old in found:
        if changed := differences(old, run):
            raise TrainingError(
                f"{out} holds another run ({few(changed)}): resume with the same settings, or name another "
                "--out"
            )
        steps = old["train"]["steps"]
        if steps > run.train.steps:
            raise TrainingError(
                f"{out} holds a run of {steps} steps, found train.steps={run.train.steps}: a run can go on "
                f"for more steps, not for fewer; set train.steps={steps} or more, or name another --out"
            )


def differences(old: Table, run: Run) -> list[str]:
    """What two runs differ in that may not change, but the number of steps: "section.key: old -> new"."""
    new = json.loads(run.to_json())
    changed = [
        f"{section}.{key}: {old[section].get(key, 'nothing')} -> {value}"
        for section in new
        if section != "name"
        for key, value in new[section].items()
        if old[section].get(key) != value
        and key not in FREE.get(section, ())
        and ((section, key) != ("train", "steps") or key not in old[section])
    ]
    if not changed and old["name"] != new["name"]:
        changed.append(f"recipe: {old['name']} -> {new['name']}")
    return changed


def portable(run: Run) -> dict[str, Any]:
    """The run for a weights file's header: files by name alone, where they lie is nobody's business."""
    public = run.to_dict()
    for section, names in (("train", (*NETWORKS, "restorer", *FILES)), ("base", face_of(run.base).files)):
        for name in public[section].keys() & {*names}:
            public[section][name] = Path(public[section][name]).name
    return public


def best_score(weights: Path) -> float:
    """The held-out score of the weights that are already there; minus infinity if there are none.

    Raises TrainingError for a damaged file.
    """
    if not weights.exists():
        return -math.inf
    try:
        return float(read_header(weights)["scores"]["score"])
    except UNREADABLE as error:
        said = f"{weights}: expected the weights of this run with their score, found others"
        said = str(error) if isinstance(error, ModelError) else said
        raise TrainingError(
            f"{said}: put a copy back, or delete it, and the next validation writes another"
        ) from error
