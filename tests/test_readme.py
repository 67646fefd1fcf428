"""README.md and docs/results.md say what the published files and the code say."""

import ast
import re

from conftest import ROOT
from leaves import claims, evaluation, parameters
from leaves.report.chapters import chapter_parameters

import pandas as pd
import pytest

README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCS = sorted((ROOT / "docs").glob("*.md"))
START = {"imagenet": "ImageNet", "random": "random (control)", "none": "from scratch"}
STEP = {4: ", transfer learning", 5: ", fine tuning"}
RESULTS = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
PUBLISHED = [ROOT / "figures" / f"{name}.csv" for name in ("other_backgrounds", "real_photos", "scores")]


def plain(text):
    """A text with single spaces."""
    return " ".join(text.split())


def tables(text):
    """The tables of scores in a Markdown text, each as a list of rows, each a dict of column to cell."""
    found = []
    for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        rows = [[cell.strip() for cell in line.strip("|\n").split("|")] for line in block.splitlines()]
        if "test macro F1" in rows[0]:
            found.append([dict(zip(rows[0], row, strict=True)) for row in rows[2:]])
    return found


def as_row(row):
    """A row of scores.csv as README writes it."""

    def number(value, form):
        return "" if pd.isna(value) else format(value, form)

    has_step = not row["model"].startswith("FinalModel") and "(any background)" not in row["model"]
    return {
        "model": row["model"] + (STEP.get(row["chapter"], "") if has_step else ""),
        "initial weights": START[row["initial_weights"]],
        "test macro F1": number(row["test_macro_f1"], ".3f"),
        "95 % interval": f"{row['test_macro_f1_low']:.3f} to {row['test_macro_f1_high']:.3f}",
        "test accuracy": number(row["test_accuracy"], ".3f"),
        "on other backgrounds": number(row.get("replaced_background_macro_f1"), ".3f"),
        "second test set, macro F1": number(row["external_macro_f1"], ".3f"),
        "parameters": f"{row['params']:,}",
        "the original's score": number(row["original_score"], ""),
    }


def faults(table, published):
    """The rows of a table that differ from the published file, and those that are missing."""
    expected = {row["model"]: row for row in (as_row(row) for _, row in published.iterrows())}
    if "FinalModel (distilled)" in {*published["model"]}:  # backbones without weights are no rows of the table
        expected = {name: row for name, row in expected.items() if not row["initial weights"].startswith("random")}
    wrong = [row for row in table if any(expected[row["model"]][column] != cell for column, cell in row.items())]
    return wrong, {*expected} - {row["model"] for row in table}


@pytest.mark.parametrize("number", range(len(PUBLISHED)))
def test_the_tables_are_the_published_files(number):
    assert len(tables(RESULTS)) == len(PUBLISHED)
    assert faults(tables(RESULTS)[number], pd.read_csv(PUBLISHED[number])) == ([], set())


def test_the_readme_shows_rows_of_the_published_file():
    [table] = tables(README)
    assert 3 <= len(table) <= 8
    assert len(table[0]) <= 6
    assert faults(table, pd.read_csv(PUBLISHED[0]))[0] == []


def test_a_wrong_digit_is_found():
    published = pd.read_csv(PUBLISHED[0])
    table = tables(RESULTS)[0]
    table[0] = table[0] | {"test macro F1": "0.999"}
    wrong, _ = faults(table, published)
    assert wrong == [table[0]]
    assert faults(table[1:], published)[1] == {table[0]["model"]}


def test_rules_of_verdicts_stand_in_one_place():
    told = plain((ROOT / "docs" / "verdicts.md").read_text(encoding="utf-8"))
    rest = told
    for rule in map(plain, claims.RULES.values()):
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
