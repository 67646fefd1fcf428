"""Train a classifier that relies less on the background: a pretrained network that also learns from other backgrounds.

The background of a PlantVillage photo reveals the species (Noyan 2022), so a network may learn the background instead
of the leaf. The network of this module sees every leaf both in the unchanged photo and on other backgrounds, as in Gui
et al. (2021, FPDR).

Fine-tuning on one collection of photos can distort features that work on other collections (Kumar et al. 2022). So
first only a classification head is trained, on the frozen backbone. If requested, the backbone's last block and the
head are then fine-tuned at a low learning rate. In that case, validation chooses among three networks: the one before
fine-tuning, the one after it, and one with the mean of the weights of both (Wortsman et al. 2022, WiSE-FT).
"""

import itertools
import shutil
from pathlib import Path

from leaves import backgrounds, evaluation, places, scoring
from leaves.backbones import trainable_tail
from leaves.cache import code_hash, computed_once
from leaves.dataset import shrunk_side
from leaves.evaluation import predict_all, subset_truth
from leaves.features import frozen_outputs
from leaves.files import InputError, write_json
from leaves.locks import locked
from leaves.runs import NUMBERS, WEIGHTS, find_run, repeat, run_folder, spec_hash, training_spec, write_run
from leaves.training import batch_function, prepare_training
from leaves.transfer import loader, mean_score, prepare_tail, tail_spec

import pandas as pd

CODE = code_hash(Path(__file__), backgrounds.CODE, evaluation.CODE)
NAME = "{} (any background)"
WINDOW = 0.7  # side of a window as a share of the picture's side; the head classifies several windows of a picture
PENALTIES = 0.001, 0.003  # weight decay: factors of the squared weights in the loss; validation chooses one of them
PASSES, BATCH = 20, 128  # passes through all views of the photos, and photos per batch
PEAK_RATE = 0.006  # Adam's learning rate at the start; it falls to 0 along a cosine
TAIL_RATE = 0.0001  # Adam's learning rate at the start of fine-tuning
JUDGE = 1_000_000  # added to the seed when a network is scored, to draw backgrounds that no training has seen


def head_layers(classes, penalty):
    """List the layers of a head that classifies each window of a picture and averages the predictions for all windows.

    `backbones.window_means` computes the features of each window. The head standardises these features with batch
    normalisation, and then classifies each window.

    Parameters
    ----------
    classes : int
    penalty : float
        The weight decay: the factor of the squared weights in the loss.

    Returns
    -------
    list of [class name, config], see `custom_cnn.build_model`
    """
    regularizer = {"class_name": "L2", "config": {"l2": penalty}}
    return [
        ["BatchNormalization", {"center": False, "scale": False, "momentum": 0.9}],
        ["Dropout", {"rate": 0.3}],
        ["Dense", {"units": classes, "activation": "softmax", "kernel_regularizer": regularizer}],
        ["GlobalAveragePooling1D", {}],
    ]


def best_backbone(heads):
    """Return the name of the backbone on which the heads have the highest mean macro F1 on their held-out photos.

    The mean is over the repeats, see `mean_score`.

    Parameters
    ----------
    heads : dict of backbone to list of Run
        The heads on each backbone, one per repeat. All backbones should have ImageNet weights; this is not checked.
    """
    return max(heads, key=lambda name: mean_score(heads[name]))


def candidate_specs(head, split, sizes, views):
    """List the specs of all candidates: one for each combination of image size, number of views and weight decay.

    In each view of the photos, the leaves lie on other backgrounds.

    Parameters
    ----------
    head : Run, a head that chapter 4 trained on the chosen backbone
    split : DataFrame, see `dataset.load_split`
    sizes : list of float
        Image sizes, as multiples of the photos' side, see `dataset.shrunk_side`.
    views : list of int
        Numbers of views. Each candidate also learns from the unchanged photos.

    Returns
    -------
    list of dict, see `runs.training_spec`
    """
    side, seed, backbone = shrunk_side(split, 1), head.spec["views"]["seed"], head.spec["backbone"]
    specs = []
    for size, count, penalty in itertools.product(sizes, views, PENALTIES):
        epochs = PASSES * (1 + count)
        fixed = {"balance": "class_weight", "patience": None, "batch_size": BATCH, "windows": WINDOW}
        fixed |= {"layers": head_layers(len(split.attrs["classes"]), penalty)}
        fixed |= {"image_size": max(32, round(size * side)), **repeat(0, seed, split)}
        spec = training_spec("05", NAME.format(backbone), split, epochs, **fixed)
        spec |= {key: head.spec[key] for key in ("backbone", "weights", "precision")}
        spec |= {"views": {"backgrounds": "replaced", "seed": seed, "count": count}}
        specs.append(spec | {"optimizer": falling_rate(spec, split)})
    return specs


def falling_rate(spec, split, peak=PEAK_RATE):
    """Return the Keras config (dict) of an Adam optimizer with a falling learning rate.

    The learning rate falls along a cosine, from `peak` to 0 at the last step of the training that `spec` describes.
    """
    photos = ((split["split"] != "test") & (split["fold"] != spec["fold"])).sum()
    steps = -(-int(photos) // spec["batch_size"])
    rate = {"module": "keras.optimizers.schedules", "class_name": "CosineDecay"}
    rate["config"] = {"initial_learning_rate": peak, "decay_steps": spec["epochs"] * steps}
    return {"class_name": "Adam", "config": {"learning_rate": rate}}


def repeats_of(chosen, split, repeats):
    """List the specs of all repeats of a candidate: list of dict; `chosen` is the Run of the first repeat."""
    specs = [chosen.spec | repeat(number, chosen.spec["seed"], split) for number in range(repeats)]
    return [spec | {"optimizer": falling_rate(spec, split)} for spec in specs]


def check_weights(spec, origins):
    """Raise InputError if the current weights of a head's backbone are not those in the spec that chapter 4 trained."""
    name = spec["backbone"]
    if origins[name]["hash"] != spec["weights"]["hash"]:
        raise InputError(f"Chapter 4 used other weights of {name}: use the same weights here, or run chapter 4 again.")


def on_other_backgrounds(run, split, origins):
    """Compute a network's macro F1 on the validation photos after their backgrounds are replaced: float.

    No training has seen the new backgrounds.

    Parameters
    ----------
    run : Run, trained from a spec of `candidate_specs` or `tail_specs`, or returned by `mean_of_both`
    origins : dict of backbone to the origin of its weights, see `backbones.find_weights`
    """
    views = run.spec["views"]
    judge = run.spec | {"views": views | {"seed": views["seed"] + JUDGE, "count": 1}}

    def compute():
        outputs, network = frozen_outputs(judge, split, "validation", loader(run.spec, origins)), run.load_model()
        if "cut" in run.spec:
            stored, learnt = outputs.at_cut, trainable_tail(network)
        else:
            stored, learnt = outputs.features, network.get_layer("head")
        return {"probabilities": predict_all(batch_function(learnt), stored.arrays[1])}

    key = f"{CODE} {split.attrs['hash']} {run.result['hashes']['model.keras']}"
    predicted = computed_once(run.folder / "replaced.npz", key, compute)["probabilities"].argmax(axis=1)
    return scoring.macro_f1(subset_truth(split, "validation"), predicted)


def candidates_table(runs, split, origins):
    """List the two validation scores of each candidate: DataFrame, one row per run, in the order of `runs`.

    The columns are pixels (int, the image size), views (int, the number of views with other backgrounds), penalty
    (float), and two columns with macro F1: "unchanged" for the unchanged photos, and "other backgrounds".
    """
    rows = []
    for run in runs:
        penalty = run.spec["layers"][2][1]["kernel_regularizer"]["config"]["l2"]
        row = {"pixels": run.spec["image_size"], "views": run.spec["views"]["count"], "penalty": penalty}
        scores = {"unchanged": run.result["validation_macro_f1"]}
        rows.append(row | scores | {"other backgrounds": on_other_backgrounds(run, split, origins)})
    return pd.DataFrame(rows)


# ---------------------------------------------------------------- fine-tuning


def tail_specs(heads, split, passes):
    """List the specs for fine-tuning tails (a tail is a head together with the last block of its backbone).

    A tail learns from the same views as its head. It is trained for all epochs, without early stopping.

    Parameters
    ----------
    heads : list of Run, trained from specs of `candidate_specs` or `repeats_of`
    passes : int
        Passes through the photos and their views; with 0, the list is empty.

    Returns
    -------
    list of dict, see `transfer.tail_spec`
    """
    specs = []
    for head in heads if passes else []:
        epochs = passes * (1 + head.spec["views"]["count"])
        spec = tail_spec(head, split, epochs, TAIL_RATE, patience=None, balance="class_weight")
        specs.append(spec | {"name": head.name, "optimizer": falling_rate(spec, split, TAIL_RATE)})
    return specs


def mean_specs(tails):
    """List the spec of `mean_of_both` for each tail: list of dict."""
    return [tail.spec | {"mean_with_start": tail.identity} for tail in tails]


def mean_of_both(tail, split):
    """Average a network's weights before and after fine-tuning, and return the new network as a Run.

    Nothing is trained. If an earlier call has written this Run, it is read from disk. If the tail has no weights, there
    must be such a Run, or its evidence in results/runs.

    Parameters
    ----------
    tail : Run, trained from a spec of `tail_specs`
        The new Run gets the history and the training seconds of this tail.
    """
    [spec] = mean_specs([tail])
    needs = WEIGHTS if (tail.folder / WEIGHTS).exists() else NUMBERS
    with locked(places.RUNS / "locks" / spec_hash(spec), float("inf")):
        if not find_run(spec, needs):
            training = prepare_training(tail.spec, split, prepare_tail)
            pairs = zip(training.whole.get_weights(), tail.load_model().get_weights(), strict=True)
            training.whole.set_weights([(frozen + tuned) / 2 for frozen, tuned in pairs])
            folder = run_folder(spec)
            shutil.rmtree(folder, ignore_errors=True)  # the folder may hold the predictions of an older network
            write_json(folder / "spec.json", spec)
            write_run(folder, spec, training, tail.history, tail.result["train_seconds"])
    return find_run(spec, needs)


def ways_on(heads, tails, split):
    """Collect the networks that validation chooses from: dict of name to list of Run, one per repeat.

    The heads have the name "frozen". If tails were trained, the tails have the name "fine-tuned", and the networks
    from `mean_of_both` have the name "mean of both".

    Parameters
    ----------
    heads, tails : list of Run
        The repeats of the head on the frozen backbone, and the networks fine-tuned from these heads.
    """
    tuned = {"mean of both": [mean_of_both(tail, split) for tail in tails], "fine-tuned": tails} if tails else {}
    return {"frozen": heads} | tuned


def ways_table(networks, split, origins):
    """List the macro F1 of each network of `ways_on`: DataFrame, one row per network.

    The columns "unchanged" and "other backgrounds" are two scores of repeat 0: one on unchanged photos, and one on
    photos with other backgrounds, see `candidates_table`. The column "unchanged, all repeats" is the mean over the
    repeats, each scored on the unchanged photos that it held out.
    """
    rows = {}
    for name, runs in networks.items():
        rows[name] = {"unchanged": runs[0].result["validation_macro_f1"]}
        rows[name] |= {"other backgrounds": on_other_backgrounds(runs[0], split, origins)}
        rows[name] |= {"unchanged, all repeats": mean_score(runs)}
    return pd.DataFrame.from_dict(rows, orient="index")


def kept_in_words(table):
    """Say which network of a `ways_table` is kept, and give the network's two scores on validation: str.

    The network with the highest macro F1 on other backgrounds is kept. Both scores are the macro F1 of repeat 0: one on
    the validation photos with other backgrounds, one on the unchanged validation photos.
    """
    name = table["other backgrounds"].idxmax()
    row = table.loc[name]
    text = f'Validation chooses "{name}"' if len(table) > 1 else "Only the network with a frozen backbone was trained"
    scores = f"{row['other backgrounds']:.3f} on other backgrounds and {row['unchanged']:.3f} on the unchanged photos"
    note = ", somewhat optimistic because these validation photos chose the network" if len(table) > 1 else ""
    return f"{text}. Macro F1 of repeat 0 on validation: {scores}{note}."
