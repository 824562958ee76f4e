"""How models run in an evaluation: what `unistep upscale` calls by the same names, for all or for one.

One model's own settings stand behind it: `compact-sharp,fidelity=0`, `tsdsr.safetensors,weights=int8,seed=1`.
"""

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from ..errors import ConfigError, near
from ..students.onestep import Options
from ..upscaling.upscaler import COLOURS, DTYPES

ALWAYS = ("device", "dtype", "tile", "colour", "fidelity", "seed")
"""What a caption says of every model; of the others it says what is not the default."""
CHOICES: Mapping[str, tuple[str | None, ...]] = {
    "dtype": ("auto", *DTYPES), "colour": (None, *COLOURS), "weights": ("full", "int8", "int4"),
    "vae_tiles": ("auto", "whole", "exact", "fast"),
}  # fmt: skip


@dataclass(frozen=True)
class Settings:
    """Raises ConfigError for a value that cannot be, whatever the model."""

    device: str = "auto"
    dtype: str = "auto"
    tile: int | str = "auto"
    colour: Any = None
    fidelity: float | None = None
    seed: int = 0
    steps: int | None = None
    decoder: str | None = None
    weights: str = "full"
    vae_tiles: str = "auto"
    offload: bool = False
    compile: bool = False
    reproduce: bool = False

    def __post_init__(self) -> None:
        for name, known in CHOICES.items():
            if (value := getattr(self, name)) not in known:
                _refuse(name, f"one of {', '.join(filter(None, known))}", value)
        if self.fidelity is not None and not 0 <= self.fidelity <= 1:
            _refuse("fidelity", "from 0 to 1", self.fidelity)
        if self.steps is not None and self.steps < 1:
            _refuse("steps", "1 or more", self.steps)
        if self.tile != "auto" and not (isinstance(self.tile, int) and self.tile >= 1):
            _refuse("tile", "auto or 1 or more", self.tile)
        if self.reproduce and (self.tile, self.vae_tiles, self.seed) != ("auto", "auto", 0):
            raise ConfigError(
                "expected reproduce without tile, vae-tiles or seed, found both: leave these out, since it "
                "does as the authors' script does"
            )

    @property
    def options(self) -> Options:
        """Those of students of large models."""
        return Options(self.steps, self.decoder, self.weights, self.offload, self.compile)

    @property
    def said(self) -> dict[str, Any]:
        """For captions; of a decoder's file the name alone."""
        usual = Settings()
        said = {k: v for k, v in asdict(self).items() if k in ALWAYS or v != getattr(usual, k)}
        return said | ({"decoder": Path(self.decoder).name} if self.decoder else {})

    def own(self, texts: Mapping[str, str]) -> "Settings":
        """With values that one model has for itself, as texts. Raises ConfigError for one that cannot be."""
        values: dict[str, Any] = {}
        for name, text in texts.items():
            if name not in _READ:
                known = [key.replace("_", "-") for key in _READ]
                raise ConfigError(
                    f"expected MODEL,KEY=VALUE with a key out of {', '.join(known)}, found “{name}”"
                    f"{near(name, known)}"
                )
            try:
                values[name] = _READ[name](text)
            except ValueError:
                _refuse(name, "a number", text)
        return replace(self, **values)


def split(text: str) -> tuple[str, dict[str, str]]:
    """`compact-sharp,fidelity=0` -> the model, and its own settings; `reproduce` alone is `reproduce=yes`.

    A file whose name looks like that is a file.
    """
    named = re.fullmatch(r"[^=/\\,]+=(.+)", text)
    if os.path.isfile(text) or (named and os.path.isfile(named[1])):
        return text, {}
    parts, own = text.split(","), dict[str, str]()
    while len(parts) > 1:
        hit = re.fullmatch(r"\s*([\w-]+)(?:=(.+?))?\s*", parts[-1])
        if hit is None or (hit[2] is None and hit[1] not in _FLAGS):
            break
        name = {"color": "colour"}.get(hit[1], hit[1].replace("-", "_"))
        if name in own:
            raise ConfigError(f"expected {hit[1]} once in “{text}”, found it twice: give it once")
        own[name] = "yes" if hit[2] is None else hit[2]
        parts.pop()
    return ",".join(parts), dict(reversed(own.items()))


def _refuse(name: str, wanted: str, found: Any) -> None:
    raise ConfigError(f"expected {name.replace('_', '-')} to be {wanted}, found {found}")


def _yes(text: str) -> bool:
    if text not in ("yes", "no"):
        raise ConfigError(f"expected yes or no, found “{text}”: write reproduce, or reproduce=no")
    return text == "yes"


_FLAGS = [field.name for field in fields(Settings) if field.type is bool]
_READ: dict[str, Callable[[str], Any]] = {
    field.name: _yes if field.name in _FLAGS else str for field in fields(Settings)
}
_READ |= {"seed": int, "steps": int, "fidelity": float}
_READ["tile"] = lambda text: text if text == "auto" else int(text)
