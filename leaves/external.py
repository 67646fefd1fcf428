"""Score all models on a second test set, which is a folder given with --test.

If the photos in the folder have no labels, they are only classified.
"""

from leaves import image_store, places
from leaves.claims import count_text
from leaves.duplicates import equal_files, seen_before
from leaves.evaluation import Answers, combined, mirrored, predict_all, predictor
from leaves.files import InputError, write_atomic
from leaves.photos import (
    IMAGE_SUFFIXES,
    can_be_written,
    find_in_class,
    fold_class,
    inspect_images,
    reason,
    usable,
    visible,
)
from leaves.sources import last_source

import numpy as np
import pandas as pd


def external_files(folder, classes):
    """List the photos of a second test set: DataFrame with the columns path, label and disease.

    Classes that no model knows are skipped and printed. If the folder has no sub-folders, all labels are "".

    Raises
    ------
    InputError
        When the folder cannot be read or has no photo of the known classes.
    """
    try:
        entries = [entry for entry in visible(folder) if can_be_written(entry.name)]
    except OSError as error:
        raise InputError(
            f"{folder} cannot be read ({error.strerror}): set `external` (--test) to another folder."
        ) from error
    known = [entry for entry in entries if entry.is_dir() and fold_class(entry.name)[0] in classes]
    for entry in entries:
        if entry.is_dir() and entry not in known:
            print(f"Skipped: the class {fold_class(entry.name)[0]}, which no model knows.")
    rows = [row for entry in known for row in find_in_class(entry)[0]]
    if not any(entry.is_dir() for entry in entries):
        rows = [(str(entry), "", "") for entry in entries if entry.suffix.lower() in IMAGE_SUFFIXES]
    if not rows:
        raise InputError(
            f"{folder} holds no photo of the classes {', '.join(classes)}: set `external` (--test) to another folder."
        )
    return pd.DataFrame(rows, columns=["path", "label", "disease"])


def external_photos(folder, split, sizes):
    """List the usable photos of a second test set: DataFrame with the columns of `photos.inspect_images`.

    The paths of unusable photos and of copies are printed. Photos that repeat a training or validation photo (see
    `seen_before`) are skipped too, because the models were trained or selected with that photo; only the number
    of photos that are skipped for this reason is printed.

    Parameters
    ----------
    split : DataFrame from `dataset.load_split`
    sizes : iterable of int
        The models' image sizes, in pixels per side.

    Raises
    ------
    InputError
        When no usable photo remains; `external_files` and `known_to_models` raise it for other reasons.
    """
    listed = external_files(folder, split.attrs["classes"])
    for size in sizes:
        inspected, _ = inspect_images(listed, size)
    excluded = [row for row in inspected.itertuples() if reason(row)]
    for row in excluded:
        print(f"Skipped: {row.path}, {reason(row)}.")
    inspected = inspected[~inspected["path"].isin([row.path for row in excluded])]
    if (inspected["label"] != "").any():  # as in chapter 1, a photo counts once and under one label
        copies = equal_files(inspected)
        for row in copies.itertuples():
            print(f"Skipped: {row.path}, {row.check}.")
        inspected = usable(inspected, copies)
    seen = known_to_models(inspected, split, size)
    if seen.any():
        print(f"Skipped: {count_text(seen.sum(), 'photo')}, equal or similar to a training or validation photo.")
    inspected = inspected[~seen]
    if inspected.empty:
        raise InputError(
            f"All {len(listed)} photos in {folder} are unusable, copies, or known to the models: "
            "set `external` (--test) to another folder."
        )
    return inspected


def known_to_models(inspected, split, size):
    """Mark the photos that repeat a training or validation photo, see `seen_before`: array of bool, shape (n,).

    Raise InputError if data/source.json lacks chapter 1's settings, because `seen_before` needs `phash_distance`.
    """
    learnt = split[split["split"] != "test"]
    learnt = learnt[["path", "label", "disease"]].assign(path=[str(places.ROOT / path) for path in learnt["path"]])
    known, _ = inspect_images(learnt, size)  # chapter 1 inspected these photos, so no file is opened again
    if not (settings := last_source().get("settings")):
        raise InputError("data/source.json is missing or damaged: run notebook 01_data_split again.")
    return seen_before(inspected, known, settings["phash_distance"])


def external_answers(folder, split, models, ensembles, familiar):
    """Let every model and ensemble classify the usable photos of a second test set; the skipped photos are printed.

    Parameters
    ----------
    models : dict of label to Run
    ensembles : dict, see `evaluation.with_ensembles`
    familiar : `familiarity.Familiarity`

    Returns
    -------
    paths : Series of str
        The paths of the photos.
    answers : `evaluation.Answers`
        The true classes of the photos (None if the folder has no sub-folders) and the predicted probabilities.
    scores : array of float, shape (n,)
        The familiarity of each photo, 0 to 1, see `familiarity.Familiarity`.

    Raises
    ------
    InputError
        When the folder has no usable photo or cannot be read, see `external_photos`.
    """
    sizes = {run.spec["image_size"] for run in models.values()}
    table = external_photos(folder, split, sizes)
    images = {size: image_store.open_images(places.CACHE, size, table["sha256"]) for size in sizes}
    of_size = {label: images[run.spec["image_size"]] for label, run in models.items()}
    probabilities = {label: predict_all(predictor(run.folder), of_size[label]) for label, run in models.items()}
    [best] = ensembles["Test-time augmentation"]
    augmented = mirrored(models[best], of_size[best])
    labelled = (table["label"] != "").all()
    truth = np.searchsorted(split.attrs["classes"], table["label"]) if labelled else None
    answers = Answers(truth, combined(probabilities, ensembles, augmented))
    return table["path"], answers, familiar.of_images(images[familiar.size])


def classified(paths, probabilities, classes, scores, cut):
    """Make the table of report/predictions.csv: the predictions for photos without labels.

    Its columns are path, label (the predicted class), confidence (the probability of that class), top_3 (the three most
    probable classes), familiarity, and familiar ("yes" or "no").

    Parameters
    ----------
    paths : Series of str, length n
    probabilities : array of float, shape (n, classes)
    scores : array of float, shape (n,)
        The familiarity of each photo, 0 to 1.
    cut : float
        The threshold. A photo with a score below `cut` is not familiar, and its predicted class is not reliable.
    """
    order = probabilities.argsort(axis=1)[:, ::-1]
    return pd.DataFrame(
        {
            "path": paths,
            "label": [classes[row[0]] for row in order],
            "confidence": probabilities.max(axis=1).round(4),
            "top_3": [", ".join(classes[number] for number in row[:3]) for row in order],
            "familiarity": scores.round(4),
            "familiar": np.where(scores >= cut, "yes", "no"),
        }
    )


def keep_predictions(table, model):
    """Write the table from `classified` to report/predictions.csv, or delete an earlier file if `table` is None."""
    file = places.REPORT / "predictions.csv"
    if table is None:
        file.unlink(missing_ok=True)
    else:
        write_atomic(file, table.to_csv(index=False))
        print(f"{model} classified {len(table)} photos without labels, see report/predictions.csv.")
