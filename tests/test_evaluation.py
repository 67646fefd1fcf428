"""Chapter 6: models that are compared, costs that count shared parts once, evidence, probes, worse photos."""

import re
from pathlib import Path
from types import SimpleNamespace

from conftest import paint
from leaves import (
    any_background,
    cache,
    claims,
    costs,
    evaluation,
    evidence,
    explain,
    external,
    robustness,
    scoring,
)
from leaves.figures import comparison
from leaves.figures import costs as cost_figures
from leaves.files import InputError

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.metrics import f1_score


def run(name, params, trainable, seconds, **more):
    result = {"params": params, "trainable_params": trainable, "train_seconds": seconds, **more}
    return SimpleNamespace(name="VGG16", folder=Path(name), result=result, spec={"backbone": "VGG16"})


CUSTOM = costs.cost_parts(run("custom", 50, 50, 7), {"whole": 2})
HEAD = run("head", 1100, 90, 3, seconds_before=20, parts={"front": 1000, "last block": 10, "head": 90})
TAIL = run("tail", 1100, 100, 5, seconds_before=23)
TRANSFER = costs.cost_parts(HEAD, {"whole": 10, "front": 8})
FINE = costs.cost_parts(TAIL, {"whole": 10, "front": 8}, HEAD)


@pytest.mark.parametrize(
    ("models", "params", "trainable", "seconds", "milliseconds"),
    [
        ([CUSTOM], 50, 50, 7, 2),
        ([TRANSFER], 1100, 90, 23, 10),
        ([FINE], 1100, 100, 28, 10),
        ([TRANSFER, FINE], 1200, 190, 28, 12),  # the frozen part, its features and the head's training once
        ([FINE, TRANSFER, CUSTOM], 1250, 240, 35, 14),
        ([FINE, FINE], 1100, 100, 28, 10),
    ],
)
def test_an_ensemble_counts_what_its_members_share_once(models, params, trainable, seconds, milliseconds):
    total = costs.total_cost(*models)
    assert list(total.values()) == [params, trainable, seconds, milliseconds]


def test_an_ensemble_of_a_network_and_its_teacher_counts_the_teacher_once():
    """28 seconds teach, 7 distil; a teacher that is no model of the chapter brings the sum that the run recorded."""
    small = run("small", 50, 50, 7, teacher_seconds=28)
    small.spec["teacher"] = {"run": "tail 0123"}
    small.name, TAIL.name, TAIL.spec["starts_from"] = "small", "VGG16", "head 0123"
    models = {"VGG16, transfer learning": HEAD, "VGG16, fine tuning": TAIL}
    with_teacher = costs.cost_parts(small, {"whole": 2}, teacher=costs.teacher_parts(models, small))
    assert costs.total_cost(with_teacher)["train_seconds"] == 35
    assert costs.total_cost(with_teacher, FINE) == {
        "params": 1150, "trainable_params": 150, "train_seconds": 35, "ms_per_image": 12
    }  # fmt: skip
    alone = costs.cost_parts(small, {"whole": 2}, teacher=costs.teacher_parts({}, small))
    assert costs.total_cost(alone)["train_seconds"] == 35


# ---------------------------------------------------------------- models


def trained(name, score=0.5, chapter="02", weights="none", folder=None, state="converged", **more):
    """A run by what chapter 6 asks of it; `more` goes to its spec, but for its number of params."""
    result = {"validation_macro_f1": score, "initial_weights": weights, "state": state, "diverged": state == "diverged"}
    result |= {"params": more.pop("params", 10)}
    spec = {"name": name, "chapter": chapter, **more}
    return SimpleNamespace(name=name, folder=Path(folder or f"{chapter}-{name}-{score}"), spec=spec, result=result)


def on_backbone(name, chapter, score=0.5, weights="imagenet", **more):
    return trained(name, score, chapter, weights, backbone=name, **more)


@pytest.fixture
def recorded():
    """What four chapters recorded: a control, a distilled network and a search that found nothing better."""
    final, head = trained("FinalModel", 0.6), on_backbone("ResNet50", "04", 0.7, params=500)
    control = on_backbone("VGG16", "04", 0.9, "random")
    return {
        "02": {"FinalModel": final, "FinalModel (refit)": trained("FinalModel (refit)", 1.0, refit={"folds": 20})},
        "03": {"FinalModel (tuned)": trained("FinalModel (tuned)", 0.6, "03", folder=final.folder)},
        "04": {"ResNet50": head, "VGG16": control},
        "05": {
            "ResNet50": on_backbone("ResNet50", "05", 0.8, starts_from=f"{head.folder.name} 12ab", params=500),
            "VGG16": on_backbone("VGG16", "05", 0.9, "random", starts_from=f"{control.folder.name} 34cd"),
            "FinalModel (distilled)": trained("FinalModel (distilled)", 0.65, "05"),
        },
    }


def test_a_network_from_pixels_has_no_step_in_its_label_whatever_its_chapter(recorded):
    models = evaluation.label_models(recorded)
    custom = ["FinalModel", "FinalModel (refit)", "FinalModel (tuned)"]
    heads = ["ResNet50, transfer learning", "VGG16, transfer learning"]
    tails = ["ResNet50, fine tuning", "VGG16, fine tuning", "FinalModel (distilled)"]
    assert list(models) == [*custom, *heads, *tails]
    starts = {label: evaluation.transfer_of(models, run) for label, run in models.items()}
    assert starts == dict.fromkeys(models) | {tail: models[head] for head, tail in zip(heads, tails[:2], strict=True)}
    recorded["04"]["ResNet50"] = on_backbone("ResNet50", "04", 0.71)
    with pytest.raises(InputError, match="Chapter 5 did not start from the heads that chapter 4 recorded"):
        evaluation.label_models(recorded)


def test_controls_and_second_labels_are_not_compared_and_a_footnote_says_so(recorded):
    compared, footnote = evaluation.compared_models(evaluation.label_models(recorded))
    pretrained = ["ResNet50, transfer learning", "ResNet50, fine tuning"]
    assert list(compared) == ["FinalModel", "FinalModel (refit)", *pretrained, "FinalModel (distilled)"]
    assert "FinalModel (tuned) is not listed, because it is the same network as FinalModel." in footnote
    assert "for lack of ImageNet weights: VGG16." in footnote
    for way in ("`--weights DIR`", "`<Backbone>.weights.h5`", "Keras downloads"):
        assert way in footnote
    assert evaluation.compared_models(compared) == (compared, "")


def test_models_are_ranked_by_the_repeats_that_all_of_them_have(recorded):
    models, _ = evaluation.compared_models(evaluation.label_models(recorded))
    repeats = {label: [run, trained(label, 0.0)] for label, run in models.items()}
    repeats["FinalModel"][1] = trained("FinalModel", 1.0)
    repeats["FinalModel (distilled)"].append(trained("FinalModel (distilled)", 1.0))  # a third one that no other has
    ranked = evaluation.rank_on_validation(models, repeats)
    assert ranked.attrs["repeats"] == 2
    assert ranked.to_dict() == {
        "FinalModel": 0.8,
        "ResNet50, fine tuning": 0.4,
        "ResNet50, transfer learning": 0.35,
        "FinalModel (distilled)": 0.325,
    }
    del repeats["FinalModel"]  # one training: it has the scores of no other fold
    ranked = evaluation.rank_on_validation(models, repeats)
    assert ranked.index[0] == "ResNet50, fine tuning"
    assert ranked.attrs["repeats"] == 1
    models["FinalModel"].result.update({"validation_macro_f1": None, "diverged": True})
    assert evaluation.rank_on_validation(models, repeats).index[-1] == "FinalModel"


# ---------------------------------------------------------------- evidence


TRUTH = np.arange(30) % 3
ON_TEST = evaluation.Answers(
    TRUTH,
    {
        "ResNet50, fine tuning": np.eye(3)[TRUTH],
        "FinalModel": np.eye(3)[np.where(np.arange(30) < 6, 0, TRUTH)],
        "FinalModel (distilled)": np.eye(3)[np.where(np.arange(30) < 3, 0, TRUTH)],
    },
)


def judged_size(gaps, small=("FinalModel",), params=150, states=("converged",) * 5):
    """The verdict on claim C17, given how much better a large network was in each repeat."""
    pair = {"ResNet50, fine tuning": on_backbone("ResNet50", "05", 0.9, params=params)}
    pair |= {"FinalModel": trained("FinalModel", 0.9)}
    repeats = {
        "ResNet50, fine tuning": [on_backbone("ResNet50", "05", 0.9) for _ in gaps],
        "FinalModel": [trained("FinalModel", 0.9 - gap, state=state) for gap, state in zip(gaps, states, strict=False)],
    }
    made = evidence.evidence_of_size("ResNet50, fine tuning", small, pair, repeats, ON_TEST, 200)
    [row] = claims.judge([{"claim": "C17", "said": "", "figure": "", **made}], 5).to_dict("records")
    return row


def test_a_small_loss_is_one_below_the_limit_and_far_fewer_parameters_are_ten_times():
    assert judged_size([0.02, 0.03, 0.02, 0.03, 0.02])["verdict"] == "confirmed"
    assert judged_size([0.32, 0.33, 0.32, 0.33, 0.32])["verdict"] == "refuted"
    assert judged_size([0.02, 0.30, 0.02, 0.25, 0.02])["verdict"] == "undecided"
    assert judged_size([0.02, 0.03, 0.02, 0.03, 0.02], params=90)["verdict"] == "refuted"
    assert judged_size([0.02, 0.03])["reason"] == "2 repeats of 3"
    rising = judged_size([0.02, 0.03, 0.02], states=["converged", "still rising", "still rising"])
    assert (rising["verdict"], rising["reason"]) == ("undecided", "still rising in 2 of 3 repeats")


def test_the_evidence_of_size_tells_what_the_test_subset_says_of_all_small_networks():
    row = judged_size([0.02, 0.03, 0.02], ["FinalModel", "FinalModel (distilled)"])
    assert "15.0 times fewer parameters than ResNet50, fine tuning" in row["evidence"]
    of_each = [ON_TEST.difference("ResNet50, fine tuning", label, 200)[0] for label in [*ON_TEST.probabilities][1:]]
    assert of_each[0] > of_each[1] > 0
    told = f"FinalModel loses {of_each[0]:+.3f} .*, FinalModel .distilled. loses {of_each[1]:+.3f}".replace("+", r"\+")
    assert re.search(told, row["evidence"])


def test_without_imagenet_weights_the_size_is_not_tested():
    made = evidence.evidence_of_size(None, ["FinalModel"], {}, {}, ON_TEST, 200)
    [row] = claims.judge([{"claim": "C17", "said": "", "figure": "", **made}], 5).to_dict("records")
    assert (row["verdict"], row["reason"]) == (
        "not tested",
        "in this run, no backbone of the original study has ImageNet weights",
    )


def test_all_seventeen_claims_are_listed_in_their_order_with_notes():
    comparisons = [claims.known("counted", is_shown=True)]
    records = [{"claim": "C13", "said": "refit", "figure": "03-x", "comparisons": comparisons, "note": "two folds"}]
    records += [{"claim": "C2", "said": "batches", "figure": "03-y", "comparisons": comparisons}]
    pairs = [("C13", "FinalModel (distilled)", "FinalModel"), ("C16", "ResNet50, fine tuning", "FinalModel")]
    every = evidence.with_test_notes(records, pairs, ON_TEST, 200)
    assert [record["claim"] for record in every] == [f"C{number}" for number in range(1, 18)]
    verdicts = claims.judge(every, 5).set_index("claim")
    assert (verdicts["verdict"] == "not tested").sum() == 15
    assert verdicts.loc["C1", "reason"] == "no chapter recorded evidence"
    text = r"counted; two folds; on the test subset FinalModel \(distilled\) minus FinalModel \+0\.\d+ \("
    assert re.match(text, verdicts.loc["C13", "evidence"])
    assert verdicts.loc["C2", "evidence"] == "counted"
    assert verdicts.loc["C16", "evidence"].startswith("on the test subset ResNet50, fine tuning minus FinalModel")


# ---------------------------------------------------------------- photos


def test_a_probe_has_every_class_in_its_proportion():
    truth = np.repeat(np.arange(5), [400, 200, 100, 6, 1])
    rows = robustness.stratified_rows(truth, 100, seed=0)
    counts = np.bincount(truth[rows])
    assert len(rows) == 100
    assert counts.min() >= 1
    np.testing.assert_allclose(counts[:3] / 100, truth.size**-1 * np.array([400, 200, 100]), atol=0.03)
    assert len(robustness.stratified_rows(truth, 2, seed=0)) == 5
    assert (robustness.stratified_rows(truth, 10_000, seed=0) == np.arange(len(truth))).all()
    assert (rows == robustness.stratified_rows(truth, 100, seed=0)).all()
    assert (rows != robustness.stratified_rows(truth, 100, seed=1)).any()


def test_a_second_test_set_without_a_photo_of_a_known_class_is_named(tmp_path, capsys):
    classes = ["Elm", "Oak"]
    with pytest.raises(InputError, match="no photo of the classes Elm, Oak: set `external` .--test. to another folder"):
        external.external_files(tmp_path, classes)
    paint(tmp_path / "Moss" / "0.jpg", seed=1)
    with pytest.raises(InputError, match="holds no photo of the classes"):
        external.external_files(tmp_path, classes)
    assert capsys.readouterr().out == "Skipped: the class Moss, which no model knows.\n"
    paint(tmp_path / "Oak___healthy" / "0.jpg", seed=2)
    assert external.external_files(tmp_path, classes)["label"].tolist() == ["Oak"]
    with pytest.raises(InputError, match="nowhere cannot be read .No such file or directory.: set `external`"):
        external.external_files(tmp_path / "nowhere", classes)


@pytest.mark.parametrize(
    ("source", "is_same"),
    [
        ('"""Another first line."""\n\n\ndef double(x):\n    return 2 * x  # a comment\n', True),
        ('"""A module."""\n\n\ndef double(x):\n    """Return twice the number."""\n    return 2 * x\n', True),
        ('"""A module."""\n\n\ndef double(x):\n    return 3 * x\n', False),
        ('"""A module."""\n\n\ndef double(x, y=1):\n    return 2 * x\n', False),
    ],
)
def test_another_explanation_of_the_code_changes_no_result(tmp_path, source, is_same):
    (tmp_path / "a.py").write_text('"""A module."""\n\n\ndef double(x):\n    return 2 * x\n', encoding="utf-8")
    (tmp_path / "b.py").write_text(source, encoding="utf-8")
    assert (cache.code_hash(tmp_path / "a.py") == cache.code_hash(tmp_path / "b.py")) is is_same
    assert cache.code_hash(tmp_path / "a.py", "1.0") != cache.code_hash(tmp_path / "a.py", "1.1")


def test_arrays_are_computed_once_for_one_version_of_the_code(tmp_path):
    file, asked = tmp_path / "made.npz", []

    def compute():
        asked.append(1)
        return {"probabilities": np.eye(2)}

    for _ in range(2):
        assert (cache.computed_once(file, "one version", compute)["probabilities"] == np.eye(2)).all()
    assert len(asked) == 1
    cache.computed_once(file, "another version", compute)
    assert len(asked) == 2


@pytest.mark.parametrize("kind", robustness.CORRUPTIONS)
def test_every_corruption_is_stronger_with_its_strength_and_the_same_for_a_seed(kind):
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (60, 60, 3), dtype=np.uint8))
    pictures = np.stack([np.asarray(coarse.resize((96, 96), Image.Resampling.BICUBIC))] * 2)
    distances = []
    for strength in (0, *robustness.STRENGTHS):
        corrupted = robustness.corrupt(pictures, kind, strength, seed=0)
        assert corrupted.shape == pictures.shape
        assert corrupted.dtype == np.float32
        assert (corrupted == robustness.corrupt(pictures, kind, strength, seed=0)).all()
        distances.append(np.abs(corrupted - pictures).mean())
    assert distances[0] == 0
    assert distances[1] > 0
    assert distances[-1] > distances[1]


def test_the_table_of_robustness_has_intervals_and_scores_of_the_labels_given():
    pictures = np.random.default_rng(0).integers(0, 256, (12, 16, 16, 3), dtype=np.uint8)
    truth = np.arange(12) % 3
    answer = np.eye(4, dtype=np.float32)[np.where(np.arange(12) < 9, truth, 3)]  # a class that does not occur
    table = robustness.robustness_table({"one": (lambda batch: answer, pictures)}, truth, seed=0, draws=200)
    assert len(table) == 1 + 6 * 5
    expected = f1_score(truth, answer.argmax(axis=1), labels=[0, 1, 2], average="macro")
    assert table["macro F1"].to_numpy() == pytest.approx(expected)
    assert (table["low"] <= table["macro F1"]).all()
    assert (table["macro F1"] <= table["high"]).all()


def test_a_photo_that_is_taken_for_an_absent_class_adds_no_class():
    truth = np.array([0, 0, 0, 1, 1, 1])
    prediction = np.array([0, 0, 0, 1, 1, 7])
    score = scoring.macro_f1(truth, prediction)
    assert score == pytest.approx((1 + 0.8) / 2)
    assert score == pytest.approx(f1_score(truth, prediction, labels=[0, 1], average="macro"))


# ---------------------------------------------------------------- in words


def test_a_disagreement_of_validation_and_test_is_told():
    ranked = pd.Series({"A": 0.9, "B": 0.8, "C": 0.7})
    scores = pd.DataFrame({"test_macro_f1": {"A": 0.5, "B": 0.78, "C": 0.6, "Ensemble": 0.99}})
    scores["validation_macro_f1"] = [0.55, 0.8, 0.95, 0.2]  # of repeat 0, as are the test scores
    told = evidence.disagreement_in_words(ranked, scores)
    assert told.startswith("Validation ranks A first; on test it is number 3 of the 3 single models, and B is first.")
    assert told.endswith("C has the largest difference between its two scores: 0.950 on validation, 0.600 on test.")
    agreeing = evidence.disagreement_in_words(ranked, scores.assign(test_macro_f1=[0.9, 0.8, 0.2, 1.0]))
    assert agreeing.startswith("Validation and test agree on the best single model, A.")


def test_the_costliest_corruption_is_told_for_each_model():
    rows = [("A", "none", 0.9), ("A", "dark", 0.5), ("A", "dark", 0.3), ("A", "noisy", 0.4)]
    rows += [("B", "none", 0.8), ("B", "dark", 0.7), ("B", "noisy", 0.6)]
    robust = pd.DataFrame(rows, columns=["model", "corruption", "macro F1"])
    told = robustness.costliest_in_words(robust)
    assert told.endswith("A, dark: from 0.900 to 0.300; B, noisy: from 0.800 to 0.600.")


def test_the_direction_of_the_confidence_and_its_errors_are_told():
    columns = ["temperature", "calibration error, before", "calibration error, after"]
    table = pd.DataFrame([(1.4, 0.05, 0.03), (0.8, 0.04, 0.06), (1.0, 0.02, 0.02)], ["A", "B", "C"], columns)
    told = {label: evidence.confidence_in_words(table, label) for label in table.index}
    assert told["A"].startswith("On validation, A is too confident (temperature 1.40). ")
    assert told["A"].endswith("on test is 0.050 without temperature scaling and 0.030 with it.")
    assert "B is too cautious" in told["B"]
    assert "C is neither too confident nor too cautious" in told["C"]


def test_the_weight_on_the_leaf_is_told_beside_its_area():
    columns = {"weight on the leaf": [0.62, 0.4], "area of the leaf": [0.3, 0.3], "places": ["4 x 4", "8 x 8"]}
    told = explain.attention_in_words(pd.DataFrame(columns, index=["A", "B"]))
    assert told.startswith("The leaf covers 30% of the picture")
    assert told.endswith("Mean share of a map's weight on the leaf: A 62%, B 40%.")
    assert "cannot be compared" in explain.attention_in_words(pd.DataFrame())


def test_the_gain_of_the_last_photos_is_told():
    rows = [("A", 10, 0.2), ("A", 40, 0.5), ("A", 100, 0.625), ("B", 10, 0.8), ("B", 100, 0.9)]
    told = cost_figures.curve_in_words(pd.DataFrame(rows, columns=["model", "photos", "macro F1"]))
    assert "A: 0.200 with 10 photos, 0.625 with 100 (+0.125 from 40 to 100 photos); B: 0.800 with 10" in told


def test_the_models_on_the_pareto_front_are_told():
    table = pd.DataFrame(
        {
            "params": [10, 20, 30],
            "train_seconds": [3, 2, 1],
            "ms_per_image": [1.003, 1.0, 2],  # the times of A and B differ by less than SAME_TIME
            "test_macro_f1": [0.5, 0.4, 0.9],
        },
        index=["A", "B", "C"],
    )
    told = cost_figures.front_in_words(table)
    assert told == (
        "Models on the Pareto front by parameters: A; C. Models on the front by seconds of training: C. "
        "Models on the front by milliseconds per image: A; C."
    )


def test_the_network_for_any_background_that_is_kept_is_told():
    table = pd.DataFrame({"unchanged": [0.9, 0.8], "other backgrounds": [0.5, 0.7]}, index=["frozen", "fine-tuned"])
    told = any_background.kept_in_words(table)
    assert told.startswith('Validation chooses "fine-tuned". Macro F1 of repeat 0 on validation: 0.700 on other')
    assert "0.800 on the unchanged photos" in told
    alone = any_background.kept_in_words(table[:1])
    assert alone.startswith("Only the network with a frozen backbone was trained.") and "optimistic" not in alone


def test_models_are_compared_with_the_chosen_one_by_their_intervals():
    truth = np.repeat(np.arange(4), 10)

    def wrong_on(rows):
        predicted = truth.copy()
        predicted[rows] = (predicted[rows] + 1) % 4
        return np.eye(4, dtype=np.float32)[predicted]

    first, second = np.arange(40) % 10 < 2, np.arange(40) % 10 >= 8
    probabilities = {"chosen one": wrong_on(first), "twin": wrong_on(first), "perfect": wrong_on([])}
    probabilities |= {"as often wrong": wrong_on(second), "often wrong": wrong_on(np.arange(40) % 10 < 8)}
    table = evaluation.compare_with("chosen one", [*probabilities], evaluation.Answers(truth, probabilities), 500)
    expected = ["chosen", "tie", "better", "undecided", "worse"]
    assert table["verdict"].to_dict() == dict(zip(probabilities, expected, strict=True))


@pytest.mark.parametrize(
    ("verdicts", "told"),
    [
        (["better"] * 2 + ["worse", "tie"], "Of the 4 others: 2 shown to be better, 1 worse, 1 tied."),
        (["worse"] * 2 + ["undecided"] * 5, "Of the 7 others: none shown to be better, 2 worse, 5 undecided."),
        (["better", "undecided"], "Of the 2 others: 1 shown to be better, 1 undecided."),
        (["worse"] * 2, "Of the 2 others: none shown to be better, 2 worse."),
    ],
)
def test_the_title_counts_the_models_in_the_direction_of_their_verdicts(verdicts, told):
    against = pd.DataFrame({"verdict": ["chosen", *verdicts]})
    assert comparison.standing_in_words(against) == told
