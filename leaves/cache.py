"""Compute results once and keep them on disk, under a key of everything that they depend on."""

import hashlib
import inspect

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
        with np.load(file) as stored:  # refuses pickles, and compares the CRC of each array
            arrays = dict(stored)
            stored.fid.seek(-12, 2)  # the archive says here how many arrays it has: a damaged length may hide some
            if int.from_bytes(stored.fid.read(2), "little") == len(arrays):
                return arrays
    except FileNotFoundError:
        return {}
    except Exception:  # noqa: BLE001, S110 - NumPy and zipfile raise many kinds, for as many ways to be damaged
        pass
    print(f"{file.parent.name}/{file.name} is damaged: its content is computed again.")
    return {}


def code_hash(*objects):
    """Hash the source code of modules, classes or functions: the first 16 hex digits of the SHA-256."""
    return hashlib.sha256("".join(map(inspect.getsource, objects)).encode()).hexdigest()[:16]
