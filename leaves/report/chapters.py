"""List the chapters, their parameters, and which chapters read the files that other chapters write."""

import ast
import hashlib
import json

from leaves import places

CHAPTERS = sorted(places.NOTEBOOKS.glob("0?_*.ipynb"))
NUMBERS = [chapter.name[:2] for chapter in CHAPTERS]

# For each chapter, the chapters that read the files that it writes.
READERS = {
    "01": ["02", "03", "04", "05", "06"],
    "02": ["05", "06"],
    "03": ["06"],
    "04": ["05", "06"],
    "05": ["06"],
    "06": [],
}


def chapter_parameters(notebook):
    """Read the defaults from a notebook's parameters cell: dict of name to value.

    papermill.inspect_notebook is not used, because it returns the values as text, and because run_all.sh calls this
    function before papermill is installed.
    """
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    source = next("".join(cell["source"]) for cell in cells if "parameters" in cell["metadata"].get("tags", []))
    assignments = [node for node in ast.parse(source).body if isinstance(node, ast.Assign)]
    return {node.targets[0].id: ast.literal_eval(node.value) for node in assignments}


def parameter_readers():
    """List, for each parameter, the chapters that have it: dict of parameter name to list of chapter numbers."""
    readers = {}
    for chapter in CHAPTERS:
        for name in chapter_parameters(chapter):
            readers.setdefault(name, []).append(chapter.name[:2])
    return readers


def read_by(number):
    """Hash the files that a chapter reads from earlier chapters: dict of the earlier chapter's number to hash.

    Chapter 1 writes data/split.csv, and any other chapter writes runs/<number>.json. Missing files are skipped.
    """
    left = {"01": places.SPLIT_CSV} | {other: places.RUNS / f"{other}.json" for other in READERS if other != "01"}
    read = [other for other, readers in READERS.items() if number in readers and left[other].exists()]
    return {other: hashlib.sha256(left[other].read_bytes()).hexdigest()[:16] for other in read}
