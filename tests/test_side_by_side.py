"""The order in which chapters are executed, and the line that says what they do; nothing is executed here."""

import io
import os
import sys
import threading
import time

from leaves import progress
from leaves.report import live, side_by_side
from leaves.report.chapters import CHAPTERS, READERS

import pytest
import tqdm.std


@pytest.fixture
def execute(monkeypatch):
    """Call `execute_chapters` with chapters that take a moment; returns their times, and those that failed.

    The list `execute.kernels` has a dict for each kernel: when it was started and used, and if it was stopped.
    """
    for name in ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", *live.AS_TEXT):
        monkeypatch.setenv(name, "1")  # they are as before after the test
    kernels = []

    def start_kernel():
        kernels.append({"started": time.monotonic()})
        return kernels[-1]

    monkeypatch.setattr(side_by_side, "start_kernel", start_kernel)
    monkeypatch.setattr(side_by_side, "stop_kernel", lambda kernel: kernel.update(stopped=True))
    monkeypatch.setattr(side_by_side, "how_many_at_once", lambda count: 2)

    def call(failing=()):
        times, lock = {}, threading.Lock()

        def execute_chapter(notebook, parameters, said, kernel):
            start = kernel["used"] = time.monotonic()
            time.sleep(0.1)
            with lock:
                times[notebook.name[:2]] = start, time.monotonic()
            if notebook.name[:2] in failing:
                raise RuntimeError("it broke")
            return 0.1

        monkeypatch.setattr(side_by_side, "execute_chapter", execute_chapter)
        return times, side_by_side.execute_chapters(CHAPTERS, {})

    call.kernels = kernels
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
    assert "05_fine_tuning: skipped, because it reads files of the unfinished chapter 4" in told
    assert "06_comparison: skipped, because it reads files of the unfinished chapter 4" in told


def test_kernels_start_early_while_a_core_is_free(execute):
    times, _ = execute()
    kernels = sorted(execute.kernels, key=lambda kernel: kernel["used"])
    assert [kernel["used"] for kernel in kernels] == sorted(start for start, _ in times.values())
    assert not any("stopped" in kernel for kernel in kernels)
    early = [kernel["used"] - kernel["started"] > 0.05 for kernel in kernels]
    assert early[:3] == [False, True, True]  # those of chapters 2 and 4 start with chapter 1, which uses one core
    assert early[-1] or times["03"][1] - times["05"][1] < 0.05


def test_a_kernel_that_is_not_needed_is_stopped(execute):
    _, failed = execute(failing=["01"])
    assert failed == ["01_data_split stopped: it broke"]
    assert [sorted(kernel) for kernel in execute.kernels] == [["started", "used"], *[["started", "stopped"]] * 2]


# ---------------------------------------------------------------- the line


@pytest.fixture
def begun(monkeypatch):
    """Make a `Line` of six chapters, of which the first has ended and two are under way, by the time in seconds."""
    for name in live.AS_TEXT:
        monkeypatch.setenv(name, "")
    clock = [0.0]
    monkeypatch.setattr(live.time, "monotonic", lambda: clock[0])

    def call(now):
        line = live.Line(6)
        clock[0] = now
        line.begin(CHAPTERS[0])
        line.end(CHAPTERS[0], ": done in 0:09")
        said = [line.begin(chapter) for chapter in CHAPTERS[1:3]]
        said[0].write("\r 8 %, 00:40 left; 1 of 4 trainings\r20 %, 00:30 left; 2 of 4 trainings; FinalModel     ")
        said[1].write("\rcell 3 of 40")
        return line, clock

    return call


def test_a_log_gets_a_plain_line_a_minute(begun, capsys):
    line, clock = begun(now=75.0)
    assert capsys.readouterr().out.splitlines()[:2] == ["01_data_split: begun at 1:15", "01_data_split: done in 0:09"]
    line.show()
    told = "1:15, 1 of 6 chapters done | 02: 20 %, 00:30 left; 2 of 4 trainings; FinalModel | 03: cell 3 of 40\n"
    assert capsys.readouterr() == (told, "")
    clock[0] = 134
    line.show()
    assert capsys.readouterr().out == ""
    clock[0] = 135
    line.show()
    assert capsys.readouterr().out.startswith("2:15, 1 of 6 chapters done | ")


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_terminal_has_one_live_line_that_fits_and_goes(begun, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    monkeypatch.setenv("COLUMNS", "80")
    line, _ = begun(now=75.0)
    with line:
        for _ in range(3):
            line.show()
        shown = terminal.getvalue().split("\r")[-1].rstrip()
        assert shown == "1:15, 1 of 6 chapters done | 02: 20 %, 00:30 left; 2 of 4 t… | 03: cell 3 of 40"
        assert len(shown) < 80
    assert "\n" not in terminal.getvalue()
    assert not terminal.getvalue().split("\r")[-2].strip()
    assert "1 of 6" not in capsys.readouterr().out


def test_the_bar_of_trainings_is_a_line_of_text_in_a_report(monkeypatch):
    said = live.Said()
    text = {"bar_format": live.AS_TEXT["TQDM_BAR_FORMAT"], "file": said}
    monkeypatch.setattr(progress, "tqdm", tqdm.std.tqdm)
    monkeypatch.setattr(progress, "BAR", text)
    shared = {"seed": 1, "fold": 0, "image_size": 32}
    queue = {"a": {"name": "A", "epochs": 30, **shared}, "b": {"name": "B", "epochs": 10, **shared}}
    with progress.training_bar(queue) as told:
        told("a", 10, None)  # another process has trained ten epochs
        assert said.state == "25 %; 0 of 2 trainings; A, seed 1, fold 0, epoch 11 of 30"
        told("a", 20, 0.5)
        told("a", None, None)  # it stopped early
        told("b", 0, None)
        assert said.state == "75 %, 00:00 left; 1 of 2 trainings; B, seed 1, fold 0, epoch 1 of 10"
        told("b", 10, 0.5)


def test_a_cleared_bar_gives_way_to_the_cell(monkeypatch):
    said = live.Said()
    said.write("\rcell 3 of 40\r50 %, 00:10 left; ResNet50, development")
    assert said.state == "50 %, 00:10 left; ResNet50, development"
    said.write(f"\r{' ' * 40}\r")
    assert said.state == "cell 3 of 40"


@pytest.mark.parametrize("as_text", [True, False])
def test_no_bar_is_shown_for_an_empty_queue(as_text, monkeypatch, capfd):
    monkeypatch.setattr(progress, "BAR", {} if as_text else progress.BAR)
    with progress.training_bar({}):
        pass
    assert capfd.readouterr() == ("", "")


def test_kernels_are_told_to_write_their_bars_as_text(begun):
    begun(now=1.0)
    assert {name: os.environ[name] for name in live.AS_TEXT} == live.AS_TEXT
