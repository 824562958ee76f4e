"""What libraries print while they read and write a file."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import sys
import tempfile
from collections.abc import Iterator

MOST = 1 << 16  # bytes that are looked at of what one file gives rise to


@contextlib.contextmanager
def caught(into: list[str]) -> Iterator[None]:
    """Lines that are printed on file descriptor 2 in here go to `into`, each once, and to nobody else.

    C libraries know no other way to warn. The descriptor belongs to the whole process, so other threads are
    heard too: this is for a command, not for a library. Nothing is caught where it cannot be, nor while
    faulthandler is on, whose last words go there.
    """
    with contextlib.ExitStack() as stack:
        if not faulthandler.is_enabled():
            with contextlib.suppress(OSError):  # no descriptor 2, or no room for a temporary file
                stack.enter_context(_elsewhere(into))
        yield


@contextlib.contextmanager
def _elsewhere(into: list[str]) -> Iterator[None]:
    with tempfile.TemporaryFile() as file:
        _flush()
        before = os.dup(2)
        os.dup2(file.fileno(), 2)
        try:
            yield
        finally:
            _flush()
            os.dup2(before, 2)
            os.close(before)
            file.seek(0)
            lines = file.read(MOST).decode("utf-8", "replace").splitlines()
            into += [line for line in dict.fromkeys(map(str.strip, lines)) if line and line not in into]


def _flush() -> None:
    if sys.stderr is not None:
        sys.stderr.flush()


def noted(lines: list[str]) -> str:
    """A short note of what was printed, "" for nothing."""
    if not lines:
        return ""
    more = f" (and {len(lines) - 1} more)" if len(lines) > 1 else ""
    return f"a library says: {lines[0][:120]}{more}"
