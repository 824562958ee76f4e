"""Low-rank adapters, merged into the weights they adapt: W + scale B A (LoRA, arXiv 2106.09685, Eq. 3).

Names are PEFT's, without the adapter's: "<module>.lora_A.weight", "<module>.lora_B.weight".
"""

from collections.abc import Mapping, MutableMapping

from torch import Tensor

from ..errors import ModelError


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


def rank(lora: Mapping[str, Tensor]) -> int:
    """The one rank of all adapters in `lora`. Raises ModelError if there are several or none."""
    ranks = sorted({len(tensor) for name, tensor in lora.items() if name.endswith(".lora_A.weight")})
    if len(ranks) != 1:
        raise ModelError(
            f"expected a LoRA of one rank, found {ranks or 'none'}; the file is damaged or mixed"
        )
    return ranks[0]


def _few(what: str, names: list[str], most: int = 5) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{len(names)} {what}" + (f": {', '.join(names[:most])}{more}" if names else "")
