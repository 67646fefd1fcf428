"""The chapters: their notebooks, their parameters, and which of them read what another leaves on disk."""

import ast
import hashlib
import json

from leaves import places

CHAPTERS = sorted(places.NOTEBOOKS.glob("0?_*.ipynb"))
NUMBERS = [chapter.name[:2] for chapter in CHAPTERS]

# Which chapters read what a chapter leaves on disk.
READERS = {
    "01": ["02", "03", "04", "05", "06"],
    "02": ["05", "06"],
    "03": ["06"],
    "04": ["05", "06"],
    "05": ["06"],
    "06": [],
}


def chapter_parameters(notebook):
    """The defaults of a notebook's parameters cell: dict of name to value.

    papermill.inspect_notebook gives them as text, and cannot be had before the packages are installed.
    """
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    source = next("".join(cell["source"]) for cell in cells if "parameters" in cell["metadata"].get("tags", []))
    assignments = [node for node in ast.parse(source).body if isinstance(node, ast.Assign)]
    return {node.targets[0].id: ast.literal_eval(node.value) for node in assignments}


def parameter_readers():
    """Which chapters have a parameter: dict of its name to a list of their numbers."""
    readers = {}
    for chapter in CHAPTERS:
        for name in chapter_parameters(chapter):
            readers.setdefault(name, []).append(chapter.name[:2])
    return readers


def read_by(number):
    """What a chapter reads of earlier ones: dict of chapter to the hash of what that left on disk."""
    left = {"01": places.SPLIT_CSV} | {other: places.RUNS / f"{other}.json" for other in READERS if other != "01"}
    read = [other for other, readers in READERS.items() if number in readers and left[other].exists()]
    return {other: hashlib.sha256(left[other].read_bytes()).hexdigest()[:16] for other in read}
