"""The measures against the authors' own numbers, inline transcriptions, and what they must notice."""

import io
import json

import goldens
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from metric_pictures import load, noise
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from unistep.errors import ConfigError, ImageError, ModelError
from unistep.evaluation.metrics import (
    METRICS,
    LpipsSqueeze,
    Niqe,
    gradient_energy,
    grid,
    luma,
    psnr_y,
    ssim_y,
    swd,
)
from unistep.evaluation.natural import _halve
from unistep.evaluation.texture import _laplacian, _patches

GOLDEN = goldens.GOLDEN / "metrics"
FILE = json.loads((GOLDEN / "values.json").read_text())
VALUES, RECORDED_NIQE = FILE["values"], FILE["niqe"]["values"]
# the names of the recorded numbers, by protocol and border
RECORDED = {
    ("pyiqa", 0): "pyiqa_{}_y",
    ("basicsr", 0): "basicsr_{}_crop0_y1",
    ("basicsr", 4): "basicsr_{}_crop4_y1",
    ("rounded", 0): "resshift_{}_y_border0",
    ("rounded", 4): "resshift_{}_y_border4",
}


@pytest.mark.parametrize("pair", range(4))
@pytest.mark.parametrize(("protocol", "border"), list(RECORDED))
def test_psnr_and_ssim_are_the_recorded_ones(pair, protocol, border):
    image, reference = load(f"sr_{pair}.png"), load(f"gt_{pair}.png")
    recorded, name = VALUES[f"pair_{pair}"], RECORDED[protocol, border]
    tolerance = 1e-9 if protocol == "rounded" else 5e-6
    if (protocol, border, pair) == ("rounded", 0, 0):
        tolerance = 1e-3  # a luma between two integers, which ResShift's linear algebra rounds either way
    assert psnr_y(image, reference, protocol=protocol, border=border).item() == pytest.approx(
        recorded[name.format("psnr")], abs=tolerance
    )
    assert ssim_y(image, reference, protocol=protocol, border=border).item() == pytest.approx(
        recorded[name.format("ssim")], abs=min(tolerance, 1e-6)
    )


def test_protocols_differ_where_they_should():
    image, reference = load("sr_0.png"), load("gt_0.png")
    pyiqa, rounded = psnr_y(image, reference), psnr_y(image, reference, protocol="rounded")
    assert 0.3 < (pyiqa - rounded).item() < 0.7
    assert psnr_y(reference, reference).item() == pytest.approx(80)
    assert psnr_y(reference, reference, protocol="basicsr").isinf().all()


def test_ssim_clamps_contrast_only_for_pyiqa():
    ramp = torch.linspace(0, 1, 12).expand(1, 3, 12, 12).contiguous()
    values = {p: ssim_y(ramp, ramp.flip(-1), protocol=p).item() for p in ("pyiqa", "basicsr", "rounded")}
    assert values["pyiqa"] == 0 and values["basicsr"] < -0.5 and values["rounded"] < -0.5
    assert values["basicsr"] != values["rounded"]


# LPIPS


def fake_squeezenet(seed: int = 0) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    random = torch.Generator().manual_seed(seed)
    backbone = {}

    def conv(name: str, c_in: int, c_out: int, k: int) -> None:
        weight = torch.randn(c_out, c_in, k, k, generator=random)
        backbone[f"features.{name}.weight"] = weight * (2 / (c_in * k * k)) ** 0.5
        backbone[f"features.{name}.bias"] = 0.01 * torch.randn(c_out, generator=random)

    conv("0", 3, 64, 3)
    fires = {3: (64, 16), 4: (128, 16), 6: (128, 32), 7: (256, 32), 9: (256, 48), 10: (384, 48)}
    for i, (c_in, squeeze) in {**fires, 11: (384, 64), 12: (512, 64)}.items():
        conv(f"{i}.squeeze", c_in, squeeze, 1)
        conv(f"{i}.expand1x1", squeeze, 4 * squeeze, 1)
        conv(f"{i}.expand3x3", squeeze, 4 * squeeze, 3)
    heads = {
        f"lin{i}.model.1.weight": torch.rand(1, c, 1, 1, generator=random)
        for i, c in enumerate((64, 128, 256, 384, 384, 512, 512))
    }
    return backbone, heads


@pytest.fixture
def squeeze_files(tmp_path):
    backbone, heads = fake_squeezenet()
    save_file({**backbone, "classifier.1.bias": torch.zeros(1000)}, tmp_path / "backbone.safetensors")
    save_file(heads, tmp_path / "heads.safetensors")
    return tmp_path / "backbone.safetensors", tmp_path / "heads.safetensors"


def test_lpips_is_the_formula(squeeze_files):
    w, heads = fake_squeezenet()

    def fire(x: Tensor, i: int) -> Tensor:
        def conv(z: Tensor, part: str, padding: int = 0) -> Tensor:
            name = f"features.{i}.{part}"
            return F.relu(F.conv2d(z, w[f"{name}.weight"], w[f"{name}.bias"], padding=padding))

        x = conv(x, "squeeze")
        return torch.cat([conv(x, "expand1x1"), conv(x, "expand3x3", 1)], 1)

    def taps(x: Tensor) -> list[Tensor]:
        shift, scale = torch.tensor([-0.03, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.45])
        x = (2 * x - 1 - shift.view(1, 3, 1, 1)) / scale.view(1, 3, 1, 1)
        out = [F.relu(F.conv2d(x, w["features.0.weight"], w["features.0.bias"], stride=2))]
        for group in ((3, 4), (6, 7), (9,)):
            x = F.max_pool2d(out[-1], 3, 2, ceil_mode=True)
            for i in group:
                x = fire(x, i)
            out.append(x)
        for i in (10, 11, 12):
            out.append(fire(out[-1], i))
        return [z / (z.square().sum(1, keepdim=True).sqrt() + 1e-10) for z in out]

    a, b = noise(1, 2, 3, 70, 83), 0.5 * noise(2, 2, 3, 70, 1).expand(2, 3, 70, 83)
    lpips = LpipsSqueeze(*squeeze_files)
    parts = [
        (heads[f"lin{i}.model.1.weight"] * (p - q) ** 2).sum(1).mean((1, 2))
        for i, (p, q) in enumerate(zip(taps(a), taps(b), strict=True))
    ]
    assert min(part.min().item() for part in parts) > 0.01  # every tap weighs in
    torch.testing.assert_close(lpips(a, b), sum(parts), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(lpips(a, b), lpips(b, a))
    assert lpips(a, a).eq(0).all()


def test_lpips_has_a_gradient_that_is_finite_where_features_vanish(squeeze_files):
    lpips = LpipsSqueeze(*squeeze_files)
    image = torch.zeros(1, 3, 40, 40, requires_grad=True)
    lpips(image, noise(0, 1, 3, 40, 40)).sum().backward()
    assert image.grad.isfinite().all() and image.grad.abs().sum() > 0
    lpips.features.load_state_dict({name: 0 * tensor for name, tensor in lpips.features.state_dict().items()})
    image.grad = None
    value = lpips(image, noise(0, 1, 3, 40, 40)).sum()
    value.backward()
    assert value.item() == 0 and image.grad.eq(0).all()


def test_lpips_names_what_is_wrong_with_its_files(squeeze_files, tmp_path):
    backbone, heads = squeeze_files
    with pytest.raises(ModelError, match=r"none\.safetensors: expected a \.safetensors file"):
        LpipsSqueeze(tmp_path / "none.safetensors", heads)
    with pytest.raises(ModelError, match="not SqueezeNet"):
        LpipsSqueeze(heads, backbone)
    with pytest.raises(ModelError, match="not SqueezeNet"):
        LpipsSqueeze(backbone, backbone)


# NIQE


@pytest.fixture
def niqe(tmp_path):
    """A pristine model of its own: the real one is another project's file."""
    x = np.arange(-3, 4)
    window = np.exp(-(x[:, None] ** 2 + x**2) / (2 * (7 / 6) ** 2))
    path = tmp_path / "pristine.npz"
    mu, cov = np.full((1, 36), 0.5), np.eye(36)
    np.savez(path, mu_pris_param=mu, cov_pris_param=cov, gaussian_window=window / window.sum())
    return Niqe(path)


def niqe_picture(name: str) -> Tensor:
    """One of the recorded pictures, or blocks of one beside a stretch of one grey: "flat_60", "one_255"."""
    kind, level = name.split("_")
    if kind not in ("flat", "one"):
        return load(f"{name}.png")
    textured, width = (192, 480) if kind == "flat" else (96, 288)
    picture = torch.full((1, 3, 96, width), int(level) / 255)
    picture[..., :textured] = load("gt_2.png")[..., :96, :textured]
    return picture


@pytest.mark.parametrize("name", RECORDED_NIQE)
def test_niqe_is_basicsrs(niqe, name):
    """With one block and with several; where blocks are flat, and of some features nothing is left."""
    assert niqe(niqe_picture(name)).item() == pytest.approx(RECORDED_NIQE[name], rel=1e-6)


def test_niqe_rounds_ties_as_basicsr_does(niqe, monkeypatch):
    """Of the 16.8 million colours of 8 bits these are among the 141 where float64 rounds another way."""
    colours = {(2, 44, 141): 52, (132, 235, 175): 186, (165, 238, 73): 186, (250, 190, 230): 198}
    seen = []
    monkeypatch.setattr(niqe, "_distance", lambda y: seen.append(y) or torch.zeros(()))
    image = (torch.tensor([*colours]) / 255).T[None, :, None].repeat(1, 1, 96, 24)
    niqe(image)
    assert seen[0][0, 0, 0, :4].tolist() == [*colours.values()]
    assert luma(image)[0, 0, 0, :4].round().tolist() != [*colours.values()]


def test_niqe_fits_an_asymmetric_gaussian(niqe):
    x = torch.randn(400_000, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).abs()
    # the two halves meet at one height, so the one that is three times wider holds three times as many
    alpha, left, right = niqe._aggd(torch.where(torch.arange(x.numel()) % 4 == 0, -x, 3 * x)[None])
    # a Gaussian has the shape 2, and sigma times the root of 2 for its scale
    assert alpha.item() == pytest.approx(2, abs=0.03)
    assert left.item() == pytest.approx(2**0.5, rel=0.02)
    assert right.item() == pytest.approx(3 * 2**0.5, rel=0.02)


def test_niqe_halves_as_an_antialiased_bicubic_does():
    y = 255 * noise(3, 64, 80)
    pillow = np.asarray(Image.fromarray(y.numpy()).resize((40, 32), Image.Resampling.BICUBIC))
    ours = _halve(y.double()[None, None])[0, 0].numpy()
    # edges are mirrored here and cut off there
    np.testing.assert_allclose(ours[2:-2, 2:-2], pillow[2:-2, 2:-2], atol=1e-3)
    np.testing.assert_allclose(_halve(torch.full((1, 1, 8, 8), 7.0)), 7)


def test_niqe_ignores_flat_blocks_and_refuses_small_images(niqe):
    textured = noise(0, 1, 3, 96, 288)
    textured[..., 192:] = 0.5
    assert niqe(textured).isfinite().all()
    assert niqe(torch.full((1, 3, 96, 192), 0.5)).isnan().all()
    with pytest.raises(ImageError, match=r"a whole block of 96x96 pixels, not \(191, 95\)"):
        niqe(noise(0, 1, 3, 191, 95))


@settings(max_examples=5, deadline=None)
@given(height=st.integers(96, 230), width=st.integers(96, 230), strength=st.floats(0.1, 1))
def test_niqe_takes_any_size_and_counts_whole_blocks_alone(height, width, strength):
    window = np.full((7, 7), 1 / 49)
    file = io.BytesIO()
    np.savez(file, mu_pris_param=np.full((1, 36), 0.5), cov_pris_param=np.eye(36), gaussian_window=window)
    file.seek(0)
    score = Niqe(file)
    picture = 0.5 + strength * (noise(0, 1, 3, height, width) - 0.5)
    found = score(picture).item()
    assert found == score(picture[..., : height // 96 * 96, : width // 96 * 96]).item() > 0
    beyond = picture.clone()
    beyond[..., height // 96 * 96 :, :] = 1
    assert score(beyond).item() == found


def test_niqe_names_a_wrong_file(tmp_path):
    (tmp_path / "bad.npz").write_text("text")
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    for name in ("bad.npz", "other.npz", "none.npz"):
        with pytest.raises(ModelError, match=name):
            Niqe(tmp_path / name)


# texture


def test_grid_sees_lattices_of_4_and_2_pixels_and_no_others():
    flat = 0.5 + 0.1 * (noise(0, 1, 3, 203, 258) - 0.5)
    assert 0.6 < grid(flat).item() < 1.6
    columns, rows = torch.arange(258), torch.arange(203)[:, None]
    for period in (2, 4):
        for place in (columns, rows):
            assert grid(flat + 0.02 * torch.cos(2 * torch.pi * place / period)).item() > 5
    for period in (3, 5, 8):
        assert grid(flat + 0.02 * torch.cos(2 * torch.pi * columns / period)).item() < 1.6


def test_grid_is_its_definition():
    x = noise(5, 1, 3, 66, 84)
    y = luma(x)[0, 0].numpy()
    ratios = []
    for rows, n in ((y[:, :84], 84), (y.T[:, :64], 64)):
        power = (np.abs(np.fft.fft(rows, axis=1)) ** 2).mean(0)
        for k in (n // 4, n // 2):
            around = sorted(power[j] for j in range(n // 2 + 1) if 4 <= abs(j - k) <= 12)
            ratios.append(power[k] / around[(len(around) - 1) // 2])
    assert grid(x).item() == pytest.approx(np.mean(ratios))


def test_gradient_energy_is_quadratic_in_contrast():
    x = noise(0, 2, 3, 20, 31)
    torch.testing.assert_close(gradient_energy(0.5 + 0.3 * (x - 0.5), x), torch.full((2,), 0.09).double())
    assert gradient_energy(x, torch.full_like(x, 0.5)).isnan().all()


def test_gradient_energy_counts_both_directions():
    x = torch.zeros(1, 3, 2, 2)
    x[..., 1] = 0.1  # two steps of 0.1 along the rows
    y = torch.zeros(1, 3, 2, 2)
    y[..., 1, :] = 0.2
    assert gradient_energy(x, y).item() == pytest.approx(0.25)


def test_swd_grows_with_blur_noise_and_lost_contrast():
    x = load("gt_2.png")
    blurred = F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, 1)
    far = F.avg_pool2d(F.pad(x, (3, 3, 3, 3), mode="replicate"), 7, 1)
    assert swd(x, x).item() == 0
    assert 0 < swd(blurred, x).item() < swd(far, x).item()
    jitter = noise(0, *x.shape) - 0.5
    assert 0 < swd(x + 0.02 * jitter, x).item() < swd(x + 0.2 * jitter, x).item()
    assert swd(blurred, x).item() == swd(blurred, x).item() != swd(blurred, x, seed=1).item()


def test_swd_of_a_shift_is_known():
    # grey + c: only the last of two levels differs, by c over its deviation; the sum of the 147 components of
    # a random unit vector is nearly a standard normal, whose mean absolute value is the root of 2/pi
    x = noise(0, 1, 1, 40, 40).expand(1, 3, 40, 40)
    std = _laplacian(x.double())[-1].std().item()
    expected = 1000 * 0.1 / std * (2 / torch.pi) ** 0.5 / 2
    assert swd(x + 0.1, x, directions=1024).item() == pytest.approx(expected, rel=0.05)
    # half the contrast, against the whole one and the other way round
    assert swd(x / 2, x).item() == pytest.approx(swd(x, x / 2).item() / 2)


def test_swd_looks_everywhere():
    x = noise(0, 1, 3, 50, 38)
    for corner in ((slice(None, 12), slice(None, 12)), (slice(-12, None), slice(-12, None))):
        touched = x.clone()
        touched[..., corner[0], corner[1]] = 0.5
        assert swd(touched, x).item() > 1
    at = torch.tensor([0, 31, 32, 44 * 32 - 1])
    corners = [(0, 0), (0, 31), (1, 0), (43, 31)]
    for patch, (top, left) in zip(_patches(x, at)[0], corners, strict=True):
        assert patch.equal(x[0, :, top : top + 7, left : left + 7].flatten())


def test_laplacian_levels_are_details_and_a_rest():
    x = noise(0, 1, 3, 64, 128).double()
    levels = _laplacian(x)
    assert [tuple(z.shape[2:]) for z in levels] == [(64, 128), (32, 64), (16, 32)]
    assert levels[0].mean().abs() < 0.01 < levels[-1].mean()
    constant = _laplacian(torch.full((1, 3, 64, 64), 0.25).double())
    assert all(z.abs().max() < 1e-12 for z in constant[:-1])
    torch.testing.assert_close(constant[-1], torch.full((1, 3, 16, 16), 0.25).double())


# the table


@settings(max_examples=4, deadline=None)
@given(height=st.integers(64, 90), width=st.integers(64, 90), seed=st.integers(0, 99))
def test_a_batch_is_its_images_one_by_one(height, width, seed):
    image, reference = noise(seed, 2, 3, height, width), noise(seed + 100, 2, 3, height, width)
    for metric in METRICS.values():
        if not metric.self_contained:
            continue
        score = metric.open()
        arguments = (image, reference) if metric.needs_reference else (image,)
        together = score(*arguments)
        assert together.shape == (2,) and together.isfinite().all()
        alone = torch.cat([score(*(x[i : i + 1] for x in arguments)) for i in range(2)])
        torch.testing.assert_close(together, alone)


@pytest.mark.parametrize("name", [n for n, m in METRICS.items() if m.needs_reference and m.self_contained])
def test_better_is_better(name):
    metric, reference = METRICS[name], load("gt_2.png")
    jitter = noise(0, *reference.shape) - 0.5
    near, far = (metric.open()(reference + a * jitter, reference).item() for a in (0.02, 0.2))
    best = {True: near > far, False: near < far, None: abs(near - 1) < abs(far - 1)}
    assert best[metric.higher_is_better]


def test_wrong_use_is_one_clear_sentence(tmp_path):
    x = noise(0, 1, 3, 64, 64)
    with pytest.raises(ImageError, match=r"differ in shape"):
        psnr_y(x, x[..., :-1])
    with pytest.raises(ImageError, match=r"float tensors"):
        grid((x * 255).byte())
    with pytest.raises(ImageError, match=r"float tensors"):
        ssim_y(x[0], x[0])
    with pytest.raises(ImageError, match="at least 19x19"):
        ssim_y(x[..., :18, :], x[..., :18, :], border=4)
    with pytest.raises(ConfigError, match="pyiqa"):
        psnr_y(x, x, protocol="matlab")
    with pytest.raises(ConfigError, match="SqueezeNet"):
        METRICS["lpips_squeeze"].open()
    with pytest.raises(ConfigError, match="no file"):
        METRICS["grid"].open(tmp_path)


def test_luma_runs_from_16_to_235():
    assert luma(torch.zeros(1, 3, 1, 1)).item() == 16
    assert luma(torch.ones(1, 3, 1, 1)).item() == pytest.approx(235)
