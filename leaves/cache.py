"""Compute results once and keep them on disk, with a key that covers everything they depend on."""

import ast
import hashlib
import inspect
import io
import textwrap
import tokenize
from pathlib import Path

from leaves.files import atomic_file
from leaves.planning import end_plan

import numpy as np


def computed_once(file, key, compute):
    """Read the arrays of an .npz file; compute and write them if the file is missing, damaged or has another key.

    Parameters
    ----------
    file : Path
    key : str
        A text that identifies everything that the arrays depend on. It is stored with the arrays.
    compute : callable() -> dict of str to array

    Returns
    -------
    dict of str to array
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
    """Read an .npz file: dict of name to array, empty if the file is missing or damaged.

    If the file is damaged, the function prints a message.
    """
    try:
        with np.load(file) as stored:  # np.load refuses pickles, and compares the CRC of each array
            arrays = dict(stored)
            stored.fid.seek(-12, 2)  # here is the number of arrays that were written; a damaged file may show fewer
            if int.from_bytes(stored.fid.read(2), "little") == len(arrays):
                return arrays
    except FileNotFoundError:
        return {}
    except Exception:  # noqa: BLE001, S110 - NumPy and zipfile raise many types of exceptions for damaged files
        pass
    print(f"{file.parent.name}/{file.name} is damaged: its content is computed again.")
    return {}


def code_hash(*parts):
    """Hash source code without comments and docstrings, because rewording them cannot change a result.

    Parameters
    ----------
    parts : Path, class, function or str
        For a Path, the Python file at that path is hashed. A str, such as a package's version, is hashed as it is.

    Returns
    -------
    str, the first 16 hex digits of the SHA-256
    """
    texts = [part if isinstance(part, str) else plain_code(source_of(part)) for part in parts]
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:16]


def source_of(part):
    """Read the source of a Python file, class or function: str."""
    return part.read_text(encoding="utf-8") if isinstance(part, Path) else inspect.getsource(part)


def plain_code(source):
    """Return source code without comments, docstrings and empty lines: a str, the same in all versions of Python."""
    source = textwrap.dedent(source)
    lines = source.splitlines()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            lines[token.start[0] - 1] = lines[token.start[0] - 1][: token.start[1]]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node) is not None:
            first, last = node.body[0].lineno, node.body[0].end_lineno
            lines[first - 1 : last] = [""] * (last - first + 1)
    return "\n".join(line.rstrip() for line in lines if line.strip())
