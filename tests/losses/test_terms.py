"""Losses that methods share."""

import pytest
import torch

from unistep.losses.terms import edge_loss, grid_loss, push


def test_push_hands_back_the_direction():
    z, direction = torch.randn(2, 4, 8, 8, requires_grad=True), torch.randn(2, 4, 8, 8)
    push(z, direction).backward()
    torch.testing.assert_close(z.grad, direction / z.numel())


def test_edge_loss():
    x, target = torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 4, 4)
    x[..., 2:] = 1  # one vertical edge: 1 of 3 differences at distance 1, 2 of 2 at distance 2
    assert edge_loss(x, target).item() == pytest.approx((0 + 0 + 1 / 3 + 1) / 4)
    assert edge_loss(x + 0.5, x) == 0  # brightness is not an edge


def test_grid_loss_sees_what_repeats_in_every_cell():
    pattern = torch.zeros(1, 3, 64, 64)
    pattern[..., ::4, ::4] = 1  # 1 of 16 positions: deviations 15/16 once, 1/16 fifteen times
    flat = torch.full_like(pattern, 0.3)
    assert grid_loss(pattern, torch.zeros_like(pattern)).item() == pytest.approx(2 * 15 / 16**2)
    assert grid_loss(flat, torch.zeros_like(flat)).item() == pytest.approx(0, abs=1e-7)
    torch.manual_seed(0)
    noise = torch.randn(1, 3, 64, 64)  # as strong as the pattern is, but locked to nothing
    noise *= (pattern - pattern.mean()).std() / noise.std()
    assert grid_loss(noise, torch.zeros_like(noise)) < 0.25 * grid_loss(pattern, torch.zeros_like(pattern))
