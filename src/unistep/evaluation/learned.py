"""CLIP-IQA, MUSIQ and MANIQA through pyiqa, which is not free for commercial use: the extra `eval-nc`.

Imported where a metric is opened, and never part of Unistep otherwise. Its weights are downloaded by pyiqa.
"""

import contextlib
import functools
import logging
import random
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from ..errors import ConfigError
from ..extras import extra
from .files import AbsentMetric
from .metric import Score
from .planes import check

LICENCE = "PolyForm Noncommercial 1.0.0 (with parts under S-Lab License 1.0)"
log = logging.getLogger(__name__)


def open_learned(name: str) -> Score:
    """pyiqa's metric `name`, as it calls it: [B,3,H,W] in [0,1] -> [B] float32, an image at a time.

    Values outside [0,1] are clamped, as files would have it. MANIQA looks at random crops: here each image
    has the same ones in each call. Raises AbsentMetric if pyiqa, or what it downloads, is not here.
    """
    try:
        pyiqa = extra("pyiqa")
    except ConfigError as error:
        raise AbsentMetric(f"{name}: {error}") from error
    _say_licence(str(getattr(pyiqa, "__version__", "of unknown version")))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        metric = pyiqa.create_metric(name, device=device)
    except Exception as error:  # pyiqa raises whatever a missing file or a broken dependency leads to
        reason = " ".join(str(error).split())[:200]
        raise AbsentMetric(
            f"{name}: expected pyiqa to open it, found {reason}: let it fetch its weights once"
        ) from error

    def score(image: Tensor) -> Tensor:
        check(image)
        values = []
        for one in image:
            with torch.no_grad(), _seeded(device):
                values.append(metric(one.clamp(0, 1).unsqueeze(0).float().to(device)))
        return torch.stack([value.reshape(()).float().cpu() for value in values])

    return score


@contextlib.contextmanager
def _seeded(device: torch.device) -> Iterator[None]:
    """All generators of random numbers at seed 0; afterwards they go on where they were."""
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng([] if device.type == "cpu" else None):
            torch.manual_seed(0)
            random.seed(0)
            np.random.seed(0)
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


@functools.cache
def _say_licence(version: str) -> None:
    log.warning("pyiqa %s is licensed under %s: not for commercial use", version, LICENCE)
