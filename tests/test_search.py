"""Tests of search.py: the search cannot lose against FinalModel, trains nothing twice and replays itself."""

import hashlib
import json
from pathlib import Path
from unittest.mock import patch

from leaves import claims, custom_cnn, runs, search
from leaves.figures import search as figures

import numpy as np
import pandas as pd
import pytest

SETTINGS = custom_cnn.final_model_settings(
    [16, 32, 64, 128, 256], {"flip": True, "rotation": 9, "shift": 0, "zoom": 0}, 0.001, patience=10, balance="none"
)
FINAL_POINT = search.final_point(SETTINGS)
FULL, FIRST, REPEATS = 36, 4, 3


def small_spec(chapter, name, split, size, epochs, seed, fold, **changes):
    return changes | {"epochs": epochs, "seed": seed, "fold": fold}


@pytest.fixture
def split():
    """A split of 14 classes that names no photos."""
    table = pd.DataFrame({"label": [f"species {number:02d}" for number in range(14)]})
    table.attrs.update(classes=[*table["label"]], hash="0", folds=5)
    return table


@pytest.fixture
def small(monkeypatch):
    """Specs that Keras does not check, which takes most of the time."""
    monkeypatch.setattr(search, "cnn_spec", small_spec)


def suggest(trial, rates):
    trial.suggest_categorical("width", [0.5, 1.0, 1.5])
    trial.suggest_int("depth", *search.depths(SETTINGS["filters"], 64))
    trial.suggest_categorical("activation", ["LeakyReLU", "ReLU", "ELU"])
    trial.suggest_categorical("kernel size", [3, 5])
    trial.suggest_categorical("initializer", ["glorot_uniform", "he_uniform"])
    trial.suggest_float("dropout", 0, 0.6)
    trial.suggest_categorical("dense units", [128, 256, 512])
    trial.suggest_categorical("L2", [0.0, 1e-5, 1e-4, 1e-3])
    trial.suggest_categorical("augmentation", ["FinalModel's", "flips", "the original's"])
    trial.suggest_float("learning rate", *rates, log=True)
    return search.changes_of(trial.params, SETTINGS)


def is_final(spec):
    """Whether a spec is FinalModel's, at whatever budget."""
    return "kernel_size" not in spec


def rate_of(spec):
    return spec["optimizer"]["config"]["learning_rate"]


def chance(spec):
    """A number from 0 to 1 that a spec decides."""
    return int(hashlib.sha256(json.dumps(spec, sort_keys=True).encode()).hexdigest()[:8], 16) / 16**8


class World:
    """Trainings with made-up scores: `measure` gives the (score, state) of a spec, or its score alone."""

    def __init__(self, measure):
        self.measure, self.runs, self.calls = measure, {}, []

    def train_all(self, specs, split, prepare, needs=runs.WEIGHTS):
        self.calls.append([spec for spec in specs if json.dumps(spec) not in self.runs])
        for spec in self.calls[-1]:
            self.runs[json.dumps(spec)] = self.run(spec)
        return [self.runs[json.dumps(spec)] for spec in specs]

    def run(self, spec):
        found = self.measure(spec)
        score, state = found if isinstance(found, tuple) else (found, "converged")
        result = {"validation_macro_f1": None if state == "diverged" else score, "state": state}
        return runs.Run(Path(), spec, result)

    def search(self, split, trials=12, first=FIRST, repeats=REPEATS, seed=0, settings=SETTINGS):
        folds = [runs.repeat(number, seed, split) for number in range(repeats)]
        specs = [small_spec("02", "FinalModel", split, 64, FULL, **fold, **settings) for fold in folds]
        self.final, self.calls = self.train_all(specs, split, None), []
        of_search = (settings, 64, FULL, trials, first, seed, repeats)
        with patch.object(search, "cut_short", self.cut_short):
            return search.search_final_model(suggest, self.train_all, split, self.final, *of_search)

    def cut_short(self, run, epochs):
        return run if epochs == FULL else self.run(run.spec | {"epochs": epochs})

    def trained(self):
        return [spec for call in self.calls for spec in call]


def table_of(found):
    return found.rounds.to_json(orient="records")


# ---------------------------------------------------------------- it cannot lose


@pytest.mark.parametrize("seed", range(30))
def test_the_winner_is_never_below_final_model(seed, small, split):
    def measure(spec):
        number = chance(spec | {"world": seed})
        state = ["diverged", "did not train", "still rising", "converged"][
            int(np.searchsorted([0.1, 0.2, 0.5], number))
        ]
        return number if state != "did not train" else 0.01, state

    world = World(measure)
    found = world.search(split, trials=2 + seed % 9, repeats=1 + seed % 3, seed=seed)
    assert search.score(found.runs) >= search.score(world.final)
    assert len(found.runs) == 1 + seed % 3
    assert [run.spec["fold"] for run in found.runs] == [*range(1 + seed % 3)]
    assert {run.spec["epochs"] for run in found.runs} == {FULL}
    if found.number != search.FINAL:
        assert search.score(found.runs) > search.score(world.final)
        assert {run.result["state"] for run in found.runs} <= {"converged", "still rising"}


def kept(world, found):
    return found.number == search.FINAL and found.winner == {} and found.runs == world.final


def test_final_model_stays_if_every_challenger_is_worse(small, split):
    world = World(lambda spec: 0.8 if is_final(spec) else 0.79 * chance(spec))
    found = world.search(split)
    assert kept(world, found)
    assert "no other network beat its validation macro F1 of 0.800 (mean of 3 repeats)" in figures.finding(found)


def test_final_model_stays_if_short_rounds_mislead(small, split):
    """Challengers learn faster, and stop lower: by short rounds alone FinalModel would be out at once."""
    world = World(lambda spec: 0.8 * spec["epochs"] / FULL if is_final(spec) else 0.6 + 0.1 * chance(spec))
    assert kept(world, world.search(split))


def test_final_model_stays_if_one_fold_misleads(small, split):
    """On fold 0 the challengers are better, on the others much worse."""
    world = World(lambda spec: 0.7 if is_final(spec) else 0.9 if spec["fold"] == 0 else 0.1)
    found = world.search(split)
    assert kept(world, found)
    assert found.rounds["score"].max() == pytest.approx(0.9)


@pytest.mark.parametrize("state", ["diverged", "did not train"])
@pytest.mark.parametrize("of_final", [0.5, 0.05])
def test_final_model_stays_if_all_others_fail(state, of_final, small, split):
    """Also against a challenger that stands a little above it without having learnt anything."""
    world = World(lambda spec: of_final if is_final(spec) else (0.06, state))
    assert kept(world, world.search(split))


def test_final_model_stays_if_nothing_trains(small, split):
    world = World(lambda spec: (0.0, "diverged"))
    found = world.search(split)
    assert kept(world, found)
    assert set(found.rounds["number"][found.rounds["round"] > 1]) == {search.FINAL}  # the others end after one round


def test_a_tie_is_final_models(small, split):
    world = World(lambda spec: 0.5)
    assert kept(world, world.search(split))


# ---------------------------------------------------------------- it finds


def test_a_better_network_wins_by_its_mean_over_the_repeats(small, split):
    world = World(lambda spec: 0.5 if is_final(spec) else 0.55 + 0.3 * spec["dropout"][0] + 0.01 * spec["fold"])
    found = world.search(split, trials=27)
    assert found.winner["dropout"][0] > 0.4
    assert [run.spec["seed"] for run in found.runs] == [0, 1, 2]
    gain = np.mean([run.result["validation_macro_f1"] for run in found.runs]) - 0.5
    assert f"difference of {gain:+.3f} is optimistic" in figures.finding(found)
    last = found.rounds[found.rounds["round"] == found.rounds["round"].max()]
    assert set(last["repeats"]) == {3}
    assert found.number == last.set_index("number")["score"].idxmax()


def test_only_those_close_to_the_best_are_repeated(small, split):
    world = World(lambda spec: 0.5 if is_final(spec) else 0.5 + 0.4 * chance({"dropout": spec["dropout"]}))
    found = world.search(split, trials=27, first=FULL)
    first, last = (of_round.set_index("number")["score"] for _, of_round in found.rounds.groupby("round"))
    close = first[first >= first.max() - claims.MARGIN].index
    assert 1 < len(close) < 12
    assert {*last.index} == {search.FINAL, *close}


def test_the_rounds_shrink_by_three_and_grow_by_three(small, split):
    world = World(lambda spec: 0.9 if is_final(spec) else chance(spec) / 2)
    found = world.search(split, trials=29)
    sizes = found.rounds.groupby(["round", "epochs", "repeats"])["number"].nunique().head(3)
    assert sizes.to_dict() == {(1, 4, 1): 29, (2, 12, 1): 11, (3, 36, 1): 5}
    assert found.rounds.groupby("round")["number"].agg(lambda of_round: search.FINAL in set(of_round)).all()
    at_once = [len(call) for call in world.calls if call]
    assert at_once[:8] == [3, *[4] * 6, 1]
    assert at_once[8:10] == [10, 4]  # a round is one list
    assert not [spec for spec in world.trained() if is_final(spec)]  # its training is known from chapter 2


@pytest.mark.parametrize(
    ("first", "full", "budgets"),
    [(4, 36, [4, 12, 36]), (6, 50, [6, 17, 50]), (4, 150, [4, 13, 45, 150]), (1, 2, [1, 2]), (8, 8, [8]), (9, 4, [4])],
)
def test_the_last_round_has_the_full_budget(first, full, budgets):
    assert search.round_budgets(first, full) == budgets


@pytest.mark.parametrize(
    ("epochs", "score", "state"), [(2, 0.3, "still rising"), (3, 0.3, "converged"), (5, 0.9, "converged")]
)
def test_a_shorter_training_is_the_beginning_of_a_longer_one(tmp_path, epochs, score, state):
    pd.DataFrame({"val_macro_f1": [0.1, 0.3, 0.2, 0.9, 0.8]}).to_csv(tmp_path / "history.csv", index=False)
    whole = runs.Run(tmp_path, {"epochs": 5}, {"validation_macro_f1": 0.9, "state": "converged"})
    found = search.cut_short(whole, epochs)
    assert (found.result["validation_macro_f1"], found.result["state"]) == (score, state)
    assert found.spec["epochs"] == epochs


# ---------------------------------------------------------------- it replays


def test_a_search_stopped_anywhere_replays_itself(small, split):
    whole = World(chance)
    expected, count = table_of(whole.search(split)), len(whole.trained())
    for last in range(0, count, 3):
        world = World(chance)

        def killed(spec, world=world, last=last):
            if len(world.runs) == last + REPEATS:
                raise SystemExit  # as if the process ended
            return chance(spec)

        world.measure = killed
        with pytest.raises(SystemExit):
            world.search(split)
        world.measure = chance
        before = len(world.runs)
        assert table_of(world.search(split)) == expected
        assert len(world.trained()) == len(whole.runs) - before


def test_more_trials_go_on_after_those_that_were_trained(small, split):
    world = World(lambda spec: 0.9 if is_final(spec) else chance(spec) / 2)
    few = world.search(split, trials=8).rounds.query("round == 1")
    more = world.search(split, trials=16).rounds.query("round == 1")
    assert table_of(search.Search(None, few, 0, {}, [])) == table_of(search.Search(None, more.head(8), 0, {}, []))
    assert len([spec for spec in world.trained() if spec["epochs"] == FIRST]) == 8


# ---------------------------------------------------------------- its space


def test_final_model_is_a_point_of_the_space(split):
    of_final = custom_cnn.cnn_spec("03", "trial", split, 64, 4, 0, **SETTINGS)
    changes = search.changes_of(search.final_point(SETTINGS), SETTINGS)
    assert custom_cnn.cnn_spec("03", "trial", split, 64, 4, 0, **SETTINGS | changes) == of_final


def test_the_first_trial_is_final_model(split):
    world = World(lambda spec: 0.5)
    found = world.search(split, trials=5)
    assert found.study.trials[0].params == search.final_point(SETTINGS)
    others = world.calls[0]
    assert len(others) == search.AT_ONCE - 1
    assert {spec["balance"] for spec in others} == {SETTINGS["balance"]}


@pytest.mark.parametrize("filters", [[1], [7, 20], [16, 32, 64, 128, 256], [2048] * 6])
def test_every_point_can_be_built(filters, split):
    settings = SETTINGS | {"filters": filters}
    for size in (32, 64):
        low, high = search.depths(filters, size)
        for depth, width in ((low, 0.5), (min(high, 7), 1.5)):
            point = search.final_point(settings) | {"depth": depth, "width": width}
            if 2 ** len(filters) <= size:
                custom_cnn.cnn_spec("03", "t", split, size, 1, 0, **settings | search.changes_of(point, settings))


def test_width_and_depth_change_final_models_filters():
    point = search.final_point(SETTINGS) | {"width": 1.5, "depth": 6}
    assert search.changes_of(point, SETTINGS)["filters"] == [24, 48, 96, 192, 384, 768]
    assert search.changes_of(point | {"width": 0.5, "depth": 3}, SETTINGS)["filters"] == [8, 16, 32]


@pytest.mark.parametrize("sign", [1, -1])
def test_a_winner_at_an_edge_widens_the_range_on_its_side(sign, small, split):
    found = World(lambda spec: 0.5 + sign * 0.1 * np.log10(rate_of(spec)) / 3).search(split, trials=16, seed=1)
    low, high = search.LEARNING_RATES
    spaces = [trial.distributions["learning rate"] for trial in found.study.trials]
    assert {(space.low, space.high) for space in spaces[:16]} == {(low, high)}
    wider = (low, high * search.WIDER) if sign > 0 else (low / search.WIDER, high)
    assert {(space.low, space.high) for space in spaces[16 : 16 + search.AT_ONCE]} == {wider}


def test_the_range_is_widened_at_most_twice(small, split, monkeypatch):
    monkeypatch.setattr(search, "EDGE", 0.5)  # every winner lies at one
    found = World(lambda spec: 0.1 if is_final(spec) else chance(spec)).search(split)
    assert len(found.study.trials) == 12 + search.WIDENINGS * search.AT_ONCE


@pytest.mark.parametrize("seed", range(8))
def test_a_wider_range_loses_no_earlier_winner(seed, small, split, monkeypatch):
    monkeypatch.setattr(search, "EDGE", 0.5)
    world = World(lambda spec: chance(spec | {"world": seed}))
    found, repeats = world.search(split, seed=seed), {}
    for run in world.runs.values():
        if run.spec["epochs"] == FULL:
            point = json.dumps({key: run.spec[key] for key in run.spec if key not in ("seed", "fold")})
            repeats.setdefault(point, []).append(run)
    means = [search.score(of_point) for of_point in repeats.values() if len(of_point) == REPEATS]
    assert search.score(found.runs) == pytest.approx(max(means))


def test_a_winner_in_the_middle_widens_nothing(small, split):
    world = World(lambda spec: 0.9 - 0.1 * abs(np.log10(rate_of(spec)) + 3.2))
    found = world.search(split, trials=16)
    assert found.number != search.FINAL
    assert len(found.study.trials) == 16


def test_the_range_holds_final_models_own_learning_rate(small, split):
    own = custom_cnn.final_model_settings(SETTINGS["filters"], None, 0.1, patience=10, balance="none")
    found = World(lambda spec: float(is_final(spec))).search(split, settings=own)
    assert {trial.distributions["learning rate"].high for trial in found.study.trials} == {0.1}
    assert found.study.trials[0].params == search.final_point(own)


# ---------------------------------------------------------------- its table


def test_the_table_names_final_model_among_the_trials(small, split):
    found = World(lambda spec: 0.5 + 0.1 * chance(spec) + 0.05 * np.log10(rate_of(spec))).search(split, trials=30)
    shown = figures.style_rounds(found)
    assert "trial 0 is FinalModel" in shown.to_html()
    assert len(shown.data) == 10
    unlike = shown.data.set_index("trial")["differs from FinalModel in"]
    assert (unlike == "no setting").sum() == (search.FINAL in unlike.index)
    for number, text in unlike.items():
        changed = {name for name, value in found.study.trials[number].params.items() if value != FINAL_POINT[name]}
        assert all(f"{name} " in text for name in changed)


def test_a_point_is_told_by_its_differences_from_final_model():
    assert figures.point_in_words(FINAL_POINT, FINAL_POINT) == "no setting"
    assert figures.point_in_words(FINAL_POINT | {"L2": 0.001, "depth": 9}, FINAL_POINT) == "depth 9, L2 0.001"


def test_a_search_of_final_model_alone_is_called_none(small, split):
    found = World(lambda spec: 0.8).search(split, trials=1)
    assert found.number == search.FINAL
    assert figures.finding(found) == "There was no search, because FinalModel was the only trial."
