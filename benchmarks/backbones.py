"""Parameters, GMACs, operators and weights of the real backbones: the authors' arrangement and ours.

    python benchmarks/backbones.py [--write docs/api.md]

Everything is built on the meta device from the published configurations: no weights are needed, nothing is
measured, and figures are exact. The authors' arrangement keeps LoRA beside the weights (by peft) and computes
time and prompt in every call; ours has LoRA merged, and all that depends on time and prompt alone is folded.
Needs the extra `sd`. Exits with 1 if a gate is missed. --write puts the table between the page's markers.
"""

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor, nn
from unistep.bases.published import SD3_TRANSFORMER as SD3
from unistep.bases.published import SD3_VAE as VAE3
from unistep.bases.published import SD21_UNET as SD21
from unistep.bases.published import SD21_VAE as VAE

from unistep.atomic import atomic_write
from unistep.autoencoder.codecs import Codec, KLCodec, VQCodec
from unistep.bases.resshift.swin import SwinConfig, SwinUNet
from unistep.bases.sd3.mmdit import FoldedMMDiT, MMDiTConfig
from unistep.bases.sd21.sdunet import FoldedUNet, UNetConfig
from unistep.counting.operators import Counts, count, parameters, weight_bytes

TSD_TARGETS = [
    *("to_k", "to_q", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj"),
    *("proj", "linear", "proj_out"),
]
TSD_VAE_TARGETS = (
    r"encoder\..*(conv_in|conv1|conv2|conv_shortcut|downsamplers\.0\.conv|conv_out|to_q|to_k|to_v|to_out\.0)"
)
UNET_TARGETS = (
    r"(.*\.)?(to_q|to_k|to_v|to_out\.0|proj_in|proj_out|ff\.net\.0\.proj|ff\.net\.2"
    r"|conv|conv1|conv2|conv_in|conv_out|conv_shortcut)"
)
PROMPT, PROMPT21 = 333, 77
"""Tokens: 77 of CLIP and 256 of T5; CLIP alone."""
MOST_OPERATORS = 1400
"""Gate: of ours for one picture 128 -> 512 of TSD-SR."""


@dataclass(frozen=True)
class Pipeline:
    """A picture's way: encoder, denoiser, decoder, each a call on the meta device."""

    modules: list[nn.Module]
    encode: Callable[[], object]
    denoise: Callable[[], object]
    decode: Callable[[], object]

    def counts(self) -> list[Counts]:
        return [count(part) for part in (self.encode, self.denoise, self.decode)]

    @property
    def parameters(self) -> int:
        return sum(map(parameters, self.modules))

    @property
    def weight_bytes(self) -> int:
        return sum(map(weight_bytes, self.modules))


def empty(*shape: int) -> Tensor:
    return torch.empty(shape, dtype=torch.bfloat16, device="meta")


def adapted(module: nn.Module, rank: int, targets: list[str] | str) -> nn.Module:
    """With a LoRA beside its layers, as training leaves it."""
    config = LoraConfig(r=rank, lora_alpha=rank, target_modules=targets)
    with torch.device("meta"):
        return inject_adapter_in_model(config, module)


def ready(module: nn.Module) -> nn.Module:
    return module.to("meta", torch.bfloat16).eval().requires_grad_(False)


def pipeline(codec: Codec, denoiser: nn.Module, side: int, *given: Tensor) -> Pipeline:
    """At an output of side x side pixels; `given` to the denoiser after the latent."""
    ready(codec), ready(denoiser)
    x, z = empty(1, 3, side, side), empty(1, codec.channels, side // codec.factor, side // codec.factor)
    return Pipeline(
        [codec, denoiser], lambda: codec.encode(x), lambda: denoiser(z, *given), lambda: codec.decode(z)
    )


def tsdsr(authors: bool) -> Pipeline:
    from diffusers import SD3Transformer2DModel

    codec = KLCodec.from_config(VAE3)
    if not authors:
        with torch.device("meta"):
            return pipeline(codec, FoldedMMDiT(MMDiTConfig.of(SD3, PROMPT)), 512)
    with torch.device("meta"):
        transformer = SD3Transformer2DModel.from_config(SD3)
    adapted(transformer, 64, TSD_TARGETS), adapted(codec.vae, 64, TSD_VAE_TARGETS)
    return pipeline(codec, transformer, 512, empty(1, PROMPT, 4096), empty(1, 2048), empty(1))


def sd21(authors: bool, rank: int = 16, encoder: bool = False) -> Pipeline:
    """DFOSD: LoRA of rank 16 on the UNet; OSEDiff: 4 on UNet and encoder."""
    from diffusers import UNet2DConditionModel

    codec = KLCodec.from_config(VAE)
    if not authors:
        with torch.device("meta"):
            return pipeline(codec, FoldedUNet(UNetConfig.of(SD21, PROMPT21, 1.0, -1.0)), 512)
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(SD21)
    adapted(unet, rank, UNET_TARGETS)
    if encoder:
        adapted(codec.vae, rank, TSD_VAE_TARGETS)
    return pipeline(codec, unet, 512, empty(1), empty(1, PROMPT21, 1024))


def tadsr(authors: bool, side: int) -> Pipeline:
    with torch.device("meta"):
        net = SwinUNet(SwinConfig(), folded=not authors)
    given = [empty(1, 3, side // 4, side // 4), *([empty(1)] if authors else [])]
    return pipeline(VQCodec.from_config({}), net, side, *given)


ROWS: list[tuple[str, Callable[[bool], Pipeline], str]] = [
    ("TSD-SR (SD3-medium), 128 -> 512", tsdsr, "none given"),
    ("DFOSD (SD2.1), 128 -> 512", sd21, "966.3 M, 2132 G (DFOSD Tab. 3)"),
    ("OSEDiff (SD2.1), 128 -> 512", lambda a: sd21(a, 4, True), "1400 M, 2269 G (DFOSD Tab. 3)"),
    ("TAD-SR (ResShift), 128 -> 512", lambda a: tadsr(a, 512), "173.8 M, 2059 G (SinSR in DFOSD Tab. 3)"),
    ("TAD-SR (ResShift), 64 -> 256", lambda a: tadsr(a, 256), "118.59 + 57.32 M (TAD-SR Tab. I)"),
]  # fmt: skip
"""(what, how it is built, the papers' parameters and MACs)"""
HEADER = """\
| model, picture | arrangement | parameters, M: denoiser + codec | GMAC: encoder + denoiser + decoder \
| without attention | operators | weights, GB in bf16 | papers |
|---|---|---|---|---|---|---|---|"""
NOTES = """
Counted on the meta device (`benchmarks/backbones.py`), batch 1. 1 MAC = 2 FLOP; MACs are those of
convolutions, products and attention. Operators are those that torch dispatches: views are none, an
attention is one. Weights hold buffers too: SD3's table of positions, a folded prompt. TAD-SR has no LoRA,
and "authors'" is our network before folding: theirs also writes attention out, as several operators.

Where the papers' figures differ:

- **MACs of DFOSD**: those of convolutions and linear layers with a LoRA of rank 16 kept beside the UNet are
  {dfosd:.0f} G, the paper's 2132: its counter saw no attention ({dfosd_attention:.0f} G more).
- **MACs of SinSR**, whose networks TAD-SR has: {sinsr:.0f} G without attention, 2059 G in the paper, a rest
  of {rest:.1f} % that we cannot explain. The attention of the VQ autoencoder over 128 x 128 positions is
  {vq:.0f} G more.
- **Parameters of DFOSD**: UNet and autoencoder have {plain:.1f} M, with that LoRA {unmerged:.1f} M, in the
  paper 966.3 M. A learned prompt of 77 tokens adds 0.08 M; the rest is not explained, its code is not out.
- **OSEDiff**: the paper's figures include its text encoder and its tagger. Neither is in these rows: a
  student here has one fixed prompt.
- **TAD-SR's autoencoder**: 57.32 M in the paper's own row, 55.32 M in its rows of ResShift and SinSR, which
  have the same; 55.32 M is what we count.
- **TSD-SR's Tab. 3** has seconds on an A100 (0.1362), and neither parameters nor MACs."""
BEGIN, END = "<!-- backbones:begin -->", "<!-- backbones:end -->"
PAGE = f"""# Models of others

What Unistep makes of the published one-step models of Stable Diffusion 3, Stable Diffusion 2.1 and ResShift.

## Parameters, arithmetic and weights

{BEGIN}
{END}
"""


def row(what: str, arrangement: str, built: Pipeline, counts: list[Counts], papers: str) -> str:
    codec, denoiser = (parameters(module) / 1e6 for module in built.modules)
    gmacs = [c.macs() / 1e9 for c in counts]
    parts, operators = " + ".join(f"{g:.1f}" for g in gmacs), sum(c.operators for c in counts)
    return (
        f"| {what} | {arrangement} | {denoiser:.2f} + {codec:.2f} | {parts} = {sum(gmacs):.1f} "
        f"| {plain(counts):.1f} | {operators} | {built.weight_bytes / 1e9:.3f} | {papers} |"
    )


def table() -> tuple[str, bool]:
    """(the table and its notes, whether ours is within the gate)."""
    lines, kept = [HEADER], {}
    for what, build, papers in ROWS:
        for authors in (True, False):
            built = build(authors)
            counts = kept[what, authors] = built.counts()
            name = "authors'" if authors else "merged, folded"
            lines.append(row(what, name, built, counts, papers if authors else ""))
            print(lines[-1], file=sys.stderr, flush=True)
    tsd, dfosd, _, sinsr, _ = (what for what, *_ in ROWS)
    whole, unmerged = sd21_parameters()
    notes = NOTES.format(
        dfosd=plain(kept[dfosd, True]),
        dfosd_attention=sum(c.macs("attention") for c in kept[dfosd, True]) / 1e9,
        sinsr=plain(kept[sinsr, True]),
        rest=(plain(kept[sinsr, True]) / 2059 - 1) * 100,
        vq=sum(kept[sinsr, True][i].macs("attention") for i in (0, 2)) / 1e9,
        plain=whole / 1e6,
        unmerged=unmerged / 1e6,
    )
    operators = sum(c.operators for c in kept[tsd, False])
    return "\n".join(lines) + "\n" + notes, operators <= MOST_OPERATORS


def plain(counts: list[Counts]) -> float:
    """GMAC without attention."""
    return sum(c.macs() - c.macs("attention") for c in counts) / 1e9


def sd21_parameters() -> tuple[int, int]:
    """Of UNet and autoencoder, and with a LoRA of rank 16 beside the UNet."""
    built = sd21(True)
    lora = sum(p.numel() for name, p in built.modules[1].named_parameters() if ".lora_" in name)
    return built.parameters - lora, built.parameters


def write(page: Path, text: str, marks: tuple[str, str] = (BEGIN, END)) -> None:
    """Between the page's markers; a page that is not there is made."""
    old = page.read_text() if page.exists() else PAGE
    begin, end = marks
    before, found, rest = old.partition(begin)
    _, closed, after = rest.partition(end)
    if not (found and closed):
        sys.exit(
            f"expected {page} to hold {begin} and {end}, found neither or one; put them where it belongs"
        )
    with atomic_write(page) as file:
        file.write(f"{before}{begin}\n{text}\n{end}{after}".encode())


def main() -> bool:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--write", type=Path, metavar="PAGE", help="a page with the two markers")
    args = p.parse_args()
    text, good = table()
    print(text)
    if args.write:
        write(args.write, text)
    print(f"\n{'pass' if good else 'FAIL'}: at most {MOST_OPERATORS} operators for one picture of TSD-SR")
    return good


if __name__ == "__main__":
    sys.exit(0 if main() else 1)
