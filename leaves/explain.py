"""Where a network looks: Grad-CAM (Selvaraju et al. 2017) on the last feature maps."""

import functools

from leaves.dataset import load_images
from leaves.evaluation import load_network

import keras
import numpy as np
import tensorflow as tf


def halves(network):
    """Cut a network before its global pooling, in two functions: pixels to feature maps, and these to probabilities."""
    names = [layer.name for layer in network.layers]
    if "last_block" in names:
        front, last_block, head = (network.get_layer(part) for part in ("front", "last_block", "head"))
        pooling = last_block.get_layer("pooling")
        last_maps = keras.Model(last_block.input, pooling.input)
        return lambda pixels: last_maps(front(pixels)), lambda maps: head(pooling(maps))
    position = next(number for number, name in enumerate(names) if "pooling2d" in name and "global" in name)
    last_maps = keras.Model(network.inputs, network.layers[position].input)
    return last_maps, lambda maps: functools.reduce(lambda x, layer: layer(x), network.layers[position:], maps)


def grad_cam(network, images):
    """How much each place of the last feature maps raises the answer that a network gives.

    Parameters
    ----------
    network : keras.Model of chapters 2 to 5
    images : array of shape (n, size, size, 3), RGB 0..255

    Returns
    -------
    array of float32, shape (n, height, width), 0 to 1
    """
    before, after = halves(network)
    maps = before(tf.constant(images, tf.float32))
    with tf.GradientTape() as tape:
        tape.watch(maps)
        answer = after(maps)
        others = answer * (1 - tf.one_hot(tf.argmax(answer, axis=1), answer.shape[1]))
        odds = tf.math.log(tf.reduce_max(answer, axis=1)) - tf.math.log(tf.reduce_sum(others, axis=1) + 1e-30)
    weights = tf.reduce_mean(tape.gradient(odds, maps), axis=(1, 2), keepdims=True)
    heat = tf.nn.relu(tf.reduce_sum(weights * maps, axis=-1)).numpy()
    return heat / np.maximum(heat.max(axis=(1, 2), keepdims=True), 1e-9)


def heat_examples(labels, models, on_test, split):
    """Where models look in three test photos that they get right, and in three that they get wrong.

    Parameters
    ----------
    labels : list of str
    models : dict of label to Run
    on_test : Answers of these models to the test subset

    Returns
    -------
    dict of label to a dict of arrays: "picture" (uint8, shape (up to 6, size, size, 3)), "heat" (float32, shape (up to
    6, height, width), see `grad_cam`), "truth" and "predicted" (int, shape (up to 6,))
    """
    examples, truth = {}, on_test.truth
    for label in labels:
        predicted = on_test.predicted[label]
        right, wrong = np.flatnonzero(predicted == truth), np.flatnonzero(predicted != truth)
        rows = np.concatenate([right[:: max(1, len(right) // 3)][:3], wrong[:3]])
        pictures = load_images(split, "test", models[label].spec["image_size"])[0][rows]
        heat = grad_cam(load_network(models[label].folder), pictures)
        examples[label] = {"picture": pictures, "heat": heat, "truth": truth[rows], "predicted": predicted[rows]}
    return examples
