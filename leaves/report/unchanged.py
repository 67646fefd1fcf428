"""Find the chapters that need not be executed again, because their code, parameters and files have not changed."""

import hashlib
import json
import os
import urllib.request

from leaves import places
from leaves.files import read_json, user_path, write_json
from leaves.parameters import PARAMETERS
from leaves.report.chapters import CHAPTERS, READERS, chapter_parameters
from leaves.report.options import DATA_WORDS, last_data

CODE = ("helpers.py", "requirements.txt", "constraints.txt", "leaves/**/*.*", "notebooks/*.ipynb")
PASSING = {"lock", "lock.holder", "locks", "kernels.log", "state.json", "split"}  # names that affect no result
KERAS_WEIGHTS = "https://storage.googleapis.com/tensorflow/keras-applications/resnet/"
KERAS_WEIGHTS += "resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5"


def state_file():
    """Return the path of the file in which `remember_state` stores the hash of each chapter, and `files_digest`."""
    return places.REPORT / "state.json"


def listing(place, passing=()):
    """List the files in a folder, or a single file, as a sorted list of tuples (name, size, modification time).

    Parameters
    ----------
    place : Path
        A folder or a file. Links to folders in it are followed, because the chapters read those folders too.
    passing : collection of str
        Names of files and folders to skip.
    """
    found = [place] if place.is_file() else []
    for folder, below, names in os.walk(place, followlinks=True):
        below[:] = [name for name in below if not name.startswith(".") and name not in passing]
        found += [os.path.join(folder, name) for name in names if name not in passing]
    stats = [(str(file), os.stat(file)) for file in found if os.path.exists(file)]
    return sorted((name, stat.st_size, stat.st_mtime_ns) for name, stat in stats)


def digest(content):
    """Return the SHA-256 of any content that can be written as JSON."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def files_digest():
    """Hash the names, sizes and modification times of all files that chapters write for each other and for the page."""
    written = [listing(place, PASSING) for place in (places.DATA, places.RUNS, places.REPORT)]
    return digest([written, (places.DATA / "split").exists()])


def code_digest():
    """Hash the names, sizes and modification times of the code and of the published study in results/."""
    code = [row for pattern in CODE for file in places.ROOT.glob(pattern) for row in listing(file)]
    return digest([sorted(row for row in code if "__pycache__" not in row[0]), listing(places.RESULTS)])


def chapter_digests(chapters, values):
    """Compute a hash per chapter from the code, the chapter's parameters, and the files that these parameters name.

    Parameters
    ----------
    chapters : list of Path, in their order
    values : dict of name to value, the parameters from the profile and the command line

    Returns
    -------
    dict of each chapter's Path to its hash
    """
    digests, code = {}, code_digest()
    for chapter in chapters:
        given = {name: values.get(name, default) for name, default in chapter_parameters(chapter).items()}
        if "data" in given:
            given["data"] = given["data"] or last_data() or DATA_WORDS[0]
        paths = [given[name] for name in given if name in PARAMETERS and PARAMETERS[name].place]
        named = [user_path(path, places.ROOT) for path in paths if path and path not in DATA_WORDS]
        digests[chapter] = digest([code, given, list(map(listing, named))])
    return digests


def known_chapters():
    """Read the hash of each chapter from `state_file`: dict of chapter number (str) to hash.

    The dict is empty if this file is missing, or if `files_digest` has changed since this file was written.
    """
    state = read_json(state_file())
    return state["chapters"] if state and state.get("files") == files_digest() else {}


def unchanged_chapters(digests, known):
    """List the chapters whose code, parameters and files have not changed, so they need not be executed: list of Path.

    Parameters
    ----------
    digests : dict from `chapter_digests`
    known : dict from `known_chapters`
    """
    unchanged, executed = [], set()
    for chapter, now in digests.items():
        number = chapter.name[:2]
        reads = {other for other, readers in READERS.items() if number in readers}
        if reads & executed or known.get(number) != now or (number == "04" and weights_can_be_had()):
            executed.add(number)
        else:
            unchanged.append(chapter)
    return unchanged


def weights_can_be_had():
    """Return whether chapter 4 used random weights, but could download ImageNet weights from Keras's server now."""
    folders = read_json(places.RUNS / "04.json").get("runs", {}).values()
    specs = [read_json(places.RUNS / folder / "spec.json") for folder in folders]
    if all(spec.get("weights", {}).get("kind") != "random" for spec in specs):
        return False
    try:
        urllib.request.urlopen(urllib.request.Request(KERAS_WEIGHTS, method="HEAD"), timeout=2).close()
    except OSError:
        return False
    return True


def remember_state(executed, known):
    """Write the hashes of the chapters to `state_file`; called after all executed chapters have reached their end.

    Parameters
    ----------
    executed : dict from `chapter_digests`
        Hashes that were computed before the execution, so a file that changed during the execution counts as changed.
    known : dict from `known_chapters`
    """
    present = {chapter.name[:2] for chapter in CHAPTERS if (places.REPORT / chapter.name).exists()}
    digests = known | {chapter.name[:2]: now for chapter, now in executed.items()}
    kept = {number: now for number, now in digests.items() if number in present}
    write_json(state_file(), {"files": files_digest(), "chapters": kept})
