"""A study as one file, and the answers that come back."""

import base64
import hashlib
import json
import re

import pytest
from studies import METHODS, loaded, made, token

from unistep.errors import DataError
from unistep.study.dealing import sides
from unistep.study.returned import add
from unistep.study.standalone import export


def answers(study, rater=1, **changed):
    trials = [item.id for item in study.items][:3]
    votes = []
    for i, trial in enumerate(trials[:2]):
        shown = sides(study, token(rater), trial, study.by_id[trial].pictures)
        votes.append({"trial": trial, "choice": shown[0], "shown": shown, "id": token(10 * rater + i),
                      "seconds": 1.234})  # fmt: skip
    one = {"rater": token(rater), "name": "Eva", "trials": trials, "votes": votes}
    return {"format": 1, "study": study.sha256, "raters": [one], **changed}


def test_the_page_holds_everything_and_names_no_method(tmp_path):
    study, folder = made(tmp_path, title="</script><b>", high=tmp_path / "hq")
    size = export(folder, tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text()
    assert size == len(text.encode()) and text.count("data:image/png;base64,") == len(study.pictures) == 20
    assert not any(re.search(rf"\b{name}\b", text) for name in (*METHODS, "face_a", str(study.seed)))
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', text)[1]
    assert "'self'" not in policy and "unsafe" not in policy and "default-src 'none'" in policy
    scripts = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    for code in [*scripts, re.search(r"<style>(.*?)</style>", text, re.DOTALL)[1]]:
        assert f"'sha256-{base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()}'" in policy
    assert len(scripts) == 3 and not re.search(r'(?:src|href)="', text) and "http://" not in text
    held = json.loads(re.search(r'id="held">(.*?)</script>', text, re.DOTALL)[1])
    assert held["about"]["title"] == "</script><b>" and len(held["items"]) == 12


def test_answers_are_added_once(tmp_path):
    study, folder = made(tmp_path)
    file = tmp_path / "a.json"
    file.write_text(json.dumps(answers(study)))
    with loaded(folder)[2] as votes:
        assert add(file, study, votes) == 2 and add(file, study, votes) == 0
        more = answers(study)
        trial = more["raters"][0]["trials"][0]
        again = more["raters"][0]["votes"][0] | {"choice": "tie", "id": token(99)}
        more["raters"][0]["votes"].append(again)
        file.write_text(json.dumps(more))
        assert add(file, study, votes) == 1
        file.write_text(json.dumps(answers(study, 2)))
        assert add(file, study, votes) == 2
    _, _, back = loaded(folder)
    assert len(back.counted) == 4 and back.changes == 1 and len(back.raters) == 2
    assert back.last[token(1), trial].choice == "tie" and back.last[token(1), trial].seconds == 1.23
    assert back.raters[token(1)].name == "Eva" and len(back.raters[token(1)].trials) == 3


@pytest.mark.parametrize(
    "change,wanted",
    [
        (lambda a: a.update(format=2), "format 2, not 1"),
        (lambda a: a.update(study="0" * 64), "answers of another study"),
        (lambda a: a.pop("raters"), "found 'raters'"),
        (lambda a: a["raters"][0].update(rater="x"), "without a proper id"),
        (lambda a: a["raters"][0]["votes"][1].update(id=3), "found"),
        (lambda a: a["raters"][0]["votes"][1].update(choice="0" * 24), "another choice"),
        (lambda a: a["raters"][0]["votes"][1].update(shown=[]), "found others"),
        (lambda a: a["raters"][0]["votes"][1].update(trial="0" * 24), "not asked"),
        (lambda a: a["raters"][0]["trials"].append("0" * 24), "a.json, found other questions than"),
    ],
)
def test_answers_that_cannot_be_leave_no_trace(tmp_path, change, wanted):
    study, folder = made(tmp_path)
    found = answers(study)
    change(found)
    file = tmp_path / "a.json"
    file.write_text(json.dumps(found))
    with loaded(folder)[2] as votes, pytest.raises(DataError, match=wanted):
        add(file, study, votes)
    assert not (folder / "votes.jsonl").read_bytes()
    file.write_text("no json")
    with loaded(folder)[2] as votes, pytest.raises(DataError, match=r"expected answers .*a\.json"):
        add(file, study, votes)
