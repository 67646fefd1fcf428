"""Execute one chapter with papermill, in a kernel of its own that ends with the chapter."""

import json
import re
import threading
import time

from leaves import places
from leaves.files import disk_errors_explained, write_atomic
from leaves.report.chapters import chapter_parameters, read_by
from leaves.report.keep import FAILED, left_by, seal

import nbformat
import papermill
from jupyter_client.manager import AsyncKernelManager
from jupyter_core.utils import run_sync
from nbclient.exceptions import DeadKernelError

KERNELS, LOCK = [], threading.Lock()  # all kernels that were started; a lock to stop one kernel at a time
EVERY_STATE = {"position": 0, "mininterval": 0, "miniters": 1}  # tqdm then writes each update of papermill's bar
PASSING = re.compile(r"^(Downloading data from .*|.* is under way in .*: waiting for it\.)\n?", re.MULTILINE)
WARM_UP = "__import__('helpers')"  # every chapter imports this module, and with it TensorFlow, which takes seconds
STOPPING = threading.Event()  # set after Ctrl-C or if the disk is full; unfinished chapters are then deleted


@disk_errors_explained(places.REPORT)
def start_kernel():
    """Start a kernel for a chapter; return the kernel's manager at once, while the kernel imports TensorFlow."""
    kernel = AsyncKernelManager(kernel_name="python3")
    KERNELS.append(kernel)
    options = ["--HistoryManager.hist_file=:memory:", f"--InteractiveShellApp.exec_lines={WARM_UP}"]
    run_sync(kernel.start_kernel)(cwd=str(places.NOTEBOOKS), extra_arguments=options)
    return kernel


def stop_kernel(kernel):
    """Stop a kernel at once; call this only when its chapter has ended or is to be interrupted."""
    with LOCK:
        if kernel.has_kernel:
            run_sync(kernel.shutdown_kernel)(now=True)


def stop_all():
    """Stop all kernels, and thereby all chapters that are being executed."""
    STOPPING.set()
    for kernel in KERNELS:
        stop_kernel(kernel)


@disk_errors_explained(places.REPORT)
def execute_chapter(notebook, parameters, said, kernel):
    """Execute one notebook into report/; raise RuntimeError with one sentence if it does not reach its end.

    Parameters
    ----------
    notebook : Path
    parameters : dict of name to value; the chapter gets the parameters that it defines
    said : live.Said
        The progress of the chapter is written to it.
    kernel : kernel manager, see `start_kernel`
        The kernel is stopped at the end.

    Returns
    -------
    float, the duration in seconds
    """
    start = time.monotonic()
    output, failed = places.REPORT / notebook.name, places.REPORT / f"{FAILED}{notebook.name}"
    unfinished = places.REPORT / f"unfinished_{notebook.name}"
    wanted = {name: value for name, value in parameters.items() if name in chapter_parameters(notebook)}
    try:
        stopped = run_papermill(notebook, unfinished, wanted, said, kernel, failed.relative_to(places.ROOT))
    finally:
        stop_kernel(kernel)
        if STOPPING.is_set():
            unfinished.unlink(missing_ok=True)
            raise KeyboardInterrupt
    executed = nbformat.read(unfinished, as_version=4)
    code = [cell for cell in executed.cells if cell.cell_type == "code"]
    for cell in code:
        cell.outputs = merge_logs(cell.outputs)
    if any(cell.source and cell.execution_count is None for cell in code):
        stopped = stopped or f"The kernel ended early; see {failed.relative_to(places.ROOT)}."
    write_atomic(unfinished, stamped(executed, notebook.name[:2], stopped))
    if stopped:
        unfinished.replace(failed)
        raise RuntimeError(stopped)
    unfinished.replace(output)
    failed.unlink(missing_ok=True)
    return time.monotonic() - start


def stamped(executed, number, stopped):
    """Record a chapter's inputs, outputs, reason for stopping and hash in its metadata; return the chapter as JSON.

    The metadata entries are "read" (hashes of earlier chapters' files), "left" (hashes of the files in report/ that the
    chapter wrote), "stopped" (a sentence, or "") and "sha256" (the hash of the rest of the chapter).
    """
    executed.metadata |= {"read": read_by(number), "stopped": stopped, "left": left_by(number)}
    executed.metadata["sha256"] = seal(json.loads(nbformat.writes(executed)))
    return nbformat.writes(executed)


def run_papermill(notebook, output, parameters, said, kernel, log):
    """Execute a notebook with papermill; return a sentence that says why it stopped, or "" if it reached its end."""
    try:
        papermill.execute_notebook(
            notebook,
            output,
            parameters,
            km=kernel,
            kernel_name="python3",
            start_timeout=600,  # seconds; enough to import TensorFlow from a slow disk
            iopub_timeout=60,  # seconds to wait for outputs on a busy machine
            stderr_file=said,  # receives progress bars, for example of trainings
            progress_bar={"bar_format": "cell {n} of {total}", "file": said, **EVERY_STATE},
        )
    except papermill.PapermillExecutionError as error:
        sentence = error.evalue if error.ename == "InputError" else f"{error.ename}: {error.evalue}"
        return f"{sentence.strip().splitlines()[0]} (The traceback is in {log}.)"
    except (DeadKernelError, RuntimeError):  # RuntimeError: the kernel died before its first answer
        return f"The kernel died, perhaps because the memory was full; see {log}."
    return ""


def merge_logs(outputs):
    """List a cell's outputs, with all stderr outputs merged into one at the end, and consecutive stdout outputs merged.

    Only the last state of each progress bar is kept, in stdout too, because Keras writes its bars to stdout. Lines in
    stdout that are of interest only while the chapter runs (`PASSING`) are removed.
    """
    merged, log = [], ""
    for output in outputs:
        if output.get("name") == "stderr":
            log += output.text
        elif output.get("name") == "stdout" and merged and merged[-1].get("name") == "stdout":
            merged[-1].text += output.text
        else:
            merged.append(output)
    for output in merged:
        if output.get("name") == "stdout":
            output.text = PASSING.sub("", last_states(output.text))
    merged = [output for output in merged if output.get("text") != ""]
    if text := last_states(log).strip():
        merged.append(nbformat.v4.new_output("stream", name="stderr", text=text))
    return merged


def last_states(text):
    """Keep only the last state of each progress bar in a text; a carriage return separates two states of a bar."""
    return re.sub(r"[^\n]*\r(?=[^\n\r])", "", text)
