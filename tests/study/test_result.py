"""What a study reports: from votes whose result is known."""

import json
from dataclasses import replace
from random import Random

import pytest
from studies import IMAGES, METHODS, loaded, made, someone, token

from unistep.errors import DataError
from unistep.study.dealing import REPEATED, item_of
from unistep.study.reporting import report
from unistep.study.result import results
from unistep.study.studyfolder import TIE
from unistep.study.tables import markdown
from unistep.study.votes import Vote

NAMES = METHODS[:2]


def answered(folder, raters, choose):
    """All questions answered: choose(rater, image, methods, again) -> method or None."""
    study, key, votes = loaded(folder)
    items = study.by_id
    with votes:
        for i in range(raters):
            rater = someone(votes, i)
            for j, trial in enumerate(rater.trials):
                shown = votes.shown(rater.id, trial)
                by_method = {key.pictures[name]: name for name in shown}
                again = trial.endswith(REPEATED)
                chosen = choose(i, items[item_of(trial)].image, set(by_method), again)
                choice = TIE if chosen is None else by_method[chosen]
                votes.cast(Vote(rater.id, trial, choice, shown, token(1000 * i + j), 2.0 + j))
    return loaded(folder)


def by(found, *keys, **what):
    (one,) = [line for line in found if all(line[key] == value for key, value in what.items())]
    return [one[key] for key in keys]


def test_preferences_of_known_votes(tmp_path):
    """Two raters: faces go to ours, buildings to theirs by the first and to nobody by the second."""
    _, folder = made(tmp_path, NAMES)
    found = results(*answered(
        folder, 2, lambda i, image, *_: "ours" if "face" in image else "theirs" if i == 0 else None
    ))  # fmt: skip
    assert by(found["preference"], "mean", "votes", method="ours") == [(4 + 1) / 8, 8]
    assert by(found["preference"], "mean", method="theirs") == [3 / 8]
    assert by(found["by_category"], "mean", "votes", method="ours", category="faces") == [1.0, 4]
    assert by(found["by_category"], "mean", method="ours", category="buildings") == [0.25]
    assert by(found["by_image"], "mean", method="ours", image="house_c") == [0.25]
    assert by(found["pairwise"], "wins_a", "ties", "wins_b", "mean") == [4, 2, 2, 5 / 8]
    counts = found["counts"]
    assert [counts[k] for k in ("raters", "votes", "ties", "images", "questions")] == [2, 8, 2, 4, 4]
    # faces: both agree; buildings: they do not. Answers: 4 ours, 2 theirs, 2 without a difference.
    raters = found["raters"]
    assert raters["agreement"] == 0.5
    assert raters["alpha"] == pytest.approx(1 - 4 * 7 / (64 - 16 - 4 - 4))
    assert raters["median_seconds"] == 3.5 and raters["votes_each"] == {"least": 4, "median": 4.0, "most": 4}


def test_best_of_all(tmp_path):
    _, folder = made(tmp_path, ask="best")
    choices = dict(zip(IMAGES, ["ours", "ours", "third", None], strict=True))
    found = results(*answered(folder, 3, lambda _, image, *__: choices[image]))
    assert found["chance"] == pytest.approx(1 / 3)
    means = [by(found["preference"], "mean", method=name)[0] for name in METHODS]
    assert means == pytest.approx([7 / 12, 1 / 12, 4 / 12]) and sum(means) == pytest.approx(1)
    # of the votes for either of two: 6 ours, 3 third, 3 without a difference
    assert by(found["pairwise"], "mean", "votes", "wins_a", "wins_b", "ties", a="ours", b="third") == [
        7.5 / 12, 12, 6, 3, 3
    ]  # fmt: skip
    assert found["raters"]["alpha"] == 1


def test_repeated_questions_tell_consistency_and_nothing_else(tmp_path):
    _, folder = made(tmp_path, NAMES, repeats=2)
    found = results(*answered(folder, 3, lambda i, _, __, again: "theirs" if again and i else "ours"))
    assert by(found["preference"], "mean", "votes", method="ours") == [1.0, 12]
    assert found["raters"]["repeated"] == {"questions": 6, "same": 2}
    assert "2 of 6 answers (33.3%) were the same" in markdown(found)


def test_the_side_that_is_chosen_is_seen(tmp_path):
    _, folder = made(tmp_path, NAMES)
    study, key, votes = loaded(folder)
    with votes:
        for i in range(5):
            rater = someone(votes, i)
            for j, trial in enumerate(rater.trials):
                shown = votes.shown(rater.id, trial)
                votes.cast(Vote(rater.id, trial, shown[0], shown, token(100 * i + j)))
    found = results(study, key, votes)
    place = found["raters"]["first_place"]
    assert place["chosen"] == place["of"] == 20 and place["interval"][0] > 0.8
    assert 0.2 < by(found["preference"], "mean", method="ours")[0] < 0.8


def test_the_last_word_counts(tmp_path):
    _, folder = made(tmp_path, NAMES)
    answered(folder, 1, lambda *_: "ours")
    votes = loaded(folder)[2]
    with votes:
        first, second, *_ = votes.counted
        other = next(name for name in first.shown if name != first.choice)
        votes.cast(replace(first, choice=other, id=token(77)))
        votes.cast(replace(second, choice=None, id=token(78)))
    found = results(*loaded(folder))
    assert by(found["preference"], "mean", "votes", method="ours") == [pytest.approx(2 / 3), 3]
    assert found["raters"]["changes_of_mind"] == 1


def test_files_and_words(tmp_path):
    study, folder = made(tmp_path)
    answered(folder, 4, lambda i, image, shown, _: Random(f"{i}{image}").choice([*sorted(shown), None]))
    file = folder / "votes.jsonl"
    file.write_bytes(file.read_bytes() + b"{broken\n")
    text = report(folder, out=tmp_path / "out")
    held = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert held["result.md"].decode() == text and report(folder) == text
    assert (folder / "result.json").read_bytes() == held["result.json"]
    found = json.loads(held["result.json"])
    assert markdown(found) == text and found["damaged_lines"] == [53]
    assert "4 raters, 48 votes" in text and "12 of 12 questions about 4 of 4 images" in text
    assert "kept but not counted: 53" in text and study.sha256[:12] in text and "rater 0" not in text
    rows = [line for line in text.splitlines() if line.startswith("| ours")]
    assert len(rows) == 4
    table = text.split("## Preference\n\n")[1].split("\n\n")[0].splitlines()
    assert len({len(line) for line in table}) == 1  # columns line up
    heads = [line for line in text.splitlines() if line.startswith("## ")]
    assert heads == ["## Preference", "## By category", "## In pairs", "## Raters"]


def test_words_for_what_is_not_there(tmp_path):
    _, folder = made(tmp_path, NAMES, category={})
    study, key, votes = loaded(folder)
    with pytest.raises(DataError, match=r"expected votes in .*found none"):
        results(study, key, votes)
    with votes:
        rater, _ = someone(votes, 1), votes.join("rater 1")
        trial = rater.trials[0]
        votes.cast(Vote(rater.id, trial, TIE, votes.shown(rater.id, trial), token(1)))
    text = markdown(results(study, key, votes))
    assert "## By category" not in text and "no question has two votes" in text
    assert "1 more joined and cast no vote" in text and "2 raters are named rater 1" in text
    assert "1 rater, 1 vote (1 without a difference) on 1 of 4 questions about 1 of 4 images" in text
    assert "not told apart" in text and "nan" not in text and "None" not in text
