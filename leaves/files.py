"""Files: written atomically, checked by their SHA-256, disk errors said in one sentence; standard library only."""

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
    """Input that the run cannot use; the message is one sentence that names it and the way out."""


LARGEST_FILE = 500_000_000  # bytes that one photo may have


def user_path(text, start):
    """The absolute path that somebody wrote; a relative one begins at the folder `start`.

    A leading ``~`` means a home folder only where a shell would take it for one: ``./~two`` is a name.
    """
    return Path(os.path.abspath(os.path.join(start, os.path.expanduser(text))))


def read_regular(file):
    """The content of a regular file as bytes; a pipe, a device or a huge file is never opened.

    Raises
    ------
    OSError
        When the file cannot be read, is not regular or has more than `LARGEST_FILE` bytes; its ``strerror`` says which.
    """
    told = os.stat(file)
    if not stat.S_ISREG(told.st_mode):
        raise OSError(errno.EINVAL, "not a regular file", str(file))
    if told.st_size > LARGEST_FILE:
        raise OSError(errno.EFBIG, f"more than {LARGEST_FILE // 1_000_000} MB", str(file))
    return Path(file).read_bytes()


@contextmanager
def without_stderr():
    """Hide what C++ code writes to the standard error output; Python's exceptions are not hidden."""
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
    """Turn an OSError of writing to a file or folder into an InputError that says what to do."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        way_out = "make room on the disk" if full else "check that it is there and can be read and written"
        where = error.filename or place
        raise InputError(f"{where}: {error.strerror or error}; {way_out}, then run the same command again.") from error


@contextmanager
def atomic_path(file):
    """Give a path to write a file under; it gets its own name once all is on the disk.

    Whatever happens, power failure included, it is there whole or not at all. What a killed process left
    unfinished goes when the same file is written again.
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
    """Open a file for writing bytes, whole or not at all: see `atomic_path`."""
    with atomic_path(file) as unfinished, open(unfinished, "wb") as out:
        yield out


def sync(place):
    """Wait until a file, or the names in a folder, are on the disk."""
    handle = os.open(place, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def is_running(process):
    """Whether a process of this number (str) runs on this machine."""
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return False
    except (ValueError, PermissionError):  # not one of ours to judge, or another user's
        pass
    return True


def write_atomic(file, text):
    """Write a text whole or not at all."""
    with atomic_file(file) as out:
        out.write(text.encode())


def content_hash(content):
    """SHA-256 of a JSON-able dict, in whatever order its keys stand and however it is written."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def write_json(file, content):
    """Write a dict as JSON, whole or not at all, with its own SHA-256 as the last entry, which `read_json` checks."""
    write_atomic(file, json.dumps({**content, "sha256": content_hash(content)}, indent=1))


def read_json(file):
    """The dict that a JSON file holds; an empty one if the file is missing or damaged.

    Damaged is also one that is not as `write_json` wrote it; one without a SHA-256 is taken as it is.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    is_sound = isinstance(content, dict) and content.pop("sha256", None) in (None, content_hash(content))
    return content if is_sound else {}


def file_hash(file):
    """First 16 hex digits of a file's SHA-256; read again only if its size or time of change are others."""
    stat = os.stat(file)
    return _hash_of(str(file), stat.st_size, stat.st_mtime_ns)


@functools.lru_cache(maxsize=4096)
def _hash_of(file, *_):
    with open(file, "rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()[:16]


def write_with_checksum(file, text):
    """Write a text whole, and its SHA-256 into <file>.sha256, as `sha256sum --check` reads it."""
    checksum = file.with_name(f"{file.name}.sha256")
    with disk_errors_explained(checksum):
        checksum.unlink(missing_ok=True)  # or a kill between the next two lines would leave a wrong one
    write_atomic(file, text)
    write_atomic(checksum, f"{hashlib.sha256(text.encode()).hexdigest()}  {file.name}\n")


def matches_checksum(file):
    """Whether a file is as `write_with_checksum` wrote it; a file without a <file>.sha256 is taken as it is."""
    with suppress(FileNotFoundError):
        written = file.with_name(f"{file.name}.sha256").read_text(encoding="utf-8").split()[:1]
        return written == [hashlib.sha256(file.read_bytes()).hexdigest()]
    return file.exists()


def own_cores():
    """The numbers of the cores that this process may use."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [*range(os.cpu_count())]


def link_or_copy(file, target):
    """Make `target` a second name of a file, with the folders above it; a copy if the file system has no hard links."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(file, target)
    except OSError:
        shutil.copy2(file, target)
