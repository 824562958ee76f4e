"""How a base says which files of a method's authors it reads: recognised, and made into one student."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import ConfigError, ModelError

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Request:
    """What to convert besides the source itself; None where a kind does not need it."""

    kind: str
    """A key of some `Face.conversions`."""
    base: Path | None = None
    """Folder of the pretrained model in diffusers' layout."""
    vae: Path | None = None
    """The VQ autoencoder's file."""
    embedding: Path | None = None
    """Prompt embeddings: a folder with prompt_embeds and pool_embeds (TSD-SR), or a file of one tensor."""
    prompt: str | None = None
    """Text that the base's own encoder turns into the embedding."""
    variant: str | None = None
    """Which of several models of one shape it is, where the file does not tell."""
    pix: float = 1.0
    """PiSA-SR: how much of its pixel-level LoRA is merged."""
    sem: float = 1.0
    """PiSA-SR: how much of its semantic LoRA is merged."""
    dtype: str = "float16"
    """How the weights are stored: float32, float16 or bfloat16."""
    unfolded: bool = False
    """Keep time and prompt as inputs: the teacher, for its own many-step sampler."""

    def pretrained(self, src: Path, name: str) -> Path:
        """The base's folder. Raises ConfigError if it was not named."""
        if self.base is None:
            raise ConfigError(
                f"{src}: expected --base, the folder of {name}, since the file holds only what was trained; "
                f"`unistep models pull` gets it"
            )
        return self.base


@dataclass(frozen=True)
class Files:
    """The authors' files, read: a folder's tensors under "FILE/", a pickle's containers joined by "/"."""

    path: Path
    tensors: Tensors
    values: Mapping[str, Any]
    """Lists, texts and numbers of a pickle."""
    read: Callable[[Path], Tensors]
    """The tensors of another file of theirs, pickled or not. Raises ModelError."""


@dataclass(frozen=True)
class Conversion:
    """One kind of files."""

    recognised: Callable[[Files], bool]
    build: Callable[[Files, Request], tuple[dict[str, Any], Tensors]]
    """(header["student"], tensors). Raises ConfigError, ModelError."""
    licences: Mapping[str, str]
    """Method of the student -> what governs its weights, so far as their authors say it."""
    parts: tuple[str, ...] = ()
    """What .safetensors files a folder of this kind holds; none: it is a file."""
    sources: Callable[[Path, Request], list[Path]] = lambda src, request: []
    """More files that went into the student."""
    archive: Callable[[Mapping[str, Tensors]], dict[str, Any] | None] = lambda files: None
    """From a student's `layout`, what the authors' own script reads as ARCHIVE; None: it has no such file."""
    archived_as: str = ""


def only(tensors: Tensors, file: Path) -> Tensor:
    """The one tensor of `file`, which holds `tensors`. Raises ModelError for several."""
    if len(tensors) != 1:
        raise ModelError(f"{file}: expected one tensor, the embedding, found {len(tensors)}")
    return next(iter(tensors.values())).float()
