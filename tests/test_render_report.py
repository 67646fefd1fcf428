"""Details of the page that the whole run does not show."""

import base64
import io

from leaves.report.render import finish_page, image_source, last_states, merge_logs

import nbformat
import numpy as np
import pytest
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


def test_equal_headings_get_different_anchors_and_links_stay_on_the_page():
    html = (
        '<nav><!--contents--></nav><main><header><h1 id="cover-title">T</h1><!--cover--></header>'
        "<h1>1. One</h1><h2>What was found</h2><h1>2. Two</h1><h2>What was found</h2>"
        '<section class="cover"><figure>F</figure><div class="table"><style>#T_0a1b2 {}</style><table id="T_0a1b2">'
        "</table></div></section>"
        '<a href="02_custom_cnn.ipynb">next</a></main>'
    )
    page = finish_page(html)
    assert 'id="chapter-1-what-was-found"' in page
    assert 'href="#chapter-2-what-was-found"' in page
    assert '<a href="#chapter-2">next</a>' in page
    assert page.count("<figure>F</figure>") == 2
    assert page.count("T_0a1b2 {}") == page.count('T_0a1b2"') == 2
    assert page.count('"T_0a1b2"') == page.count('"cover_T_0a1b2"') == 1
