"""The models that ship: whole, small, honest about themselves, and better than bicubic on photographs."""

import hashlib

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from skimage import data
from tinies import load_denoiser

from unistep import METRICS, Upscaler
from unistep.data.degrade import degrade
from unistep.models.checkpoint import DEFAULT, embedded, load_student
from unistep.pixels.colour import low_pass
from unistep.pixels.resize import resize
from unistep.tensors import read_header

PHOTOGRAPHS = ("chelsea", "coffee", "rocket", "astronaut")


@pytest.fixture(scope="module")
def upscaler() -> Upscaler:
    return Upscaler.from_pretrained()


def photograph(name: str) -> torch.Tensor:
    image = getattr(data, name)()
    h, w = (side // 16 * 16 for side in image.shape[:2])
    return torch.from_numpy(image[:h, :w].copy()).permute(2, 0, 1)[None].float() / 255


FAMILY = (
    "compact-dfosd",
    "compact-distilled",
    "compact-plain",
    "compact-sharp",
    "compact-tadsr",
    "compact-teacher",
    "compact-tsdsr",
)
STUDENTS = ("compact-dfosd", "compact-tadsr", "compact-tsdsr")


def test_files_are_small_and_listed():
    models = embedded()
    assert tuple(models) == FAMILY and sum(path.stat().st_size for path in models.values()) <= 40e6
    folder = models[DEFAULT].parent
    sums = dict(line.split()[::-1] for line in (folder / "SHA256SUMS").read_text().splitlines())
    assert sums == {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in models.values()}


@pytest.mark.parametrize("name", FAMILY)
def test_header_tells_how_it_was_made(name):
    header = read_header(embedded()[name])
    assert header["run"]["name"] == (
        max(header["mixed"], key=header["mixed"].get) if "mixed" in header else name
    )
    assert len(header["data"]["sha256"]) == 64 and header["data"]["held_out"] > 0
    assert header["steps"] == sum(part["steps"] for part in header["history"]) > 0
    assert header["samples"] == sum(part["samples"] for part in header["history"])
    # Where a restorer was the target, the network alone may lose to bicubic on slight damage, as its teacher
    # does; what `upscale` makes of it may not: test_it_beats_bicubic_on_degraded_photographs_without_a_grid.
    gains = {key for key in header["scores"] if key.startswith("psnr_gain")}
    wanted = gains - {"psnr_gain_light"} if "restorer" in header else gains
    assert len(gains) == 2 and all(header["scores"][key] > 0 for key in wanted)
    files = [value for value in header["run"]["train"].values() if isinstance(value, str)]
    assert files and not any("/" in file for file in files)


def test_students_share_teacher_data_and_budget():
    """One comparison: the same start and crops; the distilled ones say how good the teacher was."""
    headers = [read_header(embedded()[name]) for name in STUDENTS]
    teacher = read_header(embedded()["compact-teacher"])
    for header in headers:
        assert header["history"][:-1] == teacher["history"] and header["data"] == headers[0]["data"]
        assert header["run"]["train"]["init"] == "compact-teacher.safetensors"
        assert header["run"]["data"] == headers[0]["run"]["data"]
    assert [header.get("teacher", {}).get("passes") for header in headers] == [None, False, False]


def test_the_default_says_who_taught_it():
    header = read_header(embedded()["compact-distilled"])
    assert header["restorer"]["name"] == "realesr_general_x4v3" and len(header["restorer"]["sha256"]) == 64
    assert header["run"]["base"]["folded"] and header["plain"]["name"] == "compact-plain"
    assert header["run"]["train"]["restorer"] == "realesr_general_x4v3.safetensors"


@pytest.mark.parametrize("name", [*STUDENTS, "compact-sharp", "compact-distilled"])
def test_the_dial_leads_from_the_student_to_the_plain_model(name):
    x = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1
    with torch.inference_mode():
        own, half, plain = (load_student(name, fidelity)(x) for fidelity in (0.0, 0.5, 1.0))
        torch.testing.assert_close(plain, load_student("compact-plain")(x), atol=1e-5, rtol=0)
        torch.testing.assert_close(own, load_student(name)(x), atol=1e-6, rtol=0)
    assert (half - own).abs().mean() > 1e-4 and (half - plain).abs().mean() > 1e-4


def test_what_runs_is_the_slot_folded():
    denoiser, _ = load_denoiser()
    x = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.inference_mode():
        slot = denoiser.slot(denoiser.cond(x))
        torch.testing.assert_close(F.pixel_shuffle(slot, 4), load_student()(x), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("preset", ["light", "realesrgan"])
def test_it_beats_bicubic_on_degraded_photographs_without_a_grid(upscaler, preset):
    psnr, grid = METRICS["psnr_y"].open(), METRICS["grid"].open()
    gains, grids = [], []
    for index, name in enumerate(PHOTOGRAPHS):
        low, truth = degrade(photograph(name), preset, seed=0, indices=[index])
        large = upscaler(low[0].permute(1, 2, 0).numpy())
        ours = torch.from_numpy(large).permute(2, 0, 1)[None]
        bicubic = F.interpolate(low, scale_factor=4, mode="bicubic").clamp(0, 1)
        gains.append((psnr(ours, truth) - psnr(bicubic, truth)).item())
        grids.append(grid(ours).item())
    assert np.mean(gains) > 0, gains
    assert np.median(grids) < 1.3, grids


def test_it_keeps_the_colours(upscaler):
    for name in PHOTOGRAPHS:
        image = Image.fromarray(getattr(data, name)()).resize((112, 96), Image.Resampling.LANCZOS)
        back = upscaler(image).resize(image.size, Image.Resampling.BOX)
        shift = np.asarray(back, float).mean((0, 1)) - np.asarray(image, float).mean((0, 1))
        assert np.abs(shift).max() < 1.5, (name, shift)


def test_it_keeps_the_low_frequencies_of_hard_patterns(upscaler):
    """A black-and-white screen stored as RGB stays grey, and fine checks of saturated colours keep theirs."""
    y, x = np.mgrid[0:64, 0:64]
    screen = np.repeat(((x % 4 < 2) ^ (y % 4 < 2))[..., None] * np.float32(0.5), 3, 2)
    checks = np.where(((x + y) % 2 == 0)[..., None], [1, 0, 0], [0, 0.6, 1]).astype(np.float32)
    assert np.ptp(upscaler(screen), axis=2).max() * 255 < 0.5
    for pattern in (screen, checks):
        off = np.abs(low_pass(upscaler(pattern) - resize(pattern, 256, 256)))
        assert off.mean() * 255 < 0.5 and off.max() * 255 < 6
        plain = low_pass(upscaler(pattern, colour="none") - resize(pattern, 256, 256))
        assert np.abs(plain).mean() > 3 * off.mean()  # what the fix is for


def test_the_plain_model_is_the_average_that_its_header_names():
    shares = read_header(embedded()["compact-plain"])["mixed"]
    assert sum(shares.values()) == pytest.approx(1)
    parts = {name: load_denoiser(name)[0].state_dict() for name in shares}
    for key, tensor in load_denoiser("compact-plain")[0].state_dict().items():
        mean = sum(share * parts[name][key] for name, share in shares.items())
        torch.testing.assert_close(tensor, mean, atol=1e-3, rtol=2e-3)
