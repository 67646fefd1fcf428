"""Compute results once and keep them on disk, under a key of everything that they depend on."""

import hashlib
import inspect
import zipfile

from leaves.files import atomic_file
from leaves.planning import end_plan

import numpy as np


def computed_once(file, key, compute):
    """Read the arrays of an .npz file; compute them if they are missing or have another key.

    Parameters
    ----------
    file : Path
    key : str
    compute : callable() -> dict of str to array
    """
    stored = read_arrays(file)
    if str(stored.pop("key", "")) == key:
        return stored
    end_plan("results that are not computed yet")
    computed = {name: np.asarray(array) for name, array in compute().items()}
    with atomic_file(file) as out:
        np.savez(out, key=key, **computed)
    return computed


def read_arrays(file):
    """Read the arrays of an .npz file by name: an empty dict if it is missing, or damaged, which is printed."""
    try:
        with np.load(file) as stored:  # refuses pickles
            return dict(stored)
    except FileNotFoundError:
        pass
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):
        print(f"{file.parent.name}/{file.name} is damaged: its content is computed again.")
    return {}


def code_hash(*objects):
    """Hash the source code of modules, classes or functions: the first 16 hex digits of the SHA-256."""
    return hashlib.sha256("".join(map(inspect.getsource, objects)).encode()).hexdigest()[:16]
