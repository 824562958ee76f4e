"""Intervals, paired tests and places: against enumeration, textbooks and properties."""

import itertools

import numpy as np
import pytest

from unistep.evaluation.statistics import holm, interval, paired, places, signed_rank


def drawn(n, seed=0, shift=0.0):
    return np.random.default_rng(seed).normal(shift, 1, n)


def test_an_interval_of_many_values_is_the_normal_one():
    values = drawn(400)
    low, high = interval(values)
    half = 1.96 * values.std() / 20
    assert low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert high == pytest.approx(values.mean() + half, abs=0.1 * half)


def test_an_interval_belongs_to_its_values():
    assert interval(drawn(7)) == interval(drawn(7)) != interval(drawn(7, seed=1))
    assert interval(np.full(5, 3.0)) == (3.0, 3.0)
    assert interval(np.array([1.0])) is None
    low, high = interval(np.array([0.0, 1.0]))  # a quarter of the resamples are twice the first
    assert (low, high) == (0.0, 1.0)


def counted(a, b):
    """p by all the signs that the ranks could have."""
    d = (a - b)[a != b]
    ranks = np.argsort(np.argsort(np.abs(d))) + 1
    total = len(d) * (len(d) + 1) / 2
    seen = abs(ranks[d > 0].sum() - total / 2)
    signs = np.array([*itertools.product([0, 1], repeat=len(d))])
    return (np.abs(signs @ ranks - total / 2) >= seen).mean()


@pytest.mark.parametrize("n", [1, 2, 5, 9])
def test_the_test_counts_all_signs(n):
    a, b = drawn(n, shift=0.4), drawn(n, seed=1)
    assert signed_rank(a, b) == pytest.approx(counted(a, b))
    assert signed_rank(a, b) == signed_rank(b, a)
    same = np.concatenate([a, [2.0, 3.0]]), np.concatenate([b, [2.0, 3.0]])  # zeros say nothing
    assert signed_rank(*same) == pytest.approx(counted(a, b))


def test_the_test_on_ties_and_on_many_is_the_normal_one():
    b = np.zeros(8)
    a = np.array([1, 1, 1, 1, 1, 1, -1, 2.0])
    # ranks 4 (seven times) and 8; T+ = 6 * 4 + 8 = 32 of a mean of 18, variance 51 - 7 * 48 / 48
    z = (32 - 18) / np.sqrt(8 * 9 * 17 / 24 - (7**3 - 7) / 48)
    from scipy.stats import norm

    assert signed_rank(a, b) == pytest.approx(2 * norm.sf(z))
    many = drawn(60, shift=0.3)
    ranks = np.argsort(np.argsort(np.abs(many))) + 1
    z = (ranks[many > 0].sum() - 60 * 61 / 4) / np.sqrt(60 * 61 * 121 / 24)
    assert signed_rank(many, np.zeros(60)) == pytest.approx(2 * norm.sf(abs(z)))
    assert signed_rank(b, b) == 1.0


def test_holm_as_in_the_textbook():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1.0, 1.0] and holm([0.2]) == [0.2] and holm([]) == []


def test_all_pairs_of_models_are_corrected_together():
    a = drawn(12)
    lines = paired({"x": {"a": a, "b": a + 1, "c": a - 1}, "y": {"a": a, "b": a}})
    assert [(line["metric"], line["a"], line["b"]) for line in lines] == [
        ("x", "a", "b"), ("x", "a", "c"), ("x", "b", "c"), ("y", "a", "b")
    ]  # fmt: skip
    assert [line["difference"] for line in lines] == pytest.approx([-1, 1, 2, 0])
    assert [line["p_holm"] for line in lines] == holm([line["p"] for line in lines])
    least = min(lines, key=lambda line: line["p"])
    assert least["p_holm"] == 4 * least["p"] < lines[3]["p"] == 1


@pytest.mark.parametrize(
    "values,higher,wanted",
    [
        ([1.0, 3.0, 2.0], True, [0, 1, 2]),
        ([1.0, 3.0, 2.0], False, [1, 0, 2]),
        ([1.0, 3.0, 2.0], None, [0, 0, 0]),
        ([1.00001, 1.0, 0.5, 0.2], True, [1, 1, 2, 0]),  # equal as shown
        ([None, 1.0, 2.0], True, [0, 2, 1]),
        ([None, 1.0], True, [0, 0]),
    ],
)
def test_best_and_second_best(values, higher, wanted):
    assert places(values, higher, 4) == wanted
