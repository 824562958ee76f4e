"""Results that are there already: kept, and said if they are not what is asked for, or done again."""

import os
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from unistep.image import Picture, probe
from unistep.upscaling import folders as batch

X4 = {"scale": 4.0}


def draw(path: Path, size: tuple[int, int] = (6, 4), **options: object) -> Path:
    Image.new("RGB", size, (200, 30, 60)).save(path, **options)
    return path


def enlarge(picture: Picture) -> Picture:
    return replace(picture, rgb=np.tile(picture.rgb, (4, 4, 1)))


def settled(photo: Path, result: Path, how: batch.Existing, **sizing: object) -> batch.Job:
    (job,) = batch.plan([photo], result, sizing=sizing or X4, existing=how)
    return job


def dated(path: Path, seconds: float) -> Path:
    """The file as if it had been written that long before now."""
    then = time.time() - seconds
    os.utime(path, (then, then))
    return path


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    return dated(draw(tmp_path / "a.png"), 1000)


def test_a_result_that_is_right_is_left_alone(tmp_path: Path, photo: Path) -> None:
    result = draw(tmp_path / "b.png", (24, 16))
    for age in (0, 1000, 1001):  # newer; as old, as copies may be; within what some disks can tell
        job = settled(photo, dated(result, age), "update")
        assert (job.status, job.stale, job.message) == ("skipped", False, "the output exists already")


def test_a_result_older_than_its_source_is_said_or_done_again(tmp_path: Path, photo: Path) -> None:
    result = dated(draw(tmp_path / "b.png", (24, 16)), 1010)
    before = result.read_bytes()
    job = settled(photo, result, "skip")
    assert (job.status, job.stale) == ("skipped", True)
    assert job.message == "the output exists already, but it is older than its source"
    assert result.read_bytes() == before
    (done,) = batch.run([settled(photo, result, "update")], enlarge)
    assert (done.status, done.message) == ("done", "done again: it is older than its source")
    assert settled(photo, result, "update").status == "skipped"


def test_a_source_from_the_future_is_not_done_for_ever(tmp_path: Path, photo: Path) -> None:
    result = draw(tmp_path / "b.png", (24, 16))
    assert settled(dated(photo, -5000), result, "update").status == "skipped"


def test_a_result_of_another_size_is_said_or_done_again(tmp_path: Path, photo: Path) -> None:
    result = draw(tmp_path / "b.png", (12, 8))
    job = settled(photo, result, "skip")
    assert (job.status, job.stale) == ("skipped", True)
    assert job.message == "the output exists already, but it has 12x8 pixels instead of 24x16"
    assert settled(photo, result, "skip", scale=2).stale is False
    assert settled(photo, result, "skip", width=12, height=8, box="fill").stale is False
    assert settled(photo, result, "skip", width=8, height=12, box="stretch").stale is True
    (done,) = batch.run([settled(photo, result, "update")], enlarge)
    assert (done.status, done.message) == ("done", "done again: it has 12x8 pixels instead of 24x16")
    assert probe(result) == (24, 16)


def test_sizes_are_not_compared_where_they_cannot_be_known(tmp_path: Path, photo: Path) -> None:
    draw(tmp_path / "b.png", (20, 16))
    (job,) = batch.plan([photo], tmp_path / "b.png", sizing=X4, existing="update", exact_size=False)
    assert (job.status, job.stale) == ("skipped", False)


def test_sizes_are_of_upright_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    photo = dated(draw(tmp_path / "a.jpg", exif=exif), 1000)
    result = draw(tmp_path / "b.jpg", (16, 24))
    assert settled(photo, result, "skip").stale is False
    monkeypatch.setattr(batch, "HEAD", 64)  # the beginning tells no size
    assert settled(photo, result, "skip").stale is False
    assert settled(photo, draw(tmp_path / "c.jpg", (24, 16)), "skip").stale is True


def test_a_result_that_cannot_be_read_is_kept_and_said_or_done_again(tmp_path: Path, photo: Path) -> None:
    result = tmp_path / "b.png"
    result.write_bytes(b"someone's notes")
    job = settled(photo, result, "skip")
    assert (job.status, job.stale) == ("skipped", True)
    assert job.message.startswith("the output exists already, but it cannot be read (it is not a picture")
    assert str(result) not in job.message
    assert result.read_bytes() == b"someone's notes"
    (done,) = batch.run([settled(photo, result, "update")], enlarge)
    assert (done.status, probe(result)) == ("done", (24, 16))


def test_a_pipe_in_the_place_of_a_result_is_not_waited_for(tmp_path: Path, photo: Path) -> None:
    os.mkfifo(tmp_path / "b.png")
    job = settled(photo, tmp_path / "b.png", "skip")
    assert (job.status, job.message) == (
        "skipped",
        "the output exists already, but it cannot be read (it is not a file)",
    )


def test_a_source_that_cannot_be_read_says_nothing_of_its_result(tmp_path: Path) -> None:
    photo = tmp_path / "a.png"
    photo.write_bytes(b"damaged")
    job = settled(dated(photo, 1000), draw(tmp_path / "b.png"), "update")
    assert (job.status, job.stale) == ("skipped", False)
