"""Which chapters need not be executed again."""

import http.server
import threading

from leaves import places
from leaves.files import write_json
from leaves.report import chapters, unchanged

import pytest

VALUES = {"epochs": 2}


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers that a file is there."""

    def do_HEAD(self):
        self.send_response(200)
        self.end_headers()

    def log_message(self, *arguments):
        pass


@pytest.fixture
def executed(working_folder):
    """A project in which all chapters were executed, with `VALUES`."""
    (working_folder / "report").mkdir()
    for chapter in chapters.CHAPTERS:
        (working_folder / "report" / chapter.name).write_text("executed")
    (working_folder / "runs" / "02.json").write_text("{}")
    (working_folder / "photos").mkdir()
    unchanged.remember_state(unchanged.chapter_digests(chapters.CHAPTERS, VALUES), {})
    return working_folder


def changed(values=VALUES):
    """The numbers of the chapters that would be executed."""
    digests = unchanged.chapter_digests(chapters.CHAPTERS, values)
    skipped = unchanged.unchanged_chapters(digests, unchanged.known_chapters())
    return [chapter.name[:2] for chapter in chapters.CHAPTERS if chapter not in skipped]


def remember_last(values):
    """Remember that chapter 6 was executed with other values."""
    unchanged.remember_state(unchanged.chapter_digests(chapters.CHAPTERS[5:], values), unchanged.known_chapters())


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


@pytest.mark.parametrize("place", ["photos", "elsewhere"])
def test_another_photo_in_a_named_folder_has_its_chapter_executed(executed, place):
    """In a class folder that is a link elsewhere, too."""
    (executed / "elsewhere").mkdir()
    (executed / "photos" / "split").symlink_to(executed / "elsewhere")
    values = VALUES | {"external": str(executed / "photos")}
    remember_last(values)
    assert changed(values) == []
    (executed / place / "leaf.jpg").write_bytes(b"a photo")
    assert changed(values) == ["06"]


def test_what_was_known_of_other_chapters_stays(executed):
    remember_last(VALUES | {"draws": 100})
    assert changed(VALUES | {"draws": 100}) == []
    assert changed() == ["06"]


def test_code_that_changes_while_chapters_are_executed_counts(executed):
    before = unchanged.chapter_digests(chapters.CHAPTERS, VALUES)
    (executed / "helpers.py").write_text("edited meanwhile")
    unchanged.remember_state(before, {})
    assert changed() == chapters.NUMBERS


def test_what_python_compiles_changes_nothing(executed):
    (executed / "leaves" / "__pycache__").mkdir(parents=True)
    (executed / "leaves" / "__pycache__" / "plan.cpython-311.pyc").write_bytes(b"compiled")
    assert changed() == []


def test_a_name_of_the_readers_own_in_a_parameters_cell_is_no_fault(executed, monkeypatch):
    monkeypatch.setattr(unchanged, "chapter_parameters", lambda chapter: {"my_rate": 0.1})
    assert changed() == chapters.NUMBERS


@pytest.mark.parametrize(("kind", "numbers"), [("random", ["04", "05", "06"]), ("imagenet", [])])
def test_random_weights_are_replaced_as_soon_as_a_server_has_better(executed, monkeypatch, kind, numbers):
    write_json(places.RUNS / "04-VGG16" / "spec.json", {"weights": {"kind": kind}})
    write_json(places.RUNS / "04.json", {"runs": {"VGG16": "04-VGG16"}})
    unchanged.remember_state(unchanged.chapter_digests(chapters.CHAPTERS, VALUES), {})
    monkeypatch.setattr(unchanged, "KERAS_WEIGHTS", "http://127.0.0.1:9/")
    assert changed() == []
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(unchanged, "KERAS_WEIGHTS", f"http://127.0.0.1:{server.server_port}/")
        assert changed() == numbers
        server.shutdown()
