"""Let the trained networks classify the test subset, and compute the scores of chapter 6."""

import functools
import time
from dataclasses import dataclass
from pathlib import Path

from leaves import image_store, scoring
from leaves.backbones import trainable_tail
from leaves.batches import in_batches
from leaves.cache import code_hash, computed_once
from leaves.claims import MARGIN
from leaves.dataset import load_images
from leaves.features import frozen_outputs
from leaves.files import InputError
from leaves.progress import STEPS
from leaves.training import batch_function

import keras
import numpy as np
import pandas as pd
import tensorflow as tf
from sklearn.metrics import accuracy_score, f1_score, log_loss

VERSIONS = f"{image_store.CODE} {keras.__version__} {tf.__version__}"
CODE = code_hash(Path(__file__), VERSIONS)
MIRRORS = [
    lambda batch: batch,
    lambda batch: batch[:, ::-1],
    lambda batch: batch[:, :, ::-1],
    lambda batch: batch[:, ::-1, ::-1],
]
SCORE_COLUMNS = {
    "model": "name; a backbone has two rows: its head (chapter 4) and its fine-tuned network (chapter 5)",
    "chapter": "the chapter that trained the model; 6 for the two models that average predictions",
    "initial_weights": "imagenet, random (a check of the pipeline) or none (trained from scratch)",
    "params": "all parameters",
    "trainable_params": "parameters that learnt; in a fine-tuned network, those that fine-tuning changed",
    "epochs": "epochs of the training; of a fine-tuned network, those of fine-tuning alone",
    "train_seconds": "seconds of this training and of everything that it builds on",
    "validation_macro_f1": "macro F1 on the validation subset",
    "test_accuracy": "share of right answers on the test subset",
    "test_macro_f1": "mean over the classes of their F1 on the test subset",
    "test_macro_f1_low": "lower end of its 95 % interval",
    "test_macro_f1_high": "upper end of its 95 % interval",
    "replaced_background_macro_f1": "test macro F1 on other backgrounds, of the leaves that can be cut out",
    "unknown_auroc": "AUROC of separating species excluded from training from the others, on photos outside test",
    "external_accuracy": "accuracy on the second test set, if one is given",
    "external_macro_f1": "macro F1 there, over the classes that occur in it",
    "ms_per_image": "milliseconds for one photo, in float32",
    "original_score": "the original study's score on its hidden test set: accuracy, as its repository says",
}


# ---------------------------------------------------------------- models


def label_of(chapter, name, run):
    """Return a run's label in tables: the name; for a backbone also the step, as in "VGG16, fine tuning"."""
    return name + STEPS[chapter] if name == run.spec.get("backbone") else name


def label_models(recorded):
    """Return one dict of the models that the chapters recorded; the keys are the labels of `label_of`.

    Parameters
    ----------
    recorded : dict of chapter ("02" to "05") to dict of model name to Run

    Returns
    -------
    dict of label to Run

    Raises
    ------
    InputError
        When chapter 5 did not start from the heads that chapter 4 has recorded.
    """
    for name, run in recorded["05"].items():
        head = recorded["04"].get(name)
        lacks_head = head is None and name == run.spec.get("backbone")  # "any background" models have other names
        if lacks_head or (head and run.spec.get("starts_from", head.folder.name).split()[0] != head.folder.name):
            raise InputError(
                "Chapter 5 did not start from the heads that chapter 4 recorded: run 05_fine_tuning again."
            )
    return {label_of(chapter, *row): row[1] for chapter, by_name in recorded.items() for row in by_name.items()}


def label_repeats(recorded):
    """Convert {chapter: {name: list of Run}} to {label: list of Run}; the labels are those of `label_of`."""
    by_chapter = recorded.items()
    return {label_of(chapter, name, runs[0]): runs for chapter, names in by_chapter for name, runs in names.items()}


def compared_models(models):
    """Choose the models to compare, and explain in words why the others are excluded.

    Networks on a backbone with random weights are excluded, because they only check the pipeline. If the search of
    chapter 3 finds nothing better, FinalModel (tuned) is the same run as FinalModel, so it is excluded too.

    Parameters
    ----------
    models : dict of label to Run

    Returns
    -------
    compared : dict of label to Run
    note : str, "" if all models are compared
    """
    first = {run.folder: label for label, run in reversed(models.items())}
    same = {label: first[run.folder] for label, run in models.items() if first[run.folder] != label}
    controls = {label: run for label, run in models.items() if run.result["initial_weights"] == "random"}
    equal = "is not listed, because it is the same network as"
    notes = [f"{label} {equal} {other}." for label, other in same.items()]
    if names := ", ".join(dict.fromkeys(run.name for run in controls.values())):
        notes.append(
            f"Not compared, for lack of ImageNet weights: {names}. `report/scores.csv` has scores of these "
            "models, but their backbones have random weights and only check the pipeline. To compare the models, give "
            "`--weights DIR` (DIR holds `<Backbone>.weights.h5`), or go online: Keras downloads the weights."
        )
    return {label: run for label, run in models.items() if label not in same | controls}, " ".join(notes)


def transfer_of(models, run):
    """Return the Run of the head from which `run` was fine-tuned, or None if `models` has no such head."""
    return models.get(run.name + STEPS["04"]) if "starts_from" in run.spec else None


def validation_score(run):
    """Return macro F1 on the fold that a run held out; NaN if the run diverged."""
    return float("nan") if run.result["diverged"] else run.result["validation_macro_f1"]


def rank_on_validation(models, repeats):
    """Rank single models by mean macro F1 on the held-out folds; skip refits, because they learnt from these folds.

    The models may have different numbers of repeats. Only the first k repeats of each model count, where k is the
    smallest of these numbers. So all models are scored on the same folds.

    Parameters
    ----------
    models : dict of label to Run
    repeats : dict of label to list of Run; a model that is missing here has one repeat, its Run in `models`

    Returns
    -------
    Series of float with the labels as index, the best model first; its attrs hold k under the key "repeats"
    """
    trained = {label: repeats.get(label, [run]) for label, run in models.items() if not run.spec.get("refit")}
    count = min(map(len, trained.values()))
    means = {label: np.mean([*map(validation_score, runs[:count])]) for label, runs in trained.items()}
    ranked = pd.Series(means).sort_values(ascending=False, kind="stable")
    ranked.attrs["repeats"] = count
    return ranked


@functools.lru_cache(maxsize=8)
def load_network(folder):
    """Return a run's whole network, loaded or cached: a keras.Model that maps RGB pixels 0..255 to probabilities."""
    return keras.models.load_model(folder / "model.keras")


@functools.lru_cache(maxsize=8)
def predictor(folder):
    """Return the network in a run's folder as a compiled function of RGB pixels 0..255, see `batch_function`."""
    return batch_function(load_network(folder))


# ---------------------------------------------------------------- answers


@dataclass(frozen=True)
class Answers:
    """The answers of several models to the same photos: the class probabilities that each model predicts."""

    truth: np.ndarray  # int, shape (n,): true classes, as positions in the sorted classes; None for unlabelled photos
    probabilities: dict  # key: a model's label; value: its array of float32, shape (n, classes)

    @functools.cached_property
    def predicted(self):
        """Return the most probable class of each photo: dict of each model's label to array of int, shape (n,)."""
        return {label: answer.argmax(axis=1) for label, answer in self.probabilities.items()}

    def macro_f1(self, label):
        """Compute a model's macro F1 over the classes that occur among the photos."""
        return scoring.macro_f1(self.truth, self.predicted[label])

    def accuracy(self, label):
        """Compute the share of photos that a model classifies correctly."""
        return accuracy_score(self.truth, self.predicted[label])

    def interval(self, label, draws):
        """Compute the 95 % bootstrap interval of a model's macro F1: (low, high)."""
        return scoring.bootstrap_interval(self.truth, self.predicted[label], draws)

    def difference(self, label, baseline, draws):
        """Compute a model's macro F1 minus a baseline's: (difference, low, high), with a 95 % bootstrap interval."""
        return scoring.paired_difference(self.truth, self.predicted[label], self.predicted[baseline], draws)

    def difference_text(self, label, baseline, draws):
        """Format the result of `difference`, as in "+0.021 (-0.004 to +0.046)"."""
        return "{:+.3f} ({:+.3f} to {:+.3f})".format(*self.difference(label, baseline, draws))


def subset_truth(split, subset):
    """Return the species of a subset's photos as positions in the sorted classes: array of int, shape (n,)."""
    return np.searchsorted(split.attrs["classes"], split.loc[split["split"] == subset, "label"])


def validation_answers(models, split):
    """Return the stored predictions for validation photos as `Answers`; skip refits, which learnt from these photos."""
    chosen = {label: run for label, run in models.items() if not run.spec.get("refit")}
    probabilities = {label: run.validation_probabilities for label, run in chosen.items()}
    return Answers(subset_truth(split, "validation"), probabilities)


def answer_test_subset(models, split):
    """Let every model classify the test subset, and time the model; the results are cached in the folders of the runs.

    Returns
    -------
    answers : Answers
    milliseconds : dict of label to dict of float
        The times per image: "whole" for the whole network, and "front" for the frozen layers. Only a fine-tuned network
        and the head from which its fine-tuning started have the key "front".
    """
    measured = {}
    for run in models.values():
        if transfer := transfer_of(models, run):
            measured |= measured_on_backbone(transfer, run, split)
    for run in models.values():
        if run.folder not in measured:
            compute = functools.partial(measure, run, split)
            measured[run.folder] = computed_once(run.folder / "test.npz", CODE, compute)
    of_label = {label: dict(measured[run.folder]) for label, run in models.items()}
    probabilities = {label: arrays.pop("probabilities") for label, arrays in of_label.items()}
    times = {label: {part: float(value) for part, value in arrays.items()} for label, arrays in of_label.items()}
    return Answers(subset_truth(split, "test"), probabilities), times


def measure(run, split):
    """Let one network classify the test subset, and time it: dict of "probabilities" and "whole" (ms per image)."""
    images, _ = load_images(split, "test", run.spec["image_size"])
    predict = batch_function(run.load_model())
    time_of_one = milliseconds(predict, tf.constant(images[:1], tf.float32))
    return {"whole": time_of_one, "probabilities": predict_all(predict, images)}


def measured_on_backbone(transfer, tuned, split):
    """Cache `measure_on_backbone`; return {folder of each run: dict of "probabilities", "front", "whole"}."""
    file = tuned.folder / f"test-{transfer.folder.name}.npz"
    key = " ".join([CODE, *(run.result["hashes"]["model.keras"] for run in (transfer, tuned))])
    arrays = computed_once(file, key, functools.partial(measure_on_backbone, transfer, tuned, split))
    times = {part: arrays[part] for part in ("front", "whole")}
    answers = {transfer.folder: arrays["transfer"], tuned.folder: arrays["tuned"]}
    return {folder: times | {"probabilities": answer} for folder, answer in answers.items()}


def measure_on_backbone(transfer, tuned, split):
    """Let a head and the network fine-tuned from it classify the test subset, and measure their speed.

    Both networks share the frozen layers, so the frozen layers run only once. The speed is the same for both networks,
    so it is measured only once. The result is a dict. It has the times "front" and "whole" (ms per image, see
    `answer_test_subset`) and the probabilities "transfer" (of the head) and "tuned" (of the fine-tuned network).
    """
    network = transfer.load_model()
    front, last_block, head = (network.get_layer(part) for part in ("front", "last_block", "head"))
    stored = frozen_outputs(transfer.spec, split, "test", lambda: (front, last_block))
    answers = {"transfer": predict_all(batch_function(head), stored.features)}
    tuned.load_weights(network)
    frozen, tail = batch_function(front), batch_function(trainable_tail(network))
    answers["tuned"] = predict_all(tail, stored.at_cut)
    pixels = tf.constant(load_images(split, "test", transfer.spec["image_size"])[0][:1], tf.float32)
    times = {"front": milliseconds(frozen, pixels)}
    times["whole"] = times["front"] + milliseconds(tail, frozen(pixels))
    return times | answers


def predict_all(predict, images, change=lambda batch: batch):
    """Predict the class probabilities of images, which are read batch by batch to save memory.

    Parameters
    ----------
    predict : callable(float32 array of shape (n, size, size, 3)) -> array of shape (n, classes)
    images : array or StoredImages, shape (n, size, size, 3), RGB 0..255; for a head or a tail, its stored inputs
    change : callable(batch) -> batch of the same shape, called before each prediction

    Returns
    -------
    array of float32, shape (n, classes)
    """
    return np.concatenate([predict(change(batch).astype(np.float32)) for batch in in_batches(images)])


def milliseconds(predict, batch):
    """Measure how many milliseconds `predict(batch)` takes: the median of 20 calls after a warm-up call.

    Parameters
    ----------
    batch : float32 tensor of one photo, shape (1, ...)
    """
    times = []
    for _ in range(21):
        start = time.perf_counter()
        predict(batch)
        times.append(1000 * (time.perf_counter() - start))
    return float(np.median(times[1:]))


# ---------------------------------------------------------------- ensembles


def with_ensembles(ensembles, models, split, subset, answers):
    """Return the `Answers` of single models and ensembles together; answers to mirrored photos are cached on disk.

    Parameters
    ----------
    ensembles : dict with the keys "Test-time augmentation" (a list of one label) and "Ensemble" (a list of labels)
    models : dict of label to Run
    answers : Answers of single models to the photos of `subset`
    """
    run = models[ensembles["Test-time augmentation"][0]]

    def compute():
        return {"probabilities": mirrored(run, load_images(split, subset, run.spec["image_size"])[0])}

    stored = computed_once(run.folder / f"mirrored-{subset}.npz", CODE, compute)
    return Answers(answers.truth, combined(answers.probabilities, ensembles, stored["probabilities"]))


def mirrored(run, images):
    """Average a model's probabilities for each image and its three mirror images: float32, shape (n, classes)."""
    return np.mean([predict_all(predictor(run.folder), images, mirror) for mirror in MIRRORS], axis=0)


def combined(probabilities, ensembles, augmented):
    """Add to a copy of `probabilities`: "Test-time augmentation" (`augmented`) and "Ensemble" (its members' mean)."""
    mean = np.mean([probabilities[label] for label in ensembles["Ensemble"]], axis=0)
    return probabilities | {"Test-time augmentation": augmented, "Ensemble": mean}


# ---------------------------------------------------------------- tables


def score_table(costs, on_test, on_validation, original, draws):
    """Make the table of report/scores.csv; chapter 6 later fills in the scores on other photos, which are NaN here.

    Parameters
    ----------
    costs : dict from `costs.cost_rows`
    on_test, on_validation : Answers
    original : dict of label to the score that the original study reports
    draws : int
        Number of bootstrap resamples for every interval.

    Returns
    -------
    DataFrame, one row per model or ensemble, columns `SCORE_COLUMNS`, labels as index
    """
    rows = {}
    for label, cost in costs.items():
        low, high = on_test.interval(label, draws)
        rows[label] = cost | {
            "validation_macro_f1": on_validation.macro_f1(label) if label in on_validation.probabilities else None,
            "test_accuracy": on_test.accuracy(label),
            "test_macro_f1": on_test.macro_f1(label),
            "test_macro_f1_low": low,
            "test_macro_f1_high": high,
            "replaced_background_macro_f1": np.nan,
            "unknown_auroc": np.nan,
            "external_accuracy": np.nan,
            "external_macro_f1": np.nan,
            "original_score": original.get(label) if cost["initial_weights"] != "random" else None,
        }
    table = pd.DataFrame([*rows.values()], index=[*rows])[[*SCORE_COLUMNS]]
    return table.astype({"epochs": "Int64"})


def compare_with(best, labels, answers, draws):
    """Compute each model's macro F1 minus that of `best`, the model that validation chose, with 95 % intervals.

    Returns
    -------
    DataFrame, one row per model: difference, low, high and verdict. The verdict is "chosen" for `best`. For another
    model it is "tie" if the interval is between -`MARGIN` and `MARGIN`. Otherwise it is "better" or "worse" if the
    interval excludes 0, and "undecided" if the interval includes 0.
    """
    differences = {label: answers.difference(label, best, draws) for label in labels}
    table = pd.DataFrame(differences, index=["difference", "low", "high"]).T
    inside = (table["low"] > -MARGIN) & (table["high"] < MARGIN)
    shown = [inside, table["low"] > 0, table["high"] < 0]
    table["verdict"] = np.select(shown, ["tie", "better", "worse"], "undecided")
    table.loc[best, "verdict"] = "chosen"
    return table


def f1_per_class(answers, labels, classes):
    """Tabulate F1: DataFrame, one column per model and one row per class, named like "Oak (12)" for 12 photos."""
    every = {"labels": range(len(classes)), "average": None, "zero_division": 0}
    counts = np.bincount(answers.truth, minlength=len(classes))
    index = [f"{name} ({count})" for name, count in zip(classes, counts, strict=True)]
    return pd.DataFrame({label: f1_score(answers.truth, answers.predicted[label], **every) for label in labels}, index)


def calibration_table(labels, on_test, on_validation):
    """Fit each model's temperature on validation, and score the model's calibration on test before and after scaling.

    Returns
    -------
    DataFrame, one row per model: the temperature, and calibration error and log loss before and after scaling
    """
    rows = {}
    for label in labels:
        temperature = scoring.fit_temperature(on_validation.truth, on_validation.probabilities[label])
        before = on_test.probabilities[label]
        rows[label] = {"temperature": temperature}
        for name, answer in (("before", before), ("after", scoring.tempered(before, temperature))):
            rows[label][f"calibration error, {name}"] = scoring.calibration_error(on_test.truth, answer)
            rows[label][f"log loss, {name}"] = log_loss(on_test.truth, answer, labels=range(answer.shape[1]))
    return pd.DataFrame(rows).T
