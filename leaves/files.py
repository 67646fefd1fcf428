"""Write files atomically, check them by their SHA-256, and explain disk errors in one sentence.

This module uses only the standard library.
"""

import errno
import functools
import hashlib
import json
import os
import platform
import shutil
import stat
from contextlib import contextmanager, suppress
from pathlib import Path

from leaves.planning import PLAN, end_plan


class InputError(ValueError):
    """Raised when an input cannot be used; the message names the input, and says in one sentence what to do."""


LARGEST_FILE = 500_000_000  # largest size of a photo, in bytes


def user_path(text, start):
    """Return the absolute form of a path that a user wrote; a relative path begins at the folder `start`.

    A leading ``~`` means a home folder, as in a shell; the ``~`` in ``./~two`` is part of a file name.
    """
    return Path(os.path.abspath(os.path.join(start, os.path.expanduser(text))))


def read_regular(file):
    """Read the content of a regular file as bytes; a pipe, a device or a huge file is never opened.

    Raises
    ------
    OSError
        When the file cannot be read, is not regular or has more than `LARGEST_FILE` bytes; ``strerror`` says why.
    """
    told = os.stat(file)
    if not stat.S_ISREG(told.st_mode):
        raise OSError(errno.EINVAL, "not a regular file", str(file))
    if told.st_size > LARGEST_FILE:
        raise OSError(errno.EFBIG, f"more than {LARGEST_FILE // 1_000_000} MB", str(file))
    return Path(file).read_bytes()


@contextmanager
def without_stderr():
    """Hide everything written to standard error, such as messages of C++ libraries; exceptions are still raised."""
    usual, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(usual, 2)
        os.close(usual)
        os.close(nowhere)


@contextmanager
def disk_errors_explained(place):
    """Turn an OSError into an InputError that says what to do.

    The message begins with the path of the file or, if the OSError has no path, with `place`.
    """
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        way_out = "make room on the disk" if full else "check that this path exists and can be read and written"
        where = error.filename or place
        raise InputError(f"{where}: {error.strerror or error}; {way_out}, then run the same command again.") from error


@contextmanager
def atomic_path(file):
    """Yield a temporary path to write to; when all content is on the disk, rename the temporary file to `file`.

    Even after a power failure, `file` is either written completely or not changed. If a killed process left its
    temporary file behind, the next write of `file` deletes this temporary file.
    """
    start, end = f"{file.stem}.{platform.node()}.", f".unfinished{file.suffix}"
    unfinished = file.with_name(f"{start}{os.getpid()}{end}")
    if (plan := PLAN.get()) and plan.folder != file.parent:
        end_plan("files that are not written yet")
    try:
        with disk_errors_explained(file):
            file.parent.mkdir(parents=True, exist_ok=True)
            for left in file.parent.glob(f"*{end}"):
                if left.name.startswith(start) and not is_running(left.name.removeprefix(start).removesuffix(end)):
                    left.unlink(missing_ok=True)
            yield unfinished
            sync(unfinished)
            unfinished.replace(file)
            sync(file.parent)
    finally:
        unfinished.unlink(missing_ok=True)


@contextmanager
def atomic_file(file):
    """Open a file for an atomic write of bytes, see `atomic_path`."""
    with atomic_path(file) as unfinished, open(unfinished, "wb") as out:
        yield out


def sync(place):
    """Wait until the content of a file, or the list of file names in a folder, has been written to the disk."""
    handle = os.open(place, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def is_running(process):
    """Return whether the process with this ID (str) may still be running on this computer; True if in doubt."""
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return False
    except (ValueError, PermissionError):  # not a process ID, or the process of another user
        pass
    return True


def write_atomic(file, text):
    """Write a text to a file atomically."""
    with atomic_file(file) as out:
        out.write(text.encode())


def content_hash(content):
    """Compute the SHA-256 of a JSON-able dict: str of hex digits; the order of the keys does not matter."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def write_json(file, content):
    """Write a dict as JSON atomically, and add its SHA-256 as the last entry, so `read_json` can check the content."""
    write_atomic(file, json.dumps({**content, "sha256": content_hash(content)}, indent=1))


def read_json(file):
    """Read the dict in a JSON file; return an empty dict if the file is missing or damaged.

    A file also counts as damaged if its content does not match the SHA-256 that `write_json` added. A file without a
    SHA-256 is accepted without this check.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    is_sound = isinstance(content, dict) and content.pop("sha256", None) in (None, content_hash(content))
    return content if is_sound else {}


def file_hash(file):
    """Return the first 16 hex digits of a file's SHA-256.

    The hash is cached in memory. It is computed again if the size or the modification time of the file has changed.
    """
    stat = os.stat(file)
    return _hash_of(str(file), stat.st_size, stat.st_mtime_ns)


@functools.lru_cache(maxsize=4096)
def _hash_of(file, *_):
    with open(file, "rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()[:16]


def write_with_checksum(file, text):
    """Write a text to a file atomically, and its SHA-256 to <file>.sha256 in the format of `sha256sum --check`."""
    checksum = file.with_name(f"{file.name}.sha256")
    with disk_errors_explained(checksum):
        checksum.unlink(missing_ok=True)  # so no wrong checksum stays if the process is killed between the two writes
    write_atomic(file, text)
    write_atomic(checksum, f"{hashlib.sha256(text.encode()).hexdigest()}  {file.name}\n")


def matches_checksum(file):
    """Return whether a file matches its <file>.sha256; without a <file>.sha256, return whether the file exists."""
    with suppress(FileNotFoundError):
        written = file.with_name(f"{file.name}.sha256").read_text(encoding="utf-8").split()[:1]
        return written == [hashlib.sha256(file.read_bytes()).hexdigest()]
    return file.exists()


def link_or_copy(file, target):
    """Make `target` a hard link to a file, or a copy if links are not possible; missing parent folders are created."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(file, target)
    except OSError:
        shutil.copy2(file, target)
