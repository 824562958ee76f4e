"""Small memory: quantised weights of a denoiser's linear layers, or weights that stay on the host."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ConfigError
from ..extras import extra
from .onestep import Options

WEIGHTS = ("full", "int8", "int4")
GROUP = 64
"""Inputs that share a scale of int8 in float16; divides the widths of the published networks."""


def check(options: Options) -> None:
    """Raises ConfigError for weights that there are not, and for what cannot go with offload."""
    if options.weights not in WEIGHTS:
        raise ConfigError(f"expected weights to be full, int8 or int4, found {options.weights!r}; choose one")
    if options.offload and options.weights != "full":
        raise ConfigError(
            f"expected offload alone or weights {options.weights} alone, found both; choose one of them"
        )
    if options.offload and options.compile:
        raise ConfigError("expected offload alone or compile alone, found both; choose one of them")


def quantise(module: nn.Module, how: str, device: torch.device | str = "cpu", least: int = 256) -> nn.Module:
    """Quantises, in place, the weights of large linear layers, one after the other on `device`.

    Activations stay as they are, and so do convolutions, norms and small layers. What is left of the module
    is on `device` too. Under inference_mode int8 layers compute, but cannot be cast or copied: use no_grad.

    Args:
        how: "full" (nothing is done), "int8" (torchao, symmetric: one scale per output; in float16 one per
            `GROUP` inputs) or "int4" (NF4 of bitsandbytes, arXiv 2305.14314; CUDA only).
        least: inputs and outputs that a layer must have at least.

    Raises:
        ConfigError: another `how`, a missing package, int4 off CUDA, or no layer is that large.
    """
    if how == "full":
        return module
    check(Options(weights=how))
    device = torch.device(device)
    if how == "int4" and device.type != "cuda":
        raise ConfigError(f"expected a CUDA device for weights int4, found {device}; take int8")

    def large(m: nn.Module, name: str = "") -> bool:
        return type(m) is nn.Linear and min(m.in_features, m.out_features) >= least

    found = next((m for m in module.modules() if large(m)), None)
    if found is None:
        raise ConfigError(
            f"expected linear layers of at least {least} inputs and outputs to make {how}, found none in "
            f"this {type(module).__name__}; leave weights at full"
        )
    if how == "int8":
        with quiet("torchao", "torch.utils._pytree"):
            q = extra("torchao", "torchao.quantization")
        # With one scale per output it multiplies by the scale last: up to then the sums are up to 127 times
        # too large for float16. With groups it does so first, which takes longer.
        half = next(found.parameters()).dtype == torch.float16
        config = q.Int8WeightOnlyConfig(
            granularity=q.PerGroup(GROUP) if half else q.PerRow(), set_inductor_config=False
        )
        q.quantize_(module, config, filter_fn=large, device=device)
        return module
    bnb = extra("bitsandbytes")
    for parent in list(module.modules()):
        for name, old in list(parent.named_children()):
            if isinstance(old, nn.Linear) and large(old):
                new = bnb.nn.Linear4bit(
                    old.in_features, old.out_features, compute_dtype=old.weight.dtype, device="meta"
                )
                new.weight = bnb.nn.Params4bit(old.weight.data, quant_type="nf4").to(device)
                new.bias = old.bias
                setattr(parent, name, new)
    return module.to(device)


@contextmanager
def quiet(*names: str) -> Iterator[None]:
    """Warnings of these loggers are dropped: torchao reports every CUDA extension that it cannot load."""
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def stored_bytes(module: nn.Module) -> int:
    """Bytes that the tensors of its state dict take, quantised ones as they are stored."""

    def size(tensor: Any) -> int:
        if hasattr(tensor, "__tensor_flatten__"):
            return sum(size(getattr(tensor, part)) for part in tensor.__tensor_flatten__()[0])
        return int(tensor.nbytes)

    return sum(map(size, module.state_dict().values()))


def blocks(module: nn.Module) -> Iterator[nn.Module]:
    """The parts of a denoiser that visit the device one at a time: together nearly all of its weights.

    Items of its nn.ModuleLists, and its nn.Sequentials. An item that is nothing but lists, such as a level of
    a UNet, is taken apart: it alone may be a third of the network.
    """
    for child in module.children():
        if isinstance(child, nn.Sequential):
            yield child
        elif isinstance(child, nn.ModuleList):
            for item in child:
                parts = list(item.children())
                lists = bool(parts) and all(isinstance(part, nn.ModuleList) for part in parts)
                yield from blocks(item) if lists else [item]
        else:
            yield from blocks(child)


def offload(module: nn.Module, device: torch.device | str) -> nn.Module:
    """The `blocks` of a denoiser stay on the host; each visits `device` for its forward alone.

    In place. Everything else moves to `device`. For CUDA the host's memory is pinned: copies are faster.
    The blocks are back after an exception too; the same tensors come back, so that the module can be cast.
    On a copy without data (`peak.without_data`) visits are made as well, and count as memory.
    """
    device = torch.device(device)
    own = list(blocks(module))
    inside = {id(m) for block in own for m in block.modules()}

    def home(t: Tensor) -> Tensor:
        return t.cpu().pin_memory() if device.type == "cuda" else t.cpu()

    def away(t: Tensor) -> Tensor:
        return t.to(device)

    for m in module.modules():
        m._apply(home if id(m) in inside else away, recurse=False)  # type: ignore[no-untyped-call]
    for block in own:
        _visits(block, device)
    return module


def _visits(block: nn.Module, device: torch.device) -> None:
    at_home: list[tuple[dict[str, Any], str, Tensor]] = []

    def enter(block: nn.Module, _inputs: object) -> None:
        leave()  # an interrupt (KeyboardInterrupt) of the last forward skips this hook
        tensors: list[dict[str, Any]] = [
            slots for m in block.modules() for slots in (m._parameters, m._buffers)
        ]
        for slots in tensors:
            for name, t in slots.items():
                if t is not None:
                    at_home.append((slots, name, t))
                    slots[name] = t.clone() if t.is_meta else t.to(device, non_blocking=t.is_pinned())

    def leave(*_: object) -> None:
        for slots, name, t in at_home:
            slots[name] = t
        at_home.clear()

    block.register_forward_pre_hook(enter)
    block.register_forward_hook(leave, always_call=True)
