"""Search for hyperparameters better than FinalModel's (chapter 3), in rounds with more and more epochs.

A trial is one choice of the hyperparameters. FinalModel is itself a trial, and takes part in every round.
"""

import math
import warnings
from dataclasses import dataclass, replace

from leaves.batches import AUGMENTATION
from leaves.claims import MARGIN
from leaves.custom_cnn import cnn_spec, prepare
from leaves.runs import NUMBERS, repeat
from leaves.scoring import state_of

import numpy as np
import optuna
import pandas as pd

optuna.logging.set_verbosity(optuna.logging.WARNING)  # a progress bar shows the trials
warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # Optuna's sampler and plots are experimental
FINAL = 0  # the number of the trial that is FinalModel
AT_ONCE = 4  # trials suggested together, before their scores are known, so a cluster can train them in parallel
REDUCTION = 3  # a third of the challengers (see `run_rounds`) reach the next round, with 3 times the epochs
LEARNING_RATES = (1e-4, 1e-2)
# Each end of the range of learning rates is this share of the range, on a log scale. If the winner's learning rate lies
# in an end, the range grows at that end.
EDGE = 0.2
WIDER = 3  # factor by which the range grows at the end close to the winner
WIDENINGS = 2  # the range grows at most this many times


@dataclass(frozen=True)
class Search:
    """The result of `search_final_model`."""

    study: optuna.Study  # the trials with their scores in the first round
    rounds: pd.DataFrame  # see `round_table`
    number: int  # the number of the winning trial
    winner: dict  # the winner's changes to FinalModel; empty if FinalModel itself won
    runs: list  # the winner's Runs, one for each repeat


def search_final_model(
    suggest, train_all, split, final_runs, settings, size, epochs, trials, first_epochs, seed, repeats
):
    """Search for a better network than FinalModel by successive halving (Jamieson and Talwalkar 2016).

    Returns a `Search`. FinalModel takes part in every round, so the winner's mean validation score is never below
    that of FinalModel. If a search was stopped, the next call reuses its finished runs.

    Parameters
    ----------
    suggest : callable(optuna.Trial, (lowest, highest) learning rate) -> dict of changes to FinalModel
    train_all : see `helpers.train_all`
    final_runs : list of Run, the repeats of FinalModel, with the same `settings`, `size`, `epochs` and `seed` as here
    settings : dict, see `custom_cnn.final_model_settings`
    epochs, first_epochs : int, the epochs of the last and of the first round
    trials : int, the number of trials, including FinalModel
        Whenever the range of learning rates is widened, `AT_ONCE` trials are added.
    """
    changes, known = {}, {}

    def spec_of(trial, budget, number):
        changed = settings | {"log_layers": False} | changes[trial]
        return cnn_spec("03", "trial", split, size, budget, **repeat(number, seed, split), **changed)

    def train(numbers, budget, count=1):
        keys = [(trial, budget, number) for trial in numbers for number in range(count)]
        known.update({key: cut_short(final_runs[key[2]], budget) for key in keys if key[0] == FINAL})
        new = [key for key in keys if key not in known]
        known.update(zip(new, train_all([spec_of(*key) for key in new], split, prepare, NUMBERS), strict=True))
        return {trial: [known[trial, budget, number] for number in range(count)] for trial in numbers}

    study, budgets, champions = new_study(settings, seed), round_budgets(first_epochs, epochs), {FINAL}
    rates = tuple(pick(*LEARNING_RATES, final_point(settings)["learning rate"]) for pick in (min, max))
    for _ in range(1 + WIDENINGS):
        while len(changes) < trials:
            asked = [study.ask() for _ in range(min(AT_ONCE, trials - len(changes)))]
            changes |= {trial.number: suggest(trial, rates) for trial in asked} | {FINAL: {}}
            for number, runs in train([trial.number for trial in asked], budgets[0]).items():
                study.tell(number, score(runs))
        rounds, winner = run_rounds(train, trials, champions, budgets, repeats)
        wider = widened(rates, study.trials[winner].params["learning rate"])
        if winner == FINAL or wider == rates:
            break
        rates, trials, champions = wider, trials + AT_ONCE, champions | {winner}
    return Search(study, round_table(rounds, study), winner, changes[winner], rounds[-1][1][winner])


def cut_short(run, epochs):
    """Return a run as if its training had ended after `epochs` epochs; nothing is trained.

    The score and the state (such as "converged") are computed from the history. A run with at most `epochs` epochs in
    its spec is returned unchanged.
    """
    if epochs >= run.spec["epochs"]:
        return run
    curve = run.history["val_macro_f1"][:epochs]
    result = {"validation_macro_f1": float(curve.max()), "state": state_of(curve, epochs, constant=0.0)}
    return replace(run, spec=run.spec | {"epochs": epochs}, result=run.result | result)


def new_study(settings, seed):
    """Make an Optuna study in memory that begins with FinalModel and some random trials.

    The Tree-structured Parzen Estimator (Bergstra et al. 2011) suggests the later trials.
    """
    sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=2 * AT_ONCE, constant_liar=True)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    study.enqueue_trial(final_point(settings))
    return study


def widened(rates, rate):
    """Return the range of learning rates (lowest, highest); an end close to the winner's rate is moved outwards."""
    low, high = rates
    place = math.log(rate / low) / math.log(high / low)
    return low / WIDER if place < EDGE else low, high * WIDER if place > 1 - EDGE else high


def round_budgets(first, full):
    """List the epochs of each round, growing from `first` to `full` by a factor of about `REDUCTION`: list of int."""
    rounds = 1 + max(0, round(math.log(full / first, REDUCTION)))
    return [round(float(budget)) for budget in np.geomspace(full, first, rounds)[::-1]]


def run_rounds(train, trials, champions, budgets, repeats):
    """Train all trials in rounds, and find the trial with the best mean score after the last round.

    The champions are FinalModel and the winners of earlier calls; they take part in every round. All other trials are
    challengers, and the best third of these reaches the next round. Each round trains one repeat of each of its trials.
    If `repeats` is more than 1, one more round follows. It trains all repeats of the champions, and of the challengers
    that scored at most `MARGIN` below the best trial of the previous round. The trial with the highest mean score wins.
    FinalModel wins ties. A challenger that diverged or did not train cannot win.

    Parameters
    ----------
    train : callable(numbers of trials, epochs, repeats=1) -> dict of a trial's number to list of Run
    trials : int, how many trials there are; their numbers begin at 0
    champions : set of int
        The numbers of FinalModel and of the winners of earlier calls. Between two calls, `search_final_model` widens
        the range of learning rates and adds trials.
    budgets : list of int, see `round_budgets`
    repeats : int

    Returns
    -------
    rounds : list of (epochs, dict of trial to list of Run)
    winner : int, the number of the winning trial
    """
    rounds, champions = [], sorted(champions)
    challengers = [trial for trial in range(trials) if trial not in champions]
    for budget in budgets:
        runs = train([*champions, *challengers], budget)
        rounds.append((budget, runs))
        ranked = sorted(filter(lambda trial: score(runs[trial]), challengers), key=lambda trial: -score(runs[trial]))
        if budget < budgets[-1]:
            challengers = ranked[: math.ceil(len(ranked) / REDUCTION)]
    best = max(map(score, runs.values()))
    close = [trial for trial in ranked if score(runs[trial]) >= best - MARGIN]
    if repeats > 1:
        runs = train([*champions, *close], budgets[-1], repeats)
        rounds.append((budgets[-1], runs))
    sound = filter(lambda trial: has_trained(runs[trial]), close)
    return rounds, max([*champions, *sound], key=lambda trial: score(runs[trial]))


def score(runs):
    """Average the validation macro F1 of a trial's repeats; a repeat that diverged counts as 0."""
    return float(np.mean([run.result["validation_macro_f1"] or 0 for run in runs]))


def has_trained(runs):
    """Return whether no repeat of a trial has the state "diverged" or "did not train"."""
    return not {"diverged", "did not train"} & {run.result["state"] for run in runs}


def round_table(rounds, study):
    """List the trials of all rounds: DataFrame of round, epochs, repeats, number, score, state and hyperparameters.

    Each row is one trial in one round. `number` is the number of the trial, `score` the mean validation macro F1 over
    its repeats, and `state` lists the states that occur among these repeats.
    """
    points = [trial.params for trial in study.trials]
    rows = [
        {
            "round": position,
            "epochs": budget,
            "repeats": len(repeated),
            "number": number,
            "score": score(repeated),
            "state": ", ".join(dict.fromkeys(run.result["state"] for run in repeated)),
            **points[number],
        }
        for position, (budget, runs) in enumerate(rounds, 1)
        for number, repeated in runs.items()
    ]
    return pd.DataFrame(rows)


def depths(filters, size):
    """Return the smallest and largest number of blocks to try; each block halves the side, and 1 pixel must remain."""
    return min(3, len(filters)), min(max(5, len(filters)), int(math.log2(size)))


def final_point(settings):
    """Return FinalModel's hyperparameters as a point of the search space: dict of name to value, see `changes_of`."""
    return {
        "width": 1.0,
        "depth": len(settings["filters"]),
        "activation": "LeakyReLU",
        "kernel size": 3,
        "initializer": "glorot_uniform",
        "dropout": 0.3,
        "dense units": 512,
        "L2": 0.0,
        "augmentation": "FinalModel's",
        "learning rate": settings["optimizer"]["config"]["learning_rate"],
    }


def changes_of(point, settings):
    """Convert a point of the search space into changes to FinalModel, see `custom_cnn.cnn_spec`.

    `width` multiplies the filters of each block. A block that FinalModel does not have gets twice the filters of the
    block before it.
    """
    filters = settings["filters"]
    filters = [*filters, *(filters[-1] * 2**block for block in range(1, 1 + point["depth"]))][: point["depth"]]
    flips = AUGMENTATION | {"rotation": 0, "shift": 0, "zoom": 0}
    choices = {"FinalModel's": settings["augmentation"], "flips": flips, "the original's": AUGMENTATION}
    return {
        "filters": [min(2048, math.ceil(point["width"] * count)) for count in filters],
        "kernel_size": point["kernel size"],
        "activation": [point["activation"], {"negative_slope": 0.3} if point["activation"] == "LeakyReLU" else {}],
        "initializer": point["initializer"],
        "dropout": [point["dropout"]] * 2,
        "dense_units": point["dense units"],
        "l2": point["L2"],
        "augmentation": choices[point["augmentation"]],
        "optimizer": {"class_name": "Adam", "config": {"learning_rate": point["learning rate"]}},
    }
