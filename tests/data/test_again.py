"""Pairs that come more than once: each as often as asked, turned together, and the same after a resume."""

from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image

from unistep.data.again import STEPS, WINDOW, Again, place
from unistep.data.pairs import DataConfig, Pairs
from unistep.errors import ConfigError


@pytest.fixture
def pairs(tmp_path):
    files = []
    for i in range(3):
        noise = np.random.default_rng(i).integers(0, 256, (40, 40, 3), np.uint8)
        Image.fromarray(noise).save(tmp_path / f"{i}.png")
        files.append(tmp_path / f"{i}.png")
    return lambda start=0, **more: Pairs(
        files, DataConfig(patch=32, degradations={"bicubic": 1.0}, **more), 0, start
    )


def enlarged(x_lq):
    return x_lq.repeat_interleave(4, 2).repeat_interleave(4, 3)


def steps(again, positions):
    return [again.__getitems__(list(range(first, first + 2))) for first in positions]


@pytest.mark.parametrize(("uses", "batch"), [(1, 4), (3, 8), (4, 7)])
def test_every_pair_comes_as_often_as_asked(uses, batch):
    """Once in each turn, in whole batches, and the second time no sooner than a window later."""
    window = Again(None, uses, batch=batch).window
    assert window >= WINDOW and window % (STEPS * batch) == 0 and window < WINDOW + STEPS * batch
    for workers in (1, 2, 3, 4, 6, 12):  # who take turns, a step each
        assert window // batch % workers == 0
    places = [place(i, uses, window) for i in range(2 * window * uses)]
    assert Counter(index for index, _ in places) == dict.fromkeys(range(2 * window), uses)
    assert len(set(places)) == len(places) and {time for _, time in places} == set(range(uses))
    assert all(places[i + window][0] == places[i][0] for i in range(window * (uses - 1)))


def test_a_pair_is_made_once_and_turned_with_its_target(pairs):
    asked = []

    def restore(x_lq):
        asked.append(len(x_lq))
        return enlarged(x_lq)

    again = Again(pairs(), 9, restore, batch=2)
    seen = [steps(again, [time * again.window])[0] for time in range(9)]
    assert asked == [2]
    assert len({bytes(s.x_hq.numpy().tobytes()) for s in seen[:8]}) == 8
    assert torch.equal(seen[8].x_hq, seen[0].x_hq)
    for s in seen:
        assert torch.equal(s.restored, enlarged(s.x_lq)) and s.indices == [0, 1]
        assert torch.nn.functional.avg_pool2d(s.x_hq, 4).sub(s.x_lq).abs().mean() < 0.1  # of one picture


def test_upright_pictures_are_only_mirrored(pairs):
    again = Again(pairs(rotations=False), 4, batch=2)
    first, second, third, fourth = (steps(again, [time * again.window])[0] for time in range(4))
    assert torch.equal(second.x_hq, first.x_hq.flip(3)) and torch.equal(third.x_hq, first.x_hq)
    assert torch.equal(fourth.x_lq, first.x_lq.flip(3))


def test_used_once_they_are_the_pairs(pairs):
    plain, again = pairs().__getitems__([5, 6]), Again(pairs()).__getitems__([5, 6])
    assert torch.equal(plain.x_lq, again.x_lq) and torch.equal(plain.x_hq, again.x_hq)
    assert again.restored is None and plain.presets == again.presets


def test_a_resumed_run_sees_the_same(pairs):
    """From the middle of a turn: nothing is kept yet."""
    whole = Again(pairs(), 2, enlarged, batch=2)
    positions = range(0, 2 * whole.window + 8, 2)
    all_ = steps(whole, positions)
    for start in (6, whole.window + 4, 2 * whole.window + 2):
        later = Again(pairs(start), 2, enlarged, batch=2)
        one, other = all_[start // 2], steps(later, [0])[0]
        assert one.indices == other.indices
        assert all(torch.equal(getattr(one, n), getattr(other, n)) for n in ("x_lq", "x_hq", "restored"))


def test_little_is_kept(pairs):
    again = Again(pairs(), 2, batch=2)
    steps(again, range(0, 4 * again.window, 2))
    assert len(again.kept) == again.window
    once = Again(pairs(), 1, batch=2)
    steps(once, range(0, 20, 2))
    assert not once.kept


def test_uses_are_at_least_one():
    with pytest.raises(ConfigError, match=r"data\.uses"):
        DataConfig(uses=0)
