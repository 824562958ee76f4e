"""Text encoders without their weights: what a prompt costs that is not folded into a student."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ..errors import ModelError
from ..extras import extra
from .diffusersfolder import read_config

if TYPE_CHECKING:
    from .prompts import TextEncoders

CLIP = ("clip", "CLIPTextConfig")
KINDS = {
    "CLIPTextModel": CLIP,
    "CLIPTextModelWithProjection": CLIP,
    "T5EncoderModel": ("t5", "T5Config"),
}
"""Class of transformers -> its family and the class of its configuration."""


@dataclass(frozen=True)
class TextNet:
    """One encoder: transformers' config.json, and to how many tokens a text is padded."""

    config: Mapping[str, Any]
    tokens: int

    def build(self) -> nn.Module:
        """With the weights that it is initialised with, on torch's default device.

        Raises ModelError for another kind of network, ConfigError without transformers.
        """
        kind = next(iter(self.config.get("architectures") or ["none"]))
        if kind not in KINDS:
            raise ModelError(
                f"expected a text encoder of {', '.join(KINDS)}, found {kind}: name another folder"
            )
        family, shape = KINDS[kind]
        where = f"transformers.models.{family}."
        config = getattr(extra("transformers", f"{where}configuration_{family}"), shape)
        build = getattr(extra("transformers", f"{where}modeling_{family}"), kind)
        net: nn.Module = build(config(**self.config))
        return net.eval().requires_grad_(False)

    def call(self, net: nn.Module) -> Callable[[], object]:
        """One text's pass through the network, wherever that is."""
        device = next(net.parameters()).device
        ids = torch.zeros(1, self.tokens, dtype=torch.long, device=device)
        return lambda: net(ids, output_hidden_states=True)


def text_nets(encoders: TextEncoders, folder: Path | None, published: bool) -> list[TextNet]:
    """Those of a folder in the diffusers layout, or the published. Raises ModelError for another folder."""
    if folder is None:
        configs = dict(enumerate(encoders.published if published else ()))
    else:
        found = [f"text_encoder{suffix}" for suffix in encoders.suffixes]
        # the third encoder of one base may be left out; the first may not
        there = [i for i, name in enumerate(found) if i == 0 or (folder / name).is_dir()]
        configs = {i: read_config(folder, found[i]) for i in there}
    return [TextNet(config, encoders.tokens[i]) for i, config in configs.items()]
