"""Bytes of a call, counted without its data."""

import torch
import torch.nn.functional as F
from torch import nn

from unistep.counting.peak import Live, peak_bytes, without_data


def network() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 64, 3, padding=1), nn.SiLU(), nn.Conv2d(64, 3, 3, padding=1))


def test_the_peak_is_what_lives_at_one_time():
    empty = without_data(network())
    one = 100 * 100 * 4
    assert peak_bytes(empty, (1, 3, 100, 100), dtype=torch.float32) == one * (3 + 64 + 64)
    assert peak_bytes(empty.half(), (1, 3, 100, 100), dtype=torch.float16) == one // 2 * (3 + 64 + 64)


def test_what_is_freed_does_not_count():
    def chain(x: torch.Tensor) -> torch.Tensor:
        for _ in range(10):
            x = x + 1
        return x

    assert peak_bytes(chain, (1000,), dtype=torch.float32) == 3 * 4000  # input, last, new


def test_views_and_work_in_place_are_free():
    def call(x: torch.Tensor) -> torch.Tensor:
        return x.view(10, 100).t().add_(1).reshape(100, 10)

    assert peak_bytes(call, (1000,), dtype=torch.float32) == 4000


def test_views_of_weights_are_free():
    empty = without_data(nn.Linear(100, 1000))
    assert peak_bytes(empty, (2, 100), dtype=torch.float32) == 4 * 2 * (100 + 1000)


def test_attention_does_not_write_its_scores_out():
    q = torch.zeros(1, 1, 1024, 64)
    with torch.no_grad(), Live() as live:
        F.scaled_dot_product_attention(q, q, q)
    counted = peak_bytes(
        lambda q: F.scaled_dot_product_attention(q, q, value=q), q.shape, dtype=torch.float32
    )
    assert counted == 2 * q.nbytes and q.nbytes <= live.peak < 1.2 * q.nbytes


def test_real_tensors_count_alike():
    net, x = network(), torch.zeros(1, 3, 32, 32)
    empty = without_data(net)
    with torch.no_grad(), Live() as live:
        net(x + 0)
    counted = peak_bytes(lambda x: empty(x + 0), (1, 3, 32, 32), dtype=torch.float32)
    assert live.peak == counted - x.nbytes  # the input was there before


def test_a_copy_without_data_shares_nothing_and_holds_nothing():
    net = network()
    empty = without_data(net)
    assert all(p.is_meta for p in empty.parameters()) and not any(p.is_meta for p in net.parameters())
