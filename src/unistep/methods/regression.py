"""Plain regression on the results of a stronger restorer: what distillation terms are to be compared with.

Players: student = the base's one-step denoiser; no critic, and no diffusion teacher. The restorer R, any
one-step model of the same scale (`train.restorer`), is asked before the step (Batch.restored). No paper's
method: for distillation from a diffusion teacher see TAD-SR and SinSR.

    restored  | x_hat - R(x_lq) |                      mean over pixels and colours, images in [-1, 1]
    truth     | x_hat - x_hq |                         the same, for the first images of a batch (truth_share)
    means     | area(x_hat) - area(x_hq) |             means of 4 x 4 pixels: colours stay the photograph's
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from ..diffusion.denoiser import Base, Batch, Denoiser, Distance, Method, Terms, check_times, filled
from ..diffusion.sampler import start
from ..errors import ConfigError, check_range

CELL = 4
"""Side of the squares whose means are the photograph's, pixels."""


@dataclass(frozen=True)
class RegressionConfig:
    """All numbers are ours."""

    process: str = "ddpm"
    t_student: int = 999
    """The index that the student is asked at; on the compact base the far end, its one-step slot."""
    weight_restored: float = 1.0
    """The error to what the restorer makes."""
    weight_truth: float = 1.0
    """The error to the photograph, where that is the target."""
    weight_means: float = 0.3
    """The error of the means of 4x4 pixels to the photograph's."""
    truth_share: float = 0.0
    """Share of each batch, its first images, whose target is the photograph itself."""

    def __post_init__(self) -> None:
        check_range("method", self, "weight_restored weight_truth weight_means", 0)
        check_range("method", self, "truth_share", 0, 1)
        if not (self.weight_restored or self.weight_truth or self.weight_means):
            raise ConfigError(
                "expected a loss that moves the student, found none; set method.weight_restored"
            )


class Regression(Method):
    """Method: see the module's docstring."""

    critic: nn.Module | None = None
    restores = True

    def __init__(self, config: RegressionConfig, student: Denoiser, decode: Callable[[Tensor], Tensor]):
        self.config, self.student, self.decode, self.t_student = config, student, decode, config.t_student
        check_times(config, ("t_student",), student.process)

    @classmethod
    def build(
        cls, config: RegressionConfig, base: Base, perceptual: Callable[[str], Distance]
    ) -> "Regression":
        return cls(config, base.denoiser("student", config.process), base.decode)

    def generate(self, batch: Batch) -> Tensor:
        """z_hat in one step."""
        z_l = start(self.student.process, self.config.t_student, batch.cond.y)
        z_hat: Tensor = self.student(z_l, filled(self.config.t_student, z_l), batch.cond)
        return z_hat

    def generator_loss(self, batch: Batch, z_hat: Tensor) -> Terms:
        """The terms of those images that there are, each a mean over its own."""
        c, x_hat = self.config, self.decode(z_hat)
        assert batch.restored is not None
        n = round(c.truth_share * len(x_hat))
        terms: Terms = {"means": c.weight_means * F.l1_loss(means(x_hat), means(batch.x_hq))}
        if n:
            terms["truth"] = c.weight_truth * F.l1_loss(x_hat[:n], batch.x_hq[:n]) * n / len(x_hat)
        if n < len(x_hat):
            error = F.l1_loss(x_hat[n:], batch.restored[n:])
            terms["restored"] = c.weight_restored * error * (len(x_hat) - n) / len(x_hat)
        return terms


def means(x: Tensor) -> Tensor:
    """[B, C, H, W] -> [B, C, H / 4, W / 4]: what a picture shows at the low resolution."""
    return F.avg_pool2d(x, CELL)
