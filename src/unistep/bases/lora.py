"""Low-rank adapters, merged into the weights they adapt: W + scale B A (LoRA, arXiv 2106.09685, Eq. 3).

Names are PEFT's, without the adapter's: "<module>.lora_A.weight", "<module>.lora_B.weight". `adapt` puts one
beside the weights instead, where it is trained.
"""

import re
from collections.abc import Mapping, MutableMapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import ModelError
from ..extras import extra
from ..tensors import few


def strip(names: Mapping[str, Tensor], prefix: str = "", adapter: str = "") -> dict[str, Tensor]:
    """Tensors under the names that `merge` takes: without PEFT's wrapper, `prefix` and the adapter's name."""
    plain = {}
    for name, tensor in names.items():
        name = name.removeprefix("base_model.model.").removeprefix(prefix)
        for part in ("lora_A", "lora_B"):
            name = name.replace(f".{part}.{adapter}.weight", f".{part}.weight") if adapter else name
        plain[name] = tensor
    return plain


def merge(state: MutableMapping[str, Tensor], lora: Mapping[str, Tensor], scale: float = 1.0) -> int:
    """Replaces the adapted weights of `state` by merged ones, in their dtype. Returns how many there are.

    Linear: A [r, in], B [out, r]; convolution: A [r, in, kh, kw], B [out, r, 1, 1]. The sum is float32.
    Nothing is changed on an error.

    Raises ModelError for an adapter of another base, an A whose rank is not B's, unpaired and surplus names.
    """
    modules = sorted({name.partition(".lora_")[0] for name in lora if ".lora_" in name})
    wanted = {f"{module}.lora_{part}.weight" for module in modules for part in "AB"}
    missing, surplus = sorted(wanted - lora.keys()), sorted(lora.keys() - wanted)
    surplus += [f"{module}.weight" for module in modules if f"{module}.weight" not in state]
    if not lora or missing or surplus:
        raise ModelError(
            "expected the LoRA to be pairs lora_A, lora_B for layers of this base, found "
            f"{_few('missing', missing)} and {_few('surplus (not in the base)', surplus)}; "
            "take the file that was trained on this base"
        )
    merged = {}
    for module in modules:
        a, b = (lora[f"{module}.lora_{part}.weight"] for part in "AB")
        weight = state[f"{module}.weight"]
        if a.ndim < 2 or b.ndim != a.ndim or b.shape[1] != a.shape[0]:
            raise ModelError(
                f"expected lora_A and lora_B of {module} to have one rank, found {list(a.shape)} and "
                f"{list(b.shape)}; the file is damaged or mixed"
            )
        if weight.shape != (b.shape[0], *a.shape[1:]) or b[0, 0].numel() != 1:
            raise ModelError(
                f"expected the LoRA of {module} to fit its weight {list(weight.shape)}, found "
                f"{list(a.shape)} and {list(b.shape)}; take the file that was trained on this base"
            )
        delta = b.float().flatten(1) @ a.float().flatten(1)
        merged[f"{module}.weight"] = (weight.float() + scale * delta.view(weight.shape)).to(weight.dtype)
    state.update(merged)
    return len(modules)


def adapt(module: Any, targets: Sequence[str] | str, rank: int, alpha: float = 0.0) -> None:
    """Puts a LoRA beside layers of `module`, in float32: A Gaussian with deviation 1 / rank, B zero.

    It counts alpha / rank times; alpha 0: once. targets: the ends of the layers' names, or one pattern for
    whole names. All else in `module` is frozen. `module` may be on the meta device.
    """
    config = extra("peft").LoraConfig(
        r=rank, lora_alpha=alpha or rank, init_lora_weights="gaussian",
        target_modules=targets if isinstance(targets, str) else list(targets),
    )  # fmt: skip
    on_meta = next(module.parameters()).is_meta
    extra("peft").inject_adapter_in_model(config, module, low_cpu_mem_usage=on_meta)
    for p in trained(module).values():
        p.data = p.data.float()  # PEFT gives it the dtype of the frozen weights


def trained(module: Any) -> dict[str, Tensor]:
    """What is trained in `module`, under the names of the authors' files."""
    return {
        name.replace(".default.weight", ".weight"): p
        for name, p in module.named_parameters()
        if p.requires_grad
    }


@torch.no_grad()
def fill(module: Any, file: Mapping[str, Tensor], what: str, share: float = 1.0) -> None:
    """Copies `file` into all that is trained in `module`.

    A LoRA in the file counts once, that of `module` `share` times.
    Raises ModelError for a file of another base or of another rank.
    """
    own = trained(module)
    missing, surplus = sorted(own.keys() - file.keys()), sorted(file.keys() - own.keys())
    if missing or surplus:
        raise ModelError(
            f"expected {what} to be a LoRA for the layers that are trained here, found "
            f"{_few('missing', missing)} and {_few('surplus', surplus)}; take the file that was trained on "
            "this base in this role"
        )
    for name, p in own.items():
        if p.shape != file[name].shape:
            raise ModelError(
                f"expected {name} of {what} to be {list(p.shape)}, found {list(file[name].shape)}; set the "
                "rank of the file, or take one that was trained on this base"
            )
        p.copy_(file[name].float() / (share if name.endswith(".lora_B.weight") else 1.0))


def wear(module: Any, file: Mapping[str, Tensor], what: str) -> None:
    """Puts the LoRA of a file beside the layers that it names, frozen. Raises ModelError as `fill`."""
    layers = sorted({name.partition(".lora_")[0] for name in file})
    if surplus := sorted(set(layers) - {name for name, _ in module.named_modules()}):
        raise ModelError(
            f"expected {what} to be a LoRA for layers of this base, found {_few('surplus', surplus)}; take "
            "the file that was trained on this base"
        )
    adapt(module, "|".join(map(re.escape, layers)), rank(file))
    fill(module, file, what)
    module.requires_grad_(False)


def rank(lora: Mapping[str, Tensor]) -> int:
    """The one rank of all adapters in `lora`. Raises ModelError if there are several or none."""
    ranks = sorted({len(tensor) for name, tensor in lora.items() if name.endswith(".lora_A.weight")})
    if len(ranks) != 1:
        raise ModelError(
            f"expected a LoRA of one rank, found {ranks or 'none'}; the file is damaged or mixed"
        )
    return ranks[0]


def _few(what: str, names: list[str]) -> str:
    return f"{len(names)} {what}" + (f": {few(names)}" if names else "")
