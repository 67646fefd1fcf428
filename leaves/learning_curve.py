"""Score networks that were trained on fractions of the training photos, on the test subset."""

from leaves import scoring
from leaves.dataset import load_images
from leaves.evaluation import predict_all
from leaves.fewer_photos import backbone_outputs, smaller_split
from leaves.training import batch_function

import pandas as pd


def learning_curve(models, smaller, on_test, split, seed, draws):
    """Tabulate test macro F1 by the number of training photos, with 95 % bootstrap intervals over the test images.

    Parameters
    ----------
    models : dict of label to Run, trained on all training photos
    smaller : dict of label to list of Run, trained on fractions of these photos
    on_test : `evaluation.Answers` of `models` to the test subset
    seed : int, see `fewer_photos.smaller_specs`
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
            count = (smaller_split(split, fraction, seed)["split"] == "train").sum()
            row = {"model": label, "photos": count, "macro F1": scoring.macro_f1(on_test.truth, predicted)}
            rows.append(row | {"low": low, "high": high})
    return pd.DataFrame(rows).sort_values(["model", "photos"])
