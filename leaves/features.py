"""Compute the activations and features of a frozen backbone once, and keep them on disk."""

import dataclasses
import functools
import hashlib
import json
import shutil
import time
from contextlib import ExitStack
from dataclasses import dataclass

from leaves import image_store, places
from leaves.backbones import BACKBONES, cut_backbone, preprocess, window_means
from leaves.backgrounds import CODE as BACKGROUNDS_CODE
from leaves.backgrounds import OtherBackgrounds, leaf_masks
from leaves.batches import Views, augment
from leaves.cache import code_hash
from leaves.dataset import DEVELOPMENT, load_images
from leaves.files import InputError, atomic_file, file_hash, read_json, write_json
from leaves.progress import tqdm
from leaves.runs import slug
from leaves.training import batch_function, computing_in

import keras
import numpy as np
import tensorflow as tf
from sklearn.neighbors import NearestNeighbors


@dataclass(frozen=True)
class View:
    """One view of each image of an array: an augmented copy, which is computed when it is read.

    The augmentation of an image is a pure function of the seed, the view's number and the image's index in the array.
    """

    images: np.ndarray  # or StoredImages; shape (n, size, size, 3)
    augmentation: dict | None  # None leaves the images unchanged
    seed: int
    number: int  # the view's number, from 1; number 0 stands for the unchanged images

    def __len__(self):
        return len(self.images)

    def __getitem__(self, rows):
        uniform = tf.random.stateless_uniform([len(self), 6], [self.seed, self.number])[rows]
        return augment(tf.constant(self.images[rows], tf.float32), uniform, self.augmentation).numpy()


@dataclass(frozen=True)
class FrozenOutputs:
    """The activations at the cut and the features of a frozen backbone, for one subset: float16, memory-mapped.

    With windows (see `backbones.window_means`), only one of the two is computed: the features for a head, the
    activations for a tail. The other one is None.
    """

    at_cut: Views | None  # shape (views * n, height, width, channels); None for a head with windows
    # shape (views * n, channels), or with windows (views * n, 1 + number of windows, channels); None for a tail with
    # windows
    features: Views | None
    labels: np.ndarray  # int, shape (n,): one per photo, the same for every view
    seconds: float  # how long the outputs took to compute, even if they are now read from disk


def fold_data(values, labels, split, fold):
    """Return training data (all folds but one, all views) and validation data (that fold, unchanged photos).

    Parameters
    ----------
    values : `batches.Views`, the outputs for all photos outside the test subset, see `FrozenOutputs`
    labels : array of int, shape (n,)
    split : DataFrame, see `dataset.load_split`
    fold : int
        The fold that is held out.

    Returns
    -------
    train, validation : tuples (`batches.Views`, array of int)
        The outputs, and one label per photo, because the label is the same in all views.
    """
    held_out = split.loc[split["split"] != "test", "fold"].to_numpy() == fold
    train, validation = np.flatnonzero(~held_out), np.flatnonzero(held_out)
    return (values.of(train), labels[train]), (values.of(validation, views=1), labels[validation])


def frozen_outputs(spec, split, subset, load):
    """Compute a frozen backbone's activations and features for a subset, or read them from disk if they are stored.

    All heads on the backbone are trained on the features. All tails (the backbone's last block with a head) are trained
    on the activations at the cut, which are the input of the last block. The test subset has one view, the unchanged
    photos. The other subsets have 1 + `spec["views"]["count"]` views: first the unchanged photos, then augmented photos
    or, if `spec["views"]["backgrounds"]` is "replaced", leaves on other backgrounds.

    Parameters
    ----------
    spec : dict
        Its keys `backbone`, `weights`, `image_size`, `split`, `views`, `precision` and, if present, `windows` are read.
        With windows (see `backbones.window_means`) the activations are large, so only one output is computed: the
        activations if the spec has the key `cut`, which is the case for tails, and the features otherwise.
    subset : "development" (train and validation together), "validation" or "test" (only in chapter 6)
    load : callable without arguments
        Returns `front` and `last_block`, see `cut_backbone`; called only if an output is not on disk.

    Returns
    -------
    FrozenOutputs

    Raises
    ------
    InputError
        When the disk does not have enough free space for the outputs, or the weights produce numbers that are not
        finite.
    """
    images, labels = load_images(split, subset, spec["image_size"])
    stored, outputs = [], ("cut", "features")
    if spec.get("windows"):
        outputs = ("cut",) if "cut" in spec else ("features",)
    for number in range(1 + (spec["views"]["count"] if subset != "test" else 0)):
        key = {key: spec[key] for key in ("backbone", "weights", "image_size", "split", "precision")}
        key |= {"network": dataclasses.asdict(BACKBONES[spec["backbone"]]), "part": subset}
        key |= {"code": code_hash(preprocess, cut_backbone, window_means), "windows": spec.get("windows")}
        view, key["view"] = view_of(images, spec["views"], number, split, subset) if number else (images, None)
        title = f"{spec['backbone']}, {subset}" + (f", view {number}" if number else "")
        stored.append(compute_once(load, view, key, title, outputs))
    arrays, seconds = zip(*stored, strict=True)
    photos = np.arange(len(labels))
    views = {output: Views(tuple(of_view[output] for of_view in arrays), photos) for output in outputs}
    return FrozenOutputs(views.get("cut"), views.get("features"), labels, sum(seconds))


def view_of(images, views, number, split, subset):
    """Return one view of a subset's images, and a JSON-able dict of the settings and the code hash that define it.

    `views` is `spec["views"]` of `frozen_outputs`, and `number` is the number of the view, from 1.
    """
    if views.get("backgrounds") == "replaced":
        fold = split.loc[split["split"] != "test", "fold"].to_numpy() if subset == DEVELOPMENT else None
        view = OtherBackgrounds(images, leaf_masks(split, subset), views["seed"], number, fold)
        return view, {"seed": views["seed"], "number": number, "code": BACKGROUNDS_CODE}
    settings = {key: views[key] for key in ("augmentation", "seed")}
    return View(images, **settings, number=number), settings | {"number": number, "code": code_hash(View, augment)}


def nearest_leaves(outputs, split, size, most=2000):
    """Find the five training photos most similar to one validation photo, according to the features of each backbone.

    The validation photo is the first validation photo of the class that has the most training photos. Features are
    compared by their cosine distance.

    Parameters
    ----------
    outputs : dict of backbone to FrozenOutputs of the photos outside the test subset
    split : DataFrame from `dataset.load_split`
    size : int
        Pixels per side of the pictures.
    most : int
        Search among at most this many training photos.

    Returns
    -------
    dict of backbone to dict of pictures (uint8, shape (6, size, size, 3), the validation photo first), species (list of
    six str, for these pictures) and share (float: the share of a validation photo's five nearest photos that show
    its species, averaged over all validation photos)
    """
    (train, labels), (validation, true) = (load_images(split, subset, size) for subset in ("train", "validation"))
    leaf = int(np.flatnonzero(true == np.bincount(labels).argmax())[0])
    sampled = np.linspace(0, len(labels) - 1, min(len(labels), most)).astype(int)
    alike = {}
    for name, stored in outputs.items():
        (learnt, _), (held_out, _) = fold_data(stored.features, stored.labels, split, 0)
        neighbours = NearestNeighbors(n_neighbors=5, metric="cosine")
        neighbours.fit(learnt[sampled].astype(np.float32))
        rows = sampled[neighbours.kneighbors(held_out[:].astype(np.float32))[1]]
        species = [split.attrs["classes"][label] for label in (true[leaf], *labels[rows[leaf]])]
        pictures = np.stack([validation[leaf], *train[rows[leaf]]])
        alike[name] = {"pictures": pictures, "species": species, "share": (labels[rows] == true[:, None]).mean()}
    return alike


@functools.lru_cache(maxsize=1)
def traced(front, last_block, precision, features):
    """Compile a function from pixels to a frozen backbone's outputs; it is traced once, for all views and subsets.

    The function returns a dict with the key "cut" and, if `features` is true, "features", see `compute_once`.
    """
    outputs = {"cut": front.output} | ({"features": last_block(front.output, training=False)} if features else {})
    run = batch_function(keras.Model(front.input, outputs))
    with computing_in([front, last_block], precision):
        run.get_concrete_function()
    return run


def compute_once(load, images, key, title, outputs):
    """Compute a frozen backbone's outputs for one view of the images, or read them from disk if they are stored.

    Parameters
    ----------
    load : see `frozen_outputs`
    images : array or View; only 32 rows at a time are read, so memory use does not grow with the number of images
    key : dict, JSON-able
        Everything that the outputs depend on.
    title : str, for the progress bar and the names of the files
    outputs : tuple of str
        "cut" for the activations at the cut, "features", or both.

    Returns
    -------
    arrays : dict of output to memory map of float16
    seconds : float
        How long the computation took; if the outputs are read from disk, how long it took when they were computed.
    """
    content = json.dumps([1, image_store.CODE, key], sort_keys=True)  # 1: version of this code
    name = f"{slug(title)}-{hashlib.sha256(content.encode()).hexdigest()[:16]}"
    files = {output: places.CACHE / f"{name}-{output}.npy" for output in outputs}
    note = places.CACHE / f"{name}{'-cut' if outputs == ('cut',) else ''}.json"
    known = read_json(note)
    hashes = known.get("hashes", {})  # an earlier version of this code wrote no hashes
    stored = {output: open_whole(file, hashes.get(output)) for output, file in files.items()}
    if "seconds" in known and all(array is not None for array in stored.values()):
        return stored, known["seconds"]
    if note.exists() and not known:
        print(f"data/cache/{note.name} is damaged: its arrays are computed again.")
    start = time.perf_counter()
    write_outputs(load, images, files, key["precision"], title)
    seconds = round(time.perf_counter() - start, 2)
    hashes = {output: file_hash(file) for output, file in files.items()}
    write_json(note, {"seconds": seconds, "key": key, "hashes": hashes})
    return {output: open_whole(file) for output, file in files.items()}, seconds


def write_outputs(load, images, files, precision, title):
    """Compute a frozen backbone's outputs ("cut", "features" or both) and write each to its path in `files`."""
    front, last_block = load()
    parts = {"cut": front, "features": last_block}
    run = traced(front, last_block, precision, "features" in files)
    shapes = {output: (len(images), *parts[output].output_shape[1:]) for output in files}
    check_room(shapes.values(), title)
    with ExitStack() as stack:
        outs = {output: stack.enter_context(atomic_file(file)) for output, file in files.items()}
        for output, out in outs.items():
            header = {"descr": "<f2", "fortran_order": False, "shape": shapes[output]}
            np.lib.format.write_array_header_1_0(out, header)
        for first in tqdm(range(0, len(images), 32), title, unit="batch", mininterval=2):
            computed = run(images[first : first + 32].astype(np.float32))
            for output, out in outs.items():
                values = computed[output].numpy().astype("<f2")
                if not np.isfinite(values).all():
                    raise InputError(f"{title}: these weights produce numbers that are not finite: use other weights.")
                out.write(values.tobytes())


def check_room(shapes, title):
    """Raise InputError if float16 arrays of these shapes do not fit on the disk."""
    places.CACHE.mkdir(parents=True, exist_ok=True)
    needed, free = 2 * sum(np.prod(shape, dtype=float) for shape in shapes), shutil.disk_usage(places.CACHE).free
    if needed > free:
        raise InputError(
            f"{title}: the outputs take {needed / 1e9:.1f} GB, but {free / 1e9:.1f} GB are free in {places.CACHE}: "
            "free some space, or set views, image_size, background_sizes or background_views to lower values."
        )


def open_whole(file, expected=None):
    """Open a stored array as a memory map; return None if it is missing or damaged, or its hash is not `expected`."""
    try:
        if expected in (None, file_hash(file)):
            return np.load(file, mmap_mode="r")
    except FileNotFoundError:
        return None
    except Exception:  # noqa: BLE001, S110 - NumPy raises many types of exceptions for damaged files
        pass
    print(f"data/cache/{file.name} is damaged: it is computed again.")
    return None
