"""Writing: what is refused, what a format does, and files that are whole or not there."""

import os
import stat
import tracemalloc

import numpy as np
import pytest
from pictures import photo, pil, saved
from PIL import Image

from unistep import atomic, image
from unistep.errors import ImageError
from unistep.image import Picture, read_image, write_image

PLAIN = Picture(np.full((4, 5, 3), 0.5, np.float32))


def unwritable(path, picture=PLAIN, *words, **options):
    with pytest.raises(ImageError) as caught:
        write_image(path, picture, **options)
    assert os.path.basename(path) in str(caught.value) and "\n" not in str(caught.value)
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_what_cannot_be_written(tmp_path):
    wide = np.zeros((1, 16384, 3), np.float32)
    unwritable(tmp_path / "wide.webp", Picture(wide), "16383")
    unwritable(tmp_path / "wide.jpg", Picture(np.zeros((1, 65501, 3), np.float32)), "65500")
    unwritable(tmp_path / "out.gif", PLAIN, "'.gif'")
    unwritable(tmp_path / "out", PLAIN, "format")
    unwritable(tmp_path / "out.png", PLAIN, "'heic'", format="heic")
    unwritable(tmp_path / "out.png", Picture(np.full((2, 2, 3), np.nan, np.float32)), "finite")
    unwritable(tmp_path / "out.png", Picture(np.zeros((2, 2, 4), np.float32)), "[H,W,3]")
    unwritable(tmp_path / "out.png", Picture(PLAIN.rgb, np.zeros((2, 2), np.float32)), "alpha")
    unwritable(tmp_path / "out.png", PLAIN, "quality", quality=0)
    unwritable(tmp_path / "out.png", PLAIN, "metadata", metadata="all")
    unwritable(tmp_path / "no" / "such" / "folder.png", PLAIN, "No such file")
    assert list(tmp_path.iterdir()) == []


def test_format_overrides_the_name(tmp_path):
    write_image(tmp_path / "out.dat", PLAIN, format="webp")
    assert read_image(tmp_path / "out.dat").source.format == "WEBP"


def test_quality_matters(tmp_path):
    picture = read_image(saved(pil(photo(64, 64, 3), "RGB"), "PNG"))
    for suffix in ("jpg", "webp", "avif"):
        sizes = []
        for quality in (30, None):
            write_image(tmp_path / f"out.{suffix}", picture, quality=quality)
            sizes.append((tmp_path / f"out.{suffix}").stat().st_size)
        assert sizes[0] < sizes[1]


def test_jpeg_keeps_all_colour_resolution(tmp_path):
    write_image(tmp_path / "out.jpg", read_image(saved(pil(photo(32, 32, 3), "RGB"), "PNG")))
    with Image.open(tmp_path / "out.jpg") as image:
        assert [layer[1:3] for layer in image.layer] == [(1, 1)] * 3


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch, error):
    path = tmp_path / "out.png"
    write_image(path, PLAIN)
    before = path.read_bytes()

    def fail(*_):
        raise error

    monkeypatch.setattr(atomic.os, "fsync", fail)
    with pytest.raises((KeyboardInterrupt, ImageError)) as caught:
        write_image(path, Picture(np.zeros((9, 9, 3), np.float32)))
    if isinstance(error, OSError):
        assert "out.png" in str(caught.value) and "No space left" in str(caught.value)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_a_replaced_file_keeps_its_mode(tmp_path):
    path = tmp_path / "out.png"
    write_image(path, PLAIN)
    path.chmod(0o640)
    write_image(path, PLAIN)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_leftovers_of_killed_processes(tmp_path):
    with atomic.atomic_path(tmp_path / "done.txt") as part:
        dead = tmp_path / part.name.replace(f"-{os.getpid()}-", "-4194999-")
        dead.touch()
        assert atomic.remove_leftovers(tmp_path) == 1
        assert part.exists() and not dead.exists()
        part.write_text("whole")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("done.txt", "whole")]


def test_atomic_write_shows_nothing_before_the_end(tmp_path):
    path = tmp_path / "state.bin"
    with atomic.atomic_write(path) as file:
        file.write(b"half")
        file.flush()
        assert not path.exists()
        file.write(b" and half")
    assert path.read_bytes() == b"half and half"


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_no_second_picture_of_floats_is_held(kind):
    picture = Picture(np.zeros((3000, 1000, 3), np.float32), np.ones((3000, 1000), np.float32))
    tracemalloc.start()
    sheet, _ = image._sheet(picture, kind, "keep")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < sheet.codes.nbytes + picture.rgb.nbytes / 2
