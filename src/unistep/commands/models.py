"""`unistep info` and `unistep models list|verify|convert`: what the weights are, whether they are whole."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from unistep import checkpoint
from unistep import convert as pickled
from unistep.checkpoint import sha256
from unistep.commands.report import clean, complain
from unistep.errors import UnistepError

SUMS = "SHA256SUMS"  # beside the weights, as `sha256sum` writes it


def info(name_or_path: str | None) -> int:
    """Print the header of a model's file, one `key: value` per line."""
    path = checkpoint.resolve(name_or_path)
    header = checkpoint.read_header(path)
    tensors = checkpoint.read_tensors(path)
    kinds = sorted({str(t.dtype).removeprefix("torch.") for t in tensors.values()})
    facts = {
        "file": str(path),
        "size": _megabytes(path),
        "sha256": sha256(path),
        "parameters": f"{sum(t.numel() for t in tensors.values()):,} ({', '.join(kinds)})",
        **dict(_flat(header)),
        "fidelity": _fidelity(path, header),
    }
    width = max(map(len, facts)) + 1
    for key, value in facts.items():
        print(f"{clean(key) + ':':{width}} {clean(value)}")
    return 0


def listing() -> int:
    """Print name, size and SHA-256 of the models inside the package."""
    models = checkpoint.embedded()
    if not models:
        complain("no model is inside this package: it was built without its weights; install it again")
        return 1
    width = max(map(len, models))
    for name, path in models.items():
        default = "  (default)" if name == checkpoint.DEFAULT else ""
        print(f"{name:{width}}  {_megabytes(path):>8}  {sha256(path)}{default}")
    return 0


def verify() -> int:
    """Load every model inside the package and compare it with its checksum; 1 if one is bad or missing."""
    models = checkpoint.embedded()
    if not models:
        return listing()
    sums = _sums(next(iter(models.values())).parent / SUMS)
    bad = 0
    for name, path in models.items():
        try:
            expected = sums.pop(path.name, None)
            if expected is not None and sha256(path) != expected:
                raise UnistepError(f"its SHA-256 is not that in {SUMS}: it is damaged; install it again")
            checkpoint.load_denoiser(path)
        except UnistepError as error:
            complain(str(error).removeprefix(f"{path}: "), path)
            bad += 1
        else:
            checksum = "checksum right" if expected else f"no checksum in {SUMS}"
            print(f"{name}  ok: loads, values finite, {checksum}")
    for missing in sums:
        complain(f"it is listed in {SUMS} but not there: install it again", missing)
        bad += 1
    return 1 if bad else 0


def convert(src: Path, dst: Path) -> int:
    """Turn pickled weights into a .safetensors file and print its name, size and SHA-256."""
    pickled.convert(src, dst)
    print(f"{clean(dst)}  {_megabytes(dst)}  {sha256(dst)}")
    return 0


def _fidelity(path: Path, header: Mapping[str, Any]) -> str:
    """What --fidelity does to the model."""
    try:
        default, plain = checkpoint.default_fidelity(path, header), checkpoint.plain_file(path, header)
    except UnistepError as error:
        return str(error).removeprefix(f"{path}: ")
    if plain is None:
        return "no effect: the model names no plain one"
    return f"0 to 1, default {default:g}; 1 is {plain}"


def _megabytes(path: Path) -> str:
    return f"{path.stat().st_size / 1e6:.1f} MB"


def _sums(path: Path) -> dict[str, str]:
    """File name -> SHA-256."""
    if not path.is_file():
        return {}
    rows = (line.split(maxsplit=1) for line in path.read_text(encoding="utf-8").splitlines() if line.strip())
    return {row[1].lstrip("*"): row[0] for row in rows if len(row) == 2}


def _flat(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Dotted keys and values of a nested table, as text."""
    for key, inner in value.items():
        if isinstance(inner, Mapping):
            yield from _flat(inner, f"{prefix}{key}.")
        elif key == "history":  # the parts of a training in stages; each holds its whole run
            for number, part in enumerate(inner, start=1):
                recipe = part.get("run", {}).get("name", "?")
                yield f"{key}.{number}", f"{recipe}, {part.get('steps')} steps, {part.get('samples')} samples"
        else:
            yield f"{prefix}{key}", f"{inner:.4g}" if isinstance(inner, float) else str(inner)
