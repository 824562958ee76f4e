"""Training pairs from a folder of photographs: hold-out by photograph, seeded crops, seeded degradation.

Sample `index` under `seed` is always the same pair, so a position in training is one number.
"""

import csv
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..errors import ConfigError, DataError, UnistepError
from ..image import Picture, read_image, write_image
from .degrade import DEGRADATIONS, Draw, degrade
from .degrade import preset as named

SUFFIXES = (".png", ".webp", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".avif")


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
    holdout: float = 0.06
    """Share of the photographs (never of the crops) that is kept out of training."""
    workers: int = 1

    def __post_init__(self) -> None:
        if self.patch < 16 or self.patch % 16:
            raise ConfigError(f"expected data.patch to be a multiple of 16, found {self.patch}")
        for name in self.degradations:
            named(name)
        shares = self.degradations.values()
        if not shares or min(shares) < 0 or sum(shares) <= 0:
            raise ConfigError(
                f"expected shares of degradations that sum to more than 0, found {self.degradations}"
            )
        if not 0 <= self.holdout < 1:
            raise ConfigError(f"expected data.holdout to be from 0 to less than 1, found {self.holdout}")
        if self.workers < 0:
            raise ConfigError(f"expected data.workers to be 0 or more, found {self.workers}")


class Photographs:
    """The image files of a folder, split by photograph.

    A photograph is one (repo, path) of `manifest.csv` if the folder has one, else one file. Raises DataError
    for a folder without images.
    """

    def __init__(self, folder: Path, holdout: float):
        self.folder = folder
        files = image_files(folder)
        groups = self._groups()
        self.train: list[Path] = []
        self.held_out: list[Path] = []
        self.photograph: dict[Path, str] = {}
        """The photograph that each file is a crop of."""
        for file in files:
            photograph = groups.get(file.name, file.relative_to(folder).as_posix())
            self.photograph[file] = photograph
            fraction = int.from_bytes(hashlib.sha256(photograph.encode()).digest()[:8], "big") / 2**64
            (self.held_out if fraction < holdout else self.train).append(file)
        if not self.train:
            raise DataError(
                f"{folder}: all {len(files)} images fell into the hold-out of {holdout}: lower it"
            )

    def _groups(self) -> dict[str, str]:
        manifest = self.folder / "manifest.csv"
        if not manifest.is_file():
            manifest = self.folder.parent / "manifest.csv"
        if not manifest.is_file():
            return {}
        try:
            with manifest.open(newline="", encoding="utf-8") as lines:
                return {row["file"]: f"{row['repo']}/{row['path']}" for row in csv.DictReader(lines)}
        except (KeyError, UnicodeDecodeError) as error:
            raise DataError(f"{manifest}: expected a table with the columns file, repo and path") from error

    def digest(self) -> str:
        """SHA-256 over names and bytes of the training files: what the weights were trained on."""
        total = hashlib.sha256()
        for file in self.train:
            total.update(file.relative_to(self.folder).as_posix().encode() + b"\0")
            total.update(hashlib.sha256(file.read_bytes()).digest())
        return total.hexdigest()


def image_files(folder: Path) -> list[Path]:
    """The image files in `folder` and below, sorted. Raises DataError if there are none."""
    if not folder.is_dir():
        raise DataError(
            f"{folder}: expected a folder of images, found {'a file' if folder.exists() else 'nothing'}"
        )
    files = sorted(
        p
        for p in folder.rglob("*")
        if p.suffix.lower() in SUFFIXES and not p.name.startswith(".") and p.is_file()
    )
    if not files:
        raise DataError(f"{folder}: expected images ({', '.join(SUFFIXES)}), found none")
    return files


def load_rgb(file: Path) -> Tensor:
    """[3, H, W] uint8, sRGB. Raises ImageError naming a file that cannot be read."""
    rgb = torch.from_numpy(read_image(file).rgb).permute(2, 0, 1)
    return (rgb.clamp(0, 1) * 255).round().to(torch.uint8).contiguous()


class Pairs(Dataset[tuple[Tensor, Tensor]]):
    """(x_lq [3, h, w], x_hq [3, 4h, 4w]) in [-1, 1] for every index: crop, flip, rotate, degrade, all seeded.

    Decoded photographs stay in memory (uint8). Raises DataError for images smaller than the crop.
    """

    def __init__(self, files: list[Path], config: DataConfig, seed: int, start: int = 0, length: int = 2**40):
        self.files, self.config, self.seed = files, config, seed
        self.start, self.length = start, length
        # In one order, whatever that of the table: it decides which draw means which preset.
        self.names = tuple(name for name in DEGRADATIONS if name in config.degradations)
        self.shares = tuple(config.degradations[name] for name in self.names)
        self.cache: dict[int, Tensor] = {}

    def preload(self) -> None:
        """Decodes everything once, before worker processes are forked: they then share it."""
        for i in range(len(self.files)):
            self._image(i)

    def _image(self, i: int) -> Tensor:
        if i not in self.cache:
            image = load_rgb(self.files[i])
            if min(image.shape[1:]) < self.config.patch:
                raise DataError(
                    f"{self.files[i]}: expected at least {self.config.patch} pixels on each side, "
                    f"found {image.shape[2]}x{image.shape[1]}: remove it or lower data.patch"
                )
            self.cache[i] = image
        return self.cache[i]

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, offset: int) -> tuple[Tensor, Tensor]:
        index, patch = self.start + offset, self.config.patch
        draw = Draw(self.seed, index)
        image = self._image(draw.integer(len(self.files)))
        top, left = (draw.integer(side - patch + 1) for side in image.shape[1:])
        x = image[:, top : top + patch, left : left + patch]
        x = torch.rot90(x, draw.integer(4), dims=(1, 2))
        x = x.flip(2) if draw.chance(0.5) else x
        name = self.names[draw.pick(self.shares)]
        x_lq, x_hq = degrade(
            x[None].float() / 255, name, seed=self.seed + 1, indices=[index], usm=self.config.usm_sharpen
        )
        return x_lq[0] * 2 - 1, x_hq[0] * 2 - 1


def batches(pairs: Pairs, batch: int, workers: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of consecutive indices from `pairs.start` on; the same whatever the number of workers."""
    loader = DataLoader(
        pairs, batch_size=batch, num_workers=workers, drop_last=True, prefetch_factor=4 if workers else None
    )
    yield from loader


def write_pairs(
    source: Path, out: Path, preset: str = "realesrgan", seed: int = 0, report: Callable[[str], None] = print
) -> int:
    """`unistep degrade`: writes out/hr/NAME.png and out/lr/NAME.png for each image; returns how many failed.

    `source` is an image or a folder, whose folders are mirrored (without `out`, should it lie inside). The
    place in the sorted list is the image's index, so the same command makes the same pairs. The ground truth
    is cropped to a multiple of the scale. An image that fails is reported and skipped. Raises DataError for a
    source without images, ConfigError for an unknown preset.
    """
    params = named(preset)
    files, root = ([source], source.parent) if source.is_file() else (image_files(source), source)
    files = [file for file in files if out.resolve() not in file.resolve().parents]
    if not files:
        raise DataError(f"{source}: expected images outside of {out}, where the pairs go, found none there")
    taken: dict[Path, Path] = {}
    failed = 0
    for index, file in enumerate(files):
        name = file.relative_to(root).with_suffix(".png")
        try:
            first = taken.setdefault(name, file)
            if first != file:
                raise DataError(
                    f"{file}: its pair would have the name of {first}'s, {name}: rename one of them"
                )
            x = load_rgb(file)[None].float() / 255
            h, w = (side // params.scale * params.scale for side in x.shape[-2:])
            if not (h and w):
                raise DataError(
                    f"{file}: expected at least {params.scale} pixels on each side, "
                    f"found {x.shape[3]}x{x.shape[2]}"
                )
            x_lq, x_hq = degrade(x[..., :h, :w], params, seed=seed, indices=[index])
            for folder, image in (("hr", x_hq), ("lr", x_lq)):
                target = out / folder / name
                target.parent.mkdir(parents=True, exist_ok=True)
                write_image(target, Picture(image[0].permute(1, 2, 0).contiguous().numpy()))
        except (UnistepError, OSError) as error:
            failed += 1
            report(str(error))
    report(f"{len(files) - failed} pairs in {out}" + (f", {failed} failed" if failed else ""))
    return failed
