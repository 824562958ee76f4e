"""`unistep prepare` for a method that learns from a restorer: pairs as training would make them, once."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState, PartialState
from PIL import Image
from safetensors.torch import load_file, save_file

from unistep.bases.compact import base as compact
from unistep.bases.compact.network import CompactConfig, CompactDenoiser
from unistep.data.degrade import Draw, degrade
from unistep.data.filters import usm_sharpen
from unistep.data.pairs import Pairs, Photographs
from unistep.data.presets import DEGRADATIONS, FaceDegradation
from unistep.data.shards import read_index, save_index
from unistep.data.sources import load_rgb
from unistep.errors import ConfigError, DataError, UnistepError
from unistep.models.checkpoint import load_student
from unistep.recipes.config import Run, override
from unistep.recipes.recipes import recipe
from unistep.tensors import read_header, read_tensors, save_weights, sha256
from unistep.training import loop, opening, progress, smoke
from unistep.training import prepare as module
from unistep.training.batches import make_batches
from unistep.training.loop import fit
from unistep.training.opening import find, open_run
from unistep.training.prepare import prepare
from unistep.training.runfolder import STATE, WEIGHTS
from unistep.training.targets import make_pairs

CPU = torch.device("cpu")
SMALL = [
    "base.widths=[8,8,8]", "base.blocks=[1,1,1]", "data.patch=32", "data.shard=4", "data.workers=0",
    "data.holdout=0", "data.uses=1", "data.draws=2", "train.batch=4", "train.steps=10", "train.warmup=0",
    "train.precision=fp32", "train.early=[]", "train.plain=", "train.save_every=2", "train.validate_every=4",
]  # fmt: skip
PARTS = ("x_lq", "x_hq", "restored")


def quiet(_: str) -> None: ...


def picture(path: Path, width: int, height: int, seed: int) -> None:
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), np.uint8)
    Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).save(path)


@pytest.fixture(autouse=True)
def cheap(monkeypatch):
    """Without the distance that costs a hundred times what a tiny step costs."""
    monkeypatch.setattr(progress, "swd", lambda image, reference: (image - reference).abs().mean((1, 2, 3)))
    yield
    AcceleratorState._reset_state()
    PartialState._reset_state()


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """4 + 2 + 1 crops of 32 pixels, of which come 14 pairs."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for i, (name, width, height) in enumerate([("a.png", 70, 64), ("b.png", 64, 40), ("c.png", 33, 35)]):
        picture(folder / name, width, height, i)
    return folder


@pytest.fixture
def run(tmp_path):
    """The recipe on a tiny base, with a tiny restorer."""
    torch.manual_seed(0)
    table = override(recipe("compact-teacher"), SMALL[:2]).to_dict()
    state = CompactDenoiser(CompactConfig((8, 8, 8), (1, 1, 1))).state_dict()
    start = tmp_path / "start.safetensors"
    save_weights(start, state, {"run": table, "history": []}, torch.float32)
    named = [f"train.init={start}", f"train.restorer={smoke.restorer(tmp_path)}"]
    return lambda *more, name="compact-distilled": override(
        recipe(name), [*SMALL, *(named if name == "compact-distilled" else named[:1]), *more]
    )


def files(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir()}


def rows(folder: Path) -> dict[str, tuple[torch.Tensor, ...]]:
    """Name -> x_lq, x_hq, restored."""
    found = {}
    for shard in read_index(folder)[1]:
        tensors = load_file(folder / shard["file"])
        assert tensors.keys() == {*PARTS} and all(x.dtype == torch.uint8 for x in tensors.values())
        found |= {name: tuple(tensors[part][i] for part in PARTS) for i, name in enumerate(shard["names"])}
    return found


def batch_list(settings: Run, data: Path, start: int = 0, **more):
    photographs = Photographs(data, settings.data.holdout)
    opened = open_run(settings, CPU, photographs)
    length = settings.train.batch * settings.train.steps - start
    pairs = Pairs(photographs.train, settings.data, 0, start, length)
    pairs.preload()
    return list(make_batches(opened, pairs, CPU, **more))


def turns(x: torch.Tensor) -> list[torch.Tensor]:
    quarters = [torch.rot90(x, k, (-2, -1)) for k in range(4)]
    return [*quarters, *(quarter.flip(-1) for quarter in quarters)]


# What is written


def test_rows_are_the_pairs_of_their_places(run, photos, tmp_path):
    lines: list[str] = []
    prepare(run("train.seed=3"), photos, tmp_path / "out", report=lines.append)
    assert lines[-1] == f"14 pairs in 4 shards in {tmp_path / 'out'}"
    net, config, used = load_student(tmp_path / "restorer.safetensors"), run().data, set()
    presets = [name for name in DEGRADATIONS if name in config.degradations]
    found = rows(tmp_path / "out")
    assert [name[-2:] for name in found] == ["#0", "#1"] * 7
    for place, (name, (x_lq, x_hq, restored)) in enumerate(found.items()):
        file, where = name[:-2].split("@")
        top, left = map(int, where.split(","))
        x = load_rgb(photos / file)[:, top : top + 32, left : left + 32]
        preset = presets[Draw(3, place).pick(tuple(config.degradations[name] for name in presets))]
        lq, _ = degrade(x[None] / 255, preset, seed=4, indices=[place])
        assert torch.equal(x_hq, x) and torch.equal(x_lq / 255, lq[0])
        with torch.no_grad():
            expected = (net(lq * 2 - 1).clamp(-1, 1) + 1) * 127.5
        assert (restored - expected[0]).abs().max() <= 0.51
        used.add(preset)
    assert len(used) > 1 and not torch.equal(found["a.png@0,0#0"][0], found["a.png@0,0#1"][0])
    size = (tmp_path / "out" / "shard-00000.safetensors").stat().st_size
    assert 0 < size - 4 * 3 * (2 * 32 * 32 + 8 * 8) < 600  # the bytes that the documentation gives


def test_one_pair_does_not_depend_on_the_others(run, photos, tmp_path):
    """Nor on how many a shard holds, nor on a photograph that does not decode."""
    prepare(run(), photos, tmp_path / "out", report=quiet)
    prepare(run("data.shard=5"), photos, tmp_path / "fives", report=quiet)
    (photos / "b.png").write_bytes((photos / "b.png").read_bytes()[:-900])  # its header is whole
    prepare(run(), photos, tmp_path / "without", report=quiet)
    whole, fives, without = (rows(tmp_path / name) for name in ("out", "fives", "without"))
    assert list(whole) == list(fives) and len(without) == 10 and {*without} < {*whole}
    for found in (fives, without):
        for name, parts in found.items():
            assert all(map(torch.equal, parts, whole[name])), name


def test_the_same_crops_as_without_pairs(run, photos):
    few = module.plan(Photographs(photos, 0.0), run("data.draws=3"), 2, quiet)
    plain = module.plan(Photographs(photos, 0.0), run("data.draws=1", name="compact-sharp"), 2, quiet)
    assert [cut.name for cut in few] == [f"{cut.name}#{k}" for cut in plain for k in range(3)]


def test_sharpened_truth_is_rounded(run, photos, tmp_path):
    settings = run("data.usm_sharpen=true", 'data.degradations={"bicubic": 1.0}')
    prepare(settings, photos, tmp_path / "out", report=quiet)
    for name, (x_lq, x_hq, _) in rows(tmp_path / "out").items():
        top, left = map(int, name[:-2].split("@")[1].split(","))
        x = load_rgb(photos / name[:5])[None, :, top : top + 32, left : left + 32] / 255
        assert torch.equal(x_hq, (usm_sharpen(x)[0] * 255).round().to(torch.uint8))
        assert torch.equal(x_lq / 255, degrade(x, "bicubic", seed=0, indices=[0], usm=True)[0][0])
    assert len(batch_list(settings, tmp_path / "out")) == 10


def test_a_grey_pair_is_grey_on_both_sides(run, monkeypatch):
    """Scale 1: faces. No latent is fixed that would have to stay in colour."""
    monkeypatch.setitem(DEGRADATIONS, "faces", FaceDegradation(gray_prob=1.0))
    x = torch.randint(256, (5, 3, 32, 32), dtype=torch.uint8)
    made = make_pairs(x, range(5), run('data.degradations={"faces": 1.0}'), lambda x: x, CPU)
    assert [tuple(made[name].shape) for name in PARTS] == [(5, 3, 32, 32)] * 3
    for name in PARTS:
        assert torch.equal(made[name], made[name][:, :1].expand_as(x))
    assert torch.equal(made["restored"], made["x_lq"])


# Resuming


@pytest.mark.parametrize("after", [0, 2])
def test_a_killed_prepare_goes_on_to_the_same_bytes(run, photos, tmp_path, monkeypatch, after):
    prepare(run(), photos, tmp_path / "whole", report=quiet)
    real, written, out = module.save_shard, [], tmp_path / "out"

    def save(path, *contents):
        if len(written) == after:
            raise InterruptedError
        written.append(path.name)
        real(path, *contents)

    with monkeypatch.context() as patch, pytest.raises(InterruptedError):
        patch.setattr(module, "save_shard", save)
        prepare(run(), photos, out, report=quiet)
    again: list[str] = []
    monkeypatch.setattr(
        module, "save_shard", lambda path, *rest: again.append(path.name) or real(path, *rest)
    )
    prepare(run(), photos, out, report=quiet)
    assert again == [f"shard-{i:05d}.safetensors" for i in range(after, 4)]
    assert files(out) == files(tmp_path / "whole")
    again.clear()
    (out / "shard-00001.safetensors").write_bytes(b"cut")
    prepare(run(), photos, out, report=quiet)
    assert again == ["shard-00001.safetensors"] and files(out) == files(tmp_path / "whole")


def test_a_folder_of_another_data_set_is_left_alone(run, photos, tmp_path):
    out = tmp_path / "out"
    prepare(run(), photos, out, report=quiet)
    before = files(out)
    for setting in ("train.seed=1", "data.draws=3", 'data.degradations={"light": 1.0}', "data.patch=16"):
        with pytest.raises(DataError, match=r"found one of .*: name another --out"):
            prepare(run(setting), photos, out, report=quiet)
    shares = run().data.degradations
    turned = json.dumps(dict(reversed(shares.items())))
    for same in ("data.latents=fp16", "train.lr=1", f"data.degradations={turned}", "train.precision=bf16"):
        prepare(run(same), photos, out, report=quiet)
    other = {name: t + 1 for name, t in read_tensors(tmp_path / "restorer.safetensors").items()}
    with pytest.raises(DataError, match=r"found one of .*: name another --out"):
        prepare(changed(run(), tmp_path, other), photos, out, report=quiet)
    assert files(out) == before


def changed(settings: Run, folder: Path, tensors: dict[str, torch.Tensor]) -> Run:
    """The run with another restorer."""
    save_file(tensors, folder / "other.safetensors")
    return override(settings, [f"train.restorer={folder / 'other.safetensors'}"])


@pytest.mark.parametrize(
    ("settings", "name", "message"),
    [
        ([], "compact-sharp", r"expected data\.draws to be 1 for compact-sharp, .* found 2: leave it out"),
        (['data.degradations={"faces": 1.0}'], "compact-distilled", "of scale 4, the base's, found 1"),
        (["train.restorer="], "compact-distilled", r"expected train\.restorer to name a one-step model"),
    ],
)
def test_what_cannot_be_made(run, photos, tmp_path, settings, name, message):
    with pytest.raises(ConfigError, match=message):
        prepare(run(*settings, name=name), photos, tmp_path / "out", report=quiet)
    assert not (tmp_path / "out").exists()


# Training with it


@pytest.fixture
def out(run, photos, tmp_path, monkeypatch) -> Path:
    """The pairs; from here on nothing may be degraded or restored."""
    prepare(run(), photos, tmp_path / "out", report=quiet)

    def refuse(*_, **__):
        pytest.fail("made anew")

    monkeypatch.setattr("unistep.data.pairs.degrade", refuse)
    monkeypatch.setattr(opening, "Restore", refuse)
    return tmp_path / "out"


@pytest.mark.parametrize("upright", [False, True])
@pytest.mark.parametrize("where", ["cpu", "device"])
def test_batches_are_the_rows_turned_as_a_whole(run, out, upright, where):
    every = {}
    for parts in rows(out).values():
        for turn, together in enumerate(zip(*map(turns, parts), strict=True)):
            every[together[1].numpy().tobytes(), together[0].numpy().tobytes()] = (turn, together[2], parts)
    seen, used = Counter(), set()
    settings = run(f"data.rotations={str(not upright).lower()}", f"data.degrade_on={where}", "train.steps=20")
    for batch in batch_list(settings, out):
        assert torch.equal(batch.z_hq, compact.encode(batch.x_hq))
        stored = [((x + 1) * 127.5).round().to(torch.uint8) for x in (batch.x_lq, batch.x_hq)]
        for x_lq, x_hq, restored in zip(*stored, batch.restored, strict=True):
            turn, expected, parts = every[x_hq.numpy().tobytes(), x_lq.numpy().tobytes()]
            assert torch.equal(restored, expected.float() / 255 * 2 - 1)
            seen[turn] += 1
            used.add(parts[0].numpy().tobytes())
        assert torch.equal(batch.x_lq, stored[0].float() / 255 * 2 - 1)
    assert {*seen} == ({0, 4} if upright else {*range(8)}) and len(used) == 14


@pytest.mark.parametrize("uses", [1, 2])
def test_samples_do_not_depend_on_workers_processes_or_the_start(run, out, uses, monkeypatch):
    monkeypatch.setattr("unistep.data.again.WINDOW", 8)
    monkeypatch.setattr("unistep.data.again.STEPS", 1)
    settings = run(f"data.uses={uses}")
    alone = batch_list(settings, out)
    worked = batch_list(run(f"data.uses={uses}", "data.workers=2"), out)
    halves = [batch_list(settings, out, rank=rank, world=2) for rank in range(2)]
    later = batch_list(settings, out, start=12)
    assert len(alone) == 10 and len(later) == 7
    for i, batch in enumerate(alone):
        for name in (*PARTS, "z_hq"):
            expected = getattr(batch, name)
            assert torch.equal(getattr(worked[i], name), expected)
            assert i < 3 or torch.equal(getattr(later[i - 3], name), expected)
            for rank in range(2):
                assert torch.equal(getattr(halves[rank][i], name), expected[rank::2])


def test_four_plus_six_steps_are_ten(run, out, tmp_path, monkeypatch):
    whole, parts, save = tmp_path / "whole", tmp_path / "parts", loop.save_state
    monkeypatch.setattr(progress.Validation, "least", 32)  # and 64 pixels are the least for the grid
    monkeypatch.setattr(progress, "grid", lambda image: image.mean((1, 2, 3)))
    fit(run(), out, whole, quiet)

    def stopping(path, table, step, *rest):
        save(path, table, step, *rest)
        if step == 4:
            raise InterruptedError

    AcceleratorState._reset_state()
    with monkeypatch.context() as patch, pytest.raises(InterruptedError):
        patch.setattr(loop, "save_state", stopping)
        fit(run(), out, parts, quiet)
    AcceleratorState._reset_state()
    weights = fit(run(), out, parts, quiet)
    for name in (STATE, WEIGHTS, "losses.csv"):
        assert (whole / name).read_bytes() == (parts / name).read_bytes()
    assert read_header(weights)["restorer"]["sha256"] == sha256(tmp_path / "restorer.safetensors")


def test_held_out_pairs_are_scored_once_and_by_photograph(run, out):
    for share, names in ((0.36, "c"), (0.4, "bc")):
        photographs = Photographs(out, share)
        held = [crop.name for crop in photographs.held_out]
        assert all(name.endswith("#0") for name in held) and {name[0] for name in held} == {*names}
        assert len(photographs.train) + 2 * len(held) == 14
        assert not {crop.photograph[0] for crop in photographs.train} & {*names}


def test_a_damaged_shard_costs_its_samples_alone(run, out):
    (out / "shard-00001.safetensors").write_bytes(b"")
    lines: list[str] = []
    assert len(Photographs(out, 0.0, report=lines.append).train) == 10
    assert lines[1] == "1 of 4 shards skipped" and len(batch_list(run(), out)) == 10
    with pytest.raises(DataError, match=r"shard-00001\.safetensors"):
        Photographs(out, 0.0, strict=True)


# What does not go together


def test_targets_of_another_file(run, out, tmp_path):
    """One sentence, before the first step."""
    tensors = read_tensors(tmp_path / "restorer.safetensors")
    settings = changed(run(), tmp_path, {name: t + 1 for name, t in tensors.items()})
    with pytest.raises(UnistepError, match="found targets made by another file than the one named") as caught:
        fit(settings, out, tmp_path / "run", quiet)
    assert "\n" not in str(caught.value) and not (tmp_path / "run").exists()
    assert str(sha256(tmp_path / "restorer.safetensors")) in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "name", "message"),
    [
        (["data.patch=48"], "compact-distilled", r"expected data\.patch 48, found data prepared with 32"),
        (["data.usm_sharpen=true"], "compact-distilled", r"set data\.usm_sharpen=false, or prepare them"),
        (["train.restorer="], "compact-distilled", r"expected train\.restorer to name a one-step model"),
        ([], "compact-sharp", "for compact-sharp, whose method learns from no restorer, found pairs with"),
    ],
)
def test_runs_that_pairs_are_not_for(run, out, tmp_path, settings, name, message):
    with pytest.raises(UnistepError, match=message) as caught:
        fit(run(*settings, name=name), out, tmp_path / "run", quiet)
    assert "\n" not in str(caught.value) and not (tmp_path / "run" / "run.json").exists()


def test_another_seed_or_mix_is_no_obstacle(run, out):
    """What is drawn in training is another matter than what the pairs were drawn from."""
    assert len(batch_list(run("train.seed=9", 'data.degradations={"light": 1.0}', "data.draws=1"), out)) == 10


def test_pairs_of_another_scale(run, out):
    made, shards = read_index(out)
    table = {**made.to_dict(), "degradations": [["faces", 1.0]]}
    save_index(out, type(made).from_dict(table), shards, {})
    with pytest.raises(DataError, match="expected pairs of scale 4, the base's, found scale 1"):
        batch_list(run(), out)


def test_latents_are_degraded_and_restored_on_the_way(run, photos, tmp_path):
    """A data set of latents trains a method with a restorer as it always did."""
    prepare(run("data.draws=1", name="compact-sharp"), photos, tmp_path / "latents", report=quiet)
    restore = opening.Restore(find(run())["train.restorer"], 4, CPU, "fp32")
    latents = run("data.usm_sharpen=" + str(recipe("compact-sharp").data.usm_sharpen).lower())
    for batch in batch_list(latents, tmp_path / "latents"):
        assert torch.equal(batch.restored, restore(batch.x_lq))


def test_earlier_runs_keep_their_tables(run):
    assert "draws" not in recipe("compact-distilled").to_dict()["data"]
    table = run().to_dict()
    assert table["data"]["draws"] == 2 and Run.from_dict(json.loads(json.dumps(table))) == run()
    with pytest.raises(ConfigError, match=r"data\.draws"):
        run("data.draws=0")
