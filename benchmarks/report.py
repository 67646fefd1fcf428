"""Time and peak memory of each chapter on the sample, with nothing cached and with everything cached.

    python benchmarks/report.py [options of run_all.sh]

Runs in a copy of the project, chapter after chapter (each draws the page too), then the whole warm run in one command.
"""

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


@contextlib.contextmanager
def copy_of_project():
    """A copy of the project's own files that shares the .venv, for as long as it is needed."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "leaf report"
        made = (
            "runs",
            "report",
            "sample-*",
            "split",
            "splits",
            "split.csv*",
            "data_issues.csv",
            "cache",
            "plant_village*",
        )
        shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".git", ".venv", "__pycache__", ".*cache", *made))
        (copy / ".venv").symlink_to(ROOT / ".venv")
        yield copy


def run(copy, *options):
    """Run the command; returns its seconds and the peak memory in GB of the largest of its processes."""
    start = time.perf_counter()
    with open(copy / "log.txt", "w+", encoding="utf-8") as log:
        process = subprocess.Popen([copy / "run_all.sh", *options], stdout=log, stderr=log)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            log.seek(0)
            sys.exit(log.read()[-2000:])
    return time.perf_counter() - start, usage.ru_maxrss / (2**30 if sys.platform == "darwin" else 2**20)


def run_chapter(copy, chapter, *options):
    """Run one chapter, the page included; see `run`."""
    return run(copy, "--only", chapter, *options)


def main():
    options = sys.argv[1:]
    print("| chapter | cold, s | warm, s | peak memory, GB |\n|---|---|---|---|")
    with copy_of_project() as copy:
        first = {chapter: run_chapter(copy, chapter, *options) for chapter in CHAPTERS}
        for chapter in CHAPTERS:
            warm, memory = run_chapter(copy, chapter, *options)
            print(
                f"| {chapter} | {first[chapter][0]:.0f} | {warm:.0f} | {max(first[chapter][1], memory):.2f} |",
                flush=True,
            )
        print(f"| sum | {sum(seconds for seconds, _ in first.values()):.0f} | | |")
        warm, memory = run(copy, *options)
    print(f"\nwhole run, everything cached: {warm:.0f} s, {memory:.1f} GB")


if __name__ == "__main__":
    main()
