"""The package is a house: each file has one job, and imports point one way."""

import ast

from conftest import ROOT

import pytest

# Every module of leaves/; each imports only modules that stand before it.
ORDER = [
    *("planning", "files", "hardware", "places", "parameters", "locks", "cache", "progress"),
    *("image_store", "dataset", "photos", "duplicates", "splitting", "sample", "sources"),
    *("scoring", "backgrounds", "batches", "training", "claims", "rules", "runs", "cluster"),
    *("custom_cnn", "dead_units", "ablations", "search", "efficientnet_lite", "backbones", "features", "transfer"),
    *(
        "evaluation",
        "refit",
        "distillation",
        "any_background",
        "parents",
        "costs",
        "evidence",
        "external",
        "robustness",
        "other_photos",
        "familiarity",
        "explain",
        "export",
        "learning_curve",
        "published",
    ),
    *(
        "plots",
        "vector",
        "figures.split",
        "figures.custom_cnn",
        "figures.ablations",
        "figures.search",
        "figures.transfer",
    ),
    *("figures.comparison", "figures.tables", "figures.holding", "figures.costs"),
    *(
        "report.chapters",
        "report.options",
        "report.keep",
        "report.unchanged",
        "report.cells",
        "report.plan",
        "report.live",
        "report.execute",
        "report.side_by_side",
        "report.page",
        "report.render",
        "report.publish",
        "report.command",
        "report.__main__",
    ),
]
MODULES = {
    ".".join(file.relative_to(ROOT / "leaves").with_suffix("").parts): file for file in (ROOT / "leaves").rglob("*.py")
}


def imported(tree, package=()):
    """The modules of leaves/ that a file imports, anywhere in it, as they are called in `ORDER`."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports are absolute"
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    inner = {name.removeprefix("leaves.") for name in names if name.startswith("leaves.")}
    return {name for name in inner if name in MODULES and MODULES[name].name != "__init__.py"}


def tree_of(file):
    return ast.parse(file.read_text(encoding="utf-8"))


def test_every_module_has_its_place():
    assert sorted(ORDER) == sorted(name for name in MODULES if not name.endswith("__init__"))


@pytest.mark.parametrize("name", ORDER)
def test_imports_point_one_way(name):
    before = ORDER[: ORDER.index(name)]
    assert imported(tree_of(MODULES[name])) <= {*before}


def test_nothing_in_the_package_imports_what_is_built_on_it():
    for file in MODULES.values():
        for node in ast.walk(tree_of(file)):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [getattr(node, "module", ""), *(alias.name for alias in node.names)]
                assert "helpers" not in names, file


def test_an_import_upwards_is_found():
    assert imported(ast.parse("def f():\n    from leaves import cluster\n    import leaves.report.keep")) == {
        "cluster",
        "report.keep",
    }


@pytest.mark.parametrize("file", [ROOT / "helpers.py", *MODULES.values()], ids=lambda file: file.stem)
def test_a_file_says_its_job_and_is_short(file):
    lines = file.read_text(encoding="utf-8").splitlines()
    most = {"helpers.py": 150, "sample.py": 1200}.get(file.name, 420)
    assert lines[0].startswith('"""')
    assert len(lines) <= most
    functions = [node for node in ast.walk(tree_of(file)) if isinstance(node, ast.FunctionDef)]
    if file.name != "sample.py":
        assert not [node.name for node in functions if node.end_lineno - node.lineno >= 45]
