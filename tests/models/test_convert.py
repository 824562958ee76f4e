"""Pickled weights become safetensors, and a pickle that is a program does not run."""

import hashlib
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from unistep.command.cli import main
from unistep.errors import ConfigError, ModelError
from unistep.models.convert import convert, read


class Hostile:
    """Unpickled, it creates a file."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, (f"touch '{self.file}'",)


def state() -> dict[str, torch.Tensor]:
    shared = torch.arange(6.0).view(2, 3)
    return {
        "a.weight": shared.half(),
        "a.tied": shared,
        "b.tied": shared,
        "turned": shared.t(),
        "bf16": torch.tensor([0.1, 0.2]).bfloat16(),
        "count": torch.tensor(7),
        "parameter": torch.nn.Parameter(torch.ones(2)),
    }


def test_every_tensor_arrives_in_its_dtype(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*_: object, **__: object) -> None:
        raise AssertionError("this process opened the pickle")

    src, dst = tmp_path / "a.pth", tmp_path / "a.safetensors"
    torch.save(state(), src)
    monkeypatch.setattr(torch, "load", load)
    assert main(["models", "convert", str(src), str(dst)]) == 0
    out = capsys.readouterr().out
    assert str(dst) in out and hashlib.sha256(dst.read_bytes()).hexdigest() in out
    with safe_open(dst, "pt") as file:
        digest = hashlib.sha256(src.read_bytes()).hexdigest()
        assert file.metadata() == {"format": "pt", "source": src.name, "sha256": digest}
        assert set(file.keys()) == set(state())
        for key, value in state().items():
            assert file.get_tensor(key).dtype == value.dtype
            assert torch.equal(file.get_tensor(key), value.detach())
    assert set(tmp_path.iterdir()) == {src, dst}


def test_a_nested_state_dict_is_opened(tmp_path: Path) -> None:
    torch.save({"state_dict": state(), "epoch": 3}, tmp_path / "a.pth")
    assert set(read(tmp_path / "a.pth")) == set(state())


def test_a_hostile_pickle_does_not_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    proof, src, dst = tmp_path / "proof", tmp_path / "evil.pth", tmp_path / "evil.safetensors"
    torch.save({"a": torch.zeros(3), "b": Hostile(proof)}, src)
    assert main(["models", "convert", str(src), str(dst)]) == 1
    told = (
        f"unistep: {src}: expected a file of pickled tensors alone, found one that would run “posix.system”"
    )
    assert capsys.readouterr().err == f"{told}\n"
    assert list(tmp_path.iterdir()) == [src]  # neither the proof, nor the result, nor a temporary file
    torch.load(src, weights_only=False)
    assert proof.exists()  # it would have run


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ({"a": torch.zeros(2), "epoch": 3}, "“epoch”, which is of type int"),
        ({"state_dict": {1: torch.zeros(2)}}, "“1”, which is of type Tensor"),
        (torch.zeros(2), "no state dict"),
        ({}, "no state dict"),
        ({"__metadata__": torch.zeros(2)}, "a tensor named “__metadata__”"),
        ({"a": torch.eye(2).to_sparse()}, "“a”, which is a sparse tensor: make it dense first"),
        (torch.nn.Linear(2, 2), r"one that would run “torch\.nn\.modules\.linear\.Linear”"),
        (b"", "a damaged file or another kind"),
        (b"not a pickle at all", "a damaged file or another kind"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, content: object, found: str) -> None:
    src = tmp_path / "a.pth"
    src.write_bytes(content) if isinstance(content, bytes) else torch.save(content, src)
    with pytest.raises(ModelError, match=f"^{found}") as error:
        read(src)
    assert "\n" not in str(error.value)


def test_a_copy_that_cannot_be_read_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    src = tmp_path / "a.pth"
    torch.save(state(), src)
    convert_in_process = subprocess.run

    def tearing(command: list[str], **options: Any) -> Any:
        done = convert_in_process(command, **options)
        part = Path(command[-1])
        part.write_bytes(part.read_bytes()[:-1])
        return done

    monkeypatch.setattr(subprocess, "run", tearing)
    with pytest.raises(ModelError, match="its copy cannot be read"):
        convert(src, tmp_path / "a.safetensors")
    assert list(tmp_path.iterdir()) == [src]


def test_half_a_file_is_refused(tmp_path: Path) -> None:
    src = tmp_path / "a.pth"
    torch.save({"a": torch.zeros(2000)}, src)
    src.write_bytes(src.read_bytes()[:4000])
    with pytest.raises(ModelError, match="damaged"):
        read(src)


def test_names_that_cannot_be(tmp_path: Path) -> None:
    src, dst = tmp_path / "a.pth", tmp_path / "a.safetensors"
    with pytest.raises(ModelError, match="none"):
        convert(src, dst)
    torch.save({"a": torch.zeros(2)}, src)
    for name in (src, tmp_path / "a.bin"):
        with pytest.raises(ConfigError, match=r"expected the name of a new \.safetensors file"):
            convert(src, name)
    with pytest.raises(ModelError, match="cannot be written"):
        convert(src, tmp_path / "none" / "a.safetensors")
    save_file({"mine": torch.zeros(1)}, dst)
    before = dst.read_bytes()
    with pytest.raises(ConfigError, match="one that exists"):
        convert(src, dst)
    assert dst.read_bytes() == before
