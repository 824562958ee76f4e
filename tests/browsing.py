"""A headless Chromium for tests of pages, driven by Playwright: the fixture `opened` is what they take.

Chromium is the system's own (`apt-get install chromium`); where there is none, these tests are skipped.
"""

import shutil
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
INSIDE = ("file", "data", "blob", "about")
HERE = ("127.0.0.1", "localhost")
ARGUMENTS = ["--disable-gpu", "--force-color-profile=srgb"]
SLOW = 120_000
"""Milliseconds that a busy machine may take for anything."""


def executable() -> str | None:
    return next((path for name in NAMES if (path := shutil.which(name))), None)


@pytest.fixture(scope="session")
def chromium() -> Iterator[object]:
    """A running browser, one for each process of tests."""
    driver = pytest.importorskip("playwright.sync_api", reason="no playwright here: pip install playwright")
    path = executable()
    if path is None:
        pytest.skip("no Chromium here: apt-get install chromium")
    with driver.sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch(executable_path=path, args=ARGUMENTS, timeout=SLOW)
        except driver.Error as error:  # a stub that asks for snap, a missing library
            pytest.skip(f"the Chromium at {path} does not start: {str(error).splitlines()[0]}")
        yield browser
        browser.close()


@pytest.fixture
def opened(chromium) -> Iterator[Callable[..., object]]:
    """opened(url, **context) -> a page of a new window, `context` as of Playwright's `new_context`.

    At the end of the test it fails if a page asked for anything outside this machine (which it did not get),
    or wrote an error or a warning to the console.
    """
    contexts: list[object] = []
    wrong: list[str] = []

    def route(way: object) -> None:
        where = urlsplit(way.request.url)
        if where.scheme in INSIDE or where.hostname in HERE:
            way.continue_()
        else:
            wrong.append(f"asked for {way.request.url}")
            way.abort()

    def said(message: object) -> None:
        if message.type in ("error", "warning"):
            wrong.append(f"console: {message.text}")

    def window(url: str, **context: object) -> object:
        contexts.append(chromium.new_context(**context))
        contexts[-1].set_default_timeout(SLOW)
        contexts[-1].route("**/*", route)
        page = contexts[-1].new_page()
        page.on("console", said)
        page.on("pageerror", lambda error: wrong.append(f"error: {error}"))
        page.goto(url)
        return page

    window.wrong = wrong
    yield window
    for context in contexts:
        context.close()
    assert not wrong
