"""Figures of chapter 2: FinalModel, and what it learns."""

from leaves.batches import augment
from leaves.plots import MODEL_COLOURS

import keras
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
import tensorflow as tf
from sklearn.metrics import f1_score

MARKERS = "os^Dv*P"
# The layers that are drawn, with the names that students know; their order gives the colours.
DRAWN_LAYERS = {"Rescaling": "pixels", "Conv2D": "convolution", "GlobalAveragePooling2D": "average", "Dense": "dense"}


def plot_augmentation(image, augmentations, seed):
    """Draw an image and seven augmented views of it, a row for each augmentation.

    Parameters
    ----------
    image : array of uint8, shape (size, size, 3)
    augmentations : dict of title to dict, see `batches.augment`
    seed : int
        Of the views: all rows draw the same random numbers.

    Returns
    -------
    matplotlib Figure
    """
    views, count = np.repeat(image[None].astype(np.float32), 7, axis=0), len(augmentations)
    uniform = tf.random.stateless_uniform([7, 6], [seed, 0])
    figure, axes = plt.subplots(count, 8, figsize=(10, 1.5 * count), squeeze=False)
    for row, (title, augmentation) in zip(axes, augmentations.items(), strict=True):
        augmented = augment(tf.constant(views), uniform, augmentation).numpy().clip(0, 255).astype(np.uint8)
        for axis, picture, name in zip(row, [image, *augmented], ["photo"] + [title] * 7, strict=True):
            axis.imshow(picture)
            axis.set_title(name, fontsize="small")
            axis.axis("off")
    return figure


def plot_architecture(model):
    """Draw the feature maps of a keras.Sequential on square images as boxes from left to right; returns the figure."""
    size = model.input_shape[1]
    figure, axis = plt.subplots(figsize=(10, 2.9))
    left = 0
    for layer in (layer for layer in model.layers if type(layer).__name__ in DRAWN_LAYERS):
        kind = type(layer).__name__
        *sides, channels = layer.output.shape[1:]
        height, width = (sides[0] if sides else size / 8), 0.35 + 0.11 * np.log2(channels)
        look = {"facecolor": f"C{list(DRAWN_LAYERS).index(kind)}", "edgecolor": "white", "alpha": 0.85}
        axis.add_patch(plt.Rectangle((left, -height / 2), width, height, **look))
        label = f"{DRAWN_LAYERS[kind]}\n{' × '.join(map(str, (*sides, channels)))}"
        axis.text(left + width / 2, height / 2 + size / 40, label, ha="center", fontsize="x-small")
        left += width + 0.7
    axis.set(xlim=(-0.2, left), ylim=(-size * 0.55, size * 0.85))
    axis.axis("off")
    axis.set_title(f"{model.name}: {model.count_params():,} parameters")
    return figure


def plot_class_scores(truths, predictions, classes):
    """Draw FinalModel's F1 of each class: mean and range over repeats, the best class first.

    Parameters
    ----------
    truths, predictions : list of array of int, shape (n,)
        Of the held-out photos of each repeat; a class counts in the repeats that have a photo of it.
    classes : list of str

    Returns
    -------
    figure : matplotlib Figure
    means : Series of float, by the names on the axis
    """
    counts = np.array([np.bincount(truth, minlength=len(classes)) for truth in truths])
    species = [f"{name} ({count})" for name, count in zip(classes, counts.sum(axis=0), strict=True)]
    settings = {"average": None, "labels": range(len(classes)), "zero_division": 0}
    scores = pd.concat(
        pd.DataFrame({"species": species, "F1": f1_score(truth, predicted, **settings)})[present > 0]
        for truth, predicted, present in zip(truths, predictions, counts, strict=True)
    )
    means = scores.groupby("species")["F1"].mean().sort_values(ascending=False)
    figure, axis = plt.subplots(figsize=(8, 4))
    look = {"order": means.index, "errorbar": ("pi", 100), "color": MODEL_COLOURS["FinalModel"]}
    sns.barplot(scores, x="F1", y="species", ax=axis, **look)
    axis.set(ylabel="", xlim=(0, 1.02), title=f"{means.index[-1].split(' (')[0]} is the hardest for FinalModel")
    return figure, means


def plot_filters(model, image):
    """Draw filters of a first convolution, at most 16, and below each its activation on the image on the left.

    Parameters
    ----------
    model : keras.Sequential that begins with rescaling, convolution and activation
    image : array of uint8, shape (size, size, 3)

    Returns
    -------
    matplotlib Figure
    """
    _, convolution, activation = model.layers[:3]
    kernels = convolution.kernel.numpy().transpose(3, 0, 1, 2)
    maps = keras.Model(model.inputs[0], activation.output)(image[None].astype(np.float32)).numpy()[0]
    figure, axes = plt.subplots(4, 9, figsize=(10, 4.6))
    for number, (kernel, feature_map) in enumerate(zip(kernels[:16], maps.transpose(2, 0, 1), strict=False)):
        row, column = 2 * (number // 8), 1 + number % 8
        axes[row, column].imshow((kernel - kernel.min()) / np.ptp(kernel))
        axes[row + 1, column].imshow(feature_map, cmap="magma")
    axes[1, 0].imshow(image)
    for axis in axes.flat:
        axis.axis("off")
    return figure


def plot_weight_histograms(histograms):
    """Draw the weights of each kernel as ridges over the epochs, twelve epochs at most, the latest in front.

    Parameters
    ----------
    histograms : dict of layer to list of array, shape (buckets, 3), one per epoch; see `runs.logged`

    Returns
    -------
    matplotlib Figure
    """
    rows = -(-len(histograms) // 4)
    figure, axes = plt.subplots(rows, 4, figsize=(11, 2.8 * rows), squeeze=False)
    for axis, (name, epochs) in zip(axes.flat, histograms.items(), strict=False):
        shown = np.unique(np.linspace(0, len(epochs) - 1, 12).astype(int))
        for position, number in enumerate(shown):
            left, right, count = epochs[number].T
            height, middle = count / np.maximum(right - left, 1e-9), (left + right) / 2
            ridge = 2.5 * height / height.max() - position
            colour = plt.cm.viridis(position / len(shown))
            axis.fill_between(middle, -position, ridge, color=colour, alpha=0.85, zorder=position)
            axis.plot(middle, ridge, color="white", linewidth=0.8, zorder=position)
        axis.set(title=name, yticks=-np.arange(len(shown))[::4], yticklabels=(shown + 1)[::4])
    for axis in axes[:, 0]:
        axis.set_ylabel("epoch")
    for axis in axes.flat[len(histograms) :]:
        axis.axis("off")
    figure.supxlabel("weight")
    return figure


def plot_gradients(gradients, changes):
    """Draw each kernel's gradient norm and its change in an epoch, as shares of its own norm, over the epochs.

    Parameters
    ----------
    gradients, changes : DataFrame, one row per epoch, one column per layer

    Returns
    -------
    matplotlib Figure
    """
    figure, axes = plt.subplots(1, 2, figsize=(10.5, 4), sharex=True)
    for axis, table, title in zip(axes, (gradients, changes), ("gradient norm", "change in the epoch"), strict=True):
        for number, (name, values) in enumerate(table.items()):
            look = {"color": plt.cm.viridis(number / len(table.columns)), "marker": MARKERS[number % len(MARKERS)]}
            axis.plot(np.arange(1, len(table) + 1), values, markevery=5, label=name, **look)
        axis.set(yscale="log", xlabel="epoch", title=f"{title} / norm of the kernel")
        axis.xaxis.get_major_locator().set_params(integer=True)
    axes[1].legend(fontsize="x-small", loc="center left", bbox_to_anchor=(1, 0.5))
    return figure
