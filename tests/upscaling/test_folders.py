"""The plan of a run (names, collisions, what is left out) and the run itself; the model repeats pixels."""

import errno
import gc
import os
import subprocess
import sys
import traceback
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from unistep.atomic import _host
from unistep.errors import ConfigError, ImageError, MemoryLimit
from unistep.image import Picture, probe
from unistep.upscaling import folders as batch
from unistep.upscaling.paths import folded

X4 = {"scale": 4.0}


def draw(path: Path, size: tuple[int, int] = (6, 4), colour: tuple[int, int, int] = (200, 30, 60)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    formats = {".dat": "PNG", ".JPG": "JPEG"}
    Image.new("RGB", size, colour).save(path, format=formats.get(path.suffix))
    return path


def enlarge(picture: Picture) -> Picture:
    rgb = picture.rgb.repeat(4, axis=0).repeat(4, axis=1)
    alpha = None if picture.alpha is None else picture.alpha.repeat(4, axis=0).repeat(4, axis=1)
    return replace(picture, rgb=rgb, alpha=alpha)


def outputs(jobs: list[batch.Job], root: Path) -> list[str]:
    return [job.output.relative_to(root).as_posix() for job in jobs if job.output and job.status == "todo"]


def tree(root: Path) -> list[str]:
    return sorted(p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file())


def test_a_result_stands_beside_its_source_with_the_factor_in_its_name(tmp_path: Path) -> None:
    photo = draw(tmp_path / "photo.jpg", (60, 40))
    assert outputs(batch.plan([photo], sizing=X4), tmp_path) == ["photo_x4.jpg"]
    assert outputs(batch.plan([photo], sizing={"scale": 2.5}), tmp_path) == ["photo_x2.5.jpg"]
    assert outputs(batch.plan([photo], sizing={"width": 90}), tmp_path) == ["photo_x1.5.jpg"]
    assert outputs(batch.plan([photo], sizing=X4, suffix="-big"), tmp_path) == ["photo-big.jpg"]
    assert outputs(batch.plan([photo], sizing=X4, format="png"), tmp_path) == ["photo_x4.png"]
    (job,) = batch.plan([photo], sizing={"scale": 2.5})
    assert (job.input_size, job.output_size) == ((60, 40), (150, 100))


def test_an_output_folder_mirrors_the_tree_and_leaves_out_what_is_not_a_picture(tmp_path: Path) -> None:
    album = tmp_path / "album"
    for name in ("b.png", "a.JPG", "sub/c.png", ".hidden.png", ".trash/d.png", "__MACOSX/e.png"):
        draw(album / name)
    for name in ("Thumbs.db", ".DS_Store", "notes.txt", "sub/readme"):
        (album / name).write_text("not a picture")
    out = tmp_path / "out"
    flat = batch.plan([album], out, sizing=X4)
    assert outputs(flat, out) == ["a.JPG", "b.png"]
    deep = batch.plan([album], out, sizing=X4, recursive=True)
    assert outputs(deep, out) == ["a.JPG", "b.png", "sub/c.png"]
    both = batch.plan([album, album / "sub"], out, sizing=X4)
    assert outputs(both, out) == ["album/a.JPG", "album/b.png", "sub/c.png"]
    assert not out.exists(), "a plan writes nothing"


def test_the_output_folder_inside_the_input_folder_is_not_an_input(tmp_path: Path) -> None:
    draw(tmp_path / "a.png")
    out = tmp_path / "large"
    for _ in range(2):
        jobs = batch.plan([tmp_path], out, sizing=X4, recursive=True)
        assert [job.input.name for job in jobs] == ["a.png"]
        list(batch.run(jobs, enlarge))
    assert tree(tmp_path) == ["a.png", "large/a.png"]


def test_an_explicit_file_is_tried_whatever_its_suffix(tmp_path: Path) -> None:
    odd = draw(tmp_path / "in" / "scan.dat")
    (result,) = batch.run(batch.plan([odd], sizing=X4), enlarge)
    assert result.status == "done"
    assert result.output == tmp_path / "in" / "scan_x4.png"
    text = tmp_path / "text.dat"
    text.write_text("no picture")
    assert [j.status for j in batch.plan([tmp_path], sizing=X4)] == ["passed", "failed"]
    assert [j.status for j in batch.plan([text], sizing=X4)] == ["failed"]


def test_the_same_file_twice_is_one_job(tmp_path: Path) -> None:
    photo = draw(tmp_path / "a.png")
    (tmp_path / "sub").mkdir()
    jobs = batch.plan([photo, tmp_path, tmp_path / "sub" / ".." / "a.png"], sizing=X4)
    assert [job.input for job in jobs] == [photo]


def test_two_inputs_for_one_name_get_two_names(tmp_path: Path) -> None:
    for name in ("a.png", "a.jpg", "a.webp", "b.jpg"):
        draw(tmp_path / name)
    out = tmp_path / "out"
    jobs = batch.plan([tmp_path], out, sizing=X4, format="png")
    assert outputs(jobs, out) == ["a_jpg.png", "a.png", "a_webp.png", "b.png"]


def test_two_inputs_for_one_output_are_an_error_before_the_work(tmp_path: Path) -> None:
    one, two = draw(tmp_path / "1" / "a.png"), draw(tmp_path / "2" / "a.png")
    with pytest.raises(ConfigError, match=r"1/a\.png and .*2/a\.png would both be written"):
        batch.plan([one, two], tmp_path / "out", sizing=X4)
    same = draw(tmp_path / "3" / "1" / "a.png")
    with pytest.raises(ConfigError, match="would both be written"):
        batch.plan([tmp_path / "1", same.parent], tmp_path / "out", sizing=X4)


@pytest.mark.parametrize("existing", ["skip", "overwrite", "rename"])
def test_existing_outputs(tmp_path: Path, existing: batch.Existing) -> None:
    photo, old = draw(tmp_path / "a.png"), tmp_path / "a_x4.png"
    old.write_bytes(b"old")
    (result,) = batch.run(batch.plan([photo], sizing=X4, existing=existing), enlarge)
    if existing == "skip":
        assert (result.status, old.read_bytes()) == ("skipped", b"old")
        assert "exists" in result.message
        assert tree(tmp_path) == ["a.png", "a_x4.png"]
    elif existing == "overwrite":
        assert (result.status, probe(old)) == ("done", (24, 16))
        assert tree(tmp_path) == ["a.png", "a_x4.png"]
    else:
        assert (result.status, old.read_bytes()) == ("done", b"old")
        assert probe(tmp_path / "a_x4_2.png") == (24, 16)
        assert outputs(batch.plan([photo], sizing=X4, existing="rename"), tmp_path) == ["a_x4_3.png"]


def test_an_output_that_appears_after_the_plan_is_kept(tmp_path: Path) -> None:
    jobs = batch.plan([draw(tmp_path / "a.png")], sizing=X4)
    (tmp_path / "a_x4.png").write_bytes(b"someone else's")
    (result,) = batch.run(jobs, enlarge)
    assert result.status == "skipped"
    assert (tmp_path / "a_x4.png").read_bytes() == b"someone else's"


def test_a_source_is_written_over_only_when_asked(tmp_path: Path) -> None:
    photo = draw(tmp_path / "a.png")
    before = photo.read_bytes()
    for jobs in (
        lambda e: batch.plan([tmp_path], tmp_path, sizing=X4, existing=e),
        lambda e: batch.plan([photo], photo, sizing=X4, existing=e),
        lambda e: batch.plan([photo], sizing=X4, suffix="", existing=e),
    ):
        with pytest.raises(ConfigError, match="over itself"):
            jobs("skip")
        assert outputs(jobs("rename"), tmp_path) == ["a_2.png"]
    link = tmp_path / "link" / "a.png"
    link.parent.mkdir()
    link.symlink_to(photo)
    with pytest.raises(ConfigError, match="over itself"):
        batch.plan([photo], link.parent, sizing=X4)
    assert photo.read_bytes() == before
    (result,) = batch.run(batch.plan([photo], photo, sizing=X4, existing="overwrite"), enlarge)
    assert (result.status, probe(photo)) == ("done", (24, 16))


def test_a_link_is_a_picture_of_its_own_name_and_a_broken_one_is_reported(tmp_path: Path) -> None:
    photo = draw(tmp_path / "in" / "photo.png")
    (tmp_path / "in" / "link.png").symlink_to(photo)
    (tmp_path / "in" / "broken.png").symlink_to(tmp_path / "nothing.png")
    jobs = batch.plan([tmp_path / "in", photo], tmp_path / "out", sizing=X4)
    assert outputs(jobs, tmp_path) == ["out/link.png", "out/photo.png"]
    assert [(j.input.name, j.message) for j in jobs if j.status == "failed"] == [
        ("broken.png", "it cannot be read (No such file or directory)")
    ]


def test_a_picture_that_is_replaced_during_the_run_is_not_enlarged_twice(tmp_path: Path) -> None:
    photo = draw(tmp_path / "a.png")
    (tmp_path / "b.png").symlink_to(photo)
    jobs = batch.plan([tmp_path], tmp_path, sizing=X4, existing="overwrite")
    first, second = batch.run(jobs, enlarge)
    assert (first.status, probe(photo)) == ("done", (24, 16))
    assert (second.status, (tmp_path / "b.png").is_symlink()) == ("failed", True)


def test_results_beside_their_sources_are_not_enlarged_by_the_next_run(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        draw(tmp_path / name)
    list(batch.run(batch.plan([tmp_path], sizing=X4), enlarge))
    for existing in ("skip", "overwrite", "rename"):
        jobs = batch.plan([tmp_path], sizing=X4, existing=existing)
        list(batch.run(jobs, enlarge))
    expected = ["a.png", "a_x4.png", "a_x4_2.png", "b.png", "b_x4.png", "b_x4_2.png"]
    assert tree(tmp_path) == expected
    at_another_factor = batch.plan(sorted(tmp_path.iterdir()), sizing={"scale": 2})
    assert outputs(at_another_factor, tmp_path) == ["a_x2.png", "b_x2.png"]
    assert {j.message for j in at_another_factor if j.status == "skipped"} == {
        "it looks like an earlier result for a",
        "it looks like an earlier result for b",
    }


def test_a_custom_suffix_is_recognised_too(tmp_path: Path) -> None:
    draw(tmp_path / "a.png")
    for _ in range(2):
        results = list(batch.run(batch.plan([tmp_path], sizing=X4, suffix="-big"), enlarge))
    assert [(r.input.name, r.status) for r in results] == [("a-big.png", "skipped"), ("a.png", "skipped")]
    assert tree(tmp_path) == ["a-big.png", "a.png"]


def test_output_names_for_one_picture(tmp_path: Path) -> None:
    photo = draw(tmp_path / "a.png")
    named = tmp_path / "new" / "large.webp"
    (result,) = batch.run(batch.plan([photo], named, sizing=X4), enlarge)
    assert (result.output, probe(named)) == (named, (24, 16))
    assert named.read_bytes()[8:12] == b"WEBP"
    assert outputs(batch.plan([photo], tmp_path / "v1.2", sizing=X4), tmp_path) == ["v1.2/a.png"]
    (tmp_path / "c.png").mkdir()
    assert outputs(batch.plan([photo], tmp_path / "c.png", sizing=X4), tmp_path) == ["c.png/a.png"]


@pytest.mark.parametrize(
    ("inputs", "output", "options", "words"),
    [
        (["a.png", "b.png"], "out.png", {}, "more than one input"),
        (["."], "out.png", {}, "more than one input"),
        (["a.png"], "out.gif", {}, "nor named like a picture"),
        (["a.png"], "taken", {}, "neither a folder"),
        (["a.png"], "out.png", {"format": "webp"}, "disagree"),
        (["a.png"], "out.png", {"suffix": "_y"}, "no place for --suffix"),
        (["a.png"], None, {"suffix": "x/y"}, "separator"),
        (["a.png"], None, {"format": "gif"}, "choose one of jpeg"),
        (["a.png"], None, {"sizing": {"scale": 9}}, "scale must be from 1 to 8"),
        (["a.png"], None, {"sizing": {"width": 0}}, "width must be"),
    ],
)
def test_command_lines_that_make_no_sense(
    tmp_path: Path, inputs: list[str], output: str | None, options: dict[str, Any], words: str
) -> None:
    for name in ("a.png", "b.png"):
        draw(tmp_path / name)
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(ConfigError, match=words):
        paths, out = [tmp_path / i for i in inputs], tmp_path / output if output else None
        batch.plan(paths, out, **{"sizing": X4, **options})


def bad_files(folder: Path) -> set[str]:
    whole = draw(folder / "good.png", (40, 40)).read_bytes()
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    Image.fromarray(noise).save(folder / "noise.png")
    noisy = bytearray((folder / "noise.png").read_bytes())
    noisy[len(noisy) // 2] ^= 0x55
    (folder / "empty.png").write_bytes(b"")
    (folder / "flipped.png").write_bytes(noisy)
    (folder / "text.jpg").write_text("This is not a photograph.\n")
    (folder / "truncated.png").write_bytes(whole[:60])
    (folder / "truncated2.png").write_bytes((folder / "noise.png").read_bytes()[:2000])
    return {"empty.png", "flipped.png", "text.jpg", "truncated.png", "truncated2.png"}


def test_bad_files_fail_alone_and_leave_nothing(tmp_path: Path) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    bad = bad_files(folder)
    results = list(batch.run(batch.plan([folder, folder / "gone.png"], out, sizing=X4), enlarge))
    assert {r.input.name for r in results if r.status == "failed"} == bad | {"gone.png"}
    assert tree(out) == ["good.png", "noise.png"]
    for result in results:
        if result.status == "failed":
            assert result.message
            assert "\n" not in result.message
            assert str(result.input) not in result.message, "the caller says the name"
            assert not result.message.startswith(("Exception", "ValueError", "OSError")), result.message


def test_paths_that_are_not_pictures(tmp_path: Path) -> None:
    photo = draw(tmp_path / "a.png")
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "void").mkdir()
    long = tmp_path / ("x" * 300 + ".png")
    jobs = batch.plan([photo / "b.png", long, tmp_path / "pipe.png", tmp_path / "void"], sizing=X4)
    messages = [r.message for r in batch.run(jobs, enlarge) if r.status == "failed"]
    assert messages[:3] == ["not a directory", "file name too long", "not a regular file"]
    assert messages[3].startswith("no pictures in this folder")
    assert len(messages) == 4


def test_a_folder_that_cannot_be_opened_fails_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw(tmp_path / "a.png")
    draw(tmp_path / "locked" / "b.png")
    scandir = os.scandir

    def guarded(path: str) -> object:
        if Path(path).name == "locked":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", guarded)
    jobs = batch.plan([tmp_path], sizing=X4, recursive=True)
    assert [(j.input.name, j.status) for j in jobs] == [("a.png", "todo"), ("locked", "failed")]
    assert jobs[1].message == "permission denied"


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (MemoryLimit("no memory for a tile of 16"), "no memory for a tile of 16"),
        (ImageError("{path}: it is upside down"), "it is upside down"),
        (MemoryError(), "not enough memory: give a smaller --tile"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), "not enough memory"),
        (KeyError("x"), "KeyError: 'x'"),
        (ValueError("two\nlines"), "ValueError: two lines"),
    ],
)
def test_errors_of_one_file_become_its_message(tmp_path: Path, error: Exception, words: str) -> None:
    first, second = draw(tmp_path / "a.png"), draw(tmp_path / "b.png")
    error.args = tuple(a.format(path=first) if isinstance(a, str) else a for a in error.args)
    pending = [error]

    def sometimes(picture: Picture) -> Picture:
        if pending:
            raise pending.pop()
        return enlarge(picture)

    results = list(batch.run(batch.plan([first, second], sizing=X4), sometimes))
    assert [r.status for r in results] == ["failed", "done"]
    assert results[0].message.startswith(words)
    assert results[0].error is error
    assert tree(tmp_path) == ["a.png", "b.png", "b_x4.png"]


def test_a_failure_does_not_keep_its_picture_in_memory(tmp_path: Path) -> None:
    kept = []

    def fail(picture: Picture) -> Picture:
        larger = enlarge(picture)
        kept.append(weakref.ref(larger.rgb))
        raise ValueError("after the work")

    (result,) = batch.run(batch.plan([draw(tmp_path / "a.png")], sizing=X4), fail)
    assert "fail" in "".join(traceback.format_exception(result.error)), "where it happened is known"
    gc.collect()
    assert kept[0]() is None


def test_notes_and_writing_options_go_through(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (6, 4), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "film.gif", save_all=True, append_images=frames[1:])
    (result,) = batch.run(batch.plan([tmp_path / "film.gif"], sizing=X4), enlarge)
    assert (result.status, result.output) == ("done", tmp_path / "film_x4.png")
    assert "first" in result.message
    noise = np.random.default_rng(0).integers(0, 256, (30, 30, 3), np.uint8)
    exif = Image.Exif()
    exif[0x010E] = "a description"
    photo, large = tmp_path / "photo.jpg", tmp_path / "large.jpg"
    Image.fromarray(noise).save(photo, exif=exif)
    sizes = []
    for metadata, quality in (("keep", 95), ("strip", 20)):
        jobs = batch.plan([photo], large, sizing=X4, existing="overwrite")
        assert [j.status for j in batch.run(jobs, enlarge, metadata=metadata, quality=quality)] == ["done"]
        with Image.open(large) as image:
            assert (0x010E in image.getexif()) == (metadata == "keep")
        sizes.append(large.stat().st_size)
    assert sizes[1] < sizes[0] / 2


def test_a_disk_that_fills_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    (result,) = batch.run(batch.plan([draw(tmp_path / "a.png")], sizing=X4), enlarge)
    assert result.message == "no space left on the disk: free some and run the same command again"
    assert tree(tmp_path) == ["a.png"]


def test_limits_are_said_before_the_hard_work(tmp_path: Path) -> None:
    wide = draw(tmp_path / "wide.webp", (4100, 4))
    (job,) = batch.plan([wide], sizing=X4)
    assert (job.status, job.message) == (
        "failed",
        "the result would be 16400x16, too large for WEBP: use png",
    )
    (job,) = batch.plan([wide], sizing=X4, format="png")
    assert job.status == "todo"
    (job,) = batch.plan([draw(tmp_path / "big.png", (4000, 4000))], sizing={"scale": 8})
    assert job.message == "the result would be 32000x32000, over 1000 megapixels: ask for less"


def test_a_full_disk_is_said_before_the_hard_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full = type("Usage", (), {"free": 0})()
    monkeypatch.setattr(batch.shutil, "disk_usage", lambda path: full)
    jobs = batch.plan([draw(tmp_path / "a.png")], sizing=X4)
    (result,) = batch.run(jobs, lambda picture: pytest.fail("the model ran"))
    assert result.message.startswith("no space left on the disk")


def test_an_output_folder_that_is_a_file(tmp_path: Path) -> None:
    photo = draw(tmp_path / "a.png")
    (result,) = batch.run(batch.plan([photo], photo / "out", sizing=X4), enlarge)
    assert result.status == "failed"
    assert "directory" in result.message


def test_interruption_passes_through_and_leaves_nothing_half_written(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        draw(tmp_path / name)
    out = tmp_path / "out"
    calls = []

    def interrupted(picture: Picture) -> Picture:
        calls.append(picture)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return enlarge(picture)

    with pytest.raises(KeyboardInterrupt):
        list(batch.run(batch.plan([tmp_path], out, sizing=X4), interrupted))
    assert tree(out) == ["a.png"]


def test_what_killed_runs_left_is_removed(tmp_path: Path) -> None:
    draw(tmp_path / "a.png")
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    ours = tmp_path / f".unistep-{_host()}-{gone.pid}-12ab.part"
    alive = tmp_path / f".unistep-{_host()}-{os.getpid()}-12ab.part"
    for path in (ours, alive):
        path.write_bytes(b"half")
    list(batch.run(batch.plan([tmp_path], sizing=X4), enlarge))
    assert tree(tmp_path) == [alive.name, "a.png", "a_x4.png"]


names = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="/\0"), min_size=1, max_size=12)


@settings(deadline=None, max_examples=25)
@given(
    stems=st.lists(names, min_size=1, max_size=4, unique_by=lambda stem: folded(Path(f"n{stem}"))),
    lead=st.sampled_from(["", "-", " ", "--"]),
)
def test_any_name_is_kept(tmp_path_factory: pytest.TempPathFactory, stems: list[str], lead: str) -> None:
    folder = tmp_path_factory.mktemp("names")
    files = [draw(folder / f"{lead}n{stem}.png") for stem in stems]
    jobs = batch.plan(files, folder / "out", sizing=X4)
    results = list(batch.run(jobs, enlarge))
    assert [r.status for r in results] == ["done"] * len(files)
    assert sorted(p.name for p in (folder / "out").iterdir()) == sorted(f.name for f in files)
