"""The compact base: the small diffusion model that ships inside the package."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import ConfigError, ModelError
from ...students.onestep import Options
from ...tensors import read_header, read_tensors
from ..face import Face, Source, Sources, Tiny
from ..prompts import Prompts
from .base import CompactBase
from .network import CompactConfig, CompactDenoiser
from .student import fold_slot, folded, mix, open_network


class CompactFace(Face):
    """The network itself is the model: trained whole, used as it is, and small enough for tests."""

    name, title, Config = "compact", "compact", CompactConfig
    start = "the teacher (a model's name or a Unistep file)"
    whole = own_features = True

    def open(
        self,
        config: CompactConfig,
        sources: Sources,
        device: torch.device,
        prompts: Prompts | None = None,
    ) -> CompactBase:
        """Of train.init, or of nothing; the critic's network of train.critic_init."""
        opened: dict[str, CompactDenoiser] = {}
        for setting in ("train.init", "train.plain", "train.critic_init"):
            if (source := sources.get(setting)) is None:
                continue
            try:
                net = open_network(source.path, source.header, read_tensors(source.path))
            except ModelError as error:
                raise ModelError(f"{setting}: {error}") from error
            net = folded(net) if config.folded else net
            if net.config != config and setting != "train.critic_init":
                raise ConfigError(
                    f"expected {setting} to hold a network of {config}, found {net.config}: "
                    "set base.widths, base.blocks and base.folded"
                )
            opened[setting] = net
        denoiser = opened.get("train.init") or CompactDenoiser(config)
        return CompactBase(denoiser, device, opened.get("train.critic_init"))

    def shapes(self, config: CompactConfig, source: Source | None = None) -> CompactBase:
        """As configured, whatever the file says."""
        base = CompactBase(CompactDenoiser(config), "meta")  # of which copies alone are on that device
        base.cond(torch.empty(1, 3, 4, 4, device="meta"))  # it keeps what the first batch needs
        return base

    def tiny(self, config: CompactConfig, folder: Path) -> Tiny:
        return Tiny(config)

    def load(
        self, path: Path, header: dict[str, Any], tensors: dict[str, Tensor], fidelity: float | None,
        options: Options | None, plain: Callable[[], Path | None], decoder: dict[str, Tensor] | None,
    ) -> nn.Module:  # fmt: skip
        """[B, 3, h, w] in [-1, 1] -> [B, 3, 4h, 4w], mixed with its plain model and folded."""
        if options is not None and options != Options():
            raise ConfigError(
                f"{path}: expected a student of a large model for steps, decoder, weights, offload or "
                "compile, found one of the compact base: leave them out"
            )
        denoiser = open_network(path, header, tensors)
        if fidelity and (file := plain()):
            other = open_network(file, read_header(file), read_tensors(file))
            if denoiser.config.folded or other.config.folded:
                denoiser, other = folded(denoiser), folded(other)
            if other.config != denoiser.config:
                raise ModelError(
                    f"{path}: expected its plain model {file} to have the same shape, found another"
                )
            denoiser = mix(denoiser, other, fidelity)
        return fold_slot(denoiser, header)
