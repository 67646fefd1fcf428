"""Collect the evidence for claim C17, about FinalModel's size, and describe results on the test subset in words."""

from html import escape

from leaves import claims, sources
from leaves.evaluation import validation_score

CLAIMS = [f"C{number}" for number in range(1, 18)]  # of the original study
NO_CORRECTION = 0.05  # a temperature that differs from 1 by less than this counts as no correction
STARTS = {"none": "trained from scratch", "random": "random initial weights", "imagenet": "ImageNet weights"}


def answer_in_words(scores, label, count):
    """Describe the test score of the model that validation chose, in Markdown.

    Parameters
    ----------
    scores : Series, the model's row of `evaluation.score_table`
    label : str
    count : int
        The number of test photos.
    """
    interval = f"{scores['test_macro_f1_low']:.3f} to {scores['test_macro_f1_high']:.3f}"
    return (
        f"**This run**, shown on the rest of this page, uses {escape(sources.photos_in_words())}. The best single "
        f"model, chosen on validation, is **{label}** ({STARTS[scores['initial_weights']]}). It has a macro "
        f"F1 of **{scores['test_macro_f1']:.3f}** (95 % interval {interval}) and an accuracy of "
        f"{scores['test_accuracy']:.3f} on {count} test images, which were not used to choose any model or setting."
    )


def disagreement_in_words(ranked, scores):
    """Say if validation and test agree on the best single model, and for which model the two scores differ most.

    Parameters
    ----------
    ranked : Series of float by label, from `evaluation.rank_on_validation`
    scores : DataFrame by label, from `evaluation.score_table`
    """
    on_test = scores.loc[ranked.index, "test_macro_f1"].sort_values(ascending=False)
    first, best = ranked.index[0], on_test.index[0]
    place = on_test.index.get_loc(first) + 1
    if first == best:
        told = f"Validation and test agree on the best single model, {first}."
    else:
        count = f"number {place} of the {len(ranked)} single models"
        told = f"Validation ranks {first} first; on test it is {count}, and {best} is first."
    on_validation = scores["validation_macro_f1"].astype(float)
    label = (on_validation - on_test).abs().idxmax()
    apart = f"{on_validation[label]:.3f} on validation, {on_test[label]:.3f} on test"
    return f"{told} {label} has the largest difference between its two scores: {apart}."


def confidence_in_words(calibrated, label):
    """Say whether a model is too confident; give its calibration error on test before and after temperature scaling.

    Parameters
    ----------
    calibrated : DataFrame from `evaluation.calibration_table`
    label : str
    """
    row = calibrated.loc[label]
    temperature = f"{row['temperature']:.2f}"
    wrong = "too confident" if row["temperature"] > 1 else "too cautious"
    if abs(row["temperature"] - 1) < NO_CORRECTION:
        wrong = "neither too confident nor too cautious"
    before, after = row["calibration error, before"], row["calibration error, after"]
    changed = f"{before:.3f} without temperature scaling and {after:.3f} with it"
    return f"On validation, {label} is {wrong} (temperature {temperature}). Its calibration error on test is {changed}."


def evidence_of_size(large, small, models, repeats, on_test, draws):
    """Collect the evidence for claim C17: a small network needs far fewer parameters and loses little macro F1.

    Parameters
    ----------
    large : str, the label of a network on a backbone with ImageNet weights, or None if there is none
    small : list of str
        Labels of small networks. The claim is about the first one.
    models : dict of label to Run
    repeats : dict of label to list of Run; for a model without an entry, its Run in `models` is the only repeat
    on_test : `evaluation.Answers` to the test subset
    draws : int
        Number of bootstrap resamples for the intervals in the note.

    Returns
    -------
    dict with the keys comparisons (see `claims.judge`) and note (str: the macro F1 that each small network loses on
    the test subset, compared with the large one)
    """
    if not large:
        return {
            "comparisons": claims.not_tested("in this run, no backbone of the original study has ImageNet weights"),
            "note": "",
        }
    runs = [repeats.get(label, [models[label]]) for label in (large, small[0])]
    times = models[large].result["params"] / models[small[0]].result["params"]
    fewer = f"{times:.1f} times fewer parameters than {large} ({claims.FAR_FEWER} or more count as far fewer)"
    loss = f"loss of macro F1 compared with that network (below {claims.SMALL_LOSS} counts as small)"
    differences = claims.pairs(*runs, validation_score)
    on_validation = claims.evidence(loss, "lower", **differences, against=claims.SMALL_LOSS, margin=0.0, measure="loss")
    lost = [f"{label} loses {on_test.difference_text(large, label, draws)}" for label in small]
    note = f"on the test subset {', '.join(lost)}"
    return {"comparisons": [claims.known(fewer, times >= claims.FAR_FEWER), on_validation], "note": note}


def with_test_notes(records, pairs, on_test, draws):
    """Return the records of all claims in the order of `CLAIMS`, and add comparisons on the test subset to the notes.

    Parameters
    ----------
    records : list of dict, see `claims.judge`
    pairs : list of (claim, model, baseline), such as ("C16", "VGG16, fine tuning", "FinalModel")
        The test macro F1 of the model minus that of the baseline is added to the note of the claim.
    on_test : `evaluation.Answers` to the test subset
    draws : int
        Number of bootstrap resamples for the intervals in the notes.

    Returns
    -------
    list of dict, one for each claim in `CLAIMS`; for a claim that `records` lacks, the record says "not tested"
    """
    absent = {"said": "", "figure": "", "comparisons": claims.not_tested("no chapter recorded evidence")}
    by_claim = {claim: {"claim": claim, "note": ""} | absent for claim in CLAIMS}
    by_claim |= {record["claim"]: {"note": "", **record} for record in records}
    for claim, record in by_claim.items():
        texts = [
            f"{model} minus {baseline} {on_test.difference_text(model, baseline, draws)}"
            for compared, model, baseline in pairs
            if compared == claim
        ]
        on_subset = f"on the test subset {', '.join(texts)}" if texts else None
        record["note"] = "; ".join(filter(None, [record["note"], on_subset]))
    return list(by_claim.values())
