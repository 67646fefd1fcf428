"""The hyperparameter search of chapter 3: an Optuna study on disk that goes on where it was stopped."""

import time
import warnings
from pathlib import Path

import keras
import optuna
from sqlalchemy.exc import SQLAlchemyError
from tqdm import tqdm

from helpers import InputError, disk_trouble_told

optuna.logging.set_verbosity(optuna.logging.WARNING)  # a bar shows the trials instead
warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # of its drawings with matplotlib
FINISHED = (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED)


def open_study(file, name):
    """Open the Optuna study of this name in an SQLite file, or make both.

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
        pruner = optuna.pruners.MedianPruner(n_startup_trials=3, n_warmup_steps=1)
        return optuna.create_study(
            storage=storage, study_name=name, direction="maximize", pruner=pruner, load_if_exists=True
        )
    except (SQLAlchemyError, RuntimeError) as error:  # RuntimeError: made by another version of Optuna
        raise InputError(f"{file} is no storage that Optuna can read: {way_out}.") from error


def run_search(study, score, trials, minutes, seed):
    """Run a study until it has `trials` finished trials, or for so many minutes.

    The trials do not depend on how often the search was stopped: a trial that was under way then is dropped, and
    the sampler (Tree-structured Parzen Estimator, Bergstra et al. 2011) starts from (seed, number of finished trials).

    Parameters
    ----------
    score : callable(optuna.Trial) -> float
        Trains what the trial suggests; may raise optuna.TrialPruned.
    """
    for trial in study.get_trials(states=[optuna.trial.TrialState.RUNNING]):
        study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
    start = time.monotonic()
    finished = len(study.get_trials(states=FINISHED))
    with tqdm(total=trials, initial=min(finished, trials), desc="search", unit="trial") as bar:
        while finished < trials and time.monotonic() - start < 60 * minutes:
            study.sampler = optuna.samplers.TPESampler(seed=1000 * seed + finished, n_startup_trials=5)
            study.optimize(score, n_trials=1)
            finished += 1
            done = study.get_trials(states=[optuna.trial.TrialState.COMPLETE])
            best = f"{max(trial.value for trial in done):.3f}" if done else "none yet"
            bar.set_postfix({"best validation macro F1": best}, refresh=False)
            bar.update()


class Prune(keras.callbacks.Callback):
    """Reports the validation macro F1 of each epoch to a trial, and stops the trial if it is hopeless."""

    def __init__(self, trial):
        super().__init__()
        self.trial = trial

    def on_epoch_end(self, epoch, logs=None):
        self.trial.report(logs["val_macro_f1"], epoch)
        if self.trial.should_prune():
            raise optuna.TrialPruned
