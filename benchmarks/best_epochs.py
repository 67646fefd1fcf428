"""Measure how much the choice of the best epoch flatters each network in results/runs.

    .venv/bin/python benchmarks/best_epochs.py

The same held-out photos choose the epoch of a training and give its score. The noisier a curve is, the more its best
epoch lies above its neighbours. For each network of chapters 2 and 3, and each fine-tuned one, this benchmark prints
three values of macro F1, each averaged over the trainings that converged: that of the best epoch (the published score),
the mean of the ten epochs around it, and the median of the last 20 epochs. "collapsed" counts the trainings whose last
epoch has their lowest macro F1, below a quarter of the best. Trainings without early stopping have no chosen epoch and
do not count, nor do the trials of the search.
"""

from leaves import places
from leaves.runs import fault_of_run, read_run

import numpy as np
import pandas as pd

AROUND, LAST = 5, 20  # epochs before and after the best one, and epochs at the end


def main():
    folders = [file.parent for file in sorted((places.RESULTS / "runs").glob("0[235]-*/result.json"))]
    table = scores([read_run(folder) for folder in folders if not fault_of_run(folder)])
    print(f"{len(table)} trainings; macro F1 on the held-out photos, means over the trainings of a network")
    means = table.groupby("network").mean().drop(columns="collapsed")
    means.insert(0, "collapsed", table.groupby("network")["collapsed"].sum())
    means.insert(0, "trainings", table.groupby("network").size())
    print(means.sort_values("around it").to_string(float_format="{:.2f}".format))


def scores(runs):
    """Tabulate the score of the best epoch, of its neighbours and of the last epochs.

    Returns
    -------
    DataFrame, one row per training that converged, with the columns network (str), "best epoch", "around it" and "last"
    (float, macro F1), and collapsed (bool)
    """
    rows = []
    for run in runs:
        name, converged = run.spec["name"], run.result["state"] == "converged"
        if not (converged and run.spec["patience"]) or name == "trial":
            continue
        curve = run.history["val_macro_f1"].to_numpy()
        best = int(curve.argmax())
        near = np.delete(curve[max(best - AROUND, 0) : best + AROUND + 1], min(best, AROUND))
        row = {"best epoch": curve[best], "around it": near.mean(), "last": np.median(curve[-LAST:])}
        network = f"{name}, fine-tuned" if "backbone" in run.spec else name
        rows.append({"network": network, **row, "collapsed": curve[-1] <= curve.min() < curve[best] / 4})
    return pd.DataFrame(rows)


if __name__ == "__main__":
    main()
