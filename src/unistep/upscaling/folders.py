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
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from unistep.atomic import remove_leftovers
from unistep.errors import ConfigError, ImageError, UnistepError
from unistep.image import Metadata, Picture, probe, read_image, shown, write_image
from unistep.image.encoders import FORMATS, Format
from unistep.pixels.resize import MAX_OUTPUT_PIXELS, target_size

Status = Literal["todo", "done", "skipped", "failed"]
Existing = Literal["skip", "overwrite", "rename"]
Size = tuple[int, int]

SUFFIXES = {name.lower(): form.suffixes for name, form in FORMATS.items()}
# Suffixes that are looked for inside folders; a file that is named by itself is tried whatever its name.
READABLE = frozenset({".gif"}.union(*SUFFIXES.values()))
FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))
# An --output of such a name is a picture that we cannot write, not the name of a folder.
UNWRITABLE = frozenset({".gif", ".heic", ".heif", ".jp2", ".jxl", ".psd", ".svg"})
# Folders that operating systems and storage boxes leave among photographs (dotfiles are ignored anyway).
SYSTEM_FOLDERS = frozenset({"__MACOSX", "$RECYCLE.BIN", "System Volume Information", "@eaDir"})


@dataclass(frozen=True)
class Job:
    """One input and what is to become, or became, of it. Sizes are (width, height) in upright pixels.

    `message` is one line: the reason of a failure or a skip, or notes. `error` is what was raised, for a
    caller who wants the traceback. With `replace` the output may exist already and is then replaced.
    """

    input: Path
    output: Path | None = None
    status: Status = "todo"
    seconds: float = 0.0
    input_size: Size | None = None
    output_size: Size | None = None
    message: str = ""
    error: Exception | None = None
    replace: bool = False


def plan(
    inputs: Iterable[str | Path],
    output: str | Path | None = None,
    *,
    sizing: Mapping[str, Any],
    suffix: str | None = None,
    format: str | None = None,
    recursive: bool = False,
    existing: Existing = "skip",
) -> list[Job]:
    """Jobs for `inputs`, in their order, folders expanded in the order of their names.

    `output` is None (results go next to their sources, named `<stem>_x<factor>`), a folder (the tree of
    every input folder is mirrored into it; several input folders keep their names) or, for one input
    file, a file name. `sizing` holds one keyword of the Upscaler: scale, width, height, fit or
    megapixels. `suffix` is added to the stem; by default it is the factor next to the source, and nothing
    inside `output`. `format` is a key of `SUFFIXES`; by default every file keeps its own.

    An input that is itself the output of another input is skipped, so that the same command can be run
    again on its folder. Raises ConfigError where the run as a whole makes no sense; what concerns one
    file is that file's failed job.
    """
    if suffix and any(c in suffix for c in "/\\\0"):
        raise ConfigError(f"--suffix {suffix!r} cannot hold a path separator: give the folder with --output")
    if format is not None and format not in SUFFIXES:
        raise ConfigError(f"unknown format {format!r}: choose one of {', '.join(SUFFIXES)}")
    _target((1 << 30, 1 << 30), sizing)  # raises for what is wrong for every picture
    paths = [Path(p) for p in inputs]
    out = Path(output) if output is not None else None
    single = _names_a_file(out, paths)
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
                name = folder / f"{job.input.stem}{tail}{_extension(job.input, format)}"
            job = replace(job, output=name)
        jobs.append(job)
    own = out is None and suffix is None
    jobs = _settle(_skip_results(_distinct(jobs), own_names=own), existing)
    return [_measure(job, sizing) for job in jobs]


def run(
    jobs: Iterable[Job],
    upscale: Callable[[Picture], Picture],
    *,
    metadata: Metadata = "keep",
    quality: int | None = None,
) -> Iterator[Job]:
    """Do the jobs one after the other and yield what became of each, in order.

    `upscale` takes a Picture and gives the larger one. KeyboardInterrupt passes through and leaves
    nothing half-written; every Exception becomes the failed result of its file, with a UnistepError's
    sentence as it is.
    """
    swept: set[Path] = set()
    for job in jobs:
        if job.output and job.output.parent not in swept:
            swept.add(job.output.parent)
            with contextlib.suppress(OSError):
                remove_leftovers(job.output.parent)
        start = time.perf_counter()
        if job.status == "todo":
            try:
                job = _do(job, upscale, metadata, quality)
            except Exception as error:
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


def _do(job: Job, upscale: Callable[[Picture], Picture], metadata: Metadata, quality: int | None) -> Job:
    assert job.output is not None  # a job to be done has an output
    if job.output.exists() and not job.replace:  # another run may have made it since the plan
        return replace(job, status="skipped", message="the output exists already")
    picture = read_image(job.input)
    if job.input_size not in (None, picture.rgb.shape[1::-1]):  # replaced, perhaps through another link to it
        raise ImageError("it is not the picture any more that it was when the run began")
    notes = picture.source.notes if picture.source else ()
    _check_folder(job.output.parent)
    picture = upscale(picture)
    write_image(job.output, picture, metadata=metadata, quality=quality)
    height, width = picture.rgb.shape[:2]
    return replace(job, status="done", output_size=(width, height), message="; ".join(notes))


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
        form = _form(job.output) if job.output else None
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
        return job.output_size[0] / job.input_size[0]
    return float(sizing["scale"])


def _names_a_file(out: Path | None, paths: list[Path]) -> bool:
    """Whether `out` is the name of one picture; otherwise it is a folder."""
    if out is None or os.path.isdir(out):
        return False
    if not _form(out):
        if os.path.lexists(out) or out.suffix.lower() in UNWRITABLE:
            names = " ".join(s for group in SUFFIXES.values() for s in group)
            raise ConfigError(f"--output {out} is neither a folder nor named like a picture ({names})")
        return False
    if len(paths) == 1 and not os.path.isdir(paths[0]):
        return True
    raise ConfigError(f"--output {out} names one picture, but there is more than one input: give a folder")


def _form(path: Path) -> Format | None:
    return next((form for form in FORMATS.values() if path.suffix.lower() in form.suffixes), None)


def _extension(path: Path, format: str | None) -> str:
    """The suffix of an output: the input's own where it fits (.jpeg stays .jpeg), .png where nothing fits."""
    own = path.suffix
    if format is None:
        return own if _form(path) else ".png"
    return own if own.lower() in SUFFIXES[format] else SUFFIXES[format][0]


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
        empty = True
        for job in _scan(path, recursive, out):
            empty = False
            if job.status == "failed":
                yield job, base
            elif _new(job.input, seen):
                yield job, base / job.input.parent.relative_to(path)
        if empty:
            hint = "" if recursive else " (folders inside it are only searched with --recursive)"
            yield Job(path, status="failed", message=f"no pictures in this folder{hint}"), base


def _new(path: Path, seen: set[str]) -> bool:
    real = os.path.join(os.path.realpath(path.parent), path.name)  # two names of one file are two pictures
    if real in seen:
        return False
    seen.add(real)
    return True


def _scan(folder: Path, recursive: bool, out: Path | None) -> Iterator[Job]:
    """Pictures in a folder by their suffix, without hidden and system files and the output folder."""
    broken: list[OSError] = []
    skip = "" if out is None or _same(out, folder) else os.path.realpath(out)
    for root, folders, files in os.walk(folder, onerror=broken.append):
        here = Path(root)
        inside = [f for f in folders if not f.startswith(".") and f not in SYSTEM_FOLDERS]
        folders[:] = [f for f in sorted(inside) if recursive and os.path.realpath(here / f) != skip]
        for name in sorted(files):
            path = here / name
            there = os.path.isfile(path) or os.path.islink(path)  # a broken link fails by its name
            if not name.startswith(".") and path.suffix.lower() in READABLE and there:
                yield Job(path)
    for error in broken:
        yield _failed(Job(Path(error.filename)), error)


def _same(one: Path, other: Path) -> bool:
    return os.path.realpath(one) == os.path.realpath(other)


def _key(path: Path) -> str:
    return os.path.normcase(os.path.abspath(path))


def _distinct(jobs: list[Job]) -> list[Job]:
    """Outputs that differ: of `a.png` and `a.jpg`, both to become PNG, the second becomes `a_jpg.png`."""
    count = Counter(_key(j.output) for j in jobs if j.output)
    named: dict[str, Job] = {}
    result = []
    for job in jobs:
        if job.output and count[_key(job.output)] > 1 and job.output.suffix != job.input.suffix:
            output = job.output.with_name(
                f"{job.output.stem}_{job.input.suffix.lstrip('.')}{job.output.suffix}"
            )
            job = replace(job, output=output)
        if job.output:
            other = named.setdefault(_key(job.output), job)
            if other is not job:
                raise ConfigError(
                    f"{other.input} and {job.input} would both be written to {job.output}: "
                    "rename one of them, or upscale them into different folders"
                )
        result.append(job)
    return result


def _skip_results(jobs: list[Job], *, own_names: bool) -> list[Job]:
    """Inputs that are results of other inputs are not enlarged again.

    They are the planned outputs and, where results get our own names next to their sources, files such as
    `a_x2.png` beside `a.png`: results of the same folder at another factor.
    """
    outputs = {_key(j.output): j.input for j in jobs if j.output and _key(j.output) != _key(j.input)}
    stems = {_key(j.input.with_suffix("")) for j in jobs}
    result = []
    for job in jobs:
        source = outputs.get(_key(job.input))
        stem = re.sub(r"_x\d+(\.\d+)?(_\w+)?$", "", job.input.stem) if own_names else job.input.stem
        if source is not None:
            job = replace(job, status="skipped", message=f"it is the result for {source.name}")
        elif stem and stem != job.input.stem and _key(job.input.with_name(stem)) in stems:
            job = replace(job, status="skipped", message=f"it looks like an earlier result for {stem}")
        result.append(job)
    return result


def _settle(jobs: list[Job], existing: Existing) -> list[Job]:
    """What happens where the output is there already."""
    taken = {_key(j.output) for j in jobs if j.output}
    result = []
    for job in jobs:
        output = job.output
        if job.status == "todo" and output and os.path.lexists(output):
            if existing == "rename":
                job = replace(job, output=_free(output, taken))
            elif existing == "overwrite":
                job = replace(job, replace=True)
            elif _same(job.input, output):
                raise ConfigError(
                    f"{job.input} would be written over itself: choose another --output or a --suffix, "
                    "or say --existing overwrite"
                )
            else:
                job = replace(job, status="skipped", message="the output exists already")
        result.append(job)
    return result


def _free(path: Path, taken: set[str]) -> Path:
    """The first of `name_2.png`, `name_3.png` ... that neither exists nor is planned; now it is planned."""
    number = 2
    while True:
        candidate = path.with_name(f"{path.stem}_{number}{path.suffix}")
        if not os.path.lexists(candidate) and _key(candidate) not in taken:
            taken.add(_key(candidate))
            return candidate
        number += 1
