"""Test sets: pairs by name, files that cannot be used, degradations by seed, the field's sets by name."""

import math

import numpy as np
import pytest
import torch
from PIL import Image

from unistep.data.degrade import degrade
from unistep.errors import ConfigError, DataError
from unistep.evaluation import sets
from unistep.evaluation.manifests import manifest, manifests
from unistep.evaluation.pairing import bare, match


def picture(path, width, height, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng([seed, width]).integers(0, 256, (height, width, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return pixels


@pytest.fixture
def pairs(tmp_path):
    for seed, name in enumerate("cab"):
        picture(tmp_path / "lq" / f"{name}.png", 8, 6, seed)
        picture(tmp_path / "gt" / f"{name}.png", 32, 24, seed)
    return tmp_path


@pytest.mark.parametrize(
    "name,wanted",
    [("0801x4", "0801"), ("cat_x4", "cat"), ("Canon_001_LR4", "Canon_001"), ("Canon_001_HR", "Canon_001"),
     ("a-sr", "a"), ("a_out", "a"), ("max4", "ma"), ("hr", "hr"), ("x4", "x4"), ("cat_x9", "cat_x9"),
     ("a_x2_x4", "a_x2"), ("flower", "flower")],
)  # fmt: skip
def test_endings_that_say_which_half_a_file_is(name, wanted):
    assert bare(name) == wanted


def test_names_decide_and_not_places(tmp_path):
    first = [tmp_path / name for name in ("0801x4.png", "b.jpg", "c_lr.png", "only.png")]
    second = [tmp_path / "h" / name for name in ("a.png", "0801.png", "b.png", "c_hr.png")]
    found = match(first, second)
    assert [(a.stem, b.stem) for a, b in found.pairs] == [("0801x4", "0801"), ("b", "b"), ("c_lr", "c_hr")]
    assert [p.name for p in (*found.left, *found.right)] == ["only.png", "a.png"]


def test_a_name_that_is_whole_goes_before_one_without_its_ending(tmp_path):
    found = match([tmp_path / "a_x2.png", tmp_path / "a.png"], [tmp_path / "a.jpg", tmp_path / "a_x2.jpg"])
    assert [(a.name, b.name) for a, b in found.pairs] == [("a_x2.png", "a_x2.jpg"), ("a.png", "a.jpg")]
    ambiguous = match([tmp_path / "a_x2.png", tmp_path / "a_x4.png"], [tmp_path / "a.jpg"])
    assert not ambiguous.pairs and len(ambiguous.left) == 2 and len(ambiguous.right) == 1


def test_two_folders(pairs):
    found = sets.of_pairs("mine", pairs / "lq", pairs / "gt")
    assert [sample.name for sample in found.samples] == ["a", "b", "c"] and not found.problems
    low, high = found.load(found.samples[2])
    assert low.shape == (6, 8, 3) and high.shape == (24, 32, 3) and low.dtype == np.uint8
    np.testing.assert_array_equal(low, np.asarray(Image.open(pairs / "lq" / "c.png")))
    assert sets.decided(found, "stop") == found


@pytest.mark.parametrize(
    "broken,wanted",
    [
        (lambda p: (p / "gt" / "b.png").unlink(), r"lq/b\.png \(no file with this name"),
        (lambda p: (p / "lq" / "b.png").unlink(), r"gt/b\.png \(no file with this name"),
        (lambda p: picture(p / "gt" / "b.png", 32, 28), r"gt/b\.png \(32x28, x4 of 8x6 is 32x24"),
        (lambda p: (p / "lq" / "b.png").write_bytes(b"no picture"), r"lq/b\.png \("),
        (lambda p: (p / "gt" / "b.png").write_bytes((p / "gt" / "b.png").read_bytes()[:900]), r"gt/b\.png"),
        (lambda p: (p / "lq" / "d.heic").write_bytes(b"HEIC"), r"lq/d\.heic \(HEIC is not read"),
        (lambda p: picture(p / "lq" / "b.bmp", 8, 6), r"lq/b\.bmp \(another file has this name"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_listed_and_stops_the_run(pairs, broken, wanted):
    broken(pairs)
    found = sets.of_pairs("mine", pairs / "lq", pairs / "gt")
    with pytest.raises(DataError, match=wanted):
        sets.decided(found, "stop")
    kept = sets.decided(found, "skip")
    assert {"a", "c"} <= {sample.name for sample in kept.samples} and len(kept.samples) >= 2
    assert len(kept.notes) == 1 and kept.notes[0].startswith("left out: ") and not kept.problems


def test_nothing_left_is_an_error_under_either_rule(tmp_path):
    picture(tmp_path / "lq" / "a.png", 8, 6)
    picture(tmp_path / "gt" / "b.png", 32, 24)
    found = sets.of_pairs("mine", tmp_path / "lq", tmp_path / "gt")
    with pytest.raises(DataError, match="found none"):
        sets.decided(found, "skip")
    with pytest.raises(DataError, match="found none at"):
        sets.of_low("mine", tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="expected pictures in"):
        sets.of_low("mine", tmp_path / "empty")


def test_degraded_photographs_are_those_of_the_preset_and_the_seed(tmp_path):
    for seed, name in enumerate("ab"):
        picture(tmp_path / f"{name}.png", 70, 66, seed)
    found = sets.of_clean("clean", tmp_path, "light", 3)
    sample = found.samples[1]
    low, high = found.load(sample)
    assert low.shape == (16, 17, 3) and high.shape == (64, 68, 3) and sample.size == (17, 16)
    x = torch.from_numpy(high.copy()).permute(2, 0, 1)[None].float() / 255
    wanted, _ = degrade(x, "light", seed=3, indices=[1])
    assert torch.equal(torch.from_numpy(low).permute(2, 0, 1)[None], (wanted * 255).round().byte())
    (tmp_path / "a.png").write_bytes(b"broken")  # the others keep their places
    assert np.array_equal(sets.of_clean("clean", tmp_path, "light", 3).load(sample)[0], low)
    picture(tmp_path / "a.png", 63, 99)
    assert "63x99" in sets.of_clean("clean", tmp_path, "light", 3).problems[0].why
    with pytest.raises(ConfigError, match="heavy"):
        sets.of_clean("clean", tmp_path, "heavy")


def test_the_hash_tells_pixels_names_and_degradations_apart(pairs):
    def sha(**changed):
        return sets.of_clean("s", pairs / "hr", **{"preset": "light", "seed": 0, **changed}).sha256

    picture(pairs / "hr" / "a.png", 64, 64)
    before = sha()
    assert before == sha() and len({before, sha(seed=1), sha(preset="bicubic")}) == 3
    picture(pairs / "hr" / "a.png", 64, 64, seed=1)
    changed = sha()
    (pairs / "hr" / "a.png").rename(pairs / "hr" / "b.png")
    assert len({before, changed, sha()}) == 3


def test_a_folder_that_is_not_the_set_of_its_name_says_so(pairs):
    found = sets.of_name("realsr", pairs)
    assert found.name == "RealSR" and found.reference and len(found.samples) == 3
    assert found.notes == (
        "RealSR has 100 images, this folder 3",
        "RealSR has low-quality images of 128x128, 3 of 3 here are not",
    )
    assert sets.of_name("RealSR-whole", pairs).notes == ("RealSR-whole has 100 images, this folder 3",)
    with pytest.raises(ConfigError, match=r"RealSR-whole.*“Set5”"):
        sets.of_name("Set5", pairs)
    with pytest.raises(DataError, match="--pairs LOW HIGH"):
        sets.of_name("RealSR", pairs / "lq")


def test_a_folder_that_is_the_set_has_no_notes(tmp_path):
    one = Image.fromarray(picture(tmp_path / "0.png", 256, 256))
    for i in range(1, 250):
        one.save(tmp_path / f"{i}.png", compress_level=0)
    assert sets.of_name("RealLQ250", tmp_path).notes == ()


def test_pairs_in_one_folder_by_their_endings(tmp_path):
    for name in ("Canon_001", "Nikon_002"):
        picture(tmp_path / f"{name}_LR4.png", 8, 6)
        picture(tmp_path / f"{name}_HR.png", 32, 24)
    found = sets.of_name("RealSR-whole", tmp_path)
    assert [(s.low.stem, s.high.stem) for s in found.samples] == [
        ("Canon_001_LR4", "Canon_001_HR"), ("Nikon_002_LR4", "Nikon_002_HR")
    ]  # fmt: skip


def test_the_first_images_and_those_left_out_are_said(pairs):
    whole = sets.of_low("mine", pairs / "lq")
    assert sets.first(whole, 3) == whole and sets.first(whole, None) == whole
    some = sets.first(whole, 2)
    assert len(some.samples) == 2 and some.notes == ("only the first 2 of 3 images by name",)
    assert whole.without(["b", "z"], "no result").notes == ("left out, no result: b",)
    with pytest.raises(DataError, match="found none"):
        whole.without("abc", "no result")
    with pytest.raises(ConfigError, match="--limit"):
        sets.first(whole, 0)


@pytest.mark.parametrize("name", manifests())
def test_every_manifest_has_its_sources_and_agrees_with_itself(name):
    found = manifest(name.upper())
    assert found.sources and found.licence and found.where.strip() and found.count >= 0
    if found.low and found.high:
        assert found.high == tuple(side * found.scale for side in found.low)
    assert all(len(digest) == 64 and int(digest, 16) for digest in found.archives.values())
    assert math.isclose(found.scale, 4 if "Face" not in found.crop and "faces" not in found.crop else 1)
