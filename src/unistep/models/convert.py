"""Pickled weights to safetensors: the one place that opens a pickle.

A pickle is a program. It is read by torch's weights-only reader, which knows tensors and plain containers, in
a process of its own, which hands back nothing but the safetensors file.
"""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ..atomic import atomic_path
from ..errors import ConfigError, ModelError
from ..tensors import PICKLED, SAFE, recognised, sha256

AVERAGED = ("params_ema", "params")
"""Where BasicSR keeps a network: its averaged weights, which come first, and those of the last step."""
Taken = tuple[dict[str, torch.Tensor], dict[str, Any], str]


def convert(src: Path, dst: Path) -> str:
    """Write the state dict of the .pth file `src` to `dst`, every tensor in its dtype.

    A state dict under one of the keys "params_ema", "params" and "state_dict" is taken out of there, the
    first that it has; returns that key, or "". The metadata name it, the source and its SHA-256. Raises
    ConfigError if `dst` exists or is no .safetensors, ModelError, with nothing written, if `src` is missing,
    something else or holds more than tensors.
    """
    if dst.suffix != ".safetensors" or dst.exists():
        found = "one that exists" if dst.exists() else f"“{dst.name}”"
        raise ConfigError(f"{dst}: expected the name of a new .safetensors file, found {found}: name another")
    try:
        with atomic_path(dst) as part:
            return _apart(src, part).get("taken", "")
    except OSError as error:
        raise ModelError(f"{dst}: cannot be written: {error}") from error


def unpacked(src: Path) -> Taken:
    """The tensors and the plain values of the pickled file `src`, whatever containers they are in.

    Keys of nested dictionaries are joined by "/"; a lone tensor has the key "". Lists of text and numbers are
    values. Last comes the key of AVERAGED under which all this was, or "". Raises ModelError.
    """
    with tempfile.TemporaryDirectory() as folder:
        part = Path(folder, "unpacked.safetensors")
        about = _apart(src, part, "--nested")
        with safe_open(part, framework="pt") as file:
            tensors = {name.removeprefix("/"): file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return tensors, json.loads(about["values"]), about.get("taken", "")


def _apart(src: Path, part: Path, *options: str) -> dict[str, str]:
    """Has a process of its own read `src` and write `part`, whose metadata it returns. Raises ModelError."""
    found = recognised(src) if src.is_file() else "none: name another"
    if found == SAFE:
        found += " under another name: rename it"
    if found not in ("", PICKLED):
        raise ModelError(f"{src}: expected a file of pickled weights, found {found}")
    # -P: not the modules of the current folder
    command = [sys.executable, "-P", "-X", "utf8", "-m", __name__, str(src), str(part), *options]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace")
    found = done.stdout.strip()
    if done.returncode and found:
        raise ModelError(f"{src}: expected a file of pickled tensors alone, found {found}")
    if done.returncode:
        reason = done.stderr.strip().rpartition("\n")[2] or f"exit code {done.returncode}"
        raise ModelError(f"{src}: could not be converted: {reason}")
    try:
        with safe_open(part, framework="pt") as file:
            return dict(file.metadata())
    except SafetensorError as error:
        raise ModelError(f"{src}: could not be converted: its copy cannot be read: {error}") from error


def read(src: Path) -> dict[str, torch.Tensor]:
    """The state dict of a pickled file. Raises ModelError that says what was found instead."""
    return _flat(_taken(_load(src), (*AVERAGED, "state_dict"))[0])


def _taken(state: Any, keys: tuple[str, ...]) -> tuple[Any, str]:
    """The table under the first of `keys` that has one, and that key; or `state` itself and ""."""
    for key in keys if isinstance(state, dict) else ():
        if isinstance(state.get(key), dict) and state[key]:
            return state[key], key
    return state, ""


def _flat(state: Any) -> dict[str, torch.Tensor]:
    if not isinstance(state, dict) or not state:
        raise ModelError("no state dict")
    for key, value in state.items():
        if not isinstance(key, str) or not isinstance(value, torch.Tensor):
            raise ModelError(f"“{key}”, which is of type {type(value).__name__}")
        if key == "__metadata__":
            raise ModelError(f"a tensor named “{key}”, the one name that a .safetensors file cannot give it")
        if value.layout is not torch.strided:
            raise ModelError(f"“{key}”, which is a sparse tensor: make it dense first")
    # safetensors refuses tensors that share memory
    return {key: value.detach().clone().contiguous() for key, value in state.items()}


def _nested(state: Any) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """As `unpacked`, in this process, every name with a "/" before it. Raises ModelError as `read`."""
    tensors: dict[str, torch.Tensor] = {}
    values: dict[str, Any] = {}

    def walk(name: str, value: Any) -> None:
        if isinstance(value, torch.Tensor) and value.layout is torch.strided:
            tensors[name or "/"] = value.detach().clone().contiguous()
        elif isinstance(value, dict) and all(isinstance(key, str) for key in value):
            for key, inner in value.items():
                walk(f"{name}/{key}", inner)
        elif _plain(value):
            values[name.removeprefix("/")] = value
        else:
            raise ModelError(f"“{name.removeprefix('/')}”, which is of type {type(value).__name__}")

    walk("", state)
    return tensors, values


def _plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(_plain(inner) for inner in value)
    return value is None or isinstance(value, str | int | float)


def _load(src: Path) -> Any:
    try:
        return torch.load(src, map_location="cpu", weights_only=True)
    except Exception as error:  # the reader raises whatever a damaged file leads to
        # torch's own text advises to trust the file
        call = re.search(r"GLOBAL (\S+)", str(error))
        found = f"one that would run “{call[1]}”" if call else "a damaged file or another kind of one"
        raise ModelError(found) from error


def main(src: Path, part: Path, nested: bool) -> int:
    """The process that reads: writes `part`, or prints what was found and returns 1."""
    try:
        metadata = {"format": "pt", "source": src.name, "sha256": sha256(src)}
        state, taken = _taken(_load(src), AVERAGED if nested else (*AVERAGED, "state_dict"))
        metadata |= {"taken": taken} if taken else {}
        if nested:
            tensors, values = _nested(state)
            save_file(tensors, part, {**metadata, "values": json.dumps(values)})
        else:
            save_file(_flat(state), part, metadata)
    except ModelError as error:
        print(error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2]), "--nested" in sys.argv[3:]))
