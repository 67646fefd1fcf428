"""Tests of search.py: a study on disk that can be stopped, and bad storages."""

from leaves import search

import pandas as pd
import pytest


def parabola(trial):
    """The spec of a trial, as far as these tests need it."""
    return {"x": trial.suggest_float("x", -10, 10), "epochs": 3}


class Run:
    """A training that ends before the last epoch when it falls below its floor, as `training.StopBelow` does."""

    def __init__(self, spec):
        curve = [10 - abs(spec["x"]) + 0.1 * epoch for epoch in range(3)]
        below = [epoch for epoch, floor in enumerate(spec["floor"]) if max(curve[: epoch + 1]) < floor]
        self.spec, self.result = spec, {"diverged": False}
        self.history = pd.DataFrame({"val_macro_f1": curve[: below[0] + 1] if below else curve})


def train_all(specs):
    return [Run(spec) for spec in specs]


def search_for(study, trials, train=train_all, minutes=1):
    search.run_search(study, parabola, train, trials=trials, minutes=minutes, seed=0, at_once=4)


def outcome(study):
    return [(trial.params, trial.value, trial.state.name) for trial in study.trials]


def test_a_search_stopped_anywhere_goes_on_as_if_never_stopped(tmp_path):
    whole = search.open_study(tmp_path / "whole.db")
    search_for(whole, 14)
    assert len(whole.trials) == 14
    assert "PRUNED" in {state for *_, state in outcome(whole)}
    for last in (0, 3, 6, 9):
        stopped = search.open_study(tmp_path / f"stopped {last}.db")

        def killed(specs, last=last, stopped=stopped):
            for run in train_all(specs):
                if len(stopped.trials) == last:
                    raise SystemExit  # as if the process ended
                yield run

        with pytest.raises(SystemExit):
            search_for(stopped, 14, killed)
        again = search.open_study(tmp_path / f"stopped {last}.db")
        assert len(again.trials) == last
        search_for(again, 14)
        assert outcome(again) == outcome(whole)


def test_the_best_is_near_the_top(tmp_path):
    study = search.open_study(tmp_path / "good.db")
    search_for(study, 40)
    assert abs(study.best_params["x"]) < 0.5


def test_a_finished_search_is_not_searched_again(tmp_path):
    study = search.open_study(tmp_path / "done.db")
    search_for(study, 3)
    search_for(study, 3, lambda _: pytest.fail("searched again"))


def test_no_trial_begins_after_the_time(tmp_path):
    study = search.open_study(tmp_path / "late.db")
    search_for(study, 3, minutes=0)
    assert not study.trials


def test_another_search_space_is_another_search():
    def wider(trial):
        return {"x": trial.suggest_float("x", -20, 20), "epochs": 3}

    names = {search.name_of_search({"size": 32}, suggest) for suggest in (parabola, wider, parabola)}
    assert len(names) == 2
    assert search.name_of_search({"size": 64}, parabola) not in names


def test_a_damaged_file_of_its_own_is_set_aside(tmp_path, capsys):
    whole = search.open_study(tmp_path / "one.db")
    search_for(whole, 4)
    known = outcome(whole)
    (tmp_path / "one.db").write_bytes(b"SQLite format 3\0" + b"?" * 5000)
    again = search.open_study(tmp_path / "one.db")
    assert "one.db is damaged and set aside" in capsys.readouterr().out
    search_for(again, 4)
    assert outcome(again) == known
