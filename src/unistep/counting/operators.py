"""What a call of a network costs, counted by operator, and the least time that a device needs for it.

Nothing is measured here, so that a network on the meta device, which holds no data, is counted as well. How:

- Every operator that reaches torch's dispatcher counts, but those that only look at a tensor in another way
  (views) or make an empty one. An attention counts as one, whatever this device would make of it.
- MACs are those of convolutions, linear layers and attentions (products of two activations), by torch's own
  formulas; 1 MAC = 2 FLOP. Norms, activations and sums count as none.
- Bytes are those of the tensors that an operator reads and writes, in their own dtype: an attention reads
  queries, keys and values and writes the result.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, scaled_dot_product_attention
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

aten = torch.ops.aten
KINDS = {
    aten.convolution: "convolution",
    aten._convolution: "convolution",
    aten.mm: "linear",
    aten.addmm: "linear",
    aten.bmm: "attention",
    aten.baddbmm: "attention",
}
"""Operator -> the kind of its MACs, outside of a linear layer, which may be a bmm too."""
NO_WORK = {
    aten._unsafe_view, aten.detach, aten.empty, aten.empty_like, aten.empty_strided, aten.lift_fresh,
    aten.new_empty,
}  # fmt: skip
"""Operators that neither read nor write, beside views."""


@dataclass(frozen=True)
class Peaks:
    """What a device can do at most."""

    flops: float
    """Per second."""
    bandwidth: float
    """Bytes per second, read and written together."""


@dataclass(frozen=True)
class Work:
    """One operator."""

    kind: str
    """"convolution", "linear" or "attention"; "" for all others."""
    macs: int
    bytes: int


@dataclass
class Counts:
    """All operators of a call, in their order."""

    work: list[Work] = field(default_factory=list)

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(self.work + other.work)

    @property
    def operators(self) -> int:
        return len(self.work)

    @property
    def bytes(self) -> int:
        """Read and written."""
        return sum(work.bytes for work in self.work)

    def macs(self, kind: str | None = None) -> int:
        """Of one kind, or of all."""
        return sum(work.macs for work in self.work if kind is None or work.kind == kind)

    def bound(self, peaks: Peaks, fused: bool) -> float:
        """Seconds that the call takes at least: each operator either computes or moves data, if it is ideal.

        fused: only operators with MACs count, as if all others were done on their way; otherwise each of the
        others reads and writes its tensors, as without a compiler.
        """
        return sum(
            max(2 * work.macs / peaks.flops, work.bytes / peaks.bandwidth)
            for work in self.work
            if work.kind or not fused
        )


def count(call: Callable[..., object], *args: Any, **kwargs: Any) -> Counts:
    """Counts one call, which is made, on whatever device its tensors are."""
    counter = _Operators()
    with torch.no_grad(), counter, _Layers(counter):
        call(*args, **kwargs)
    return counter.counts


def parameters(module: nn.Module) -> int:
    """Numbers that training would change; buffers are none."""
    return sum(p.numel() for p in module.parameters())


def weight_bytes(module: nn.Module) -> int:
    """Bytes of parameters and buffers, in their own dtype."""
    return _bytes([*module.parameters(), *module.buffers()])


class _Operators(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.counts, self.inside, self.linear = Counts(), False, False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not self.inside:
            with self:  # in inference mode layers arrive whole: their parts are what is counted
                parts = func.decompose(*args, **kwargs)
            if parts is not NotImplemented:
                return parts
        out = func(*args, **kwargs)
        packet = func._overloadpacket
        if not (self.inside or func.is_view or packet in NO_WORK):
            flops = flop_registry[packet](*args, **kwargs, out_val=out) if packet in flop_registry else 0
            kind = KINDS.get(packet, "")
            self.add("linear" if kind and self.linear else kind, flops, (args, kwargs, out))
        return out

    def add(self, kind: str, flops: int, tensors: object) -> None:
        self.counts.work.append(Work(kind, flops // 2, _bytes(tree_leaves(tensors))))


class _Layers(TorchFunctionMode):
    """Says which operators are a linear layer's, and takes torch's attention as one operator: devices without
    a kernel for it would show its parts."""

    def __init__(self, operators: _Operators) -> None:
        super().__init__()
        self.operators = operators

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, operators = kwargs or {}, self.operators
        operators.inside, operators.linear = func is scaled_dot_product_attention, func is linear
        try:
            out = func(*args, **kwargs)
        finally:
            operators.inside = operators.linear = False
        if func is scaled_dot_product_attention:
            names = ("query", "key", "value", "attn_mask")
            given = dict(zip(names, args, strict=False)) | kwargs
            flops = flop_registry[aten._scaled_dot_product_flash_attention](*(given[n] for n in names[:3]))
            operators.add("attention", flops, ([given.get(name) for name in names], out))
        return out


def _bytes(leaves: list[Any]) -> int:
    return sum(leaf.numel() * leaf.element_size() for leaf in leaves if isinstance(leaf, Tensor))
