"""Models by name: those inside the package, the plain one of a student, and any of them ready to run."""

import contextlib
import os
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from torch import nn

from ..bases import BASES, Face
from ..errors import ConfigError, ModelError
from ..students.onestep import Options
from ..students.restorers import open_restorer
from ..tensors import read, read_header, read_metadata, read_tensors, sha256

DEFAULT = "compact-distilled"
"""The embedded model that is used when none is named."""
FIRST = "compact"
"""The base of weights that do not say."""


def embedded() -> dict[str, Path]:
    """Name -> file of the models inside the package."""
    folder = Path(str(resources.files("unistep") / "weights"))
    return {file.stem: file for file in sorted(folder.glob("*.safetensors"))}


def resolve(name_or_path: str | os.PathLike[str] | None) -> Path:
    """The file of an embedded model's name or of a path. Raises ModelError if there is none."""
    models = embedded()
    name = DEFAULT if name_or_path is None else os.fspath(name_or_path)
    if name in models:
        return models[name]
    path = Path(name)
    if path.is_file():
        return path
    names = ", ".join(models) or "none is installed"
    raise ModelError(
        f"expected a model's name ({names}) or a .safetensors file, found “{name}”, which is neither"
    )


def plain_file(path: Path, header: Mapping[str, Any]) -> Path | None:
    """The plain model of the student in `path`: None if `header` names none.

    It is found by its SHA-256: the embedded model of its name, or any .safetensors file beside the student.
    Raises ModelError if it is not there.
    """
    if "plain" not in header:
        return None
    try:
        name, wanted = str(header["plain"]["name"]), str(header["plain"]["sha256"])
    except (KeyError, TypeError) as error:
        raise ModelError(f"{path}: expected a header written by Unistep, found a damaged “plain”") from error
    found = "none"
    if own := embedded().get(name):
        found = sha256(own)
        if found == wanted:
            return own
    for file in sorted(path.parent.glob("*.safetensors")):
        with contextlib.suppress(OSError):  # a file that is not ours to read
            if file.is_file() and not file.samefile(path) and sha256(file) == wanted:
                return file
    raise ModelError(
        f"{path}: expected the plain model {name} with sha256 {wanted}, found {found}; "
        "put it next to the file, or take fidelity 0"
    )


def default_fidelity(path: Path, header: Mapping[str, Any]) -> float:
    """The fidelity that the header of `path` asks for, 0 if it asks for none. Raises ModelError."""
    value = header.get("fidelity", 0)
    if type(value) not in (int, float) or not 0 <= value <= 1:
        raise ModelError(f"{path}: expected the header's fidelity to be from 0 to 1, found {value}")
    return float(value)


def base_of(path: Path, header: Mapping[str, Any]) -> Face:
    """The base that a file's model is of. Raises ModelError for one of no base, or not a whole one."""
    student = header.get("student")
    table = student if student is not None else header.get("run")
    found = table.get("base") if isinstance(table, Mapping) else None
    if student is None:  # the first embedded weights did not say
        found = found.get("kind", FIRST) if isinstance(found, Mapping) else FIRST
    base = BASES.get(found) if isinstance(found, str) else None
    if base is None:
        raise ModelError(
            f"{path}: expected the header of a student, found a damaged one, or one of the base {found}, "
            f"which is none of {', '.join(BASES)}"
        )
    if student is None and not base.whole:
        raise ModelError(
            f"{path}: expected a whole model, found only what a run trained (base {base.name}): "
            f"unistep export {path.parent} FILE.safetensors folds it into one"
        )
    return base


def _decoder(name: str, base: Face) -> Path:
    """The file of a tiny decoder: a path, or "tiny" for the pulled one of the student's base."""
    if name != "tiny":
        return Path(name)
    from .hub import component_folder

    model = base.tiny_decoder
    if model is None:
        raise ConfigError(
            f"expected a Stable Diffusion model for --decoder tiny, found one of the base {base.name}, whose "
            "latents no tiny decoder knows"
        )
    files = sorted(component_folder(model).glob("*.safetensors"), key=lambda file: "decoder" not in file.name)
    if not files:
        raise ModelError(f"expected {model} to be pulled, found no weights: unistep models pull {model}")
    return files[0]  # taesd_decoder.safetensors, or diffusers' file of both halves


def decoder_file(path: Path, options: Options) -> Path | None:
    """The file of the decoder that `options` give the model in `path`; None: its own. No weights are read.

    Raises ConfigError for options that a model cannot have that is none of a large base, ModelError for a
    decoder that is not there.
    """
    if options == Options():
        return None
    base = base_of(path, read_header(path)) if "unistep" in read_metadata(path) else None
    if base is None or base.whole:
        raise ConfigError(
            f"{path}: expected a student of a large model for steps, decoder, weights, offload or compile, "
            "found another: leave them out"
        )
    file = None if options.decoder is None else _decoder(options.decoder, base)
    if file is not None and not file.is_file():
        raise ModelError(f"expected tiny, or the .safetensors file of a decoder, found none at {file}")
    return file


def load_student(
    name_or_path: str | os.PathLike[str] | None = None,
    fidelity: float | None = None,
    options: Options | None = None,
) -> nn.Module:
    """A one-step model ready to run. `info` is the file's header.

    Of the compact base: [B, 3, h, w] in [-1, 1] -> [B, 3, 4h, 4w]; of the others a `LatentStudent`; of
    others' SRVGGNetCompact and RRDBNet a `Restorer`, which is used as the compact base's.
    `fidelity`: from 0 (the restored detail, as trained) to 1 (the plain reconstruction that its header
    names); None: the file's default. The weights are mixed, so it is one call as ever. A model that names no
    plain one is its own: every fidelity gives the same.

    Raises ConfigError for another fidelity or for options that the model cannot have; ModelError for a
    damaged file or a plain model that is missing.
    """
    if fidelity is not None and not 0 <= fidelity <= 1:
        raise ConfigError(f"expected fidelity to be from 0 to 1, found {fidelity}")
    path = resolve(name_or_path)
    tensors, metadata = read(path)
    if "unistep" not in metadata:
        if options is not None and options != Options():
            raise ConfigError(
                f"{path}: expected a student of a large model for steps, decoder, weights, offload or "
                "compile, found none of Unistep's: leave them out"
            )
        return open_restorer(path, tensors)
    header = read_header(path)
    base, decoder = base_of(path, header), None
    if options is not None and options.decoder is not None and not base.whole:
        decoder = read_tensors(_decoder(options.decoder, base))
    if fidelity is None:
        fidelity = default_fidelity(path, header)
    return base.load(path, header, tensors, fidelity, options, lambda: plain_file(path, header), decoder)
