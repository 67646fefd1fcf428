"""Repeat the original study's refit (claim C13), but score it on photos not used to choose the number of epochs.

A first training of FinalModel, the original study's network, shows which number of epochs scores best on validation.
The refit then trains FinalModel from the start on more photos, for this number of epochs.
"""

import functools

from leaves import claims, scoring
from leaves.custom_cnn import cnn_spec
from leaves.dataset import hold_out, load_images
from leaves.evaluation import predict_all
from leaves.files import InputError
from leaves.runs import NUMBERS, repeat
from leaves.training import batch_function

KEPT_FOLD = "reading-kept_fold.npz"  # file in a run's folder: the predictions on the fold that is kept for scoring


def train_refits(train_all, base, epochs, seed, repeats, prepare):
    """Train FinalModel and refit it; both networks are scored on a fold not used to choose the number of epochs.

    In repeat k, fold k is kept for scoring. With five folds, four folds are left. The first network learns from
    three of these folds, and the fourth shows which of its epochs is the best. The refit trains a new network on all
    four folds, for as many epochs as the first network needed to reach its best epoch.

    Parameters
    ----------
    train_all, prepare : the functions `helpers.train_all` and `custom_cnn.prepare`
    base, epochs, seed, repeats : see `ablations.variant_specs`

    Returns
    -------
    before, after : list of Run, the first trainings and the refits, one of each per repeat

    Raises
    ------
    InputError
        When the split has fewer than three folds.
    """
    split, quiet = base["split"], base | {"log_layers": False}
    if split.attrs["folds"] < 3:
        raise InputError(
            "The variant 'more data' needs three folds or more: lower validation_share, or leave this variant out."
        )
    starts = [repeat(number, seed, split) for number in range(repeats)]
    folds = split.attrs["folds"]
    before = [
        cnn_spec("03", "more data, before", epochs=epochs, **quiet, **start)
        | {"fold": (start["fold"] + 1) % folds, "without": start["fold"]}
        for start in starts
    ]
    first = train_all(before, split, prepare, KEPT_FOLD)
    fixed = quiet | {"patience": None}
    after = [
        cnn_spec("03", "more data, after", epochs=run.result["best_epoch"], **fixed, **start)
        for run, start in zip(first, starts, strict=True)
    ]
    return first, train_all(after, split, prepare, NUMBERS)


def gain_of_more_data(before, after, split):
    """Measure the refit's gain of macro F1 on photos that were not used for training or to choose the epochs.

    Parameters
    ----------
    before, after : list of Run, see `train_refits`

    Returns
    -------
    dict with the keys differences (list of float: macro F1 after the refit minus macro F1 before it, for each repeat in
    which both trainings converged) and reason (str or None, see `claims.missing_pairs`)
    """
    states = [[run.result["state"] for run in pair] for pair in zip(before, after, strict=True)]
    # The refit has a fixed number of epochs, so it counts as converged even if its score still rises at the end.
    states = [[first, "converged" if second == "still rising" else second] for first, second in states]
    pairs = zip(zip(before, after, strict=True), states, strict=True)
    sound = [pair for pair, state in pairs if set(state) == {"converged"}]
    answers = {
        first.folder: first.reading(KEPT_FOLD, functools.partial(answers_on_fold, first, second.spec["fold"], split))
        for first, second in zip(before, after, strict=True)
        if not first.result["diverged"]
    }
    gains = [
        float(second.result["validation_macro_f1"] - scoring.macro_f1(**answers[first.folder]))
        for first, second in sound
    ]
    return {"differences": gains, "reason": claims.missing_pairs(states)}


def answers_on_fold(run, fold, split):
    """Classify a fold's photos with a run's network: dict with the keys truth and prediction, arrays of int."""
    images, truth = load_images(hold_out(split, fold), "validation", run.spec["image_size"])
    return {"truth": truth, "prediction": predict_all(batch_function(run.load_model()), images).argmax(axis=1)}


def refit_record(said, pair, cost):
    """Collect the evidence on claim C13, that a refit on more photos raises macro F1: dict, see `claims.judge`.

    Parameters
    ----------
    said : str, the claim in the words of the original study
    pair : dict from `gain_of_more_data`, or None if no refit was trained
    cost : str, how long the refit would take; only needed if the refit was not trained
    """
    what = "macro F1 after the refit minus before, on photos that neither training used,"
    against = {"against": claims.FOLD_GAIN, "measure": claims.REFIT}
    comparisons = (
        [claims.evidence(what, "not lower", **pair, **against)]
        if pair
        else claims.not_tested(f"not trained: more data ({cost})")
    )
    return {"claim": "C13", "said": said, "figure": "", "comparisons": comparisons}
