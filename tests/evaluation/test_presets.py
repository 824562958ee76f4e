"""`unistep eval --preset`: a paper's sets and metrics; its rows beside ours, never among what is ranked."""

import json

import pytest
from test_eval import smooth

from unistep.command.cli import main
from unistep.errors import ConfigError
from unistep.evaluation import beside
from unistep.evaluation.measuring import measures
from unistep.evaluation.presets import preset
from unistep.evaluation.published import tables

TABLE, METRICS = "tsd-sr-table-1", ("psnr_y", "ssim_y")


@pytest.fixture
def realsr(tmp_path, monkeypatch):
    """Two pairs in a folder that is to be RealSR."""
    for i in range(2):
        smooth(tmp_path / "RealSR" / "lq" / f"{i}.png", 24, 16, i)
        smooth(tmp_path / "RealSR" / "gt" / f"{i}.png", 96, 64, i)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "none"))
    return tmp_path


def run(*arguments):
    return main(["eval", *map(str, arguments), "-d", "cpu"])


def command(out, *more):
    return run("--preset", TABLE, "--set", "realsr=RealSR", "--model", "bicubic", "--model", "again=bicubic",
               "--out", out, *more)  # fmt: skip


def test_published_rows_stand_beside_ours(realsr, capsys):
    assert command("one") == 0 and command("two") == 0
    err = capsys.readouterr().err
    assert "only a part of tsd-sr-table-1: DRealSR, DIV2K-Val not measured" in err
    for name in ("results.json", "images.csv", "table.md", "table.tex"):
        assert (realsr / "one" / name).read_bytes() == (realsr / "two" / name).read_bytes(), name
    found = json.loads((realsr / "one" / "results.json").read_text())
    metrics = [key for key in found["order"]["metrics"] if key != "fid"]
    assert metrics == ["psnr_y", "ssim_y", "lpips", "dists", "niqe", "musiq", "maniqa-pipal", "clipiqa"]
    assert found["order"]["judged"] == ["bicubic", "again"] and found["order"]["sets"] == ["RealSR"]
    published = found["published"]
    assert list(published["rows"]) == ["RealSR"] and published["left_out"]["sets"] == ["DRealSR", "DIV2K-Val"]
    assert published["rows"]["RealSR"][0] == {
        "method": "OSEDiff", "steps": 1, "values": {
            "psnr_y": "25.15", "ssim_y": "0.7341", "lpips": "0.2920", "dists": "0.2128", "fid": "123.48",
            "niqe": "5.6471", "musiq": "69.10", "maniqa-pipal": "0.6326", "clipiqa": "0.6687"},
    }  # fmt: skip
    rest = {key: value for key, value in found.items() if key != "published"}
    assert "OSEDiff-1" not in json.dumps(rest) and "OSEDiff" not in {s["judged"] for s in rest["scores"]}


def test_the_report_shows_published_rows_apart(realsr):
    assert command("out") == 0 and main(["report", "out"]) == 0
    page = (realsr / "out" / "report.html").read_text(encoding="utf-8")
    before, after = page.split('<tbody class="published">')
    assert "OSEDiff-1 †" not in before and "OSEDiff-1 †</th><td>25.15</td>" in after.partition("</tbody>")[0]
    assert '<p class="caption">† Published numbers, not measured here' in after


def test_published_numbers_are_neither_ranked_nor_marked(realsr):
    assert command("out") == 0
    text = (realsr / "out" / "table.md").read_text()
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert [line.split(" |")[0] for line in lines[:8]] == [
        "| model", "|---|---|---|---|---|---|---|---|---|---|", "| bicubic", "| again",
        "| *published in TSD-SR, Table 1 †*", "| OSEDiff-1 †", "| AddSR-1 †", "| SinSR-1 †",
    ]  # fmt: skip
    assert len({line.count("|") for line in lines[:9]}) == 1
    for line in lines[5:9]:
        assert "**" not in line and "<u>" not in line and "[" not in line
    assert (
        "| SinSR-1 † | 26.27 | 0.7351 | 0.3217 | 0.2341 | 137.59 | 6.2964 | 60.76 | 0.5418 | 0.6163 |" in text
    )
    # both of ours are equal, far below every published row, and best all the same
    assert lines[2].count("**") == lines[3].count("**") == 4
    assert not any("†" in line for line in text[text.index("Paired tests") :].splitlines())
    assert "RealSR has 100 images, this folder 2" in text
    assert (
        "† Published numbers, not measured here and no part of ranks, intervals and tests: TSD-SR (Dong"
        in text
    )
    assert "Known differences: TSD-SR samples the autoencoder without a seed" in text
    assert "On these numbers: bases differ: SD3 of TSD-SR, SD2.1-base of OSEDiff" in text
    assert "PSNR-Y: the Y channel of YCbCr (section 4.1)" in text
    assert "a border of" not in text
    assert "Of Table 1 not measured here: DRealSR, DIV2K-Val." in text


def test_latex_has_the_same_rows(realsr):
    assert command("out") == 0
    lines = (realsr / "out" / "table.tex").read_text().splitlines()
    at = lines.index(r"\hline")
    assert lines[at + 1] == r"\multicolumn{10}{l}{\textit{published in TSD-SR, Table 1 $\dagger$}} \\"
    assert (
        lines[at + 2].startswith(r"OSEDiff-1 $\dagger$ & 25.15 & 0.7341 &") and "textbf" not in lines[at + 2]
    )
    assert {line.count(" & ") for line in lines[at + 2 : at + 6]} == {9}
    assert "†" not in "".join(lines)


def test_chosen_metrics_and_a_border_are_said(realsr):
    assert command("out", "--metric", "psnr_y", "--metric", "grid", "--border", 2) == 0
    found = json.loads((realsr / "out" / "results.json").read_text())
    assert found["order"]["metrics"] == ["psnr_y", "grid"]
    text = (realsr / "out" / "table.md").read_text()
    assert "| OSEDiff-1 † | 25.15 | — |" in text
    assert "not measured here: DRealSR, DIV2K-Val, SSIM-Y, LPIPS" in text
    assert "a border of 2 pixels is left out here, none in the paper's numbers" in text


def test_columns_that_no_metric_is(realsr):
    plan = preset("tad-sr-table-3", ["celeba-test"])
    assert (
        plan.sets == ("CelebA-Test",) and not plan.note and {"lpips", "clipiqa", "musiq"} <= set(plan.metrics)
    )
    said = plan.said(0)
    lacks = {column["key"]: column["why"] for column in said["columns"] if column["why"]}
    assert "landmarks" in lacks["lmd"] and "lpips" not in lacks
    assert [one.name for one in plan.ordered(measures(plan.metrics, {}))][:1] == ["lpips"]
    rows = beside.rows({"published": said}, "CelebA-Test", ["lpips", "lmd", "grid"])
    assert rows[5] == ["CodeFormer †", "0.324", "5.035", "—"] and rows[6][0] == "DiffFace-100 †"
    cost = next(column for column in preset("tad-sr-table-1", ["ImageNet-Test"]).said(0)["columns"]
                if column["key"] == "seconds")  # fmt: skip
    assert beside.heading(cost) == "runtime [s] ↓" and "unistep bench" in cost["why"]
    assert beside.named("SeeSR (teacher)", 50) == "SeeSR-50 (teacher)" and beside.named("LDL", None) == "LDL"


def test_every_table_of_pictures_can_be_planned():
    for one in tables().values():
        if one.sets:
            plan = preset(one.name, one.sets)
            assert plan.sets == one.sets and plan.metrics and not plan.missing and not plan.note
            assert all(plan.said(0)["rows"][name] for name in one.sets)
        else:
            with pytest.raises(ConfigError, match="unistep bench measures such"):
                preset(one.name, ["RealSR"])


@pytest.mark.parametrize("more,said", [
    ([], "expected --set NAME=FOLDER with sets of tsd-sr-table-1 (DRealSR, RealSR, DIV2K-Val), found none"),
    (["--set", "RealSR-whole=RealSR"], "found RealSR-whole: numbers of another set or protocol"),
    (["--set", "RealSR=RealSR", "--lq", "RealSR/lq"], "found --lq: measure those in a run without --preset"),
    (["--set", "Set5=RealSR"], "“Set5”"),
])  # fmt: skip
def test_other_sets_never_stand_in_a_table(realsr, capsys, more, said):
    assert run("--preset", TABLE, "--model", "bicubic", "--out", "out", *more) == 2
    err = capsys.readouterr().err
    assert said in err and err.count("\n") == 1 and not (realsr / "out").exists()


def test_tables_are_listed_and_shown(capsys):
    assert main(["eval", "--presets"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in tables()) and "DRealSR, RealSR: DISTS, MUSIQ, MANIQA-PIPAL" in out
    assert main(["eval", "--preset", "tad-sr-table-6"]) == 0
    out = capsys.readouterr().out
    assert "SeeSR-50 (teacher)" in out and "0.540" in out and "--set RealLR200=FOLDER --model MODEL" in out
    assert "Not among Unistep's metrics:\n- MANIQA: not maniqa-pipal" in out
    lines = [line for line in out.splitlines() if line.startswith(("RealSR ", "BSRGAN "))]
    assert len({len(line) for line in lines}) == 1
    assert main(["eval", "--preset", "dfosd-table-3"]) == 0
    out = capsys.readouterr().out
    assert "MACs [G] ↓" in out and "--model" not in out and "Protocol" not in out
    assert main(["eval", "--preset", "dfosd-table-7"]) == 2
    assert "did you mean dfosd-table-" in capsys.readouterr().err
    assert main(["eval", "--preset", TABLE, "--model", "bicubic"]) == 2
    assert "expected --out FOLDER" in capsys.readouterr().err
