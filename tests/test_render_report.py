"""Details of the page that the whole run does not show."""

import base64
import io
import os
import subprocess
import time

from leaves import places
from leaves.files import write_json
from leaves.report import render
from leaves.report.execute import last_states, merge_logs
from leaves.report.page import SLOTS, finish_page, keep_short_code
from leaves.report.render import image_source

import nbformat
import numpy as np
import pytest
from bs4 import BeautifulSoup
from PIL import Image


@pytest.mark.parametrize(("side", "kind"), [(50, "png"), (400, "webp")])
def test_large_pictures_are_smaller_in_the_page(side, kind):
    noise = np.random.default_rng(0).normal(128, 20, (side, side, 1)) + np.linspace(0, 60, side)[:, None]
    picture = Image.fromarray(np.uint8(np.clip(noise.repeat(3, 2), 0, 255)))
    png = io.BytesIO()
    picture.save(png, "PNG")
    head, _, content = image_source(base64.encodebytes(png.getvalue()).decode()).partition(",")
    assert head == f"data:image/{kind};base64"
    shown = Image.open(io.BytesIO(base64.b64decode(content))).convert("RGB")
    assert shown.size == picture.size
    assert np.abs(np.asarray(shown, int) - np.asarray(picture, int)).mean() < 4
    assert len(content) <= 1.4 * len(png.getvalue()) * (1 if kind == "png" else 0.6)


def test_of_a_progress_bar_only_the_end_is_kept():
    assert last_states("start\n 10%\r 50%\r100%\nend\n") == "start\n100%\nend\n"
    assert last_states("no bar\n") == "no bar\n"


def test_pieces_of_a_log_become_one():
    pieces = [("stderr", " 10%\r"), ("stdout", "a"), ("stdout", "b"), ("stderr", " 90%\r"), ("stderr", "100%\n")]
    outputs = [nbformat.v4.new_output("stream", name=name, text=text) for name, text in pieces]
    assert [(output.name, output.text) for output in merge_logs(outputs)] == [("stdout", "ab"), ("stderr", "100%")]


def test_an_option_is_not_broken_and_a_command_may_be():
    soup = BeautifulSoup("<p><code>--profile study</code> <code>./run_all.sh --only 01,02</code></p>", "html.parser")
    keep_short_code(soup)
    assert [code.get("class") for code in soup.find_all("code")] == [["short"], None]


def test_lines_about_waiting_and_downloading_are_not_kept():
    waiting = "Training x is under way in process 7 on here (python): waiting for it.\n"
    passing = f"Downloading data from https://example.org/a.h5\n{waiting}"
    pieces = [passing, "An answer.\n"]
    for texts, kept in ((pieces, ["An answer.\n"]), (pieces[:1], [])):
        outputs = [nbformat.v4.new_output("stream", name="stdout", text=text) for text in texts]
        assert [output.text for output in merge_logs(outputs)] == kept


@pytest.mark.parametrize(
    ("origin", "shown"),
    [
        ("https://user:secret@example.org/some/leaves.git", "example.org/some/leaves"),
        ("https://user:se@cret@example.org:8443/leaves/", "example.org:8443/leaves"),
        ("https://user:se/cret@example.org/leaves", "unknown, because its address cannot be read"),
        ("https://example.org/leaves?private_token=secret", "example.org/leaves"),
        ("ssh://git@example.org:22/some/leaves.git", "example.org:22/some/leaves"),
        ("git@example.org:some/leaves.git", "example.org/some/leaves"),
        ("/home/user/leaves", "a local copy"),
        (None, "a local copy"),
    ],
)
def test_the_page_names_the_repository_without_a_password(tmp_path, monkeypatch, origin, shown):
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    if origin:
        subprocess.run(["git", "-C", tmp_path, "config", "remote.origin.url", origin], check=True)
    monkeypatch.setattr(render, "TEMPLATES", tmp_path)
    assert render.repository() == shown


def cell(tag, *outputs, code="x"):
    shown = "".join(f'<div class="output_subarea">{output}</div>' for output in outputs)
    fold = f'<details class="code"><summary>Code</summary><pre>{code}</pre></details>'
    return f'<section class="{tag}"><div class="cell">{fold}{shown}</div></section>'


def page_of(*parts):
    slots = "".join(f"<!--{slot}-->" for slot in SLOTS)
    cover = f'<header id="cover"><h1 id="cover-title">T</h1>{slots}</header>'
    return finish_page(f"<nav><!--contents--></nav><main>{cover}{''.join(parts)}</main>")


def test_equal_headings_get_different_anchors_and_links_stay_on_the_page():
    chapters = "<h1>1. One</h1><h2>Scores</h2><h1>2. Two</h1><h2>Scores</h2>"
    page = page_of(chapters, '<a href="02_custom_cnn.ipynb">next</a>')
    assert 'id="chapter-1-scores"' in page
    assert 'href="#chapter-2-scores"' in page
    assert '<a href="#chapter-2">next</a>' in page


def test_what_belongs_on_the_cover_stands_there_once_and_in_order():
    page = page_of("<h1>1. One</h1><h2>Data</h2>", cell("cover-data", "DATA"), cell("cover-answer", "ANSWER"))
    soup = BeautifulSoup(page, "html.parser")
    assert page.count("DATA") == page.count("ANSWER") == 1
    assert [section["id"] for section in soup.select("#cover section")] == ["cover-answer", "cover-data"]
    assert [link.get_text() for link in soup.select("nav a")] == ["Summary", "The data", "1. One", "Data"]
    assert [link["href"] for link in soup.select("nav a")][:2] == ["#cover-title", "#cover-data"]


def test_numbers_keep_their_percent_and_long_names_break_after_underscores():
    table = '<table class="text"><tr><td>a_b late_blight_76.jpg, <i>30 %</i></td></tr></table>'
    page = page_of("<h1>1. One</h1><h2>A</h2><p>81% and 95 %</p>", cell("", table, code="9 % 2"))
    assert "81\N{NO-BREAK SPACE}% and 95\N{NO-BREAK SPACE}%" in page
    assert "<td>a_b late_<wbr/>blight_<wbr/>76.jpg, <i>30\N{NO-BREAK SPACE}%</i>" in page
    code = '<div class="highlight"><pre><span>9 % 2</span></pre></div><code>7 % 2</code>'
    assert code in page_of(f"<h1>1. One</h1>{code}")


def test_a_chapter_opens_with_its_finding():
    page = page_of("<h1>1. One</h1><p>Question</p><h2>A</h2>", cell("", "A"), "<h2>End</h2>", cell("in-short", "FOUND"))
    soup = BeautifulSoup(page, "html.parser")
    assert soup.select_one("h1#chapter-1").find_next_sibling().get_text() == "In shortFOUND"
    assert "End" not in soup.get_text()


def test_the_code_of_a_section_is_one_bar_beside_its_heading():
    page = page_of("<h1>1. One</h1><h2>A</h2>", cell("", "OUT", code="one"), cell("", code="two"), "<h2>B</h2>")
    soup = BeautifulSoup(page, "html.parser")
    [bar] = soup.select("details.code")
    assert bar.get_text() == "Codeonetwo"
    assert bar.find_previous_sibling().get_text() == "A"
    assert bar.find_next(string="OUT") is not None
    assert len(soup.select("section")) == 1  # a cell without an output is gone


@pytest.mark.parametrize(
    ("header", "attributes", "is_cards"),
    [
        ("<th></th><th>a</th><th>b</th><th>c</th>", "", True),
        ("<th></th><th>a</th><th>b</th>", "", False),
        ('<th></th><th>a</th><th colspan="2">b</th><th>c</th>', "", False),
        ("<th></th><th>a</th><th>b</th><th>c</th>", ' class="confusion"', False),
    ],
)
def test_wide_tables_become_cards(header, attributes, is_cards):
    body = "<tbody><tr><th>x</th><td>1</td><td>2</td><td>3</td></tr></tbody>"
    page = page_of(f"<table{attributes}><thead><tr>{header}</tr></thead>{body}</table>")
    found = BeautifulSoup(page, "html.parser").select_one("tbody").find_parent("table")
    assert ("cards" in found.get("class", [])) == is_cards
    assert [cell.get("data-label") for cell in found.select("td")] == (["a", "b", "c"] if is_cards else [None] * 3)


def test_a_row_that_becomes_a_card_names_its_columns():
    table = '<table class="cards claims"><thead><tr><th></th><th>says</th></tr></thead>'
    page = page_of(f"{table}<tbody><tr><th>C1</th><td>no</td></tr></tbody></table>")
    row = BeautifulSoup(page, "html.parser").select_one("tbody tr")
    assert row["id"] == "claim-C1"
    assert row.td["data-label"] == "says"


def test_the_cover_tells_the_time_of_cached_trainings(working_folder):
    write_json(places.SOURCE_JSON, {"split": "one"})
    runs = {
        "02-old-00000001": ("one", {}, 3600, 120),  # finished an hour ago, trained for 120 s
        "02-new-00000002": ("one", {}, 5, 240),
        "02-other-00000003": ("another", {}, 3600, 480),
        "05-average-00000004": ("one", {"mean_with_start": 0.5}, 3600, 960),
    }
    for name, (split, more, ago, seconds) in runs.items():
        write_json(places.RUNS / name / "spec.json", {"split": split} | more)
        write_json(places.RUNS / name / "result.json", {"train_seconds": seconds})
        then = time.time() - ago
        os.utime(places.RUNS / name / "result.json", (then, then))
    told = "; with no training cached, up to 3.0 minutes"
    assert render.time_without_cache(60) == told
    write_json(places.RUNS / "02.json", {"repeats": {"FinalModel": ["02-old-00000001", "02-new-00000002"]}})
    assert render.time_without_cache(60) == told
    write_json(places.RUNS / "02.json", {"repeats": {"FinalModel": ["02-old-00000001", "02-published-00000005"]}})
    assert render.time_without_cache(60) == f"{told}; trainings read from the published study are not counted"
    (places.RUNS / "02.json").unlink()
    assert render.time_without_cache(7200) == ""
