"""How a base says which models of others belong to it: where they are, what is needed, on what terms."""

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LICENCES = {
    "stability": "Stability AI Community License: free up to 1 million US dollars of yearly revenue, above "
    "that an enterprise licence",
    "openrail": "CreativeML Open RAIL++-M: commercial use allowed, uses listed in the licence forbidden",
    "slab": "S-Lab License 1.0: non-commercial use only",
}
"""What a table calls them -> the licence and its main term."""
INNER = (
    "*.json", "*.txt", "diffusion_pytorch_model.safetensors", "diffusion_pytorch_model-*.safetensors",
    "model.safetensors", "model-*.safetensors",
)  # fmt: skip
"""The full-precision weights and settings of a component of a diffusers folder."""


@dataclass(frozen=True)
class Known:
    """A model of others: in a repository of the hub, as files of its authors, or by hand from a page."""

    kind: str
    """What it is."""
    use: str
    """What it is for."""
    licence: str
    """The licence of the weights and its main term."""
    repository: str | None = None
    """owner/name on the hub."""
    revision: str | None = None
    """The commit or branch that is pulled; None: the newest, whose commit the lock file keeps."""
    patterns: tuple[str, ...] = ("*",)
    """What of the repository is needed; only .safetensors, .json and .txt are ever taken."""
    gated: bool = False
    """Its terms must be accepted on its page by somebody who is logged in."""
    files: tuple[str, ...] = ()
    """Addresses of the authors' files, for `models convert`."""
    sha256: tuple[tuple[str, str], ...] = ()
    """Name of a file -> its SHA-256, where it is known for sure."""
    page: str | None = None
    """Where to get it by hand."""
    convert: str | None = None
    """The command that comes next; {folder} is where the files are."""
    note: str | None = None


def read_models(folder: Path) -> dict[str, Known]:
    """Short name -> model, of the table models.toml; `components` stands there for their patterns."""

    def known(entry: Any) -> Known:
        licence = entry.pop("licence").format(**LICENCES)
        if names := entry.pop("components", None):
            entry["patterns"] = ["model_index.json", *(f"{name}/{one}" for name in names for one in INNER)]
        fields: Any = {key: tuple(v) if isinstance(v, list) else v for key, v in entry.items()}
        return Known(licence=licence, **fields)

    return {name: known(entry) for name, entry in tomllib.loads((folder / "models.toml").read_text()).items()}
