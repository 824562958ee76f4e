"""The files that a metric is opened with: given by the user, or in the torch hub cache, and what they are.

Weights of other projects are not part of Unistep. Nothing here downloads, and nothing stands in for a file
that is not there: AbsentMetric says which one, and how to get it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from ..errors import ModelError
from ..tensors import read, sha256


class AbsentMetric(ModelError):
    """A metric whose weights or package are not here. A table shows it as f"absent: {error}"."""


@dataclass(frozen=True)
class WeightsFile:
    """One file of a metric.

    key: how `--weights key=FILE` names it; metrics that share a file share its key.
    what: the file in words. licence, origin: of the weights; where their authors keep them.
    known: the name without suffix that the file has in the torch hub cache; it ends with the first digits of
    the SHA-256 of the authors' own .pth. "": there is no such file.
    digits: the SHA-256 of the authors' own file, or its beginning, where it is another one.
    plain: the whole name that a file which is used as its authors keep it has in the torch hub cache.
    """

    key: str
    what: str
    licence: str
    origin: str
    known: str = ""
    digits: str = ""
    plain: str = ""

    @property
    def cached(self) -> str:
        """Its name in the torch hub cache; "" if it is not looked for there."""
        return self.plain or (f"{self.known}.safetensors" if self.known else "")

    @property
    def proofs(self) -> tuple[str, ...]:
        """With what the SHA-256 of a file of the authors begins; none if nobody knows."""
        return tuple(digits for digits in (self.known.rpartition("-")[2], self.digits) if digits)


@dataclass(frozen=True)
class FoundFile:
    """A file that a metric was opened with.

    sha256: of its bytes, in hex.
    proven: whether it is the authors' own, or `unistep models convert` made it of that one; None where no
    SHA-256 of the authors' file is known.
    """

    key: str
    path: Path
    sha256: str
    proven: bool | None


def find(file: WeightsFile, given: Mapping[str, str | Path]) -> FoundFile:
    """`given[file.key]`, or else the file of the torch hub cache.

    Raises AbsentMetric if there is none, ModelError for one that cannot be read. A given
    file that does not exist is a mistake, and the cache does not stand in for it.
    """
    if file.key in given:
        path = Path(given[file.key])
        if not path.is_file():
            raise ModelError(f"{path}: expected {file.what}, found no file: name another as {file.key}=FILE")
        return _found(file, path)
    folders = [Path(torch.hub.get_dir(), name) for name in ("checkpoints", "pyiqa")] if file.cached else []
    for folder in folders:
        path = folder / file.cached
        if path.is_file():
            return _found(file, path)
    for folder in folders if file.known else ():
        pickled = folder / f"{file.known}.pth"
        if pickled.is_file():
            raise AbsentMetric(
                f"expected {file.what} as .safetensors, found a pickled file: convert it once with "
                f"`unistep models convert {pickled} {pickled.with_suffix('.safetensors')}`"
            )
    place = f", or put {file.cached} into {folders[0]}" if folders else ""
    raise AbsentMetric(f"expected {file.what}, found no file: give {file.key}=FILE{place} ({file.origin})")


def _found(file: WeightsFile, path: Path) -> FoundFile:
    digest = sha256(path)
    converted = read(path)[1].get("sha256", "") if path.suffix == ".safetensors" else ""
    proven = digest.startswith(file.proofs) or converted.startswith(file.proofs)
    return FoundFile(file.key, path, digest, proven if file.proofs else None)
