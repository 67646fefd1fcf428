"""The order in which chapters are executed; nothing is executed here."""

import threading
import time

from leaves.report import side_by_side
from leaves.report.chapters import CHAPTERS, READERS

import pytest


@pytest.fixture
def execute(monkeypatch):
    """Call `execute_chapters` with chapters that take a moment; returns their times, and those that failed."""
    for name in ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
        monkeypatch.setenv(name, "1")  # they are left as they are
    monkeypatch.setattr(side_by_side, "start_kernel", lambda: None)
    monkeypatch.setattr(side_by_side, "how_many_at_once", lambda count: 2)

    def call(failing=()):
        times, lock = {}, threading.Lock()

        def execute_chapter(notebook, parameters, kernel):
            start = time.monotonic()
            time.sleep(0.1)
            with lock:
                times[notebook.name[:2]] = start, time.monotonic()
            if notebook.name[:2] in failing:
                raise RuntimeError("it broke")
            return 0.1

        monkeypatch.setattr(side_by_side, "execute_chapter", execute_chapter)
        return times, side_by_side.execute_chapters(CHAPTERS, {})

    return call


def test_a_chapter_waits_for_those_it_reads_and_for_no_other(execute):
    times, failed = execute()
    assert (sorted(times), failed) == (sorted(READERS), [])
    for earlier, readers in READERS.items():
        assert all(times[earlier][1] <= times[reader][0] for reader in readers)
    assert times["04"][0] < times["02"][1]  # chapter 5 waits for both
    assert times["02"][0] < times["04"][1] <= times["03"][1]
    moments = [start for start, _ in times.values()]
    assert max(sum(start <= moment < end for start, end in times.values()) for moment in moments) == 2


def test_what_reads_a_failed_chapter_is_skipped_and_the_others_run(execute, capsys):
    times, failed = execute(failing=["04"])
    assert sorted(times) == ["01", "02", "03", "04"]
    assert failed == ["04_transfer_learning stopped: it broke"]
    told = capsys.readouterr().out
    assert "05_fine_tuning: skipped, because it reads what chapter 4 did not finish" in told
    assert "06_comparison: skipped, because it reads what chapter 4 did not finish" in told
