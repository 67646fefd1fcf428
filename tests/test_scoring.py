"""Tests of scoring.py: scores, intervals, verdicts."""

from leaves import claims, scoring

import numpy as np
import pytest
from sklearn.metrics import f1_score


def test_macro_f1_is_scikit_learns_over_the_classes_of_the_truth():
    rng = np.random.default_rng(0)
    for count in (3, 10, 200):
        truth, prediction = rng.integers(0, 6, (2, count))
        expected = f1_score(truth, prediction, labels=np.unique(truth), average="macro", zero_division=0)
        assert scoring.macro_f1(truth, prediction) == pytest.approx(expected)


def test_macro_f1_of_many_resamples_at_once():
    rng = np.random.default_rng(1)
    truth, prediction = rng.integers(0, 4, (2, 30))
    rows = scoring.resamples(truth, draws=7)
    assert (np.sort(truth[rows]) == np.sort(truth)).all()  # every class keeps its size
    expected = [f1_score(truth[row], prediction[row], average="macro") for row in rows]
    np.testing.assert_allclose(scoring.macro_f1(truth[rows], prediction[rows]), expected)


def test_bootstrap_interval_holds_the_score_and_narrows():
    rng = np.random.default_rng(2)
    widths = []
    for count in (50, 5000):
        truth = rng.integers(0, 3, count)
        prediction = np.where(rng.random(count) < 0.7, truth, rng.integers(0, 3, count))
        low, high = scoring.bootstrap_interval(truth, prediction, draws=500)
        assert low < scoring.macro_f1(truth, prediction) < high
        widths.append(high - low)
    assert widths[1] < widths[0] / 5


def test_paired_difference_knows_better_worse_and_tie():
    rng = np.random.default_rng(3)
    truth = rng.integers(0, 3, 300)
    good = np.where(rng.random(300) < 0.9, truth, (truth + 1) % 3)
    poor = np.where(rng.random(300) < 0.5, truth, (truth + 1) % 3)
    difference, low, high = scoring.paired_difference(truth, good, poor)
    assert 0 < low < difference < high
    assert scoring.paired_difference(truth, good, good) == (0, 0, 0)


def test_the_luck_of_the_seed_widens_the_interval():
    rng = np.random.default_rng(3)
    truth = rng.integers(0, 5, 300)
    noisy = [np.where(rng.random(300) < share, truth, (truth + 1) % 5) for share in (0.5, 0.7, 0.9)]
    steady = [np.where(rng.random(300) < 0.7, truth, (truth + 1) % 5) for _ in range(3)]
    base = [np.where(rng.random(300) < 0.7, truth, (truth + 1) % 5) for _ in range(3)]
    widths = [np.ptp(scoring.paired_difference(truth, one, base, 500)[1:]) for one in (noisy, steady)]
    assert widths[0] > 1.5 * widths[1]
    difference, low, high = scoring.paired_difference(truth, base, base, 500)
    assert (difference, low, high) == (0, 0, 0)


@pytest.mark.parametrize(
    ("measured", "seeds", "expected"),
    [
        ((0.2, 0.1, 0.3), 3, {"higher", "not lower"}),
        ((0.2, 0.1, 0.3), 1, {"higher", "not lower"}),
        ((0.08, 0.01, 0.15), 1, set()),  # within the noise floor
        ((0.08, 0.01, 0.15), 3, {"not lower"}),
        ((-0.2, -0.3, -0.1), 3, {"lower", "not higher"}),
        ((0.0, -0.02, 0.02), 3, {"same", "not higher", "not lower"}),
        ((0.0, -0.02, 0.02), 1, set()),  # one seed is never the same
        ((0.01, -0.1, 0.12), 3, set()),
        ((-0.02, -0.08, 0.04), 3, {"not higher"}),
    ],
)
def test_what_a_difference_shows(measured, seeds, expected):
    holds = claims.established(*measured, seeds=seeds, floor=0.1, margin=0.05)
    assert {statement for statement, true in holds.items() if true} == expected


def test_verdicts():
    nothing = dict.fromkeys(["higher", "lower", "not higher", "not lower", "same"], False)
    assert claims.verdict("higher", nothing) == "undecided"
    assert claims.verdict("higher", nothing | {"higher": True}) == "confirmed"
    assert claims.verdict("higher", nothing | {"not higher": True}) == "refuted"
    assert claims.verdict("same", nothing | {"lower": True}) == "refuted"
    assert claims.verdict("not higher", nothing | {"higher": True}) == "refuted"


def test_a_comparison_pairs_the_first_seeds_and_gives_a_verdict():
    truth = np.arange(200) % 4
    better = np.stack([truth] * 3)
    worse = np.where(np.arange(200) % 3 == 0, 0, truth)[None]
    found = claims.compare(truth, better, worse, "higher", floor=0.01)
    assert found["seeds"] == 1
    assert found["verdict"] == "confirmed"
    assert found["difference"] == pytest.approx(1 - f1_score(truth, worse[0], average="macro"))
    assert claims.compare(truth, worse, better, "higher", floor=0.01)["verdict"] == "refuted"
    assert claims.compare(truth, better, worse, "higher", floor=0.9)["verdict"] == "undecided"


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        (["confirmed", "confirmed"], "confirmed"),
        (["confirmed", "undecided"], "undecided"),
        (["undecided", "refuted"], "refuted"),
        (["confirmed", "not tested: random weights"], "undecided"),
        (["not tested", "not tested: random weights"], "not tested"),
    ],
)
def test_a_claim_of_several_parts_needs_them_all(verdicts, expected):
    assert claims.joint_verdict(verdicts) == expected


def overconfident(count=20_000, temperature=3.0):
    """Truth drawn from probabilities, and the same made too sure by a temperature below 1."""
    rng = np.random.default_rng(0)
    honest = rng.dirichlet([1, 1, 1], count)
    truth = np.array([rng.choice(3, p=row) for row in honest])
    return truth, honest, scoring.tempered(honest, 1 / temperature)


def test_calibration_error_of_honest_and_of_boastful_answers():
    truth, honest, sure = overconfident()
    assert scoring.calibration_error(truth, honest) < 0.02
    assert scoring.calibration_error(truth, sure) > 0.15
    always = np.tile([0.9, 0.1], (10, 1))
    assert scoring.calibration_error(np.zeros(10, int), always) == pytest.approx(0.1)
    assert scoring.calibration_error(np.array([0] * 5 + [1] * 5), always) == pytest.approx(0.4)


def test_the_temperature_that_was_put_in_is_found_and_changes_no_answer():
    truth, honest, sure = overconfident()
    found = scoring.fit_temperature(truth, sure)
    assert found == pytest.approx(3, rel=0.1)
    assert scoring.fit_temperature(truth, honest) == pytest.approx(1, rel=0.1)
    assert (scoring.tempered(sure, found).argmax(axis=1) == sure.argmax(axis=1)).all()
    np.testing.assert_allclose(scoring.tempered(sure, found).sum(axis=1), 1)
