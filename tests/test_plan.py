"""What run_all.sh --plan counts, and that it writes nothing; the whole command is run in test_run_all.py."""

import ast
import json

import helpers
from leaves import cache, custom_cnn, places, planning, runs, sources
from leaves.files import write_atomic
from leaves.progress import estimated_seconds, in_words
from leaves.report import plan
from leaves.report.cells import needed_code, needed_statements
from leaves.report.chapters import CHAPTERS

import nbformat
import numpy as np
import pandas as pd
import pytest

CODE = """
import helpers
from leaves import drawing
rates = [1, 2]
title = "drawn"
queue, names = [], []
queue.append(first)
for rate in rates:
    queue += specs_of(rate)
    names.append(rate)
drawing.prepare(queue)
train, prepare = helpers.train_all, None
trained = train(queue, None, prepare)
figure = drawing.draw({name: rate for name, rate in trained})
print(title, names)
inputs = (train, trained)
found = search(*inputs)
inputs = (figure, title)
drawing.draw(*inputs)
if found:
    better = helpers.train_all(found, None, None)
helpers.record_runs("02", {"best": found[0]}, evidence(figure), repeats={})
helpers.show(figure, "02-figure", title)
"""
NEEDED = """
import helpers
rates = [1, 2]
(queue, names) = ([], [])
queue.append(first)
for rate in rates:
    queue += specs_of(rate)
    names.append(rate)
(train, prepare) = (helpers.train_all, None)
trained = train(queue, None, prepare)
inputs = (train, trained)
found = search(*inputs)
if found:
    better = helpers.train_all(found, None, None)
helpers.record_runs('02', {'best': found[0]}, repeats={})
"""


def code_of(notebook):
    return ast.unparse(ast.fix_missing_locations(needed_code(notebook, {})))


def write_notebook(file, *cells):
    """A notebook of code cells, the first of them its parameters."""
    cells = [nbformat.v4.new_code_cell(source) for source in cells]
    cells[0].metadata["tags"] = ["parameters"]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), file)
    return file


def test_what_trainings_do_not_depend_on_is_no_part_of_a_plan(tmp_path):
    notebook = write_notebook(tmp_path / "02_any.ipynb", "first = {}", CODE)
    assert code_of(notebook) == ast.unparse(ast.parse("first = {}" + NEEDED))
    assert needed_statements(ast.parse("a = 1\nprint(a)").body) == []


@pytest.mark.parametrize("chapter", CHAPTERS[1:], ids=lambda chapter: chapter.stem)
def test_a_plan_trains_as_a_chapter_does_and_draws_and_computes_nothing(chapter):
    cells = [cell.source for cell in nbformat.read(chapter, as_version=4).cells if cell.cell_type == "code"]
    needed = code_of(chapter)
    for call in ("helpers.train(", "helpers.train_all", "helpers.record_runs(", "train_refits(", "search_final_model("):
        assert needed.count(call) == "\n".join(cells).count(call)
    for call in ("draw_", "plot_", "helpers.show", "stored_outputs", "answer_test_subset", "load_images", "evidence"):
        assert f"{call}(" not in needed.replace("_images, ", "")
    assert ("begin_training(" in needed) == ("begin_training(" in "\n".join(cells))  # it returns chapter 6's specs


# ---------------------------------------------------------------- a chapter of its own


TRAINS = """
import helpers
from leaves import custom_cnn, dataset
split = dataset.load_split()
def specs_of(name, filters):
    return custom_cnn.cnn_specs("02", name, split, 32, epochs, 0, 2, filters=filters)
"""
FIRST = 'first = helpers.train_all(specs_of("Small", (4, 8)), split, custom_cnn.prepare)'
SECOND = 'second = helpers.train_all(specs_of("Smaller", (2, 4)), split, custom_cnn.prepare)'
RECORD = 'helpers.record_runs("02", {"Small": first[0]}, repeats={"Small": first})'


@pytest.fixture
def chapter(project):
    cells = ["epochs = 1", TRAINS, FIRST, SECOND, RECORD]
    return write_notebook(places.ROOT / "02_small.ipynb", *cells)


def listing(folder):
    return {str(file): (file.stat().st_size, file.stat().st_mtime_ns) for file in folder.rglob("*")}


def planned_lines(chapters, values, capsys, forgotten=()):
    """What is printed about these chapters; nothing must change in the project."""
    before = listing(places.ROOT)
    plan.print_plan(chapters, values, [], {*forgotten})
    assert listing(places.ROOT) == before
    return capsys.readouterr().out.splitlines()


def train(project, name, filters, capsys):
    """Train what the chapter trains; list of Run."""
    specs = custom_cnn.cnn_specs("02", name, project, 32, 1, 0, 2, filters=filters)
    trained = helpers.train_all(specs, project, custom_cnn.prepare)
    capsys.readouterr()
    return trained


def test_a_plan_ends_at_the_first_queue_that_is_not_trained(chapter, project, capsys):
    told = planned_lines([chapter], {}, capsys)
    assert told[0] == "02_small: 0 trainings cached, at least 2 to train, no similar training has been measured yet"
    assert told[2] == "Trainings that depend on missing results cannot be counted yet."
    trained = train(project, "Small", (4, 8), capsys)
    told = planned_lines([chapter], {}, capsys)
    assert told[0].startswith("02_small: 2 trainings cached, at least 2 to train, ")
    assert told[0].endswith(("a minute", "minutes"))
    untrained = "02_small: 0 trainings cached, at least 2 to train"
    assert planned_lines([chapter], {"epochs": 2}, capsys)[0].startswith(untrained)
    train(project, "Smaller", (2, 4), capsys)
    assert planned_lines([chapter], {}, capsys) == [
        "02_small: 4 trainings cached, none to train",
        "In all: 4 trainings cached, none to train.",
        "Nothing was trained or written.",
    ]
    forgotten = [run.folder for run in trained]
    assert planned_lines([chapter], {}, capsys, forgotten)[0].startswith(untrained)


def test_a_chapter_that_reads_an_unfinished_one_comes_after_it(chapter, working_folder, capsys):
    others = [write_notebook(working_folder / f"{name}.ipynb", "seed = 0", FIRST) for name in ("05_any", "06_any")]
    told = planned_lines([chapter, *others], {}, capsys)
    assert told[1:3] == [
        "05_any: trainings can be counted after chapter 2",
        "06_any: trainings can be counted after chapters 2, 5",
    ]


def test_without_a_split_chapter_one_comes_first(working_folder, chapter, capsys):
    places.SPLIT_CSV.unlink()
    told = planned_lines([CHAPTERS[0], chapter], {}, capsys)
    assert told[0].startswith("01_data_split: makes the split first")
    assert told[1] == "02_small: trainings can be counted after chapter 1"
    assert planned_lines([chapter], {}, capsys)[0].endswith(
        "it would stop: There is no data/split.csv yet: run notebook 01_data_split first."
    )


def test_another_share_or_sample_makes_another_split(project, capsys):
    def told(before, **values):
        settings = {"test_share": 0.2, "validation_share": 0.2}
        places.SOURCE_JSON.write_text(json.dumps({"data": before, "settings": settings}))
        return planned_lines(CHAPTERS[:1], values, capsys)[0]

    stands = "01_data_split: is executed; the plan assumes that the split stays the same"
    assert told("/photos").startswith(stands)
    assert "makes another split first (test_share changed)" in told("/photos", test_share=0.3)
    assert "makes another split first (data changed)" in told("/photos", data="/other")
    assert "makes another split first (the synthetic sample changed)" in told("sample")
    split = pd.read_csv(places.SPLIT_CSV)
    folder = sources.sample_folder(300, 128, 0).relative_to(places.ROOT)
    split.assign(path=f"{folder}/" + split["path"]).to_csv(places.SPLIT_CSV, index=False)
    assert told("sample", sample_count=300).startswith(stands)
    assert "(the synthetic sample changed)" in told("sample", sample_count=301)


def test_what_is_not_computed_yet_ends_a_plan(tmp_path):
    planning.end_plan("nothing")  # there is none
    with planning.planned(tmp_path):
        with pytest.raises(planning.AheadError, match="not computed"):
            cache.computed_once(tmp_path / "a.npz", "key", lambda: pytest.fail("computed"))
        with pytest.raises(planning.AheadError, match="not written"):
            write_atomic(tmp_path / "elsewhere" / "a.txt", "text")
        write_atomic(tmp_path / "02.json", "{}")  # what later chapters read
    cache.computed_once(tmp_path / "a.npz", "key", lambda: {"a": np.zeros(1)})


# ---------------------------------------------------------------- the estimate


def run_of(seconds, **spec):
    return runs.Run(None, spec_of(**spec), {"train_seconds": seconds})


def spec_of(**changes):
    return {"name": "A", "epochs": 10, "image_size": 32, "split": "x"} | changes


def test_a_training_takes_as_long_as_those_most_like_it():
    finished = [run_of(10), run_of(20, name="B"), run_of(1000, epochs=100), run_of(5, backbone="VGG16")]

    def seconds(**changes):
        return estimated_seconds([spec_of(**changes)], finished)

    assert (seconds(), seconds(name="B"), seconds(name="C")) == ([10], [20], [15])
    assert (seconds(epochs=120), seconds(image_size=48), seconds(backbone="ResNet50")) == ([1200], [22.5], [5])
    assert (seconds(backbone="VGG16", cut="a"), seconds(image_size=512)) == ([], [25600])
    assert seconds(image_size=512, epochs=1000) == []  # 256 times more than any that was measured
    assert estimated_seconds([spec_of(split="y 0", fraction=0.5)], [run_of(10)], {"x": 10, "y": 40}) == [20]
    assert estimated_seconds([], []) == []


def test_the_published_times_count_where_there_are_no_others():
    own, published, photos = [run_of(60)], [run_of(600, backbone="VGG16")], {"x": 1}

    def told(*waiting):
        return plan.time_in_words(waiting, own, published, photos)

    head, tail = spec_of(backbone="VGG16"), spec_of(backbone="VGG16", cut="a")
    elsewhere = " (estimated from results/runs, perhaps measured on another machine)"
    assert (told(spec_of()), told(tail)) == ("about a minute", "no similar training has been measured yet")
    assert told(spec_of(), head) == f"about 11 minutes{elsewhere}"
    assert told(spec_of(), head, tail) == f"about 11 minutes for 2 of them{elsewhere}"
    assert told(spec_of(), tail) == "about a minute for 1 of them"


def test_times_in_words():
    assert [*map(in_words, (20, 60, 95, 3000, 9000))] == [
        *("less than a minute", "about a minute", "about 2 minutes", "about 50 minutes", "about 2.5 hours")
    ]
