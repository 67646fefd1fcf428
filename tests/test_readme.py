"""README.md, docs/findings.md and docs/details.md say what the published study and the code say."""

import ast
import re

from conftest import ROOT
from leaves import evaluation, parameters, rules
from leaves.files import read_json
from leaves.published import labels
from leaves.report.chapters import chapter_parameters

import pandas as pd
import pytest
from bs4 import BeautifulSoup

README = (ROOT / "README.md").read_text(encoding="utf-8")
FINDINGS = (ROOT / "docs" / "findings.md").read_text(encoding="utf-8")
DETAILS = (ROOT / "docs" / "details.md").read_text(encoding="utf-8")
DOCS = sorted((ROOT / "docs").glob("*.md"))
RESULTS = ROOT / "results"
START = {"imagenet": "ImageNet", "random": "random (control)", "none": "from scratch"}


def plain(text):
    """A text with single spaces."""
    return " ".join(text.split())


def tables(text, column):
    """The tables with a column in a Markdown text, each as a list of rows, each a dict of column to cell."""
    found = []
    for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        rows = [[cell.strip() for cell in line.strip("|\n").split("|")] for line in block.splitlines()]
        if column in rows[0]:
            found.append([dict(zip(rows[0], row, strict=True)) for row in rows[2:]])
    return found


def score_rows():
    """The rows of results/scores.csv as the documents write them: dict of model to dict of column to cell.

    Backbones without ImageNet weights only check the pipeline, and are no rows of the documents.
    """

    def number(value, form):
        return "" if pd.isna(value) else format(value, form)

    scores = pd.read_csv(RESULTS / "scores.csv")
    rows = {}
    for model, (_, row) in zip(labels(scores), scores.iterrows(), strict=True):
        rows[model] = {
            "model": model,
            "initial weights": START[row["initial_weights"]],
            "test macro F1": number(row["test_macro_f1"], ".3f"),
            "95 % interval": f"{row['test_macro_f1_low']:.3f} to {row['test_macro_f1_high']:.3f}",
            "validation macro F1": number(row["validation_macro_f1"], ".3f"),
            "test accuracy": number(row["test_accuracy"], ".3f"),
            "on other backgrounds": number(row["replaced_background_macro_f1"], ".3f"),
            "parameters": f"{row['params']:,}",
            "ms per photo": number(row["ms_per_image"], ".1f"),
            "original score": number(row["original_score"], ""),
        }
    return {model: row for model, row in rows.items() if row["initial weights"] != START["random"]}


def wrong_rows(table):
    """The rows of a table that differ from the published ones, in the columns that these have."""
    published = score_rows()
    return [row for row in table if {**published[row["model"]], **row} != {**row, **published[row["model"]]}]


def test_the_details_have_every_score():
    [needs], [scores] = tables(FINDINGS, "test macro F1"), tables(DETAILS, "test macro F1")
    assert wrong_rows(needs) == wrong_rows(scores) == []
    assert [row["model"] for row in scores] == [*score_rows()]


def test_the_readme_shows_some_of_the_scores():
    [table] = tables(README, "test macro F1")
    assert 3 <= len(table) <= 8
    assert len(table[0]) <= 6
    assert wrong_rows(table) == []


def test_a_wrong_digit_is_found():
    [table] = tables(DETAILS, "test macro F1")
    table[0] |= {"test macro F1": "0.999"}
    assert wrong_rows(table) == [table[0]]


def test_the_findings_have_every_verdict():
    [table] = tables(FINDINGS, "verdict")
    published = pd.read_csv(RESULTS / "verdicts.csv").fillna("")
    told = published[["evidence", "reason"]].agg(lambda row: "; ".join(filter(None, row)), axis=1)
    rows = zip(published["claim"], published["said"], told, published["verdict"], strict=True)
    expected = [
        {"claim": f"{claim}: {said}", "measured": told, "verdict": verdict} for claim, said, told, verdict in rows
    ]
    assert [{name: row[name] for name in ("claim", "measured", "verdict")} for row in table] == expected
    assert all(row["meaning"] for row in table)


@pytest.mark.parametrize(
    "text", [FINDINGS, DETAILS, README[README.index("## The result") : README.index("## Two commands")]]
)
def test_every_score_in_the_text_stands_on_the_published_page(text):
    page = BeautifulSoup((RESULTS / "report.html").read_text(encoding="utf-8"), "html.parser").get_text(" ")
    published = {*re.findall(r"\d\.\d{3}\b", page + (RESULTS / "scores.csv").read_text(encoding="utf-8"))}
    published |= {number for row in score_rows().values() for cell in row.values() for number in cell.split()}
    assert {*re.findall(r"\b\d\.\d{3}\b", text)} <= published


def test_the_verdicts_are_counted_as_they_were_reached():
    words = ("none", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
    words += ("thirteen", "fourteen", "fifteen", "sixteen", "seventeen")
    verdicts = pd.read_csv(RESULTS / "verdicts.csv")["verdict"]
    counts = {verdict: (verdicts == verdict).sum() for verdict in ("confirmed", "refuted", "undecided", "not tested")}
    counted = {name: f"{words[count]} {'is' if count == 1 else 'are'} {name}" for name, count in counts.items()}
    assert not counts["not tested"]
    told = f"{counted['confirmed']}, {counted['refuted']} and {counted['undecided']}"
    assert f"Of the seventeen claims, {told} (" in plain(README)
    assert f"All seventeen claims are tested (C15 and C16 without EfficientNetB4): {told}." in plain(FINDINGS)


def test_the_findings_say_what_would_decide_each_undecided_claim():
    """The paragraph groups the claims as their reasons do; a number below ten is a word."""
    text = plain((ROOT / "docs" / "findings.md").read_text(encoding="utf-8"))
    text = text.split("## What would decide the rest")[1].split(" ## ")[0]
    words = {6: "six", 7: "seven"}
    verdicts = pd.read_csv(RESULTS / "verdicts.csv").set_index("claim")
    undecided = verdicts.loc[verdicts["verdict"] == "undecided", "reason"]
    for claim, reason in undecided.items():
        if found := re.match(r"(\d+) repeats would decide", reason):
            assert re.search(rf"{words[int(found[1])]}( repeats)? would decide {claim}\b", text), claim
        elif found := re.search(r"(\d+ to \d+) times as many", reason):
            assert re.search(rf"{claim}\b[C\d, and]* \({found[1]} times", text), claim
        else:
            assert re.search(rf"\b{claim}\b", text.split("Not even 50 times")[1]), claim
    assert len(re.findall(r"\bC\d+", text)) == len(undecided)


def test_the_trainings_are_counted_as_they_were_published():
    record = read_json(RESULTS / "provenance.json")
    processors, count = record["processors"], record["trainings"]
    named = sum(number for name, number in processors.items() if not name.startswith("not recorded"))
    assert f"the {count} trainings stored in `results/runs` took {record['hours']} hours" in plain(README)
    assert f"{named} of the {count} stored results name their processor" in plain(DETAILS)
    assert sum(processors.values()) == count


def test_a_variant_of_a_claim_stands_in_the_group_of_this_claim():
    groups = pd.read_csv(RESULTS / "variants.csv").set_index("variant")["group"].dropna()
    judged = pd.read_csv(RESULTS / "verdicts.csv").set_index("claim")["evidence"]
    compared = re.compile(r"(?:^|; )[^,;]+, ([^;]+?) minus FinalModel")  # as in "macro F1, flatten minus FinalModel"
    pairs = [(claim, name) for claim, said in judged.items() for name in compared.findall(said) if name in groups]
    assert len(pairs) == 12  # the variants of C1 to C11; C2 has two
    for claim, name in pairs:
        assert re.search(rf"[( ]{claim}[,)]", groups[name])


def test_the_details_have_every_variant():
    [table] = tables(DETAILS, "variant of FinalModel")
    expected = []
    for _, row in pd.read_csv(RESULTS / "variants.csv").iterrows():
        difference = f"{row['difference']:+.3f} ({row['low']:+.3f} to {row['high']:+.3f})"
        expected.append({
            "variant of FinalModel": row["variant"],
            "trainings": row["trainings"],
            "held-out macro F1": f"{row['validation']:.3f}",
            "minus FinalModel": "" if pd.isna(row["difference"]) else difference,
            "gap": f"{row['gap']:.3f}",
        })  # fmt: skip
    assert table == expected


def test_rules_of_verdicts_stand_in_one_place():
    told = plain((ROOT / "docs" / "verdicts.md").read_text(encoding="utf-8"))
    rest = told
    for rule in map(plain, rules.RULES.values()):
        assert rule in told
        rest = rest.replace(rule, "")
    sources = {"verdicts.md": rest, "README.md": README}
    sources |= {file.name: file.read_text(encoding="utf-8") for file in (ROOT / "notebooks").glob("*.ipynb")}
    for name, text in sources.items():
        assert not re.search(r"(excludes|contains) zero|is \*\*(confirmed|refuted)\*\*", text), name


def test_the_columns_of_scores_are_explained():
    told = (ROOT / "docs" / "options.md").read_text(encoding="utf-8")
    table = re.findall(r"^\| `(\w+)` \| (.*) \|$", told[told.index("## The columns of") :], re.MULTILINE)
    assert dict(table) == evaluation.SCORE_COLUMNS


@pytest.mark.parametrize("file", ["README.md", "CONTRIBUTING.md", *(f"docs/{file.name}" for file in DOCS)])
def test_links_lead_to_files(file):
    links = re.findall(r"\]\((?!https?:|#)([^)#]*)", (ROOT / file).read_text(encoding="utf-8"))
    assert [link for link in links if not (ROOT / file).parent.joinpath(link).exists()] == []


def test_the_exercises_set_parameters_that_their_chapters_have():
    told = (ROOT / "docs" / "exercises.md").read_text(encoding="utf-8")
    exercises = re.findall(r"\]\(\.\./(notebooks/\w+\.ipynb)\), set `(\w+) = ([^`]*)`", told)
    assert len(exercises) == 3
    for notebook, name, value in exercises:
        assert name in chapter_parameters(ROOT / notebook)
        parameters.check({name: ast.literal_eval(value)})
