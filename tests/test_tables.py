"""The tables of chapter 6, and figures as the page shows them."""

import itertools
import re
from types import SimpleNamespace

from leaves import plots, vector
from leaves.evaluation import Answers
from leaves.figures import tables

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from bs4 import BeautifulSoup

CLASSES = ["Apple", "Cherry <b>"]


@pytest.fixture
def answers():
    truth = np.array([0] * 20 + [1] * 3)
    probabilities = np.array([[0.9, 0.1]] * 18 + [[0.3, 0.7], [0.1, 0.9]] + [[0.2, 0.8]] * 2 + [[0.6, 0.4]])
    return Answers(truth, {"FinalModel": probabilities})


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 255, (23, 40, 40, 3), dtype=np.uint8)


def test_the_confusion_matrix_counts_and_shows_its_photos(answers, images):
    soup = BeautifulSoup(tables.confusion_html(answers, "FinalModel", images, CLASSES), "html.parser")
    rows = [[cell.button.get_text() if cell.button else "" for cell in row.find_all("td")] for row in soup.tbody("tr")]
    assert rows == [["18", "2"], ["1", "2"]]
    assert soup.tbody.td["style"] == "--share: 0.90"
    assert [button["aria-label"] for button in soup("button")][1] == "Apple predicted as Cherry <b>: 2"
    assert [len(template("img")) for template in soup("template")] == [12, 2, 1, 2]
    assert not soup("b")  # a name is no markup


def test_the_mistakes_are_those_of_which_the_model_was_surest(answers, images):
    soup = BeautifulSoup(tables.mistakes_html(answers, "FinalModel", images, CLASSES, 2), "html.parser")
    assert soup.p.get_text() == (
        "FinalModel misclassifies 3 of 23 test images."
        " Its most frequent mistake: Apple predicted as Cherry <b> (2 images)."
        " Lowest F1: Cherry <b> 0.57 (3 test images), Apple 0.92 (20)."
        " The 2 most confident mistakes:"
    )
    texts = [caption.get_text() for caption in soup("figcaption")]
    assert texts[0] == "Apple, predicted as Cherry <b> (probability 0.90)"
    assert texts[1] == "Apple, predicted as Cherry <b> (probability 0.70)"


def test_a_model_without_a_mistake_shows_no_photo(images):
    right = Answers(np.array([0, 1]), {"FinalModel": np.eye(2)})
    told = tables.mistakes_html(right, "FinalModel", images, CLASSES, 4)
    assert told == "<p>FinalModel misclassifies none of 2 test images.</p>"


def test_the_tally_links_each_claim_under_its_verdict(monkeypatch):
    judged = {"claim": ["C1", "C4", "C5"], "verdict": ["confirmed", "confirmed", "undecided"]}
    study = pd.DataFrame(judged | {"said": ["one", "four", "five"]})
    monkeypatch.setattr(tables, "published_study", lambda: SimpleNamespace(verdicts=study))
    said = ["one", "two <2>", "three (question left open)", "four", "five"]
    verdict = ["refuted", "confirmed", "refuted", "not tested", "not tested"]
    verdicts = pd.DataFrame({"claim": ["C1", "C2", "C3", "C4", "C5"], "said": said, "verdict": verdict})
    study.loc[3] = ["C9", "refuted", None]  # a claim that this run does not have
    soup = BeautifulSoup(tables.tally_html(verdicts), "html.parser")
    texts = [[cell.get_text("|", strip=True) for cell in row(["th", "td"])] for row in soup("tr")]
    assert texts == [
        ["verdict", "real photos (the published study)", "this run"],
        ["✓ confirmed", "2|C1|one|C4|four", "1|C2|two <2>"],
        ["✗ refuted", "1|C9", "2|C1|one|C3|three"],
        ["? undecided", "1|C5", "0"],
        ["– not tested", "0", "2|C4|C5"],
    ]
    assert {link["href"] == f"#claim-{link.get_text()}" for link in soup("a")} == {True}
    monkeypatch.setattr(tables, "published_study", lambda: None)
    soup = BeautifulSoup(tables.tally_html(verdicts), "html.parser")
    assert [len(row(["th", "td"])) for row in soup("tr")] == [2, 2, 2, 2]


# ---------------------------------------------------------------- figures


@pytest.fixture
def curves():
    plots.set_style()
    figure, axes = plt.subplots(1, 2, figsize=(10, 3))
    for axis, title in zip(axes, ("loss", "score"), strict=True):
        axis.plot([1, 2, 3], [0.1, 0.5, 0.25], gid=f"{plots.SERIES}FinalModel", label="FinalModel")
        axis.set_title(title)
    yield figure
    plt.close(figure)


def test_a_figure_is_saved_as_picture_numbers_and_two_drawings(curves, tmp_path):
    vector.save_figure(curves, tmp_path / "curves.png", {"Title": "curves"})
    assert {file.name for file in tmp_path.iterdir()} == {
        f"curves{end}" for end in (".png", ".csv", ".svg", "-narrow.svg")
    }
    table = pd.read_csv(tmp_path / "curves.csv")
    assert table["panel"].unique().tolist() == ["loss", "score"]
    assert table.loc[table["panel"] == "score", ["x", "y"]].to_numpy().tolist() == [[1, 0.1], [2, 0.5], [3, 0.25]]
    wide, narrow = (
        BeautifulSoup((tmp_path / f"curves{end}.svg").read_text(), "html.parser").svg for end in ("", "-narrow")
    )
    sides = [[float(side) for side in drawing["viewbox"].split()[2:]] for drawing in (wide, narrow)]
    assert sides[0] == [720, 216]
    assert sides[1][0] == 360 < sides[1][1]  # its panels stand one below another
    assert {line["data-series"] for line in wide.select("[data-series]")} == {"FinalModel"}


def test_a_drawing_takes_its_ink_from_the_page_and_keeps_its_colours(curves):
    svg = vector.svg_of(curves, "curves")
    assert "currentColor" in svg
    assert "var(--line)" in svg
    assert "var(--blue)" in svg  # lighter on a dark page
    assert plots.PALETTE[0] not in svg
    orange = f"fill: {plots.PALETTE[1]}"
    assert vector.page_colour(re.match(r"(\w+): (#\w+)", orange)) == orange
    halo = re.match(r"(\w+): (#\w+)", f"stroke: {plots.HALO}")
    assert vector.page_colour(halo) == "stroke: var(--paper)"
    for use, colour in re.findall(r"(fill|stroke): (#[0-9a-f]{6})", svg):
        assert not colour[1:3] == colour[3:5] == colour[5:7], (use, colour)  # no grey is left
    assert "DejaVu" not in svg
    identifiers = re.findall(r'id="([^"]*)"', svg)
    assert len(identifiers) == len({*identifiers})
    assert all(name.startswith("curves-") for name in identifiers)
    assert {*re.findall(r"(?:url\(#|href=\"#)([^\")]*)", svg)} <= {*identifiers}


def test_photos_in_a_drawing_are_small_and_have_no_numbers():
    figure, axis = plt.subplots(figsize=(2, 2))
    axis.imshow(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))
    svg = vector.svg_of(figure, "photo")
    assert "data:image/webp;base64," in svg
    assert "data:image/png" not in svg
    assert vector.drawn_data(figure).empty
    plt.close(figure)


def test_stacked_bars_are_told_by_their_own_heights():
    figure, axis = plt.subplots()
    pd.DataFrame({"train": [60, 30], "test": [20, 10]}, index=["Oak", "Fir"]).plot.bar(stacked=True, ax=axis)
    table = vector.drawn_data(figure)
    assert table.loc[table["series"] == "test", ["x", "y"]].to_numpy().tolist() == [["Oak", 20], ["Fir", 10]]
    plt.close(figure)


@pytest.mark.parametrize(("across", "narrow"), [(6, 3), (8, 4), (10, 4), (4, 2)])
def test_photos_of_a_narrow_figure_stand_in_rows_that_keep_pairs_together(across, narrow):
    figure, axes = plt.subplots(2, across)
    for axis in axes.flat:
        axis.imshow(np.zeros((4, 4)))
    vector.make_narrow(figure)
    columns = [axis.get_subplotspec().colspan.start for axis in figure.axes]
    assert columns == [number % narrow for number in range(2 * across)]
    plt.close(figure)


def test_a_narrow_figure_drops_empty_panels_and_keeps_the_lines_of_a_label():
    figure, axes = plt.subplots(2, 4)
    for axis in (*axes.flat[:3], *axes.flat[4:6]):
        axis.imshow(np.zeros((4, 4)))
        axis.set_xlabel("Soybean and a lot of other species\ntrain")
    vector.make_narrow(figure)
    assert [axis.get_visible() for axis in figure.axes] == [True] * 3 + [False, True, True] + [False] * 2
    starts = [(axis.get_subplotspec().rowspan.start, axis.get_subplotspec().colspan.start) for axis in axes.flat[:6]]
    assert starts == [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1)]  # the gap in the first row stays
    assert axes[0, 0].get_xlabel() == "Soybean and a lot of other\nspecies\ntrain"
    plt.close(figure)


@pytest.mark.parametrize("name", ["A", "no augmentation at all", "augmentation (C3) no augmentation"])
def test_long_words_of_a_narrow_figure_stay_inside_it(name):
    plots.set_style()
    figure, axis = plt.subplots(figsize=(9, 3))
    axis.plot([0.1, 0.9], [0, 1])
    axis.set_yticks([0, 1], [name, "FinalModel"])
    axis.set_title("1 of 2 variants differ from FinalModel: the interval excludes zero")
    axis.set_xlabel("macro F1 on the held-out photos, minus FinalModel's in the same repeat")
    vector.make_narrow(figure)
    figure.canvas.draw()
    for text in (axis.title, axis.xaxis.label):
        box = text.get_window_extent()
        assert figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1, text.get_text()
    plt.close(figure)


def test_names_in_a_narrow_figure_do_not_overlap():
    plots.set_style()
    figure, axis = plt.subplots(figsize=(9, 1.5))
    axis.plot([0.1, 0.9], [0, 1], label="the interval excludes zero")
    axis.set_yticks([0, 1], ["augmentation (C3) no augmentation", "dropout (C10) no dropout"])
    axis.set_ylim(-0.5, 1.5)
    axis.set_title("1 of 2 variants differ from FinalModel: the interval excludes zero")
    figure.legend(loc="outside lower center")
    vector.make_narrow(figure)
    figure.canvas.draw()
    boxes = sorted((label.get_window_extent() for label in axis.get_yticklabels()), key=lambda box: box.y0)
    assert all(below.y1 <= above.y0 for below, above in itertools.pairwise(boxes))
    plt.close(figure)


def test_equal_photos_have_names_of_their_own():
    figure, axes = plt.subplots(1, 2)
    for axis in axes:
        axis.imshow(np.zeros((4, 4)))
    identifiers = re.findall(r'\bid="([^"]*)"', vector.svg_of(figure, "twins"))
    assert len([name for name in identifiers if "image" in name]) == 2
    assert len(identifiers) == len({*identifiers})
    plt.close(figure)


def test_names_on_an_axis_are_names_in_the_numbers():
    figure, axis = plt.subplots()
    axis.barh(["VGG16", "FinalModel"], [0.5, 0.75])
    assert vector.drawn_data(figure)[["x", "y"]].to_numpy().tolist() == [[0.5, "VGG16"], [0.75, "FinalModel"]]
    plt.close(figure)
