"""A base's face: all that may be asked about a base before it is opened. `BASES` holds one for each.

What a `Face` leaves to a new base is its settings and how it is opened; all else has an answer here that
says "not with this base". The opened base itself is `denoiser.Base`.
"""

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..diffusion.denoiser import Base, Cond
from ..errors import ConfigError, ModelError
from ..students.latent import LatentStudent
from ..students.onestep import Options
from ..students.opening import open_student
from ..tensors import read_header, sha256
from .conversion import Conversion, Tensors
from .diffusersfolder import fingerprint
from .known import Known
from .prompts import Embedding, Prompts, TextEncoders
from .textnets import TextNet, text_nets

FROM_NOTHING = "it makes the compact base's own network from nothing, and this base comes trained"
"""Why a base cannot be pre-trained."""


@dataclass(frozen=True)
class Source:
    """A model that a setting names, found once: a file, or a folder in the diffusers layout."""

    name: str
    """As the setting has it."""
    path: Path
    components: tuple[str, ...] = ()
    """The parts of a folder that training reads; none: it is a file."""

    @functools.cached_property
    def header(self) -> dict[str, Any]:
        """Of a file that Unistep wrote. Raises ModelError for another."""
        return read_header(self.path)

    @functools.cached_property
    def sha256(self) -> str:
        """Of the file, or over the names and bytes of the components' weights; read when first asked for."""
        return fingerprint(self.path, self.components) if self.components else sha256(self.path)


Sources = Mapping[str, Source]
"""Setting ("train.init", "base.critic", ...) -> the model that it names."""


@dataclass(frozen=True)
class Tiny:
    """A tiny model that stands for a base in tests and in `--smoke`."""

    config: Any
    init: str | None = None
    """What train.init is to name; None: what the recipe names is tiny already."""
    rate: float = 3e-4
    """Learning rate at which a loss is seen to move within a few steps."""
    patch: int = 64
    """Side of the crops it is trained on."""


class Face(ABC):
    """What Unistep knows of one base."""

    name: ClassVar[str]
    """In BASES, in headers and in `unistep train`."""
    title: ClassVar[str]
    """For people."""
    Config: ClassVar[type]
    """What a run may set of it: the class of `Run.base`."""
    start: ClassVar[str]
    """What train.init is to name, for people."""
    components: ClassVar[tuple[str, ...]] = ()
    """The parts of its folder in the diffusers layout that training reads; none: it is one file."""
    whole: ClassVar[bool] = False
    """A run's weights are the model, as they are; those of other bases are what `export` makes one of."""
    sees: ClassVar[bool] = True
    """Its teacher sees the low-quality image: samples tell how good a teacher it is."""
    own_features: ClassVar[bool] = False
    """A perceptual loss may compare its own features, and channels without published weights: its recipes'
    weights are on that scale."""
    text: ClassVar[TextEncoders | None] = None
    """How texts become embeddings, where it takes any."""
    files: ClassVar[tuple[str, ...]] = ()
    """Settings of Config that name files and folders."""
    obstacles: ClassVar[Mapping[str, str]] = {}
    """Method -> why it cannot train a student of this base."""
    models: ClassVar[Mapping[str, Known]] = {}
    """Short name -> a model of others that belongs to it: `unistep models pull`."""
    tiny_decoder: ClassVar[str | None] = None
    """Which of them decodes its latents quickly: `--decoder tiny`."""
    conversions: ClassVar[Mapping[str, Conversion]] = {}
    """Kind -> how the files that a method's authors published become a student: `unistep models convert`."""

    # ---- for training

    def others(self, config: Any) -> dict[str, tuple[str, ...]]:
        """Settings of `config` that name other models in the diffusers layout -> their components."""
        return {}

    def check(self, config: Any, source: Source, recipe: str) -> None:  # noqa: B027 (most need none)
        """Raises ConfigError where train.init is seen, before much of it is read, to be another model."""

    @abstractmethod
    def open(
        self, config: Any, sources: Sources, device: torch.device, prompts: Prompts | None = None
    ) -> Base:
        """The base of train.init, opened for training. Raises ConfigError, ModelError."""

    @abstractmethod
    def shapes(self, config: Any, source: Source | None = None) -> Base:
        """The base on the meta device: of the size of `source`, whose headers are read, or as published.

        Raises ModelError for another model.
        """

    @abstractmethod
    def tiny(self, config: Any, folder: Path) -> Tiny:
        """A tiny model, written into `folder` in the layout in which real ones come."""

    def prompts(self, source: Source, cache: Path, device: torch.device, *more: Path) -> Prompts:
        """The texts of its prompts as embeddings, kept in `cache`; `more`: where some may be, too."""
        if self.text is None:
            raise wordless(self.name)
        return Prompts(source.path, self.name, self.text, cache, device, more)

    def embedding(self, folder: Path, read: Callable[[Path], Tensors]) -> Embedding:
        """A text's embedding in the files of a method's authors. Raises ConfigError where there are none.

        read: the tensors of a file, pickled or not.
        """
        raise ConfigError(
            f"expected no --embedding with a recipe on the base {self.name}, for which nobody published one, "
            f"found {folder}: leave it out"
        )

    # ---- for use

    def load(
        self, path: Path, header: dict[str, Any], tensors: dict[str, Tensor], fidelity: float | None,
        options: Options | None, plain: Callable[[], Path | None], decoder: dict[str, Tensor] | None,
    ) -> nn.Module:  # fmt: skip
        """The one-step model in the file `path`, ready to run, by its header and its tensors.

        fidelity: how much of the `plain` model is mixed in, where it is trained as a whole. decoder: tensors
        of a tiny decoder in the place of its own. Raises ConfigError, ModelError.
        """
        return open_student(path, header, tensors, options or Options(), decoder, self)

    def student(self, header: dict[str, Any], tensors: Mapping[str, Tensor]) -> Any:
        """(folded denoiser, codec) of header["student"] and tensors. Raises ModelError for others."""
        raise ModelError(f"expected a model of the base {self.name} as it is, found a folded student")

    def teacher(self, header: dict[str, Any], tensors: Mapping[str, Tensor], steps: int | None) -> Any:
        """(many-step sampler, codec) of an unfolded file. Raises ModelError, ConfigError."""
        raise ModelError("expected a folded student, found one that keeps its time")

    # ---- for what it costs

    def untrained(self) -> LatentStudent | None:
        """A one-step student of the published sizes as it is built, on torch's default device.

        It costs what a trained one does. None where models of the base are of no one size.
        """
        return None

    def published(self, header: Mapping[str, Any]) -> bool:
        """Whether the network of header["student"] has the published sizes."""
        return False

    def text_nets(self, header: Mapping[str, Any], folder: Path | None = None) -> list[TextNet]:
        """The text encoders that make a prompt for the student of header["student"].

        They are those of a `folder` in the diffusers layout, whose configurations are read, or those that
        were published with a base of its size. None: it takes no text, or nothing is known of them. Raises
        ModelError for another folder.
        """
        if self.text is None:
            return []
        return text_nets(self.text, folder, self.published(header))


class Plainly:
    """What a base has that takes no text and whose weights are used as they are (`denoiser.Base`)."""

    name: str
    guided = False

    def null(self, cond: Cond) -> Cond | None:
        """None: the network was never trained without its image."""
        return None

    def told(self, cond: Cond, texts: Any) -> Cond:
        raise wordless(self.name)

    def export(
        self, weights: Mapping[str, Tensor], method: str, dtype: torch.dtype
    ) -> tuple[dict[str, Any], dict[str, Tensor]]:
        raise ConfigError(
            f"expected a base to export from, found {self.name}, whose weights are used as they are"
        )

    def layout(self, weights: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
        raise ConfigError(
            f"expected a method with an authors' layout, found the base {self.name}, which has none"
        )


def wordless(base: str) -> ConfigError:
    """What there is to say where a base that takes no text is given some."""
    return ConfigError(f"expected no prompts on the base {base}, which takes no text, found some: "
                       "set data.prompts=false")  # fmt: skip
