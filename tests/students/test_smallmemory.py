"""Small memory: int8 and int4 weights, and offload."""

import copy
import importlib
import logging
import sys
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from unistep.bases.resshift.student import FoldedSwin
from unistep.bases.resshift.swin import SwinConfig
from unistep.bases.sd3.mmdit import FoldedMMDiT, MMDiTConfig
from unistep.bases.sd21.sdunet import FoldedUNet, UNetConfig
from unistep.counting.peak import peak_bytes, without_data
from unistep.errors import ConfigError
from unistep.students import smallmemory
from unistep.students.onestep import Options
from unistep.students.smallmemory import blocks, check, offload, quantise, stored_bytes

MMDIT = MMDiTConfig(layers=3, heads=4, head=64, channels=4, tokens=5, grid=16, span=8)
UNET = UNetConfig(widths=(64, 256), heads=(2, 4), attends=(True, True), layers=1, tokens=5)
SWIN = SwinConfig(model_channels=32, channel_mult=(1, 2), num_res_blocks=(1, 1), image_size=16, lq_size=16,
                  window_size=4, swin_embed_dim=64, heads=2)  # fmt: skip
NETS = {
    "mmdit": lambda: FoldedMMDiT(MMDIT),
    "unet": lambda: FoldedUNet(UNET),
    "swin": lambda: FoldedSwin(SWIN),
}
QUANTISED = ("mmdit", "unet")
cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")


def torchao():
    try:
        quantise(nn.Linear(8, 8), "int8", least=1)
    except ConfigError:
        pytest.skip("needs torchao")


def bitsandbytes():
    try:
        import bitsandbytes  # noqa: F401
    except (ImportError, RuntimeError):
        pytest.skip("needs bitsandbytes")


@torch.no_grad()
def made(name):
    """A network of random weights that keep the scale of what goes through them."""
    generator = torch.Generator().manual_seed(0)
    net = NETS[name]().eval().requires_grad_(False)
    for t in [*net.parameters(), *(b for b in net.buffers() if b.is_floating_point())]:
        t.copy_(torch.randn(t.shape, generator=generator) * (t[0].numel() if t.dim() > 1 else 9) ** -0.5)
    for m in net.modules():
        if isinstance(m, (nn.LayerNorm, nn.GroupNorm)):
            m.weight += 1
    return net


@pytest.fixture(scope="module", params=NETS)
def net(request):
    return made(request.param)


def given(net):
    """(z, image or None)"""
    generator = torch.Generator().manual_seed(1)
    z, image = (torch.randn(1, c, 8, 8, generator=generator) for c in (SWIN.channels, 3))
    return (z, image) if isinstance(net, FoldedSwin) else (torch.cat([z, z[:, :1]], 1), None)


def parts(module, *kinds):
    return {name: m for name, m in module.named_modules() if type(m) in kinds}


def apart(a, b):
    return ((a - b).norm() / b.norm()).item()


# ---- int8


@pytest.mark.parametrize("name", QUANTISED)
def test_int8_is_small_and_near(name):
    torchao()
    full = made(name)
    small = quantise(copy.deepcopy(full), "int8")
    z = given(full)[0]
    with torch.inference_mode():
        change = apart(small(z) - z, full(z) - z)
    assert 1e-4 < change < 0.03
    large = {n for n, m in parts(full, nn.Linear).items() if min(m.weight.shape) >= 256}
    assert large
    for n, m in parts(small, nn.Linear).items():
        ratio = stored_bytes(m) / stored_bytes(full.get_submodule(n))
        assert ratio <= 0.3 if n in large else ratio == 1
    for n, m in parts(small, nn.Linear, nn.Conv2d, nn.LayerNorm, nn.GroupNorm).items():
        if n not in large:
            assert torch.equal(m.weight, full.get_submodule(n).weight), n
    assert stored_bytes(small) < 0.8 * stored_bytes(full)


def test_int8_leaves_layers_below_the_limit():
    torchao()
    net = nn.Sequential(nn.Linear(256, 255), nn.Linear(255, 256), nn.Linear(256, 256))
    quantise(net, "int8")
    assert [type(m.weight) is nn.Parameter for m in net] == [True, True, False]
    assert type(quantise(nn.Sequential(nn.Linear(64, 64)), "int8", least=64)[0].weight) is not nn.Parameter


def test_int8_error_is_half_a_step_of_its_row():
    torchao()
    linear = nn.Linear(300, 256)
    weight = linear.weight.detach().clone()
    weight[0] *= 100  # has a scale of its own
    linear.weight.data.copy_(weight)
    error = (quantise(linear, "int8").weight.dequantize() - weight).abs().amax(1)
    step = weight.abs().amax(1) / 127.5
    assert (error < 0.51 * step).all() and (error > 0.1 * step).all()


def test_int8_in_float16_does_not_overflow():
    """Sums of int8 weights are beyond 65504 where those of the weights themselves are not."""
    torchao()
    linear = nn.Linear(512, 256, bias=False)
    x = torch.full((1, 512), 30.0)
    linear.weight.data.fill_(0.1)
    out = quantise(linear.half(), "int8")(x.half())
    assert torch.isfinite(out).all() and apart(out.float(), torch.full_like(out, 1536).float()) < 0.01


@pytest.mark.parametrize("name", QUANTISED)
def test_int8_can_be_cast_and_planned_with(name):
    """What a student does with its denoiser: cast it to float32 and back, copy it without data."""
    torchao()
    net = quantise(made(name).to(torch.bfloat16), "int8").to("cpu", torch.bfloat16)
    z = given(net)[0]
    with torch.no_grad():  # inference_mode lets torchao's tensors compute, but not be cast or copied
        before = net(z)
        assert apart(net.float()(z), before) < 0.1
        assert torch.equal(net.to(torch.bfloat16)(z), before)
        copied = without_data(net)
    assert peak_bytes(copied, tuple(z.shape), dtype=torch.float32) > z.nbytes


def test_int8_leaves_settings_of_the_process_alone():
    torchao()
    import torch._inductor.config as inductor

    levels = [logging.getLogger(name).level for name in ("torchao", "torch.utils._pytree")]
    was = inductor.coordinate_descent_tuning, torch.get_float32_matmul_precision()
    quantise(nn.Linear(256, 256), "int8")
    assert was == (inductor.coordinate_descent_tuning, torch.get_float32_matmul_precision())
    assert levels == [logging.getLogger(name).level for name in ("torchao", "torch.utils._pytree")]


def test_int8_reports_no_extensions(monkeypatch, caplog):
    torchao()

    def imports(package, module):
        for name in ("torchao", "torch.utils._pytree"):
            logging.getLogger(name).warning("failed to load an extension")
        return importlib.import_module(module)

    monkeypatch.setattr(smallmemory, "extra", imports)
    quantise(nn.Linear(256, 256), "int8")
    assert not caplog.records
    logging.getLogger("torchao").warning("of others")
    assert len(caplog.records) == 1


# ---- int4


class Params4bit(nn.Parameter):
    """Stands for bitsandbytes' own: the data are quantised when they are moved."""

    def __new__(cls, data, requires_grad=False, quant_type="fp4"):
        self = torch.Tensor._make_subclass(cls, data, requires_grad)
        self.quant_type = quant_type
        return self

    def to(self, device):
        self.moved = torch.device(device)
        return self


class Linear4bit(nn.Linear):
    def __init__(self, inputs, outputs, bias=True, compute_dtype=None, quant_type="fp4", device=None):
        super().__init__(inputs, outputs, bias, device)
        self.compute_dtype = compute_dtype


def test_int4_replaces_large_linear_layers(monkeypatch):
    stub = SimpleNamespace(nn=SimpleNamespace(Linear4bit=Linear4bit, Params4bit=Params4bit))
    monkeypatch.setitem(sys.modules, "bitsandbytes", stub)
    moved = []
    monkeypatch.setattr(nn.Module, "to", lambda self, device: moved.append((self, device)) or self)
    net = nn.Sequential(nn.Linear(256, 255), nn.Conv2d(256, 256, 1), nn.Sequential(nn.Linear(256, 512)))
    net[2].append(nn.Linear(512, 256, bias=False))
    for t in net.parameters():
        t.data = t.data.half()
    old = list(net.parameters())
    assert quantise(net, "int4", "cuda:0") is net
    assert [type(m) for m in (net[0], net[1], *net[2])] == [nn.Linear, nn.Conv2d, Linear4bit, Linear4bit]
    for new, weight, bias in zip(net[2], old[4::2], (old[5], None), strict=True):
        assert torch.equal(new.weight, weight) and new.bias is bias
        assert (new.weight.quant_type, new.compute_dtype) == ("nf4", torch.float16)
        assert new.weight.moved == torch.device("cuda:0")
    assert moved == [(net, torch.device("cuda:0"))]


@cuda
def test_int4_is_small_and_near():
    bitsandbytes()
    full = made("mmdit").to("cuda", torch.bfloat16)
    small = quantise(copy.deepcopy(full), "int4", "cuda")
    z = given(full)[0].cuda()
    with torch.inference_mode():
        assert 1e-3 < apart(small(z) - z, full(z) - z) < 0.5
    assert stored_bytes(small.blocks[1].image.up) < 0.3 * stored_bytes(full.blocks[1].image.up)


# ---- what cannot be


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: quantise(made("swin"), "int8"), "none in this FoldedSwin; leave weights at full"),
        (
            lambda: quantise(made("mmdit"), "int4", "cpu"),
            "expected a CUDA device for weights int4, found cpu",
        ),
        (lambda: quantise(made("mmdit"), "int2"), "full, int8 or int4, found 'int2'"),
        (lambda: check(Options(weights="int2")), "full, int8 or int4, found 'int2'"),
        (lambda: check(Options(weights="int8", offload=True)), "offload alone or weights int8 alone"),
        (lambda: check(Options(compile=True, offload=True)), "offload alone or compile alone"),
    ],
)
def test_refusals(call, words):
    with pytest.raises(ConfigError, match=words):
        call()


def test_what_goes_together():
    for options in (Options(), Options(offload=True), Options(weights="int4", compile=True)):
        check(options)
    linear = nn.Linear(256, 256)
    weight = linear.weight
    assert quantise(linear, "full").weight is weight


@pytest.mark.parametrize(
    "how, package, named", [("int8", "torchao", "quant"), ("int4", "bitsandbytes", "quant-cuda")]
)
def test_missing_package_is_named(monkeypatch, how, package, named):
    for name in [name for name in sys.modules if name.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigError, match=rf"the package {package} .*pip install 'unistep\[{named}\]'"):
        quantise(nn.Linear(256, 256), how, "cuda" if how == "int4" else "cpu")


# ---- offload


def places(module):
    """Of its tensors: {"cpu"}, {"meta"} or both."""
    return {t.device.type for t in [*module.parameters(), *module.buffers()]}


def test_only_one_block_is_ever_away(net):
    """The device is meta: tensors there have no data, so that only what is there on purpose can be there."""
    net = offload(copy.deepcopy(net), "meta")
    own = list(blocks(net))
    inside = {id(m) for block in own for m in block.modules()}
    visits = []

    def look(block, _inputs):
        visits.append((block, [b for b in own if places(b) - {"cpu"}]))
        assert places(block) <= {"meta"}

    for block in own:
        block.register_forward_pre_hook(look)
    z, image = given(net)
    out = net(z.to("meta"), None if image is None else image.to("meta"))
    assert out.is_meta and out.shape == z.shape
    full = [block for block in own if places(block)]
    assert {id(b) for b, _ in visits} >= {id(b) for b in full}
    assert all(away == ([b] if places(b) else []) for b, away in visits)
    assert all(places(block) == {"cpu"} for block in full)
    outside = [t for m in net.modules() if id(m) not in inside for t in m.parameters(recurse=False)]
    assert all(t.is_meta for t in outside)


def test_offload_changes_no_result_and_no_tensor(net):
    moved = offload(copy.deepcopy(net), "cpu")
    before, wanted = moved.state_dict(), net.state_dict()
    with torch.inference_mode():
        assert torch.equal(moved(*given(net)), net(*given(net)))
    after = moved.state_dict()
    assert list(after) == list(before) == list(wanted)
    assert all(torch.equal(after[name], t) for name, t in wanted.items())
    assert all(after[name].data_ptr() == t.data_ptr() for name, t in before.items())


def test_what_visits_is_what_computes(net, monkeypatch):
    """Each visitor is doubled on its way: results differ, the weights at home do not."""
    moved = offload(copy.deepcopy(net), "cpu")
    with torch.inference_mode():
        wanted = net(*given(net))
        with monkeypatch.context() as patch:
            plain = torch.Tensor.to
            patch.setattr(
                torch.Tensor,
                "to",
                lambda t, *a, **k: plain(t * 2 if t.is_floating_point() and k else t, *a, **k),
            )
            assert not torch.allclose(moved(*given(net)), wanted)
        assert torch.equal(moved(*given(net)), wanted)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_blocks_are_back_after_an_exception(error):
    net = offload(made("mmdit"), "meta")
    block = net.blocks[1]

    def fail(*_):
        raise error

    hook = block.image.down.register_forward_pre_hook(fail)
    z = given(net)[0].to("meta")
    with pytest.raises(error):
        net(z)
    hook.remove()
    if error is KeyboardInterrupt:  # which skips hooks: back after the next forward
        net(z)
    assert all(places(b) == {"cpu"} for b in net.blocks)
    assert all(
        torch.equal(p, q)
        for p, q in zip(block.parameters(), made("mmdit").blocks[1].parameters(), strict=True)
    )


def test_an_offloaded_net_can_be_cast(net):
    """As a student does when values are not finite: to float32 and back."""
    moved, wanted = (x(copy.deepcopy(net).bfloat16()) for x in (lambda m: offload(m, "cpu"), lambda m: m))
    with torch.inference_mode():
        for dtype in (torch.float32, torch.bfloat16):
            assert torch.equal(moved.to(dtype)(*given(net)), wanted.to(dtype)(*given(net)))


def test_a_copy_without_data_can_be_called(net):
    moved = without_data(offload(copy.deepcopy(net), "cpu"))
    shapes = [tuple(t.shape) for t in given(net) if t is not None]
    assert peak_bytes(moved, *shapes, dtype=torch.float32) >= max(map(stored_bytes, blocks(net)))
    assert places(moved) == {"meta"}


class Scale(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1000), requires_grad=False)

    def forward(self, x):
        return x * self.weight


class Row(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(Scale() for _ in range(5))

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return x


def test_a_plan_counts_one_visit():
    """Beside the input, what goes into a block and what comes out of it."""
    plain, moved = (peak_bytes(without_data(m), (1000,), dtype=torch.float32)
                    for m in (Row(), offload(Row(), "cpu")))  # fmt: skip
    assert (plain, moved) == (3 * 4000, 4 * 4000)


@pytest.mark.parametrize(
    "make, most",
    [
        (lambda: FoldedMMDiT(MMDiTConfig()), 0.05),
        (FoldedUNet, 0.06),
        (lambda: FoldedSwin(SwinConfig()), 0.16),
    ],
    ids=NETS,
)
def test_blocks_of_the_real_sizes_are_small(make, most):
    """As a share of the network, and hardly anything is in none."""
    with torch.device("meta"):
        net = make()
    sizes, whole = [stored_bytes(block) for block in blocks(net)], stored_bytes(net)
    assert max(sizes) <= most * whole
    assert sum(sizes) >= 0.99 * whole


@cuda
def test_offload_to_cuda(net):
    moved = offload(copy.deepcopy(net), "cuda")
    assert all(t.is_pinned() for block in blocks(moved) for t in block.parameters())
    z, image = (None if t is None else t.cuda() for t in given(net))
    with torch.inference_mode():
        assert apart(moved(z, image).cpu(), net(*given(net))) < 1e-3
    assert all(places(block) <= {"cpu"} for block in blocks(moved))
