"""Estimate how often the rules in docs/verdicts.md decide wrongly, and how often they find an effect that exists.

    .venv/bin/python benchmarks/verdict_rules.py           # resamples tests/data/repeats.csv
    .venv/bin/python benchmarks/verdict_rules.py --train   # trains FinalModel again, in about ten minutes

The stored trainings used 1,000 synthetic leaves. To repeat them, first make these leaves:
`./run_all.sh --only 01 --data sample -p sample_count 1000`.

FinalModel is compared with itself: a "variant" is FinalModel with other seeds on the same folds. So every difference is
due to chance, unless an effect is *planted*: a number that is added to all differences of one variant.
"""

import argparse

from leaves import claims, places

import numpy as np
import pandas as pd

TRAININGS = places.ROOT / "tests" / "data" / "repeats.csv"
SEEDS, RUNS = 8, 2000
QUICK = {"RUNS": 20}  # enough to see that the script works


def trained():
    """Train FinalModel as in chapter 2, with `SEEDS` seeds per fold: DataFrame of seed, fold, state, macro_f1, gap."""
    import helpers
    from leaves import batches, custom_cnn, dataset

    split = dataset.load_split()
    augmentation = batches.AUGMENTATION | {"rotation": 0, "shift": 0, "zoom": 0}
    size, rows = dataset.shrunk_side(split, 4), []
    for seed in range(SEEDS):
        for fold in range(split.attrs["folds"]):
            choices = {"augmentation": augmentation, "fold": fold}
            spec = custom_cnn.cnn_spec("02", "FinalModel", split, size, 150, seed, **choices)
            result = helpers.train(spec, split, custom_cnn.prepare).result
            score = result["validation_macro_f1"]
            row = {"seed": seed, "fold": fold, "state": result["state"], "macro_f1": round(score, 4)}
            rows.append(row | {"gap": round(result["train_macro_f1"] - score, 4)})
            print(row, flush=True)
    return pd.DataFrame(rows)


def resampled(scores, repeats, variants, rng, effect=0.0):
    """Draw at random the differences in score between simulated variants (FinalModel with other seeds) and FinalModel.

    Parameters
    ----------
    scores : DataFrame of float, one row per seed, one column per fold
    repeats, variants : int
        The numbers of repeats and of variants. Each repeat has a different fold, drawn at random.
    rng : numpy Generator
    effect : float
        Added to the differences of the first variant.

    Returns
    -------
    dict of the variant's number to array of float, shape (repeats,)
    """
    values = scores.to_numpy()
    folds = rng.permutation(values.shape[1])[:repeats]
    seeds = np.array([rng.permutation(len(values))[: variants + 1] for _ in folds])  # no training is drawn twice
    drawn = values[seeds, folds[:, None]]
    differences = {number: drawn[:, number + 1] - drawn[:, 0] for number in range(variants)}
    differences[0] = differences[0] + effect
    return differences


def simulate(scores, repeats, variants, effect=0.0, runs=RUNS, seed=0):
    """Apply the rules in docs/verdicts.md to many simulated reports, and measure how often the rules are right.

    Parameters
    ----------
    scores, repeats, variants, effect : see `resampled`
    runs : int
        The number of simulated reports; each report compares all variants with FinalModel.
    seed : int

    Returns
    -------
    dict of float: wrong (share of reports that find "higher" or "lower" for at least one variant without an effect),
    found (share of reports that find the planted effect), covered (share of 95 % intervals that contain the true
    difference), same (share of variants without an effect that are shown to be the same as FinalModel)
    """
    rng = np.random.default_rng(seed)
    wrong = found = covered = same = 0
    for _ in range(runs):
        compared = claims.compare(resampled(scores, repeats, variants, rng, effect), scores.shape[1])
        shown = claims.outcomes(compared)
        null = [number for number in shown if number or not effect]
        wrong += any(shown[number] in ("higher", "lower") for number in null)
        found += bool(effect) and shown[0] == "higher"
        same += np.mean([shown[number] == "same" for number in null])
        truth = {number: effect if number == 0 else 0.0 for number in compared}
        covered += np.mean([row.low <= truth[number] <= row.high for number, row in compared.items()])
    return {"wrong": wrong / runs, "found": found / runs, "covered": covered / runs, "same": same / runs}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--train", action="store_true", help="train FinalModel again on the current split")
    parser.add_argument("--quick", action="store_true", help="only check that the script runs")
    options = parser.parse_args()
    if options.quick:
        globals().update(QUICK)
    if options.train:
        trained().to_csv(TRAININGS, index=False)
    scores = pd.read_csv(TRAININGS).pivot_table(index="seed", columns="fold", values="macro_f1")
    spread = np.sqrt(scores.var().mean())
    print(f"{scores.size} trainings of FinalModel. The standard deviation of macro F1 over the seeds is {spread:.3f}.")
    print(f"Each row is from {RUNS} simulated reports.")
    rows = []
    for repeats, variants in ((3, 3), (3, 7), (5, 7)):
        for effect in (0.0, 0.1):
            row = {"repeats": repeats, "claims": variants, "planted": effect}
            rows.append(row | simulate(scores, repeats, variants, effect, RUNS))
    print(pd.DataFrame(rows).to_string(index=False, float_format="{:.3f}".format))


if __name__ == "__main__":
    main()
