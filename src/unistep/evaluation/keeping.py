"""Results that are kept as pictures: pictures/SET/JUDGED/SAMPLE.png, inputs and truths in SET/low and truth.

Each file carries, in a text chunk, the key that its pixels depend on: a picture of another run under the same
name is never taken for the one of this run. When a run is done, `of.json` beside them says which results.json
they belong to, so that whoever shows both knows whether they fit.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from PIL import Image
from PIL.PngImagePlugin import PngImageFile, PngInfo

from ..atomic import atomic_write, remove_leftovers
from ..errors import ConfigError, DataError
from ..image.stored import Codes
from .sets import PictureSet, Sample

PICTURES, LOW, TRUTH, OF = "pictures", "low", "truth", "of.json"
KEY = "unistep"
"""Of the text chunk."""


class Pictures:
    """The kept pictures of an evaluation in the folder `root`; files are whole or not there."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.tidied: set[Path] = set()

    @classmethod
    def of(cls, out: Path, judged: Sequence[str], sets: Sequence[str]) -> Self:
        """Those of a run that writes into `out`. Raises ConfigError for names that share a folder."""
        for names in ([*judged, LOW, TRUTH], sets):
            folded = [name.casefold() for name in names]
            twice = sorted({name for name in names if folded.count(name.casefold()) > 1})
            if twice:
                raise ConfigError(
                    f"expected names of different folders, whatever their case ({LOW} and {TRUTH} are "
                    f"taken), found {', '.join(twice)}: NAME=..."
                )
        return cls(out / PICTURES)

    def path(self, on: str, who: str, sample: str) -> Path:
        """Of a result; `who` is LOW or TRUTH for what it was made of."""
        return self.root / on / who / f"{sample}.png"

    def lack(self, key: str, who: str, on: PictureSet, sample: Sample) -> bool:
        """Whether a result, its input or its truth is not there as `key` and the sample's hash say."""
        parts = [(who, key), (LOW, sample.sha256), *([(TRUTH, sample.sha256)] if on.reference else [])]
        return any(key_in(self.path(on.name, part, sample.name)) != wanted for part, wanted in parts)

    def add(
        self, key: str, who: str, on: PictureSet, sample: Sample, found: tuple[Codes, Codes | None, Codes]
    ) -> None:
        """Writes what is lacking of (low, truth, result), uint8 [H, W, 3] each. Raises DataError."""
        low, truth, result = found
        parts = [(who, key, result), (LOW, sample.sha256, low), (TRUTH, sample.sha256, truth)]
        for part, wanted, codes in parts:
            path = self.path(on.name, part, sample.name)
            if codes is not None and key_in(path) != wanted:
                self._write(path, wanted, codes)

    def finish(self, results: Path) -> None:
        """Says that they are the pictures of this results.json. Raises DataError."""
        said = {"results.json": hashlib.sha256(results.read_bytes()).hexdigest()}
        try:
            with atomic_write(self.root / OF) as file:
                file.write(json.dumps(said).encode() + b"\n")
        except OSError as error:
            raise DataError(f"expected to write into {self.root}, found: {error}") from error

    def belong_to(self, results: bytes) -> bool:
        """Whether they are those of this results.json; False where there are none."""
        try:
            said = json.loads((self.root / OF).read_bytes())
            return bool(said["results.json"] == hashlib.sha256(results).hexdigest())
        except (OSError, ValueError, KeyError, TypeError):
            return False

    def _write(self, path: Path, key: str, codes: Codes) -> None:
        info = PngInfo()
        info.add_text(KEY, key)
        try:
            if path.parent not in self.tidied:
                path.parent.mkdir(parents=True, exist_ok=True)
                remove_leftovers(path.parent)
                self.tidied.add(path.parent)
            with atomic_write(path) as file:
                Image.fromarray(codes).save(file, "PNG", pnginfo=info)
        except OSError as error:
            raise DataError(f"expected to write the picture {path}, found: {error}") from error


def key_in(path: Path) -> str | None:
    """What a kept picture depends on; None where there is none. Reads no pixels."""
    try:
        with Image.open(path, formats=("PNG",)) as picture:
            assert isinstance(picture, PngImageFile)
            return str(picture.text.get(KEY))
    except (OSError, ValueError, SyntaxError):
        return None
