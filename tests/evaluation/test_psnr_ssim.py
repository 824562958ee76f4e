"""PSNR and SSIM of the three channels: recorded numbers, closed forms, and what moves them."""

import json

import goldens
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from metric_pictures import load, noise

from unistep.errors import ConfigError, ImageError
from unistep.evaluation.fidelity import psnr_rgb, psnr_y, ssim_rgb, ssim_y
from unistep.evaluation.metrics import METRICS

GOLDEN = goldens.GOLDEN / "metrics"
VALUES = json.loads((GOLDEN / "values.json").read_text())["values"]
RECORDED = {
    ("basicsr", 0): "basicsr_{}_crop0_y0",
    ("basicsr", 4): "basicsr_{}_crop4_y0",
    ("rounded", 0): "resshift_{}_rgb_border0",
    ("rounded", 4): "resshift_{}_rgb_border4",
}
ALL = (psnr_y, psnr_rgb, ssim_y, ssim_rgb)


@pytest.mark.parametrize("pair", range(4))
def test_rgb_is_the_recorded_one(pair):
    image, reference, recorded = load(f"sr_{pair}.png"), load(f"gt_{pair}.png"), VALUES[f"pair_{pair}"]
    found = METRICS["psnr_rgb"].open()(image, reference).item()
    assert found == pytest.approx(recorded["pyiqa_psnr_rgb_default"], abs=5e-6)
    for (protocol, border), name in RECORDED.items():
        options = {"protocol": protocol, "border": border}
        assert psnr_rgb(image, reference, **options).item() == pytest.approx(
            recorded[name.format("psnr")], abs=1e-5
        )
        assert ssim_rgb(image, reference, **options).item() == pytest.approx(
            recorded[name.format("ssim")], abs=1e-6
        )


def test_clamping_is_all_that_pyiqa_adds_to_the_ssim_of_8_bit_images():
    ramp = (torch.arange(12) * 20 / 255).expand(1, 3, 12, 12).contiguous()
    assert ssim_rgb(ramp, ramp.flip(-1)).item() == 0
    assert ssim_rgb(ramp, ramp.flip(-1), protocol="basicsr").item() < -0.5
    jitter = (ramp * 255 + (noise(0, 1, 3, 12, 12) * 9).round()).clamp(0, 255) / 255
    values = [ssim_rgb(jitter, ramp, protocol=p).item() for p in ("pyiqa", "basicsr", "rounded")]
    assert values == pytest.approx([values[0]] * 3, abs=1e-6) and 0 < values[0] < 1


def test_psnr_of_a_known_error():
    x = torch.full((1, 3, 4, 5), 0.5)
    y = x.clone()
    y[:, 0] += 0.1  # one channel of three
    for score, error in ((psnr_rgb, 0.1 / 3**0.5), (psnr_y, 0.1 * 65.481 / 255)):
        found = score(y, x, protocol="basicsr").item()
        assert found == pytest.approx(-20 * np.log10(error), abs=1e-4)
    assert psnr_rgb(x, x).item() == pytest.approx(80)
    assert psnr_rgb(x, x, protocol="rounded").isinf().all()


def test_ssim_of_constants_is_the_luminance_term():
    a, b = 60.0, 150.0
    c1 = (0.01 * 255) ** 2
    expected = (2 * a * b + c1) / (a * a + b * b + c1)
    found = ssim_rgb(torch.full((1, 3, 12, 13), a / 255), torch.full((1, 3, 12, 13), b / 255))
    assert found.item() == pytest.approx(expected, abs=1e-6)


def test_channels_are_averaged_and_do_not_mix():
    x, y = noise(0, 1, 3, 16, 18), noise(1, 1, 3, 16, 18)
    swapped = ssim_rgb(x[:, [2, 0, 1]], y[:, [2, 0, 1]])
    torch.testing.assert_close(ssim_rgb(x, y), swapped)
    one = y.clone()
    one[:, 1] = x[:, 1]
    grey = [ssim_rgb(x[:, [c] * 3], y[:, [c] * 3]).item() for c in (0, 2)]
    assert ssim_rgb(one, x).item() == pytest.approx((sum(grey) + 1) / 3)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 999), strength=st.floats(0.02, 0.3))
def test_properties(seed, strength):
    x = 0.3 + 0.4 * noise(seed, 1, 3, 20, 24)
    jitter = noise(seed + 1, 1, 3, 20, 24) - 0.5
    near, far = x + strength * jitter, x + 2 * strength * jitter
    for score in ALL:
        assert score(near, x).item() == pytest.approx(score(x, near).item())
        best = score(x, x).item()
        assert best == pytest.approx(80 if "psnr" in score.__name__ else 1)
        assert best > score(near, x).item() > score(far, x).item()


@pytest.mark.parametrize("score", ALL)
def test_wrong_use(score):
    x = noise(0, 1, 3, 20, 20)
    with pytest.raises(ConfigError, match="pyiqa"):
        score(x, x, protocol="matlab")
    with pytest.raises(ImageError, match="differ in shape"):
        score(x, x[..., 1:])
    with pytest.raises(ImageError, match="at least"):
        score(x, x, border=10)
