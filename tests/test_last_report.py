"""What run_all.py does with the finished report that lay there before a command; nothing is executed here."""

import json

import pytest

import run_all


@pytest.fixture
def report(tmp_path, monkeypatch):
    """An empty project for run_all.py; returns functions that put a split and a finished report into it."""
    for name, place in {"ROOT": "", "REPORT": "report", "RUNS": "runs", "LAST_REPORT": "report/.last"}.items():
        monkeypatch.setattr(run_all, name, tmp_path / place)
    monkeypatch.setattr(run_all, "SPLIT_CSV", tmp_path / "data" / "split.csv")
    (tmp_path / "data").mkdir()
    (tmp_path / "runs").mkdir()
    (tmp_path / "report" / "figures").mkdir(parents=True)

    def split(photos):
        run_all.SPLIT_CSV.write_text(photos)

    def execute(*numbers, text):
        for number in numbers:
            chapter = next(chapter for chapter in run_all.CHAPTERS if chapter.name.startswith(number))
            executed = {"metadata": {"read": run_all.read_by(number), "stopped": ""}, "text": text}
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
    run_all.settle_last_report(run_all.forget_stale())


def test_a_report_of_other_photos_is_set_aside_whole(report):
    split, execute, folder = report
    split("X")
    execute(*ALL, text="of X")
    run_all.keep_last_report()
    split("Y")
    execute("01", text="of Y")
    settle()
    [place] = folder.glob("earlier/*")
    for name in ("report.html", "scores.csv", "best_model.keras", "06_comparison.ipynb", "figures/06-scores.png"):
        assert "of X" in (place / name).read_text()
    assert not (folder / "scores.csv").exists()
    assert not (folder / "best_model.keras").exists()
    assert not run_all.LAST_REPORT.exists()


def test_a_whole_new_run_keeps_the_old_report_though_it_was_interrupted(report):
    split, execute, folder = report
    split("X")
    execute(*ALL, text="of X")
    run_all.keep_last_report()
    split("Y")
    execute("01", text="of Y")  # here the command was killed, and is given again
    run_all.keep_last_report()
    execute(*ALL, text="of Y")
    settle()
    assert earlier(folder) == ["of X"]
    assert (folder / "scores.csv").read_text() == "of Y"


def test_an_interrupted_excursion_keeps_nothing_aside(report):
    split, execute, folder = report
    split("X")
    execute(*ALL, text="of X")
    run_all.keep_last_report()
    split("Y")
    execute("01", text="of Y")
    split("X")
    run_all.keep_last_report()
    execute(*ALL, text="of X again")
    settle()
    assert earlier(folder) == []
    assert (folder / "scores.csv").read_text() == "of X again"


def test_a_report_that_was_finished_and_not_settled_is_kept_too(report):
    split, execute, folder = report
    for photos in "XYZ":
        run_all.keep_last_report()
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
    run_all.keep_last_report()
    execute("06", text="again")
    settle()
    assert earlier(folder) == []
    assert not run_all.LAST_REPORT.exists()


def test_files_of_a_failed_chapter_come_back(report):
    split, execute, folder = report
    split("X")
    execute(*ALL, text="good")
    run_all.keep_last_report()
    replaced(folder / "scores.csv", "half done")
    replaced(folder / "figures" / "06-scores.png", "half done")
    failed = {"metadata": {"read": run_all.read_by("06"), "stopped": "It stopped."}}
    (folder / "failed_06_comparison.ipynb").write_text(json.dumps(failed))
    settle()
    assert (folder / "scores.csv").read_text() == (folder / "figures" / "06-scores.png").read_text() == "good"
    shown = {notebook.name[:2]: stopped for notebook, stopped in run_all.shown_chapters()}
    assert shown == dict.fromkeys(ALL[:5], None) | {"06": "It stopped."}


def test_what_a_kill_left_is_no_chapter(report):
    split, execute, folder = report
    split("X")
    execute(*ALL, text="of X")
    (folder / "unfinished_03_regularisation_ablations.ipynb").write_text("{")
    assert run_all.forget_stale() == []
