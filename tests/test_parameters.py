"""Parameters mean one thing in all chapters, and a wrong value is one sentence."""

import ast

from conftest import ROOT
from leaves import parameters
from leaves.files import InputError
from leaves.parameters import PARAMETERS

import nbformat
import pytest
import yaml

NOTEBOOKS = sorted((ROOT / "notebooks").glob("0?_*.ipynb"))


def parameters_cell(notebook):
    """(name, default, comment) of each parameter of a notebook."""
    source = nbformat.read(notebook, as_version=4).cells[1].source
    lines = source.splitlines()
    return [
        (node.targets[0].id, ast.literal_eval(node.value), lines[node.lineno - 1].partition("  # ")[2])
        for node in ast.parse(source).body
        if isinstance(node, ast.Assign)
    ]


def one_meaning(cells):
    """The faults of parameters cells: what is unknown, has another meaning or a default that it cannot have."""
    faults = []
    for chapter, cell in cells.items():
        for name, default, comment in cell:
            if name not in PARAMETERS:
                faults.append(f"{chapter}: {name} is in no table")
            elif not comment.startswith(PARAMETERS[name].meaning):
                faults.append(f"{chapter}: {name} means {PARAMETERS[name].meaning!r}, not {comment!r}")
            elif fault := parameters.fault_of_value(name, default):
                faults.append(f"{chapter}: {fault}")
    return faults


def test_a_name_has_one_meaning_and_one_kind_in_all_chapters():
    cells = {notebook.stem: parameters_cell(notebook) for notebook in NOTEBOOKS}
    assert one_meaning(cells) == []
    assert {name for cell in cells.values() for name, *_ in cell} == {*PARAMETERS}  # none that no chapter has
    kinds = {}
    for cell in cells.values():
        for name, default, _ in cell:
            kinds.setdefault(name, set()).add(type(default))
    assert {name for name, types in kinds.items() if len(types) > 1} == set()


def test_the_check_finds_two_meanings():
    """As they were when `test` was a share in chapter 1 and a folder in chapter 6."""
    meaning = PARAMETERS["test_share"].meaning
    cells = {
        "01": [("test_share", 0.2, meaning)],
        "06": [("test_share", "", "a folder"), ("seed", -1, "the first seed")],
    }
    assert len(one_meaning(cells)) == 2
    assert one_meaning({"01": [("test", 0.2, "share of test")]}) == ["01: test is in no table"]


@pytest.mark.parametrize("file", sorted((ROOT / "notebooks" / "profiles").glob("*.yaml")), ids=lambda file: file.stem)
def test_profiles_have_values_that_their_parameters_take(file):
    values = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    assert [fault for name, value in values.items() if (fault := parameters.fault_of_value(name, value))] == []


WRONG = [
    ("image_size", 31),
    ("image_size", 64.5),
    ("image_size", 10_000),
    ("image_size", True),
    ("epochs", 0),
    ("epochs", None),
    ("patience", 0),
    ("repeats", 0),
    ("repeats", None),
    ("shrink", 0),
    ("shrink", 1.5),
    ("learning_rates", []),
    ("learning_rates", [0.1, -0.1]),
    ("learning_rate", float("nan")),
    ("filters", []),
    ("filters", "abc"),
    ("filters", [8, 2.5]),
    ("augmentation", {"flip": True}),
    ("augmentation", {"flip": 1, "rotation": 0, "shift": 0, "zoom": 0}),
    ("augmentation", {"flip": True, "rotation": 0, "shift": 0, "zoom": 1}),
    ("balance", "smote"),
    ("test_share", 0.9),
    ("own_variants", {"mine": {"fold": 3}}),
    ("own_variants", {"mine": {1: 3}}),
    ("own_variants", ["mine"]),
    ("fractions", [1]),
    ("external", None),
]


@pytest.mark.parametrize(("name", "value"), WRONG, ids=str)
def test_a_wrong_value_is_one_sentence_with_kind_and_bounds(name, value):
    with pytest.raises(InputError) as caught:
        parameters.check({"helpers": ..., name: value})
    assert str(caught.value) == f"The parameter {name} takes {PARAMETERS[name].takes}, not {value!r}."


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("image_size", 32),
        ("image_size", 512),
        ("image_size", None),
        ("patience", None),
        ("augmentation", None),
        ("fractions", []),
        ("filters", (8, 16)),
        ("learning_rate", 1),
        ("data", None),
        ("data", "~two"),
    ],
    ids=str,
)
def test_what_the_code_takes_is_taken(name, value):
    parameters.check({name: value})
