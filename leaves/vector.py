"""Save figures for the page: SVG in the page's colours, a narrow version for phones, and the data."""

import base64
import collections
import io
import re
import textwrap

from leaves.files import atomic_path, write_atomic
from leaves.plots import PALETTE, SERIES, category_ticks

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.collections import LineCollection, PathCollection, PolyCollection
from matplotlib.gridspec import GridSpec
from PIL import Image

PIXELS = 1.1  # one point (1/72 inch) of a figure's width takes at most this many pixels on the page
SETTINGS = {"svg.fonttype": "none", "svg.hashsalt": "leaves"}  # keep text as text, and use the same ids in every run
# Greys below DARK get the page's text colour, greys above LIGHT its line colour, and all other greys `--quiet`.
DARK, LIGHT = 0x60, 0xC0
NARROW = 5.0  # width in inches of a figure on a phone, with its panels one below another
PHOTOS = {4: 2, 6: 3, 8: 4, 10: 4}  # keys: photos per row of a figure; values: photos per row of its narrow version
LINE = 0.23  # height in inches of a line of text in a narrow figure
LETTERS = {"title": 40, "name": 20, "photo": 60}  # most letters per line; "photo": all photos of a row together


def save_figure(figure, file, metadata):
    """Save a figure as PNG, its numbers as CSV, and a wide and a narrow SVG for the page.

    Parameters
    ----------
    figure : Matplotlib Figure
        A figure wider than `NARROW` inches is changed in place: after the call, it has the narrow layout.
    file : Path of the PNG
        The other files have the same name with .csv, .svg and -narrow.svg. There is no CSV for a figure without
        numbers, such as photos, and no narrow SVG for a figure of at most `NARROW` inches.
    metadata : dict of str, for the PNG
    """
    lay_out(figure)
    with atomic_path(file) as unfinished:
        figure.savefig(unfinished, metadata=metadata)
    data, narrow = drawn_data(figure), file.with_name(f"{file.stem}-narrow.svg")
    for other in (file.with_suffix(".csv"), narrow):
        other.unlink(missing_ok=True)
    if len(data):
        write_atomic(file.with_suffix(".csv"), data.to_csv(index=False))
    write_atomic(file.with_suffix(".svg"), svg_of(figure, file.stem))
    if figure.get_size_inches()[0] > NARROW:
        make_narrow(figure)
        lay_out(figure)
        write_atomic(narrow, svg_of(figure, narrow.stem))


def lay_out(figure):
    """Place the panels and texts of a figure, then remove its layout engine: with an engine, `savefig` draws twice."""
    figure.set_layout_engine("constrained")
    figure.get_layout_engine().execute(figure)
    with plt.rc_context({"figure.constrained_layout.use": False}):
        figure.set_layout_engine(None)


def svg_of(figure, name):
    """Convert a figure to an SVG element that takes its greys and its blue from the page's CSS variables.

    Parameters
    ----------
    name : str
        Prefix of every id, so one page can contain several figures.

    Returns
    -------
    str
    """
    with plt.rc_context(SETTINGS), io.StringIO() as out:
        figure.savefig(out, format="svg", metadata={"Date": None})
        svg = out.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = svg.replace(f'id="{SERIES}', 'data-series="')
    svg = re.sub(r'(id="|href="#|url\(#)', rf"\g<1>{name}-", svg)
    counts = collections.Counter()
    svg = re.sub(r'\bid="([^"]*)"', lambda found: unique(found[1], counts), svg)  # equal photos have equal ids
    svg = re.sub(r"\b(fill|stroke): (#[0-9a-f]{6})\b", page_colour, svg)
    svg = re.sub(r"font-family: [^;\"]*;? ?", "", svg)
    svg = re.sub(r"data:image/png;base64,([^\"]*)", smaller_picture, svg)
    width = figure.get_size_inches()[0] * 72 * PIXELS
    box = rf'<svg viewBox="\1" style="max-width: {width:.0f}px" xmlns:xlink="http://www.w3.org/1999/xlink">'
    return re.sub(r'<svg [^>]*?viewBox="([^"]*)"[^>]*>', box, svg)


def unique(name, counts):
    """Return an id attribute for a name, with a number added if the name was used before.

    `counts` is a Counter of the names so far.
    """
    counts[name] += 1
    return f'id="{name}"' if counts[name] == 1 else f'id="{name}-{counts[name]}"'


def page_colour(found):
    """Replace a grey or the palette's blue in an SVG style by a CSS variable or `currentColor`; keep other colours.

    `found` is a regular-expression match of the property (fill or stroke) and the colour (#rrggbb). The result is a
    str such as "fill: var(--blue)". White becomes the background of the page.
    """
    use, colour = found.groups()
    red, green, blue = (int(colour[start : start + 2], 16) for start in (1, 3, 5))
    if colour == PALETTE[0]:  # too dark on a dark page
        return f"{use}: var(--blue)"
    if not red == green == blue:
        return found[0]
    if red == 0xFF:
        return f"{use}: var(--paper)"
    if red < DARK:
        return f"{use}: currentColor"
    return f"{use}: var(--line)" if red > LIGHT else f"{use}: var(--quiet)"


def smaller_picture(found):
    """Convert a PNG (`found[1]`, in base64) to a data URL with WebP, which takes a fifth of the space."""
    smaller = io.BytesIO()
    picture = Image.open(io.BytesIO(base64.b64decode(found[1])))
    picture.save(smaller, "WEBP", quality=85, method=3)
    return f"data:image/webp;base64,{base64.b64encode(smaller.getvalue()).decode()}"


def make_narrow(figure):
    """Make a figure narrow: panels one below another (photos: fewer per row), and long texts broken into lines."""
    panels = [axes for axes in figure.axes if axes.get_subplotspec()]
    if not panels:
        return
    height = figure.get_size_inches()[1]
    across = max(axes.get_subplotspec().colspan.stop for axes in panels)
    down = max(axes.get_subplotspec().rowspan.stop for axes in panels)
    photos = across > 1 and all(axes.images or not axes.has_data() for axes in panels)
    columns = PHOTOS.get(across, across) if photos else 1
    if across > 1:
        panels, rows = move_panels(figure, panels, columns, photos)
        height = min(height / down, NARROW / columns) * rows
    figure.set_size_inches(NARROW, height)
    for legend in (*figure.legends, *(axes.get_legend() for axes in panels)):
        if legend and (legend in figure.legends or legend.get_bbox_to_anchor() is not legend.axes.bbox):
            move_below(figure, legend)
    if figure._suptitle:
        figure._suptitle.set_text(wrapped(figure.get_suptitle(), LETTERS["title"]))
    needed = 0  # least height of the figure in inches: the sum of the heights of its lines of text
    for axes in panels:
        beside = 0  # letters in the longest line of the names beside the panel; long names leave the title less width
        if names := category_ticks(axes.yaxis):
            texts = [wrapped(name, LETTERS["name"]) for name in names.values()]
            axes.set_yticks([*names], texts)
            beside = max(len(line) for text in texts for line in text.splitlines())
            needed += LINE * len(texts) * max(1 + text.count("\n") for text in texts)  # equally spaced names
        if any(label.get_rotation() for label in axes.get_xticklabels()):  # slanted names would overlap
            axes.tick_params(axis="x", rotation=90)
        letters = LETTERS["photo"] // columns if photos else LETTERS["title"] - round(0.75 * beside)
        for title in (axes.title, axes._left_title, axes.xaxis.label):
            title.set_text(wrapped(title.get_text(), letters))
        needed += LINE * (3 + axes.get_title().count("\n") + axes.get_xlabel().count("\n"))  # 3: title, label and ticks
    needed += sum(LINE * (1 + len(legend.get_texts())) for legend in figure.legends)
    if any(category_ticks(axes.yaxis) for axes in panels):
        figure.set_size_inches(NARROW, max(height, needed))


def move_panels(figure, panels, columns, photos):
    """Arrange panels in a grid of `columns` columns, without empty rows; return (list of its panels, number of rows).

    Each panel gets its own ticks and axis label, unless the panels are photos (`photos`).
    """
    rows = [panels[start : start + columns] for start in range(0, len(panels), columns)]
    filled = [row for row in rows if any(axes.has_data() for axes in row)]
    grid, shown = GridSpec(len(filled), columns, figure=figure), [axes for row in filled for axes in row]
    for axes in panels:
        axes.set_visible(axes in shown and axes.has_data())
    for number, axes in enumerate(shown):
        axes.set_subplotspec(grid[number // columns, number % columns])
        if not photos:
            axes.tick_params(labelleft=True, labelbottom=True)
            axes.set_xlabel(axes.get_xlabel() or shown[-1].get_xlabel())
    return shown, len(filled)


def wrapped(text, letters):
    """Break the lines of a text that are longer than `letters`."""
    lines = text.replace(" %", "\N{NO-BREAK SPACE}%").split("\n")
    return "\n".join(textwrap.fill(line, letters) for line in lines)


def move_below(figure, legend):
    """Move a legend from its place outside the panels to below them, and make it narrow enough for a phone."""
    handles, texts = legend.legend_handles, [text.get_text() for text in legend.get_texts()]
    title = legend.get_title().get_text()
    legend.remove()
    columns = 2 if max(map(len, texts), default=0) <= LETTERS["name"] else 1
    figure.legend(handles, texts, title=title, loc="outside lower center", ncols=columns, fontsize="small")


def drawn_data(figure):
    """Read the numbers in a figure: DataFrame of panel, series, x and y, one row per point; empty for photos."""
    rows = []
    for number, axes in enumerate(figure.axes):
        panel = axes.get_title() or axes.get_xlabel() or str(number + 1)
        for series, points in series_of(axes):
            table = pd.DataFrame(np.asarray(points, dtype=float).reshape(-1, 2), columns=["x", "y"])
            for column, axis in (("x", axes.xaxis), ("y", axes.yaxis)):
                names = category_ticks(axis)
                table[column] = [
                    names.get(float(np.round(value)), value) if names else value for value in table[column]
                ]
            rows.append(table.assign(panel=panel, series=series))
    table = pd.concat(rows) if rows else pd.DataFrame(columns=["x", "y", "panel", "series"])
    return table[["panel", "series", "x", "y"]]


def series_of(axes):
    """Read the series of an Axes: list of (name, points); points is an array of float, shape (n, 2)."""
    series = [(line.get_label(), line.get_xydata()) for line in axes.lines if line.get_transform() == axes.transData]
    for collection in axes.collections:
        if isinstance(collection, LineCollection):
            series += [("line", segment) for segment in collection.get_segments()]
        elif isinstance(collection, PathCollection):
            series.append((collection.get_label(), collection.get_offsets()))
        elif isinstance(collection, PolyCollection):
            series += [("band", path.vertices) for path in collection.get_paths()]
    for bars in axes.containers:
        upright = getattr(bars, "orientation", "vertical") == "vertical"
        ends = [
            (bar.get_x() + bar.get_width() / 2, bar.get_height())
            if upright
            else (bar.get_width(), bar.get_y() + bar.get_height() / 2)
            for bar in getattr(bars, "patches", [])
        ]
        series.append((bars.get_label(), ends))
    return [(("" if str(name).startswith("_") else str(name)), points) for name, points in series if len(points)]
