"""Measure how well a score after a few epochs predicts the final score: what the first rounds of a search can know.

    .venv/bin/python benchmarks/early_scores.py

The search of chapter 3 drops two thirds of its trials after a few epochs. This benchmark takes the trainings of
FinalModel and of its variants in results/runs, and cuts them short after the epochs of each round of that search. It
prints Spearman's rank correlation between the best score up to there and the best score of the whole training, first
over the single trainings, then over the means of the repeats of each network.

Only trainings that converged at a macro F1 of 0.5 or more count, because those that hardly learnt are easily told from
the others after a few epochs. All have the same budget of epochs and the same patience as FinalModel.
"""

from leaves import places
from leaves.published import PROFILE
from leaves.runs import fault_of_run, read_run
from leaves.search import round_budgets

import pandas as pd
import yaml

LEARNT = 0.5  # smallest macro F1 of a training that counts


def main():
    profile = yaml.safe_load((places.NOTEBOOKS / "profiles" / f"{PROFILE}.yaml").read_text(encoding="utf-8"))
    budgets = round_budgets(profile["search_epochs"], profile["epochs"])[:-1]
    folders = [file.parent for file in sorted((places.RESULTS / "runs").glob("0[23]-*/result.json"))]
    table = scores([read_run(folder) for folder in folders if not fault_of_run(folder)], budgets)
    means = table.groupby("network").mean()
    print(f"{len(table)} trainings of {len(means)} networks: rank correlation with the score of the whole training")
    print(correlations(table, means, budgets).to_string(float_format="{:.2f}".format))


def scores(runs, budgets):
    """Tabulate the best score on the held-out photos, up to each of `budgets` and in the whole training.

    Returns
    -------
    DataFrame, one row per training that counts, with the columns network (str), each budget (int) and "whole" (float)
    """
    final = next(run for run in runs if run.spec["name"] == "FinalModel").spec
    rows = []
    for run in runs:
        same = all(run.spec[key] == final[key] for key in ("epochs", "patience"))
        curve = run.history["val_macro_f1"]
        learnt = run.result["state"] == "converged" and curve.max() >= LEARNT
        if same and learnt and not run.spec.get("refit") and run.spec["name"] != "trial":
            best = {budget: curve[:budget].max() for budget in budgets}
            rows.append({"network": run.spec["name"], **best, "whole": curve.max()})
    return pd.DataFrame(rows)


def correlations(table, means, budgets):
    """Correlate the ranks after each budget with those of the whole trainings: DataFrame, one row per budget."""
    rows = {}
    for budget in budgets:
        pairs = {"single trainings": table, "means of repeats": means}.items()
        rows[f"after {budget} epochs"] = {name: of[budget].corr(of["whole"], method="spearman") for name, of in pairs}
    return pd.DataFrame(rows).T


if __name__ == "__main__":
    main()
