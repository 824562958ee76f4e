"""What the command says of restorers of others, and of students that learnt from them."""

import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from unistep.command.cli import main
from unistep.recipes.config import override
from unistep.recipes.recipes import recipe
from unistep.students.restorers import RRDBNet, SRVGGNetCompact
from unistep.tensors import save_weights, sha256


@pytest.fixture
def srvgg(tmp_path: Path) -> Path:
    save_file(dict(SRVGGNetCompact(8, 3, 2).state_dict()), tmp_path / "general.safetensors")
    return tmp_path / "general.safetensors"


@pytest.fixture
def rrdb(tmp_path: Path) -> Path:
    tensors = {name: t.half() for name, t in RRDBNet(8, 2, 4, 4).state_dict().items()}
    save_file(tensors, tmp_path / "plus.safetensors")
    return tmp_path / "plus.safetensors"


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    save_file({"layers.0.attn.weight": torch.zeros(3)}, tmp_path / "swin.safetensors")
    return tmp_path / "swin.safetensors"


def told(capsys: pytest.CaptureFixture[str], *line: object) -> dict[str, str]:
    assert main([str(word) for word in line]) == 0
    rows = (row.split(":", 1) for row in capsys.readouterr().out.splitlines())
    return {key: value.strip() for key, value in rows}


def test_info_of_a_restorer(srvgg: Path, rrdb: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path, wanted in (
        (srvgg, ("SRVGGNetCompact", "2", "8 channels", "5 convolutions", "(float32)")),
        (rrdb, ("RRDBNet", "4", "8 channels, growing by 4", "2 blocks", "(float16)")),
    ):
        facts = told(capsys, "info", path)
        found = [facts[key] for key in ("architecture", "scale", "width", "depth")]
        assert (*found, facts["parameters"].split()[-1]) == wanted
        assert facts["sha256"] == sha256(path) and "converted" not in facts
        assert facts["origin"].startswith("not Unistep's, no header: ")
    count = sum(p.numel() for p in RRDBNet(8, 2, 4, 4).parameters())
    assert facts["parameters"].startswith(f"{count:,} ")


def test_a_converted_file_says_what_it_was(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = {"params_ema": SRVGGNetCompact(4, 1, 4).state_dict()}
    torch.save(state, tmp_path / "a.pth")
    assert main(["models", "convert", str(tmp_path / "a.pth"), str(tmp_path / "a.safetensors")]) == 0
    assert "a.safetensors: an SRVGGNetCompact of scale 4: " in capsys.readouterr().err
    facts = told(capsys, "info", tmp_path / "a.safetensors")
    assert facts["converted"] == f"from a.pth, sha256 {sha256(tmp_path / 'a.pth')}"


def test_a_converted_file_of_another_network(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"params": {"layers.0.weight": torch.zeros(3)}}, tmp_path / "a.pth")
    files = [str(tmp_path / "a.pth"), str(tmp_path / "a.safetensors")]
    assert main(["models", "convert", *files, "--kind", "tensors"]) == 0
    assert "a.safetensors: tensors of neither SRVGGNetCompact nor RRDBNet" in capsys.readouterr().err


def test_what_is_no_restorer_gets_one_sentence(foreign: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for line in (["info"], ["models", "verify"]):
        assert main([*line, str(foreign)]) == 1
        out, err = capsys.readouterr()
        assert (out, err.count("\n")) == ("", 1)
        assert re.match(r"unistep: .*swin\.safetensors: expected .* RRDBNet of others, found .*: name", err)


def test_restorers_are_verified(srvgg: Path, rrdb: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "verify", str(srvgg)]) == 0
    said = capsys.readouterr().out
    assert f"general.safetensors  ok: all {len(SRVGGNetCompact(8, 3, 2).state_dict())} tensors" in said
    assert sha256(srvgg) in said and "no header: compare that sum" in said
    assert main(["models", "verify", str(srvgg.parent)]) == 0
    assert capsys.readouterr().out.count("  ok: all ") == 2
    state = RRDBNet(8, 2, 4, 4).state_dict()
    save_file({name: t for name, t in state.items() if name != "conv_hr.bias"}, rrdb)
    assert main(["models", "verify", str(srvgg.parent)]) == 1
    out, err = capsys.readouterr()
    assert out.count("  ok: ") == 1 and "plus.safetensors: expected" in err and "conv_hr.bias" in err
    save_file({name: t.fill_(torch.inf) for name, t in state.items()}, rrdb)
    assert main(["models", "verify", str(rrdb)]) == 1
    assert "found NaN or infinity" in capsys.readouterr().err


def test_a_folder_without_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "verify", str(tmp_path)]) == 1
    assert "expected a folder of .safetensors files, found none" in capsys.readouterr().err


def test_restorers_are_listed(
    tmp_path: Path, srvgg: Path, foreign: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setenv("UNISTEP_HOME", str(tmp_path / "home"))
    (tmp_path / "home" / "models").mkdir(parents=True)
    for file in (srvgg, foreign):
        file.rename(tmp_path / "home" / "models" / file.name)
    assert main(["models", "list"]) == 0
    rows = {row.split()[0]: row for row in capsys.readouterr().out.splitlines()}
    assert rows["general.safetensors"].endswith("(SRVGGNetCompact of scale 2, not Unistep's)")
    assert "cannot be used: unistep models verify" in rows["swin.safetensors"]


def test_who_taught_a_student(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In all stages: of earlier ones with a SHA-256 where it was noted, else by the setting alone."""
    plain = recipe("compact-sharp").to_dict()
    first, second = (
        override(recipe("compact-distilled"), [f"train.restorer={name}.safetensors"]).to_dict()
        for name in ("plus", "general")
    )
    teacher = {"name": "general", "sha256": "5" * 64}
    part = {"steps": 3, "samples": 6}
    history = [{"run": plain, **part}, {"run": first, **part}, {"run": second, "restorer": teacher, **part}]
    header = {"run": second, "restorer": teacher, "history": history}
    save_weights(tmp_path / "a.safetensors", {"a": torch.zeros(1)}, header, torch.float16)
    facts = told(capsys, "info", tmp_path / "a.safetensors")
    assert facts["learnt from"].startswith("the results of general, plus on training photographs; ")
    assert "learnt" not in facts["history.1"]
    assert facts["history.2"] == "compact-distilled, 3 steps, 6 samples, learnt from the results of plus"
    assert facts["history.3"].endswith(f"from the results of general (sha256 {'5' * 64})")
    header = {"run": plain, "history": [*history, {"run": plain, **part}]}
    save_weights(tmp_path / "b.safetensors", {"a": torch.zeros(1)}, header, torch.float16)
    assert "plus, general" in told(capsys, "info", tmp_path / "b.safetensors")["learnt from"]
    save_weights(tmp_path / "c.safetensors", {"a": torch.zeros(1)}, {"run": plain}, torch.float16)
    assert "learnt from" not in told(capsys, "info", tmp_path / "c.safetensors")
