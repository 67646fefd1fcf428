"""Compare variants with FinalModel: the trainings of a table of variants, their scores, and claims judged by them."""

from leaves import claims, scoring
from leaves.batches import rows_of_epoch
from leaves.custom_cnn import cnn_spec, cnn_specs, move_validation
from leaves.files import InputError
from leaves.runs import logged

import numpy as np
import pandas as pd
from scipy.stats import bootstrap

# The group of a variant by the first choice that it changes; in brackets the claims that the group is about.
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
MORE_DATA = "more data"  # FinalModel refitted with half of the validation subset
# The figure that shows a measure.
FIGURES = {"macro F1": "03-differences", "gap": "03-gaps", "dead units": "03-dead-units"}
FIGURES |= {"accuracy less macro F1": "03-accuracy", "gradient ratio": "02-gradients"}
INTERVAL = ["difference", "low", "high"]


# ---------------------------------------------------------------- the experiment


def claim_table(said, evidence):
    """The claims and what would show each of them.

    Parameters
    ----------
    said : dict of claim to str
        What the study says.
    evidence : dict of measure to dict of statement to dict of claim to variant
        The statement says what the variant's measure must be: against FinalModel's, or a number.

    Returns
    -------
    DataFrame of str, one row per claim in the order of `said`, with four columns
    """
    rows = {
        claim: (said[claim], variant, measure, statement)
        for measure, statements in evidence.items()
        for statement, variants in statements.items()
        for claim, variant in variants.items()
    }
    columns = ["the original study says", "shown by", "measure", "must be"]
    return pd.DataFrame([rows[claim] for claim in said], index=list(said), columns=columns)


def cosine_schedule(split, epochs, balance):
    """A learning rate that falls from 0.001 to 0 at the last step of a training, as Keras describes it.

    Parameters
    ----------
    split : DataFrame, see `dataset.load_split`
    epochs : int
    balance : str, see `runs.training_spec`

    Returns
    -------
    dict of module, class_name and config
    """
    labels = np.searchsorted(split.attrs["classes"], split.loc[split["split"] == "train", "label"])
    steps = epochs * -(-len(rows_of_epoch(labels, balance)) // 32)
    config = {"initial_learning_rate": 0.001, "decay_steps": steps}
    return {"module": "keras.optimizers.schedules", "class_name": "CosineDecay", "config": config}


def too_small(size, filters):
    """The names of the variants that make no sense at `size` pixels per side, as a set of str."""
    smallest = 2 ** len(filters)  # pixels per side that leave one pixel after the last pooling
    if size >= 2 * smallest:
        return set()
    return {"quarter resolution", "flatten"}  # of one pixel flatten is the same as averaging


def group_variants(variants, own_variants, left_out):
    """The variants to train, by group.

    Parameters
    ----------
    variants, own_variants : dict of name to changes, a dict
    left_out : iterable of str

    Returns
    -------
    dict of group to dict of name to changes

    Raises
    ------
    InputError
        When a name of `own_variants` is taken, or one of `left_out` is unknown.
    """
    known = [*variants, *own_variants]
    if repeated := {*own_variants} & {*variants, "FinalModel", MORE_DATA}:
        raise InputError(f"own_variants names {repeated.pop()!r}, which this chapter has: take another name.")
    if unknown := {*left_out} - {*known}:
        raise InputError(f"left_out names {unknown.pop()!r}, which is none of {', '.join(known)}.")
    group_of = {name: GROUPS[next(iter(changes))] for name, changes in variants.items()}
    groups = {}
    for name, changes in (variants | own_variants).items():
        if name not in left_out:
            groups.setdefault(group_of.get(name, "your own"), {})[name] = changes
    return groups


def variant_specs(groups, base, epochs, seeds, variant_seeds):
    """The trainings of FinalModel and of each variant.

    Parameters
    ----------
    groups : see `group_variants`
    base : dict
        Arguments of `custom_cnn.cnn_spec` that all have in common: split, size, and choices that make this chapter's
        FinalModel; a variant with `layers` of its own takes no `filters`.
    epochs : int
    seeds : sequence of int
        Of FinalModel's trainings.
    variant_seeds : int
        So many of the seeds are those of each variant's trainings.

    Returns
    -------
    dict of name to list of spec, one for each seed
    """
    specs = {"FinalModel": cnn_specs("03", "FinalModel", epochs=epochs, seeds=seeds, log_layers=True, **base)}
    common = {"epochs": epochs, "seeds": seeds[:variant_seeds]}
    for name, changes in (pair for variants in groups.values() for pair in variants.items()):
        kept = {key: value for key, value in base.items() if key != "filters" or "layers" not in changes}
        specs[name] = cnn_specs("03", name, **common, **(kept | changes))
    return specs


def half_specs(runs, base):
    """Two refits for each run of FinalModel: one half of the validation subset joins the training images.

    Each refit has as many epochs as the run's best one, and nothing stops it earlier.

    Parameters
    ----------
    runs : list of Run
    base : see `variant_specs`

    Returns
    -------
    list of spec
    """
    specs = []
    for run in runs:
        for fold in (0, 1):
            changes = {"epochs": run.result["best_epoch"], "patience": None, "refit": {"folds": 2, "fold": fold}}
            specs.append(cnn_spec("03", MORE_DATA, seed=run.spec["seed"], **(base | changes)))
    return specs


# ---------------------------------------------------------------- scores


def score_trainings(runs, groups, split, truth):
    """Every training in numbers, and what each predicts for the validation images.

    Two refits that hold out one half of the images each are scored together.

    Parameters
    ----------
    runs : dict of name to list of Run
    groups : see `group_variants`
    split : DataFrame, see `dataset.load_split`
    truth : array of int, shape (n,)

    Returns
    -------
    trainings : DataFrame, one row per training: variant, group, seed, diverged, parameters, best epoch, seconds, train
        and validation (macro F1) and gap
    predictions : dict of name to dict of seed to array of int, shape (n,)
    """
    group_of = {name: group for group, variants in groups.items() for name in variants} | {MORE_DATA: "refit (C13)"}
    columns = {"diverged": "diverged", "params": "parameters", "best_epoch": "best epoch", "train_seconds": "seconds"}
    columns |= {"train_macro_f1": "train", "validation_macro_f1": "validation"}
    trainings = pd.DataFrame(
        {"variant": name, "group": group_of.get(name, ""), "seed": run.spec["seed"]}
        | {column: run.result[key] for key, column in columns.items()}
        for name, repeats in runs.items()
        for run in repeats
    ).astype({"train": float, "validation": float})
    predictions = {name: validation_predictions(repeats, split, truth) for name, repeats in runs.items()}
    scores = [scoring.macro_f1(truth, predicted) for predicted in predictions[MORE_DATA].values()]
    trainings.loc[trainings["variant"] == MORE_DATA, "validation"] = np.mean(scores) if scores else np.nan
    return trainings.assign(gap=trainings["train"] - trainings["validation"]), predictions


def validation_predictions(runs, split, truth):
    """What the runs of one variant predict: dict of seed to array of int; see `score_trainings`.

    A seed is skipped if one of its runs diverged, also if that is one half of "more data".
    """
    predictions, in_validation = {}, split["split"] == "validation"
    diverged = {run.spec["seed"] for run in runs if run.result["diverged"]}
    for run in (run for run in runs if run.spec["seed"] not in diverged):
        moved = move_validation(split, **run.spec["refit"]) if run.spec["refit"] else split
        held_out = (moved.loc[in_validation, "split"] == "validation").to_numpy()
        predicted = predictions.setdefault(run.spec["seed"], np.zeros_like(truth))
        predicted[held_out] = run.validation_probabilities.argmax(axis=1)
    return predictions


def noise_floor(final_rows):
    """The largest differences between FinalModel's trainings that did not diverge: dict of measure to float.

    `final_rows` are their rows of `score_trainings`; InputError if there are fewer than two.
    """
    if len(final_rows) < 2:
        raise InputError("Fewer than two trainings of FinalModel did not diverge: there is no noise floor.")
    return {"macro F1": np.ptp(final_rows["validation"]), "gap": np.ptp(final_rows["gap"])}


def compare_with_final_model(trainings, predictions, truth):
    """Macro F1 and gap of each variant minus FinalModel's of the same seeds, with the 95 % interval.

    Parameters
    ----------
    trainings, predictions : see `score_trainings`
    truth : array of int, shape (n,)

    Returns
    -------
    DataFrame, one row per (variant, measure): base (FinalModel's macro F1), difference, low, high, seeds; NaN and no
    seeds where nothing can be compared
    """
    fitted = trainings.groupby(["variant", "seed"])["train"].mean()
    base, rows = predictions["FinalModel"], {}
    for name in [name for name in predictions if name != "FinalModel"]:
        seeds = [seed for seed in predictions[name] if seed in base]
        if not seeds:
            rows |= {(name, measure): {"seeds": 0} for measure in ("macro F1", "gap")}
            continue
        variant, baseline = (np.array([predicted[seed] for seed in seeds]) for predicted in (predictions[name], base))
        baseline_scores = scoring.macro_f1(truth[None], baseline)
        difference = scoring.macro_f1(truth[None], variant) - baseline_scores
        drawn = scoring.paired_draws(truth, variant, baseline)
        gained = (fitted[name][seeds] - fitted["FinalModel"][seeds]).to_numpy()  # on the training images
        both = {"macro F1": (difference, drawn), "gap": (gained - difference, gained - drawn)}
        for measure, (means, draws) in both.items():
            low, high = scoring.interval_over_seeds(draws)
            row = {"base": baseline_scores.mean(), "difference": means.mean(), "low": low, "high": high}
            rows[name, measure] = row | {"seeds": len(seeds)}
    table = pd.DataFrame.from_dict(rows, orient="index", columns=["base", *INTERVAL, "seeds"])
    return table.rename_axis(["variant", "measure"])


def comparison_table(trainings, compared, floor, margin):
    """Every variant in means over its seeds, its difference to FinalModel and what that shows.

    Parameters
    ----------
    trainings : DataFrame, see `score_trainings`
    compared : DataFrame, see `compare_with_final_model`
    floor, margin : float, see `claims.established`

    Returns
    -------
    DataFrame, one row per variant; its verdict is better, worse, same, undecided, diverged, or NaN for FinalModel
    """
    columns = {"parameters": "first", "best epoch": "mean", "seconds": "mean"}
    columns |= {"train": "mean", "validation": "mean", "gap": "mean"}
    table = trainings.groupby(["variant", "group"], sort=False).agg(columns).reset_index("group")
    words = {"higher": "better", "lower": "worse", "same": "same"}
    scores = compared.xs("macro F1", level="measure")
    verdicts = {}
    for name, row in scores.iterrows():
        holds = claims.established(**row.drop("base"), floor=floor, margin=margin)
        shown = [word for statement, word in words.items() if holds[statement]]
        verdicts[name] = [*shown, "undecided"][0] if row["seeds"] else "diverged"
    return table.join(scores).join(pd.Series(verdicts, name="verdict"))


# ---------------------------------------------------------------- claims


def more_dead_units(dead, variant):
    """The share of dead units in a variant minus that in FinalModel, with the 95 % interval over units.

    Parameters
    ----------
    dead : DataFrame, see `dead_units.dead_filters_of`
    variant : str

    Returns
    -------
    dict, see `judge`
    """
    of_variant, of_final = (dead[dead["variant"] == name] for name in (variant, "FinalModel"))
    if of_variant.empty or of_final.empty:
        return {"seeds": 0}
    units = [rows["dead"].to_numpy(float) for rows in (of_variant, of_final)]
    settings = {"vectorized": False, "n_resamples": 2000, "method": "percentile", "rng": 0}
    low, high = bootstrap(units, lambda left, right: left.mean() - right.mean(), **settings).confidence_interval
    difference = units[0].mean() - units[1].mean()
    return {"difference": difference, "low": low, "high": high, "seeds": of_variant["seed"].nunique()}


def flattery(predictions, truth):
    """Accuracy minus macro F1 with the 95 % interval over seeds and images.

    Parameters
    ----------
    predictions : dict of seed to array of int, shape (n,)
    truth : array of int, shape (n,)

    Returns
    -------
    dict, see `judge`
    """
    predicted, rows = np.array(list(predictions.values())), scoring.resamples(truth, 2000)
    hits = predicted == truth
    drawn = [
        hit[rows].mean(1) - scoring.macro_f1_of_resamples(truth, of_seed, rows)
        for hit, of_seed in zip(hits, predicted, strict=True)
    ]
    low, high = scoring.interval_over_seeds(np.stack(drawn, axis=1))
    difference = hits.mean(axis=1) - scoring.macro_f1(truth[None], predicted)
    return {"difference": difference.mean(), "low": low, "high": high, "seeds": len(predicted)}


def gradient_ratio(runs):
    """The weakest gradient of a convolution, divided by the strongest of a dense layer, in the worst epoch of each run.

    Parameters
    ----------
    runs : list of Run, trained with `log_layers`; a diverged one is skipped

    Returns
    -------
    dict, see `judge`; the difference is the mean over runs, low and high are the ends of their range
    """
    ratios = []
    for run in (run for run in runs if not run.result["diverged"]):
        gradients = pd.DataFrame(logged(run, "layers", "gradient/"))
        convolutions = gradients.columns.str.contains("conv")
        weakest, strongest = gradients.loc[:, convolutions].min(axis=1), gradients.loc[:, ~convolutions].max(axis=1)
        ratios.append((weakest / strongest).min())
    return {"difference": np.mean(ratios), "low": min(ratios), "high": max(ratios), "seeds": len(ratios)}


def judge(table, compared, measured, floor, margin):
    """The verdicts on the claims; one without a measurement, or with one of no seeds, is not tested.

    Parameters
    ----------
    table : DataFrame, see `claim_table`
    compared : DataFrame, see `compare_with_final_model`
    measured : dict of claim to dict of difference, low, high (float) and seeds (int)
        What else was measured.
    floor : dict of measure to float, see `noise_floor`
    margin : float, see `claims.established`

    Returns
    -------
    DataFrame, one row per claim: claim, measure, must be, what was measured, verdict
    """
    rows = {}
    for claim, (said, variant, measure, must_be) in table.iterrows():
        row = {"claim": said, "measure": f"{measure}, {variant}", "must be": must_be}
        of_scores = compared.loc[variant, measure].to_dict() if (variant, measure) in compared.index else {"seeds": 0}
        numbers = measured.get(claim, of_scores)
        if not numbers["seeds"]:
            rows[claim] = row | {"verdict": "not tested"}
            continue
        statement, _, number = must_be.partition(" than ")
        shifted = {key: numbers[key] - float(number or 0) for key in INTERVAL}
        noise = {"floor": floor.get(measure, 0), "margin": margin if measure in floor and not number else 0}
        holds = claims.established(**shifted, seeds=numbers["seeds"], **noise)
        rows[claim] = row | numbers | {"verdict": claims.verdict(statement, holds)}
    return pd.DataFrame(rows).T


def records(table, verdicts):
    """What chapter 6 reads of a `claim_table` and its verdicts, see `judge`: list of dict of str, one per claim."""
    measured = {
        claim: "{:+.3f} ({:+.3f} to {:+.3f})".format(*row) if row.notna().all() else "not tested"
        for claim, row in verdicts.reindex(columns=INTERVAL).iterrows()
    }
    return [
        {
            "claim": claim,
            "said": said,
            "evidence": f"{measure}, {variant}: {measured[claim]}",
            "figure": FIGURES[measure],
            "verdict": verdicts.loc[claim, "verdict"],
        }
        for claim, (said, variant, measure, _) in table.iterrows()
    ]


def claims_by_verdict(verdicts):
    """The claims with each verdict, see `judge`: dict of verdict to str, "none" where no claim has it."""
    words = ("confirmed", "refuted", "undecided", "not tested")
    return {word: ", ".join(verdicts.index[verdicts["verdict"] == word]) or "none" for word in words}


def clear_differences(table):
    """The better and worse variants of a `comparison_table` with their intervals, the worst first, as text."""
    clear = table[table["verdict"].isin(["better", "worse"])].sort_values("difference")
    rows = clear[INTERVAL].iterrows()
    return "; ".join("{} ({:+.3f}, {:+.3f} to {:+.3f})".format(name, *row) for name, row in rows)
