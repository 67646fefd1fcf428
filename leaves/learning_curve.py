"""Train networks on fractions of the training photos, and score them on the test subset."""

from leaves import custom_cnn, scoring
from leaves.dataset import DEVELOPMENT, load_images
from leaves.evaluation import predict_all
from leaves.features import fold_data, frozen_outputs
from leaves.training import Training, batch_function, seeded

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
    """Return the outputs of a head's frozen backbone for a subset: FrozenOutputs; `transfer` is the head's Run."""

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


def learning_curve(models, smaller, on_test, split, seed, draws):
    """Tabulate test macro F1 by the number of training photos, with 95 % bootstrap intervals over the test images.

    Parameters
    ----------
    models : dict of label to Run, trained on all training photos
    smaller : dict of label to list of Run, trained on fractions of these photos
    on_test : `evaluation.Answers` of `models` to the test subset
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
