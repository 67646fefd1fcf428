"""The hyperparameter search of chapter 3: an Optuna study on disk that goes on where it was stopped."""

import inspect
import time
import warnings

from leaves import places
from leaves.batches import AUGMENTATION
from leaves.custom_cnn import cnn_spec, prepare
from leaves.files import InputError, disk_errors_explained
from leaves.runs import SCHEMA, spec_hash

import numpy as np
import optuna
from sqlalchemy.exc import OperationalError, SQLAlchemyError

optuna.logging.set_verbosity(optuna.logging.WARNING)  # a bar shows the trials instead
warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # of its drawings with matplotlib
FINISHED = (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED)


def search_final_model(suggest, train_all, split, size, epochs, balance, seed, **limits):
    """Search for a better network than FinalModel, or go on with this search where it was stopped.

    Parameters
    ----------
    suggest : callable(optuna.Trial) -> dict
        The search space: one point of it, as changes to FinalModel, see `custom_cnn.cnn_spec`.
    train_all : callable(list of dict, split, prepare) -> list of Run
        `helpers.train_all`.
    split : DataFrame, see `dataset.load_split`
    size, epochs, balance, seed : what all trials have in common
    limits : trials, minutes, at_once; see `run_search`

    Returns
    -------
    optuna.Study, kept in the folder of the runs
    """

    def spec_of(trial):
        return cnn_spec("03", "trial", split, size, epochs, seed, **suggest(trial))

    def train(specs):
        return train_all(specs, split, prepare)

    conditions = {"split": split.attrs["hash"], "size": size, "epochs": epochs, "balance": balance, "seed": seed}
    study = open_study(places.RUNS / f"{name_of_search(conditions, suggest)}.db")
    run_search(study, spec_of, train, seed=seed, **limits)
    return study


def changes_of(point, balance):
    """The point of a search space as changes to FinalModel, see `custom_cnn.cnn_spec`.

    Parameters
    ----------
    point : dict of hyperparameter to value
        `filters` of the first block double from block to block; `augmentation` is the share of the original's.
    balance : str, see `runs.training_spec`
    """
    weakened = {key: point["augmentation"] * value for key, value in AUGMENTATION.items() if key != "flip"}
    slope = {"negative_slope": 0.3} if point["activation"] == "LeakyReLU" else {}
    return {
        "filters": [point["filters"] * 2**block for block in range(point["depth"])],
        "kernel_size": point["kernel size"],
        "activation": [point["activation"], slope],
        "initializer": point["initializer"],
        "dropout": [point["dropout"]] * 2,
        "dense_units": point["dense units"],
        "l2": point["L2"],
        "augmentation": AUGMENTATION | weakened,
        "optimizer": {"class_name": "Adam", "config": {"learning_rate": point["learning rate"]}},
        "balance": balance,
    }


def trial_table(study):
    """The trials of a study: DataFrame of number, state, value, each hyperparameter by its name, and seconds."""
    trials = study.trials_dataframe(attrs=("number", "state", "value", "params", "duration"))
    trials.columns = [column.removeprefix("params_") for column in trials.columns]
    trials["duration"] = trials["duration"].dt.total_seconds()
    return trials


def best_trial(study):
    """The best trial of a study, for `suggest` to draw again; InputError if none was completed."""
    if not study.get_trials(states=[optuna.trial.TrialState.COMPLETE]):
        raise InputError("No trial of the search was completed: raise search_trials or search_minutes.")
    return optuna.trial.FixedTrial(study.best_params)


def open_study(file):
    """Open the Optuna study in an SQLite file of its name, or create both.

    A file that is damaged is set aside: its trials are found again among the runs.

    Parameters
    ----------
    file : Path

    Returns
    -------
    optuna.Study

    Raises
    ------
    InputError
        When the folder cannot be written to.
    """
    try:
        with disk_errors_explained(file):
            file.parent.mkdir(parents=True, exist_ok=True)
        wanted = {"storage": f"sqlite:///{file}", "study_name": file.stem, "direction": "maximize"}
        return optuna.create_study(**wanted, load_if_exists=True)
    except OperationalError as error:  # in use by another process, or not to be written to
        raise InputError(
            f"{file} cannot be used ({error.orig}): see that nobody else does, and run it again."
        ) from error
    except (SQLAlchemyError, RuntimeError):  # RuntimeError: made by another version of Optuna
        print(f"{file.name} is damaged and set aside: the search goes through its trials again.")
        file.replace(file.with_suffix(".damaged"))
        return open_study(file)


def name_of_search(conditions, suggest):
    """The name of a search: other conditions, another search space or another version of the code is another search.

    Parameters
    ----------
    conditions : dict, JSON-able
        All that its trainings have in common.
    suggest : callable(optuna.Trial) -> dict
        Its source code and that of `changes_of` are the search space.

    Returns
    -------
    str
    """
    space = inspect.getsource(suggest) + inspect.getsource(changes_of)
    content = conditions | {"version": SCHEMA, "space": space}
    return f"search-{spec_hash(content)}"


def run_search(study, spec_of, train_all, trials, minutes, seed, at_once):
    """Run a study until it has `trials` finished trials, or for so many minutes.

    Trials are suggested `at_once` at a time, trained, and added to the study when they are finished. They do not
    depend on how often the search was stopped, nor on where they are trained: the sampler (Tree-structured Parzen
    Estimator, Bergstra et al. 2011) starts from (seed, number of trials known), and the spec of a trial holds the
    median that it has to keep up with.

    Parameters
    ----------
    study : optuna.Study
    spec_of : callable(optuna.Trial) -> dict
        What the trial suggests, as the spec of a run.
    train_all : callable(list of dict) -> list of Run
    trials, seed : int
    minutes : float
        After which no trial begins.
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
        suggested = [known.ask() for _ in range(at_once)]
        specs = [spec_of(trial) | {"floor": floor} for trial in suggested]
        waiting = slice(len(finished) - first, trials - first)
        for trial, run in zip(suggested[waiting], train_all(specs[waiting]), strict=True):
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
