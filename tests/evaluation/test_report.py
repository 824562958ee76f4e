"""`unistep report`: what the page holds, what it may do, and what it does with names that would harm it."""

import base64
import hashlib
import json
import math
import re
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image
from reported import HOSTILE, data_of, evaluated, pixels

from unistep.command.cli import main
from unistep.errors import ConfigError
from unistep.evaluation.report.costs import costs
from unistep.evaluation.report.crops import choose
from unistep.evaluation.report.gallery import losses, worst
from unistep.evaluation.report.intervals import intervals, ticks
from unistep.evaluation.report.page import Options, page
from unistep.evaluation.report.reading import read
from unistep.evaluation.sets import read as picture


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return evaluated(tmp_path_factory.mktemp("report"))


@pytest.fixture
def out(whole, tmp_path):
    """A copy that a test may harm."""
    return shutil.copytree(whole, tmp_path / "out")


def made(out, *options):
    assert main(["report", str(out), "--crop-size", "32", *map(str, options)]) == 0
    return (out / "report.html").read_bytes()


class Seen(HTMLParser):
    """Tags with their attributes, and the text outside scripts and styles."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.texts, self.inside = [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.inside = tag

    def handle_endtag(self, tag):
        self.inside = ""

    def handle_data(self, data):
        if self.inside not in ("script", "style"):
            self.texts.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.texts).split())


def test_tables_captions_reasons_and_tests(whole, capsys):
    data = made(whole)
    assert "report.html: 0." in capsys.readouterr().err
    seen, results = Seen(data.decode()), json.loads((whole / "results.json").read_text())
    digest = hashlib.sha256((whole / "results.json").read_bytes()).hexdigest()
    for part in ("mine: 3 images, x4, sha256", "BT.601 luma", "percentile bootstrap", "[1] NIQE: expected",
                 "pictures of the folder good", digest, "p (Holm)", "good - bad", "Wilcoxon"):  # fmt: skip
        assert part in seen.text, part
    for score in results["scores"]:
        if score["mean"] is not None:
            n = 3 if score["metric"] == "psnr_y" else 4
            assert f"{score['mean']:.{n}f} [{score['low']:.{n}f}, {score['high']:.{n}f}]" in seen.text
    psnr = {s["judged"]: f"{s['mean']:.3f}" for s in results["scores"] if s["metric"] == "psnr_y"}
    text = data.decode()
    assert f'<strong title="best">{psnr["good"]}</strong>' in text
    assert f'<u title="second best">{psnr["bad"]}</u>' in text and f">{psnr['bicubic']}<small>" in text


def test_the_same_bytes_wherever_it_lies(whole, out):
    before = {path.name for path in whole.iterdir()}
    assert made(whole) == made(out) == made(whole)
    assert {path.name for path in whole.iterdir()} == before | {"report.html"}


def test_nothing_is_fetched_and_only_its_own_script_runs(whole):
    data = made(whole, "--title", "x")
    text, seen = data.decode(), Seen(data.decode())
    for tag, attributes in seen.tags:
        assert not any(name.startswith("on") or name == "style" for name in attributes), tag
        for name in ("src", "href", "action", "data", "srcset", "poster"):
            assert attributes.get(name, "#").startswith(("#", "data:")), (tag, attributes)
    assert "@import" not in text and "url(" not in text
    policy = next(a["content"] for tag, a in seen.tags if a.get("http-equiv") == "Content-Security-Policy")
    rules = dict(rule.strip().split(None, 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'" and rules["img-src"] == "data:"
    for kind, rule in (("style", "style-src"), ("script", "script-src")):
        own = re.findall(rf"<{kind}>(.*?)</{kind}>", text, re.S)
        assert len(own) == 1
        digest = base64.b64encode(hashlib.sha256(own[0].encode()).digest()).decode()
        assert rules[rule] == f"'sha256-{digest}'"


def test_the_gallery_has_the_pixels_of_the_pictures(whole):
    found = data_of(made(whole))
    cards = found["sets"][0]["cards"]
    assert {card["kind"] for card in cards} == {"differ", "flat"} and len(cards) == 6
    for card in cards:
        name = found["sets"][0]["images"][card["image"]]
        y, x, height, width = (card[key] for key in ("y", "x", "height", "width"))
        assert height == width == 32 and y % 4 == x % 4 == 0
        folders = ("low", "truth", "bicubic", "good", "bad")
        for folder, view in zip(folders, card["views"], strict=True):
            scale = 4 if folder == "low" else 1
            part = (slice(y // scale, (y + height) // scale), slice(x // scale, (x + width) // scale))
            kept = picture(whole / "pictures" / "mine" / folder / f"{name}.png")
            assert np.array_equal(pixels(view), kept[part]), folder
    assert len(data_of(made(whole, "--crops", 3))["sets"][0]["cards"]) == 3


def test_worst_cases_come_first(whole):
    findings = read(whole)
    lost = losses(findings, "mine", "psnr_y")
    psnr = np.array([findings.values["mine", who, "psnr_y"] for who in ("bicubic", "good", "bad")])
    assert lost[2] == pytest.approx(psnr[:2].max(0) - psnr[2]) and lost[2].argmax() == 2
    grid = np.array([findings.values["mine", who, "grid"] for who in ("bicubic", "good", "bad")])
    away = abs(grid - 1)
    assert losses(findings, "mine", "grid")[1] == pytest.approx(away[1] - away[[0, 2]].min(0))
    assert losses(findings, "mine", "niqe") is None or np.isnan(losses(findings, "mine", "niqe")).all()
    order = worst(findings, "mine")
    assert sorted(order) == [0, 1, 2]
    data = data_of(page(findings, options=Options(crop_size=32))[0])
    assert [card["image"] for card in data["sets"][0]["cards"]][::2] == order
    assert data["focus"] == [1, 0]  # the first that is not bicubic, the first metric


def test_hostile_names_are_text(tmp_path, capsys):
    names, images = (HOSTILE, "\"'><b>&amp;"), ("</script><i>".replace("/", ""), "b", "<!--c")
    out = evaluated(tmp_path, names=names, images=images)
    text = made(out, "--title", "</title><script>alert(1)</script>").decode()
    seen = Seen(text)
    kinds = {tag for tag, _ in seen.tags}
    assert not kinds & {"img", "b", "i"} and sum(tag == "script" for tag, _ in seen.tags) == 2
    assert f"{HOSTILE} - \"'><b>&amp;" in seen.text and "</title><script>alert(1)" in seen.text
    found = data_of(text.encode())
    assert found["judged"] == ["bicubic", *names] and found["sets"][0]["images"] == sorted(images)
    results = json.loads((out / "results.json").read_text())
    for score in results["scores"]:
        score |= {"mean": None, "low": None, "high": None, "why": "<script>alert(2)</script>"}
    results["metrics"]["psnr_y"]["label"] = "</script><script>alert(3)</script>"
    results["metrics"]["psnr_y"]["protocol"] = "<svg onload=alert(4)>"
    (out / "results.json").write_text(json.dumps(results))
    seen = Seen(made(out).decode())
    assert sum(tag == "script" for tag, _ in seen.tags) == 2 and not {tag for tag, _ in seen.tags} & {"svg"}
    assert "<script>alert(2)</script>" in seen.text and "<svg onload=alert(4)>" in seen.text


def test_without_pictures_the_page_says_how_to_get_them(out, capsys):
    shutil.move(out / "pictures", out / "gone")
    text = Seen(made(out).decode()).text
    assert "no pictures were kept: run the same unistep eval command with --keep-pictures" in text
    assert "without a gallery: no pictures were kept" in capsys.readouterr().err
    shutil.move(out / "gone", out / "pictures")
    file = out / "results.json"
    file.write_text(file.read_text() + "\n")
    assert "are not those of this results.json" in Seen(made(out).decode()).text
    assert "--crops 0 asks for none" in Seen(made(out, "--crops", 0).decode()).text


def test_a_set_whose_pictures_were_taken_away(tmp_path):
    evaluated(tmp_path)
    sets = [
        x for name in ("mine", "theirs") for x in ("--pairs", f"{name}={tmp_path / 'lq'}", tmp_path / "gt")
    ]
    out = tmp_path / "two"
    given = ["eval", "--model", "bicubic", "--metric", "psnr_y", *sets, "--out", out, "--keep-pictures"]
    assert main([*map(str, given), "-d", "cpu"]) == 0
    shutil.rmtree(out / "pictures" / "mine")
    data = made(out)
    assert [len(on["cards"]) > 0 for on in data_of(data)["sets"]] == [False, True]
    assert "the gallery is without mine: their pictures are not there" in Seen(data.decode()).text
    shutil.rmtree(out / "pictures" / "theirs")
    assert "the pictures of all sets are gone" in Seen(made(out).decode()).text


def test_a_set_without_truths(tmp_path):
    found = data_of(made(evaluated(tmp_path, truth=False)))
    assert not found["sets"][0]["reference"]
    assert all(card["views"][1] == "" and card["views"][0] for card in found["sets"][0]["cards"])
    assert found["focus"][1] == 3 and not any(found["sets"][0]["values"][:3])  # only grid has values


def test_the_budget_leaves_out_crops_and_says_so(whole, capsys):
    bare, full = len(made(whole, "--crops", 0)), len(made(whole))
    room = (bare + full) / 2 / 1e6
    capsys.readouterr()
    data = made(whole, "--max-mb", room)
    cards = data_of(data)["sets"][0]["cards"]
    assert len(data) <= room * 1e6 and 0 < len(cards) < 6
    assert cards == data_of(made(whole))["sets"][0]["cards"][: len(cards)]
    err = capsys.readouterr().err
    assert f"only the first {len(cards)} crops, to stay within" in err and "--max-mb" in err
    assert f"only the first {len(cards)} crops" in Seen(data.decode()).text
    assert main(["report", str(whole), "--max-mb", "0.01"]) == 2
    assert "found 0.0 MB before any picture" in capsys.readouterr().err


ENTRY = {"seconds": 0.5, "parameters": 2_000_000, "gmacs": {"median": 3.0}, "device": "cpu", "peak_bytes": 0}
KNOWN = {"seconds": 0.5, "parameters": 2.0, "gmacs": 3.0}


@pytest.mark.parametrize(
    "written,who",
    [
        (ENTRY, "m"),
        ({**ENTRY, "model": "other"}, "other"),
        ([{**ENTRY, "name": "other"}, {"name": "nobody"}], "other"),
        ({"models": [{**ENTRY, "model": "folder/own.safetensors"}]}, "m"),
        ({"models": {"other": ENTRY}}, "other"),
        ({"models": [{**ENTRY, "name": "x", "sha256": "abc"}]}, "m"),
    ],
)
def test_costs_of_a_bench(written, who, tmp_path):
    results = {
        "order": {"judged": ["bicubic", "m", "other"]},
        "judged": {"bicubic": {"kind": "bicubic"}, "other": {"kind": "results", "folder": "f"},
                   "m": {"kind": "model", "file": "own.safetensors", "sha256": "abc"}},
    }  # fmt: skip
    (tmp_path / "bench.json").write_text(json.dumps(written))
    assert costs(results, [tmp_path / "bench.json"]) == {key: {who: value} for key, value in KNOWN.items()}
    assert list(costs(results, [tmp_path / "bench.json"])) == ["seconds", "gmacs", "parameters"]
    assert costs(results, []) == {}
    for wrong in ('{"model": "nobody", "seconds": 1}', "[1]", "{", '{"model": "other", "seconds": "fast"}'):
        (tmp_path / "bench.json").write_text(wrong)
        with pytest.raises(ConfigError, match=r"bench\.json"):
            costs(results, [tmp_path / "bench.json"])


def test_costs_reach_the_page(whole, tmp_path):
    (tmp_path / "b.json").write_text(
        json.dumps([{"name": "good", "seconds": 2}, {"name": "bad", "seconds": 1}])
    )
    data = made(whole, "--bench", tmp_path / "b.json")
    assert data_of(data)["costs"] == [{"label": "seconds", "values": [None, 2.0, 1.0]}]
    assert "No cost is known" not in Seen(data.decode()).text
    assert "No cost is known" in Seen(made(whole).decode()).text


def test_the_places_of_crops():
    random = np.random.default_rng(0)
    truth = random.integers(60, 200, (100, 160, 3), dtype=np.uint8)
    truth[60:, :40] = 128  # flat
    truth[:36, 120:] = 255  # flat too, but there is nothing to see in white
    one, two = truth.copy(), truth.copy()
    two[20:40, 90:110] += 40
    first, second = choose([one, two], truth, 32, 4)
    assert first.kind == "differ" and first.x <= 92 and first.x + 32 >= 108 and first.y <= 20 <= first.y + 12
    assert (second.kind, second.width, second.height) == ("flat", 32, 32)
    assert second.x + 32 <= 40 and second.y >= 60
    assert all(v % 4 == 0 for crop in (first, second) for v in (crop.x, crop.y, crop.width, crop.height))
    alone = choose([two], truth, 32, 4)[0]
    assert (alone.x, alone.y) == (first.x, first.y)
    small = choose([one[:22, :18], two[:22, :18]], truth[:22, :18], 32, 4)
    assert [(c.x, c.y, c.width, c.height) for c in small] == [(0, 0, 16, 20)]


def test_where_the_lines_of_intervals_lie(whole):
    results = json.loads((whole / "results.json").read_text())
    plots = intervals(results, "mine")
    assert [plot.title for plot in plots] == ["PSNR-Y ↑", "SSIM-Y ↑", "grid →1"]  # NIQE has no mean
    means = [s["mean"] for s in results["scores"] if s["metric"] == "psnr_y"]
    rows = plots[0].rows
    assert [row.name for row in rows] == ["bicubic", "good", "bad"]
    slope = (rows[1].x - rows[0].x) / (means[1] - means[0])
    assert slope > 0 and rows[2].x == pytest.approx(rows[0].x + slope * (means[2] - means[0]), abs=0.05)
    assert all(0 <= row.low <= row.x <= row.high <= plots[0].width for row in rows)
    assert f"good {means[1]:.3f} [" in plots[0].said
    tick, text = plots[0].ticks[0]
    assert tick == pytest.approx(rows[0].x + slope * (float(text) - means[0]), abs=0.05)
    assert ticks(0.1, 0.42) == [0.1, 0.2, 0.3, 0.4] and ticks(-3, 9) == [-2, 0, 2, 4, 6, 8]


def test_files_that_do_not_belong_together(out, tmp_path, capsys):
    def fails(code, *arguments):
        capsys.readouterr()
        assert main(["report", *map(str, arguments)]) == code
        err = capsys.readouterr().err
        assert err.count("\n") == 1
        return err

    (out / "report.html").unlink(missing_ok=True)
    assert "expected one folder of unistep eval, found 2" in fails(2, out, out)
    assert "results.json" in fails(2, tmp_path / "none")
    assert "--crop-size of 16" in fails(2, out, "--crop-size", 8)
    assert "--max-mb above 0" in fails(2, out, "--max-mb", "nan")
    assert "gone.json" in fails(2, out, "--bench", tmp_path / "gone.json")
    assert "expected to write" in fails(1, out, "--out", tmp_path / "no" / "page.html")
    damaged = out / "pictures" / "mine" / "good" / "b.png"
    damaged.write_bytes(damaged.read_bytes()[:300])
    assert "good/b.png" in (err := fails(1, out)) and "--keep-pictures" in err
    Image.new("RGB", (8, 8)).save(damaged)
    assert "pictures of one size for mine/b" in fails(1, out)
    table = (out / "images.csv").read_text()
    (out / "images.csv").write_text("".join(table.splitlines(keepends=True)[:-1]))
    assert "3 images of mine for bad, found 2" in fails(1, out)
    (out / "images.csv").write_text(table.replace("mine,a,good", "mine,z,good"))
    assert "images of mine for good" in fails(1, out)
    (out / "images.csv").unlink()
    assert "images.csv" in fails(1, out)
    assert not (out / "report.html").exists()


def test_a_file_stands_for_its_folder(whole, tmp_path):
    target = tmp_path / "page.html"
    assert main(["report", str(whole / "results.json"), "-o", str(target), "--crop-size", "32"]) == 0
    assert target.read_bytes() == made(whole) and not math.isnan(target.stat().st_size)
