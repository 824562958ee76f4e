"""Weights files: what goes in comes out; whatever else is there is refused with its name."""

import io
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tinies import load_denoiser

from unistep import tensors as tensors_module
from unistep.bases.compact.network import CompactConfig, CompactDenoiser
from unistep.errors import ModelError
from unistep.models import checkpoint
from unistep.models.checkpoint import load_student, resolve
from unistep.recipes.config import Run
from unistep.tensors import read_header, read_tensors, save_weights

RUN = Run("test", base=CompactConfig((4, 8, 12), (1, 1, 2)))
HEADER = {"run": RUN.to_dict(), "steps": 3, "samples": 12, "scores": {"score": 0.1 + 0.2}, "history": []}


@pytest.fixture
def denoiser() -> CompactDenoiser:
    torch.manual_seed(0)
    return CompactDenoiser(RUN.base)


@pytest.fixture
def weights(tmp_path: Path, denoiser: CompactDenoiser) -> Path:
    path = tmp_path / "weights.safetensors"
    save_weights(path, denoiser.state_dict(), HEADER, torch.float32)
    return path


def test_header_and_tensors_come_back(weights, denoiser):
    header = read_header(weights)
    assert {key: header[key] for key in HEADER} == json.loads(json.dumps(HEADER))
    assert header["format"] == tensors_module.FORMAT
    assert Run.from_dict(header["run"]) == RUN
    tensors = read_tensors(weights)
    assert set(tensors) == set(denoiser.state_dict())
    assert all(torch.equal(tensors[name], value) for name, value in denoiser.state_dict().items())


def test_loaded_is_saved(weights, denoiser):
    loaded, header = load_denoiser(weights)
    assert loaded.config == RUN.base and not loaded.training and header["steps"] == 3
    x = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        assert torch.equal(loaded.slot(loaded.cond(x)), denoiser.slot(denoiser.cond(x)))
    student = load_student(weights)
    assert student.info == header and student(x).shape == (1, 3, 32, 32)


def test_half_precision(tmp_path, denoiser):
    path = tmp_path / "half.safetensors"
    save_weights(path, denoiser.state_dict(), HEADER, torch.float16)
    stored = read_tensors(path)
    assert {t.dtype for t in stored.values()} == {torch.float16}
    loaded, _ = load_denoiser(path)
    for name, value in loaded.state_dict().items():
        assert value.dtype == torch.float32 and torch.equal(value, denoiser.state_dict()[name].half().float())
    save_weights(path, loaded.state_dict(), HEADER, torch.float16)  # nothing more is lost
    assert all(torch.equal(t, stored[name]) for name, t in read_tensors(path).items())


def test_memory_layout_does_not_matter(tmp_path, denoiser):
    before = {name: t.clone() for name, t in denoiser.state_dict().items()}
    denoiser.to(memory_format=torch.channels_last)
    save_weights(tmp_path / "a.safetensors", denoiser.state_dict(), HEADER, torch.float32)
    assert all(torch.equal(t, before[name]) for name, t in read_tensors(tmp_path / "a.safetensors").items())


def test_names(weights, monkeypatch):
    assert resolve(weights) == resolve(str(weights)) == weights
    with pytest.raises(ModelError, match="found “absent”, which is neither"):
        resolve("absent")
    with pytest.raises(ModelError, match="expected a model's name"):
        resolve(weights.parent)
    monkeypatch.setattr(checkpoint, "embedded", lambda: {checkpoint.DEFAULT: weights, "other": weights})
    assert resolve(None) == resolve("other") == weights
    monkeypatch.setattr(checkpoint, "embedded", dict)
    with pytest.raises(ModelError, match="none is installed"):
        resolve(None)


def refused(path: Path, message: str) -> None:
    for load in (load_denoiser, load_student):
        with pytest.raises(ModelError, match=message) as caught:
            load(path)
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"hello", b"\x80\x02}q\x00.", b"\xff" * 64])
def test_other_files(tmp_path, content):
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    refused(path, "expected a .safetensors file")


def test_truncated_files(weights):
    data = weights.read_bytes()
    for length in (7, 100, len(data) // 2, len(data) - 1):
        weights.write_bytes(data[:length])
        refused(weights, "expected a .safetensors file")


def test_foreign_safetensors(tmp_path):
    path = tmp_path / "foreign.safetensors"
    save_file({"a": torch.zeros(2)}, path)
    refused(path, "without its header")
    for entry in ("{", "[]", "{}", '"text"', "3"):
        save_file({"a": torch.zeros(2)}, path, metadata={"unistep": entry})
        refused(path, "found a damaged one")
    save_file({"a": torch.zeros(2)}, path, metadata={"unistep": '{"format": 99}'})
    refused(path, "expected format 1, found 99: update unistep")


@pytest.mark.parametrize(
    "base",
    [
        {"widths": [4, 8]}, {"widths": "wide"}, {"widths": [4, 8, 10**9]}, {"blocks": [1, 1, 10**9]}, 
        {"depth": 3}, [], None, {"widths": [4, 8, 16], "blocks": [1, 1, 2]},
    ],
)  # fmt: skip
def test_headers_that_do_not_fit(tmp_path, denoiser, base):
    path = tmp_path / "a.safetensors"
    save_weights(path, denoiser.state_dict(), {"run": {"base": base}}, torch.float32)
    refused(path, "expected the weights of a compact model")


def test_a_network_of_another_base(tmp_path, denoiser):
    path, run = tmp_path / "a.safetensors", RUN.to_dict()
    save_weights(
        path, denoiser.state_dict(), {"run": run | {"base": run["base"] | {"kind": "sd3"}}}, torch.float32
    )
    refused(path, r"expected a whole model, found only what a run trained \(base sd3\): unistep export")


def test_missing_and_added_tensors(tmp_path, denoiser):
    path, state = tmp_path / "a.safetensors", denoiser.state_dict()
    first = next(iter(state))
    save_weights(path, {k: t for k, t in state.items() if k != first}, HEADER, torch.float32)
    refused(path, f"expected the weights of a compact model.*{first}")
    save_weights(path, state | {"more": torch.zeros(1)}, HEADER, torch.float32)
    refused(path, "expected the weights of a compact model.*more")
    save_weights(path, state, {}, torch.float32)
    refused(path, "expected the weights of a compact model")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_damaged_values(tmp_path, denoiser, value):
    path, state = tmp_path / "a.safetensors", denoiser.state_dict()
    state["net.out.bias"] = torch.full((48,), value)
    save_weights(path, state, HEADER, torch.float16)
    refused(path, "expected finite weights")


def test_a_failed_save_leaves_the_old_file(weights, monkeypatch):
    before = weights.read_bytes()

    class Full(io.FileIO):
        def write(self, data):
            super().write(data[: len(data) // 2])
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("unistep.atomic.open", Full, raising=False)
    with pytest.raises(OSError, match="No space"):
        save_weights(weights, {"a": torch.ones(10)}, {}, torch.float32)
    assert weights.read_bytes() == before
    assert [p.name for p in weights.parent.iterdir()] == [weights.name]
