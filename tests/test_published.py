"""The published study: the evidence of its runs."""

import shutil

import helpers
from leaves import custom_cnn, places, runs

import numpy as np
import pandas as pd
import pytest


def small_specs(split, count=2):
    layers = [["Rescaling", {"scale": 1 / 255}], ["GlobalAveragePooling2D", {}]]
    layers.append(["Dense", {"units": 2, "activation": "softmax"}])
    return custom_cnn.cnn_specs("03", "plain", split, 40, 3, 0, count, layers=layers)


def never(spec, split):
    pytest.fail("trained again")


@pytest.fixture
def kept(project):
    """The specs and runs of a project that keeps the evidence of its runs only."""
    specs = small_specs(project)
    trained = helpers.train_all(specs, project, custom_cnn.prepare)
    histories = [run.history for run in trained]
    predictions = [run.validation_probabilities for run in trained]
    for run in trained:
        runs.keep_evidence(run)
        shutil.rmtree(run.folder)
    return specs, trained, histories, predictions


def test_evidence_is_small_and_holds_no_weights(kept):
    _, trained, _, _ = kept
    for run in trained:
        files = [*(places.RESULTS / "runs" / run.folder.name).iterdir()]
        assert {file.name for file in files} == {"spec.json", "result.json", "history.csv", "validation.npy"}
        assert sum(file.stat().st_size for file in files) < 15_000


def test_a_run_with_evidence_is_not_trained_for_its_numbers(project, kept, capsys):
    specs, trained, histories, predictions = kept
    again = helpers.train_all(specs, project, never, weights=False)
    assert "2 of 2 trainings were not repeated: results/runs has their numbers." in capsys.readouterr().out
    for run, was, history, predicted in zip(again, trained, histories, predictions, strict=True):
        assert {**run.result, "hashes": {}} == {**was.result, "hashes": {}}
        pd.testing.assert_frame_equal(run.history, history, rtol=1e-6)
        np.testing.assert_allclose(run.validation_probabilities, predicted, atol=1e-3)
        assert run.validation_probabilities.dtype == np.float32


def test_a_run_of_which_the_weights_are_needed_is_trained(project, kept):
    specs, _, _, _ = kept
    [run, _] = helpers.train_all(specs, project, custom_cnn.prepare)
    assert run.folder.parent == places.RUNS
    assert run.load_model().count_params() == run.result["params"]


def test_evidence_of_another_spec_or_damaged_evidence_is_not_taken(project, kept, capsys):
    specs, trained, _, _ = kept
    assert runs.find_run(specs[0] | {"seed": 99}, weights=False) is None
    folder = places.RESULTS / "runs" / trained[0].folder.name
    (folder / "history.csv").write_text("epoch\n1\n")
    assert runs.find_run(specs[0], weights=False) is None
    [run, other] = helpers.train_all(specs, project, custom_cnn.prepare, weights=False)
    assert (run.folder.parent, other.folder.parent) == (places.RUNS, places.RESULTS / "runs")
    runs.keep_evidence(run)  # made good
    shutil.rmtree(run.folder)
    assert runs.find_run(specs[0], weights=False).folder == folder
