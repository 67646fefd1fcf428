"""Where a verdict on a claim of the study is reached: the rules, in words and in code."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.optimize import brentq
from scipy.special import digamma, polygamma
from scipy.stats import t as student

MARGIN = 0.05  # macro F1, or share of units: a difference inside it counts as none
LEVEL = 0.05  # chance that a run without any effect decides something
LEAST_REPEATS = 3
REFIT = "refit"  # the measure of the refit: before it, one fold fewer trains
LEAST_DEVIATION = 0.003  # between two differences: equal ones, of few photos, are no proof that others would be equal
MOST_REPEATS = 30  # that are thought of when a claim is undecided
MOVING = 0.001  # of a kernel's norm: the least change of it in an epoch that counts as moving
ALIKE = 0.9  # rank correlation from which on accuracy and macro F1 rank networks alike
FAR_FEWER = 10  # times fewer parameters
SMALL_LOSS = 0.1  # macro F1; a little more than the original's own 0.085
FOLD_GAIN = 0.1  # macro F1 that the study claims for its refit: shown if the gain is not lower by the margin

# The rules of verdicts, in words. Notebooks show them, docs/verdicts.md repeats them, and a test compares.
RULES = {
    "repeats": (
        "A network and its variant are trained in pairs. Repeat *k* of both draws its seed from *k* and holds out fold "
        "*k*, so the differences vary with the initial weights, the order of the photos and the split (Bouthillier et "
        "al. 2021)."
    ),
    "converged": (
        "Only **converged** trainings are evidence. A training is *still rising* if its best epoch lies in the last "
        "tenth of its epochs and nothing stopped it earlier. It *did not train* if its macro F1 stays within 0.02 of "
        "always answering the commonest class. It *diverged* if its loss was no longer a number."
    ),
    "interval": (
        "The 95 % interval of a mean difference is that of the corrected resampled t-test (Nadeau and Bengio 2003). It "
        "allows for training sets that overlap, and covers repeats and photos. The variances of all variants are "
        "moderated towards a common one (Smyth 2004)."
    ),
    "decided": (
        f"A claim needs {LEAST_REPEATS} pairs or more. A score is *higher* or *lower* if a two-sided test excludes "
        f"zero and the mean difference is not smaller than the margin of {MARGIN} (a dual criterion, Roychoudhury et "
        "al. 2018). It is the *same* if two one-sided tests put the difference inside the margin. Each of the three "
        "tests is corrected over all claims of the run (Holm 1979). A score can also be shown to be *not higher*, or "
        "*not lower*, by the margin. A claim about an order of networks has no margin."
    ),
    "verdict": (
        "A claim is **confirmed** if what it says was shown, and **refuted** if something was shown that excludes it. "
        "Otherwise it is **undecided**, with the reason. It is **not tested** if this run did not train its variant."
    ),
    "tie": (
        f"A model **ties** with the best model if the 95 % interval of their difference, over the test images, lies "
        f"inside the margin of {MARGIN}. An interval that contains zero and is wider leaves it **undecided**."
    ),
}
# Which outcomes confirm a statement, and which refute it. Of every comparison exactly one outcome holds.
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
# What an outcome means, for the reason of a verdict.
SHOWN = {
    "same": "the difference is smaller than the margin of {}",
    "higher": "it is higher",
    "lower": "it is lower",
    "not higher": "it is not higher by the margin of {}",
    "not lower": "it is not lower by the margin of {}",
}


# ---------------------------------------------------------------- comparisons


def moderated_variances(variances, degrees):
    """Draw variances towards a common one as far as they look alike: an empirical Bayes estimate (Smyth 2004).

    With three repeats a variance has two degrees of freedom and decides almost nothing alone; the variants of a run
    tell together how much trainings vary.

    Parameters
    ----------
    variances : array of float, shape (variants,), above 0
    degrees : array of int, shape (variants,)
        Degrees of freedom of each.

    Returns
    -------
    variances, degrees : arrays of float, shape (variants,)
        All differences share FinalModel's trainings, which are half of their variance. So they tell less together than
        independent ones would, and their degrees of freedom are at most those of a mean of variances with a
        correlation of 1/4.
    """
    variances, degrees, count = np.asarray(variances, float), np.asarray(degrees, float), len(variances)
    if count < 2:
        return variances, degrees
    most = degrees / (1 / count + (1 - 1 / count) / 4)
    centred = np.log(variances) - digamma(degrees / 2) + np.log(degrees / 2)
    spread = centred.var(ddof=1) - polygamma(1, degrees / 2).mean()
    if spread <= 0:  # no more than by chance: one variance for all
        return np.full(count, np.exp(centred.mean())), most
    prior = 2 * brentq(lambda half: polygamma(1, half) - spread, 1e-6, 1e9)
    common = np.exp(centred.mean() + digamma(prior / 2) - np.log(prior / 2))
    return (prior * common + degrees * variances) / (prior + degrees), np.minimum(prior + degrees, most)


@dataclass(frozen=True)
class Comparison:
    """The paired differences of one variant in numbers."""

    difference: float  # mean over repeats
    low: float  # of its 95 % interval
    high: float
    repeats: int
    variance: float  # of one difference
    degrees: float  # of freedom
    overlap: float  # held-out photos per training photo
    margin: float

    def p_values(self, repeats=None):
        """Three p-values: of no difference, of one above the margin and of one below minus the margin.

        With `repeats` those that so many repeats of the same mean and variance would give.
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
        """The one word for what the three tests show: see `CONFIRM`. Without a margin only the first one counts.

        The words exclude each other: of a true difference inside the margin more repeats end at "same", of one beyond
        it at "higher" or "lower".
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

    The mean of differences varies more than a mean of independent ones, because their trainings share most photos: its
    variance is that of one difference times (1 / repeats + held-out photos per training photo), see Nadeau and Bengio
    (2003), Machine Learning 52. Every repeat is scored on another fold, so repeats and photos are covered.

    Parameters
    ----------
    differences : dict of name to array of float, shape (repeats,), two or more each
        A variant's score minus FinalModel's, pair by pair, all in one measure.
    folds : int
        Of the split, see `dataset.load_split`.
    margins : dict of name to float, optional
        Where it is not `MARGIN`.

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
    """Which hypotheses are rejected so that any false rejection has a probability of `LEVEL` at most (Holm 1979).

    By hand, because statsmodels collects garbage at every call: a simulation of these rules would take hours.

    Parameters
    ----------
    p_values : sequence of float, shape (n,)

    Returns
    -------
    array of bool, shape (n,)
    """
    p_values = np.asarray(p_values)
    order, count = np.argsort(p_values), len(p_values)
    rejected = np.zeros(count, bool)
    rejected[order] = np.logical_and.accumulate(p_values[order] <= LEVEL / (count - np.arange(count)))
    return rejected


def outcomes(compared):
    """What each comparison shows, all of them corrected together (Holm 1979).

    Of the three hypotheses of a comparison with a margin at most one is true.

    Parameters
    ----------
    compared : dict of name to Comparison

    Returns
    -------
    dict of name to "same", "higher", "lower", "not higher" or "not lower" (by more than the margin), or "undecided"
    """
    if not compared:
        return {}
    tests = zip(*(row.p_values() for row in compared.values()), strict=True)
    rejected = zip(*(holm(values) for values in tests), strict=True)
    rows = zip(compared.items(), rejected, strict=True)
    return {name: row.outcome(*shown) for (name, row), shown in rows}


def repeats_needed(row, must_be, count):
    """How many repeats of the same mean and variance would decide a statement among `count`; None if none up to 30."""
    for repeats in range(row.repeats + 1, MOST_REPEATS + 1):
        shown = row.outcome(*(value < LEVEL / count for value in row.p_values(repeats)))
        if shown in CONFIRM[must_be] | REFUTE[must_be]:
            return repeats
    return None


# ---------------------------------------------------------------- evidence and verdicts


def pairs(variant, baseline, score):
    """The differences of two networks, pair by pair, and why there are none.

    Parameters
    ----------
    variant, baseline : list of Run
        In the order of the repeats.
    score : callable(Run) -> float

    Returns
    -------
    dict of differences (list of float, of the pairs in which both converged) and reason (str, None if they are enough)
    """
    both = list(zip(variant, baseline, strict=False))
    states = [[run.result["state"] for run in pair] for pair in both]
    sound = [pair for pair, state in zip(both, states, strict=True) if set(state) == {"converged"}]
    differences = [float(score(first) - score(second)) for first, second in sound]
    return {"differences": differences, "reason": missing_pairs(states)}


def missing_pairs(states):
    """Why fewer than three pairs converged, in words; None if enough did.

    Parameters
    ----------
    states : list of list of str
        Of each pair the states of its trainings, see `scoring.state_of`.
    """
    failed = any({"diverged", "did not train"} & set(pair) for pair in states)  # networks that sometimes fail
    converged = sum(set(pair) == {"converged"} for pair in states)
    if converged >= LEAST_REPEATS and not failed:
        return None
    for word in ("diverged", "did not train", "still rising"):
        if affected := sum(word in pair for pair in states):
            return f"{word} in {affected} of {count_text(len(states), 'repeat')}"
    return f"{count_text(len(states), 'repeat')} of {LEAST_REPEATS}"


def count_text(count, noun):
    """A number with its noun, as in "1 repeat" and "3 repeats"."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def evidence(what, must_be, differences, reason=None, measure="macro F1", margin=MARGIN, against=0.0):
    """One comparison of a claim, JSON-able.

    Parameters
    ----------
    what : str
        The difference in words.
    must_be : str
        What the claim says of it, a key of `CONFIRM`.
    differences, reason : see `pairs`
    measure : str
        Variances of one measure, and of one kind of networks, are moderated together.
    margin : float
    against : float
        A number that the differences are compared with, in place of zero.
    """
    return {
        "what": what,
        "must be": must_be,
        "differences": [float(value) for value in differences],
        "reason": reason,
        "measure": measure,
        "margin": margin,
        "against": against,
    }


def known(what, is_shown, reason=None):
    """A comparison that is a count and needs no test, JSON-able: what was counted, and whether that is as claimed."""
    return {"what": what, "counted": bool(is_shown), "reason": reason}


def not_tested(reason):
    """The comparisons of a claim that this run did not test."""
    return [{"what": "", "reason": f"not tested: {reason}"}]


def judge(records, folds):
    """The verdicts on all claims of a run, corrected together.

    Parameters
    ----------
    records : list of dict
        Of each claim: claim, said, figure, comparisons (list from `evidence`, `known` or `not_tested`) and, if there is
        more to tell, note.
    folds : int, see `compare`

    Returns
    -------
    DataFrame, one row per claim, with the columns claim, said, evidence, verdict, reason and figure
    """
    tested = {
        (record["claim"], number): row
        for record in records
        for number, row in enumerate(record["comparisons"])
        if not row["reason"] and "counted" not in row
    }
    compared = {}
    for measure in dict.fromkeys(row["measure"] for row in tested.values()):
        rows = {key: row for key, row in tested.items() if row["measure"] == measure}
        differences = {key: np.array(row["differences"]) - row["against"] for key, row in rows.items()}
        trained = folds - 1 if measure == REFIT else folds
        compared |= compare(differences, trained, {key: row["margin"] for key, row in rows.items()})
    shown = outcomes(compared)
    table = []
    for record in records:
        keys = [(record["claim"], number) for number in range(len(record["comparisons"]))]
        of_claim = zip(record["comparisons"], keys, strict=True)
        judged = [judge_one(row, compared.get(key), shown.get(key), len(compared)) for row, key in of_claim]
        verdict = joint_verdict([word for word, _, _ in judged])
        reasons = dict.fromkeys(reason for word, reason, _ in judged if reason and word in (verdict, "not tested"))
        texts = [text for _, _, text in judged] + [record.get("note", "")]
        row = {key: record[key] for key in ("claim", "said", "figure")}
        table.append(
            row | {"evidence": "; ".join(filter(None, texts)), "verdict": verdict, "reason": ", ".join(reasons)}
        )
    return pd.DataFrame(table, columns=["claim", "said", "evidence", "verdict", "reason", "figure"])


def judge_one(row, compared, shown, count):
    """The verdict on one comparison of a claim, the reason and the evidence in words.

    Parameters
    ----------
    row : dict, see `evidence`, `known` and `not_tested`
    compared : Comparison or None
    shown : str or None, see `outcomes`
    count : int
        Comparisons of the run.
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
    text = f"{row['what']} {mean:+.3f} ({low:+.3f} to {high:+.3f}, {count_text(compared.repeats, 'repeat')})"
    if shown in CONFIRM[row["must be"]]:
        return "confirmed", "", text
    if shown in REFUTE[row["must be"]]:
        number = f" than {row['against']:g}" if row["against"] else ""
        return "refuted", SHOWN[shown].format(row["margin"]) + number if row["margin"] else "", text
    needed = repeats_needed(compared, row["must be"], count)
    more = (
        f"{needed} repeats would decide"
        if needed
        else f"more than {MOST_REPEATS} repeats, or more photos, would decide"
    )
    return "undecided", more, text


def joint_verdict(verdicts):
    """The verdict on a claim that says several things at once: confirmed only if each of those that were tested is."""
    tested = [verdict for verdict in verdicts if verdict != "not tested"]
    if not tested:
        return "not tested"
    if "refuted" in tested:
        return "refuted"
    return "confirmed" if set(tested) == {"confirmed"} else "undecided"
