"""What is measured already: a file of lines that only grows, so that a killed run loses one image at most.

A line is one JSON object, {"key": ..., "values": {metric: number, or the reason why there is none}}, written
at once and flushed to the disk. The key names all that the values depend on, so that nothing that was
measured otherwise is ever taken for it, and lines of other runs do no harm. Features of images, which
metrics of whole sets are made of, lie in a file of their own beside it.
"""

import contextlib
import functools
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ..atomic import held
from ..errors import DataError
from .features import Features
from .measuring import Value

FEATURES = "features.bin"


def key_of(*parts: Any) -> str:
    """The same for the same parts (numbers, texts, dicts and lists of them)."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


class Journal:
    """Values by key and metric; later lines go before earlier ones. To be used by `with`.

    Its folder is held for this process alone until then. Raises DataError if another one holds it, or if
    nothing can be written there.
    """

    def __init__(self, path: Path) -> None:
        self.values: dict[str, dict[str, Value]] = {}
        self.path, self.open = path, contextlib.ExitStack()
        try:
            self.open.enter_context(held(path.parent))
            self.file = self.open.enter_context(path.open("a+b"))
            self.file.seek(0)
            whole = 0
            for line in self.file:
                if not line.endswith(b"\n"):
                    break  # a kill while it was written
                whole += len(line)
                self._take(line)
            self.file.truncate(whole)
        except BlockingIOError as error:
            raise DataError(
                f"expected {path.parent} to be free, found another evaluation writing to it: wait for it, or "
                "name another --out"
            ) from error
        except OSError as error:
            self.open.close()
            raise DataError(f"expected a folder to write to at {path.parent}, found: {error}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.open.close()

    def get(self, key: str) -> dict[str, Value]:
        return self.values.get(key, {})

    def add(self, key: str, values: Mapping[str, Value]) -> None:
        """Keeps values; they are on the disk when this returns."""
        self.values.setdefault(key, {}).update(values)
        self.file.write(json.dumps({"key": key, "values": dict(values)}).encode() + b"\n")
        self.file.flush()
        os.fsync(self.file.fileno())

    @functools.cached_property
    def features(self) -> Features:
        """Features of images by key. Raises DataError for a file that cannot be read or written."""
        try:
            return self.open.enter_context(contextlib.closing(Features(self.path.with_name(FEATURES))))
        except OSError as error:
            raise DataError(f"expected {FEATURES} in {self.path.parent} to open, found: {error}") from error

    def _take(self, line: bytes) -> None:
        try:
            entry = json.loads(line)
            self.values.setdefault(str(entry["key"]), {}).update(dict(entry["values"]))
        except (ValueError, KeyError, TypeError):
            return  # a damaged line is one that was never written: its image is measured again
