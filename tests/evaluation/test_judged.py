"""Who is judged: results are those of `unistep upscale`, of Pillow, and of folders, matched by name."""

import numpy as np
import pytest
import torch
from authors_files import GOLDEN, osediff_pickle, tsdsr
from PIL import Image
from resshift_golden import unet_file, weights
from test_sets import picture

from unistep.bases.conversion import Request
from unistep.command.cli import main
from unistep.errors import ConfigError, DataError, ModelError
from unistep.evaluation import sets
from unistep.evaluation.judged import Bicubic, Model, Results, agreed, judged
from unistep.evaluation.settings import Settings
from unistep.models.authors import student

CPU = Settings(device="cpu")


def tiny_sd3(folder):
    pytest.importorskip("diffusers")
    return tsdsr(folder)


def tiny_sd21(folder):
    pytest.importorskip("diffusers")
    base = osediff_pickle(folder)
    request = Request(
        "osediff", base=GOLDEN / "osediff" / "sd21", embedding=folder / "prompt.pt", dtype="float32"
    )
    student(base, folder / "osediff.safetensors", request)
    return folder / "osediff.safetensors"


def tiny_resshift(folder):
    torch.save({"state_dict": unet_file("sinsr")}, folder / "SinSR_v2.pth")
    torch.save({"state_dict": weights("sinsr")["vq"]}, folder / "vq.pth")
    request = Request("resshift", vae=folder / "vq.pth", dtype="float32")
    student(folder / "SinSR_v2.pth", folder / "sinsr.safetensors", request)
    return folder / "sinsr.safetensors"


@pytest.mark.parametrize("make", [lambda folder: "compact-sharp", tiny_sd3, tiny_sd21, tiny_resshift])
def test_a_model_gives_what_upscale_writes(make, tmp_path):
    low = picture(tmp_path / "lq" / "a.png", 24, 20)
    model = make(tmp_path)
    on = sets.of_low("s", tmp_path / "lq")
    found = Model("m", str(model), CPU).open()(on, on.samples[0], low)
    arguments = ["upscale", str(tmp_path / "lq" / "a.png"), "-o", str(tmp_path / "large.png"), "-d", "cpu"]
    assert main([*arguments, "-m", str(model)]) == 0
    np.testing.assert_array_equal(found, np.asarray(Image.open(tmp_path / "large.png")))
    assert found.shape == (80, 96, 3) and found.dtype == np.uint8


def test_bicubic_is_pillows(tmp_path):
    low = picture(tmp_path / "a.png", 8, 6)
    on = sets.of_low("s", tmp_path, scale=2)
    wanted = Image.open(tmp_path / "a.png").resize((16, 12), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(Bicubic().open()(on, on.samples[0], low), np.asarray(wanted))


@pytest.fixture
def folders(tmp_path):
    for name in ("a", "b"):
        picture(tmp_path / "lq" / f"{name}.png", 8, 6)
        picture(tmp_path / "theirs" / f"{name}_out.png", 32, 24)
    return tmp_path


def test_results_are_found_by_name(folders):
    on = sets.of_low("s", folders / "lq")
    theirs = Results("theirs", folders / "theirs")
    assert theirs.check(on) == ([], [])
    wanted = np.asarray(Image.open(folders / "theirs" / "b_out.png"))
    np.testing.assert_array_equal(theirs.open()(on, on.samples[1], wanted), wanted)
    before = theirs.digest(on, on.samples[1])
    picture(folders / "theirs" / "b_out.png", 32, 24, seed=5)
    theirs.check(on)
    assert theirs.digest(on, on.samples[1]) != before
    picture(folders / "theirs" / "s" / "a.png", 32, 24, seed=1)  # a folder of the set goes first
    picture(folders / "theirs" / "s" / "b.png", 32, 24, seed=2)
    picture(folders / "theirs" / "s" / "z.png", 32, 24, seed=2)
    assert theirs.check(on) == ([], ["theirs: 1 pictures of no sample"])


@pytest.mark.parametrize(
    "broken,wanted",
    [
        (lambda p: (p / "b_out.png").unlink(), r"theirs/b \(no result of this name\)"),
        (lambda p: picture(p / "b_out.png", 32, 20), r"theirs/b_out\.png \(32x20, expected 32x24\)"),
        (lambda p: (p / "b_out.png").write_bytes(b"nothing"), r"theirs/b_out\.png"),
        (lambda p: picture(p / "b_out.bmp", 32, 24), r"theirs/b \(no result of this name\)"),
    ],
)
def test_a_result_that_cannot_be_used_stops_or_leaves_the_image_out_for_all(folders, broken, wanted):
    broken(folders / "theirs")
    on = sets.of_low("s", folders / "lq")
    who = [Bicubic(), Results("theirs", folders / "theirs")]
    with pytest.raises(DataError, match=wanted):
        agreed(who, [on], "stop")
    (kept,) = agreed(who, [on], "skip")
    assert [sample.name for sample in kept.samples] == ["a"]
    assert "left out, no usable result of theirs: b" in kept.notes


def test_names_and_models_that_cannot_be(tmp_path):
    with pytest.raises(ConfigError, match="found x twice"):
        judged([("x", "bicubic"), ("x", "compact-sharp")], [], CPU)
    with pytest.raises(ConfigError, match="--model or --results"):
        judged([], [], CPU)
    with pytest.raises(ModelError, match="neither"):
        judged([("x", "missing")], [], CPU)
    (one,) = judged([("x", "compact-plain")], [], CPU)
    assert one.said["file"] == "compact-plain.safetensors" and len(one.said["sha256"]) == 64
