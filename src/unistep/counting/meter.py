"""What a step of training costs a GPU, counted on tensors without data: live bytes, and work by part."""

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map
from torch.utils.flop_counter import flop_registry

from ..diffusion.denoiser import Cond, Denoiser
from .peak import Live

ROUNDED = {F.linear, F.conv1d, F.conv2d, torch.conv2d, torch.matmul, torch.bmm, torch.baddbmm, torch.addmm,
           Tensor.matmul, Tensor.__matmul__}  # fmt: skip
KEPT = {F.layer_norm, F.group_norm, F.softmax, torch.softmax, Tensor.softmax, F.mse_loss, F.l1_loss,
        F.softplus, F.normalize, torch.pow, Tensor.pow}  # fmt: skip
"""What autocast computes in less, and what in float32 (from torch's lists for CUDA)."""


def group_norm(x: Tensor, weight: Any, bias: Any, n: int, c: int, hw: int, groups: int, eps: float) -> Any:
    return torch.empty_like(x), x.new_empty(n, groups), x.new_empty(n, groups)


def group_norm_backward(
    grad: Tensor,
    x: Tensor,
    mean: Any,
    rstd: Any,
    weight: Any,
    n: int,
    c: int,
    hw: int,
    groups: int,
    mask: Any,
) -> Any:
    like = torch.empty_like(x), x.new_empty(c), x.new_empty(c)
    return tuple(one if wanted else None for one, wanted in zip(like, mask, strict=True))


def layer_norm(x: Tensor, shape: list[int], weight: Any, bias: Any, eps: float) -> Any:
    statistics = (*x.shape[: -len(shape)], *(1 for _ in shape))
    return torch.empty_like(x), x.new_empty(statistics), x.new_empty(statistics)


def layer_norm_backward(
    grad: Tensor, x: Tensor, shape: list[int], mean: Any, rstd: Any, weight: Any, bias: Any, mask: Any
) -> Any:
    like = torch.empty_like(x), x.new_empty(shape), x.new_empty(shape)
    return tuple(one if wanted else None for one, wanted in zip(like, mask, strict=True))


def linear(bias: Tensor, x: Tensor, weight: Tensor, **options: Any) -> Tensor:
    return x.new_empty(len(x), weight.shape[1])


def pointwise(x: Any, y: Any, **options: Any) -> Tensor:
    shape: Any = x.shape
    if isinstance(y, Tensor) and y.shape != shape:
        shape = torch.broadcast_shapes(shape, y.shape)  # type: ignore[no-untyped-call]
    return torch.empty(shape, dtype=torch.result_type(x, y), device=x.device)


def alike(grad: Tensor, *more: Any, **options: Any) -> Tensor:
    return torch.empty_like(grad)


aten = torch.ops.aten
QUICK: dict[Any, Callable[..., Any]] = {
    aten.native_group_norm.default: group_norm,
    aten.native_group_norm_backward.default: group_norm_backward,
    aten.native_layer_norm.default: layer_norm,
    aten.native_layer_norm_backward.default: layer_norm_backward,
    aten.addmm.default: linear,
    aten.add.Tensor: pointwise,
    aten.mul.Tensor: pointwise,
    aten.gelu.default: alike,
    aten.gelu_backward.default: alike,
    aten.silu_backward.default: alike,
}
"""Operators whose shapes are told here: without data torch takes milliseconds for each."""
NORMS = {norm: QUICK[norm] for norm in (aten.native_group_norm.default, aten.native_layer_norm.default)}


class Quick(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Norms in less time where there are no data, as torch lays them out in memory: it decomposes them."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in NORMS and args[0].is_meta:
            x = args[0].contiguous() if NORMS[func] is layer_norm else args[0]
            return NORMS[func](x, *args[1:], **(kwargs or {}))
        return func(*args, **(kwargs or {}))


class Meter(Live):  # type: ignore[no-untyped-call]
    """Counts live bytes and, by part, the FLOPs of every operator while it is active."""

    def __init__(self) -> None:
        super().__init__()
        self.flops: Counter[str] = Counter()
        self.parts, self.backward = ["the rest"], ""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        on_meta = bool(args) and isinstance(args[0], Tensor) and args[0].is_meta
        out = super().__torch_dispatch__(QUICK.get(func, func) if on_meta else func, types, args, kwargs)
        if (count := flop_registry.get(func._overloadpacket)) is not None:
            self.flops[self.backward or self.parts[-1]] += count(*args, **(kwargs or {}), out_val=out)
        return out

    @contextlib.contextmanager
    def within(self, part: str) -> Iterator[None]:
        self.parts.append(part)
        try:
            yield
        finally:
            self.parts.pop()

    def remember(self, net: Denoiser) -> None:
        """Counts calls of `net` without a gradient once for each shape: the steps of a teacher are alike."""
        known: dict[torch.Size, tuple[Counter[str], int, torch.Size]] = {}
        whole = net.forward

        def forward(z_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
            if torch.is_grad_enabled():
                return whole(z_t, t, cond)
            if z_t.shape in known:
                flops, above, shape = known[z_t.shape]
                self.flops.update(flops)
                self.peak = max(self.peak, self.now + above)
                return torch.empty(shape, device="meta")
            before, outer, start = self.flops.copy(), self.peak, self.now
            self.peak = start
            out = whole(z_t, t, cond)
            known[z_t.shape] = self.flops - before, self.peak - start, out.shape
            self.peak = max(outer, self.peak)
            return out

        net.forward = forward  # type: ignore[method-assign]

    def watch(self, module: nn.Module, part: str) -> None:
        """Books what `module` does from now on under `part`."""
        module.register_forward_pre_hook(lambda *_: self.parts.append(part))
        module.register_forward_hook(lambda *_: self.parts.pop() and None, always_call=True)


def one_pass(net: nn.Module, shape: tuple[int, ...]) -> tuple[int, int]:
    """(bytes at the peak, FLOPs) of a call of `net`, on the meta device, without a gradient, in float32."""
    meter = Meter()
    with torch.no_grad(), meter:
        net(torch.empty(shape, device="meta"))
    return meter.peak, sum(meter.flops.values())


class OnGPU(TorchFunctionMode):
    """What a GPU would do, for tensors without data: attention without scores, and autocast to `dtype`."""

    def __init__(self, dtype: torch.dtype | None):
        super().__init__()
        self.dtype = dtype
        self.rounded: dict[int, Tensor] = {}
        """Trained weights are rounded once per pass, as autocast does."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        attention = func is F.scaled_dot_product_attention
        if self.dtype is not None and (attention or func in ROUNDED):
            args, kwargs = tree_map(self.round, (args, kwargs))
        elif self.dtype is not None and func in KEPT:
            args, kwargs = tree_map(lambda x: self.cast(x, torch.float32), (args, kwargs))
        return efficient(*args, **kwargs) if attention else func(*args, **kwargs)

    def round(self, x: Any) -> Any:
        if isinstance(x, nn.Parameter) and x.requires_grad:
            if id(x) not in self.rounded:
                self.rounded[id(x)] = self.cast(x, self.dtype)
            return self.rounded[id(x)]
        return self.cast(x, self.dtype)

    @staticmethod
    def cast(x: Any, dtype: torch.dtype | None) -> Any:
        return x.to(dtype) if isinstance(x, Tensor) and x.is_floating_point() else x


def efficient(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, **options: Any
) -> Tensor:
    """scaled_dot_product_attention by the kernel that stores no scores; torch would not choose it on meta."""
    if attn_mask is not None:
        attn_mask = attn_mask.to(query.dtype).expand(*query.shape[:-1], key.shape[-2])
    op = torch.ops.aten._scaled_dot_product_efficient_attention
    out: Tensor = op(query, key, value, attn_mask, True, scale=options.get("scale"))[0]
    return out
