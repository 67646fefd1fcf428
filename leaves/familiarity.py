"""Decide whether a photo shows a known species, from the nearest training photos and the predicted probabilities.

Two scores use a frozen backbone, which was not trained on leaves. The first score is the cosine of the angle between
the photo's features and those of the fifth nearest training photo (deep nearest neighbours, Sun et al. 2022,
arXiv:2204.06507); it detects pictures that show no leaf. The second score is the largest probability that the head
predicts; it detects unknown species that resemble several known ones. Both scores are higher for more familiar photos.

Each score of a photo is converted to the share of validation photos with an equal or lower score. This share is a kind
of conformal p-value (Bates et al. 2023). As in Fisher's method, the logarithms of the two shares are added. This module
calls their sum the *joined score*. A photo counts as unfamiliar if its joined score is lower than that of 95 % of the
validation photos.

`leave_species_out` excludes each species once and treats it as unknown. It compares both scores and the joined
score with the energy (Liu et al. 2020), the Mahalanobis distance (Lee et al. 2018) and ViM (Wang et al. 2022).
"""

import functools
import hashlib
from dataclasses import dataclass
from pathlib import Path

from leaves import other_photos, places
from leaves.cache import code_hash, computed_once
from leaves.dataset import DEVELOPMENT
from leaves.evaluation import load_network, predict_all
from leaves.features import frozen_outputs
from leaves.files import file_hash
from leaves.runs import read_run
from leaves.training import batch_function

import keras
import numpy as np
import pandas as pd
from scipy.special import expit, logsumexp
from sklearn.covariance import LedoitWolf
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler, normalize

CODE = code_hash(Path(__file__))
NEIGHBOUR, KNOWN = 5, 2000  # rank of the neighbour that is used; largest number of training photos to compare
COMPONENTS = 256  # largest number of principal components, for all methods except the nearest neighbours
FALSE_WARNINGS = 0.05  # share of validation photos that the threshold classifies as unfamiliar
NEIGHBOURS, PROBABILITY = "angle to the 5th nearest training photo", "largest probability"
BOTH = "angle and probability joined"


# ---------------------------------------------------------------- the score


def similarity(features, known):
    """Compute the cosine of the angle between each photo and its fifth nearest training photo: float, shape (n,).

    With fewer than five training photos, the farthest one is used.

    Parameters
    ----------
    features : array of float, shape (n, channels)
        Features of the photos.
    known : array of float, shape (k, channels)
        Features of the training photos, each row of length 1, see `known_photos`.
    """
    cosines = np.sort(normalize(features) @ known.T, axis=1)
    return cosines[:, -min(NEIGHBOUR, len(known))]


def blur(usual):
    """Compute the smoothing width for `share_below`: float, at least 1e-4.

    The width is a fifth of the standard deviation of `usual`, the values of the validation photos.
    """
    return max(float(np.std(usual)) / 5, 1e-4)


def share_below(values, usual):
    """Compute for each value the share of validation photos with an equal or lower value: float, shape (n,), 0 to 1.

    The share is smoothed a little, so a higher value always gets a higher share.

    Parameters
    ----------
    values : array of float, shape (n,)
    usual : array of float, shape (m,), the values of the validation photos
    """
    return expit((np.asarray(values)[:, None] - usual) / blur(usual)).mean(axis=1)


def join(nearness, probability, usual_nearness, usual_probability):
    """Compute the joined scores of photos: array of float, shape (n,), higher for more familiar photos.

    Both scores of a photo are converted by `share_below`, and the logarithms of the two shares are added.

    Parameters
    ----------
    nearness, probability : arrays of float, shape (n,)
        `similarity` and the largest predicted probability of each photo.
    usual_nearness, usual_probability : arrays of float, shape (m,), the same scores of the validation photos
    """
    floor = 1 / len(usual_nearness)  # added to each share, because the logarithm of 0 would outweigh the other score
    shares = share_below(nearness, usual_nearness), share_below(probability, usual_probability)
    return sum(np.log(share + floor) for share in shares)


@dataclass(frozen=True)
class Familiarity:
    """Measure how familiar a photo is: the share of validation photos with an equal or lower joined score.

    The share is smoothed, see `share_below`. A photo with a familiarity below `cut` counts as unfamiliar.
    """

    folder: Path  # folder of a run on a frozen backbone; the network in it computes the features
    size: int  # pixels per side of the photos that this network takes
    known: np.ndarray  # float32, shape (k, channels): features of training photos, each row of length 1
    nearness: np.ndarray  # float32, shape (m,): `similarity` of the validation photos
    probability: np.ndarray  # float32, shape (m,): the largest predicted probability of each validation photo

    @property
    def usual(self):
        """Return the joined scores of the validation photos: array of float, shape (m,)."""
        return join(self.nearness, self.probability, self.nearness, self.probability)

    @property
    def usual_scores(self):
        """Return the familiarity of the validation photos: array of float, shape (m,), 0 to 1."""
        return share_below(self.usual, self.usual)

    @property
    def cut(self):
        """Return the threshold that 95 % of the validation photos reach; a photo below it counts as unfamiliar."""
        return float(share_below(np.quantile(self.usual, [FALSE_WARNINGS]), self.usual)[0])

    @functools.cached_property
    def network(self):
        """Build a keras.Model that maps RGB pixels 0..255 of shape (n, size, size, 3) to familiarity: float32, (n,)."""
        # Load a copy: `export.with_labels` saves the network built here and the classifier in one model. If the two
        # shared a layer, Keras would save this layer with only one of them.
        whole = keras.models.load_model(self.folder / "model.keras")
        features, answer = parts_of_answer(whole)
        known = keras.layers.Dense(len(self.known), use_bias=False, name="known_photos")
        cosines = known(keras.layers.UnitNormalization()(features))
        known.set_weights([self.known.T])
        nearness = keras.ops.top_k(cosines, min(NEIGHBOUR, len(self.known)))[0][:, -1:]
        probability = keras.ops.max(answer, axis=1, keepdims=True)
        floor, joined = 1 / len(self.nearness), 0
        for name in ("nearness", "probability"):
            values = {"nearness": nearness, "probability": probability}[name]
            joined += keras.ops.log(share_layer(values, getattr(self, name), name) + floor)
        score = share_layer(joined, self.usual, "familiarity")
        return keras.Model(whole.input, keras.ops.squeeze(score, axis=1), name="familiar")

    def of_images(self, images):
        """Compute the familiarity of images, RGB pixels 0..255 of shape (n, size, size, 3): float32, shape (n,)."""
        return predict_all(batch_function(self.network), images) if len(images) else np.empty(0, np.float32)


def share_layer(values, usual, name):
    """Apply `share_below` within a Keras network: `values` and the result are Keras tensors of shape (n, 1)."""
    layer = keras.layers.Dense(len(usual), activation="sigmoid", name=f"usual_{name}")
    shares = layer(values)
    layer.set_weights([np.full((1, len(usual)), 1 / blur(usual)), -usual / blur(usual)])
    return keras.ops.mean(shares, axis=1, keepdims=True)


def parts_of_answer(network):
    """Return two Keras tensors of a network: features of the whole picture, shape (n, channels), and probabilities."""
    front, last_block, head = (network.get_layer(part) for part in ("front", "last_block", "head"))
    features = last_block(front(network.input, training=False), training=False)
    return of_whole_picture(features), head(features, training=False)


def of_whole_picture(features):
    """Return the features of the whole picture: shape (n, channels).

    With windows (see `backbones.window_means`), `features` has the shape (n, 1 + number of windows, channels).
    Without windows, `features` is returned unchanged.
    """
    return features[:, 0] if len(features.shape) == 3 else features


def stored_features(run, split):
    """Return the features of a run's backbone for all photos outside the test subset: float32, shape (n, channels).

    `features.frozen_outputs` reads them from disk if they are stored there; otherwise it computes them. The photos
    are not augmented.
    """
    network = load_network(run.folder)
    parts = network.get_layer("front"), network.get_layer("last_block")
    plain = run.spec | {"views": run.spec["views"] | {"count": 0}}
    return of_whole_picture(frozen_outputs(plain, split, DEVELOPMENT, lambda: parts).features[:]).astype(np.float32)


def on_frozen_backbone(run):
    """Return the run of the head from which `run` was fine-tuned; if `run` was not fine-tuned, return `run` itself."""
    return read_run(places.RUNS / run.spec["starts_from"].split()[0]) if "starts_from" in run.spec else run


def learn(run, split):
    """Build a `Familiarity` from a run on a backbone; a fine-tuned run is replaced by the run that it started from."""
    run = on_frozen_backbone(run)
    features, subsets = stored_features(run, split), split.loc[split["split"] != "test", "split"].to_numpy()
    train, validation = features[subsets == "train"], features[subsets == "validation"]
    known = known_photos(train)
    nearness, probability = similarity(validation, known), run.validation_probabilities.max(axis=1)
    return Familiarity(run.folder, run.spec["image_size"], known, nearness, probability)


def of_backgrounds(familiar, split):
    """Compute the familiarity of pictures without a leaf, or read it from the cache in `familiar.folder`.

    Each picture shows only the background of a test photo.

    Returns
    -------
    array of float32, shape (k,), 0 to 1, one for each picture of `other_photos.backgrounds_alone`
    """
    key = f"{CODE} {other_photos.CODE} {split.attrs['hash']} {file_hash(familiar.folder / 'model.keras')}"

    def compute():
        return {"score": familiar.of_images(other_photos.backgrounds_alone(split, familiar.size))}

    return computed_once(familiar.folder / "leafless.npz", key, compute)["score"]


def known_photos(train):
    """Choose the features of at most `KNOWN` evenly spaced training photos, and scale each row to length 1."""
    return normalize(train[np.linspace(0, len(train) - 1, min(len(train), KNOWN)).astype(int)])


# ---------------------------------------------------------------- test with excluded species


def scores_of_methods(train, labels, photos):
    """Score photos with each method: dict of method name to array of float, shape (m,), higher if more familiar.

    Parameters
    ----------
    train, photos : float32 arrays, shape (n, channels) and (m, channels)
        Features of the training photos and of the photos that are scored.
    labels : array of int, shape (n,)
        Classes of the training photos, two or more.
    """
    space = PCA(min(COMPONENTS, min(train.shape) // 2), random_state=0).fit(train)
    inside = {"train": space.transform(train), "photos": space.transform(photos)}
    outside, usual = (
        np.linalg.norm(values - space.inverse_transform(inside[name]), axis=1)
        for name, values in (("photos", photos), ("train", train))
    )
    head = make_pipeline(StandardScaler(), LogisticRegression(C=0.03, class_weight="balanced", max_iter=200))
    head.fit(inside["train"], labels)
    logits, of_train = (two_columns(head.decision_function(inside[name])) for name in ("photos", "train"))
    classes, rows = np.unique(labels, return_inverse=True)
    means = np.stack([inside["train"][labels == label].mean(axis=0) for label in classes])
    precision = LedoitWolf(assume_centered=True).fit(inside["train"] - means[rows]).precision_
    from_means = inside["photos"][:, None] - means[None]
    distance = np.einsum("nkc,cd,nkd->nk", from_means, precision, from_means, optimize=True).min(axis=1)
    energy = logsumexp(logits, axis=1)
    return {
        PROBABILITY: head.predict_proba(inside["photos"]).max(axis=1),
        "energy": energy,
        "Mahalanobis distance": -distance,
        "ViM": energy - of_train.max(axis=1).mean() / max(usual.mean(), 1e-9) * outside,
        NEIGHBOURS: similarity(photos, known_photos(train)),
    }


def two_columns(logits):
    """Convert scikit-learn's logits of two classes, shape (n,), to shape (n, 2); return other logits unchanged."""
    return np.stack([-logits, logits], axis=1) / 2 if logits.ndim == 1 else logits


def judge(run, split):
    """Test all methods on excluded species, and return the arrays from which `leave_species_out` makes its table.

    Parameters
    ----------
    run : Run of a head on a frozen backbone
    split : DataFrame with four or more species, see `dataset.load_split`

    Returns
    -------
    dict with four keys: "methods" (list of str), "areas" (for each method, a list with one AUROC for each group of two
    or three excluded species), "warned" (list of float: for each method, the share of photos of excluded species that
    get a warning) and "excluded" (array of float: the familiarity of each photo of an excluded species)
    """
    names, outside_test = split.attrs["classes"], split[split["split"] != "test"]
    features, labels = stored_features(run, split), np.searchsorted(names, outside_test["label"])
    train = (outside_test["split"] == "train").to_numpy()
    areas, warned, excluded = {}, {}, []
    for pair in np.array_split(np.arange(len(names)), len(names) // 2):
        unknown = np.isin(labels, pair)
        known, learnt = ~unknown & ~train, ~unknown & train
        photos = np.concatenate([features[known], features[unknown]])
        is_known = np.arange(len(photos)) < known.sum()
        scores = scores_of_methods(features[learnt], labels[learnt], photos)
        joined = scores[NEIGHBOURS], scores[PROBABILITY]
        scores[BOTH] = join(*joined, *(score[is_known] for score in joined))
        excluded.append(share_below(scores[BOTH][~is_known], scores[BOTH][is_known]))
        for method, score in scores.items():
            areas.setdefault(method, []).append(roc_auc_score(is_known, score))
            cut = np.quantile(score[is_known], FALSE_WARNINGS)
            warned.setdefault(method, []).append(score[~is_known] < cut)
    shares = [np.concatenate(of_pairs).mean() for of_pairs in warned.values()]
    table = {"methods": [*areas], "areas": [*areas.values()], "warned": shares}
    return table | {"excluded": np.concatenate(excluded)}


def leave_species_out(run, split):
    """Test the methods on species that are excluded from training, two or three at a time, each species once.

    Photos of the excluded species should be unfamiliar, and validation photos of the other species familiar. A photo
    that scores below a threshold gets a warning. For each method and each group of excluded species, the threshold is
    the score that 95 % of the validation photos of the other species reach.

    Parameters
    ----------
    run : Run on a backbone
        Only its frozen features are used: a linear head replaces the head of the run.

    Returns
    -------
    table : DataFrame indexed by method
        "AUROC", the mean over the groups of species; "lowest", the smallest AUROC of a group; "warned", the share of
        photos of excluded species that are classified as unfamiliar. With fewer than four species, the table is None.
    excluded : array of float
        The familiarity of each photo of an excluded species, 0 to 1; empty with fewer than four species.
    """
    names = split.attrs["classes"]
    if len(names) < 4:
        return None, np.empty(0)

    run = on_frozen_backbone(run)
    key = f"{CODE} {split.attrs['hash']} {run.result['hashes']['model.keras']}"
    file = places.CACHE / f"familiarity-{hashlib.sha256(key.encode()).hexdigest()[:16]}.npz"
    stored = computed_once(file, key, functools.partial(judge, run, split))
    columns = {"AUROC": stored["areas"].mean(axis=1), "lowest": stored["areas"].min(axis=1)}
    columns["warned"] = stored["warned"]
    return pd.DataFrame(columns, stored["methods"].tolist()), stored["excluded"]


def sentence(table, leafless):
    """Say which share of the photos of excluded species, and of the pictures without a leaf, gets a warning: str.

    Parameters
    ----------
    table : DataFrame from `leave_species_out`, or None
    leafless : array of bool, shape (n,), one value for each picture without a leaf
        True if the picture is classified as familiar; such a picture gets no warning. n may be 0.
    """
    parts = []
    if table is None:
        parts.append("With fewer than four species, none can be excluded, so the warning is not tested")
    else:
        row = table.loc[BOTH]
        parts.append(
            f"The model warns for {row['warned']:.0%} of the photos of excluded species (AUROC {row['AUROC']:.3f}); "
            f"the threshold is set to warn for {FALSE_WARNINGS:.0%} of the validation photos"
        )
        if row["AUROC"] <= table.loc[PROBABILITY, "AUROC"]:
            parts.append("in this test, the largest predicted probability alone has at least the same AUROC")
    if len(leafless):
        parts.append(f"the model warns for {1 - np.mean(leafless):.0%} of {len(leafless)} pictures without a leaf")
    return "; ".join(parts) + "."
