"""Adapters are merged as PEFT merges them, and refused where they do not fit."""

import pytest
import torch
from torch import nn

from unistep.bases import lora
from unistep.errors import ModelError


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear, self.conv, self.patch = nn.Linear(6, 5), nn.Conv2d(3, 4, 3), nn.Conv2d(2, 8, 2, 2)

    def forward(self, x, picture, latent):
        return self.linear(x), self.conv(picture), self.patch(latent)


@pytest.fixture
def adapter():
    torch.manual_seed(0)
    return {
        "linear.lora_A.weight": torch.randn(3, 6), "linear.lora_B.weight": torch.randn(5, 3),
        "conv.lora_A.weight": torch.randn(3, 3, 3, 3), "conv.lora_B.weight": torch.randn(4, 3, 1, 1),
        "patch.lora_A.weight": torch.randn(3, 2, 2, 2), "patch.lora_B.weight": torch.randn(8, 3, 1, 1),
    }  # fmt: skip


@pytest.mark.parametrize("scale", [1.0, 8 / 3])
def test_merged_is_adapted(adapter, scale):
    """Against the two small layers beside the large one, as they are defined."""
    torch.manual_seed(1)
    net = Small()
    given = torch.randn(2, 6), torch.randn(2, 3, 5, 7), torch.randn(2, 2, 4, 6)
    plain = net(*given)
    a, b = (adapter[f"linear.lora_{part}.weight"] for part in "AB")
    expected = [plain[0] + scale * given[0] @ a.T @ b.T]
    for name, x, y, stride in (("conv", given[1], plain[1], 1), ("patch", given[2], plain[2], 2)):
        a, b = (adapter[f"{name}.lora_{part}.weight"] for part in "AB")
        expected.append(y + scale * nn.functional.conv2d(nn.functional.conv2d(x, a, stride=stride), b))
    state = net.state_dict()
    before = {name: tensor.clone() for name, tensor in state.items()}
    assert lora.merge(state, adapter, scale) == 3
    for name, tensor in net.state_dict().items():
        assert torch.equal(tensor, before[name])  # the network itself is as it was
    net.load_state_dict(state)
    for got, wanted in zip(net(*given), expected, strict=True):
        torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-5)


def test_merged_as_peft_merges(adapter):
    peft = pytest.importorskip("peft")
    torch.manual_seed(1)
    net = Small()
    state = net.state_dict()
    lora.merge(state, adapter, 2.0)
    config = peft.LoraConfig(r=3, lora_alpha=6, target_modules=["linear", "conv", "patch"])
    wrapped = peft.get_peft_model(net, config)
    own = {f"base_model.model.{name}".replace(".weight", ".default.weight"): t for name, t in adapter.items()}
    assert not wrapped.load_state_dict(own, strict=False).unexpected_keys
    assert lora.strip(own, adapter="default").keys() == adapter.keys()
    for name, tensor in wrapped.merge_and_unload().state_dict().items():
        torch.testing.assert_close(state[name], tensor)


def test_small_changes_survive_half_precision(adapter):
    """The product is made in float32; only the sum is rounded, to the dtype of the weight."""
    state = {f"{name}.weight": torch.zeros(shape, dtype=torch.float16) for name, shape in
             {"linear": (5, 6), "conv": (4, 3, 3, 3), "patch": (8, 2, 2, 2)}.items()}  # fmt: skip
    lora.merge(state, {name: tensor.half() for name, tensor in adapter.items()}, 1e-4)
    a, b = (adapter[f"linear.lora_{part}.weight"].half().float() for part in "AB")
    assert state["linear.weight"].dtype == torch.float16
    assert torch.equal(state["linear.weight"], (1e-4 * (b @ a)).half())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_merged_weight_is_rounded_once(adapter, dtype):
    """Weight and change are added up in float32; what the stored dtype makes of each is not the sum."""
    torch.manual_seed(2)
    shapes = {"linear": (5, 6), "conv": (4, 3, 3, 3), "patch": (8, 2, 2, 2)}
    before = {f"{name}.weight": torch.randn(shape).to(dtype) for name, shape in shapes.items()}
    state = dict(before)
    lora.merge(state, adapter, 0.3)
    for name in shapes:
        weight, (a, b) = before[f"{name}.weight"], (adapter[f"{name}.lora_{part}.weight"] for part in "AB")
        change = 0.3 * (b.flatten(1) @ a.flatten(1)).view(weight.shape)
        exact = (weight.float() + change).to(dtype)
        assert torch.equal(state[f"{name}.weight"], exact)
        assert not torch.equal(weight + change.to(dtype), exact)


def test_what_is_trained_starts_from_a_file_in_float32(adapter):
    """A file of half precision is divided by how often the LoRA counts after it is made float32."""
    pytest.importorskip("peft")
    net = Small()
    lora.adapt(net, ["linear", "conv", "patch"], 3, 9.0)
    file = {name: p.half() for name, p in adapter.items()}
    lora.fill(net, file, "the file", 3.0)
    for name, p in lora.trained(net).items():
        assert p.dtype == torch.float32
        assert torch.equal(p, file[name].float() / (3.0 if "lora_B" in name else 1.0)), name


def test_names_of_the_authors():
    x = torch.zeros(1)
    assert [*lora.strip({"transformer.encoder.conv_in.lora_A.weight": x}, "transformer.")] == [
        "encoder.conv_in.lora_A.weight"
    ]
    both = {"base_model.model.conv_in.lora_A.default_encoder.weight": x, "conv_in.lora_B.other.weight": x}
    assert [*lora.strip(both, adapter="default_encoder")] == [
        "conv_in.lora_A.weight", "conv_in.lora_B.other.weight"
    ]  # fmt: skip
    # a block called like the prefix stays
    assert [*lora.strip({"transformer.transformer_blocks.0.x": x}, "transformer.")] == [
        "transformer_blocks.0.x"
    ]


def broken(adapter, change):
    adapter = dict(adapter)
    change(adapter)
    return adapter


BROKEN = {
    "missing: linear.lora_B.weight": lambda a: a.pop("linear.lora_B.weight"),
    "0 missing and 1 surplus": lambda a: a.update({"linear.alpha": torch.ones(())}),
    r"1 surplus.*other\.weight": lambda a: a.update(
        {"other.lora_A.weight": torch.ones(3, 6), "other.lora_B.weight": torch.ones(5, 3)}
    ),
    r"one rank, found \[3, 6\] and \[5, 2\]": lambda a: a.update({"linear.lora_B.weight": torch.ones(5, 2)}),
    r"fit its weight \[5, 6\], found \[3, 7\]": lambda a: a.update(
        {"linear.lora_A.weight": torch.ones(3, 7)}
    ),
    r"fit its weight \[4, 3, 3, 3\]": lambda a: a.update({"conv.lora_B.weight": torch.ones(4, 3, 2, 1)}),
    r"fit its weight": lambda a: a.update(
        {"linear.lora_A.weight": torch.ones(3, 6, 1, 1), "linear.lora_B.weight": torch.ones(5, 3, 1, 1)}
    ),
    r"0 missing and 0 surplus": lambda a: a.clear(),
}


@pytest.mark.parametrize("message", BROKEN)
def test_a_lora_that_does_not_fit_changes_nothing(adapter, message):
    state = Small().state_dict()
    before = dict(state)
    with pytest.raises(ModelError, match=message):
        lora.merge(state, broken(adapter, BROKEN[message]))
    assert all(state[name] is tensor for name, tensor in before.items())


def test_one_rank(adapter):
    assert lora.rank(adapter) == 3
    for other, found in ({"x.lora_A.weight": torch.ones(4, 6)}, r"\[3, 4\]"), ({}, "none"):
        with pytest.raises(ModelError, match=f"one rank, found {found}"):
            lora.rank({**adapter, **other} if other else {})
