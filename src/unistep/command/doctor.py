"""`unistep doctor`: one line for each thing that a run needs, `ok` or `warn`, with what to do."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Callable
from importlib.metadata import version

from unistep.command.report import clean
from unistep.errors import UnistepError

Finding = tuple[bool, str]
GIB = 1 << 30


def doctor() -> int:
    """Check this machine: Python, torch, device, memory, codecs, disk."""
    well = True
    for name, check in CHECKS.items():
        try:
            ok, text = check()
        except UnistepError as error:
            ok, text = False, str(error)
        except Exception as error:  # a broken installation is what is looked for here
            ok, text = False, f"{type(error).__name__}: {error}"
        well = well and ok
        print(f"{'ok  ' if ok else 'warn'}  {name:8} {clean(text)}")
    return 0 if well else 1


def _python() -> Finding:
    text = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    return sys.version_info >= (3, 11), f"{text}, unistep {version('unistep')}"


def _torch() -> Finding:
    import torch

    return True, str(torch.__version__)


def _threads() -> Finding:
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    used = torch.get_num_threads()
    advice = f": set OMP_NUM_THREADS={cores}" if used > cores else ""
    return not advice, f"{used} for {cores} cores{advice}"


def _device() -> Finding:
    import torch

    if torch.cuda.is_available():
        card = torch.cuda.get_device_properties(0)
        return True, f"cuda, {card.name}, {card.total_memory / GIB:.0f} GiB"
    if torch.backends.mps.is_available():
        return True, "mps"
    return True, "cpu (no accelerator found; none is needed)"


def _memory() -> Finding:
    import torch

    from unistep.pixels.tiling import free_memory

    free = free_memory(torch.device("cpu"))
    return free >= GIB, f"{free / GIB:.1f} GiB free{'' if free >= GIB else ': close other programs'}"


def _codecs() -> Finding:
    import imagecodecs
    from PIL import features

    here = {"jpeg": "jpg", "png": "zlib", "webp": "webp", "tiff": "libtiff", "avif": "avif"}
    found = {name: bool(features.check(feature)) for name, feature in here.items()}
    found["png 16 bit"] = bool(imagecodecs.PNG.available)
    missing = [name for name, there in found.items() if not there]
    advice = f"; missing: {', '.join(missing)}: install pillow and imagecodecs again" if missing else ""
    return not missing, ", ".join(name for name in found if name not in missing) + advice


def _disk() -> Finding:
    free = shutil.disk_usage(".").free
    return free >= GIB, f"{free / GIB:.1f} GiB free in this folder{'' if free >= GIB else ': make room'}"


def _model() -> Finding:
    from unistep.models import checkpoint

    models = checkpoint.embedded()
    checkpoint.load_student()
    return True, f"{', '.join(models)}; the default, {checkpoint.DEFAULT}, loads"


CHECKS: dict[str, Callable[[], Finding]] = {
    "python": _python,
    "torch": _torch,
    "threads": _threads,
    "device": _device,
    "memory": _memory,
    "codecs": _codecs,
    "disk": _disk,
    "model": _model,
}
