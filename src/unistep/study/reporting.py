"""A study's result as files: result.json and result.md, each whole or not there."""

import json
from pathlib import Path

from ..atomic import atomic_write
from ..errors import DataError
from .result import results
from .studyfolder import KEY, read_key, read_study
from .tables import markdown
from .votes import Votes


def report(folder: Path, key: Path | None = None, out: Path | None = None) -> str:
    """Writes both files into `out` (default: `folder`); gives result.md. Raises DataError."""
    study = read_study(folder)
    found = results(study, read_key(key or folder / KEY, study), Votes(folder, study))
    text = markdown(found)
    target = out or folder
    try:
        target.mkdir(parents=True, exist_ok=True)
        for name, content in (("result.json", json.dumps(found, indent=1, ensure_ascii=False)),
                              ("result.md", text.rstrip("\n"))):  # fmt: skip
            with atomic_write(target / name) as file:
                file.write(f"{content}\n".encode("utf-8", "surrogateescape"))
    except OSError as error:
        raise DataError(f"expected to write into {target}, found: {error}") from error
    return text
