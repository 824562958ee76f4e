"""ResShift as published, without weights, for plans; and tiny models, for tests."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from ...autoencoder.codecs import VQCodec
from ...autoencoder.vq import VQ, VQConfig
from ...diffusion.denoiser import Cond
from ...tensors import save_weights
from ..tiny import SEEN, SIDE, draw, fit, fit_autoencoder, identities, noised, pictures
from .base import ResShiftBase
from .network import VARIANTS, ResShiftConfig, SwinDenoiser
from .student import build
from .swin import SwinConfig, SwinUNet

SWIN: dict[str, Any] = {
    "model_channels": 160, "channel_mult": (1, 2, 2, 4), "num_res_blocks": (2, 2, 2, 2), "channels": 3,
    "image_size": 64, "lq_size": 64, "window_size": 8, "swin_embed_dim": 192, "swin_depth": 2, "heads": 6,
    "mlp_ratio": 4,
}  # fmt: skip
"""ResShift x4 (Yue et al. 2023, arXiv 2307.12348)."""
SWIN_FACES = {**SWIN, "channels": 8, "lq_size": 512}
VQ_F4: dict[str, Any] = {
    "ch": 128, "ch_mult": (1, 2, 4), "num_res_blocks": (2, 2, 2), "z_channels": 3, "embed_dim": 3,
    "n_embed": 8192,
}  # fmt: skip
VQ_FACES: dict[str, Any] = {
    "ch": 64, "ch_mult": (1, 2, 4, 8), "num_res_blocks": (1, 2, 3, 4), "z_channels": 8, "embed_dim": 8,
    "n_embed": 4096,
}  # fmt: skip
TINY: dict[str, Any] = {
    "model_channels": 32, "channel_mult": (1, 1, 2, 2), "num_res_blocks": (1, 1, 1, 1), "image_size": 8,
    "window_size": 4, "swin_embed_dim": 32, "heads": 2,
}  # fmt: skip


def shapes(config: ResShiftConfig, header: Mapping[str, Any] | None) -> ResShiftBase:
    """On the meta device: of the size of the unfolded file that has this header["student"], or as published.

    Raises ModelError for another file's.
    """
    if header is None:
        variant = config.variant or "resshift-15"
        denoiser, codec = (SWIN_FACES, VQ_FACES) if variant.endswith("faces") else (SWIN, VQ_F4)
        with torch.device("meta"):
            states = SwinUNet(SwinConfig(**denoiser)).state_dict(), VQ(VQConfig(**codec)).state_dict()
        file = build(*states, variant=variant, dtype=torch.float32, folded=False)
        return ResShiftBase(*file, config, "meta")
    with torch.device("meta"):
        net, vq = SwinUNet(SwinConfig(**header["denoiser"])), VQ(VQConfig(**header["codec"]))
    tensors = {f"denoiser.net.{name}": p for name, p in net.state_dict().items()}
    tensors |= {f"codec.vq.{name}": p for name, p in vq.state_dict().items()}
    return ResShiftBase(header, tensors, config, "meta")


def write(folder: Path, variant: str = "resshift-15") -> Path:
    kind = VARIANTS[variant]
    ch_mult, channels = ((1, 1, 1), 3) if kind.scale == 4 else ((1, 1, 1, 1), 8)
    sizes = VQConfig(ch=32, ch_mult=ch_mult, num_res_blocks=(1,) * len(ch_mult), z_channels=channels,
                     embed_dim=channels, n_embed=1024)  # fmt: skip
    vq, x = VQ(sizes), pictures(SEEN, SIDE)
    draw(vq)
    identities(vq.quant_conv, vq.post_quant_conv)
    codec = VQCodec(vq)
    vq.quantize.embedding.weight.normal_()
    z = fit_autoencoder(codec, vq.encoder, vq.decoder, lambda z: z)
    lq_size = TINY["image_size"] * sizes.factor // kind.scale
    config = SwinConfig(**TINY, channels=channels, lq_size=lq_size)
    net = SwinUNet(config)
    draw(net)
    process, image = kind.process(), F.avg_pool2d(x, kind.scale)
    y = codec.encode(F.interpolate(image, scale_factor=kind.scale, mode="bicubic"))
    z_t, t, z0 = noised(process, z, y)
    denoiser = SwinDenoiser(net, process)
    fit(net.out[2], lambda: denoiser(z_t, t, Cond(image, y)), z0)
    header, tensors = build(
        net.state_dict(), vq.state_dict(), variant=variant, dtype=torch.float32, folded=False
    )
    path = folder / f"{variant}.safetensors"
    save_weights(path, tensors, {"student": header}, torch.float32)
    return path
