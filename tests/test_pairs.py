"""Photographs on disk: hold-out, the same pairs whatever the workers, written pairs, and bad folders."""

import csv
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from unistep.data.degrade import DEGRADATIONS, degrade
from unistep.data.pairs import DataConfig, Pairs, Photographs, batches, load_rgb, write_pairs
from unistep.errors import ConfigError, DataError, ImageError


def picture(path: Path, width: int = 48, height: int = 40, seed: int = 0) -> Path:
    """A smooth random picture."""
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), np.uint8)
    Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).save(path)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for i in range(5):
        picture(tmp_path / "photos" / f"{i}.png", seed=i)
    return tmp_path / "photos"


def loud(text: str) -> None:
    pytest.fail(f"unexpected report: {text}")


# Hold-out


def test_hold_out_is_by_photograph(tmp_path):
    """Crops of one photograph, as the manifest names them, fall on one side together."""
    with (tmp_path / "manifest.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["file", "repo", "path", "licence"])
        for i in range(120):
            picture(tmp_path / f"{i:03d}.png", 8, 8)
            rows.writerow([f"{i:03d}.png", "owner/repo", f"image {i // 4}.jpg", "CC0"])
    split = Photographs(tmp_path, 0.3)
    sides = [{int(file.stem) // 4 for file in files} for files in (split.train, split.held_out)]
    assert not sides[0] & sides[1] and len(sides[0] | sides[1]) == 30
    assert 3 <= len(sides[1]) <= 15
    assert len(split.train) + len(split.held_out) == 120
    more = Photographs(tmp_path, 0.6)
    assert set(split.held_out) < set(more.held_out)  # a larger share only adds


def test_hold_out_stays_when_files_are_added(folder):
    before = Photographs(folder, 0.5)
    picture(folder / "new.png")
    after = Photographs(folder, 0.5)
    assert set(before.held_out) <= set(after.held_out) and set(before.train) <= set(after.train)
    assert not Photographs(folder, 0.0).held_out


def test_manifest_may_lie_above(tmp_path):
    for name in "ab":
        picture(tmp_path / "crops" / f"{name}.png")
    (tmp_path / "manifest.csv").write_text("file,repo,path\na.png,r,same\nb.png,r,same\n")
    for share in (0.2, 0.5, 0.8):
        try:
            split = Photographs(tmp_path / "crops", share)
        except DataError:
            continue  # both held out
        assert len(split.train) == 2


def test_digest_names_the_training_data(folder):
    first = Photographs(folder, 0.0).digest()
    assert first == Photographs(folder, 0.0).digest() and len(first) == 64
    (folder / "4.png").rename(folder / "5.png")
    renamed = Photographs(folder, 0.0).digest()
    picture(folder / "5.png", seed=99)
    assert len({first, renamed, Photographs(folder, 0.0).digest()}) == 3


def test_bad_folders(tmp_path):
    with pytest.raises(DataError, match="expected a folder of images, found nothing"):
        Photographs(tmp_path / "absent", 0.1)
    with pytest.raises(DataError, match="found a file"):
        Photographs(picture(tmp_path / "a.png"), 0.1)
    (tmp_path / "empty" / "folder.png").mkdir(parents=True)
    (tmp_path / "empty" / ".hidden.png").write_bytes(b"")
    with pytest.raises(DataError, match="found none"):
        Photographs(tmp_path / "empty", 0.1)
    with pytest.raises(DataError, match="hold-out"):
        Photographs(tmp_path, 0.9999999)
    (tmp_path / "manifest.csv").write_text("name,where\na.png,here\n")
    with pytest.raises(DataError, match="columns file, repo and path"):
        Photographs(tmp_path, 0.1)


# Pairs


def test_pairs_are_the_same_whatever_workers_and_batch(folder):
    files, config = Photographs(folder, 0.0).train, DataConfig(patch=32)
    one_by_one = [Pairs(files, config, seed=3)[i] for i in range(12)]
    for workers, batch in ((0, 4), (1, 3), (2, 6)):
        pairs = Pairs(files, config, seed=3, length=12)
        pairs.preload()
        for i, both in enumerate(zip(*batches(pairs, batch, workers), strict=False)):
            x = torch.cat(both)
            assert torch.equal(x, torch.stack([pair[i] for pair in one_by_one]))


def test_a_position_is_one_number(folder):
    files, config = Photographs(folder, 0.0).train, DataConfig(patch=32)
    later = Pairs(files, config, seed=3, start=5)
    for mine, theirs in zip(later[2], Pairs(files, config, seed=3)[7], strict=True):
        assert torch.equal(mine, theirs)
    assert not torch.equal(later[2][1], Pairs(files, config, seed=4, start=5)[2][1])


def test_pairs_hold_what_was_cropped(tmp_path):
    """x_hq is a turned crop of a photograph, x_lq its degradation; every turn and every preset comes up."""
    file = picture(tmp_path / "a.png", 32, 32)  # nothing to choose but the turn
    x = load_rgb(file).float() / 255 * 2 - 1
    turns = [torch.rot90(x, k, (1, 2)) for k in range(4)]
    turns += [turn.flip(2) for turn in turns]
    seen, presets = set(), set()
    pairs = Pairs([file], DataConfig(patch=32), seed=0)
    for i in range(60):
        x_lq, x_hq = pairs[i]
        assert x_lq.shape == (3, 8, 8) and x_hq.shape == (3, 32, 32) and x_lq.abs().max() <= 1
        seen |= {k for k, turn in enumerate(turns) if torch.allclose(turn, x_hq, atol=1e-6)}
        for name in DEGRADATIONS:
            lq, _ = degrade((x_hq[None] + 1) / 2, name, seed=1, indices=[i])
            presets |= {name} if torch.allclose(lq[0] * 2 - 1, x_lq, atol=1e-2) else set()
    assert seen == set(range(8)) and presets == set(DEGRADATIONS)


def test_crops_reach_every_corner(tmp_path):
    file = tmp_path / "ramp.png"
    ramp = np.zeros((19, 18, 3), np.uint8)
    ramp[..., 0], ramp[..., 1] = np.arange(18), np.arange(19)[:, None]
    Image.fromarray(ramp).save(file)
    pairs = Pairs([file], DataConfig(patch=16, degradations={"bicubic": 1.0}), seed=0)
    corners = {
        tuple(((x_hq[:2].amin((1, 2)) + 1) * 127.5).round().int().tolist())
        for _, x_hq in map(pairs.__getitem__, range(120))
    }
    assert corners == {(left, top) for left in range(3) for top in range(4)}


def test_shares_are_obeyed_in_any_order(folder):
    files = Photographs(folder, 0.0).train
    for order in (("light", "bicubic"), ("bicubic", "light")):
        config = DataConfig(patch=32, degradations=dict.fromkeys(order, 0.5))
        found = [Pairs(files, config, seed=0)[i][0] for i in range(6)]
        if order[0] == "light":
            first = found
    assert all(torch.equal(a, b) for a, b in zip(first, found, strict=True))


def test_small_and_broken_images_are_named(tmp_path):
    small = picture(tmp_path / "small.png", 48, 31)
    with pytest.raises(DataError, match=r"small\.png: expected at least 32 pixels on each side, found 48x31"):
        Pairs([small], DataConfig(patch=32), seed=0).preload()
    broken = tmp_path / "broken.png"
    broken.write_bytes(small.read_bytes()[:-40])
    with pytest.raises(ImageError, match=r"broken\.png"):
        Pairs([broken], DataConfig(patch=32), seed=0).preload()


@pytest.mark.parametrize(
    "settings,message",
    [
        ({"patch": 40}, "data.patch to be a multiple of 16, found 40"),
        ({"patch": 0}, "data.patch to be a multiple of 16, found 0"),
        ({"degradations": {"lite": 1.0}}, "found “lite”"),
        ({"degradations": {}}, "more than 0"),
        ({"degradations": {"light": 0.0}}, "more than 0"),
        ({"degradations": {"light": 2.0, "bicubic": -1.0}}, "more than 0"),
        ({"holdout": 1.0}, "data.holdout"),
        ({"workers": -1}, "data.workers"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ConfigError, match=message):
        DataConfig(**settings)


def test_colours_and_depth_become_8_bit_srgb(tmp_path):
    Image.new("L", (20, 20), 77).save(tmp_path / "grey.png")
    assert torch.equal(load_rgb(tmp_path / "grey.png"), torch.full((3, 20, 20), 77, dtype=torch.uint8))
    Image.fromarray(np.full((20, 20), 257 * 90, np.uint16)).save(tmp_path / "deep.png")
    assert torch.equal(load_rgb(tmp_path / "deep.png"), torch.full((3, 20, 20), 90, dtype=torch.uint8))


# Written pairs


def test_written_pairs(tmp_path):
    source, out = tmp_path / "in", tmp_path / "out"
    picture(source / "b" / "two.jpg", 43, 38)
    picture(source / "one.png", 48, 40)
    lines: list[str] = []
    assert write_pairs(source, out, "light", 7, lines.append) == 0
    assert lines == [f"2 pairs in {out}"]
    assert sorted(p.relative_to(out).as_posix() for p in out.rglob("*.*")) == [
        "hr/b/two.png", "hr/one.png", "lr/b/two.png", "lr/one.png",
    ]  # fmt: skip
    for index, (file, name) in enumerate((("b/two.jpg", "b/two.png"), ("one.png", "one.png"))):
        x = load_rgb(source / file)[:, : 40 if index else 36, : 48 if index else 40]
        assert torch.equal(load_rgb(out / "hr" / name), x)
        lq, _ = degrade(x[None].float() / 255, "light", seed=7, indices=[index])
        assert torch.equal(load_rgb(out / "lr" / name), (lq[0] * 255).round().byte())


def test_written_pairs_repeat(tmp_path, folder):
    files = []
    for out in (
        tmp_path / "a",
        tmp_path / "b",
        folder / "inside",
        folder / "inside",
    ):  # nor does it read its own output
        assert write_pairs(folder, out, seed=1, report=lambda _: None) == 0
        files.append({p.relative_to(out): p.read_bytes() for p in out.rglob("*.png")})
    assert files[0] == files[1] == files[2] == files[3] and len(files[0]) == 10
    write_pairs(folder, tmp_path / "c", seed=2, report=lambda _: None)
    assert (tmp_path / "c" / "lr" / "0.png").read_bytes() != files[0][Path("lr/0.png")]


def test_one_picture_is_a_source_too(tmp_path):
    assert write_pairs(picture(tmp_path / "a.webp"), tmp_path / "out", report=lambda _: None) == 0
    assert (tmp_path / "out" / "lr" / "a.png").is_file()


@pytest.mark.skipif(os.name == "nt", reason="names")
def test_a_bad_file_stops_nothing(tmp_path):
    source, out = tmp_path / "in", tmp_path / "out"
    picture(source / "a.png")
    (source / "b.png").write_text("not an image")
    (source / "c.png").write_bytes(b"")
    picture(source / "d.png", 3, 20)
    picture(source / "e.jpg")
    picture(source / "e.png", seed=1)
    picture(source / "— f.png")
    lines: list[str] = []
    assert write_pairs(source, out, report=lines.append) == 4
    named = ["b.png", "c.png", "d.png", "e.png", "pairs"]
    assert all(name in line for name, line in zip(named, lines, strict=True))
    assert lines[-1] == f"3 pairs in {out}, 4 failed"
    assert sorted(p.name for p in (out / "lr").iterdir()) == ["a.png", "e.png", "— f.png"]
    assert not list(out.rglob("*.part"))


def test_an_unwritable_target_is_reported(tmp_path):
    picture(tmp_path / "in" / "a.png")
    (tmp_path / "out").write_text("in the way")
    lines: list[str] = []
    assert write_pairs(tmp_path / "in", tmp_path / "out", report=lines.append) == 1
    assert "out" in lines[0]


def test_nothing_to_write(tmp_path):
    picture(tmp_path / "out" / "hr" / "a.png")
    for source in ("out", "out/hr", "out/hr/a.png"):
        with pytest.raises(DataError, match="outside of"):
            write_pairs(tmp_path / source, tmp_path / "out", report=loud)
    with pytest.raises(DataError, match="found nothing"):
        write_pairs(tmp_path / "absent", tmp_path / "out", report=loud)
    with pytest.raises(ConfigError, match="found “strong”"):
        write_pairs(picture(tmp_path / "a.png"), tmp_path / "out", "strong", report=loud)
