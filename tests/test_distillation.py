"""The small network: no larger than FinalModel, turned without blur, taught by labels and a teacher."""

from types import SimpleNamespace

from leaves import batches, custom_cnn, dataset, distillation
from leaves.runs import find_run, train_once

import numpy as np
import pytest
import tensorflow as tf


@pytest.mark.parametrize("classes", [2, 14, 200])
@pytest.mark.parametrize("filters", [[16, 32, 64, 128, 256], [4, 8]])
def test_it_has_no_more_parameters_than_final_model(classes, filters):
    small = custom_cnn.build_model(distillation.distilled_layers(classes, filters), (32, 32, 3), "small")
    final = custom_cnn.build_model(custom_cnn.final_model_layers(classes, filters), (32, 32, 3), "final")
    assert small.count_params() <= final.count_params()
    kinds = [type(layer).__name__ for layer in small.layers]
    assert kinds.count("Conv2D") == kinds.count("MaxPooling2D") == len(filters)


def test_quarter_turns_move_pixels_and_blur_none():
    images = np.random.default_rng(0).integers(0, 256, (8, 6, 6, 3)).astype(np.float32)
    uniform = np.full((8, 6), 0.9, np.float32)  # no flip
    uniform[:, 2] = np.repeat([0.1, 0.3, 0.6, 0.8], 2)  # 0, 90, 180 and 270 degrees
    turned = batches.augment(tf.constant(images), tf.constant(uniform), distillation.AUGMENTATION).numpy()
    for before, after, quarter in zip(images, turned, np.repeat(range(4), 2), strict=True):
        ways = [np.rot90(before, turns) for turns in (quarter, -quarter)]
        assert min(np.abs(way - after).max() for way in ways) < 0.01


def test_rare_classes_are_shown_more_often():
    labels = np.repeat([0, 1, 2], [100, 25, 4])
    rows = batches.rows_of_epoch(labels, "sqrt_oversample")
    assert np.bincount(labels[rows]).tolist() == [100, 50, 20]
    assert set(rows) == set(range(129))


def final_of(split):
    layers = custom_cnn.final_model_layers(2, [4, 8])
    return SimpleNamespace(spec={"image_size": 16, "layers": layers, "precision": "float32", "seed": 3})


def teacher_in(folder):
    folder.mkdir(parents=True)
    result = {"seconds_before": 1.0, "train_seconds": 2.0}
    return SimpleNamespace(folder=folder, result=result, identity=f"{folder.name} answers")


def test_a_repeat_is_taught_by_the_teacher_that_held_out_the_same_fold(project, tmp_path):
    teachers = [teacher_in(tmp_path / f"teacher-{number}") for number in range(3)]
    specs = distillation.distilled_specs(project, final_of(project), teachers, 4, 3)
    assert [(spec["seed"], spec["fold"]) for spec in specs] == [(3, 0), (4, 1), (5, 2)]
    assert [spec["teacher"]["run"].split()[0] for spec in specs] == [teacher.folder.name for teacher in teachers]
    [alone] = distillation.distilled_specs(project, final_of(project), None, 4, 1)
    assert "teacher" not in alone
    assert alone["label_smoothing"] > specs[0]["label_smoothing"] == 0


def test_the_best_mean_teaches():
    def runs(*scores):
        return [SimpleNamespace(result={"validation_macro_f1": score}) for score in scores]

    assert distillation.best_teacher({"a": runs(0.9, 0.1), "b": runs(0.6, 0.7), "c": runs(None)}) == "b"
    assert distillation.best_teacher({}) is None


def test_targets_are_labels_and_the_softened_answers_to_the_same_photos(project, monkeypatch):
    order = np.arange((project["split"] != "test").sum())
    answers = np.stack([order, 100 - order], axis=1) / 100
    teacher = teacher_in(project.attrs.get("folder") or dataset.places.RUNS / "04-teacher")
    monkeypatch.setattr(distillation, "teacher_answers", lambda run, split: answers)
    monkeypatch.setattr(distillation, "read_run", lambda folder: teacher)
    spec = distillation.distilled_specs(project, final_of(project), [teacher] * 2, 2, 2)[1]
    training = distillation.prepare_distilled(spec, project)
    outside = project[project["split"] != "test"].reset_index(drop=True)
    trained_on = outside.index[outside["fold"] != 1]
    labels = (outside.loc[trained_on, "label"] == "B").astype(int)
    np.testing.assert_array_equal(training.train[1], labels)
    soft = distillation.tempered(answers[trained_on], spec["teacher"]["temperature"])
    np.testing.assert_allclose(training.targets, 0.2 * soft + 0.8 * np.eye(2)[labels], atol=1e-6)
    assert training.summary["teacher_seconds"] == 3.0


def test_it_trains_and_is_found_again(project):
    [spec] = distillation.distilled_specs(project, final_of(project), None, 6, 1)
    train_once(spec, project, distillation.prepare_distilled)
    run = find_run(spec)
    assert run.result["epochs"] == run.result["best_epoch"] == 6
    assert run.result["validation_macro_f1"] > 0.6  # two colours
    assert distillation.size_table({"FinalModel": [run], distillation.NAME: [run]}).loc[distillation.NAME, "parameters"]
