"""The papers' tables: whole, in the ranges of their metrics, and in agreement with their own marks."""

from decimal import Decimal

import pytest

from unistep.errors import ConfigError
from unistep.evaluation.manifests import manifests
from unistep.evaluation.metrics import METRICS
from unistep.evaluation.published import PAPERS, table, tables

ROWS = {
    "tsd-sr": [12, 24, 11, 6, 15, 4, 5],
    "dfosd": [21, 18, 7, 2, 5, 5],
    "tad-sr": [12, 24, 10, 30, 8, 22, 11, 11],
}
"""Of each table, in the order of their numbers."""
SUMS = {"tsd-sr": "12223.5486", "dfosd": "154445.0907", "tad-sr": "13154.349"}
"""Of all numbers of a paper, from a second reading: no digit of a file changes unseen."""
HOLES = {("dfosd-table-5", "MSE", "niqe"): "unreadable"} | {
    ("tad-sr-table-1", method, "frozen"): "one number is printed"
    for method in ("ESRGAN", "RealSR-JPEG", "BSRGAN", "SwinIR", "RealESRGAN", "DASR")
}
SLIPS = {("tad-sr-table-3", "lmd")}
"""Where the paper underlines what is not its second best."""
PRINTED = {("tad-sr-table-8", "ssim_y"): {2, 3}, ("dfosd-table-3", "parameters"): {1, 3}}
"""Digits after the point of columns that are not printed with one number of them."""
ALL = list(tables().values())


def cells(one, on, key):
    return {(row.method, row.steps): row.values[key] for row in one.rows
            if row.on == on and key in row.values}  # fmt: skip


def test_all_tables_are_there_with_all_their_rows():
    assert {
        name: [len(one.rows) for one in ALL if one.name.startswith(f"{name}-table-")] for name in PAPERS
    } == ROWS
    assert [one.name for one in ALL] == [
        f"{name}-table-{i}" for name in ROWS for i, _ in enumerate(ROWS[name], 1)
    ]
    assert sum(len(row.values) for one in ALL for row in one.rows) == 1259
    for name in PAPERS:
        own = [row for one in ALL if one.name.startswith(f"{name}-table-") for row in one.rows]
        assert sum(Decimal(value) for row in own for value in row.values.values()) == Decimal(SUMS[name])


@pytest.mark.parametrize("one", ALL, ids=lambda one: one.name)
def test_a_table_is_whole(one):
    lines = [(row.on, row.method, row.steps) for row in one.rows]
    assert len(set(lines)) == len(lines)
    methods = [[(row.method, row.steps) for row in one.rows if row.on == on] for on in one.sets or ("",)]
    assert all(of == methods[0] for of in methods) and len(methods[0]) > 1
    assert set(one.sets) <= set(manifests())
    assert not ({f"{name}-whole" for name in one.sets} & set(one.sets)), "two protocols in one table"
    for row in one.rows:
        for column in one.columns:
            alone = (
                row.on and not column.why and METRICS[column.key].needs_reference
                and not manifests()[row.on].reference
            )  # fmt: skip
            absent = bool(alone) or (one.name, row.method, column.key) in HOLES
            assert (column.key in row.values) != absent, (row, column.key)


@pytest.mark.parametrize("one", ALL, ids=lambda one: one.name)
def test_numbers_are_those_of_their_column(one):
    for column in one.columns:
        values = [row.values[column.key] for row in one.rows if column.key in row.values]
        least, most = (0, 1e6) if column.why else METRICS[column.key].range
        assert all(least < float(value) < most for value in values), column
        digits = {len(value.partition(".")[2]) for value in values}
        assert digits == PRINTED.get((one.name, column.key), digits) and (
            len(digits) == 1 or (one.name, column.key) in PRINTED
        ), (column.key, digits)
        assert column.why or (column.better == "higher") == METRICS[column.key].higher_is_better


@pytest.mark.parametrize("one", ALL, ids=lambda one: one.name)
def test_the_papers_marks_are_on_the_best(one):
    marked = 0
    for on in one.sets or ("",):
        for column in one.columns:
            numbers = {key: float(value) for key, value in cells(one, on, column.key).items()}
            ranks = sorted(set(numbers.values()), reverse=column.better == "higher")
            rows = [row for row in one.rows if row.on == on]
            found = {
                mark: {(row.method, row.steps) for row in rows if row.marks.get(column.key) == mark}
                for mark in "*_"
            }
            best = {key for key, number in numbers.items() if number in ranks[: one.starred]}
            assert found["*"] == best, (on, column.key)
            if found["_"] and (one.name, column.key) not in SLIPS:
                assert found["_"] == {key for key, number in numbers.items() if number == ranks[1]}
            marked += len(found["*"] | found["_"])
    assert bool(marked) == bool(one.starred or (one.paper == "TAD-SR" and one.number != "V"))


def test_tables_of_one_paper_agree():
    """What a paper prints in several tables is the same in each of them."""
    first = table("tsd-sr-table-1")
    for name in ("tsd-sr-table-2", "tsd-sr-table-4", "tsd-sr-table-5", "tsd-sr-table-7"):
        other = table(name)
        own = {"tsd-sr-table-4": ("Full", None), "tsd-sr-table-7": ("N = 4, s = 50", None)}
        which = own.get(name, ("TSD-SR", 1 if name.endswith("2") else None))
        for on in other.sets:
            for column in other.columns:
                assert cells(other, on, column.key)[which] == cells(first, on, column.key)["TSD-SR", 1]
    bases = table("tsd-sr-table-6")
    for column in bases.columns:
        same = cells(bases, "DRealSR", column.key)
        for method, base in (("AddSR", "SD2-base"), ("OSEDiff", "SD2.1-base")):
            assert same[f"{method} ({base})", None] == cells(first, "DRealSR", column.key)[method, 1]
    dfosd = table("dfosd-table-1")
    for number, method in ((4, "their own"), (5, "EA-DISTS"), (6, "noise-aware (SD2.1-base)")):
        other = table(f"dfosd-table-{number}")
        for column in other.columns:
            same = cells(other, "RealSR-whole", column.key)[method, None]
            assert same == cells(dfosd, "RealSR-whole", column.key)["DFOSD", 1]
    for on in ("RealSR-whole", "RealSet65"):
        for key in ("clipiqa", "musiq"):
            ablation = cells(table("tad-sr-table-5"), on, key)["HSD + t-GAN", None]
            assert ablation == cells(table("tad-sr-table-2"), on, key)["TAD-SR", 1]


def test_what_metrics_lacks_says_why():
    for one in ALL:
        for column in one.columns:
            assert (column.key in METRICS) != bool(column.why)
    assert "lmd" in {column.key for column in table("tad-sr-table-3").columns if column.why} <= {"ids", "lmd"}
    assert not table("tsd-sr-table-3").sets and not table("dfosd-table-3").sets


@pytest.mark.parametrize("name,said", [
    ("tsd-sr-table1", "did you mean tsd-sr-table-1"), ("light", "--degradation light"),
    ("zzz", "--presets lists them"), ("tsd-sr-table-9", "tsd-sr-table-"),
])  # fmt: skip
def test_an_unknown_name_is_one_sentence(name, said):
    with pytest.raises(ConfigError, match="“" + name + "”") as error:
        table(name)
    assert said in str(error.value) and "\n" not in str(error.value)
    assert table("TSD-SR-Table-1").number == "1" and table("tad-sr-table-6").number == "VI"
