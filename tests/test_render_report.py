"""Details of the page that the whole run does not show."""

from leaves.report.render import finish_page, last_states, merge_logs

import nbformat


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
