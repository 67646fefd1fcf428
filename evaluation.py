"""What chapter 6 asks of trained networks: their answers, their costs, and other photos to ask about."""

import hashlib
import time
from pathlib import Path

import fitting
import helpers  # before Keras: it makes TensorFlow's settings

# isort: split
import keras
import numpy as np
import pandas as pd
import tensorflow as tf

from data import image_store, intake, splitting
from files import InputError

VERSIONS = f"{image_store.CODE} {keras.__version__} {tf.__version__}"
CODE = hashlib.sha256(Path(__file__).read_bytes() + VERSIONS.encode()).hexdigest()[:8]
MIRRORS = [
    lambda batch: batch,
    lambda batch: batch[:, ::-1],
    lambda batch: batch[:, :, ::-1],
    lambda batch: batch[:, ::-1, ::-1],
]
COSTS = ("params", "trainable_params", "train_seconds", "ms_per_image")


# ---------------------------------------------------------------- answers


def predict_all(predict, images, change=lambda batch: batch):
    """Probabilities for many images, which are read and changed batch by batch.

    Parameters
    ----------
    predict : callable(float32 array of shape (n, size, size, 3)) -> array of shape (n, classes)
    images : array or StoredImages, shape (n, size, size, 3), RGB 0..255
    change : callable(batch) -> batch of the same shape

    Returns
    -------
    array of float32, shape (n, classes)
    """
    batches = (images[first : first + 64] for first in range(0, len(images), 64))
    return np.concatenate([predict(change(batch).astype(np.float32)) for batch in batches])


def computed_once(file, compute):
    """The arrays in an .npz file, computed by `compute` (-> dict of arrays) if this code has not written it."""
    if not (known := kept(file)):
        known = compute()
        keep(file, known)
    return known


def kept(file):
    """The arrays that this code wrote into an .npz file; an empty dict without such a file."""
    known = fitting.read_arrays(file)
    return known if str(known.pop("code", "")) == CODE else {}


def keep(file, arrays):
    """Write arrays for `computed_once`."""
    with helpers.whole_file(file) as out:
        np.savez(out, code=CODE, **arrays)


def milliseconds(predict, batch):
    """Median time of 20 predictions, one photo at a time, after one to warm up.

    Parameters
    ----------
    batch : float32 tensor whose first axis has the length 1
    """
    times = []
    for _ in range(21):
        start = time.perf_counter()
        predict(batch)
        times.append(1000 * (time.perf_counter() - start))
    return float(np.median(times[1:]))


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


def answers_of_saved_model(model, files):
    """Probabilities that a model of `report/best_model.keras` gives for photo files of any size.

    Returns
    -------
    array of float32, shape (n, classes)
    """
    signature = [tf.TensorSpec([1, None, None, 3], tf.float32)]
    predict = tf.function(lambda pixels: model(pixels, training=False)["probabilities"], input_signature=signature)
    pictures = (image_store.read_image(Path(file).read_bytes()) for file in files)
    return np.concatenate([predict(np.asarray(picture, np.float32)[None]) for picture in pictures])


# ---------------------------------------------------------------- costs


def cost_parts(run, milliseconds, head=None):
    """The costs of one model, by the parts that several models may share.

    Parameters
    ----------
    run : Run
    milliseconds : dict of "whole" and, for a network on a backbone, "front", to float
    head : Run, optional
        The transfer learning that a fine-tuned network goes on from.

    Returns
    -------
    dict of the part's name to a dict with keys of `COSTS`
    """
    result = run.result
    own = {key: result[key] for key in COSTS if key in result} | {"ms_per_image": milliseconds["whole"]}
    if "seconds_before" not in result:  # a network that learns from pixels
        return {run.folder.name: own}
    transfer = head or run
    front = transfer.result["parts"]["front"]
    frozen = {"params": front, "ms_per_image": milliseconds["front"]}
    frozen["train_seconds"] = transfer.result["seconds_before"]
    own |= {"params": own["params"] - front, "ms_per_image": milliseconds["whole"] - milliseconds["front"]}
    parts = {f"{run.spec['backbone']}, frozen": frozen, run.folder.name: own}
    if head:
        parts[f"{head.folder.name}, training"] = {"train_seconds": head.result["train_seconds"]}
    else:  # the same name, whether this head or a network that was fine-tuned from it brings its seconds
        parts[f"{run.folder.name}, training"] = {"train_seconds": own.pop("train_seconds")}
    return parts


def total_cost(*models):
    """The costs of several models together, each shared part counted once: dict with the keys of `COSTS`.

    Parameters
    ----------
    models : dicts from `cost_parts`
    """
    parts = {name: part for model in models for name, part in model.items()}
    return {key: sum(part.get(key, 0) for part in parts.values()) for key in COSTS}


# ---------------------------------------------------------------- other photos


def stratified_rows(truth, count, seed):
    """Row numbers of about `count` photos: every class in its proportion, and at least one photo of each.

    Parameters
    ----------
    truth : array of int, shape (n,)

    Returns
    -------
    sorted array of int, at most n of them, and at least as many as there are classes
    """
    rng, rank = np.random.default_rng(seed), np.empty(len(truth))
    for label in np.unique(truth):
        rows = rng.permutation(np.flatnonzero(truth == label))
        rank[rows] = (np.arange(len(rows)) + 0.5) / len(rows)
        rank[rows[0]] = 0
    return np.sort(rank.argsort(kind="stable")[: max(count, len(np.unique(truth)))])


def external_files(folder, classes):
    """The photos of a second test set as a table (path, label, disease): labels "" if it has no sub-folders.

    Prints which classes are skipped. InputError if the folder cannot be read or holds no photo that could be used.
    """
    try:
        entries = [entry for entry in intake.visible(folder) if intake.can_be_written(entry.name)]
    except OSError as error:
        raise InputError(f"{folder} cannot be read ({error.strerror}): name another folder as external.") from error
    known = [entry for entry in entries if entry.is_dir() and intake.fold_class(entry.name)[0] in classes]
    for entry in entries:
        if entry.is_dir() and entry not in known:
            print(f"Skipped: the class {intake.fold_class(entry.name)[0]}, which no model knows.")
    photos = [photo for entry in known for photo in intake.find_in_class(entry)[0]]
    if not any(entry.is_dir() for entry in entries):
        photos = [(str(entry), "", "") for entry in entries if entry.suffix.lower() in intake.IMAGE_SUFFIXES]
    if not photos:
        raise InputError(
            f"{folder} holds no photo of the classes {', '.join(classes)}: name another folder as external."
        )
    return pd.DataFrame(photos, columns=["path", "label", "disease"])


def external_photos(folder, split, sizes):
    """The usable photos of a second test set, with the facts of `intake.inspect_images`; prints what is skipped.

    Photos that equal, or nearly equal, a photo of the training or validation subset are skipped, because the models
    have learnt from them or were chosen by them.

    Parameters
    ----------
    split : DataFrame from `helpers.load_split`
    sizes : iterable of int
        Pixels per side at which the models want to read them.
    """
    photos = external_files(folder, split.attrs["classes"])
    for size in sizes:
        inspected, _ = intake.inspect_images(photos, size)
    excluded = [row for row in inspected.itertuples() if intake.reason(row)]
    for row in excluded:
        print(f"Skipped: {row.path}, {intake.reason(row)}.")
    inspected = inspected[~inspected["path"].isin([row.path for row in excluded])]
    if (inspected["label"] != "").any():  # as in chapter 1, no photo counts twice or under two labels
        copies = splitting.equal_files(inspected)
        for row in copies.itertuples():
            print(f"Skipped: {row.path}, {row.check}.")
        inspected = intake.usable(inspected, copies)
    learnt = split[split["split"] != "test"]
    learnt = learnt[["path", "label", "disease"]].assign(path=[str(helpers.ROOT / path) for path in learnt["path"]])
    known, _ = intake.inspect_images(learnt, size)  # which chapter 1 has inspected: nothing is opened again
    if not (settings := intake.last_source().get("settings")):
        raise InputError("data/source.json is missing or damaged: run notebook 01_data_split again.")
    seen = splitting.seen_before(inspected, known, settings["phash_distance"])
    if seen.any():
        print(
            f"Skipped: {seen.sum()} photos that equal or nearly equal photos that the models learnt from or were "
            "chosen by."
        )
    inspected = inspected[~seen]
    if inspected.empty:
        raise InputError(f"None of the {len(photos)} photos in {folder} is readable and new: name another as external.")
    return inspected
