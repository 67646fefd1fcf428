"""Verdicts: the tests behind them are calibrated, exclude each other, and say the reason."""

import re
import sys
from types import SimpleNamespace

from conftest import ROOT
from leaves import claims, rules

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binom

sys.path.append(str(ROOT / "benchmarks"))
import verdict_rules

RUNS = 400


def stored_scores():
    """FinalModel's macro F1 over seeds (rows) and folds (columns), from trainings of the synthetic sample."""
    table = pd.read_csv(ROOT / "tests" / "data" / "repeats.csv")
    assert set(table["state"]) == {"converged"}
    return table.pivot_table(index="seed", columns="fold", values="macro_f1")


@pytest.mark.parametrize(("repeats", "variants"), [(3, 3), (3, 7), (5, 7)])
def test_without_an_effect_at_most_one_run_in_twenty_decides(repeats, variants):
    found = verdict_rules.simulate(stored_scores(), repeats, variants, runs=RUNS)
    most = binom.ppf(0.999, RUNS, claims.LEVEL) / RUNS  # with the Monte Carlo error of so many runs
    assert found["wrong"] <= most
    assert found["covered"] >= 0.93


def test_the_simulation_would_notice_a_test_that_is_too_bold(monkeypatch):
    monkeypatch.setattr(claims, "holm", lambda p_values: np.array(p_values) < 4 * claims.LEVEL)
    found = verdict_rules.simulate(stored_scores(), 3, 7, runs=RUNS)
    assert found["wrong"] > binom.ppf(0.999, RUNS, claims.LEVEL) / RUNS


def test_planted_effects_are_found_more_often_with_more_repeats():
    power = {
        (count, effect): verdict_rules.simulate(stored_scores(), count, 3, effect, RUNS)["found"]
        for count in (3, 5)
        for effect in (0.1, 0.2)
    }
    print(f"power by repeats and effect: {power}")
    assert 0.02 < power[3, 0.1] < power[5, 0.1] < power[5, 0.2]
    assert power[5, 0.2] > 0.7


def null_differences(rng, variants, repeats, deviation):
    """Differences without an effect: each variant's repeats share photos and FinalModel's trainings are in all.

    Of the variance one fifth is common to a variant's repeats, which Nadeau and Bengio assume for five folds.
    """

    def trainings():
        return rng.normal(0, np.sqrt(0.8), repeats) + rng.normal(0, np.sqrt(0.2))

    final = trainings()
    return {number: deviation * (trainings() - final) for number in range(variants)}


def decided_without_effect(overlap, repeats=3):
    """Share of runs with a wrong verdict among twelve variants and six pairs of backbones, and intervals that cover."""
    rng, wrong, covered = np.random.default_rng(0), 0, []
    for _ in range(RUNS):
        compared = {}
        for kind, count, deviation in (("variants", 12, 0.04), ("backbones", 6, 0.008)):
            rows = claims.compare(null_differences(rng, count, repeats, deviation), 1 + 1 / overlap)
            compared |= {(kind, number): row for number, row in rows.items()}
        wrong += any(word in ("higher", "lower") for word in claims.outcomes(compared).values())
        covered += [row.low <= 0 <= row.high for row in compared.values()]
    return wrong / RUNS, np.mean(covered)


@pytest.mark.parametrize("repeats", [3, 5])
def test_repeats_that_share_their_photos_decide_no_more(repeats):
    wrong, covered = decided_without_effect(overlap=1 / 4, repeats=repeats)
    assert wrong <= binom.ppf(0.999, RUNS, claims.LEVEL) / RUNS
    assert 0.93 < covered < 0.99


def test_without_the_correction_for_overlap_they_would():
    wrong, covered = decided_without_effect(overlap=1e-9, repeats=5)
    assert covered < 0.9
    assert wrong > binom.ppf(0.999, RUNS, claims.LEVEL) / RUNS


def test_an_order_needs_no_margin():
    """ResNet50 is said to be slightly better: a small difference that is sure confirms this."""
    slight = [0.020, 0.021, 0.019, 0.020, 0.021]
    order = claims.evidence("order", "higher", slight, measure="backbones", margin=0.0)
    assert judged(record("C15", order)).loc["C15", "verdict"] == "confirmed"
    opposite = claims.evidence("order", "higher", [-value for value in slight], measure="backbones", margin=0.0)
    assert judged(record("C15", opposite)).loc["C15", "verdict"] == "refuted"
    unclear = claims.evidence("order", "higher", [0.02, -0.02, 0.001], measure="backbones", margin=0.0)
    assert judged(record("C15", unclear)).loc["C15", "verdict"] == "undecided"


def test_a_claim_says_which_part_of_it_was_not_tested():
    tested = claims.evidence("order", "higher", STEADY, margin=0.0)
    row = judged(record("C15", tested, *claims.not_tested("no ImageNet weights for EfficientNetB4"))).loc["C15"]
    assert (row["verdict"], row["reason"]) == ("confirmed", "no ImageNet weights for EfficientNetB4")


def test_variances_that_are_alike_become_one_and_different_ones_stay_apart():
    alike, degrees = claims.moderated_variances([1.0, 1.1, 0.9, 1.05], [2] * 4)
    assert np.ptp(alike) < 1e-12
    assert (degrees > 2).all()
    apart, degrees = claims.moderated_variances([1e-6, 1.0, 1e-4, 100.0], [20] * 4)
    assert np.argsort(apart).tolist() == [0, 2, 1, 3]
    assert (degrees < 25).all()
    assert claims.moderated_variances([2.0], [2])[1] == [2]  # nothing to share with


def test_moderated_variances_agree_with_the_formula():
    """Smyth (2004), equations 3 to 5, for a prior of 4 degrees of freedom and a variance of 1, drawn many times."""
    rng = np.random.default_rng(1)
    true = 4 / rng.chisquare(4, 4000)  # scaled inverse chi-square
    seen = true * rng.chisquare(5, 4000) / 5
    pooled, _ = claims.moderated_variances(seen, np.full(4000, 5))
    expected = (4 * 1 + 5 * seen) / (4 + 5)
    assert np.median(np.abs(pooled / expected - 1)) < 0.05


def test_holm_rejects_step_by_step():
    """Thresholds 0.0125, 0.0167, 0.025 and 0.05; after the first that is missed nothing is rejected."""
    assert claims.holm([0.01, 0.04, 0.03, 0.005]).tolist() == [True, False, False, True]
    assert claims.holm([0.01, 0.016, 0.02, 0.04]).all()
    assert not claims.holm([0.02, 0.02, 0.02, 0.02]).any()


WORDS = ["same", "higher", "lower", "not higher", "not lower", "undecided"]


@pytest.mark.parametrize("difference", [-0.2, -0.02, 0.02, 0.2])
@pytest.mark.parametrize("different", [False, True])
@pytest.mark.parametrize("at_most", [False, True])
@pytest.mark.parametrize("at_least", [False, True])
def test_every_result_of_the_tests_is_one_word(difference, different, at_most, at_least):
    row = comparison(difference)
    assert row.outcome(different, at_most, at_least) in WORDS


def comparison(difference, repeats=3, variance=4e-4):
    """A comparison as `compare` makes it, of a mean difference and its variance."""
    return claims.Comparison(difference, 0.0, 0.0, repeats, variance, 2.0 * (repeats - 1), 0.01, claims.MARGIN)


@pytest.mark.parametrize(("truth", "end"), [(0.0, "same"), (0.02, "same"), (-0.03, "same"), (0.1, "higher")])
def test_more_repeats_never_turn_an_outcome_into_its_opposite(truth, end):
    """Of the same mean "higher" never becomes "same"."""
    shown = []
    for repeats in range(3, 400):
        row = comparison(truth, repeats)
        shown.append(row.outcome(*(value < claims.LEVEL for value in row.p_values())))
    assert shown[-1] == end
    assert not {*shown} & ({"higher", "lower", "same"} - {end})


def test_a_failure_of_either_network_is_told():
    final = [run(0.4), run(0.4), run(0.1, "did not train"), run(0.4)]
    assert claims.pairs([run(0.5)] * 4, final, score_of)["reason"] == "did not train in 1 of 4 repeats"


@pytest.mark.parametrize("statement", claims.CONFIRM)
def test_no_outcome_confirms_and_refutes(statement):
    assert not claims.CONFIRM[statement] & claims.REFUTE[statement]
    assert "undecided" not in claims.CONFIRM[statement] | claims.REFUTE[statement]


def run(score, state="converged"):
    return SimpleNamespace(result={"state": state, "validation_macro_f1": score})


def score_of(run):
    return run.result["validation_macro_f1"]


@pytest.mark.parametrize(
    ("states", "reason"),
    [
        (["converged"] * 3, None),
        (["converged"] * 2, "2 repeats of 3"),
        (["converged"], "1 repeat of 3"),
        (["converged", "still rising", "converged"], "still rising in 1 of 3 repeats"),
        (["did not train"] * 3, "did not train in 3 of 3 repeats"),
        (["converged", "diverged", "still rising"], "diverged in 1 of 3 repeats"),
        (["converged", "converged", "converged", "still rising", "still rising"], None),
        (["converged", "converged", "converged", "diverged", "converged"], "diverged in 1 of 5 repeats"),
    ],
)
def test_only_pairs_that_converged_count(states, reason):
    variant = [run(0.5 + 0.01 * number, state) for number, state in enumerate(states)]
    found = claims.pairs(variant, [run(0.4)] * len(states), score_of)
    assert found["reason"] == reason
    assert len(found["differences"]) == states.count("converged")


def record(claim, *comparisons):
    return {"claim": claim, "said": "said", "figure": "03-differences", "comparisons": list(comparisons)}


def judged(*records):
    return claims.judge(records, 5).set_index("claim")


STEADY = [0.100, 0.101, 0.102]


@pytest.mark.parametrize(
    ("must_be", "differences", "verdict"),
    [
        ("higher", STEADY, "confirmed"),
        ("lower", STEADY, "refuted"),
        ("not higher", STEADY, "refuted"),
        ("same", STEADY, "refuted"),
        ("same", [0.001, -0.001, 0.0], "confirmed"),
        ("not higher", [0.001, -0.001, 0.0], "confirmed"),
        ("higher", [0.001, -0.001, 0.0], "refuted"),
        ("higher", [0.3, -0.2, 0.1], "undecided"),
        ("not higher", [-0.3, -0.301, -0.302], "confirmed"),
    ],
)
def test_a_claim_is_judged_by_what_was_shown(must_be, differences, verdict):
    assert judged(record("C1", claims.evidence("difference", must_be, differences))).loc["C1", "verdict"] == verdict


def test_an_undecided_claim_says_how_many_repeats_would_decide():
    rows = judged(
        record("C1", claims.evidence("difference", "higher", [0.05, 0.16, 0.09])),
        record("C2", claims.evidence("difference", "higher", [0.3, -0.3, 0.06], measure="gap")),
    )
    assert rows["verdict"].tolist() == ["undecided"] * 2
    assert rows.loc["C1", "reason"].endswith("repeats would decide")
    needed = int(rows.loc["C1", "reason"].split()[0])
    assert 3 < needed <= claims.MOST_REPEATS
    assert rows.loc["C2", "reason"] == (
        "30 repeats would not decide; not even 50 times as many photos are expected to decide"
    )


def test_the_repeats_that_are_asked_for_decide():
    """With so many repeats of the same mean and variance the test decides, and with one fewer it does not."""
    compared = claims.compare({"C1": np.array([0.05, 0.16, 0.09])}, folds=5)["C1"]
    [text] = needed([("higher", [0.05, 0.16, 0.09])])
    repeats = int(text.removesuffix("; without the correction for all claims, it would be confirmed").split()[0])
    assert compared.repeats < repeats
    assert compared.p_values(repeats)[0] < claims.LEVEL / 10 <= compared.p_values(repeats - 1)[0]


WIDE = [0.02, 0.10, -0.09, 0.05, -0.08]


def test_the_photos_that_are_asked_for_decide():
    """With the larger number of times as many photos a new study of the same means decides, with the smaller not."""
    others = [record(f"C{n}", claims.evidence("x", "higher", [0.3, -0.2, 0.1], measure="y")) for n in range(2, 11)]
    names = [claims.evidence("x", "same", values) for values in (WIDE, WIDE[::-1])]  # one kind: they are moderated
    reason = judged(record("C1", *names), *others).loc["C1", "reason"]
    less, most = map(
        int, re.fullmatch(r"30 repeats would not decide; (\d+) to (\d+) times as .* decide", reason).groups()
    )
    verdicts = []
    for photos in (less, most):
        shrunk = np.mean(WIDE) + (np.array(WIDE) - np.mean(WIDE)) / np.sqrt(photos)
        again = [claims.evidence("x", "same", values) for values in (shrunk, shrunk[::-1])]
        verdicts.append(judged(record("C1", *again), *others).loc["C1", "verdict"])
    assert verdicts == ["undecided", "confirmed"]


def test_more_photos_do_not_make_a_deviation_smaller_than_the_least():
    """However many photos there are, the test assumes a deviation of `LEAST_DEVIATION`, so a tiny order stays open."""
    tiny = judged(record("C1", claims.evidence("x", "higher", [-0.001, 0.002, 0.005], margin=0.0)))
    assert tiny.loc["C1", "reason"].endswith("not even 50 times as many photos are expected to decide")


@pytest.mark.parametrize(
    ("ranks", "reason"),
    [
        ([0.955, 0.985, 0.97], "4 folds would decide"),
        ([0.93, 0.98, 0.96, 0.92, 0.96], "5 folds would not decide; 2 to 5 times as many photos might decide"),
        ([0.94, 0.98, 0.96, 0.93, 0.96], "5 folds would not decide; up to 2 times as many photos might decide"),
    ],
)
def test_a_number_for_each_fold_needs_all_folds_or_more_photos(ranks, reason):
    """There are five folds, so more than five repeats give no further number."""
    ranks = claims.evidence("rank correlation", "lower", ranks, margin=0.0, against=0.9, unit="fold")
    others = [claims.evidence("x", "higher", [0.3, -0.2, -0.1], measure="y") for _ in range(4)]
    row = judged(record("C12", ranks), record("C1", *others)).loc["C12"]
    assert row["evidence"].endswith(f"{len(ranks['differences'])} folds)")
    assert row["reason"].split("; without")[0] == reason


def test_a_run_that_is_still_rising_leaves_its_claim_undecided():
    variant = [run(0.9, "still rising")] * 3
    comparison = claims.evidence("difference", "higher", **claims.pairs(variant, [run(0.1)] * 3, score_of))
    row = judged(record("C1", comparison)).loc["C1"]
    assert (row["verdict"], row["reason"]) == ("undecided", "still rising in 3 of 3 repeats")


def test_more_claims_make_each_decision_harder():
    clear = claims.evidence("difference", "higher", [0.05, 0.06, 0.07], measure="gap")
    alone = judged(record("C1", clear)).loc["C1", "verdict"]
    noise = [claims.evidence("noise", "higher", [0.3, -0.2, -0.1], measure=str(number)) for number in range(40)]
    among = judged(record("C1", clear), *(record(f"C{n}", row) for n, row in enumerate(noise, 2))).loc["C1", "verdict"]
    assert (alone, among) == ("confirmed", "undecided")


def test_counts_and_untested_claims():
    rows = judged(
        record("C14", claims.known("kernels moved", True)),
        record("C15", claims.known("kernels moved", False)),
        record("C16", claims.known("kernels moved", True, "2 repeats of 3")),
        record("C17", *claims.not_tested("not trained (about 3 min)")),
    )
    assert rows["verdict"].tolist() == ["confirmed", "refuted", "undecided", "not tested"]
    assert rows.loc["C17", "reason"] == "not trained (about 3 min)"
    assert rows.loc["C16", "reason"] == "2 repeats of 3"


def test_a_number_can_take_the_place_of_zero():
    loss = claims.evidence("loss", "lower", [0.01, 0.012, 0.011], margin=0.0, against=0.1)
    row = judged(record("C17", loss)).loc["C17"]
    assert row["verdict"] == "confirmed"
    assert "+0.011" in row["evidence"]  # as measured


def test_a_claim_that_only_the_correction_leaves_open_says_so():
    shown = record("C1", claims.evidence("difference", "higher", [0.1, 0.16, 0.13]))
    noise = [
        record(f"C{number}", claims.evidence("difference", "higher", [0.2, -0.21, 0.05], measure=str(number)))
        for number in range(2, 10)
    ]
    assert judged(shown).loc["C1", "verdict"] == "confirmed"
    rows = judged(shown, *noise)
    assert rows.loc["C1", "reason"] == (
        "5 repeats would decide; without the correction for all claims, it would be confirmed"
    )
    assert "correction" not in rows.loc["C2", "reason"]


NEEDED = {"few": [0.1, 0.16, 0.1], "more": [0.05, 0.16, 0.09], "many": [0.3, -0.3, 0.06]}


def needed(statements, untested=0):
    """What is said of a claim with these comparisons (must be, differences), of ten; `untested` have no evidence."""
    rows = [claims.evidence("x", must_be, values) for must_be, values in statements]
    tables = [{n: claims.compare_all({"x": row}, 5, n)["x"] for n in (1, *claims.MORE_PHOTOS)} for row in rows] + [
        {}
    ] * untested
    rows += [claims.evidence("x", "higher", [], "1 repeat of 3")] * untested
    return claims.needed_text(rows, tables, ["undecided"] * len(rows), 10, 5)


@pytest.mark.parametrize(
    ("statements", "deciding"),
    [
        ({"few": "higher", "more": "higher"}, "more"),  # all must be confirmed
        ({"few": "higher", "many": "higher"}, "many"),
        ({"more": "higher", "many": "higher", "few": "lower"}, "few"),  # one that is refuted is enough
    ],
)
def test_a_claim_of_several_comparisons_needs_what_would_decide_it(statements, deciding):
    [text] = needed([(must_be, NEEDED[name]) for name, must_be in statements.items()])
    [alone] = needed([(statements[deciding], NEEDED[deciding])])
    assert text.split(";")[0] == alone.split(";")[0]
    assert text.startswith("30 repeats would not decide; ") == (deciding == "many")


@pytest.mark.parametrize("name", ["few", "many"])
def test_nothing_is_told_if_a_comparison_lacks_evidence_unless_another_refutes(name):
    assert needed([("higher", NEEDED[name])], untested=1) == []
    refuting = {"few": ("lower", NEEDED["few"]), "many": ("higher", WIDE)}[name]
    [text] = needed([refuting], untested=1)
    assert text.split(";")[0] == needed([refuting])[0].split(";")[0]


@pytest.mark.parametrize(
    ("verdicts", "joint"),
    [
        (["confirmed", "confirmed"], "confirmed"),
        (["confirmed", "refuted"], "refuted"),
        (["confirmed", "undecided"], "undecided"),
        (["confirmed", "not tested"], "confirmed"),
        (["not tested", "not tested"], "not tested"),
    ],
)
def test_a_claim_of_several_things_needs_them_all(verdicts, joint):
    assert claims.joint_verdict(verdicts) == joint


def test_the_rules_say_the_numbers_of_the_code():
    text = " ".join(rules.RULES.values())
    assert str(claims.MARGIN) in text
    assert f"{claims.LEAST_REPEATS} pairs" in text
