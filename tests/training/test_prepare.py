"""`unistep prepare`: the same crops and latents that training would make, once; resumed to the byte."""

import json
import shutil
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cyclopts import App
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from unistep.bases.compact import base as compact
from unistep.bases.compact.base import CompactBase
from unistep.bases.compact.network import CompactDenoiser
from unistep.command.cli_train import prepare as command
from unistep.data.filters import usm_sharpen
from unistep.data.pairs import Pairs, Photographs
from unistep.data.presets import DEGRADATIONS, FaceDegradation
from unistep.data.shards import read_index, shard_header
from unistep.data.sources import load_rgb
from unistep.diffusion.denoiser import Base, Batch
from unistep.errors import ConfigError, DataError, ImageError
from unistep.recipes.config import Run, override
from unistep.recipes.recipes import recipe
from unistep.training import prepare as module
from unistep.training.batches import make_batches
from unistep.training.opening import Opened, find, open_run
from unistep.training.prepare import grid, main, plan, prepare

SMALL = ["data.patch=32", "data.shard=4", "data.workers=0", "data.holdout=0", "train.batch=4",
         "train.steps=6", "base.widths=[8,8,8]", "base.blocks=[1,1,1]"]  # fmt: skip
CPU = torch.device("cpu")


def run(*settings: str) -> Run:
    return override(recipe("compact-teacher"), [*SMALL, *settings])


def quiet(_: str) -> None: ...


def picture(path: Path, width: int, height: int, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), np.uint8)
    Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).save(path)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """4 + 2 + 1 + 6 crops of 32 pixels."""
    folder = tmp_path / "photos"
    for i, (name, width, height) in enumerate(
        [("a.png", 70, 64), ("b/c.png", 64, 40), ("d.png", 33, 35), ("e.png", 100, 64)]
    ):
        picture(folder / name, width, height, i)
    return folder


def files(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def batch_list(settings: Run, data: Path, **more: Any) -> tuple[Base, list[Batch]]:
    photographs = Photographs(data, settings.data.holdout)
    opened = open_run(settings, CPU, photographs)
    pairs = Pairs(photographs.train, settings.data, 0, length=settings.train.batch * settings.train.steps)
    pairs.preload()
    return opened.base, list(make_batches(opened, pairs, CPU, **more))


# What is written


def test_crops_lie_evenly_from_border_to_border():
    assert grid(32, 40, 32) == [(4, 0)]
    assert grid(100, 64, 32) == [(top, left) for top in (0, 32) for left in (0, 34, 68)]
    for width, height in ((33, 200), (64, 64), (97, 95)):
        found = grid(width, height, 32)
        assert len(set(found)) == len(found) == (width // 32) * (height // 32)
        assert all(0 <= top <= height - 32 and 0 <= left <= width - 32 for top, left in found)


def test_shards_hold_the_crops_and_their_latents(photos, tmp_path):
    lines: list[str] = []
    out = tmp_path / "out"
    assert prepare(run(), photos, out, report=lines.append) == out / "index.json"
    made, shards = read_index(out)
    assert (made.base, made.patch, made.latents) == ("compact", 32, "fp32")
    assert [shard["count"] for shard in shards] == [4, 4, 4, 1]
    assert lines == [f"{i}/4 shards" for i in range(1, 5)] + [f"13 crops in 4 shards in {out}"]
    seen = 0
    for shard in shards:
        tensors = load_file(out / shard["file"])
        for name, x_hq, z_hq in zip(shard["names"], tensors["x_hq"], tensors["z_hq"], strict=True):
            file, place = name.split("@")
            top, left = map(int, place.split(","))
            x = load_rgb(photos / file)[:, top : top + 32, left : left + 32]
            assert torch.equal(x_hq, x)
            assert torch.equal(z_hq, compact.encode(x[None].float() / 255 * 2 - 1)[0])
            seen += 1
    assert seen == 13


def test_at_most_so_many_crops_of_each(photos, tmp_path):
    every = plan(Photographs(photos, 0.0), run(), None, quiet)
    few = plan(Photographs(photos, 0.0), run(), 2, quiet)
    assert [cut for cut in every if cut in few] == few  # in the same order
    assert Counter(cut.photo.name for cut in few) == {"a.png": 2, "c.png": 2, "d.png": 1, "e.png": 2}
    assert few != [cut for cut in every if cut.top == 0][: len(few)]
    prepare(run(), photos, tmp_path / "out", 2, quiet)
    assert sum(shard["count"] for shard in read_index(tmp_path / "out")[1]) == 7


def test_half_precision_and_sharpened_truth(photos, tmp_path):
    prepare(run("data.latents=fp16", "data.usm_sharpen=true"), photos, tmp_path / "out", 1, quiet)
    tensors = load_file(tmp_path / "out" / "shard-00000.safetensors")
    assert tensors["z_hq"].dtype == torch.float16
    sharp = usm_sharpen(tensors["x_hq"].float() / 255) * 2 - 1
    torch.testing.assert_close(tensors["z_hq"].float(), compact.encode(sharp), atol=1e-3, rtol=0)
    assert not torch.allclose(sharp, tensors["x_hq"].float() / 255 * 2 - 1, atol=0.05)


# Resuming


class Killed(BaseException):
    pass


@pytest.mark.parametrize("after", [0, 1, 3])
def test_a_killed_prepare_goes_on_to_the_same_bytes(photos, tmp_path, monkeypatch, after):
    prepare(run(), photos, tmp_path / "whole", report=quiet)
    real, written = module.save_shard, []

    def save(path, *contents):
        if len(written) == after:
            raise Killed
        written.append(path.name)
        real(path, *contents)

    monkeypatch.setattr(module, "save_shard", save)
    with pytest.raises(Killed):
        prepare(run(), photos, tmp_path / "out", report=quiet)
    assert not (tmp_path / "out" / "index.json").exists() and len(list((tmp_path / "out").iterdir())) == after
    again: list[str] = []
    monkeypatch.setattr(
        module, "save_shard", lambda path, *rest: again.append(path.name) or real(path, *rest)
    )
    prepare(run(), photos, tmp_path / "out", report=quiet)
    assert again == [f"shard-{i:05d}.safetensors" for i in range(after, 4)]  # nothing twice
    assert files(tmp_path / "out") == files(tmp_path / "whole")


def test_what_is_damaged_or_changed_is_made_anew(photos, tmp_path, monkeypatch):
    out = tmp_path / "out"
    prepare(run(), photos, out, report=quiet)
    whole = files(out)
    again: list[str] = []
    real = module.save_shard
    monkeypatch.setattr(
        module, "save_shard", lambda path, *rest: again.append(path.name) or real(path, *rest)
    )
    prepare(run(), photos, out, report=quiet)
    assert again == [] and files(out) == whole
    data = bytearray((out / "shard-00001.safetensors").read_bytes())
    data[-3] ^= 1  # safetensors would not see it
    (out / "shard-00001.safetensors").write_bytes(data)
    (out / "shard-00003.safetensors").write_bytes(b"cut")
    prepare(run(), photos, out, report=quiet)
    assert again == ["shard-00001.safetensors", "shard-00003.safetensors"] and files(out) == whole
    again.clear()
    picture(photos / "b" / "c.png", 64, 40, 99)  # another photograph under an old name
    prepare(run(), photos, out, report=quiet)
    assert again == ["shard-00001.safetensors"]
    assert load_file(out / again[0])["x_hq"][0].equal(load_rgb(photos / "b" / "c.png")[:, 4:36, :32])


def test_an_index_never_names_what_is_being_replaced(photos, tmp_path, monkeypatch):
    out = tmp_path / "out"
    prepare(run(), photos, out, report=quiet)
    picture(photos / "a.png", 70, 64, 99)

    def killed(*_):
        raise Killed

    monkeypatch.setattr(module, "save_shard", killed)
    with pytest.raises(Killed):
        prepare(run(), photos, out, report=quiet)
    assert not (out / "index.json").exists()


def test_a_folder_of_another_data_set_is_left_alone(photos, tmp_path):
    out = tmp_path / "out"
    prepare(run(), photos, out, report=quiet)
    before = files(out)
    for setting in ("data.patch=48", "data.latents=fp16", "data.usm_sharpen=true"):
        with pytest.raises(DataError, match=r"found one of .*: name another --out"):
            prepare(run(setting), photos, out, report=quiet)
    with pytest.raises(DataError, match="found a data set that is prepared"):
        prepare(run(), out, tmp_path / "twice", report=quiet)
    assert files(out) == before


# Bad photographs


def test_bad_photographs_are_named_skipped_and_counted(photos, tmp_path):
    (photos / "f.png").write_text("no image")
    picture(photos / "g.png", 31, 60, 0)
    (photos / "h.png").write_bytes((photos / "e.png").read_bytes()[:-200])  # its header is whole
    lines: list[str] = []
    prepare(run(), photos, tmp_path / "out", report=lines.append)
    skipped = [line for line in lines if line.startswith("skipped: ")]
    assert [line.split(": ")[1][-5] for line in skipped] == ["f", "g", "h", "h"]  # h spans two shards
    assert "2 of 7 images skipped" in lines and lines[-1].endswith("13 crops in 5 shards in "
                                                                   f"{tmp_path}/out, 6 left out")  # fmt: skip
    for shard, count in ((3, 2), (4, 1)):
        assert f"1 of {count} images of shard-{shard:05d}.safetensors skipped" in lines
    _, shards = read_index(tmp_path / "out")
    names = [name for shard in shards for name in shard["names"]]
    assert len(names) == 13 and not any(name[0] in "fgh" for name in names)
    assert shards[-1]["count"] == 0
    _, made = batch_list(run(), tmp_path / "out")  # a shard without crops is no obstacle
    assert len(made) == 6
    for name, kind in (("f", ImageError), ("g", DataError), ("h", ImageError)):
        only = tmp_path / name
        only.mkdir()
        for file in (photos / "a.png", photos / f"{name}.png"):
            shutil.copy(file, only)
        with pytest.raises(kind, match=rf"{name}\.png"):
            prepare(run("data.strict=true"), only, tmp_path / "strict", report=quiet)


def test_archives_give_the_bytes_of_their_folder(photos, tmp_path):
    prepare(run(), photos, tmp_path / "one", report=quiet)
    (tmp_path / "tars").mkdir()
    for name, members in (("x.tar", ["e.png", "a.png"]), ("y.tar", ["d.png", "b/c.png"])):
        with tarfile.open(tmp_path / "tars" / name, "w") as tar:
            for member in members:
                tar.add(photos / member, f"./{member}")
    prepare(run(), tmp_path / "tars", tmp_path / "two", report=quiet)
    assert files(tmp_path / "one") == files(tmp_path / "two")


# Training with it


def test_latents_in_training_are_those_of_a_fresh_encoding(photos, tmp_path, monkeypatch):
    prepare(run(), photos, tmp_path / "out", report=quiet)
    settings = run()
    rows = {}
    for file in sorted((tmp_path / "out").glob("*.safetensors")):
        tensors = load_file(file)
        rows |= {x.numpy().tobytes(): x for x in tensors["x_hq"]}
    encoded: list[Tensor] = []
    real = compact.encode
    monkeypatch.setattr(compact, "encode", lambda x: encoded.append(x) or real(x))
    _, made = batch_list(settings, tmp_path / "out")
    hq = [b.x_hq for b in made]
    assert not any(torch.equal(x, y) for x in encoded for y in hq)  # no second encoding
    seen = set()
    for batch in made:
        assert torch.equal(batch.z_hq, real(batch.x_hq))
        for x in batch.x_hq:
            key = ((x + 1) * 127.5).round().to(torch.uint8).numpy().tobytes()
            assert key in rows  # upright and unmirrored: its latent is fixed
            seen.add(key)
    assert len(seen) >= 8
    degraded = Pairs(Photographs(tmp_path / "out", 0.0).train, settings.data, 0)
    assert torch.equal(made[1].x_lq[2], degraded[6][0])


def test_samples_do_not_depend_on_workers_or_processes(photos, tmp_path):
    prepare(run(), photos, tmp_path / "out", report=quiet)
    _, alone = batch_list(run(), tmp_path / "out")
    _, worked = batch_list(run("data.workers=2"), tmp_path / "out")
    halves = [batch_list(run(), tmp_path / "out", rank=rank, world=2)[1] for rank in range(2)]
    for i, batch in enumerate(alone):
        for name in ("x_lq", "x_hq", "z_hq"):
            expected = getattr(batch, name)
            assert torch.equal(getattr(worked[i], name), expected)
            for rank in range(2):
                assert torch.equal(getattr(halves[rank][i], name), expected[rank::2])


def test_degradation_on_the_run_s_device(photos, tmp_path):
    """The same ground truth; other noise, and the same whoever reads the photographs."""
    prepare(run(), photos, tmp_path / "out", report=quiet)
    for data, setting in ((photos, "false"), (tmp_path / "out", "false"), (photos, "true")):
        usual = ["train.steps=2", f"data.usm_sharpen={setting}"]
        _, here = batch_list(run(*usual), data)
        there, again = (
            batch_list(run(*usual, "data.degrade_on=device", f"data.workers={workers}"), data)[1]
            for workers in ("0", "1")
        )
        for batches in zip(here, there, again, strict=True):
            for name in ("x_lq", "x_hq", "z_hq"):
                expected, found, same = (getattr(batch, name) for batch in batches)
                assert torch.equal(found, same)
                assert torch.equal(expected, found) == (name != "x_lq")


def test_hold_out_is_by_photograph_in_prepared_data_too(photos, tmp_path):
    (photos / "manifest.csv").write_text("file,repo,path\na.png,r,same\nd.png,r,same\n")
    prepare(run(), photos, tmp_path / "out", report=quiet)
    for share in (0.1, 0.3, 0.5, 0.7, 0.9):
        try:
            plain, made = Photographs(photos, share), Photographs(tmp_path / "out", share)
        except DataError:
            continue
        for side in ("train", "held_out"):
            names = {crop.name.split("@")[0] for crop in getattr(made, side)}
            assert names == {plain.names[photo] for photo in getattr(plain, side)}
            assert not {"a.png", "d.png"} & names or {"a.png", "d.png"} <= names


def test_the_digest_names_prepared_data(photos, tmp_path):
    prepare(run(), photos, tmp_path / "one", report=quiet)
    prepare(run(), photos, tmp_path / "two", report=quiet)
    prepare(run("data.latents=fp16"), photos, tmp_path / "three", report=quiet)
    one, two, three = (Photographs(tmp_path / n, 0.0).digest() for n in ("one", "two", "three"))
    assert one == two != three and len(one) == 64
    (tmp_path / "two" / "shard-00002.safetensors").unlink()
    assert Photographs(tmp_path / "two", 0.0).digest() != one


@pytest.mark.parametrize(
    "settings,message",
    [
        (["train.init=compact-teacher", "base.widths=[32,48,64]", "base.blocks=[2,2,3]"],
         "found latents of another model"),
        (["data.patch=48"], "expected data.patch 48, found data prepared with 32: set data.patch=32"),
        (["data.usm_sharpen=true"], "set data.usm_sharpen=false, or prepare them again"),
        (['data.degradations={"faces": 1.0}'], "of scale 4, the base's, found 1"),
        (["data.prompts=true"], "takes no text"),
    ],
)  # fmt: skip
def test_data_that_does_not_go_with_the_run(photos, tmp_path, settings, message):
    prepare(run(), photos, tmp_path / "out", report=quiet)
    changed = run(*settings)
    pairs = Pairs(Photographs(tmp_path / "out", 0.0).train, changed.data, 0)
    with pytest.raises((ConfigError, DataError), match=message):
        make_batches(Opened(changed, find(changed), CompactBase(CompactDenoiser(run().base))), pairs, CPU)


def test_prepared_faces_stay_in_colour(photos, tmp_path, monkeypatch):
    """A grey pair would not go with its latent."""
    monkeypatch.setitem(DEGRADATIONS, "faces", FaceDegradation(gray_prob=1.0))
    prepare(run(), photos, tmp_path / "out", report=quiet)
    config = run('data.degradations={"faces": 1.0}').data
    for data, grey in ((photos, True), (tmp_path / "out", False)):
        _, x_hq = Pairs(Photographs(data, 0.0).train, config, 0)[0]
        assert torch.equal(x_hq, x_hq[:1].expand_as(x_hq)) == grey


def test_a_corrupt_shard_costs_its_samples_alone(photos, tmp_path):
    out = tmp_path / "out"
    prepare(run(), photos, out, report=quiet)
    (out / "shard-00001.safetensors").write_bytes(b"")
    lines: list[str] = []
    left = Photographs(out, 0.0, report=lines.append)
    assert len(left.train) == 9 and lines[1] == "1 of 4 shards skipped"
    with pytest.raises(DataError, match=r"shard-00001\.safetensors"):
        Photographs(out, 0.0, strict=True)
    _, made = batch_list(run(), out)
    assert len(made) == 6


# Texts


@pytest.fixture(scope="module")
def sd21(tmp_path_factory) -> Path:
    pytest.importorskip("diffusers")
    import tinies

    return tinies.write("sd21", tmp_path_factory.mktemp("bases") / "sd21")


@pytest.fixture
def told(photos, tmp_path, monkeypatch) -> Path:
    """The photographs, two of four with a text."""
    monkeypatch.setenv("UNISTEP_HOME", str(tmp_path / "home"))
    (photos / "a.txt").write_text("a red\n  cat ")
    (photos / "b" / "c.txt").write_text("ein Hündchen", encoding="utf-8")
    return photos


def sd21_run(init: Path, *settings: str) -> Run:
    from unistep.bases.sd21.network import SD21Config
    from unistep.methods import DFOSDConfig

    base = SD21Config(prompt="good", rank=2, rank_encoder=0)
    own = Run("test", base, DFOSDConfig(), run().data, run().train)
    return override(
        own, [f"train.init={init}", "data.prompts=true", "data.patch=64", "train.steps=2", *settings]
    )


def expected_texts(batch: Batch, data: Path) -> list[str]:
    """What each sample of a batch should have been told, by its pixels alone."""
    texts = {"a.png": "a red cat", "b/c.png": "ein Hündchen"}
    found = []
    for x in batch.x_hq:
        pixels = ((x + 1) * 127.5).round().to(torch.uint8)
        for name in ("a.png", "b/c.png", "d.png", "e.png"):
            image = load_rgb(data / name)
            windows = image.unfold(1, 64, 1).unfold(2, 64, 1).permute(1, 2, 0, 3, 4).reshape(-1, 3, 64, 64)
            turns = [torch.rot90(pixels, k, (1, 2)) for k in range(4)]
            if any((windows == turn).all((1, 2, 3)).any() for t in turns for turn in (t, t.flip(2))):
                found.append(texts.get(name, "good"))
                break
    return found


@pytest.mark.parametrize("workers", ["0", "2"])
def test_every_sample_is_told_its_own_text(told, tmp_path, sd21, workers):
    for name in ("b/c.png", "d.png"):
        picture(told / name, 66, 65, ord(name[0]))
    settings = sd21_run(sd21, f"data.workers={workers}", "train.steps=3")
    prepare(settings, told, tmp_path / "out", report=quiet)
    seen = set()
    for data in (told, tmp_path / "out"):
        base, made = batch_list(settings, data)
        for batch in made:
            texts = expected_texts(batch, told)
            assert len(texts) == 4
            seen |= set(texts)
            wanted = base.told(batch.cond, texts)
            assert torch.equal(batch.told.prompt, wanted.prompt) and len(batch.told.prompt) == 4
            assert torch.equal(batch.cond.prompt, base.cond(batch.x_lq).prompt)  # the student's is the base's
    assert seen == {"a red cat", "ein Hündchen", "good"}


def test_prepared_data_train_a_base_without_text_encoders(told, tmp_path, sd21, monkeypatch):
    """And its latents are those of the encoder, to the rounding of sums."""
    picture(told / "b" / "c.png", 66, 65, 1)
    settings, out = sd21_run(sd21), tmp_path / "out"
    lines: list[str] = []
    prepare(settings, told, out, report=lines.append)
    assert len(list((out / "prompts").iterdir())) == 4  # base.prompt, base.negative and two texts
    silent = tmp_path / "silent"
    shutil.copytree(sd21, silent, ignore=shutil.ignore_patterns("text_encoder", "tokenizer"))
    monkeypatch.setenv("UNISTEP_HOME", str(tmp_path / "elsewhere"))
    base, made = batch_list(sd21_run(silent), out)
    for batch in made:
        torch.testing.assert_close(batch.z_hq, base.encode(batch.x_hq), atol=1e-4, rtol=1e-4)
    assert not (tmp_path / "elsewhere").exists()
    photographs = Photographs(out, 0.0)
    Pairs(photographs.train, settings.data, 0).preload(lines.append)
    assert lines[-1] == "1 of 3 images have no text of their own: base.prompt stands for it"


def test_bad_texts(told, tmp_path, sd21):
    (told / "b" / "c.png").unlink()
    (told / "d.txt").write_bytes(b"\xff\xfe\xff")
    (told / "e.txt").write_bytes(b"x" * 70_000)
    picture(told / "d.png", 70, 70, 3)
    lines: list[str] = []
    prepare(sd21_run(sd21), told, tmp_path / "out", report=lines.append)
    assert any("d.png: expected its text to be UTF-8" in line for line in lines)
    assert any("e.png: expected its text to be UTF-8 of at most 65536 bytes" in line for line in lines)
    with pytest.raises(DataError, match=r"d\.png: expected its text"):
        prepare(sd21_run(sd21, "data.strict=true"), told, tmp_path / "strict", report=quiet)
    with pytest.raises(ConfigError, match="takes no text"):
        prepare(run("data.prompts=true"), told, tmp_path / "compact", report=quiet)


# The command


def test_the_command_hands_over(photos, tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr("unistep.training.prepare.main", lambda *given: calls.append(given))
    app = App(result_action="return_value")
    app.command(command)
    line = f"prepare r --data {photos} --out {tmp_path} --set a.b=1 --crops 3 --embedding e --strict"
    assert app(line.split(), exit_on_error=False) == 0
    assert calls[0][:6] == ("r", photos, tmp_path, ["a.b=1", "data.strict=true"], 3, (Path("e"), None))


def test_main(photos, tmp_path, monkeypatch):
    lines: list[str] = []
    ticks = []
    main("compact-teacher", photos, tmp_path / "out", SMALL, 1, report=lines.append,
         tick=lambda *given: ticks.append(given))  # fmt: skip
    assert lines == [f"4 crops in 1 shards in {tmp_path / 'out'}"] and ticks == [(1.0, "1/1 shards")]
    with pytest.raises(ConfigError, match="expected --crops to be 1 or more, found 0"):
        main("compact-teacher", photos, tmp_path / "out", SMALL, 0)
    with pytest.raises(ConfigError, match="expected no --embedding with a recipe on the base compact"):
        main("compact-teacher", photos, tmp_path / "out", SMALL, given=(photos, None))
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written"):
        main("compact-teacher", photos, tmp_path / "file", SMALL, report=quiet)
    header = shard_header(tmp_path / "out" / "shard-00000.safetensors")
    assert header["rows"] == [0, 1, 2, 3]
    index = json.loads((tmp_path / "out" / "index.json").read_text())
    assert index["data"]["images"] == 4
