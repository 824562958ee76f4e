"""A training run as one value: all that determines it, in a form that travels in the weights' header."""

import dataclasses
import difflib
import json
import math
import types
import typing
from dataclasses import dataclass, field
from typing import Any

from ..bases import BASES
from ..bases.compact.network import CompactConfig
from ..data.pairs import DataConfig
from ..diffusion.denoiser import Method
from ..errors import ConfigError, check_choices, check_range
from ..losses import featurenets
from ..methods import METHODS, TeacherConfig

CHOICES = {
    "precision": ("auto", "fp32", "bf16", "fp16"),
    "sharding": ("none", "full"),
    "keep": ("best", "last"),
    "features": ("teacher", *featurenets.NETWORKS),
}

LATER = (("train", "restorer", ""), ("data", "uses", 1), ("data", "draws", 1), ("base", "folded", False))
"""Settings that came after others, and what earlier runs did: those keep the tables that they had."""

BaseConfig = Any
"""The `Config` of a base in BASES."""
MethodConfig = Any
"""The Config of a method in METHODS."""


@dataclass(frozen=True)
class TrainConfig:
    """The loop's own settings."""

    steps: int = 20_000
    batch: int = 16
    """Samples of one step, over all processes and forward passes."""
    micro: int = 0
    """Samples of one forward pass of a process, whose gradients are added up; 0: its whole share at once."""
    lr: float = 1e-3
    lr_critic: float = 1e-4
    lr_min: float = 0.02
    """Where the cosine ends, as a share of lr."""
    schedule_critic: bool = True
    """Whether lr_critic has the same warm-up and cosine; False: it is lr_critic from the first step on."""
    warmup: int = 200
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.0
    clip: float = 1.0
    """Largest norm of the gradient; 0: as large as it is."""
    ema: float = 0.999
    precision: str = "auto"
    """auto, fp32, bf16 or fp16; auto is bf16 where the hardware has it, else fp32."""
    sharding: str = "none"
    """Several processes: "none", each holds all weights; "full", they split them, where the whole network is
    trained."""
    seed: int = 0
    save_every: int = 500
    validate_every: int = 1000
    early: tuple[int, ...] = (0, 1, 10, 100)
    """Steps after which a sheet of samples is kept, without scores."""
    keep: str = "best"
    """Which averaged weights are written: those with the "best" held-out score, or the "last"."""
    init: str = ""
    """Weights to start from (not resume), and the frozen teacher: a model's name or a Unistep file."""
    plain: str = ""
    """The model of the plain reconstruction, to which --fidelity leads (empty: train.init; "self": this run
    makes one, and its header names no other)."""
    restorer: str = ""
    """The one-step model whose results are targets, where the method takes such: a model's name or a file."""
    critic_init: str = ""
    """Weights that DFOSD's critic starts from instead of train.init: perhaps a larger network (Tab. 6)."""
    features: str = "teacher"
    """Whose features a perceptual loss compares: the teacher's own, or squeezenet, alexnet, vgg16."""
    features_file: str = ""
    """That network's weights in torchvision's layout (empty: the torch hub cache)."""
    features_heads: str = ""
    """The published weights of LPIPS or DISTS for it (empty: all channels count the same)."""

    def __post_init__(self) -> None:
        check_range("train", self, "steps batch save_every validate_every", 1)
        check_range("train", self, "micro lr_min warmup weight_decay clip", 0)
        check_range("train", self, "seed", 0, 2**32 - 1)
        for name in ("lr", "lr_critic"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"expected train.{name} to be more than 0, found {getattr(self, name)}")
        for name, value in (("ema", self.ema), ("betas", self.betas[0]), ("betas", self.betas[1])):
            if not 0 <= value < 1:
                raise ConfigError(f"expected train.{name} to be from 0 to less than 1, found {value}")
        check_choices("train", self, CHOICES)
        if self.sharding == "full" and self.precision == "fp16":
            raise ConfigError(
                "expected train.precision to be fp32 or bf16 with train.sharding full, found “fp16”: set bf16"
            )


@dataclass(frozen=True)
class Run:
    """A recipe with its overrides, resolved."""

    name: str
    base: BaseConfig = field(default_factory=CompactConfig)
    method: MethodConfig = field(default_factory=TeacherConfig)
    data: DataConfig = field(default_factory=DataConfig)
    train: TrainConfig = field(default_factory=TrainConfig)

    def to_dict(self) -> dict[str, Any]:
        """Plain values; `base` and `method` say which they are under "kind"."""
        table = dataclasses.asdict(self)
        table["base"]["kind"] = kind(self.base)
        table["method"]["kind"] = kind(self.method)
        for section, name, default in LATER:
            if table[section].get(name) == default:
                del table[section][name]
        return table

    @classmethod
    def from_dict(cls, table: dict[str, Any]) -> "Run":
        """The run of a weights file's header. Raises ConfigError or ValueError for another table."""
        expected = {field.name for field in dataclasses.fields(cls)}
        if not isinstance(table, dict) or set(table) != expected:
            raise ValueError(f"expected a run with {', '.join(sorted(expected))}")
        sections: dict[str, Any] = {}
        for name, known, default in (("base", bases(), "compact"), ("method", methods(), "teacher")):
            if not isinstance(table[name], dict):
                raise ValueError(f"expected {name} to be a table")
            section = dict(table[name])
            which = section.pop("kind", default)  # the first embedded weights did not say
            if which not in known:
                raise ConfigError(f"expected {name} to be one of {', '.join(known)}, found “{which}”")
            sections[name] = from_json(section, known[which])
        data, train = from_json(table["data"], DataConfig), from_json(table["train"], TrainConfig)
        return cls(from_json(table["name"], str), data=data, train=train, **sections)

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), indent=1, sort_keys=True)


def bases() -> dict[str, type]:
    """Name in BASES -> the class of its settings."""
    return {name: base.Config for name, base in BASES.items()}


def methods() -> dict[str, type]:
    """Name in METHODS -> the class of its settings."""
    return {name: config for name, (_, config) in METHODS.items()}


def kind(config: Any) -> str:
    """The name in METHODS or BASES that a Config belongs to."""
    return next(name for name, made in {**methods(), **bases()}.items() if made is type(config))


def method_of(run: Run) -> type[Method]:
    """The class of the run's method."""
    return METHODS[kind(run.method)][0]


def override(run: Run, assignments: list[str]) -> Run:
    """`run` with each "section.key=value" applied.

    Values are read as the type of the field they replace (JSON for tuples and tables). Raises ConfigError,
    with the nearest name, for a key that does not exist, and for a value of another type.
    """
    for assignment in assignments:
        path, separator, text = assignment.partition("=")
        if not separator:
            raise ConfigError(f"expected --set section.key=value, found “{assignment}”")
        run = _assign(run, path.strip().replace("-", "_").split("."), text.strip(), path.strip())
    return run


def keys(run: Run) -> list[str]:
    """Every dotted key that `override` takes."""
    return [f"{section.name}.{f.name}" for section in dataclasses.fields(run) if section.name != "name"
            for f in dataclasses.fields(getattr(run, section.name))]  # fmt: skip


def _assign(run: Run, parts: list[str], text: str, path: str) -> Run:
    known = keys(run)
    if ".".join(parts) not in known:
        near = [key for key in known if key.endswith("." + parts[-1])]
        near = near or difflib.get_close_matches(path, known, n=1, cutoff=0.4)
        hint = f"; did you mean {near[0]}?" if near else f"; expected one of {', '.join(known)}"
        raise ConfigError(f"unknown setting “{path}”{hint}")
    section = getattr(run, parts[0])
    hints = typing.get_type_hints(type(section))
    value = parse(text, hints[parts[1]], path)
    return dataclasses.replace(run, **{parts[0]: dataclasses.replace(section, **{parts[1]: value})})


def parse(text: str, kind: Any, path: str) -> Any:
    """`text` as a value of the annotated type `kind`."""
    try:
        if kind is bool:
            return {"true": True, "false": False, "1": True, "0": False}[text.lower()]
        if kind in (int, float):
            return from_json(kind(text), kind)
        if kind is str:
            return text
        return from_json(json.loads(text), kind)
    except (ValueError, KeyError, TypeError) as error:
        name = kind.__name__ if isinstance(kind, type) and not isinstance(kind, types.GenericAlias) else kind
        raise ConfigError(f"expected {path} to be {name}, found “{text}”") from error


def from_json(value: Any, kind: Any) -> Any:
    """A JSON value as `kind`: dataclasses, tuples and tables are rebuilt.

    Raises ConfigError for unknown keys, ValueError for a value of another type and for NaN and infinity.
    """
    origin = typing.get_origin(kind)
    if (dataclasses.is_dataclass(kind) or origin is dict) and not isinstance(value, dict):
        raise ValueError("expected a table")
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        hints = typing.get_type_hints(kind)
        unknown = set(value) - set(hints)
        if unknown:
            raise ConfigError(f"unknown settings in {kind.__name__}: {', '.join(sorted(unknown))}")
        return kind(**{key: from_json(item, hints[key]) for key, item in value.items()})
    if origin is tuple:
        if not isinstance(value, list):
            raise ValueError("expected a list")
        arguments = typing.get_args(kind)
        kinds = [arguments[0]] * len(value) if arguments[1:] == (...,) else list(arguments)
        if len(kinds) != len(value):
            raise ValueError(f"expected {len(kinds)} values")
        return tuple(from_json(item, k) for item, k in zip(value, kinds, strict=True))
    if origin is dict:
        return {str(key): from_json(item, typing.get_args(kind)[1]) for key, item in value.items()}
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind or (kind is float and not math.isfinite(value)):
        raise ValueError(f"expected {kind.__name__}")
    return value
