"""Execute the chapters with papermill and render report/report.html; run_all.sh calls this inside .venv.

Until the options are read only the standard library is needed, so that a wrong option is answered at once.
"""

import argparse
import ast
import datetime
import hashlib
import json
import os
import re
import resource
import secrets
import shlex
import shutil
import signal
import sys
import threading
import time
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from graphlib import TopologicalSorter
from pathlib import Path

from files import InputError, disk_trouble_told, locked, own_cores, user_path, write_whole
from parameters import PARAMETERS, fault_of_value

ROOT = Path(__file__).resolve().parent
NOTEBOOKS, REPORT, RUNS = ROOT / "notebooks", ROOT / "report", ROOT / "runs"
SPLIT_CSV, SOURCE_JSON = ROOT / "data" / "split.csv", ROOT / "data" / "source.json"
FAILED = "failed_"  # begins the name of a chapter that did not reach its end, beside its last good execution
LAST_REPORT = REPORT / ".last"  # the finished report that lay there before this command
REPORT_FILES = ("0?_*.ipynb", "report.html", "scores.csv", "predictions.csv", "best_model.keras", "figures/*.png")
OF_CHAPTER_6 = ("scores.csv", "predictions.csv", "best_model.keras")  # what it leaves beside its page
CHAPTERS = sorted(NOTEBOOKS.glob("0?_*.ipynb"))
PROFILES = sorted(file.stem for file in (NOTEBOOKS / "profiles").glob("*.yaml"))

# Share of the whole run that each chapter takes, in percent: the sample profile with nothing cached, on 2 cores.
EXPECTED_SHARE = {"01": 5, "02": 19, "03": 35, "04": 16, "05": 10, "06": 15}

# Which chapters read what a chapter leaves on disk.
READERS = {
    "01": ["02", "03", "04", "05", "06"],
    "02": ["05", "06"],
    "03": ["06"],
    "04": ["05", "06"],
    "05": ["06"],
    "06": [],
}

AT_ONCE = 2  # chapters that are executed side by side, if neither reads the other

# What a kernel imports before its chapter's turn comes.
AHEAD = "import sys; sys.path.append('..'); import helpers; del sys, helpers"

KERNELS, ONE_STOPS = [], threading.Lock()  # the kernels that were started, and who may stop them
STOPPING = threading.Event()  # set by Ctrl-C or a full disk: what a chapter has executed then is not kept

DATA_WORDS = ("sample", "plant_village")  # in the place of a folder of photos


class OneSentenceParser(argparse.ArgumentParser):
    """Says what is wrong with the options in one sentence and exits with status 2."""

    def error(self, message):
        self.exit(2, f"run_all.sh: {message}; ./run_all.sh --help lists the options.\n")


def chapter_parameters(notebook):
    """The defaults of a notebook's parameters cell, as a dict of name to value."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    source = next("".join(cell["source"]) for cell in cells if "parameters" in cell["metadata"].get("tags", []))
    assignments = [node for node in ast.parse(source).body if isinstance(node, ast.Assign)]
    return {node.targets[0].id: ast.literal_eval(node.value) for node in assignments}


def literal(text):
    """A Python literal such as 3, 0.1, True or ['a', 'b'] as its value; anything else as a string."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def argument_parser():
    """The options of run_all.sh."""
    parser = OneSentenceParser(prog="run_all.sh", description="Executes the chapters and renders report/report.html.")
    parser.add_argument("--profile", choices=PROFILES, default="sample", help="how much to compute (default: sample)")
    parser.add_argument(
        "--data",
        metavar="DIR|plant_village|sample",
        help="a folder with one sub-folder of images per class, plant_village to download that data set, or sample for "
        "the synthetic leaves (default: the data used last, at first the sample)",
    )
    parser.add_argument(
        "--test",
        metavar="DIR",
        help="a second folder of photos: photos in sub-folders named like classes are scored, photos without are "
        "classified",
    )
    parser.add_argument("--weights", metavar="DIR", help="a folder with <Backbone>.weights.h5 (default: data/weights)")
    parser.add_argument("--only", metavar="03,04", help="execute only these chapters; the report shows all that exist")
    parser.add_argument("--force", action="store_true", help="train these chapters' models again")
    parser.add_argument(
        "--scheduler", metavar="ADDRESS|local:N", help="a Dask scheduler, or N processes here, for the trainings"
    )
    parser.add_argument(
        "-p", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"), help="a parameter of the notebooks"
    )
    parser.add_argument("--check", action="store_true", help=argparse.SUPPRESS)
    return parser


def read_options(arguments):
    """Parse and check the command line; the result's `parameters` holds what goes to the notebooks.

    Whatever is wrong is said in one sentence, with exit status 2, before anything runs.
    """
    parser = argument_parser()
    options = parser.parse_args(arguments)
    if options.scheduler and not re.fullmatch(r"local:[1-9]\d*|(?!local:)([a-z]+://)?[^/\s]+:\d+", options.scheduler):
        parser.error(f"--scheduler {options.scheduler} is neither local:N nor an address like tcp://127.0.0.1:8786")
    numbers = [number.strip() for number in options.only.split(",")] if options.only else [*EXPECTED_SHARE]
    if unknown := [number for number in numbers if number not in EXPECTED_SHARE]:
        parser.error(f"there is no chapter {unknown[0]!r}: the chapters are {', '.join(EXPECTED_SHARE)}")
    options.chapters = [chapter for chapter in CHAPTERS if chapter.name[:2] in numbers]
    if numbers == ["01"] and (unread := "--force" if options.force else "--scheduler" if options.scheduler else ""):
        parser.error(f"{unread} is about trainings, and chapter 1 trains nothing: add other chapters to --only")

    readers = parameter_readers()
    given = [("--data", "data", options.data), ("--weights", "weights", options.weights)]
    given += [("--test", "external", options.test), *((f"-p {name}", name, value) for name, value in options.p)]
    options.parameters = {}
    for option, name, value in given:
        if value is None:
            continue
        if name not in readers:
            parser.error(f"no chapter has a parameter {name}: they are {', '.join(sorted(readers))}")
        options.parameters[name] = read_value(parser, option, name, value)
        others = [int(number) for number in readers[name] if number not in numbers]
        if len(others) == len(readers[name]) and name != "data":
            parser.error(f"{option} is read by chapter {' and '.join(map(str, others))} alone: add it to --only")
    if "data" in options.parameters and "01" not in numbers:
        if (present := last_data()) != options.parameters["data"]:
            now = f"the present split is made from {present}" if present else "there is no split yet"
            parser.error(f"--data {options.parameters['data']} is read by chapter 1, and {now}: add 01 to --only")
        del options.parameters["data"]
    return options


def parameter_readers():
    """Which chapters have a parameter: dict of its name to a list of their numbers."""
    readers = {}
    for chapter in CHAPTERS:
        for name in chapter_parameters(chapter):
            readers.setdefault(name, []).append(chapter.name[:2])
    return readers


def read_value(parser, option, name, value):
    """The value of a parameter from its text on the command line; ends the program if it cannot be used.

    A relative path begins at the folder in which the command was given.
    """
    place = PARAMETERS[name].place
    found = literal(value) if not place or value == "None" else value
    if fault := fault_of_value(name, found):
        parser.error(fault)
    if not place or not found or (name == "data" and found in DATA_WORDS):
        return found
    path = user_path(found, os.getcwd())
    if place == "folder" and not os.path.isdir(path):  # False too where it may not be looked at
        parser.error(f"{option} {value} is not a folder that can be opened")
    if place == "file" and not os.path.isfile(path):
        parser.error(f"{option} {value} is not a file that can be opened")
    if name == "data" and path.resolve().is_relative_to(ROOT / "data" / "split"):
        parser.error(f"{option} {value} is written by chapter 1: name the folder that it was made from")
    return str(path.resolve())


def last_data():
    """The data that the present split was made from: a folder, "sample" or "plant_village"; None without a split."""
    try:
        return json.loads(SOURCE_JSON.read_text(encoding="utf-8"))["data"] if SPLIT_CSV.exists() else None
    except (OSError, ValueError, KeyError):
        return None


def read_by(number):
    """What a chapter reads of earlier ones: dict of chapter to the hash of what that left on disk."""
    left = {"01": SPLIT_CSV} | {other: RUNS / f"{other}.json" for other in READERS if other != "01"}
    read = [other for other, readers in READERS.items() if number in readers and left[other].exists()]
    return {other: hashlib.sha256(left[other].read_bytes()).hexdigest()[:16] for other in read}


def keep_last_report():
    """Keep the finished report that lies in report/ beside it, by hard links, as long as chapters are executed.

    All its files are replaced and never written into, so that the links keep the old ones. What an interrupted command
    has kept of the same photos stays; what it has kept of other photos is set aside.
    """
    if not (REPORT / "scores.csv").exists() or not split_of(REPORT):
        return
    if LAST_REPORT.exists():
        if split_of(LAST_REPORT) == split_of(REPORT):
            return
        set_aside("its photos were others")
    unfinished = LAST_REPORT.with_name(".last.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    for file in (file for pattern in REPORT_FILES for file in REPORT.glob(pattern)):
        link = unfinished / file.relative_to(REPORT)
        link.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(file, link)
        except OSError:  # a file system without hard links
            shutil.copy2(file, link)
    unfinished.rename(LAST_REPORT)


def split_of(report):
    """The hash of the split that the last chapter of a report was executed for; nothing without that chapter."""
    try:
        executed = json.loads((report / CHAPTERS[-1].name).read_text(encoding="utf-8"))
        return executed["metadata"]["read"]["01"]
    except (OSError, ValueError, KeyError):
        return ""


def settle_last_report(stale):
    """Set the last finished report aside if chapters of it are gone or its photos were others; else drop its links.

    If chapter 6 was not finished, the files that belong to its last good execution come back.
    """
    if not LAST_REPORT.exists():
        return
    if stale:
        set_aside(f"chapters {', '.join(stale)} of it read something that has changed")
    elif split_of(LAST_REPORT) != hash_of(SPLIT_CSV):
        set_aside("its photos were others")
    else:
        if (REPORT / f"{FAILED}{CHAPTERS[-1].name}").exists():
            pictures = [f"figures/{file.name}" for file in LAST_REPORT.glob("figures/06-*.png")]
            for name in (*OF_CHAPTER_6, *pictures):
                if (LAST_REPORT / name).exists():
                    (LAST_REPORT / name).replace(REPORT / name)
        shutil.rmtree(LAST_REPORT)


def set_aside(reason):
    """Move the last finished report to report/earlier, under the time at which it was made, and say why."""
    made = datetime.datetime.fromtimestamp((LAST_REPORT / "scores.csv").stat().st_mtime)
    place = REPORT / "earlier" / made.strftime("%Y-%m-%d-%H%M%S")
    shutil.rmtree(place, ignore_errors=True)
    place.parent.mkdir(exist_ok=True)
    LAST_REPORT.rename(place)
    print(f"The last report is kept in {place.relative_to(ROOT)}, because {reason}.")


def hash_of(file):
    """First 16 hex digits of a file's SHA-256, or nothing if it is missing."""
    return hashlib.sha256(file.read_bytes()).hexdigest()[:16] if file.exists() else ""


def forget_stale():
    """Drop the executed chapters that read something else than what lies there now: the page never mixes two runs.

    Returns
    -------
    list of str, the numbers of these chapters
    """
    stale = set()
    for executed in (*REPORT.glob("0?_*.ipynb"), *REPORT.glob(f"{FAILED}0?_*.ipynb")):
        number = executed.name.removeprefix(FAILED)[:2]
        try:
            was_read = json.loads(executed.read_text(encoding="utf-8"))["metadata"].get("read")
        except (ValueError, KeyError):
            was_read = "nothing that can be read"
        if was_read != read_by(number):
            executed.unlink()
            if not executed.name.startswith(FAILED):
                stale.add(number)
    if "06" in stale:
        for name in OF_CHAPTER_6:
            (REPORT / name).unlink(missing_ok=True)
    return sorted(stale)


def shown_chapters():
    """What the page shows of each chapter that was executed.

    Returns
    -------
    list of (Path of the executed notebook, sentence or None): of a chapter that failed the last good execution, if
    there is one, and why the later one stopped
    """
    shown = []
    for chapter in CHAPTERS:
        good, failed = REPORT / chapter.name, REPORT / f"{FAILED}{chapter.name}"
        stopped = json.loads(failed.read_text(encoding="utf-8"))["metadata"]["stopped"] if failed.exists() else None
        if good.exists() or failed.exists():
            shown.append((good if good.exists() else failed, stopped))
    return shown


@disk_trouble_told(REPORT)
def start_kernel():
    """Start a kernel that makes ready for a chapter, mainly by importing TensorFlow; returns its manager."""
    from jupyter_client.manager import AsyncKernelManager  # only in .venv
    from jupyter_core.utils import run_sync

    kernel = AsyncKernelManager(kernel_name="python3")
    KERNELS.append(kernel)
    options = [f"--IPKernelApp.code_to_run={AHEAD}", "--HistoryManager.hist_file=:memory:"]
    run_sync(kernel.start_kernel)(cwd=str(NOTEBOOKS), extra_arguments=options)
    return kernel


def stop_kernel(kernel):
    """End a kernel at once: its chapter has written all that it had to write."""
    from jupyter_core.utils import run_sync

    with ONE_STOPS:
        if kernel.has_kernel:
            run_sync(kernel.shutdown_kernel)(now=True)


def stop_all():
    """End all kernels, and so the chapters that are executed by them."""
    STOPPING.set()
    for kernel in KERNELS:
        stop_kernel(kernel)


@disk_trouble_told(REPORT)
def execute_chapter(notebook, parameters, kernel, line):
    """Execute one notebook into report/; raise RuntimeError with one sentence if it does not reach its end.

    Parameters
    ----------
    kernel : kernel manager, see `start_kernel`; it is stopped at the end
    line : int
        The line of the terminal, from 0, that shows its progress.

    Returns
    -------
    float, how many seconds it took
    """
    import nbformat  # these only in .venv
    import papermill
    from nbclient.exceptions import DeadKernelError

    output, failed = REPORT / notebook.name, REPORT / f"{FAILED}{notebook.name}"
    unfinished = REPORT / f"unfinished_{notebook.name}"
    wanted = {name: value for name, value in parameters.items() if name in chapter_parameters(notebook)}
    start, told = time.monotonic(), ""
    try:
        papermill.execute_notebook(
            notebook,
            unfinished,
            wanted,
            km=kernel,
            kernel_name="python3",
            start_timeout=600,  # seconds: for the imports on a slow disk
            iopub_timeout=60,  # and for outputs on a busy machine
            progress_bar={"desc": notebook.stem, "position": line, "leave": False, "disable": None},  # not in a file
        )
    except papermill.PapermillExecutionError as error:
        told = error.evalue if error.ename == "InputError" else f"{error.ename}: {error.evalue}"
        told = f"{told.strip().splitlines()[0]} (The traceback stands in {failed.relative_to(ROOT)}.)"
    except (DeadKernelError, RuntimeError):  # RuntimeError: it died before it answered at all
        told = f"The kernel died, of too little memory perhaps; see {failed.relative_to(ROOT)}."
    finally:
        stop_kernel(kernel)
        if STOPPING.is_set():
            unfinished.unlink(missing_ok=True)
            raise KeyboardInterrupt
    executed = nbformat.read(unfinished, as_version=4)
    if any(cell.cell_type == "code" and cell.source and cell.execution_count is None for cell in executed.cells):
        told = told or f"The kernel ended early; see {failed.relative_to(ROOT)}."
    executed.metadata |= {"read": read_by(notebook.name[:2]), "stopped": told}
    write_whole(unfinished, nbformat.writes(executed))
    if told:
        unfinished.replace(failed)
        raise RuntimeError(told)
    unfinished.replace(output)
    failed.unlink(missing_ok=True)
    return time.monotonic() - start


def fetch_plant_village():
    """Download PlantVillage before the chapters start, where the terminal can show the progress."""
    from data import intake  # only in .venv

    intake.locate("plant_village", 0, 0, 0)


def token_of(command):
    """What tells the runs of this forced command from others; the same if the command was stopped and given again."""
    file = RUNS / "forced.json"
    try:
        known = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        known = {}
    if known.get("command") != command:
        known = {"command": command, "token": secrets.token_hex(8)}
        write_whole(file, json.dumps(known))
    return known["token"]


def quiet_kernels():
    """Let the terminal show progress only: what the kernels' C++ libraries print goes to report/kernels.log."""
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1)
    with disk_trouble_told(REPORT), open(REPORT / "kernels.log", "w", encoding="utf-8") as log:
        os.dup2(log.fileno(), 2)  # inherited by the kernels


def share_cores(at_once):
    """Share out the cores among the chapters that are executed at once.

    How many threads share one operation decides in which order numbers are added, and so the last digits: these are
    half as many as there are cores however many chapters there are. What is left computes other operations.
    """
    cores = len(own_cores())
    os.environ.setdefault("TF_NUM_INTRAOP_THREADS", str(max(1, cores // AT_ONCE)))
    os.environ.setdefault("TF_NUM_INTEROP_THREADS", str(max(1, cores // at_once)))


def clock(seconds):
    """Seconds as minutes and seconds, 3:07."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def execute_chapters(chapters, parameters, kernels, at_once):
    """Execute chapters, each as soon as those that it reads are done; what reads a failed one is skipped.

    Parameters
    ----------
    kernels : list of kernel managers, see `start_kernel`
        Those that are started; one more is while chapters are executed.
    at_once : int
        How many chapters may be executed side by side.

    Returns
    -------
    list of str, a sentence for each chapter that failed
    """
    from tqdm import tqdm  # only in .venv

    notebooks = {notebook.name[:2]: notebook for notebook in chapters}
    order = TopologicalSorter({own: {other for other in notebooks if own in READERS[other]} for own in notebooks})
    order.prepare()
    start, due, to_come, running, failed = time.monotonic(), list(order.get_ready()), list(notebooks), {}, {}

    def begin(number):
        """Give a chapter a kernel, and have the next one started."""
        so_far, share = clock(time.monotonic() - start), EXPECTED_SHARE[number]
        tqdm.write(f"{notebooks[number].stem}: begun at {so_far}, about {share} % of a whole run's work")
        to_come.remove(number)
        kernel = kernels.pop() if kernels else start_kernel()
        line = min({*range(at_once)} - {line for _, line in running.values()})
        running[pool.submit(execute_chapter, notebooks[number], parameters, kernel, line)] = number, line
        if to_come and not kernels:
            kernels.append(start_kernel())

    def end(task):
        """Say what came of a chapter; if it failed, those that read it are never due."""
        number, _ = running.pop(task)
        try:
            tqdm.write(f"{notebooks[number].stem}: done in {clock(task.result())}")
            order.done(number)
        except InputError:  # the disk is full
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, the other chapters go on
            failed[number] = f"{notebooks[number].stem} stopped: {error}"
            tqdm.write(failed[number])

    with ThreadPoolExecutor(at_once) as pool:
        try:
            while due or running:
                while due and len(running) < at_once:
                    begin(due.pop(0))
                for task in wait(running, return_when=FIRST_COMPLETED).done:
                    end(task)
                due += sorted(order.get_ready())
        except BaseException:  # Ctrl-C, or a full disk
            stop_all()
            raise
    for number in to_come:
        missing = next(other for other in failed if number in READERS[other])
        print(f"{notebooks[number].stem}: skipped, because it reads what chapter {int(missing)} did not finish")
    return list(failed.values())


def effective_parameters(options):
    """The profile's parameters and over them those of the command line; ends the program if two do not fit."""
    import yaml  # only in .venv

    profile = yaml.safe_load((NOTEBOOKS / "profiles" / f"{options.profile}.yaml").read_text(encoding="utf-8")) or {}
    values = {**profile, **options.parameters}
    numbers = [chapter.name[:2] for chapter in options.chapters]
    if {"04", "05"} <= {*numbers}:
        heads = values.get("seeds", chapter_parameters(CHAPTERS[3])["seeds"])
        tails = values.get("fine_tuning_seeds", chapter_parameters(CHAPTERS[4])["fine_tuning_seeds"])
        if tails > heads:
            fault = f"fine_tuning_seeds is {tails}, more than the {heads} heads of chapter 4: raise seeds or lower it"
            argument_parser().error(fault)
    return values


def main():
    """Execute the chosen chapters, render the report of all that are up to date, say where it is."""
    options = read_options(sys.argv[1:])
    if options.check:
        return
    values = effective_parameters(options)
    start, command = time.monotonic(), shlex.join(["./run_all.sh", *sys.argv[1:]])
    if options.scheduler and not options.scheduler.startswith("local:"):
        import cluster

        cluster.connect(options.scheduler).close()  # before a chapter finds that nobody answers
    with locked(RUNS / "lock"), locked(REPORT / "lock"):
        quiet_kernels()
        if options.scheduler:
            os.environ["DASK_SCHEDULER_ADDRESS"] = options.scheduler  # read by helpers.train_all in the kernels
        if options.force:
            os.environ["RETRAIN"] = token_of(command)  # read by helpers.is_as_forced in the kernels
        first = options.chapters[0].name.startswith("01")
        going_on = values.get("data") is None
        data = last_data() if going_on else values["data"]
        if first and going_on and data not in (None, "sample"):
            print(f"Going on with the photos of {data}, used last (--data sample: the synthetic sample).")
        if (
            first
            and data not in (None, "sample")
            and (unused := {"sample_count", "sample_size"} & {*options.parameters})
        ):
            print(f"{' and '.join(sorted(unused))}: not used, because the photos are those of {data}.")
        if first and values.get("data") == "plant_village":
            fetch_plant_village()
        keep_last_report()
        # With a scheduler the trainings of one chapter keep all cores busy; on a GPU two could run out of its memory.
        workers = options.scheduler or os.environ.get("DASK_SCHEDULER_ADDRESS")
        at_once = 1 if workers or list(Path("/dev").glob("nvidia[0-9]*")) else AT_ONCE
        share_cores(min(at_once, len(options.chapters)))
        kernels = [start_kernel()]
        from notebooks.template.render_report import render_report  # takes seconds, as do the kernel's own imports

        stopped = execute_chapters(options.chapters, values, kernels, at_once)
        settle_last_report(forget_stale())
        if shown := shown_chapters():
            seconds = time.monotonic() - start
            page = render_report(shown, REPORT / "report.html", options.profile, command, seconds)
            peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
            peak /= 2**30 if sys.platform == "darwin" else 2**20
            print(f"\nThe report is {page}, made in {clock(time.monotonic() - start)} minutes", end=" ")
            print(f"with at most {peak:.1f} GB of memory in a chapter.")
        if options.force and not stopped:
            (RUNS / "forced.json").unlink()
    if stopped:
        sys.exit("\n".join(["", *(f"run_all.sh: {sentence}" for sentence in stopped)]))


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM):  # in the background, too, a shell's child can be stopped
        signal.signal(number, signal.default_int_handler)
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(
            "\nrun_all.sh: stopped; finished trainings are kept, and the same command goes on after the last epoch "
            "of the one under way."
        )
    except InputError as error:
        sys.exit(f"run_all.sh: {error}")
    finally:
        stop_all()
