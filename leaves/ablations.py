"""Train variants of the original study's FinalModel; compare each with FinalModel at the same seed and fold."""

import functools

from leaves import claims, scoring
from leaves.batches import rows_of_epoch
from leaves.custom_cnn import cnn_specs, unlike
from leaves.dataset import hold_out, load_images
from leaves.dead_units import DEAD_FILTERS, dead_filters
from leaves.files import InputError
from leaves.runs import NUMBERS

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

# A variant belongs to the group of the first setting that it changes. The claims about the group are in brackets.
GROUPS = {
    "image_size": "resolution (C1)",
    "batch_size": "batch size (C2)",
    "augmentation": "augmentation (C3)",
    "mixup": "augmentation (C3)",
    "activation": "activation (C4, C6)",
    "initializer": "initialiser (C5)",
    "l2": "weight decay (C7)",
    "batch_normalization": "normalisation (C8)",
    "reduction": "reduction (C9)",
    "dropout": "dropout (C10)",
    "optimizer": "optimiser (C11)",
    "label_smoothing": "extras",
    "balance": "extras",
}
LEAST_NETWORKS = 8  # needed in each fold for C12: with fewer networks, a rank correlation would be mostly chance
FINAL, MORE_DATA = "FinalModel", "more data"  # "more data" is the name for the runs of `refit.train_refits`
SLOW_UPDATE = 8  # a training with batches of one photo takes this many times as long as with FinalModel's batches
HIGH_ACCURACY, MISSED = 0.8, 0.5  # an accuracy of 0.8 or more is high; a class with a recall below 0.5 is missed
FIGURES = {"macro F1": "03-differences", "gap": "03-gaps", "dead units": "03-dead-units"}  # the figure of each measure
INTERVAL = ["difference", "low", "high"]


# ---------------------------------------------------------------- the experiment


def cosine_schedule(split, epochs, balance, batch_size):
    """Return the Keras config of a learning rate that falls from 0.001 to 0 along a cosine, over all training steps.

    Parameters
    ----------
    split : DataFrame, see `dataset.load_split`
    epochs : int
    balance, batch_size : str and int, see `runs.training_spec`

    Returns
    -------
    dict with the keys module, class_name and config, from which Keras makes the schedule
    """
    labels = np.searchsorted(split.attrs["classes"], split.loc[split["split"] == "train", "label"])
    steps = epochs * -(-len(rows_of_epoch(labels, balance)) // batch_size)
    config = {"initial_learning_rate": 0.001, "decay_steps": steps}
    return {"module": "keras.optimizers.schedules", "class_name": "CosineDecay", "config": config}


def too_small(size, filters):
    """Return the names of variants that are impossible, or identical to FinalModel, at `size` pixels: set of str."""
    smallest = 2 ** len(filters)  # an image of this side has only one pixel left after the last pooling
    if size >= 2 * smallest:
        return set()
    return {"half the side", "flatten"}  # if one pixel is left, flattening equals averaging


def chosen_variants(variants, own_variants, chosen, impossible):
    """Return the names of the variants to train: the chosen variants that are possible, then `own_variants`.

    Parameters
    ----------
    variants, own_variants : dict of name to changes (dict, see `custom_cnn.cnn_spec`)
        The variants of chapter 3, and the variants that you add. Your own variants are always trained.
    chosen : list of str, or "all"
        Names from `variants`, and optionally "more data"; "all" stands for all of these.
    impossible : set of str, see `too_small`; these variants are not trained

    Returns
    -------
    list of str, in the order of `variants`, "more data", `own_variants`

    Raises
    ------
    InputError
        When `chosen` has an unknown name, or `own_variants` has a name that this chapter uses.
    """
    known = [*variants, MORE_DATA]
    if repeated := {*own_variants} & {*known, FINAL}:
        raise InputError(f"own_variants has the name {repeated.pop()!r}, already used in this chapter: rename it.")
    names = known if chosen == "all" else list(chosen)
    for name in names:
        if name not in known:
            raise InputError(f"variants: {unlike('variant', name, known)}.")
    return [name for name in known if name in names and name not in impossible] + [*own_variants]


def group_variants(variants, names):
    """Divide the variants in `names` into the groups of `GROUPS`: dict of group to dict of name to changes.

    The first setting that a variant changes decides its group; if `GROUPS` lacks this setting, the group is "your own".
    """
    groups = {}
    for name, changes in variants.items():
        if name in names:
            group = GROUPS.get(next(iter(changes), ""), "your own")
            groups.setdefault(group, {})[name] = changes
    return groups


def variant_specs(groups, base, epochs, seed, repeats, claimed):
    """List all specs. FinalModel's are last: if chapter 2 runs at the same time, it may train them in the meantime.

    Parameters
    ----------
    groups : see `group_variants`
    base : dict
        Arguments of `custom_cnn.cnn_specs` for all variants: split, size, and the settings of
        `custom_cnn.final_model_settings`. For a variant with its own list of `layers`, `filters` is ignored.
    epochs, seed, repeats : int
    claimed : set of str
        Names of the variants that a claim is about. The other variants get at most three repeats.

    Returns
    -------
    dict of name to list of specs, one per repeat
    """
    specs = {}
    for name, changes in (pair for variants in groups.values() for pair in variants.items()):
        kept = {key: value for key, value in base.items() if key != "filters" or "layers" not in changes}
        settings = {"epochs": epochs, "log_layers": False} | changes
        count = repeats if name in claimed else min(repeats, claims.LEAST_REPEATS)
        specs[name] = cnn_specs("03", name, seed=seed, repeats=count, **(kept | settings))
    specs[FINAL] = cnn_specs("03", FINAL, epochs=epochs, seed=seed, repeats=repeats, **base)
    return specs


def train_specs(train_all, specs, split, prepare, looked_into):
    """Train the specs of all variants and of FinalModel: dict of name to list of Run, one per repeat.

    Parameters
    ----------
    train_all, prepare : the functions `helpers.train_all` and `custom_cnn.prepare`
    specs : see `variant_specs`
    looked_into : collection of str
        Names of the networks that are checked for dead filters. Of the other networks, only the scores are read.
    """
    names = [name for name, of_name in specs.items() for _ in of_name]
    needs = [DEAD_FILTERS if name in looked_into else NUMBERS for name in names]
    finished = iter(train_all([spec for of_name in specs.values() for spec in of_name], split, prepare, needs))
    return {name: [next(finished) for _ in of_name] for name, of_name in specs.items()}


# ---------------------------------------------------------------- scores


def variant_trainings(runs, groups):
    """Tabulate the trainings of the variants and of FinalModel.

    Parameters
    ----------
    runs : dict of name to list of Run
    groups : see `group_variants`

    Returns
    -------
    DataFrame, one row per training: variant, group, fold, seed, state, parameters, epochs, best epoch, seconds, train
    and validation (macro F1, on the training and on the held-out photos) and gap (train minus validation)
    """
    group_of = {name: group for group, variants in groups.items() for name in variants}
    columns = {"state": "state", "params": "parameters", "epochs": "epochs", "best_epoch": "best epoch"}
    columns |= {"train_seconds": "seconds", "train_macro_f1": "train", "validation_macro_f1": "validation"}
    table = pd.DataFrame(
        {"variant": name, "group": group_of.get(name, ""), "fold": run.spec["fold"], "seed": run.spec["seed"]}
        | {column: run.result[key] for key, column in columns.items()}
        for name, repeats in runs.items()
        for run in repeats
    ).astype({"train": float, "validation": float})
    return table.assign(gap=table["train"] - table["validation"])


def score_functions(dead=None):
    """Return the score function of each measure: dict of measure to callable(Run) -> float.

    The measures are "macro F1" (validation) and "gap" (training minus validation macro F1). If the table `dead`, from
    `dead_filters_of`, has rows, there is a third measure: "dead units" (the share of dead filters).
    """
    scores = {
        "macro F1": lambda run: run.result["validation_macro_f1"],
        "gap": lambda run: run.result["train_macro_f1"] - run.result["validation_macro_f1"],
    }
    if dead is not None and len(dead):
        shares = dead.groupby("run")["dead"].mean()
        scores["dead units"] = lambda run: shares[run.folder.name]
    return scores


def differences_to_final(runs, folds):
    """Compute each variant's mean macro F1 minus FinalModel's, over the repeats in which both converged.

    Parameters
    ----------
    runs : dict of name to list of Run
    folds : int, the number of folds of the split

    Returns
    -------
    DataFrame, one row per variant: difference (the mean), low and high (its 95 % interval), all NaN if both
    converged in fewer than two repeats, and reason (None, or why this is no evidence, see `claims.missing_pairs`)
    """
    score = score_functions()["macro F1"]
    of_variant = {name: claims.pairs(own, runs[FINAL], score) for name, own in runs.items() if name != FINAL}
    enough = {name: pair["differences"] for name, pair in of_variant.items() if len(pair["differences"]) > 1}
    compared = claims.compare(enough, folds) if enough else {}
    rows = {
        name: {"reason": pair["reason"]}
        | ({key: getattr(compared[name], key) for key in INTERVAL} if name in compared else {})
        for name, pair in of_variant.items()
    }
    return pd.DataFrame.from_dict(rows, orient="index", columns=[*INTERVAL, "reason"])


def comparison_table(trainings, differences):
    """Tabulate the mean scores of every network, the states of its trainings and its difference from FinalModel.

    Parameters
    ----------
    trainings : DataFrame, see `variant_trainings`
    differences : DataFrame, see `differences_to_final`

    Returns
    -------
    DataFrame, one row per variant and one for FinalModel: group, trainings (number in each state), parameters, the
    means of best epoch, seconds, train, validation and gap (over the converged trainings, or over all if none
    converged), and the columns of `differences`
    """
    columns = {"parameters": "first", "best epoch": "mean", "seconds": "mean"}
    columns |= {"train": "mean", "validation": "mean", "gap": "mean"}
    converged = trainings["state"] == "converged"
    some = converged.groupby(trainings["variant"]).transform("any")
    table = trainings[converged | ~some].groupby(["variant", "group"], sort=False).agg(columns).reset_index("group")
    table.insert(1, "trainings", trainings.groupby("variant")["state"].agg(scoring.count_states))
    return table.join(differences).rename_axis(None)


def dead_filters_of(runs, split):
    """Find each network's dead filters: the filters with a constant output on all held-out photos of the network.

    Parameters
    ----------
    runs : dict of variant to list of Run
        Trainings with the state "diverged" or "did not train" are skipped.
    split : DataFrame, see `dataset.load_split`

    Returns
    -------
    DataFrame, one row per filter of each network: variant, run (name of its folder), block (int, from 1), dead (bool)
    """
    tables = [pd.DataFrame(columns=["variant", "run", "block", "dead"])]
    for variant, repeats in runs.items():
        for run in repeats:
            if run.result["diverged"]:
                continue
            table = pd.DataFrame(run.reading(DEAD_FILTERS, functools.partial(dead_filters_of_run, run, split)))
            if run.result["state"] != "did not train":
                tables.append(table.assign(variant=variant, run=run.folder.name))
    return pd.concat(tables[1:] or tables)


def dead_filters_of_run(run, split):
    """Find the dead filters of one network on its held-out photos: dict of two arrays, see `dead_filters`."""
    images, _ = load_images(hold_out(split, run.spec["fold"]), "validation", run.spec["image_size"])
    return {name: column.to_numpy() for name, column in dead_filters(run.load_model(), images).items()}


def accuracy_table(runs, split):
    """Compute the accuracy and macro F1 of every converged network on its held-out photos.

    Parameters
    ----------
    runs : dict of name to list of Run
    split : DataFrame, see `dataset.load_split`

    Returns
    -------
    DataFrame, one row per converged training: variant, fold, accuracy, macro F1 and missed (int: the number of classes
    with fewer than half of their photos classified correctly)
    """
    rows = []
    for name, repeats in runs.items():
        for run in (run for run in repeats if run.result["state"] == "converged"):
            held_out = split[(split["fold"] == run.spec["fold"])]
            truth = np.searchsorted(split.attrs["classes"], held_out["label"])
            predicted = run.validation_probabilities.argmax(axis=1)
            recalls = pd.Series(predicted == truth).groupby(truth).mean()
            row = {"variant": name, "fold": run.spec["fold"], "accuracy": (predicted == truth).mean()}
            rows.append(row | {"macro F1": scoring.macro_f1(truth, predicted), "missed": (recalls < MISSED).sum()})
    return pd.DataFrame(rows, columns=["variant", "fold", "accuracy", "macro F1", "missed"])


# ---------------------------------------------------------------- evidence


def claim_records(said, evidence, trained, scores, costs, untested=None):
    """Collect the evidence on the claims that compare variants with FinalModel in one measure.

    Parameters
    ----------
    said : dict of claim to str, each claim in the original study's words
    evidence : dict of claim to (measure, statement, list of variants)
        The statement, such as "higher", says how the variants differ from FinalModel; it is a key of `claims.CONFIRM`.
    trained : dict of name to list of Run
    scores : dict of measure to callable, see `score_functions`
    costs : dict of variant to str
        How long each variant that was not trained would take, see `training_costs`.
    untested : dict of claim to str, optional
        The claims that none of the trainings can test, each with the reason.

    Returns
    -------
    list of dict, one per claim, see `claims.judge`
    """
    records = []
    for claim, (measure, must_be, variants) in evidence.items():
        missing = [name for name in variants if name not in trained]
        if claim in (untested or {}):
            comparisons = claims.not_tested(untested[claim])
        elif missing:
            comparisons = claims.not_tested(f"not trained: {not_trained_text(costs, missing)}")
        else:
            # If `scores` lacks "dead units", no network learnt. Then no pair converged, so the lambda is never called.
            score = scores.get(measure, lambda run: np.nan)
            pairs = {name: claims.pairs(trained[name], trained[FINAL], score) for name in variants}
            comparisons = [
                claims.evidence(f"{measure}, {name} minus FinalModel", must_be, **pair, measure=measure)
                for name, pair in pairs.items()
            ]
        figure = FIGURES[measure] if any(len(row.get("differences", ())) > 1 for row in comparisons) else ""
        records.append({"claim": claim, "said": said[claim], "figure": figure, "comparisons": comparisons})
    return records


def accuracy_record(said, networks):
    """Collect the evidence on C12: do accuracy and macro F1 put a fold's networks in the same order (Spearman 1904)?

    Parameters
    ----------
    said : str, the claim in the original study's words
    networks : DataFrame, see `accuracy_table`

    Returns
    -------
    dict, see `claims.judge`
    """
    in_all = networks.groupby("variant")["fold"].transform("nunique") == networks["fold"].nunique()
    same, most = networks[in_all], networks[in_all]["variant"].nunique()  # so optional variants change no verdict
    enough = [rows for _, rows in same.groupby("fold") if len(rows) >= LEAST_NETWORKS]
    by_fold = [rows for rows in enough if (np.ptp(rows[["accuracy", "macro F1"]], axis=0) > 0).all()]
    ranks = [float(spearmanr(rows["accuracy"], rows["macro F1"]).statistic) for rows in by_fold]
    reason = (
        f"needs {LEAST_NETWORKS} networks with different scores that converged in every fold, in each of "
        f"{claims.LEAST_REPEATS} folds; number of folds that have them: {len(ranks)} (networks: {most})"
    )
    reason = None if len(ranks) >= claims.LEAST_REPEATS else reason
    what = f"rank correlation of accuracy and macro F1 {f'over {most} networks' if ranks else 'not computed'}"
    row = claims.evidence(what, "lower", ranks, reason, "rank correlation", 0.0, claims.ALIKE, unit="fold")
    accurate = networks[networks["accuracy"] >= HIGH_ACCURACY]
    note = (
        f"{(accurate['missed'] > 0).sum()} of {len(accurate)} trainings with an accuracy of {HIGH_ACCURACY} or more "
        "recognise fewer than half of the photos of some species"
    )
    return {"claim": "C12", "said": said, "figure": "", "comparisons": [row], "note": note if len(accurate) else ""}


def training_costs(variants, names, impossible, final_runs, base, epochs, repeats):
    """Estimate how long all repeats of each variant that was not trained would take.

    The time is FinalModel's, times the ratio of the pixels (variant to FinalModel), times the ratio of the epochs.
    Batches of one photo multiply it by `SLOW_UPDATE`. "more data" takes twice FinalModel's time: it trains twice.

    Parameters
    ----------
    variants : dict of name to changes
    names : list of str, the trained variants
    impossible : set of str, see `too_small`
    final_runs : list of Run, the repeats of FinalModel
    base, epochs, repeats : see `variant_specs`

    Returns
    -------
    dict of name to str, as in "would take about 3 min" or "cannot be trained at 16 pixels"
    """
    seconds = repeats * np.mean([run.result["train_seconds"] for run in final_runs])
    costs = {}
    for name, changes in ({MORE_DATA: {}} | variants).items():
        if name not in names:
            pixels = (changes.get("image_size", base["size"]) / base["size"]) ** 2
            updates = SLOW_UPDATE if changes.get("batch_size") == 1 else 1
            factor = 2 if name == MORE_DATA else pixels * updates * changes.get("epochs", epochs) / epochs
            minutes = f"would take about {max(1, round(seconds * factor / 60))} min"
            costs[name] = f"cannot be trained at {base['size']} pixels" if name in impossible else minutes
    return costs


def not_trained_text(costs, names):
    """Join the names of variants, each with its text from `training_costs`: "sigmoid (would take about 3 min)"."""
    return ", ".join(f"{name} ({costs[name]})" for name in names)


def difference_texts(table):
    """Say how each variant in a `comparison_table` differs from FinalModel, or why that is unknown: list of str."""
    rows = table[table.index != FINAL]
    text = "{} {:+.3f} ({:+.3f} to {:+.3f})"
    return [
        f"{name} ({row['reason']})" if isinstance(row["reason"], str) else text.format(name, *row[INTERVAL])
        for name, row in rows.iterrows()
    ]
