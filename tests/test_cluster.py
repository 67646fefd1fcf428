"""Trainings in the worker processes of a Dask cluster."""

import os
import signal
import threading
import time
from types import SimpleNamespace

import helpers
from leaves import cluster, custom_cnn, files, places, runs

import pytest
from distributed import KilledWorker, WorkerPlugin


class Paths(WorkerPlugin):
    """Workers, those that replace dead ones too, read and write where the test does."""

    name = "paths"

    def __init__(self):
        self.paths = {name: getattr(places, name) for name in ("ROOT", "DATA", "RUNS", "CACHE", "SPLIT_CSV")}

    def setup(self, worker):
        vars(places).update(self.paths)


@pytest.fixture
def two_workers(project, monkeypatch):
    monkeypatch.setenv("DASK_SCHEDULER_ADDRESS", "local:2")
    client = cluster.connect("local:2")
    client.register_plugin(Paths())
    yield client
    client.cluster.close()
    client.close()
    cluster.connect.cache_clear()


def specs_of(split, **changes):
    return [custom_cnn.cnn_spec("02", "Tiny", split, 32, seed=seed, **changes) for seed in (0, 1)]


def outcome(runs):
    return [
        (
            {key: value for key, value in run.result.items() if key not in ("train_seconds", "hashes")},
            run.validation_probabilities.tolist(),
        )
        for run in runs
    ]


def test_the_death_of_workers_is_told_in_plain_words():
    error = KilledWorker("call_of_loads-ed68", SimpleNamespace(address="tcp://127.0.0.1:1"), 2)
    told = cluster.reason_of(SimpleNamespace(exception=lambda: error, status="error"))
    assert told.startswith("its worker processes were killed or stopped answering")


@pytest.mark.long
def test_two_workers_give_what_this_process_gives_though_one_is_killed(project, two_workers, monkeypatch):
    specs = specs_of(project, epochs=40, filters=(4, 8), patience=None, batch_size=8)
    remote = []
    waiting = threading.Thread(
        target=lambda: remote.extend(helpers.train_all(specs, project, custom_cnn.prepare)), daemon=True
    )
    waiting.start()
    while not (checkpoints := list(places.RUNS.glob("*/checkpoint.npz"))):
        time.sleep(0.05)
    os.kill(next(iter(two_workers.run(os.getpid).values())), signal.SIGKILL)
    waiting.join(120)
    assert len(remote) == 2
    assert checkpoints
    found = outcome(remote)
    monkeypatch.delenv("DASK_SCHEDULER_ADDRESS")
    for run in remote:
        (run.folder / "result.json").unlink()
    assert outcome(helpers.train_all(specs, project, custom_cnn.prepare)) == found


@pytest.mark.long
def test_epochs_are_reported_to_the_thread_that_waits(project, two_workers):
    """In JupyterLab another thread's text appears in the cell that started the thread."""
    queue = {runs.spec_hash(spec): spec for spec in specs_of(project, epochs=3, filters=(4, 8), patience=None)}
    reports = []

    def progress(key, epoch, score):
        if not reports:
            two_workers.log_event(cluster.TOPIC, ("a run of another queue", 1, None))
        reports.append((threading.current_thread(), key, epoch))

    cluster.train_queue(queue, project, custom_cnn.prepare, "local:2", progress)
    assert {thread for thread, _, _ in reports} == {threading.current_thread()}
    assert {key for _, key, _ in reports} == {*queue}
    for key in queue:
        epochs = dict.fromkeys(epoch for _, other, epoch in reports if other == key)
        assert [*epochs] == [0, 1, 2, 3, None]


@pytest.mark.long
def test_after_ctrl_c_the_waiting_trainings_do_not_begin(project, two_workers):
    specs = [custom_cnn.cnn_spec("02", "Tiny", project, 32, seed=seed, epochs=3, filters=(4, 8)) for seed in range(8)]

    def progress(key, epoch, score):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        queue = {runs.spec_hash(spec): spec for spec in specs}
        cluster.train_queue(queue, project, custom_cnn.prepare, "local:2", progress)
    deadline = time.monotonic() + 5
    while (left := two_workers.run_on_scheduler(lambda dask_scheduler: len(dask_scheduler.tasks))) > 2:
        assert time.monotonic() < deadline, left
        time.sleep(0.1)


@pytest.mark.long
def test_a_run_that_fails_three_times_is_reported_and_the_others_finish(project, two_workers):
    attempts = places.RUNS / "attempts"

    def prepare(spec, split):
        if spec["seed"] == 1:
            with open(attempts, "a", encoding="utf-8") as told:
                told.write("once more\n")
            raise MemoryError("too little memory")
        return custom_cnn.prepare(spec, split)

    specs = specs_of(project, epochs=1, filters=(4,))
    with pytest.raises(files.InputError, match=r"runs failed 3 times: Tiny, seed 1, fold 0 \(too little memory\)"):
        helpers.train_all(specs, project, prepare)
    assert attempts.read_text().count("once more") == 3
    assert runs.find_run(specs[0])
    assert not runs.find_run(specs[1])


def test_a_scheduler_that_does_not_answer_is_named(monkeypatch):
    monkeypatch.setattr(cluster, "PATIENCE", 0.5)
    with pytest.raises(files.InputError, match="No Dask scheduler answers at tcp://127.0.0.1:9: start a scheduler"):
        cluster.connect("tcp://127.0.0.1:9")
