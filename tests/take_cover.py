"""Take the picture that README shows, the cover of the published study's page; it needs Chromium."""

import io
import shutil
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

ROOT = Path(__file__).resolve().parent.parent
WIDTH, HEIGHT = 1100, 1000  # pixels of the page, without its contents
CONTENTS = 304  # pixels wide


def main(browser):
    """Take the picture with a browser of Playwright, and write figures/cover.png."""
    page = browser.new_page(viewport={"width": WIDTH + CONTENTS, "height": HEIGHT}, color_scheme="light")
    page.goto((ROOT / "results" / "report.html").as_uri())
    picture = page.screenshot(clip={"x": CONTENTS, "y": 0, "width": WIDTH, "height": HEIGHT})
    page.close()
    Image.open(io.BytesIO(picture)).quantize(128).save(ROOT / "figures" / "cover.png", optimize=True)


if __name__ == "__main__":
    with sync_playwright() as playwright:
        main(playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"]))
