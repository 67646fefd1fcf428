"""Compute scores, intervals (Efron 1979), states of trainings and moderated variances; calibrate probabilities."""

import numpy as np
import pandas as pd
from scipy.optimize import brentq, minimize_scalar
from scipy.special import digamma, polygamma, softmax


def macro_f1(truth, prediction):
    """Compute macro F1 over the classes that occur in the truth, along the last axis.

    A prediction of a class that is not in the truth counts as a miss for the photo's true class, and adds no class to
    the mean.

    Parameters
    ----------
    truth, prediction : array of int, shape (..., n)
        The true and the predicted classes of n photos. The other axes hold, for example, bootstrap resamples; the same
        classes must occur in the truth of each of them.

    Returns
    -------
    array of float, shape (...)
        Each score equals that of scikit-learn's f1_score with average="macro" and the classes of the truth as labels.
    """
    truth, prediction = np.asarray(truth), np.asarray(prediction)
    scores = []
    for label in np.unique(truth):
        hit = ((truth == label) & (prediction == label)).sum(axis=-1)
        either = (truth == label).sum(axis=-1) + (prediction == label).sum(axis=-1)
        scores.append(np.where(either, 2 * hit / np.maximum(either, 1), np.nan))
    return np.nanmean(scores, axis=0)


ABOVE_CONSTANT = 0.02  # a network counts as trained if its best macro F1 exceeds `constant_score` by at least this much


def constant_score(truth):
    """Compute the macro F1 of a model that predicts the commonest class for every photo: float.

    Parameters
    ----------
    truth : array of int, shape (n,)
    """
    counts = np.bincount(truth)
    share = counts.max() / counts.sum()
    return float(2 * share / (1 + share) / np.count_nonzero(counts))


def state_of(curve, epochs, constant):
    """Return the state of a training: "converged", "still rising", "did not train" or "diverged".

    Parameters
    ----------
    curve : sequence of float
        Macro F1 after each epoch, usually on validation; NaN where the loss was NaN or infinite.
    epochs : int, or infinity
        The largest number of epochs that the training could take. If it is infinite, the state is never "still rising".
    constant : float, see `constant_score`

    Returns
    -------
    str
        "diverged" if a score is NaN; "did not train" if all scores are below `constant` + `ABOVE_CONSTANT`;
        "still rising" if the training took all its epochs and the best one lies in the last tenth of them; otherwise
        "converged".
    """
    curve = np.asarray(curve, float)
    if not np.isfinite(curve).all():
        return "diverged"
    if curve.max() < constant + ABOVE_CONSTANT:
        return "did not train"
    in_last_tenth = curve.argmax() + 1 > epochs - max(1, epochs // 10)
    return "still rising" if len(curve) == epochs and in_last_tenth else "converged"


def count_states(states):
    """Count the trainings in each state, as in "2 converged, 1 still rising"; `states` is an iterable of str."""
    return ", ".join(f"{count} {state}" for state, count in pd.Series([*states]).value_counts().items())


def resamples(truth, draws, seed=0):
    """Draw bootstrap resamples (Efron 1979) of photos within each class, so every resample contains every class.

    Parameters
    ----------
    truth : array of int, shape (n,), the classes of the photos
    draws : int, the number of resamples

    Returns
    -------
    array of int, shape (draws, n); each row holds the positions in `truth` of the photos in one resample
    """
    rng, rows = np.random.default_rng(seed), np.empty((draws, len(truth)), np.int32)
    for label in np.unique(truth):
        of_label = np.flatnonzero(truth == label)
        rows[:, of_label] = rng.choice(of_label, (draws, len(of_label)))
    return rows


def macro_f1_of_resamples(truth, prediction, rows):
    """Compute the macro F1 of each bootstrap resample: array of float, shape (draws,).

    The resamples are scored in chunks, which limits the memory.

    Parameters
    ----------
    truth, prediction : array of int, shape (n,)
    rows : array of int, shape (draws, n), from `resamples`
    """
    some_at_a_time = np.array_split(rows, max(1, rows.size // 200_000))
    return np.concatenate([macro_f1(truth[some], prediction[some]) for some in some_at_a_time])


def bootstrap_interval(truth, prediction, draws=2000):
    """Compute the 95 % percentile bootstrap interval of macro F1, by resampling the photos: (low, high)."""
    truth, prediction = np.asarray(truth), np.asarray(prediction)
    return np.percentile(macro_f1_of_resamples(truth, prediction, resamples(truth, draws)), [2.5, 97.5])


def paired_difference(truth, prediction, baseline, draws=2000):
    """Compute macro F1 of `prediction` minus that of `baseline` on the same images: (difference, low, high).

    The interval is the 95 % percentile interval of a paired bootstrap: both predictions are scored on the same
    resamples.

    Parameters
    ----------
    truth, prediction, baseline : array of int, shape (n,)
    """
    truth, both = np.asarray(truth), [np.asarray(prediction), np.asarray(baseline)]
    rows = resamples(truth, draws)
    difference = np.subtract(*(macro_f1(truth, predicted) for predicted in both))
    drawn = np.subtract(*(macro_f1_of_resamples(truth, predicted, rows) for predicted in both))
    return difference, *np.percentile(drawn, [2.5, 97.5])


def calibration_error(truth, probabilities, bins=15):
    """Compute the expected calibration error, the mean of |confidence - accuracy| over bins (Guo et al. 2017).

    Parameters
    ----------
    truth : array of int, shape (n,)
    probabilities : array of float, shape (n, classes)
    bins : int
        The number of bins, which have equal width in confidence; each bin is weighted by its number of images.
    """
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == truth
    chosen = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = [abs((right - confidence)[chosen == number].sum()) for number in np.unique(chosen)]
    return float(np.sum(gaps) / len(truth))


def tempered(probabilities, temperature):
    """Soften (temperature above 1) or sharpen (below 1) probabilities; the most likely class stays the same."""
    return softmax(np.log(np.maximum(probabilities, 1e-12)) / temperature, axis=1)


def fit_temperature(truth, probabilities):
    """Find the temperature, between 0.05 and 20, that minimises the log loss of the probabilities (Guo et al. 2017).

    Parameters
    ----------
    truth : array of int, shape (n,)
    probabilities : array of float, shape (n, classes)

    Returns
    -------
    float, the temperature for `tempered`
    """
    rows = np.arange(len(truth))

    def loss(logarithm):
        return -np.log(np.maximum(tempered(probabilities, np.exp(logarithm))[rows, truth], 1e-12)).mean()

    return float(np.exp(minimize_scalar(loss, bounds=(np.log(0.05), np.log(20)), method="bounded").x))


def moderated_variances(variances, degrees):
    """Moderate variances: move each of them towards their common value by empirical Bayes (Smyth 2004).

    A variance from three repeats has two degrees of freedom, so it is a poor estimate alone. The variances of all
    variants together give a better estimate. The less these variances differ, the closer each is moved to the common
    value.

    Parameters
    ----------
    variances : array of float, shape (variants,), above 0
    degrees : array of int, shape (variants,)
        Degrees of freedom of each variance.

    Returns
    -------
    variances, degrees : arrays of float, shape (variants,)
        The moderated variances and their degrees of freedom. A single variance is returned unchanged. No variance gets
        more degrees of freedom than the mean of all variances would have. The mean has fewer than the sum of `degrees`,
        because the variances are correlated: each is the variance of a network's differences from FinalModel's scores.
        This function assumes a correlation of 1/2 between the differences of two networks, so 1/4 between variances.
    """
    variances, degrees, count = np.asarray(variances, float), np.asarray(degrees, float), len(variances)
    if count < 2:
        return variances, degrees
    most = degrees / (1 / count + (1 - 1 / count) / 4)
    centred = np.log(variances) - digamma(degrees / 2) + np.log(degrees / 2)
    spread = centred.var(ddof=1) - polygamma(1, degrees / 2).mean()
    if spread <= 0:  # the variances differ no more than by chance, so all become equal
        return np.full(count, np.exp(centred.mean())), most
    prior = 2 * brentq(lambda half: polygamma(1, half) - spread, 1e-6, 1e9)
    common = np.exp(centred.mean() + digamma(prior / 2) - np.log(prior / 2))
    return (prior * common + degrees * variances) / (prior + degrees), np.minimum(prior + degrees, most)
