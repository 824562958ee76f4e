"""Files that are whole or not there.

A file is written beside its target under a temporary name, flushed to the disk, and renamed over the target:
whoever looks, whenever the power fails, sees the old file or the new one. An error or Ctrl-C removes the
temporary file. A kill cannot, so its name says which process made it, and `remove_leftovers` deletes those
whose process is gone. `held` keeps a folder for one process.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

PREFIX, SUFFIX = ".unistep-", ".part"
LOCK = "run.lock"
"""In a folder that one process at a time writes to."""


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give the name of an empty temporary file in the folder of `path`; on leaving, rename it to `path`.

    The mode of a file that is replaced is kept. Raises OSError as the system does; `path` is then untouched.
    """
    target = Path(path)
    part = target.parent / f"{PREFIX}{_host()}-{os.getpid()}-{secrets.token_hex(4)}{SUFFIX}"
    os.close(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    try:
        yield part
        with open(part, "rb+") as written:
            os.fsync(written.fileno())
        if target.exists():
            shutil.copymode(target, part)
        os.replace(part, target)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    _sync_folder(target.parent)


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Like `atomic_path`, but gives a binary file to write to."""
    with atomic_path(path) as part, open(part, "wb") as file:
        yield file


@contextlib.contextmanager
def held(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Makes a folder and holds it for this process alone, also against those that do not see each other.

    The system lets go of it when the process ends, even by a kill. Raises BlockingIOError if it is held,
    other OSErrors as the system does. Needs filelock (extras train and eval).
    """
    from filelock import FileLock, Timeout

    Path(folder).mkdir(parents=True, exist_ok=True)
    lock = FileLock(Path(folder) / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise BlockingIOError(f"{folder} is held by another process") from error
    try:
        yield
    finally:
        lock.release()


def remove_leftovers(folder: str | os.PathLike[str]) -> int:
    """Delete the temporary files that killed processes of this machine left in `folder`; returns how many."""
    removed = 0
    for part in Path(folder).glob(f"{PREFIX}{_host()}-*{SUFFIX}"):
        process = part.name.removeprefix(f"{PREFIX}{_host()}-").split("-")[0]
        if process.isdigit() and not _alive(int(process)):
            part.unlink(missing_ok=True)
            removed += 1
    return removed


def _host() -> str:
    return "".join(c for c in socket.gethostname() if c.isalnum())[:32] or "host"


def _alive(process: int) -> bool:
    if os.name == "nt":  # there, signal 0 is Ctrl-C
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        pass
    return True


def _sync_folder(folder: Path) -> None:
    """Make the rename itself last; systems that cannot open folders go without."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
