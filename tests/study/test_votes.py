"""Votes: nothing is lost, nothing counts twice; who is asked what."""

import json
from collections import Counter
from dataclasses import replace
from random import Random

import pytest
from studies import loaded, made, someone, token

from unistep.errors import ConfigError, DataError
from unistep.study.dealing import REPEATED, deal, item_of, sides
from unistep.study.studyfolder import TIE
from unistep.study.votes import Refused, Vote, Votes


def vote(votes, rater, i, choice, number):
    trial = rater.trials[i]
    shown = votes.shown(rater.id, trial)
    chosen = shown[choice] if isinstance(choice, int) else choice
    return Vote(rater.id, trial, chosen, shown, token(number), 1.5)


def lines(folder):
    return [json.loads(line) for line in (folder / "votes.jsonl").read_bytes().splitlines()]


def test_votes_are_kept_and_come_back(tmp_path):
    study, folder = made(tmp_path)
    with loaded(folder)[2] as votes:
        a, b = someone(votes, 1), someone(votes, 2)
        assert votes.cast(vote(votes, a, 0, 0, 1)) and votes.cast(vote(votes, a, 1, TIE, 2))
        assert votes.cast(vote(votes, b, 0, 1, 3))
        before = votes.counted
    again = Votes(folder, study)
    assert again.counted == before and len(before) == 3 and again.raters == votes.raters
    assert again.raters[a.id].name == "rater 1" and not again.damaged and again.changes == 0
    assert {line["study"] for line in lines(folder)} == {study.sha256}
    with again:
        assert again.again(a.id) == a


def test_a_vote_is_on_the_disk_before_its_rater_is_answered(tmp_path, monkeypatch):
    _, folder = made(tmp_path)
    synced = []
    monkeypatch.setattr("os.fsync", lambda handle: synced.append((folder / "votes.jsonl").read_bytes()))
    with loaded(folder)[2] as votes:
        rater = someone(votes)
        votes.cast(vote(votes, rater, 0, 0, 1))
        assert len(synced) == 2 and synced[1] == (folder / "votes.jsonl").read_bytes()


def test_the_same_vote_twice_is_one_and_a_late_one_is_none(tmp_path):
    _, folder = made(tmp_path)
    with loaded(folder)[2] as votes:
        rater = someone(votes)
        first, other = vote(votes, rater, 0, 0, 1), vote(votes, rater, 0, 1, 2)
        assert votes.cast(first) and not votes.cast(first)
        assert not votes.cast(replace(first, id=token(9)))  # the same choice, as by a second click
        assert votes.cast(other) and not votes.cast(first)  # the network brings the first once more
        assert [one.choice for one in votes.counted] == [other.choice] and votes.changes == 1
    assert [line["kind"] for line in lines(folder)] == ["rater", "vote", "vote"]
    again = loaded(folder)[2]
    with again:
        assert not again.cast(first)
    assert again.counted == [other] and again.changes == 1


def test_a_vote_can_be_withdrawn_and_all_of_it_stays_in_the_file(tmp_path):
    _, folder = made(tmp_path)
    with loaded(folder)[2] as votes:
        rater = someone(votes)
        assert not votes.cast(vote(votes, rater, 0, None, 1)) and not votes.counted
        assert votes.cast(vote(votes, rater, 0, 0, 2)) and votes.cast(vote(votes, rater, 0, None, 3))
        assert not votes.counted and votes.changes == 0
        assert votes.cast(vote(votes, rater, 0, 0, 4)) and votes.changes == 0
        assert votes.cast(vote(votes, rater, 0, None, 5)) and votes.cast(vote(votes, rater, 0, 1, 6))
        assert votes.changes == 1 and len(votes.counted) == 1
    assert len(lines(folder)) == 6
    assert loaded(folder)[2].changes == 1


@pytest.mark.parametrize(
    "damage", [b'{"kind": "vote", "ra', b"\xff\xfe\n", b"[1]\n", b'{"study": 3}\n', b"{}\n"]
)
def test_a_damaged_line_is_counted_kept_and_passed_over(tmp_path, damage):
    study, folder = made(tmp_path)
    with loaded(folder)[2] as votes:
        rater = someone(votes)
        votes.cast(vote(votes, rater, 0, 0, 1))
    file = folder / "votes.jsonl"
    if damage == b'{"study": 3}\n':
        damage = json.dumps(
            {"study": study.sha256, "kind": "vote", "rater": rater.id, "trial": "no"}
        ).encode()
    file.write_bytes(file.read_bytes() + damage)
    with loaded(folder)[2] as votes:
        assert votes.damaged == [3] and len(votes.counted) == 1
        votes.cast(vote(votes, rater, 1, 0, 2))
    assert damage.strip() in file.read_bytes()
    again = loaded(folder)[2]
    assert again.damaged == [3] and len(again.counted) == 2


def test_a_lost_line_of_a_rater_loses_none_of_her_votes(tmp_path):
    _, folder = made(tmp_path, per_rater=4)
    with loaded(folder)[2] as votes:
        rater = someone(votes)
        for i in range(2):
            votes.cast(vote(votes, rater, i, 0, i))
    file = folder / "votes.jsonl"
    held = file.read_bytes().split(b"\n", 1)
    file.write_bytes(held[0][:40] + b"\n" + held[1])
    with loaded(folder)[2] as votes:
        assert votes.damaged == [1] and len(votes.counted) == 2
        back = votes.again(rater.id, Random(1))
        assert back.trials[:2] == rater.trials[:2] and len(set(back.trials)) == len(back.trials) >= 4


def test_votes_of_a_study_that_was_changed_stop_everything(tmp_path):
    study, folder = made(tmp_path)
    with loaded(folder)[2] as votes:
        votes.cast(vote(votes, someone(votes), 0, 0, 1))
    with pytest.raises(
        DataError, match="found 2 lines of another: the study was changed after they were cast"
    ):
        Votes(folder, replace(study, question="Which one do you like?"))


def test_one_process_at_a_time(tmp_path):
    _, folder = made(tmp_path)
    with loaded(folder)[2], pytest.raises(ConfigError, match="another process"), loaded(folder)[2]:
        pass
    with loaded(folder)[2]:
        pass


def test_a_disk_that_is_full_is_said_and_the_next_vote_stands_on_its_own(tmp_path):
    _, folder = made(tmp_path)

    class Full:
        def __init__(self, file):
            self.file = file

        def write(self, data):
            self.file.write(bytes(data[:10]))
            raise OSError(28, "No space left on device")

    with loaded(folder)[2] as votes:
        rater = someone(votes)
        whole, votes._file = votes._file, Full(votes._file)
        with pytest.raises(DataError, match="No space left"):
            votes.cast(vote(votes, rater, 0, 0, 1))
        assert not votes.counted
        votes._file = whole
        assert votes.cast(vote(votes, rater, 0, 0, 1))
    again = loaded(folder)[2]
    assert len(again.counted) == 1 and again.damaged == [2]


def test_votes_that_cannot_be(tmp_path):
    _, folder = made(tmp_path, tie=False)
    with loaded(folder)[2] as votes:
        rater = someone(votes)
        good = vote(votes, rater, 0, 0, 1)
        bad = [
            replace(good, rater=token(99)), replace(good, trial="0" * 24), replace(good, choice=TIE),
            replace(good, choice="0" * 24), replace(good, shown=good.shown[:1]),
            replace(good, seconds=-1.0), replace(good, seconds=float("nan")),
            replace(good, trial=good.trial + REPEATED),
        ]  # fmt: skip
        for one in bad:
            with pytest.raises(Refused):
                votes.cast(one)
        with pytest.raises(Refused, match="unknown one"):
            votes.again(token(99))
    assert len(lines(folder)) == 1


def test_a_name_is_one_line(tmp_path):
    _, folder = made(tmp_path)
    with loaded(folder)[2] as votes:
        assert votes.join("  A\x1b[31m\nB" + "c" * 99).name == "A [31m B" + "c" * 72


def test_questions_are_dealt_evenly(tmp_path):
    study, folder = made(tmp_path, per_rater=5, repeats=2)
    asked = Counter()
    with loaded(folder)[2] as votes:
        for i in range(12):
            trials = someone(votes, i).trials
            assert len(trials) == 7 and sum(trial.endswith(REPEATED) for trial in trials) == 2
            for trial in trials:
                if trial.endswith(REPEATED):
                    assert trials.index(trial) > trials.index(item_of(trial))
            asked.update(trial for trial in trials if not trial.endswith(REPEATED))
    assert set(asked.values()) == {5}  # 12 raters with 5 of 12 questions
    first = deal(study, {}, {}, Random(0))
    assert first != deal(study, {}, {}, Random(1)) and first == deal(study, {}, {}, Random(0))
    wanted = study.items[3].id
    others = {item.id: 1 for item in study.items if item.id != wanted}
    assert all(wanted in map(item_of, deal(study, others, {}, Random(i))) for i in range(5))


def test_sides_are_drawn_for_every_rater_and_time(tmp_path):
    study, _ = made(tmp_path)
    pictures = study.items[0].pictures
    first = [sides(study, token(i), study.items[0].id, pictures)[0] for i in range(200)]
    assert 70 < first.count(pictures[0]) < 130 and set(first) == set(pictures)
    assert sides(study, token(1), "t", pictures) == sides(study, token(1), "t", pictures[::-1])
