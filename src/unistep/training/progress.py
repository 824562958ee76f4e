"""What a training run shows: losses as CSV and TensorBoard, held-out scores, validation sheets."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ..atomic import atomic_write
from ..data.degrade import degrade
from ..data.pairs import Photographs
from ..data.presets import DEGRADATIONS
from ..data.skipping import ignore
from ..data.sources import usable
from ..evaluation.metrics import grid, psnr_y, swd
from ..recipes.config import Run


class Log:
    """losses.csv (long format: step, name, value) and tensorboard/ in `out`; a resumed run goes on."""

    def __init__(self, out: Path, start: int):
        from torch.utils.tensorboard import SummaryWriter

        self.path = out / "losses.csv"
        kept = []
        if self.path.exists():
            logged = (line.split(",") for line in self.path.read_text("utf-8", "replace").splitlines())
            kept = [row for row in logged if len(row) == 3 and row[0].isdecimal() and int(row[0]) <= start]
        with atomic_write(self.path) as file:  # a killed run may have logged steps that it did not save
            rows = [["step", "name", "value"], *kept]
            file.write("".join(",".join(row) + "\n" for row in rows).encode())
        self.file = self.path.open("a", newline="")
        self.writer: Any = SummaryWriter(str(out / "tensorboard"), purge_step=start + 1)

    def losses(self, step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self.file.write(f"{step},{name},{value:.6g}\n")
            self.writer.add_scalar(name, value, step)
        self.file.flush()

    def close(self) -> None:
        self.file.close()
        self.writer.close()


class Validation:
    """Scores the one-step student on held-out photographs: always the same crops, under each preset.

    `score`, by which the best weights are kept, is the mean over the presets of

        PSNR-Y gain over bicubic (dB) - max(0, grid - 1.3)

    The SWD ratio to bicubic is logged beside it. It is no part of the score: on noisy inputs it rewards the
    noise that is left.
    """

    presets: tuple[str, ...] = ("realesrgan", "light")
    """Those of scale 4; in a run of another scale all presets of that scale."""
    size, least, count, shown, judged = 256, 64, 24, 6, 8
    """Sides and numbers of crops; `judged` are measured by SWD, which costs more than all else."""

    def __init__(self, photographs: Photographs, run: Run, out: Path, report: Callable[[str], None] = ignore):
        """Crops are as large as the run's own, `size` at least; what cannot be read is reported."""
        self.sheets = out / "sheets"
        if run.data.scale != 4:
            self.presets = tuple(name for name, p in DEGRADATIONS.items() if p.scale == run.data.scale)
        self.swd_bicubic: dict[str, Tensor] = {}
        files = photographs.held_out or photographs.train
        step = max(1, len(files) // self.count)
        crops = []
        chosen = files[::step][: self.count]
        for _, image in usable(chosen, self.least, run.data.strict, report, use=" for validation"):
            size = min(max(self.size, run.data.patch), *(side // 16 * 16 for side in image.shape[1:]))
            top, left = (image.shape[1] - size) // 2, (image.shape[2] - size) // 2
            crops.append(image[:, top : top + size, left : left + size])
        smallest = min(crop.shape[1] for crop in crops)
        x = torch.stack([crop[:, :smallest, :smallest] for crop in crops]).float() / 255
        # A large model's decoder needs gigabytes for 512 pixels.
        self.at_once = max(1, 4 * 256**2 // smallest**2)
        self.pairs = {
            name: degrade(x, DEGRADATIONS[name], seed=10_007, indices=list(range(len(x))))
            for name in self.presets
        }

    @torch.no_grad()
    def __call__(self, step: int, restore: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """`restore`: [B, 3, h, w] -> [B, 3, scale h, scale w], both in [0, 1]."""
        scores: dict[str, float] = {}
        gains, rows = [], []
        for name, (x_lq, x_hq) in self.pairs.items():
            scale = x_hq.shape[-1] // x_lq.shape[-1]
            bicubic = F.interpolate(x_lq, scale_factor=scale, mode="bicubic").clamp(0, 1)
            output = self._restored(x_lq, restore)
            gain = (psnr_y(output, x_hq) - psnr_y(bicubic, x_hq)).mean().item()
            few = slice(self.judged)
            if name not in self.swd_bicubic:
                self.swd_bicubic[name] = swd(bicubic[few], x_hq[few]).mean()
            distance = (swd(output[few], x_hq[few]).mean() / self.swd_bicubic[name]).item()
            pattern = grid(output).mean().item()
            scores |= {f"psnr_gain_{name}": gain, f"swd_ratio_{name}": distance, f"grid_{name}": pattern}
            gains.append(gain - max(0.0, pattern - 1.3))
            rows += self._rows(x_lq, output, x_hq)
        save_sheet(self.sheets / f"step-{step:07d}.png", rows)
        return scores | {"score": sum(gains) / len(gains)}

    @torch.no_grad()
    def sheet(self, step: int, restore: Callable[[Tensor], Tensor]) -> None:
        """The pictures alone, without scores: quick enough for the first steps."""
        few = [(x_lq[: self.shown], x_hq[: self.shown]) for x_lq, x_hq in self.pairs.values()]
        rows = [row for x_lq, x_hq in few for row in self._rows(x_lq, self._restored(x_lq, restore), x_hq)]
        save_sheet(self.sheets / f"step-{step:07d}.png", rows)

    def _restored(self, x_lq: Tensor, restore: Callable[[Tensor], Tensor]) -> Tensor:
        return torch.cat([restore(x).clamp(0, 1) for x in torch.split(x_lq, self.at_once)])

    def _rows(self, x_lq: Tensor, output: Tensor, x_hq: Tensor) -> list[Tensor]:
        """The first images as rows of a sheet: input, output, truth."""
        blocks = F.interpolate(x_lq, scale_factor=x_hq.shape[-1] // x_lq.shape[-1], mode="nearest")
        shown = [images[: self.shown] for images in (blocks, output, x_hq)]
        return [torch.cat(images, dim=2) for images in zip(*shown, strict=True)]


def save_sheet(path: Path, rows: list[Tensor]) -> None:
    """Writes rows [3, h, W] in [0, 1] under each other as a PNG: input, output, ground truth."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet = (torch.cat(rows, dim=1) * 255).round().byte().permute(1, 2, 0).numpy()
    with atomic_write(path) as file:
        Image.fromarray(np.ascontiguousarray(sheet)).save(file, format="PNG")


def progress_line(step: int, steps: int, seconds: float, losses: dict[str, float]) -> str:
    """One line: position, losses, speed and the time that is left. `seconds`: per step."""
    left = int((steps - step) * seconds)
    shown = " ".join(f"{name.removeprefix('student/')} {value:.4f}" for name, value in losses.items())
    return (
        f"{step}/{steps} {100 * step / steps:5.1f} %  {shown}  {1 / seconds:.2f} steps/s  "
        f"ETA {left // 3600}:{left // 60 % 60:02d}:{left % 60:02d}"
    )
