"""Measure how realistic the synthetic leaves are: train a classifier on them, and test it on photographs.

A linear classifier on colour, shape and texture features learns the species from synthetic leaves alone and then
classifies photographs. Its accuracy shows how well the renderer reproduces the differences between the species. The
same classifier, trained on photographs, shows how high the accuracy with these features can be.

Command line: ``python benchmarks/sample_realism.py REAL_DIR [--count 1000] [--seed 0]``, where REAL_DIR holds one
folder of photographs per species, named as in ``leaves.sample.SPECIES``.
"""

import argparse
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from leaves.sample import SPECIES, render_dataset

import numpy as np
from PIL import Image
from scipy import ndimage
from scipy.spatial import ConvexHull, QhullError
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score, recall_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

SIDE = 128  # pixels per side to which every image is resized before its features are computed
SUFFIXES = {".jpg", ".jpeg", ".png"}


def to_lab(rgb):
    """Convert sRGB, float (h, w, 3) in 0-1, to CIE L*a*b* (D65)."""
    linear = np.where(rgb > 0.04045, ((rgb + 0.055) / 1.055) ** 2.4, rgb / 12.92)
    matrix = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    xyz = linear @ matrix.T / [0.9505, 1.0, 1.089]
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    x, y, z = np.moveaxis(f, -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


def otsu(values):
    """Return the threshold that divides ``values`` into the two groups with the largest variance between them."""
    histogram, edges = np.histogram(values, 128)
    centres = (edges[:-1] + edges[1:]) / 2
    below = histogram.cumsum()
    above = below[-1] - below
    total = (histogram * centres).cumsum()
    with np.errstate(divide="ignore", invalid="ignore"):
        between = below * above * (total / below - (total[-1] - total) / above) ** 2
    return centres[np.nanargmax(between)]


def segment(lab):
    """Return the mask of the leaf in an image from `to_lab`: bool, shape (h, w).

    The mask is found by colour: a leaf is yellower or greener than its background, such as paper, which is nearly grey.
    """
    score = ndimage.gaussian_filter(lab[..., 2] - 0.5 * np.minimum(lab[..., 1], 0), 1)
    labels, _ = ndimage.label(score > np.clip(otsu(score), 6, 16))
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    if sizes.max() < 0.02 * labels.size:  # nothing stands out: assume that the leaf fills the frame
        return np.ones(labels.shape, bool)
    return ndimage.binary_fill_holes(labels == sizes.argmax())


def colour_features(lab, mask):
    """Compute means, standard deviations and histograms of L*, a* and b* over the leaf: float, shape (d,)."""
    leaf = lab[mask]
    features = [leaf.mean(axis=0), leaf.std(axis=0)]
    for channel, bounds in enumerate([(0, 100), (-40, 40), (-10, 60)]):
        histogram, _ = np.histogram(leaf[:, channel], 10, bounds)
        features.append(np.sqrt(histogram / len(leaf)))
    return np.concatenate(features)


def shape_features(mask):
    """Compute features of the leaf's shape, and the direction of its long axis.

    Returns
    -------
    features : array of float: area, moments, solidity, share of the image's border that the leaf covers, teeth and
        Fourier descriptors
    axis : array of float, shape (2,), the (x, y) direction of the long axis
    """
    y, x = np.nonzero(mask)
    area, centre = len(x), np.array([x.mean(), y.mean()])
    points = np.column_stack([x, y]) - centre
    values, vectors = np.linalg.eigh(np.cov(points.T) + 1e-6 * np.eye(2))
    try:
        hull = ConvexHull(points).volume
    except QhullError:
        hull = area
    border = np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]]).mean()
    perimeter = np.count_nonzero(mask & ~ndimage.binary_erosion(mask))
    rough = []
    for radius in (1, 2, 4):
        disc = np.hypot(*np.mgrid[-radius : radius + 1, -radius : radius + 1]) <= radius + 0.3
        rough += [(mask & ~ndimage.binary_opening(mask, disc)).sum() / perimeter]
        rough += [(ndimage.binary_closing(np.pad(mask, 6), disc)[6:-6, 6:-6] & ~mask).sum() / perimeter]
    # Measure the outline's radius at each angle from the long axis, then compute the Fourier amplitudes of the radii.
    along, across = points @ vectors[:, 1], points @ vectors[:, 0]
    sector = ((np.arctan2(across, along) / (2 * np.pi) + 0.5) * 64).astype(int) % 64
    radius = np.zeros(64)
    np.maximum.at(radius, sector, np.hypot(along, across))
    waves = np.abs(np.fft.rfft(radius / np.sqrt(area)))[:16] / 64
    basic = [area / mask.size, values[0] / values[1], area / hull, border, perimeter**2 / area / 50]
    return np.concatenate([basic, rough, waves, [abs(np.mean((along / along.std()) ** 3))]]), vectors[:, 1]


def texture_features(lightness, mask, axis):
    """Compute features of the leaf's texture at three scales: array of float.

    Each scale has two kinds of features: a histogram of the directions of the gradient, relative to the leaf's long
    axis, and three measures of contrast.

    Parameters
    ----------
    lightness : array of float, shape (h, w), the first channel from `to_lab`
    mask : from `segment`
    axis : from `shape_features`
    """
    inner = ndimage.binary_erosion(mask, iterations=4)
    inner = inner if inner.sum() > 100 else mask
    features = []
    for sigma in (0.7, 1.5, 3.0):
        smooth = ndimage.gaussian_filter(lightness, sigma)
        dy, dx = np.gradient(smooth)
        strength = np.hypot(dx, dy)[inner]
        angle = np.arctan2(dy, dx)[inner] - np.arctan2(axis[1], axis[0])
        bins = (angle % np.pi / np.pi * 12).astype(int) % 12
        histogram = np.bincount(bins, strength, 12) / (strength.sum() + 1e-9)
        folded = (histogram[1:6] + histogram[:6:-1]) / 2  # a leaf and its mirror image get the same features
        band = (smooth - ndimage.gaussian_filter(lightness, 2 * sigma))[inner]
        skew = np.mean((band / (band.std() + 1e-9)) ** 3)
        features += [histogram[0], *folded, histogram[6], strength.mean(), band.std(), skew]
    return np.array(features)


def describe(path):
    """Return the feature vector of one image file."""
    with Image.open(path) as image:
        rgb = np.asarray(image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.LANCZOS)) / 255
    lab = to_lab(rgb)
    mask = segment(lab)
    shape, axis = shape_features(mask)
    return np.concatenate([colour_features(lab, mask), shape, texture_features(lab[..., 0], mask, axis)])


def load_features(root):
    """Describe every image under ``root``; return features (n, d) and labels (n,), indices into ``SPECIES``."""
    files, labels = [], []
    for label, species in enumerate(SPECIES):
        found = sorted(p for p in (root / species).glob("*") if p.suffix.lower() in SUFFIXES)
        files += found
        labels += [label] * len(found)
    with ProcessPoolExecutor() as pool:
        return np.array(list(pool.map(describe, files, chunksize=16))), np.array(labels)


def new_classifier():
    """Return an untrained classifier; all scores in the printed table come from classifiers of this kind."""
    return make_pipeline(StandardScaler(), LogisticRegression(C=0.03, max_iter=2000, class_weight="balanced"))


def compare(rendered, real, seed=0):
    """Compute the scores of three ways to train and test the classifier.

    Parameters
    ----------
    rendered, real : tuple of numpy.ndarray
        Features (n, d) and labels (n,).
    seed : int
        Seed for shuffling the images into five folds.

    Returns
    -------
    scores : dict of str to tuple of float
        Accuracy and macro F1. Each key gives the training set and the test set, for example "rendered -> real".
    recall : numpy.ndarray
        Recall of each species on photographs, after training on synthetic ("rendered") leaves, shape (14,).
    """
    folds = StratifiedKFold(5, shuffle=True, random_state=seed)
    guesses = {
        "rendered -> real": (real[1], new_classifier().fit(*rendered).predict(real[0])),
        "real -> real (5 folds)": (real[1], cross_val_predict(new_classifier(), *real, cv=folds)),
        "rendered -> rendered (5 folds)": (
            rendered[1],
            cross_val_predict(new_classifier(), *rendered, cv=folds),
        ),
    }
    scores = {way: (accuracy_score(*pair), f1_score(*pair, average="macro")) for way, pair in guesses.items()}
    truth, guess = guesses["rendered -> real"]
    recall = recall_score(truth, guess, average=None, labels=range(len(SPECIES)), zero_division=0)
    return scores, recall


def main(arguments=None):
    """Render the leaves, train and score the classifier, and print the scores and the recall of each species."""
    parser = argparse.ArgumentParser(description="Train on synthetic leaves, test on photographs.")
    parser.add_argument("real_dir", type=Path, help="photographs, one folder per species")
    parser.add_argument("--count", type=int, default=1000, help="number of synthetic leaves (default: 1000)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the synthetic leaves (default: 0)")
    options = parser.parse_args(arguments)
    if not options.real_dir.is_dir():
        parser.error(f"The folder of photographs {options.real_dir} does not exist: check the path.")
    missing = [name for name in SPECIES if not any((options.real_dir / name).glob("*"))]
    if missing:
        parser.error(f"{options.real_dir} has no photographs of {', '.join(missing)}: add a folder for each species.")
    with tempfile.TemporaryDirectory() as folder:
        try:
            leaves = render_dataset(Path(folder) / "leaves", options.count, seed=options.seed)
            rendered = load_features(leaves)
        except ValueError as error:
            parser.error(str(error))
    scores, recall = compare(rendered, load_features(options.real_dir), options.seed)
    print(f"{'train -> test':32}{'accuracy':>9}{'macro F1':>10}")
    for way, (accuracy, macro_f1) in scores.items():
        print(f"{way:32}{accuracy:9.2f}{macro_f1:10.2f}")
    print(f"{'chance':32}{1 / len(SPECIES):9.2f}")
    print("\nrecall per species, rendered -> real")
    for species, share in zip(SPECIES, recall, strict=True):
        print(f"  {species:12}{share:5.2f}  {'#' * round(40 * share)}")


if __name__ == "__main__":
    main()
