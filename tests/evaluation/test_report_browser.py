"""The page of `unistep report` in a browser: what is seen when its parts are used."""

import json
from io import BytesIO

import numpy as np
import pytest
from PIL import Image
from reported import HOSTILE, data_of, evaluated, pixels

from unistep.command.cli import main

pytestmark = pytest.mark.browser
LOW, TRUTH, BICUBIC, GOOD, BAD = range(5)
DESK, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The file, and what its script is given."""
    out = evaluated(tmp_path_factory.mktemp("browser"), names=("good", HOSTILE), images=("a", "<b>b", "c"))
    bench = [{"name": "good", "seconds": 2, "gmacs": 9}, {"name": HOSTILE, "seconds": 0.5, "gmacs": 1}]
    (out / "bench.json").write_text(json.dumps(bench))
    command = ["report", str(out), "--crop-size", "64", "--bench", str(out / "bench.json")]
    assert main(command) == 0
    return out / "report.html", data_of((out / "report.html").read_bytes())


def looks(place):
    """What is seen of a part of the page, in the whole pixels that it is drawn to: uint8 [H, W, 3]."""
    place.scroll_into_view_if_needed()
    clip = {key: round(value) for key, value in place.bounding_box().items()}
    return np.asarray(Image.open(BytesIO(place.page.screenshot(clip=clip))).convert("RGB"))


def differing(place):
    """The card that a gallery shows first, of those where results differ most."""
    return place.locator(".card").filter(has_text="largest differences").first


def card_of(data, name):
    (on,) = data["sets"]
    return next(c for c in on["cards"] if on["images"][c["image"]] == name and c["kind"] == "differ")


def test_the_line_moves_and_each_side_is_its_picture(opened, page):
    file, data = page
    window = opened(file.as_uri(), viewport=DESK)
    card = differing(window)
    views = card_of(data, card.locator("b").inner_text())["views"]
    low = pixels(views[LOW]).repeat(4, 0).repeat(4, 1)
    good, box = pixels(views[GOOD]), card.locator(".slider")
    box.scroll_into_view_if_needed()
    edge = box.bounding_box()
    assert (edge["width"], edge["height"]) == (64, 64)  # 1:1
    middle = looks(box)
    assert np.array_equal(middle[:40, :20], low[:40, :20])
    assert np.array_equal(middle[:40, 44:], good[:40, 44:])
    window.mouse.move(edge["x"] + 32, edge["y"] + 10)
    window.mouse.down()
    window.mouse.move(edge["x"] + 60, edge["y"] + 12, steps=3)
    window.mouse.up()
    assert np.array_equal(looks(box)[:40, :48], low[:40, :48])
    window.mouse.move(edge["x"] + 10, edge["y"] + 12)  # not held any more
    assert np.array_equal(looks(box)[:40, :48], low[:40, :48])
    window.get_by_label("Left", exact=True).select_option(label=HOSTILE)
    assert np.array_equal(looks(box)[:40, :48], pixels(views[BAD])[:40, :48])
    window.get_by_label("Right", exact=True).select_option(label="truth")
    card.locator("input").press("Home")
    assert np.array_equal(looks(box)[:40, 16:], pixels(views[TRUTH])[:40, 16:])
    assert HOSTILE in card.inner_text() and card.locator(".sides").inner_text().endswith("truth")


def test_the_keys(opened, page):
    window = opened(page[0].as_uri(), viewport=DESK)
    first = differing(window).locator("input")
    first.focus()
    first.press("ArrowRight")
    first.press("ArrowRight")
    assert first.input_value() == "52"
    before = looks(differing(window).locator(".slider"))
    first.press("Space")
    assert first.input_value() == "0" and (looks(differing(window).locator(".slider")) != before).any()
    first.press("Space")
    assert first.input_value() == "100" and "low quality" in first.get_attribute("aria-valuetext")
    others = window.locator(".slider input").evaluate_all("all => all.map(one => one.value)")
    assert sorted(others) == ["100", *["50"] * (len(others) - 1)]
    window.get_by_label("Move all lines together").check()
    first.press("PageDown")
    values = set(window.locator(".slider input").evaluate_all("all => all.map(one => one.value)"))
    assert values == {first.input_value()} and values != {"100"}
    window.get_by_label("Size").select_option(label="3:1")
    assert differing(window).locator(".slider").bounding_box()["width"] == 192


def test_worst_cases_first_by_whom_one_likes(opened, page):
    file, data = page
    window = opened(file.as_uri(), viewport=DESK)
    psnr = data["sets"][0]["values"][0]
    order = window.locator("#cards .card b")
    window.get_by_label("Worst first of").select_option(label=HOSTILE)
    window.get_by_label("against", exact=True).select_option(label="good")
    lost = [good - bad for good, bad in zip(psnr[1], psnr[2], strict=True)]
    wanted = [data["sets"][0]["images"][i] for i in np.argsort(lost)[::-1]]
    assert list(dict.fromkeys(order.all_inner_texts())) == wanted
    assert f"{HOSTILE}: {max(lost):.3f} worse than good" in window.locator(".card").first.inner_text()
    window.get_by_label("Worst first of").select_option(label="bicubic")
    lost = [good - own for good, own in zip(psnr[1], psnr[0], strict=True)]
    wanted = [data["sets"][0]["images"][i] for i in np.argsort(lost)[::-1]]
    assert list(dict.fromkeys(order.all_inner_texts())) == wanted


def test_the_plots(opened, page):
    file, data = page
    window = opened(file.as_uri(), viewport=DESK)
    assert window.locator("#images-chart circle").count() == 3
    window.get_by_label("Model, upward").select_option(label=HOSTILE)
    window.get_by_label("Against, to the right").select_option(label="good")
    assert HOSTILE in window.locator("#images-chart svg").get_attribute("aria-label")
    psnr = data["sets"][0]["values"][0]
    losses = sorted((g - b for g, b in zip(psnr[1], psnr[2], strict=True)), reverse=True)
    first = window.locator("#images-worst li").first.inner_text()
    assert f"({losses[0]:.3f} worse)" in first and "<b>b" in window.locator("#images-worst").inner_text()
    window.locator("#images-chart circle").nth(data["sets"][0]["images"].index("<b>b")).hover(force=True)
    assert window.locator("#images-near").inner_text().startswith("<b>b: ")
    across = window.locator("#cost-chart circle").evaluate_all("all => all.map(c => +c.getAttribute('cx'))")
    assert len(across) == 2 and across[0] > across[1]  # good costs more
    window.get_by_label("Cost", exact=True).select_option(label="GMAC")
    assert "GMAC" in window.locator("#cost-chart svg").get_attribute("aria-label")


def test_names_for_everything_and_no_markup_from_names(opened, page):
    window = opened(page[0].as_uri(), viewport=DESK)
    nameless = """() => [...document.querySelectorAll("select, input, svg, [role=region]")]
        .filter((one) => !(one.labels && one.labels.length) && !one.getAttribute("aria-label")).length"""
    assert window.evaluate(nameless) == 0
    assert window.locator("img[onerror], td b, li b, option b").count() == 0
    assert window.locator("h1").count() == 1 and window.locator("html").get_attribute("lang") == "en"


def test_a_phone_by_touch_and_in_the_dark(opened, page):
    window = opened(page[0].as_uri(), viewport=PHONE, has_touch=True, is_mobile=True, device_scale_factor=2,
                    color_scheme="dark")  # fmt: skip
    assert window.evaluate("document.documentElement.scrollWidth") == 390
    colours = window.evaluate(
        "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]"
    )
    dark, light = ([int(v) for v in c[4:-1].split(",")] for c in colours)
    assert max(dark) < 60 and min(light) > 200
    box = differing(window).locator(".slider")
    box.scroll_into_view_if_needed()
    edge, before = box.bounding_box(), looks(box)
    window.touchscreen.tap(edge["x"] + 50, edge["y"] + 20)
    assert 70 < int(differing(window).locator("input").input_value()) < 85
    assert (looks(box) != before).any() and edge["width"] == 64
