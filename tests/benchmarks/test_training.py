"""The benchmark of a training step runs, and its shares are those of its parts."""

import sys

import pytest
import torch
import training
from accelerate.state import AcceleratorState, PartialState
from safetensors.torch import save_file

from unistep.students.restorers import SRVGGNetCompact


@pytest.fixture(autouse=True)
def as_before():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    AcceleratorState._reset_state()
    PartialState._reset_state()


def called(monkeypatch, *options):
    monkeypatch.setattr(sys, "argv", ["training.py", "--quick", "--rounds", "1", *map(str, options)])
    return training.main()


def rows(text: str) -> list[list[str]]:
    return [
        [cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if "|" in line
    ]


def test_parts_and_shares(monkeypatch, capsys):
    seconds = called(monkeypatch)
    restorer = "restorer's pass: SRVGGNetCompact-64x32"
    assert list(seconds) == [training.STEP, training.DEGRADATION, training.SHARPENING, restorer]
    assert min(seconds.values()) > 0
    table = rows(capsys.readouterr().out)[-4:]
    assert [row[:3] for row in table] == [
        ["SRVGGNetCompact-64x32", sharpened, uses] for sharpened in ("no", "yes") for uses in ("1", "4")
    ]
    for _, sharpened, uses, milliseconds, rate, share in table:
        made = seconds[training.DEGRADATION] + seconds[restorer]
        made = (made + (seconds[training.SHARPENING] if sharpened == "yes" else 0)) / int(uses)
        whole = seconds[training.STEP] + made
        assert float(milliseconds) == pytest.approx(1000 * whole, abs=0.06)
        assert float(rate) == pytest.approx(1 / whole, abs=0.006)
        assert float(share.rstrip("%")) == pytest.approx(100 * made / whole, abs=0.51)


def test_restorers_are_compared(monkeypatch, tmp_path, capsys):
    for name, width in (("narrow", 4), ("wide", 8)):
        save_file(SRVGGNetCompact(width, 1, 4).state_dict(), tmp_path / f"{name}.safetensors")
    files = [tmp_path / f"{name}.safetensors" for name in ("narrow", "wide")]
    seconds = called(monkeypatch, *(part for file in files for part in ("--restorer", file)))
    assert [name for name in seconds if "pass" in name] == [training.restoring(file) for file in files]
    assert [row[0] for row in rows(capsys.readouterr().out)[-8:]] == ["narrow"] * 4 + ["wide"] * 4
