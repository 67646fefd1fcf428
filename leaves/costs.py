"""The costs of models: parameters, seconds of training and milliseconds per photo; what several share counts once."""

from leaves.evaluation import MIRRORS, transfer_of

COSTS = ("params", "trainable_params", "train_seconds", "ms_per_image")


def seconds_parts(run, head=None):
    """The seconds of one training, of the features it read and of the head it goes on from, by shareable names."""
    parts = {f"{run.folder.name}, training": {"train_seconds": run.result["train_seconds"]}}
    if "seconds_before" in run.result:  # of a tail they count its head's training too
        parts[f"{run.name}, features"] = {"train_seconds": (head or run).result["seconds_before"]}
    return parts | (seconds_parts(head) if head else {})


def cost_parts(run, milliseconds, head=None, teacher=None):
    """The costs of one model, by the parts that several models may share.

    Parameters
    ----------
    run : Run
    milliseconds : dict of "whole" and, for a network on a backbone, "front", to float
    head : Run, optional
        The transfer learning that a fine-tuned network goes on from.
    teacher : dict of the part's name to dict, optional
        What the training of a distilled network needs besides, see `seconds_parts`.

    Returns
    -------
    dict of the part's name to a dict with keys of `COSTS`
    """
    params, ms = run.result["params"], milliseconds["whole"]
    own = {"params": params, "trainable_params": run.result["trainable_params"], "ms_per_image": ms}
    parts = {run.folder.name: own, **seconds_parts(run, head), **(teacher or {})}
    if "seconds_before" in run.result:
        front = {"params": (head or run).result["parts"]["front"]}
        shared = {f"{run.spec['backbone']}, weights": front}
        if "front" in milliseconds:  # two networks with photos of one size share its time too
            shared[f"{run.spec['backbone']}, pass"] = {"ms_per_image": milliseconds["front"]}
        for part in shared.values():
            own |= {key: own[key] - value for key, value in part.items()}
        parts |= shared
    return parts


def teacher_parts(models, run):
    """The seconds that a distilled network's teacher took: its parts if it is one of `models`, else their sum."""
    if "teacher_seconds" not in run.result:
        return {}
    folder = run.spec["teacher"]["run"].split()[0]
    for model in models.values():
        if model.folder.name == folder:
            return seconds_parts(model, transfer_of(models, model))
    return {f"{folder}, teacher": {"train_seconds": run.result["teacher_seconds"]}}


def total_cost(*models):
    """The costs of several models together, each shared part counted once: dict with the keys of `COSTS`.

    Parameters
    ----------
    models : dicts from `cost_parts`
    """
    parts = {name: part for model in models for name, part in model.items()}
    return {key: sum(part.get(key, 0) for part in parts.values()) for key in COSTS}


def cost_rows(models, times, ensembles):
    """Name, size and costs of every model and ensemble: dict of label to a dict with some of `SCORE_COLUMNS`.

    Parameters
    ----------
    times : dict of label to dict, from `answer_test_subset`
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
        kinds = {models[member].result["initial_weights"] for member in members}
        rows[label] = {"model": label, "chapter": 6, "epochs": None, "initial_weights": min(kinds)}  # imagenet first
        rows[label] |= total_cost(*(parts[member] for member in members))
    rows["Test-time augmentation"]["ms_per_image"] *= len(MIRRORS)
    return rows
