"""A study is made: questions, pictures without names, a key apart, and what cannot be made."""

import itertools
import json
from pathlib import Path
from random import Random

import numpy as np
import pytest
from PIL import Image, PngImagePlugin
from studies import IMAGES, METHODS, folders, made, noise

from unistep.errors import ConfigError, DataError
from unistep.study.categories import categories
from unistep.study.making import Plan, drawn, make
from unistep.study.studyfolder import check_pictures, picture_file, read_key, read_study


def pixels(path):
    return np.asarray(Image.open(path))


def test_all_pairs_of_all_images_are_asked(tmp_path):
    study, folder = made(tmp_path)
    assert study == read_study(folder)
    key = read_key(folder / "key.json", study)
    asked = [(item.image, *sorted(key.pictures[name] for name in item.pictures)) for item in study.items]
    wanted = [(image, *pair) for image in IMAGES for pair in itertools.combinations(METHODS, 2)]
    assert sorted(asked) == sorted(wanted) and asked != wanted
    first = {key.pictures[item.pictures[0]] for item in study.items}
    assert first == set(METHODS)  # no method has a side of its own
    assert {name: image.category for name, image in study.images.items()} == {
        "face_a": "faces", "face_b": "faces", "house_c": "buildings", "house_d": "buildings"
    }  # fmt: skip


def test_the_pictures_are_those_of_the_folders(tmp_path):
    study, folder = made(tmp_path, high=tmp_path / "hq")
    key = read_key(folder / "key.json", study)
    for item in study.items:
        for name in item.pictures:
            source = tmp_path / key.pictures[name] / f"{item.image}_out.png"
            np.testing.assert_array_equal(pixels(picture_file(folder, name)), pixels(source))
    image = study.images["face_a"]
    low = Image.open(tmp_path / "lq" / "face_a.png").resize((24, 16), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(pixels(picture_file(folder, image.low)), np.asarray(low))
    np.testing.assert_array_equal(pixels(picture_file(folder, image.high)),
                                  pixels(tmp_path / "hq" / "face_a.png"))  # fmt: skip
    assert (image.width, image.height) == (24, 16) and len(study.criteria) == 3
    check_pictures(folder, study)


def test_nothing_but_the_key_says_who_made_what(tmp_path):
    results = folders(tmp_path)
    note = PngImagePlugin.PngInfo()
    note.add_text("Software", "ours")
    file = tmp_path / "ours" / "face_a_out.png"
    Image.open(file).save(file, pnginfo=note)
    make(Plan(results, 7, tmp_path / "lq"), tmp_path / "study", tmp_path / "apart.json")
    held = {path: path.read_bytes() for path in (tmp_path / "study").rglob("*") if path.is_file()}
    assert len(held) == 1 + 4 * 4 and b"ours" in (tmp_path / "apart.json").read_bytes()
    for path, data in held.items():
        for method in METHODS:
            assert method.encode() not in data and method not in path.name


def test_the_seed_decides_everything(tmp_path):
    def all_of(name, seed):
        make(Plan(results, seed, tmp_path / "lq"), tmp_path / name)
        return {str(p.relative_to(tmp_path / name)): p.read_bytes() for p in (tmp_path / name).rglob("*.*")}

    results = folders(tmp_path)
    first = all_of("1", 7)
    assert first == all_of("2", 7)
    other = all_of("3", 8)
    assert not set(first) & {name for name in other if name.endswith(".png")}


def test_best_of_all_and_pairs_with_one(tmp_path):
    study, _ = made(tmp_path, ask="best")
    assert len(study.items) == 4 and all(len(item.pictures) == 3 for item in study.items)
    plan = Plan(folders(tmp_path), 7, ask="pairs", against="ours")
    study = make(plan, tmp_path / "other")
    assert len(study.items) == 8 and study.images["face_a_out"].low is None
    key = read_key(tmp_path / "other" / "key.json", study)
    assert all("ours" in {key.pictures[name] for name in item.pictures} for item in study.items)
    assert study.criteria == ("Its textures and details look real.",)


def test_a_killed_run_leaves_nothing_behind(tmp_path):
    results = folders(tmp_path)
    noise(tmp_path / "study" / "pictures" / "0123456789abcdef01234567.png", 3, 3, 1)
    study = make(Plan(results, 7), tmp_path / "study")
    assert {p.stem for p in (tmp_path / "study" / "pictures").glob("*")} == set(study.pictures)
    with pytest.raises(DataError, match="expected a new folder"):
        make(Plan(results, 7), tmp_path / "study")


@pytest.mark.parametrize(
    "changed,error,wanted",
    [
        ({"results": lambda r: r[:1]}, ConfigError, "two methods or more to compare, found 1"),
        ({"results": lambda r: [r[0], r[1], r[0]]}, ConfigError, "found ours twice"),
        ({"results": lambda r: [(f"m{i}", r[0][1]) for i in range(10)], "ask": "best"}, ConfigError,
         "at most 9 methods"),
        ({"against": "nobody"}, ConfigError, "--against one of ours, theirs, third.*'nobody'"),
        ({"against": "ours", "ask": "best"}, ConfigError, "--against"),
        ({"images": 5}, ConfigError, "--images from 1 to 4"),
        ({"per_rater": 13}, ConfigError, "--per-rater of at most 12"),
        ({"per_rater": 4, "repeats": 3}, ConfigError, "at most half of the 4"),
        ({"repeats": -1}, ConfigError, "--repeats to be 0 or more"),
        ({"scale": 2}, DataError, "expected 12x8"),
        ({"category": {"cats": "cat*"}}, ConfigError, "found no match; a name is such as face_a"),
        ({"category": {"faces": "face*", "a": "*_a"}}, ConfigError, "found face_a in faces and a"),
        ({"low": Path("nowhere")}, DataError, "found none at nowhere"),
    ],
)  # fmt: skip
def test_plans_that_cannot_be(tmp_path, changed, error, wanted):
    results = changed.get("results", lambda r: r)(folders(tmp_path))
    settings = {"seed": 7, "low": tmp_path / "lq", **{k: v for k, v in changed.items() if k != "results"}}
    with pytest.raises(error, match=wanted):
        make(Plan(results, **settings), tmp_path / "study")
    assert not (tmp_path / "study").exists()


@pytest.mark.parametrize("low", [True, False])
@pytest.mark.parametrize(
    "broken,wanted",
    [
        (lambda p: (p / "theirs" / "face_b_out.png").unlink(), "face_b"),
        (lambda p: noise(p / "theirs" / "face_b_out.png", 24, 20, 0), "24x20, expected 24x16"),
        (lambda p: (p / "theirs" / "face_b_out.png").write_bytes(b"no picture"), r"theirs/face_b_out.png"),
    ],
)
def test_pictures_that_do_not_fit_follow_the_rule_of_eval(tmp_path, broken, wanted, low):
    results = folders(tmp_path)
    broken(tmp_path)
    given = tmp_path / "lq" if low else None
    with pytest.raises(DataError, match=wanted):
        make(Plan(results, 7, given), tmp_path / "study")
    study = make(Plan(results, 7, given, unmatched="skip"), tmp_path / "study")
    assert len(study.images) == 3 and not any("face_b" in name for name in study.images)
    assert any("face_b" in note for note in study.notes)


def test_pictures_that_only_another_method_has_are_said(tmp_path):
    results = folders(tmp_path)
    noise(tmp_path / "theirs" / "more.png", 24, 16, 0)
    with pytest.raises(DataError, match=r"theirs/more\.png \(ours has no picture of this name\)"):
        make(Plan(results, 7), tmp_path / "study")
    study = make(Plan(results, 7, unmatched="skip"), tmp_path / "study")
    assert len(study.images) == 4 and "theirs: 1 pictures of no sample" in study.notes


def test_categories_by_files_of_names(tmp_path):
    file = tmp_path / "faces.txt"
    file.write_text("a.png\n\nb_x4\n")
    assert categories(["a", "b", "c"], {"faces": str(file)}) == {"a": "faces", "b": "faces", "c": "other"}
    assert categories(["a", "b"], {}) == {"a": "all", "b": "all"}
    file.write_text("a\nd\n")
    with pytest.raises(ConfigError, match="found 'd'"):
        categories(["a", "b"], {"faces": str(file)})
    file.write_text("\n")
    with pytest.raises(ConfigError, match="found none"):
        categories(["a", "b"], {"faces": str(file)})


def test_images_are_drawn_evenly():
    of = {f"f{i}": "faces" for i in range(10)} | {f"h{i}": "houses" for i in range(3)}
    for seed in range(5):
        some = drawn(of, 6, Random(seed))
        assert sum(of[name] == "faces" for name in some) == 3 and len(some) == 6
        assert len(drawn(of, 9, Random(seed))) == 9  # faces alone are left
    assert drawn(of, 2, Random(0)) != drawn(of, 2, Random(1)) and drawn(of, None, Random(0)) == set(of)


@pytest.mark.parametrize(
    "change",
    [
        lambda found: found.pop("items"),
        lambda found: found.update(items=[]),
        lambda found: found["items"][0].update(pictures=["0" * 24, "1" * 24]),
        lambda found: found["items"][0].update(image="nothing"),
        lambda found: found["pictures"].update({"../key": "0"}),
        lambda found: found.update(format=2),
        lambda found: found.update(ask="all"),
    ],
)
def test_a_study_that_does_not_hold_together(tmp_path, change):
    _, folder = made(tmp_path)
    found = json.loads((folder / "study.json").read_text())
    change(found)
    (folder / "study.json").write_text(json.dumps(found))
    with pytest.raises(DataError, match=r"expected .*study\.json as unistep study make writes it"):
        read_study(folder)


def test_another_key_and_other_pictures_are_seen(tmp_path):
    study, folder = made(tmp_path)
    found = json.loads((folder / "key.json").read_text())
    (folder / "key.json").write_text(json.dumps(found | {"study": "0" * 64}))
    with pytest.raises(DataError, match="expected the key of this study"):
        read_key(folder / "key.json", study)
    name = next(iter(study.pictures))
    noise(picture_file(folder, name), 24, 16, 999)
    with pytest.raises(DataError, match=f"found 1 that are missing or changed, such as {name}"):
        check_pictures(folder, study)
