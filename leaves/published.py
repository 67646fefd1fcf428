"""Read the published study (this project's results on real photos, in results/) to show it beside the current run."""

import os
from dataclasses import dataclass
from html import escape

from leaves import places
from leaves.claims import count_text
from leaves.files import InputError, file_hash, read_json
from leaves.progress import STEPS

import numpy as np
import pandas as pd

MOST_ROWS = 8
DECIDED = ("confirmed", "refuted")
PROFILE = "study"  # name of the profile (a file in notebooks/profiles/) with the parameters of the study


@dataclass(frozen=True)
class Study:
    """The published study, as `report.publish` wrote it."""

    provenance: dict
    scores: pd.DataFrame  # the columns of scores.csv, one row per model
    ranking: pd.DataFrame  # each model and its mean macro F1 on the held-out folds; the best model is first
    verdicts: pd.DataFrame  # columns claim, said, evidence, verdict, reason and figure, one row per claim


def published_study():
    """Read the published `Study`; return None if results/ has none.

    With the profile "study" the result is also None, because the page of a new study must not show an earlier one.

    Raises
    ------
    InputError
        When a file of the study is missing or has changed since it was published.
    """
    record = places.RESULTS / "provenance.json"
    if not record.exists() or os.environ.get("LEAVES_PROFILE") == PROFILE:
        return None
    provenance, tables = (
        read_json(record),
        [places.RESULTS / f"{name}.csv" for name in ("scores", "ranking", "verdicts")],
    )
    for file in (record, *tables):
        expected = provenance.get("files", {}).get(f"results/{file.name}")
        if not provenance or not file.exists() or expected not in (None, file_hash(file)):
            raise InputError(f"results/{file.name} is damaged: bring it back with `git checkout results`.")
    return Study(provenance, *map(pd.read_csv, tables))


def introduction(study, split_hash):
    """Describe the published study, and say if this run has the same split: list of str.

    Parameters
    ----------
    split_hash : str, hash of this run's split
    """
    facts = study.provenance
    made = f"{facts['trainings']} trainings took {facts['hours']} hours"
    photos = f"{facts['photos']:,} photos of {facts['species']} species"
    pretrained = [name for name, weights in facts["weights"].items() if weights["kind"] == "imagenet"]
    sentences = [
        f"The study on real photos used {photos}; its {made}.",
        f"It was published on {facts['date']} (commit {facts['commit']}).",
        f"These backbones had ImageNet weights: {', '.join(pretrained) or 'none'}.",
        "This section shows the study's scores, and the table of claims shows the study's verdicts.",
    ]
    if "variants" in facts["parameters"]:
        trained = ", ".join(f'"{name}"' for name in facts["parameters"]["variants"]) or "none"
        sentences.append(
            f"Variants of chapter 3 trained so far: {trained}. Claims about other variants are not tested yet."
        )
        if trials := facts["parameters"].get("search_trials"):
            sentences.append(f"The study's search had {count_text(trials, 'trial')} so far.")
        sentences.append(
            "The study's verdicts are preliminary: the tests are corrected for the number of tested claims, so a "
            "verdict can change when more claims are tested."
        )
    if facts["split"] == split_hash:
        sentences.append("This run has the same photos and the same split.")
    return sentences


def answer(study):
    """Summarise the published study in three sentences: two test scores, and the number of claims with each verdict.

    The scores are those of the network that validation chose and of FinalModel. The text is HTML.
    """
    scores, best = study.scores.set_axis(labels(study.scores)), study.ranking["model"].iloc[0]
    (score, low, high), (small, *ends) = (
        [f"{scores.loc[model, f'test_macro_f1{end}']:.3f}" for end in ("", "_low", "_high")]
        for model in (best, "FinalModel")
    )
    return (
        "the best single model, chosen on validation, is "
        f"<strong>{escape(best)}</strong>: macro F1 <strong>{score}</strong> (95 % interval {low} to {high}) on test. "
        f"FinalModel, the original study's network, reaches {small} ({' to '.join(ends)}). "
        f"Claims: {escape(tally(study.verdicts))}."
    )


def tally(verdicts):
    """Count the claims with each verdict, and list the decided claims: "2 confirmed (C1, C4), 9 not tested"."""
    names = verdicts.groupby("verdict")["claim"].agg(list)
    texts = {verdict: f"{len(having)} {verdict}" for verdict, having in names.items()}
    decided = {verdict: f"{texts[verdict]} ({', '.join(names[verdict])})" for verdict in DECIDED if verdict in texts}
    order = (*DECIDED, "undecided", "not tested")
    return ", ".join((texts | decided)[verdict] for verdict in order if verdict in texts)


def labels(scores):
    """Label the models of a scores.csv: a backbone by name and step ("VGG16, fine tuning"), all others by name."""
    is_backbone = scores["model"].isin(scores.loc[scores["chapter"] == 4, "model"])  # chapter 4 trains all backbones
    steps = scores["chapter"].map({int(chapter): step for chapter, step in STEPS.items()})
    return scores["model"] + steps.where(is_backbone).fillna("")


def listed(scores):
    """Select the rows of a scores.csv (a DataFrame) for the compared models, and label these models: DataFrame.

    Networks with random initial weights are removed. If the search found nothing better than FinalModel, FinalModel
    (tuned) is the same network with the same numbers. Then only the row of FinalModel is kept.
    """
    rows = scores.assign(model=labels(scores))[scores["initial_weights"] != "random"]
    original = rows.loc[rows["model"] == "FinalModel", "train_seconds"]
    return rows[(rows["model"] != "FinalModel (tuned)") | ~rows["train_seconds"].isin(original)]


def by_score(scores):
    """Sort the rows of a scores.csv by test macro F1, the highest first; models that average predictions come last."""
    averaged = scores["chapter"] == 6  # the ensemble, and test-time augmentation
    return scores.iloc[np.lexsort((-scores["test_macro_f1"], averaged))]


def scores_table(study):
    """List the best models of the published study, in the order of `by_score`: DataFrame of str, one row per model."""
    best = by_score(listed(study.scores).nlargest(MOST_ROWS, "test_macro_f1", keep="all"))
    table = pd.DataFrame({"model": best["model"]})
    intervals = zip(best["test_macro_f1"], best["test_macro_f1_low"], best["test_macro_f1_high"], strict=True)
    table["macro F1 (95 % interval)"] = [f"{score:.3f} ({low:.3f} to {high:.3f})" for score, low, high in intervals]
    other = best["replaced_background_macro_f1"]
    table["on other backgrounds"] = other.map("{:.3f}".format).where(other.notna(), "")
    table["parameters"] = best["params"].map("{:,.0f}".format)
    return table


def scores_beside(study, scores):
    """Compare the test macro F1 of models that the published study and this run both have: DataFrame of str.

    Parameters
    ----------
    study : see `published_study`
    scores : DataFrame, the scores.csv of this run
    """
    there, here = (listed(table).set_index("model")["test_macro_f1"] for table in (study.scores, scores))
    both = (
        pd.DataFrame({"published study": there, "this run": here})
        .dropna()
        .reindex(there.index.intersection(here.index))
    )
    table = both.map("{:.3f}".format).rename_axis("model").reset_index()
    return table.assign(difference=(both["this run"] - both["published study"]).map("{:+.3f}".format).to_numpy())
