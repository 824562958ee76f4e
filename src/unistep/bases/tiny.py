"""What tiny models of the real architectures are made with, in the files in which real ones are published.

Nothing in them was trained. All weights are drawn by seed, then the last layer of each network is fitted by
least squares on pictures made in code: autoencoders about return what they are given, denoisers about point
to the clean latent. So losses have the sizes and signs that they have on a real model, and a wrong one shows.
"""

import contextlib
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..autoencoder.codecs import Codec, KLCodec
from ..diffusion.process import Process, ddpm
from ..extras import extra

SEEN, SIDE, ROWS = 16, 64, 4096
"""How many pictures networks are fitted on, their side in pixels, and how many positions a fit looks at."""
GAIN = 0.5
"""Size of what a drawn layer gives, for inputs of size 1; residual branches thus count less than what they
are added to."""
RIDGE = 1e-3
"""Keeps a fitted layer's weights small, and the same on every machine."""
LETTERS = "abcdefghijklmnopqrstuvwxyz"
SPECIAL = {"pad_token": "!", "bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>",
           "unk_token": "<|endoftext|>"}  # fmt: skip

PUBLISHED_VAE: dict[str, Any] = {
    "block_out_channels": [128, 256, 512, 512], "down_block_types": ["DownEncoderBlock2D"] * 4,
    "latent_channels": 4, "layers_per_block": 2, "norm_num_groups": 32, "sample_size": 512,
    "scaling_factor": 0.18215, "up_block_types": ["UpDecoderBlock2D"] * 4,
}  # fmt: skip
"""Of Stable Diffusion 2; that of others differs in a few numbers."""
VAE: dict[str, Any] = {
    "block_out_channels": [8, 16, 16, 16], "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4, "layers_per_block": 1, "norm_num_groups": 2,
    "sample_size": SIDE, "latent_channels": 4, "scaling_factor": 0.18215,
}  # fmt: skip
ENCODERS = {"": 8, "_2": 16}
"""Text encoder of one with several -> its width. A third (T5) is left out: zeros take its place."""


def read_sizes(beside: str) -> dict[str, dict[str, Any]]:
    """The configurations of sizes.json in a module's folder: as published, and tiny ones."""
    found: dict[str, dict[str, Any]] = json.loads(Path(beside).with_name("sizes.json").read_text())
    return found


@contextlib.contextmanager
def seeded(folder: Path, seed: int = 0) -> Iterator[None]:
    """Makes the folder, and draws within by `seed` alone."""
    folder.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        yield


def pictures(count: int, side: int, seed: int = 0) -> Tensor:
    """[count, 3, side, side] in [-1, 1]: clouds of all sizes, cut by edges, as photographs have them."""
    generator = torch.Generator().manual_seed(seed)

    def clouds(channels: int) -> Tensor:
        octaves = [2**k for k in range(1, int(math.log2(side)))]
        layers = [torch.randn(count, channels, n, n, generator=generator) for n in octaves]
        enlarged = [F.interpolate(layer, (side, side), mode="bicubic") for layer in layers]
        return sum((one / n**0.7 for one, n in zip(enlarged, octaves, strict=True)), torch.zeros(1))

    inside = (clouds(1) > 0).float()
    return torch.tanh(torch.lerp(clouds(3), 0.5 * clouds(3) + clouds(1), inside))


def draw(module: nn.Module) -> None:
    """Gives every parameter values that keep the size of what passes through."""
    for name, p in module.named_parameters():
        if p.ndim > 1:
            p.normal_(std=GAIN * (p.numel() / len(p)) ** -0.5)
        else:
            p.normal_(mean=float(name.endswith("weight")), std=0.1)
    module.eval().requires_grad_(False)


def identities(*layers: Any) -> None:
    """Makes convolutions of one pixel give what they are given; None is a layer that is not there."""
    for layer in layers:
        if layer is not None:
            nn.init.dirac_(layer.weight)
            layer.bias.zero_()


def fit(layer: Any, call: Callable[[], object], target: Tensor) -> None:
    """Sets the convolution or linear layer `layer` so that within `call` it about gives `target`."""
    seen: list[Tensor] = []
    hook = layer.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    call()
    hook.remove()
    x = seen[0]
    if isinstance(layer, nn.Conv2d):
        x = F.unfold(x, layer.kernel_size, padding=layer.padding).transpose(1, 2)  # type: ignore[arg-type]
        target = target.flatten(2).transpose(1, 2)
    x, target = (some.flatten(0, 1) for some in (x, target))
    few = torch.randperm(len(x))[:ROWS]
    rows, wanted = F.pad(x[few].double(), (0, 1), value=1.0), target[few].double()
    square = rows.T @ rows / len(rows) + RIDGE * torch.eye(rows.shape[1], dtype=torch.float64)
    solution = torch.linalg.solve(square, rows.T @ wanted / len(rows)).T.float()
    layer.weight.copy_(solution[:, :-1].reshape(layer.weight.shape))
    layer.bias.copy_(solution[:, -1])


def compressed(x: Tensor, factor: int, channels: int) -> Tensor:
    """[B, 3, H, W] -> [B, channels, H / factor, W / factor] of unit size: what an encoder is to tell."""
    cells = F.pixel_unshuffle(F.avg_pool2d(x, factor // 2), 2)
    mixed = torch.einsum("oc,bchw->bohw", torch.randn(channels, cells.shape[1]), cells)
    mean, spread = mixed.mean((0, 2, 3), keepdim=True), mixed.std((0, 2, 3), keepdim=True)
    return (mixed - mean) / spread


def fit_autoencoder(codec: Codec, encoder: Any, decoder: Any, raw: Callable[[Tensor], Tensor]) -> Tensor:
    """Fits the last layers of both halves; gives the latents of `pictures`, of unit size.

    raw: from a latent to what the encoder is to put out.
    """
    x = pictures(SEEN, SIDE)
    target = compressed(x, codec.factor, codec.channels)
    for _ in range(2):  # what the encoder cannot tell makes latents small: the second time they are enlarged
        fit(encoder.conv_out, lambda: codec.encode(x), raw(target))
        target = target / codec.encode(x).std((0, 2, 3), keepdim=True)
    z = codec.encode(x)
    fit(decoder.conv_out, lambda: codec.decode(z), x)
    return z


def noised(process: Process, z: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(z_t, t, the network's right answer) at times spread over the process, its end included."""
    t = torch.linspace(len(process) - 1, len(process) // (2 * len(z)), len(z)).round().long()
    z_t = process.perturb(z, torch.randn_like(z), t, y)
    return z_t, t, process.raw(z, z_t, t, y)


def save(folder: Path, name: str, model: Any) -> None:
    model.save_pretrained(folder / name)


def scheduler(folder: Path, **config: Any) -> None:
    (folder / "scheduler").mkdir(exist_ok=True)
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(config))


def stable_diffusion_scheduler(folder: Path, prediction: str) -> Process:
    """Writes the schedule of Stable Diffusion 1, 2 and XL."""
    scheduler(
        folder, _class_name="DDPMScheduler", beta_schedule="scaled_linear", beta_start=0.00085,
        beta_end=0.012, num_train_timesteps=1000, prediction_type=prediction,
    )  # fmt: skip
    return ddpm(predicts={"epsilon": "eps", "v_prediction": "v"}[prediction])


def vae(folder: Path, config: dict[str, Any]) -> Tensor:
    """Writes an AutoencoderKL and gives its latents of `pictures`."""
    model = extra("diffusers").AutoencoderKL(**config)
    draw(model)
    identities(model.quant_conv, model.post_quant_conv)
    codec = KLCodec(model)
    log_variance = -6.0
    z = fit_autoencoder(
        codec, model.encoder, model.decoder,
        lambda z: torch.cat([codec.raw(z), torch.full_like(z, log_variance)], dim=1),
    )  # fmt: skip
    save(folder, "vae", model)
    return z


def text_encoder(folder: Path, suffix: str, width: int, projected: bool = True) -> None:
    """Writes a tokenizer that knows the letters, and CLIP's text encoder."""
    words = [
        "!",
        *LETTERS,
        *(f"{letter}</w>" for letter in LETTERS),
        SPECIAL["bos_token"],
        SPECIAL["eos_token"],
    ]
    where = folder / f"tokenizer{suffix}"
    where.mkdir(exist_ok=True)
    (where / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (where / "merges.txt").write_text("#version: 0.2\n")
    config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, **SPECIAL}
    (where / "tokenizer_config.json").write_text(json.dumps(config))
    clip = "transformers.models.clip."
    module = extra("transformers", clip + "modeling_clip")
    kind = module.CLIPTextModelWithProjection if projected else module.CLIPTextModel
    model = kind(extra("transformers", clip + "configuration_clip").CLIPTextConfig(
        vocab_size=len(words), hidden_size=width, intermediate_size=2 * width, num_hidden_layers=2,
        num_attention_heads=2, projection_dim=width, bos_token_id=len(words) - 2,
        eos_token_id=len(words) - 1, pad_token_id=0,
    ))  # fmt: skip
    draw(model)
    save(folder, f"text_encoder{suffix}", model)
