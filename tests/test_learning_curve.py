"""Trainings on fractions of the photos, in another process."""

import functools
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import helpers
from leaves import custom_cnn, hardware, learning_curve, places, runs
from leaves.planning import PLAN

import pytest


@pytest.fixture
def small(project):
    spec = custom_cnn.cnn_spec("02", "Tiny", project, 32, epochs=1, seed=0, filters=[4, 4])
    prepare = functools.partial(learning_curve.prepare_smaller, seed=3, transfer=None)
    return {"Tiny": SimpleNamespace(spec=spec, name="Tiny")}, [0.4, 0.8], 3, project, prepare


@pytest.fixture
def started(monkeypatch):
    """The work, as pickled bytes, for which `begin_training` would start processes."""
    works = []

    def process(target, args, daemon):
        assert target is hardware.call_quietly
        return SimpleNamespace(start=lambda: works.extend(args))

    monkeypatch.setattr(multiprocessing, "get_context", lambda kind: SimpleNamespace(Process=process))
    monkeypatch.setattr(learning_curve, "own_cores", lambda: [0, 1])
    return works


def test_the_other_process_trains_what_the_chapter_then_finds(small, started, monkeypatch):
    specs = learning_curve.begin_training(*small)
    assert {label: [spec["fraction"] for spec in of_label] for label, of_label in specs.items()} == {"Tiny": [0.4, 0.8]}
    [work] = started
    pickle.loads(work)()
    monkeypatch.setattr(helpers, "train_once", lambda *_, **__: pytest.fail("trained again"))
    *_, split, prepare = small
    assert [run.result["epochs"] for run in helpers.train_all(specs["Tiny"], split, prepare)] == [1, 1]
    learning_curve.begin_training(*small)
    assert len(started) == 1  # all specs are trained


def test_a_training_of_another_process_is_left_to_it(small, started):
    specs = learning_curve.begin_training(*small)["Tiny"]
    with runs.locked(places.RUNS / "locks" / runs.spec_hash(specs[0])):
        pickle.loads(started[0])()
    assert [bool(runs.find_run(spec)) for spec in specs] == [False, True]


def test_nothing_is_trained_on_another_split(small, started):
    *others, split, prepare = small
    changed = split.copy()
    changed.attrs |= {"hash": "another"}
    specs = learning_curve.begin_training(*others, changed, prepare)["Tiny"]
    pickle.loads(started[0])()
    assert [runs.find_run(spec) for spec in specs] == [None, None]


@pytest.mark.parametrize("where", ["a plan", "a cluster", "one core"])
def test_no_process_starts_for(where, small, started, monkeypatch):
    if where == "a cluster":
        monkeypatch.setenv("DASK_SCHEDULER_ADDRESS", "tcp://127.0.0.1:8786")
    if where == "one core":
        monkeypatch.setattr(learning_curve, "own_cores", lambda: [0])
    token = PLAN.set("a plan" if where == "a plan" else None)
    try:
        assert list(learning_curve.begin_training(*small)) == ["Tiny"]
    finally:
        PLAN.reset(token)
    assert not started


# ---------------------------------------------------------------- the process

PARENT = """
import functools, multiprocessing, pickle, time
from leaves import hardware
code = "import os, time; print('printed', flush=True); open('child', 'w').write(str(os.getpid())); time.sleep(600)"
work = pickle.dumps(functools.partial(exec, code))
if __name__ == "__main__":
    multiprocessing.get_context("spawn").Process(target=hardware.call_quietly, args=(work,), daemon=True).start()
    time.sleep(600)
"""


def test_the_process_prints_nothing_outlives_ctrl_c_and_ends_with_its_parent(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(PARENT, encoding="utf-8")
    environment = os.environ | {"PYTHONPATH": str(helpers.places.ROOT)}
    parent = subprocess.Popen(
        [sys.executable, script], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment, cwd=tmp_path
    )
    told = tmp_path / "child"
    wait_until(lambda: told.exists() and told.read_text())
    child = int(told.read_text())
    os.kill(child, signal.SIGINT)
    time.sleep(0.3)
    assert is_running(child)
    parent.kill()
    wait_until(lambda: not is_running(child))
    assert parent.communicate()[0] == b""


def wait_until(is_true):
    """Wait until a function returns something true; the test fails after 30 s."""
    for _ in range(300):
        if is_true():
            return
        time.sleep(0.1)
    pytest.fail("waited for 30 s")


def is_running(process):
    """Return whether a process with this number exists and has not ended: a zombie has."""
    try:
        return " Z " not in f" {Path(f'/proc/{process}/stat').read_text().rpartition(')')[2][:3]} "
    except FileNotFoundError:
        return False
