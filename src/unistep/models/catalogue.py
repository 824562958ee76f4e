"""The models of others that Unistep knows by name: those of all bases."""

from ..bases import BASES
from ..bases.known import Known

KNOWN: dict[str, Known] = {name: known for base in BASES.values() for name, known in base.models.items()}
"""Short name -> model."""


def named(name: str) -> tuple[str, Known] | None:
    """The short name and the entry of a short name or of a repository; None if nobody knows it."""
    if name in KNOWN:
        return name, KNOWN[name]
    return next(((short, known) for short, known in KNOWN.items() if known.repository == name), None)
