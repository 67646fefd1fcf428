"""Draw the figures of chapter 1: photos that a check reported, classes, pairs of similar photos, and backgrounds."""

import os

from leaves.splitting import subset_sizes

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns

MOST_CLASSES = 50  # largest number of classes in a figure: Matplotlib takes minutes for hundreds of panels
NAME = 20  # largest number of letters of a file name in a figure
BLACK = 50  # a background colour counts as black if all its channels are below this


def classes_in_words(classes):
    """Say how many classes a figure shows, as in "14 classes" and "first 50 of 200 classes"."""
    first = f"first {MOST_CLASSES} of " if len(classes) > MOST_CLASSES else ""
    return f"{first}{len(classes)} classes"


def picture_grid(rows, columns, **options):
    """Make a figure with Axes for pictures, without ticks: return the figure and an array of Axes, (rows, columns)."""
    figure, axes = plt.subplots(rows, columns, squeeze=False, **options)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
    return figure, axes


def draw_findings(examples, pictures):
    """Draw examples of the photos that the checks reported, at most four in each row, one row per check.

    Parameters
    ----------
    examples : DataFrame from `photos.examples`
    pictures : uint8 array, shape (n, size, size, 3), of these photos

    Returns
    -------
    figure, caption
    """
    checks = examples["check"].unique()
    figure, axes = picture_grid(len(checks), 4, figsize=(9, 2 * len(checks)))
    for axis in axes.flat:
        axis.set_frame_on(False)
    for check, row in zip(checks, axes, strict=True):
        is_shown = (examples["check"] == check).to_numpy()
        for axis, picture, photo in zip(row, pictures[is_shown], examples[is_shown].itertuples(), strict=False):
            axis.imshow(picture)
            axis.set_frame_on(True)
            name = os.path.basename(photo.path)
            short = name if len(name) <= NAME else f"…{name[1 - NAME :]}"
            axis.set_title(f"{photo.label}\n{short}", fontsize="small", parse_math=False)
        row[0].set_ylabel(check, rotation=0, ha="right", va="center", fontsize="small")
    return figure, f"Photos with a finding, up to four of each kind: {', '.join(checks)}."


def draw_class_counts(split, counts):
    """Draw the number of photos of each class in each subset.

    Parameters
    ----------
    split : DataFrame from `dataset.load_split`
    counts : DataFrame from `splitting.count_classes`

    Returns
    -------
    figure, caption
    """
    totals = counts.sum(axis=1)
    figure, axis = plt.subplots(figsize=(9, 3.4))
    counts.plot.bar(stacked=True, ax=axis, width=0.8, color=sns.color_palette("colorblind")[:3])
    axis.bar_label(axis.containers[-1], labels=totals, fontsize="small")
    axis.margins(y=0.1)
    axis.legend(title="subset")
    axis.tick_params(axis="x", rotation=45)
    axis.set(xlabel="", ylabel="images")
    title = f"{totals.index[0]} has {totals.max() / totals.min():.1f} times as many images as {totals.index[-1]}"
    axis.set_title(title, parse_math=False)
    return figure, f"Images per class in each subset, {len(split)} in total: {subset_sizes(split)}."


def draw_classes(images, labels, classes, seed):
    """Draw two random photos of each class.

    Parameters
    ----------
    images : uint8 array, shape (n, size, size, 3)
    labels : array of int, shape (n,), indices into `classes`
    classes : list of str
    seed : int

    Returns
    -------
    figure, caption
    """
    rng, shown = np.random.default_rng(seed), classes[:MOST_CLASSES]
    pairs = 5  # pairs of photos in a row
    rows = -(-len(shown) // pairs)
    figure, axes = picture_grid(rows, 2 * pairs, figsize=(9.6, 1.1 * rows))
    for axis in axes.flat:
        axis.set_frame_on(False)
    for number, (label, pair) in enumerate(zip(shown, axes.reshape(-1, 2), strict=False)):
        chosen = rng.permutation(np.flatnonzero(labels == number))[:2]
        for axis, picture in zip(pair, images[chosen], strict=False):
            axis.imshow(picture)
        pair[0].set_title(label, loc="left", fontsize="small", parse_math=False)
    of_classes = f"each of the {classes_in_words(classes)}"
    return figure, f"Two training photos of {of_classes}, {images.shape[1]} pixels wide."


def draw_leak_pairs(pairs, pictures, twins):
    """Draw the pairs of photos from different subsets that resemble each other most, two pairs per row.

    Parameters
    ----------
    pairs : DataFrame from `splitting.closest_pairs`
    pictures, twins : uint8 arrays, shape (len(pairs), size, size, 3), the first and the second photo of each pair

    Returns
    -------
    figure, caption
    """
    rows = -(-len(pairs) // 2)
    figure, axes = picture_grid(rows, 4, figsize=(7, 1.85 * rows))
    for axis in axes.flat:
        axis.set_frame_on(False)
    for (left, right), pair, picture, twin in zip(
        axes.reshape(-1, 2), pairs.itertuples(), pictures, twins, strict=False
    ):
        left.imshow(picture)
        left.set_xlabel("\n".join(pair.name.rsplit(" ", 1)), fontsize="small", parse_math=False)
        left.set_title(f"{pair.bits} bits apart:", fontsize="small")
        right.imshow(twin)
        right.set_xlabel("\n".join(pair.twin_name.rsplit(" ", 1)), fontsize="small", parse_math=False)
    caption = "The pairs of photos from different subsets that resemble each other most. The two photos of a pair are "
    caption += "next to each other, each with its class and subset below it. The number above a pair says in how many "
    return figure, f"{caption}of 64 bits the perceptual hashes of the two photos differ."


def draw_backgrounds(pixels, labels, classes):
    """Draw the background colours of every class: one row per class, one stripe per photo, from dark to light.

    Parameters
    ----------
    pixels : uint8 array from `backgrounds.border_pixels`, shape (n, 8, 3)
    labels : array of int, shape (n,)
    classes : list of str

    Returns
    -------
    figure, caption
    """
    shown = classes[:MOST_CLASSES]
    figure, axes = picture_grid(len(shown), 1, figsize=(7, 0.3 * len(shown) + 0.4))
    for axis, (number, name) in zip(axes[:, 0], enumerate(shown), strict=True):
        colours = np.median(pixels[labels == number], axis=1)
        colours = colours[colours.sum(axis=1).argsort(kind="stable")]
        axis.set_ylabel(name, rotation=0, ha="right", va="center", fontsize="small", parse_math=False)
        if not len(colours):
            continue
        for stripes, left, right in ((colours.mean(axis=0)[None], 0, 1), (colours, 1.1, 7)):
            axis.imshow(np.uint8(stripes)[None], aspect="auto", interpolation="nearest", extent=(left, right, 0, 1))
        axis.set(xlim=(0, 7), ylim=(0, 1))
    axes[0, 0].set_title("left: mean of the class; right: photo by photo, dark to light", fontsize="medium")
    shown = f"the {classes_in_words(classes)}" if len(classes) > MOST_CLASSES else "each class and photo"
    black = (np.median(pixels, axis=1).max(axis=1) < BLACK).any()
    caption = f"Background colour of {shown}: the median of eight border pixels."
    return figure, f"{caption} Black stripes are photos on black ground." if black else caption
