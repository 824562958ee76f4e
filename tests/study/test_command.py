"""`unistep study` as a person meets it."""

import json
import signal
import subprocess
import sys
import urllib.request

import pytest
from studies import folders, made

from unistep.command.cli import main


def run(capsys, *line):
    code = main(["study", *map(str, line)])
    held = capsys.readouterr()
    return code, held.out, held.err


def test_from_folders_to_a_result(tmp_path, capsys):
    results = [text for name, folder in folders(tmp_path)[:2] for text in ("--results", f"{name}={folder}")]
    study, key = tmp_path / "study", tmp_path / "secret.json"
    code, _, err = run(
        capsys, "make", *results, "--lq", tmp_path / "lq", "--hq", tmp_path / "hq",
        "--category", "faces=face_*", "--seed", 3, "--per-rater", 2, "--key", key, "--out", study,
    )  # fmt: skip
    assert code == 0 and "4 questions about 4 images, 2 for each rater" in err and str(key) in err
    assert key.exists() and not (study / "key.json").exists()
    code, _, err = run(capsys, "result", study, "--key", key)
    assert code == 1 and "found none: collect them by unistep study serve or study add" in err
    code, _, err = run(capsys, "export", study, "--out", tmp_path / "page.html")
    assert code == 0 and "MB; raters send the file back" in err

    item = json.loads((study / "study.json").read_text())["items"][0]
    sha = json.loads(key.read_text())["study"]
    one = {
        "trial": item["id"],
        "choice": item["pictures"][0],
        "shown": item["pictures"],
        "id": "v" * 32,
        "seconds": 2,
    }
    rater = {"rater": "r" * 32, "name": "Ada", "trials": [item["id"]], "votes": [one]}
    answers = tmp_path / "answers.json"
    answers.write_text(json.dumps({"format": 1, "study": sha, "raters": [rater]}))
    assert run(capsys, "add", study, answers)[2].endswith("answers.json: 1 new votes\n")
    assert run(capsys, "add", study, answers)[2].endswith("answers.json: 0 new votes\n")
    code, out, _ = run(capsys, "result", study, "--key", key, "--out", tmp_path / "out")
    assert code == 0 and out == (tmp_path / "out" / "result.md").read_text()
    chosen = json.loads(key.read_text())["pictures"][item["pictures"][0]]
    assert f"| {chosen}" in out and "100.0%" in out and "Ada" not in out


@pytest.mark.parametrize(
    "line,code,wanted",
    [
        (["make"], 2, "expected --out FOLDER, found none"),
        (["make", "--out", "x", "--results", "a"], 2, "expected --results NAME=FOLDER, found 'a'"),
        (["make", "--out", "x", "--results", "a=b"], 2, "expected two methods or more to compare, found 1"),
        (["make", "--out", "x", "--category", "a"], 2, "expected --category NAME=PATTERN"),
        (["make", "--out", "x", "--category", "a=b", "--category", "a=c"], 2, "found a twice"),
        (
            ["make", "--out", "x", "--results", "a=nowhere", "--results", "b=nowhere"],
            1,
            "found none at nowhere",
        ),
        (["serve", "nowhere"], 1, "expected nowhere/study.json as unistep study make writes it"),
        (["result", "nowhere"], 1, "expected nowhere/study.json"),
        (["export", "nowhere"], 2, "expected --out FILE"),
        (["add", "nowhere", "a.json"], 1, "expected nowhere/study.json"),
    ],
)
def test_lines_that_make_no_sense(tmp_path, monkeypatch, capsys, line, code, wanted):
    monkeypatch.chdir(tmp_path)
    found, _, err = run(capsys, *line)
    assert found == code and wanted in err and err.startswith("unistep: ")


def test_without_its_packages_serving_says_what_to_install(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    code, _, err = run(capsys, "serve", made(tmp_path)[1])
    assert code == 2 and "pip install 'unistep[study]'" in err


def test_served_until_it_is_interrupted(tmp_path):
    _, folder = made(tmp_path)
    (folder / "votes.jsonl").write_bytes(b"{half a line")
    line = [sys.executable, "-m", "unistep", "study", "serve", str(folder), "--port", "0"]
    with subprocess.Popen(line, stderr=subprocess.PIPE, text=True) as process:
        said = [process.stderr.readline() for _ in range(2)]
        assert "damaged lines, kept but not counted: 1" in said[0] and "Ctrl-C ends" in said[1]
        with urllib.request.urlopen(said[1].split()[0] + "study") as answer:
            assert json.load(answer)["trials"] == 12 and "server" not in answer.headers
        process.send_signal(signal.SIGINT)
        last = process.stderr.read()
    assert process.returncode == 0 and last == f"0 votes of 0 raters are in {folder / 'votes.jsonl'}\n"
