"""Students of latent bases over whole pictures: sizes, tiles, memory, options, the upscaler around them."""

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from authors_files import GOLDEN, opened, tsdsr
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from unistep.autoencoder import layersync
from unistep.autoencoder.codecs import Codec, TinyDecoder
from unistep.command.cli import main
from unistep.counting.peak import Live
from unistep.errors import ConfigError, MemoryLimit, ModelError
from unistep.models.checkpoint import load_student
from unistep.students import planning
from unistep.students.latent import LatentConfig, LatentStudent, tensor
from unistep.students.onestep import OneStep
from unistep.students.reproduce import reproduce
from unistep.upscaling.upscaler import Upscaler

pytest.importorskip("diffusers")
CASE = GOLDEN / "tsd_infer"


class Pool(Codec):
    """Latents are pixels, averaged over 4 x 4; the way back repeats them."""

    factor, channels = 4, 3

    def __init__(self) -> None:
        super().__init__()
        self.one = torch.nn.Parameter(torch.ones(1))

    def encode(self, x: Tensor, noise: Tensor | None = None) -> Tensor:
        return torch.nn.functional.avg_pool2d(x, 4) * self.one.to(x.dtype)

    def decode(self, z: Tensor) -> Tensor:
        return z.repeat_interleave(4, 2).repeat_interleave(4, 3)

    @property
    def config(self) -> dict[str, Any]:
        return {}


class Same(OneStep):
    """The latent itself, counted."""

    multiple = 2

    def __init__(self) -> None:
        super().__init__()
        self.one = torch.nn.Parameter(torch.ones(1))
        self.shapes: list[tuple[int, ...]] = []

    def forward(self, z: Tensor, image: Tensor | None = None) -> Tensor:
        if not z.is_meta:
            self.shapes.append(tuple(z.shape))
        assert z.shape[-1] % 2 == z.shape[-2] % 2 == 0
        return z.float() * self.one.float()


def toy(**config: Any) -> LatentStudent:
    settings = LatentConfig(**{"shortest": 0, "tile": 8, "overlap": 2, **config})
    return LatentStudent(Same(), Pool(), settings).place(torch.device("cpu"), torch.float32)


def photo(h: int, w: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((h, w, 3), np.float32)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tsdsr(tmp_path_factory.mktemp("student"))


@pytest.fixture(scope="module")
def model(path: Path) -> LatentStudent:
    student = opened(path)
    student.config = replace(student.config, shortest=64)  # as the recorded runs
    return student


def pixels(name: str) -> np.ndarray:
    with Image.open(CASE / "inputs" / name) as picture:
        return np.asarray(picture.convert("RGB"), np.float32) / 255


def size(path: Path) -> tuple[int, int]:
    with Image.open(path) as picture:
        return picture.size


def test_the_ordinary_way_equals_the_recorded_run(model: LatentStudent) -> None:
    """Where the authors' sizes lose nothing: 24 x 32, four times."""
    recorded = load_file(CASE / "tensors.safetensors")
    out = model.enlarge(pixels("a.png"), (128, 96))
    wanted = recorded["notile_wavelet/a/image"].permute(1, 2, 0).numpy() / 2 + 0.5
    assert out.shape == (96, 128, 3) and out.dtype == np.float32
    assert np.abs(out - wanted).max() < 5e-5
    x, _ = model.inputs(pixels("a.png"), (128, 96))
    assert torch.allclose(x, recorded["notile_wavelet/a/pixel_values"], atol=1e-6)


def test_blocks_give_the_whole(model: LatentStudent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "BLOCKS", (32,))
    whole = model.enlarge(pixels("c_big.png"), (176, 112), vae_tiles="whole")
    exact = model.enlarge(pixels("c_big.png"), (176, 112), vae_tiles="exact")
    assert np.abs(whole - exact).max() < 2e-5
    fast = model.enlarge(pixels("c_big.png"), (176, 112), vae_tiles="fast")
    assert fast.shape == whole.shape and np.isfinite(fast).all() and np.abs(fast - whole).max() > 1e-4


@pytest.mark.parametrize("size", [(18, 22), (22, 18), (11, 14)])
def test_sizes_at_which_the_authors_code_fails(model: LatentStudent, size: tuple[int, int]) -> None:
    """Their latents have an odd side there; ours are padded, and the picture has the exact size."""
    h, w = size
    out = model.enlarge(photo(h, w), (4 * w, 4 * h))
    width, height = model.native((4 * w, 4 * h), (w, h))
    assert out.shape == (height, width, 3) and min(height, width) >= 64
    x, _ = model.inputs(photo(h, w), (4 * w, 4 * h))
    assert x.shape[-1] % 16 == x.shape[-2] % 16 == 0
    whole = model(x)[0, :, :height, :width].permute(1, 2, 0) / 2 + 0.5
    assert np.abs(whole.clamp(0, 1).numpy() - out).max() < 1e-5


@settings(max_examples=12)
@given(st.integers(1, 60), st.integers(1, 60), st.sampled_from([1.0, 1.5, 3.0, 4.0]), st.integers(2, 6))
def test_any_size_in_tiles(h: int, w: int, scale: float, tile: int) -> None:
    student = toy(tile=2 * tile)
    size = (round(scale * w), round(scale * h))
    out = student.enlarge(photo(h, w), size)
    assert out.shape == (size[1], size[0], 3)
    x, _ = student.inputs(photo(h, w), size)
    whole = student(x)[0, :, : size[1], : size[0]].permute(1, 2, 0) / 2 + 0.5
    assert np.abs(whole.clamp(0, 1).numpy() - out).max() < 1e-5


def test_tiles_that_are_asked_for() -> None:
    student = toy(tile=64)
    student.enlarge(photo(20, 20), (80, 80), tile=8)  # 8 pixels become 32, which are 8 latents
    assert {shape[-2:] for shape in student.denoiser.shapes} == {(8, 8)}
    student.denoiser.shapes.clear()
    student.enlarge(photo(20, 20), (80, 80), tile=9)  # 9 latents are none: the nearest even number, up
    student.enlarge(photo(20, 20), (70, 70), tile=9)  # 7.9 latents
    assert {shape[-2:] for shape in student.denoiser.shapes} == {(8, 8)}
    with pytest.raises(ConfigError, match="tile must be"):
        student.enlarge(photo(20, 20), (80, 80), tile=0)
    with pytest.raises(ConfigError, match="vae_tiles must be one of auto"):
        student.enlarge(photo(20, 20), (80, 80), vae_tiles="some")


def test_noise_belongs_to_the_seed() -> None:
    student = toy(noise=0.3, scale=4)
    one, same, other = (student.enlarge(photo(8, 8), (32, 32), seed=seed) for seed in (1, 1, 2))
    assert np.array_equal(one, same) and np.abs(one - other).max() > 0.05
    still = toy(scale=4)
    assert np.array_equal(*(still.enlarge(photo(8, 8), (32, 32), seed=seed) for seed in (1, 2)))


def test_less_memory_means_smaller_pieces(model: LatentStudent, monkeypatch: pytest.MonkeyPatch) -> None:
    def plan(free: float) -> planning.Plan:
        monkeypatch.setattr(planning, "free_memory", lambda _: int(free + planning.SPARE / planning.SHARE))
        planner = planning.Planner(model.denoiser, model.codec, model.decoder, None, torch.device("cpu"))
        return planner(512, 512, 64)

    whole, smaller, small = plan(1e9), plan(9e6), plan(4e6)
    assert whole.vae == "whole" and whole.tile == 64
    assert smaller.vae == small.vae == "exact" and small.block <= smaller.block
    assert small.device_bytes < smaller.device_bytes < whole.device_bytes
    with pytest.raises(MemoryLimit, match="not enough memory on cpu even for tiles of"):
        plan(1e4)
    planner = planning.Planner(model.denoiser, model.codec, model.decoder, None, torch.device("cpu"))
    assert planner.tiles(512, 512, None, 64, planner.call(64, 64))[0] == 64
    assert planner.tiles(512, 512, None, 64, planner.call(64, 64) - 1)[0] == 48
    monkeypatch.setattr(planning, "free_memory", lambda _: 9_000_000 + planning.SPARE)
    planner = planning.Planner(model.denoiser, model.codec, model.decoder, None, torch.device("cpu"))
    with pytest.raises(MemoryLimit, match=r"the autoencoder needs 0\.\d GB for the whole picture"):
        planner(512, 512, 64, vae_tiles="whole")


@given(st.integers(1, 512), st.integers(512, 3000))
def test_small_pictures_grow_to_the_shortest_side_exactly(short: int, long: int) -> None:
    """The other side to the nearest pixel."""
    student, exact = toy(shortest=512), long * 512 / short
    for size in (student.native((short, long), (1, 1)), student.native((long, short), (1, 1))[::-1]):
        assert size[0] == 512 and size[1] == pytest.approx(exact, rel=1e-12, abs=0.5)


def test_a_narrow_picture_is_refused_before_it_grows() -> None:
    with pytest.raises(MemoryLimit, match=r"expected a less narrow picture, found one .* 512 x 2048000"):
        toy(shortest=512).enlarge(photo(4000, 1), (4, 16000))


def test_blocks_count_the_host(model: LatentStudent, monkeypatch: pytest.MonkeyPatch) -> None:
    """What layersync will hold in memory is counted on a CPU; where that is too much, a map takes it."""
    planner = planning.Planner(model.denoiser, model.codec, model.decoder, None, torch.device("cpu"))
    plenty = 1 << 40
    monkeypatch.setattr(planning, "free_memory", lambda _: plenty)
    _, device, host, store = planner.blocks(512, 512, plenty, "exact")
    assert store is None and planner.blocks(512, 512, device + host, "exact")[3] is None
    assert planner.blocks(512, 512, planning.SPARE + host // 2, "exact")[3] == tempfile.gettempdir()
    monkeypatch.setattr(layersync, "spills", lambda _: False)
    with pytest.raises(MemoryLimit, match="besides"):
        planner.blocks(512, 512, planning.SPARE + host // 2, "exact")
    assert planner.blocks(512, 512, plenty, "fast")[1] > device


def test_the_predicted_bytes_are_those_that_live(model: LatentStudent) -> None:
    planner = planning.Planner(model.denoiser, model.codec, model.decoder, None, torch.device("cpu"))
    z = torch.zeros(1, 16, 16, 24)
    with torch.no_grad(), Live() as live:
        model.codec.decode(z + 0)
    assert planner.whole("decode", 128, 192) == pytest.approx(planning.with_slack(live.peak), rel=0.02)


class Narrow(Same):
    """Overflows in float16 alone."""

    def forward(self, z: Tensor, image: Tensor | None = None) -> Tensor:
        scale = torch.tensor(1e4, dtype=self.one.dtype)
        return super().forward((z.to(self.one.dtype) * scale * 10).float() / 1e5)


def test_what_overflows_is_computed_again() -> None:
    student = LatentStudent(Narrow(), Pool(), LatentConfig(shortest=0)).place(
        torch.device("cpu"), torch.float16
    )
    wanted = toy().enlarge(photo(8, 8), (32, 32))
    out = student.enlarge(photo(8, 8), (32, 32))
    assert np.abs(out - wanted).max() < 2e-3 and student.denoiser.one.dtype == torch.float16
    student.denoiser.one.data.fill_(float("nan"))
    with pytest.raises(ModelError, match="not finite, not even in float32"):
        student.enlarge(photo(8, 8), (32, 32))


def test_the_upscaler_gives_the_exact_size_and_colours(path: Path) -> None:
    upscaler = Upscaler.from_pretrained(path, device="cpu")
    assert upscaler.latent is not None and upscaler.info["student"]["method"] == "tsdsr"
    upscaler.latent.config = replace(upscaler.latent.config, shortest=64)
    picture = photo(13, 17)
    out = upscaler(picture, 3, colour="adain")
    assert out.shape == (39, 51, 3) and out.min() >= 0 and out.max() <= 1
    assert np.allclose(out.mean((0, 1)), picture.mean((0, 1)), atol=0.05)
    told: list[tuple[int, int]] = []
    grey = upscaler((photo(9, 9)[..., :1] * 255).astype(np.uint8), 2, progress=lambda *t: told.append(t))
    assert grey.shape == (18, 18, 1) and grey.dtype == np.uint8
    assert told[-1] == (81, 81) and told == sorted(told)
    rgba = Image.fromarray((np.dstack([photo(9, 9), np.ones((9, 9))]) * 255).astype(np.uint8), "RGBA")
    assert upscaler(rgba, 2).getpixel((3, 3))[3] == 255


def test_the_command(path: Path, tmp_path: Path) -> None:
    Image.fromarray((photo(17, 20) * 255).astype(np.uint8)).save(tmp_path / "p.png")
    run = ["upscale", str(tmp_path / "p.png"), "-m", str(path), "--existing", "overwrite"]
    assert main([*run, "-s", "2", "--vae-tiles", "exact", "--tile", "64"]) == 0
    assert size(tmp_path / "p_x2.png") == (40, 34)
    assert main([*run, "--reproduce"]) == 0
    assert size(tmp_path / "p_x4.png") == (80, 68)
    assert main([*run, "--reproduce", "--width", "50"]) == 2
    assert main([*run, "--reproduce", "--tile", "64"]) == 2
    assert main([*run, "--steps", "4"]) == 2
    small = ["upscale", str(tmp_path / "p.png"), "--existing", "overwrite"]  # the packaged model
    assert main([*small, "--reproduce"]) == 1
    assert main([*small, "--offload"]) == 2


def test_a_teacher_takes_its_steps(tmp_path: Path) -> None:
    folder = tmp_path / "t"
    folder.mkdir()
    teacher = tsdsr(folder, unfolded=True)
    one = tsdsr(folder)
    rgb = photo(16, 16)

    def enlarge(path: Path, progress: Any = None, **options: Any) -> np.ndarray:
        student = opened(path, **options)
        student.config = replace(student.config, shortest=64)
        return student.enlarge(rgb, (64, 64), progress=progress)

    single = enlarge(teacher, steps=1)
    assert np.abs(single - enlarge(one)).max() < 1e-4  # one Euler step is the student
    assert np.abs(enlarge(teacher, steps=3) - single).max() > 1e-3
    told: list[tuple[int, int]] = []
    enlarge(teacher, steps=3, progress=lambda *t: told.append(t))
    assert told == sorted(told) and told[-1] == (256, 256)
    with pytest.raises(ConfigError, match="expected a folded student"):
        reproduce(opened(teacher), (rgb * 255).astype(np.uint8))
    with pytest.raises(ConfigError, match="expected steps to be from 1 to 1000"):
        opened(teacher, steps=0)


@pytest.mark.parametrize(
    ("height", "width", "latent"),
    [
        (60, 49, (156, 126)),
        (98, 200, (126, 260)),
        (200, 103, (248, 126)),
        (128, 107, (152, 126)),
        (60, 50, (152, 128)),
    ],
)
@pytest.mark.parametrize("resample", ["torch", "pillow"])
def test_the_authors_sizes_lose_a_pixel(
    height: int, width: int, latent: tuple[int, int], resample: str
) -> None:
    """`int` makes 127 of 49, 98, 103 and 107 pixels that are to become 128."""
    student = toy(resample=resample, tile=256)
    picture = (photo(height, width) * 255).astype(np.uint8)
    out = reproduce(student, picture, colour="none", shortest=512)
    assert [shape[2:] for shape in student.denoiser.shapes] == [latent]
    small = (4 * latent[0], 4 * latent[1])
    assert out.shape[:2] == ((4 * height, 4 * width) if resample == "torch" else small)


def test_a_tiny_decoder(path: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    tiny = {name.removeprefix("decoder."): t for name, t in TinyDecoder(16).state_dict().items()}
    save_file(tiny, tmp_path / "tiny.safetensors")
    student = opened(path, decoder=str(tmp_path / "tiny.safetensors"))
    assert isinstance(student.decoder, TinyDecoder) and student.decoder.channels == 16
    # TSD-SR's latents lack SD3's shift, which the tiny decoder was trained with
    assert student.decoder.shift == pytest.approx(0.0609 * 1.5305)
    out = student.enlarge(photo(128, 128), (512, 512))
    assert out.shape == (512, 512, 3) and np.isfinite(out).all()
    save_file({n: t for n, t in tiny.items() if n != "1.weight"}, tmp_path / "less.safetensors")
    with pytest.raises(ModelError, match="TAESD"):
        opened(path, decoder=str(tmp_path / "less.safetensors"))


def test_files_that_are_not_what_they_should_be(path: Path, tmp_path: Path) -> None:
    half = tmp_path / "half.safetensors"
    half.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ModelError, match=r"expected a \.safetensors file, found something else or a damaged"):
        load_student(half)
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    first = next(iter(tensors))
    other = {**{n: t for n, t in tensors.items() if n != first}, "denoiser.surplus": torch.zeros(1)}
    save_file(other, tmp_path / "other.safetensors", metadata)
    with pytest.raises(ModelError, match=rf"1 missing: {first}; 1 surplus: denoiser\.surplus"):
        load_student(tmp_path / "other.safetensors")
    save_file(
        tensors, tmp_path / "base.safetensors", {"unistep": metadata["unistep"].replace('"sd3"', '"sd9"')}
    )
    with pytest.raises(ModelError, match="expected the header of a student, found a damaged one"):
        load_student(tmp_path / "base.safetensors")


def test_layersync_is_what_exact_means(model: LatentStudent) -> None:
    z = model.codec.encode(tensor(photo(64, 96)))
    assert torch.allclose(layersync.decode(model.codec, z, block=32), model.codec.decode(z), atol=1e-4)
