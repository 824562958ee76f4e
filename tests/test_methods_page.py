"""docs/methods.md against the code: named functions exist and cite their equations, named tests exist."""

import importlib
import re
from pathlib import Path

import pytest

from unistep.methods import METHODS, TeacherConfig
from unistep.process import Process

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "methods.md").read_text()
TESTS = set(
    re.findall(r"^def (test_\w+)", "".join(f.read_text() for f in (ROOT / "tests").glob("test_*.py")), re.M)
)
PAPERS = ("tsdsr", "dfosd", "tadsr")


def section(name: str) -> str:
    """The part of the page on methods/NAME.py."""
    [part] = [p for p in re.split(r"^## ", PAGE, flags=re.M) if f"(`methods/{name}.py`" in p.splitlines()[0]]
    return part


def rows(name: str) -> list[tuple[list[int], list[str], list[str]]]:
    """(equations, functions, tests) of the page's table of equations."""
    found = []
    for line in section(name).split("### Equations")[1].split("###")[0].splitlines():
        if line.startswith("| Eq."):
            equations, functions, tests = line.strip("|").split(" | ")
            numbers = [int(n) for n in re.findall(r"\d+", re.match(r" ?Eq\. [\d, ]+", equations)[0])]
            found.append((numbers, re.findall(r"`([\w.]+)`", functions), re.findall(r"`(test_\w+)", tests)))
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
        for function in functions:
            text = resolve(name, function).__doc__ or ""
            cited = {
                int(n) for part in re.findall(r"Eqs?\. \(?[\d(), -]+", text) for n in re.findall(r"\d+", part)
            }
            if not function.startswith(("Process.", "teacher.")):
                assert cited & set(equations), f"{function} does not cite Eq. {equations}"


@pytest.mark.parametrize("name,last", [("tsdsr", 9), ("dfosd", 8), ("tadsr", 16)])
def test_no_equation_is_left_out(name, last):
    """TSD-SR Eq. 1 and 2 state the problem, the supplement's 10 to 12 derive Eq. 4."""
    numbers = {n for equations, _, _ in rows(name) for n in equations}
    assert numbers >= set(range(3 if name == "tsdsr" else 1, last + 1))


@pytest.mark.parametrize("name", PAPERS)
def test_named_tests_exist(name):
    named = set(re.findall(r"`(test_\w+)", section(name)))
    assert len(named) > 10 and named <= TESTS, named - TESTS
    assert all(tests or "tests/test_process.py" in section(name) for _, _, tests in rows(name))


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
