"""The README's table of quality is what the committed results say."""

import json

import headline
import pytest


def test_the_readme_says_what_was_measured():
    readme = headline.README.read_text(encoding="utf-8")
    results = json.loads(headline.RESULTS.read_text(encoding="utf-8"))
    assert headline.placed(readme, headline.headline(results)) == readme


def results(means):
    """Of two sets, one without a truth: `means` of the first, by model, for PSNR-Y."""
    metrics = {name: {"label": name, "better": "higher", "unit": ""} for name in headline.METRICS}
    scores = [
        {"set": on, "judged": who, "metric": name, "mean": means[who] if on == "real" else None}
        for on in ("real", "blind") for who in headline.JUDGED for name in metrics
    ]  # fmt: skip
    order = {"sets": ["real", "blind"], "judged": list(headline.JUDGED), "metrics": list(metrics)}
    sets = {"real": {"images": 8}, "blind": {"images": 16}}
    return {"order": order, "sets": sets, "metrics": metrics, "scores": scores}


def test_best_in_bold_and_no_truth_no_number():
    lines = headline.headline(
        results(dict(zip(headline.JUDGED, (1.0, 2.0, 3.004, 3.001), strict=True)))
    ).splitlines()
    assert lines[2].startswith("| real (8) | bicubic | 1.00 | 1.000 |")
    assert lines[4].startswith("|  | RealESRGAN_x4plus | **3.00** | **3.004** |")
    assert lines[5].startswith("|  | compact-distilled | **3.00** | 3.001 |"), "equal where it is shown equal"
    assert lines[6].replace(" ", "") == "|blind(16)|bicubic||||||"


def test_the_place_of_the_table_is_marked_once():
    page = f"a\n{headline.BEGIN}old{headline.END}b\n"
    assert headline.placed(page, "new") == f"a\n{headline.BEGIN}\nnew\n{headline.END}b\n"
    for wrong in ("a", page + page):
        with pytest.raises(ValueError, match="expected one"):
            headline.placed(wrong, "new")
