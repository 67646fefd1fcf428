"""Measure time and peak memory of each chapter on the sample, with nothing cached and with everything cached.

    .venv/bin/python benchmarks/report.py [--chapters 01 02 03 04 05 06] [options of run_all.sh]

In a copy of the project, the whole report is made three times. First nothing is cached. Then everything is cached: all
chapters are executed again, but they find their finished trainings. Last, nothing has changed, so no chapter is
executed. In a second copy, the chapters run one at a time, in order, so each chapter finds only the trainings of the
chapters before it. Then each chapter runs again with everything cached. Every run also renders the page.
"""

import argparse
import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CHAPTERS = ("01", "02", "03", "04", "05", "06")


# Names of files and folders that are created by a run or a tool; everything else belongs to the project.
MADE = (
    ".git",
    ".venv",
    "__pycache__",
    ".*cache",
    "*.egg-info",
    "runs",
    "report",
    "sample-*",
    "split",
    "splits",
    "split.csv*",
)
MADE += ("source.json", "data_issues.csv", "cache", "plant_village*", "weights")


def copy_project(copy):
    """Copy the project, except the files in `MADE`, to the folder `copy`; link .venv there, and return the folder."""

    def made(folder, names):
        inside = Path(folder) in (ROOT, ROOT / "data")  # elsewhere code may match, such as leaves/report
        return shutil.ignore_patterns(*(MADE if inside else MADE[:5]))(folder, names)

    shutil.copytree(ROOT, copy, ignore=made)
    (copy / ".venv").symlink_to(ROOT / ".venv")
    return copy


@contextlib.contextmanager
def copy_of_project():
    """Yield the folder of a temporary copy of the project (see `copy_project`), and delete the folder afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        yield copy_project(Path(folder) / "leaf report")


def run(copy, *options):
    """Run run_all.sh in a copy; return its seconds, and the largest peak memory (GB) of any process."""
    start = time.perf_counter()
    with open(copy / "log.txt", "w+", encoding="utf-8") as log:
        process = subprocess.Popen([copy / "run_all.sh", *options], stdout=log, stderr=log)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            log.seek(0)
            sys.exit(log.read()[-2000:])
    return time.perf_counter() - start, usage.ru_maxrss / (2**30 if sys.platform == "darwin" else 2**20)


def forget_state(copy):
    """Make the next command execute all its chapters, even though nothing has changed."""
    (copy / "report" / "state.json").unlink(missing_ok=True)


def run_chapter(copy, chapter, *options):
    """Run one chapter and render the page; return seconds and peak memory, see `run`."""
    return run(copy, "--only", chapter, *options)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--chapters", nargs="+", choices=CHAPTERS, default=CHAPTERS, help="(default: all)")
    asked, options = parser.parse_known_args()
    chosen = [] if len(asked.chapters) == len(CHAPTERS) else ["--only", ",".join(asked.chapters)]
    with copy_of_project() as copy:
        for state in ("nothing cached", "everything cached", "nothing changed"):
            if state == "everything cached":
                forget_state(copy)
            seconds, memory = run(copy, *chosen, *options)
            print(f"The whole report with {state}: {seconds:.0f} s, {memory:.2f} GB", flush=True)
    print("\n| chapter alone | nothing cached, s | everything cached, s | peak memory, GB |\n|---|---|---|---|")
    with copy_of_project() as copy:
        first = {chapter: run_chapter(copy, chapter, *options) for chapter in asked.chapters}
        for chapter, (cold, most) in first.items():
            forget_state(copy)
            warm, memory = run_chapter(copy, chapter, *options)
            print(f"| {chapter} | {cold:.0f} | {warm:.0f} | {max(most, memory):.2f} |", flush=True)


if __name__ == "__main__":
    main()
