"""Tests of search.py: a study on disk that can be stopped, and bad storages."""

import helpers  # before Keras, whose settings it makes

# isort: split
import optuna
import pytest

import search


def parabola(trial):
    x = trial.suggest_float("x", -10, 10)
    for step in range(3):
        trial.report(-abs(x) - 3 + step, step)
        if trial.should_prune():
            raise optuna.TrialPruned
    return -abs(x)


def outcome(study):
    finished = study.get_trials(states=search.FINISHED)
    return [(trial.params, trial.value, trial.state.name) for trial in finished]


def test_a_stopped_search_goes_on_as_if_never_stopped(tmp_path):
    whole = search.open_study(tmp_path / "whole.db", "one")
    search.run_search(whole, parabola, trials=12, minutes=1, seed=0)
    assert "PRUNED" in {state for *_, state in outcome(whole)}

    calls = []

    def killed(trial):
        calls.append(trial)
        if len(calls) == 8:
            trial.suggest_float("x", -10, 10)
            raise SystemExit  # as if the process ended; the trial is left behind
        return parabola(trial)

    stopped = search.open_study(tmp_path / "stopped.db", "one")
    with pytest.raises(SystemExit):
        search.run_search(stopped, killed, trials=12, minutes=1, seed=0)
    again = search.open_study(tmp_path / "stopped.db", "one")
    search.run_search(again, parabola, trials=12, minutes=1, seed=0)
    assert outcome(again) == outcome(whole)


def test_a_finished_search_is_not_searched_again(tmp_path):
    study = search.open_study(tmp_path / "done.db", "one")
    search.run_search(study, parabola, trials=3, minutes=1, seed=0)
    search.run_search(study, lambda _: pytest.fail("searched again"), trials=3, minutes=1, seed=0)


def test_no_trial_begins_after_the_time(tmp_path):
    study = search.open_study(tmp_path / "late.db", "one")
    search.run_search(study, parabola, trials=3, minutes=0, seed=0)
    assert not study.trials


def test_a_storage_of_another_study_is_named(tmp_path):
    search.open_study(tmp_path / "other.db", "theirs")
    with pytest.raises(helpers.InputError, match=r"other.db holds the search theirs, not ours: move it away"):
        search.open_study(tmp_path / "other.db", "ours")


def test_a_file_that_is_no_storage_is_named(tmp_path):
    (tmp_path / "text.db").write_text("no database at all, but long enough to be taken for one " * 20)
    with pytest.raises(helpers.InputError, match=r"text.db is no storage that Optuna can read"):
        search.open_study(tmp_path / "text.db", "ours")
