"""Distances between sets within a run: features of each image are kept once, the rest is arithmetic on them.

A set is judged by all of its images or not at all. Its references are the truths of its samples, or a set
that the user names (FID-F: the faces of FFHQ), which may have any number of images.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ..errors import DataError, ImageError, UnistepError
from ..extras import without_warnings
from ..image.stored import Codes
from ..tensors import sha256
from .distributions import LEAST, SetScore
from .journal import Journal, key_of
from .measuring import Measure, Value, batch, number
from .pairing import Problem, Rule, listed, pictures, settle
from .sets import ReferenceSet, Sample, read

NO_INTERVAL = "no interval: a resampled set repeats images, and that alone moves the distance"
Wanted = dict[str, tuple[SetScore, bool]]
"""Key of features that are not kept yet -> what computes them, and whether of the truth."""


def compared(
    measures: Sequence[Measure], folder: Path, journal: Journal, rule: Rule,
    progress: Callable[[float, str], None],
) -> list[Measure]:  # fmt: skip
    """The measures, with the pictures of a folder for those that compare with such a set.

    Raises DataError as `reference_set`; where all of them are absent nothing is read.
    """
    if not any(one.metric.reference_set and one.score for one in measures):
        return [*measures]
    found = reference_set(folder, measures, journal, rule, progress)
    return [replace(one, reference_set=found) if one.metric.reference_set else one for one in measures]


def reference_set(
    folder: Path, measures: Sequence[Measure], journal: Journal, rule: Rule,
    progress: Callable[[float, str], None],
) -> ReferenceSet:  # fmt: skip
    """All pictures in and below a folder, their features kept for `measures` that compare with such a set.

    A file whose features are kept is only hashed. Raises DataError where `rule` stops the run for files that
    cannot be read, or if fewer than two can.
    """
    paths, problems = pictures(folder, recursive=True)
    networks = {network_of(one): _score(one) for one in measures if one.metric.reference_set and one.score}
    found = []
    for i, path in enumerate(paths):
        try:
            digest = sha256(path)
            keys = {_of_file(network, digest): score for network, score in networks.items()}
            left = {key: score for key, score in keys.items() if key not in journal.features}
            codes = read(path) if left else None
        except (UnistepError, OSError) as error:
            problems.append(Problem(path, " ".join(str(error).removeprefix(f"{path}: ").split())))
            continue
        for key, score in left.items():
            assert codes is not None
            journal.features.add(key, score.features(batch(codes))[0])
        found.append((path, digest))
        progress((i + 1) / len(paths), f"{folder.resolve().name}/{path.name}")
    settle(f"the reference set {folder.resolve().name}", problems, rule)
    if len(found) < 2:
        raise DataError(f"expected a reference set of at least 2 pictures in {folder}, found {len(found)}")
    notes = (f"left out: {listed(problems)}",) if problems else ()
    return ReferenceSet(folder.resolve().name, tuple(found), notes)


def network_of(one: Measure) -> str:
    """The same for all measures that have the same features."""
    return key_of(one.files, _score(one).resize)


def missing(measures: Sequence[Measure], journal: Journal, result: str, sample: Sample) -> Wanted:
    """The features that a sample and the result of this key lack. `measures`: of sets, usable here."""
    wanted: Wanted = {}
    for one in measures:
        wanted[_of_result(network_of(one), result)] = _score(one), False
        if not one.metric.reference_set:
            wanted[_of_truth(network_of(one), sample)] = _score(one), True
    return {key: value for key, value in wanted.items() if key not in journal.features}


def keep(wanted: Wanted, journal: Journal, result: Codes, truth: Codes | None) -> None:
    """Computes features; pictures are uint8 [H, W, 3]."""
    for key, (score, of_truth) in wanted.items():
        codes = truth if of_truth else result
        assert codes is not None
        journal.features.add(key, score.features(batch(codes))[0])


def sides(one: Measure, results: Sequence[str], samples: Sequence[Sample]) -> tuple[list[str], list[str]]:
    """Keys of the features of all results, and of all references."""
    network = network_of(one)
    ours = [_of_result(network, result) for result in results]
    if one.reference_set is not None:
        return ours, [_of_file(network, digest) for _, digest in one.reference_set.files]
    return ours, [_of_truth(network, sample) for sample in samples]


def distance(one: Measure, journal: Journal, keys: tuple[list[str], list[str]]) -> Value:
    """Between the features of two sets, all of which are kept; or why there is none."""
    try:
        with torch.inference_mode(), without_warnings():  # the caption says what is said of small sets
            ours, theirs = (journal.features.stacked(side) for side in keys)
            return number(float(_score(one).distance(ours, theirs)))
    except ImageError as error:
        return " ".join(str(error).split())


def small(metric: Mapping[str, Any], images: int) -> str:
    """What `Measure.said` and the number of a set's images say against a distance; "" if nothing."""
    reference = metric.get("reference_set")
    counts = [images, *([reference["images"]] if reference else [])]
    if metric.get("over") != "sets" or min(counts) >= LEAST:
        return ""
    return (
        f"{min(counts)} images are fewer than {LEAST:,}: it compares with {metric['label']} of sets of "
        "this size alone"
    )


def _score(one: Measure) -> SetScore:
    assert isinstance(one.score, SetScore)
    return one.score


def _of_result(network: str, result: str) -> str:
    return key_of("features", network, result)


def _of_truth(network: str, sample: Sample) -> str:
    return key_of("features of the truth", network, sample.sha256)


def _of_file(network: str, digest: str) -> str:
    return key_of("features of a file", network, digest)
