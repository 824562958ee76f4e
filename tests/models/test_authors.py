"""The authors' files, in their own formats, become students that give the authors' pictures."""

from pathlib import Path

import numpy as np
import pytest
import torch
from authors_files import GOLDEN, embeddings, opened, osediff_pickle, tsdsr
from PIL import Image
from resshift_golden import numbers, unet_file, weights
from safetensors.torch import load_file, save_file

from unistep.bases.conversion import Request
from unistep.command.cli import main
from unistep.errors import ConfigError, ModelError
from unistep.models.authors import recognise, student
from unistep.students.reproduce import reproduce
from unistep.tensors import read_header

pytest.importorskip("diffusers")


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


def alike(found: np.ndarray, wanted: np.ndarray) -> bool:
    """Within one level; save that AdaIN stretches these pale pictures threefold, and with them a sample on
    the edge between two levels that float32 puts into the other one: at most 2 in 10,000."""
    assert found.shape == wanted.shape
    off = np.abs(found.astype(int) - wanted.astype(int))
    return bool(off.max() <= 3 and (off > 1).mean() <= 2e-4)


@pytest.fixture(scope="module")
def osediff(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """osediff.pkl's student, by the command."""
    folder = tmp_path_factory.mktemp("osediff")
    pickled, base, dst = osediff_pickle(folder), GOLDEN / "osediff" / "sd21", folder / "o.safetensors"
    more = ["--base", str(base), "--embedding", str(folder / "prompt.pt"), "--dtype", "float32"]
    assert main(["models", "convert", str(pickled), str(dst), *more]) == 0
    return dst


@pytest.fixture(scope="module")
def tsd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tsdsr(tmp_path_factory.mktemp("tsdsr"))


@pytest.mark.parametrize("run", ["notile_adain", "notile_wavelet", "tile_adain"])
@pytest.mark.parametrize("name", ["a", "b_small"])
def test_osediff_gives_the_authors_pictures(osediff: Path, run: str, name: str) -> None:
    case = GOLDEN / "osediff"
    tiles = {"tile": 8, "overlap": 4} if run.startswith("tile") else {"tile": 96, "overlap": 32}
    out = reproduce(
        opened(osediff),
        pixels(case / "inputs" / f"{name}.png"),
        colour=run.split("_")[1],
        shortest=64,
        **tiles,
    )
    assert alike(out, pixels(case / "outputs" / run / f"{name}.png"))


@pytest.mark.parametrize(
    "run", ["notile_adain", "notile_wavelet", "notile_nofix", "tile_wavelet", "tile_nofix"]
)
@pytest.mark.parametrize("name", ["a", "b_odd", "c_big", "d_mult"])
def test_tsdsr_gives_the_authors_pictures(tsd: Path, run: str, name: str) -> None:
    case = GOLDEN / "tsd_infer"
    tiles = {"tile": 8, "overlap": 2} if run.startswith("tile") else {"tile": 64, "overlap": 8}
    colour = run.split("_")[1].replace("nofix", "none")
    out = reproduce(opened(tsd), pixels(case / "inputs" / f"{name}.png"), colour=colour, shortest=64, **tiles)
    assert alike(out, pixels(case / "outputs" / run / f"{name}.png"))


@pytest.mark.parametrize("size", ["18x22", "22x18"])
def test_odd_latents_in_tiles(tsd: Path, size: str) -> None:
    case = GOLDEN / "tsd_infer"
    picture = pixels(case / "inputs_oddlatent" / size / "x.png")
    out = reproduce(opened(tsd), picture, colour="none", shortest=64, tile=8, overlap=2)
    assert alike(out, pixels(case / "outputs" / f"oddlatent_{size}_tile" / "x.png"))


def test_sinsr_gives_the_authors_picture(tmp_path: Path) -> None:
    """From the files as published to the recorded result, one step."""
    recorded = numbers("sinsr")
    torch.save({"state_dict": unet_file("sinsr")}, tmp_path / "SinSR_v2.pth")
    torch.save({"state_dict": weights("sinsr")["vq"]}, tmp_path / "vq.pth")
    dst = tmp_path / "s.safetensors"
    more = ["--vae", str(tmp_path / "vq.pth"), "--dtype", "float32"]
    assert main(["models", "convert", str(tmp_path / "SinSR_v2.pth"), str(dst), *more]) == 0
    header = read_header(dst)
    assert header["student"]["method"] == "sinsr" and "non-commercial" in header["licence"]
    assert [source["file"] for source in header["sources"]] == ["SinSR_v2.pth", "vq.pth"]
    levels = (recorded["sampler/lr_01"][0] * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    exact = torch.from_numpy(levels / np.float32(255)).permute(2, 0, 1)[None]
    assert torch.allclose(exact, recorded["sampler/lr_01"], atol=1e-6)  # it was read from 8 bits
    out = reproduce(opened(dst), levels, noise=recorded["sampler/onestep/noise_00"])
    wanted = ((recorded["sampler/onestep/out"][0].permute(1, 2, 0) / 2 + 0.5).clamp(0, 1) * 255).round()
    assert alike(out, wanted.to(torch.uint8).numpy())


def test_files_as_basicsr_saves_them(tmp_path: Path) -> None:
    """Network and autoencoder under params_ema, beside weights that are not averaged: the same student."""
    files = {"SinSR_v2": unet_file("sinsr"), "vq": weights("sinsr")["vq"]}
    made = []
    for folder, wrapped in ((tmp_path / "plain", False), (tmp_path / "wrapped", True)):
        folder.mkdir()
        for name, state in files.items():
            other = {key: tensor + 1 for key, tensor in state.items()}
            state = {"params": other, "params_ema": state} if wrapped else {"state_dict": state}
            torch.save(state, folder / f"{name}.pth")
        request = Request("resshift", vae=folder / "vq.pth", dtype="float32")
        assert recognise(folder / "SinSR_v2.pth") == "resshift"
        header = student(folder / "SinSR_v2.pth", folder / "s.safetensors", request)
        assert header["sources"][0].get("taken", "") == ("params_ema" if wrapped else "")
        made.append(load_file(folder / "s.safetensors"))
    torch.testing.assert_close(*made)


def test_files_are_recognised(tmp_path: Path) -> None:
    assert recognise(osediff_pickle(tmp_path)) == "osediff"
    assert recognise(GOLDEN / "tsd_infer" / "lora") == "tsdsr"
    torch.save(unet_file("sinsr", "module."), tmp_path / "ema.pth")
    assert recognise(tmp_path / "ema.pth") == "resshift"
    torch.save({"features.0.weight": torch.zeros(2)}, tmp_path / "vgg.pth")
    assert recognise(tmp_path / "vgg.pth") == "tensors"
    save_file({"a": torch.zeros(2)}, tmp_path / "a.safetensors")
    with pytest.raises(ModelError, match="nothing is to be converted"):
        recognise(tmp_path / "a.safetensors")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match=r"expected a folder with transformer\.safetensors .* found neither"):
        recognise(tmp_path / "empty")


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    dst, lora, sd3 = tmp_path / "d.safetensors", GOLDEN / "tsd_infer" / "lora", GOLDEN / "tsd_infer" / "sd3"
    with pytest.raises(ConfigError, match=r"expected --base, the folder of Stable Diffusion 3"):
        student(lora, dst, Request("tsdsr"))
    with pytest.raises(ModelError, match=r"expected prompt_embeds\.pt or prompt_embeds\.safetensors"):
        student(lora, dst, Request("tsdsr", base=sd3))
    with pytest.raises(ModelError, match="transformer"):
        student(lora, dst, Request("tsdsr", base=tmp_path, embedding=embeddings(tmp_path)))
    torch.save(unet_file("sinsr"), tmp_path / "SinSR_v1.pth")
    with pytest.raises(ConfigError, match=r"expected --vae, the file of its VQ autoencoder"):
        student(tmp_path / "SinSR_v1.pth", dst, Request("resshift"))
    with pytest.raises(ConfigError, match=r"expected --variant to be one of resshift-15"):
        student(
            tmp_path / "SinSR_v1.pth", dst, Request("resshift", vae=lora / "vae.safetensors", variant="x")
        )
    with pytest.raises(ConfigError, match="expected --dtype to be one of"):
        student(lora, dst, Request("tsdsr", dtype="int8"))
    with pytest.raises(ConfigError, match="expected --kind to be one of"):
        student(lora, dst, Request("gan"))
    assert not dst.exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.pop(next(n for n in t if n.endswith("lora_B.weight"))), "lora_B"),
        (lambda t: t.update({"transformer.nowhere.lora_A.weight": torch.zeros(4, 8)}), "nowhere"),
        (lambda t: t.update({n: p[:2] if "lora_A" in n else p for n, p in t.items()}), "rank|4"),
    ],
)
def test_a_lora_of_another_kind(tmp_path: Path, change, said: str) -> None:
    lora = tmp_path / "lora"
    lora.mkdir()
    for part in ("transformer", "vae"):
        tensors = load_file(GOLDEN / "tsd_infer" / "lora" / f"{part}.safetensors")
        if part == "transformer":
            change(tensors)
        save_file({n: t.contiguous() for n, t in tensors.items()}, lora / f"{part}.safetensors")
    request = Request("tsdsr", base=GOLDEN / "tsd_infer" / "sd3", embedding=embeddings(tmp_path))
    with pytest.raises(ModelError, match=said) as error:
        student(lora, tmp_path / "d.safetensors", request)
    assert "\n" not in str(error.value) and not (tmp_path / "d.safetensors").exists()


def test_a_lora_for_another_base(tmp_path: Path) -> None:
    pickled = osediff_pickle(tmp_path)
    request = Request("osediff", base=GOLDEN / "tsd_infer" / "sd3", embedding=tmp_path / "prompt.pt")
    with pytest.raises(ModelError, match="unet"):
        student(pickled, tmp_path / "d.safetensors", request)
