"""The authors' files in their own formats, and the students made of them, from recorded tiny networks."""

import json
from pathlib import Path
from typing import Any

import goldens
import torch
from safetensors.torch import load_file

from unistep.bases.conversion import Request
from unistep.models.authors import student
from unistep.models.checkpoint import load_student
from unistep.students.latent import LatentStudent
from unistep.students.onestep import Options

GOLDEN = goldens.GOLDEN


def opened(path: Path, **options: Any) -> LatentStudent:
    """The student in a file, on the CPU in float32."""
    model = load_student(path, None, Options(**options))
    assert isinstance(model, LatentStudent)
    return model.place(torch.device("cpu"), torch.float32)


def osediff_pickle(folder: Path) -> Path:
    """osediff.pkl as its authors save it, and prompt.pt beside it."""
    case = GOLDEN / "osediff"
    content: dict[str, Any] = dict(json.loads((case / "config.json").read_text())["osediff.pkl"])
    for name, tensor in load_file(case / "osediff.safetensors").items():
        part, _, key = name.partition("/")
        content.setdefault(part, {})[key] = tensor
    torch.save(content, folder / "osediff.pkl")
    torch.save(load_file(case / "tensors.safetensors")["prompt_embeds"], folder / "prompt.pt")
    return folder / "osediff.pkl"


def embeddings(folder: Path) -> Path:
    """TSD-SR's pickled prompt embeddings."""
    for stem in ("prompt_embeds", "pool_embeds"):
        (tensor,) = load_file(GOLDEN / "tsd_infer" / "embeddings" / f"{stem}.safetensors").values()
        torch.save(tensor, folder / f"{stem}.pt")
    return folder


def tsdsr(folder: Path, **more: Any) -> Path:
    """TSD-SR's student file."""
    case, path = GOLDEN / "tsd_infer", folder / f"tsdsr{'-'.join(more)}.safetensors"
    request = Request("tsdsr", base=case / "sd3", embedding=embeddings(folder), dtype="float32", **more)
    student(case / "lora", path, request)
    return path
