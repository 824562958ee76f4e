"""Preferences, intervals and agreement: against published and counted values, and by property."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unistep.study.agreement import alpha, observed
from unistep.study.preference import Ballot, against, crossed, preference, wilson


def ballot(choice, rater="r", image="i", methods=("a", "b")):
    return Ballot(rater, image, "all", methods, choice)


@pytest.mark.parametrize(
    "successes,n,wanted",
    [
        (0, 10, (0.0, 0.2775)),
        (10, 10, (0.7225, 1.0)),
        (5, 10, (0.2366, 0.7634)),
        (81, 263, (0.2553, 0.3662)),  # Newcombe 1998, table I, method 3
        (15, 148, (0.0624, 0.1605)),
        (0, 20, (0.0, 0.1611)),
        (1, 29, (0.0061, 0.1718)),
    ],
)
def test_wilsons_interval(successes, n, wanted):
    assert wilson(successes, n) == pytest.approx(wanted, abs=5e-5)


def test_a_preference_is_the_mean_of_votes():
    votes = [ballot("a"), ballot("a"), ballot("b"), ballot(None)]
    assert preference(votes, "a").mean == 2.5 / 4 and preference(votes, "b").mean == 1.5 / 4
    three = [ballot("a", methods=tuple("abc")), ballot(None, methods=tuple("abc"))]
    assert [preference(three, m).mean for m in "abc"] == pytest.approx([2 / 3, 1 / 6, 1 / 6])
    assert preference(votes, "c").mean is None and preference(votes, "c").votes == 0
    assert against([*three, ballot("c", methods=tuple("abc"))], "a", "b").mean == pytest.approx(1.5 / 2)


@given(st.lists(st.tuples(st.sampled_from("xyz"), st.sampled_from("123"), st.sampled_from(["a", "b", None])),
                min_size=1, max_size=12))  # fmt: skip
def test_properties_of_a_preference(lines):
    votes = [ballot(choice, rater, image) for rater, image, choice in lines]
    a, b = preference(votes, "a"), preference(votes, "b")
    assert a.mean + b.mean == pytest.approx(1)
    assert 0 <= a.low <= a.mean <= a.high <= 1
    low, high = wilson(a.mean * a.votes, a.votes)
    assert a.low <= low and high <= a.high
    assert preference(votes[::-1], "a") == a and against(votes, "a", "b") == a
    other = [ballot({"a": "b", "b": "a"}.get(one.choice), one.rater, one.image) for one in votes]
    mirrored = preference(other, "a")
    assert (mirrored.mean, mirrored.votes) == (pytest.approx(b.mean), b.votes)


def every_resample(scores, raters, images):
    """The percentiles over all equally likely draws, counted."""
    people, things = sorted(set(raters)), sorted(set(images))
    cells = list(zip(scores, raters, images, strict=True))
    means = []
    for w in itertools.product(people, repeat=len(people)):
        for v in itertools.product(things, repeat=len(things)):
            weights = [w.count(rater) * v.count(image) for _, rater, image in cells]
            if sum(weights):
                means.append(sum(k * s for k, (s, _, _) in zip(weights, cells, strict=True)) / sum(weights))
    return np.quantile(means, [0.025, 0.975], method="inverted_cdf")


def test_the_bootstrap_draws_raters_and_images():
    random = np.random.default_rng(3)
    scores = random.uniform(0, 1, 9)
    raters, images = list("xxxyyyzzz"), list("123123123")
    wanted = every_resample(scores, raters, images)
    assert crossed(scores, raters, images) == pytest.approx(wanted, abs=0.01)
    one = crossed(scores, ["x"] * 9, [*"111222333"])  # images alone
    assert one == pytest.approx(every_resample(scores, ["x"] * 9, [*"111222333"]), abs=0.01)
    assert crossed([1.0, 0.0], ["x", "x"], ["1", "1"]) is None


def test_votes_that_hang_together_say_less():
    """Twenty raters who all say the same of each of six images are six votes, not 120."""
    scores = [float(image % 2) for _ in range(20) for image in range(6)]
    raters, images = [f"{i // 6}" for i in range(120)], [f"{i % 6}" for i in range(120)]
    together = crossed(scores, raters, images)
    apart = crossed(scores, [f"{i}" for i in range(120)], ["1"] * 120)
    assert together[1] - together[0] > 3 * (apart[1] - apart[0])
    assert apart == pytest.approx(wilson(60, 120), abs=0.02)


KRIPPENDORFF = ["123321412...", "1233224125.3", ".3332342251.", "12332441251."]
"""Four observers, twelve units (Computing Krippendorff's Alpha-Reliability, 2011, section C)."""


def test_alpha_of_the_published_example():
    units = [[row[i] for row in KRIPPENDORFF if row[i] != "."] for i in range(12)]
    assert alpha([units]) == pytest.approx(0.743, abs=5e-4)


def test_alpha_of_two_observers():
    """Ten units, binary data: the same source, section A."""
    first, second = "0100000000", "1110010010"
    assert alpha([list(zip(first, second, strict=True))]) == pytest.approx(0.095, abs=5e-4)


def test_agreement_at_its_ends():
    assert observed([["a", "a", "b"], ["a"]]) == pytest.approx(1 / 3) and observed([["a"]]) is None
    assert (
        alpha([[["a", "a"], ["b", "b"]]]) == 1 and alpha([[["a", "a"]]]) is None and alpha([[["a"]]]) is None
    )
    assert alpha([[["a", "b"], ["b", "a"]]]) < 0
    # two pairs of methods are never compared with each other: answers that differ between them are no chance
    same = [["a", "a"], ["a", "a"], ["a", "b"], ["b", "b"]]
    other = [[answer.upper() for answer in unit] for unit in same]
    assert alpha([same, other]) == pytest.approx(alpha([same])) != pytest.approx(alpha([same + other]))
