"""Draw the figures of chapter 6 about the scores of the models, their confidence, and corrupted photos."""

import textwrap

from leaves import scoring
from leaves.plots import HALO, MODEL_COLOURS, MODEL_MARKERS
from leaves.published import by_score
from leaves.robustness import CORRUPTIONS

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patheffects import withStroke
from sklearn.calibration import calibration_curve

OTHERS = {"worse": "worse", "tie": "tied", "undecided": "undecided"}  # verdicts on models in words, after "better"
BELOW = {"loc": "outside lower center", "fontsize": "small"}  # place of a legend, below all Axes


def look(label):
    """Return the colour and marker of a model: dict of Matplotlib keywords.

    The model's name is the part of `label` before the first comma, or the whole label.
    """
    name = label.partition(", ")[0]
    return {"color": MODEL_COLOURS[name], "marker": MODEL_MARKERS[name]}


def single_mark(label, **options):
    """Return the Matplotlib keywords that draw a model as one point, half-filled if only its head was trained."""
    fill = "left" if "transfer" in label else "full"
    return look(label) | {"label": label, "fillstyle": fill, "linestyle": "none"} | options


# ---------------------------------------------------------------- scores


def draw_scores(scores, against, best):
    """Draw the test macro F1 of every model with its interval, and the original study's score.

    Parameters
    ----------
    scores : DataFrame from `evaluation.score_table`, the rows to draw
    against : DataFrame from `evaluation.compare_with`
    best : str
        Label of the single model that validation chose.

    Returns
    -------
    figure, caption, table
    """
    ordered = by_score(scores)[::-1]  # the first bar is drawn at the bottom
    figure, axis = plt.subplots(figsize=(9, 0.4 * len(ordered) + 1.3))
    halo = [withStroke(linewidth=4, foreground=HALO)]  # keeps an interval visible on bars of every colour
    for label, row in ordered.iterrows():
        axis.barh(label, row["test_macro_f1"], color=look(label)["color"])
        axis.hlines(label, row["test_macro_f1_low"], row["test_macro_f1_high"], color="0.15", path_effects=halo)
    axis.plot(
        ordered["original_score"].astype(float),
        ordered.index,
        "k*",
        label="original study: accuracy on its hidden test set",
    )
    axis.set(xlim=(0, 1), xlabel="macro F1 on test, with 95 % intervals")
    axis.get_yticklabels()[list(ordered.index).index(best)].set_fontweight("bold")
    figure.legend(**BELOW)
    told = textwrap.fill(standing_in_words(against), 80)  # lines as wide as the figure
    axis.set_title(f"Validation chose {best}.\n{told}")
    caption = "Test macro F1 of every model with 95 % bootstrap intervals. Two models are compared image by image, so "
    caption += "overlapping intervals do not decide which one is better. "
    caption += "A star: the original study's score, an accuracy on other photos."
    for verdict in ("better", "worse"):
        names = "; ".join(against.index[against["verdict"] == verdict]) or "none"
        caption += f" Shown to be {verdict} than {best}: {names}."
    drawn = ordered[["test_macro_f1_low", "test_macro_f1", "test_macro_f1_high", "original_score"]]
    return figure, caption, drawn.astype(float)


def standing_in_words(against):
    """Count the models that are better and worse on test than the best single model; `against` as in `draw_scores`."""
    counts = against["verdict"].value_counts()
    told = [f"{counts.get('better', 'none')} shown to be better"]
    told += [f"{counts[verdict]} {word}" for verdict, word in OTHERS.items() if verdict in counts]
    return f"Of the {len(against) - 1} others: {', '.join(told)}."


# ---------------------------------------------------------------- confidence and corrupted photos


def draw_calibration(answers, label, temperature):
    """Draw a model's share of right answers against its confidence, before and after temperature scaling.

    Parameters
    ----------
    answers : `evaluation.Answers` to the test subset
    label : str, the label of the model
    temperature : float, see `evaluation.calibration_table`

    Returns
    -------
    figure, caption
    """
    trained, right = answers.probabilities[label], answers.predicted[label] == answers.truth
    both = {"as trained": trained, f"temperature {temperature:.2f}": scoring.tempered(trained, temperature)}
    figure, (axis, counts) = plt.subplots(1, 2, figsize=(9.5, 2.75), width_ratios=[3, 2])
    axis.plot([0, 1], [0, 1], color="0.4", linewidth=1, label="confidence = share of right answers")
    least = 1.0
    for (name, answer), marker in zip(both.items(), "os", strict=True):
        share, mean = calibration_curve(right, answer.max(axis=1), n_bins=8, strategy="quantile")
        error = scoring.calibration_error(answers.truth, answer)
        axis.plot(mean, share, marker=marker, label=f"{name}: error {error:.3f}")
        least = min(least, *mean, *share)
    confidences = [answer.max(axis=1) for answer in both.values()]
    counts.hist(confidences, bins=np.linspace(np.floor(10 * np.min(confidences)) / 10, 1, 11))
    axis.set(xlim=(least - 0.03, 1.02), ylim=(least - 0.03, 1.02))
    axis.set(xlabel="confidence", ylabel="share of right answers", title=f"Calibration of {label} on test")
    axis.legend(fontsize="small")
    counts.set(xlabel="confidence", ylabel="images", title="Test images by confidence")
    return figure, (
        f"The first panel shows the share of right answers of {label} at each confidence, with and without the "
        "temperature. The second panel counts the images by confidence."
    )


def draw_robustness(robust, count):
    """Draw the macro F1 of models on corrupted photos against the strength of the corruption, one panel per kind.

    Parameters
    ----------
    robust : DataFrame from `robustness.stored_robustness`
    count : int
        The number of photos.

    Returns
    -------
    figure, caption
    """
    figure, axes = plt.subplots(2, 3, figsize=(10, 4.0), sharex=True, sharey=True)
    for axis, kind in zip(axes.flat, CORRUPTIONS, strict=True):
        of_kind = robust[robust["corruption"].isin(["none", kind])]
        for label, rows in of_kind.groupby("model", sort=False):
            line = "-" if "fine" in label else "--"
            axis.plot(rows["strength"], rows["macro F1"], line, label=label, **look(label))
            axis.fill_between(rows["strength"], rows["low"], rows["high"], color=look(label)["color"], alpha=0.12)
        axis.set(title=kind, ylim=(0, 1))
    for axis in axes[1]:
        axis.set_xlabel("strength")
    figure.supylabel(f"macro F1 on {count} test images")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), **BELOW, ncols=3)
    return figure, (
        f"Macro F1 on {count} test images against the strength of six kinds of corruption (0: none), with 95 % "
        "bootstrap intervals. These images are a sample of the test subset: compare the scores within this figure only."
    )
