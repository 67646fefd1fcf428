"""Train networks on fractions of the training photos, and score them on the test subset."""

import functools
import multiprocessing
import os
import pickle
from contextlib import suppress

from leaves import custom_cnn, scoring
from leaves.dataset import DEVELOPMENT, load_images, load_split
from leaves.evaluation import predict_all
from leaves.features import fold_data, frozen_outputs
from leaves.files import InputError
from leaves.hardware import call_quietly, own_cores
from leaves.planning import PLAN
from leaves.runs import WEIGHTS, find_runs, free_first, spec_hash, train_once
from leaves.training import Training, batch_function, gpus, seeded

import numpy as np
import pandas as pd


def smaller_specs(run, fractions, seed):
    """List the specs (dicts of settings) of trainings that repeat a run on fractions of its training photos.

    Parameters
    ----------
    run : Run of FinalModel or of a head on a frozen backbone
    fractions : list of float
        Fractions of the training photos; the returned list has one spec for each fraction.
    seed : int
        Seed for choosing the photos. Each training itself has the same seed as `run`.
    """
    spec = run.spec | {"chapter": "06", "log_layers": False, "split": f"{run.spec['split']} {seed}"}
    return [spec | {"name": f"{run.name} {fraction}", "fraction": fraction} for fraction in fractions]


def fewer_photos(split, fraction, seed):
    """Return a copy of the split with only a fraction of each class's training photos, at least one per class."""
    train = split[split["split"] == "train"]
    kept = [
        of_class.sample(max(1, round(fraction * len(of_class))), random_state=seed)
        for _, of_class in train.groupby("label")
    ]
    return split.drop(train.index.difference(pd.concat(kept).index))


def backbone_outputs(transfer, split, subset):
    """Return the outputs of a frozen backbone for a subset: `features.FrozenOutputs`. `transfer` is a head's Run."""

    def load():
        whole = transfer.load_model()
        return whole.get_layer("front"), whole.get_layer("last_block")

    return frozen_outputs(transfer.spec, split, subset, load)


def prepare_smaller(spec, split, seed, transfer):
    """Prepare the `Training` of one spec from `smaller_specs`: FinalModel, or a head on stored backbone features.

    Parameters
    ----------
    seed : int, see `smaller_specs`
    transfer : Run of a head on the spec's backbone
        A spec of FinalModel has no backbone, so `transfer` is not read and may be None.
    """
    smaller = fewer_photos(split, spec["fraction"], seed)
    if "backbone" not in spec:
        return custom_cnn.prepare(spec, smaller)
    outputs = backbone_outputs(transfer, split, DEVELOPMENT)
    (views, labels), validation = fold_data(outputs.features, outputs.labels, split, spec["fold"])
    kept = np.flatnonzero(split.index[split["split"] == "train"].isin(smaller.index))
    with seeded(spec["seed"]):  # loading the backbone may have used random numbers
        head = custom_cnn.build_model(spec["layers"], views.shape[1:], "head")
    return Training(head, head, (views.of(kept), labels[kept]), validation, summary={"classes": split.attrs["classes"]})


def begin_training(models, fractions, seed, split, prepare):
    """Begin to train on fractions of the training photos, in another process, and return at once.

    Later, `helpers.train_all` finds the finished runs, and waits for a training that has not ended. If this process
    ends, the other one ends too. No process starts if all specs are trained already, if only a plan is made, if a
    cluster or a GPU is used, or if there is only one core.

    Parameters
    ----------
    models : dict of label to Run
    fractions, seed : see `smaller_specs`
    split : DataFrame, see `dataset.load_split`
    prepare : callable(spec, split) -> Training
        A module's function, or a `functools.partial` of one, because the other process has to import it.

    Returns
    -------
    dict of label to list of dict, the specs
    """
    specs = {label: smaller_specs(run, fractions, seed) for label, run in models.items()}
    together = [spec for own in specs.values() for spec in own]
    elsewhere = PLAN.get() or os.environ.get("DASK_SCHEDULER_ADDRESS") or gpus() or len(own_cores()) < 2
    if not elsewhere and not all(find_runs(together, WEIGHTS)):
        # The other process can receive pickled work before it imports TensorFlow, so this process need not wait.
        work = pickle.dumps(functools.partial(train_free, together, split.attrs["hash"], prepare))
        spawned = multiprocessing.get_context("spawn")  # a forked process would inherit locks of TensorFlow
        spawned.Process(target=call_quietly, args=(work,), daemon=True).start()
    return specs


def train_free(specs, split_hash, prepare):
    """Train the specs that no other process is training; do nothing if the hash of the split is not `split_hash`."""
    split = load_split()
    if split.attrs["hash"] != split_hash:
        return
    for _, spec in free_first({spec_hash(spec): spec for spec in specs}):
        with suppress(InputError):  # `helpers.train_all` will meet the same error, and tells it
            train_once(spec, split, prepare, patience=0)


def learning_curve(models, smaller, on_test, split, seed, draws):
    """Tabulate test macro F1 by the number of training photos, with 95 % bootstrap intervals over the test images.

    Parameters
    ----------
    models : dict of label to Run, trained on all training photos
    smaller : dict of label to list of Run, trained on fractions of these photos
    on_test : `evaluation.Answers`, the predictions of `models` for the test subset
    seed : int, see `smaller_specs`
    draws : int
        Bootstrap resamples for each interval.

    Returns
    -------
    DataFrame with the columns model, photos, macro F1, low and high (the ends of the interval), one row for each model
    and number of photos, sorted by model and then by number of photos
    """
    rows = []
    for label, whole in models.items():
        if "backbone" in whole.spec:
            inputs = backbone_outputs(whole, split, "test").features
        else:
            inputs, _ = load_images(split, "test", whole.spec["image_size"])
        points = {1.0: on_test.predicted[label]}
        for run in smaller[label]:
            answer = predict_all(batch_function(run.load_model()), inputs)
            points[run.spec["fraction"]] = answer.argmax(axis=1)
        for fraction, predicted in points.items():
            low, high = scoring.bootstrap_interval(on_test.truth, predicted, draws)
            count = (fewer_photos(split, fraction, seed)["split"] == "train").sum()
            row = {"model": label, "photos": count, "macro F1": scoring.macro_f1(on_test.truth, predicted)}
            rows.append(row | {"low": low, "high": high})
    return pd.DataFrame(rows).sort_values(["model", "photos"])
