"""Name this computer's processor, its cores and its instructions."""

import multiprocessing
import os
import pickle
import platform
import signal
import threading
from pathlib import Path

# Instructions that multiply several numbers at once, the newest first. They can change the last digits of scores.
VECTORS = {
    "avx512_bf16": "AVX-512 BF16",
    "avx512f": "AVX-512",
    "avx2": "AVX2",
    "avx": "AVX",
    "sve": "SVE",
    "asimd": "NEON",
}


def own_cores():
    """Return the processor cores that this process may use: sorted list of their numbers (int)."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [*range(os.cpu_count())]


def end_with_parent():
    """Make this process, which `multiprocessing` started, end as soon as its parent ends or is killed."""

    def wait():
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def call_quietly(work):
    """Call a pickled function in this process, which `multiprocessing` started, and print nothing.

    This process ends when its parent ends. It ignores Ctrl-C, which the parent gets too. The argument `work` is the
    pickled function (bytes), so the modules that the function needs are imported after these settings are made.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(nowhere, stream)
    pickle.loads(work)()


def read_cpuinfo(*fields):
    """Return the value of the first line in Linux's /proc/cpuinfo with one of `fields`; "" if there is no such line."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    return next((line.partition(":")[2].strip() for line in lines if line.partition(":")[0].strip() in fields), "")


def processor():
    """Return the processor's name, or its architecture where the system does not tell a name."""
    return read_cpuinfo("model name") or platform.processor() or platform.machine() or "unknown"


def instructions():
    """Return the processor's instructions that Linux lists, such as "avx2": set of str; empty on another system."""
    return set(read_cpuinfo("flags", "Features").split())


def processor_kind():
    """Return the processor's name, its number and its newest vector instructions: "AMD EPYC (26-2), AVX-512".

    The number is the processor's family and model, because processors of different kinds may have the same name.
    """
    known, number = instructions(), "-".join(filter(None, (read_cpuinfo("cpu family"), read_cpuinfo("model"))))
    name = f"{processor()} ({number})" if number else processor()
    return ", ".join([name, *[word for flag, word in VECTORS.items() if flag in known][:1]])
