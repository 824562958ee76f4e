"""How models run in an evaluation: as `unistep upscale` with the same settings, for all or for one."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from test_eval import read, run, smooth
from test_sets import picture

from unistep.errors import ConfigError, ModelError
from unistep.evaluation import judged as judging
from unistep.evaluation import sets
from unistep.evaluation.judged import judged
from unistep.evaluation.settings import Settings, split
from unistep.students.onestep import Options
from unistep.tensors import save_weights, sha256

CPU = Settings(device="cpu")


@pytest.mark.parametrize(
    "text,model,own",
    [
        ("compact-sharp", "compact-sharp", {}),
        ("compact-sharp,fidelity=0", "compact-sharp", {"fidelity": "0"}),
        ("a=m,seed=1,reproduce", "a=m", {"seed": "1", "reproduce": "yes"}),
        ("a=m,vae-tiles=fast,color=adain", "a=m", {"vae_tiles": "fast", "colour": "adain"}),
        ("odd,name.safetensors", "odd,name.safetensors", {}),
    ],
)
def test_a_models_own_settings_stand_behind_it(text, model, own):
    assert split(text) == (model, own) and [*split(text)[1]] == [*own]


def test_a_file_is_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run,seed=3").write_bytes(b"")
    assert split("run,seed=3") == ("run,seed=3", {}) and split("a=run,seed=3") == ("a=run,seed=3", {})
    assert split("run,seed=4") == ("run", {"seed": "4"})


@pytest.mark.parametrize(
    "own,said",
    [
        ("fidelty=0", "“fidelty”; did you mean fidelity?"),
        ("fidelity=2", "fidelity to be from 0 to 1, found 2"),
        ("fidelity=nan", "from 0 to 1, found nan"),
        ("seed=x", "seed to be a number, found x"),
        ("tile=0", "tile to be auto or 1 or more, found 0"),
        ("steps=0", "steps to be 1 or more, found 0"),
        ("dtype=half", "dtype to be one of auto, float32"),
        ("colour=blue", "colour to be one of wavelet, adain, none, found blue"),
        ("weights=int2", "weights to be one of full, int8, int4"),
        ("vae-tiles=some", "vae-tiles to be one of auto, whole"),
        ("offload=maybe", "yes or no, found “maybe”"),
        ("reproduce,seed=1", "reproduce without tile, vae-tiles or seed"),
        ("seed=1,seed=2", "seed once in"),
        ("steps=2", "expected a student of a large model for steps"),
        ("decoder=tiny", "expected a student of a large model for steps, decoder"),
    ],
)
def test_settings_that_cannot_be(own, said):
    with pytest.raises(ConfigError, match=said):
        judged([("m", f"compact-sharp,{own}")], [], CPU)
    with pytest.raises(ConfigError, match="bicubic without settings, found"):
        judged([("m", "bicubic,seed=1")], [], CPU)


def test_one_model_at_two_settings(tmp_path, monkeypatch):
    for i in range(2):
        smooth(tmp_path / "lq" / f"{i}.png", 24, 16, i)
        smooth(tmp_path / "gt" / f"{i}.png", 96, 64, i)
    arguments = [
        "--pairs",
        f"mine={tmp_path / 'lq'}",
        tmp_path / "gt",
        "--metric",
        "psnr_y",
        "--fidelity",
        "0.5",
    ]
    assert run("--model", "compact-sharp,fidelity=0", "--model", "plain=compact-sharp,fidelity=1,seed=3",
               "--model", "compact-sharp", *arguments, "--out", tmp_path / "out") == 0  # fmt: skip
    found = read(tmp_path / "out")
    assert found["order"]["judged"] == ["compact-sharp,fidelity=0", "plain", "compact-sharp"]
    said = [found["judged"][name] for name in found["order"]["judged"]]
    assert [(one["fidelity"], one["seed"]) for one in said] == [(0, 0), (1, 3), (0.5, 0)]
    assert len({one["sha256"] for one in said}) == 1 and len({s["mean"] for s in found["scores"]}) == 3
    assert "steps" not in said[0]  # what is not its default alone
    assert (
        "device cpu, dtype auto, tile auto, fidelity 1.0, seed 3." in (tmp_path / "out/table.md").read_text()
    )


def test_students_of_large_models_get_what_upscale_would_give_them(tmp_path, monkeypatch):
    low = picture(tmp_path / "lq" / "a.png", 24, 20)
    on = sets.of_low("s", tmp_path / "lq")
    student, tiny = tmp_path / "student.safetensors", tmp_path / "tiny.safetensors"
    save_weights(student, {"x": torch.zeros(1)}, {"student": {"base": "sd3"}}, torch.float32)
    save_file({"x": torch.zeros(1)}, tiny)
    calls = []

    class Recorder:
        @staticmethod
        def from_pretrained(*_, options, **__):
            calls.append(options)
            return Recorder()

        def __call__(self, picture, scale, **more):
            calls.append(more)
            return picture

        def reproduce(self, picture, scale, colour):
            calls.append(("reproduce", scale, colour))
            return picture

    monkeypatch.setattr(judging, "Upscaler", Recorder)

    def run_with(own):
        calls.clear()
        (one,) = judged([("m", f"{student},{own}")], [], CPU)
        np.testing.assert_array_equal(one.open()(on, on.samples[0], low), low)
        return one

    one = run_with(f"decoder={tiny},weights=int8,compile,vae-tiles=fast,seed=3,tile=64,colour=none")
    assert calls == [
        Options(decoder=str(tiny), weights="int8", compile=True),
        {"tile": 64, "colour": "none", "seed": 3, "vae_tiles": "fast"},
    ]
    assert (one.said["decoder"], one.said["decoder_sha256"]) == ("tiny.safetensors", sha256(tiny))
    assert str(tmp_path) not in str(one.said)
    run_with("steps=4,offload,dtype=bfloat16")
    assert calls[0] == Options(steps=4, offload=True)
    one = run_with("reproduce,colour=adain")
    assert calls == [Options(), ("reproduce", 4, "adain")] and one.said["reproduce"] is True
    with pytest.raises(ModelError, match="file of a decoder, found none at gone"):
        run_with("decoder=gone")
