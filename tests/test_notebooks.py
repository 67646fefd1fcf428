"""The notebooks as they are committed, and the style of all code."""

import re
import subprocess
import sys

from conftest import ROOT

import nbformat
import pytest

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def test_there_are_six_in_order():
    assert [notebook.name[:3] for notebook in NOTEBOOKS] == ["01_", "02_", "03_", "04_", "05_", "06_"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
class TestNotebook:
    def test_is_clean(self, path):
        notebook = nbformat.read(path, as_version=4)
        nbformat.validate(notebook)
        for cell in notebook.cells:
            if cell.cell_type == "code":
                assert not cell.outputs, (
                    "committed with outputs: run `jupyter nbconvert --clear-output --inplace` on it"
                )
                assert cell.execution_count is None

    def test_opens_and_ends_like_the_others(self, path):
        cells = nbformat.read(path, as_version=4).cells
        assert cells[0].source.startswith(f"# {int(path.name[:2])}. ")
        for part in ("**Question.**", "**The original study**", "*Reads*"):
            assert part in cells[0].source
        assert cells[1].metadata.tags == ["parameters"]
        assert "helpers.provenance(" in cells[2].source
        assert [cell.source for cell in cells if cell.cell_type == "markdown"][-2] == "## What was found"
        assert cells[-2].metadata.tags == ["in-short"]

    def test_is_a_story_in_short_cells(self, path):
        cells = nbformat.read(path, as_version=4).cells
        code = [cell.source.splitlines() for cell in cells if cell.cell_type == "code"]
        lengths = sorted(map(len, code[1:]))  # without the parameters
        assert lengths[-1] <= 20
        assert lengths[len(lengths) // 2] <= 8
        assert lengths[int(0.9 * len(lengths))] <= 14
        assert max(len(line) for lines in code[1:] for line in lines) <= 88
        assert len(cells) <= 45
        assert len(cells) - len(code) >= 0.6 * len(code)

    def test_a_chapter_that_trains_takes_balance(self, path):
        cells = nbformat.read(path, as_version=4).cells
        code = "".join(cell.source for cell in cells[2:] if cell.cell_type == "code")
        trains = "helpers.train" in code and path.name[:2] != "06"  # takes earlier specs
        assert ('balance = "none"' in cells[1].source) == trains
        assert not trains or "balance" in code

    def test_only_chapter_six_opens_the_test_subset(self, path):
        source = "".join(cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code")
        asks = re.search(r'(load_images|frozen_outputs|stored_outputs)\([^)]*"test"|evaluation\.|== "test"', source)
        assert bool(asks) == (path.name[:2] == "06")
        if path.name[:2] != "06":
            assert not re.search(r"import.*\b(evaluation|external|robustness|learning_curve|export)\b", source)


def test_importing_tells_nothing_of_what_is_inside():
    """TensorFlow's own messages about processors, missing GPUs and fusions are no news for a reader of a notebook."""
    code = "import helpers, optuna, tqdm.auto, tensorflow as tf; tf.config.list_physical_devices('GPU')"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")


def test_ruff_finds_nothing():
    for command in (["check"], ["format", "--check"]):
        found = subprocess.run(
            [sys.executable, "-m", "ruff", *command, "."], cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert found.returncode == 0, found.stdout
