"""Compare the trainings in a folder with those of the published study: how much does another machine change a score?

    .venv/bin/python benchmarks/compare_runs.py FOLDER

FOLDER is a folder of runs, such as `runs` after a run with the study's photos, weights and profile, or `results/runs`
of another copy of the project. For each spec that was trained in both places, the benchmark prints the two scores on
the held-out photos. Then it prints their mean difference and the standard deviation of the differences.
"""

import argparse
import sys
from pathlib import Path

from leaves import places
from leaves.evaluation import validation_score
from leaves.runs import fault_of_run, read_run

import pandas as pd


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="a folder of runs, for example runs")
    table = compare(scores_of_runs(parser.parse_args().folder), scores_of_runs(places.RESULTS / "runs"))
    if table.empty:
        sys.exit("No spec was trained in both places: use the photos, weights and profile of the published study.")
    print(table.to_string(float_format="{:.4f}".format))
    spread = table["difference"]
    print(
        f"{len(table)} trainings: mean difference {spread.mean():+.4f}, standard deviation {spread.std():.4f}", end=""
    )
    print(f", largest difference {spread.abs().max():.4f}; equal: {(spread == 0).sum()}")


def scores_of_runs(folder):
    """Read the finished and undamaged runs in a folder: DataFrame with the columns model, repeat, state and macro F1.

    The index is the hash of the spec. The repeat is the seed. The macro F1 is that on the held-out photos.
    """
    found = [file.parent for file in sorted(folder.glob("*/result.json")) if not fault_of_run(file.parent)]
    rows = {}
    for run in map(read_run, found):
        row = {"model": f"{run.spec['chapter']} {run.spec['name']}", "repeat": run.spec["seed"]}
        rows[run.folder.name[-8:]] = row | {"state": run.result["state"], "macro F1": validation_score(run)}
    return pd.DataFrame(rows, index=["model", "repeat", "state", "macro F1"]).T


def compare(ours, published):
    """Join two tables of `scores_of_runs` by their specs, and subtract the published macro F1: DataFrame."""
    names = {name: f"{name}, published" for name in ("state", "macro F1")}
    both = ours.join(published[[*names]].rename(columns=names), how="inner")
    both = both.astype({"macro F1": float, "macro F1, published": float})
    both["difference"] = both["macro F1"] - both["macro F1, published"]
    return both.sort_values(["model", "repeat"]).set_index(["model", "repeat"])


if __name__ == "__main__":
    main()
