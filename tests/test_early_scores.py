"""Which trainings benchmarks/early_scores.py counts, and what it correlates."""

from types import SimpleNamespace

from benchmarks import early_scores
from conftest import ROOT

import pandas as pd


def a_run(name, curve, state="converged", **spec):
    spec = {"name": name, "epochs": 9, "patience": 2} | spec
    return SimpleNamespace(spec=spec, result={"state": state}, history=pd.DataFrame({"val_macro_f1": curve}))


def test_only_comparable_trainings_that_converged_are_correlated():
    runs = [a_run("FinalModel", [0.1, 0.2, 0.9]), a_run("FinalModel", [0.3, 0.2, 0.7]), a_run("ReLU", [0.2, 0.4, 0.8])]
    others = [a_run("ReLU", [0.9] * 3, "still rising"), a_run("ReLU", [0.9] * 3, epochs=8), a_run("trial", [0.9] * 3)]
    others += [a_run("sigmoid", [0.1, 0.2, 0.3])]
    others += [a_run("FinalModel (refit)", [0.9] * 3, refit=True)]
    table = early_scores.scores(runs + others, [1, 2])
    assert table["network"].tolist() == ["FinalModel", "FinalModel", "ReLU"]
    assert table[1].tolist() == [0.1, 0.3, 0.2]
    assert table[2].tolist() == [0.2, 0.3, 0.4]
    assert table["whole"].tolist() == [0.9, 0.7, 0.8]
    found = early_scores.correlations(table, table.groupby("network").mean(), [1, 2])
    assert found.loc["after 1 epochs", "single trainings"] == -1
    assert found.loc["after 2 epochs", "single trainings"] == -0.5


def test_the_details_tell_what_the_benchmark_prints(capsys):
    early_scores.main()
    first, _, *rows = capsys.readouterr().out.splitlines()
    single, means = zip(*(row.split()[-2:] for row in rows), strict=True)
    told = " ".join((ROOT / "docs" / "details.md").read_text(encoding="utf-8").split())
    assert f"Over {first.split()[0]} trainings of {first.split()[3]} networks" in told
    assert "of the whole training is {}; after 19 epochs it is {}, and after 62 epochs {}.".format(*single) in told
    assert f"For the means over a network's repeats it is {min(means)} to {max(means)}" in told
