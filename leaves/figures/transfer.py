"""Draw the figures of chapters 4 and 5: photos with similar features, and the effect of fine-tuning."""

from leaves.figures.split import picture_grid
from leaves.plots import MODEL_COLOURS, MODEL_MARKERS
from leaves.transfer import score

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd


def draw_neighbours(alike):
    """Draw a validation leaf and its nearest training photos, one row per backbone.

    Parameters
    ----------
    alike : dict from `features.nearest_leaves`

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
        row[0].set_ylabel(f"{name}\n{nearest['share']:.0%} same species", fontsize="small")
    caption = (
        f"One {true} leaf of the validation subset and, for each backbone, the training photos with the most similar "
        "features; = marks the same species, and ≠ another one. The percentage on the left is a mean over all "
        "validation leaves: the share of the five most similar photos that show the same species."
    )
    return figure, caption


def draw_switch(heads, tails):
    """Draw macro F1 by epoch, one panel per backbone: transfer learning up to its best epoch, then fine-tuning.

    Each panel has a dashed line for the training photos and a solid line for the validation photos.

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
        axis.set_title(name, fontsize="medium")
        axis.set(xlabel="epoch", ylim=(0, 1))
        axis.xaxis.get_major_locator().set_params(integer=True)
    axes[0, 0].set_ylabel("macro F1 (dashed: training)")
    return figure, "Macro F1 by epoch: transfer learning is left of the dotted line, and fine-tuning is right of it."


def draw_repeats(models):
    """Draw the macro F1 of every repeat on the photos that it held out, one row per model.

    Parameters
    ----------
    models : dict of label to list of Run, one per repeat
        A label is the name of a model. After a comma it may have more text, as in "VGG16, fine-tuned".

    Returns
    -------
    figure, caption
    table : Series of label to list of float, the macro F1 of each repeat
    """
    scores = pd.Series({label: [*map(score, repeats)] for label, repeats in models.items()})
    figure, axis = plt.subplots(figsize=(8, 0.36 * len(models) + 1.3))
    for label, values in scores.items():
        name = label.split(",")[0]
        axis.scatter(
            values, [label] * len(values), s=70, alpha=0.7, marker=MODEL_MARKERS[name], color=MODEL_COLOURS[name]
        )
    axis.set_ylim(len(scores) - 0.4, -0.6)  # the first on top
    lowest = max(0, scores.map(min).min() - 0.05)
    axis.set(xlim=(lowest, 1), xlabel="macro F1 on the held-out photos", title="One mark per repeat")
    caption = "Macro F1 of FinalModel, heads alone and fine-tuned networks; a repeat is scored on its held-out photos."
    return figure, caption, scores
