"""Sets of photographs, their measures, and how both are shown."""

import math

import photos
import pytest
import tables
import torch
from common import in_turns
from PIL import Image

from unistep.errors import ImageError


@pytest.fixture
def folder(tmp_path):
    generator = torch.Generator().manual_seed(0)
    for name in ("b", "a", "c"):
        x = torch.rand(1, 3, 70, 66, generator=generator)
        photos.to_image(x).save(tmp_path / f"{name}.png")
    (tmp_path / "note.txt").write_text("a.png\nc.png\n")
    return tmp_path


def test_files_of_a_folder_or_of_a_list(folder):
    assert [file.stem for file in photos.files(folder)] == ["a", "b", "c"]
    assert [file.stem for file in photos.files(folder / "note.txt", 1)] == ["a"]
    (folder / "empty").mkdir()
    with pytest.raises(ImageError, match="holds no image"):
        photos.files(folder / "empty")


def test_a_degradation_depends_on_the_seed_and_the_place_alone(folder):
    paths = photos.files(folder)
    whole, some = (list(photos.degraded(p, "light", 3)) for p in (paths, paths[:2]))
    assert [sample.lq.shape for sample in whole] == [(1, 3, 17, 16)] * 3
    assert all(torch.equal(a.lq, b.lq) for a, b in zip(whole, some, strict=False))
    other = next(photos.degraded(paths, "light", 4))
    assert not torch.equal(whole[0].lq, other.lq)


def test_measures_that_cannot_be_are_not_a_number(folder):
    measures = photos.scores()
    assert "niqe" not in measures and "lpips_squeeze" not in measures
    x = photos.read(folder / "a.png")
    found = photos.measure(measures, x, None)
    assert math.isnan(found["psnr_y"]) and not math.isnan(found["grid"])
    assert math.isnan(photos.measure(measures, x[..., :40, :40], x[..., :40, :40])["grid"])


def test_results_are_rounded_to_8_bits():
    x = torch.full((1, 3, 2, 2), 0.5)
    assert torch.equal(photos.rounded(lambda x: x + 0.7, x), torch.ones_like(x))
    assert torch.equal(photos.rounded(lambda x: x, x) * 255, torch.full_like(x, 128))


def test_a_sheet_shows_all_panels_at_their_size(folder):
    x = photos.read(folder / "a.png")
    step = 32 + photos.GAP
    sheet = photos.sheet({"one": x, "two": 1 - x}, 32, (0.0, 1.0))
    assert sheet.size == (2 * step - photos.GAP, 32 + photos.TITLE)
    box = (step, photos.TITLE, step + 32, photos.TITLE + 32)
    assert sheet.crop(box).tobytes() == photos.to_image((1 - x)[..., :32, 32:64]).tobytes()
    assert photos.sheet({"one": x}, 0).size == (66, 70 + photos.TITLE)
    page = photos.page([photos.Sample("a", x, None)] * 2, {}, {"bicubic": photos.bicubic}, 32)
    assert page.size == (sheet.width, 2 * sheet.height)


def test_bicubic_is_pillows(folder):
    x = photos.read(folder / "b.png")
    with Image.open(folder / "b.png") as image:
        large = image.resize((264, 280), Image.Resampling.BICUBIC)
    assert torch.equal(photos.bicubic(x), photos.to_tensor(large))


def test_the_best_of_a_measure():
    assert tables.best("psnr_y", [1.0, math.nan, 2.0]) == 2.0 and tables.best("niqe", [1.0, 2.0]) == 1.0
    assert math.isnan(tables.best("grid", [1.0])) and math.isnan(tables.best("psnr_y", []))


def test_ways_take_turns():
    order = []
    ways = {name: lambda name=name: order.append(name) for name in ("a", "b")}
    assert in_turns(ways, 2, torch.device("cpu")).keys() == ways.keys()
    assert order == ["a", "b", "a", "b"]
