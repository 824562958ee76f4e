"""Who may import whom, read from the sources; and that tests stay on this machine."""

import ast
import functools
import re
import socket
import sys
from pathlib import Path

import pytest

import unistep
from unistep.bases import BASES

SOURCE = Path(unistep.__file__).parent
LAYERS = (
    "errors atomic",
    "extras tensors image",
    "diffusion pixels",
    "counting losses data",
    "autoencoder methods",
    "students",
    "bases",
    "models recipes",
    "upscaling",
    "evaluation",
    "study",
    "training",
    "command",
    "__main__",
)
"""Wings, and the few modules that stand beside them: each imports from those above it alone."""
APART = {"methods", "bases", "data"}
"""They never see each other."""
ROW = {name: row for row, names in enumerate(LAYERS) for name in names.split()}
CORE = {"torch", "numpy", "PIL", "safetensors", "imagecodecs", "tifffile", "cyclopts"}
EXTRA = {f"training.{name}": {"accelerate"} for name in ("loop", "distributed", "steps")}
EXTRA |= {f"study.{name}": {"starlette", "uvicorn"} for name in ("application", "guard", "serving")}
"""Module -> what it may import from an extra at its top."""
PICKLES = {"models.convert": {"torch.load"}, "training.export": {"torch.save"}}
"""Who may read a pickle, and who may write one: OSEDiff's script takes nothing else."""
MOST_BESIDE = 6
"""Modules that stand directly in the package."""


@functools.cache
def modules() -> dict[str, ast.Module]:
    return {
        file.relative_to(SOURCE).with_suffix("").as_posix().replace("/", "."): ast.parse(file.read_text())
        for file in sorted(SOURCE.rglob("*.py"))
        if file != SOURCE / "__init__.py"
    }


def imports(name: str, tree: ast.AST) -> set[str]:
    """Absolute names of what a module imports, wherever in it."""
    package = ["unistep", *name.split(".")]
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level] if node.level else []
            base += (node.module or "").split(".") if node.module else []
            found |= {".".join([*base, alias.name]) for alias in node.names}
    return found


def at_top(tree: ast.Module) -> ast.Module:
    """The module without the bodies of its functions."""

    class Strip(ast.NodeTransformer):
        def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
            return None

        visit_AsyncFunctionDef = visit_FunctionDef

    return Strip().visit(ast.parse(ast.unparse(tree)))


def layer(name: str) -> str:
    """`unistep.data.pairs.Pairs` -> `data`."""
    return name.removeprefix("unistep.").split(".")[0]


def violations(name: str, tree: ast.Module) -> list[str]:
    own, bad = layer(name), []
    for target in imports(name, tree):
        if not target.startswith("unistep."):
            continue
        other = layer(target)
        if other == own or other not in ROW:
            continue
        if ROW[other] >= ROW[own] or {own, other} <= APART:
            bad.append(f"{name} (row {ROW[own]}) imports {target} (row {ROW[other]})")
    return bad


def test_every_wing_has_a_row():
    missing = {layer(name) for name in modules()} - set(ROW)
    assert not missing, f"add {sorted(missing)} to LAYERS"
    beside = [file.name for file in SOURCE.glob("*.py")]
    assert len(beside) <= MOST_BESIDE, beside


@pytest.mark.parametrize("name", modules())
def test_imports_come_from_lower_rows(name):
    assert not violations(name, modules()[name])


def test_a_wrong_import_is_seen():
    assert violations("diffusion.process", ast.parse("from ..bases.compact.network import decode"))
    assert violations("methods.teacher", ast.parse("def f():\n    from ..bases import BASES"))
    assert violations("data.pairs", ast.parse("import unistep.evaluation.metrics"))
    assert violations("bases.face", ast.parse("from ..models.hub import find"))
    assert violations("bases.face", ast.parse("from ..methods import METHODS"))
    assert not violations("training.loop", ast.parse("from ..bases.compact.network import decode"))


def sources(*but: str) -> dict[str, str]:
    """Name -> text of the modules outside these wings."""
    files = {file.relative_to(SOURCE).as_posix(): file.read_text() for file in SOURCE.rglob("*.py")}
    return {name: text for name, text in files.items() if name.split("/")[0] not in but}


def test_only_bases_and_recipes_say_the_name_of_a_base():
    """Not even in a comment: what is known about a base is in its folder."""
    names = {name for name in BASES if name != "compact"} | {"sdxl", "SD3", "SD21", "ResShift"}
    said = re.compile(rf"\b({'|'.join(names)})\b")
    found = {name: said.findall(text) for name, text in sources("bases", "recipes").items()}
    assert not {name: words for name, words in found.items() if words}
    assert said.findall('BASES["sd3"]') and said.findall("of ResShift's")


def test_nobody_asks_for_the_type_of_a_base_or_a_method():
    """Outside their own folder: they would ask for the name."""
    asked = re.compile(r"isinstance\([^)]*(Config|Base)\b")
    found = {name: asked.findall(text) for name, text in sources("bases", "methods").items()}
    assert not {name: hits for name, hits in found.items() if hits}
    assert asked.search("isinstance(run.base, SD21Config)") and asked.search("isinstance(base, CompactBase)")


@pytest.mark.parametrize("name", unistep.__all__)
def test_the_public_face(name):
    assert getattr(unistep, name) is not None


@pytest.mark.parametrize("name", modules())
def test_third_parties_are_the_core_ones(name):
    allowed = CORE | EXTRA.get(name, set()) | set(sys.stdlib_module_names) | {"unistep"}
    assert {target.split(".")[0] for target in imports(name, at_top(modules()[name]))} <= allowed


def test_a_foreign_import_is_seen():
    tree = at_top(
        ast.parse("import os\ntry:\n    import cv2\nexcept ImportError:\n    pass\ndef f():\n    import ray")
    )
    assert imports("cli", tree) == {"os", "cv2"}


@pytest.mark.parametrize("name", modules())
def test_no_pickle(name):
    """Weights are read by safetensors alone: nothing but `models convert` unpickles a file."""
    tree = modules()[name]
    assert not {target.split(".")[0] for target in imports(name, tree)} & {
        "pickle",
        "dill",
        "joblib",
        "shelve",
    }
    calls = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    assert not calls & {"torch.load", "torch.save"} - PICKLES.get(name, set())
    assert "allow_pickle=True" not in ast.unparse(tree)


def test_files_stay_short():
    """A file is one idea."""
    lengths = {str(f.relative_to(SOURCE)): len(f.read_text().splitlines()) for f in SOURCE.rglob("*.py")}
    assert not {name: n for name, n in lengths.items() if n > 400}


def test_the_network_is_out_of_reach():
    with pytest.raises(PermissionError, match="reached outside"), socket.socket() as s:
        s.connect(("192.0.2.1", 9))
    with pytest.raises(PermissionError, match="reached outside"):
        socket.getaddrinfo("example.org", 80)
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()):
        pass
