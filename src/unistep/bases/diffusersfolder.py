"""Reading a model in the diffusers layout: a folder of components, each a config and safetensors files."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from ..errors import ModelError
from ..tensors import read_tensors

STEMS = ("diffusion_pytorch_model", "model")
"""How the weights of a component are called; the second in components of transformers."""
VARIANTS = ("", ".fp16")
"""Full precision first, where a folder holds both."""


def read_config(folder: Path, name: str, file: str = "config.json") -> dict[str, Any]:
    """The JSON object in folder/name/file. Raises ModelError if there is none."""
    path = folder / name / file
    if not folder.is_dir():
        raise ModelError(
            f"expected {folder} to be the folder of a diffusers model, found none; download it or correct "
            "the path"
        )
    if not path.is_file():
        raise ModelError(
            f"expected {path} of a diffusers model, found none; give the folder that holds {name}/"
        )
    return _json(path)


def read_component(folder: Path, name: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The config and all tensors of one component ("unet", "vae", "transformer", "text_encoder").

    Tensors are on the CPU, in their stored dtype. Reads one file or the shards that an index lists, in full
    precision or, where that alone is there, the fp16 variant; never a pickle.
    Raises ModelError for a folder that is no model and for missing, renamed or damaged files.
    """
    config = read_config(folder, name)
    for stem in STEMS:
        for variant in VARIANTS:
            whole = folder / name / f"{stem}{variant}.safetensors"
            index = folder / name / f"{stem}.safetensors.index{variant}.json"
            if whole.is_file():
                return config, read_tensors(whole)
            if index.is_file():
                return config, _read_shards(index)
    there = sorted(path.name for path in (folder / name).iterdir() if path.name != "config.json")
    raise ModelError(
        f"expected {folder / name / STEMS[0]}.safetensors or its index, found {', '.join(there) or 'none'}; "
        "download the safetensors files of this component under their own names (pickles are not read)"
    )


def fingerprint(folder: Path, components: Sequence[str], files: str = "*.safetensors") -> str:
    """SHA-256 over names and bytes of such `files` in some components; absent ones are left out."""
    total = hashlib.sha256()
    for name in components:
        for file in sorted(path for path in (folder / name).glob(files) if path.is_file()):
            total.update(f"{name}/{file.name}".encode() + b"\0")
            with file.open("rb") as stream:
                total.update(hashlib.file_digest(stream, "sha256").digest())
    return total.hexdigest()


def _read_shards(index: Path) -> dict[str, Tensor]:
    where = _json(index).get("weight_map")
    if not isinstance(where, dict) or not all(isinstance(file, str) for file in where.values()):
        raise ModelError(f"expected {index} to list the shard of each tensor, found none; download it again")
    tensors: dict[str, Tensor] = {}
    for file in sorted(set(where.values())):
        # An index is data of others: it must not lead out of its folder.
        if Path(file).name != file or not (index.parent / file).is_file():
            raise ModelError(f"expected the shard {file} next to {index}, found none; download it")
        tensors |= read_tensors(index.parent / file)
    if tensors.keys() != where.keys():
        differs = sorted(tensors.keys() ^ where.keys())
        raise ModelError(
            f"expected the shards of {index} to hold the tensors that it lists, found {len(differs)} that "
            f"differ ({', '.join(differs[:5])}); download them again"
        )
    return tensors


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise ModelError(
            f"expected {path} to be JSON, found a damaged file ({error}); download it again"
        ) from error
    if not isinstance(value, dict):
        raise ModelError(f"expected {path} to hold a JSON object, found {type(value).__name__}")
    return value
