"""Unit tests of helpers.py on data made here."""

import json
import subprocess
import sys

import helpers
from leaves import batches, custom_cnn, dataset, files, places, progress, runs, training

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import f1_score


def tiny_spec(split, **changes):
    return custom_cnn.cnn_spec("02", "Tiny", split, 32, epochs=2, seed=0, filters=(4, 8)) | changes


def train(spec, split, prepare=custom_cnn.prepare):
    return helpers.train(spec, split, prepare)


# ---------------------------------------------------------------- data


def test_split_hash_follows_content_not_place(project, tmp_path):
    table = pd.read_csv(places.SPLIT_CSV)
    moved = table.assign(path="elsewhere/" + table["path"]).sample(frac=1, random_state=0)
    moved.to_csv(tmp_path / "moved.csv", index=False)
    table.assign(label=table["label"].replace({"A": "C"})).to_csv(tmp_path / "relabelled.csv", index=False)
    assert dataset.load_split(tmp_path / "moved.csv").attrs["hash"] == project.attrs["hash"]
    assert dataset.load_split(tmp_path / "relabelled.csv").attrs["hash"] != project.attrs["hash"]


def test_missing_split_names_the_notebook(tmp_path):
    with pytest.raises(files.InputError, match="01_data_split"):
        dataset.load_split(tmp_path / "split.csv")


def test_images_are_decoded_once_and_in_order(project, monkeypatch):
    images, labels = dataset.load_images(project, "train", 32)
    assert images.shape == (20, 32, 32, 3)
    assert images[:].dtype == np.uint8
    blue = images[:][..., 2].mean(axis=(1, 2)) > 120
    assert (blue == (labels == 1)).all()
    monkeypatch.setattr("leaves.image_store.read_image", lambda *_: pytest.fail("decoded again"))
    again, _ = dataset.load_images(project, "train", 32)
    assert (again[:] == images[:]).all()
    assert len(dataset.load_images(project, "test", 32)[0]) == 20


def test_a_photo_that_changed_after_the_split_is_named(project, working_folder):
    (working_folder / "7.png").write_bytes((working_folder / "8.png").read_bytes())
    with pytest.raises(files.InputError, match="7.png was changed or deleted after the split: run notebook 01"):
        dataset.load_images(project, "train", 32)
    (working_folder / "7.png").unlink()
    with pytest.raises(files.InputError, match="7.png was changed or deleted"):
        dataset.load_images(project, "train", 32)


def test_a_disk_that_fills_while_images_are_stored(project, small_disk):
    with pytest.raises(files.InputError, match="File too large; make room on the disk"):
        dataset.load_images(project, "train", 64)
    small_disk()  # room is made again
    images, labels = dataset.load_images(project, "train", 64)
    blue = images[:][..., 2].mean(axis=(1, 2)) > 120
    assert (blue == (labels == 1)).all()


def test_the_side_is_divided_and_has_bounds(project):
    assert dataset.shrunk_side(project.assign(width=256, height=300), 2) == 128  # as in the original study
    assert dataset.shrunk_side(project.assign(width=4000, height=3000), 4) == 64
    assert dataset.shrunk_side(project, 2) == 32


# ---------------------------------------------------------------- folds


def test_another_fold_is_held_out_and_the_test_subset_stays(project):
    assert project.attrs["folds"] == 5
    pd.testing.assert_frame_equal(dataset.hold_out(project, 0), project)
    changed = dataset.hold_out(project, 3, without=0)
    assert changed.attrs == project.attrs
    subsets = changed.groupby("fold")["split"].unique().map(list).to_dict()
    assert subsets == {-1: ["test"], 0: ["unused"], 1: ["train"], 2: ["train"], 3: ["validation"], 4: ["train"]}


@pytest.mark.parametrize(
    ("folds", "sentence"),
    [
        ({"fold": 5}, "There is no fold 5: the split has the folds 0 to 4."),
        ({"fold": -1}, "There is no fold -1: the split has the folds 0 to 4."),
        ({"fold": 0, "without": 7}, "There is no fold 7: the split has the folds 0 to 4."),
        ({"fold": 2, "without": 2}, "Fold 2 is held out: `without` must be another fold."),
    ],
)
def test_folds_that_cannot_be_held_out_are_one_sentence(project, folds, sentence):
    with pytest.raises(files.InputError) as caught:
        dataset.hold_out(project, **folds)
    assert str(caught.value) == sentence


def test_the_hash_of_a_split_covers_its_folds(project, tmp_path):
    table = pd.read_csv(places.SPLIT_CSV)
    table.assign(fold=table["fold"].replace({1: 2, 2: 1})).to_csv(tmp_path / "other.csv", index=False)
    assert dataset.load_split(tmp_path / "other.csv").attrs["hash"] != project.attrs["hash"]
    table.drop(columns="fold").to_csv(tmp_path / "old.csv", index=False)
    with pytest.raises(files.InputError, match="old.csv is from an earlier version and has no folds: run notebook 01"):
        dataset.load_split(tmp_path / "old.csv")


def test_repeats_draw_other_seeds_and_hold_out_other_folds(project):
    repeats = [runs.repeat(number, 7, project) for number in range(6)]
    assert [repeat["seed"] for repeat in repeats] == [7, 8, 9, 10, 11, 12]
    assert [repeat["fold"] for repeat in repeats] == [0, 1, 2, 3, 4, 0]


@pytest.mark.parametrize("balance", batches.BALANCES)
def test_balance_changes_the_training(project, balance):
    first_of_a = project[project["label"] == "A"].index[4:]
    project = project.drop(first_of_a[project.loc[first_of_a, "split"] == "train"])  # a rare class
    results = {}
    for setting in {"none", balance}:
        run = train(tiny_spec(project, balance=setting), project)
        results[setting] = run.history["loss"].tolist()
    assert len({str(losses) for losses in results.values()}) == len(results)


def test_an_unknown_balance_is_named(project):
    with pytest.raises(files.InputError, match="balance is 'smote'.*none, class_weight, oversample"):
        runs.training_spec("02", "Tiny", project, 1, 0, "smote")


# ---------------------------------------------------------------- runs


def test_same_spec_same_hash_whatever_it_is_called(project):
    spec = tiny_spec(project)
    assert runs.spec_hash(spec) == runs.spec_hash(json.loads(json.dumps(spec)))
    assert runs.spec_hash(spec) == runs.spec_hash(spec | {"name": "Other", "chapter": "03"})
    assert runs.spec_hash(spec) != runs.spec_hash(spec | {"seed": 1})


def test_a_spec_is_trained_once(project, tmp_path):
    spec = tiny_spec(project)
    before = json.dumps(spec)
    run = train(spec, project)
    assert json.dumps(spec) == before
    assert {"spec.json", "history.csv", "model.keras", "result.json", "tensorboard"} <= {
        file.name for file in run.folder.iterdir()
    }
    again = train(spec, project, prepare=lambda *_: pytest.fail("trained again"))
    assert again.folder == run.folder
    assert again.result == files.read_json(run.folder / "result.json")


def test_a_run_without_a_result_is_trained_again(project):
    run = train(tiny_spec(project), project)
    probabilities = run.validation_probabilities
    (run.folder / "result.json").unlink()
    again = train(tiny_spec(project), project)
    np.testing.assert_array_equal(again.validation_probabilities, probabilities)  # the same bits


def test_the_saved_model_is_the_trained_one(project):
    run = train(tiny_spec(project, augmentation=None), project)
    images, labels = dataset.load_images(project, "validation", 32)
    saved = run.load_model().predict(images[:].astype(np.float32), verbose=0)
    np.testing.assert_allclose(saved, run.validation_probabilities, atol=1e-5)
    assert run.result["validation_macro_f1"] == pytest.approx(f1_score(labels, saved.argmax(axis=1), average="macro"))


def test_a_run_keeps_the_name_that_a_chapter_gave_it(project):
    first = train(tiny_spec(project), project)
    helpers.record_runs("03", {"Other": train(tiny_spec(project, name="Other", chapter="03"), project)})
    run = helpers.recorded_runs("03", "03_regularisation_ablations")["Other"]
    assert (run.folder, run.name, run.spec["chapter"]) == (first.folder, "Other", "03")


def test_recorded_runs_belong_to_the_present_split(project, tmp_path):
    run = train(tiny_spec(project), project)
    helpers.record_runs("02", {"Tiny": run})
    assert helpers.recorded_runs("02", "02_custom_cnn")["Tiny"].result == run.result
    table = pd.read_csv(places.SPLIT_CSV)
    table.assign(split=table["split"].sample(frac=1, random_state=0).to_numpy()).to_csv(places.SPLIT_CSV)
    with pytest.raises(files.InputError, match="run notebook 02_custom_cnn first"):
        helpers.recorded_runs("02", "02_custom_cnn")


def test_a_queue_goes_on_after_a_divergence(project, capsys):
    hot = {"class_name": "SGD", "config": {"learning_rate": 1e30}}
    queue = [tiny_spec(project, optimizer=hot, name="hot"), tiny_spec(project)]
    diverged, sound = helpers.train_all(queue, project, custom_cnn.prepare)
    assert (diverged.result["diverged"], diverged.result["validation_macro_f1"]) == (True, None)
    assert diverged.result["state"] == "diverged"
    assert "hot, seed 0, fold 0, diverged in epoch" in capsys.readouterr().out
    assert not sound.result["diverged"]
    assert 0 <= sound.result["train_macro_f1"] <= 1
    with pytest.raises(files.InputError, match="hot diverged: .* epoch [12]; lower the learning rate of 1e.30"):
        train(queue[0], project)


def test_without_patience_all_epochs_count(project):
    run = train(tiny_spec(project, patience=None, epochs=3), project)
    assert (run.result["epochs"], run.result["best_epoch"]) == (3, 3)
    saved = run.history["val_macro_f1"].iloc[-1]
    assert run.result["validation_macro_f1"] == pytest.approx(saved, abs=1e-6)


def test_a_refit_trains_on_most_of_the_validation_part(project):
    seen = []

    def prepare(spec, split):
        training = custom_cnn.prepare(spec, split)
        seen.append((len(training.train[1]), len(training.validation[1])))
        return training

    run = train(tiny_spec(project, refit={"folds": 20, "fold": 0}, patience=None), project, prepare)
    assert seen == [(39, 1)]  # of 20 and 20
    assert run.result["state"] in {"converged", "did not train"}  # its epochs are given, so it is not rising


def test_a_run_is_scored_on_the_fold_that_it_held_out(project):
    [first, second] = helpers.train_all(
        custom_cnn.cnn_specs("02", "Tiny", project, 32, 2, 0, 2, filters=(4, 8)), project, custom_cnn.prepare
    )
    assert [(run.spec["seed"], run.spec["fold"]) for run in (first, second)] == [(0, 0), (1, 1)]
    images, labels = dataset.load_images(dataset.hold_out(project, 1), "validation", 32)
    assert len(labels) == (project["fold"] == 1).sum() == 6
    predicted = second.load_model().predict(images[:].astype(np.float32), verbose=0)
    np.testing.assert_allclose(second.validation_probabilities, predicted, atol=1e-5)
    score = f1_score(labels, predicted.argmax(axis=1), average="macro")
    assert second.result["validation_macro_f1"] == pytest.approx(score)
    table = runs.training_table([first, second])
    assert table.index.tolist() == ["repeat 0", "repeat 1"]
    assert table[["fold", "seed", "epochs"]].to_numpy().tolist() == [[0, 0, 2], [1, 1, 2]]
    assert table.loc["repeat 1", "validation"] == second.result["validation_macro_f1"]


def run_in_state(state, **result):
    return runs.Run(None, {"name": "Tiny", "epochs": 10, "image_size": 32}, {"state": state, **result})


def test_states_are_told_with_the_way_out():
    sound, rising, stuck, diverged = map(run_in_state, ("converged", "still rising", "did not train", "diverged"))
    assert runs.state_sentence([sound, sound]) == "2 of 2 trainings converged."
    told = "1 of 3 trainings converged; 2 still rising: raise epochs."
    assert runs.state_sentence([rising, sound, rising]) == told
    told = "0 of 1 trainings converged; 1 did not train: raise epochs or change learning_rate."
    assert runs.state_sentence([stuck]) == told
    assert runs.state_sentence([diverged]) == "0 of 1 trainings converged; 1 diverged: lower learning_rate."


# ---------------------------------------------------------------- queues


def test_a_long_queue_tells_its_time_in_advance(capsys):
    finished = [run_in_state("converged", train_seconds=30), run_in_state("converged", train_seconds=90)]
    waiting = [{"epochs": 20, "image_size": 64}] * 5  # eight times the minute of each
    told = "2 of 7 trainings are done; the others take about 40 minutes, one after another."
    assert progress.forecast(finished, waiting) == told
    assert "about 2.0 hours" in progress.forecast(finished, waiting * 3)
    assert progress.forecast(finished, waiting[:3]) == ""
    assert progress.forecast([], waiting) == ""
    with progress.training_bar({str(number): spec for number, spec in enumerate(waiting)}, finished):
        assert capsys.readouterr().out == f"{told}\n"


def test_trainings_that_another_process_has_begun_come_last(working_folder):
    holder = places.RUNS / "locks" / "b.holder"
    holder.parent.mkdir()
    holder.touch()
    queue, order = dict.fromkeys("abc"), []
    for key, _ in runs.free_first(queue):
        order.append(key)
        if key == "a":  # the other process goes on to the next one
            holder.rename(holder.with_name("c.holder"))
    assert order == ["a", "b", "c"]
    assert [key for key, _ in runs.free_first(queue)] == ["a", "b", "c"]
    (holder.parent / "a.holder").touch()
    assert [key for key, _ in runs.free_first(queue)] == ["b", "a", "c"]
    assert queue.keys() == {*"abc"}


# ---------------------------------------------------------------- logs


def test_the_log_of_the_layers_has_every_kernel_and_epoch(project):
    run = train(tiny_spec(project, log_layers=True), project)
    gradients = runs.logged(run, "layers", "gradient/")
    changes = runs.logged(run, "layers", "change/")
    histograms = runs.logged(run, "layers", "kernel/histogram")
    assert [len(found) for found in (gradients, changes, histograms)] == [4, 4, 4]
    for found in (*gradients.values(), *changes.values()):
        assert len(found) == 2
        assert all(value > 0 for value in found)
    kernels = [layer.kernel.numpy() for layer in run.load_model().layers if hasattr(layer, "kernel")]
    counts = [epochs[-1][:, 2].sum() for epochs in histograms.values()]
    assert counts == [kernel.size for kernel in kernels]


def logging_runs(monkeypatch, changes, gradients):
    """Runs that converged, with these logs: each a dict of layer to list of float."""
    trained = [run_in_state("converged", diverged=False, number=number) for number in range(len(changes))]
    logs = {"change": changes, "gradient": gradients}
    monkeypatch.setattr(runs, "layer_log", lambda run, kind: pd.DataFrame(logs[kind][run.result["number"]]))
    return trained


CHANGES = {"conv2d": [0.3, 0.02], "dense": [0.2, 0.1]}
GRADIENTS = {"conv2d": [0.1, 0.4], "conv2d_1": [0.2, 0.2], "dense": [0.5, 0.1], "dense_1": [0.4, 0.4]}


def test_the_evidence_on_moving_weights_is_of_all_repeats(monkeypatch):
    still = CHANGES | {"conv2d": [0.3, 0.0004]}
    weak = GRADIENTS | {"conv2d": [0.01, 0.4]}
    trained = logging_runs(monkeypatch, [CHANGES, CHANGES, CHANGES], [GRADIENTS, weak, GRADIENTS])
    assert runs.gradient_ratios(trained) == pytest.approx([0.2, 0.02, 0.2])
    evidence = custom_cnn.evidence_that_weights_move(trained)
    what = "the smallest change of a kernel in an epoch is 2 % of its norm"
    assert evidence["comparisons"] == [{"what": what, "counted": True, "reason": None}]
    assert "at least 0.02 times the strongest" in evidence["note"]
    trained = logging_runs(monkeypatch, [CHANGES, CHANGES, still], [GRADIENTS] * 3)
    [comparison] = custom_cnn.evidence_that_weights_move(trained)["comparisons"]
    assert (comparison["counted"], comparison["reason"]) == (False, None)
    [comparison] = custom_cnn.evidence_that_weights_move(trained[:2])["comparisons"]
    assert (comparison["counted"], comparison["reason"]) == (True, "2 repeats of 3")
    trained[0].result["state"] = "still rising"
    [comparison] = custom_cnn.evidence_that_weights_move(trained)["comparisons"]
    assert comparison["reason"] == "still rising in 1 of 3 repeats"
    trained[2].result["diverged"] = True
    assert runs.smallest_change(trained) == 0.02


def test_other_runs_log_no_layers(project):
    run = train(tiny_spec(project), project)
    assert not (run.folder / "tensorboard" / "layers").exists()


# ---------------------------------------------------------------- figures


def test_a_figure_is_saved_and_shown_with_its_caption(project, monkeypatch):
    shown = []
    monkeypatch.setattr(helpers, "display", shown.append)
    figure, _ = plt.subplots()
    helpers.show(figure, "02-nothing", "An empty plot.")
    assert (places.REPORT / "figures" / "02-nothing.png").stat().st_size > 1000
    assert shown[0].alt == "An empty plot."


@pytest.mark.parametrize(("steps", "gpus", "expected"), [(20, 1, 20), (28, 0, 14), (29, 0, 1), (3, 0, 3), (20, 2, 1)])
def test_a_call_takes_a_divisor_of_the_steps_and_one_step_on_several_gpus(steps, gpus, expected, monkeypatch):
    monkeypatch.setattr(training, "gpus", lambda: ["GPU"] * gpus)
    assert training.steps_at_once(steps) == expected


def test_with_several_gpus_each_photo_is_predicted_once():
    program = """
import numpy as np, tensorflow as tf
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)
import keras
from leaves import training

training.gpus = lambda: ["GPU"] * 2
with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
    network = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, activation="softmax")])
    network.compile(loss="categorical_crossentropy")
images = np.random.default_rng(0).normal(size=(70, 3)).astype("float32")
kernel, bias = network.get_weights()
scores = np.exp(images @ kernel + bias)
predicted = training.predictions(network, images, np.zeros(70, int))
np.testing.assert_allclose(predicted, scores / scores.sum(axis=1, keepdims=True), atol=1e-6)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=places.ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
