"""Read the table of the split, copy it with another validation subset, and load the decoded images of a subset."""

import hashlib

from leaves import image_store, places
from leaves.files import InputError, disk_errors_explained, matches_checksum, read_regular

import numpy as np
import pandas as pd
from sklearn.model_selection import GroupKFold

SUBSETS = ("train", "validation", "test")
DEVELOPMENT = "development"  # train and validation together: the photos that are divided into folds


def load_split(path=None):
    """Read the table of the split, data/split.csv, in an order that does not depend on the names of the files.

    Returns
    -------
    DataFrame, one row per photo; its attrs hold the sorted `classes`, the number of `folds` and the `hash` of the
    split. The hash covers the content, labels, subsets and folds of the photos, but not their paths.

    Raises
    ------
    InputError
        When the file is missing, differs from the file that chapter 1 wrote, or is from an earlier version.
    """
    path = path or places.SPLIT_CSV
    if not path.exists():
        raise InputError("There is no data/split.csv yet: run notebook 01_data_split first.")
    if not matches_checksum(path):
        raise InputError(f"{path.name} was changed after chapter 1 wrote it: run notebook 01_data_split again.")
    split = pd.read_csv(path, dtype={"label": str}, keep_default_na=False)
    split = split.sort_values(["label", "sha256"], ignore_index=True)  # renaming a file does not change this order
    if "fold" not in split:
        raise InputError(f"{path.name} is from an earlier version and has no folds: run notebook 01_data_split again.")
    rows = split[["sha256", "label", "split", "fold"]].to_csv(index=False)
    split.attrs["hash"] = hashlib.sha256(rows.encode()).hexdigest()[:16]
    split.attrs["classes"] = sorted(split["label"].unique())
    split.attrs["folds"] = int(split["fold"].max()) + 1
    return split


def hold_out(split, fold, without=None):
    """Make one fold the validation subset of a split, and the other folds its training subset.

    Parameters
    ----------
    split : DataFrame, see `load_split`
    fold : int
        The fold that becomes the validation subset. The folds divide all photos outside the test subset. Fold 0 already
        is the validation subset of the split, so holding it out changes nothing.
    without : int, optional
        A fold that is used in neither subset; its photos get the subset "unused".

    Returns
    -------
    DataFrame, a changed copy of the split; the test subset is the same

    Raises
    ------
    InputError
        See `check_folds`.
    """
    check_folds(split, fold, without)
    changed, in_test = split.copy(), split["split"] == "test"
    changed["split"] = np.select(
        [in_test, split["fold"] == fold, split["fold"] == without], ["test", "validation", "unused"], "train"
    )
    return changed


def check_folds(split, fold, without=None):
    """Raise InputError with one sentence if `fold` or `without` is not a fold of the split, or if both are the same."""
    for number in (fold, without):
        if number is not None and not 0 <= number < split.attrs["folds"]:
            raise InputError(f"There is no fold {number}: the split has the folds 0 to {split.attrs['folds'] - 1}.")
    if fold == without:
        raise InputError(f"Fold {fold} is held out: `without` must be another fold.")


def move_validation(split, folds, fold):
    """Divide the validation subset into parts, and move all parts but one to the training subset.

    The photos of a group (similar photos, see `splitting.group_photos`) stay in the same part. With 20 parts, a
    validation share of 0.2 becomes 0.2 / 20 = 0.01, as in the original study's refit.

    Parameters
    ----------
    split : DataFrame, see `load_split` and `hold_out`
    folds : int
        The number of parts, which are not the split's folds. If the subset has fewer groups, each group is a part.
    fold : int, from 0
        The number of the part that stays in the validation subset.

    Returns
    -------
    DataFrame, a changed copy of the split
    """
    validation = split.index[split["split"] == "validation"]
    groups = split.loc[validation, "group"]
    folding = GroupKFold(min(folds, groups.nunique()), shuffle=True, random_state=0)
    _, kept = list(folding.split(validation, groups=groups))[fold]
    moved = split.copy()
    moved.loc[validation.delete(kept), "split"] = "train"
    return moved


def shrunk_side(split, divisor):
    """Return the image side in pixels: the median of the photos' shorter sides, at most 256, divided by `divisor`.

    The result is an int, at least 32. With a divisor of 2, an image has half the width and height of its photo, as in
    the original study, which had photos of 256 pixels per side. If no photo in `split` has a width and a height, the
    result is 32.
    """
    side = split[["width", "height"]].min(axis=1).median()
    return int(max(32, min(side, 256) // divisor))  # min(256, side) would turn NaN into 256


def load_images(split, subset, size):
    """Load the images and labels of one subset; an image that an earlier call decoded is read from the image store.

    Parameters
    ----------
    split : DataFrame, see `load_split` and `hold_out`
    subset : "train", "validation", "development" (train and validation) or "test" (only in chapter 6)
    size : int
        Pixels per side.

    Returns
    -------
    images : StoredImages, uint8, shape (n, size, size, 3), RGB
    labels : array of int, shape (n,), indices into split.attrs["classes"]

    Raises
    ------
    InputError
        When a photo changed or disappeared since chapter 1, or the disk is full.
    """
    missing = split[~split["sha256"].isin(image_store.stored_rows(places.CACHE, size))]

    def decode(row):
        try:
            content = read_regular(places.ROOT / row.path)
        except OSError:
            content = b""
        if hashlib.sha256(content).hexdigest() != row.sha256:
            raise InputError(f"{row.path} was changed or deleted after the split: run notebook 01_data_split again.")
        return row.sha256, image_store.shrink_image(image_store.read_image(content), size)

    if len(missing):
        title = f"decoding to {size} x {size}"
        with disk_errors_explained(places.CACHE):
            decoded = image_store.in_parallel(decode, missing.itertuples(), len(missing), title)
            image_store.store_images(places.CACHE, size, decoded)
    rows = split[split["split"] != "test" if subset == DEVELOPMENT else split["split"] == subset]
    labels = np.searchsorted(split.attrs["classes"], rows["label"])
    return image_store.open_images(places.CACHE, size, rows["sha256"]), labels
