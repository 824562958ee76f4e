"""A benchmark: everyone who takes part, counted, then measured in turns; one JSON object at the end."""

import contextlib
import platform
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from ... import __version__
from ...counting.operators import Peaks
from ...errors import ConfigError
from . import growth
from .counted import TEXT, Part
from .files import FORMAT, picture_file, through_files
from .participants import Participant, Ways, opened
from .timing import Run, Spread, Times, grown, in_turns, measured_peaks, ratio
from .wanted import Wanted

WARM_UP = 3
"""Runs before those that count; a compiler does its work there. Of a picture file: one."""
VERSION = 2
"""Of the JSON object: 1 was that of one model, flat."""
WHOLE, FILE = "whole", "file"


@dataclass(frozen=True)
class Settings:
    size: int = 128
    """Side of the low-quality picture, in pixels."""
    repeat: int = 30
    peaks: Peaks | None = None
    """Of the device; None: measured first."""
    baseline: str | None = None
    """Whom ratios are to; None: the first."""
    sizes: tuple[float, ...] = ()
    """Megapixels of results, for how cost grows."""
    limit: float = 60.0
    """Seconds: a larger size is not measured where a run would take longer."""
    files: bool = True
    """Picture files as well."""
    count: bool = False
    """Nothing is run: what is counted alone."""
    threads: int | None = None
    ways: Ways = field(default_factory=Ways)

    def __post_init__(self) -> None:
        if self.size < 1 or self.repeat < 1:
            raise ConfigError(
                f"expected a size and a number of runs from 1 upward, found {self.size} and {self.repeat}"
            )
        if self.threads is not None and self.threads < 1:
            raise ConfigError(f"expected --threads from 1 upward, found {self.threads}")
        if not self.limit > 0:
            raise ConfigError(f"expected --limit to be above 0 seconds, found {self.limit:g}")
        growth.checked(self.sizes)


def bench(
    wanted: Sequence[Wanted], settings: Settings, tick: Callable[[str], object] = lambda line: None
) -> dict[str, Any]:
    """What everyone costs. tick: told what is going on.

    Raises ConfigError, ModelError, and MemoryLimit where there is no room for the weights.
    """
    names = [one.name for one in wanted]
    baseline = settings.baseline or names[0]
    if baseline not in names:
        raise ConfigError(f"expected --baseline to be one of {', '.join(names)}, found {baseline}")
    with _threads(settings.threads):
        who = []
        for one in wanted:
            tick(f"opening {one.name}")
            who.append(opened(one, settings.ways, not settings.count))
        entries, work = [], []
        for participant in who:
            tick(f"counting {participant.name}")
            work.append(participant.counted((settings.size, settings.size)))
            entries.append(_counted(participant, work[-1], settings))
        times: dict[str, dict[str, Times]] = {}
        if not settings.count:
            times = _measured(who, entries, work, settings, tick)
        found = {
            "format": VERSION, "unistep": __version__, "torch": torch.__version__,
            "python": platform.python_version(), "machine": _machine(who),
            "threads": torch.get_num_threads(), "size": settings.size, "baseline": baseline,
            "limit": settings.limit, "spread": "median and quartiles", "how": _how(who),
            "peaks": "given" if settings.peaks else None if settings.count else "measured", "models": entries,
        }  # fmt: skip
    _ratios(entries, times, baseline)
    return found


def _counted(who: Participant, found: Sequence[Part], settings: Settings) -> dict[str, Any]:
    """An entry with all that is counted; what will be measured is None."""
    text = who.text()
    stages = [_stage(part) for part in ([text] if text else []) + [*found]]
    entry = {
        "name": who.name, **who.said, "device": str(who.device),
        "dtype": str(who.dtype).removeprefix("torch."), "size": settings.size,
        "output": [who.scale * settings.size] * 2, "runs": 0, "compiled": settings.ways.compile,
        "seconds": None, "cpu_seconds": None, "operators": sum(part.operators for part in found),
        "gmacs": sum(part.macs for part in found) / 1e9,
        "gmacs_attention": sum(part.attention for part in found) / 1e9,
        "parameters": sum(part.parameters for part in found), "weight_bytes": who.weight_bytes,
        "peak_bytes": who.weight_bytes + max(part.peak for part in found) if found else None,
        "stages": stages if len(stages) > 1 else [], "picture": None, "growth": [],
    }  # fmt: skip
    if settings.sizes:
        entry["growth"] = growth.counted(who, growth.checked(settings.sizes))
    if settings.peaks:
        _bounds(entry, found, settings.peaks)
    return entry


def _stage(part: Part) -> dict[str, Any]:
    return {
        "name": part.name, "calls": part.calls, "parameters": part.parameters, "operators": part.operators,
        "gmacs": part.macs / 1e9, "gmacs_attention": part.attention / 1e9,
        "seconds": None, "cpu_seconds": None,
    }  # fmt: skip


def _bounds(entry: dict[str, Any], found: Sequence[Part], peaks: Peaks) -> None:
    """The roofline of Williams et al. 2009: what the counted work takes at least at these peaks."""
    for name, fused in (("bound_fused", True), ("bound_eager", False)):
        entry[name] = sum(part.calls * part.counts.bound(peaks, fused) for part in found) if found else None
    entry |= {"peak_tflops": peaks.flops / 1e12, "peak_gbs": peaks.bandwidth / 1e9, "efficiency": None}


def _measured(
    who: Sequence[Participant],
    entries: Sequence[dict[str, Any]],
    work: Sequence[Sequence[Part]],
    settings: Settings,
    tick: Callable[[str], object],
) -> dict[str, dict[str, Times]]:
    """Fills in what is measured; by model the rounds of each of its calls. work: everyone's counted parts."""
    device = next((one.device for one in who if one.device.type != "cpu"), who[0].device)
    with tempfile.TemporaryDirectory(prefix="unistep-bench-") as folder:
        ways = _ways(who, settings, Path(folder), tick)
        for (name, kind), run in ways.items():
            tick(f"warming up {name}")
            for _ in range(1 if kind == FILE else WARM_UP):
                run()
        spent = in_turns(
            {"\0".join(key): run for key, run in ways.items()}, settings.repeat, device,
            lambda done: tick(f"round {-(-done // len(ways))} of {settings.repeat}"),
        )  # fmt: skip
        times: dict[str, dict[str, Times]] = {}
        for key, found in spent.items():
            name, kind = key.split("\0")
            times.setdefault(name, {})[kind] = found
        peaks: dict[tuple[torch.device, torch.dtype], Peaks] = {}
        for one, entry, parts in zip(who, entries, work, strict=True):
            if not settings.peaks:
                tick("measuring what the machine can do")
                place = one.device, one.dtype
                if place not in peaks:
                    peaks[place] = measured_peaks(*place)
                _bounds(entry, parts, peaks[place])
            if one.device.type == "cuda":
                entry["peak_bytes"] = (grown(ways[one.name, WHOLE], one.device) or 0) + one.weight_bytes
            _fill(entry, times[one.name], settings)
    if settings.sizes:
        lines = {entry["name"]: entry["growth"] for entry in entries}
        growth.measure(who, lines, growth.Limits(settings.limit, settings.repeat), tick)
    return times


def _ways(
    who: Sequence[Participant], settings: Settings, folder: Path, tick: Callable[[str], object]
) -> dict[tuple[str, str], Run]:
    """(name, kind of call) -> the call, in the order of a round: of each kind, one model after the other."""
    runs = {}
    for i, one in enumerate(who):
        tick(f"preparing {one.name}")
        runs[one.name] = one.runs(settings.size)
        if settings.files:
            source = folder / "picture.png" if i else picture_file(folder, settings.size)
            runs[one.name][FILE] = through_files(one, source, folder / f"{i}.{FORMAT}")
    kinds = dict.fromkeys(kind for found in runs.values() for kind in found)
    return {(name, kind): runs[name][kind] for kind in kinds for name in runs if kind in runs[name]}


def _fill(entry: dict[str, Any], times: dict[str, Times], settings: Settings) -> None:
    entry["runs"] = settings.repeat
    entry |= _spread(times[WHOLE])
    if entry.get("bound_fused") is not None:
        entry["efficiency"] = entry["bound_fused"] / entry["seconds"]
    for stage in entry["stages"]:
        if stage["name"] in times:
            stage |= _spread(times[stage["name"]])
        else:
            stage["why"] = f"no room for the weights of the {TEXT}"
    if FILE in times:
        side = settings.size
        entry["picture"] = {"format": FORMAT, "input": [side, side], "output": entry["output"]} | _spread(
            times[FILE]
        )


def _spread(times: Times) -> dict[str, Any]:
    found = {"seconds": Spread.of(times.seconds), "cpu_seconds": Spread.of(times.cpu_seconds)}
    return {key: one.median for key, one in found.items()} | {
        "spread": {key: asdict(one) for key, one in found.items()}
    }


def _ratios(entries: Sequence[dict[str, Any]], times: dict[str, dict[str, Times]], baseline: str) -> None:
    """How many times the baseline everyone is; measured ones are taken within each round."""
    base = next(entry for entry in entries if entry["name"] == baseline)
    for entry in entries:
        ratios: dict[str, Any] = {
            key: entry[key] / base[key] if base[key] and entry[key] is not None else None
            for key in ("parameters", "gmacs", "operators", "weight_bytes", "peak_bytes")
        }
        own, theirs = times.get(entry["name"], {}), times.get(baseline, {})
        for key, kind in (("", WHOLE), ("picture_", FILE)):
            both = kind in own and kind in theirs
            for what in ("seconds", "cpu_seconds"):
                pair = [getattr(found[kind], what) for found in (own, theirs)] if both else []
                ratios[key + what] = asdict(ratio(*pair)) if both and min(pair[1]) > 0 else None
        entry["ratios"] = ratios


def _how(who: Sequence[Participant]) -> dict[str, str]:
    """Where each number is from."""
    measured = (
        "seconds cpu_seconds picture stages.seconds growth.seconds growth.measured_peak_bytes efficiency"
    )
    counted = "operators gmacs gmacs_attention parameters weight_bytes bound_fused bound_eager growth.gmacs"
    found = dict.fromkeys(measured.split(), "measured") | dict.fromkeys(counted.split(), "counted")
    cuda = any(one.device.type == "cuda" for one in who)
    return found | {"peak_bytes": "measured" if cuda else "counted", "growth.peak_bytes": "counted"}


def _machine(who: Sequence[Participant]) -> str:
    return torch.cuda.get_device_name() if any(one.device.type == "cuda" for one in who) else "CPU"


@contextlib.contextmanager
def _threads(number: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
