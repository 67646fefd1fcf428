"""The finished report and the runs that lay there before a command of run_all.sh; nothing is executed here."""

import json

from leaves import places
from leaves.report import chapters, command, keep

import pytest


@pytest.fixture
def report(tmp_path, monkeypatch):
    """An empty project for run_all.sh; returns functions that put a split and a finished report into it."""
    for name, place in {"ROOT": "", "REPORT": "report", "RUNS": "runs"}.items():
        monkeypatch.setattr(places, name, tmp_path / place)
    monkeypatch.setattr(places, "SPLIT_CSV", tmp_path / "data" / "split.csv")
    (tmp_path / "data").mkdir()
    (tmp_path / "runs").mkdir()
    (tmp_path / "report" / "figures").mkdir(parents=True)

    def split(photos):
        places.SPLIT_CSV.write_text(photos)

    def execute(*numbers, text):
        for number in numbers:
            chapter = next(chapter for chapter in chapters.CHAPTERS if chapter.name.startswith(number))
            executed = {"metadata": {"read": chapters.read_by(number), "stopped": ""}, "text": text}
            replaced(tmp_path / "report" / chapter.name, json.dumps(executed))
            if number == "06":
                for name in ("scores.csv", "best_model.keras", "figures/06-scores.png"):
                    replaced(tmp_path / "report" / name, text)
        replaced(tmp_path / "report" / "report.html", text)

    return split, execute, tmp_path / "report"


def replaced(file, text):
    """Write a file under another name and rename it, as all writers of the project do."""
    unfinished = file.with_name("unfinished")
    unfinished.write_text(text)
    unfinished.replace(file)


ALL = ("01", "02", "03", "04", "05", "06")


def earlier(report):
    return [(place / "scores.csv").read_text() for place in sorted(report.glob("earlier/*"))]


def settle():
    keep.settle_last_report(keep.forget_stale())


def test_a_report_of_other_photos_is_set_aside_whole(report):
    split, execute, folder = report
    split("X")
    execute(*ALL, text="of X")
    keep.keep_last_report()
    split("Y")
    execute("01", text="of Y")
    settle()
    [place] = folder.glob("earlier/*")
    for name in ("report.html", "scores.csv", "best_model.keras", "06_comparison.ipynb", "figures/06-scores.png"):
        assert "of X" in (place / name).read_text()
    assert not (folder / "scores.csv").exists()
    assert not (folder / "best_model.keras").exists()
    assert not keep.last_report().exists()


def test_a_whole_new_run_keeps_the_old_report_though_it_was_interrupted(report):
    split, execute, folder = report
    split("X")
    execute(*ALL, text="of X")
    keep.keep_last_report()
    split("Y")
    execute("01", text="of Y")  # here the command was killed, and is given again
    keep.keep_last_report()
    execute(*ALL, text="of Y")
    settle()
    assert earlier(folder) == ["of X"]
    assert (folder / "scores.csv").read_text() == "of Y"


def test_an_interrupted_excursion_keeps_nothing_aside(report):
    split, execute, folder = report
    split("X")
    execute(*ALL, text="of X")
    keep.keep_last_report()
    split("Y")
    execute("01", text="of Y")
    split("X")
    keep.keep_last_report()
    execute(*ALL, text="of X again")
    settle()
    assert earlier(folder) == []
    assert (folder / "scores.csv").read_text() == "of X again"


def test_a_report_that_was_finished_and_not_settled_is_kept_too(report):
    split, execute, folder = report
    for photos in "XYZ":
        keep.keep_last_report()
        split(photos)
        execute(*ALL, text=f"of {photos}")  # killed before it was settled
        (folder / "scores.csv").touch()
    settle()
    assert set(earlier(folder)) <= {"of X", "of Y"}
    assert "of Y" in earlier(folder)


def test_the_same_photos_again_set_nothing_aside(report):
    split, execute, folder = report
    split("X")
    execute(*ALL, text="of X")
    keep.keep_last_report()
    execute("06", text="again")
    settle()
    assert earlier(folder) == []
    assert not keep.last_report().exists()


def test_files_of_a_failed_chapter_come_back(report):
    split, execute, folder = report
    split("X")
    execute(*ALL, text="good")
    keep.keep_last_report()
    replaced(folder / "scores.csv", "half done")
    replaced(folder / "figures" / "06-scores.png", "half done")
    failed = {"metadata": {"read": chapters.read_by("06"), "stopped": "It stopped."}}
    (folder / "failed_06_comparison.ipynb").write_text(json.dumps(failed))
    settle()
    assert (folder / "scores.csv").read_text() == (folder / "figures" / "06-scores.png").read_text() == "good"
    shown = {notebook.name[:2]: stopped for notebook, stopped in keep.shown_chapters()}
    assert shown == dict.fromkeys(ALL[:5], None) | {"06": "It stopped."}


def test_what_a_kill_left_is_no_chapter(report):
    split, execute, folder = report
    split("X")
    execute(*ALL, text="of X")
    (folder / "unfinished_03_regularisation_ablations.ipynb").write_text("{")
    assert keep.forget_stale() == []


def test_force_forgets_what_a_chapter_recorded_whichever_chapter_trained_it(report):
    for name in ("02-refit-1", "02-old-2", "03-FinalModel-3", "03-FinalModel-4", "03-ReLU-5", "04-VGG16-6"):
        (places.RUNS / name).mkdir()
    record = {"runs": {"FinalModel": "03-FinalModel-3", "FinalModel (refit)": "02-refit-1"}}
    record["repeats"] = {"FinalModel": ["03-FinalModel-3", "03-FinalModel-4"]}
    (places.RUNS / "02.json").write_text(json.dumps(record))
    command.forget_runs(chapters.CHAPTERS[1:2])
    assert {folder.name for folder in places.RUNS.glob("0?-*")} == {"03-ReLU-5", "04-VGG16-6"}
    command.forget_runs(chapters.CHAPTERS[2:3])
    assert {folder.name for folder in places.RUNS.glob("0?-*")} == {"04-VGG16-6"}
