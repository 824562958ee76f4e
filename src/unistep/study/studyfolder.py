"""A study on the disk: what raters see (study.json, pictures/), and apart from it who made what (key.json).

Pictures have names that say nothing, so that whoever serves a study needs no key. Its hash is that of all
that a rater is shown and asked; every vote carries it.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from ..atomic import atomic_write
from ..errors import DataError

FORMAT = 1
STUDY, KEY, VOTES, PICTURES = "study.json", "key.json", "votes.jsonl", "pictures"
TIE = "tie"
"""The choice of a rater who sees no difference; else it is the name of a picture."""
Ask = Literal["pairs", "best"]
ID = re.compile(r"[0-9a-f]{24}")
"""Names of pictures and items."""


@dataclass(frozen=True)
class Image:
    """What was restored. low, high: names of pictures, of width x height pixels as the results are."""

    category: str
    width: int
    height: int
    low: str | None = None
    high: str | None = None


@dataclass(frozen=True)
class Item:
    """One question: which of these pictures of one image?"""

    id: str
    image: str
    pictures: tuple[str, ...]


@dataclass(frozen=True)
class Study:
    """per_rater: questions that a rater is asked, None for all. repeats: how many of them twice.

    images: by name. pictures: SHA-256 of each file. seed: of names, of what is drawn, and of the sides.
    """

    title: str
    question: str
    criteria: tuple[str, ...]
    ask: Ask
    tie: bool
    per_rater: int | None
    repeats: int
    seed: int
    images: Mapping[str, Image]
    items: tuple[Item, ...]
    pictures: Mapping[str, str]
    notes: tuple[str, ...] = ()

    @property
    def sha256(self) -> str:
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()

    @property
    def by_id(self) -> dict[str, Item]:
        return {item.id: item for item in self.items}


@dataclass(frozen=True)
class Key:
    """methods: name -> name of its folder. pictures: name of a picture -> method."""

    methods: Mapping[str, str]
    pictures: Mapping[str, str]


def picture_file(folder: Path, name: str) -> Path:
    return folder / PICTURES / f"{name}.png"


def write_study(folder: Path, study: Study, key: Key, key_file: Path) -> None:
    """Writes both files; study.json comes last, so that a folder that has it is whole. Raises OSError."""
    _write(key_file, {"format": FORMAT, "study": study.sha256, **asdict(key)})
    _write(folder / STUDY, {"format": FORMAT, **asdict(study)})


def read_study(folder: Path) -> Study:
    """Raises DataError for a folder that is no study, or one that does not hold together."""
    found = _read(folder / STUDY)
    try:
        study = Study(
            **{name: str(found[name]) for name in ("title", "question")},
            criteria=tuple(map(str, found["criteria"])),
            ask=found["ask"],
            tie=bool(found["tie"]),
            per_rater=None if found["per_rater"] is None else int(found["per_rater"]),
            repeats=int(found["repeats"]),
            seed=int(found["seed"]),
            images={str(name): Image(**image) for name, image in found["images"].items()},
            items=tuple(
                Item(str(one["id"]), str(one["image"]), tuple(map(str, one["pictures"])))
                for one in found["items"]
            ),
            pictures={str(name): str(sha) for name, sha in found["pictures"].items()},
            notes=tuple(map(str, found["notes"])),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _no_study(folder / STUDY, f"{type(error).__name__}: {error}") from error
    shown = [name for item in study.items for name in item.pictures]
    shown += [name for image in study.images.values() for name in (image.low, image.high) if name]
    whole = (
        study.ask in get_args(Ask) and study.items and set(shown) <= set(study.pictures)
        and all(map(ID.fullmatch, [*study.pictures, *study.by_id]))
        and all(item.image in study.images and len(item.pictures) > 1 for item in study.items)
    )  # fmt: skip
    if not whole:
        raise _no_study(folder / STUDY, "questions, images and pictures that do not belong together")
    return study


def read_key(path: Path, study: Study) -> Key:
    """Raises DataError for a file that is not the key of this study."""
    found = _read(path)
    if found.get("study") != study.sha256:
        raise DataError(
            f"expected the key of this study ({study.sha256[:12]}) at {path}, found that of "
            f"{str(found.get('study'))[:12]}: put study.json back as it was when it was made, or name its key"
        )
    try:
        key = Key(dict(found["methods"]), dict(found["pictures"]))
    except (KeyError, TypeError, ValueError) as error:
        raise _no_study(path, f"{type(error).__name__}: {error}") from error
    shown = {name for item in study.items for name in item.pictures}
    if not (shown <= set(key.pictures) and set(key.pictures.values()) <= set(key.methods)):
        raise _no_study(path, "pictures without a method")
    return key


def check_pictures(folder: Path, study: Study) -> None:
    """Raises DataError where a picture is missing or another one than when the study was made."""
    bad = []
    for name, wanted in study.pictures.items():
        try:
            found = hashlib.sha256(picture_file(folder, name).read_bytes()).hexdigest()
        except OSError:
            found = ""
        if found != wanted:
            bad.append(f"{name}.png")
    if bad:
        raise DataError(
            f"expected the {len(study.pictures)} pictures that the study was made with in "
            f"{folder / PICTURES}, found {len(bad)} that are missing or changed, such as {bad[0]}: "
            "make the study again into a new folder"
        )


def _write(path: Path, found: Mapping[str, Any]) -> None:
    with atomic_write(path) as file:
        file.write(json.dumps(found, indent=1).encode() + b"\n")


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
        if found["format"] != FORMAT:
            raise ValueError(f"format {found['format']}, not {FORMAT}")
        return dict(found)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _no_study(path, str(error) or type(error).__name__) from error


def _no_study(path: Path, found: str) -> DataError:
    return DataError(
        f"expected {path} as unistep study make writes it, found {found}: name the folder of a study, or "
        "make one"
    )
