"""The page in a real browser: Debian's Chromium, driven by Playwright."""

import re
import shutil

from conftest import ROOT, paint

import pytest
import take_cover
from axe_playwright_python.sync_playwright import Axe
from PIL import Image

SCRIPT = (ROOT / "leaves" / "report" / "template" / "script.js").read_text(encoding="utf-8")


@pytest.fixture
def open_page(browser, whole_report):
    """Open the report of the tiny run; what the page asks for and complains of is noted in `asked` and `told`."""
    contexts = []

    def open_(width=1440, scheme="light"):
        size = {"width": width, "height": 900}
        contexts.append(browser.new_context(viewport=size, color_scheme=scheme, reduced_motion="reduce"))
        page = contexts[-1].new_page()
        page.asked, page.told = [], []
        page.on("request", lambda request: page.asked.append(request.url))
        page.on("console", lambda message: page.told.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: page.told.append(str(error)))
        page.goto((whole_report / "report.html").as_uri())
        return page

    yield open_
    for context in contexts:
        context.close()


def test_no_request_leaves_the_page_and_nothing_fails(open_page):
    page = open_page()
    page.mouse.wheel(0, 20_000)
    page.wait_for_timeout(300)
    assert [url for url in page.asked if not url.startswith(("file:", "data:"))] == []
    assert len([url for url in page.asked if url.startswith("file:")]) == 1
    assert page.told == []


def test_every_figure_has_a_text_a_caption_and_a_file(open_page, whole_report):
    page = open_page()
    figures = page.locator("figure").all()
    assert len(figures) > 15
    for figure in figures:
        assert figure.locator("figcaption").inner_text().strip()
        for link in figure.locator("figcaption a").all():
            assert (whole_report / link.get_attribute("href")).exists()
        drawing = figure.locator("svg:visible, img")
        assert drawing.count() == 1
        assert drawing.bounding_box()["width"] > 100


@pytest.mark.parametrize("width", [390, 768, 1440])
def test_the_page_never_scrolls_sideways(open_page, width):
    page = open_page(width)
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")


def test_the_score_table_sorts_both_ways(open_page):
    page = open_page()
    table = page.locator("#cover-table table")
    column = table.locator("thead th").all_inner_texts().index("parameters")
    for direction in (1, -1):
        table.get_by_role("button", name="parameters", exact=True).click()
        cells = table.locator(f"tbody tr > :nth-child({column + 1})").all_inner_texts()
        numbers = [float(cell.replace(",", "")) for cell in cells]
        assert numbers == sorted(numbers, reverse=direction < 0)
    assert len(set(numbers)) > 2
    assert table.locator("thead th").nth(column).get_attribute("aria-sort") == "descending"


def test_one_switch_shows_and_hides_all_code(open_page):
    page = open_page()
    opened = "document.querySelectorAll('details.code[open]').length"
    count = page.locator("details.code").count()
    assert count > 50
    assert page.evaluate(opened) == 0
    page.get_by_role("button", name="Show all code").click()
    assert page.evaluate(opened) == count
    page.get_by_role("button", name="Hide all code").click()
    assert page.evaluate(opened) == 0


def test_the_contents_lead_to_their_places_and_mark_them(open_page):
    page = open_page()
    chapters = page.locator("nav details > ol > li").all()
    assert len(page.locator("nav li a").all()) > 40
    for chapter in chapters[:6]:
        chapter.locator("> a").click()
        page.wait_for_timeout(300)
        link = chapter.locator("ol a").last  # only the sections of the present chapter are shown
        link.click()
        page.wait_for_timeout(300)
        heading = page.locator(f"[id='{link.get_attribute('href')[1:]}']")
        assert heading.inner_text().splitlines()[0] == link.inner_text()
        assert -2 <= heading.bounding_box()["y"] < 300
        assert page.locator("nav [aria-current]").count() == 1
        at_end = page.evaluate("scrollY + innerHeight > document.documentElement.scrollHeight - 900")
        assert at_end or page.locator("nav [aria-current]").inner_text() == link.inner_text()
        assert page.locator("nav li ol:visible").count() == 1


def test_the_contents_fold_on_a_phone_and_the_heading_is_at_the_top(open_page):
    page = open_page(width=390)
    page.locator("nav summary").click()
    page.locator("nav a[href='#chapter-6']").click()
    page.wait_for_timeout(300)
    assert not page.locator("#contents").evaluate("contents => contents.open")
    assert -2 <= page.locator("#chapter-6").bounding_box()["y"] < 60


def test_links_in_the_page_have_their_targets(open_page):
    page = open_page()
    missing = page.evaluate(
        "[...document.querySelectorAll('a[href^=\"#\"]')].map(a => a.hash.slice(1))"
        ".filter(id => id && !document.getElementById(id))"
    )
    assert missing == []


@pytest.mark.long
@pytest.mark.parametrize(("scheme", "width"), [("light", 1440), ("dark", 1440), ("light", 390)])
def test_axe_finds_no_serious_violation(open_page, scheme, width):
    page = open_page(width, scheme)
    page.get_by_role("button", name=re.compile("code")).click()
    violations = Axe().run(page).response["violations"]
    serious = [
        (found["id"], found["nodes"][0]["html"][:200], found["nodes"][0]["failureSummary"])
        for found in violations
        if found["impact"] in ("serious", "critical")
    ]
    assert serious == []


@pytest.mark.long
def test_names_of_classes_and_files_are_shown_and_not_executed(browser, run_all, whole_run, tmp_path):
    for number, label in enumerate(
        ("<script>alert(1)<", "<img src=x onerror=alert(2)>", "$(touch pwned)`touch pwned`;'\"")
    ):
        for seed in range(12):
            paint(tmp_path / label / f"<b onmouseover=alert(3)>{seed}.jpg", seed=[number, seed])
        (tmp_path / label / "<img src=x onerror=alert(4)>.jpg").write_bytes(b"no photo")
    done = run_all("--profile", "tiny", "--only", "01,02", "--data", tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    page, shown = browser.new_page(), []
    page.on("dialog", lambda dialog: (shown.append(dialog.message), dialog.dismiss()))
    page.goto((whole_run[0] / "report" / "report.html").as_uri())
    page.wait_for_timeout(500)
    assert shown == []
    assert page.locator("script").count() == 1
    assert page.locator("img[src=x], [onmouseover]").count() == 0
    assert "<img src=x onerror=alert(2)>" in page.locator("main").inner_text()
    assert not list(whole_run[0].rglob("pwned"))


BROKEN_WORDS = """() => {
  const broken = [];
  const cells = document.querySelectorAll("#cover table th, #cover table td, table.cards th, table.cards td");
  for (const cell of cells) {
    const walker = document.createTreeWalker(cell, NodeFilter.SHOW_TEXT);
    for (let node = walker.nextNode(); node; node = walker.nextNode())
      for (const word of node.data.matchAll(/(?<=^|\\s)[A-Za-z]+(?=[\\s,.;:)]|$)/g)) {
        const range = document.createRange();
        range.setStart(node, word.index);
        range.setEnd(node, word.index + word[0].length);
        if (new Set([...range.getClientRects()].map((box) => Math.round(box.top))).size > 1) broken.push(word[0]);
      }
  }
  return broken;
}"""


@pytest.mark.parametrize("width", [390, 1024])
def test_no_word_in_a_table_is_broken_and_the_cover_fits(open_page, width):
    page = open_page(width)
    assert page.evaluate(BROKEN_WORDS) == []
    wider = "[...document.querySelectorAll('#cover .table')].filter(area => area.scrollWidth > area.clientWidth).length"
    assert page.evaluate(wider) == 0


def test_on_a_phone_a_row_becomes_a_card_and_a_figure_its_narrow_drawing(open_page):
    page = open_page(390)
    assert page.locator("#cover-table thead").is_hidden()
    cell = page.locator("#cover-table tbody td").first
    label = cell.evaluate("cell => getComputedStyle(cell, '::before').content")
    assert label == '"macro F1 (95 % interval)"'
    assert page.locator("#figure-06-scores svg.narrow").is_visible()
    assert page.locator("#figure-06-scores svg.wide").is_hidden()


@pytest.mark.parametrize("way", ["focus", "hover", "click"])
def test_a_count_of_the_confusion_matrix_shows_its_photos(open_page, way):
    page = open_page()
    count = page.locator("table.confusion button").last
    getattr(count, way)()
    shown = page.locator(".cell-photos")
    assert shown.locator("p").inner_text() == count.get_attribute("aria-label")
    assert shown.locator("img").count() == min(12, int(count.inner_text()))
    assert shown.locator("img").first.evaluate("image => image.complete && image.naturalWidth > 0")


def test_the_lines_of_a_model_can_be_hidden_and_shown(browser):
    lines = '<path data-series="A" d="M0 0H9"/><path data-series="A" d="M0 1H9"/><path data-series="B" d="M0 2H9"/>'
    frame = '<button id="code-switch"></button><nav><details id="contents"></details></nav>'
    page = browser.new_page()
    page.set_content(f"{frame}<main><figure><svg>{lines}</svg></figure></main><script>{SCRIPT}</script>")
    toggle = page.get_by_role("button", name="A")
    for pressed, shown in (("false", ["none", "none", ""]), ("true", ["", "", ""])):
        toggle.click()
        assert toggle.get_attribute("aria-pressed") == pressed
        assert page.eval_on_selector_all("path", "paths => paths.map(path => path.style.display)") == shown
    page.close()


def test_the_page_is_small(whole_report):
    assert (whole_report / "report.html").stat().st_size < 6e6


def test_the_picture_of_the_cover_is_taken(browser, whole_report, tmp_path, monkeypatch):
    for name in ("figures", "results"):
        (tmp_path / name).mkdir()
    shutil.copy(whole_report / "report.html", tmp_path / "results")
    monkeypatch.setattr(take_cover, "ROOT", tmp_path)
    take_cover.main(browser)
    file = tmp_path / "figures" / "cover.png"
    assert file.stat().st_size < 300_000
    assert Image.open(file).size == (take_cover.WIDTH, take_cover.HEIGHT)
