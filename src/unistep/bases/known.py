"""How a base says which models of others belong to it: where they are, what is needed, on what terms."""

from dataclasses import dataclass

STABILITY = (
    "Stability AI Community License: free up to 1 million US dollars of yearly revenue, above that an "
    "enterprise licence"
)
OPENRAIL = "CreativeML Open RAIL++-M: commercial use allowed, uses listed in the licence forbidden"
APACHE = "Apache-2.0"
MIT = "MIT"


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


def components(*names: str) -> tuple[str, ...]:
    """Patterns: the full-precision weights and settings of a diffusers folder's components."""
    inner = (
        "*.json",
        "*.txt",
        "diffusion_pytorch_model.safetensors",
        "diffusion_pytorch_model-*.safetensors",
        "model.safetensors",
        "model-*.safetensors",
    )
    return ("model_index.json", *(f"{name}/{pattern}" for name in names for pattern in inner))
