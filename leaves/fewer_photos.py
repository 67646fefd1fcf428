"""Train networks on fractions of the training photos, to see how much more photos would help."""

import functools

from leaves import custom_cnn
from leaves.dataset import DEVELOPMENT
from leaves.features import fold_data, frozen_outputs
from leaves.training import Training, seeded

import numpy as np
import pandas as pd


def smaller_specs(chapter, run, fractions, seed):
    """List the specs (dicts of settings) of trainings that repeat a run on fractions of its training photos.

    Parameters
    ----------
    chapter : str, the chapter that trains them
    run : Run of FinalModel or of a head on a frozen backbone
    fractions : list of float
        Fractions of the training photos; the returned list has one spec for each fraction.
    seed : int
        Seed for choosing the photos. Each training itself has the same seed as `run`.
    """
    spec = run.spec | {"log_layers": False, "split": f"{run.spec['split']} {seed}"}
    spec |= {"chapter": chapter}
    return [spec | {"name": f"{run.name} {fraction}", "fraction": fraction} for fraction in fractions]


def smaller_split(split, fraction, seed):
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


def preparation(seed, transfer=None):
    """Return the `prepare` with which `helpers.train_all` trains specs from `smaller_specs`, see `prepare_smaller`."""
    return functools.partial(prepare_smaller, seed=seed, transfer=transfer)


def prepare_smaller(spec, split, seed, transfer):
    """Prepare the `Training` of one spec from `smaller_specs`: FinalModel, or a head on stored backbone features.

    Parameters
    ----------
    seed : int, see `smaller_specs`
    transfer : Run of a head on the spec's backbone
        A spec of FinalModel has no backbone, so `transfer` is not read and may be None.
    """
    smaller = smaller_split(split, spec["fraction"], seed)
    if "backbone" not in spec:
        return custom_cnn.prepare(spec, smaller)
    outputs = backbone_outputs(transfer, split, DEVELOPMENT)
    (views, labels), validation = fold_data(outputs.features, outputs.labels, split, spec["fold"])
    kept = np.flatnonzero(split.index[split["split"] == "train"].isin(smaller.index))
    with seeded(spec["seed"]):  # loading the backbone may have used random numbers
        head = custom_cnn.build_model(spec["layers"], views.shape[1:], "head")
    return Training(head, head, (views.of(kept), labels[kept]), validation, summary={"classes": split.attrs["classes"]})


def scores_in_words(whole, smaller):
    """Say in one sentence how a network scores on validation after learning from fractions of the training photos.

    The state of a training is told if it has not converged.

    Parameters
    ----------
    whole : Run, trained on all training photos
    smaller : list of Run, trained from the specs that `smaller_specs` makes from `whole`
    """
    shares = {f"{run.spec['fraction'] * 100:g} %": run for run in sorted(smaller, key=lambda run: run.spec["fraction"])}
    told = []
    for share, run in {**shares, "all": whole}.items():
        state = "" if run.result["state"] == "converged" else f" ({run.result['state']})"
        score = "no score" if run.result["diverged"] else f"{run.result['validation_macro_f1']:.3f}"
        told.append(f"{score} with {share}{state}")
    return f"Macro F1 on validation, from one training for each share of the training photos: {', '.join(told)}."
