"""Draw the figures and format the tables of chapter 3, which compare variants with FinalModel."""

from leaves.claims import MARGIN

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns

MARKERS = "os^Dv*P"


def style_comparison(table):
    """Format a table from `ablations.comparison_table`; return a pandas Styler.

    The table has no reasons for missing differences, because its column of trainings counts their states.
    """
    names = {"train": "train macro F1", "validation": "validation macro F1"}
    formats = {"parameters": "{:,}", "best epoch": "{:.0f}", "seconds": "{:.1f}"}
    formats |= dict.fromkeys([*names.values(), "gap"], "{:.3f}")
    formats |= dict.fromkeys(["difference", "low", "high"], "{:+.3f}")
    shown = table.drop(columns=["group", "reason"]).dropna(axis="columns", how="all").rename(columns=names)
    caption = "Means over converged trainings (over all, if none converged). A difference from FinalModel is a mean "
    caption += "over the pairs in which both trainings converged, with its 95 % interval"
    return shown.style.format(formats, na_rep="").set_caption(caption)


def plot_differences(table):
    """Draw the macro F1 of each variant minus that of FinalModel, with the 95 % interval of the difference.

    Parameters
    ----------
    table : DataFrame, see `ablations.comparison_table`

    Returns
    -------
    figure : matplotlib Figure
    caption : str
    drawn : DataFrame of low, difference and high, indexed by the names on the axis
    """
    rows = table[table["difference"].notna()]
    excludes_zero = (rows["low"] > 0) | (rows["high"] < 0)
    enough = rows["reason"].isna()
    looks = {
        "interval excludes zero": (excludes_zero & enough, {"color": "C3", "marker": "D"}),
        "interval contains zero": (~excludes_zero & enough, {"color": "C0", "marker": "o"}),
        "too few converged pairs": (~enough, {"color": "0.6", "marker": "o", "markerfacecolor": "white"}),
    }
    figure, axis = plt.subplots(figsize=(9, 0.4 * len(rows) + 1.6))
    axis.axvspan(-MARGIN, MARGIN, color="0.9", label=f"margin of {MARGIN}")
    axis.axvline(0, color="0.3", linewidth=1)
    position = pd.Series(range(len(rows)), index=rows.index)
    for label, (chosen, look) in looks.items():
        if chosen.any():
            part = rows[chosen]
            axis.hlines(position[chosen], part["low"], part["high"], color=look["color"])
            axis.plot(part["difference"], position[chosen], linestyle="", label=label, **look)
    claims = rows["group"].str.extract(r"(\(C\d+\))")[0].fillna("")  # no claim if the group has several
    names = [f"{name} {about}".strip() for name, about in claims.items()]
    axis.set_yticks(range(len(rows)), names)
    axis.set_ylim(len(rows) - 0.4, -0.6)  # the first on top
    count = (excludes_zero & enough).sum()
    title = f"Intervals that exclude zero: {count or 'none'} of {enough.sum()}"
    axis.set(xlabel="macro F1 on the held-out photos, minus FinalModel's", title=title)
    axis.locator_params(axis="x", nbins=7)
    axis.legend(fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
    caption = "Macro F1 of each variant minus that of FinalModel, on the held-out photos. A mark is the mean over the "
    caption += f"converged pairs, and its line is the 95 % interval. The grey band marks differences below {MARGIN}."
    if left := ", ".join(table.index[table["difference"].isna() & table["reason"].notna()]):
        caption += f" Not drawn, because fewer than two pairs converged: {left}."
    return figure, caption, rows[["low", "difference", "high"]].set_axis(names)


def plot_gaps(table):
    """Draw macro F1 on the held-out and on the training photos for FinalModel and every variant.

    Parameters
    ----------
    table : DataFrame, see `ablations.comparison_table`

    Returns
    -------
    figure : matplotlib Figure
    caption : str
    """
    figure, axis = plt.subplots(figsize=(9, 0.4 * len(table) + 1.4))
    axis.hlines(table.index, table["validation"], table["train"], color="0.5")
    axis.plot(table["validation"], table.index, "o", color="C0", label="held-out photos")
    axis.plot(table["train"], table.index, "D", color="C1", label="training photos")
    axis.set_ylim(len(table) - 0.4, -0.6)  # the first on top
    widest = table["gap"].idxmax()
    axis.set(xlabel="macro F1", title=f"The widest gap: {widest} ({table.loc[widest, 'gap']:+.3f})")
    axis.legend(fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
    caption = "Macro F1 on the training and the held-out photos, as means over converged trainings (over all, if none "
    caption += (
        "converged). The line between the marks is the gap. A network that has hardly learnt has a small gap, too."
    )
    return figure, caption


def plot_dead_units(dead, activations):
    """Draw the share of dead units in each block, for each activation: mean and range over the trainings.

    Parameters
    ----------
    dead : DataFrame, see `ablations.dead_filters_of`
    activations : dict of variant to the name of its activation

    Returns
    -------
    figure : matplotlib Figure
    caption : str
    """
    shares = 100 * dead.groupby(["variant", "run", "block"], sort=False)["dead"].mean()
    shares = shares.rename("dead units in %").reset_index().replace({"variant": activations})
    order = [name for name in activations.values() if name in set(shares["variant"])]
    figure, axis = plt.subplots(figsize=(8, 3.4))
    marks = {"hue_order": order, "dodge": 0.4, "linestyle": "none", "errorbar": ("pi", 100)}
    sns.pointplot(shares, x="block", y="dead units in %", hue="variant", markers=list("os^")[: len(order)], **marks)
    mean = 100 * dead.groupby(["variant", "run"])["dead"].mean().groupby("variant").mean().rename(activations)[order]
    title = f"Dead units in all blocks: {', '.join(f'{name} {share:.1f} %' for name, share in mean.items())}"
    axis.set(ylim=(-1, max(5, 1.1 * shares["dead units in %"].max())), title=title, xlabel="block of convolution")
    axis.legend(title="", fontsize="small")
    return figure, (
        "Share of dead units in each block by activation: mean and range over the trainings. Trainings that "
        "diverged or have the state 'did not train' are excluded. The evidence on C4 counts only converged trainings."
    )


def style_accuracies(networks):
    """Show accuracy beside macro F1, both averaged over each network's converged trainings; return a pandas Styler.

    Parameters
    ----------
    networks : DataFrame from `ablations.accuracy_table`
    """
    table = networks.groupby("variant", sort=False)[["accuracy", "macro F1", "missed"]].mean().rename_axis(None)
    table = table.rename(columns={"missed": "classes with fewer than half of their photos classified correctly"})
    return table.style.format("{:.3f}", subset=["accuracy", "macro F1"]).format("{:.1f}", subset=table.columns[2:])
