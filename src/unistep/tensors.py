"""Tensors as one .safetensors file, and in its header, as JSON under "unistep", everything that made them.

The header of weights: `run` (the whole Run), `steps` (all steps, earlier runs included), `samples`, `data`
(hash and count of the training photographs), `scores`, `history`; of a distilled student also `plain` (name
and sha256 of the file of its plain reconstruction) and, where its author chose one, `fidelity` (0 to 1, the
default mix of the two); `perceptual` names the distance of a perceptual loss; `student` says what a student
of a large base consists of. Nothing here pickles.
"""

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from .atomic import atomic_write
from .errors import ModelError

FORMAT = 1


def save_weights(
    path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, Any], dtype: torch.dtype
) -> None:
    """Writes `tensors` as `dtype` with `header`, atomically."""
    plain = {name: tensor.detach().to("cpu", dtype).contiguous() for name, tensor in tensors.items()}
    metadata = {"unistep": json.dumps({"format": FORMAT, **header}, sort_keys=True)}
    with atomic_write(path) as file:
        file.write(save(plain, metadata=metadata))


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise ModelError(
            f"{path}: expected a .safetensors file, found something else or a damaged one: {error}"
        ) from error


def read_header(path: Path) -> dict[str, Any]:
    """The header of a Unistep file. Raises ModelError for other files and for damaged ones."""
    with _opened(path) as file:
        metadata = file.metadata() or {}
    if "unistep" not in metadata:
        raise ModelError(
            f"{path}: expected weights written by Unistep, found a safetensors file without its header"
        )
    try:
        header: dict[str, Any] = json.loads(metadata["unistep"])
        version = header["format"]
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{path}: expected a header written by Unistep, found a damaged one") from error
    if version != FORMAT:
        raise ModelError(f"{path}: expected format {FORMAT}, found {version}: update unistep")
    return header


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """All tensors of a file, on the CPU, in their stored dtype, and its metadata. Raises ModelError."""
    with _opened(path) as file:
        names = file.keys()
        return {name: file.get_tensor(name) for name in names}, file.metadata() or {}


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors alone. Raises ModelError for a damaged file."""
    return read(path)[0]


def sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def load_exactly(module: nn.Module, tensors: Mapping[str, Tensor], what: str) -> None:
    """Puts `tensors` into a module, which may be on the meta device. Raises ModelError with what differs."""
    own: dict[str, Any] = module.state_dict()
    missing, surplus = sorted(own.keys() - tensors.keys()), sorted(tensors.keys() - own.keys())
    other = [
        f"{name} {list(tensors[name].shape)} for {list(own[name].shape)}"
        for name in own.keys() & tensors.keys()
        if own[name].shape != tensors[name].shape
    ]
    if missing or surplus or other:
        parts = (("missing", missing), ("surplus", surplus), ("of another shape", sorted(other)))
        found = "; ".join(f"{len(names)} {kind}: {few(names)}" for kind, names in parts if names)
        raise ModelError(f"expected the tensors of {what}, found {found}")
    module.load_state_dict(dict(tensors), strict=True, assign=True)


def part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors under `prefix`, without it."""
    return {name.removeprefix(prefix): p for name, p in tensors.items() if name.startswith(prefix)}


def few(names: list[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
