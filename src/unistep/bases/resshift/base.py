"""ResShift, opened for training."""

import copy
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...diffusion.denoiser import Cond, filled
from ...diffusion.process import Process
from ...errors import ConfigError
from ...pixels.tiling import pad_to_multiple
from ...tensors import part
from ..face import Plainly
from ..latentbase import shared
from .network import VARIANTS, ResShiftConfig, SwinDenoiser, Taps, open_net, opened
from .student import build
from .swin import SwinUNet, complete


class ResShiftBase(Plainly):
    """A ResShift model (`denoiser.Base`); its file is unfolded (`build`).

    Roles that are trained have a network of their own, as a whole; the teacher's tensors are the base's.
    """

    name = "resshift"

    def __init__(
        self,
        header: Mapping[str, Any],
        tensors: Mapping[str, Tensor],
        config: ResShiftConfig = ResShiftConfig(),  # noqa: B008 (frozen)
        device: torch.device | str = "cpu",
        sigma_data: float = 1.0,
    ):
        """sigma_data: standard deviation of z_hq - y; by default that which the input's scale assumes of z.

        Raises ModelError for a header or tensors of another model, ConfigError for another variant.
        """
        sizes, codec, self._process = opened(header, tensors, folded=False)
        self.variant: str = header["variant"]
        if config.variant not in ("", self.variant):
            raise ConfigError(
                f"expected train.init to be a file of {config.variant}, found one of {self.variant}: take "
                "the right one, or set base.variant"
            )
        self.device, self.sigma_data = torch.device(device), sigma_data
        self.scale = VARIANTS[self.variant].scale
        net = open_net(sizes, tensors).float().to(self.device)
        self.net: SwinUNet = net.to(memory_format=torch.channels_last).requires_grad_(False)  # type: ignore[call-overload]
        self.net.checkpointing = config.checkpointing
        self.codec = codec.float().to(self.device)
        self.multiple = max(1, sizes.multiple * codec.factor // self.scale)

    def process(self, view: str) -> Process:
        """Of "resshift" alone. Raises ConfigError for another view."""
        if view != "resshift":
            raise ConfigError(f"expected method.process to be resshift on the ResShift base, found “{view}”")
        return self._process

    def _copy(self, role: str) -> SwinUNet:
        if role == "teacher":
            net: SwinUNet = shared(self.net)
            return net
        return copy.deepcopy(self.net).requires_grad_(True)

    def denoiser(self, role: str, view: str) -> SwinDenoiser:
        return SwinDenoiser(self._copy(role), self.process(view))

    def features(self, role: str, view: str) -> Taps:
        return Taps(self._copy(role), self.process(view))

    def encode(self, x: Tensor) -> Tensor:
        """x [B, 3, H, W] in [-1, 1], sides multiples of the codec's factor -> z, not quantised."""
        return self.codec.encode(x.to(self.device))

    def decode(self, z: Tensor) -> Tensor:
        """The gradient passes straight through the codebook."""
        return self.codec.decode(z)

    def cond(self, x_lq: Tensor) -> Cond:
        """The condition of [B, 3, h, w] in [-1, 1], sides such that windows cover the latent."""
        image = x_lq.to(self.device)
        return Cond(image=image, y=self.encode(F.interpolate(image, scale_factor=self.scale, mode="bicubic")))

    def check_student(self, view: str, t: int) -> None:
        """Raises ConfigError unless index t is the last one, from which `restore` starts."""
        last = len(self.process(view)) - 1
        if t != last:
            raise ConfigError(
                f"expected method.t_student to be {last}, the end of ResShift's process, found {t}: "
                f"set method.t_student={last}"
            )

    @torch.no_grad()
    def restore(self, student: nn.Module, x_lq: Tensor) -> Tensor:
        """One step from noise of a fixed seed, on images in [0, 1] of any size."""
        h, w = x_lq.shape[-2:]
        cond = self.cond(pad_to_multiple(x_lq * 2 - 1, self.multiple))
        eps = torch.randn(cond.y.shape, generator=torch.Generator().manual_seed(0)).to(self.device)
        t = filled(len(self._process) - 1, cond.y)
        x = self.decode(student(self._process.perturb(cond.y, eps, t, cond.y), t, cond)).cpu()
        return ((x[..., : h * self.scale, : w * self.scale] + 1) / 2).clamp(0, 1)

    def export(
        self, weights: Mapping[str, Tensor], method: str, dtype: torch.dtype
    ) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """(header["student"], tensors) of the student, folded. `weights`: by the denoiser's own names.

        Raises ModelError for weights of another network.
        """
        size = self.net.config.image_size
        unet, vq = part(weights, "net."), self.codec.vq.state_dict()
        header, tensors = build(unet, vq, variant=self.variant, dtype=dtype, image_size=size)
        return {**header, "method": method}, tensors

    def layout(self, weights: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
        """File name -> tensors: the student's state dict, complete, as the authors' code asks for it."""
        return {"model.safetensors": part(weights, "net.") | complete(self.net)}
