"""A training step of TSD-SR on SD3 with random weights: roles that share one backbone, next to copies.

    python benchmarks/roles.py [--device cuda] [--batch 2] [--steps 5]

Three layouts in one run, of the same step (Algorithm 1 with N = 4 and guidance 7.5, then the score network's
update; LPIPS is replaced by the mean absolute error, which costs next to nothing): teacher, student and score
network as one set of frozen tensors with a LoRA each; as two copies, in which the teacher and the student are
one (the authors' layout); as three copies. On a GPU the sizes are SD3-medium's, at 512 pixels, frozen weights
in bfloat16; on a CPU the transformer has two narrow layers. `static` is counted: frozen weights, what is
trained, its gradients and both of Adam's moments. `peak` is measured on a GPU alone. Needs the extra `train`.
"""

import copy
from collections.abc import Iterator
from functools import partial

import torch
import torch.nn.functional as F
from common import parser
from torch import Tensor, nn

from unistep.autoencoder.codecs import KLCodec
from unistep.bases import latentbase
from unistep.bases.latentbase import Opened
from unistep.bases.sd3 import network as sd3
from unistep.bases.sd3 import sizes
from unistep.bases.sd3.base import SD3Base
from unistep.bases.sd3.network import SD3Config
from unistep.diffusion.denoiser import Batch
from unistep.diffusion.process import flow
from unistep.evaluation.cost.timing import timed
from unistep.methods import TSDSR, TSDSRConfig

NARROW = {"num_layers": 2, "attention_head_dim": 32, "num_attention_heads": 6, "caption_projection_dim": 192}
LAYOUTS = {"shared": (), "two copies": ("score",), "three copies": ("student", "score")}
"""Of each its roles that have a copy."""


def random(module: nn.Module, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """A module from the meta device with small random weights."""
    module = nn.Module.to(module, dtype=dtype).to_empty(device=device)
    for p in [*module.parameters(), *module.buffers()]:
        if p.is_floating_point():
            nn.init.normal_(p, std=0.02)
    return module


def opened(device: torch.device, dtype: torch.dtype) -> Opened:
    real = device.type == "cuda"
    transformer = sd3.empty_transformer(sizes.TRANSFORMER | ({} if real else NARROW))
    codec = KLCodec.from_config(sizes.VAE)
    return Opened(random(transformer, device, dtype), random(codec, device, torch.float32), flow())


def laid_out(layout: str, parts: Opened, config: SD3Config, device: torch.device) -> tuple[TSDSR, SD3Base]:
    """The method on its players; copies are made where the layout has them."""
    words = [
        torch.randn(1, *shape, device=device) for shape in ((sd3.CLIP_TOKENS + sd3.T5_TOKENS, 4096), (2048,))
    ]
    base = SD3Base(parts, config, lambda text: (words[0], words[1]), device)
    share, method_config = latentbase.shared, TSDSRConfig(weight_mse=1.0)
    adapted = base.adapted

    def choose(role: str) -> nn.Module:
        latentbase.shared = copy.deepcopy if role in LAYOUTS[layout] else share
        try:
            return adapted(role)
        finally:
            latentbase.shared = share

    base.adapted = choose
    return TSDSR.build(method_config, base, lambda form: F.l1_loss), base


def players(method: TSDSR) -> Iterator[list[nn.Parameter]]:
    for net in (method.student, method.critic):
        yield [p for p in net.parameters() if p.requires_grad]


def static_bytes(method: TSDSR, base: SD3Base) -> int:
    """Each tensor once; a trained one four times: itself, its gradient and two moments."""
    seen: dict[int, int] = {}
    for module in (method.student, method.teacher, method.critic, base.codec):
        for p in [*module.parameters(), *module.buffers()]:
            seen[p.data_ptr() or id(p)] = p.numel() * p.element_size() * (4 if p.requires_grad else 1)
    return sum(seen.values())


def step(method: TSDSR, optimisers: list[torch.optim.Optimizer], batch: Batch, dtype: torch.dtype) -> None:
    student, score = players(method)
    precision = partial(torch.autocast, batch.x_lq.device.type, dtype, enabled=dtype != torch.float32)
    with precision():
        z_hat = method.generate(batch)
        loss = sum(method.generator_loss(batch, z_hat).values())
    loss.backward(inputs=student)
    optimisers[0].step()
    with precision():
        loss = sum(method.critic_loss(batch, z_hat.detach()).values())
    loss.backward(inputs=score)
    optimisers[1].step()
    for optimiser in optimisers:
        optimiser.zero_grad()


def main() -> None:
    p = parser(__doc__)
    p.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    p.add_argument("--batch", type=int, default=2)
    p.add_argument("--steps", type=int, default=5, help="timed ones, after two that are not")
    p.add_argument("--side", type=int, help="of the crop; default: 512 on a GPU, 128 on a CPU")
    p.add_argument("--checkpointing", action="store_true")
    args = p.parse_args()
    real = args.device.type == "cuda"
    dtype, side = (torch.bfloat16, args.side or 512) if real else (torch.float32, args.side or 128)
    config = SD3Config(checkpointing=args.checkpointing, dtype="bf16" if real else "fp32")
    place = torch.cuda.get_device_name() if real else "CPU"
    print(f"torch {torch.__version__}, {place}, batch {args.batch}, {side} pixels\n")
    print("| layout | static, GB | seconds a step | peak, GB |\n|---|---|---|---|")
    for layout in LAYOUTS:
        torch.manual_seed(0)
        method, base = laid_out(layout, opened(args.device, dtype), config, args.device)
        optimisers = [torch.optim.AdamW(params, lr=1e-6) for params in players(method)]
        x_hq: Tensor = torch.rand(args.batch, 3, side, side, device=args.device) * 2 - 1
        x_lq = F.avg_pool2d(x_hq, 4)
        cond = base.cond(x_lq)
        batch = Batch(x_lq, x_hq, base.encode(x_hq), cond, base.null(cond))
        run = partial(step, method, optimisers, batch, dtype)
        timed(run, 2, args.device)  # not counted
        if real:
            torch.cuda.reset_peak_memory_stats()
        seconds, _ = timed(run, args.steps, args.device)
        peak = f"{torch.cuda.max_memory_allocated() / 1e9:.2f}" if real else "not measured"
        static = static_bytes(method, base) / 1e9
        print(f"| {layout} | {static:.3f} | {seconds:.3f} | {peak} |", flush=True)
        del run, method, base, optimisers, batch, cond  # the next layout needs the memory
        if real:
            torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
