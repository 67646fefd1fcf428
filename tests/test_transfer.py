"""Tests of transfer.py: heads and their learning rates, the control, tails, and what they are compared by."""

import functools
from pathlib import Path

from leaves import claims, dataset, files, runs, scoring, training, transfer

import numpy as np
import pytest

LITE = "EfficientNetLite0"
HEAD = [["Dense", {"units": 2, "activation": "softmax"}]]
RATES = [0.0001, 0.0003, 0.001]
ORIGIN = {"kind": "imagenet", "hash": "lite0", "source": "made here", "file": None}


def specs_of(split, rates=RATES, repeats=2, name=LITE, epochs=1):
    views = {"count": 0, "augmentation": None, "seed": 0}
    settings = {"layers": HEAD, "image_size": 32, "epochs": epochs, "patience": None, "balance": "none"}
    return transfer.head_specs(name, ORIGIN, split, rates, 7, repeats, views, **settings)


def run_of(spec, score, kind="imagenet", state="converged"):
    """A run as if it had been trained."""
    result = {"validation_macro_f1": score, "initial_weights": kind, "state": state, "diverged": state == "diverged"}
    return runs.Run(Path(f"{spec['name']}-{runs.spec_hash(spec)}"), spec, result)


def heads_of(split, scores, repeats=2, name=LITE):
    """Heads with the given mean score for each learning rate, which differ between repeats."""
    specs = specs_of(split, scores, repeats, name)
    numbers = np.tile(np.arange(repeats) - (repeats - 1) / 2, len(scores))
    return [
        run_of(spec, scores[spec["optimizer"]["config"]["learning_rate"]] + number / 100)
        for spec, number in zip(specs, numbers, strict=True)
    ]


def repeats_of(scores, state="converged", kind="imagenet", name=LITE):
    return [
        run_of({"name": name, "seed": number, "fold": number}, score, kind, state)
        for number, score in enumerate(scores)
    ]


# ---------------------------------------------------------------- learning rates


def test_every_rate_gets_every_repeat_with_its_seed_and_fold(project):
    specs = specs_of(project, repeats=3)
    found = [(spec["optimizer"]["config"]["learning_rate"], spec["seed"], spec["fold"]) for spec in specs]
    assert found == [(rate, 7 + number, number) for rate in RATES for number in range(3)]


@pytest.mark.parametrize(
    ("scores", "tried"),
    [
        ([0.5, 0.9, 0.6], []),
        ([0.9, 0.6, 0.5], [3e-5]),
        ([0.5, 0.6, 0.9], [3e-3]),
    ],
    ids=["inside", "lower edge", "higher edge"],
)
def test_a_grid_is_widened_where_its_best_rate_lies_at_an_edge(project, scores, tried):
    heads = heads_of(project, dict(zip(RATES, scores, strict=True)))
    wider = transfer.wider_specs(heads, RATES)
    assert [spec["optimizer"]["config"]["learning_rate"] for spec in wider] == [rate for rate in tried for _ in "01"]
    assert [(spec["seed"], spec["fold"]) for spec in wider] == [(7, 0), (8, 1)] * len(tried)
    for spec in wider:  # all but the rate is the same
        assert {key for key in spec if spec[key] != heads[spec["fold"]].spec[key]} == {"optimizer"}


def test_a_single_rate_is_widened_on_both_sides(project):
    wider = transfer.wider_specs(heads_of(project, {0.001: 0.5}, repeats=1), [0.001])
    assert [spec["optimizer"]["config"]["learning_rate"] for spec in wider] == [0.0003, 0.003]


@pytest.mark.parametrize("sign", [1, -1], ids=["the higher the better", "the lower the better"])
def test_a_grid_is_widened_three_times_at_most(project, sign):

    def score(rate):
        return 0.5 + sign * np.log10(rate) / 20

    heads = heads_of(project, {rate: score(rate) for rate in RATES})
    count = len(heads)
    while wider := transfer.wider_specs(heads, RATES):
        heads += [
            run_of(spec, 0.5 + sign * np.log10(spec["optimizer"]["config"]["learning_rate"]) / 20) for spec in wider
        ]
    new = sorted({transfer.rate_of(head) for head in heads[count:]})
    assert new == ([0.003, 0.01, 0.03] if sign > 0 else [3e-6, 1e-5, 3e-5])
    [chosen] = transfer.at_best_rate(heads).values()
    assert [transfer.rate_of(head) for head in chosen] == [new[-1] if sign > 0 else new[0]] * 2


def test_each_backbone_has_a_grid_of_its_own(project):
    heads = heads_of(project, dict(zip(RATES, [0.5, 0.9, 0.6], strict=True)))
    heads += heads_of(project, dict(zip(RATES, [0.5, 0.6, 0.9], strict=True)), name="VGG16")
    assert {spec["name"] for spec in transfer.wider_specs(heads, RATES)} == {"VGG16"}
    chosen = transfer.at_best_rate(heads)
    assert {name: transfer.rate_of(own[0]) for name, own in chosen.items()} == {LITE: 0.0003, "VGG16": 0.001}


def test_a_rate_at_which_a_head_diverged_is_not_chosen(project):
    heads = heads_of(project, dict(zip(RATES, [0.5, 0.6, 0.9], strict=True)))
    heads[-1] = run_of(heads[-1].spec, None, state="diverged")
    assert transfer.rate_of(transfer.at_best_rate(heads)[LITE][0]) == 0.0003
    lost = [run_of(head.spec, None, state="diverged") for head in heads]
    with pytest.raises(files.InputError, match="Heads of EfficientNetLite0 diverged at every learning rate: use lower"):
        transfer.at_best_rate(lost)


# ---------------------------------------------------------------- the control


def test_the_control_differs_in_the_weights_alone(project):
    heads = heads_of(project, {0.001: 0.9})
    for spec, head in zip(transfer.control_specs(heads, 7), heads, strict=True):
        assert {key for key in spec if spec[key] != head.spec[key]} == {"name", "weights"}
        assert runs.spec_hash(spec) != runs.spec_hash(head.spec)


def test_the_signal_of_the_control_does_not_vanish(project):
    [spec] = transfer.control_specs(heads_of(project, {0.001: 0.9}, repeats=1), 7)
    trained, _, _ = training.fit(spec, project, transfer.prepare_control)
    train, held_out = trained.train[0][:], trained.validation[0][:]
    assert train.shape == held_out.shape == (20, 1280)
    assert np.median(train.astype(float).std(axis=0)) > 0.05  # without the photos' statistics it is zero


# ---------------------------------------------------------------- heads and tails


def test_a_tail_goes_on_from_its_head_with_the_same_seed_and_fold(project):
    origin = {"kind": "random", "hash": "random-0", "source": "random numbers", "file": None}
    spec = specs_of(project, [0.001], repeats=2)[1] | {"weights": {"kind": "random", "hash": "random-0"}}
    runs.train_once(spec, project, functools.partial(transfer.prepare_head, origins={LITE: origin}))
    head = runs.find_run(spec)
    tail = transfer.tail_spec(head, project, epochs=5, learning_rate=0.0001, patience=None, balance="none")
    assert (tail["seed"], tail["fold"], tail["epochs"]) == (8, 1, transfer.CHECK_TAIL_EPOCHS)
    trained, history, _ = training.fit(tail | {"epochs": 1}, project, transfer.prepare_tail)
    assert len(history) == 1
    of_fold = dataset.hold_out(project, 1)
    assert (trained.validation[1] == dataset.load_images(of_fold, "validation", 32)[1]).all()
    assert len(trained.train[1]) == (of_fold["split"] == "train").sum()


def test_tails_start_from_the_first_repeats_and_a_check_from_its_one():
    heads = {LITE: repeats_of([0.7, 0.8, 0.9]), "VGG16": repeats_of([0.1], kind="random")}
    assert transfer.starting_heads(heads, 2) == [*heads[LITE][:2], *heads["VGG16"]]
    with pytest.raises(files.InputError, match=r"repeats is 4, but chapter 4 trained only 3"):
        transfer.starting_heads(heads, 4)


# ---------------------------------------------------------------- comparisons


def test_a_comparison_takes_the_pairs_of_repeats():
    models = {"ResNet50": repeats_of([0.9, 0.8, 0.85]), "VGG16": repeats_of([0.7, 0.7, 0.6])}
    row = transfer.higher("ResNet50", "VGG16", models)
    assert row["what"] == "ResNet50 minus VGG16"
    assert row["must be"] == "higher"
    np.testing.assert_allclose(row["differences"], [0.2, 0.1, 0.25])
    [verdict] = claims.judge([{"claim": "C15", "said": "", "figure": "", "comparisons": [row]}], 5)["verdict"]
    assert verdict in ("confirmed", "undecided")


def test_backbones_without_weights_are_not_compared_and_others_still_are():
    models = {"ResNet50": repeats_of([0.9, 0.89, 0.91]), "VGG16": repeats_of([0.4, 0.41, 0.39])}
    comparisons = [transfer.higher("ResNet50", other, models) for other in ("VGG16", "EfficientNetB4")]
    assert comparisons[1] == claims.not_tested("EfficientNetB4 was not trained with ImageNet weights")[0]
    record = {"claim": "C15", "said": "", "figure": "", "comparisons": comparisons}
    [judged] = claims.judge([record], 5).to_dict("records")
    assert judged["verdict"] == "confirmed"
    assert list(transfer.differences_table(comparisons, 5).index) == ["ResNet50 minus VGG16"]
    [judged] = claims.judge([record | {"comparisons": comparisons[1:]}], 5).to_dict("records")
    why = "{} was not trained with ImageNet weights"
    assert (judged["verdict"], judged["reason"]) == ("not tested", why.format("EfficientNetB4"))
    steps = [transfer.higher("VGG16, fine-tuned", other, {}) for other in ("VGG16, head alone", "ResNet50")]
    assert [row["reason"] for row in steps] == [f"not tested: {why.format('VGG16')}"] * 2  # each reason once


def test_differences_have_an_interval_from_two_pairs_on():
    models = {"a": repeats_of([0.5, 0.6, 0.7]), "b": repeats_of([0.4, 0.45, 0.5]), "one": repeats_of([0.9])}
    models["rising"] = repeats_of([0.9, 0.9, 0.9], state="still rising")
    table = transfer.differences_table([transfer.higher("a", other, models) for other in ("b", "one", "rising")], 5)
    assert table["pairs"].tolist() == [3, 1, 0]
    first, second, third = (row for _, row in table.iterrows())
    assert first["low"] < first["difference"] < first["high"]
    assert first["difference"] == pytest.approx(0.15)
    assert transfer.difference_text(first).startswith("+0.150 over 3 pairs that converged (95 % interval ")
    assert transfer.difference_text(second) == "-0.400 (no interval: 1 repeat of 3)"
    assert transfer.difference_text(third) == "not measured (still rising in 3 of 3 repeats)"


def test_tables_tell_the_states_of_the_repeats():
    mixed = [*repeats_of([0.8, 0.9]), *repeats_of([0.7], state="still rising")]
    assert scoring.count_states(run.result["state"] for run in mixed) == "2 converged, 1 still rising"
    assert transfer.mean_score(mixed) == pytest.approx(0.8)
    assert np.isnan(transfer.mean_score(repeats_of([None], state="diverged")))
