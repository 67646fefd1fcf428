"""Draw the figures of chapter 2: augmentation, and the gradients of FinalModel."""

from leaves.batches import augment

import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf

MARKERS = "os^Dv*P"
READABLE = 0.35, 0.78  # the part of Matplotlib's colour map "plasma" that is readable on a light and a dark page


def plot_augmentation(image, augmentations, seed):
    """Draw one row per augmentation: the image and seven augmented views of it.

    Parameters
    ----------
    image : array of uint8, shape (size, size, 3)
    augmentations : dict of title to dict, see `batches.augment`
    seed : int
        Seed of the views; all rows use the same random numbers.

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


def plot_gradients(gradients, changes):
    """Draw, for each kernel and epoch, the norm of the gradient and how much the kernel changed.

    Parameters
    ----------
    gradients, changes : DataFrame, one row per epoch, one column per layer
        The values are already divided by the norm of the layer's kernel. Layers whose name does not begin with
        "convolution" get dashed lines.

    Returns
    -------
    matplotlib Figure
    """
    convolutions = [name for name in gradients if name.startswith("convolution")]
    colours = dict(zip(convolutions, plt.cm.plasma(np.linspace(*READABLE, len(convolutions))), strict=True))
    figure, axes = plt.subplots(1, 2, figsize=(10.5, 3.55), sharex=True)
    for axis, table, title in zip(axes, (gradients, changes), ("gradient norm", "change in the epoch"), strict=True):
        for number, (name, values) in enumerate(table.items()):
            look = {"color": colours.get(name, "0.3"), "marker": MARKERS[number % len(MARKERS)]}
            line = "-" if name in colours else "--"
            axis.plot(np.arange(1, len(table) + 1), values, line, markevery=5, label=name, **look)
        axis.set(yscale="log", xlabel="epoch", title=f"{title} / norm of the kernel")
        axis.xaxis.get_major_locator().set_params(integer=True)
    axes[1].legend(fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
    return figure
