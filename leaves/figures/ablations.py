"""Figures and tables of chapter 3: variants against FinalModel, and the hyperparameter search."""

from leaves.scoring import macro_f1

import matplotlib.pyplot as plt
import optuna
import pandas as pd
import seaborn as sns

MARKERS = "os^Dv*P"
LOOK = {  # of a verdict: colour and marker, never colour alone
    "better": {"color": "C0", "marker": "^"},
    "worse": {"color": "C3", "marker": "v"},
    "same": {"color": "C2", "marker": "s"},
    "undecided": {"color": "0.55", "marker": "o"},
}
TARGET = "validation macro F1"


def style_comparison(table, title):
    """Format a table of `ablations.comparison_table`; returns a pandas Styler."""
    names = {"train": "train macro F1", "validation": "validation macro F1"}
    names["base"] = "FinalModel's, same seeds"  # a row's macro F1 minus this is its difference
    formats = {"parameters": "{:,}", "best epoch": "{:.0f}", "seconds": "{:.1f}", "seeds": "{:.0f}"}
    formats |= dict.fromkeys([*names.values(), "gap"], "{:.3f}")
    formats |= dict.fromkeys(["difference", "low", "high"], "{:+.3f}")
    shown = table.drop(columns="group").rename(columns=names)
    return shown.style.format(formats, na_rep="").set_caption(title)


def plot_differences(table, floor):
    """Draw the difference of each variant to FinalModel with its interval, and the noise floor as a band.

    Parameters
    ----------
    table : DataFrame, see `ablations.comparison_table`
    floor : float

    Returns
    -------
    figure : matplotlib Figure
    drawn : DataFrame of low, difference and high, by the names on the axis
    """
    rows = table[table["verdict"].isin(LOOK)]
    figure, axis = plt.subplots(figsize=(9.5, 0.3 * len(rows) + 1.6))
    axis.axvspan(-floor, floor, color="0.88", label="noise floor of FinalModel")
    axis.axvline(0, color="0.3", linewidth=1)
    for verdict, of_verdict in rows.assign(position=range(len(rows))).groupby("verdict"):
        axis.hlines(of_verdict["position"], of_verdict["low"], of_verdict["high"], color=LOOK[verdict]["color"])
        axis.plot(of_verdict["difference"], of_verdict["position"], linestyle="", label=verdict, **LOOK[verdict])
    groups = rows["group"].where(rows["group"] != rows["group"].shift(), "")
    names = [f"{group}   {name}".strip() for name, group in groups.items()]
    axis.set_yticks(range(len(rows)), names)
    axis.invert_yaxis()
    count = rows["verdict"].isin(["better", "worse"]).sum()
    title = f"{count} of {len(rows)} variants clearly differ"
    axis.set(xlabel="macro F1 on validation, less FinalModel's", title=title)
    axis.legend(fontsize="small")
    return figure, rows[["low", "difference", "high"]].set_axis(names)


def plot_gaps(table, band):
    """Draw macro F1 on validation and on the training images for FinalModel and every variant.

    Parameters
    ----------
    table : DataFrame, see `ablations.comparison_table`
    band : (float, float)
        Smallest and largest validation macro F1 of FinalModel's trainings.

    Returns
    -------
    matplotlib Figure
    """
    figure, axis = plt.subplots(figsize=(9.5, 0.3 * len(table) + 1.4))
    axis.axvspan(*band, color="0.88", label="FinalModel's seeds on validation (noise floor)")
    axis.hlines(table.index, table["validation"], table["train"], color="0.5")
    axis.plot(table["validation"], table.index, "o", color="C0", label="validation")
    axis.plot(table["train"], table.index, "D", color="C1", label="training")
    axis.invert_yaxis()
    widest = table["gap"].idxmax()
    axis.set(xlabel="macro F1", title=f"The widest gap: {widest} ({table.loc[widest, 'gap']:+.3f})")
    axis.legend(fontsize="small")
    return figure


def plot_variant_curves(runs, groups):
    """Draw the validation macro F1 over the epochs, a panel for each group of variants; a band for FinalModel.

    Parameters
    ----------
    runs : dict of name to list of Run
    groups : see `ablations.group_variants`

    Returns
    -------
    matplotlib Figure
    """
    rows = max(1, -(-len(groups) // 4))
    figure, axes = plt.subplots(rows, 4, figsize=(11, 2.6 * rows), sharex=True, sharey=True, squeeze=False)
    by_epoch = {
        name: pd.concat(run.history.set_index("epoch")["val_macro_f1"] for run in repeats).groupby("epoch")
        for name, repeats in runs.items()
    }
    lowest, highest = by_epoch["FinalModel"].min(), by_epoch["FinalModel"].max()
    for axis, (group, variants) in zip(axes.flat, groups.items(), strict=False):
        axis.fill_between(lowest.index, lowest, highest, color="0.8", label="FinalModel")
        for number, name in enumerate(variants):
            look = {"marker": MARKERS[number % len(MARKERS)], "markevery": 0.25, "markersize": 4}
            curve = by_epoch[name].mean()
            axis.plot(curve.index, curve, linestyle="-", label=name, **look)
        axis.set_title(group, fontsize="small")
        axis.legend(fontsize="xx-small")
    for axis in axes.flat[len(groups) :]:
        axis.axis("off")
    axes[0, 0].set_ylim(0, 1)
    figure.supxlabel("epoch")
    figure.supylabel("validation macro F1")
    return figure


def plot_dead_units(dead, activations):
    """Draw the share of dead units in each block, mean and range over seeds.

    Parameters
    ----------
    dead : DataFrame, see `dead_units.dead_filters_of`
    activations : dict of variant to the name of its activation

    Returns
    -------
    matplotlib Figure
    """
    shares = 100 * dead.groupby(["variant", "seed", "block"], sort=False)["dead"].mean()
    shares = shares.rename("dead units in %").reset_index().replace({"variant": activations})
    figure, axis = plt.subplots(figsize=(8, 3.4))
    sns.barplot(shares, x="block", y="dead units in %", hue="variant", errorbar=("pi", 100), ax=axis)
    for container, hatch in zip(axis.containers, ("", "//", ".."), strict=False):
        for bar in getattr(container, "patches", []):
            bar.set_hatch(hatch)
    worst = shares.groupby("variant", sort=False)["dead units in %"].max()
    title = f"Dead units in the worst block: {', '.join(f'{name} {share:.0f} %' for name, share in worst.items())}"
    axis.set(ylim=(0, max(5, 1.1 * worst.max())), title=title)
    axis.legend(title="", fontsize="small")
    return figure


def plot_accuracy(predictions, truth, band):
    """Draw accuracy against macro F1 for every training; on the diagonal both agree.

    Parameters
    ----------
    predictions, truth : see `ablations.score_trainings`
    band : see `plot_gaps`

    Returns
    -------
    matplotlib Figure
    """
    points = pd.DataFrame(
        {"variant": name, "accuracy": (truth == predicted).mean(), "macro F1": macro_f1(truth, predicted)}
        for name, by_seed in predictions.items()
        for predicted in by_seed.values()
    )
    figure, axis = plt.subplots(figsize=(5.6, 4.6))
    axis.axhspan(*band, color="0.88", label="noise floor of FinalModel")
    axis.plot([0, 1], [0, 1], color="0.4", linewidth=1)
    of_final = points["variant"] == "FinalModel"
    axis.plot(points["accuracy"][~of_final], points["macro F1"][~of_final], "o", color="C7", label="variants")
    axis.plot(points["accuracy"][of_final], points["macro F1"][of_final], "s", color="C0", label="FinalModel")
    scores = points[["accuracy", "macro F1"]].to_numpy()
    limits = (scores.min() - 0.03, scores.max() + 0.03)
    above = (points["accuracy"] > points["macro F1"]).sum()
    title = f"Accuracy flatters {above} of {len(points)} networks"
    axis.set(xlim=limits, ylim=limits, xlabel="accuracy on validation", ylabel="macro F1 on validation", title=title)
    axis.legend(fontsize="small")
    return figure


def style_verdicts(verdicts):
    """Format a table of `ablations.judge`; returns a pandas Styler."""
    formats = dict.fromkeys(["difference", "low", "high"], "{:+.3f}") | {"seeds": "{:.0f}"}
    return verdicts.style.format(formats, na_rep="").set_table_attributes('class="text"')


# ---------------------------------------------------------------- the search


def style_trials(trials):
    """Format the ten best trials of a table of `search.trial_table`; returns a pandas Styler."""
    ranked = trials.sort_values("value", ascending=False).head(10)
    formats = {"value": "{:.3f}", "duration": "{:.1f}", "learning rate": "{:.2g}", "L2": "{:.2g}"}
    formats |= dict.fromkeys(["dropout", "augmentation"], "{:.2f}")
    return ranked.style.hide().format(formats, na_rep="").set_caption(f"The best of {len(trials)} trials")


def plot_search_history(study, band):
    """Draw the score of each complete trial and the best so far.

    Parameters
    ----------
    study : optuna.Study
    band : see `plot_gaps`

    Returns
    -------
    figure : matplotlib Figure
    caption : str
    """
    axis = optuna.visualization.matplotlib.plot_optimization_history(study, target_name=TARGET)
    axis.figure.set_size_inches(8, 3.6)
    axis.axhspan(*band, color="0.88", zorder=0)
    axis.set_title("The search, trial by trial")
    axis.xaxis.get_major_locator().set_params(integer=True)
    caption = "Validation macro F1 of each complete trial and the best so far; grey: FinalModel, trained for longer."
    return axis.figure, caption


def plot_importances(study, seed):
    """Draw the share of the trials' variance that each hyperparameter explains (fANOVA, Hutter et al. 2014).

    Parameters
    ----------
    study : optuna.Study
    seed : int
        Of the random forest that is asked.

    Returns
    -------
    figure : matplotlib Figure
    caption : str
    shares : Series of float, by hyperparameter
    """
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=seed)
    axis = optuna.visualization.matplotlib.plot_param_importances(study, evaluator=evaluator)
    axis.figure.set_size_inches(8, 3.6)
    caption = "Share of the trials' variance that each hyperparameter explains."
    return axis.figure, caption, pd.Series(optuna.importance.get_param_importances(study, evaluator=evaluator))


def plot_slices(study, complete):
    """Draw the score of the complete trials over each hyperparameter.

    Parameters
    ----------
    study : optuna.Study
    complete : DataFrame
        The complete trials, see `search.trial_table`.

    Returns
    -------
    figure : matplotlib Figure
    caption : str
    scores : Series of list of float, by the words on the axes
    """
    axes = optuna.visualization.matplotlib.plot_slice(study, target_name=TARGET)
    axes[0].figure.set_size_inches(14, 3.2)
    words = pd.concat([complete.groupby(name)["value"].agg(list) for name in ("activation", "initializer")])
    caption = "Validation macro F1 of the complete trials over each hyperparameter."
    return axes[0].figure, caption, words.rename(repr)  # Optuna quotes the words
