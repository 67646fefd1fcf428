"""Add up the costs of models: parameters, training seconds and milliseconds per photo; shared costs count once."""

from leaves.evaluation import MIRRORS, transfer_of

COSTS = ("params", "trainable_params", "train_seconds", "ms_per_image")


def seconds_parts(run, head=None):
    """List the seconds of a training in parts: the training itself, the computation of features, the head's training.

    A part that several models share has the same name in the dicts of all these models. So `total_cost` counts it
    once.

    Parameters
    ----------
    run : Run
    head : Run, optional
        If `run` is a fine-tuned network, the head from which fine-tuning started.

    Returns
    -------
    dict of str to {"train_seconds": float}
        The keys are "<a run's folder>, training", one for `run` and one for `head`, and "<name of `run`>, features"
        for the backbone's features, if there is a backbone.
    """
    parts = {f"{run.folder.name}, training": {"train_seconds": run.result["train_seconds"]}}
    if "seconds_before" in run.result:  # for a tail, this includes the head's training: use the head's number
        parts[f"{run.name}, features"] = {"train_seconds": (head or run).result["seconds_before"]}
    return parts | (seconds_parts(head) if head else {})


def cost_parts(run, milliseconds, head=None, teacher=None):
    """List the costs of one model, divided into parts; several models may share a part.

    Parameters
    ----------
    run : Run
    milliseconds : dict of str to float
        Milliseconds per photo: "whole" for the whole network and, if measured, "front" for its frozen layers.
    head : Run, optional
        If `run` is a fine-tuned network, the head from which fine-tuning started.
    teacher : dict from `teacher_parts`, optional
        The training seconds of the teacher, if the model is a distilled network.

    Returns
    -------
    dict of str to dict
        The keys name the parts: the model's own layers, the parts of `seconds_parts` and, if there is a backbone, its
        frozen layers. The dict of a part has the keys of `COSTS` to which the part contributes.
    """
    params, ms = run.result["params"], milliseconds["whole"]
    own = {"params": params, "trainable_params": run.result["trainable_params"], "ms_per_image": ms}
    parts = {run.folder.name: own, **seconds_parts(run, head), **(teacher or {})}
    if "seconds_before" in run.result:
        front = {"params": (head or run).result["parts"]["front"]}
        shared = {f"{run.spec['backbone']}, weights": front}
        if "front" in milliseconds:  # a head and its tail share the pass through the frozen layers
            shared[f"{run.spec['backbone']}, pass"] = {"ms_per_image": milliseconds["front"]}
        for part in shared.values():
            own |= {key: own[key] - value for key, value in part.items()}
        parts |= shared
    return parts


def teacher_parts(models, run):
    """Return the training seconds of a distilled network's teacher, as a dict like that of `seconds_parts`.

    `models` is a dict of label to Run. If the teacher is one of these models, its seconds are divided into parts;
    otherwise they are a single part. If `run` has no teacher, an empty dict is returned.
    """
    if "teacher_seconds" not in run.result:
        return {}
    folder = run.spec["teacher"]["run"].split()[0]
    for model in models.values():
        if model.folder.name == folder:
            return seconds_parts(model, transfer_of(models, model))
    return {f"{folder}, teacher": {"train_seconds": run.result["teacher_seconds"]}}


def total_cost(*models):
    """Add the costs of several models, counting each shared part once; return a dict with the keys in `COSTS`.

    Parameters
    ----------
    models : dicts from `cost_parts`
    """
    parts = {name: part for model in models for name, part in model.items()}
    return {key: sum(part.get(key, 0) for part in parts.values()) for key in COSTS}


def cost_rows(models, times, ensembles):
    """List name, size and costs of each model and ensemble: dict of label to dict with keys from `SCORE_COLUMNS`.

    Parameters
    ----------
    models : dict of label to Run
    times : dict of label to dict of milliseconds per photo ("whole", perhaps "front"), see `answer_test_subset`
    ensembles : dict of an ensemble's label to the labels of its members, which are keys of `models`
    """
    parts = {
        label: cost_parts(run, times[label], transfer_of(models, run), teacher_parts(models, run))
        for label, run in models.items()
    }
    rows = {}
    for label, run in models.items():
        rows[label] = {"model": run.name, "chapter": int(run.spec["chapter"]), "epochs": run.result["epochs"]}
        rows[label] |= {"initial_weights": run.result["initial_weights"]} | total_cost(parts[label])
    for label, members in ensembles.items():
        # If the members' initial weights differ, the row names the first in alphabetical order: imagenet, none, random.
        kinds = {models[member].result["initial_weights"] for member in members}
        rows[label] = {"model": label, "chapter": 6, "epochs": None, "initial_weights": min(kinds)}
        rows[label] |= total_cost(*(parts[member] for member in members))
    rows["Test-time augmentation"]["ms_per_image"] *= len(MIRRORS)
    return rows
