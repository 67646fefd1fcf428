"""Which chapters need not be executed again."""

from leaves import places
from leaves.report import chapters, unchanged

import pytest

VALUES = {"epochs": 2}


@pytest.fixture
def executed(working_folder):
    """A project in which all chapters were executed, with `VALUES`."""
    (working_folder / "report").mkdir()
    for chapter in chapters.CHAPTERS:
        (working_folder / "report" / chapter.name).write_text("executed")
    (working_folder / "runs" / "02.json").write_text("{}")
    (working_folder / "photos").mkdir()
    unchanged.remember_state(chapters.CHAPTERS, VALUES, {})
    return working_folder


def changed(values=VALUES):
    """The numbers of the chapters that would be executed."""
    skipped = unchanged.unchanged_chapters(chapters.CHAPTERS, values, unchanged.known_chapters())
    return [chapter.name[:2] for chapter in chapters.CHAPTERS if chapter not in skipped]


def test_without_a_change_nothing_is_executed(executed):
    assert changed() == []


@pytest.mark.parametrize("name", ["runs/02.json", "runs/02-A/model.keras", "data/split.csv", "report/report.html"])
def test_a_new_or_changed_file_has_everything_executed(executed, name):
    (executed / name).parent.mkdir(exist_ok=True)
    (executed / name).write_text("{...}")
    assert changed() == chapters.NUMBERS


@pytest.mark.parametrize("name", ["helpers.py", "leaves/report/template/style.css", "notebooks/01_data_split.ipynb"])
def test_changed_code_has_everything_executed(executed, name):
    (executed / name).parent.mkdir(exist_ok=True, parents=True)
    (executed / name).write_text("changed")
    assert changed() == chapters.NUMBERS


def test_a_lost_chapter_or_state_has_everything_executed(executed):
    (executed / "report" / chapters.CHAPTERS[2].name).unlink()
    assert changed() == chapters.NUMBERS
    unchanged.state_file().write_text("no state")
    assert changed() == chapters.NUMBERS


def test_locks_and_logs_change_nothing(executed):
    for name in ("runs/lock.holder", "report/kernels.log", "runs/locks/02"):
        (executed / name).parent.mkdir(exist_ok=True)
        (executed / name).write_text("passing")
    assert changed() == []


@pytest.mark.parametrize(
    ("name", "value", "numbers"),
    [
        ("epochs", 3, ["02", "03", "05", "06"]),
        ("draws", 100, ["06"]),
        ("views", 3, ["04", "05", "06"]),
        ("sample_count", 100, chapters.NUMBERS),
        ("external", "photos", ["06"]),
        ("data", "photos", chapters.NUMBERS),
    ],
)
def test_another_parameter_has_its_chapters_and_their_readers_executed(executed, name, value, numbers):
    assert changed(VALUES | {name: value}) == numbers


def test_another_photo_in_a_named_folder_has_its_chapter_executed(executed):
    values = VALUES | {"external": str(executed / "photos")}
    unchanged.remember_state([chapters.CHAPTERS[5]], values, unchanged.known_chapters())
    assert changed(values) == []
    (executed / "photos" / "leaf.jpg").write_bytes(b"a photo")
    assert changed(values) == ["06"]


def test_what_was_known_of_other_chapters_stays(executed):
    known = unchanged.known_chapters()
    unchanged.remember_state([chapters.CHAPTERS[5]], VALUES | {"draws": 100}, known)
    assert changed(VALUES | {"draws": 100}) == []
    assert changed() == ["06"]
    assert places.REPORT.exists()
