"""The search of chapter 3 in figures, a table and words."""

from leaves.claims import count_text
from leaves.plots import MODEL_COLOURS, MODEL_MARKERS
from leaves.search import FINAL

import matplotlib.pyplot as plt
import optuna
import pandas as pd

LEAST_TRIALS = 30  # fewer say nothing about a single hyperparameter
TRIAL = "FinalModel (tuned)"  # how the other chapters draw the trial that won


def last_scores(search):
    """The scores in the last round, Series of float by trial, and the number of repeats of which each is the mean."""
    last = search.rounds[search.rounds["round"] == search.rounds["round"].max()]
    return last.set_index("number")["score"], int(last["repeats"].iloc[0])


def finding(search):
    """The sentences that say what a `search.Search` found."""
    (scores, repeats), trials = last_scores(search), search.rounds["number"].nunique()
    rounds, over = search.rounds["round"].nunique(), f"mean of {count_text(repeats, 'repeat')}"
    text = f"The search compared {count_text(trials, 'network')} in {count_text(rounds, 'round')}; one is FinalModel."
    if search.number == FINAL:
        return f"{text} None of the others beat its validation macro F1 of {scores[FINAL]:.3f} ({over}): it is kept."
    best, final = scores[search.number], scores[FINAL]
    return (
        f"{text} Trial {search.number} has a validation macro F1 of {best:.3f} and FinalModel {final:.3f} ({over}). "
        f"The difference of {best - final:+.3f} is optimistic: these photos chose the best of {trials} trials."
    )


def style_rounds(search):
    """Format the ten trials that came furthest, each in its last round; returns a pandas Styler."""
    last = search.rounds.groupby("number").tail(1).sort_values(["round", "score"], ascending=False).head(10)
    formats = {"score": "{:.3f}", "width": "{:g}", "dropout": "{:.2f}", "L2": "{:g}", "learning rate": "{:.2g}"}
    title = f"The best of {search.rounds['number'].nunique()} trials; trial {FINAL} is FinalModel"
    return last.style.hide().format(formats).set_caption(title)


def plot_rounds(search):
    """Draw the score of each trial in each of its rounds.

    Parameters
    ----------
    search : search.Search

    Returns
    -------
    figure : matplotlib Figure
    caption : str
    table : Series of list of float, the scores of each round by its name on the axis
    """
    rounds, repeats = search.rounds, search.rounds["repeats"].map(lambda count: f",\n{count} repeats" * (count > 1))
    names = rounds["epochs"].map(count_text, noun="epoch") + repeats
    figure, axis = plt.subplots(figsize=(8, 4))
    for _, of_trial in rounds.groupby("number"):
        axis.plot(of_trial["round"], of_trial["score"], ".-", color="0.75")
    marked = {search.number: TRIAL, FINAL: "FinalModel"}
    for number, name in marked.items():
        of_trial, label = rounds[rounds["number"] == number], name if number == FINAL else f"trial {number}"
        look = {"color": MODEL_COLOURS[name], "marker": MODEL_MARKERS[name], "linewidth": 2, "markersize": 8}
        axis.plot(of_trial["round"], of_trial["score"], label=label, **look)
    axis.set_xticks(rounds["round"].unique(), names.unique())
    scores, repeats = last_scores(search)
    winner = f"Trial {search.number}" if search.number != FINAL else "FinalModel"
    title = f"{winner} wins: macro F1 {scores[search.number]:.3f} over {count_text(repeats, 'repeat')}"
    axis.set(ylabel="validation macro F1", xlabel="round", title=title)
    axis.legend(fontsize="small")
    caption = "Validation macro F1 of each trial in each round: the best third goes on, and FinalModel always."
    return figure, caption, rounds.groupby(names, sort=False)["score"].agg(list)


def plot_importances(search, seed):
    """Draw the share of the first round's variance that each hyperparameter explains (fANOVA, Hutter et al. 2014).

    Parameters
    ----------
    search : search.Search
    seed : int
        Of the random forest that is fitted to the trials.

    Returns
    -------
    figure : matplotlib Figure
    caption : str
    shares : Series of float, by hyperparameter
    """
    trials, study = search.study.trials, optuna.create_study(direction="maximize")
    space = trials[-1].distributions  # the widest: fANOVA needs one space for all trials
    for trial in trials:
        study.add_trial(optuna.create_trial(value=trial.value, params=trial.params, distributions=space))
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=seed)
    shares = pd.Series(optuna.importance.get_param_importances(study, evaluator=evaluator))
    figure, axis = plt.subplots(figsize=(8, 3.6))
    axis.barh(shares.index, shares)
    axis.invert_yaxis()
    axis.set(xlabel="share of the variance", title=f"{shares.idxmax().capitalize()} explains most of the first round")
    caption = f"Share of the variance of {len(trials)} trials in the first round that each hyperparameter explains."
    return figure, caption, shares


def plot_slices(search):
    """Draw the score in the first round over each hyperparameter.

    Returns
    -------
    figure : matplotlib Figure
    caption : str
    table : Series of list of float, by the words on the axes
    """
    first = search.rounds[search.rounds["round"] == 1]
    names = list(first.columns[first.columns.get_loc("state") + 1 :])
    figure, axes = plt.subplots(2, -(-len(names) // 2), figsize=(13, 5.4), sharey=True, squeeze=False)
    words = []
    for axis, name in zip(axes.flat, names, strict=False):
        ranked = first.sort_values(name)
        values = ranked[name].map(str) if ranked[name].nunique() <= 5 else ranked[name]
        axis.plot(values, ranked["score"], "o", color="0.5")
        of_final = ranked["number"] == FINAL
        axis.plot(values[of_final], ranked["score"][of_final], "s", color=MODEL_COLOURS["FinalModel"])
        axis.set_xlabel(name)
        if name == "learning rate":
            axis.set_xscale("log")
        axis.tick_params(axis="x", labelsize="x-small")
        if isinstance(ranked[name].iloc[0], str):
            words.append(ranked.groupby(name)["score"].agg(list))
    for axis in axes.flat[len(names) :]:
        axis.axis("off")
    figure.supylabel("validation macro F1")
    caption = f"Validation macro F1 of {len(first)} trials in the first round by hyperparameter; square: FinalModel."
    return figure, caption, pd.concat(words)
