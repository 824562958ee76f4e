"""How many bytes a call of a network will need, before it is made: the call is run without data."""

import copy
import weakref
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Live(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of tensors that are alive while it is active; `peak` is the most at one time."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self.known: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        given = {t.untyped_storage()._cdata for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        for tensor in tree_leaves(out):  # views of weights are not new
            if isinstance(tensor, Tensor) and tensor.untyped_storage()._cdata not in given:
                self._add(tensor.untyped_storage())
        return out

    def _add(self, storage: Any) -> None:
        key = storage._cdata
        if key in self.known:
            return
        self.known[key] = storage.nbytes()
        self.now += storage.nbytes()
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._drop, key)

    def _drop(self, key: int) -> None:
        self.now -= self.known.pop(key, 0)


class Fused(TorchFunctionMode):
    """Attention without its matrix of scores, which torch writes out only where there are no data."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            given = dict(zip(("query", "key", "value"), args, strict=False)) | kwargs
            q, v = given["query"], given["value"]
            return q.new_empty(*q.shape[:-1], v.shape[-1])
        return func(*args, **kwargs)


def without_data(module: nn.Module) -> nn.Module:
    """A copy on the meta device, made without copying any weights."""
    tensors: dict[int, Any] = {}
    for p in module.parameters():
        tensors[id(p)] = nn.Parameter(p.detach().to("meta"), requires_grad=False)
    for b in module.buffers():
        tensors[id(b)] = b.to("meta")
    return copy.deepcopy(module, tensors)


def peak_bytes(call: Callable[..., object], *shapes: tuple[int, ...], dtype: torch.dtype) -> int:
    """Bytes of activations, inputs included, at the peak of `call`, which must run on meta tensors."""
    live = Live()
    with torch.no_grad(), Fused(), live:
        inputs = [torch.empty(shape, dtype=dtype, device="meta") for shape in shapes]
        call(*inputs)
    return live.peak
