"""The page in a real browser: Debian's Chromium, driven by Playwright."""

import re
import shutil

from conftest import paint

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import sync_playwright

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(not CHROMIUM, reason="there is no Chromium: apt-get install chromium")


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def open_page(browser, whole_run):
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
        page.goto((whole_run[0] / "whole_run" / "report" / "report.html").as_uri())
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


def test_every_figure_has_a_text_a_caption_and_a_file(open_page, whole_run):
    page = open_page()
    figures = page.locator("figure").all()
    assert len(figures) > 15
    for figure in figures:
        assert figure.locator("figcaption").inner_text().strip()
        for link in figure.locator("figcaption a").all():
            assert (whole_run[0] / "report" / link.get_attribute("href")).exists()
        drawing = figure.locator("svg:visible, img")
        assert drawing.count() == 1
        assert drawing.bounding_box()["width"] > 100


@pytest.mark.parametrize("width", [390, 768, 1440])
def test_the_page_never_scrolls_sideways(open_page, width):
    page = open_page(width)
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")


def test_the_score_table_sorts_both_ways(open_page):
    page = open_page()
    table = page.locator("#cover table").filter(has_text="test macro F1").first
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
    links = page.locator("nav li a").all()
    assert len(links) > 40
    for link in links[:: len(links) // 8]:
        link.click()
        heading = page.locator(f"[id='{link.get_attribute('href')[1:]}']")
        page.wait_for_timeout(300)
        assert heading.inner_text() == link.inner_text()
        top = heading.bounding_box()["y"]
        at_the_end = page.evaluate("scrollY + innerHeight >= document.documentElement.scrollHeight - 2")
        assert -2 <= top < 300 or at_the_end
        assert page.locator("nav [aria-current]").count() == 1


def test_links_in_the_page_have_their_targets(open_page):
    page = open_page()
    missing = page.evaluate(
        "[...document.querySelectorAll('a[href^=\"#\"]')].map(a => a.hash.slice(1))"
        ".filter(id => id && !document.getElementById(id))"
    )
    assert missing == []


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
