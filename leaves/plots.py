"""Style figures and tables, and check that a figure shows the numbers of the table it was drawn from."""

import re

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.category import StrCategoryFormatter
from matplotlib.collections import LineCollection, PathCollection, QuadMesh
from matplotlib.ticker import FixedFormatter, FuncFormatter, LogFormatter, LogLocator, NullFormatter

PALETTE = sns.color_palette("colorblind").as_hex()
ANY_BACKGROUND = [f"{name} (any background)" for name in ("ResNet50", "VGG16", "EfficientNetB4", "EfficientNetLite0")]
MODEL_COLOURS = {
    "FinalModel": PALETTE[0],
    "FinalModel (refit)": PALETTE[9],
    "FinalModel (tuned)": PALETTE[3],
    "FinalModel (distilled)": PALETTE[8],
    "ResNet50": PALETTE[1],
    "VGG16": PALETTE[2],
    "EfficientNetB4": PALETTE[4],
    "EfficientNetLite0": PALETTE[5],
    **dict.fromkeys(ANY_BACKGROUND, "#1b7f6b"),
    "Test-time augmentation": PALETTE[6],
    "Ensemble": PALETTE[7],
}
MODEL_MARKERS = {"FinalModel": "o", "FinalModel (refit)": "v", "FinalModel (tuned)": "P"}
MODEL_MARKERS |= {"FinalModel (distilled)": "h"}
MODEL_MARKERS |= {"ResNet50": "s", "VGG16": "^", "EfficientNetB4": "D", "EfficientNetLite0": "X"}
MODEL_MARKERS |= dict.fromkeys(ANY_BACKGROUND, "p")
# Colour of the outline that keeps a line visible on a bar; `vector.page_colour` turns it into the page's background.
HALO = "#ffffff"
SERIES = "series:"  # the gid (ID in the SVG) of each line that the page can show and hide begins with this
MODEL_MARKERS |= {"Test-time augmentation": "<", "Ensemble": "*"}


def set_style():
    """Set Matplotlib's style for the rest of the process, the same in all chapters."""
    sns.set_theme(
        "notebook",
        "whitegrid",
        "colorblind",
        rc={
            "figure.dpi": 110,
            "savefig.dpi": 110,
            "figure.constrained_layout.use": True,
            "text.parse_math": False,  # a class name may contain a dollar sign
        },
    )


def table_of_texts(style, kinds="text"):
    """Align a table's cells left, because JupyterLab and the page align them right by default.

    Parameters
    ----------
    style : pandas Styler, changed in place
    kinds : str
        CSS classes of the table in the page's style sheet, separated by spaces.

    Returns
    -------
    pandas Styler, the same object
    """
    style.set_table_styles([{"selector": "td, th", "props": "text-align: left"}])
    return style.set_table_attributes(f'class="{kinds}"')


def plain_log_ticks(figure):
    """Label the ticks of logarithmic axes with plain numbers.

    Matplotlib writes these labels as mathtext, which `set_style` turns off, so they would appear as source code.
    """
    for axes in figure.axes:
        for axis, (low, high) in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())):
            if axis.get_scale() == "log" and isinstance(axis.get_major_formatter(), LogFormatter):
                if np.log10(high / low) < 2:
                    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
                axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
                axis.set_minor_formatter(NullFormatter())


def category_ticks(axis):
    """Read the tick labels of an axis if they are names: dict of position to name; empty for numbers or no labels."""
    formatter = axis.get_major_formatter()
    if not isinstance(formatter, FixedFormatter | FuncFormatter | StrCategoryFormatter):
        return {}
    positions = axis.get_majorticklocs()
    names = [str(name).strip() for name in formatter.format_ticks(positions)]
    if all(re.fullmatch(r"[-−+.,e\d]*[kMG]?", name) for name in names):  # 3M is a number too
        return {}
    return {float(position): name for position, name in zip(positions, names, strict=True) if name}


def drawn_points(axes):
    """Read the data points of all marks in an Axes: array of float, shape (n, 2); the point of a bar is its far end."""
    points = [np.empty((0, 2))]
    for line in axes.lines:
        if line.get_transform() == axes.transData:  # skips lines across the whole Axes
            points.append(np.column_stack([line.get_xdata(orig=False), line.get_ydata(orig=False)]))
    for collection in axes.collections:
        if isinstance(collection, LineCollection):
            points += [np.reshape(segment, (-1, 2)) for segment in collection.get_segments()]  # a segment may be empty
        elif isinstance(collection, PathCollection):
            points.append(np.asarray(collection.get_offsets()))
    for container in axes.containers:
        for bar in getattr(container, "patches", []):
            x, y, width, height = bar.get_x(), bar.get_y(), bar.get_width(), bar.get_height()
            upright = getattr(container, "orientation", "vertical") == "vertical"
            points.append(np.array([[x + width / 2, y + height] if upright else [x + width, y + height / 2]]))
    return np.concatenate(points).astype(float)


def drawn_values(axes):
    """Read the values drawn at each tick with a name: dict of name to list of float, empty if no axis has names."""
    values, points = {}, drawn_points(axes)
    for number, axis in enumerate((axes.xaxis, axes.yaxis)):
        if not (ticks := category_ticks(axis)):
            continue
        positions, names = np.array([*ticks]), [*ticks.values()]
        for point in points[np.isfinite(points).all(axis=1)]:
            nearest = np.abs(positions - point[number]).argmin()
            if abs(positions[nearest] - point[number]) < 0.5:
                values.setdefault(names[nearest], []).append(float(point[1 - number]))
        for name in names:
            values.setdefault(name, [])
    return values


def has_categories(figure):
    """Return whether any axis of a figure has names as tick labels."""
    return any(category_ticks(axis) for axes in figure.axes for axis in (axes.xaxis, axes.yaxis))


def check_drawn(figure, table):
    """Check that a figure with names as tick labels shows the numbers of the table it was drawn from.

    Parameters
    ----------
    table : DataFrame or Series
        Its index holds the names, which are the tick labels. Every number in a row must be drawn at the tick with the
        row's name, with any kind of mark. A cell of a Series may also be a list of numbers. For a heat map, the table
        is the drawn matrix, and its index and columns hold the names on the vertical and the horizontal axis.

    Raises
    ------
    ValueError
        When the table and the axis have different names, or a number of the table is not drawn at the tick of its row.
    """
    drawn = {}
    for axes in figure.axes:
        meshes = [collection for collection in axes.collections if isinstance(collection, QuadMesh)]
        if meshes and category_ticks(axes.yaxis):
            check_mesh(axes, meshes[0], table)
            return
        for name, values in drawn_values(axes).items():
            drawn.setdefault(name, []).extend(values)
    rows = {
        str(name).strip(): np.hstack([*np.atleast_1d(row)])
        for name, row in zip(table.index, table.to_numpy(), strict=True)
    }
    if {*rows} != {*drawn}:
        raise ValueError(f"These names are only on the axis or only in the table: {sorted({*rows} ^ {*drawn})}.")
    for name, row in rows.items():
        for value in row[~pd.isna(row)].astype(float):
            if not np.isclose(drawn[name], value, rtol=1e-6, atol=1e-9).any():
                raise ValueError(f"The table has {value:g} for {name}, and the figure shows {drawn[name]} there.")


def check_mesh(axes, mesh, table):
    """Raise ValueError if a heat map (`mesh`) does not show the names and numbers of its table, see `check_drawn`."""
    names = [[*category_ticks(axis).values()] for axis in (axes.yaxis, axes.xaxis)]
    wanted = [[str(name).strip() for name in index] for index in (table.index, table.columns)]
    if names != wanted:
        raise ValueError(f"The axes have the names {names}, and the table has {wanted}.")
    if not np.allclose(np.asarray(mesh.get_array()).reshape(table.shape), table.to_numpy()):
        raise ValueError("The numbers in the heat map differ from the numbers in the table.")


def plot_curves(runs, title):
    """Draw training and validation loss and macro F1 by epoch, and return the figure; `runs` maps names to Run."""
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.6))
    one_model = len(runs) > len({run.name for run in runs.values()}) == 1  # then the colours tell the repeats apart
    for axis, metric, label in zip(axes, ("loss", "macro_f1"), ("cross-entropy loss", "macro F1"), strict=True):
        for number, (name, run) in enumerate(runs.items()):
            colour = PALETTE[number % 10] if one_model else MODEL_COLOURS[run.name]
            history = run.history
            line = {"color": colour, "gid": f"{SERIES}{name}"}
            axis.plot(history["epoch"], history[metric], "--", alpha=0.5, linewidth=1, **line)
            axis.plot(history["epoch"], history[f"val_{metric}"], label=name, **line)
            best = history.iloc[run.result["best_epoch"] - 1]
            fill = "none" if run.result["initial_weights"] == "random" else "full"
            mark = {"fillstyle": fill, "markersize": 8, "zorder": 3}
            axis.plot(best["epoch"], best[f"val_{metric}"], MODEL_MARKERS[run.name], **mark, **line)
        axis.set(xlabel="epoch", ylabel=label)
        axis.xaxis.get_major_locator().set_params(integer=True)
    axes[1].set_ylim(0, 1)
    side = {"loc": "upper left", "bbox_to_anchor": (1, 1), "fontsize": "small"}
    axes[1].legend(title="solid: validation\ndashed: training\nmark: best epoch", **side)
    figure.suptitle(title)
    return figure
