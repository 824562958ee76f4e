"""Training pairs from photographs: hold-out by photograph, seeded crops, seeded degradation.

Sample `index` under `seed` is always the same pair, so a position in training is one number.
"""

import csv
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..errors import ConfigError, DataError, check_range
from .degrade import Draw, degrade
from .degradebatch import degrade_batch
from .presets import DEGRADATIONS, without_grey
from .presets import preset as named
from .ready import is_ready, ready
from .shards import INDEX, Crop, crops
from .skipping import Report, each, ignore
from .sources import (
    ARCHIVE,
    SUFFIXES,
    Member,
    Photo,
    content,
    image_files,
    members,
    refuse_pairs,
    text_of,
    usable,
)

PLACES = ("cpu", "device")
LATENTS = ("fp32", "fp16")


@dataclass(frozen=True)
class DataConfig:
    """What pairs are made of."""

    patch: int = 128
    """Side of the high-quality crop, pixels; a multiple of 16."""
    degradations: dict[str, float] = field(
        default_factory=lambda: {"realesrgan": 0.15, "light": 0.3, "bicubic": 0.2, "mild": 0.35}
    )
    """Preset -> share of the samples; clean ones keep good photographs good."""
    usm_sharpen: bool = False
    """Sharpen the ground truth with unsharp masking."""
    rotations: bool = True
    """Turn crops by quarters too, not only mirror them; faces stay upright."""
    prompts: bool = False
    """Tell teacher, score and critic what each image shows: NAME.txt beside NAME.png."""
    holdout: float = 0.06
    """Share of the photographs (never of the crops) that is kept out of training."""
    draws: int = 1
    """How many pairs `unistep prepare` makes of each crop, where it makes pairs; each degraded otherwise."""
    uses: int = 1
    """How often each pair is used, turned otherwise each time: where making it costs much (`data.again`)."""
    workers: int = 1
    degrade_on: str = "cpu"
    """Where low-quality images are made: "cpu" (by the workers) or "device" (the run's)."""
    memory: float = 8.0
    """GB of decoded photographs that a process keeps; the others are decoded anew each time."""
    strict: bool = False
    """Stop at the first image or shard that cannot be used, instead of leaving it out; and resume no run
    whose data set has changed."""
    latents: str = "fp32"
    """How `unistep prepare` stores latents: fp32 or fp16."""
    shard: int = 256
    """Crops in each shard that `unistep prepare` writes."""

    def __post_init__(self) -> None:
        if self.patch < 16 or self.patch % 16:
            raise ConfigError(f"expected data.patch to be a multiple of 16, found {self.patch}")
        scales = {named(name).scale for name in self.degradations}
        shares = self.degradations.values()
        if not shares or min(shares) < 0 or sum(shares) <= 0:
            raise ConfigError(
                f"expected shares of degradations that sum to more than 0, found {self.degradations}"
            )
        if len(scales) > 1:
            raise ConfigError(
                f"expected data.degradations of one scale, found {', '.join(map(str, sorted(scales)))} "
                f"({', '.join(self.degradations)}): leave some out"
            )
        if not 0 <= self.holdout < 1:
            raise ConfigError(f"expected data.holdout to be from 0 to less than 1, found {self.holdout}")
        check_range("data", self, "workers memory", 0)
        check_range("data", self, "shard draws uses", 1)
        for name, known in (("degrade_on", PLACES), ("latents", LATENTS)):
            if (value := getattr(self, name)) not in known:
                raise ConfigError(f"expected data.{name} to be {' or '.join(known)}, found “{value}”")

    @property
    def scale(self) -> int:
        """Enlargement from x_lq to x_hq."""
        return named(next(iter(self.degradations))).scale


class Photographs:
    """The pictures of a folder, split by photograph: image files, tar archives, or a prepared data set.

    A photograph is one (repo, path) of `manifest.csv` if the folder has one, else one file or member. The
    order is that of the names, whichever way they are stored. Damaged archives and shards are reported and
    left out, unless `strict`. Raises DataError for a folder without images, and for one of training pairs.
    """

    def __init__(self, folder: Path, holdout: float, strict: bool = False, report: Report = ignore):
        self.folder = folder
        self.names: dict[Photo, str] = {}
        """Of every picture: what it is called within the folder."""
        self.train: list[Photo] = []
        self.held_out: list[Photo] = []
        self.photograph: dict[Photo, str] = {}
        """The photograph that each picture is a crop of."""
        self.prepared = (folder / INDEX).is_file()
        if self.prepared:
            self.names = {crop: crop.name for crop in crops(folder, strict, report)}
        else:
            found = _found(folder, strict, report)
            self.names = {photo: name for name, photo in sorted(found, key=_order)}
        groups = {} if self.prepared else self._groups()
        for photo, name in self.names.items():
            file = PurePosixPath(name).name
            photograph = photo.photograph if isinstance(photo, Crop) else groups.get(file, name)
            self.photograph[photo] = photograph
            fraction = int.from_bytes(hashlib.sha256(photograph.encode()).digest()[:8], "big") / 2**64
            if fraction >= holdout:
                self.train.append(photo)
            elif not is_ready(photo) or name.endswith("#0"):  # scored once, however often it was degraded
                self.held_out.append(photo)
        if not self.train:
            raise DataError(
                f"{folder}: all {len(self.names)} images fell into the hold-out of {holdout}: lower it"
            )

    @property
    def ready(self) -> bool:
        """Whether they are pairs with the results of a restorer, which is then not asked again."""
        return is_ready(self.train[0])

    def _groups(self) -> dict[str, str]:
        manifest = self.folder / "manifest.csv"
        if not manifest.is_file():
            manifest = self.folder.parent / "manifest.csv"
        if not manifest.is_file():
            return {}
        try:
            with manifest.open(newline="", encoding="utf-8") as lines:
                return {row["file"]: f"{row['repo']}/{row['path']}" for row in csv.DictReader(lines)}
        except (KeyError, UnicodeDecodeError, csv.Error) as error:
            raise DataError(f"{manifest}: expected a table with the columns file, repo and path") from error

    def texts(self) -> list[str]:
        """Every text that training pictures come with, once, sorted; what cannot be read is left out."""
        found = set()
        for photo in self.train:
            try:
                found.add(text_of(photo))
            except DataError:
                continue
        return sorted(text for text in found if text is not None)

    def digest(self) -> str:
        """SHA-256 over names and bytes of the training pictures: what the weights were trained on.

        An archive has the digest of the folder that it was made of.
        """
        return self._hash(self.train, _digest)

    def record(self, prompts: bool) -> dict[str, Any]:
        """What a run depends on of its data: numbers and hashes. prompts: the texts are told, and count."""
        table = {"sha256": self.digest(), "images": len(self.train), "held_out": len(self.held_out)}
        if self.held_out:
            table["held_out_sha256"] = self._hash(self.held_out, _digest)
        if prompts:
            table["texts_sha256"] = self._hash(self.train, lambda photo: repr(text_of(photo)).encode())
        return table

    def _hash(self, photos: list[Photo], of: Callable[[Photo], bytes]) -> str:
        total = hashlib.sha256()
        for photo in photos:
            total.update(self.names[photo].encode() + b"\0")
            total.update(of(photo))
        return total.hexdigest()


def _digest(photo: Photo) -> bytes:
    if isinstance(photo, Crop):
        return bytes.fromhex(photo.sha256)
    return hashlib.sha256(content(photo)).digest()


def _found(folder: Path, strict: bool, report: Report) -> list[tuple[str, Photo]]:
    """(name, picture) of the image files in `folder` and of those in its tar archives."""

    def inside(file: Path) -> list[tuple[str, Photo]]:
        if file.suffix.lower() == ARCHIVE:
            return [(member.name, member) for member in members(file)]
        return [(file.relative_to(folder).as_posix(), file)]

    files = image_files(folder, (*SUFFIXES, ARCHIVE))
    found = [named for every in each(files, inside, "files", strict, report) for named in every]
    if not found:
        raise DataError(f"{folder}: expected images in its archives, found none")
    refuse_pairs(folder, (_within(folder, photo, name) for name, photo in found))
    return found


def _within(folder: Path, photo: Photo, name: str) -> str:
    """`name` as if archives were folders: they, too, may be the halves of pairs."""
    if not isinstance(photo, Member):
        return name
    return f"{photo.archive.relative_to(folder).with_suffix('').as_posix()}/{name}"


def _order(named: tuple[str, Photo]) -> tuple[tuple[str, ...], str]:
    return PurePosixPath(named[0]).parts, str(named[1])


class Samples(NamedTuple):
    """A batch, as workers make it."""

    x_lq: Tensor | None
    """[B, 3, h, w] in [-1, 1]; None where the run's device is to make it."""
    x_hq: Tensor
    """[B, 3, H, W] in [-1, 1]; uint8 as long as x_lq is None."""
    z_hq: Tensor | None
    """The latents of x_hq, from prepared data."""
    texts: list[str | None]
    """What each image shows; None where nothing says it, or where data.prompts is false."""
    presets: list[str]
    indices: list[int]
    restored: Tensor | None = None
    """What another network makes of x_lq, as large as x_hq, in [-1, 1]; None where none is asked for."""


class Pairs(Dataset[tuple[Tensor, Tensor]]):
    """(x_lq [3, h, w], x_hq [3, scale h, scale w]) in [-1, 1] for every index, all seeded.

    Photographs are cropped, mirrored, turned and degraded; prepared crops, whose latents are fixed, degraded
    alone; prepared pairs mirrored and turned alone. Raises DataError for images smaller than the crop.
    """

    def __init__(
        self,
        files: list[Photo] | list[Path],
        config: DataConfig,
        seed: int,
        start: int = 0,
        length: int = 2**40,
    ):
        self.files: list[Any] = files
        self.config, self.seed = config, seed
        self.start, self.length = start, length
        # In one order, whatever that of the table: it decides which draw means which preset.
        self.names = tuple(name for name in DEGRADATIONS if name in config.degradations)
        self.shares = tuple(config.degradations[name] for name in self.names)
        self.cache: dict[int, Tensor] = {}

    def preload(self, report: Report = ignore) -> None:
        """Decodes everything once, before worker processes are forked: they then share it.

        What cannot be used is reported and leaves `files` (the caller's list). Raises as `usable` does.
        """
        config = self.config
        if not isinstance(self.files[0], Crop):  # a shard was checked as a whole
            good: list[Photo] = []
            room = config.memory * 1e9
            found = usable(self.files, config.patch, config.strict, report, prompts=config.prompts)
            for photo, image in found:
                room -= image.numel()
                if room >= 0:
                    self.cache[len(good)] = image
                good.append(photo)
            self.files[:] = good
        if config.prompts and (untold := sum(text_of(photo) is None for photo in self.files)):
            report(
                f"{untold} of {len(self.files)} images have no text of their own: base.prompt stands for it"
            )

    def _image(self, i: int) -> Tensor:
        if i not in self.cache:
            [(_, image)] = usable([self.files[i]], self.config.patch, True, ignore)
            return image
        return self.cache[i]

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, offset: int) -> tuple[Tensor, Tensor]:
        samples = self._chosen([offset])
        x_lq, x_hq = self.degraded(samples) if samples.x_lq is None else (samples.x_lq, samples.x_hq)
        return x_lq[0], x_hq[0]

    def __getitems__(self, offsets: list[int]) -> Samples:
        """The samples of a batch, which a DataLoader asks for at once."""
        samples = self._chosen(offsets)
        if self.config.degrade_on == "device" or samples.x_lq is not None:
            return samples
        x_lq, x_hq = self.degraded(samples)
        return samples._replace(x_lq=x_lq, x_hq=x_hq)

    def _chosen(self, offsets: list[int]) -> Samples:
        """What the seed decides before the degradation; all of it, of pairs that are ready."""
        if is_ready(self.files[0]):
            return self._ready(offsets)
        patch, images, latents, texts, presets = self.config.patch, [], [], [], []
        indices = [self.start + offset for offset in offsets]
        for index in indices:
            draw = Draw(self.seed, index)
            which = draw.integer(len(self.files))
            photo, image = self.files[which], self._image(which)
            if isinstance(photo, Crop):
                latents.append(photo.read("z_hq"))
            else:
                top, left = (draw.integer(side - patch + 1) for side in image.shape[1:])
                image = image[:, top : top + patch, left : left + patch]
                quarters = draw.integer(4)
                image = torch.rot90(image, quarters if self.config.rotations else 0, dims=(1, 2))
                image = image.flip(2) if draw.chance(0.5) else image
            images.append(image)
            texts.append(text_of(photo) if self.config.prompts else None)
            presets.append(self.names[draw.pick(self.shares)])
        z_hq = torch.stack(latents) if latents else None
        return Samples(None, torch.stack(images), z_hq, texts, presets, indices)

    def _ready(self, offsets: list[int]) -> Samples:
        """Prepared pairs, turned by the seed. Which preset made one, nothing asks any more."""
        indices, rows, turns = [self.start + offset for offset in offsets], [], []
        for index in indices:
            draw = Draw(self.seed, index)
            rows.append(self.files[draw.integer(len(self.files))])
            quarters = draw.integer(4)
            turns.append((quarters if self.config.rotations else 0) + 4 * draw.chance(0.5))
        texts = [text_of(row) if self.config.prompts else None for row in rows]
        x_lq, x_hq, restored = ready(rows, turns)
        return Samples(x_lq, x_hq, None, texts, [""] * len(rows), indices, restored)

    def degraded(self, samples: Samples, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
        """x_lq and x_hq of the samples, made on `device`; all at once where data.degrade_on says so."""
        x, seed, usm = samples.x_hq.to(device), self.seed + 1, self.config.usm_sharpen
        params = [named(preset) for preset in samples.presets]
        if samples.z_hq is not None:
            params = [without_grey(each) for each in params]
        if self.config.degrade_on == "device":
            made = degrade_batch(x.float() / 255, params, seed=seed, indices=samples.indices, usm=usm)
            return made[0] * 2 - 1, made[1] * 2 - 1
        pairs = [
            degrade(image[None].float() / 255, each, seed=seed, indices=[index], usm=usm)
            for image, each, index in zip(x, params, samples.indices, strict=True)
        ]
        x_lq, x_hq = (torch.cat(images) * 2 - 1 for images in zip(*pairs, strict=True))
        return x_lq, x_hq


def batches(pairs: Dataset[tuple[Tensor, Tensor]], batch: int, workers: int) -> Iterator[Samples]:
    """Batches of consecutive samples; the same whatever the number of workers."""
    loader = DataLoader(
        pairs, batch_size=batch, num_workers=workers, drop_last=True, collate_fn=_whole,
        prefetch_factor=4 if workers else None,
    )  # fmt: skip
    yield from loader


def _whole(samples: Any) -> Any:
    """A batch is put together where its samples are chosen."""
    return samples
