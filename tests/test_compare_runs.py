"""What benchmarks/compare_runs.py counts when it compares trainings of two machines."""

from pathlib import Path

from benchmarks import compare_runs
from leaves.runs import Run

import pytest


def a_run(score, seconds, seed=0, diverged=False):
    result = {"state": "diverged" if diverged else "converged", "validation_macro_f1": score, "diverged": diverged}
    result |= {"train_seconds": seconds, "hashes": {"history.csv": str(seconds)}}
    return Run(Path(f"runs/02-FinalModel-{seed}"), {"chapter": "02", "name": "FinalModel", "seed": seed}, result)


def test_only_trainings_that_were_repeated_are_compared():
    published = {"copied": a_run(0.5, 10), "higher": a_run(0.5, 10, 1), "lower": a_run(0.75, 10, 2)}
    published |= {"lost": a_run(0.5, 10, 3, diverged=True), "alone": a_run(0.5, 10, 4), "equal": a_run(0.25, 10, 5)}
    ours = {"copied": a_run(0.5, 10), "higher": a_run(0.75, 11, 1), "lower": a_run(0.625, 11, 2)}
    ours |= {"lost": a_run(0.5, 11, 3), "equal": a_run(0.25, 12, 5), "new": a_run(0.5, 11, 6)}
    table, copies = compare_runs.compare(ours, published)
    assert copies == 1
    assert [*table.index] == [("02 FinalModel", seed) for seed in (1, 2, 3, 5)]
    assert table["difference"].tolist()[:2] == [0.25, -0.125]
    assert table["state, published"].tolist()[2] == "diverged"
    told = compare_runs.summary(table["difference"])
    assert told.startswith("3 trainings: mean difference +0.0417, mean absolute difference 0.1250, standard deviation")
    assert told.endswith("largest difference 0.2500; equal scores: 1.")


def test_copies_alone_are_no_comparison():
    table, copies = compare_runs.compare({"a": a_run(0.5, 10)}, {"a": a_run(0.5, 10)})
    assert (len(table), copies) == (0, 1)
    assert compare_runs.summary(table["difference"]) == "No training was repeated."


def test_a_folder_that_is_missing_is_named(monkeypatch):
    monkeypatch.setattr("sys.argv", ["compare_runs.py", "no_such_folder"])
    with pytest.raises(SystemExit, match="There is no folder no_such_folder: give a folder of runs"):
        compare_runs.main()
