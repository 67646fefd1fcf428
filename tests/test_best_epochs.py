"""What benchmarks/best_epochs.py says of a training, and that the documents repeat it."""

from types import SimpleNamespace

from benchmarks import best_epochs
from conftest import ROOT

import pandas as pd
import pytest
from test_readme import tables


def a_run(name, curve, state="converged", **spec):
    history = pd.DataFrame({"val_macro_f1": curve})
    return SimpleNamespace(spec={"name": name, "patience": 20} | spec, result={"state": state}, history=history)


def test_the_peak_of_a_curve_is_compared_with_its_neighbours_and_its_end():
    noisy, collapsed = [0.5] * 10 + [0.9] + [0.7] * 30, [0.1, 0.6, 0.6, 0.8, 0.6, 0.1]
    others = [
        a_run("ReLU", noisy, "still rising"),
        a_run("trial", noisy),
        a_run("FinalModel (refit)", noisy, patience=None),
    ]
    falling = a_run("ResNet50", [0.6, 0.9, 0.5], backbone="ResNet50")
    table = best_epochs.scores([a_run("FinalModel", noisy), a_run("SGD", collapsed), falling, *others])
    assert table["network"].tolist() == ["FinalModel", "SGD", "ResNet50, fine-tuned"]
    assert table["best epoch"].tolist() == [0.9, 0.8, 0.9]
    assert table["around it"].tolist() == pytest.approx([0.6, 0.4, 0.55])  # up to five epochs before and after
    assert table["last"].tolist() == pytest.approx([0.7, 0.6, 0.6])
    assert table["collapsed"].tolist() == [False, True, False]


def test_the_details_tell_what_the_benchmark_prints(capsys):
    best_epochs.main()
    printed = {" ".join(line.split()[:-5]): line.split()[-5:] for line in capsys.readouterr().out.splitlines()[3:]}
    [told] = tables((ROOT / "docs" / "details.md").read_text(encoding="utf-8"), "median of the last 20 epochs")
    for network, *cells in (row.values() for row in told):
        assert cells == printed[network][2:], network
    assert printed["SGD, batch 1"][:2] == ["5", "3"]  # five trainings, three of them collapsed
