"""Test models on changed test photos: the leaves on other backgrounds, and the backgrounds without the leaves."""

import functools
from pathlib import Path

from leaves import backgrounds, evaluation
from leaves.backgrounds import NEAR, OtherBackgrounds, leaf_masks
from leaves.cache import code_hash, computed_once
from leaves.claims import MARGIN
from leaves.dataset import load_images
from leaves.evaluation import STEPS, Answers, combined, mirrored, predict_all, predictor, subset_truth

import numpy as np
import pandas as pd
from PIL import Image
from scipy.ndimage import binary_dilation

CODE = code_hash(Path(__file__), backgrounds.CODE, evaluation.CODE)
SEED = 2_000_000  # seed of the backgrounds for testing; no network was trained on these backgrounds
PATCHES = 8  # patches per side of a picture of background alone
OTHER, ALONE = "other backgrounds", "background alone"


def free_patches(mask):
    """Return the upper left corners (y, x) of all square patches without leaf in a mask: array of int, shape (k, 2).

    The side of a patch is an eighth of the mask's side. Pixels close to the leaf (`backgrounds.NEAR`) count as leaf.
    """
    width = max(1, len(mask) // PATCHES)
    leaf = binary_dilation(mask, iterations=max(1, round(NEAR * len(mask))))
    total = np.pad(leaf, ((1, 0), (1, 0))).cumsum(axis=0).cumsum(axis=1)
    inside = total[width:, width:] - total[:-width, width:] - total[width:, :-width] + total[:-width, :-width]
    return np.argwhere(inside == 0)


def background_alone(image, mask, rng):
    """Make a picture from a photo's background alone: a grid of patches from random places beside the leaf.

    Parameters
    ----------
    image : uint8 array, shape (size, size, 3)
    mask : array of bool, shape (side, side), for which `free_patches` finds at least one patch
    rng : numpy.random.Generator

    Returns
    -------
    uint8 array, shape (size, size, 3)
        The picture does not show the outline of the leaf, because the patches come from random places.
    """
    places, ratio = free_patches(mask), len(image) / len(mask)
    chosen = (places[rng.integers(len(places), size=(PATCHES, PATCHES))] * ratio).astype(int)
    width = max(1, int(max(1, len(mask) // PATCHES) * ratio))
    rows = [[image[y : y + width, x : x + width] for y, x in line] for line in chosen]
    picture = np.concatenate([np.concatenate(row, axis=1) for row in rows])
    return np.asarray(Image.fromarray(picture).resize(image.shape[:2]))


def usable_rows(masks):
    """Return the row numbers of masks that have a leaf and a patch without leaf, see `free_patches`: array of int."""
    return np.array([row for row, mask in enumerate(masks) if mask.any() and len(free_patches(mask))], int)


def backgrounds_alone(split, size):
    """Make a picture of the background alone for each test photo in `usable_rows`: uint8, shape (k, size, size, 3)."""
    images, masks = load_images(split, "test", size)[0], leaf_masks(split, "test")
    rows = usable_rows(masks)
    alone = [background_alone(images[row], masks[row], np.random.default_rng([SEED, row])) for row in rows]
    return np.reshape(alone, (len(rows), size, size, 3)).astype(np.uint8)


def pictures_elsewhere(split, size):
    """Make pictures of the test leaves on other backgrounds, and of the test photos' backgrounds alone.

    `size` is the model's image size. The random choices do not depend on `size`, so all models get the same pictures.

    Returns
    -------
    dict with the keys `OTHER` and `ALONE`
        The values are uint8 arrays, shape (k, size, size, 3), with one picture for each photo in `usable_rows`.
    """
    images, masks = load_images(split, "test", size)[0], leaf_masks(split, "test")
    return {
        OTHER: OtherBackgrounds(images, masks, SEED, 0)[usable_rows(masks)],
        ALONE: backgrounds_alone(split, size),
    }


def answered(run, images):
    """Classify images with a run's model: class probabilities, array of float32, shape (n, classes)."""
    return predict_all(predictor(run.folder), images)


def answers_elsewhere(models, split, ensembles):
    """Let every model and ensemble classify the pictures of `pictures_elsewhere`.

    The probabilities that a model predicts are cached in the folder of its run. Networks on a backbone with
    random weights are skipped, because they only check the pipeline.

    Parameters
    ----------
    models : dict of label to Run
    ensembles : dict, see `evaluation.with_ensembles`

    Returns
    -------
    dict with the keys `OTHER` and `ALONE`; the values are `evaluation.Answers`. The dict is empty if no test photo
    is in `usable_rows`.
    """
    rows = usable_rows(leaf_masks(split, "test"))
    if not len(rows):
        return {}
    pictures = functools.lru_cache(maxsize=1)(functools.partial(pictures_elsewhere, split))  # caches one size
    [best] = ensembles["Test-time augmentation"]

    def compute(run, answer):
        return {kind: answer(run, of_kind) for kind, of_kind in pictures(run.spec["image_size"]).items()}

    key, stored = f"{CODE} {split.attrs['hash']}", {}
    for label, run in sorted(models.items(), key=lambda model: model[1].spec["image_size"]):
        if run.result["initial_weights"] == "random":
            continue
        of_run = f"{key} {run.result['hashes']['model.keras']}"
        stored[label] = computed_once(run.folder / "elsewhere.npz", of_run, functools.partial(compute, run, answered))
        if label == best:
            file = run.folder / "elsewhere-mirrored.npz"
            augmented = computed_once(file, of_run, functools.partial(compute, run, mirrored))
    truth = subset_truth(split, "test")[rows]
    of_kind = {kind: {label: answers[kind] for label, answers in stored.items()} for kind in (OTHER, ALONE)}
    return {kind: Answers(truth, combined(of_kind[kind], ensembles, augmented[kind])) for kind in of_kind}


def holding_table(labels, on_test, elsewhere, split, external=None):
    """Tabulate macro F1 of models on the unchanged test photos and on other photos: DataFrame, one row per model.

    Parameters
    ----------
    labels : list of str
    on_test : `evaluation.Answers` to the test subset
    elsewhere : dict from `answers_elsewhere`
    external : `evaluation.Answers` to a second test set with labels, optional

    Returns
    -------
    DataFrame of float
        The columns `OTHER` and `ALONE` have the scores on the pictures of `pictures_elsewhere`. These pictures are made
        only from the test photos in `usable_rows`. The column "unchanged" has the scores on the same test photos
        without changes. If `elsewhere` is empty, `OTHER` and `ALONE` are missing, and "unchanged" has the scores on all
        test photos. With `external` there is also a column "second test set". A second test set may have fewer classes
        than the test subset. Therefore `attrs["classes"]` maps the name of each column to the number of classes over
        which the macro F1 in this column is averaged.
    """
    rows = usable_rows(leaf_masks(split, "test")) if elsewhere else np.arange(len(on_test.truth))
    same = Answers(on_test.truth[rows], {label: on_test.probabilities[label][rows] for label in labels})
    of_column = {"unchanged": same} | elsewhere | ({"second test set": external} if external else {})
    scores = {name: [answers.macro_f1(label) for label in labels] for name, answers in of_column.items()}
    table = pd.DataFrame(scores, labels)
    table.attrs["classes"] = {name: len(np.unique(answers.truth)) for name, answers in of_column.items()}
    return table


def effect_of_fine_tuning(labels, answers, draws):
    """Say in one sentence how fine-tuning changes macro F1 on other backgrounds, compared with the head alone.

    Parameters
    ----------
    labels : list of str, labels of the compared models
    answers : `evaluation.Answers` to the leaves on other backgrounds, or None
        With None, the function returns an empty text.
    draws : int
        Bootstrap resamples for each interval.
    """
    if answers is None:
        return ""
    parts = []
    for label in labels:
        name, found, _ = label.partition(STEPS["05"])
        if found and name + STEPS["04"] in labels:
            change, low, high = answers.difference(label, name + STEPS["04"], draws)
            word = "helps" if low > 0 else "harms" if high < 0 else "undecided"
            parts.append(f"{name} {change:+.3f} ({low:+.3f} to {high:+.3f}: {word})")
    listed = "; ".join(parts) or "no backbone was fine-tuned"
    return f"Macro F1 on other backgrounds, fine-tuned network minus head alone (one training each): {listed}."


def holding_sentence(table, best, for_any, elsewhere, draws):
    """Say how two models score on a second test set and on other backgrounds, and `best` on the background alone.

    Parameters
    ----------
    table : DataFrame from `holding_table`
    best, for_any : str
        Labels of the model that validation chose, and of the "any background" model.
    elsewhere : dict from `answers_elsewhere`
    draws : int
        Number of bootstrap resamples for the 95 % interval of the score on the background alone.
    """
    rows = table.loc[list(dict.fromkeys([best, for_any]))]
    second = "**Other collections: not tested**, because no second test set with labels was given."
    if "second test set" in table:
        scores = " and ".join(f"{score:.3f} ({label})" for label, score in rows["second test set"].items())
        second = f"**Second test set** ({table.attrs['classes']['second test set']} species): macro F1 {scores}."
    if not elsewhere:
        return f"{second} No leaf of the test subset could be cut out, so other backgrounds were not tested."
    before, after = rows.loc[best, ["unchanged", OTHER]]
    start, scores = "**Other backgrounds: no.**" if before - after >= MARGIN else "**Other backgrounds.**", []
    for label, (was, now) in zip(rows.index, rows[["unchanged", OTHER]].to_numpy(), strict=True):
        scores.append(f"of {label} {'falls' if was - now >= MARGIN else 'changes'} from {was:.3f} to {now:.3f}")
    count = len(elsewhere[OTHER].truth)
    told = f"{start} {count} test images have a leaf that can be cut out. With these leaves on other backgrounds, "
    told += f"the macro F1 {', and that '.join(scores)}. {second}"
    low, high = elsewhere[ALONE].interval(best, draws)
    chance = 1 / table.attrs["classes"][ALONE]
    alone = f"{table.loc[best, ALONE]:.3f} (95 % interval {low:.3f} to {high:.3f}; guessing {chance:.3f})"
    found = "better than guessing" if low > chance else "no better than guessing"
    told = f"{told} **The background alone: {found}.** With the leaf removed, the best model scores {alone}"
    return f"{told}, so it has also learnt backgrounds." if low > chance else f"{told}."
