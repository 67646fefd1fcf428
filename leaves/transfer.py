"""Heads and tails: what a head on a frozen backbone and a fine-tuned tail are, how they are prepared and compared."""

import functools
import itertools

from leaves import places
from leaves.backbones import BACKBONES, join_parts, load_parts, trainable_tail
from leaves.claims import compare
from leaves.custom_cnn import build_model
from leaves.dataset import DEVELOPMENT, load_images
from leaves.features import fold_data, frozen_outputs
from leaves.files import InputError, file_hash
from leaves.runs import read_run, repeat, training_spec
from leaves.training import Training, seeded

import numpy as np
import pandas as pd
from sklearn.neighbors import NearestNeighbors

# ---------------------------------------------------------------- heads


def head_specs(name, origin, split, learning_rates, seed, repeats, views, **settings):
    """The specs of the heads on one frozen backbone, one for each learning rate and repeat.

    Parameters
    ----------
    name : str, a key of `BACKBONES`
    origin : dict, that of the backbone's weights, see `backbones.find_weights`
    split : DataFrame from `dataset.load_split`
    learning_rates : list of float
    seed, repeats : int
        The first seed, and how many repeats of each, see `runs.repeat`.
    views : dict of count, augmentation and seed, see `features.frozen_outputs`
    **settings
        The spec's layers (of the head), image_size, epochs, patience and balance.

    Returns
    -------
    list of dict, see `runs.training_spec`
    """
    specs = []
    for learning_rate, number in itertools.product(learning_rates, range(repeats)):
        of_repeat = repeat(number, seed, split)
        spec = training_spec("04", name, split, **of_repeat, backbone=name, views=views, **settings)
        spec["weights"] = {key: origin[key] for key in ("kind", "hash")}
        spec["precision"] = spec["precision"] if BACKBONES[name].bfloat16 else "float32"
        spec["optimizer"]["config"]["learning_rate"] = learning_rate
        specs.append(spec)
    return specs


def loader(spec, origins):
    """A function without arguments that loads the two parts of a spec's frozen backbone, see `backbones.load_parts`."""
    return functools.partial(load_parts, spec["backbone"], spec["image_size"], **origins[spec["backbone"]])


def stored_outputs(specs, split, origins):
    """Compute each backbone's features of all photos outside the test subset, or take them from disk.

    Parameters
    ----------
    specs : list of dict from `head_specs`
    origins : dict of backbone to origin, see `backbones.find_weights`

    Returns
    -------
    dict of backbone to FrozenOutputs
    """
    by_backbone = {spec["backbone"]: spec for spec in specs}
    return {
        name: frozen_outputs(spec, split, DEVELOPMENT, loader(spec, origins)) for name, spec in by_backbone.items()
    }


def outputs_table(outputs):
    """What `stored_outputs` gave, one row a backbone: DataFrame of cut, shapes, photos and seconds."""
    rows = {}
    for name, stored in outputs.items():
        rows[name] = {
            "cut after": BACKBONES[name].cut,
            "at the cut": " x ".join(map(str, stored.at_cut.shape[1:])),
            "features": stored.features.shape[1],
            "photos and views": f"{len(stored.at_cut):,}",
            "seconds": stored.seconds,
        }
    return pd.DataFrame(rows).T


def nearest_leaves(outputs, split, size, most=2000):
    """A validation leaf of the commonest class, and the five training photos whose features are nearest to its own.

    Parameters
    ----------
    outputs : dict from `stored_outputs`
    split : DataFrame from `dataset.load_split`
    size : int
        Pixels per side of the pictures.
    most : int
        Training photos that are compared at most.

    Returns
    -------
    dict of backbone to dict of pictures (uint8, shape (6, size, size, 3), the leaf first), species (list of six str)
    and share (float: of the five, those of the right species, over all validation photos)
    """
    (train, labels), (validation, true) = (load_images(split, subset, size) for subset in ("train", "validation"))
    leaf = int(np.flatnonzero(true == np.bincount(labels).argmax())[0])
    sampled = np.linspace(0, len(labels) - 1, min(len(labels), most)).astype(int)
    alike = {}
    for name, stored in outputs.items():
        (learnt, _), (held_out, _) = fold_data(stored.features, stored.labels, split, 0)
        neighbours = NearestNeighbors(n_neighbors=5, metric="cosine")
        neighbours.fit(learnt[sampled].astype(np.float32))
        rows = sampled[neighbours.kneighbors(held_out[:].astype(np.float32))[1]]
        species = [split.attrs["classes"][label] for label in (true[leaf], *labels[rows[leaf]])]
        pictures = np.stack([validation[leaf], *train[rows[leaf]]])
        alike[name] = {"pictures": pictures, "species": species, "share": (labels[rows] == true[:, None]).mean()}
    return alike


def prepare_head(spec, split, origins):
    """Prepare the `Training` of a spec of `head_specs`: the head learns from the stored features.

    Parameters
    ----------
    origins : dict of backbone to origin, see `backbones.find_weights`
    """
    load = loader(spec, origins)
    front, last_block = load()
    with seeded(spec["seed"]):  # however many random numbers loading took
        head = build_model(spec["layers"], last_block.output_shape[1:], "head")
    outputs = frozen_outputs(spec, split, DEVELOPMENT, load)
    parts = {"front": front, "last block": last_block, "head": head}
    summary = {
        "initial_weights": spec["weights"]["kind"],
        "weights_source": origins[spec["backbone"]]["source"],
        "classes": split.attrs["classes"],
        "seconds_before": outputs.seconds,
        "cut_shape": list(front.output_shape[1:]),
        "parts": {part: network.count_params() for part, network in parts.items()},
    }
    data = fold_data(outputs.features, outputs.labels, split, spec["fold"])
    return Training(head, join_parts(front, last_block, head), *data, summary)


# ---------------------------------------------------------------- tails


def starting_heads(repeats, seeds, controls):
    """The heads that tails go on from: of each backbone those with the first seeds, of a control one.

    Parameters
    ----------
    repeats : dict of backbone to list of Run, as chapter 4 recorded them
    seeds : int
    controls : list of str, names of the backbones that started from random weights

    Returns
    -------
    list of Run

    Raises
    ------
    InputError
        When chapter 4 trained fewer heads than that.
    """
    counts = {name: 1 if name in controls else seeds for name in repeats}
    if any(len(repeats[name]) < count for name, count in counts.items()):
        raise InputError(
            f"fine_tuning_seeds is {seeds}, more than chapter 4 trained heads: raise seeds and run notebook "
            "04_transfer_learning again, or lower it."
        )
    return [run for name, count in counts.items() for run in repeats[name][:count]]


def tail_spec(head, split, epochs, learning_rate, patience, balance):
    """The spec of the tail that goes on from a head, with the head's backbone, photos, views, seed and fold.

    Parameters
    ----------
    head : Run of a spec of `head_specs`
    split : DataFrame from `dataset.load_split`
    """
    name = head.spec["backbone"]
    spec = training_spec("05", name, split, epochs, head.spec["seed"], balance, head.spec["fold"], patience=patience)
    spec |= {key: head.spec[key] for key in ("backbone", "image_size", "weights", "views", "precision")}
    spec |= {"cut": BACKBONES[name].cut}
    spec |= {"starts_from": f"{head.folder.name} {file_hash(head.folder / 'validation.npy')}"}
    spec["optimizer"]["config"]["learning_rate"] = learning_rate
    return spec


def prepare_tail(spec, split):
    """Prepare the `Training` of a spec of `tail_spec`: the tail of the reloaded network learns from activations."""
    head = read_run(places.RUNS / spec["starts_from"].split()[0])
    whole = head.load_model()
    parts = whole.get_layer("front"), whole.get_layer("last_block")
    outputs = frozen_outputs(head.spec, split, DEVELOPMENT, lambda: parts)
    summary = {key: head.result[key] for key in ("initial_weights", "weights_source", "classes")}
    summary["seconds_before"] = head.result["seconds_before"] + head.result["train_seconds"]
    data = fold_data(outputs.at_cut, outputs.labels, split, spec["fold"])
    return Training(trainable_tail(whole), whole, *data, summary)


# ---------------------------------------------------------------- comparisons


def rate_of(run):
    """The learning rate of a run."""
    return run.spec["optimizer"]["config"]["learning_rate"]


def scores_by_rate(runs):
    """Mean validation macro F1 over the seeds: DataFrame, one row a backbone, one column a learning rate.

    A mean is not a number where a training diverged. InputError if all heads of a backbone have such means.
    """
    rows = [(run.name, rate_of(run), run.result["validation_macro_f1"]) for run in runs]
    grid = pd.DataFrame(rows, columns=["backbone", "learning rate", "score"]).astype({"score": float})
    means = grid.pivot_table(
        "score", "backbone", "learning rate", lambda scores: scores.mean(skipna=False), dropna=False, sort=False
    )
    if (lost := means.isna().all(axis=1)).any():
        raise InputError(f"Every head of {lost.idxmax()} diverged: lower learning_rates.")
    return means.sort_index(axis=1)


def heads_table(heads):
    """Size, time and score of each backbone's heads: DataFrame, one row a backbone.

    Parameters
    ----------
    heads : dict of backbone to list of Run that differ in the seed; the first one's time and epoch are shown
    """
    rows = {}
    for name, repeats in heads.items():
        result = repeats[0].result
        rows[name] = {
            "initial weights": result["initial_weights"],
            "parameters": result["params"],
            "frozen": result["params"] - result["trainable_params"],
            "trained": result["trainable_params"],
            "learning rate": rate_of(repeats[0]),
            "best epoch": result["best_epoch"],
            "before, s": result["seconds_before"],
            "head, s": result["train_seconds"],
            "validation macro F1": np.mean([run.result["validation_macro_f1"] for run in repeats]),
            "seeds": len(repeats),
        }
    return pd.DataFrame(rows).T


def noise_floor(models):
    """The largest difference of validation macro F1 between repeats of a model: `models` is label to list of Run."""
    return max(np.ptp([run.result["validation_macro_f1"] for run in repeats]) for repeats in models.values())


def compare_pairs(pairs, models, truth, floor, controls):
    """Judge for each pair of models whether the first is better on validation.

    Parameters
    ----------
    pairs : list of (str, str), labels of `models`: a backbone's name, or one followed by a comma and the step
    models : dict of label to list of Run
    truth : array of int, shape (n,)
        Labels of the validation photos.
    floor : float, the noise floor
    controls : list of str, names of the backbones that started from random weights

    Returns
    -------
    list of dict of better, worse and verdict, and unless one of them is a control what `claims.compare` gives
    """
    rows = []
    for pair in pairs:
        row = dict(zip(("better", "worse"), pair, strict=True))
        if {label.split(",")[0] for label in pair} & {*controls}:
            rows.append(row | {"verdict": "not tested: random weights"})
            continue
        answers = (np.array([run.validation_probabilities.argmax(axis=1) for run in models[label]]) for label in pair)
        rows.append(row | compare(truth, *answers, "higher", floor))
    return rows


def verdict_table(rows, **columns):
    """The rows of `compare_pairs` as a table for display; `columns` gives better and worse their headings."""
    order = [*columns.values(), "difference", "low", "high", "seeds", "verdict"]
    formats = dict.fromkeys(["difference", "low", "high"], "{:+.3f}") | {"seeds": "{:.0f}"}
    return pd.DataFrame(rows).rename(columns=columns).reindex(columns=order).style.hide().format(formats, na_rep="")
