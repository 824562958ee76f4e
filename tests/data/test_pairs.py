"""Photographs on disk: hold-out, the same pairs whatever the workers, written pairs, and bad folders."""

import csv
import gzip
import hashlib
import io
import os
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from unistep.data import sources
from unistep.data.degrade import degrade
from unistep.data.pairs import DataConfig, Pairs, Photographs, batches
from unistep.data.sources import load_rgb
from unistep.data.write import write_pairs
from unistep.errors import ConfigError, DataError, ImageError
from unistep.recipes.config import Run
from unistep.training import progress
from unistep.training.progress import Validation


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


@pytest.mark.parametrize(
    ("truth", "degraded", "named"),
    [
        ("hr/a.png", "lr/a.png", "hr beside lr"),
        ("test_HR/a.png", "test_LR/a.png", "test_HR beside test_LR"),
        ("gt/a.jpg", "lq/a.png", "gt beside lq"),
        ("x/GT/more/a.png", "x/LQ/more/a.png", "x/GT beside x/LQ"),
        ("D_train_HR/0001.png", "D_train_LR_bicubic/X4/0001x4.png", "D_train_HR beside D_train_LR_bicubic"),
        ("c_001_HR.png", "c_001_LR4.png", "c_001_HR.png beside c_001_LR4.png"),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_pairs_given_as_photographs(tmp_path, truth, degraded, named, packed):
    """Half of them would be degraded ground truth. Whether they have a manifest does not matter."""
    source, out = tmp_path / "in", tmp_path / "in"
    files = {name: picture(source / name, seed=i) for i, name in enumerate((truth, degraded))}
    if packed:
        out = tmp_path / "packed"
        named = " beside ".join(f"a/{half}" for half in named.split(" beside "))
        archive(out / "a.tar", dict(files))
    (out / "manifest.csv").write_text("file,repo,path\na.png,r,same\n")
    found = rf"expected photographs, found pairs \({named}\).*: give the ground truth alone"
    with pytest.raises(DataError, match=found) as caught:
        Photographs(out, 0.0)
    half = out / named.split()[0]
    assert str(caught.value).endswith(f"alone ({half})" if half.is_dir() else "alone")
    if half.is_dir():  # what the sentence says is right
        assert len(Photographs(half, 0.0).train) == 1


def test_archives_that_are_pairs(tmp_path):
    for i, half in enumerate(("HR", "LR")):
        archive(tmp_path / "in" / f"{half}.tar", {"a.png": picture(tmp_path / f"{i}.png", seed=i)})
    with pytest.raises(DataError, match=r"found pairs \(HR beside LR\)"):
        Photographs(tmp_path / "in", 0.0)


@pytest.mark.parametrize(
    "names",
    [
        ("hr/a.png", "lr/b.png"),  # two countries
        ("hr/2020/a.png", "lr/2021/a.png"),
        ("hr/a.png", "hr2/a.png"),
        ("x/hr/a.png", "y/lr/a.png"),
        ("chr/a.png", "clr/a.png"),
        ("gt40.jpg", "lrx.jpg"),
        ("a/1.png", "b/1.png"),
    ],
)
def test_what_only_looks_like_pairs(tmp_path, names):
    for i, name in enumerate(names):
        picture(tmp_path / name, seed=i)
    assert len(Photographs(tmp_path, 0.0).train) == 2


def test_pairs_are_the_same_whatever_workers_and_batch(folder):
    files, config = Photographs(folder, 0.0).train, DataConfig(patch=32)
    one_by_one = [Pairs(files, config, seed=3)[i] for i in range(12)]
    for workers, batch in ((0, 4), (1, 3), (2, 6)):
        pairs = Pairs(files, config, seed=3, length=12)
        pairs.preload()
        made = list(batches(pairs, batch, workers))
        assert [index for samples in made for index in samples.indices] == list(range(12))
        for i, name in enumerate(("x_lq", "x_hq")):
            x = torch.cat([getattr(samples, name) for samples in made])
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
    seen, presets, every = set(), set(), set(DataConfig().degradations)
    pairs = Pairs([file], DataConfig(patch=32), seed=0)
    for i in range(60):
        x_lq, x_hq = pairs[i]
        assert x_lq.shape == (3, 8, 8) and x_hq.shape == (3, 32, 32) and x_lq.abs().max() <= 1
        seen |= {k for k, turn in enumerate(turns) if torch.allclose(turn, x_hq, atol=1e-6)}
        for name in every:
            lq, _ = degrade((x_hq[None] + 1) / 2, name, seed=1, indices=[i])
            presets |= {name} if torch.allclose(lq[0] * 2 - 1, x_lq, atol=1e-2) else set()
    assert seen == set(range(8)) and presets == every


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
        ({"memory": -1.0}, "data.memory"),
        ({"shard": 0}, "data.shard"),
        ({"degrade_on": "gpu"}, "data.degrade_on to be cpu or device, found “gpu”"),
        ({"latents": "bf16"}, "data.latents to be fp32 or fp16, found “bf16”"),
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


# Archives


def archive(path: Path, files: dict[str, Path | bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in files.items():
            data = content if isinstance(content, bytes) else content.read_bytes()
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return path


@pytest.fixture
def told(folder) -> Path:
    """The folder with more kinds and depths, and texts of three pictures."""
    picture(folder / "sub" / "x.jpg", 60, 50, 7)
    picture(folder / "sub-2" / "x.webp", 50, 60, 8)
    for name, text in (("0", "a cat"), ("sub/x", " two\nlines "), ("3", "")):
        (folder / f"{name}.txt").write_text(text)
    return folder


@pytest.mark.parametrize("workers", [0, 2])
def test_archives_are_as_the_folder_that_they_hold(told, tmp_path, workers):
    """Whatever the order of the members and the number of archives, with loose files beside them or not."""
    names = [p.relative_to(told).as_posix() for p in told.rglob("*") if p.is_file()]
    names.sort(key=lambda name: hashlib.sha256(name.encode()).digest())
    archive(tmp_path / "one" / "all.tar", {f"./{name}": told / name for name in names})
    for i in range(2):
        members = {n: told / n for n in names if (ord(n[0]) + (n == "2.png")) % 2 == i}
        archive(tmp_path / "two" / f"{i}" / "part.tar", members)
    shutil.copytree(told, tmp_path / "mixed")
    archive(tmp_path / "mixed" / "0.TAR", {n: tmp_path / "mixed" / n for n in names if n.startswith("sub/")})
    shutil.rmtree(tmp_path / "mixed" / "sub")
    pictures = sorted(told / name for name in names if not name.endswith(".txt"))
    assert list(Photographs(told, 0.0).names) == pictures  # in the order of paths, "sub" before "sub-2"
    config = DataConfig(patch=32, prompts=True, degradations={"bicubic": 1.0})
    for share in (0.0, 0.4):
        expected = Photographs(told, share)
        samples = next(batches(Pairs(expected.train, config, 0, length=16), 16, workers))
        for name in ("one", "two", "mixed"):
            found = Photographs(tmp_path / name, share)
            assert found.digest() == expected.digest() and found.texts() == expected.texts()
            for side in ("train", "held_out"):
                ours, theirs = ([s.photograph[p] for p in getattr(s, side)] for s in (found, expected))
                assert ours == theirs
            again = next(batches(Pairs(found.train, config, 0, length=16), 16, workers))
            assert torch.equal(again.x_lq, samples.x_lq) and torch.equal(again.x_hq, samples.x_hq)
            assert again.texts == samples.texts and again.indices == samples.indices
    assert None in samples.texts and len(set(samples.texts)) > 2


def test_a_manifest_holds_for_archives(told, tmp_path):
    out = archive(tmp_path / "tars" / "a.tar", {f"{i}.png": told / f"{i}.png" for i in range(5)}).parent
    (out / "manifest.csv").write_text("file,repo,path\n0.png,r,same\n1.png,r,same\n")
    split = Photographs(out, 0.0)
    assert len(set(split.photograph.values())) == 4


def test_only_pictures_of_an_archive_count(told, tmp_path):
    file = archive(tmp_path / "tars" / "a.tar", {
        "../../up.png": told / "0.png", "/abs.png": told / "1.png", ".hidden.png": told / "2.png",
        "cls.cls": b"7", "json.json": b"{}", "b.PNG": told / "3.png",
    })  # fmt: skip
    with tarfile.open(file, "a") as tar:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE):
            entry = tarfile.TarInfo(f"{kind.decode()}.png")
            entry.type, entry.linkname = kind, "b.PNG"
            tar.addfile(entry)
    found = Photographs(file.parent, 0.0)
    assert sorted(found.names.values()) == ["../../up.png", "/abs.png", "b.PNG"]
    before = sorted(tmp_path.rglob("*"))
    for photo, name in zip(found.train, ("0", "1", "3"), strict=True):
        assert torch.equal(load_rgb(photo), load_rgb(told / f"{name}.png"))
    assert sorted(tmp_path.rglob("*")) == before  # nothing is extracted


def cut(data: bytes, how: str) -> bytes:
    return {
        "cut in a member": data[: 512 + 100],
        "cut in a header": data[: data.rindex(b"1.png") + 100],
        "no archive": b"plain text " * 100,
        "compressed": gzip.compress(data),
        "header": data[: data.rindex(b"1.png") + 120] + b"zzzz" + data[data.rindex(b"1.png") + 124 :],
        "empty": b"",
    }[how]


@pytest.mark.parametrize(
    "how", ["cut in a member", "cut in a header", "no archive", "compressed", "header", "empty"]
)
def test_a_damaged_archive_is_named_skipped_and_counted(told, tmp_path, how):
    good = archive(tmp_path / "tars" / "good.tar", {"2.png": told / "2.png"})
    bad = archive(tmp_path / "tars" / "bad.tar", {f"{i}.png": told / f"{i}.png" for i in range(2)})
    bad.write_bytes(cut(bad.read_bytes(), how))
    lines: list[str] = []
    found = Photographs(good.parent, 0.0, report=lines.append)
    assert list(found.names.values()) == ["2.png"]
    assert len(lines) == 2 and "bad.tar: expected a" in lines[0] and lines[1] == "1 of 2 files skipped"
    with pytest.raises(DataError, match=r"bad\.tar"):
        Photographs(good.parent, 0.0, strict=True)
    good.unlink()
    with pytest.raises(DataError, match=r"bad\.tar"):
        Photographs(good.parent, 0.0)


def test_an_archive_without_pictures(tmp_path):
    archive(tmp_path / "a.tar", {"a.txt": b"words"})
    with pytest.raises(DataError, match="expected images in its archives, found none"):
        Photographs(tmp_path, 0.0)


def test_a_member_is_named_in_its_error(told, tmp_path, monkeypatch):
    out = archive(tmp_path / "tars" / "a.tar", {"ok.png": told / "0.png", "bad.png": b"no picture"}).parent
    pairs = Pairs(Photographs(out, 0.0).train, DataConfig(patch=32), 0)
    lines: list[str] = []
    pairs.preload(lines.append)
    assert lines[0].startswith(f"skipped: {out / 'a.tar'}: bad.png: ") and lines[1] == "1 of 2 images skipped"
    with pytest.raises(ImageError, match=r"a\.tar: bad\.png: "):
        Pairs(Photographs(out, 0.0).train, DataConfig(patch=32, strict=True), 0).preload()
    monkeypatch.setattr(sources, "LARGEST", 20)
    with pytest.raises(DataError, match=r"a\.tar: ok\.png: expected at most 20 bytes"):
        Pairs(Photographs(out, 0.0).train[1:], DataConfig(patch=32, strict=True), 0).preload()


# What cannot be used


def test_bad_images_are_named_skipped_and_counted(folder):
    (folder / "1a.png").write_text("no image")
    picture(folder / "1b.png", 31, 90)
    files, lines = Photographs(folder, 0.0).train, []
    pairs = Pairs(files, DataConfig(patch=32), seed=3)
    pairs.preload(lines.append)
    assert "1a.png: " in lines[0] and "1b.png: expected at least 32 pixels" in lines[1]
    assert lines[2:] == ["2 of 7 images skipped"]
    assert [file.name for file in files] == [f"{i}.png" for i in range(5)]  # the caller's list too
    for name in ("1a.png", "1b.png"):
        (folder / name).unlink()
    clean = Pairs(Photographs(folder, 0.0).train, DataConfig(patch=32), seed=3)
    assert all(torch.equal(*both) for i in range(6) for both in zip(pairs[i], clean[i], strict=True))


def test_the_first_bad_image_stops_a_strict_run(folder):
    (folder / "1a.png").write_text("no image")
    with pytest.raises(ImageError, match=r"1a\.png"):
        Pairs(Photographs(folder, 0.0).train, DataConfig(patch=32, strict=True), 0).preload()


def test_memory_limits_what_is_kept(folder):
    config = DataConfig(patch=32, memory=2.5 * 48 * 40 * 3 / 1e9)
    few, all_ = (Pairs(Photographs(folder, 0.0).train, c, 0) for c in (config, DataConfig(patch=32)))
    for pairs in (few, all_):
        pairs.preload()
    assert (len(few.cache), len(all_.cache)) == (2, 5)
    assert all(torch.equal(*both) for i in range(8) for both in zip(few[i], all_[i], strict=True))


# Texts


def test_missing_texts_are_counted_once(told):
    lines: list[str] = []
    Pairs(Photographs(told, 0.0).train, DataConfig(patch=32, prompts=True), 0).preload(lines.append)
    assert lines == ["4 of 7 images have no text of their own: base.prompt stands for it"]
    assert Photographs(told, 0.0).texts() == ["", "a cat", "two lines"]
    Pairs(Photographs(told, 0.0).train, DataConfig(patch=32), 0).preload(loud)


# Scale 1


FACES = DataConfig(patch=32, degradations={"faces": 1.0}, rotations=False)


def test_faces_keep_their_size_and_stay_upright(tmp_path):
    file = picture(tmp_path / "a.png", 32, 32)
    x = load_rgb(file).float() / 255 * 2 - 1
    found = [Pairs([file], FACES, seed=0)[i] for i in range(12)]
    assert FACES.scale == 1 and all(x_lq.shape == x_hq.shape == x.shape for x_lq, x_hq in found)
    assert {k for k, t in enumerate((x, x.flip(2))) for _, x_hq in found if torch.allclose(t, x_hq)} == {0, 1}
    assert all(any(torch.allclose(t, x_hq) for t in (x, x.flip(2))) for _, x_hq in found)


def test_presets_of_a_run_have_one_scale():
    with pytest.raises(ConfigError, match=r"of one scale, found 1, 4 \(faces, light\): leave some out"):
        DataConfig(degradations={"faces": 0.5, "light": 0.5})
    assert DataConfig().scale == 4


def test_validation_of_faces(folder, tmp_path, monkeypatch):
    """Pairs, bicubic reference and the sheet's blocks are as large as the ground truth."""
    for file in folder.iterdir():
        picture(file, 96, 80, int(file.stem))
    monkeypatch.setattr(progress, "swd", lambda x, reference: (x - reference).abs().mean((1, 2, 3)) + 1)
    validate = Validation(Photographs(folder, 0.0), Run("faces", data=FACES), tmp_path)
    [(x_lq, x_hq)] = validate.pairs.values()
    assert list(validate.pairs) == ["faces"] and x_lq.shape == x_hq.shape == (5, 3, 80, 80)
    scores = validate(1, lambda x: x)
    assert scores["psnr_gain_faces"] == 0 and scores["swd_ratio_faces"] == 1
    sheet = load_rgb(tmp_path / "sheets" / "step-0000001.png")
    assert sheet.shape == (3, 5 * 80, 3 * 80)
    assert torch.equal(sheet[:, :80, :80], (x_lq[0] * 255).round().byte())
    assert torch.equal(sheet[:, :80, 160:], (x_hq[0] * 255).round().byte())


def test_validation_skips_what_cannot_be_read(folder, tmp_path):
    for file in folder.iterdir():
        picture(file, 96, 80, int(file.stem))
    (folder / "2.png").write_text("no image")
    lines: list[str] = []
    every, plain, strict = Photographs(folder, 0.0), DataConfig(patch=32), DataConfig(patch=32, strict=True)
    validate = Validation(every, Run("test", data=plain), tmp_path, lines.append)
    assert len(validate.pairs["light"][0]) == 4 and "2.png" in lines[0]
    with pytest.raises(ImageError, match=r"2\.png"):
        Validation(every, Run("test", data=strict), tmp_path)


def test_crops_of_validation_are_as_large_as_the_run_s(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(Validation, "size", 64)
    for file in folder.iterdir():
        picture(file, 100, 130, int(file.stem))
    for patch, side in ((32, 64), (80, 80), (128, 96)):
        run = Run("test", data=DataConfig(patch=patch, degradations={"bicubic": 1.0}))
        assert Validation(Photographs(folder, 0.0), run, tmp_path).pairs["light"][1].shape[-1] == side
