"""Tensors as one .safetensors file, and in its header, as JSON under "unistep", everything that made them.

The header of weights: `run` (the whole Run), `steps` (all steps, earlier runs included), `samples`, `data`
(hash and count of the training photographs), `scores`, `history`; of a distilled student also `plain` (name
and sha256 of the file of its plain reconstruction) and, where its author chose one, `fidelity` (0 to 1, the
default mix of the two); `perceptual` names the distance of a perceptual loss; `student` says what a student
of a large base consists of; `changes` what was another before one of a run's steps: its length, its data;
`restorer` (name and sha256) whose results a run learnt from. Each part of `history` has its own run, steps,
samples and `restorer`.
Nothing here pickles.
"""

import codecs
import contextlib
import hashlib
import json
import zipfile
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
SAFE, PICKLED = "a .safetensors file", "pickled weights"
BEGINNINGS = {
    b"version https://git-lfs": "a Git LFS pointer, which stands for a file that was not fetched: run git "
    "lfs pull, or download the file itself",
    b"\x1f\x8b": "a gzip archive: unpack it",
    b"7z\xbc\xaf": "a 7z archive: unpack it",
    b"Rar!": "a rar archive: unpack it",
    b"\x89HDF": "an HDF5 file, which is not read",
    b"GGUF": "a GGUF file, which is not read",
    b"\x89PNG": "a picture",
    b"\xff\xd8\xff": "a picture",
}


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
        found = recognised(path)
        if found == PICKLED:
            found += ": unistep models convert makes a .safetensors file of them"
        elif found in ("", SAFE):
            found = f"something else or a damaged one: {error}"
        raise ModelError(f"{path}: expected a .safetensors file, found {found}") from error


def recognised(path: Path) -> str:
    """SAFE, PICKLED or what else a file is, by its first bytes, and what to do; "" where they do not say."""
    try:
        with path.open("rb") as file:
            head = file.read(4096)
    except OSError:
        return ""
    if not head:
        return "an empty file: get it again"
    for beginning, what in BEGINNINGS.items():
        if head.startswith(beginning):
            return what
    if head.startswith((b"PK\3\4", b"PK\5\6")):
        return _archive(path)
    if head[4:9] == b"\0\0\0\0{":
        return SAFE
    return PICKLED if head[0] == 0x80 else _text(head)


def _archive(path: Path) -> str:
    """What a zip archive holds; torch's own is one, too."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = sorted(archive.namelist())
    except Exception:  # the reader raises whatever a damaged archive leads to
        return "a zip archive that is damaged or breaks off: get it again"
    if any(name.endswith("data.pkl") for name in names):
        return PICKLED
    return f"a zip archive of other files ({few(names, 3) or 'none'}): unpack it and name the file of weights"


def _text(head: bytes) -> str:
    """What a text is that came in the place of a file; "" if it is none."""
    try:
        text = codecs.getincrementaldecoder("utf-8-sig")().decode(head).strip()
    except UnicodeDecodeError:
        return ""
    if not text or any(not c.isprintable() and not c.isspace() for c in text):
        return ""
    if text.startswith("<") and "<html" in text.lower().replace("<!doctype html", "<html"):
        return "a web page, as a link to a page gives instead of one to a file: download the file itself"
    begins = " ".join(text.split())
    begins = begins if len(begins) <= 80 else begins[:80] + "..."
    kind = {"{": "a JSON text", "[": "a JSON text", "<": "an XML text"}.get(text[0], "a text")
    return f"{kind}, perhaps a server's answer (“{begins}”): download the file itself"


def read_metadata(path: Path) -> dict[str, str]:
    """What a file says beside its tensors. Raises ModelError for a damaged one."""
    with _opened(path) as file:
        return file.metadata() or {}


def read_header(path: Path) -> dict[str, Any]:
    """The header of a Unistep file. Raises ModelError for other files and for damaged ones."""
    metadata = read_metadata(path)
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
