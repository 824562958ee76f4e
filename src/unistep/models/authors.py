"""The authors' own files, recognised and turned into one student file, as the bases know how (`conversions`).

The result holds the whole student: merged, folded, with its settings, licence and the SHA-256 of its sources.
Pickles are read by `convert` alone, in a process of their own.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..bases import BASES
from ..bases.conversion import DTYPES, Conversion, Files, Request, Tensors
from ..errors import ConfigError, ModelError
from ..tensors import read_tensors, save_weights, sha256
from .convert import unpacked

__all__ = ["PLAIN", "Request", "conversions", "read", "read_any", "recognise", "student"]

PLAIN = "tensors"
"""The kind of any other pickled state dict, which is taken as it is."""


def conversions() -> Iterator[tuple[str, Conversion]]:
    """Kind -> how it is read, of all bases."""
    for base in BASES.values():
        yield from base.conversions.items()


def kinds() -> str:
    return ", ".join(kind for kind, _ in conversions())


def student(src: Path, dst: Path, request: Request) -> dict[str, Any]:
    """Writes the student made of `src` to `dst`, atomically; gives its header.

    Raises ConfigError if something is missing in the request, ModelError for files that are not what they
    should be; nothing is written then.
    """
    if dst.suffix != ".safetensors" or dst.exists():
        found = "one that exists" if dst.exists() else f"“{dst.name}”"
        raise ConfigError(f"{dst}: expected the name of a new .safetensors file, found {found}: name another")
    if request.dtype not in DTYPES:
        raise ConfigError(f"expected --dtype to be one of {', '.join(DTYPES)}, found {request.dtype!r}")
    conversion = dict(conversions()).get(request.kind)
    if conversion is None:
        raise ConfigError(
            f"expected --kind to be one of {kinds()}, or {PLAIN} for any other file of tensors, found "
            f"{request.kind!r}"
        )
    opened, taken = _opened(src)
    try:
        entry, weights = conversion.build(opened, request)
    except ModelError as error:
        raise ModelError(f"{src}: {error}") from error
    files = [src] if src.is_file() else sorted(src.glob("*.safetensors"))
    files += [file for file in (request.vae, request.embedding) if file is not None and file.is_file()]
    files += conversion.sources(src, request)
    header: dict[str, Any] = {
        "student": entry,
        "licence": conversion.licences[entry["method"]],
        "sources": [{"file": file.name, "sha256": sha256(file)} for file in dict.fromkeys(files)],
    }
    if taken:
        header["sources"][0]["taken"] = taken
    if request.prompt is not None:
        header["prompt"] = request.prompt
    if request.base is not None:
        header["sources"].append({"base": request.base.name})
    try:
        save_weights(dst, weights, header, DTYPES[request.dtype])
    except OSError as error:
        raise ModelError(f"{dst}: cannot be written: {error}") from error
    return header


def recognise(src: Path) -> str:
    """The kind of the authors' files, or PLAIN. Raises ModelError where nothing is to be converted."""
    files = read(src)
    for kind, conversion in conversions():
        if conversion.recognised(files):
            return kind
    if src.suffix == ".safetensors":
        raise ModelError(
            f"{src}: expected the files of {kinds()}, or pickled tensors, found a file of "
            f"other names ({', '.join(sorted(files.tensors)[:3])}): nothing is to be converted"
        )
    return PLAIN


def read(src: Path) -> Files:
    """What is in a folder of .safetensors files, in one of them or in a pickled file. Raises ModelError."""
    return _opened(src)[0]


def _opened(src: Path) -> tuple[Files, str]:
    """What is in `src`, and under which key of a pickle all of it was."""
    if not src.is_dir():
        safe = src.suffix == ".safetensors"
        tensors, values, taken = (read_tensors(src), {}, "") if safe else unpacked(src)
        return Files(src, tensors, values, read_any), taken
    found = {file.stem: file for file in src.glob("*.safetensors")}
    folders = [(kind, conversion.parts) for kind, conversion in conversions() if conversion.parts]
    parts = next((parts for _, parts in folders if set(parts) <= set(found)), ())
    if not parts:
        wanted = " or ".join(
            f"{' and '.join(f'{name}.safetensors' for name in parts)} ({kind})" for kind, parts in folders
        )
        raise ModelError(
            f"{src}: expected a folder with {wanted}, found {', '.join(sorted(found)) or 'neither'}"
        )
    tensors = {f"{name}/{key}": tensor for name in parts for key, tensor in read_tensors(found[name]).items()}
    return Files(src, tensors, {}, read_any), ""


def read_any(file: Path) -> Tensors:
    """The tensors of a file, pickled or not. Raises ModelError."""
    return read_tensors(file) if file.suffix == ".safetensors" else unpacked(file)[0]
