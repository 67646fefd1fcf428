"""The best model to take away: one file that takes photos of any size and answers with names."""

import functools
import hashlib
from pathlib import Path

from leaves import image_store, places
from leaves.cache import computed_once
from leaves.evaluation import VERSIONS, load_network
from leaves.files import InputError, atomic_path, read_regular

import keras
import numpy as np
import pandas as pd
import tensorflow as tf

CODE = hashlib.sha256(Path(__file__).read_bytes() + VERSIONS.encode()).hexdigest()[:8]


def with_labels(network, size, classes):
    """A network that takes pictures of any size and answers with the names of classes too.

    Parameters
    ----------
    network : keras.Model, RGB pixels 0..255 of shape (n, size, size, 3) to probabilities
    classes : list of str

    Returns
    -------
    keras.Model, RGB pixels 0..255 of shape (n, height, width, 3) to a dict of "species" (text, shape (n,)) and
    "probabilities" (float32, shape (n, classes))
    """
    pixels = keras.Input((None, None, 3), name="pixels")
    resized = keras.layers.Resizing(size, size, interpolation="bicubic", antialias=True)(pixels)
    answer = network(keras.ops.round(keras.ops.clip(resized, 0, 255)), training=False)  # no dropout
    names = keras.layers.StringLookup(vocabulary=classes, invert=True, name="names")  # 0 is none of them
    return keras.Model(pixels, {"species": names(keras.ops.argmax(answer, axis=-1) + 1), "probabilities": answer})


def export_model(run, classes, file):
    """Write the model of a run with `with_labels` to a file, and read it back: keras.Model."""
    with atomic_path(file) as unfinished:
        with_labels(load_network(run.folder), run.spec["image_size"], classes).save(unfinished)
    return keras.models.load_model(file)


def answers_of_export(model, run, split):
    """Probabilities that the exported model of a run gives for the photo files of the test subset, computed once.

    Returns
    -------
    array of float32, shape (n, classes)
    """
    paths = [places.ROOT / path for path in split.loc[split["split"] == "test", "path"]]
    compute = functools.partial(answers_to_files, model, paths)
    return computed_once(run.folder / "as_saved.npz", CODE, compute)["probabilities"]


def answers_to_files(model, paths):
    """Answers of an exported model to photo files of any size: {"probabilities": float32, shape (n, classes)}."""
    signature = [tf.TensorSpec([1, None, None, 3], tf.float32)]
    predict = tf.function(lambda pixels: model(pixels, training=False)["probabilities"], input_signature=signature)
    pictures = (image_store.read_image(Path(path).read_bytes()) for path in paths)
    return {"probabilities": np.concatenate([predict(np.asarray(image, np.float32)[None]) for image in pictures])}


def read_photo(file):
    """A photo as a Pillow image in RGB; InputError if the file is none that can be read."""
    try:
        return image_store.read_image(read_regular(file))
    except Exception as error:
        raise InputError(f"The photo {file} cannot be read: name a JPEG or PNG file as photo.") from error


def classify(model, picture, classes):
    """The name that an exported model gives to a Pillow image, and the probability of each class.

    Returns
    -------
    species : str
    probabilities : Series of float32, one per class
    """
    answer = model(np.asarray(picture, np.float32)[None])
    return answer["species"][0].numpy().decode(), pd.Series(answer["probabilities"][0].numpy(), classes)
