"""The server without a browser: what it answers, what it never says, and whom it refuses."""

import json
import re
import socket

import pytest
from starlette.testclient import TestClient
from studies import METHODS, made, token

from unistep.errors import ConfigError, DataError
from unistep.study.application import PAGE, application
from unistep.study.guard import Hosts, hostname
from unistep.study.serving import address, known, listening, serve
from unistep.study.studyfolder import read_study
from unistep.study.votes import Votes

HOME = "http://localhost:8400"


@pytest.fixture
def study(tmp_path):
    return made(tmp_path)


@pytest.fixture
def client(study):
    found, folder = study
    (folder / "key.json").rename(folder.parent / "key.json")  # the server does without
    with Votes(folder, read_study(folder), clock=lambda: "then") as votes:
        app = application(found, folder, votes, known("127.0.0.1", ()))
        browser = TestClient(app, base_url=HOME, headers={"Origin": HOME}, raise_server_exceptions=False)
        browser.votes = votes
        yield browser


def post(client, path, status=200, **body):
    answer = client.post(path, json=body)
    assert answer.status_code == status, answer.text
    return answer.json()


def test_a_rater_joins_votes_and_comes_back(client):
    about = client.get("/study").json()
    assert about["trials"] == 12 and about["low"] and not about["high"] and about["candidates"] == 2
    session = post(client, "/join", name="Ada")
    first, second = session["trials"][:2]
    vote = {"rater": session["rater"], "trial": first["trial"], "choice": first["pictures"][1],
            "id": token(1), "seconds": 2.3456}  # fmt: skip
    assert post(client, "/vote", **vote) == {"new": True} and post(client, "/vote", **vote) == {"new": False}
    assert post(client, "/vote", **vote | {"trial": second["trial"], "choice": "tie", "id": token(2)})["new"]
    back = post(client, "/again", rater=session["rater"])
    assert back["name"] == "Ada" and [t["trial"] for t in back["trials"]] == [
        t["trial"] for t in session["trials"]
    ]
    assert [t["choice"] for t in back["trials"][:3]] == [first["pictures"][1], "tie", None]
    assert post(client, "/vote", **vote | {"choice": None, "id": token(3), "seconds": None})["new"]
    assert [one.choice for one in client.votes.counted] == ["tie"]
    assert client.votes.counted[0].seconds == 2.35
    other = post(client, "/join", name="")
    assert other["rater"] != session["rater"] and len(client.votes.raters) == 2


def test_nothing_that_is_sent_names_a_method(client, study):
    session = post(client, "/join", name="Ada")
    said = [client.get(path) for path in (*PAGE, "/study")]
    said += [client.post("/again", json={"rater": session["rater"]})]
    pictures = {name for trial in session["trials"] for name in (*trial["pictures"], trial["low"])}
    said += [client.get(f"/picture/{name}.png") for name in pictures]
    assert all(answer.status_code == 200 for answer in said) and len(pictures) == 16
    for answer in said:
        held = answer.content + repr(answer.headers).encode()
        assert not any(
            re.search(rb"\b%s\b" % name.encode(), held) for name in (*METHODS, "face_a", "house_c")
        )


def test_pictures_are_kept_by_the_browser_and_answers_are_not(client, study):
    name = next(iter(study[0].pictures))
    picture = client.get(f"/picture/{name}.png")
    assert picture.headers["content-type"] == "image/png" and "immutable" in picture.headers["cache-control"]
    assert client.get("/study").headers["cache-control"] == "no-store"
    for path in ("/picture/nothing.png", "/picture/..%2Fkey.json", "/picture/../key.json", "/key.json",
                 "/votes.jsonl", "/study.json", "/docs", "/openapi.json"):  # fmt: skip
        assert client.get(path).status_code == 404


@pytest.mark.parametrize("path", ["/", "/study", "/nothing", "/join"])
def test_every_answer_forbids_what_the_page_does_not_need(client, path):
    headers = client.get(path).headers
    policy = dict(part.strip().split(" ", 1) for part in headers["content-security-policy"].split(";"))
    assert policy["default-src"] == "'none'" and policy["script-src"] == policy["connect-src"] == "'self'"
    assert not any("unsafe" in value or "http" in value for value in policy.values())
    assert headers["x-content-type-options"] == "nosniff" and "set-cookie" not in headers


def test_the_page_holds_to_its_policy(client):
    """Nothing inline, nothing from elsewhere, and every file that it names is there."""
    text = client.get("/").text
    assert not re.search(r"\sstyle=|\son\w+=|<style|https?://", text)
    named = re.findall(r'(?:src|href)="([^"]+)"', text)
    assert len(named) == 5 and all(client.get(f"/{name}").status_code == 200 for name in named)
    for path in ("/page.js", "/view.js", "/online.js", "/page.css"):
        assert "http" not in client.get(path).text
    assert re.findall(r"<script[^>]*>(.*?)</script>", text, re.DOTALL) == [""] * 3


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8400", "localhost.evil.example", "", "a b",
                                  "localhost@evil.example", "192.0.2.1:8400"])  # fmt: skip
def test_a_foreign_name_is_refused(client, host):
    assert client.get("/study", headers={"Host": host}).status_code == 403
    origin = f"http://{host}"
    answer = client.post("/join", json={"name": ""}, headers={"Host": host, "Origin": origin})
    assert answer.status_code == 403 and "default-src 'none'" in answer.headers["content-security-policy"]
    assert not client.votes.raters


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "", "http://localhost:9999", "http://localhost",
                                    "ftp://localhost:8400"])  # fmt: skip
def test_a_vote_from_a_page_elsewhere_is_refused(client, origin):
    answer = client.post("/join", json={"name": ""}, headers={"Origin": origin})
    assert answer.status_code == 403 and not client.votes.raters


def test_a_form_elsewhere_cannot_be_taken_for_a_vote(client):
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""):
        answer = client.post("/join", content=b'{"name": ""}', headers={"Content-Type": kind})
        assert answer.status_code == 415
    assert not client.votes.raters


def test_requests_that_make_no_sense(client):
    session = post(client, "/join", name="")
    trial = session["trials"][0]
    good = {"rater": session["rater"], "trial": trial["trial"], "choice": "tie", "id": token(1), "seconds": 1}
    for path, body, status in [
        ("/join", {}, 400), ("/join", {"name": 3}, 400), ("/again", {"rater": token(7)}, 400),
        ("/vote", good | {"rater": token(7)}, 400), ("/vote", good | {"trial": "no"}, 400),
        ("/vote", good | {"choice": "0" * 24}, 400), ("/vote", good | {"choice": ["tie"]}, 400),
        ("/vote", good | {"id": "1"}, 400), ("/vote", good | {"seconds": -1}, 400),
        ("/join", {"name": "x" * 20000}, 413), ("/picture/x.png", {}, 405), ("/", {}, 405),
    ]:  # fmt: skip
        assert "error" in post(client, path, status, **body), (path, body)
    for content in (b"{", b"[]", b"\xff", b"[" * 9000):
        sent = client.post("/vote", content=content, headers={"Content-Type": "application/json"})
        assert sent.status_code == 400
    assert not client.votes.counted
    for seconds in ("soon", None, True):  # a strange clock loses no vote
        post(client, "/vote", **good | {"seconds": seconds, "id": token(9)})
    assert [one.seconds for one in client.votes.counted] == [None]


def test_a_full_disk_is_the_servers_fault(client, monkeypatch):
    session = post(client, "/join", name="")

    def full(*_):
        raise DataError("No space left on device: /secret/place")

    monkeypatch.setattr(client.votes, "cast", full)
    trial = session["trials"][0]
    body = {"rater": session["rater"], "trial": trial["trial"], "choice": "tie", "id": token(1)}
    assert post(client, "/vote", 507, **body) == {"error": "the vote could not be written to the disk"}


def test_names_of_a_server():
    alone, everywhere, one = known("localhost", ()), known("0.0.0.0", ["Study.Lab"]), known("192.0.2.1", ())
    assert alone.has("127.0.0.1:8400") and alone.has("[::1]:8400") and alone.has("LOCALHOST")
    assert not alone.has("192.0.2.1") and not alone.has("study.lab")
    assert (
        everywhere.has("192.0.2.1:8400") and everywhere.has("study.lab") and everywhere.has("[2001:db8::1]")
    )
    assert everywhere.has(socket.gethostname()) and not everywhere.has("evil.example")
    assert one.has("192.0.2.1") and not one.has("localhost") and not Hosts(()).has("localhost")
    assert hostname("a/b") is hostname("u@h") is hostname("[::1") is hostname("") is None


def test_a_port_in_use_and_one_that_is_free():
    with listening("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        assert address(taken) == f"http://127.0.0.1:{port}/"
        with pytest.raises(ConfigError, match=rf"expected 127\.0\.0\.1:{port} to be free.*another --port"):
            listening("127.0.0.1", port)
    with pytest.raises(ConfigError, match="--port from 0 to 65535, found 70000"):
        listening("127.0.0.1", 70000)


def test_a_study_is_looked_at_before_it_is_served(study):
    found, folder = study
    with pytest.raises(DataError, match=r"expected .*study\.json"):
        serve(folder / "pictures", "127.0.0.1", 0)
    (folder / "votes.jsonl").write_text(json.dumps({"study": "0" * 64}) + "\n")
    with pytest.raises(DataError, match="1 lines of another"):
        serve(folder, "127.0.0.1", 0)
    (folder / "votes.jsonl").unlink()
    name = next(iter(found.pictures))
    (folder / "pictures" / f"{name}.png").unlink()
    with pytest.raises(DataError, match="missing or changed"):
        serve(folder, "127.0.0.1", 0)
