"""docs/methods.md against the code: named functions exist and cite their equations, named tests exist."""

import importlib
import re
from pathlib import Path

import pytest

from unistep.diffusion.process import Process
from unistep.methods import METHODS, TeacherConfig

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "methods.md").read_text()
TESTS = set(
    re.findall(r"^def (test_\w+)", "".join(f.read_text() for f in (ROOT / "tests").rglob("test_*.py")), re.M)
)
PAPERS = ("tsdsr", "dfosd", "tadsr", "osediff", "sinsr")


def section(name: str) -> str:
    """The part of the page on methods/NAME.py."""
    [part] = [p for p in re.split(r"^## ", PAGE, flags=re.M) if f"(`methods/{name}.py`" in p.splitlines()[0]]
    return part


def rows(name: str) -> list[tuple[list[int], list[str], list[str]]]:
    """(equations, functions, tests) of each row of the table of equations; some rows have no number."""
    found = []
    table = section(name).split("### Equations")[1].split("###")[0]
    for line in re.findall(r"^\|.*\|$", table, re.M)[2:]:
        title, functions, tests = line.strip("|").split(" | ")
        cited = re.match(r" ?Eq\. [\d, ]+", title)
        numbers = [int(n) for n in re.findall(r"\d+", cited[0])] if cited else []
        named = re.findall(r"`(test_\w+|tests/diffusion/test_process\.py)", tests)
        found.append((numbers, re.findall(r"`([\w.]+)`", functions), named))
    return found


def resolve(name: str, function: str) -> object:
    """`sobel` or `TSDSR.generator_loss` of methods/NAME.py, `Process.step`, `teacher.x` of teacher.py."""
    if function.startswith("Process."):
        return getattr(Process, function.removeprefix("Process."))
    if function.startswith("teacher."):
        name, function = "teacher", function.removeprefix("teacher.")
    found: object = importlib.import_module(f"unistep.methods.{name}")
    for part in function.split("."):
        found = getattr(found, part)
    return found


@pytest.mark.parametrize("name", PAPERS)
def test_named_functions_exist_and_cite_their_equation(name):
    for equations, functions, _ in rows(name):
        assert functions, equations
        found = {function: resolve(name, function).__doc__ or "" for function in functions}
        own = [text for function, text in found.items() if not function.startswith(("Process.", "teacher."))]
        if own:  # the process table and the teacher serve several papers
            parts = re.findall(r"Eqs?\. \(?[\d(), -]+", " ".join(own))
            cited = {int(n) for part in parts for n in re.findall(r"\d+", part)}
            assert cited >= set(equations), f"{functions} do not cite all of Eq. {equations}"


@pytest.mark.parametrize("name,last", [("tsdsr", 9), ("dfosd", 8), ("tadsr", 16)])
def test_no_equation_is_left_out(name, last):
    """TSD-SR Eq. 1 and 2 state the problem, the supplement's 10 to 12 derive Eq. 4."""
    numbers = {n for equations, _, _ in rows(name) for n in equations}
    assert numbers >= set(range(3 if name == "tsdsr" else 1, last + 1))


@pytest.mark.parametrize("name", PAPERS)
def test_named_tests_exist(name):
    named = set(re.findall(r"`(test_\w+)", section(name)))
    assert len(named) > 10 and named <= TESTS, named - TESTS
    for equations, functions, tests in rows(name):
        assert tests, f"no test of {equations or functions}"


@pytest.mark.parametrize("name", METHODS)
def test_every_setting_of_a_paper_is_explained_where_it_is_defined(name):
    """A line of documentation under each field of its Config: the page does not repeat them."""
    config = METHODS[name][1]
    if config is TeacherConfig:
        return
    source = (ROOT / "src" / "unistep" / "methods" / f"{name}.py").read_text()
    for field in set(config.__dataclass_fields__) - {"process"}:
        assert re.search(rf'^    {field}: .*\n    """', source, re.M), field


def test_a_missing_function_is_seen():
    with pytest.raises(AttributeError):
        resolve("tsdsr", "nothing")
