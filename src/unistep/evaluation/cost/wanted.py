"""What the command line says of one model: [NAME=]MODEL[,OPTION=VALUE...]."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ...errors import ConfigError
from ...models.checkpoint import DEFAULT
from ...students.onestep import Options

KNOWN = ("steps", "decoder", "weights", "offload", "fidelity", "text")
"""Options of `unistep upscale` that belong to one model; text: the folder of its base, with text encoders."""
PLAIN = Options()
_TAIL = re.compile(rf",({'|'.join(KNOWN)})(?:=([^,]*))?$")


@dataclass(frozen=True)
class Wanted:
    name: str
    model: str
    """A name or a file."""
    options: Options = PLAIN
    fidelity: float | None = None
    text: Path | None = None

    @classmethod
    def read(cls, said: str) -> "Wanted":
        """Raises ConfigError."""
        rest, given = said, dict[str, str]()
        while found := _TAIL.search(rest):
            if found[1] in given:
                raise ConfigError(f"expected {found[1]} once in {said!r}, found it twice")
            given[found[1]], rest = found[2] or "", rest[: found.start()]
        hit = re.fullmatch(r"([^=/\\]+)=(.+)", rest)
        model = hit[2] if hit else rest
        plain = Path(model).stem if model.endswith(".safetensors") else Path(model).name
        # two settings of one file are told apart by what is said of them
        tail = "".join(
            f" {key}{f'={value}' if value else ''}" for key, value in sorted(given.items()) if key != "text"
        )
        name = hit[1] if hit else plain + tail
        if not plain:
            raise ConfigError(f"expected [NAME=]MODEL with a model, found {said!r}")
        return cls(name, model, _options(given, said), _number(given, "fidelity", said), _folder(given, said))


def _options(given: dict[str, str], said: str) -> Options:
    steps = _number(given, "steps", said)
    if steps is not None and (steps != int(steps) or steps < 1):
        raise ConfigError(
            f"expected steps to be a whole number from 1 upward, found {given['steps']} in {said!r}"
        )
    weights = given.get("weights", "full")
    if weights not in ("full", "int8", "int4"):
        raise ConfigError(f"expected weights to be full, int8 or int4, found {weights!r} in {said!r}")
    if given.get("offload", "") not in ("", "true", "yes"):
        raise ConfigError(
            f"expected offload without a value, found {given['offload']!r} in {said!r}: leave it out"
        )
    whole = None if steps is None else int(steps)
    return Options(whole, given.get("decoder") or None, weights, "offload" in given)


def _number(given: dict[str, str], key: str, said: str) -> float | None:
    if key not in given:
        return None
    try:
        return float(given[key])
    except ValueError as error:
        raise ConfigError(f"expected {key} to be a number, found {given[key]!r} in {said!r}") from error


def _folder(given: dict[str, str], said: str) -> Path | None:
    if given.get("text") == "":
        raise ConfigError(f"expected text=FOLDER of a base with text encoders, found no folder in {said!r}")
    return Path(given["text"]) if "text" in given else None


def wanted(texts: Sequence[str]) -> list[Wanted]:
    """All models of a command line; none: the packaged one. Raises ConfigError for a name that two have."""
    found = [Wanted.read(text) for text in texts] or [Wanted(DEFAULT, DEFAULT)]
    names = [one.name for one in found]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(
            f"expected a name of its own for each model, found {', '.join(twice)} twice: NAME=MODEL"
        )
    return found
