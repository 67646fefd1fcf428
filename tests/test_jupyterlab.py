"""The notebooks in JupyterLab, in a real browser, and by the tools that execute notebooks without one.

In the copy of the project the parameters cells have the tiny profile's values, as somebody would type them in: so the
runs that the tiny run left are found again.
"""

import os
import re
import shutil
import subprocess
from datetime import datetime
from pathlib import Path

from conftest import clone
from leaves.report.chapters import CHAPTERS, chapter_parameters

import nbformat
import pytest
import yaml
from playwright.sync_api import expect
from test_documented_commands import ask, environment, free_port, served

pytestmark = pytest.mark.long
NAMES = [chapter.name for chapter in CHAPTERS]
SECONDS = 15  # that a cell may take where its runs are cached, on processor cores that have nothing else to do
SETTINGS = {
    "apputils-extension/notification": 'fetchNews: "false", checkForUpdates: false',  # no network, no question
    "notebook-extension/tracker": "recordTiming: true",
}
WAITING = "[...document.querySelectorAll('.jp-InputPrompt')].some(prompt => prompt.textContent.includes('*'))"
DRAWN = "images => images.every(image => image.complete && image.naturalWidth > 100)"
BAR = ".jp-OutputArea-output .jupyter-widgets:has(.progress-bar)"


@pytest.fixture(scope="module")
def typed_copy(whole_run, tmp_path_factory):
    """A copy of the project after a tiny run; `as committed/` in it has the notebooks with their own defaults."""
    copy = clone(tmp_path_factory.mktemp("in JupyterLab") / "leaf report")
    shutil.copytree(whole_run[0] / "whole_run", copy, dirs_exist_ok=True)  # other tests run chapters again
    shutil.copytree(copy / "notebooks", copy / "as committed")
    for name in NAMES:
        change_parameters(copy, name, tiny_values(copy / "notebooks" / name))
    return copy


def tiny_values(notebook):
    """The tiny profile's values of a notebook's parameters."""
    profile = yaml.safe_load((notebook.parent / "profiles" / "tiny.yaml").read_text(encoding="utf-8"))
    known = chapter_parameters(notebook)
    return {name: value for name, value in profile.items() if name in known}


def with_values(source, values):
    """The text of a parameters cell with other values; the comments stay."""
    for name, value in values.items():
        source, count = re.subn(rf"^{name} = .*?(?=  #)", f"{name} = {value!r}", source, flags=re.MULTILINE)
        assert count == 1
    return source


def change_parameters(copy, name, values):
    """Write other values into the parameters cell of a notebook."""
    file = copy / "notebooks" / name
    notebook = nbformat.read(file, as_version=4)
    notebook.cells[1].source = with_values(notebook.cells[1].source, values)
    nbformat.write(notebook, file)


def code_cells(file):
    return [cell for cell in nbformat.read(file, as_version=4).cells if cell.cell_type == "code"]


def assert_clean(cells):
    """Every cell was executed, and none has an error or red text as its output."""
    outputs = [output for cell in cells for output in cell.outputs]
    assert [output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"] == []
    assert [cell.execution_count for cell in cells] == [*range(1, len(cells) + 1)]


# ---------------------------------------------------------------- in the browser


@pytest.fixture(scope="module")
def lab(typed_copy):
    """The address of JupyterLab, started by the documented command with settings of its own."""
    port, own = free_port(), typed_copy / "jupyter"
    for name, values in SETTINGS.items():
        file = own / "lab" / "user-settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        file.parent.mkdir(parents=True)
        file.write_text(f"{{{values}}}", encoding="utf-8")
    names = dict.fromkeys(("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "IPYTHONDIR"), str(own))
    with served(typed_copy, "lab", port, "lab.log", **names):
        ask(f"http://127.0.0.1:{port}/lab?token=known")
        yield f"http://127.0.0.1:{port}"


@pytest.fixture
def open_notebook(browser, lab):
    """Open a notebook in JupyterLab and wait for its kernel, which ends with the test."""
    page = browser.new_page(viewport={"width": 1440, "height": 900})
    page.set_default_timeout(60_000)  # milliseconds: other tests keep the machine busy

    def open_(name):
        page.goto(f"{lab}/lab/tree/{name}?reset&token=known")
        expect(page.get_by_text("Python 3 (ipykernel) | Idle")).to_be_visible(timeout=60_000)
        return page

    yield open_
    known = {"Authorization": "token known"}
    for kernel in page.request.get(f"{lab}/api/kernels", headers=known).json():
        page.request.delete(f"{lab}/api/kernels/{kernel['id']}", headers=known)
    page.close()


def run_all_cells(page, file):
    """Choose Run > Run All Cells, wait for the last one and save; returns the cells with code."""
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    page.wait_for_function(WAITING)
    page.wait_for_function(f"!{WAITING}", timeout=300_000)
    with page.expect_response(lambda answer: answer.request.method == "PUT" and file.name in answer.url):
        page.keyboard.press("Control+s")
    return code_cells(file)


def seconds_of(cell):
    """How long a cell took, as JupyterLab recorded it."""
    begun, ended = (cell.metadata.execution[name] for name in ("iopub.execute_input", "shell.execute_reply"))
    return (datetime.fromisoformat(ended) - datetime.fromisoformat(begun)).total_seconds()


@pytest.mark.parametrize("name", NAMES)
def test_run_all_cells_is_quick_where_runs_are_cached(open_notebook, typed_copy, name):
    page = open_notebook(name)
    cells = run_all_cells(page, typed_copy / "notebooks" / name)
    assert_clean(cells)
    most = SECONDS * max(1, os.getloadavg()[0] / os.cpu_count())
    assert [(cell.source, seconds_of(cell)) for cell in cells if seconds_of(cell) > most] == []
    figures = page.locator(".jp-RenderedImage img")
    saved = [output for cell in cells for output in cell.outputs if "image/png" in output.get("data", {})]
    assert figures.count() == len(saved) > 0
    assert figures.evaluate_all(DRAWN)
    assert page.locator(BAR).count() == 0  # nothing is trained
    assert page.get_by_role("dialog").count() == 0


@pytest.mark.parametrize(
    ("name", "values", "trained"),
    [
        (NAMES[1], {"epochs": 3}, "FinalModel"),
        (NAMES[2], {"own_variants": {"few filters": {"filters": [8, 16]}}}, "few filters"),
    ],
)
def test_after_a_changed_parameter_a_bar_shows_the_new_trainings(open_notebook, typed_copy, name, values, trained):
    page, file, before = open_notebook(name), typed_copy / "notebooks" / name, {*typed_copy.glob("runs/*/result.json")}
    parameters = page.locator(".jp-CodeCell .cm-content").first
    parameters.click()
    page.keyboard.press("Control+a")
    page.keyboard.insert_text(typed := with_values(code_cells(file)[0].source, values))
    cells = run_all_cells(page, file)
    assert cells[0].source == typed
    assert_clean(cells)
    assert {*typed_copy.glob("runs/*/result.json")} > before
    assert trained in " ".join(page.locator(BAR).first.text_content().split())  # the spaces in it are as wide as digits


# ---------------------------------------------------------------- without a browser


@pytest.mark.parametrize("name", NAMES)
def test_papermill_and_nbconvert_execute_it_wherever_they_are_called(typed_copy, tmp_path, name):
    papermill = ["papermill", typed_copy / "as committed" / name, tmp_path / "papermill.ipynb"]
    for parameter, value in tiny_values(papermill[1]).items():
        papermill += ["-y", f"{parameter}: {value}"] if isinstance(value, list) else ["-p", parameter, value]
    nbconvert = ["jupyter", "nbconvert", "--to", "notebook", "--execute", typed_copy / "notebooks" / name]
    nbconvert += ["--output-dir", tmp_path, "--output", "jupyter"]
    folders = [typed_copy, tmp_path]
    if NAMES.index(name) % 2:
        folders.reverse()
    for (tool, *arguments), folder in zip((papermill, nbconvert), folders, strict=True):
        words = [os.path.relpath(word, folder) if isinstance(word, Path) else str(word) for word in arguments]
        done = subprocess.run(
            [typed_copy / ".venv" / "bin" / tool, *words],
            cwd=folder,
            env=environment(typed_copy),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        assert_clean(code_cells(tmp_path / f"{tool}.ipynb"))
