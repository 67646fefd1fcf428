"""Map the places of a photo that support a prediction (LayerCAM, Jiang et al. 2021).

This module also computes which share of each map lies on the leaf.
"""

import hashlib
from contextlib import contextmanager
from pathlib import Path

from leaves import evaluation
from leaves.backgrounds import leaf_masks
from leaves.batches import in_batches
from leaves.cache import code_hash, computed_once
from leaves.dataset import load_images
from leaves.evaluation import load_network
from leaves.training import flat_layers

import numpy as np
import pandas as pd
import tensorflow as tf
from PIL import Image
from scipy.ndimage import gaussian_filter

CODE = code_hash(Path(__file__), evaluation.CODE)
FINE = 16  # smallest number of positions per side of a feature map; smaller maps are too coarse to interpret


def fine_layer(network):
    """Return the last layer with feature maps of 16 x 16 or more; if there is none, the layer with the largest maps."""
    layers = [layer for layer in flat_layers(network) if len(layer.output.shape) == 4]
    fine = [layer for layer in layers if layer.output.shape[1] >= FINE]
    return fine[-1] if fine else max(layers, key=lambda layer: layer.output.shape[1])


@contextmanager
def recorded_output(layer):
    """Yield a list. In the `with` block, each eager call of the layer appends its output to this list.

    The layer may be part of a nested model.
    """
    outputs, call = [], layer.call

    def recording(*inputs, **options):
        outputs.append(call(*inputs, **options))
        return outputs[-1]

    layer.call = recording
    try:
        yield outputs
    finally:
        layer.call = call


def layer_cam(network, images):
    """Compute how much each place in the feature maps of `fine_layer` supports the predicted class.

    The gradient of a value in a feature map shows how the log odds of the predicted class change with this value. Each
    value is multiplied by its gradient, or by 0 if the gradient is negative (Jiang et al. 2021, "LayerCAM"). The
    products are added over the feature maps, and a negative sum becomes 0. Because each value has a weight of its
    own, namely its gradient, the results for early layers stay sharp.

    Parameters
    ----------
    network : keras.Model of chapters 2 to 5
    images : array of shape (n, size, size, 3), RGB 0..255

    Returns
    -------
    array of float32, shape (n, height, width), 0 or more; height and width are 16 or more if the images are
    large enough
    """
    pixels = tf.constant(images, tf.float32)
    with recorded_output(fine_layer(network)) as outputs, tf.GradientTape() as tape:
        tape.watch(pixels)
        answer = network(pixels, training=False)
        others = answer * (1 - tf.one_hot(tf.argmax(answer, axis=1), answer.shape[1]))
        odds = tf.math.log(tf.reduce_max(answer, axis=1)) - tf.math.log(tf.reduce_sum(others, axis=1) + 1e-30)
    [maps] = outputs
    return tf.nn.relu(tf.reduce_sum(tf.nn.relu(tape.gradient(odds, maps)) * maps, axis=-1)).numpy()


def brightness(heat):
    """Scale the maps of `layer_cam` to 0..1 for drawing: smooth them, and take square roots to show weak places."""
    smooth = np.sqrt(gaussian_filter(heat, (0, 1, 1)))
    return smooth / np.maximum(smooth.max(axis=(1, 2), keepdims=True), 1e-9)


def stored_heat(run, split, rows):
    """Compute `layer_cam` for some photos of the test subset, or read the maps if the run's folder has them.

    Parameters
    ----------
    run : Run
    split : DataFrame, see `dataset.load_split`
    rows : array of int
        Row numbers of the photos in the test subset.

    Returns
    -------
    array of float32, see `layer_cam`
    """
    key = f"{CODE} {split.attrs['hash']} {run.result['hashes']['model.keras']} {rows.tolist()}"

    def compute():
        images, network = load_images(split, "test", run.spec["image_size"])[0][rows], load_network(run.folder)
        return {"heat": np.concatenate([layer_cam(network, batch) for batch in in_batches(images)])}

    name = hashlib.sha256(key.encode()).hexdigest()[:8]
    return computed_once(run.folder / f"heat-{name}.npz", key, compute)["heat"]


def heat_examples(labels, models, on_test, split):
    """Compute each model's maps for up to three correctly classified and three misclassified test photos.

    Test photos with a leaf mask come before the other test photos, because the figure draws the outline of the leaf.
    From this ordered list, the function takes three evenly spaced photos that the model classifies correctly, then the
    first three that it misclassifies.

    Parameters
    ----------
    labels : list of str
    models : dict of label to Run
    on_test : `evaluation.Answers` of these models to the test subset

    Returns
    -------
    dict of label to a dict of arrays: "picture" (uint8, shape (up to 6, size, size, 3)), "heat" (float32, shape (up to
    6, height, width), see `brightness`), "mask" (bool, shape (up to 6, side, side)), "truth" and "predicted" (int,
    shape (up to 6,))
    """
    examples, truth, masks = {}, on_test.truth, leaf_masks(split, "test")
    outlined = (~masks.any(axis=(1, 2))).argsort(kind="stable")
    for label in labels:
        predicted = on_test.predicted[label]
        right, wrong = (outlined[(predicted == truth)[outlined] == is_right] for is_right in (True, False))
        rows = np.concatenate([right[:: max(1, len(right) // 3)][:3], wrong[:3]])
        pictures = load_images(split, "test", models[label].spec["image_size"])[0][rows]
        heat = brightness(stored_heat(models[label], split, rows))
        examples[label] = {"picture": pictures, "heat": heat, "mask": masks[rows]}
        examples[label] |= {"truth": truth[rows], "predicted": predicted[rows]}
    return examples


def share_on_leaf(heat, masks):
    """Compute which share of each map's sum lies on the leaf: array of float, shape (n,); NaN for a map of zeros.

    Parameters
    ----------
    heat : float array, shape (n, height, width), see `layer_cam`
    masks : array of bool, shape (n, side, side), see `backgrounds.leaf_masks`
    """
    size = heat.shape[:0:-1]
    areas = [Image.fromarray(np.float32(mask)).resize(size, Image.Resampling.BOX) for mask in masks]
    total = heat.sum(axis=(1, 2))
    on_leaf = (heat * np.reshape(areas, heat.shape)).sum(axis=(1, 2))
    return np.divide(on_leaf, total, out=np.full(len(heat), np.nan), where=total > 0)


def attention_table(labels, models, split, rows):
    """Tabulate which share of each model's `layer_cam` maps lies on the leaf.

    Parameters
    ----------
    labels : list of str
    models : dict of label to Run
    rows : array of int
        Row numbers of photos in the test subset; photos without a leaf mask are skipped.

    Returns
    -------
    DataFrame, one row per model: "weight on the leaf" (float, the mean of `share_on_leaf`), "area of the leaf" (float,
    the mean share of the picture that the leaf covers), "photos" (int, the number of photos whose map is not all
    zeros; only these photos count in the two means) and "places" (str, the size of the maps, as in "16 x 16"); empty
    if no photo has a leaf mask
    """
    masks, table = leaf_masks(split, "test"), {}
    rows = rows[masks[rows].any(axis=(1, 2))]
    for label in labels if len(rows) else ():
        heat = stored_heat(models[label], split, rows)
        shares = share_on_leaf(heat, masks[rows])
        told = ~np.isnan(shares)
        table[label] = {"weight on the leaf": shares[told].mean(), "area of the leaf": masks[rows][told].mean()}
        table[label] |= {"photos": int(told.sum()), "places": "{} x {}".format(*heat.shape[1:])}
    return pd.DataFrame(table).T


def attention_in_words(table):
    """Say how much of the weight of each model's maps lies on the leaf, and how much of the picture the leaf covers.

    Parameters
    ----------
    table : DataFrame from `attention_table`
    """
    if table.empty:
        return "No leaf could be cut out, so the maps cannot be compared with the leaves."
    shares = table["weight on the leaf"].astype(float).dropna()
    weights = ", ".join(f"{label} {share:.0%}" for label, share in shares.items())
    area = table["area of the leaf"].astype(float).mean()
    return f"The leaf covers {area:.0%} of the picture. Mean share of a map's weight on the leaf: {weights}."
