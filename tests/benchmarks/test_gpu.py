"""Ready for a GPU: what is packed, what is planned, and a rehearsal on the CPU."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from itertools import pairwise
from pathlib import Path

import gpu
import packs
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from unistep.bases.tiny import pictures
from unistep.data.again import place, window
from unistep.data.pairs import Photographs
from unistep.image import Picture, write_image
from unistep.models.checkpoint import load_student
from unistep.recipes.recipes import recipe
from unistep.tensors import read_header
from unistep.training import smoke

SCRIPT = Path(gpu.__file__).with_name("gpu.sh")
COUNT = 12


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photographs")
    for i, x in enumerate(pictures(COUNT, 160, seed=2)):
        picture = Picture((x.permute(1, 2, 0) / 2 + 0.5).contiguous().numpy())
        write_image(folder / f"{i}.png", picture)
    return folder


@pytest.fixture(scope="module")
def restorers(tmp_path_factory):
    made = []
    for name in ("small", "large"):
        folder = tmp_path_factory.mktemp(name)
        made.append(str(smoke.restorer(folder).rename(folder / f"{name}.safetensors")))
    return made


@pytest.fixture(scope="module")
def packed(photos, restorers, tmp_path_factory):
    out = tmp_path_factory.mktemp("packs") / "pack"
    packs.pack(photos, restorers, out)
    return out


def test_a_pack_opens_and_is_evenly_chosen(photos, restorers, packed, tmp_path):
    found = packs.Pack.open(packed)
    assert [file.name for file in found.restorers] == ["small.safetensors", "large.safetensors"]
    for file, name in zip(found.restorers, restorers, strict=True):
        wanted = load_file(name)
        assert all(torch.equal(t, wanted[key].half()) for key, t in load_file(file).items())
        assert load_student(file)(torch.zeros(1, 3, 8, 8)).shape == (1, 3, 32, 32)
    whole = Photographs(photos, recipe(packs.RECIPE).data.holdout)
    kept = Photographs(found.photographs, 0.0)
    assert len(kept.train) == len(whole.train) < COUNT  # those held out stay here
    files = {file.name: file.read_bytes() for file in found.photographs.glob("*.webp")}
    most = sum(sorted(map(len, files.values()))[-3:]) + 300
    few = packs.pack(photos, restorers[:1], tmp_path / "few", most=most)
    chosen = sorted(tmp_path.glob("few/photographs/*.webp"))
    assert 3 <= few < len(files) and len(packs.Pack.open(tmp_path / "few").restorers) == 1
    assert [file.name for file in chosen] == sorted(files)[:few]  # whichever fit, by their hashes
    assert packs.size(tmp_path / "few" / "photographs") <= most


def test_crops_of_large_photographs(tmp_path):
    Image.effect_noise((900, 700), 60).convert("RGB").save(tmp_path / "a.png")
    Image.new("RGB", (900, 100)).save(tmp_path / "narrow.png")
    names = [("0" * 16 + "ab", tmp_path / "a.png"), ("1" * 16, tmp_path / "narrow.png")]
    [(name, image)] = packs.encoded(names, 160)
    (tmp_path / "a.webp").write_bytes(image)
    with Image.open(tmp_path / "a.webp") as crop:
        assert name == names[0] and crop.size == (packs.SIDE, packs.SIDE)


def test_crops_of_one_photograph_stay_together(photos, restorers, tmp_path):
    whose = {f"{i}.png": str(i // 3) for i in range(COUNT)}
    rows = [("file", "repo", "path"), *((file, "r", path) for file, path in whose.items())]
    folder = tmp_path / "crops"
    folder.mkdir()
    for file in whose:
        (folder / file).symlink_to(photos / file)
    with (folder / "manifest.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    packs.pack(folder, restorers, tmp_path / "pack")
    groups = [
        sorted(map(list(p.photograph.values()).count, set(p.photograph.values())))
        for p in (Photographs(tmp_path / "pack" / "photographs", 0.0),)
    ]
    assert set(groups[0]) == {3}


def test_what_does_not_fit_is_refused(photos, restorers, tmp_path):
    for limit, most in ((1000, 40e6), (60e6, 100)):
        with pytest.raises(SystemExit, match=r"expected room for photographs within \d+\.\d MB, found"):
            packs.pack(photos, restorers, tmp_path / "pack", most=most, limit=limit)
        assert not (tmp_path / "pack").exists()
    packs.pack(photos, restorers, tmp_path / "pack", limit=40_000)
    assert packs.size(tmp_path / "pack") <= 40_000
    with pytest.raises(SystemExit, match="to be new, found it there"):
        packs.pack(photos, restorers, tmp_path / "pack")
    with pytest.raises(SystemExit, match="expected a pack"):
        packs.Pack.open(photos)


def test_wheels_travel_without_codecs(tmp_path, photos, restorers):
    record = "imagecodecs/a.py,,\nimagecodecs/_x.abi3.so,,\n"
    (tmp_path / "wheels").mkdir()
    for name in ("imagecodecs-1-py3-none-any.whl", "other-1-py3-none-any.whl"):
        with zipfile.ZipFile(tmp_path / "wheels" / name, "w") as wheel:
            for file in ("imagecodecs/a.py", "imagecodecs/_x.abi3.so", "imagecodecs.libs/y.so.1"):
                wheel.writestr(file, "1")
            wheel.writestr("imagecodecs-1.dist-info/RECORD", record)
    packs.pack(photos, restorers, tmp_path / "pack", tmp_path / "wheels")
    thin, other = (zipfile.ZipFile(file) for file in sorted(tmp_path.glob("pack/wheels/*.whl")))
    assert thin.namelist() == ["imagecodecs/a.py", "imagecodecs-1.dist-info/RECORD"]
    assert thin.read("imagecodecs-1.dist-info/RECORD") == b"imagecodecs/a.py,,\n"
    assert len(other.namelist()) == 4
    thin.close(), other.close()


@pytest.mark.parametrize("seconds,step,opening,judging", [
    (500, 0.01, 10, 5), (500, 0.3, 30, 20), (200, 2.0, 5, 1), (60, 0.05, 5, 2),
])  # fmt: skip
def test_what_is_planned_fits(seconds, step, opening, judging):
    """And uses the time: a few steps more, and it would not."""
    steps, every = gpu.planned(seconds, step, opening, judging)

    def needed(steps):
        return opening + steps * step + -(-steps // every) * judging

    assert step * every <= gpu.EVERY
    assert needed(steps) <= seconds
    assert needed(steps) >= gpu.MARGIN * seconds - judging - step


@pytest.mark.parametrize("batch", gpu.BATCHES)
def test_pairs_come_again_where_they_were_made(batch):
    count = gpu.workers(batch, 4, 16)
    made = {}
    for position in range(0, 4 * window(batch), batch):
        index, time_before = place(position, 4, window(batch))
        made.setdefault(index, set()).add(position // batch % count)
        assert time_before < 4
    assert all(len(whose) == 1 for whose in made.values()) and 4 <= count <= 14
    assert gpu.workers(batch, 1, 16) == 14 and gpu.workers(batch, 4, 1) == 1


def start(packed, out, *options):
    """The script on the CPU, with tiny sizes."""
    command = [
        "bash", str(SCRIPT), str(packed), str(out), "5", "--cpu", "--batches", "2", "--probe", "0",
        "--set", "train.precision=fp32", "--set", "data.patch=32", "--set", "train.validate_every=2",
        *options,
    ]  # fmt: skip
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        env={**os.environ, "PYTHON": sys.executable},
    )  # fmt: skip


def test_a_rehearsal(packed, tmp_path):
    out = tmp_path / "out"
    process = start(packed, out, "--steps", "2")
    said, _ = process.communicate()
    assert process.returncode == 0, said
    names = {file.name for file in out.iterdir()}
    assert names == {"stage1.safetensors", "stage2.safetensors", "losses.csv", "report.json", "log.txt"}
    report = json.loads((out / "report.json").read_text())
    assert [(part["steps"], part["finished"]) for part in report["stages"]] == [(2, True), (2, True)]
    assert {way["degrade_on"] for way in report["stages"][0]["tried"]} == {"cpu", "device"}
    for n, name in ((1, "small"), (2, "large")):
        weights = out / f"stage{n}.safetensors"
        assert load_student(weights)(torch.zeros(1, 3, 8, 8)).shape == (1, 3, 32, 32)
        header = read_header(weights)
        assert header["run"]["base"]["folded"] and header["restorer"]["name"] == name
        assert (header["run"]["method"]["truth_share"], header["run"]["data"]["usm_sharpen"]) == (
            (0.0, False) if n == 1 else (0.25, True)
        )
        assert max(t.dtype.itemsize for t in load_file(weights).values()) == 2
    first, second = (read_header(out / f"stage{n}.safetensors")["history"] for n in (1, 2))
    assert len(second) == len(first) + 1 and first == second[:-1]
    with (out / "losses.csv").open() as file:
        rows = [(row["stage"], int(row["step"])) for row in csv.DictReader(file)]
    assert set(rows) == {(f"stage{n}", step) for n in (1, 2) for step in (1, 2)}
    assert all(a <= b for a, b in pairwise(rows))


def test_a_kill_leaves_what_was_copied(packed, tmp_path):
    out = tmp_path / "out"
    process = start(packed, out, "--steps", "10000")
    while not (out / "report.json").exists() and process.poll() is None:
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGKILL)
    said, _ = process.communicate()
    assert (out / "report.json").exists(), said
    assert load_student(out / "stage1.safetensors")(torch.zeros(1, 3, 8, 8)).shape == (1, 3, 32, 32)
    part = json.loads((out / "report.json").read_text())["stages"][0]
    assert part["steps"] >= 2 and not part["finished"]


def test_what_a_machine_lacks_is_said(packed, tmp_path):
    """In one sentence, before anything is imported."""
    script = f". {SCRIPT.with_name('bare.sh')}; ready {packed} torch no_such_module and_another; echo on"
    done = subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True, env={**os.environ, "PYTHON": sys.executable}
    )
    assert done.returncode == 1 and "on" not in done.stdout.split()
    assert "found none of: no_such_module and_another: carry their wheels" in done.stderr
