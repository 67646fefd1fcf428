"""The hyperparameter search of chapter 3: an Optuna study on disk that goes on where it was stopped."""

import inspect
import os
import time
import warnings
from pathlib import Path

import numpy as np
import optuna
from sqlalchemy.exc import SQLAlchemyError

import helpers
from helpers import InputError, disk_trouble_told

optuna.logging.set_verbosity(optuna.logging.WARNING)  # a bar shows the trials instead
warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # of its drawings with matplotlib
FINISHED = (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED)


def open_study(file, name):
    """Open the Optuna study of this name in an SQLite file, or make both.

    A file that is damaged is set aside: its trials are found again among the runs. With ./run_all.sh --force (it sets
    RETRAIN) a study of an earlier command is deleted.

    Raises
    ------
    InputError
        When the file is no Optuna storage or holds another study.
    """
    file = Path(file)
    storage = f"sqlite:///{file}"
    way_out = "move it away or name another file as search_file"
    try:
        with disk_trouble_told(file):
            file.parent.mkdir(parents=True, exist_ok=True)
        others = optuna.get_all_study_names(storage) if file.exists() else []
        if others and name not in others:
            raise InputError(f"{file} holds the search {others[0]}, not {name}: {way_out}.")
        wanted = {"storage": storage, "study_name": name, "direction": "maximize"}
        study, forced = optuna.create_study(**wanted, load_if_exists=True), os.environ.get("RETRAIN")
        if forced and study.user_attrs.get("forced") != forced:  # another command has searched
            optuna.delete_study(study_name=name, storage=storage)
            study = optuna.create_study(**wanted)
            study.set_user_attr("forced", forced)
        return study
    except (SQLAlchemyError, RuntimeError) as error:  # RuntimeError: made by another version of Optuna
        if file.name == f"{name}.db":  # the search's own file, and no other that happens to lie there
            print(f"{file.name} is damaged and set aside: the search goes through its trials again.")
            file.replace(file.with_suffix(".damaged"))
            return open_study(file, name)
        raise InputError(f"{file} is no storage that Optuna can read: {way_out}.") from error


def name_of_search(conditions, suggest):
    """The name of a search: other conditions, another search space or another version of the code is another search.

    Parameters
    ----------
    conditions : dict, JSON-able
        All that its trainings have in common.
    suggest : callable(optuna.Trial) -> dict
        Its source code is the search space.
    """
    content = conditions | {"version": helpers.SCHEMA, "space": inspect.getsource(suggest)}
    return f"search-{helpers.spec_hash(content)}"


def run_search(study, spec_of, train_all, trials, minutes, seed, at_once):
    """Run a study until it has `trials` finished trials, or for so many minutes.

    Trials are suggested some at a time, trained, and added to the study when they are finished. They do not depend on
    how often the search was stopped, nor on where they are trained: the sampler (Tree-structured Parzen Estimator,
    Bergstra et al. 2011) starts from (seed, number of trials known), and the spec of a trial holds the
    median that it has to keep up with.

    Parameters
    ----------
    spec_of : callable(optuna.Trial) -> dict
        What the trial suggests, as the spec of a run.
    train_all : callable(list of dict) -> list of Run
    at_once : int
        Trials that may be trained at the same time.
    """
    start = time.monotonic()
    while len(finished := study.get_trials(states=FINISHED)) < trials and time.monotonic() - start < 60 * minutes:
        first = len(finished) // at_once * at_once  # what was known when the trials under way were suggested
        sampler = optuna.samplers.TPESampler(seed=1000 * seed + first, n_startup_trials=5)
        known = optuna.create_study(direction="maximize", sampler=sampler)
        known.add_trials(finished[:first])
        floor = median_floor(finished[:first])
        asked = [known.ask() for _ in range(at_once)]
        specs = [spec_of(trial) | {"floor": floor} for trial in asked]
        waiting = slice(len(finished) - first, trials - first)
        for trial, run in zip(asked[waiting], train_all(specs[waiting]), strict=True):
            study.add_trial(as_finished(trial, run))


def median_floor(trials):
    """The median over complete trials of the best validation macro F1 up to each epoch; nothing from fewer than three.

    A trial that falls below it after the first epoch is stopped (the median rule of Golovin et al. 2017).
    """
    complete = [trial for trial in trials if trial.state == optuna.trial.TrialState.COMPLETE]
    if len(complete) < 3:
        return []
    curves = [np.fmax.accumulate(list(trial.intermediate_values.values())) for trial in complete]
    epochs = range(1, max(map(len, curves)))
    return [0.0, *(float(np.median([curve[min(epoch, len(curve) - 1)] for curve in curves])) for epoch in epochs)]


def as_finished(trial, run):
    """A trial with what came of it: the curve, and the best validation macro F1 (0 if it diverged)."""
    curve, floor = run.history["val_macro_f1"].to_list(), run.spec["floor"]
    cut = bool(floor) and len(curve) < run.spec["epochs"] and max(curve) < floor[min(len(curve), len(floor)) - 1]
    return optuna.trial.create_trial(
        state=optuna.trial.TrialState.PRUNED if cut else optuna.trial.TrialState.COMPLETE,
        value=None if cut else 0.0 if run.result["diverged"] else max(curve),
        params=trial.params,
        distributions=trial.distributions,
        intermediate_values=dict(enumerate(curve)),
    )
