"""`unistep info` and `unistep models ...`: what the weights are, whether they are whole, how to get more."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from unistep.command.report import clean, complain, say
from unistep.errors import ConfigError, ModelError, UnistepError
from unistep.models import checkpoint, hub
from unistep.models import convert as pickled
from unistep.models.catalogue import KNOWN, named
from unistep.students.restorers import Restorer, open_restorer
from unistep.tensors import read, read_header, read_tensors, sha256

SUMS = "SHA256SUMS"  # beside the weights, as `sha256sum` writes it


def info(name_or_path: str | None) -> int:
    """Print what is known of a model, or the header of its file, one `key: value` per line."""
    if name_or_path is not None and (named(name_or_path) or hub.find(name_or_path)):
        return _table(_known(name_or_path))
    path = checkpoint.resolve(name_or_path)
    tensors, metadata = read(path)
    kinds = sorted({str(t.dtype).removeprefix("torch.") for t in tensors.values()})
    facts = {
        "file": str(path),
        "size": _megabytes(path),
        "sha256": sha256(path),
        "parameters": f"{sum(t.numel() for t in tensors.values()):,} ({', '.join(kinds)})",
    }
    if "unistep" not in metadata:
        return _table(facts | _others(open_restorer(path, tensors), metadata))
    header = read_header(path)
    taught = {"learnt from": text} if (text := _taught(header)) else {}
    return _table(facts | taught | dict(_flat(header)) | {"fidelity": _fidelity(path, header)})


def _others(net: Restorer, metadata: Mapping[str, str]) -> dict[str, str]:
    """What a restorer of others tells of itself; `metadata`: of its file."""
    facts = {"architecture": net.info["restorer"], "scale": str(net.scale)}
    facts |= {key: net.info[key] for key in ("width", "depth")}
    if {"source", "sha256"} <= metadata.keys():  # as `models convert` has it
        facts["converted"] = f"from {metadata['source']}, sha256 {metadata['sha256']}"
    about = "not Unistep's, no header: the file does not say who trained it, on what, under which licence"
    return facts | {"origin": about, "fidelity": "no effect: the model names no plain one"}


def _taught(header: Mapping[str, Any]) -> str:
    """The restorers of others whose results a student learnt from, in any stage of its training; or ""."""
    parts = [header, *_stages(header)]
    found = dict.fromkeys(name for part in parts if (name := _restorer(part).partition(" ")[0]))
    if not found:
        return ""
    return f"the results of {', '.join(found)} on training photographs; the file holds no weights of it"


def _stages(header: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The parts of a training; each holds its whole run."""
    history = header.get("history")
    return [part for part in history if isinstance(part, Mapping)] if isinstance(history, list) else []


def _restorer(part: Mapping[str, Any]) -> str:
    """Whose results one stage learnt from: name and, where it was noted, SHA-256; "" where there was none."""
    found, run = part.get("restorer"), part.get("run")
    if isinstance(found, Mapping):
        return f"{found.get('name')} (sha256 {found.get('sha256')})"
    train = run.get("train") if isinstance(run, Mapping) else None
    file = train.get("restorer") if isinstance(train, Mapping) else None
    return Path(file).stem if isinstance(file, str) and file else ""


def _table(facts: Mapping[str, str]) -> int:
    width = max(map(len, facts)) + 1
    for key, value in facts.items():
        print(f"{clean(key) + ':':{width}} {clean(value)}")
    return 0


def _known(name: str) -> dict[str, str]:
    """What the catalogue and the lock file say of a model of others."""
    listed, model = named(name), hub.find(name)
    facts = {}
    if listed is not None:
        short, known = listed
        source = known.repository or ", ".join(known.files) or known.page or ""
        facts = {"name": short, "kind": known.kind, "use": known.use, "source": source}
        facts |= {"licence": known.licence, "terms": "to be accepted on its page" if known.gated else ""}
        facts |= {
            "note": known.note or "",
            "next": (known.convert or "").format(folder=model.folder if model else "FOLDER"),
        }
    if model is None:
        facts["here"] = f"no: unistep models pull {name}"
    else:
        facts |= {"name": model.name, "licence": model.facts["licence"], "here": str(model.folder)}
        facts |= {"revision": model.facts["commit"] or "", "size": f"{model.size / 1e6:.1f} MB"}
        facts |= {f"sha256.{file}": entry["sha256"] for file, entry in model.facts["files"].items()}
    return {key: value for key, value in facts.items() if value}


def listing() -> int:
    """Print the models inside the package, the pulled ones, the students and what can be pulled."""
    models = checkpoint.embedded()
    if not models:
        complain("no model is inside this package: it was built without its weights; install it again")
        return 1
    pulled, students = hub.pulled(), hub.students()
    width = max(map(len, [*models, *pulled, *(file.name for file in students)]))
    for name, path in models.items():
        default = "  (default)" if name == checkpoint.DEFAULT else ""
        print(f"{name:{width}}  {_megabytes(path):>8}  {sha256(path)}{default}")
    for name, model in pulled.items():
        size = f"{model.size / 1e6:.1f} MB"
        print(clean(f"{name:{width}}  {size:>8}  {model.revision}  {model.facts['licence']}"))
    for file in students:
        print(clean(f"{file.name:{width}}  {_megabytes(file):>8}  {file}{_whose(file)}"))
    if absent := [name for name in KNOWN if name not in pulled]:
        say(f"unistep models pull gets: {', '.join(absent)}")
    return 0


def _whose(file: Path) -> str:
    """What is to be said of a file that is not Unistep's."""
    try:
        tensors, metadata = read(file)
        if "unistep" in metadata:
            return ""
        net = open_restorer(file, tensors)
    except UnistepError:
        return f"  (cannot be used: unistep models verify {file} says why)"
    return f"  ({net.info['restorer']} of scale {net.scale}, not Unistep's)"


def pull(name: str, include: Sequence[str], *, offline: bool) -> int:
    """Fetch a model; its licence comes first, its folder last."""
    model = hub.pull(name, include, offline=offline, report=say)
    print(clean(f"{model.name}  {model.revision}  {model.size / 1e6:.1f} MB  {model.folder}"))
    return 0


def remove(name: str) -> int:
    """Delete a pulled model."""
    if name in checkpoint.embedded():
        raise ConfigError(f"expected a pulled model, found {name}, which is part of the package: it stays")
    model = hub.find(name)
    if model is None:
        there = ", ".join(hub.pulled()) or "none"
        raise ConfigError(f"expected a pulled model ({there}), found “{name}”, which is none")
    freed = hub.remove(model)
    print(clean(f"{model.name}: removed {model.folder}, {freed / 1e6:.1f} MB are free again"))
    return 0


def verify(name: str | None = None) -> int:
    """Check one model, or all that are here, against their checksums; 1 if one is bad or missing."""
    if name is None:
        students = [_verified(_student, file) for file in hub.students()]
        pulled = [_verified(_pulled, model) for model in hub.pulled().values()]
        return max([_verify_embedded(), *pulled, *students])
    if name in checkpoint.embedded():
        return _verify_embedded(name)
    if model := hub.find(name):
        return _verified(_pulled, model)
    if (folder := Path(name)).is_dir():
        files = sorted(folder.glob("*.safetensors"))
        if not files:
            raise ModelError(f"{folder}: expected a folder of .safetensors files, found none: name another")
        return max(_verified(_student, file) for file in files)
    return _verified(_student, checkpoint.resolve(name))


def _verified(check: Callable[[Any], str], subject: Any) -> int:
    try:
        print(clean(check(subject)))
    except UnistepError as error:
        complain(error)
        return 1
    return 0


def _pulled(model: hub.Pulled) -> str:
    """Raises ModelError if a file is not that of the lock."""
    if bad := model.damaged():
        raise ModelError(
            f"expected the files of {model.name} as they were pulled, found {', '.join(bad)} missing or "
            f"changed: unistep models pull {model.name}"
        )
    return f"{model.name}  ok: {len(model.facts['files'])} files as they were pulled"


def _student(file: Path) -> str:
    """Raises ModelError if the file is damaged."""
    tensors, metadata = read(file)
    if "unistep" not in metadata:
        net = open_restorer(file, tensors)
        return (
            f"{file}  ok: all {len(tensors)} tensors of an {net.info['restorer']} of scale {net.scale}, "
            f"values finite, sha256 {sha256(file)}; no header: compare that sum with its authors' own"
        )
    header = read_header(file)
    for tensor in tensors.values():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise ModelError(f"{file}: expected finite weights, found NaN or infinity: the file is damaged")
    sources = header.get("sources", ())
    return f"{file}  ok: header read, values finite, {len(sources)} sources recorded, sha256 {sha256(file)}"


def _verify_embedded(name: str | None = None) -> int:
    models = checkpoint.embedded()
    if not models:
        return listing()
    sums = _sums(next(iter(models.values())).parent / SUMS)
    if name is not None:
        models, sums = {name: models[name]}, {f: sum for f, sum in sums.items() if f == models[name].name}
    bad = 0
    for name, path in models.items():
        try:
            expected = sums.pop(path.name, None)
            if expected is not None and sha256(path) != expected:
                raise UnistepError(f"its SHA-256 is not that in {SUMS}: it is damaged; install it again")
            checkpoint.load_student(path)
        except UnistepError as error:
            complain(str(error).removeprefix(f"{path}: "), path)
            bad += 1
        else:
            checksum = "checksum right" if expected else f"no checksum in {SUMS}"
            print(f"{name}  ok: loads, values finite, {checksum}")
    for missing in sums:
        complain(f"it is listed in {SUMS} but not there: install it again", missing)
        bad += 1
    return 1 if bad else 0


def convert(src: Path, dst: Path, base: str | None, **request: Any) -> int:
    """Turn the authors' weights into a .safetensors file and print its name, size and SHA-256.

    `request`: the fields of `authors.Request`; the kind "tensors" takes any pickled state dict as it is.
    """
    from unistep.models import authors  # imports all bases

    kind = request.pop("kind") or authors.recognise(src)
    if kind == authors.PLAIN:
        taken = pickled.convert(src, dst)
        say(f"{dst}: {_usable(dst)}")
    else:
        folder = None if base is None else hub.component_folder(base)
        header = authors.student(src, dst, authors.Request(kind=kind, base=folder, **request))
        taken = header["sources"][0].get("taken", "")
        print(f"licence: {clean(header['licence'])}")
    if taken:
        say(f"{src}: the weights under {taken} are taken")
    print(f"{clean(dst)}  {_megabytes(dst)}  {sha256(dst)}")
    return 0


def _usable(file: Path) -> str:
    """What a converted file can be used for."""
    try:
        net = open_restorer(file, read_tensors(file))
    except ModelError:
        return "tensors of neither SRVGGNetCompact nor RRDBNet: unistep upscale -m does not take them"
    return f"an {net.info['restorer']} of scale {net.scale}: unistep upscale -m {file}"


def _fidelity(path: Path, header: Mapping[str, Any]) -> str:
    """What --fidelity does to the model."""
    try:
        default, plain = checkpoint.default_fidelity(path, header), checkpoint.plain_file(path, header)
    except UnistepError as error:
        return str(error).removeprefix(f"{path}: ")
    if plain is None:
        return "no effect: the model names no plain one"
    return f"0 to 1, default {default:g}; 1 is {plain}"


def _megabytes(path: Path) -> str:
    return f"{path.stat().st_size / 1e6:.1f} MB"


def _sums(path: Path) -> dict[str, str]:
    """File name -> SHA-256."""
    if not path.is_file():
        return {}
    rows = (line.split(maxsplit=1) for line in path.read_text(encoding="utf-8").splitlines() if line.strip())
    return {row[1].lstrip("*"): row[0] for row in rows if len(row) == 2}


def _flat(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Dotted keys and values of a nested table, as text."""
    for key, inner in value.items():
        if isinstance(inner, Mapping):
            yield from _flat(inner, f"{prefix}{key}.")
        elif key == "history":
            for number, part in enumerate(_stages(value), start=1):
                recipe, taught = part.get("run", {}).get("name", "?"), _restorer(part)
                said = f"{recipe}, {part.get('steps')} steps, {part.get('samples')} samples"
                yield f"{key}.{number}", said + (f", learnt from the results of {taught}" if taught else "")
        else:
            yield f"{prefix}{key}", f"{inner:.4g}" if isinstance(inner, float) else str(inner)
