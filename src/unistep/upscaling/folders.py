"""Files and folders of pictures: first decide everything that can be known, then do it, one by one.

`plan` looks at names and headers only and answers with one `Job` for each input; mistakes that concern
the whole run (two inputs for one output, an output on top of its source) are errors here, before any
work. `run` does the jobs and yields each with its outcome. Nothing here prints, and no file's error ends
the run: it becomes that file's result. Outputs appear by atomic rename, so whatever exists is whole, and
the same plan made again after a kill skips what is there and does the rest.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import stat
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from unistep.atomic import remove_leftovers
from unistep.errors import ConfigError, ImageError, UnistepError
from unistep.image import Metadata, Picture, probe, read_image, shown, write_image
from unistep.pixels.resize import MAX_OUTPUT_PIXELS, target_size
from unistep.upscaling.job import Job, Size
from unistep.upscaling.naming import SUFFIXES, distinct, extension, form_of, names_a_file, numbered
from unistep.upscaling.noise import caught, noted
from unistep.upscaling.paths import exact, folded, same
from unistep.upscaling.scanning import scan

Existing = Literal["skip", "update", "overwrite", "rename"]

NONE = "no pictures in this folder"
HEAD = 1 << 18  # bytes of a file that are read for its size, if they tell it
FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))


def plan(
    inputs: Iterable[str | Path],
    output: str | Path | None = None,
    *,
    sizing: Mapping[str, Any],
    suffix: str | None = None,
    format: str | None = None,
    recursive: bool = False,
    existing: Existing = "skip",
    exact_size: bool = True,
) -> list[Job]:
    """Jobs for `inputs`, in their order, folders expanded in the order of their names.

    `output` is None (results go next to their sources, named `<stem>_x<factor>`), a folder (the tree of
    every input folder is mirrored into it; several input folders keep their names) or, for one input
    file, a file name. `sizing` holds one keyword of the Upscaler: scale, width, height, fit or megapixels;
    or width and height, and their box. `suffix` is added to the stem; by default it is the factor next to
    the source, and nothing inside `output`. `format` is a key of `SUFFIXES`; by default every file keeps its
    own.

    An input that is itself the output of another input is skipped, so that the same command can be run
    again on its folder. Where an output exists, `existing` says what happens. "skip" calls it stale if it is
    older than its source, cannot be read or, unless `exact_size` is False, is not of the size asked for;
    "update" does the stale ones again. Raises ConfigError where the run as a whole makes no sense; what
    concerns one file is that file's failed job.
    """
    if suffix and any(c in suffix for c in "/\\\0"):
        raise ConfigError(f"--suffix {suffix!r} cannot hold a path separator: give the folder with --output")
    if format is not None and format not in SUFFIXES:
        raise ConfigError(f"unknown format {format!r}: choose one of {', '.join(SUFFIXES)}")
    _target((1 << 30, 1 << 30), sizing)  # raises for what is wrong for every picture
    paths = [Path(p) for p in inputs]
    out = Path(output) if output is not None else None
    single = names_a_file(out, paths)
    if single and out and format and out.suffix.lower() not in SUFFIXES[format]:
        raise ConfigError(f"--output {out} and --format {format} disagree: give one of them")
    if single and suffix:
        raise ConfigError(f"--output {out} is the whole name, so there is no place for --suffix {suffix}")
    named_by_size = not single and not out and suffix is None and "scale" not in sizing

    jobs: list[Job] = []
    for job, below in _expand(paths, None if single else out, recursive):
        if job.status == "todo" and named_by_size:
            job = _measure(job, sizing)
        if job.status == "todo":
            name = out
            if name is None or not single:
                tail = suffix if suffix is not None else "" if out else f"_x{_factor(job, sizing):.3g}"
                folder = out / below if out else job.input.parent
                name = folder / f"{job.input.stem}{tail}{extension(job.input, format)}"
            job = replace(job, output=name)
        jobs.append(job)
    own = out is None and suffix is None
    jobs = _settle(_skip_results(distinct(jobs), own_names=own), existing, sizing, exact_size)
    return [_measure(job, sizing) for job in jobs]


def run(
    jobs: Iterable[Job],
    upscale: Callable[[Picture], Picture],
    *,
    metadata: Metadata = "keep",
    quality: int | None = None,
    hush: bool = False,
) -> Iterator[Job]:
    """Do the jobs one after the other and yield what became of each, in order.

    `upscale` takes a Picture and gives the larger one. KeyboardInterrupt passes through and leaves
    nothing half-written; every Exception becomes the failed result of its file, with a UnistepError's
    sentence as it is. With `hush`, what libraries print on the process' stderr about a file is a note of
    its result.
    """
    swept: set[Path] = set()
    for job in jobs:
        if job.output and job.output.parent not in swept:
            swept.add(job.output.parent)
            with contextlib.suppress(OSError):
                remove_leftovers(job.output.parent)
        start = time.perf_counter()
        if job.status == "todo":
            heard: list[str] = []
            try:
                job = _do(job, upscale, metadata, quality, heard if hush else None)
                job = replace(job, message="; ".join(filter(None, (job.message, noted(heard)))))
            except Exception as error:
                for line in heard:
                    error.add_note(line)
                job = _failed(job, error)
            job = replace(job, seconds=time.perf_counter() - start)
        yield job


def reason(error: Exception, path: Path) -> str:
    """One line that says why: the sentence of our own errors, and a plain one for those of the machine."""
    text = " ".join(str(error).split())
    cause = error.__cause__ if isinstance(error.__cause__, OSError) else error
    if isinstance(cause, OSError) and cause.errno in FULL:
        return "no space left on the disk: free some and run the same command again"
    if isinstance(error, UnistepError):
        return text.removeprefix(f"{shown(path)}: ")
    if (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or "allocate memory" in text
    ):
        return "not enough memory: give a smaller --tile or close other programs"
    if isinstance(error, OSError) and error.strerror:
        where = f" ({error.filename})" if error.filename and str(error.filename) != str(path) else ""
        return error.strerror[:1].lower() + error.strerror[1:] + where
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _failed(job: Job, error: Exception) -> Job:
    """The job, failed; the error keeps where it came from, but not the pictures in the frames on its way."""
    link: BaseException | None = error
    while link is not None:
        traceback.clear_frames(link.__traceback__)
        link = link.__cause__ or link.__context__
    return replace(job, status="failed", output_size=None, message=reason(error, job.input), error=error)


def _do(
    job: Job,
    upscale: Callable[[Picture], Picture],
    metadata: Metadata,
    quality: int | None,
    heard: list[str] | None,
) -> Job:
    assert job.output is not None  # a job to be done has an output
    if job.output.exists() and not job.replace:  # another run may have made it since the plan
        return replace(job, status="skipped", message="the output exists already")
    with contextlib.nullcontext() if heard is None else caught(heard):
        picture = read_image(job.input)
    if job.input_size not in (None, picture.rgb.shape[1::-1]):  # replaced, perhaps through another link to it
        raise ImageError("it is not the picture any more that it was when the run began")
    notes = picture.source.notes if picture.source else ()
    _check_folder(job.output.parent)
    picture = upscale(picture)
    with contextlib.nullcontext() if heard is None else caught(heard):
        lost = write_image(job.output, picture, metadata=metadata, quality=quality)
    height, width = picture.rgb.shape[:2]
    message = "; ".join(filter(None, (job.message, *notes, *lost)))
    return replace(job, status="done", output_size=(width, height), message=message)


def _check_folder(folder: Path) -> None:
    """Make the output folder; what keeps us from writing there is said before the hard work, not after."""
    folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))
    if shutil.disk_usage(folder).free < 1 << 16:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))


def _measure(job: Job, sizing: Mapping[str, Any]) -> Job:
    """The job with its sizes, or failed where the header or the limits say that it cannot be done."""
    if job.status != "todo":
        return job
    try:
        size = job.input_size or probe(job.input)
        width, height = target = _target(size, sizing)
        if width * height > MAX_OUTPUT_PIXELS:
            limit = MAX_OUTPUT_PIXELS // 10**6
            raise ImageError(f"the result would be {width}x{height}, over {limit} megapixels: ask for less")
        form = form_of(job.output) if job.output else None
        if form and (max(target) > form.side or width * height > form.pixels):
            kind = job.output.suffix.lstrip(".").upper() if job.output else ""
            raise ImageError(f"the result would be {width}x{height}, too large for {kind}: use png")
    except Exception as error:
        return _failed(job, error)
    return replace(job, input_size=size, output_size=target)


def _target(size: Size, sizing: Mapping[str, Any]) -> Size:
    names = {"width": "to_width", "height": "to_height"}
    return target_size(*size, **{names.get(name, name): value for name, value in sizing.items()})


def _factor(job: Job, sizing: Mapping[str, Any]) -> float:
    if job.input_size and job.output_size:
        if sizing.get("box", "fit") != "fit":
            return max(to / before for to, before in zip(job.output_size, job.input_size, strict=True))
        return job.output_size[0] / job.input_size[0]
    return float(sizing["scale"])


def _expand(paths: list[Path], out: Path | None, recursive: bool) -> Iterator[tuple[Job, Path]]:
    """Every input once, as a job with its folder relative to the output folder."""
    seen: set[str] = set()
    several = sum(map(os.path.isdir, paths)) > 1
    for path in paths:
        try:
            mode = os.stat(path).st_mode
        except OSError as error:
            yield _failed(Job(path), error), Path()
            continue
        if not stat.S_ISDIR(mode):
            if not stat.S_ISREG(mode):
                yield Job(path, status="failed", message="not a regular file"), Path()
            elif _new(path, seen):
                yield Job(path), Path()
            continue
        base = Path(os.path.basename(os.path.realpath(path))) if several else Path()
        pictures, passed = False, Counter[str]()
        for found, why in scan(path, recursive, out):
            pictures = pictures or not isinstance(why, str)
            if isinstance(why, OSError):
                yield _failed(Job(found), why), base
            elif _new(found, seen):
                job = Job(found) if why is None else Job(found, status="passed", message=why)
                passed[job.message] += job.status == "passed"
                yield job, base / found.parent.relative_to(path)
        if not pictures:
            others = ", ".join(f"{why} ({count})" for why, count in passed.most_common())
            hint = "" if recursive else " (folders inside it are only searched with --recursive)"
            message = f"no pictures that are read in this folder: {others}" if others else NONE
            yield Job(path, status="failed", message=message + hint), base


def _new(path: Path, seen: set[str]) -> bool:
    real = os.path.join(os.path.realpath(path.parent), path.name)  # two names of one file are two pictures
    if real in seen:
        return False
    seen.add(real)
    return True


def _skip_results(jobs: list[Job], *, own_names: bool) -> list[Job]:
    """Inputs that are results of other inputs are not enlarged again.

    They are the planned outputs and, where results get our own names next to their sources, files such as
    `a_x2.png` beside `a.png`: results of the same folder at another factor.
    """
    outputs = {exact(j.output): j.input for j in jobs if j.output and exact(j.output) != exact(j.input)}
    stems = {exact(j.input.with_suffix("")) for j in jobs if j.status != "passed"}
    result = []
    for job in jobs:
        source = outputs.get(exact(job.input))
        stem = re.sub(r"_x\d+(\.\d+)?(_\w+)?$", "", job.input.stem) if own_names else job.input.stem
        if source is not None:
            job = replace(job, status="skipped", message=f"it is the result for {source.name}")
        elif stem and stem != job.input.stem and exact(job.input.with_name(stem)) in stems:
            job = replace(job, status="skipped", message=f"it looks like an earlier result for {stem}")
        result.append(job)
    return result


def _settle(jobs: list[Job], existing: Existing, sizing: Mapping[str, Any], exact_size: bool) -> list[Job]:
    """What happens where the output is there already."""
    taken = {folded(j.output) for j in jobs if j.output}
    result = []
    for job in jobs:
        output = job.output
        if job.status == "todo" and output and os.path.lexists(output):
            if existing == "rename":
                job = replace(job, output=numbered(output, taken, new=True))
            elif existing == "overwrite":
                job = replace(job, replace=True)
            elif same(job.input, output):
                raise ConfigError(
                    f"{job.input} would be written over itself: choose another --output or a --suffix, "
                    "or say --existing overwrite"
                )
            else:
                fault = _fault(job.input, output, sizing, exact_size)
                if fault and existing == "update":
                    job = replace(job, replace=True, message=f"done again: it {fault}")
                else:
                    message = f"the output exists already{', but it ' if fault else ''}{fault}"
                    job = replace(job, status="skipped", message=message, stale=bool(fault))
        result.append(job)
    return result


def _fault(source: Path, made: Path, sizing: Mapping[str, Any], exact_size: bool) -> str:
    """Why a result is not the one that is asked for: it "is older than its source", say; "" if it may be.

    Of what cannot be known of the source nothing is held against its result.
    """
    with contextlib.suppress(OSError):
        changed = os.stat(source).st_mtime
        # Some disks keep two seconds; and no result can be newer than a source that is dated in the future.
        if os.stat(made).st_mtime + 2 < changed <= time.time():
            return "is older than its source"
    try:
        found = _head(made) or probe(made)
    except ImageError as error:
        return f"cannot be read ({reason(error, made)})"
    if not exact_size:
        return ""
    with contextlib.suppress(UnistepError):
        if (head := _head(source)) and _target(head, sizing) == found:
            return ""
        found, wanted = probe(made), _target(probe(source), sizing)  # a turn may stand further behind
        if found != wanted:
            return "has {}x{} pixels instead of {}x{}".format(*found, *wanted)
    return ""


def _head(path: Path) -> Size | None:
    """The size of a picture as far as its beginning tells: whole folders are looked through at each run."""
    if path.is_file():  # a pipe would be waited for
        with contextlib.suppress(OSError, ImageError), open(path, "rb") as file:
            return probe(file.read(HEAD))
    return None
