"""Describe, prepare and compare the runs of chapter 4 (heads on frozen backbones) and chapter 5 (fine-tuned tails).

A tail is the last block of a backbone together with its head from chapter 4; fine-tuning trains both at once.
"""

import functools
import itertools

from leaves import places
from leaves.backbones import BACKBONES, cut_backbone, join_parts, load_backbone, load_parts, trainable_tail
from leaves.claims import compare, count_text, evidence, not_tested, pairs
from leaves.custom_cnn import build_model
from leaves.dataset import DEVELOPMENT, load_images
from leaves.features import fold_data, frozen_outputs
from leaves.files import InputError
from leaves.runs import read_run, repeat, training_spec
from leaves.scoring import count_states
from leaves.training import Training, flat_layers, seeded

import keras
import numpy as np
import pandas as pd

# A backbone with random weights only serves to check the pipeline, so its head and its tail are trained briefly.
CHECK = {"learning_rates": [0.001], "repeats": 1, "epochs": 2, "image_size": 32}
CHECK_TAIL_EPOCHS = 1
MOST_STEPS = 3  # a grid of learning rates gets at most this many further rates on each side
STUDY = ("ResNet50", "EfficientNetB4", "VGG16")  # backbones of the original study, in the order of claim C16

# ---------------------------------------------------------------- heads


def head_specs(name, origin, split, learning_rates, seed, repeats, views, **settings):
    """List the specs of the heads on one frozen backbone, one per learning rate and repeat.

    Parameters
    ----------
    name : str, a key of `BACKBONES`
    origin : dict that `backbones.find_weights` returned for this backbone
    split : DataFrame from `dataset.load_split`
    learning_rates : list of float
    seed, repeats : int
        The first seed, and the number of repeats, see `runs.repeat`.
    views : dict with the keys count, augmentation and seed, see `features.frozen_outputs`
    **settings
        Keys of the spec: layers (of the head), image_size, epochs, patience, balance and precision.

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
    """Return a function without arguments that loads a spec's backbone, cut into two parts, see `load_parts`."""
    source = origins[spec["backbone"]]
    return functools.partial(load_parts, spec["backbone"], spec["image_size"], spec.get("windows"), **source)


def stored_outputs(specs, split, origins):
    """Compute the outputs of each backbone for all photos outside the test subset, or read them from disk.

    Parameters
    ----------
    specs : list of dict from `head_specs`
    origins : dict of backbone to origin, see `backbones.find_weights`

    Returns
    -------
    dict of backbone to FrozenOutputs
    """
    by_backbone = {spec["backbone"]: spec for spec in specs}
    return {name: frozen_outputs(spec, split, DEVELOPMENT, loader(spec, origins)) for name, spec in by_backbone.items()}


def outputs_table(outputs):
    """List each backbone's cut and its outputs (shapes, number of photos plus views, seconds): DataFrame."""
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


def prepare_head(spec, split, origins):
    """Prepare the `Training` for a spec from `head_specs`: the head learns from its backbone's stored features.

    Parameters
    ----------
    origins : dict of backbone to origin, see `backbones.find_weights`
    """
    load = loader(spec, origins)
    front, last_block = load()
    with seeded(spec["seed"]):  # loading may have used random numbers
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


# ---------------------------------------------------------------- learning rates


def rate_of(run):
    """Return the learning rate of a run."""
    return run.spec["optimizer"]["config"]["learning_rate"]


def scores_by_rate(runs):
    """Average the validation macro F1 of the heads over their repeats, for each backbone and learning rate.

    Returns
    -------
    DataFrame, one row per backbone, one column per learning rate in rising order; NaN where no head was trained, or
    where a head diverged

    Raises
    ------
    InputError
        When a backbone has, at every learning rate, at least one head that diverged.
    """
    rows = [(run.name, rate_of(run), run.result["validation_macro_f1"]) for run in runs]
    grid = pd.DataFrame(rows, columns=["backbone", "learning rate", "score"]).astype({"score": float})
    means = grid.pivot_table(
        "score", "backbone", "learning rate", lambda scores: scores.mean(skipna=False), dropna=False, sort=False
    )
    if (lost := means.isna().all(axis=1)).any():
        raise InputError(f"Heads of {lost.idxmax()} diverged at every learning rate: use lower learning_rates.")
    return means.sort_index(axis=1)


def wider_specs(runs, learning_rates):
    """List specs with new learning rates for each backbone that scores best at the lowest or highest rate so far.

    Parameters
    ----------
    runs : list of Run
        All heads trained so far.
    learning_rates : list of float
        The original grid. Each side gets at most `MOST_STEPS` further rates, in steps of a factor of about 3.

    Returns
    -------
    list of dict, one per new rate and repeat; empty if no grid needs another rate
    """
    specs = []
    for name, best in scores_by_rate(runs).idxmax(axis=1).items():
        heads = [run for run in runs if run.name == name]
        rates = {rate_of(run) for run in heads}
        steps = []
        if best == min(rates) and sum(rate < min(learning_rates) for rate in rates) < MOST_STEPS:
            steps.append(best / 3)
        if best == max(rates) and sum(rate > max(learning_rates) for rate in rates) < MOST_STEPS:
            steps.append(best * 10 / 3)
        for rate, head in itertools.product(steps, heads):
            if rate_of(head) == best:
                config = {"learning_rate": float(f"{rate:.0e}")}  # 1, 3, 10, 30 ...
                specs.append(head.spec | {"optimizer": head.spec["optimizer"] | {"config": config}})
    return specs


def at_best_rate(runs):
    """Return the heads at the best learning rate of each backbone: dict of backbone to list of Run, one per repeat."""
    best = scores_by_rate(runs).idxmax(axis=1)
    return {name: [run for run in runs if run.name == name and rate_of(run) == best[name]] for name in best.index}


# ---------------------------------------------------------------- the control


def control_specs(heads, seed):
    """List the specs of a control: the same heads on a backbone with random weights; `seed` is the weights' seed.

    Parameters
    ----------
    heads : list of Run, the repeats of a head
    """
    weights = {"kind": "random", "hash": f"random-{seed}", "statistics": "of the photos"}
    return [head.spec | {"name": f"{head.name}, random weights", "weights": weights} for head in heads]


def parts_of_control(spec, split, most=256):
    """Return the front and the last block of a backbone with random weights, as two models.

    Their batch normalisation layers (Ioffe and Szegedy 2015) get the batch statistics of at most `most` photos. Without
    these, the signal of an untrained network vanishes from layer to layer.
    """
    network = load_backbone(spec["backbone"], spec["weights"], spec["image_size"])
    front, last_block = cut_backbone(spec["backbone"], network, "random")
    for layer in flat_layers(network):
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.0
    images, _ = load_images(split, DEVELOPMENT, spec["image_size"])
    chosen = np.linspace(0, len(images) - 1, min(len(images), most)).astype(int)
    last_block(front(images[chosen].astype(np.float32), training=True), training=True)
    return front, last_block


def prepare_control(spec, split):
    """Prepare the `Training` for a spec from `control_specs`; only the head is trained and saved, no backbone."""
    outputs = frozen_outputs(spec, split, DEVELOPMENT, functools.cache(lambda: parts_of_control(spec, split)))
    with seeded(spec["seed"]):  # loading may have used random numbers
        head = build_model(spec["layers"], outputs.features.shape[1:], "head")
    data = fold_data(outputs.features, outputs.labels, split, spec["fold"])
    return Training(head, head, *data, {"initial_weights": "random", "classes": split.attrs["classes"]})


# ---------------------------------------------------------------- tails


def starting_heads(heads, repeats):
    """Select the heads from which fine-tuning starts: `repeats` per backbone, or one head if the weights are random.

    Parameters
    ----------
    heads : dict of backbone to list of Run, in the order in which chapter 4 recorded them
    repeats : int

    Returns
    -------
    list of Run

    Raises
    ------
    InputError
        When chapter 4 trained fewer heads of a backbone than are needed.
    """
    chosen = []
    for runs in heads.values():
        count = 1 if is_check(runs) else repeats
        if len(runs) < count:
            raise InputError(
                f"repeats is {count}, but chapter 4 trained only {count_text(len(runs), 'repeat')} of a head: use "
                "fewer repeats, or run notebook 04_transfer_learning again with more repeats."
            )
        chosen += runs[:count]
    return chosen


def is_check(runs):
    """Return whether the backbone of these runs has random weights; such runs only check the pipeline."""
    return runs[0].result["initial_weights"] == "random"


def tail_spec(head, split, epochs, learning_rate, patience, balance):
    """Make the spec of the tail that starts from a head, with the same backbone, photos, views, seed and fold.

    Parameters
    ----------
    head : Run of a spec of `head_specs`
    split : DataFrame from `dataset.load_split`
    epochs : int
        If the backbone has random weights, the tail is trained for `CHECK_TAIL_EPOCHS` instead.
    """
    name = head.spec["backbone"]
    epochs = CHECK_TAIL_EPOCHS if is_check([head]) else epochs
    spec = training_spec("05", name, split, epochs, head.spec["seed"], balance, head.spec["fold"], patience=patience)
    shared = ("backbone", "image_size", "weights", "views", "precision", "windows")
    spec |= {key: head.spec[key] for key in shared if key in head.spec}
    spec |= {"cut": BACKBONES[name].cut}
    spec |= {"starts_from": head.identity}
    spec["optimizer"]["config"]["learning_rate"] = learning_rate
    return spec


def prepare_tail(spec, split):
    """Prepare the `Training` for a spec from `tail_spec`: the tail learns from the stored activations at the cut."""
    head = read_run(places.RUNS / spec["starts_from"].split()[0])
    whole = head.load_model()
    parts = whole.get_layer("front"), whole.get_layer("last_block")
    outputs = frozen_outputs(spec, split, DEVELOPMENT, lambda: parts)
    summary = {key: head.result[key] for key in ("initial_weights", "weights_source", "classes", "parts")}
    summary["seconds_before"] = head.result["seconds_before"] + head.result["train_seconds"]
    data = fold_data(outputs.at_cut, outputs.labels, split, spec["fold"])
    return Training(trainable_tail(whole), whole, *data, summary)


# ---------------------------------------------------------------- comparisons


def heads_table(heads):
    """List size, times, states and mean score of each backbone's heads: DataFrame, one row per backbone.

    Parameters
    ----------
    heads : dict of backbone to list of Run, the repeats; sizes and seconds are those of repeat 0
    """
    rows = {}
    for name, runs in heads.items():
        result = runs[0].result
        rows[name] = {
            "parameters": result["params"],
            "trained": result["trainable_params"],
            "features, s": result["seconds_before"],
            "head, s": result["train_seconds"],
            "learning rate": rate_of(runs[0]),
            "heads": count_states(run.result["state"] for run in runs),
            "validation macro F1": mean_score(runs),
        }
    return pd.DataFrame(rows).T


def tails_table(heads, tails):
    """List times, states and mean scores of each backbone's heads and tails: DataFrame, one row per backbone.

    Parameters
    ----------
    heads, tails : dict of backbone to list of Run, the repeats; seconds are those of repeat 0
    """
    rows = {}
    for name, runs in tails.items():
        rows[name] = {
            "features, s": heads[name][0].result["seconds_before"],
            "head, s": heads[name][0].result["train_seconds"],
            "tail, s": runs[0].result["train_seconds"],
            "tails": count_states(run.result["state"] for run in runs),
            "head alone": mean_score(heads[name][: len(runs)]),
            "fine-tuned": mean_score(runs),
        }
    return pd.DataFrame(rows).T


def checks_table(checks):
    """List the networks with random weights, which only show that the code runs; `checks`: dict of name to [Run]."""
    columns = {"params": "parameters", "epochs": "epochs", "validation_macro_f1": "validation macro F1"}
    rows = {name: {title: run.result[key] for key, title in columns.items()} for name, [run] in checks.items()}
    return pd.DataFrame(rows).T.astype({"parameters": int, "epochs": int})


def score(run):
    """Return a run's macro F1 on the fold that it held out; NaN if the run diverged."""
    return float("nan") if run.result["diverged"] else run.result["validation_macro_f1"]


def mean_score(runs):
    """Average the macro F1 of the repeats, each on the fold that it held out; NaN if a repeat diverged."""
    return float(np.mean([*map(score, runs)]))


def higher(better, worse, models):
    """Collect the evidence on whether `better` scores higher than `worse`, or say why they cannot be compared.

    Parameters
    ----------
    better, worse : str
        Labels of two networks, such as "FinalModel", "VGG16" or "VGG16, fine-tuned".
    models : dict of label to list of Run, for FinalModel and the networks with ImageNet weights

    Returns
    -------
    dict, see `claims.evidence` and `claims.not_tested`
    """
    for label in (better, worse):
        if label not in models:
            return not_tested(f"{label.split(',')[0]} was not trained with ImageNet weights")[0]
    kind = {"measure": "macro F1 of backbones", "margin": 0.0}  # a claim about an order has no margin
    return evidence(f"{better} minus {worse}", "higher", **pairs(models[better], models[worse], score), **kind)


def differences_table(comparisons, folds):
    """Average the score differences of each comparison over the pairs that converged, with 95 % intervals.

    Parameters
    ----------
    comparisons : list of dict from `higher`; networks that could not be compared are skipped
    folds : int, the number of folds of the split

    Returns
    -------
    DataFrame, one row per comparison, indexed by text such as "ResNet50 minus VGG16"
        The columns are difference (float), low and high (float, the ends of the interval; NaN with fewer than two
        pairs), pairs (int) and reason (str, why the pairs are no evidence, or "").
    """
    made = {row["what"]: row for row in comparisons if "differences" in row}
    several = {what: row["differences"] for what, row in made.items() if len(row["differences"]) > 1}
    compared = compare(several, folds) if several else {}
    rows = {}
    for what, row in made.items():
        values = row["differences"]
        low, high = (compared[what].low, compared[what].high) if what in compared else (np.nan, np.nan)
        mean = np.mean(values) if values else np.nan
        rows[what] = [mean, low, high, len(values), row["reason"] or ""]
    return pd.DataFrame.from_dict(rows, orient="index", columns=["difference", "low", "high", "pairs", "reason"])


def difference_text(row):
    """Describe a row of `differences_table`: "+0.031 over 3 pairs that converged (95 % interval +0.010 to +0.052)"."""
    if np.isnan(row["difference"]):
        return f"not measured ({row['reason']})"
    if np.isnan(row["low"]):
        return f"{row['difference']:+.3f} (no interval: {row['reason']})"
    over = f"over {row['pairs']} pairs that converged"
    return f"{row['difference']:+.3f} {over} (95 % interval {row['low']:+.3f} to {row['high']:+.3f})"
