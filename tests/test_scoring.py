"""Tests of scoring.py: scores, intervals, states of trainings, calibration."""

from leaves import scoring

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


def test_a_paired_difference_is_less_uncertain_than_two_scores():
    rng = np.random.default_rng(3)
    truth = rng.integers(0, 5, 300)
    base = np.where(rng.random(300) < 0.6, truth, (truth + 1) % 5)
    better = np.where(rng.random(300) < 0.2, truth, base)  # most of its mistakes are those of the base
    _, low, high = scoring.paired_difference(truth, better, base, draws=500)
    widths = [np.ptp(scoring.bootstrap_interval(truth, predicted, draws=500)) for predicted in (better, base)]
    assert 0 < low < high
    assert high - low < min(widths)


# ---------------------------------------------------------------- states of trainings


@pytest.mark.parametrize("counts", [[5, 5], [30, 10, 1], [7], [9, 0, 3]])
def test_the_constant_answer_has_the_score_of_the_commonest_class(counts):
    truth = np.repeat(np.arange(len(counts)), counts)
    constant = np.full_like(truth, np.argmax(counts))
    assert scoring.constant_score(truth) == pytest.approx(scoring.macro_f1(truth, constant))


CONSTANT = 0.05
RISE = np.linspace(CONSTANT, 0.8, 30)


@pytest.mark.parametrize(
    ("curve", "epochs", "state"),
    [
        ([*RISE, *[0.7] * 10], 40, "converged"),  # the best is followed by worse epochs
        ([*RISE, *[0.7] * 10], 150, "converged"),  # early stopping ended it
        (RISE, 30, "still rising"),
        (RISE, 31, "converged"),  # one epoch less than allowed: something stopped it
        (RISE, 150, "converged"),  # nothing but early stopping ends a training before its last epoch
        ([*RISE[:-3], 0.9, 0.8, 0.8], 30, "still rising"),  # the best is in the last three of thirty
        ([*RISE[:-3], 0.2, 0.8, 0.8], 30, "still rising"),
        ([*RISE[:-4], 0.9, 0.8, 0.8, 0.8], 30, "converged"),
        ([0.5, 0.6], 2, "still rising"),  # of two epochs the last one counts
        ([0.6, 0.5], 2, "converged"),
        ([CONSTANT] * 30, 30, "did not train"),
        ([CONSTANT + 0.019] * 29 + [CONSTANT], 30, "did not train"),
        ([CONSTANT] * 29 + [CONSTANT + 0.021], 30, "still rising"),
        ([*RISE[:5], np.nan], 30, "diverged"),
        ([CONSTANT, np.nan], 2, "diverged"),
        (RISE, np.inf, "converged"),  # a refit: its epochs were found before
    ],
)
def test_what_became_of_a_training(curve, epochs, state):
    assert scoring.state_of(curve, epochs, CONSTANT) == state


# ---------------------------------------------------------------- confidence


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
