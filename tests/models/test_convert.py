"""Pickled weights become safetensors, and a pickle that is a program does not run."""

import gzip
import hashlib
import io
import os
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from unistep.command.cli import main
from unistep.errors import ConfigError, ModelError
from unistep.models.convert import convert, read, unpacked


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


# Files that are something else


def zipped(files: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return stream.getvalue()


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 5\n"
PAGE = b"<!DOCTYPE html>\n<html><head><title>Sign in</title></head><body>" + b"x" * 9000 + b"</body></html>"
OTHER = [
    (b"", "an empty file: get it again"),
    (POINTER, "a Git LFS pointer, which stands for a file that was not fetched: run git lfs pull"),
    (PAGE, "a web page"),
    (b"\xef\xbb\xbf\n <HTML lang='en'>\n</HTML>", "a web page"),
    (b"<?xml version='1.0'?><!DOCTYPE html><html/>", "a web page"),
    (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "an XML text, perhaps a server's"),
    (b'{"error":"Repository not found"}', "a JSON text, perhaps a server's answer (“{\"error\":\"Repos"),
    (b"Entry not found", "a text, perhaps a server's answer (“Entry not found”): download the file itself"),
    ("é".encode() * 3000, "a text"),
    (zipped({"readme.txt": b"hello"}), "a zip archive of other files (readme.txt): unpack it"),
    (zipped({"readme.txt": b"hello"})[:-30], "a zip archive that is damaged or breaks off: get it again"),
    (gzip.compress(b"weights"), "a gzip archive: unpack it"),
    (b"\x89PNG\r\n\x1a\n", "a picture"),
]  # fmt: skip


@pytest.mark.parametrize(("content", "found"), OTHER, ids=[found for _, found in OTHER])
def test_what_came_instead_of_weights_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes, found: str
) -> None:
    """By `models convert`, for a file and for its autoencoder, and by whoever opens a .safetensors file."""
    pickled, safe = tmp_path / "a.pth", tmp_path / "b.safetensors"
    for file, wanted in ((pickled, "a file of pickled weights"), (safe, "a .safetensors file")):
        file.write_bytes(content)
        for kind in ([], ["--kind", "tensors"]):
            assert main(["models", "convert", str(file), str(tmp_path / "out.safetensors"), *kind]) == 1
            said = capsys.readouterr().err
            expected = "a file of pickled weights" if kind else wanted
            assert said.startswith(f"unistep: {file}: expected {expected}, found {found}"), said
            assert said.count("\n") == 1
    assert main(["info", str(safe)]) == 1
    assert f"unistep: {safe}: expected a .safetensors file, found {found}" in capsys.readouterr().err
    assert {file.name for file in tmp_path.iterdir()} == {pickled.name, safe.name}


def test_weights_under_the_other_s_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_file({"a": torch.zeros(2)}, tmp_path / "a.pth")
    assert main(["models", "convert", str(tmp_path / "a.pth"), str(tmp_path / "b.safetensors")]) == 1
    assert "found a .safetensors file under another name: rename it" in capsys.readouterr().err
    for legacy in (False, True):
        torch.save({"a": torch.zeros(2)}, tmp_path / "c.pth", _use_new_zipfile_serialization=not legacy)
        assert main(["info", str(tmp_path / "c.pth")]) == 1
        assert "found pickled weights: unistep models convert makes a .safeten" in capsys.readouterr().err
        assert (
            main(["models", "convert", str(tmp_path / "c.pth"), str(tmp_path / f"{legacy}.safetensors")]) == 0
        )
    cut = (tmp_path / "True.safetensors").read_bytes()[:-2]
    (tmp_path / "cut.safetensors").write_bytes(cut)
    capsys.readouterr()
    assert main(["info", str(tmp_path / "cut.safetensors")]) == 1
    assert "found something else or a damaged one" in capsys.readouterr().err


# BasicSR's files


@pytest.mark.parametrize(
    ("keys", "taken"),
    [
        (("params", "params_ema"), "params_ema"),
        (("params_ema",), "params_ema"),
        (("params",), "params"),
        (("params", "state_dict"), "params"),
    ],
)
def test_the_averaged_weights_of_basicsr_are_taken(tmp_path: Path, keys: tuple[str, ...], taken: str) -> None:
    src, dst = tmp_path / "a.pth", tmp_path / "a.safetensors"
    held = {key: {"conv.weight": torch.full((2, 2), float(i))} for i, key in enumerate(keys)}
    torch.save({**held, "iter": 5}, src)
    assert convert(src, dst) == taken
    with safe_open(dst, "pt") as file:
        assert file.metadata()["taken"] == taken and set(file.keys()) == {"conv.weight"}
        assert torch.equal(file.get_tensor("conv.weight"), held[taken]["conv.weight"])
    tensors, values, key = unpacked(src)
    assert key == taken and values == {} and torch.equal(tensors["conv.weight"], held[taken]["conv.weight"])


def test_a_plain_file_has_nothing_to_take(tmp_path: Path) -> None:
    torch.save({"params": torch.ones(2), "params_ema": torch.zeros(2)}, tmp_path / "a.pth")
    assert convert(tmp_path / "a.pth", tmp_path / "a.safetensors") == ""
    with safe_open(tmp_path / "a.safetensors", "pt") as file:
        assert set(file.keys()) == {"params", "params_ema"} and "taken" not in file.metadata()
    torch.save({"params_ema": {}, "params": {"a": torch.ones(2)}}, tmp_path / "b.pth")
    assert convert(tmp_path / "b.pth", tmp_path / "b.safetensors") == "params"
    torch.save({"params_ema": {"a": 3}}, tmp_path / "c.pth")
    with pytest.raises(ModelError, match="“a”, which is of type int"):
        convert(tmp_path / "c.pth", tmp_path / "c.safetensors")
