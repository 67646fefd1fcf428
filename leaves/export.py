"""Export the best model to one file: a Keras model that takes photos of any size and returns names of species."""

import functools
from pathlib import Path

from leaves import familiarity, image_store, places
from leaves.cache import code_hash, computed_once
from leaves.evaluation import VERSIONS, load_network
from leaves.files import InputError, atomic_path, file_hash, read_regular

import keras
import numpy as np
import pandas as pd
import tensorflow as tf

CODE = code_hash(Path(__file__), VERSIONS)


def with_labels(network, size, classes, familiar):
    """Wrap a network in a model that takes pictures of any size and returns class names and familiarity.

    Parameters
    ----------
    network : keras.Model
        Maps RGB pixels 0..255 of shape (n, size, size, 3) to probabilities of shape (n, classes).
    classes : list of str
    familiar : `familiarity.Familiarity`

    Returns
    -------
    keras.Model
        Maps RGB pixels 0..255 of shape (n, height, width, 3) to a dict of "species" (text, shape (n,)), "probabilities"
        (float32, shape (n, classes)), "familiar" (float32, shape (n,), the familiarity from 0 to 1) and "is_familiar"
        (bool, shape (n,), False if the species may be unknown).
    """
    pixels = keras.Input((None, None, 3), name="pixels")
    answer = network(resized(pixels, size), training=False)  # no dropout
    names = keras.layers.StringLookup(vocabulary=classes, invert=True, name="names")  # index 0 stands for unknown names
    score = familiar.network(resized(pixels, familiar.size))
    of_species = {"species": names(keras.ops.argmax(answer, axis=-1) + 1), "probabilities": answer}
    return keras.Model(pixels, of_species | {"familiar": score, "is_familiar": score >= familiar.cut})


def resized(pixels, size):
    """Resize pictures to size x size pixels, and round the values to whole numbers 0..255: Keras tensor, float32."""
    changed = keras.layers.Resizing(size, size, interpolation="bicubic", antialias=True)(pixels)
    return keras.ops.round(keras.ops.clip(changed, 0, 255))


def export_model(run, classes, familiar, file):
    """Wrap a run's model with `with_labels`, save it to a file, and return the keras.Model loaded from this file."""
    with atomic_path(file) as unfinished:
        with_labels(load_network(run.folder), run.spec["image_size"], classes, familiar).save(unfinished)
    return keras.models.load_model(file)


def answers_of_export(model, run, familiar, split):
    """Classify the photo files of the test subset with a run's exported model, or read its cached predictions.

    The model gets the photos in their original size, because it contains the resizing. The predictions are cached in
    the folder of the run.

    Parameters
    ----------
    model : keras.Model, see `with_labels`
    run : Run
    familiar : `familiarity.Familiarity`
    split : DataFrame, see `dataset.load_split`

    Returns
    -------
    dict of "probabilities" (float32, shape (n, classes)) and "is_familiar" (bool, shape (n,))
    """
    paths = [places.ROOT / path for path in split.loc[split["split"] == "test", "path"]]
    compute = functools.partial(answers_to_files, model, paths)
    key = f"{CODE} {familiarity.CODE} {file_hash(familiar.folder / 'model.keras')}"
    return computed_once(run.folder / "as_saved.npz", key, compute)


def answers_to_files(model, paths):
    """Classify photo files of any size with an exported model: dict of arrays, see `answers_of_export`."""
    signature = [tf.TensorSpec([1, None, None, 3], tf.float32)]
    answer = tf.function(lambda pixels: model(pixels, training=False), input_signature=signature)
    pictures = (image_store.read_image(Path(path).read_bytes()) for path in paths)
    answers = [answer(np.asarray(image, np.float32)[None]) for image in pictures]
    return {name: np.concatenate([of_one[name] for of_one in answers]) for name in ("probabilities", "is_familiar")}


def read_photo(file):
    """Read a photo as a Pillow image in RGB; InputError if it cannot be read."""
    try:
        return image_store.read_image(read_regular(file))
    except Exception as error:
        raise InputError(f"The photo {file} cannot be read: set `photo` to a JPEG or PNG file.") from error


def classify(model, picture, classes):
    """Classify a Pillow image with an exported model.

    Returns
    -------
    species : str, the most probable class
    probabilities : Series of float32, one per class
    familiar : bool, False if the species may be unknown, see `familiarity.Familiarity.cut`
    """
    answer = model(np.asarray(picture, np.float32)[None])
    species, familiar = answer["species"][0].numpy().decode(), bool(answer["is_familiar"][0])
    return species, pd.Series(answer["probabilities"][0].numpy(), classes), familiar
