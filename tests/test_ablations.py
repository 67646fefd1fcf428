"""Chapter 3's machinery: which variants are trained, their paired differences, and the evidence on claims."""

import itertools
from types import SimpleNamespace

from leaves import ablations, claims, plots, refit
from leaves.custom_cnn import cnn_specs, final_model_settings
from leaves.figures import ablations as figures
from leaves.files import InputError
from leaves.runs import spec_hash

import numpy as np
import pandas as pd
import pytest

VARIANTS = {"ReLU": {"activation": ["ReLU", {}]}, "no dropout": {"dropout": [0, 0]}, "MixUp": {"mixup": 0.2}}
FLIPS = {"flip": True, "rotation": 0, "shift": 0, "zoom": 0}
SETTINGS = {"patience": 3, "batch_size": 8, "balance": "none", "precision": "float32"}


def base_of(split):
    return {"split": split, "size": 32, **final_model_settings([4, 8], FLIPS, 0.001, **SETTINGS)}


def run_of(name, score, fold=0, state="converged", train=0.9, seconds=30.0, epochs=20):
    result = {"state": state, "validation_macro_f1": score, "train_macro_f1": train, "params": 100, "epochs": epochs}
    result |= {"best_epoch": 12, "train_seconds": seconds}
    history = pd.DataFrame({"epoch": range(1, 4), "val_macro_f1": [0.1, 0.2, score]})
    spec = {"fold": fold, "seed": fold, "image_size": 32, "name": name}
    return SimpleNamespace(spec=spec, result=result, history=history, name=name)


def runs_of(name, scores, **facts):
    return [run_of(name, score, fold, **facts) for fold, score in enumerate(scores)]


def test_names_choose_what_is_trained():
    chosen = ablations.chosen_variants(VARIANTS, {"mine": {"l2": 0.1}}, ["no dropout", "ReLU"], set())
    assert chosen == ["ReLU", "no dropout", "mine"]
    every = ablations.chosen_variants(VARIANTS, {}, "all", {"MixUp"})
    assert every == ["ReLU", "no dropout", "more data"]


@pytest.mark.parametrize(
    ("own", "names", "sentence"),
    [
        ({}, ["no dropuot"], "no variant 'no dropuot' .did you mean no dropout"),
        ({"ReLU": {}}, [], "own_variants has the name 'ReLU', already used in this chapter"),
        ({"FinalModel": {}}, [], "own_variants has the name 'FinalModel'"),
    ],
)
def test_a_wrong_name_is_one_sentence(own, names, sentence):
    with pytest.raises(InputError, match=sentence):
        ablations.chosen_variants(VARIANTS, own, names, set())


def test_final_model_is_the_training_of_chapter_2_and_waits_for_it(project):
    base = base_of(project)
    groups = ablations.group_variants(VARIANTS, ["ReLU", "MixUp"])
    specs = ablations.variant_specs(groups, base, epochs=4, seed=7, repeats=5, claimed={"ReLU"})
    assert [*specs] == ["ReLU", "MixUp", "FinalModel"]
    assert [len(of_name) for of_name in specs.values()] == [5, 3, 5]  # no claim is about MixUp
    assert [(spec["seed"], spec["fold"]) for spec in specs["ReLU"]] == [(7 + fold, fold) for fold in range(5)]
    settings = {key: value for key, value in base.items() if key not in ("split", "size")}
    of_chapter_2 = cnn_specs("02", "FinalModel", project, 32, 4, 7, 5, **settings)
    assert [*map(spec_hash, specs["FinalModel"])] == [*map(spec_hash, of_chapter_2)]


def test_equal_updates_take_more_epochs(project):
    longer = {"batch": {"batch_size": 32, "epochs": 16, "patience": 12}}
    groups = ablations.group_variants(longer, ["batch"])
    [spec, *_] = ablations.variant_specs(groups, base_of(project), 4, 0, 3, set())["batch"]
    assert (spec["epochs"], spec["patience"], spec["batch_size"], spec["log_layers"]) == (16, 12, 32, False)


def test_differences_are_of_pairs():
    runs = {"better": runs_of("better", [0.61, 0.72, 0.83]), "FinalModel": runs_of("FinalModel", [0.5, 0.6, 0.7])}
    runs["rising"] = runs_of("rising", [0.9, 0.9, 0.9], state="still rising")
    table = ablations.differences_to_final(runs, 5)
    assert table.loc["better", "difference"] == pytest.approx(0.12)
    assert table.loc["better", "low"] < 0.12 < table.loc["better", "high"]
    assert pd.isna(table.loc["better", "reason"])
    assert table.loc["rising", "reason"] == "still rising in 3 of 3 repeats"
    assert np.isnan(table.loc["rising", "difference"])


def comparison():
    runs = {"ReLU": runs_of("ReLU", [0.61, 0.72, 0.83]), "no dropout": runs_of("no dropout", [0.5, 0.7, 0.6])}
    runs["MixUp"] = runs_of("MixUp", [0.6, 0.7], train=0.95)
    runs["FinalModel"] = runs_of("FinalModel", [0.5, 0.6, 0.7])
    groups = ablations.group_variants(VARIANTS, [*VARIANTS])
    trainings = ablations.variant_trainings(runs, groups)
    return runs, groups, ablations.comparison_table(trainings, ablations.differences_to_final(runs, 5))


def test_means_are_those_of_converged_trainings_as_the_differences_are():
    mixed = [*runs_of("ReLU", [0.6, 0.7]), *runs_of("ReLU", [0.9], state="still rising")]
    runs = {"ReLU": mixed, "MixUp": runs_of("MixUp", [0.3, 0.5], state="still rising")}
    runs["FinalModel"] = runs_of("FinalModel", [0.5, 0.6, 0.1])
    trainings = ablations.variant_trainings(runs, ablations.group_variants(VARIANTS, [*VARIANTS]))
    table = ablations.comparison_table(trainings, ablations.differences_to_final(runs, 5))
    assert table.loc["ReLU", "validation"] == pytest.approx(0.65)
    assert table.loc["ReLU", "difference"] == pytest.approx(0.1)
    assert table.loc["ReLU", "trainings"] == "2 converged, 1 still rising"
    assert table.loc["MixUp", "validation"] == pytest.approx(0.4)  # no training converged: the mean of all


def test_the_drawn_names_and_numbers_are_those_of_the_table():
    _, _, table = comparison()
    assert table.loc["FinalModel", "trainings"] == "3 converged"
    assert (table["gap"] - (table["train"] - table["validation"])).abs().max() < 1e-12
    figure, _, drawn = figures.plot_differences(table)
    plots.check_drawn(figure, drawn)
    figure, _ = figures.plot_gaps(table)
    plots.check_drawn(figure, table[["validation", "train"]])


def test_swapped_names_are_found():
    figure, _, drawn = figures.plot_differences(comparison()[2])
    with pytest.raises(ValueError, match="the figure shows"):
        plots.check_drawn(figure, drawn.set_axis(drawn.index[::-1]))


def test_a_claim_whose_variant_was_not_trained_says_what_it_would_cost():
    runs = {"ReLU": runs_of("ReLU", [0.6, 0.7, 0.8]), "FinalModel": runs_of("FinalModel", [0.5, 0.6, 0.7])}
    variants = VARIANTS | {"large": {"image_size": 64}, "slow": {"epochs": 80}}
    costs = ablations.training_costs(variants, [*runs], {"slow"}, runs["FinalModel"], {"size": 32}, 20, 4)
    assert costs["no dropout"] == "would take about 2 min"  # four repeats of half a minute
    assert costs["large"] == "would take about 8 min"
    assert costs["more data"] == "would take about 4 min"
    assert costs["slow"] == "cannot be trained at 32 pixels"
    assert "ReLU" not in costs
    said = {"C1": "said", "C2": "said"}
    evidence = {"C1": ("macro F1", "higher", ["ReLU"]), "C2": ("macro F1", "lower", ["ReLU", "large"])}
    records = ablations.claim_records(said, evidence, runs, ablations.score_functions(), costs)
    table = claims.judge(records, 5).set_index("claim")
    assert table.loc["C1", "verdict"] == "confirmed"
    assert table.loc["C2", "verdict"] == "not tested"
    assert table.loc["C2", "reason"] == "not trained: large (would take about 8 min)"
    records = ablations.claim_records(said, evidence, runs, {}, costs, {"C1": "another size"})
    assert claims.judge(records, 5).loc[0, ["verdict", "reason"]].tolist() == ["not tested", "another size"]


@pytest.mark.parametrize(
    ("gains", "verdict"),
    [([0.1, 0.101, 0.1], "confirmed"), ([0.0, 0.001, 0.002], "refuted"), ([0.1, 0.2, -0.1], "undecided")],
)
def test_c13_asks_for_the_gain_that_the_study_reports(gains, verdict):
    record = refit.refit_record("said", {"differences": gains, "reason": None}, None)
    row = claims.judge([record], 5).loc[0]
    assert row["verdict"] == verdict
    assert row["reason"] == {"refuted": "it is lower than 0.1"}.get(verdict, row["reason"])


def networks(ranks):
    """Accuracies 0.80, 0.81 ... in each fold, with macro F1 scores in another order."""
    rows = [
        {"variant": str(number), "fold": fold, "accuracy": 0.8 + number / 100, "macro F1": rank / 10, "missed": number}
        for fold, order in enumerate(ranks)
        for number, rank in enumerate(order)
    ]
    return pd.DataFrame(rows)


@pytest.mark.parametrize(
    ("ranks", "verdict"),
    [
        ([[*range(8)]] * 3, "refuted"),  # accuracy ranks them as macro F1 does
        ([[*range(8, 0, -1)]] * 3, "confirmed"),
        ([[*range(8)]] * 2, "undecided"),
        ([[*range(7)]] * 3, "undecided"),
    ],
)
def test_c12_asks_whether_both_scores_rank_alike(ranks, verdict):
    record = ablations.accuracy_record("said", networks(ranks))
    assert claims.judge([record], 5).loc[0, "verdict"] == verdict
    assert record["note"].startswith(f"{(len(ranks[0]) - 1) * len(ranks)} of {len(ranks[0]) * len(ranks)} trainings")


def test_c12_ranks_the_same_networks_in_every_fold():
    """Whatever else was trained in some of the folds, or did not converge in one, changes nothing."""
    table = networks([[*range(8)]] * 5)
    extra = table[table["fold"] < 3].assign(variant="optional", accuracy=0.99, **{"macro F1": 0.01})
    [alone], [beside] = (
        ablations.accuracy_record("said", rows)["comparisons"] for rows in (table, pd.concat([table, extra]))
    )
    assert beside == alone
    assert "over 8 networks" in alone["what"]
    [fewer] = ablations.accuracy_record("said", table.drop(index=table.index[0]))["comparisons"]
    assert fewer["reason"].endswith("(networks: 7)")


def test_the_refit_scores_photos_that_chose_nothing(project):
    specs = []

    def train_all(queue, split, prepare, needs):
        specs.append(queue)
        return [SimpleNamespace(spec=spec, result={"best_epoch": 3, "state": "converged"}) for spec in queue]

    before, after = refit.train_refits(train_all, base_of(project), epochs=9, seed=2, repeats=3, prepare=None)
    for first, second in zip(before, after, strict=True):
        assert second.spec["fold"] == first.spec["without"] != first.spec["fold"]
        assert (second.spec["epochs"], second.spec["patience"]) == (3, None)
        assert second.spec["seed"] == first.spec["seed"]
    assert len({*map(spec_hash, itertools.chain(*specs))}) == 6


def test_a_refit_counts_though_its_score_still_rises(project):
    read = {"truth": np.array([0, 1]), "prediction": np.array([0, 1])}
    first = SimpleNamespace(folder="before", result={"state": "converged", "diverged": False}, reading=lambda *_: read)
    second = SimpleNamespace(spec={"fold": 0}, result={"state": "still rising", "validation_macro_f1": 0.9})
    gain = refit.gain_of_more_data([first] * 3, [second] * 3, project)
    assert gain["reason"] is None
    np.testing.assert_allclose(gain["differences"], [-0.1] * 3)
    first.result["state"] = "still rising"
    assert refit.gain_of_more_data([first] * 3, [second] * 3, project)["differences"] == []
