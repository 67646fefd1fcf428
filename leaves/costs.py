"""The costs of models: parameters, seconds of training and milliseconds per photo; what several share counts once."""

from leaves.evaluation import MIRRORS, transfer_of

COSTS = ("params", "trainable_params", "train_seconds", "ms_per_image")


def cost_parts(run, milliseconds, head=None):
    """The costs of one model, by the parts that several models may share.

    Parameters
    ----------
    run : Run
    milliseconds : dict of "whole" and, for a network on a backbone, "front", to float
    head : Run, optional
        The transfer learning that a fine-tuned network goes on from.

    Returns
    -------
    dict of the part's name to a dict with keys of `COSTS`
    """
    result = run.result
    of_run = {key: result[key] for key in COSTS if key in result} | {"ms_per_image": milliseconds["whole"]}
    if "seconds_before" not in result:  # a network that learns from pixels, and perhaps from a teacher
        of_run["train_seconds"] += result.get("teacher_seconds", 0)
        return {run.folder.name: of_run}
    transfer = head or run
    front = transfer.result["parts"]["front"]
    frozen = {"params": front, "ms_per_image": milliseconds["front"]}
    frozen["train_seconds"] = transfer.result["seconds_before"]
    of_run |= {"params": of_run["params"] - front, "ms_per_image": milliseconds["whole"] - milliseconds["front"]}
    parts = {f"{run.spec['backbone']}, frozen": frozen, run.folder.name: of_run}
    if head:
        parts[f"{head.folder.name}, training"] = {"train_seconds": head.result["train_seconds"]}
    else:  # the same name, whether this head or a network that was fine-tuned from it brings its seconds
        parts[f"{run.folder.name}, training"] = {"train_seconds": of_run.pop("train_seconds")}
    return parts


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
    parts = {label: cost_parts(run, times[label], transfer_of(models, run)) for label, run in models.items()}
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
