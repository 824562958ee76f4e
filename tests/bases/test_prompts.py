"""Embeddings of texts: computed once, kept by text and text encoders, refused if another model made them."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import tinies
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

import unistep.bases.sd3 as sd3_package
import unistep.bases.sd21 as sd21_package
from unistep.bases import BASES
from unistep.bases import prompts as module
from unistep.bases.face import Source
from unistep.bases.prompts import Prompts
from unistep.bases.sd3 import embeddings
from unistep.bases.sd3 import network as sd3
from unistep.bases.sd3.network import SD3Config
from unistep.bases.sd21 import network as sd21
from unistep.data.pairs import DataConfig, Pairs, Photographs
from unistep.errors import ModelError
from unistep.methods import TSDSRConfig
from unistep.models.authors import read_any
from unistep.recipes.config import Run, TrainConfig
from unistep.training import prepare
from unistep.training.batches import make_batches
from unistep.training.opening import open_run

pytest.importorskip("diffusers")
PARTS, PARTS_OF = {"sd3": "transformer", "sd21": "unet"}, {"sd3": 2, "sd21": 1}
"""The part that is told a text, and of how many tensors an embedding is."""
OWNERS = {"sd3": sd3_package, "sd21": sd21_package}


def prompts_of(folder: Path, kind: str, cache: Path, more: Sequence[Path] = ()) -> Prompts:
    """As training opens them."""
    source = Source(str(folder), folder, BASES[kind].components)
    return BASES[kind].prompts(source, cache, torch.device("cpu"), *more)


@pytest.fixture(scope="module", params=["sd3", "sd21"])
def kind(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def base(kind, tmp_path_factory) -> Path:
    return tinies.write(kind, tmp_path_factory.mktemp("bases") / kind)


@pytest.fixture
def silent(base, kind, tmp_path) -> Path:
    """The base without text encoders."""
    folder = tmp_path / "silent"
    return shutil.copytree(base, folder, ignore=shutil.ignore_patterns("text_encoder*", "tokenizer*"))


def encoded(kind: str, base: Path, text: str):
    return sd3.encode_prompt(base, text) if kind == "sd3" else (sd21.encode_prompt(base, text), None)


def same(one, other) -> bool:
    return torch.equal(one[0], other[0]) and (one[1] is other[1] is None or torch.equal(one[1], other[1]))


def stop(monkeypatch) -> None:
    """From here on, no text encoder may work."""
    for owner in OWNERS.values():
        monkeypatch.setattr(owner, "encode_prompts", lambda *_: pytest.fail("encoded again"))


def test_each_text_is_encoded_once(kind, base, tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    first = prompts_of(base, kind, cache)
    found = {text: first(text) for text in ("", "a cat", "a dog")}
    for text, embedding in found.items():
        assert same(embedding, encoded(kind, base, text))
        assert all(one is None or one.dtype == torch.float32 for one in embedding)
    assert not same(found[""], found["a cat"]) and len(list(cache.iterdir())) == 3
    stop(monkeypatch)
    again = prompts_of(base, kind, cache)
    assert all(same(again(text), embedding) for text, embedding in found.items())


def test_many_texts_load_the_encoders_once(kind, base, tmp_path, monkeypatch):
    """And each embedding is that which its text alone has, whatever it was filled with."""
    calls = []
    for owner in OWNERS.values():
        real = owner.encode_prompts
        monkeypatch.setattr(
            owner, "encode_prompts", lambda f, t, d, real=real: calls.append(t) or real(f, t, d)
        )
    monkeypatch.setattr(module, "AT_ONCE", 4)
    prompts, texts = prompts_of(base, kind, tmp_path), ["a", "a cat", "b", "a", "dog", "long " * 200, "", "b"]
    prompts.fill(texts)
    prompts.fill([*texts, "new"])
    assert calls == [["a", "a cat", "b", "dog"], ["long " * 200, ""], ["new"]]
    monkeypatch.undo()
    assert all(same(prompts(text), encoded(kind, base, text)) for text in texts)


def test_files_say_what_they_are(kind, base, tmp_path):
    prompts = prompts_of(base, kind, tmp_path)
    prompts("a cat")
    [file] = tmp_path.iterdir()
    with safe_open(file, "pt") as opened:
        header = json.loads(opened.metadata()["unistep"])
        shapes = [list(opened.get_tensor(name).shape) for name in ("prompt", "pooled")[: PARTS_OF[kind]]]
    assert header == {"format": 1, "text": module._hash("a cat"), "base": kind, "model": prompts.model,
                      "shapes": shapes}  # fmt: skip
    assert file.stem == module._hash(kind, prompts.model, "a cat")


@pytest.mark.parametrize("part", ["text_encoder/model.safetensors", "tokenizer/vocab.json"])
def test_other_encoders_and_tokenizers_are_another_model(kind, base, tmp_path, part):
    other = tmp_path / "other"
    shutil.copytree(base, other)
    changed = other / part
    if changed.suffix == ".json":
        changed.write_text(changed.read_text() + " ")
    else:
        from safetensors.torch import load_file

        state = load_file(changed)
        save_file({name: t * 1.5 if t.is_floating_point() else t for name, t in state.items()}, changed,
                  {"format": "pt"})  # fmt: skip
    cache = tmp_path / "cache"
    mine, theirs = prompts_of(base, kind, cache), prompts_of(other, kind, cache)
    assert mine.model != theirs.model and len(mine.model) == 64
    mine("a cat"), theirs("a cat")
    assert len(list(cache.iterdir())) == 2
    # a prepared data set by other encoders is refused, not silently made anew
    with pytest.raises(ModelError, match="those of another model: prepare the data with this base"):
        prompts_of(other, kind, tmp_path / "new", more=[_only(mine, tmp_path / "prepared")])("a cat")


def _only(prompts: Prompts, folder: Path) -> Path:
    prompts.copy(["a cat"], folder)
    return folder


def test_without_text_encoders_what_is_kept_is_taken(kind, base, silent, tmp_path):
    full = prompts_of(base, kind, tmp_path / "full")
    full.copy(["", "a cat"], tmp_path / "prepared")
    for prompts in (
        prompts_of(silent, kind, tmp_path / "full"),
        prompts_of(silent, kind, tmp_path / "empty", more=[tmp_path / "prepared"]),
    ):
        assert prompts.model == "" and same(prompts("a cat"), full("a cat")) and same(prompts(""), full(""))
        with pytest.raises(ModelError, match=r"expected text encoders in .*“a dog”, found neither: pull"):
            prompts("a dog")
    assert not (tmp_path / "empty").exists()


def test_two_encoders_embeddings_of_one_text_are_refused(kind, base, silent, tmp_path):
    prompts = prompts_of(base, kind, tmp_path / "cache")
    one, pooled = prompts("a cat")
    prompts.take("a cat", (one + 1, pooled))
    assert same(prompts("a cat"), (one, pooled))  # where encoders are, theirs counts
    with pytest.raises(ModelError, match="found those of 2 text encoders"):
        prompts_of(silent, kind, tmp_path / "cache")("a cat")


def test_embeddings_of_other_widths_are_refused(kind, base, silent, tmp_path):
    prompts_of(base, kind, tmp_path / "cache")("a cat")
    config = silent / PARTS[kind] / "config.json"
    key = "joint_attention_dim" if kind == "sd3" else "cross_attention_dim"
    config.write_text(json.dumps(json.loads(config.read_text()) | {key: 4096}))
    prompts = prompts_of(silent, kind, tmp_path / "cache")
    with pytest.raises(
        ModelError, match=r"expected embeddings of widths 4096.* found those of another model"
    ):
        prompts("a cat")
    with pytest.raises(ModelError, match="the widths 4096"):
        prompts.take("a cat", encoded(kind, base, "a cat"))
    shutil.copytree(base, tmp_path / "mixed")
    shutil.copy(config, tmp_path / "mixed" / PARTS[kind] / "config.json")
    if kind == "sd21":
        with pytest.raises(ModelError, match=r"what the text encoders of .* make to have the widths 4096"):
            prompts_of(tmp_path / "mixed", kind, tmp_path / "new")("a cat")


def test_another_bases_embeddings_are_not_looked_at(kind, base, silent, tmp_path):
    prompts = prompts_of(base, kind, tmp_path / "cache")
    prompts("a cat")
    [file] = (tmp_path / "cache").iterdir()
    with safe_open(file, "pt") as opened:
        header = json.loads(opened.metadata()["unistep"]) | {"base": "other"}
        state = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    save_file(state, file, {"unistep": json.dumps(header)})
    (tmp_path / "cache" / "foreign.safetensors").write_bytes(b"no such file")
    save_file(state, tmp_path / "cache" / "plain.safetensors")
    with pytest.raises(ModelError, match="found neither"):
        prompts_of(silent, kind, tmp_path / "cache")("a cat")


def test_tsd_sr_embeddings_are_taken(kind, base, silent, tmp_path):
    """prompt_embeds and pool_embeds, as the authors give them to people without the text encoders."""
    if kind != "sd3":
        pytest.skip("theirs are SD3's")
    prompt, pooled = sd3.encode_prompt(base, "a cat")
    theirs = tmp_path / "default"
    theirs.mkdir()
    save_file({"prompt_embeds": prompt[0]}, theirs / "prompt_embeds.safetensors")
    save_file({"pool_embeds": pooled}, theirs / "pool_embeds.safetensors")
    prompts = prompts_of(silent, "sd3", tmp_path / "cache")
    prompts.take("good", embeddings(theirs, read_any))
    assert same(prompts("good"), (prompt, pooled))
    with pytest.raises(ModelError, match="another model"):
        prompts.take("bad", (prompt[..., :-1], pooled))
    with pytest.raises(ModelError, match="another model"):
        prompts.take("bad", (prompt.expand(2, -1, -1), pooled))


def test_preparing_and_training_need_no_more_than_these(kind, base, silent, tmp_path, monkeypatch):
    """`unistep prepare --embedding --negative`; then training finds them, prepared or not."""
    if kind != "sd3":
        pytest.skip("theirs are SD3's")
    monkeypatch.setenv("UNISTEP_HOME", str(tmp_path / "home"))
    (tmp_path / "photos").mkdir()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (70, 66, 3), np.uint8)).save(
        tmp_path / "photos/a.png"
    )
    given = {name: sd3.encode_prompt(base, name) for name in ("good", "bad")}
    for name, (prompt, pooled) in given.items():
        (tmp_path / name).mkdir()
        save_file({"prompt_embeds": prompt}, tmp_path / name / "prompt_embeds.safetensors")
        save_file({"pool_embeds": pooled}, tmp_path / name / "pool_embeds.safetensors")
    data = DataConfig(patch=64, workers=0, holdout=0)
    train = TrainConfig(init=str(silent), batch=2, steps=1)
    own = Run("test", SD3Config(prompt="p", negative="n", rank=2, rank_encoder=0), TSDSRConfig(), data, train)
    monkeypatch.setattr(prepare, "recipe", lambda _: own)
    folders, out = (tmp_path / "good", tmp_path / "bad"), tmp_path / "out"
    with pytest.raises(ModelError, match="expected text encoders in"):
        prepare.main("test", tmp_path / "photos", out, [], report=lambda _: None)
    prepare.main("test", tmp_path / "photos", out, [], given=folders, report=lambda _: None)
    for folder in (tmp_path / "photos", out):
        photographs = Photographs(folder, 0.0)
        opened = open_run(own, torch.device("cpu"), photographs)
        pairs = Pairs(photographs.train, data, 0, length=2)
        [batch] = make_batches(opened, pairs, torch.device("cpu"))
        assert torch.equal(batch.cond.prompt, given["good"][0])
        assert torch.equal(batch.null.pooled, given["bad"][1])
        assert torch.allclose(batch.z_hq, opened.base.encode(batch.x_hq), atol=1e-4)
