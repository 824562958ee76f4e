"""A study as one HTML file for raters elsewhere, who send their answers back as a file."""

import base64
import hashlib
import json
import re
from pathlib import Path

from ..atomic import atomic_write
from ..errors import DataError
from .asking import asked, page_file
from .studyfolder import Study, check_pictures, picture_file, read_study

SCRIPTS = ("offline.js", "view.js", "page.js")
LARGE = 100_000_000
"""Bytes from which on a page is slow to open."""


def export(folder: Path, out: Path) -> int:
    """Writes the study in `folder` as a page that needs no server and no network; gives its bytes.

    Like what the server sends, it names no method. Raises DataError.
    """
    study = read_study(folder)
    check_pictures(folder, study)
    text = page(study, {name: picture_file(folder, name).read_bytes() for name in study.pictures}).encode()
    try:
        with atomic_write(out) as file:
            file.write(text)
    except OSError as error:
        raise DataError(f"expected to write {out}, found: {error}") from error
    return len(text)


def page(study: Study, pictures: dict[str, bytes]) -> str:
    """The page; pictures: name -> PNG."""
    items = []
    for item in study.items:
        image = study.images[item.image]
        items.append({
            "id": item.id, "pictures": sorted(item.pictures), "low": image.low, "high": image.high,
            "width": image.width, "height": image.height,
        })  # fmt: skip
    held = {
        "about": asked(study),
        "items": items,
        "per_rater": study.per_rater,
        "repeats": study.repeats,
        "pictures": {name: f"data:image/png;base64,{_base64(data)}" for name, data in pictures.items()},
    }
    style = page_file("page.css").decode()
    scripts = [page_file(name).decode() for name in SCRIPTS]
    policy = (
        f"default-src 'none'; script-src {' '.join(map(_hash, scripts))}; style-src {_hash(style)}; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )
    json_text = json.dumps(held).replace("<", "\\u003c")  # no text may end the element
    body = [f'<script type="application/json" id="held">{json_text}</script>']
    body += [f"<script>{script}</script>" for script in scripts]
    text = page_file("index.html").decode()
    text = re.sub(r'<link rel="icon".*\n|<script src.*\n', "", text)
    head = f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n<style>{style}</style>'
    text = text.replace('<link rel="stylesheet" href="page.css">', head)
    return text.replace("</body>", "\n".join([*body, "</body>"]))


def _hash(text: str) -> str:
    return f"'sha256-{_base64(hashlib.sha256(text.encode()).digest())}'"


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
