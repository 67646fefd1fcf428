"""Draw the figures of chapter 6 about costs: scores against parameters, time and number of photos."""

from leaves.figures.comparison import BELOW, look, single_mark

import matplotlib.pyplot as plt
from matplotlib.ticker import EngFormatter, FuncFormatter, LogLocator, NullFormatter

SAME_TIME = 0.05  # relative difference up to which two measured times count as the same
COSTS = {"params": "parameters", "train_seconds": "seconds of training", "ms_per_image": "milliseconds per image"}


def draw_learning_curve(curve):
    """Draw the macro F1 on test against the number of training photos.

    Parameters
    ----------
    curve : DataFrame from `learning_curve.learning_curve`

    Returns
    -------
    figure, caption
    """
    figure, axis = plt.subplots(figsize=(8, 3.0))
    for label, rows in curve.groupby("model", sort=False):
        axis.fill_between(rows["photos"], rows["low"], rows["high"], color=look(label)["color"], alpha=0.2)
        axis.plot(rows["photos"], rows["macro F1"], label=label, **look(label))
    axis.set(xscale="log", ylim=(0, 1), xlabel="training photos", ylabel="macro F1 on test")
    axis.set_title("Macro F1 with more training photos")
    counts = sorted(set(curve["photos"]))
    axis.set_xticks(counts, counts)
    axis.minorticks_off()
    axis.legend(fontsize="small")
    return figure, (
        "Test macro F1 against the number of training photos, with 95 % bootstrap intervals over the test images."
    )


def curve_in_words(curve):
    """Say each model's macro F1 with the fewest and with the most training photos, and the gain in the last step.

    The last step of the curve leads from the second largest to the largest number of training photos.

    Parameters
    ----------
    curve : DataFrame from `learning_curve.learning_curve`
    """
    sentences = []
    for label, rows in curve.groupby("model", sort=False):
        first, last = rows.iloc[0], rows.iloc[-1]
        text = f"{label}: {first['macro F1']:.3f} with {first['photos']} photos, "
        text += f"{last['macro F1']:.3f} with {last['photos']}"
        if len(rows) > 2:
            gain = last["macro F1"] - rows.iloc[-2]["macro F1"]
            text += f" ({gain:+.3f} from {rows.iloc[-2]['photos']} to {last['photos']} photos)"
        sentences.append(text)
    return f"Macro F1 on test, from a single training for each number of photos: {'; '.join(sentences)}."


def pareto_front(scores, cost):
    """Select the rows on the Pareto front; the cheapest row comes first.

    A row is dropped if another row has a higher score at an equal or lower cost, or the same score at a lower cost.
    Times that differ by at most `SAME_TIME` count as equal, because measured times vary a little.

    Parameters
    ----------
    scores : DataFrame with the column test_macro_f1 and the column of the cost
    cost : str, the name of that column

    Returns
    -------
    DataFrame
    """
    table = scores.sort_values([cost, "test_macro_f1"], ascending=[True, False])
    limit = 1 if cost == "params" else 1 + SAME_TIME
    costs, marks = table[cost].to_numpy(float), table["test_macro_f1"].to_numpy(float)
    better = (costs[:, None] <= limit * costs) & (marks[:, None] > marks)
    cheaper = (limit * costs[:, None] < costs) & (marks[:, None] == marks)
    return table[~(better | cheaper).any(axis=0)]


def draw_costs(scores):
    """Draw the macro F1 on test against each cost in `COSTS`, on three axes, with the Pareto front of each.

    Parameters
    ----------
    scores : DataFrame from `evaluation.score_table`, the rows to draw

    Returns
    -------
    figure, caption
    """
    figure, axes = plt.subplots(1, 3, figsize=(11, 3.9), sharey=True)
    short = EngFormatter(sep="")  # writes 3M; it would write 300m for 0.3
    for axis, (cost, title) in zip(axes, COSTS.items(), strict=True):
        front = pareto_front(scores, cost)
        steps = {"color": "0.5", "drawstyle": "steps-post", "linewidth": 1, "label": "Pareto front"}
        axis.plot(front[cost], front["test_macro_f1"], **steps)
        for label, row in scores.iterrows():
            axis.plot(row[cost], row["test_macro_f1"], **single_mark(label, markersize=9))
        axis.set(xscale="log", xlabel=title)
        axis.margins(x=0.2)
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 3), numticks=12))
        axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}" if value < 1 else short(value)))
        axis.xaxis.set_minor_formatter(NullFormatter())
    axes[0].set_ylabel("macro F1 on test")
    figure.legend(*axes[0].get_legend_handles_labels(), **BELOW, ncols=3)
    return figure, (
        "Test macro F1 against parameters, seconds of training and milliseconds per image, with the Pareto "
        "front. The training time is that of repeat 0; it includes the time for features, head and teacher. A "
        "half-filled mark shows transfer learning: only the head was trained."
    )


def front_in_words(scores):
    """Name the models on the Pareto front of macro F1 against each cost in `COSTS`.

    Parameters
    ----------
    scores : DataFrame from `evaluation.score_table`
    """
    fronts = [f"by {title}: {'; '.join(pareto_front(scores, cost).index)}." for cost, title in COSTS.items()]
    return f"Models on the Pareto front {' Models on the front '.join(fronts)}"
