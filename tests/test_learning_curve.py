"""Trainings on fractions of the photos, in another process."""

import functools
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import helpers
from leaves import custom_cnn, learning_curve, runs
from leaves.planning import PLAN

import pytest


@pytest.fixture
def small(project):
    spec = custom_cnn.cnn_spec("02", "Tiny", project, 32, epochs=1, seed=0, filters=[4, 4])
    prepare = functools.partial(learning_curve.prepare_smaller, seed=3, transfer=None)
    return {"Tiny": SimpleNamespace(spec=spec, name="Tiny")}, [0.4, 0.8], 3, project, prepare


@pytest.fixture
def started(monkeypatch):
    """The calls for which `begin_training` would start a process."""
    calls = []

    def process(target, args, daemon):
        return SimpleNamespace(start=lambda: calls.append(functools.partial(target, *args)))

    monkeypatch.setattr(multiprocessing, "get_context", lambda kind: SimpleNamespace(Process=process))
    monkeypatch.setattr(learning_curve, "own_cores", lambda: [0, 1])
    monkeypatch.setattr(learning_curve, "end_with_parent", lambda: None)  # here the call runs in this process
    monkeypatch.setattr(learning_curve.signal, "signal", lambda *_: None)
    return calls


def test_the_other_process_trains_what_the_chapter_then_finds(small, started, monkeypatch):
    specs = learning_curve.begin_training(*small)
    assert {label: [spec["fraction"] for spec in of_label] for label, of_label in specs.items()} == {"Tiny": [0.4, 0.8]}
    [work] = started
    work()
    monkeypatch.setattr(helpers, "train_once", lambda *_, **__: pytest.fail("trained again"))
    *_, split, prepare = small
    assert [run.result["epochs"] for run in helpers.train_all(specs["Tiny"], split, prepare)] == [1, 1]
    learning_curve.begin_training(*small)
    assert len(started) == 1  # all specs are trained


def test_a_training_of_another_process_is_left_to_it(small, started):
    specs = learning_curve.begin_training(*small)["Tiny"]
    with runs.locked(runs.places.RUNS / "locks" / runs.spec_hash(specs[0])):
        started[0]()
    assert [bool(runs.find_run(spec)) for spec in specs] == [False, True]


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


def test_the_process_of_the_trainings_ends_with_its_parent(tmp_path):
    """A parent that is killed leaves no process behind."""
    script = tmp_path / "parent.py"
    script.write_text(
        "import multiprocessing, os, sys, time\n"
        "from leaves.hardware import end_with_parent\n"
        "def child(): end_with_parent(); print(os.getpid(), flush=True); time.sleep(600)\n"
        "if __name__ == '__main__':\n"
        "    multiprocessing.get_context('spawn').Process(target=child, daemon=True).start(); time.sleep(600)\n"
    )
    environment = os.environ | {"PYTHONPATH": str(helpers.places.ROOT)}
    parent = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True, env=environment)
    child = int(parent.stdout.readline())
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    for _ in range(100):
        try:
            os.kill(child, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    pytest.fail("the child lives on")
