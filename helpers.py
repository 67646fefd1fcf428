"""Provide the functions that all notebooks share: train networks, read the runs of earlier chapters, show a figure.

Importing this module reads, writes and trains nothing. The package `leaves` has the code behind these functions.
"""

import functools
import importlib.metadata
import os
import platform
from collections.abc import Callable

from leaves import parameters, places, plots
from leaves.dataset import load_split
from leaves.files import InputError, file_hash, read_json, write_json
from leaves.progress import tell_outcomes, training_bar
from leaves.rules import RULES
from leaves.runs import WEIGHTS, Run, find_runs, folder_named, free_first, read_run, spec_hash, train_once
from leaves.training import OnEpoch, gpus
from leaves.vector import save_figure

import matplotlib.pyplot as plt
import pandas as pd
from IPython.display import Image, Markdown, display


def begin(names: dict) -> None:
    """Check the parameters among a notebook's ``globals()``, and give all figures one style.

    If a parameter has an invalid value, InputError names the parameter and the values that it accepts.
    """
    parameters.check(names)
    plots.set_style()


def provenance(split: pd.DataFrame | None = None) -> str:
    """Return one line that names the split, the versions of Python and the packages, and the number of cores."""
    packages = ("tensorflow", "keras", "numpy", "scikit-learn")
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages)
    of_split = f"split {split.attrs['hash']}, " if split is not None else ""
    return f"{of_split}Python {platform.python_version()}, {versions}, {os.cpu_count()} processor cores"


def train(spec: dict, split: pd.DataFrame, prepare: Callable) -> Run:
    """Train one spec with `train_all` and return its Run; InputError if the loss became NaN or infinite."""
    [run] = train_all([spec], split, prepare)
    if run.result["diverged"]:
        raise InputError(
            f"{run.name} diverged: its loss was no longer a number in epoch {run.result['epochs']}; "
            f"lower the learning rate of {spec['optimizer']['config'].get('learning_rate')}."
        )
    return run


def train_all(specs: list[dict], split: pd.DataFrame, prepare: Callable, needs: str | list = WEIGHTS) -> list[Run]:
    """Train each spec of a list once, in this process or on the workers of a Dask cluster; the results are the same.

    A finished run is not trained again, and an interrupted one resumes from its last checkpoint. If a run diverged, its
    result says so. To use a cluster, set the environment variable DASK_SCHEDULER_ADDRESS to its scheduler's address.

    Parameters
    ----------
    specs : list of dict, JSON-able, as `leaves.runs.training_spec` makes them, with the keys that `prepare` reads
    prepare : callable(spec, split) -> leaves.training.Training
        Called only if the spec has not been trained yet.
    needs : str or list of str
        The file that the caller will read from every run, or a list with one file per spec, see
        `leaves.runs.find_runs`. If a spec has no run in runs/, its run in results/runs is used if that has this file.

    Returns
    -------
    list of Run, in the order of the specs
    """
    found = find_runs(specs, needs)
    waiting = {spec_hash(spec): spec for spec, run in zip(specs, found, strict=True) if not run}
    address = os.environ.get("DASK_SCHEDULER_ADDRESS")
    if not address and len(waiting) > 1 and len(gpus()) > 1:
        address = f"local:{len(gpus())}"  # one training per GPU keeps the GPUs busier than one training on all GPUs
    with training_bar(waiting, [*{run.folder: run for run in found if run}.values()]) as progress:
        if address and waiting:
            from leaves import cluster  # Dask takes a second

            cluster.train_queue(waiting, split, prepare, address, progress)
        else:
            for key, spec in free_first(waiting):
                announce = OnEpoch(functools.partial(progress, key))
                train_once(spec, split, prepare, announce, patience=float("inf"))
                progress(key, None, None)
    finished = find_runs(specs, needs)
    tell_outcomes(finished)
    return finished


def record_runs(chapter: str, runs: dict, evidence=(), repeats: dict | None = None) -> None:
    """Write the names of a chapter's runs, and its evidence on claims, to runs/<chapter>.json for later chapters.

    Parameters
    ----------
    runs : dict of model name to Run
    evidence : list of dict, one for each claim, the records that chapter 6 gives to `leaves.claims.judge`
    repeats : dict of model name to list of Run, the repeats of each model
    """
    record = {"split": load_split().attrs["hash"], "evidence": list(evidence)}
    record["runs"] = {name: run.folder.name for name, run in runs.items()}
    record["results"] = {name: file_hash(run.folder / "result.json") for name, run in runs.items()}
    record["repeats"] = {name: [run.folder.name for run in repeated] for name, repeated in (repeats or {}).items()}
    write_json(places.RUNS / f"{chapter}.json", record)


def recorded_runs(chapter: str, notebook: str) -> dict[str, Run]:
    """Return a chapter's runs on this split, by model name; if runs are missing, InputError says to run `notebook`."""
    record = read_json(places.RUNS / f"{chapter}.json")
    folders = {name: places.RUNS / folder for name, folder in record.get("runs", {}).items()}
    done = all((folder / "result.json").exists() for folder in folders.values())
    if not folders or not done or record["split"] != load_split().attrs["hash"]:
        missing = f"The runs of chapter {chapter} for the present split are missing"
        raise InputError(f"{missing}: run notebook {notebook} first.")
    # Chapters can share a run. Its spec.json has `chapter` and `name` from the first chapter; both are replaced here.
    return {name: read_run(folder, chapter=chapter, name=name) for name, folder in folders.items()}


def recorded(chapter: str, kind: str) -> list | dict:
    """Read records that `record_runs` wrote: "evidence" (list of dict) or "repeats" (dict of lists of Run)."""
    record = read_json(places.RUNS / f"{chapter}.json")
    if kind not in record:
        raise InputError(f"runs/{chapter}.json is missing or damaged: run the notebook of chapter {chapter} again.")
    if kind == "evidence":
        return record[kind]
    return {name: [read_run(folder_named(folder)) for folder in own] for name, own in record[kind].items()}


def explain(*rules: str) -> None:
    """Display the rules of the verdicts with the given names, which are keys of `leaves.rules.RULES`."""
    display(Markdown(" ".join(RULES[rule] for rule in rules)))


def show(figure, name: str, caption: str, table=None) -> None:
    """Save a figure in report/figures, see `leaves.vector.save_figure`, and display it with its caption.

    `table` is the DataFrame or Series from which the figure was drawn. If an axis has names as tick labels,
    `plots.check_drawn` compares figure and table; ValueError if they differ. The PNG's metadata record the check.
    """
    plots.plain_log_ticks(figure)
    names = "on an axis" if plots.has_categories(figure) else "none"
    if names != "none" and table is not None:
        plots.check_drawn(figure, table)
        names = "compared with the table"
    file = places.REPORT / "figures" / f"{name}.png"
    save_figure(figure, file, {"Title": name, "Description": caption, "Names": names})
    plt.close(figure)
    display(Image(file.read_bytes(), alt=caption, metadata={"name": name}))
