"""Several processes that train together, and what one of them sees of a step.

accelerate starts the processes, torch's DDP averages their gradients, its FSDP2 splits networks. Here is what
they leave open: random numbers that are those of the whole batch, and an end in one sentence.
"""

import contextlib
import copy
import hashlib
import inspect
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import timedelta
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.overrides import TorchFunctionMode

from ..diffusion.denoiser import Method
from ..errors import ConfigError, TrainingError

try:
    from accelerate import Accelerator
    from accelerate.utils import InitProcessGroupKwargs
except ImportError as error:
    raise ConfigError("training needs more packages: pip install 'unistep[train]'") from error

TIMEOUT = timedelta(minutes=30)
"""How long a process waits for the others; more than the first one's validation takes."""
Asked = Callable[[], int]
"""The signal that asked the run to stop, 0 for none."""


def start() -> Accelerator:
    """This process's place among those of the run: alone, unless a launcher started several.

    Precision is the run's own setting, whatever the launcher's configuration says.
    """
    return Accelerator(
        mixed_precision="no",
        cpu=not torch.accelerator.is_available(),  # else each takes itself for the only one
        kwargs_handlers=[InitProcessGroupKwargs(timeout=TIMEOUT)],
    )


def first() -> bool:
    """Whether this is the process that speaks and writes; known before `start`."""
    return os.environ.get("RANK", "0") == "0"


def leave() -> None:
    """Takes leave of the other processes, at the end of a run."""
    if dist.is_initialized():
        dist.destroy_process_group()


class Draws(TorchFunctionMode):
    """Random numbers of one part of a batch: those that it has when the batch is drawn in one go.

    Sample j of the batch belongs to part j mod `parts`. Tensors with a first dimension are drawn for the
    whole batch and cut; numbers without one are the same for all parts.
    """

    def __init__(self, part: int, parts: int):
        super().__init__()
        self.part, self.parts = part, parts

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in (torch.randn_like, torch.rand_like):  # a like of the whole batch: its layout counts too
            return func(torch.cat([args[0]] * self.parts), *args[1:], **kwargs)[self.part :: self.parts]
        if func not in (torch.randn, torch.rand, torch.randint):
            return func(*args, **kwargs)
        if "size" in kwargs:
            size = kwargs.pop("size")
        elif func is torch.randint or not isinstance(args[0], int):
            *args, size = args
        else:
            args, size = (), args
        if not len(size):
            return func(*args, size=(), **kwargs)
        whole = (size[0] * self.parts, *size[1:])
        return func(*args, size=whole, **kwargs)[self.part :: self.parts]


class Call(nn.Module):
    """A call of a method that runs a player's network, as a module: what DDP wraps."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def forward(self, function: Callable[..., Any], *args: Any) -> Any:
        return function(*args)


class Alone(Call):
    """The same where DDP has nothing to do: one process, or a network that FSDP splits."""

    @contextlib.contextmanager
    def no_sync(self) -> Iterator[None]:
        """Gradients stay in this process, to be added up."""
        sync = getattr(self.net, "set_requires_gradient_sync", lambda _: None)
        try:
            sync(False)
            yield
        finally:
            sync(True)


def together(net: nn.Module, accelerator: Accelerator) -> Alone | DistributedDataParallel:
    """`net` such that backward averages its gradients over the processes; called with a function of it.

    The networks beside it, frozen tensors that it shares with them included, stay as they are.
    """
    if accelerator.num_processes == 1 or hasattr(net, "set_requires_gradient_sync"):
        return Alone(net)
    known = inspect.signature(DistributedDataParallel).parameters
    name = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"  # until 2.12
    options: dict[str, Any] = {name: False}
    return DistributedDataParallel(Call(net), **options)


def shard(method: Method, accelerator: Accelerator) -> nn.Module | None:
    """Splits the players' weights over the processes (FSDP2); the first gets a whole copy of the student.

    Raises ConfigError for a network that trains adapters: the frozen base would be split too, and no role
    could share it.
    """
    nets = [net for net in (method.student, method.critic) if net is not None]
    if not all(p.requires_grad for net in nets for p in net.parameters()):
        raise ConfigError(
            "expected train.sharding to be none where adapters are trained on a frozen base, which all roles "
            "share, found “full”: set train.sharding=none"
        )
    if accelerator.num_processes == 1:
        return None
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    stand_in = copy.deepcopy(method.student) if accelerator.is_main_process else None
    mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
    for net in nets:
        for p in net.parameters():
            p.data = p.data.contiguous()  # FSDP takes no other layout
        # The root as well: after a forward without a backward it would miss the next step.
        for module in (*blocks(net), net):
            fully_shard(module, mesh=mesh, reshard_after_forward=True)
    return stand_in


def blocks(net: nn.Module) -> Iterator[nn.Module]:
    """The elements of the outermost lists of modules, as far as they have weights."""
    for child in net.children():
        if isinstance(net, nn.ModuleList) and not isinstance(child, nn.ModuleList):
            if any(True for _ in child.parameters()):
                yield child
        else:
            yield from blocks(child)


def mean(values: Mapping[str, Tensor], accelerator: Accelerator) -> dict[str, float]:
    """Scalars, as means over the processes."""
    if not values:
        return {}
    numbers = torch.stack([value.detach().float() for value in values.values()])
    return dict(zip(values, accelerator.reduce(numbers, "mean").tolist(), strict=True))


def as_first(tensors: Iterable[Tensor], accelerator: Accelerator) -> None:
    """Gives every process the first one's values."""
    if accelerator.num_processes > 1:
        for t in tensors:
            dist.broadcast(t, 0)


def agree(what: str, accelerator: Accelerator) -> None:
    """Raises TrainingError unless all processes say the same."""
    digest = int.from_bytes(hashlib.sha256(what.encode()).digest()[:7], "big")
    found = accelerator.gather(torch.tensor([digest], device=accelerator.device))
    if len(found.unique()) > 1:
        raise TrainingError(
            "expected all processes to go on from the same step with the same files, found others: give all "
            f"machines the same --out and the same files (this process: {what})"
        )


@contextlib.contextmanager
def ended_cleanly(accelerator: Accelerator) -> Iterator[None]:
    """Makes one sentence of what the libraries say when another process is gone."""
    try:
        yield
    except RuntimeError as error:
        lost = isinstance(error, dist.DistError) or any(name in str(error) for name in ("gloo", "NCCL"))
        if accelerator.num_processes == 1 or not lost:
            raise
        raise TrainingError(
            "expected all processes of the run to go on, found one gone, whose own message says why: the "
            "last checkpoint is whole, and the same command goes on from it"
        ) from error


@contextlib.contextmanager
def asked_to_stop(accelerator: Accelerator) -> Iterator[Asked]:
    """Gives a function that says whether SIGTERM or Ctrl-C has come to any process.

    Every process must ask at the same place. A second Ctrl-C interrupts. Outside the main thread signals do
    what they always do.
    """
    seen = 0

    def remember(number: int, frame: FrameType | None) -> None:
        nonlocal seen
        if seen == number == signal.SIGINT:
            raise KeyboardInterrupt
        seen = number

    def asked() -> int:
        return int(accelerator.reduce(torch.tensor(seen, device=accelerator.device), "max"))

    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before = {number: signal.signal(number, remember) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
