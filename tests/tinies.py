"""The tiny model of every architecture, written by name; and the embedded models' own networks."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from unistep.bases.compact.network import CompactDenoiser
from unistep.bases.compact.student import open_network
from unistep.bases.resshift import sizes as resshift
from unistep.bases.sd3 import sizes as sd3
from unistep.bases.sd21 import sizes as sd21
from unistep.bases.tiny import seeded
from unistep.models.checkpoint import base_of, resolve
from unistep.tensors import read_header, read_tensors

KINDS: dict[str, Callable[[Path], Path]] = {
    "sd3": sd3.write,
    "sd21": sd21.write,
    "sd21-v": lambda folder: sd21.write(folder, "v_prediction"),
    "sdxl": sd21.write_sdxl,
    "resshift": resshift.write,
    "resshift-faces": lambda folder: resshift.write(folder, "resshift-faces"),
}


def write(kind: str, folder: Path, seed: int = 0) -> Path:
    """Writes the tiny model `kind` into `folder`. Returns what `train.init` is to name."""
    with seeded(folder, seed):
        return KINDS[kind](folder)


def load_denoiser(name: str | Path | None = None) -> tuple[CompactDenoiser, dict[str, Any]]:
    """The compact network in a file, or of an embedded model's name, and its header."""
    path = resolve(name)
    header = read_header(path)
    assert base_of(path, header).name == "compact"
    return open_network(path, header, read_tensors(path)), header
