"""The page in a headless Chromium: a vote is counted, undo works, a reload goes on, all stays here."""

import contextlib
import json
import threading

import pytest
from studies import loaded, made

from unistep.study.application import application
from unistep.study.returned import add
from unistep.study.serving import address, known, listening
from unistep.study.standalone import export
from unistep.study.studyfolder import read_study
from unistep.study.votes import Votes

pytestmark = pytest.mark.browser


@contextlib.contextmanager
def served(folder):
    """(address, votes) of a study on a free port."""
    import uvicorn

    study = read_study(folder)
    with Votes(folder, study) as votes, listening("127.0.0.1", 0) as place:
        config = uvicorn.Config(application(study, folder, votes, known("127.0.0.1", ())), log_level="error",
                                lifespan="off", ws="none", timeout_graceful_shutdown=1)  # fmt: skip
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [place]})
        thread.start()
        try:
            yield address(place), votes
        finally:
            server.should_exit = True
            thread.join()


def at(page, number, of):
    page.wait_for_function(
        "text => document.querySelector('#place').textContent === text"
        " && document.querySelector('#choices .candidate')?.disabled === false",
        arg=f"{number} of {of}",
    )


def counted(votes):
    return [votes.shown(one.rater, one.trial).index(one.choice) + 1 if one.choice != "tie" else 0
            for one in votes.counted]  # fmt: skip


def test_votes_through_the_page(tmp_path, opened):
    _, folder = made(tmp_path, ("ours", "theirs"), title="Which is better?", high=tmp_path / "hq")
    with served(folder) as (url, votes):
        page = opened(url)
        page.fill("#name", "Ada")
        assert page.title() == page.inner_text("#start h1") == "Which is better?"
        page.click("#go")
        at(page, 1, 4)
        captions = page.locator("#panes figcaption").all_text_contents()
        assert captions == ["Input", "Original", "1", "2"]
        sizes = page.evaluate(
            "[...document.querySelectorAll('#panes img')].map(i => [i.naturalWidth, i.naturalHeight])"
        )
        assert sizes == [[24, 16]] * 4
        page.click("#choices >> text=2 is better")
        at(page, 2, 4)
        page.keyboard.press("0")
        at(page, 3, 4)
        assert counted(votes) == [2, 0]
        page.keyboard.press("u")
        at(page, 2, 4)
        assert counted(votes) == [2]
        page.keyboard.press("1")
        at(page, 3, 4)
        assert counted(votes) == [2, 1] and votes.changes == 1
        page.reload()
        page.wait_for_selector("#again >> text=Welcome back, Ada. You have answered 2 of 4 questions.")
        page.click("#go")
        at(page, 3, 4)
        page.keyboard.press("1")
        at(page, 4, 4)
        page.keyboard.press("9")  # no such picture
        page.keyboard.press("2")
        page.wait_for_selector("#end >> text=Thank you")
        assert counted(votes) == [2, 1, 1, 2]
        page.click("text=Undo my last answer")
        at(page, 4, 4)
        page.click("#choices >> text=No difference")
        page.wait_for_selector("#end >> text=Thank you")
        page.reload()
        page.wait_for_selector("#end >> text=You have answered all 4 questions.")
        page.click("text=Somebody else takes part here")
        page.click("#go")
        at(page, 1, 4)
        assert len(votes.raters) == 2
        cookies = page.context.cookies()
        assert cookies == []
        page.close()  # before the server goes: a page that still loads would complain
    _, _, votes = loaded(folder)
    assert counted(votes) == [2, 1, 1, 0] and all(0 < one.seconds < 60 for one in votes.counted)


def test_panes_move_together(tmp_path, opened):
    _, folder = made(tmp_path, ("ours", "theirs"))
    with served(folder) as (url, _):
        page = opened(url)
        page.click("#go")
        at(page, 1, 4)
        views = "[...document.querySelectorAll('#panes img')].map(i => i.style.transform)"

        def view():
            found = page.evaluate(views)
            assert len(found) == 3 and len(set(found)) == 1
            return found[0]

        def scale():
            return float(view().split("scale(")[1].rstrip(")"))

        assert scale() == 1
        page.click("#in")
        page.click("#in")
        assert scale() == 4
        for _ in range(4):
            page.keyboard.press("+")
        assert scale() == 8  # and no more
        page.set_viewport_size({"width": 390, "height": 300})
        before = view()
        box = page.locator(".pane").nth(1).bounding_box()
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        page.mouse.move(x, y)
        page.mouse.down()
        page.mouse.move(x + 9, y + 5)
        page.mouse.up()
        assert view() != before
        page.mouse.wheel(0, 100)
        assert 1 <= scale() < 8
        page.click("#one")
        assert scale() == 1
        page.close()  # before the server goes: a page that still loads would complain


def test_a_vote_that_is_not_kept_is_said_and_comes_through_later(tmp_path, opened):
    _, folder = made(tmp_path, ("ours", "theirs"))
    with served(folder) as (url, votes):
        page = opened(url)
        page.click("#go")
        at(page, 1, 4)
        lost = []

        def lose(way):
            """The server keeps the vote, its answer does not arrive."""
            lost.append(json.loads(way.request.post_data))
            way.fetch()
            way.abort()

        page.route("**/vote", lose)
        page.keyboard.press("1")
        page.wait_for_selector("text=Your answer is not kept yet")
        page.unroute("**/vote")
        assert counted(votes) == [1]
        page.click("text=Try again")
        at(page, 2, 4)
        assert counted(votes) == [1] and len(lost) == 1
        page.keyboard.press("2")
        at(page, 3, 4)
        assert len((folder / "votes.jsonl").read_bytes().splitlines()) == 3
        page.close()  # before the server goes: a page that still loads would complain
    opened.wrong[:] = [text for text in opened.wrong if "ERR_FAILED" not in text]  # the one that was lost


def test_best_of_three_on_a_page_without_a_server(tmp_path, opened):
    study, folder = made(tmp_path, ask="best", tie=False)
    export(folder, tmp_path / "page.html")
    page = opened((tmp_path / "page.html").as_uri())
    page.click("#go")
    at(page, 1, 4)
    assert page.locator("#choices .candidate").count() == 3
    assert page.locator("#choices >> text=No difference").count() == 0
    for number in (2, 3, 4):
        page.keyboard.press("3")
        at(page, number, 4)
    page.keyboard.press("u")
    at(page, 3, 4)
    page.keyboard.press("2")
    at(page, 4, 4)
    page.reload()
    page.click("#go")
    at(page, 4, 4)
    page.keyboard.press("1")
    with page.expect_download() as download:
        page.click("text=Save my answers")
    download.value.save_as(tmp_path / "answers.json")
    with loaded(folder)[2] as votes:
        assert add(tmp_path / "answers.json", study, votes) == 6
    given = [one.shown.index(one.choice) + 1 for one in votes.counted]
    assert given == [3, 3, 2, 1] and votes.changes == 1
