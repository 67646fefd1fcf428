"""Draw two figures of chapter 6: scores on other photos, and the places in a photo that the networks use."""

from leaves.other_photos import ALONE, OTHER

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image

OUTLINE = "ivory"  # colour of a leaf's outline: not white, because the page replaces white by its own background colour
MARKS = {"unchanged": ("o", "C0"), OTHER: ("D", "C1"), "second test set": ("X", "C2"), ALONE: ("v", "0.5")}


def draw_holding(table, chance):
    """Draw each model's macro F1 on each kind of photo; each kind, such as "other backgrounds", is a column of `table`.

    Parameters
    ----------
    table : DataFrame from `other_photos.holding_table`
    chance : float
        Macro F1 of guessing, drawn as a line.

    Returns
    -------
    figure, caption, and `table` sorted like the rows of the figure
    """
    column = OTHER if OTHER in table else "unchanged"
    ordered = table.sort_values(column)
    figure, axis = plt.subplots(figsize=(9, 0.38 * len(ordered) + 1.7))
    axis.hlines(ordered.index, ordered.min(axis=1), ordered.max(axis=1), color="0.8", zorder=0)
    for name, values in ordered.items():
        marker, colour = MARKS[name]
        axis.plot(values, ordered.index, marker, color=colour, label=name, markersize=8)
    axis.axvline(chance, color="0.4", linestyle=":", label="guessing")
    where = "the test photos" if column == "unchanged" else column
    axis.set(xlim=(-0.02, 1.02), xlabel="macro F1", title=f"Best on {where}: {ordered.index[-1]}")
    figure.legend(loc="outside lower center", ncols=5, fontsize="small")
    return figure, f"Macro F1 of each model on each kind of test photo: {', '.join(table)}.", ordered


def draw_heat(examples, classes):
    """Draw photos with the LayerCAM map of each model and, if known, the outline of the leaf.

    Parameters
    ----------
    examples : dict of each model's label to its photos and maps, see `explain.heat_examples`
    classes : list of str, the names of the classes

    Returns
    -------
    figure, caption
    """
    figure, axes = plt.subplots(len(examples), 6, figsize=(10, 1.64 * len(examples) + 0.3), squeeze=False)
    for row, (label, arrays) in zip(axes, examples.items(), strict=True):
        for axis, picture, heat, mask, true, predicted in zip(row, *arrays.values(), strict=False):
            size = picture.shape[1::-1]
            warm = Image.fromarray(np.float32(heat)).resize(size, Image.Resampling.BILINEAR)
            axis.imshow(picture)
            strength = np.clip(np.asarray(warm), 0, 1)
            axis.imshow(strength, cmap="plasma", alpha=0.9 * strength**2, vmin=0, vmax=1)
            if mask.any():
                outline = Image.fromarray(mask).resize(size)
                axis.contour(np.asarray(outline, float), [0.5], colors=OUTLINE, linewidths=1)
            answer = f"= {classes[true]}" if true == predicted else f"{classes[true]},\n≠ {classes[predicted]}"
            axis.set_title(answer, fontsize="small")
        row[0].set_ylabel(label.replace(", ", "\n").replace(" (", "\n("), fontsize="small")
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
    return figure, (
        f"LayerCAM of {'; '.join(examples)}: up to three right and three wrong answers. The title gives the species of "
        "the photo. If the answer is right, the title begins with =; if it is wrong, ≠ and the answer follow the "
        "species. Yellow places supported the answer most, then red and purple ones; other places are almost "
        "transparent. The line is the leaf's outline, which a program found."
    )
