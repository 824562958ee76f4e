"""Embeddings of texts by a base's own text encoders, each computed once and kept as a file."""

import functools
import hashlib
import json
import shutil
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from ..atomic import atomic_path, atomic_write
from ..errors import ModelError
from ..tensors import read_header, read_tensors
from .diffusersfolder import fingerprint, read_config

Embedding = tuple[Tensor, Tensor | None]
"""[1, tokens, D], and where the base takes one [1, P]; float32."""
FORMAT = 1
TAKEN = "taken"
"""Stands for the fingerprint where an embedding was made elsewhere."""
AT_ONCE, RECENT = 256, 64
"""Embeddings that are held until the last encoder is done (5 MB each on SD3), and between two questions."""


@dataclass(frozen=True)
class TextEncoders:
    """A base's text encoders, and where its configuration says how wide their embeddings are."""

    suffixes: tuple[str, ...]
    """What ends the names of their folders, and of the tokenizers'."""
    component: str
    """The part of the base that is told a text."""
    widths: tuple[str, ...]
    """Keys of its configuration: the width of a token's embedding and, if there is one, of the pooled one."""
    encode: Callable[[Path, Sequence[str], torch.device | str], list[Embedding]]
    """The base's folder, texts and the device to work on -> their embeddings on the CPU."""
    tokens: tuple[int, ...] = ()
    """Of a text, for each encoder."""
    published: tuple[Mapping[str, Any], ...] = ()
    """Their configurations, where they are those of the published base."""


class Prompts:
    """Texts -> embeddings, kept in the folder `cache` under the hash of text and text encoders."""

    def __init__(
        self,
        folder: Path,
        base: str,
        encoders: TextEncoders,
        cache: Path,
        device: torch.device | str = "cpu",
        more: Sequence[Path] = (),
    ):
        """folder: the base in the diffusers layout; base: its name; device: where encoders work.

        more: other folders of kept embeddings, such as a prepared data set's; only `cache` is written to.
        """
        self.folder, self.base, self.encoders = folder, base, encoders
        self.cache, self.device = cache, torch.device(device)
        self.more = tuple(more)
        self.recent: OrderedDict[str, Embedding] = OrderedDict()

    @functools.cached_property
    def model(self) -> str:
        """Fingerprint of text encoders and tokenizers; empty where the folder has none."""
        if not (self.folder / "text_encoder").is_dir():
            return ""
        suffixes = self.encoders.suffixes
        encoders = fingerprint(self.folder, [f"text_encoder{s}" for s in suffixes])
        return _hash(encoders, fingerprint(self.folder, [f"tokenizer{s}" for s in suffixes], "*"))

    @functools.cached_property
    def widths(self) -> tuple[int, ...]:
        """Of the two tensors of an embedding, or of the one, by the configuration of the base."""
        part, keys = self.encoders.component, self.encoders.widths
        config = read_config(self.folder, part)
        try:
            return tuple(int(config[key]) for key in keys)
        except (KeyError, TypeError, ValueError) as error:
            raise ModelError(f"expected the {part} of {self.folder} to have {', '.join(keys)}, found none "
                             f"({error!r})") from error  # fmt: skip

    def __call__(self, text: str) -> Embedding:
        """Raises ModelError as `fill` does."""
        if text not in self.recent:
            self.fill([text])
            file = self.find(text)
            assert file is not None
            tensors = read_tensors(file)
            embedding = tensors["prompt"], tensors.get("pooled")
            self._check(embedding, str(file))
            self.recent[text] = embedding
            if len(self.recent) > RECENT:
                self.recent.popitem(last=False)
        return self.recent[text]

    def fill(self, texts: Iterable[str]) -> None:
        """Makes and keeps what is missing; each text encoder is loaded once for up to AT_ONCE texts.

        Raises ModelError where something is missing and the folder has no text encoders, and for embeddings
        of another model.
        """
        missing = [text for text in dict.fromkeys(texts) if self.find(text) is None]
        if missing and not self.model:
            raise ModelError(
                f"expected text encoders in {self.folder}, or a kept embedding of “{missing[0][:60]}”, found "
                "neither: pull the base with --include 'text_encoder*/*' --include 'tokenizer*/*', or give "
                "unistep prepare an --embedding"
            )
        for start in range(0, len(missing), AT_ONCE):
            chunk = missing[start : start + AT_ONCE]
            made = self.encoders.encode(self.folder, chunk, self.device)
            for text, embedding in zip(chunk, made, strict=True):
                self._check(embedding, f"what the text encoders of {self.folder} make")
                self._keep(text, embedding, self.model)

    def take(self, text: str, embedding: Embedding) -> None:
        """Keeps an embedding of `text` that was made elsewhere, for bases without text encoders.

        Raises ModelError if it does not fit the base.
        """
        self._check(embedding, f"the given embedding of “{text[:60]}”")
        self._keep(text, embedding, TAKEN)

    def copy(self, texts: Iterable[str], folder: Path) -> None:
        """Copies the kept embeddings of `texts` into another folder. Raises ModelError as `fill` does."""
        folder.mkdir(parents=True, exist_ok=True)
        self.fill(texts := list(texts))
        for file in {self.find(text) for text in texts}:
            if file is not None and not (folder / file.name).is_file():
                with atomic_path(folder / file.name) as part:
                    shutil.copyfile(file, part)

    def find(self, text: str) -> Path | None:
        """The file of a text's embedding. Raises ModelError where those that are kept are another model's."""
        if self.model:
            name = f"{_hash(self.base, self.model, text)}.safetensors"
            for folder in (self.cache, *self.more):
                if (folder / name).is_file():
                    return folder / name
            for file, header in self._kept.get(_hash(text), []) if self.more else []:
                if file.parent in self.more and header["model"] != TAKEN:
                    raise ModelError(
                        f"expected {file.parent} to hold embeddings by the text encoders of {self.folder}, "
                        "found those of another model: prepare the data with this base, or take the right one"
                    )
            return None
        kept = self._kept.get(_hash(text), [])
        fitting = {h["model"]: file for file, h in kept if [s[-1] for s in h["shapes"]] == [*self.widths]}
        if kept and not fitting:
            raise ModelError(
                f"expected embeddings of widths {', '.join(map(str, self.widths))} for {self.folder}, found "
                f"those of another model, {kept[0][1]['shapes']}: prepare the data with this base"
            )
        if len(fitting) > 1:
            raise ModelError(
                f"expected one embedding of “{text[:60]}”, found those of {len(fitting)} text encoders: pull "
                f"the text encoders of {self.folder}, or delete all but one of "
                f"{', '.join(str(file) for file in fitting.values())}"
            )
        return next(iter(fitting.values()), None)

    @functools.cached_property
    def _kept(self) -> dict[str, list[tuple[Path, dict[str, Any]]]]:
        """Hash of a text -> the files of its embeddings, by whatever text encoder, with their headers."""
        found: dict[str, list[tuple[Path, dict[str, Any]]]] = {}
        for folder in (self.cache, *self.more):
            for file in sorted(folder.glob("*.safetensors")):
                if (header := _header(file)).get("base") == self.base:
                    found.setdefault(header["text"], []).append((file, header))
        return found

    def _keep(self, text: str, embedding: Embedding, model: str) -> None:
        given = {name: t for name, t in zip(("prompt", "pooled"), embedding, strict=True) if t is not None}
        tensors = {name: t.detach().float().cpu().contiguous() for name, t in given.items()}
        shapes = [list(t.shape) for t in tensors.values()]
        header = {"format": FORMAT, "text": _hash(text), "base": self.base, "model": model, "shapes": shapes}
        self.cache.mkdir(parents=True, exist_ok=True)
        with atomic_write(self.cache / f"{_hash(self.base, model, text)}.safetensors") as file:
            file.write(save(tensors, {"unistep": json.dumps(header, sort_keys=True)}))
        self.__dict__.pop("_kept", None)

    def _check(self, embedding: Embedding, what: str) -> None:
        shapes = [list(t.shape) for t in embedding if t is not None]
        if [s[-1] for s in shapes] != [*self.widths] or shapes[0][0] != 1 or len(shapes[0]) != 3:
            raise ModelError(
                f"expected {what} to have the widths {', '.join(map(str, self.widths))} of {self.folder}, "
                f"found {shapes}: it is another model's"
            )


@torch.no_grad()
def encoded(
    folder: Path, suffix: str, tokenizer: Any, encoder: Any, length: int | None, texts: Sequence[str],
    device: torch.device | str, take: Callable[[Any], tuple[Tensor, ...]],
) -> list[tuple[Tensor, ...]]:  # fmt: skip
    """What `take` takes of text_encoder{suffix}'s output for each text, padded or cut to `length`
    tokens, or to as many as the tokenizer says. Raises ModelError where one of the two is missing."""
    read_config(folder, f"text_encoder{suffix}")
    read_config(folder, f"tokenizer{suffix}", "tokenizer_config.json")
    try:
        words = tokenizer.from_pretrained(folder / f"tokenizer{suffix}", local_files_only=True)
        model = encoder.from_pretrained(
            folder / f"text_encoder{suffix}", local_files_only=True, use_safetensors=True, dtype=torch.float32
        )
    except Exception as error:  # tokenizers raises plain ones
        raise ModelError(
            f"expected {folder} to hold tokenizer{suffix} and the safetensors of text_encoder{suffix}, found "
            f"others: {' '.join(str(error).split())[:200]}"
        ) from error
    try:
        model.eval().to(device)
    except torch.OutOfMemoryError:  # T5 takes 19 GB: slowly is better than not at all
        model.to("cpu")
    many = words(
        list(texts), padding="max_length", max_length=length or words.model_max_length, truncation=True,
        return_tensors="pt",
    )  # fmt: skip
    # One by one: then an embedding does not depend on the texts that it was made with.
    return [
        tuple(t.cpu() for t in take(model(ids[None].to(model.device), output_hidden_states=True)))
        for ids in many.input_ids
    ]


def _header(file: Path) -> dict[str, Any]:
    """Of a kept embedding; of other files, none."""
    try:
        header = read_header(file)
    except ModelError:
        return {}
    return header if header.keys() >= {"text", "base", "model", "shapes"} else {}


def _hash(*parts: str) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
