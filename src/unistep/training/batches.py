"""From pairs to batches: which samples each process sees, and what the base makes of them.

`train.batch` is the global batch. It is cut into parts, one for each forward pass of each process: sample j
belongs to part j mod n. So the first of a part are among the first of the batch, and whatever a method does
with a share of its images, it does with the same images however the batch is cut.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch.utils.data import Subset

from ..bases import face_of
from ..bases.face import wordless
from ..data.again import Again
from ..data.pairs import Pairs, batches
from ..data.presets import preset
from ..data.shards import Crop, Made
from ..diffusion.denoiser import Batch
from ..errors import ConfigError, DataError
from ..recipes.config import TrainConfig, kind
from .opening import Opened
from .targets import check_scale


def forwards(t: TrainConfig, world: int = 1) -> int:
    """How many forward passes of each of `world` processes make one global batch.

    Raises ConfigError where the batch does not divide into parts of train.micro samples.
    """
    micro = t.micro or t.batch // world
    if not micro or t.batch % (world * micro):
        each = f" times train.micro {t.micro}" if t.micro else ""
        raise ConfigError(
            f"expected train.batch to be a multiple of {world} (the processes){each}, found {t.batch}: set "
            "train.batch or train.micro"
        )
    return t.batch // (world * micro)


class Share(Sequence[int]):
    """The offsets of one process's samples in `length` samples, in the order in which it needs them."""

    def __init__(self, t: TrainConfig, length: int, rank: int, world: int):
        self.parts = world * forwards(t, world)
        self.batch, self.rank, self.world = t.batch, rank, world
        self.micro = t.batch // self.parts
        self.length = length // t.batch * (t.batch // world)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, n):  # type: ignore[no-untyped-def]
        if not 0 <= n < self.length:
            raise IndexError(n)
        forward, k = divmod(n, self.micro)
        step, m = divmod(forward, self.parts // self.world)
        return int(step * self.batch + k * self.parts + m * self.world + self.rank)


def make_batches(
    opened: Opened, pairs: Pairs, device: torch.device, rank: int = 0, world: int = 1
) -> Iterator[Batch]:
    """Process `rank`'s batches on `device`, one for each forward pass, from the position of `pairs`.

    Raises ConfigError or DataError, at once, for pairs that do not go with the base.
    """
    check(opened, pairs)
    return _made(opened, pairs, device, rank, world)


def check(opened: Opened, pairs: Pairs) -> None:
    """Raises ConfigError for another scale than the base's, DataError for prepared data of another run."""
    run, base = opened.run, face_of(opened.run.base)
    check_scale(run, opened.base.scale)
    if run.data.prompts and base.text is None:
        raise wordless(base.name)
    photo = pairs.files[0]
    if not isinstance(photo, Crop):
        return
    made, folder = photo.made, photo.shard.parent
    if made.pairs:
        check_targets(opened, made, folder)
    else:
        check_latents(opened, made, folder)
    for setting in ("patch", "usm_sharpen"):
        wanted, found = getattr(run.data, setting), getattr(made, setting)
        if wanted != found:
            raise DataError(
                f"{folder}: expected data.{setting} {wanted}, found data prepared with {found}: set "
                f"data.{setting}={str(found).lower()}, or prepare them again"
            )


def check_latents(opened: Opened, made: Made, folder: Path) -> None:
    """Raises DataError for latents of another base."""
    init = opened.sources.get("train.init")
    name, sha256 = kind(opened.run.base), init.sha256 if init else ""
    if (made.base, made.sha256) != (name, sha256):
        raise DataError(
            f"{folder}: expected latents of the base {name} with sha256 {sha256 or '-'}, found latents of "
            f"another model ({made.base}, {made.sha256 or '-'}): prepare the data with this base"
        )


def check_targets(opened: Opened, made: Made, folder: Path) -> None:
    """Raises DataError for pairs that the run cannot learn from, or whose targets another file made."""
    run, restorer = opened.run, opened.sources.get("train.restorer")
    if restorer is None:
        raise DataError(
            f"{folder}: expected photographs, or crops with latents, for {run.name}, whose method learns "
            "from no restorer, found pairs with a restorer's targets: prepare the data with this recipe"
        )
    if made.restorer != restorer.sha256:
        raise DataError(
            f"{folder}: expected targets of train.restorer {restorer.path} with sha256 {restorer.sha256}, "
            f"found targets made by another file than the one named ({made.restorer}): name that one, or "
            "prepare the data again"
        )
    scales = {preset(name).scale for name, _ in made.degradations}
    if scales != {opened.base.scale}:
        raise DataError(
            f"{folder}: expected pairs of scale {opened.base.scale}, the base's, found scale "
            f"{', '.join(map(str, sorted(scales)))}: prepare the data with this recipe"
        )


def _made(opened: Opened, pairs: Pairs, device: torch.device, rank: int, world: int) -> Iterator[Batch]:
    base, run, restore = opened.base, opened.run, opened.restore
    again = Again(pairs, run.data.uses, restore if device.type == "cpu" else None, run.train.batch)
    share = Subset(again, Share(run.train, len(pairs), rank, world))
    micro = run.train.batch // (world * forwards(run.train, world))
    default = getattr(run.base, "prompt", "")
    for samples in batches(share, micro, run.data.workers):
        with torch.no_grad():  # what is frozen in the base needs no graph
            if samples.x_lq is None:
                x_lq, x_hq = pairs.degraded(samples, device)
            else:
                x_lq, x_hq = samples.x_lq.to(device), samples.x_hq.to(device)
            z_hq = base.encode(x_hq) if samples.z_hq is None else samples.z_hq.to(device, torch.float32)
            cond = base.cond(x_lq)
            told = [default if text is None else text for text in samples.texts]
            cond_hq = base.told(cond, told) if run.data.prompts else None
            restored = None if samples.restored is None else samples.restored.to(device)
            if restore is not None and restored is None:
                restored = restore(x_lq)
            batch = Batch(x_lq, x_hq, z_hq, cond, base.null(cond), cond_hq, restored)
        yield batch
