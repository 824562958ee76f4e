"""Prepared data: crops with their latents, or whole pairs, in safetensors shards, and their index.

A shard holds x_hq [n, 3, patch, patch] uint8 and either z_hq [n, C, h, w], or x_lq [n, 3, patch / scale,
patch / scale] and restored, as large as x_hq, both uint8. `index.json` is written last: it says what made
the rows, and of every shard the SHA-256, the count and the names.
"""

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..atomic import atomic_path, atomic_write
from ..errors import DataError
from .skipping import Report, each

INDEX, PROMPTS = "index.json", "prompts"
"""The index of a prepared data set, and its folder of prompts' embeddings."""
FORMAT = 1
LATENTS = ("base", "sha256", "patch", "usm_sharpen", "latents")
"""What determines crops with latents, and stands in their index."""


@dataclass(frozen=True)
class Made:
    """What determines the rows, beside the photographs."""

    base: str
    """Kind of the base whose encoder made the latents; empty for pairs, which no encoder sees."""
    sha256: str
    """Of that base; empty for pairs."""
    patch: int
    usm_sharpen: bool
    latents: str
    """fp32 or fp16: how they are stored; empty for pairs."""
    restorer: str = ""
    """SHA-256 of the network whose results are the targets of pairs; empty for latents."""
    degradations: tuple[tuple[str, float], ...] = ()
    """(preset, share) of pairs, in the order of DEGRADATIONS."""
    seed: int = 0
    """What the degradations of pairs were drawn from."""
    draws: int = 1
    """How many pairs each crop was made into."""

    @property
    def pairs(self) -> bool:
        """Whether rows are whole pairs with their targets, instead of crops with their latents."""
        return bool(self.restorer)

    def to_dict(self) -> dict[str, Any]:
        """Plain values; those of latents are what they were before there were pairs."""
        table = asdict(self)
        return table if self.pairs else {key: table[key] for key in LATENTS}

    @classmethod
    def from_dict(cls, table: Mapping[str, Any]) -> "Made":
        """What `to_dict` gave, from JSON. Raises ValueError or TypeError for another table."""
        plain = {**table}
        shares = tuple((str(name), float(share)) for name, share in plain.pop("degradations", ()))
        return cls(**plain, degradations=shares)


@dataclass(frozen=True)
class Crop:
    """One crop of a photograph, with its latent or as a pair: a row of a shard."""

    made: Made
    shard: Path
    sha256: str
    """Of the shard."""
    row: int
    name: str
    """PHOTOGRAPH'S NAME@TOP,LEFT; of the k-th pair of a crop, from 0, #k follows."""
    photograph: str
    """What it is held out with."""
    text: str | None
    """What the photograph shows, where it came with a text."""

    def __str__(self) -> str:
        return f"{self.shard}: {self.name}"

    def read(self, tensor: str) -> Tensor:
        """A tensor of this row, as it is stored. Raises DataError."""
        [found] = self.read_all(tensor)
        return found

    def read_all(self, *tensors: str) -> list[Tensor]:
        """Several tensors of this row. Raises DataError."""
        with _opened(self.shard) as file:
            return [file.get_slice(tensor)[self.row] for tensor in tensors]


def save_shard(path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> None:
    """Writes a shard, atomically; the same contents give the same bytes."""
    plain = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
    with atomic_path(path) as part:
        save_file(plain, part, {"unistep": json.dumps(header, sort_keys=True)})


def shard_header(path: Path) -> dict[str, Any]:
    """What `save_shard` wrote. Raises DataError for a shard that is cut or missing."""
    with _opened(path) as file:
        found = json.loads((file.metadata() or {}).get("unistep", "{}"))
        return found if isinstance(found, dict) else {}


def digest(path: Path) -> str:
    """SHA-256 of a shard's bytes. Raises DataError."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}): prepare the data again") from error


def save_index(
    folder: Path, made: Made, shards: Sequence[Mapping[str, Any]], more: Mapping[str, Any]
) -> None:
    """Writes the index, atomically. Each of `shards`: file, sha256, count, names, photographs, texts."""
    with atomic_write(folder / INDEX) as file:
        table = {"format": FORMAT, "made": made.to_dict(), "shards": shards, **more}
        file.write(json.dumps(table, indent=1, sort_keys=True).encode())


def read_index(folder: Path) -> tuple[Made, list[dict[str, Any]]]:
    """What made a prepared data set, and its shards. Raises DataError for a damaged or an unknown index."""
    try:
        table = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        if table["format"] != FORMAT:
            raise ValueError(f"format {table['format']}")
        made = Made.from_dict(table["made"])
        for shard in table["shards"]:
            lists = [shard[key] for key in ("names", "photographs", "texts")]
            if not all(isinstance(x, str) for x in (shard["sha256"], *lists[0], *lists[1])):
                raise TypeError(f"a damaged entry {shard['file']}")
            if Path(shard["file"]).name != shard["file"] or {len(x) for x in lists} != {shard["count"]}:
                raise ValueError(f"a damaged entry {shard['file']}")
        return made, table["shards"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(
            f"{folder / INDEX}: expected the index of a prepared data set, found another or a damaged file "
            f"({error}): prepare the data again"
        ) from error


def crops(folder: Path, strict: bool, report: Report) -> list[Crop]:
    """Every crop of the shards that are whole.

    A shard whose bytes are not those of the index is left out as `each` says. Raises DataError if none is
    left.
    """
    made, shards = read_index(folder)

    def rows(shard: dict[str, Any]) -> list[Crop]:
        path = folder / shard["file"]
        if (now := digest(path)) != shard["sha256"]:
            raise DataError(
                f"{path}: expected a shard with sha256 {shard['sha256']}, found {now}: it is damaged, the "
                "same unistep prepare makes it anew"
            )
        listed = zip(shard["names"], shard["photographs"], shard["texts"], strict=True)
        return [Crop(made, path, shard["sha256"], i, *row) for i, row in enumerate(listed)]

    found = [crop for shard in each(shards, rows, "shards", strict, report) for crop in shard]
    if not found:
        raise DataError(f"{folder}: expected crops, found none: prepare the data again")
    return found


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, OSError, ValueError) as error:
        raise DataError(
            f"{path}: expected a whole shard, found something else or a damaged one ({error}): prepare the "
            "data again"
        ) from error
