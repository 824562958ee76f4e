"""Models of others, fetched once and checked: from the Hugging Face Hub and from the authors' own pages.

What comes from the hub lies in the hub's own cache (HF_HOME), so that other programs share it; HF_ENDPOINT,
HF_TOKEN and HF_HUB_OFFLINE hold. The authors' files lie in `home()`/downloads. A file is taken in only when
it is whole and its hash is right; until then it has another name, from which the next try goes on. A lock
file beside the model keeps the commit and the SHA-256 of every file.
"""

from __future__ import annotations

import contextlib
import fnmatch
import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..atomic import atomic_write
from ..bases.known import Known
from ..errors import ConfigError, ModelError
from ..tensors import sha256
from .catalogue import named
from .download import explained, fetch, huggingface, right, room

LOCK = "unistep.lock.json"
SAFE = (".safetensors", ".json", ".txt")
"""What is taken from the hub: no pickles, no programs."""
FORMAT = 1
Report = Callable[[str], None]


@dataclass(frozen=True)
class Pulled:
    """A model that is here."""

    name: str
    """Its short name, or owner/name."""
    folder: Path
    """Where its files are."""
    lock: Path
    facts: dict[str, Any]
    """What the lock file says: source, commit, licence, files (name -> size, sha256)."""

    @property
    def size(self) -> int:
        """Bytes."""
        return sum(file["size"] for file in self.facts["files"].values())

    @property
    def revision(self) -> str:
        """The commit, shortened."""
        return str(self.facts["commit"] or "-")[:12]

    def missing(self) -> list[str]:
        """Files that are gone or of another size."""
        return [
            name
            for name, file in self.facts["files"].items()
            if not (self.folder / name).is_file() or (self.folder / name).stat().st_size != file["size"]
        ]

    def damaged(self) -> list[str]:
        """Files that are gone or whose SHA-256 is another one."""
        gone = self.missing()
        files = self.facts["files"].items()
        return gone + [
            name for name, file in files if name not in gone and sha256(self.folder / name) != file["sha256"]
        ]


def home() -> Path:
    """The folder of Unistep's own files: UNISTEP_HOME, or the user's cache folder of this system."""
    if own := os.environ.get("UNISTEP_HOME"):
        return Path(own).expanduser()
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "unistep"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "unistep"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "unistep"


def students() -> list[Path]:
    """The .safetensors files in the folder models of `home()`."""
    return sorted((home() / "models").glob("*.safetensors"))


def pulled() -> dict[str, Pulled]:
    """Name -> model, of all that were pulled and whose lock can be read."""
    locks = [*(home() / "downloads").glob(f"*/{LOCK}")]
    with contextlib.suppress(ConfigError):  # without the extra nothing came from the hub
        locks += _cache().glob(f"models--*/{LOCK}")
    models = [model for lock in sorted(locks) if (model := _opened(lock))]
    return {model.name: model for model in models}


def find(name: str) -> Pulled | None:
    """The pulled model of a short name or a repository."""
    known = named(name)
    return pulled().get(known[0] if known else name)


def component_folder(name_or_path: str | os.PathLike[str]) -> Path:
    """The folder of a model in the diffusers layout: a folder, or that of a pulled model. Asks no network.

    Raises ModelError if it is neither, or if files of it are gone.
    """
    name = os.fspath(name_or_path)
    if Path(name).is_dir():
        return Path(name)
    model = find(name)
    if model is None:
        raise ModelError(
            f"expected a folder or the name of a pulled model, found “{name}”, which is neither: "
            f"unistep models pull {name}"
        )
    if missing := model.missing():
        raise ModelError(
            f"expected all files of {name}, found {', '.join(missing)} missing or cut: "
            f"unistep models pull {name}"
        )
    return model.folder


def pull(name: str, include: Sequence[str] = (), *, offline: bool = False, report: Report) -> Pulled:
    """Fetch a model of the catalogue or owner/repository[@revision], or what is missing of it.

    Args:
        include: patterns of more files of the repository; for one that the catalogue does not know, of all.
        offline: only look whether it is here.
        report: called with lines for people: licence, files, hashes.

    Raises:
        ConfigError: no such name, the extra is missing.
        ModelError: it could not be fetched whole and right; nothing of the damaged file stays in use.
    """
    name, _, revision = name.partition("@")
    short, known = named(name) or (name, None)
    if known is None and not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise ConfigError(
            f"expected a name that `unistep models list` shows, or owner/repository, found “{name}”"
        )
    if known is not None:
        report(f"{short}: {known.kind}; {known.use}")
        report(f"licence: {known.licence}")
        if known.note:
            report(f"note: {known.note}")
        if known.repository is None and not known.files:
            raise ModelError(
                f"expected {short} to be on a server for programs, found it only for browsers: get its files "
                f"from {known.page}, then {known.convert}"
            )
    if offline:
        model = find(name)
        if model is None or (revision and not str(model.facts["commit"]).startswith(revision)):
            raise ModelError(
                f"expected {name} to be here already (--offline), found it not: leave --offline out"
            )
        component_folder(name)
        return model
    with explained(short, known):
        if known is not None and known.files:
            return _pull_files(short, known, report)
        repository = (known.repository if known else None) or name
        return _pull_repository(short, repository, known, revision or None, include, report)


def remove(model: Pulled) -> int:
    """Delete a pulled model and its unfinished files; gives the bytes that are free again."""
    repository = model.facts.get("repository")
    before = _used(model.lock.parent)
    with explained(model.name, None):
        model.lock.unlink()  # first: what is half removed does not count as here
        if repository is None:
            shutil.rmtree(model.folder)
        else:
            # The hub's own function: files that other commits use stay. Copies of a repository have the same
            # commits, so the others are left out.
            scan = huggingface().scan_cache_dir(_cache())
            own = frozenset(repo for repo in scan.repos if repo.repo_path == model.lock.parent)
            replace(scan, repos=own).delete_revisions(model.facts["commit"]).execute()
            for part in model.lock.parent.glob("blobs/*.unistep.incomplete"):
                part.unlink()
    return before - _used(model.lock.parent)


def _used(folder: Path) -> int:
    return sum(file.lstat().st_size for file in folder.rglob("*") if file.is_file() and not file.is_symlink())


def _cache() -> Path:
    return Path(huggingface().constants.HF_HUB_CACHE)


def _opened(lock: Path) -> Pulled | None:
    """The model of a lock file, None for one that is damaged: pulling makes it anew."""
    try:
        facts = json.loads(lock.read_text(encoding="utf-8"))
        files = facts["files"].values()
        if facts["format"] != FORMAT or not all(isinstance(file["size"], int) for file in files):
            return None
        commit = facts["commit"]
        folder = lock.parent if commit is None else lock.parent / "snapshots" / str(commit)
        return Pulled(str(facts["name"]), folder, lock, facts)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _locked(
    lock: Path, folder: Path, facts: Mapping[str, Any], names: Sequence[str], report: Report
) -> Pulled:
    """Write the lock file: the SHA-256 of every file, as it lies there."""
    files = {}
    for name in sorted(names):
        files[name] = {"size": (folder / name).stat().st_size, "sha256": sha256(folder / name)}
        report(f"{files[name]['sha256']}  {name}")
    whole = {"format": FORMAT, **facts, "files": files}
    with atomic_write(lock) as file:
        file.write(json.dumps(whole, indent=1).encode())
    return Pulled(str(facts["name"]), folder, lock, whole)


def _pull_repository(
    short: str,
    repository: str,
    known: Known | None,
    revision: str | None,
    include: Sequence[str],
    report: Report,
) -> Pulled:
    hub = huggingface()
    api = hub.HfApi(library_name="unistep")
    wanted = revision or (known.revision if known else None)
    info = api.model_info(repository, revision=wanted, timeout=10)
    commit = str(info.sha)
    if not re.fullmatch("[0-9a-f]{40}", commit):
        raise ModelError(f"expected the hub to name a commit of {repository}, found “{commit}”: try later")
    licence = known.licence if known else _licence(info)
    if known is None:
        report(f"licence: {licence}")
    tree = {
        entry.path: entry
        for entry in api.list_repo_tree(repository, recursive=True, revision=commit)
        if isinstance(entry, hub.hf_api.RepoFile)
    }
    names = _chosen(tree, [*(known.patterns if known else () if include else ("*",)), *include])
    if not names:
        raise ModelError(
            f"expected {repository} to hold {', '.join(SAFE)} files that are asked for, found none among its "
            f"{len(tree)} files: pickles are not taken from the hub"
        )
    storage = _cache() / f"models--{repository.replace('/', '--')}"
    folder = storage / "snapshots" / commit
    todo = [name for name in names if not right(folder / name, _expected(tree[name]))]
    room(storage, sum(tree[name].size for name in todo))
    for number, name in enumerate(todo, start=1):
        report(f"{number}/{len(todo)}  {name}  {tree[name].size / 1e6:.1f} MB")
        _fetch_blob(repository, commit, name, tree[name], storage)
    facts = {
        "name": short,
        "repository": repository,
        "requested": wanted,
        "commit": commit,
        "licence": licence,
    }
    return _locked(storage / LOCK, folder, facts, names, report)


def _licence(info: Any) -> str:
    found = [tag.removeprefix("license:") for tag in info.tags or () if tag.startswith("license:")]
    return found[0] if found else "none stated: ask its authors"


def _chosen(names: Sequence[str] | Mapping[str, Any], patterns: Sequence[str]) -> list[str]:
    """Safe files that match; of a file in two precisions only the full one."""
    safe = [name for name in names if name.endswith(SAFE)]
    matching = [name for name in safe if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)]
    return [n for n in matching if ".fp16." not in n or n.replace(".fp16.", ".") not in matching]


def _expected(entry: Any) -> str:
    """The SHA-256 of a large file, git's hash of a small one."""
    return str(entry.lfs.sha256 if entry.lfs else entry.blob_id)


def _fetch_blob(repository: str, commit: str, name: str, entry: Any, storage: Path) -> None:
    """One file into the hub's cache. Its content is put there once it is right; the hub then links it."""
    download = huggingface().file_download
    pointer = storage / "snapshots" / commit / name
    if pointer.is_file():  # damaged
        pointer.resolve().unlink()
        pointer.unlink(missing_ok=True)
    url = download.hf_hub_url(repository, name, revision=commit)
    metadata = download.get_hf_file_metadata(url)
    etag = str(metadata.etag)
    if not re.fullmatch("[0-9a-f]{40}|[0-9a-f]{64}", etag):
        raise ModelError(f"expected the hub to name the hash of {name}, found “{etag}”: try later")
    fetch(url, storage / "blobs" / etag, entry.size, _expected(entry), download.build_hf_headers())
    download.hf_hub_download(repository, name, revision=commit)


def _pull_files(short: str, known: Known, report: Report) -> Pulled:
    folder = home() / "downloads" / short
    before = _opened(folder / LOCK)
    recorded = {name: file["sha256"] for name, file in before.facts["files"].items()} if before else {}
    hashes = recorded | dict(known.sha256)
    names = []
    for url in known.files:
        names.append(name := url.rpartition("/")[2])
        if name in hashes and right(folder / name, hashes[name]):
            continue
        report(f"{name} from {url}")
        fetch(url, folder / name, None, hashes.get(name), {})
    facts = {"name": short, "urls": known.files, "commit": None, "licence": known.licence}
    model = _locked(folder / LOCK, folder, facts, names, report)
    if known.convert:
        report(f"next: {known.convert.format(folder=folder)}")
    return model
