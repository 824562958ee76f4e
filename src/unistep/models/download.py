"""Downloads: they go on where they broke off, and count only once they are checked.

What the hub, the network and the disk raise on the way becomes one sentence.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..bases.known import Known
from ..errors import ConfigError, ModelError
from ..tensors import sha256


def huggingface() -> Any:
    """The package huggingface_hub. Raises ConfigError that names the extra."""
    try:
        import huggingface_hub
        from huggingface_hub import constants, errors, file_download, hf_api, utils  # noqa: F401
    except (ImportError, RuntimeError) as error:
        raise ConfigError(
            "expected the package huggingface_hub to pull models, found none that works: "
            "pip install 'unistep[sd]'"
        ) from error
    return huggingface_hub


def right(path: Path, expected: str | None) -> bool:
    """Whether the file is there with the expected hash (64 digits: SHA-256, 40: git's)."""
    if not path.is_file():
        return False
    if expected is None or len(expected) == 64:
        return expected is None or sha256(path) == expected
    from huggingface_hub.utils.sha import git_hash

    return bool(git_hash(path.read_bytes()) == expected)


def room(folder: Path, needed: int) -> None:
    """Raises OSError if the disk is too full; makes the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise OSError(errno.ENOSPC, f"{needed / 1e9:.1f} GB needed, {free / 1e9:.1f} GB free", str(folder))


def fetch(url: str, target: Path, size: int | None, expected: str | None, headers: dict[str, str]) -> None:
    """Download into a file of another name, going on where it broke off; rename it once it is right."""
    hub = huggingface()
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.unistep.incomplete")
    with hub.utils.WeakFileLock(part.with_suffix(".lock")):  # two pulls at once
        if expected is None or not right(target, expected):
            _complete(hub, url, target, part, size, expected, headers)
    part.with_suffix(".lock").unlink(missing_ok=True)


def _complete(
    hub: Any,
    url: str,
    target: Path,
    part: Path,
    size: int | None,
    expected: str | None,
    headers: dict[str, str],
) -> None:
    if size is not None and part.exists() and part.stat().st_size > size:
        part.unlink()
    try:
        _stream(hub, url, part, size, headers)
    except hub.errors.HfHubHTTPError as error:
        if error.response.status_code != 416:  # nothing after what is there
            raise
        part.unlink()
        _stream(hub, url, part, size, headers)
    if not right(part, expected):
        part.unlink()
        raise ModelError(
            f"expected {target.name} with the hash {expected}, found another: the file was removed; pull "
            "again, and if it stays so, do not trust its source"
        )
    os.replace(part, target)


def _stream(hub: Any, url: str, part: Path, size: int | None, headers: dict[str, str]) -> None:
    with part.open("ab") as file:
        there = file.tell()
        hub.file_download.http_get(url, file, resume_size=there, headers=headers, expected_size=size)
        file.flush()
        os.fsync(file.fileno())


@contextlib.contextmanager
def explained(name: str, known: Known | None) -> Iterator[None]:
    """Turns what the hub, the network and the disk raise into one sentence."""
    hub = huggingface()
    import httpx2

    errors = hub.errors
    again = "the same command goes on where it stopped"
    repository = (known.repository if known else None) or name
    page = known.files[0] if known and known.files else f"{hub.constants.ENDPOINT}/{repository}"
    try:
        yield
    except errors.OfflineModeIsEnabled as error:
        raise ModelError(
            f"expected the network to pull {name}, found HF_HUB_OFFLINE=1: set it to 0"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise ModelError(
            f"expected a commit, branch or tag of {repository}, found none of that name"
        ) from error
    except errors.HfHubHTTPError as error:
        raise ModelError(_refused(error, name, known, page, again)) from error
    except httpx2.TransportError as error:
        raise ModelError(
            f"expected to reach the server of {name}, found no connection or a broken one "
            f"({type(error).__name__}): check the network; {again}; --offline takes what is here"
        ) from error
    except OSError as error:
        where = error.filename or name
        if error.errno == errno.ENOSPC:
            reason = f"room on the disk, found it full ({error.strerror}): free some or set HF_HOME; {again}"
        elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            reason = "leave to write, found none: set HF_HOME or UNISTEP_HOME to a folder of yours"
        else:
            reason = f"a whole file, found {' '.join(str(error).split())[:160]}: {again}"
        raise ModelError(f"{where}: expected {reason}") from error


def _refused(error: Any, name: str, known: Known | None, page: str, again: str) -> str:
    status = error.response.status_code
    gated = type(error).__name__ == "GatedRepoError" or (known is not None and known.gated)
    if status in (401, 403) and gated:
        return (
            f"expected leave to download {name}, found its terms not accepted: accept them on {page}, make "
            f"a token on {page.rsplit('/', 2)[0]}/settings/tokens, then set HF_TOKEN to it"
        )
    if status in (401, 403, 404):
        note = f" ({known.note})" if known and known.note else ""
        return (
            f"expected {name} at {page}, found none, or one that is private{note}: check the "
            "name; for a private one set HF_TOKEN"
        )
    return f"expected the server to send {name}, found that it answers {status}: try later; {again}"
