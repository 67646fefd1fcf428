"""Find a network's dead filters, which output the same number for every pixel of every image."""

from leaves.training import batch_function

import keras
import numpy as np
import pandas as pd

DEAD_FILTERS = "reading-dead_filters.npz"  # the file in a run's folder that says which filters are dead
SPAN = 1e-6  # a smaller range of outputs is a rounding error


def dead_filters(network, images):
    """Find the filters that output, after the activation, the same number at every position of every image.

    Parameters
    ----------
    network : keras.Sequential
        Each block of convolution and activation ends in a MaxPooling2D.
    images : array of uint8, shape (n, size, size, 3); the network processes 64 images at a time

    Returns
    -------
    DataFrame, one row per filter: block (int, from 1) and dead (bool)
    """
    pairs = zip(network.layers, network.layers[1:], strict=False)
    activated = [layer.output for layer, after in pairs if isinstance(after, keras.layers.MaxPooling2D)]
    look_inside = batch_function(keras.Model(network.inputs[0], activated))
    lowest, highest = [], []  # for each batch, one array per block
    for start in range(0, len(images), 64):
        batch = images[start : start + 64].astype(np.float32)
        outputs = [
            output.numpy() for output in keras.tree.flatten(look_inside(batch))
        ]  # with one block, `look_inside` returns a tensor, not a list
        lowest.append([output.min((0, 1, 2)) for output in outputs])
        highest.append([output.max((0, 1, 2)) for output in outputs])
    ends = zip(zip(*lowest, strict=True), zip(*highest, strict=True), strict=True)
    spans = [np.max(high, axis=0) - np.min(low, axis=0) for low, high in ends]
    blocks = np.repeat(np.arange(1, len(spans) + 1), [len(span) for span in spans])
    return pd.DataFrame({"block": blocks, "dead": np.concatenate(spans) < SPAN})
