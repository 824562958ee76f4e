"""ResShift as published, without weights, for plans; and tiny models, for tests."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from ...autoencoder.codecs import VQCodec
from ...autoencoder.vq import VQ, VQConfig
from ...diffusion.denoiser import Cond
from ...students.latent import LatentStudent
from ...tensors import save_weights
from ..tiny import SEEN, SIDE, draw, fit, fit_autoencoder, identities, noised, pictures, read_sizes
from .base import ResShiftBase
from .network import VARIANTS, ResShiftConfig, SwinDenoiser
from .student import FoldedSwin, build, latent_config
from .swin import SwinConfig, SwinUNet

SIZES = read_sizes(__file__)
SWIN, SWIN_FACES, VQ_F4, VQ_FACES, TINY = (
    SIZES[name] for name in ("swin", "swin_faces", "vq_f4", "vq_faces", "tiny")
)


def shapes(config: ResShiftConfig, header: Mapping[str, Any] | None) -> ResShiftBase:
    """On the meta device: of the size of the unfolded file that has this header["student"], or as published.

    Raises ModelError for another file's.
    """
    if header is None:
        variant = config.variant or "resshift-15"
        names = ("swin_faces", "vq_faces") if variant.endswith("faces") else ("swin", "vq_f4")
        denoiser, codec = (SIZES[name] for name in names)
        with torch.device("meta"):
            states = SwinUNet(SwinConfig(**denoiser)).state_dict(), VQ(VQConfig(**codec)).state_dict()
        file = build(*states, variant=variant, dtype=torch.float32, folded=False)
        return ResShiftBase(*file, config, "meta")
    with torch.device("meta"):
        net, vq = SwinUNet(SwinConfig(**header["denoiser"])), VQ(VQConfig(**header["codec"]))
    tensors = {f"denoiser.net.{name}": p for name, p in net.state_dict().items()}
    tensors |= {f"codec.vq.{name}": p for name, p in vq.state_dict().items()}
    return ResShiftBase(header, tensors, config, "meta")


def untrained() -> LatentStudent:
    """A folded student of the published sizes, as TAD-SR's is used; the autoencoder is on the meta device."""
    kind = VARIANTS["tadsr"]
    with torch.device("cpu"):
        config = latent_config(kind.scale, kind.process())
    return LatentStudent(FoldedSwin(SwinConfig(**SWIN)), VQCodec.from_config(VQ_F4), config)


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
