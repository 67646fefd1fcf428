"""The published study in results/: what the study on real photos found, for the page of any run."""

from dataclasses import dataclass

from leaves import places
from leaves.files import read_json

import pandas as pd

MOST_ROWS = 8


@dataclass(frozen=True)
class Study:
    """A published study, as `report.publish` wrote it."""

    provenance: dict
    scores: pd.DataFrame  # columns of scores.csv, one row per model
    verdicts: pd.DataFrame  # claim, said, evidence, verdict, reason and figure, one row per claim


def published_study():
    """The published `Study`, or None if results/ has none."""
    provenance = read_json(places.RESULTS / "provenance.json")
    if not provenance:
        return None
    scores, verdicts = (pd.read_csv(places.RESULTS / f"{name}.csv") for name in ("scores", "verdicts"))
    return Study(provenance, scores, verdicts)


def introduction(study, split_hash):
    """Say what was published, and whether the present run is on the same photos: list of str, one sentence or two each.

    Parameters
    ----------
    split_hash : str, of the present run's split
    """
    facts = study.provenance
    made = f"{facts['trainings']} trainings, {facts['hours']} hours, published on {facts['date']}"
    photos = f"{facts['photos']:,} photos of {facts['species']} species"
    pretrained = [name for name, weights in facts["weights"].items() if weights["kind"] == "imagenet"]
    sentences = [
        f"The study on real photos: {photos}, {made}, commit {facts['commit']}.",
        f"These backbones had ImageNet weights: {', '.join(pretrained) or 'none'}.",
        "Its numbers stand in this section, its verdicts beside those of this run, its page in results/report.html.",
    ]
    if facts["split"] == split_hash:
        sentences.append("The present run is on the same photos, divided in the same way.")
    return sentences


def tally(verdicts):
    """How many claims have which verdict, as in "3 confirmed, 2 refuted"."""
    counts = verdicts["verdict"].value_counts()
    return ", ".join(f"{count} {verdict}" for verdict, count in counts.items())


def scores_table(study):
    """The best models of the study by macro F1 on its test subset: DataFrame of str, one row per model."""
    best = study.scores[study.scores["initial_weights"] != "random"].nlargest(MOST_ROWS, "test_macro_f1", keep="all")
    table = pd.DataFrame({"model": best["model"]})
    intervals = zip(best["test_macro_f1"], best["test_macro_f1_low"], best["test_macro_f1_high"], strict=True)
    table["macro F1 (95 % interval)"] = [f"{score:.3f} ({low:.3f} to {high:.3f})" for score, low, high in intervals]
    other = best["replaced_background_macro_f1"]
    table["on other backgrounds"] = other.map("{:.3f}".format).where(other.notna(), "")
    table["parameters"] = best["params"].map("{:,.0f}".format)
    return table


def scores_beside(study, scores):
    """The test macro F1 of models that both have: DataFrame of str, one row per model.

    Parameters
    ----------
    scores : DataFrame, the scores.csv of the present run
    """
    both = study.scores.merge(scores, on="model", suffixes=(" there", " here"))
    both = both[(both["initial_weights there"] != "random") & (both["initial_weights here"] != "random")]
    there, here = both["test_macro_f1 there"], both["test_macro_f1 here"]
    table = pd.DataFrame({"model": both["model"], "published study": there.map("{:.3f}".format)})
    return table.assign(**{"this run": here.map("{:.3f}".format), "difference": (here - there).map("{:+.3f}".format)})
