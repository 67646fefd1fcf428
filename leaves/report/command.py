"""Run the command of run_all.sh: execute the chosen chapters, and render all up-to-date chapters into the report."""

import os
import resource
import shlex
import sys
import time

from leaves import places
from leaves.files import disk_errors_explained, read_json
from leaves.locks import locked
from leaves.report import keep
from leaves.report.chapters import CHAPTERS
from leaves.report.live import clock
from leaves.report.options import last_data, read_options
from leaves.report.render import render_report
from leaves.report.side_by_side import execute_chapters
from leaves.report.unchanged import chapter_digests, known_chapters, remember_state, state_file, unchanged_chapters

import yaml


def main():
    """Run the command line; exit with one sentence for each chapter that did not reach its end."""
    start, command = time.monotonic(), shlex.join(["./run_all.sh", *sys.argv[1:]])
    options = read_options(sys.argv[1:])
    values = effective_parameters(options)
    os.environ["LEAVES_PROFILE"] = options.profile  # read by leaves.published
    if options.plan:
        say_plan(options, values)
        return
    if options.scheduler:
        check_scheduler(options.scheduler)
    with locked(places.RUNS / "lock"), locked(places.REPORT / "lock"):
        quiet_kernels()
        if CHAPTERS[0] in options.chapters:
            say_which_data(options, values)
        known = {} if options.force else known_chapters()
        digests = chapter_digests(options.chapters, values)
        unchanged = unchanged_chapters(digests, known)
        for chapter in unchanged:
            print(f"{chapter.stem}: unchanged, so it is not executed again")
        changed = [chapter for chapter in options.chapters if chapter not in unchanged]
        if not changed:
            print(f"\nThe report {places.REPORT / 'report.html'} is unchanged.")
            return
        keep.keep_last_report()
        if options.force:
            os.environ["LEAVES_NO_EVIDENCE"] = "1"  # read by leaves.runs in the kernels
            forget_runs(options.chapters)
        stopped = execute_chapters(changed, values)
        keep.settle_last_report(keep.forget_stale())
        if shown := keep.shown_chapters():
            seconds = time.monotonic() - start
            page = render_report(shown, places.REPORT / "report.html", options.profile, command, seconds)
            print(f"\nThe report is {page}, made in {clock(time.monotonic() - start)} minutes", end=" ")
            print(f"with at most {peak_memory():.1f} GB of memory in a chapter.")
        if stopped:
            state_file().unlink(missing_ok=True)
        else:
            remember_state({chapter: digests[chapter] for chapter in changed}, known)
    if stopped:
        sys.exit("\n".join(["", *(f"run_all.sh: {sentence}" for sentence in stopped)]))


def say_plan(options, values):
    """Print, for --plan, what the same command would do without this option."""
    from leaves.report.plan import print_plan  # this imports IPython, which takes a second

    if options.force:
        os.environ["LEAVES_NO_EVIDENCE"] = "1"
    known = {} if options.force else known_chapters()
    unchanged = unchanged_chapters(chapter_digests(options.chapters, values), known)
    print_plan(options.chapters, values, unchanged, runs_of(options.chapters) if options.force else set())


def effective_parameters(options):
    """Merge the parameters of the profile and the command line: dict of name to value; the command line wins."""
    profile = places.NOTEBOOKS / "profiles" / f"{options.profile}.yaml"
    return {**(yaml.safe_load(profile.read_text(encoding="utf-8")) or {}), **options.parameters}


def check_scheduler(address):
    """Pass the value of --scheduler to the kernels.

    Any value other than local:N is a scheduler's address; InputError if no scheduler answers there.
    """
    if not address.startswith("local:"):
        from leaves import cluster  # importing Dask takes a second

        cluster.connect(address).close()
    os.environ["DASK_SCHEDULER_ADDRESS"] = address  # read by helpers.train_all


def quiet_kernels():
    """Redirect stderr of the kernels' C++ libraries to report/kernels.log, so the terminal shows only progress."""
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1)
    with disk_errors_explained(places.REPORT), open(places.REPORT / "kernels.log", "w", encoding="utf-8") as log:
        os.dup2(log.fileno(), 2)  # the kernels inherit this file as stderr


def forget_runs(chapters):
    """Delete the runs that chapters trained or recorded, so these runs are trained again (--force)."""
    from leaves.runs import forget_run  # importing TensorFlow takes seconds

    for folder in runs_of(chapters):
        forget_run(folder)


def runs_of(chapters):
    """Find the folders of the runs that chapters trained or recorded: set of Path.

    If the name of a run's folder begins with a chapter's number, this chapter trained the run. A chapter's file
    runs/<number>.json names the runs that the chapter recorded; another chapter may have trained some of these.
    """
    folders = set()
    for number in (chapter.name[:2] for chapter in chapters):
        record = read_json(places.RUNS / f"{number}.json")
        recorded = [record.get("runs", {}).values(), *record.get("repeats", {}).values()]
        named = {places.RUNS / name for names in recorded for name in names}
        folders |= named | {*places.RUNS.glob(f"{number}-*")}
    return {folder for folder in folders if folder.exists()}


def say_which_data(options, values):
    """Print whether chapter 1 uses the photos of the last run again, and which of the given parameters have no effect.

    If the command names no photos, those of the last run are used. The parameters `sample_count` and `sample_size` have
    an effect only on the synthetic sample. If the parameter `data` is "plant_village", this function downloads the
    photos before chapter 1 is executed, because here the terminal can show a progress bar.
    """
    data = values.get("data") or last_data()
    if values.get("data") is None and data not in (None, "sample"):
        print(f"Using the photos of {data}, as in the last run (use --data sample for the synthetic sample).")
    unused = {"sample_count", "sample_size"} & {*options.parameters}
    if data not in (None, "sample") and unused:
        print(f"{' and '.join(sorted(unused))}: not used, because the photos are those of {data}.")
    if values.get("data") == "plant_village":
        from leaves.sources import locate  # importing Keras takes seconds

        locate("plant_village", 0, 0, 0)


def peak_memory():
    """Return the peak memory, in GB, of the kernel that used the most memory."""
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return peak / (2**30 if sys.platform == "darwin" else 2**20)
