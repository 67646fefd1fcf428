"""Execute chapters, two at a time unless one of the two reads the other's files.

This is a fifth faster than executing one chapter after another.
"""

import contextlib
import os
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from pathlib import Path

from leaves.files import InputError
from leaves.hardware import own_cores
from leaves.report.chapters import READERS
from leaves.report.execute import execute_chapter, start_kernel, stop_all, stop_kernel
from leaves.report.live import Line, clock

AT_ONCE = 2


def execute_chapters(chapters, parameters):
    """Execute each chapter as soon as the chapters it depends on are done; skip it if one of them has failed.

    Parameters
    ----------
    chapters : list of Path
    parameters : dict of name to value; each chapter gets the parameters that it defines

    Returns
    -------
    list of str, a sentence for each chapter that failed
    """
    notebooks = {notebook.name[:2]: notebook for notebook in chapters}
    read = {number: {other for other in notebooks if number in READERS[other]} for number in notebooks}
    at_once = how_many_at_once(len(chapters))
    share_cores(at_once)
    waiting, done, running, failed, kernels = [*notebooks], set(), {}, {}, {}
    with Line(len(chapters)) as line, ThreadPoolExecutor(at_once) as pool:
        try:
            while True:
                for number in ready(waiting, read, done)[: at_once - len(running)]:
                    waiting.remove(number)
                    kernel = kernels.pop(number, None) or start_kernel()
                    begun = notebooks[number], parameters, line.begin(notebooks[number]), kernel
                    running[pool.submit(execute_chapter, *begun)] = number
                if not running:
                    break
                if len(running) < at_once:
                    start_early(ready(waiting, read, done | {*running.values()})[:at_once], kernels)
                line.show()
                for task in wait(running, timeout=1, return_when=FIRST_COMPLETED).done:
                    number = running.pop(task)
                    failed |= failure_of(task, notebooks[number], line)
                    done |= {number} - {*failed}
        except BaseException:  # Ctrl-C, or a full disk
            stop_all()
            raise
        finally:  # kernels of chapters that are skipped, because a chapter that they read has failed
            for kernel in kernels.values():
                stop_kernel(kernel)
    for number in waiting:
        missing = min(read[number] - done)
        print(f"{notebooks[number].stem}: skipped, because it reads files of the unfinished chapter {int(missing)}")
    return list(failed.values())


def ready(waiting, read, done):
    """List the waiting chapters that can start, because the chapters that they read are all in `done`.

    The chapters are sorted by the number of chapters that read them; the largest number comes first.
    """
    due = [number for number in waiting if read[number] <= done]
    return sorted(due, key=lambda number: -len(READERS[number]))


def start_early(numbers, kernels):
    """Start the kernels of the next chapters early, and add them to `kernels`.

    They import TensorFlow on a free core while the earlier chapters are still executed.
    """
    for number in numbers:
        with contextlib.suppress(OSError):  # a kernel that fails now is started when its chapter's turn comes
            kernels[number] = kernels.get(number) or start_kernel()


def failure_of(task, notebook, line):
    """Print with a `Line` how a chapter ended; return {chapter number: sentence} if it failed, else an empty dict."""
    try:
        line.end(notebook, f": done in {clock(task.result())}")
    except InputError:  # the disk is full
        raise
    except Exception as error:  # noqa: BLE001 - whatever it is, the other chapters go on
        line.end(notebook, stopped := f" stopped: {error}")
        return {notebook.name[:2]: f"{notebook.stem}{stopped}"}
    return {}


def how_many_at_once(count):
    """Return how many chapters run at a time: 1 if there is a Dask cluster or a GPU, else at most `AT_ONCE`.

    The workers of the cluster keep all cores busy, and two chapters cannot share the memory of a GPU.
    """
    alone = os.environ.get("DASK_SCHEDULER_ADDRESS") or list(Path("/dev").glob("nvidia[0-9]*"))
    return 1 if alone else min(AT_ONCE, count)


def share_cores(at_once):
    """Set TensorFlow's numbers of threads: chapters that are executed at the same time share the cores.

    The number of threads in one operation decides the order in which numbers are added, which changes the last digits
    of a score. So an operation always gets half as many threads as there are cores, even if only one chapter is
    executed. A chapter that is executed alone may run more operations in parallel, so it can use all cores.
    """
    cores = len(own_cores())
    os.environ.setdefault("TF_NUM_INTRAOP_THREADS", str(max(1, cores // AT_ONCE)))
    os.environ.setdefault("TF_NUM_INTEROP_THREADS", str(max(1, cores // at_once)))
