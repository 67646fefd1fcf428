"""Tests of scoring.py: scores, intervals, verdicts."""

import numpy as np
import pytest
from sklearn.metrics import f1_score

import scoring


@pytest.mark.filterwarnings("ignore")
def test_macro_f1_is_scikit_learns():
    rng = np.random.default_rng(0)
    for count in (3, 10, 200):
        truth, prediction = rng.integers(0, 6, (2, count))
        assert scoring.macro_f1(truth, prediction) == pytest.approx(f1_score(truth, prediction, average="macro"))


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
    holds = scoring.established(*measured, seeds=seeds, floor=0.1, margin=0.05)
    assert {statement for statement, true in holds.items() if true} == expected


def test_verdicts():
    nothing = dict.fromkeys(["higher", "lower", "not higher", "not lower", "same"], False)
    assert scoring.verdict("higher", nothing) == "undecided"
    assert scoring.verdict("higher", nothing | {"higher": True}) == "confirmed"
    assert scoring.verdict("higher", nothing | {"not higher": True}) == "refuted"
    assert scoring.verdict("same", nothing | {"lower": True}) == "refuted"
    assert scoring.verdict("not higher", nothing | {"higher": True}) == "refuted"
