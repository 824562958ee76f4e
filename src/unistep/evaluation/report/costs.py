"""What the judged cost: from what `unistep bench --json` wrote, else from what results.json says itself."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

from ...errors import ConfigError
from ..tables import Results

COSTS = {
    "seconds": ("seconds", 1.0),
    "cpu_seconds": ("CPU seconds", 1.0),
    "gmacs": ("GMAC", 1.0),
    "parameters": ("million parameters", 1e-6),
    "peak_bytes": ("peak memory, MB", 1e-6),
}
"""Key in the file -> what it is called and what it is multiplied with."""
Costs = dict[str, dict[str, float]]
"""Cost -> judged -> value, in the units of COSTS."""


def costs(results: Results, files: Sequence[Path]) -> Costs:
    """Of those whose cost is known.

    A file holds one object, a list of them, or an object with `models`, a list or an object by name. Each is
    of the judged that its `name` or `model` names, or whose file it names, or has the SHA-256 of; one without
    any is of the only model there is.

    Raises ConfigError for a file that is none, or that has nothing for any of the judged.
    """
    entries: list[tuple[str, Mapping[str, Any]]] = []
    for who in results["order"]["judged"]:
        entries.append((who, results["judged"][who]))
    for file in files:
        found = [(who, entry) for entry in _entries(file) for who in _whose(results, entry)]
        if not any(_numbers(entry) for _, entry in found):
            known = ", ".join(results["order"]["judged"])
            raise ConfigError(
                f"expected costs of {known} in {file}, by name, file or SHA-256, found none: "
                "give each entry the name that unistep eval has for the model"
            )
        entries += found
    out: Costs = {}
    for who, entry in entries:
        for key, value in _numbers(entry).items():
            out.setdefault(key, {})[who] = value
    return {key: out[key] for key in COSTS if key in out}


def _entries(file: Path) -> list[Mapping[str, Any]]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"expected the JSON of unistep bench at {file}, found: {error}") from error
    if isinstance(found, dict) and "models" in found:
        found = found["models"]
        if isinstance(found, dict):
            found = [{"name": name, **entry} for name, entry in found.items() if isinstance(entry, dict)]
    entries = found if isinstance(found, list) else [found]
    if not all(isinstance(entry, dict) for entry in entries):
        raise ConfigError(f"expected the JSON of unistep bench at {file}, found a list of something else")
    return entries


def _whose(results: Results, entry: Mapping[str, Any]) -> list[str]:
    """Names of the judged that an entry is of."""
    names = {entry[key] for key in ("name", "model", "label", "file") if isinstance(entry.get(key), str)}
    digest = entry.get("sha256")
    judged = {who: results["judged"][who] for who in results["order"]["judged"]}
    if not names and not digest:
        models = [who for who, said in judged.items() if said.get("kind") == "model"]
        return models if len(models) == 1 else []
    stems = {PurePath(name).stem if name.endswith(".safetensors") else name for name in names}
    return [
        who for who, said in judged.items()
        if who in names or (digest and said.get("sha256") == digest)
        or (not digest and PurePath(str(said.get("file", ""))).stem in stems)
    ]  # fmt: skip


def _numbers(entry: Mapping[str, Any]) -> dict[str, float]:
    """The costs of an entry; of a measured one with a spread the median. Not above 0 is unknown."""
    out = {}
    for key, (_, unit) in COSTS.items():
        value = entry.get(key)
        value = value.get("median") if isinstance(value, dict) else value
        if isinstance(value, int | float) and not isinstance(value, bool) and value > 0:
            out[key] = value * unit
    return out
