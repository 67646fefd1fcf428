"""What chapter 6 asks of networks: costs that count shared parts once, probes of every class, worse photos."""

from pathlib import Path
from types import SimpleNamespace

from conftest import paint
from leaves import cache, evaluation, external, robustness, scoring
from leaves.files import InputError

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import f1_score


def run(name, params, trainable, seconds, **more):
    result = {"params": params, "trainable_params": trainable, "train_seconds": seconds, **more}
    return SimpleNamespace(folder=Path(name), result=result, spec={"backbone": "VGG16"})


CUSTOM = evaluation.cost_parts(run("custom", 50, 50, 7), {"whole": 2})
HEAD = run("head", 1100, 90, 3, seconds_before=20, parts={"front": 1000, "last block": 10, "head": 90})
TAIL = run("tail", 1100, 100, 5, seconds_before=23)
TRANSFER = evaluation.cost_parts(HEAD, {"whole": 10, "front": 8})
FINE = evaluation.cost_parts(TAIL, {"whole": 10, "front": 8}, HEAD)


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
    total = evaluation.total_cost(*models)
    assert list(total.values()) == [params, trainable, seconds, milliseconds]


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
    with pytest.raises(InputError, match="holds no photo of the classes Elm, Oak: name another folder as external"):
        external.external_files(tmp_path, classes)
    paint(tmp_path / "Moss" / "0.jpg", seed=1)
    with pytest.raises(InputError, match="holds no photo of the classes"):
        external.external_files(tmp_path, classes)
    assert capsys.readouterr().out == "Skipped: the class Moss, which no model knows.\n"
    paint(tmp_path / "Oak___healthy" / "0.jpg", seed=2)
    assert external.external_files(tmp_path, classes)["label"].tolist() == ["Oak"]
    with pytest.raises(InputError, match="nowhere cannot be read .No such file or directory.: name another folder"):
        external.external_files(tmp_path / "nowhere", classes)


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
