"""Weights as one .safetensors file: tensors, and in the header everything that made them.

The header's "unistep" entry is JSON: `run` (the whole Run), `steps` (all steps, earlier runs included),
`samples`, `data` (hash and count of the training photographs), `scores`, `history`; of a distilled student
also `plain` (name and sha256 of the file of its plain reconstruction) and, where its author chose one,
`fidelity` (0 to 1, the default mix of the two); `perceptual` names the distance of a perceptual loss.
Nothing here pickles.
"""

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from ..atomic import atomic_write
from ..bases.compact.base import CompactConfig, CompactDenoiser, fold_slot, mix
from ..errors import ConfigError, ModelError
from ..recipes.config import from_json
from ..students.onestep import Options
from .download import sha256

DEFAULT = "compact-sharp"
"""The embedded model that is used when none is named."""
FORMAT = 1


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


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a file, on the CPU, in their stored dtype. Raises ModelError for a damaged file."""
    with _opened(path) as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)


def load_denoiser(
    name_or_path: str | os.PathLike[str] | None = None,
) -> tuple[CompactDenoiser, dict[str, Any]]:
    """The compact denoiser (float32, evaluation mode) and its header. Raises ModelError for another file."""
    path = resolve(name_or_path)
    header = read_header(path)
    try:
        shape = {key: value for key, value in header["run"]["base"].items() if key != "kind"}
        kind = header["run"]["base"].get("kind", "compact")  # the first embedded weights did not say
        if kind != "compact":
            raise ModelError(
                f"{path}: expected a whole model, found only what a run trained (base {kind}): "
                f"unistep export {path.parent} FILE.safetensors folds it into one"
            )
        config: CompactConfig = from_json(shape, CompactConfig)
        denoiser = CompactDenoiser(config)
        tensors = read_tensors(path)
        denoiser.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError, ConfigError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ModelError(
            f"{path}: expected the weights of a compact model, found others: {reason}"
        ) from error
    if not all(torch.isfinite(tensor).all() for tensor in tensors.values()):
        raise ModelError(f"{path}: expected finite weights, found NaN or infinity: the file is damaged")
    return denoiser.eval(), header


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


def _decoder(name: str, header: Mapping[str, Any]) -> Path:
    """The file of a tiny decoder: a path, or "tiny" for the pulled one of the student's base."""
    if name != "tiny":
        return Path(name)
    from .hub import component_folder

    model = {"sd3": "taesd3", "sd21": "taesd"}.get(header["student"].get("base"))
    if model is None:
        raise ConfigError("expected a Stable Diffusion model for --decoder tiny, found one of another family")
    files = sorted(component_folder(model).glob("*.safetensors"), key=lambda file: "decoder" not in file.name)
    if not files:
        raise ModelError(f"expected {model} to be pulled, found no weights: unistep models pull {model}")
    return files[0]  # taesd_decoder.safetensors, or diffusers' file of both halves


def load_student(
    name_or_path: str | os.PathLike[str] | None = None,
    fidelity: float | None = None,
    options: Options | None = None,
) -> nn.Module:
    """A one-step model ready to run. `info` is the file's header.

    Of the compact base: [B, 3, h, w] in [-1, 1] -> [B, 3, 4h, 4w]; of the others a `LatentStudent`.
    `fidelity`: from 0 (the restored detail, as trained) to 1 (the plain reconstruction that its header
    names); None: the file's default. The weights are mixed, so it is one call as ever. A model that names no
    plain one is its own: every fidelity gives the same.

    Raises ConfigError for another fidelity or for options that the model cannot have; ModelError for a
    damaged file or a plain model that is missing.
    """
    if fidelity is not None and not 0 <= fidelity <= 1:
        raise ConfigError(f"expected fidelity to be from 0 to 1, found {fidelity}")
    path = resolve(name_or_path)
    header = read_header(path)
    if "student" in header:
        from .students import open_student

        options = options or Options()
        decoder = None if options.decoder is None else read_tensors(_decoder(options.decoder, header))
        return open_student(path, header, read_tensors(path), options, decoder)
    if options is not None and options != Options():
        raise ConfigError(
            f"{path}: expected a student of a large model for steps, decoder, weights, offload or compile, "
            "found one of the compact base: leave them out"
        )
    denoiser, header = load_denoiser(path)
    if fidelity is None:
        fidelity = default_fidelity(path, header)
    if fidelity and (file := plain_file(path, header)):
        plain, _ = load_denoiser(file)
        if plain.config != denoiser.config:
            raise ModelError(f"{path}: expected its plain model {file} to have the same shape, found another")
        denoiser = mix(denoiser, plain, fidelity)
    return fold_slot(denoiser, header)
