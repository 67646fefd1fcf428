"""Measure how much the choice of the best epoch flatters each network of the published study.

    .venv/bin/python benchmarks/best_epochs.py

The same held-out photos choose the epoch of a training and give its score. The noisier a curve is, the more its best
epoch lies above its neighbours. For each network of chapters 2 and 3 in results/runs, this benchmark prints the mean of
three macro F1 over the trainings that converged: that of the best epoch (the published score), the mean of the ten
epochs around it, and the median of the last 20 epochs. "collapsed" counts the trainings that name one species for all
photos in their last epoch, although an earlier epoch was good.
"""

from leaves import places
from leaves.runs import fault_of_run, read_run

import numpy as np
import pandas as pd

AROUND, LAST = 5, 20  # epochs before and after the best one, and epochs at the end


def main():
    folders = [file.parent for file in sorted((places.RESULTS / "runs").glob("0[23]-*/result.json"))]
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
        if run.spec.get("refit") or run.spec["name"] == "trial" or run.result["state"] != "converged":
            continue
        curve = run.history["val_macro_f1"].to_numpy()
        best = int(curve.argmax())
        near = np.delete(curve[max(best - AROUND, 0) : best + AROUND + 1], min(best, AROUND))
        row = {"best epoch": curve[best], "around it": near.mean(), "last": np.median(curve[-LAST:])}
        rows.append({"network": run.spec["name"], **row, "collapsed": curve[-1] <= curve.min() < curve[best] / 4})
    return pd.DataFrame(rows)


if __name__ == "__main__":
    main()
