"""The gate: good samples pass, blurred and noisy ones do not, and the sentence says why."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from unistep.bases.compact.base import CompactBase
from unistep.bases.compact.network import CompactConfig, CompactDenoiser, encode
from unistep.diffusion.denoiser import Cond, Denoiser
from unistep.errors import ConfigError
from unistep.training.gate import Gate, measure

GOOD = Gate(steps=8, psnr_gain=-0.3, gradient_energy=1.05, swd=0.4, swd_slot=0.6)


@pytest.mark.parametrize(
    "change,reason",
    [
        ({"gradient_energy": 1.11}, r"gradient energy 1\.11, expected 0\.9 to 1\.1"),
        ({"gradient_energy": 0.89}, r"gradient energy 0\.89"),
        ({"swd": 0.6}, r"SWD 0\.60, expected below its one-step answer's 0\.60"),
    ],
)
def test_what_fails_says_why(change, reason):
    gate = dataclasses.replace(GOOD, **change)
    assert not gate.passes and not gate.to_dict()["passes"]
    with pytest.raises(AssertionError, match=f"below its gate .{reason}"):
        raise AssertionError(str(gate))


def test_what_passes():
    assert GOOD.passes and str(GOOD).startswith(
        "teacher: good enough to teach; 8-step samples of held-out crops: PSNR -0.30 dB"
    )
    assert dataclasses.replace(GOOD, gradient_energy=0.91, swd=0.59).passes


class Knowing(Denoiser):
    """Answers with the photographs themselves below the far end, and with their bicubic shadow there."""

    def __init__(self, base: CompactBase, x_hq: Tensor, spoil):
        super().__init__()
        self.process, self.z, self.spoil, self.calls = (
            base.process("resshift"),
            encode(x_hq * 2 - 1),
            spoil,
            0,
        )

    def forward(self, z_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
        if (t == len(self.process) - 1).all():
            return cond.y
        start = self.calls // 7 * 4 % len(self.z)  # 8 steps, the first at the far end, 4 images at a time
        self.calls += 1
        return self.spoil(self.z[start : start + 4])


@pytest.fixture(scope="module")
def pairs() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x_hq = F.interpolate(torch.rand(4, 3, 32, 32, generator=generator), scale_factor=2, mode="nearest")
    return F.avg_pool2d(x_hq, 4), x_hq


def test_measures_the_samples(pairs):
    base = CompactBase(CompactDenoiser(CompactConfig((8, 8, 8), (1, 1, 1))))
    perfect = measure(Knowing(base, pairs[1], lambda z: z), base, *pairs)
    assert perfect.passes and perfect.gradient_energy == pytest.approx(1, abs=0.02)
    assert perfect.swd < 0.2 < perfect.swd_slot == pytest.approx(1, abs=0.05) and perfect.psnr_gain > 10
    noisy = measure(Knowing(base, pairs[1], lambda z: z + 0.4 * torch.randn_like(z)), base, *pairs)
    assert noisy.gradient_energy > 1.1 and not noisy.passes
    flat = measure(
        Knowing(base, pairs[1], lambda z: z.mean(dim=(1, 2, 3), keepdim=True) + 0 * z), base, *pairs
    )
    assert flat.gradient_energy < 0.5 and not flat.passes and flat.psnr_gain < 0


def test_it_is_the_same_each_time(pairs):
    base = CompactBase(CompactDenoiser(CompactConfig((8, 8, 8), (1, 1, 1))))
    with torch.no_grad():
        base.pretrained.net.out.weight.mul_(300)
    first, again = (measure(base.denoiser("teacher", "resshift"), base, *pairs) for _ in range(2))
    assert first == again and first.steps == 8


def test_pairs_are_cropped_to_what_the_base_takes(pairs):
    x_lq, x_hq = pairs
    base = CompactBase(CompactDenoiser(CompactConfig((8, 8, 8), (1, 1, 1))))
    teacher = base.denoiser("teacher", "resshift")
    x_odd = F.pad(x_lq, (0, 3, 0, 1)), F.pad(x_hq, (0, 12, 0, 4))
    assert measure(teacher, base, *x_odd) == measure(teacher, base, x_lq, x_hq)
    with pytest.raises(ConfigError, match="expected held-out photographs of 16 pixels or more"):
        measure(teacher, base, x_lq[..., :3], x_hq[..., :12])
