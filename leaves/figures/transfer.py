"""Figures of chapters 4 and 5: what backbones find alike, and what fine tuning changes and costs."""

from leaves.figures.split import picture_grid
from leaves.plots import MODEL_COLOURS, MODEL_MARKERS

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd


def draw_neighbours(alike, kinds):
    """Draw a validation leaf and its nearest training photos, one row a backbone.

    Parameters
    ----------
    alike : dict from `transfer.nearest_leaves`
    kinds : dict of backbone to "imagenet" or "random"

    Returns
    -------
    figure, caption
    """
    figure, axes = picture_grid(len(alike), 6, figsize=(9.6, 1.75 * len(alike)))
    for row, (name, nearest) in zip(axes, alike.items(), strict=True):
        true = nearest["species"][0]
        for axis, picture, species in zip(row, nearest["pictures"], nearest["species"], strict=True):
            axis.imshow(picture)
            axis.set_title(f"{'=' if species == true else '≠'} {species}", fontsize="small")
        row[0].set_title(f"the leaf: {true}", fontsize="small")
        row[0].set_ylabel(f"{name}\n({kinds[name]})\nall: {nearest['share']:.0%} =", fontsize="x-small")
    caption = (
        f"One {true} leaf of the validation part and its nearest training photos by each backbone's "
        "features; all: how many of five are of the species, over all leaves."
    )
    return figure, caption


def draw_switch(heads, tails):
    """Draw macro F1 over the epochs of transfer learning and of the fine tuning that goes on from its best epoch.

    Parameters
    ----------
    heads, tails : dict of backbone to Run, with the same keys

    Returns
    -------
    figure, caption
    """
    figure, axes = plt.subplots(1, len(tails), figsize=(2.9 * len(tails), 3.4), sharey=True, squeeze=False)
    for axis, (name, tail) in zip(axes[0], tails.items(), strict=True):
        switch = heads[name].result["best_epoch"]
        history = pd.concat([heads[name].history.iloc[:switch], tail.history])
        epochs = np.arange(1, len(history) + 1)
        for column, style in (("macro_f1", "--"), ("val_macro_f1", "-")):
            axis.plot(epochs, history[column], style, color=MODEL_COLOURS[name])
        axis.axvline(switch + 0.5, color="0.4", linestyle=":")
        axis.set_title(f"{name}\n({tail.result['initial_weights']})", fontsize="medium")
        axis.set(xlabel="epoch", ylim=(0, 1))
        axis.xaxis.get_major_locator().set_params(integer=True)
    axes[0, 0].set_ylabel("macro F1 (dashed: training)")
    return figure, "Macro F1 over the epochs of transfer learning and, right of the dotted line, of fine tuning."


def draw_stages(stages):
    """Draw the seconds of each stage of a model, one after another.

    Parameters
    ----------
    stages : DataFrame of seconds, one row a backbone, one column each of three stages

    Returns
    -------
    figure, caption
    """
    figure, axis = plt.subplots(figsize=(8, 0.5 * len(stages) + 1.4))
    left = np.zeros(len(stages))
    for stage, hatch in zip(stages, ("", "//", ".."), strict=True):
        axis.barh(stages.index, stages[stage], left=left, hatch=hatch, edgecolor="white", label=stage)
        left += stages[stage]
    axis.invert_yaxis()
    axis.set(xlabel="seconds", title=f"{left.idxmax()} takes longest: {left.max():.0f} s")
    axis.legend(fontsize="small")
    return figure, "Seconds for the features, one head and one tail of each backbone."


def draw_repeats(models, controls):
    """Draw the validation macro F1 of every training, one row a model.

    Parameters
    ----------
    models : dict of label to list of Run; a label begins with the model's name, which a comma may end
    controls : list of str, names of the backbones that started from random weights

    Returns
    -------
    figure, caption
    table : Series of label to list of float
    """
    scores = pd.Series(
        {label: [run.result["validation_macro_f1"] for run in repeats] for label, repeats in models.items()}
    )
    figure, axis = plt.subplots(figsize=(8, 0.36 * len(models) + 1.3))
    for label, values in scores.items():
        name = label.split(",")[0]
        colour, marker = MODEL_COLOURS[name], MODEL_MARKERS[name]
        fill = "none" if name in controls else colour
        axis.scatter(values, [label] * len(values), s=70, marker=marker, facecolor=fill, edgecolor=colour)
    axis.invert_yaxis()
    axis.set(xlim=(0, 1), xlabel="validation macro F1", title="One mark per seed; hollow: random weights, a control")
    caption = (
        "Validation macro F1 of every training of FinalModel, the heads and the tails; hollow: random initial weights."
    )
    return figure, caption, scores
