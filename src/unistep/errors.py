"""Everything that a user can cause ends in one of these, with one sentence that says what to do."""

import difflib
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any


class UnistepError(Exception):
    """Base of all errors that Unistep raises on purpose."""


class ImageError(UnistepError):
    """A file or an array that cannot be read, made or written."""


class ModelError(UnistepError):
    """Weights that are missing, damaged or of another kind."""


class ConfigError(UnistepError):
    """A setting that does not exist or whose value cannot be."""


class DataError(UnistepError):
    """Training data that cannot be used."""


class TrainingError(UnistepError):
    """A run that must stop: a non-finite loss, a folder of another run."""


class MemoryLimit(UnistepError):
    """Not enough memory even for the smallest tile."""


def near(name: str, known: Iterable[str]) -> str:
    """ "; did you mean psnr_y?" for a name that is much like one that is known, else ""."""
    lower = {one.lower(): one for one in known}
    found = difflib.get_close_matches(name.lower(), lower, n=1)
    return f"; did you mean {lower[found[0]]}?" if found else ""


def check_distinct(what: str, names: Iterable[str]) -> None:
    """Raises ConfigError if two of `what` ("model", "set") have one name."""
    twice = sorted(name for name, count in Counter(names).items() if count > 1)
    if twice:
        raise ConfigError(
            f"expected a name of its own for each {what}, found {', '.join(twice)} twice: NAME=..."
        )


def check_range(section: str, config: Any, names: str, low: float, high: float = math.inf) -> None:
    """Raises ConfigError for a setting (`names`: with blanks between) that is not from `low` to `high`."""
    wanted = f"{low} or more" if high == math.inf else f"from {low} to {high}"
    for name in names.split():
        value = getattr(config, name)
        if not (low <= value <= high and value < math.inf):
            raise ConfigError(f"expected {section}.{name} to be {wanted}, found {value}")


def check_choices(section: str, config: Any, choices: Mapping[str, Iterable[str]]) -> None:
    """Raises ConfigError for a setting that is none of its `choices`."""
    for name, known in choices.items():
        if (value := getattr(config, name)) not in known:
            raise ConfigError(f"expected {section}.{name} to be one of {', '.join(known)}, found “{value}”")
