"""How much faster a whole picture is with merged, folded networks than in the authors' order of operations.

    python benchmarks/pipelines.py [--device cuda] [--runs 30] [--only tsdsr sd21 tadsr]

Encoder, denoiser and decoder with random weights, both ways from one state, taking turns in every run. The
denoised latents are compared first; pictures would not do, as TAD-SR's decoder quantises and a rounding may
choose another code. On a CPU the networks are narrow, float32 and on one thread; on a GPU they have their
real sizes, in bfloat16, and ours is timed as it is and with torch.compile, replayed as CUDA graphs. Theirs:
LoRA beside the weights (by peft), time and prompt computed in every call, plain memory layout. Ours: merged,
folded, channels_last. A prompt's own text encoder is in neither. The last column is the least time of our
arithmetic on this device (`counting`, operators fused, peaks measured) as a share of the time. Needs the
extra `sd`. Exits with 1 if latents differ by more than 0.001 in float32, or if a gate is missed on a GPU.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from common import filled, in_turns, leave, parser, passed
from diffusers import SD3Transformer2DModel, UNet2DConditionModel
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor, nn

from unistep.autoencoder.codecs import Codec, KLCodec, VQCodec
from unistep.bases import tiny
from unistep.bases.latentbase import VAE_TARGETS
from unistep.bases.resshift import sizes as resshift_sizes
from unistep.bases.resshift.student import VARIANTS, FoldedSwin, input_scale
from unistep.bases.resshift.swin import SwinConfig, SwinUNet
from unistep.bases.resshift.swin import fold as fold_swin
from unistep.bases.sd3 import base as sd3_base
from unistep.bases.sd3 import mmdit
from unistep.bases.sd3 import sizes as sd3_sizes
from unistep.bases.sd3.network import CLIP_TOKENS, T5_TOKENS
from unistep.bases.sd21 import base as sd21_base
from unistep.bases.sd21 import sdunet
from unistep.bases.sd21 import sizes as sd21_sizes
from unistep.counting.operators import Peaks, count
from unistep.evaluation.cost.timing import measured_peaks
from unistep.students.latent import LatentConfig, LatentStudent
from unistep.tensors import load_exactly


@dataclass(frozen=True)
class Sizes:
    """Of the networks; each dictionary is what differs from the real configuration."""

    side: int = 512
    """Of the result, in pixels; TAD-SR's is half of it."""
    share: int = 1
    """Ranks and prompts are the real ones divided by it."""
    sd3: dict[str, Any] = field(default_factory=dict)
    sd21: dict[str, Any] = field(default_factory=dict)
    vae: dict[str, Any] = field(default_factory=dict)
    vq: dict[str, Any] = field(default_factory=dict)
    swin: SwinConfig = field(default_factory=SwinConfig)


SIZES = {
    "real": Sizes(),
    "narrow": Sizes(
        256, 4,
        {"attention_head_dim": 32, "caption_projection_dim": 384, "joint_attention_dim": 1024,
         "num_attention_heads": 12, "num_layers": 6, "pooled_projection_dim": 512},
        {"attention_head_dim": [1, 2, 4, 4], "block_out_channels": [64, 128, 256, 256],
         "cross_attention_dim": 256},
        {"block_out_channels": [32, 64, 128, 128]}, {"ch": 32},
        SwinConfig(model_channels=32, swin_embed_dim=64, heads=4, image_size=32, lq_size=32),
    ),
    "tiny": Sizes(
        128, 16, sd3_sizes.TINY, sd21_sizes.TINY, {"block_out_channels": [32, 32, 32, 32]},
        {"ch": 32, "ch_mult": (1, 1, 1), "n_embed": 64}, SwinConfig(**resshift_sizes.TINY, lq_size=8),
    ),
}  # fmt: skip
GATES = {"tsdsr": 2.5, "sd21": 2.0, "tadsr": 3.0}
"""How much faster ours must be on a GPU, compiled, at the real sizes."""
AGREE = 1e-3
"""The largest difference of the denoised latents in float32, relative to the largest value."""
WARM_UP = 3
"""Runs of each way on a GPU before those that count; a compiler does its work there. On a CPU: 1."""
T, ALPHA_BAR = 999, 0.0047
"""Of the SD2.1 students."""

Run = Callable[[], Tensor]


@dataclass(frozen=True)
class Place:
    device: torch.device
    dtype: torch.dtype
    sizes: Sizes

    def put(self, module: nn.Module, **layout: torch.memory_format) -> nn.Module:
        return module.to(self.device, self.dtype, **layout).eval().requires_grad_(False)

    def random(self, *shape: int) -> Tensor:
        return torch.randn(shape).to(self.device, self.dtype)

    def adapted(self, module: nn.Module, rank: int, targets: list[str] | str) -> nn.Module:
        """With a LoRA that does something beside its layers."""
        rank = rank // self.sizes.share
        config = LoraConfig(r=rank, lora_alpha=rank, target_modules=targets, init_lora_weights=False)
        return inject_adapter_in_model(config, module)

    def codec(self, config: dict[str, Any]) -> KLCodec:
        return filled(KLCodec.from_config(config | self.sizes.vae).to_empty(device="cpu"))

    def ours(self, denoiser: nn.Module, codec: Codec, noise: float = 0.0) -> LatentStudent:
        student = LatentStudent(denoiser, codec, LatentConfig(noise=noise))
        return student.place(self.device, self.dtype)


def merged(module: nn.Module) -> dict[str, Tensor]:
    """The plain state dict of a module with its LoRA merged."""
    state = {name: p.float() for name, p in module.state_dict().items()}
    for name, layer in module.named_modules():
        if hasattr(layer, "lora_A"):
            delta = layer.get_delta_weight("default").float()
            state[f"{name}.base_layer.weight"] = state[f"{name}.base_layer.weight"] + delta
    return {name.replace(".base_layer", ""): p for name, p in state.items() if ".lora_" not in name}


def loaded(net: nn.Module, tensors: dict[str, Tensor]) -> None:
    load_exactly(net, {name: p.float() for name, p in tensors.items()}, "the folded network")


def tsdsr(place: Place) -> tuple[Run, Codec, LatentStudent, list[Tensor]]:
    config = sd3_sizes.TRANSFORMER | place.sizes.sd3
    net = place.adapted(SD3Transformer2DModel.from_config(config), 64, sd3_base.TARGETS)
    codec, plain = place.codec(sd3_sizes.VAE), place.codec(sd3_sizes.VAE)
    place.adapted(codec.vae, 64, VAE_TARGETS)
    prompt = torch.randn(1, (CLIP_TOKENS + T5_TOKENS) // place.sizes.share, config["joint_attention_dim"])
    pooled = torch.randn(1, config["pooled_projection_dim"])
    shape = mmdit.MMDiTConfig.of(config, prompt.shape[1])
    with torch.device("meta"):
        folded = mmdit.FoldedMMDiT(shape)
    loaded(folded, mmdit.fold(merged(net), shape, prompt, pooled)), loaded(plain.vae, merged(codec.vae))
    x = place.random(1, 3, place.sizes.side, place.sizes.side)
    place.put(net), place.put(codec)
    c, p = (v.to(place.device, place.dtype) for v in (prompt, pooled))
    t = torch.full((1,), mmdit.T_FAR, device=place.device, dtype=place.dtype)

    def latent() -> Tensor:
        z = codec.encode(x)
        return z - net(z, c, p, t, return_dict=False)[0]

    return latent, codec, place.ours(folded, plain), [x]


def sd21(place: Place) -> tuple[Run, Codec, LatentStudent, list[Tensor]]:
    """DFOSD's LoRA: of rank 16, on the UNet alone."""
    config = sd21_sizes.UNET | place.sizes.sd21
    net = place.adapted(UNet2DConditionModel.from_config(config), 16, sd21_base.TARGETS)
    codec, plain = place.codec(tiny.PUBLISHED_VAE), place.codec(tiny.PUBLISHED_VAE)
    prompt = torch.randn(1, CLIP_TOKENS // place.sizes.share, config["cross_attention_dim"])
    skip, gain = ALPHA_BAR**-0.5, -(((1 - ALPHA_BAR) / ALPHA_BAR) ** 0.5)
    shape = sdunet.UNetConfig.of(config, prompt.shape[1], skip, gain)
    with torch.device("meta"):
        folded = sdunet.FoldedUNet(shape)
    loaded(folded, sdunet.fold(merged(net), shape, T, prompt))
    x, c = place.random(1, 3, place.sizes.side, place.sizes.side), prompt.to(place.device, place.dtype)
    place.put(net), place.put(codec)
    t = torch.full((1,), T, device=place.device)

    def latent() -> Tensor:
        z = codec.encode(x)
        return skip * z + gain * net(z, t, c, return_dict=False)[0]

    return latent, codec, place.ours(folded, plain), [x]


def tadsr(place: Place) -> tuple[Run, Codec, LatentStudent, list[Tensor]]:
    """Theirs is our network before folding: its attention is torch's, which is faster than theirs."""
    shape, process = place.sizes.swin, VARIANTS["tadsr"].process()
    net, folded = SwinUNet(shape), FoldedSwin(shape)
    # its tables of positions and masks are not to be filled
    loaded(net, filled(SwinUNet(shape)).state_dict())
    codec, plain = (filled(VQCodec.from_config(place.sizes.vq).to_empty(device="cpu")) for _ in range(2))
    last, gain, far = len(process) - 1, input_scale(process), process.s[-1].item()
    loaded(folded.net, fold_swin(net.state_dict(), shape, last, gain))
    side = place.sizes.side // 2
    x, image = place.random(1, 3, side, side), place.random(1, 3, side // 4, side // 4)
    noise = place.random(1, 3, side // 4, side // 4)
    place.put(net), place.put(codec)
    t = torch.full((1,), last, device=place.device)

    def latent() -> Tensor:
        z = codec.encode(x) + far * noise
        return net(z * gain, image, t)

    return latent, codec, place.ours(folded, plain, far), [x, image, noise]


PIPELINES = {"tsdsr": tsdsr, "sd21": sd21, "tadsr": tadsr}


@dataclass(frozen=True)
class Row:
    way: str
    apart: float
    """Ours: of the denoised latent from theirs; compiled: of the picture from ours."""
    seconds: float
    cpu_seconds: float
    efficiency: float

    def line(self, name: str, theirs: "Row") -> str:
        return (
            f"| {name} | {self.way} | {self.apart:.1e} | {self.seconds:.4f} | {self.cpu_seconds:.4f} "
            f"| {theirs.seconds / self.seconds:.2f} | {theirs.cpu_seconds / self.cpu_seconds:.2f} "
            f"| {self.efficiency:.1%} |"
        )


def difference(a: Tensor, b: Tensor) -> float:
    """The largest, relative to the largest value."""
    return float((a.float() - b.float()).abs().max() / b.abs().max())


@torch.inference_mode()
def compare(name: str, place: Place, runs: int, peaks: Peaks, compiled: bool) -> list[Row]:
    """Theirs, ours and, if asked for, ours compiled; medians of runs that take turns."""
    latent, codec, student, inputs = PIPELINES[name](place)
    ways: dict[str, Run] = {"theirs": lambda: codec.decode(latent()), "ours": lambda: student(*inputs)}
    seen: list[Tensor] = []
    hook = student.denoiser.register_forward_hook(lambda module, given, out: seen.append(out))
    bound = count(student, *inputs).bound(peaks, fused=True)
    hook.remove()
    pictures = [run() for run in ways.values()]
    apart = {"theirs": 0.0, "ours": difference(seen[0], latent())}
    if compiled:
        mode = "reduce-overhead" if place.device.type == "cuda" else "default"
        whole = torch.compile(student, mode=mode)
        ways["ours, compiled"] = lambda: whole(*inputs)
        apart["ours, compiled"] = difference(whole(*inputs), pictures[1])
    if place.device.type == "cuda":
        for run in [*ways.values()] * (WARM_UP - 1):
            run()
    spent = in_turns(ways, runs, place.device)
    return [Row(way, apart[way], wall, cpu, bound / wall) for way, (wall, cpu) in spent.items()]


def main() -> bool:
    p = parser(__doc__)
    p.add_argument("--device", type=torch.device, default="cpu")
    p.add_argument("--sizes", choices=SIZES, help="default: real on a GPU, narrow on a CPU")
    p.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], help="default: bfloat16 on a GPU")
    p.add_argument("--compile", action="store_true", help="ours compiled on a CPU too")
    p.add_argument("--runs", type=int, help="default: 30 on a GPU, 7 on a CPU")
    p.add_argument("--only", nargs="+", choices=PIPELINES, default=[*PIPELINES])
    args = p.parse_args()
    gpu = args.device.type == "cuda"
    sizes = args.sizes or ("real" if gpu else "narrow")
    dtype = getattr(torch, args.dtype or ("bfloat16" if gpu else "float32"))
    place, runs = Place(args.device, dtype, SIZES[sizes]), args.runs or (30 if gpu else 7)
    if not gpu:
        torch.set_num_threads(1)
    torch.manual_seed(0)
    peaks = measured_peaks(place.device, dtype)
    print(
        f"torch {torch.__version__}, {place.device}, {dtype}, {sizes} sizes, medians of {runs} runs; peaks "
        f"{peaks.flops / 1e12:.3g} TFLOP/s and {peaks.bandwidth / 1e9:.3g} GB/s\n\n"
        "| networks | arrangement | difference | seconds | CPU s | times faster | by CPU s | bound / time |\n"
        "|---|---|---|---|---|---|---|---|",
        flush=True,
    )
    gates = {}
    for name in args.only:
        rows = compare(name, place, runs, peaks, gpu or args.compile)
        for row in rows:
            print(row.line(name, rows[0]), flush=True)
        if dtype == torch.float32:
            gates[f"{name}: latents agree within {AGREE}"] = rows[1].apart <= AGREE
        if gpu and sizes == "real":
            faster = rows[0].seconds / rows[-1].seconds >= GATES[name]
            gates[f"{name}: at least {GATES[name]} times faster"] = faster
    return passed(gates)


if __name__ == "__main__":
    leave(main())
