"""Blind sheets: crops by the input alone, nobody's name on them, and a tally that counts."""

import csv
import json
import sys

import blind
import photos
import pytest
import torch
from PIL import Image

from unistep.training import smoke


@pytest.fixture
def folder(tmp_path):
    """Two low-quality photographs, flat on the left and noisy on the right, and results of two programs."""
    generator = torch.Generator().manual_seed(0)
    for place in ("lq", "red", "blue"):
        (tmp_path / place).mkdir()
    for name in ("one", "two"):
        x = torch.full((1, 3, 24, 48), 0.5)
        x[..., 24:] = torch.rand(1, 3, 24, 24, generator=generator)
        photos.to_image(x).save(tmp_path / "lq" / f"{name}.png")
        for colour in ("red", "blue"):
            Image.new("RGB", (192, 96), colour).save(tmp_path / colour / f"{name}.png")
    return tmp_path


def call(monkeypatch, *options):
    monkeypatch.setattr(sys, "argv", ["blind.py", *map(str, options)])
    with torch.inference_mode():
        blind.main()


def sheets(monkeypatch, folder, *more):
    call(
        monkeypatch, "--out", folder / "sheets", "--lq", folder / "lq", "--crop", 64,
        "--results", f"red={folder / 'red'}", "--results", f"blue={folder / 'blue'}", *more,
    )  # fmt: skip
    return json.loads((folder / "sheets.key.json").read_text())


def test_crops_are_the_most_detailed_and_the_flattest(folder):
    lq = photos.read(folder / "lq" / "one.png")
    (_, detailed, side), (_, flat, _) = blind.boxes(lq, 16, 2)
    assert side == 16 and detailed >= 24 and flat + side <= 24
    dark = torch.cat([torch.zeros(1, 3, 24, 48), lq], dim=3)
    assert all(left >= 40 for _, left, _ in blind.boxes(dark, 16, 2))
    assert blind.boxes(torch.zeros(1, 3, 20, 20), 16, 1) == [(0, 0, 16)]
    assert len(blind.boxes(lq, 16, 99)) == 3 and blind.boxes(lq, 200, 2)[0] == (0, 24, 24)


def test_sheets_do_not_say_whose_they_are(monkeypatch, folder):
    key = sheets(monkeypatch, folder, "--crops", 2)
    assert list(key) == [f"lq-{name}-{n}" for name in ("one", "two") for n in (1, 2)]
    names = {file.name for file in (folder / "sheets").iterdir()}
    assert names == {"verdicts.csv", *(f"{sheet}.png" for sheet in key)}
    for sheet, letters in key.items():
        page = Image.open(folder / "sheets" / f"{sheet}.png").convert("RGB")
        for i, letter in enumerate("AB", start=1):
            pixel = page.getpixel((i * (64 + photos.GAP) + 32, photos.TITLE + 32))
            assert pixel == {"red": (255, 0, 0), "blue": (0, 0, 255)}[letters[letter]]
    assert len({letters["A"] for letters in key.values()}) == 2
    assert sheets(monkeypatch, folder, "--crops", 2) == key
    others = [blind.order(("red", "blue"), f"{i}", seed)["A"] for i in range(50) for seed in (0, 1)]
    assert 30 < others.count("red") < 70


def test_a_model_sees_the_surroundings(monkeypatch, folder):
    """Of a crop inside, and the result lies where the crop lies."""
    lq, seen = torch.rand(1, 3, 150, 150), []

    def method(x):
        seen.append(x.shape)
        return x.repeat_interleave(4, 2).repeat_interleave(4, 3)

    found = blind.restored(method, lq, (60, 0, 16))
    wanted = photos.rounded(method, lq[..., 60:76, :16])
    assert torch.equal(found, wanted) and seen[0] == (1, 3, 112, 64)


def test_models_and_folders_side_by_side(monkeypatch, folder):
    key = sheets(monkeypatch, folder, "--model", f"ours={smoke.restorer(folder)}", "--limit", 1)
    assert all(sorted(letters.values()) == ["blue", "ours", "red"] for letters in key.values())


def test_the_tally(monkeypatch, folder, capsys):
    key = sheets(monkeypatch, folder)
    letter = {sheet: {name: one for one, name in letters.items()} for sheet, letters in key.items()}
    verdicts = [f"{{red}}{sign}{{blue}}" for sign in (">", "=", ">")] + [""]
    with (folder / "sheets" / blind.VERDICTS).open("w", newline="") as file:
        rows = [(sheet, v.format(**letter[sheet])) for sheet, v in zip(key, verdicts, strict=True)]
        csv.writer(file).writerows([("sheet", "order"), *rows])
    capsys.readouterr()
    call(monkeypatch, "--out", folder / "sheets", "--tally")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "3 of 4 sheets judged"
    assert lines[4:6] == ["| blue | 1 |  | 0-1-2 |", "| red | 3 | 2-1-0 |  |"]


def test_ranks():
    letters = {"A": "x", "B": "y", "C": "z"}
    assert blind.ranks("b > a=c", letters, "s") == {"x": 1, "y": 0, "z": 1}
    assert blind.ranks("C", letters, "s") == {"x": 1, "y": 1, "z": 0}
    for wrong in ("A>D", "A>A"):
        with pytest.raises(SystemExit, match="expected each of A, B, C once"):
            blind.ranks(wrong, letters, "s")


def test_what_is_missing_is_said(monkeypatch, folder):
    (folder / "red" / "two.png").unlink()
    with pytest.raises(SystemExit, match="expected the result two in the folder of red"):
        sheets(monkeypatch, folder)
    with pytest.raises(SystemExit):
        call(monkeypatch, "--out", folder / "sheets", "--lq", folder / "lq")
