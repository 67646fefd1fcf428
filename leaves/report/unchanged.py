"""Chapters that would only repeat themselves: the same code, parameters and files as when they were last executed."""

import hashlib
import json
import os

from leaves import places
from leaves.files import read_json, user_path, write_json
from leaves.parameters import PARAMETERS
from leaves.report.chapters import CHAPTERS, READERS, chapter_parameters
from leaves.report.options import DATA_WORDS, last_data

CODE = ("helpers.py", "requirements.txt", "constraints.txt", "leaves/**/*.*", "notebooks/*.ipynb")
PASSING = {"lock", "lock.holder", "locks", "kernels.log", "split"}  # files and folders that say nothing about a result


def state_file():
    """The file that holds the state in which the chapters were left."""
    return places.REPORT / "state.json"


def listing(place):
    """The name, size and time of change of each file in a folder, or of one file: list of tuples."""
    if not place.is_dir():
        found = [place] if place.exists() else []
    else:
        found = []
        for folder, below, names in os.walk(place):
            below[:] = [name for name in below if not name.startswith((".", "__")) and name not in PASSING]
            found += [os.path.join(folder, name) for name in names if name not in PASSING]
    stats = [(str(file), os.stat(file)) for file in found if os.path.exists(file)]
    return sorted((name, stat.st_size, stat.st_mtime_ns) for name, stat in stats)


def digest(content):
    """A hash of anything that JSON can hold."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def files_digest():
    """A hash of the names, sizes and times of change of all files that chapters write and read, and of the code."""
    written = [listing(place) for place in (places.DATA, places.RUNS, places.RESULTS, places.REPORT)]
    kept = [[row for row in rows if row[0] != str(state_file())] for rows in written]
    code = [row for pattern in CODE for file in places.ROOT.glob(pattern) for row in listing(file)]
    return digest([kept, sorted(code)])


def chapter_digest(chapter, values):
    """A hash of the parameters that a chapter is given, and of the photos and weights that they name.

    Parameters
    ----------
    chapter : Path of the notebook
    values : dict of name to value, of the profile and the command line
    """
    given = {name: values.get(name, default) for name, default in chapter_parameters(chapter).items()}
    if "data" in given:
        given["data"] = given["data"] or last_data() or DATA_WORDS[0]
    named = [value for name, value in given.items() if PARAMETERS[name].place and value and value not in DATA_WORDS]
    return digest([given, [listing(user_path(value, places.ROOT)) for value in named]])


def known_chapters():
    """The chapters in the state that the last command left, if it is still true: dict of number to `chapter_digest`."""
    state = read_json(state_file())
    return state["chapters"] if state and state.get("files") == files_digest() else {}


def unchanged_chapters(chapters, values, known):
    """The chapters that need not be executed, because nothing that they read or left has changed: list of Path.

    Parameters
    ----------
    chapters : list of Path, in their order
    values : dict, see `chapter_digest`
    known : dict from `known_chapters`
    """
    unchanged, executed = [], set()
    for chapter in chapters:
        number = chapter.name[:2]
        reads = {other for other, readers in READERS.items() if number in readers}
        if reads & executed or known.get(number) != chapter_digest(chapter, values):
            executed.add(number)
        else:
            unchanged.append(chapter)
    return unchanged


def remember_state(chapters, values, known):
    """Write the state in which the chapters are left, after all that a command executed came to their end."""
    present = {chapter.name[:2] for chapter in CHAPTERS if (places.REPORT / chapter.name).exists()}
    digests = known | {chapter.name[:2]: chapter_digest(chapter, values) for chapter in chapters}
    kept = {number: digest for number, digest in digests.items() if number in present}
    write_json(state_file(), {"files": files_digest(), "chapters": kept})
