"""What an evaluation left in its folder: results.json, images.csv, and pictures if they were kept."""

import csv
import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import DataError
from ..comparing import read_results
from ..keeping import PICTURES, Pictures
from ..writing import IMAGES, RESULTS

HOW = "run the same unistep eval command with --keep-pictures, which measures nothing again"
Key = tuple[str, str, str]
"""Set, judged, metric."""


@dataclass(frozen=True)
class Findings:
    """results: as in results.json, of this SHA-256. images: names of each set, in its order. values: of each
    image, nan where there is none; metrics over whole sets are not in it.

    pictures: None where none can be shown, and `why` says the reason.
    """

    results: Mapping[str, Any]
    sha256: str
    images: Mapping[str, list[str]]
    values: Mapping[Key, list[float]]
    pictures: Pictures | None
    why: str = ""

    @property
    def pictured(self) -> list[str]:
        """Sets whose pictures are there; a set's folder may be taken away, as where a licence asks for it."""
        return [on for on in self.images if self.pictures and (self.pictures.root / on).is_dir()]


def read(folder: Path) -> Findings:
    """Of a folder of `unistep eval`, or of the results.json in one.

    Raises ConfigError where there is none, DataError where its files do not belong together.
    """
    file = folder if folder.suffix == ".json" else folder / RESULTS
    results = read_results(file)
    images, values = _images(file.parent / IMAGES, results)
    data = file.read_bytes()
    pictures = Pictures(file.parent / PICTURES)
    why = ""
    if not pictures.root.is_dir():
        why = f"no pictures were kept: {HOW}"
    elif not any((pictures.root / on).is_dir() for on in images):
        why = f"the pictures of all sets are gone from {PICTURES}/: {HOW}"
    elif not pictures.belong_to(data):
        why = f"the pictures in {PICTURES}/ are not those of this {RESULTS}: {HOW}"
    digest = hashlib.sha256(data).hexdigest()
    return Findings(results, digest, images, values, None if why else pictures, why)


def _images(path: Path, results: Mapping[str, Any]) -> tuple[dict[str, list[str]], dict[Key, list[float]]]:
    """Names of the images of each set, and values by set, judged and metric."""
    order, values = results["order"], dict[Key, list[float]]()
    rows = {(on, who): list[str]() for on in order["sets"] for who in order["judged"]}
    try:
        with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
            for line in csv.DictReader(file):
                on, who = line.pop("set"), line.pop("judged")
                rows[on, who].append(line.pop("image"))
                for metric, text in line.items():
                    values.setdefault((on, who, metric), []).append(float(text) if text else math.nan)
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise DataError(f"expected the {IMAGES} of this {RESULTS} at {path}, found: {error!r}") from error
    for (on, who), names in rows.items():
        wanted = results["sets"][on]["images"]
        if len(names) != wanted or names != rows[on, order["judged"][0]]:
            raise DataError(
                f"expected the {IMAGES} of this {RESULTS}, {wanted} images of {on} for {who}, found "
                f"{len(names)} at {path}: run the same unistep eval command again"
            )
    return {on: rows[on, order["judged"][0]] for on in order["sets"]}, values
