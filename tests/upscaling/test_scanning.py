"""What is taken from a folder, what is passed over and why, and how results that could be one file are told
apart."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from unistep.errors import ConfigError
from unistep.image import Picture
from unistep.upscaling import folders as batch
from unistep.upscaling.paths import same

X4 = {"scale": 4.0}


def draw(path: Path, format: str = "PNG") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (6, 4), (200, 30, 60)).save(path, format)
    return path


def enlarge(picture: Picture) -> Picture:
    return replace(picture, rgb=np.tile(picture.rgb, (4, 4, 1)))


def found(folder: Path, **options: object) -> dict[str, str]:
    """Input -> the name of its result, or why it is passed over."""
    jobs = batch.plan([folder], folder.parent / "out", sizing=X4, **options)
    return {j.input.name: j.output.name if j.output else j.message for j in jobs}


@pytest.mark.parametrize(
    ("name", "format", "result"),
    [
        ("a.jpe", "JPEG", "a.jpg"),
        ("a.pjpeg", "JPEG", "a.jpg"),
        ("a.jpg_large", "JPEG", "a.jpg"),
        ("a.JPG_LARGE", "JPEG", "a.jpg"),
        ("a.JFIF", "JPEG", "a.JFIF"),
        ("a.TIF", "TIFF", "a.TIF"),
        ("IMG_1.HEIC", "JPEG", "IMG_1.jpg"),  # phones and messengers convert and keep the name
        ("a", "WEBP", "a.webp"),
        ("a.1", "BMP", "a.bmp"),
        ("a.gif_", "GIF", "a.png"),
        ("a.nef", "PNG", "a.png"),
    ],
)
def test_a_picture_is_taken_by_what_it_holds(tmp_path: Path, name: str, format: str, result: str) -> None:
    draw(tmp_path / "in" / name, format)
    assert found(tmp_path / "in") == {name: result}
    (job,) = batch.run(batch.plan([tmp_path / "in"], tmp_path / "out", sizing=X4), enlarge)
    assert (job.status, job.output) == ("done", tmp_path / "out" / result)
    with Image.open(tmp_path / "out" / result) as image:
        assert image.format == ("PNG" if format == "GIF" else format), "the content is what the name says"


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("a.heic", b"\0\0\0\x1cftypheic", "HEIC is not read"),
        ("a.HEIF", b"", "HEIC is not read"),
        ("a.nef", b"MM\0*", "camera raw is not read"),
        ("a.dng", b"II*\0", "camera raw is not read"),
        ("a.cr3", b"\0\0\0\x18ftypcrx ", "camera raw is not read"),
        ("a.raf", b"FUJIFILM", "camera raw is not read"),
        ("a.jxl", b"\xff\x0a", "JPEG XL is not read"),
        ("a.jp2", b"\0\0\0\x0cjP  ", "JPEG 2000 is not read"),
        ("a.psd", b"8BPS", "a picture in layers is not read"),
        ("a.pdf", b"%PDF", "a document is not read"),
        ("a.svg", b"<svg", "a drawing is not read"),
        ("a.MOV", b"\0\0\0\x14ftypqt  ", "a video is not read"),
        ("a.jpg~", b"\xff\xd8\xff", "a copy or an unfinished download"),
        ("a.jpg_original", b"\xff\xd8\xff", "a copy or an unfinished download"),
        ("a.png.crdownload", b"\x89PNG\r\n\x1a\n", "a copy or an unfinished download"),
        ("BMW", b"BMW and other cars", "not a picture that is read"),
        ("a.jpg_large", b"<html>", "not a picture that is read"),
    ],
)
def test_what_is_passed_over_has_a_reason(tmp_path: Path, name: str, content: bytes, why: str) -> None:
    draw(tmp_path / "in" / "z.png")
    (tmp_path / "in" / name).write_bytes(content)
    assert found(tmp_path / "in") == {name: why, "z.png": "z.png"}
    passed, done = batch.run(batch.plan([tmp_path / "in"], tmp_path / "out", sizing=X4), enlarge)
    assert (passed.status, passed.output, done.status) == ("passed", None, "done")


def test_notes_beside_pictures_are_not_worth_a_word(tmp_path: Path) -> None:
    draw(tmp_path / "in" / "a.png")
    for name in ("a.xmp", "a.AAE", "a.thm", "list.txt", "x.json", "x.csv", "Thumbs.db", "desktop.ini"):
        (tmp_path / "in" / name).write_bytes(b"\xff\xd8\xff")
    assert found(tmp_path / "in") == {"a.png": "a.png"}


def test_what_is_passed_over_has_no_results(tmp_path: Path) -> None:
    (tmp_path / "a.heic").write_bytes(b"")
    draw(tmp_path / "a_x2.png")
    statuses = {j.input.name: j.status for j in batch.plan([tmp_path], sizing=X4)}
    assert statuses == {"a.heic": "passed", "a_x2.png": "todo"}


def test_a_folder_without_pictures_says_what_it_holds(tmp_path: Path) -> None:
    for name in ("a.heic", "b.heic", "c.cr2", "d.txt"):
        (tmp_path / name).write_bytes(b"x")
    *passed, failed = batch.plan([tmp_path], sizing=X4, recursive=True)
    assert [j.status for j in passed] == ["passed"] * 3
    assert (failed.input, failed.status, failed.message) == (
        tmp_path,
        "failed",
        "no pictures that are read in this folder: HEIC is not read (2), camera raw is not read (1)",
    )


def test_names_that_some_disks_take_for_one_are_told_apart(tmp_path: Path) -> None:
    one, two, three = (draw(tmp_path / str(i) / f"{n}.png") for i, n in enumerate(("a", "A", "a_2")))
    composed, apart = draw(tmp_path / "4" / "\u00e9.png"), draw(tmp_path / "5" / "e\u0301.png")
    inputs = [one, two, three, composed, apart]
    for _ in range(2):
        jobs = batch.plan(inputs, tmp_path / "out", sizing=X4)
        names = [j.output.name for j in jobs if j.output]
        assert names == ["a.png", "A_3.png", "a_2.png", "\u00e9.png", "e\u0301_2.png"]
        results = list(batch.run(jobs, enlarge))
    assert {r.status for r in results} == {"skipped"}, "the same names again"
    assert len(os.listdir(tmp_path / "out")) == 5


def test_kinds_in_another_case_and_folders_too(tmp_path: Path) -> None:
    for name in ("a.jpg", "A.JPG", "a.png", "sub/a.png", "Sub/a.png", "b"):
        draw(tmp_path / "in" / name, "JPEG" if name.lower().endswith("jpg") else "PNG")
    if len(os.listdir(tmp_path / "in")) < 5:
        pytest.skip("this disk does not tell case")
    draw(tmp_path / "in" / "b.png")
    jobs = batch.plan([tmp_path / "in"], tmp_path / "out", sizing=X4, format="png", recursive=True)
    names = {j.input.relative_to(tmp_path / "in").as_posix(): j.output for j in jobs}
    assert {name: path.relative_to(tmp_path / "out").as_posix() for name, path in names.items() if path} == {
        "A.JPG": "A_JPG.png",
        "a.jpg": "a_jpg_2.png",
        "a.png": "a.png",
        "b": "b_file.png",
        "b.png": "b.png",
        "Sub/a.png": "Sub/a.png",
        "sub/a.png": "sub/a_2.png",
    }


def test_one_name_twice_is_still_refused(tmp_path: Path) -> None:
    inputs = [draw(tmp_path / name / "a.png") for name in ("1", "2")]
    with pytest.raises(ConfigError, match="would both be written"):
        batch.plan(inputs, tmp_path / "out", sizing=X4)


def test_a_source_under_another_case_is_itself(tmp_path: Path) -> None:
    photo, other = draw(tmp_path / "a.png"), tmp_path / "A.png"
    assert not same(photo, draw(tmp_path / "b.png"))
    if not other.exists():
        os.link(photo, other)  # what a disk that does not tell case shows: one file under both names
    assert same(photo, other)
    os.link(photo, tmp_path / "c.png")
    assert not same(photo, tmp_path / "c.png"), "a hard link is a file of its own"
    for existing in ("skip", "update"):
        with pytest.raises(ConfigError, match="over itself"):
            batch.plan([photo], other, sizing=X4, existing=existing)


@pytest.mark.parametrize("name", ["x.mp4", "x.MOV", "x.webm", "x.pdf", "x.heic", "x.jpe", "x.zip", "x.txt"])
def test_an_output_that_is_named_like_something_else(tmp_path: Path, name: str) -> None:
    photo = draw(tmp_path / "a.png")
    for inputs in ([photo], [photo, draw(tmp_path / "b.png")]):
        with pytest.raises(ConfigError, match="nor named like a picture"):
            batch.plan(inputs, tmp_path / name, sizing=X4)
    (tmp_path / name).mkdir()
    assert [j.status for j in batch.plan([photo], tmp_path / name, sizing=X4)] == ["todo"]


@pytest.mark.parametrize("name", ["out.v2", "2024.12", "st. ives", "a.b.c"])
def test_folders_may_have_dots(tmp_path: Path, name: str) -> None:
    (job,) = batch.plan([draw(tmp_path / "a.png")], tmp_path / name, sizing=X4)
    assert job.output == tmp_path / name / "a.png"
