"""Compare the trainings in a folder with those of the published study: how much does another machine change a score?

    .venv/bin/python benchmarks/compare_runs.py FOLDER

FOLDER is a folder of runs, such as `runs` after a run with the study's photos, weights and profile, or `results/runs`
of another copy of the project. For each spec that was trained in both places, the benchmark prints the two scores on
the held-out photos, and a summary of their differences. If a result was only copied from the published study, and not
trained again, it is not counted. The spec of a fine-tuned or distilled network contains a hash of an earlier network's
predictions, so such a training has a counterpart only if these predictions are the same to the last bit. The spec of a
refit contains the best epoch of an earlier training, so a refit has a counterpart only if this epoch is the same.
"""

import argparse
import sys
from pathlib import Path

from leaves import places
from leaves.claims import count_text
from leaves.evaluation import validation_score
from leaves.runs import fault_of_run, read_run

import pandas as pd


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="a folder of runs, for example runs")
    folder = parser.parse_args().folder
    if not folder.is_dir():
        sys.exit(f"There is no folder {folder}: give a folder of runs, for example runs.")
    ours, published = read_runs(folder), read_runs(places.RESULTS / "runs")
    if not ours.keys() & published.keys():
        sys.exit("No spec was trained in both places: use the photos, weights and profile of the published study.")
    table, copies = compare(ours, published)
    if len(table):
        print(table.to_string(float_format="{:.4f}".format))
    print(summary(table["difference"]))
    alone = len(published.keys() - ours.keys())
    print(f"Not counted: {copies} copies of published trainings, {alone} published trainings without a counterpart.")


def read_runs(folder):
    """Read the finished and undamaged trainings in a folder: dict of the spec's hash to Run."""
    found = [file.parent for file in sorted(folder.glob("*/result.json")) if not fault_of_run(file.parent)]
    runs = {run.folder.name[-8:]: run for run in map(read_run, found)}
    return {key: run for key, run in runs.items() if "mean_with_start" not in run.spec}  # an average is not trained


def compare(ours, published):
    """Compare the trainings of two places, each a dict from `read_runs`.

    Returns
    -------
    table : DataFrame, one row per spec, with the columns state, macro F1 (on the held-out photos), the same two for the
        published training, and difference (macro F1 minus the published macro F1, NaN if a training diverged)
    copies : int
        The number of trainings that are copies of a published one; they are not in the table.
    """
    rows, copies = [], 0
    for key in sorted(ours.keys() & published.keys()):
        run, other = ours[key], published[key]
        if without_hashes(run) == without_hashes(other):
            copies += 1
            continue
        row = {"model": f"{run.spec['chapter']} {run.spec['name']}", "seed": run.spec["seed"]}
        row |= {"state": run.result["state"], "macro F1": validation_score(run)}
        row |= {"state, published": other.result["state"], "macro F1, published": validation_score(other)}
        rows.append(row | {"difference": validation_score(run) - validation_score(other)})
    columns = ["model", "seed", "state", "macro F1", "state, published", "macro F1, published", "difference"]
    table = pd.DataFrame(rows, columns=columns).astype({"difference": float})
    return table.sort_values(["model", "seed"]).set_index(["model", "seed"]), copies


def without_hashes(run):
    """Return a run's result without hashes, which differ in a copy: results/runs has fewer files, some rounded."""
    return {key: value for key, value in run.result.items() if key not in ("hashes", "sha256")}


def summary(differences):
    """Summarise the differences of a Series in one sentence; diverged trainings are not counted."""
    found = differences.dropna()
    if found.empty:
        return "No training was repeated."
    equal = (found == 0).sum()
    spread = f"standard deviation {found.std():.4f}, " if len(found) > 1 else ""
    return (
        f"{count_text(len(found), 'training')}: mean difference {found.mean():+.4f}, mean absolute difference "
        f"{found.abs().mean():.4f}, {spread}largest difference {found.abs().max():.4f}; equal scores: {equal}."
    )


if __name__ == "__main__":
    main()
