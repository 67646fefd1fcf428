"""Plan a run (run_all.sh --plan): count cached trainings, count waiting ones and estimate their time; write nothing."""

import ast
import contextlib
import io
import shutil
import tempfile
import unittest.mock
from pathlib import Path

from leaves import places
from leaves.files import InputError, file_hash, read_json, without_stderr
from leaves.planning import AheadError, planned
from leaves.report.cells import needed_code
from leaves.report.chapters import READERS, chapter_parameters
from leaves.report.options import last_data

import numpy as np


def print_plan(chapters, values, unchanged, forgotten):
    """Print how many trainings are cached and how many wait, and how long these take, per chapter and in total.

    Parameters
    ----------
    chapters : list of Path
    values : dict of name to value; each chapter gets the parameters that it defines
    unchanged : list of Path, the chapters that would not be executed
    forgotten : set of Path, the folders of the runs that --force would train again
    """
    open_chapters, plans, measured = set(), [], ()
    with without_stderr(), tempfile.TemporaryDirectory() as folder:  # TensorFlow writes many messages to stderr
        runs = copy_of_runs(Path(folder) / "runs", forgotten)
        for notebook in chapters:
            number = notebook.name[:2]
            before = [int(other) for other in READERS if number in READERS[other] and other in open_chapters]
            if number == "01":
                told, is_open = plan_of_split(notebook, values, notebook in unchanged)
            elif before:
                told, is_open = (
                    f"trainings can be counted after chapter{'s' * (len(before) > 1)} {', '.join(map(str, before))}",
                    True,
                )
            else:
                measured = measured or measured_runs()
                plan, end = plan_of(notebook, values, runs)
                told, is_open = in_one_line(plan, end, time_in_words(plan.waiting, *measured)), bool(end)
                plans.append(plan)
            open_chapters |= {number} if is_open else set()
            print(f"{notebook.stem}: {told}", flush=True)
    print(sum_in_words(plans, measured, open_chapters))


def sum_in_words(plans, measured, open_chapters):
    """Return the last lines of a plan: the sum over all chapters, and a note if later trainings cannot be counted."""
    cached = {name for plan in plans for name in plan.cached}
    waiting = [spec for plan in plans for spec in plan.waiting]
    lines = ["Nothing was trained or written."]
    if open_chapters:
        lines.insert(0, "Trainings that depend on missing results cannot be counted yet.")
    if plans:
        time = time_in_words(waiting, *measured)
        lines.insert(0, f"In all: {counted(len(cached))} cached, {to_train(waiting, time, open_chapters)}.")
    return "\n".join(lines)


def plan_of_split(notebook, values, unchanged):
    """Plan chapter 1 without reading the photos: return a sentence, and True if the trainings wait for a new split."""
    takes = "which takes about half a minute per thousand photos"
    if unchanged:
        return "unchanged, so the split stays the same", False
    if not places.SPLIT_CSV.exists():
        return f"makes the split first, {takes}; then the trainings can be counted", True
    given = {name: values.get(name, default) for name, default in chapter_parameters(notebook).items()}
    source = read_json(places.SOURCE_JSON)
    changed = [name for name, value in source.get("settings", {}).items() if given[name] != value]
    if given["data"] not in (None, last_data()):
        changed.append("data")
    elif last_data() == "sample" and not is_of_sample(given):
        changed.append("the synthetic sample")
    if changed:
        return f"makes another split first ({', '.join(changed)} changed), {takes}", True
    return "is executed; the plan assumes that the split stays the same, which holds if the photos are unchanged", False


def is_of_sample(given):
    """Return whether the current split is of the synthetic sample with chapter 1's parameters `given`."""
    from leaves.dataset import load_split  # Keras takes seconds
    from leaves.sources import sample_folder

    folder = sample_folder(given["sample_count"], given["sample_size"], given["data_seed"])
    with contextlib.suppress(InputError):
        return (places.ROOT / load_split()["path"][0]).is_relative_to(folder)
    return False


def copy_of_runs(folder, forgotten):
    """Make a folder that replaces runs/ while a plan is made; return it.

    It has a link to each run, but not to those in `forgotten`: with --force, they would be trained again.
    The records of the chapters (runs/<number>.json) are copied and not linked, because planning a chapter writes its
    record.
    """
    folder.mkdir()
    for place in places.RUNS.glob("*"):
        if (place / "spec.json").exists() and place not in forgotten:
            (folder / place.name).symlink_to(place)
        elif place.suffix == ".json":
            shutil.copy(place, folder)
    return folder


def plan_of(notebook, values, runs):
    """Run only the code that a chapter's trainings need (see `cells.needed_code`), up to the first missing result.

    Parameters
    ----------
    runs : Path, see `copy_of_runs`

    Returns
    -------
    plan : planning.Plan
    end : str
        Why the plan stops before the end of the chapter; "" if it reaches the end.
    """
    given = {name: value for name, value in values.items() if name in chapter_parameters(notebook)}
    code = compile(ast.fix_missing_locations(needed_code(notebook, given)), notebook.name, "exec")
    places_of_plan = unittest.mock.patch.multiple(places, RUNS=runs, REPORT=runs.parent / "report")
    with places_of_plan, planned(runs) as plan, contextlib.redirect_stdout(io.StringIO()):
        try:
            exec(code, {"__name__": "__main__"})  # noqa: S102 - the chapter's own code
        except AheadError as missing:
            return plan, str(missing)
        except InputError as error:
            return plan, f"it would stop: {error}"
        except Exception as error:  # noqa: BLE001 - the other chapters can be planned all the same
            return plan, f"it would stop: {type(error).__name__}: {error}"
    return plan, ""


def measured_runs():
    """Read the finished runs, from which `time_in_words` estimates how long other trainings take.

    Returns
    -------
    own, published : list of leaves.runs.Run, the runs in runs/ and those in results/runs
    photos : dict of a split's hash to the number of photos in one of its folds, which are nearly equal in size
    """
    from leaves.dataset import load_split  # TensorFlow takes seconds
    from leaves.runs import Run

    found, photos = ([], []), {}
    for runs, place in zip(found, (places.RUNS, places.RESULTS / "runs"), strict=True):
        for file in place.glob("*/result.json"):
            spec, result = read_json(file.with_name("spec.json")), read_json(file)
            answers = file.with_name("validation.npy")
            if spec and result and answers.exists() and file_hash(answers) == result["hashes"]["validation.npy"]:
                runs.append(Run(file.parent, spec, result))
                split = spec["split"].split()[0]
                photos[split] = max(photos.get(split, 0), len(np.load(answers, mmap_mode="r")))
    with contextlib.suppress(InputError):  # no split yet
        split = load_split()
        photos[split.attrs["hash"]] = int((split["fold"] == 0).sum())
    return *found, photos


def time_in_words(waiting, own, published, photos):
    """Estimate in words how long the specs in `waiting` take to train; the other parameters are from `measured_runs`.

    The estimates come from `own`. The runs `published` are added only if this gives estimates for more specs.
    """
    from leaves.progress import estimated_seconds, in_words

    seconds, elsewhere = estimated_seconds(waiting, own, photos), ""
    if len(seconds) < len(waiting):
        with_published = estimated_seconds(waiting, own + published, photos)
        if len(with_published) > len(seconds):
            seconds, elsewhere = with_published, " (estimated from results/runs, perhaps measured on another machine)"
    if not seconds:
        return "no similar training has been measured yet"
    of_some = f" for {len(seconds)} of them" if len(seconds) < len(waiting) else ""
    return f"{in_words(sum(seconds))}{of_some}{elsewhere}"


def in_one_line(plan, end, time):
    """Describe in one line the cached and the waiting trainings of a chapter; `plan` and `end` are from `plan_of`."""
    cached = f"{counted(len(plan.cached))} cached"
    if not end or plan.waiting:
        return f"{cached}, {to_train(plan.waiting, time, end)}"
    return f"{cached}; {end}" if end.startswith("it would stop") else f"{cached}; the rest needs {end}"


def to_train(waiting, time, is_open):
    """Say how many trainings wait, and how long they take; if `is_open`, more trainings may follow."""
    if not waiting:
        return "more to train later" if is_open else "none to train"
    return f"{'at least ' if is_open else ''}{len(waiting)} to train, {time}"


def counted(count):
    """Write a number of trainings, as in "1 training" and "2 trainings"."""
    return f"{count} training{'' if count == 1 else 's'}"
