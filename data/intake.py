"""From a folder of photos to a table that can be split: what chapter 1 does to data before anything is trained."""

import hashlib
import io
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import imagehash
import numpy as np
import pandas as pd
from PIL import Image, ImageOps
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from sklearn.model_selection import StratifiedGroupKFold
from tqdm import tqdm

from helpers import PARTS, InputError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")


def find_images(folder):
    """List the images of a folder with one sub-folder per class.

    Returns
    -------
    DataFrame with the columns path (absolute str) and label, sorted by both.

    Raises
    ------
    InputError
        When the folder is missing, holds fewer than two classes, or a class has fewer than five images.
    """
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise InputError(f"There is no data folder {folder}: name a folder with one sub-folder of images per class.")
    classes = sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    found = [
        (str(file.resolve()), one.name)
        for one in classes
        for file in sorted(one.iterdir())
        if file.suffix.lower() in IMAGE_SUFFIXES
    ]
    if not found:
        raise InputError(f"The data folder {folder} holds no JPEG or PNG images in sub-folders, one per class.")
    images = pd.DataFrame(found, columns=["path", "label"])
    check_class_counts(images["label"], [one.name for one in classes], folder)
    return images


def check_class_counts(labels, classes, folder):
    """Raise InputError unless there are two classes or more, each with five images or more."""
    counts = labels.value_counts().reindex(sorted(set(classes)), fill_value=0)
    if len(counts) < 2:
        raise InputError(f"The data folder {folder} has only the class {counts.index[0]}; a classifier needs two.")
    if counts.min() < 5:
        raise InputError(
            f"The class {counts.idxmin()} in {folder} has {counts.min()} usable images, but a split into train, "
            "validation and test needs 5: add images or remove the class."
        )


def inspect_image(path):
    """Open one image completely; return its sha256, width, height, pHash (uint64) or the problem it has."""
    try:
        content = Path(path).read_bytes()
        with Image.open(io.BytesIO(content)) as image:
            upright = ImageOps.exif_transpose(image).convert("RGB")
        bits = np.packbits(imagehash.phash(upright).hash.ravel())
        return {
            "sha256": hashlib.sha256(content).hexdigest(),
            "width": upright.width,
            "height": upright.height,
            "phash": int.from_bytes(bits.tobytes(), "big"),
            "problem": "",
        }
    except Exception as error:  # noqa: BLE001 - Pillow raises many kinds, for as many ways to be broken
        nothing = {"sha256": "", "width": 0, "height": 0, "phash": 0}
        return nothing | {"problem": f"{type(error).__name__}: {error}" if str(error) else type(error).__name__}


def inspect_images(images):
    """Add the columns of `inspect_image` to a table of images, several files at a time."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = list(tqdm(pool.map(inspect_image, images["path"]), "checking images", len(images), mininterval=1))
    return pd.concat([images.reset_index(drop=True), pd.DataFrame(found)], axis=1)


def duplicate_groups(sha256, phash, distance):
    """Number the groups of photos that are equal, or whose 64-bit pHashes differ in at most `distance` bits.

    Parameters
    ----------
    sha256 : sequence of str, length n
    phash : array of uint64, shape (n,)
    distance : int
        Hamming distance in bits; a group is a connected component, so its far ends may differ by more.

    Returns
    -------
    array of int, shape (n,)
    """
    phash = np.asarray(phash, dtype=np.uint64)
    first_of_hash = pd.Series(range(len(phash))).groupby(np.asarray(sha256)).transform("first").to_numpy()
    left, right = [np.arange(len(phash))], [first_of_hash]
    for start in range(0, len(phash), 512):  # blocks keep the distance matrix small for large folders
        apart = np.bitwise_count(phash[start : start + 512, None] ^ phash[None, :])
        rows, columns = np.nonzero(apart <= distance)
        left.append(rows + start)
        right.append(columns)
    edges = (np.concatenate(left), np.concatenate(right))
    graph = coo_matrix((np.ones(len(edges[0]), bool), edges), shape=(len(phash), len(phash)))
    return connected_components(graph, directed=False)[1]


def split_images(labels, groups, validation, test, seed):
    """Assign every image to train, validation or test: stratified by label, groups never torn apart.

    Parameters
    ----------
    labels, groups : array, shape (n,)
    validation, test : float
        Fractions: `test` of all images, then `validation` of what is left.

    Returns
    -------
    array of str, shape (n,)

    Raises
    ------
    InputError
        When a fraction is not between 0.02 and 0.5, or a class would be missing from a part.
    """
    labels, groups = np.asarray(labels), np.asarray(groups)
    part = np.full(len(labels), "train", dtype=object)
    for name, fraction in (("test", test), ("validation", validation)):
        if not 0.02 <= fraction <= 0.5:
            raise InputError(f"The {name} fraction is {fraction}, but it must lie between 0.02 and 0.5.")
        rest = np.flatnonzero(part == "train")
        smallest = pd.Series(labels[rest]).value_counts().min()
        folds = StratifiedGroupKFold(max(2, min(round(1 / fraction), smallest)), shuffle=True, random_state=seed)
        _, held_out = next(folds.split(rest, labels[rest], groups[rest]))
        part[rest[held_out]] = name
    table = pd.crosstab(labels, part).reindex(columns=PARTS, fill_value=0)
    for label, name in zip(*np.nonzero(table == 0), strict=True):
        raise InputError(
            f"No image of the class {table.index[label]} is left for {PARTS[name]}: its photos are "
            "too few or too alike; "
            "add photos, lower phash_distance or change the fractions."
        )
    return part
