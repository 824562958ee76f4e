"""A study is made: folders of results become questions and pictures that do not say who made them.

Every picture is written anew as a PNG without metadata, under a name that is a hash of the seed, of where it
comes from and of its pixels: neither its name, its format nor a text inside it tells a method from another.
"""

import hashlib
import io
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from PIL import Image as Pillow

from ..errors import ConfigError, DataError
from ..evaluation.judged import Bicubic, Enlarge, Results, agreed
from ..evaluation.pairing import Problem, Rule, match, pictures, settle, stem, unique
from ..evaluation.sets import PictureSet, Sample, decided, of_low, of_pairs
from ..image.stored import Codes
from .categories import categories
from .studyfolder import KEY, PICTURES, STUDY, Ask, Image, Item, Key, Study, picture_file, write_study

QUESTION = {
    "pairs": "Which picture is the better restoration?",
    "best": "Which picture is the best restoration?",
}
TO_HIGH = "It is like the original."
TO_LOW = "Its shapes and structures agree with the low-quality input."
REALISM = "Its textures and details look real."
MOST_AT_ONCE = 9
"""Candidates that one question can show: a digit key each."""
Told = Callable[[int, int], None]


@dataclass(frozen=True)
class Plan:
    """What a study asks.

    ask: "pairs" of methods with all others, or with `against` alone, or the "best" of all, as in TSD-SR.
    images: so many drawn images, evenly over the categories; None for all. per_rater, repeats: see `Study`.
    question: instead of QUESTION. seed: the same seed and files give the same study, byte for byte.
    """

    results: Sequence[tuple[str, Path]]
    seed: int
    low: Path | None = None
    high: Path | None = None
    scale: int = 4
    ask: Ask = "pairs"
    against: str | None = None
    tie: bool = True
    category: Mapping[str, str] = field(default_factory=dict)
    images: int | None = None
    per_rater: int | None = None
    repeats: int = 0
    title: str = "Picture study"
    question: str | None = None
    unmatched: Rule = "stop"


def make(plan: Plan, out: Path, key_file: Path | None = None, tell: Told = lambda done, of: None) -> Study:
    """Writes the study into the folder `out` and its key to `key_file` (default: key.json in `out`).

    tell: called with how many images of how many are done. Raises ConfigError for a plan that cannot be,
    DataError for folders that do not fit together or cannot be written.
    """
    names = _checked(plan)
    if (out / STUDY).exists():
        raise DataError(f"expected a new folder for the study, found one in {out}: name another")
    on, judged = _pictures(plan)
    of = categories([sample.name for sample in on.samples], plan.category)
    random = Random(f"{plan.seed} images")
    chosen = drawn(of, plan.images, random)
    on = PictureSet(on.name, tuple(s for s in on.samples if s.name in chosen), on.scale, on.reference,
                    notes=on.notes)  # fmt: skip
    _enough(plan, len(on.samples) * len(groups(plan, names)))
    key_file = key_file or out / KEY
    files = _Files(out, plan.seed)
    images, made = {}, {}
    try:
        (out / PICTURES).mkdir(parents=True, exist_ok=True)
        opened = {who.name: who.open() for who in judged}
        for i, sample in enumerate(on.samples):
            images[sample.name], made[sample.name] = _written(plan, on, sample, opened, files, of)
            tell(i + 1, len(on.samples))
        items = questions(plan, names, made)
        study = Study(
            plan.title, plan.question or QUESTION[plan.ask], () if plan.question else _criteria(plan),
            plan.ask, plan.tie, plan.per_rater, plan.repeats, plan.seed, images, items, files.sha256,
            on.notes,
        )  # fmt: skip
        folders = {name: folder.resolve().name for name, folder in plan.results}
        _forget_others(out, study)
        write_study(out, study, Key(folders, files.method), key_file)
    except OSError as error:
        raise DataError(f"expected to write into {out}, found: {error}") from error
    return study


def groups(plan: Plan, names: Sequence[str]) -> list[tuple[str, ...]]:
    """The methods that are compared at a time."""
    if plan.ask == "best":
        return [tuple(names)]
    pairs = itertools.combinations(names, 2)
    return [pair for pair in pairs if plan.against is None or plan.against in pair]


def questions(plan: Plan, names: Sequence[str], made: Mapping[str, Mapping[str, str]]) -> tuple[Item, ...]:
    """All questions: image -> method -> picture to items, whose order and that of their pictures is drawn."""
    random = Random(f"{plan.seed} order")
    items = []
    for image, by_method in made.items():
        for group in groups(plan, names):
            shown = [by_method[name] for name in group]
            random.shuffle(shown)
            id = hashlib.sha256(f"{plan.seed} item {image} {sorted(shown)}".encode()).hexdigest()[:24]
            items.append(Item(id, image, tuple(shown)))
    random.shuffle(items)
    return tuple(items)


def drawn(of: Mapping[str, str], count: int | None, random: Random) -> set[str]:
    """`count` of the images, evenly over their categories as far as these reach; None for all.

    Raises ConfigError where there are not so many.
    """
    if count is None:
        return set(of)
    if not 1 <= count <= len(of):
        raise ConfigError(f"expected --images from 1 to {len(of)}, the images that there are, found {count}")
    queues: dict[str, list[str]] = {}
    for name, category in of.items():
        queues.setdefault(category, []).append(name)
    for queue in queues.values():
        random.shuffle(queue)
    rounds = itertools.zip_longest(*queues.values())
    return set(itertools.islice((name for row in rounds for name in row if name is not None), count))


@dataclass
class _Files:
    """Pictures of a study as they are written."""

    out: Path
    seed: int
    sha256: dict[str, str] = field(default_factory=dict)
    method: dict[str, str] = field(default_factory=dict)

    def write(self, codes: Codes, image: str, role: str, method: str | None = None) -> str:
        """Gives the picture's name."""
        hashed = hashlib.sha256(f"{self.seed}\0{image}\0{role}\0".encode() + codes.tobytes())
        name = hashed.hexdigest()[:24]
        held = io.BytesIO()
        Pillow.fromarray(codes).save(held, "PNG")
        picture_file(self.out, name).write_bytes(held.getvalue())
        self.sha256[name] = hashlib.sha256(held.getvalue()).hexdigest()
        if method is not None:
            self.method[name] = method
        return name


def _checked(plan: Plan) -> list[str]:
    """Names of the methods."""
    names = [name for name, _ in plan.results]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(
            f"expected a name of its own for each method, found {', '.join(twice)} twice: NAME=FOLDER"
        )
    if len(names) < 2:
        raise ConfigError(
            f"expected two methods or more to compare, found {len(names)}: give --results again"
        )
    if plan.ask == "best" and len(names) > MOST_AT_ONCE:
        raise ConfigError(
            f"expected at most {MOST_AT_ONCE} methods side by side, found {len(names)}: --ask pairs"
        )
    if plan.against is not None and (plan.against not in names or plan.ask != "pairs"):
        raise ConfigError(
            f"expected --against one of {', '.join(names)}, with --ask pairs, found {plan.against!r}"
        )
    for name, value, least in (("scale", plan.scale, 1), ("per-rater", plan.per_rater, 1),
                               ("repeats", plan.repeats, 0)):  # fmt: skip
        if value is not None and value < least:
            raise ConfigError(f"expected --{name} to be {least} or more, found {value}")
    return names


def _enough(plan: Plan, count: int) -> None:
    """Raises ConfigError where raters are to be asked more than the `count` questions that there are."""
    if plan.per_rater is not None and plan.per_rater > count:
        raise ConfigError(f"expected --per-rater of at most {count} questions, found {plan.per_rater}")
    if plan.repeats > (asked := plan.per_rater or count) // 2:
        raise ConfigError(
            f"expected --repeats of at most half of the {asked} questions, found {plan.repeats}"
        )


def _pictures(plan: Plan) -> tuple[PictureSet, list[Results]]:
    """The images that everybody has a result for, under the rule of `unistep eval` (`pairing.settle`)."""
    judged = [Results(name, folder) for name, folder in plan.results]
    if plan.low is not None and plan.high is not None:
        on = of_pairs(plan.low.resolve().name, plan.low, plan.high, plan.scale)
    elif plan.low is not None or plan.high is not None:
        folder = plan.low or plan.high
        assert folder is not None
        on = of_low(folder.resolve().name, folder, 1 if plan.low is None else plan.scale)
    else:  # the first method's pictures say how large the others are to be, and which there are
        name, folder = plan.results[0]
        on = of_low(name, folder, 1)
        settle(f"the results {name} and the others", _alone(plan), plan.unmatched)
    (on,) = agreed(judged, [decided(on, plan.unmatched)], plan.unmatched)
    return on, judged


def _alone(plan: Plan) -> list[Problem]:
    """Pictures that other methods have and the first does not."""
    first, *others = [unique(pictures(folder)[0])[0] for _, folder in plan.results]
    return [
        Problem(file, f"{plan.results[0][0]} has no picture of this name", stem(file))
        for files in others
        for file in match(first, files).right
    ]


def _written(
    plan: Plan, on: PictureSet, sample: Sample, opened: Mapping[str, Enlarge], files: _Files,
    of: Mapping[str, str],
) -> tuple[Image, dict[str, str]]:  # fmt: skip
    """(the image, method -> picture) of one sample."""
    first, high = on.load(sample)
    if plan.low is None:
        high = None if plan.high is None else first
    large = Bicubic().open()(on, sample, first) if plan.low is not None else None
    made = {}
    for name, enlarge in opened.items():
        codes = enlarge(on, sample, first)
        made[name] = files.write(codes, sample.name, f"method {name}", name)
    height, width = codes.shape[:2]
    low_id, high_id = (
        None if codes is None else files.write(codes, sample.name, role)
        for role, codes in (("low", large), ("high", high))
    )
    return Image(of[sample.name], width, height, low_id, high_id), made


def _criteria(plan: Plan) -> tuple[str, ...]:
    """TSD-SR's three (section 4.3), as far as there is something to compare with."""
    wanted = ((TO_HIGH, plan.high), (TO_LOW, plan.low), (REALISM, True))
    return tuple(text for text, given in wanted if given)


def _forget_others(out: Path, study: Study) -> None:
    """Pictures that a killed run with another seed has left would be in nobody's list."""
    for file in (out / PICTURES).glob("*.png"):
        if file.stem not in study.pictures:
            file.unlink()
