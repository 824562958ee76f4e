"""Small studies for tests: three methods, four images, pictures of 24x16."""

from pathlib import Path
from random import Random

import numpy as np
from PIL import Image

from unistep.study.making import Plan, make
from unistep.study.studyfolder import read_key, read_study
from unistep.study.votes import Votes

IMAGES = ("face_a", "face_b", "house_c", "house_d")
METHODS = ("ours", "theirs", "third")
GROUPS = {"faces": "face_*", "buildings": "house_*"}


def noise(path: Path, width: int, height: int, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng([seed, width]).integers(0, 256, (height, width, 3), np.uint8)
    Image.fromarray(pixels).save(path)


def folders(root: Path, methods=METHODS, images=IMAGES) -> list[tuple[str, Path]]:
    for i, image in enumerate(images):
        noise(root / "lq" / f"{image}.png", 6, 4, i)
        noise(root / "hq" / f"{image}.png", 24, 16, 100 + i)
        for j, method in enumerate(methods):
            noise(root / method / f"{image}_{method}.png".replace(f"_{method}", "_out"), 24, 16, 10 * j + i)
    return [(method, root / method) for method in methods]


def made(root: Path, methods=METHODS, **changed):
    """(study, its folder)."""
    results = folders(root, methods)
    settings = {"seed": 7, "low": root / "lq", "category": GROUPS, **changed}
    return make(Plan(results, **settings), root / "study"), root / "study"


def loaded(folder: Path):
    study = read_study(folder)
    return study, read_key(folder / "key.json", study), Votes(folder, study, clock=lambda: "then")


def token(i: int) -> str:
    return f"{i:032x}"


def someone(votes: Votes, seed: int = 0):
    return votes.join(f"rater {seed}", Random(seed))
