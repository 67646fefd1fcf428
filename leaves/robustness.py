"""Corrupt photos in six ways, and measure how much a model's macro F1 falls."""

import io
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from leaves import evaluation, places, scoring
from leaves.cache import code_hash, computed_once
from leaves.dataset import load_images
from leaves.evaluation import predict_all, predictor
from leaves.runs import SCHEMA, spec_hash

import numpy as np
import pandas as pd
from PIL import Image, ImageEnhance, ImageFilter
from skimage.filters import threshold_otsu

CODE = code_hash(Path(__file__))
STRENGTHS = range(1, 6)
JPEG_QUALITIES = (50, 30, 20, 10, 5)


def on_other_paper(image, strength, rng):
    """Blend the paper behind a leaf with a coarse pattern of random colours; paper is where saturation is low."""
    saturation = np.asarray(image.convert("HSV"))[..., 1]
    coarse = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)).resize(image.size)
    other = Image.blend(image, coarse, 0.2 * strength)
    return Image.composite(other, image, Image.fromarray(saturation < threshold_otsu(saturation)))


def compressed(image, strength, _):
    """Save an image as a JPEG file of low quality, and open it again."""
    file = io.BytesIO()
    image.save(file, "JPEG", quality=JPEG_QUALITIES[strength - 1])
    return Image.open(file)


# Each corruption is a function of a Pillow image, a strength from 1 to 5 and a random generator.
CORRUPTIONS = {
    "darker": lambda image, strength, _: ImageEnhance.Brightness(image).enhance(1 - 0.16 * strength),
    "blurred": lambda image, strength, _: image.filter(ImageFilter.GaussianBlur(0.005 * strength * image.width)),
    "noisy": lambda image, strength, rng: np.clip(image + rng.normal(0, 10 * strength, (*image.size, 3)), 0, 255),
    "compressed": compressed,
    "turned": lambda image, strength, _: image.rotate(18 * strength, fillcolor=image.getpixel((0, 0))),
    "on other paper": on_other_paper,
}


def corrupt(pictures, kind, strength, seed):
    """Apply one of `CORRUPTIONS` to pictures, and return them as an array of float32, shape (n, size, size, 3).

    Parameters
    ----------
    pictures : array of uint8, shape (n, size, size, 3)
    kind : str, a key of `CORRUPTIONS`; it is not read if `strength` is 0
    strength : int, from 1 to 5, or 0 to leave the pictures unchanged
    seed : int, for the random numbers in the corruption
    """
    rng = np.random.default_rng(seed)
    images = map(Image.fromarray, pictures)
    changed = (CORRUPTIONS[kind](image, strength, rng) if strength else image for image in images)
    return np.stack([np.asarray(image, np.float32) for image in changed])


def robustness_table(models, truth, seed, draws):
    """Compute macro F1 of models on corrupted photos, with 95 % bootstrap intervals over the photos.

    Parameters
    ----------
    models : dict of a model's name to (predict, pictures)
        For `predict`, see `evaluation.predict_all`; `pictures` is an array of uint8, shape (n, size, size, 3). The
        photos are the same for all models.
    truth : array of int, shape (n,)
    seed : int
        Seed of the random numbers in the corruptions.
    draws : int
        Bootstrap resamples for each interval.

    Returns
    -------
    DataFrame, one row for each corruption, strength and model
        The columns are corruption, strength, model, macro F1, low and high (the ends of the interval). The first rows,
        with the corruption "none" and the strength 0, have the scores on the unchanged photos.
    """
    rows = []
    grid = [("none", 0), *((kind, strength) for kind in CORRUPTIONS for strength in STRENGTHS)]
    for kind, strength in grid:
        by_size = {}
        for _, pictures in models.values():
            if pictures.shape[1] not in by_size:
                by_size[pictures.shape[1]] = corrupt(pictures, kind, strength, seed)
        corrupted = [by_size[pictures.shape[1]] for _, pictures in models.values()]
        with ThreadPoolExecutor() as pool:  # the models predict in parallel
            answers = pool.map(predict_all, [predict for predict, _ in models.values()], corrupted)
        for name, answer in zip(models, answers, strict=True):
            predicted = answer.argmax(axis=1)
            low, high = scoring.bootstrap_interval(truth, predicted, draws)
            row = {"corruption": kind, "strength": strength, "model": name}
            rows.append(row | {"macro F1": scoring.macro_f1(truth, predicted), "low": low, "high": high})
    return pd.DataFrame(rows)


def stratified_rows(truth, count, seed):
    """Choose `count` photos at random, stratified by class, with at least one photo of each class.

    Parameters
    ----------
    truth : array of int, shape (n,), the classes of the photos

    Returns
    -------
    sorted array of int, positions in `truth`
        If n is smaller than `count`, all n positions are returned. If there are more classes than `count`, one position
        of each class is returned.
    """
    rng, rank = np.random.default_rng(seed), np.empty(len(truth))
    for label in np.unique(truth):
        rows = rng.permutation(np.flatnonzero(truth == label))
        rank[rows] = (np.arange(len(rows)) + 0.5) / len(rows)
        rank[rows[0]] = 0
    return np.sort(rank.argsort(kind="stable")[: max(count, len(np.unique(truth)))])


def stored_robustness(models, split, rows, seed, draws):
    """Compute `robustness_table` for chosen photos of the test subset, or read it from disk if it is stored there.

    Parameters
    ----------
    models : dict of model label to Run
    rows : array of int
        Positions of the chosen photos in the test subset.
    seed, draws : see `robustness_table`
    """
    key = {"runs": {label: [run.folder.name, run.result["train_seconds"]] for label, run in models.items()}}
    key |= {"rows": rows.tolist(), "split": split.attrs["hash"], "seed": seed, "draws": draws}
    key["version"] = [CODE, evaluation.CODE, SCHEMA]

    def compute():
        sizes = {label: run.spec["image_size"] for label, run in models.items()}
        images = {label: load_images(split, "test", size)[0][rows] for label, size in sizes.items()}
        probed = {label: (predictor(run.folder), images[label]) for label, run in models.items()}
        table = robustness_table(probed, evaluation.subset_truth(split, "test")[rows], seed, draws)
        is_text = pd.api.types.is_string_dtype  # texts become str, because `read_arrays` cannot read arrays of objects
        return {column: values.to_numpy(str if is_text(values) else None) for column, values in table.items()}

    return pd.DataFrame(computed_once(places.CACHE / f"robustness-{spec_hash(key)}.npz", spec_hash(key), compute))


def costliest_in_words(robust):
    """Say which corruption lowers the macro F1 of each model most, and how much macro F1 remains.

    Parameters
    ----------
    robust : DataFrame from `stored_robustness`
    """
    told = []
    for label, rows in robust.groupby("model", sort=False):
        lowest = rows.groupby("corruption")["macro F1"].min()
        worst = lowest.drop("none")
        told.append(f"{label}, {worst.idxmin()}: from {lowest['none']:.3f} to {worst.min():.3f}")
    return f"The corruption that lowers each model's macro F1 most, at the worst strength: {'; '.join(told)}."
