"""Describe and prepare the training of FinalModel (distilled), a small network that learns from a large one.

The small network has the five blocks of FinalModel. Its teacher, the large network, is from chapter 4 or 5. The recipe
combines known steps: batch normalisation before each activation (Ioffe and Szegedy 2015), AdamW (Loshchilov and Hutter
2019) with a warm-up and a cosine schedule (Loshchilov and Hutter 2017), oversampling of rare classes, augmentation by
flips and quarter turns, and labels that are mixed with the teacher's softened probabilities (Hinton et al. 2015).
Quarter turns do not interpolate pixels. Other rotations blur a small photo, and a network that learns from blurred
photos fails on sharp ones.
"""

import math

from leaves import places
from leaves.backbones import trainable_tail
from leaves.batches import QUARTER_TURNS, rows_of_epoch
from leaves.cache import computed_once
from leaves.custom_cnn import cnn_spec, prepare
from leaves.dataset import DEVELOPMENT, hold_out
from leaves.evaluation import predict_all
from leaves.features import frozen_outputs
from leaves.runs import folder_named, read_run, repeat
from leaves.scoring import tempered
from leaves.training import batch_function

import numpy as np
import pandas as pd

NAME, BALANCE = "FinalModel (distilled)", "sqrt_oversample"
AUGMENTATION = {"flip": True, "rotation": QUARTER_TURNS, "shift": 0, "zoom": 0}  # a leaf may lie in any direction
PEAK_RATE, WARM_UP, WEIGHT_DECAY = 0.004, 0.1, 0.05  # the warm-up is a share of all steps
# The temperature softens the teacher's probabilities; the share is the weight of these probabilities in the target.
TEACHER = {"temperature": 4.0, "share": 0.2}


def distilled_layers(classes, filters):
    """List the layers of the small network, which has no more parameters than FinalModel with the same filters.

    Parameters
    ----------
    classes : int
    filters : list of int, one for each block

    Returns
    -------
    list of [class name, config], see `custom_cnn.build_model`
    """
    weights = {"kernel_initializer": "he_normal"}
    layers = [["Rescaling", {"scale": 1 / 255, "offset": -0.5}]]
    for count in filters:
        convolution = {"filters": count, "kernel_size": 3, "padding": "same", "use_bias": False, **weights}
        layers += [["Conv2D", convolution], ["MaxPooling2D", {"pool_size": 2}]]
        layers += [["BatchNormalization", {"momentum": 0.9}], ["LeakyReLU", {"negative_slope": 0.3}]]
    # For each filter, batch normalisation has three more parameters than the bias that it replaces. So the dense layer
    # gets fewer units.
    units = 512 - math.ceil(3 * sum(filters) / (filters[-1] + 1 + classes))
    layers += [["GlobalAveragePooling2D", {}], ["Dense", {"units": units, "activation": "relu", **weights}]]
    return [*layers, ["Dense", {"units": classes, "activation": "softmax"}]]


def best_teacher(candidates):
    """Return the name of the network with the best macro F1 on held-out photos; None if `candidates` is empty.

    The function compares the networks by their mean macro F1 over the repeats.

    Parameters
    ----------
    candidates : dict of name to list of Run
        The repeats of each network, which is a head on a frozen backbone or a fine-tuned network.
    """

    def mean(name):
        return np.mean([run.result["validation_macro_f1"] or 0 for run in candidates[name]])

    return max(candidates, key=mean, default=None)


def distilled_specs(split, final, teachers, epochs, repeats):
    """List the specs of the small network, one per repeat, with FinalModel's image size, filters, precision and seeds.

    Parameters
    ----------
    split : DataFrame, see `dataset.load_split`
    final : Run, the first repeat of FinalModel
    teachers : list of Run, or None
        The repeats of the teacher. (The teacher is a head on a frozen backbone, or a fine-tuned network.) If None, the
        small network learns from the labels alone.
    epochs : int
        The network is always trained for all these epochs, because the learning rate falls to 0 at the last step.
    repeats : int

    Returns
    -------
    list of dict, see `runs.training_spec`
    """
    classes, size = len(split.attrs["classes"]), final.spec["image_size"]
    filters = [config["filters"] for kind, config in final.spec["layers"] if kind == "Conv2D"]
    choices = {"layers": distilled_layers(classes, filters), "augmentation": AUGMENTATION, "patience": None}
    choices |= {"balance": BALANCE, "precision": final.spec["precision"]}
    choices |= {"label_smoothing": 0.0 if teachers else 0.1}
    specs = []
    for number in range(repeats):
        of_repeat = repeat(number, final.spec["seed"], split)
        optimizer = {"class_name": "AdamW", "config": one_cycle(split, of_repeat["fold"], epochs)}
        spec = cnn_spec("05", NAME, split, size, epochs, optimizer=optimizer, **of_repeat, **choices)
        if teachers:
            spec["teacher"] = TEACHER | {"run": teachers[number].identity}
        specs.append(spec)
    return specs


def one_cycle(split, fold, epochs):
    """Return AdamW's config: the learning rate rises in the first tenth of all steps, then falls to 0 like a cosine."""
    train = hold_out(split, fold)
    labels = np.searchsorted(split.attrs["classes"], train.loc[train["split"] == "train", "label"])
    steps = epochs * math.ceil(len(rows_of_epoch(labels, BALANCE)) / 32)
    warm = max(1, round(WARM_UP * steps))
    schedule = {"initial_learning_rate": 0.0, "warmup_target": PEAK_RATE, "warmup_steps": warm}
    rate = {"class_name": "CosineDecay", "config": schedule | {"decay_steps": max(1, steps - warm)}}
    rate["module"] = "keras.optimizers.schedules"
    return {"learning_rate": rate, "weight_decay": WEIGHT_DECAY, "beta_2": 0.99}


def teacher_answers(teacher, split):
    """Return a teacher's probabilities for photos outside the test subset, averaged over each photo's stored views.

    The stored views of a photo are the unchanged photo and its augmented versions.

    Parameters
    ----------
    teacher : Run of a head on a frozen backbone, or of a fine-tuned network

    Returns
    -------
    array of float32, shape (n, classes), the photos in the order of the split
    """

    def compute():
        network, outputs_of = teacher.load_model(), teacher
        if "starts_from" in teacher.spec:  # fine-tuned: it learnt from the outputs that were stored for its head
            outputs_of = read_run(folder_named(teacher.spec["starts_from"].split()[0]))
        parts = network.get_layer("front"), network.get_layer("last_block")
        outputs = frozen_outputs(outputs_of.spec, split, DEVELOPMENT, lambda: parts)
        is_tail = "starts_from" in teacher.spec
        values = outputs.at_cut if is_tail else outputs.features
        learnt = trainable_tail(network) if is_tail else network.get_layer("head")
        answers = predict_all(batch_function(learnt), values)
        return {"probabilities": answers.reshape(-1, len(outputs.labels), answers.shape[1]).mean(axis=0)}

    key = f"{split.attrs['hash']} {teacher.result['hashes']['model.keras']}"
    return computed_once(teacher.folder / "teacher.npz", key, compute)["probabilities"]


def prepare_distilled(spec, split):
    """Prepare the `Training` for a spec of `distilled_specs`; if the spec names a teacher, the targets are soft.

    Soft targets are one-hot labels mixed with the teacher's probabilities, which the temperature in `TEACHER` softens.
    """
    training = prepare(spec, split)
    if "teacher" not in spec:
        return training
    teacher = read_run(places.RUNS / spec["teacher"]["run"].split()[0])
    answers = teacher_answers(teacher, split)
    trained_on = split.loc[split["split"] != "test", "fold"].to_numpy() != spec["fold"]
    soft = tempered(answers[trained_on], spec["teacher"]["temperature"]).astype(np.float32)
    training.summary["teacher_seconds"] = teacher.result["seconds_before"] + teacher.result["train_seconds"]
    share, labels = spec["teacher"]["share"], np.eye(soft.shape[1], dtype=np.float32)[training.train[1]]
    training.targets = share * soft + (1 - share) * labels
    return training


def size_table(models):
    """Tabulate each network's number of parameters, mean training seconds and mean held-out macro F1: DataFrame.

    Parameters
    ----------
    models : dict of name to list of Run, the repeats of each network
    """
    rows = {
        name: {
            "parameters": repeats[0].result["params"],
            "seconds": np.mean([run.result["train_seconds"] for run in repeats]),
            "macro F1": np.mean([run.result["validation_macro_f1"] or 0 for run in repeats]),
        }
        for name, repeats in models.items()
    }
    return pd.DataFrame(rows).T.astype({"parameters": int})


def finding(table):
    """Write a sentence that compares the small network with FinalModel in size and score, from their `size_table`."""
    small, final = table.loc[NAME], table.loc["FinalModel"]
    return (
        f"{NAME} has {small['parameters']:,.0f} parameters and a mean macro F1 of {small['macro F1']:.3f} on the "
        f"held-out photos; FinalModel has {final['parameters']:,.0f} parameters and a mean macro F1 of "
        f"{final['macro F1']:.3f}."
    )
