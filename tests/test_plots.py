"""Figures are compared with the tables they were drawn from, and logarithmic axes have plain numbers."""

import helpers
from leaves import plots

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import seaborn as sns

TABLE = pd.DataFrame({"low": [0.1, 0.3, 0.5], "high": [0.2, 0.4, 0.6]}, index=["Oak", "Elm $x$", "Ash"])


@pytest.fixture(autouse=True)
def style():
    plots.set_style()
    yield
    plt.close("all")


def lines(names=TABLE.index):
    figure, axis = plt.subplots()
    axis.axvline(0.3)
    axis.hlines(range(3), TABLE["low"], TABLE["high"])
    axis.set_yticks(range(3), names)
    return figure


def bars():
    figure, axis = plt.subplots()
    axis.barh(TABLE.index, TABLE["low"])
    axis.plot(TABLE["high"], TABLE.index, "k*")
    return figure


def upright_bars():
    figure, axis = plt.subplots()
    steps = TABLE.assign(high=TABLE["high"] - TABLE["low"])
    steps.plot.bar(stacked=True, ax=axis)
    return figure


def marks():
    figure, axis = plt.subplots()
    for name, row in TABLE.iterrows():
        axis.scatter(row, [name] * 2)
    return figure


def test_a_line_without_a_place_is_no_mark():
    """As of a variant whose training diverged: its score is no number."""
    figure, axis = plt.subplots()
    table = TABLE.assign(low=[np.nan, *TABLE["low"][1:]])
    axis.hlines(table.index, table["low"], table["high"])
    axis.plot(table["high"], table.index, "o")
    plots.check_drawn(figure, table)


@pytest.mark.parametrize("draw", [lines, bars, upright_bars, marks])
def test_a_figure_that_shows_its_table_passes_and_a_swapped_one_does_not(draw):
    figure = draw()
    plots.check_drawn(figure, TABLE)
    with pytest.raises(ValueError, match="the figure shows"):
        plots.check_drawn(figure, TABLE.set_axis(["Elm $x$", "Oak", "Ash"]))
    with pytest.raises(ValueError, match="only on the axis"):
        plots.check_drawn(figure, TABLE.drop(index="Ash"))


def test_labels_set_in_another_order_than_the_rows_are_found():
    """As the differences to the best model were once drawn."""
    with pytest.raises(ValueError, match="the figure shows"):
        plots.check_drawn(lines(sorted(TABLE.index)), TABLE)


def test_lists_and_gaps_in_a_table():
    figure, axis = plt.subplots()
    for name, values in (("a", [1, 2]), ("b", [3])):
        axis.scatter(values, [name] * len(values))
    plots.check_drawn(figure, pd.Series({"a": [1, 2], "b": [3, np.nan]}))
    with pytest.raises(ValueError, match="4 for b"):
        plots.check_drawn(figure, pd.Series({"a": [1, 2], "b": [4]}))


def test_a_heat_map_is_compared_with_its_matrix():
    matrix = pd.DataFrame([[1.0, 2.0], [3.0, 4.0]], ["Oak", "Elm"], ["Oak", "Elm"])
    axis = sns.heatmap(matrix)
    plots.check_drawn(axis.figure, matrix)
    for wrong in (matrix.T, matrix[["Elm", "Oak"]]):
        with pytest.raises(ValueError, match="heat map|axes have the names"):
            plots.check_drawn(axis.figure, wrong)


def test_classes_called_by_numbers_are_no_names(project):
    figure, axis = plt.subplots()
    axis.barh(["0", "1"], [0.5, 0.6])
    assert not plots.has_categories(figure)
    helpers.show(figure, "numbers", "Two classes that are called 0 and 1.", table=pd.Series({"0": 0.5, "1": 0.6}))


@pytest.mark.parametrize("limits", [(1e-5, 10), (0.2, 0.9), (30, 45)])
def test_logarithmic_axes_have_plain_numbers(limits):
    figure, axis = plt.subplots()
    axis.plot(limits, limits)
    axis.set(xscale="log", yscale="log", xlim=limits, ylim=limits)
    plots.plain_log_ticks(figure)
    figure.canvas.draw()
    texts = [tick.get_text() for each in (axis.xaxis, axis.yaxis) for tick in each.get_ticklabels(which="both")]
    shown = [text for text in texts if text]
    assert shown
    assert not [text for text in shown if "$" in text or "math" in text]
    assert all(float(text) > 0 for text in shown)
