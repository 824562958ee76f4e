"""The browser of the tests sees what a page does wrong."""

import pytest

pytestmark = pytest.mark.browser


def test_what_a_page_does_wrong_is_seen(opened, tmp_path):
    page = tmp_path / "page.html"
    page.write_text("<title>x</title><p>y</p>")
    assert opened(page.as_uri()).title() == "x" and not opened.wrong
    page.write_text(
        "<title>x</title><img src='http://192.0.2.1/a.png'><script>console.error('said'); gone()</script>"
    )
    opened(page.as_uri())
    found = " ".join(opened.wrong)
    assert "asked for http://192.0.2.1/a.png" in found and "said" in found and "gone is not defined" in found
    opened.wrong.clear()
