"""Names of results: what is a picture's name, and that no two results take one.

Two names that differ in case alone, or in how an accent is composed, are one file on some disks, and which
kind of disk a folder lies on cannot be asked: such results are told apart everywhere.
"""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import replace
from pathlib import Path

from unistep.errors import ConfigError
from unistep.image.encoders import FORMATS, Format
from unistep.upscaling.job import Job
from unistep.upscaling.paths import exact, folded
from unistep.upscaling.scanning import KINDS, READABLE, content

SUFFIXES = {name.lower(): form.suffixes for name, form in FORMATS.items()}
# An --output of such a name is a file that we cannot write, not the name of a folder.
UNWRITABLE = READABLE.union(KINDS, (".apng", ".jfi", ".jif", ".jpe", ".pjp", ".pjpeg"))


def form_of(path: Path) -> Format | None:
    """The format that the name of an output means."""
    return next((form for form in FORMATS.values() if path.suffix.lower() in form.suffixes), None)


def names_a_file(out: Path | None, paths: list[Path]) -> bool:
    """Whether `out` is the name of one picture; otherwise it is a folder. Raises ConfigError."""
    if out is None or os.path.isdir(out):
        return False
    if not form_of(out):
        if os.path.lexists(out) or out.suffix.lower() in UNWRITABLE:
            names = " ".join(s for group in SUFFIXES.values() for s in group)
            raise ConfigError(f"--output {out} is neither a folder nor named like a picture ({names})")
        return False
    if len(paths) == 1 and not os.path.isdir(paths[0]):
        return True
    raise ConfigError(f"--output {out} names one picture, but there is more than one input: give a folder")


def extension(path: Path, format: str | None) -> str:
    """The suffix of an output: the input's own where it fits (.jpeg stays .jpeg), else that of the format
    or, by default, of the input's content; .png where that is not written."""
    own = path.suffix
    if format is None and form_of(path):
        return own
    known = SUFFIXES.get(format or (content(path) or "").lower(), SUFFIXES["png"])
    return own if own.lower() in known else known[0]


def distinct(jobs: list[Job]) -> list[Job]:
    """Outputs that differ: of `a.png` and `a.jpg`, both to become PNG, the second becomes `a_jpg.png`; of
    `A.png` and `a.png`, the second becomes `a_2.png`. Raises ConfigError where nothing tells them apart."""
    count = Counter(folded(j.output) for j in jobs if j.output)
    named = []
    for job in jobs:
        if job.output and count[folded(job.output)] > 1 and job.output.suffix != job.input.suffix:
            tail = job.input.suffix.lstrip(".") or "file"
            job = replace(job, output=job.output.with_name(f"{job.output.stem}_{tail}{job.output.suffix}"))
        named.append(job)
    taken, first = {folded(j.output) for j in named if j.output}, dict[str, Job]()
    result = []
    for job in named:
        if job.output:
            other = first.setdefault(folded(job.output), job)
            if other.output and other is not job:
                if exact(other.output) == exact(job.output):
                    raise ConfigError(
                        f"{other.input} and {job.input} would both be written to {job.output}: "
                        "rename one of them, or upscale them into different folders"
                    )
                job = replace(job, output=numbered(job.output, taken, new=False))
        result.append(job)
    return result


def numbered(path: Path, taken: set[str], *, new: bool) -> Path:
    """The first of `name_2.png`, `name_3.png` ... not `taken` and, if `new`, not there; now it is taken."""
    number = 2
    while True:
        candidate = path.with_name(f"{path.stem}_{number}{path.suffix}")
        if folded(candidate) not in taken and not (new and os.path.lexists(candidate)):
            taken.add(folded(candidate))
            return candidate
        number += 1
