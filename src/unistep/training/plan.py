"""How much memory and work a training run needs, counted before it starts: without a GPU, without weights.

The run's method is built at the published sizes on torch's meta device, whose tensors have shapes but no
data, and one step is made there. What is assumed, since it cannot be counted:

- attention never writes its matrix of scores out (torch's memory-efficient kernel);
- autocast rounds what torch's own rounds on a GPU, and keeps norms and softmax in float32;
- a tenth of what is counted, and 0.8 GB, go to fragments, workspaces and the GPU's context (an estimate).
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..bases import face_of
from ..bases.face import Source, Sources
from ..counting.meter import Meter, OnGPU, one_pass
from ..counting.peak import without_data
from ..diffusion.denoiser import Base, Batch, Denoiser, Distance, Method
from ..errors import ModelError, TrainingError
from ..losses.featurenets import FeatureNet
from ..losses.perceptual import Dists, FeatureNetwork, ImageFeatures, Lpips, TeacherFeatures
from ..pixels.tiling import free_memory
from ..recipes.config import Run, method_of, override
from ..recipes.recipes import recipe
from .needs import GB, Need, Plan, Row, highest, total, with_allowances
from .opening import open_restorer, source
from .steps import precision as chosen

META = torch.device("meta")
NAMES = {"net": "denoiser, frozen", "codec": "autoencoder, frozen"}
"""A base's attribute -> what it is called."""
UNKNOWN = "The restorer is not counted: train.restorer names none that is here."
PRECISIONS = {"bf16": torch.bfloat16, "fp16": torch.float16}


def plan(run: Run, device: torch.device | str = "cuda", both: bool = True) -> Plan:
    """Counts what `run` needs on a device of that kind.

    both: with and without checkpointing, where the base has it, not only as the run says. Raises ConfigError
    for a method that this base cannot carry and for a restorer that it cannot learn from, ModelError.
    """
    device = torch.device(device)
    wide, init, teacher = precision(run, device), here(run), restorer_here(run)
    own = getattr(run.base, "checkpointing", None)
    needs: dict[bool, tuple[Need, ...]] = {}
    rows: tuple[Row, ...] = ()
    flops: dict[str, int] = {}
    for checkpointing in [own] if own is None or not both else [False, True]:
        asked = run if own is None else _with(run, checkpointing=checkpointing)
        step = Step(asked, init, PRECISIONS.get(wide), teacher, device)
        walk = step.walk(1)
        needs[bool(checkpointing)] = tuple(walk.needs)
        if checkpointing == own:
            rows, flops = step.rows, walk.flops
    notes = (UNKNOWN,) if method_of(run).restores and teacher is None else ()
    return Plan(run, wide, run.train.micro or run.train.batch, rows, needs, flops, notes)


def precision(run: Run, device: torch.device) -> str:
    """fp32, bf16 or fp16; what the run leaves open is what such a device is expected to have."""
    if run.train.precision != "auto":
        return run.train.precision
    if device.type == "cpu":
        return "fp32"
    own = chosen("auto") if torch.cuda.is_available() else "bf16"
    return "fp32" if own == "no" else own


def _with(run: Run, **changes: Any) -> Run:
    return dataclasses.replace(run, base=dataclasses.replace(run.base, **changes))


@dataclass
class Walk:
    """What a step was seen to do."""

    needs: list[Need] = field(default_factory=list)
    flops: dict[str, int] = field(default_factory=dict)

    def peak(self) -> int:
        return highest(self.needs, 1)


class Step:
    """A run's method and base on tensors without data: what they hold, and what a step does."""

    def __init__(
        self, run: Run, init: Source | None, dtype: torch.dtype | None, restorer: Source | None = None,
        device: torch.device | None = None,
    ):  # fmt: skip
        """init: what train.init names, if it is here: of that size; None: of the published one.

        restorer: what train.restorer names; None: its pass is not counted. device: where the run is; None: a
        GPU. On a CPU the restorer runs where data are made: in every data worker, beside the steps.
        """
        self.run, self.meter, self.gpu = run, Meter(), OnGPU(dtype)
        self.held: dict[str, nn.Module] = {}
        self.base = face_of(run.base).shapes(run.base, init)
        self.method = method_of(run).build(run.method, self.base, self.perceptual)
        for net in networks(self.method).values():
            net.to(META)
        if restorer is not None:
            self.held["restorer"] = without_data(open_restorer(restorer, self.base.scale))
            self.meter.watch(self.held["restorer"], "restorer")
        self.early = device is not None and device.type == "cpu" and run.data.degrade_on != "device"
        self.workers = run.data.workers if self.early else 0
        self.rows = static(self.base, self.method, self.held)
        for name, module in parts(self.base, self.method).items():
            self.meter.watch(module, name)
            if isinstance(module, Denoiser):
                self.meter.remember(module)
        for net in networks(self.method).values():
            for p in net.parameters():
                p.grad = torch.empty_like(p) if p.requires_grad else None  # they have a row of their own

    def walk(self, micro: int) -> Walk:
        """A step of `micro` samples in the order of the training loop."""
        self.seen = Walk()
        self.meter.flops.clear()
        with self.gpu, self.meter:
            self.step(micro)
        self.seen.flops = dict(self.meter.flops)
        self.beside(micro)
        return self.seen

    def perceptual(self, form: str) -> Distance:
        """The run's perceptual distance, without its weights."""
        name = self.run.train.features
        source: FeatureNetwork
        if name == "teacher":
            taps = self.base.features("teacher", "ddpm")
            source = TeacherFeatures(taps, self.base.encode, self.base.cond)
        else:
            with META:
                source = ImageFeatures(FeatureNet(name, l2=form == "dists" and name == "vgg16"))
        made = (Lpips(source) if form == "lpips" else Dists(source)).to(META)
        self.held[f"{form} ({name})"] = made

        def distance(x: Tensor, target: Tensor) -> Tensor:
            dtype, self.gpu.dtype = self.gpu.dtype, None  # as `Form` has it
            with self.meter.within("perceptual loss"):
                out = made.distance(x.float(), target.float()).mean()
            self.gpu.dtype = dtype
            return out

        return distance

    def step(self, micro: int) -> None:
        base, method, side = self.base, self.method, self.run.data.patch
        with self.phase("making the batch"), torch.no_grad():
            x_hq = torch.empty(micro, 3, side, side, device=META)
            x_lq = torch.empty(micro, 3, side // base.scale, side // base.scale, device=META)
            z_hq, cond = base.encode(x_hq), base.cond(x_lq)
            restored = self.restored(x_lq, x_hq) if method.restores else None
            batch = Batch(x_lq, x_hq, z_hq, cond, base.null(cond), restored=restored)
        before = self.meter.now
        with self.phase("the student's step"):
            z_hat = method.generate(batch)
            if method.critic_first:
                self.critic(batch, z_hat.detach())
            terms = method.generator_loss(batch, z_hat)
            self.backward("the student's step", sum(terms.values()), method.student, before)
            z_hat = z_hat.detach()
            del terms
        if not method.critic_first:
            self.critic(batch, z_hat)

    def restored(self, x_lq: Tensor, x_hq: Tensor) -> Tensor:
        """What the restorer makes; a picture of that size where it does so elsewhere."""
        net = self.held.get("restorer")
        if net is None or self.workers:
            return torch.empty_like(x_hq)
        x: Tensor = net(x_lq)
        return x.float()

    def beside(self, micro: int) -> None:
        """The restorer's part of a step where data are made: its results are kept for all uses of a pair."""
        net, side = self.held.get("restorer"), self.run.data.patch // self.base.scale
        if net is None or not self.early:
            return
        if self.workers:
            taken, self.seen.flops["restorer"] = one_pass(net, (micro, 3, side, side))
            name = f"restorer, in {self.workers} data workers"
            self.seen.needs.append(Need(name, 0, self.workers * taken, 0, beside=True))
        self.seen.flops["restorer"] //= self.run.data.uses

    def critic(self, batch: Batch, z_fake: Tensor) -> None:
        if self.method.critic is None:
            return
        before = self.meter.now
        with self.phase("the critic's step"):
            terms = self.method.critic_loss(batch, z_fake)
            self.backward("the critic's step", sum(terms.values()), self.method.critic, before)

    def backward(self, phase: str, loss: Any, net: nn.Module, before: int) -> None:
        self.kept = self.meter.now - before
        self.meter.backward = f"backward, {phase}"
        trained = tuple(p for p in net.parameters() if p.requires_grad)
        # What loss.backward calls: that itself would leave `gpu` off where blocks are computed again.
        torch.autograd.Variable._execution_engine.run_backward(
            (loss,), (torch.ones_like(loss),), False, False, trained, True, accumulate_grad=True
        )
        self.meter.backward = ""

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        outer, self.meter.peak = self.meter.peak, self.meter.now
        start, self.kept = self.meter.now, 0
        yield
        rounded = sum(t.nbytes for t in self.gpu.rounded.values())
        self.gpu.rounded.clear()
        kept = self.kept or self.meter.now - start
        self.seen.needs.append(Need(name, rounded, self.meter.peak - rounded, kept - rounded))
        self.meter.peak = max(outer, self.meter.peak)


def here(run: Run) -> Source | None:
    """What train.init names, if it is here."""
    with contextlib.suppress(ModelError):
        return source(run.train.init, face_of(run.base).components) if run.train.init else None
    return None


def restorer_here(run: Run) -> Source | None:
    """What train.restorer names, if it is here."""
    with contextlib.suppress(ModelError):
        return source(run.train.restorer, ()) if run.train.restorer else None
    return None


def networks(method: Method) -> dict[str, nn.Module]:
    """What the method's networks are called -> the networks."""
    found = {name: net for name, net in vars(method).items() if isinstance(net, nn.Module)}
    critic = "score network" if isinstance(method.critic, Denoiser) else "discriminator"
    return {critic if name == "critic" else name: net for name, net in found.items()}


def parts(base: Base, method: Method) -> dict[str, nn.Module]:
    """What work is booked under -> the module that does it."""
    codec: Any = getattr(base, "codec", None)
    halves = getattr(codec, "vae", None) or getattr(codec, "vq", None)
    found = networks(method)
    return found | {} if halves is None else {**found, "encoder": halves.encoder, "decoder": halves.decoder}


def static(base: Base, method: Method, held: Mapping[str, nn.Module]) -> tuple[Row, ...]:
    """What the modules and the optimisers hold; a tensor that several share counts once."""
    own = {NAMES.get(name, name): net for name, net in vars(base).items() if isinstance(net, nn.Module)}
    rows: list[Row] = []
    seen: set[int] = set()
    for part, module in {**own, **networks(method), **held}.items():
        tensors = {id(t): t for t in (*module.parameters(), *module.buffers()) if id(t) not in seen}
        seen |= tensors.keys()
        learns = module is method.student or module is method.critic
        trained = sum(t.nbytes for t in tensors.values() if learns and t.requires_grad)
        frozen = sum(t.nbytes for t in tensors.values()) - trained
        average = trained if module is method.student else 0
        rows.append(Row(part, frozen, trained, trained, 2 * trained, average))
    return tuple(row for row in rows if row.total)


def check(run: Run, sources: Sources, device: torch.device, micro: int = 0) -> str:
    """What there is to say before the first step if `run` may not fit into what is free on `device`, else "".

    micro: samples of one forward pass; 0: as the run says, for one process.
    Raises TrainingError for a GPU that is too small; a computer's memory is only warned of.
    """
    micro = micro or run.train.micro or run.train.batch
    dtype = PRECISIONS.get(precision(run, device))
    step = Step(run, sources.get("train.init"), dtype, sources.get("train.restorer"), device)
    needed = with_allowances(total(step.rows).total + step.walk(micro).peak())
    free = free_memory(device)
    if needed <= free:
        return ""
    said = (
        f"expected {needed / GB:.1f} GB of free memory on {device} for {run.name} with {micro} samples at "
        f"once, found {free / GB:.1f}: set train.micro to a smaller divisor of train.batch"
        + ("" if getattr(run.base, "checkpointing", True) else " or base.checkpointing=true")
        + f" (unistep train {run.name} --plan shows what fits)"
    )
    if device.type == "cuda":
        raise TrainingError(said)
    return said


def main(name: str, settings: list[str], report: Callable[[str], None] = print) -> None:
    """`unistep train NAME --plan`. Raises ConfigError for an unknown recipe or setting."""
    report(str(plan(override(recipe(name), settings))))
