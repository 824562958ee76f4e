"""Pulling models from a hub on this machine, and everything that can go wrong on the way."""

import dataclasses
import errno
import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import hubstub
import pytest
import torch
from safetensors.torch import save

from unistep.command.cli import main
from unistep.errors import ModelError
from unistep.models import catalogue, checkpoint, hub
from unistep.tensors import save_weights

constants = pytest.importorskip("huggingface_hub.constants")

SD3 = "stabilityai/stable-diffusion-3-medium-diffusers"
OTHER = "somebody/model"
BIG = save({"weight": torch.arange(60_000, dtype=torch.float32)})
HALF = len(BIG) // 2 // 500 * 500
SMALL = b'{"sample_size": 4}'


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[hubstub.Hub]:
    folder = {
        "model_index.json": b"{}",
        "transformer/config.json": SMALL,
        "transformer/diffusion_pytorch_model.safetensors": BIG,
        "transformer/diffusion_pytorch_model.fp16.safetensors": BIG[:100],
        "transformer/diffusion_pytorch_model.bin": b"a pickle",
        "text_encoder/model.safetensors": BIG[:200],
        "vae/config.json": SMALL,
        "README.md": b"read me",
    }
    other = {
        "a.safetensors": BIG,
        "a.fp16.safetensors": BIG,
        "b.bin": b"pickle",
        "c.json": b"{}",
        "d.py": b"",
    }
    with hubstub.Hub({SD3: folder, OTHER: other, "pickles/only": {"x.bin": b"x"}, "files": {}}) as stub:
        monkeypatch.setattr(constants, "ENDPOINT", stub.endpoint)
        monkeypatch.setattr(
            constants,
            "HUGGINGFACE_CO_URL_TEMPLATE",
            stub.endpoint + "/{repo_id}/resolve/{revision}/{filename}",
        )
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 500)  # what is lost when a download breaks
        monkeypatch.setenv("UNISTEP_HOME", str(tmp_path / "home"))
        monkeypatch.setenv("HF_TOKEN", "hf_secret")
        yield stub


def taken(name: str = "sd3-medium") -> hub.Pulled:
    model = hub.find(name)
    assert model is not None
    return model


def fails(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 1) -> str:
    """The one sentence of a command that fails."""
    assert main(list(arguments)) == code
    err = capsys.readouterr().err.splitlines()
    errors = [line for line in err if line.startswith("unistep: ")]
    assert len(errors) == 1 and errors[0] == err[-1]
    return errors[0]


def test_a_pull_takes_what_is_needed_and_locks_it(
    server: hubstub.Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["models", "pull", "sd3-medium"]) == 0
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert "licence: Stability AI Community" in lines[1]
    model = taken()
    assert out.split()[:2] == ["sd3-medium", hubstub.COMMIT[:12]] and out.strip().endswith(str(model.folder))
    names = {f.relative_to(model.folder).as_posix() for f in model.folder.rglob("*") if f.is_file()}
    weights = "transformer/diffusion_pytorch_model.safetensors"
    assert names == {"model_index.json", "transformer/config.json", "vae/config.json", weights}
    facts = json.loads(model.lock.read_text())
    assert (facts["commit"], facts["repository"]) == (hubstub.COMMIT, SD3)
    assert facts["files"][weights] == {"size": len(BIG), "sha256": hashlib.sha256(BIG).hexdigest()}
    assert f"{facts['files'][weights]['sha256']}  {weights}" in lines
    assert not list(model.lock.parent.rglob("*incomplete")) + list(model.lock.parent.rglob("blobs/*.lock"))
    assert server.tokens == {"Bearer hf_secret"}
    # The second pull takes nothing; a further component comes when asked for.
    before = len(server.downloads())
    assert main(["models", "pull", f"{SD3}@{hubstub.COMMIT}"]) == 0
    assert len(server.downloads()) == before
    assert main(["models", "pull", "sd3-medium", "--include", "text_encoder/*"]) == 0
    assert len(server.downloads()) == before + 1
    assert "text_encoder/model.safetensors" in taken().facts["files"]


def test_the_hubs_own_functions_find_what_was_pulled(server: hubstub.Hub) -> None:
    from huggingface_hub import snapshot_download

    assert main(["models", "pull", OTHER]) == 0
    folder = snapshot_download(OTHER, revision=hubstub.COMMIT, allow_patterns=["a.safetensors"])
    assert Path(folder) == taken(OTHER).folder
    assert sorted(taken(OTHER).facts["files"]) == ["a.safetensors", "c.json"]
    assert taken(OTHER).facts["licence"] == "mit"


def test_offline_takes_what_is_here(
    server: hubstub.Hub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "leave --offline out" in fails(capsys, "models", "pull", "sd3-medium", "--offline")
    with pytest.raises(ModelError, match="unistep models pull sd3-medium"):
        hub.component_folder("sd3-medium")
    assert main(["models", "pull", "sd3-medium"]) == 0
    asked = len(server.requests)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert main(["models", "pull", "sd3-medium", "--offline"]) == 0
    folder = taken().folder
    assert hub.component_folder("sd3-medium") == hub.component_folder(SD3) == folder
    assert hub.component_folder(folder) == folder
    capsys.readouterr()
    assert "found HF_HUB_OFFLINE=1: set it to 0" in fails(capsys, "models", "pull", OTHER)
    assert len(server.requests) == asked
    (folder / "vae/config.json").unlink()
    with pytest.raises(ModelError, match=r"vae/config\.json missing"):
        hub.component_folder("sd3-medium")


def test_a_broken_download_goes_on(server: hubstub.Hub, capsys: pytest.CaptureFixture[str]) -> None:
    name = "a.safetensors"
    server.fail[name] = "cut"
    assert "the same command goes on" in fails(capsys, "models", "pull", OTHER)
    assert hub.find(OTHER) is None and not list(Path(constants.HF_HUB_CACHE).rglob(name))
    assert [p.stat().st_size for p in Path(constants.HF_HUB_CACHE).rglob("*.incomplete")] == [HALF]
    server.fail.clear()
    server.requests.clear()
    assert main(["models", "pull", OTHER]) == 0
    assert (name, f"bytes={HALF}-") in server.downloads()
    assert (taken(OTHER).folder / name).read_bytes() == BIG


@pytest.mark.parametrize("name", ["a.safetensors", "c.json"])
def test_a_wrong_hash_is_not_taken(
    name: str, server: hubstub.Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    server.fail[name] = "wrong"
    message = fails(capsys, "models", "pull", OTHER)
    assert "found another: the file was removed" in message
    assert hub.find(OTHER) is None
    assert not list(Path(constants.HF_HUB_CACHE).rglob("*.incomplete"))
    assert not list(Path(constants.HF_HUB_CACHE).rglob(name))
    server.fail.clear()
    assert main(["models", "pull", OTHER]) == 0


def test_terms_that_are_not_accepted(server: hubstub.Hub, capsys: pytest.CaptureFixture[str]) -> None:
    for failure in ("gated", "forbidden"):
        server.fail["model_index.json"] = failure
        message = fails(capsys, "models", "pull", "sd3-medium")
        assert f"accept them on {server.endpoint}/{SD3}" in message
        assert f"{server.endpoint}/settings/tokens, then set HF_TOKEN" in message
    server.fail["a.safetensors"] = "gated"
    assert f"accept them on {server.endpoint}/{OTHER}" in fails(capsys, "models", "pull", OTHER)


def test_what_is_not_there(server: hubstub.Hub, capsys: pytest.CaptureFixture[str]) -> None:
    assert "found none, or one that is private" in fails(capsys, "models", "pull", "no/body")
    assert "withdrawn" in fails(capsys, "models", "pull", "sd21-base")
    assert "none of that name" in fails(capsys, "models", "pull", f"{OTHER}@v9")
    assert "pickles are not taken" in fails(capsys, "models", "pull", "pickles/only", "--include", "*.bin")
    assert "owner/repository" in fails(capsys, "models", "pull", "../../etc", code=2)
    assert "https://github.com/Microtreei/TSD-SR, then unistep models convert" in fails(
        capsys, "models", "pull", "tsdsr"
    )
    assert hub.pulled() == {}


def test_no_network(
    server: hubstub.Hub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{port}")
    assert "found no connection" in fails(capsys, "models", "pull", OTHER)


def test_no_leave_to_write(
    server: hubstub.Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(tmp_path / "hub"))

    if os.geteuid():
        (tmp_path / "hub").mkdir(mode=0o500)
    else:  # root may write everywhere
        monkeypatch.setattr(Path, "mkdir", refuse)
    assert "set HF_HOME or UNISTEP_HOME to a folder of yours" in fails(capsys, "models", "pull", OTHER)


def test_a_full_disk(
    server: hubstub.Hub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    usage = shutil.disk_usage("/")._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    assert "room on the disk, found it full" in fails(capsys, "models", "pull", OTHER)
    assert server.downloads() == []


def test_verify_sees_a_flipped_byte_and_pull_mends_it(
    server: hubstub.Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["models", "pull", OTHER]) == main(["models", "verify", OTHER]) == 0
    file = taken(OTHER).folder / "a.safetensors"
    file.write_bytes(BIG[:-1] + bytes([BIG[-1] ^ 1]))
    capsys.readouterr()
    assert "a.safetensors missing or changed" in fails(capsys, "models", "verify", OTHER)
    assert main(["models", "verify"]) == 1
    before = len(server.downloads())
    assert main(["models", "pull", OTHER]) == main(["models", "verify", OTHER]) == 0
    assert file.read_bytes() == BIG and len(server.downloads()) == before + 1


def test_list_info_and_rm(server: hubstub.Hub, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "pull", "sd3-medium"]) == main(["models", "pull", OTHER]) == 0
    capsys.readouterr()
    assert main(["models", "list"]) == 0
    out = capsys.readouterr().out
    assert f"{hubstub.COMMIT[:12]}  Stability AI" in out and OTHER in out
    assert main(["models", "info", "sd3-medium"]) == 0
    out = capsys.readouterr().out
    assert "Stability AI Community License" in out and hashlib.sha256(BIG).hexdigest() in out
    model = taken(OTHER)
    assert main(["models", "rm", OTHER]) == 0
    assert "0.2 MB are free again" in capsys.readouterr().out
    assert not model.folder.exists() and not list(model.lock.parent.rglob("blobs/*"))
    assert list(hub.pulled()) == ["sd3-medium"]
    assert main(["models", "info", "taesd"]) == 0
    assert "no: unistep models pull taesd" in capsys.readouterr().out
    assert "which is none" in fails(capsys, "models", "rm", OTHER, code=2)
    embedded = next(iter(checkpoint.embedded()))
    assert "part of the package" in fails(capsys, "models", "rm", embedded, code=2)


def test_files_of_authors(
    server: hubstub.Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    server.repositories["files"] = {"net.pth": b"pickled" * 1000, "vq.pth": b"codebook"}
    known = dataclasses.replace(
        catalogue.KNOWN["sinsr"],
        files=(f"{server.endpoint}/files/net.pth", f"{server.endpoint}/files/vq.pth"),
    )
    monkeypatch.setitem(catalogue.KNOWN, "sinsr", known)
    server.fail["net.pth"] = "cut"
    assert "the same command goes on" in fails(capsys, "models", "pull", "sinsr")
    server.fail.clear()
    assert main(["models", "pull", "sinsr"]) == 0
    err = capsys.readouterr().err
    assert "non-commercial" in err and "next: unistep models convert" in err
    folder = tmp_path / "home/downloads/sinsr"
    assert ("net.pth", "bytes=3500-") in server.downloads() and server.tokens == {None}
    assert (folder / "net.pth").read_bytes() == b"pickled" * 1000
    assert main(["models", "verify", "sinsr"]) == 0
    # What was locked is what is taken ever after.
    (folder / "vq.pth").write_bytes(b"codebooh")
    assert "vq.pth missing or changed" in fails(capsys, "models", "verify", "sinsr")
    server.fail["vq.pth"] = "wrong"
    assert "found another" in fails(capsys, "models", "pull", "sinsr")
    server.fail.clear()
    assert main(["models", "pull", "sinsr"]) == main(["models", "rm", "sinsr"]) == 0
    assert not folder.exists()
    # A whole part that was never renamed: the server has nothing after it.
    folder.mkdir()
    (folder / "vq.pth.unistep.incomplete").write_bytes(b"codebook")
    assert main(["models", "pull", "sinsr"]) == 0
    assert (folder / "vq.pth").read_bytes() == b"codebook"


def test_students_are_listed_and_verified(
    server: hubstub.Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "home/models/mine.safetensors"
    file.parent.mkdir(parents=True)
    header = {"sources": [{"file": "a", "sha256": "b"}]}
    save_weights(file, {"w": torch.ones(3)}, header, torch.float32)
    assert main(["models", "list"]) == main(["models", "verify", str(file)]) == 0
    out = capsys.readouterr().out
    assert "mine.safetensors" in out and "1 sources recorded" in out
    save_weights(file, {"w": torch.full((3,), torch.nan)}, header, torch.float32)
    assert "finite" in fails(capsys, "models", "verify", str(file))
    assert main(["models", "verify"]) == 1


def test_a_damaged_lock_counts_as_not_pulled(server: hubstub.Hub) -> None:
    assert main(["models", "pull", OTHER]) == 0
    lock = taken(OTHER).lock
    for text in ("{", "[]", '{"format": 9, "files": {}}', '{"format": 1, "files": {"a": 1}}'):
        lock.write_text(text)
        assert hub.find(OTHER) is None


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert "pip install 'unistep[sd]'" in fails(capsys, "models", "pull", "taesd", code=2)
    assert main(["models", "list"]) == 0


def test_the_hubs_variables_hold(server: hubstub.Hub, tmp_path: Path) -> None:
    """In a process of its own, since the hub's package reads them when it is imported."""
    own = {"HF_HOME": str(tmp_path / "hf"), "HF_ENDPOINT": server.endpoint, "HF_HUB_OFFLINE": "0"}
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            f"from unistep.models import hub; print(hub.pull('{OTHER}', report=print).folder)",
        ],
        env={**os.environ, **own},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert str(tmp_path / "hf/hub") in done.stdout


def test_the_catalogue_can_be_pulled_or_says_how_else() -> None:
    for name, known in catalogue.KNOWN.items():
        assert known.licence and known.kind and known.use
        assert bool(known.repository) + bool(known.files) + bool(known.page) == 1, name
        assert all(url.startswith("https://") for url in known.files)
        assert not known.gated or known.repository
    assert not set(catalogue.KNOWN) & set(checkpoint.embedded())
