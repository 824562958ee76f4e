"""What libraries print while they read and write becomes a note of the file they do it for."""

import faulthandler
import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from unistep.errors import ImageError
from unistep.image import Picture
from unistep.upscaling import folders as batch
from unistep.upscaling.noise import caught, noted


@pytest.fixture(autouse=True)
def no_faulthandler() -> Iterator[None]:
    """pytest turns it on."""
    was = faulthandler.is_enabled()
    faulthandler.disable()
    yield
    if was:
        faulthandler.enable(sys.__stderr__)


def shout(text: bytes) -> None:
    """As a C library does it."""
    os.write(2, text)


def test_lines_are_caught_once_and_the_rest_is_as_before(capfd: pytest.CaptureFixture[str]) -> None:
    heard: list[str] = []
    print("ours, before", file=sys.stderr)
    with caught(heard):
        shout(b"libtiff: odd tag\nlibtiff: odd tag\n\n  libtiff: \xff\n")
    with caught(heard):
        shout(b"libtiff: odd tag\nlibjpeg: more\n")
    print("ours, after", file=sys.stderr)
    shout(b"theirs, after\n")
    assert heard == ["libtiff: odd tag", "libtiff: \N{REPLACEMENT CHARACTER}", "libjpeg: more"]
    assert capfd.readouterr().err == "ours, before\nours, after\ntheirs, after\n"
    assert noted(heard) == "a library says: libtiff: odd tag (and 2 more)"
    assert (noted([]), noted(["x"])) == ("", "a library says: x")


def test_an_error_passes_through_and_ends_the_catching(capfd: pytest.CaptureFixture[str]) -> None:
    heard: list[str] = []
    with pytest.raises(ZeroDivisionError), caught(heard):
        shout(b"last words")
        raise ZeroDivisionError
    shout(b"heard again")
    assert (heard, capfd.readouterr().err) == (["last words"], "heard again")


def test_a_crash_may_say_where(capfd: pytest.CaptureFixture[str]) -> None:
    with open(os.devnull, "w") as nowhere:
        faulthandler.enable(nowhere)
        heard: list[str] = []
        with caught(heard):
            shout(b"Fatal Python error")
        faulthandler.disable()
    assert (heard, capfd.readouterr().err) == ([], "Fatal Python error")


def test_without_a_place_to_catch_in_nothing_fails(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError("no space")

    monkeypatch.setattr("tempfile.TemporaryFile", full)
    with caught([]):
        shout(b"through")
    assert capfd.readouterr().err == "through"


def test_noise_belongs_to_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for name in ("a.png", "b.png", "c.png"):
        Image.new("RGB", (6, 4)).save(tmp_path / name)
    read = batch.read_image

    def noisy(path: Path) -> Picture:
        if path.name != "b.png":
            shout(b"libpng warning: " + path.name.encode() + b"\n")
        if path.name == "c.png":
            raise ImageError(f"{path}: its data is damaged")
        return read(path)

    def enlarge(picture: Picture) -> Picture:
        print("our bar", file=sys.stderr)
        return replace(picture, rgb=np.tile(picture.rgb, (4, 4, 1)))

    monkeypatch.setattr(batch, "read_image", noisy)
    jobs = batch.plan([tmp_path], tmp_path / "out", sizing={"scale": 4.0})
    results = list(batch.run(jobs, enlarge, hush=True))
    assert [r.message for r in results] == [
        "a library says: libpng warning: a.png",
        "",
        "its data is damaged",
    ]
    assert results[2].error is not None
    assert results[2].error.__notes__ == ["libpng warning: c.png"], "for those who ask for tracebacks"
    assert capfd.readouterr().err == "our bar\nour bar\n"
    again = batch.plan([tmp_path], tmp_path / "again", sizing={"scale": 4.0})
    assert not any(r.message.startswith("a library") for r in batch.run(again, enlarge)), (
        "nothing is caught unless asked"
    )
    assert "libpng warning: a.png\n" in capfd.readouterr().err
