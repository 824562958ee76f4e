"""Which category an image is of: by a pattern of names, or by a list of names in a file."""

import fnmatch
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..errors import ConfigError, DataError
from ..evaluation.pairing import bare

OTHER = "other"
"""Of images in no category, where there are categories."""
ALL = "all"
"""Of all images, where there are none."""


def categories(names: Sequence[str], wanted: Mapping[str, str]) -> dict[str, str]:
    """Image -> category. wanted: category -> pattern of names without suffix (`face_*`), or a text file
    with a name on each line, with or without suffix.

    Raises ConfigError for a category without images, a name of no image, or an image of two categories.
    """
    if not wanted:
        return dict.fromkeys(names, ALL)
    found: dict[str, str] = {}
    for category, value in wanted.items():
        for name in _members(category, value, names):
            if name in found:
                raise ConfigError(
                    f"expected one category for each image, found {name} in {found[name]} and {category}: "
                    "leave it out of one of them"
                )
            found[name] = category
    return {name: found.get(name, OTHER) for name in names}


def _members(category: str, value: str, names: Sequence[str]) -> list[str]:
    path = Path(value)
    if not path.is_file():
        hits = [name for name in names if fnmatch.fnmatchcase(name, value)]
        if not hits:
            raise ConfigError(
                f"expected --category {category}={value} to name a file of names or match some of the "
                f"{len(names)} images, found no match; a name is such as {names[0]}"
            )
        return hits
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, ValueError) as error:
        raise DataError(f"expected a text file of names at {path}, found: {error}") from error
    spelled = {bare(name): name for name in names} | {name: name for name in names}
    hits = []
    for line in filter(None, lines):
        stem = Path(line).stem
        name = next((spelled[key] for key in (line, stem, bare(stem)) if key in spelled), None)
        if name is None:
            raise ConfigError(
                f"expected names of images of the study in {path}, found {line!r}: one is such as {names[0]}"
            )
        hits.append(name)
    if not hits:
        raise ConfigError(f"expected names of images in {path}, found none: a name on each line")
    return list(dict.fromkeys(hits))
