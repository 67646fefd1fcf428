"""Decide whether each claim of the original study is confirmed or refuted; leaves/rules.py has the rules in words."""

from dataclasses import dataclass

from leaves.scoring import moderated_variances

import numpy as np
import pandas as pd
from scipy.stats import t as student

MARGIN = 0.05  # of macro F1, or of the share of dead units; smaller differences count as none
LEVEL = 0.05  # largest probability of any false rejection over all claims, for each of the three tests of a comparison
LEAST_REPEATS = 3
REFIT = "refit"  # `measure` of C13; the training before the refit learns from one fold fewer than other trainings
LEAST_DEVIATION = 0.003  # smallest standard deviation that is assumed, because a few differences may agree by chance
MOST_REPEATS = 30  # if deciding a claim needs more repeats than this, its reason gives no number of repeats
MORE_PHOTOS = (2, 5, 10, 20, 50)  # times as many photos; the reason says which of them might decide a claim
MOVING = 0.001  # a kernel counts as trained in an epoch if it changes by at least this share of its norm
ALIKE = 0.9  # smallest rank correlation at which accuracy and macro F1 count as ranking the networks alike
FAR_FEWER = 10  # FinalModel has "far fewer" parameters if the large network has this many times as many, or more
SMALL_LOSS = 0.1  # a loss of macro F1 below this counts as small; the study's own loss was 0.085
FOLD_GAIN = 0.1  # the gain of the study's refit; C13 is confirmed if our gain is shown to exceed FOLD_GAIN - MARGIN

# Keys: the statements that a claim can make about a difference. Values: the outcomes that confirm or refute them.
CONFIRM = {
    "higher": {"higher"},
    "lower": {"lower"},
    "same": {"same"},
    "not higher": {"same", "lower", "not higher"},
    "not lower": {"same", "higher", "not lower"},
}
REFUTE = {
    "higher": {"same", "lower", "not higher"},
    "lower": {"same", "higher", "not lower"},
    "same": {"higher", "lower"},
    "not higher": {"higher"},
    "not lower": {"lower"},
}
# The outcomes in words; for a refuted claim they are the reason.
SHOWN = {
    "same": "the difference is smaller than the margin of {}",
    "higher": "it is higher",
    "lower": "it is lower",
    "not higher": "it is not higher, or by less than the margin of {}",
    "not lower": "it is not lower, or by less than the margin of {}",
}


# ---------------------------------------------------------------- comparisons


@dataclass(frozen=True)
class Comparison:
    """A summary of the paired differences between one variant and FinalModel."""

    difference: float  # mean over repeats
    low: float  # lower end of its 95 % interval
    high: float  # upper end of the interval
    repeats: int
    variance: float  # moderated variance of one difference
    degrees: float  # degrees of freedom of this variance
    overlap: float  # held-out photos per training photo
    margin: float  # 0 for a claim without a margin

    def p_values(self, repeats=None):
        """Compute the p-values of three hypotheses: the difference is 0, >= the margin, or <= minus the margin.

        Returns three floats in this order. `repeats` replaces the number of repeats; the mean and variance are kept.
        """
        count = repeats or self.repeats
        error = np.sqrt(self.variance * (1 / count + self.overlap))
        degrees = self.degrees * (count - 1) / (self.repeats - 1)
        return (
            2 * student.sf(abs(self.difference) / error, degrees),
            student.cdf((self.difference - self.margin) / error, degrees),
            student.sf((self.difference + self.margin) / error, degrees),
        )

    def outcome(self, different, at_most, at_least):
        """Return the outcome of the tests: "same", "higher", "lower", "not higher", "not lower" or "undecided".

        Each bool says if a hypothesis of `p_values` is rejected, so it says what is shown: the difference is not 0
        (`different`), below the margin (`at_most`), above minus the margin (`at_least`). The last two together give
        "same". Otherwise `different` gives "higher" or "lower" if the mean is not inside the margin. In other cases,
        `at_most` gives "not higher" and `at_least` "not lower". Without a margin, only `different` counts.
        """
        if self.margin and at_most and at_least:
            return "same"
        if different and abs(self.difference) >= self.margin:
            return "higher" if self.difference > 0 else "lower"
        if self.margin and (at_most or at_least):
            return "not higher" if at_most else "not lower"
        return "undecided"


def compare(differences, folds, margins=None):
    """Compare variants with FinalModel by the corrected resampled t-test with moderated variances.

    The training sets of the repeats share most photos, so the mean of the differences varies more than a mean of
    independent differences. The variance of this mean is the variance of one difference times (1 / repeats + held-out
    photos per training photo), see Nadeau and Bengio (2003), Machine Learning 52. The repeats are scored on different
    folds, so the interval allows for other photos as well as for other repeats.

    Parameters
    ----------
    differences : dict of a variant's name to array of float, shape (repeats,), with two or more repeats
        The variant's score minus FinalModel's in each pair of trainings; the measure is the same for all variants.
    folds : int, the number of folds, see `dataset.load_split`
    margins : dict of name to float, optional, the margins of some variants; all other variants have `MARGIN`

    Returns
    -------
    dict of name to Comparison
    """
    counts = np.array([len(values) for values in differences.values()])
    raw = np.array([np.var(values, ddof=1) for values in differences.values()])
    variances, degrees = moderated_variances(np.maximum(raw, LEAST_DEVIATION**2), counts - 1)
    compared, overlap = {}, 1 / (folds - 1)
    for (name, values), variance, freedom in zip(differences.items(), variances, degrees, strict=True):
        mean, error = float(np.mean(values)), np.sqrt(variance * (1 / len(values) + overlap))
        half = student.ppf(1 - LEVEL / 2, freedom) * error
        margin = (margins or {}).get(name, MARGIN)
        interval = float(mean - half), float(mean + half)
        compared[name] = Comparison(mean, *interval, len(values), float(variance), float(freedom), overlap, margin)
    return compared


def holm(p_values):
    """Decide which hypotheses to reject; the probability of any false rejection is at most `LEVEL` (Holm 1979).

    statsmodels has such a function too, which runs Python's garbage collector at every call. With the function of
    statsmodels, the simulation that tests the rules would take hours.

    Parameters
    ----------
    p_values : sequence of float, shape (n,)

    Returns
    -------
    array of bool, shape (n,), True for a rejected hypothesis
    """
    p_values = np.asarray(p_values)
    order, count = np.argsort(p_values), len(p_values)
    rejected = np.zeros(count, bool)
    rejected[order] = np.logical_and.accumulate(p_values[order] <= LEVEL / (count - np.arange(count)))
    return rejected


def outcomes(compared):
    """Return the outcome of each comparison, with Holm's correction (1979).

    A comparison has p-values of three kinds, see `Comparison.p_values`. Each kind is corrected over all comparisons, so
    any false rejection of a kind has probability `LEVEL` at most. docs/verdicts.md has it for all kinds together.

    Parameters
    ----------
    compared : dict of name to Comparison

    Returns
    -------
    dict of name to "same", "higher", "lower", "not higher", "not lower" or "undecided", see `Comparison.outcome`
    """
    if not compared:
        return {}
    tests = zip(*(row.p_values() for row in compared.values()), strict=True)
    rejected = zip(*(holm(values) for values in tests), strict=True)
    rows = zip(compared.items(), rejected, strict=True)
    return {name: row.outcome(*shown) for (name, row), shown in rows}


def verdict_of(outcome, must_be):
    """Return the verdict on a claim's statement, a key of `CONFIRM`: "confirmed", "refuted" or "undecided"."""
    if outcome in CONFIRM[must_be]:
        return "confirmed"
    return "refuted" if outcome in REFUTE[must_be] else "undecided"


def verdict_with(row, must_be, count, repeats=None):
    """Return the verdict on one comparison, if a p-value below `LEVEL` / `count` rejects a hypothesis.

    Parameters
    ----------
    row : Comparison
    must_be : str, the claim's statement about the difference, a key of `CONFIRM`
    count : int, the number of comparisons that are tested together
    repeats : int, optional, see `Comparison.p_values`
    """
    return verdict_of(row.outcome(*(value < LEVEL / count for value in row.p_values(repeats))), must_be)


# ---------------------------------------------------------------- evidence and verdicts


def pairs(variant, baseline, score):
    """Compute the differences of two networks' scores, pair by pair; give a reason if the pairs are no evidence.

    Parameters
    ----------
    variant, baseline : list of Run, the trainings of each network in the order of the repeats
    score : callable(Run) -> float

    Returns
    -------
    dict with the keys differences (list of float, the variant's score minus the baseline's, one number for each pair in
    which both trainings converged) and reason (str or None, see `missing_pairs`)
    """
    both = list(zip(variant, baseline, strict=False))
    states = [[run.result["state"] for run in pair] for pair in both]
    sound = [pair for pair, state in zip(both, states, strict=True) if set(state) == {"converged"}]
    differences = [float(score(first) - score(second)) for first, second in sound]
    return {"differences": differences, "reason": missing_pairs(states)}


def missing_pairs(states):
    """Say why pairs of trainings are no evidence; None if three or more pairs converged and no training failed.

    A training failed if it diverged or did not train.

    Parameters
    ----------
    states : list of list of str, the states of the two trainings of each pair, see `scoring.state_of`
    """
    failed = any({"diverged", "did not train"} & set(pair) for pair in states)  # one failure is enough
    converged = sum(set(pair) == {"converged"} for pair in states)
    if converged >= LEAST_REPEATS and not failed:
        return None
    for word in ("diverged", "did not train", "still rising"):
        if affected := sum(word in pair for pair in states):
            return f"{word} in {affected} of {count_text(len(states), 'repeat')}"
    return f"{count_text(len(states), 'repeat')} of {LEAST_REPEATS}"


def count_text(count, noun):
    """Write a number with its noun, as in "1 repeat" and "3 repeats"."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def evidence(what, must_be, differences, reason=None, measure="macro F1", margin=MARGIN, against=0.0, unit="repeat"):
    """Return one comparison, as evidence on a claim, in a dict that JSON can store.

    Parameters
    ----------
    what : str, the difference in words, as in "macro F1, sigmoid minus FinalModel"
    must_be : str, the claim's statement about the difference, a key of `CONFIRM`
    differences, reason : see `pairs`
    measure : str
        A name for the kind of comparison; `judge` passes all comparisons of one kind to `compare` together.
    margin : float, a smaller difference counts as none; 0 for a claim about an order
    against : float
        `judge` subtracts this number from the differences; zero if the claim mentions no number.
    unit : str, "repeat", or "fold" if each fold gives one number, so no number of repeats gives more than the folds
    """
    return {
        "what": what,
        "must be": must_be,
        "differences": [float(value) for value in differences],
        "reason": reason,
        "measure": measure,
        "margin": margin,
        "against": against,
        "unit": unit,
    }


def known(what, is_shown, reason=None):
    """Return evidence that needs no statistical test, as a JSON-able dict; `is_shown` says if it confirms the claim."""
    return {"what": what, "counted": bool(is_shown), "reason": reason}


def not_tested(reason):
    """Return the list of comparisons for a claim that was not tested: one dict with the reason, JSON-able."""
    return [{"what": "", "reason": f"not tested: {reason}"}]


def judge(records, folds):
    """Decide the verdict on each claim; the tests are corrected for the number of tests.

    Parameters
    ----------
    records : list of dict
        For each claim a dict with the keys claim (as "C1"), said (the study's words), figure (name of its figure),
        comparisons (list of dicts from `evidence`, `known` or `not_tested`) and optionally note (str).
    folds : int, see `compare`

    Returns
    -------
    DataFrame, one row per record, with the columns claim, said, evidence, verdict, reason and figure
    """
    tested = {
        (record["claim"], number): row
        for record in records
        for number, row in enumerate(record["comparisons"])
        if not row["reason"] and "counted" not in row
    }
    tables = {photos: compare_all(tested, folds, photos) for photos in (1, *MORE_PHOTOS)}
    compared = tables[1]
    shown = outcomes(compared)
    table = []
    for record in records:
        keys = [(record["claim"], number) for number in range(len(record["comparisons"]))]
        rows = [(row, compared.get(key)) for row, key in zip(record["comparisons"], keys, strict=True)]
        judged = [judge_one(*row, shown.get(key)) for row, key in zip(rows, keys, strict=True)]
        verdicts = [word for word, _, _ in judged]
        verdict = joint_verdict(verdicts)
        reasons = [reason for word, reason, _ in judged if reason and word in (verdict, "not tested")]
        if verdict == "undecided":
            more = [{photos: table[key] for photos, table in tables.items() if key in table} for key in keys]
            reasons = [*needed_text(record["comparisons"], more, verdicts, len(compared), folds), *reasons]
        texts = "; ".join(filter(None, [*(text for _, _, text in judged), record.get("note")]))
        row = {key: record[key] for key in ("claim", "said", "figure")}
        reason = "; ".join(dict.fromkeys(reasons))
        table.append(row | {"evidence": texts, "verdict": verdict, "reason": reason})
    return pd.DataFrame(table, columns=["claim", "said", "evidence", "verdict", "reason", "figure"])


def compare_all(tested, folds, photos=1):
    """Compare all tested evidence, kind by kind: dict of key to Comparison.

    Parameters
    ----------
    tested : dict of key to dict, see `evidence`
    folds : int, see `compare`
    photos : int
        Estimate the comparisons with this many times as many photos: the means are kept, and the variances of the
        differences are divided by it.
    """
    compared = {}
    for measure in dict.fromkeys(row["measure"] for row in tested.values()):
        rows = {key: row for key, row in tested.items() if row["measure"] == measure}
        measured = {key: np.array(row["differences"]) - row["against"] for key, row in rows.items()}
        shrunk = {key: row.mean() + (row - row.mean()) / np.sqrt(photos) for key, row in measured.items()}
        trained = folds - 1 if measure == REFIT else folds
        compared |= compare(shrunk, trained, {key: row["margin"] for key, row in rows.items()})
    return compared


def judge_one(row, compared, shown):
    """Judge one comparison of a claim: (verdict, reason, evidence in words).

    Parameters
    ----------
    row : dict, see `evidence`, `known` and `not_tested`
    compared : Comparison, or None if the comparison is not tested
    shown : str or None, the outcome of the comparison, see `outcomes`
    """
    if "counted" in row:
        verdict = "undecided" if row["reason"] else "confirmed" if row["counted"] else "refuted"
        return verdict, row["reason"] or "", row["what"]
    if (row["reason"] or "").startswith("not tested: "):
        return "not tested", row["reason"].removeprefix("not tested: "), row["what"]
    if row["reason"]:
        mean = f" {np.mean(row['differences']):+.3f}" if row["differences"] else ""
        return "undecided", row["reason"], f"{row['what']}{mean}"
    low, mean, high = (value + row["against"] for value in (compared.low, compared.difference, compared.high))
    text = f"{row['what']} {mean:+.3f} ({low:+.3f} to {high:+.3f}, {count_text(compared.repeats, row['unit'])})"
    verdict, reason = verdict_of(shown, row["must be"]), ""
    if verdict == "refuted" and row["margin"]:
        reason = SHOWN[shown].format(row["margin"]) + (f" than {row['against']:g}" if row["against"] else "")
    return verdict, reason, text


def needed_text(rows, compared, verdicts, count, folds):
    """Say how many repeats or photos would decide an undecided claim: list of one str; empty if this is not known.

    Parameters
    ----------
    rows : list of dict, the claim's comparisons, see `judge`
    compared : list of dict of int to Comparison
        For each row, the Comparison with that many times as many photos; empty if the row is not tested.
    verdicts : list of str, the verdicts on the rows
    count : int, the number of tested comparisons, counted over all claims
    folds : int, see `compare`
    """

    def joint(count, repeats=None, photos=1):
        new = list(verdicts)  # a row that is decided stays decided
        for place, (row, tables) in enumerate(zip(rows, compared, strict=True)):
            if tables and verdicts[place] == "undecided":
                new[place] = verdict_with(tables[photos], row["must be"], count, repeats)
        return joint_verdict(new)

    unit, most = ("fold", folds) if any(row.get("unit") == "fold" for row in rows) else ("repeat", MOST_REPEATS)
    numbers = range(2, most + 1)
    repeats = next((number for number in numbers if joint(count, repeats=number) != "undecided"), None)
    photos = next((number for number in MORE_PHOTOS if joint(count, photos=number) != "undecided"), None)
    untested = any(not tables and word == "undecided" for tables, word in zip(compared, verdicts, strict=True))
    if untested and not (repeats or photos):
        return []
    text = f"{count_text(most, unit)} would not decide; "
    if repeats:
        text = f"{count_text(repeats, unit)} would decide"
    elif photos:
        less = MORE_PHOTOS[MORE_PHOTOS.index(photos) - 1] if photos > MORE_PHOTOS[0] else "up"
        text += f"{less} to {photos} times as many photos might decide"
    else:
        text += f"not even {MORE_PHOTOS[-1]} times as many photos are expected to decide"
    alone = joint(1)
    more = f"; without the correction for all claims, it would be {alone}" if alone != "undecided" else ""
    return [f"{text}{more}"]


def joint_verdict(verdicts):
    """Combine the tested verdicts: refuted if one is, confirmed if all are, else undecided; not tested if none is."""
    tested = [verdict for verdict in verdicts if verdict != "not tested"]
    if not tested:
        return "not tested"
    if "refuted" in tested:
        return "refuted"
    return "confirmed" if set(tested) == {"confirmed"} else "undecided"
