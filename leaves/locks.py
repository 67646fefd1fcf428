"""Let only one process at a time do a piece of work; a file beside the lock file says which process is doing it."""

import os
import platform
import shlex
import sys
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from leaves.files import InputError, disk_errors_explained

from filelock import FileLock, Timeout


@contextmanager
def locked(file, patience=10, work=""):
    """Hold a lock while the code in this context runs; the lock is released even if the process dies.

    Parameters
    ----------
    file : Path
        The lock file. The file <file>.holder beside it names the process that holds the lock.
    patience : float
        Seconds to wait while another process holds the lock; infinity means that there is no limit.
    work : str, optional
        Name of the work. If a name is given and this process has to wait, a message with the name is printed once.

    Raises
    ------
    InputError
        When another process still holds the lock after `patience` seconds (the message names that process), or when the
        lock file cannot be written.
    """
    lock, holder = FileLock(file, fallback_to_soft=False), file.with_name(f"{file.name}.holder")
    with disk_errors_explained(file), ExitStack() as stack:
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            stack.enter_context(lock.acquire(timeout=0))
        except Timeout:
            if work:
                print(f"{work} is under way in {name_of_holder(holder)}: waiting for it.")
            try:
                stack.enter_context(lock.acquire(timeout=-1 if patience == float("inf") else patience))
            except Timeout:
                busy = f"{file.parent} is in use by {name_of_holder(holder)}: wait until that process ends, or stop it."
                raise InputError(busy) from None
        command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
        holder.write_text(f"process {os.getpid()} on {platform.node()} ({command})", encoding="utf-8")
        held = stack.pop_all()
    with held:
        try:
            yield
        finally:
            holder.unlink(missing_ok=True)


def name_of_holder(file):
    """Read from <file>.holder which process holds a lock; return "another process" if the file is missing or empty."""
    with suppress(OSError):
        return file.read_text(encoding="utf-8").strip() or "another process"
    return "another process"
