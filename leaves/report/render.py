"""Merge the executed chapters into one self-contained HTML page with a cover and a table of contents."""

import ast
import base64
import datetime
import functools
import importlib.metadata
import io
import os
import platform
import re
import subprocess
import time
from html import escape
from pathlib import Path
from urllib.parse import urlsplit

from leaves import places
from leaves.files import InputError, file_hash, read_json, write_with_checksum
from leaves.hardware import processor
from leaves.published import answer, introduction, published_study, scores_beside, scores_table, tally
from leaves.report.page import PLACE, SLOTS, finish_page

import nbformat
import pandas as pd
from nbconvert import HTMLExporter
from PIL import Image
from pygments.formatters import HtmlFormatter

TEMPLATES = Path(__file__).resolve().parent
PARTS = TEMPLATES / "template"
PAPERMILL_NOTES = {"papermill-error-cell-tag"}  # papermill's notes of failures; skipped, as the page has its own
PACKAGES = ("tensorflow", "keras", "numpy", "pandas", "scikit-learn", "pillow", "matplotlib", "seaborn", "papermill")
LARGE_PICTURE = 150_000  # bytes of a PNG; a chart has fewer bytes, a figure of photos more
ORIGINAL = "https://github.com/matteobraceschi/Neural-Network-for-Image-Classification"
TITLE = "Fourteen leaves: a study repeated"
LEAD = (
    f'Three students (Braceschi, Cariboni and Corradini: <a href="{ORIGINAL}">"Report Gradienters"</a>, Politecnico di '
    "Milano, 2021) classified photos of leaves into 14 plant species. The notebooks shown here repeat and check their "
    "study, and go beyond it. The main score, macro F1, is the mean F1 of the species."
)


def render_report(shown, page, profile, command, seconds):
    """Render executed notebooks into one page.

    Parameters
    ----------
    shown : list of (Path, str or None)
        Executed chapters, in order, each with a sentence that says why a later execution stopped, or None; see
        `keep.shown_chapters`.
    page : Path
        The HTML file to write.
    profile, command : str
        How the chapters were run, for the cover and the provenance.
    seconds : float
        Wall time of the command, until the page is rendered.

    Returns
    -------
    Path of the page
    """
    chapters = [read_chapter(*one) for one in shown]
    exporter = HTMLExporter(template_name="template", extra_template_basedirs=[str(TEMPLATES)])
    damaged = damaged_files(chapters)
    drawn = {}  # dict of placeholder to HTML; this HTML would slow `finish_page` down, so it is inserted later

    def place_of_drawing(name, png, text):
        place = PLACE.format(f"drawing-{name}")
        drawn[place] = drawing(name, png, text, damaged)
        return place

    exporter.register_filter("drawing", place_of_drawing)
    exporter.register_filter("data_of_figure", functools.partial(data_of_figure, damaged=damaged))
    report = {"title": TITLE, "lead": LEAD, "style": style(), "script": (PARTS / "script.js").read_text("utf-8")}
    report |= {"study": study_section(damaged)}
    report |= {"slots": SLOTS, "facts": cover_facts(command, seconds)}
    report |= {"provenance": provenance(chapters, profile, command)}
    html, _ = exporter.from_notebook_node(merge_chapters(chapters), resources={"report": report})
    html = finish_page(html)
    for place, content in drawn.items():
        html = html.replace(place, content)
    write_with_checksum(page, html)
    return page


def merge_chapters(chapters):
    """Merge the cells of all chapters into one notebook."""
    merged = nbformat.v4.new_notebook(metadata=chapters[0].metadata, cells=[])
    for number, chapter in enumerate(chapters):
        told = [cell for cell in chapter.cells if not PAPERMILL_NOTES & {*cell.metadata.get("tags", [])}]
        for position, cell in enumerate(told):
            cell.id = f"cell-{number}-{position}"
            merged.cells.append(cell)
    return merged


def read_chapter(notebook, stopped):
    """Return an executed notebook (NotebookNode), with a notice below its title if a later execution of it stopped.

    `stopped` is a sentence that says why the later execution stopped, or None.
    """
    chapter = nbformat.read(notebook, as_version=4)
    if stopped and not chapter.metadata.get("stopped"):
        notice = f"<strong>The last run of this chapter stopped.</strong> {escape(stopped)} An earlier run is shown."
        cell = nbformat.v4.new_markdown_cell(f'<div class="failed" role="alert"><p>{notice}</p></div>')
        chapter.cells.insert(1, cell)
    return chapter


def style():
    """Return the page's style sheet, with colours for code in light and dark mode."""
    light, dark = (HtmlFormatter(style=name).get_style_defs(".highlight") for name in ("xcode", "github-dark"))
    own = (PARTS / "style.css").read_text(encoding="utf-8")
    return f"{light}\n@media (prefers-color-scheme: dark) {{ {dark} }}\n{own}"


def damaged_files(chapters):
    """Find the figures and scores in report/ that have changed since their chapters wrote them: set of Path.

    The name of each such file is printed.
    """
    damaged = set()
    for name, expected in (entry for chapter in chapters for entry in chapter.metadata.get("left", {}).items()):
        file = places.REPORT / name
        if name.startswith(("figures/", "scores.csv")) and file.exists() and file_hash(file) != expected:
            print(f"report/{name} is damaged: the page does not use it until ./run_all.sh executes its chapter again.")
            damaged.add(file)
    return damaged


def files_of_figure(name, png, damaged):
    """Find the SVGs of a figure (list of Path) and the CSV file of its numbers (Path, or None if missing or damaged).

    If an SVG is damaged, the list is empty. `png` is the figure in the notebook, in base64. If the PNG in
    report/figures is missing or differs from `png`, the SVGs and the CSV file may not belong to the figure in the
    notebook. In this case, return an empty list and None.
    """
    folder = places.REPORT / "figures"
    picture, numbers = folder / f"{name}.png", folder / f"{name}.csv"
    if not picture.exists() or picture.read_bytes() != base64.b64decode(png):
        return [], None
    drawn = [file for file in (folder / f"{name}.svg", folder / f"{name}-narrow.svg") if file.exists()]
    return [] if damaged & {*drawn} else drawn, numbers if numbers.exists() and numbers not in damaged else None


def drawing(name, png, text, damaged):
    """Return the HTML of a figure: its wide and its narrow SVG, or the PNG if there is no SVG."""
    drawn, _ = files_of_figure(name, png, damaged)
    if not drawn:
        return f'<img alt="{escape(text)}" src="{image_source(png)}">'
    kinds = ("wide", "narrow") if len(drawn) > 1 else ("",)
    return "".join(
        file.read_text(encoding="utf-8").replace(
            "<svg", f'<svg role="img" class="{kind}" aria-label="{escape(text)}"', 1
        )
        for kind, file in zip(kinds, drawn, strict=True)
    )


def data_of_figure(name, png, damaged):
    """Return the path of the CSV file of a figure's numbers, relative to the page; "" if there is none."""
    _, numbers = files_of_figure(name, png, damaged)
    return f"figures/{numbers.name}" if numbers else ""


def image_source(png):
    """Return a PNG as a data URL; a large PNG, usually a figure of photos, is converted to a smaller WebP."""
    content = base64.b64decode(png)
    if len(content) < LARGE_PICTURE:
        return f"data:image/png;base64,{base64.b64encode(content).decode()}"
    smaller = io.BytesIO()
    Image.open(io.BytesIO(content)).convert("RGB").save(smaller, "WEBP", quality=90, method=3)
    return f"data:image/webp;base64,{base64.b64encode(smaller.getvalue()).decode()}"


def cover_facts(command, seconds):
    """List the facts about this report for its cover: dict of term to value."""
    return {
        "Command": command,
        "Needs": "Linux or macOS, Python 3.11 to 3.14",
        "Repository": repository(),
        "Commit": commit().replace("-dirty", ", with uncommitted changes"),
        "Time of this run": f"{seconds / 60:.1f} minutes{time_without_cache(seconds)}",
        "Date": datetime.date.today().isoformat(),
    }


def time_without_cache(seconds):
    """Say how long a run of `seconds`, ended just now, takes with no training cached; "" if there is nothing to say.

    The trainings in runs/ on this split that ended before the run began are counted. Runs of results/runs that a
    chapter recorded are mentioned, but their time is not counted, because chapters record only some of them.
    """
    split, records = read_json(places.SOURCE_JSON).get("split"), map(read_json, places.RUNS.glob("0?.json"))
    recorded = {name for record in records for own in record.get("repeats", {}).values() for name in own}
    old = time.time() - seconds
    folders = [file.parent for file in places.RUNS.glob("*/result.json") if file.stat().st_mtime < old]
    specs = {folder: read_json(folder / "spec.json") for folder in folders}
    specs = {folder: spec for folder, spec in specs.items() if "mean_with_start" not in spec}  # averages of weights
    trained = [folder for folder, spec in specs.items() if split and spec.get("split", "").startswith(split)]
    took = sum(read_json(folder / "result.json").get("train_seconds", 0) for folder in trained)
    told = f"; with no training cached, up to {(seconds + took) / 60:.1f} minutes" if trained else ""
    published = [name for name in recorded if not (places.RUNS / name / "result.json").exists()]
    return told + ("; trainings read from the published study are not counted" if published else "")


def study_section(damaged):
    """Describe the published study for the page: dict, or None if there is no published study.

    The keys of the dict are "photos" (their number, str), "answer" (str), "sentences" (list of str), "tally" (str) and
    "tables" (dict of title to HTML). The values of "answer", "sentences" and "tally" are from `answer`, `introduction`
    and `tally`. The parameter `damaged` is from `damaged_files`.
    """
    if not (study := published_study()):
        return None
    split_hash, own = read_json(places.SOURCE_JSON).get("split"), places.REPORT / "scores.csv"
    if not split_hash and places.SOURCE_JSON.exists():
        raise InputError("data/source.json is damaged: ./run_all.sh --only 01 makes it again.")
    tables = {"The best models of the published study": scores_table(study)}
    if own.exists() and own not in damaged and split_hash != study.provenance["split"]:
        tables["Test macro F1 of the published study and of this run, which used other photos or another split"] = (
            scores_beside(study, pd.read_csv(own))
        )
    rendered = {name: table.to_html(index=False, border=0) for name, table in tables.items()}
    told = {
        "photos": f"{study.provenance['photos']:,}",
        "answer": answer(study),
        "sentences": introduction(study, split_hash),
        "tally": tally(study.verdicts),
    }
    return told | {"tables": rendered}


def provenance(chapters, profile, command):
    """List the facts for reproducing the report: dict with two keys.

    "terms" is a dict of terms, such as "Python", to their values. "chapters" is a list with the `chapter_facts` of
    each chapter.
    """
    terms = {
        "Command": command,
        "Profile": profile,
        "Commit": commit(),
        "Repository": repository(),
        "Python": platform.python_version(),
        "Packages": ", ".join(f"{name} {version}" for name, version in versions().items()),
        "Processor": f"{processor()}, {os.cpu_count()} cores, {platform.system()} {platform.machine()}",
        "Reproducibility": "seeds are listed below; last digits of scores depend on processor and number of threads",
    }
    return {"terms": terms, "chapters": [chapter_facts(chapter) for chapter in chapters]}


def commit():
    """Return the commit of this code, with the suffix "-dirty" if a file has changed since the commit."""
    git = ["git", "-C", str(TEMPLATES), "describe", "--always", "--dirty"]
    try:
        return subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "not under version control"


def repository():
    """Return the web address of the repository of this code, without user names, passwords and tokens."""
    git = ["git", "-C", str(TEMPLATES), "config", "remote.origin.url"]
    try:
        address = subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        address = ""
    if found := re.fullmatch(r"[\w.-]+@([\w.-]+):/?([^@?#]+)", address):  # an address for ssh
        return f"{found[1]}/{found[2]}".removesuffix(".git")
    try:
        parts, port = urlsplit(address), urlsplit(address).port
    except ValueError:
        return "unknown, because its address cannot be read"
    if not parts.hostname:
        return "a local copy"
    if "@" in parts.path:
        return parts.hostname
    return f"{parts.hostname}{f':{port}' if port else ''}{parts.path}".removesuffix("/").removesuffix(".git")


def versions():
    """Return the versions of the main packages: dict of name to version."""
    return {name: importlib.metadata.version(name) for name in PACKAGES}


def chapter_facts(chapter):
    """Return the title, the duration in seconds and the parameters of an executed chapter: dict."""
    sources = [cell.source for cell in chapter.cells if "parameters" in cell.metadata.get("tags", [])]
    assigned = [node for node in ast.parse(sources[0]).body if isinstance(node, ast.Assign)]
    values = {node.targets[0].id: ast.literal_eval(node.value) for node in assigned}
    told = chapter.metadata.get("papermill", {})
    values |= told.get("parameters", {})
    return {
        "title": next(cell.source for cell in chapter.cells if cell.source.startswith("# ")).splitlines()[0][2:],
        "seconds": round(told.get("duration") or 0),
        "parameters": {name: repr(value) for name, value in values.items()},
    }
