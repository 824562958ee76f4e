"""The field's test sets by name: what one should hold, and in which words a folder is another."""

import functools
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import resources

from ..errors import ConfigError, near

Size = tuple[int, int]
"""(width, height)"""


@dataclass(frozen=True)
class Manifest:
    """What is known of a set; `sources` says from where."""

    name: str
    count: int
    """Images; 0: not known."""
    scale: int
    reference: bool
    """Whether there is a truth."""
    crop: str
    licence: str
    where: str
    sources: tuple[str, ...]
    low: Size | None = None
    """Of every low-quality image; None: they differ, or it is not known."""
    high: Size | None = None
    archives: dict[str, str] = field(default_factory=dict)
    """File that others offer -> SHA-256."""

    def differences(self, low: Sequence[Size]) -> list[str]:
        """Why a folder with low-quality images of these sizes is not this set; empty: it may be."""
        found = []
        if self.count and len(low) != self.count:
            found.append(f"{self.name} has {self.count} images, this folder {len(low)}")
        if self.low and (others := sum(size != self.low for size in low)):
            width, height = self.low
            found.append(
                f"{self.name} has low-quality images of {width}x{height}, {others} of {len(low)} here are not"
            )
        return found


@functools.cache
def manifests() -> dict[str, Manifest]:
    """Name -> what the set should hold."""
    text = (resources.files("unistep") / "evaluation" / "sets.toml").read_text(encoding="utf-8")
    found = {}
    for name, entry in tomllib.loads(text).items():
        sizes = {key: tuple(entry[key]) for key in ("low", "high") if key in entry}
        found[name] = Manifest(**{**entry, **sizes, "name": name, "sources": tuple(entry["sources"])})
    return found


def manifest(name: str) -> Manifest:
    """The set of this name, in whatever case. Raises ConfigError for an unknown one."""
    known = {key.lower(): value for key, value in manifests().items()}
    if name.lower() not in known:
        raise ConfigError(
            f"expected the name of a set ({', '.join(manifests())}), found “{name}”{near(name, manifests())}"
        )
    return known[name.lower()]
