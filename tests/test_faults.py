"""Bad days: the real command killed at random moments, damaged files, two at once, full and read-only disks.

More kills, over the sample: KILLS=100 KILLED_PROFILE=sample ./run_tests.sh tests/test_faults.py -k killed
"""

import contextlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time

import helpers
from conftest import ROOT, clone
from leaves import custom_cnn, dataset, files, locks, places, runs, training

import keras
import numpy as np
import pandas as pd
import pytest

KILLS, PROFILE = int(os.environ.get("KILLS", "4")), os.environ.get("KILLED_PROFILE", "tiny")
SECONDS = (2, 10) if PROFILE == "tiny" else (4, 30)  # between two kills
# What differs between two equal runs: times, and hashes, because files of Keras carry their time.
TIMINGS = ["train_seconds", "seconds_before", "teacher_seconds", "ms_per_image", "hashes", "sha256"]


def spec_of(split, **changes):
    """A small network with all that has a state: dropout, augmentation, Adam, early stopping."""
    changes = {"epochs": 5, "filters": (4, 8), "patience": 3, "log_layers": True} | changes
    return custom_cnn.cnn_spec("02", "Tiny", split, 32, seed=0, **changes)


def train(spec, split):
    return helpers.train(spec, split, custom_cnn.prepare)


def contents(run):
    """All that a run leaves but its timings, and its weights bit by bit."""
    result = {key: value for key, value in run.result.items() if key not in ("train_seconds", "hashes")}
    weights = [weight.tobytes() for weight in run.load_model().get_weights()]
    gradients = {layer: list(map(float, values)) for layer, values in runs.logged(run, "layers", "gradient/").items()}
    return result, (run.folder / "history.csv").read_bytes(), run.validation_probabilities.tobytes(), weights, gradients


# ---------------------------------------------------------------- one training


class Stopped(BaseException):
    """A process that ends here."""


class StopAfter(keras.callbacks.Callback):
    """Ends the process, as far as a training can see, after steps of an epoch, before the epoch's end."""

    def __init__(self, epoch):
        super().__init__()
        self.last = epoch

    def on_train_batch_end(self, batch, logs=None):
        if self.epoch == self.last:
            raise Stopped

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch


@pytest.fixture
def every_epoch(monkeypatch):
    """Checkpoints after every epoch, however short it is."""
    monkeypatch.setattr(training.Checkpoint, "times_its_cost", 0)


@pytest.mark.parametrize(
    "changes",
    [
        {"epochs": 8, "patience": 2, "fold": 2},
        pytest.param(
            {"optimizer": {"class_name": "SGD", "config": {"learning_rate": 0.1, "momentum": 0.9}}, "patience": None},
            marks=pytest.mark.long,
        ),
    ],
    ids=["Adam and early stopping", "momentum"],
)
def test_the_same_bits_twice_and_when_interrupted_in_every_epoch(project, every_epoch, changes):
    spec = spec_of(project, batch_size=8, **changes)
    whole = contents(train(spec, project))
    shutil.rmtree(places.RUNS)
    assert contents(train(spec, project)) == whole
    shutil.rmtree(places.RUNS)
    for epoch in range(whole[0]["epochs"]):
        with pytest.raises(Stopped):
            runs.train_once(spec, project, custom_cnn.prepare, StopAfter(epoch))
        assert (runs.run_folder(spec) / "checkpoint.npz").exists() == (epoch > 0)
    run = train(spec, project)
    assert contents(run) == whole
    assert not (run.folder / "checkpoint.npz").exists()


def test_a_training_that_ended_before_it_was_written_is_not_trained_on(project, every_epoch, monkeypatch):
    spec = spec_of(project, epochs=3)
    whole = contents(train(spec, project))
    shutil.rmtree(places.RUNS)

    def stop(*_):
        raise Stopped

    with monkeypatch.context() as patched:
        patched.setattr(runs, "write_run", stop)
        with pytest.raises(Stopped):
            train(spec, project)
    monkeypatch.setattr(training.LayerLog, "on_epoch_begin", lambda *_: pytest.fail("trained on"))
    assert contents(train(spec, project)) == whole


def test_a_training_that_diverged_is_not_trained_on(project, monkeypatch):
    hot = {"optimizer": {"class_name": "SGD", "config": {"learning_rate": 1e30}}}
    with monkeypatch.context() as patched:
        patched.setattr(runs, "write_run", lambda *_: sys.exit())
        with pytest.raises(SystemExit):
            helpers.train_all([spec_of(project, **hot)], project, custom_cnn.prepare)
    [run] = helpers.train_all([spec_of(project, **hot)], project, custom_cnn.prepare)
    assert run.result["diverged"]
    assert run.result["epochs"] < 5


def test_a_damaged_checkpoint_is_named_and_not_used(project, capsys):
    spec = spec_of(project, batch_size=8)
    whole = contents(train(spec, project))
    shutil.rmtree(places.RUNS)
    with pytest.raises(Stopped):
        runs.train_once(spec, project, custom_cnn.prepare, StopAfter(2))
    checkpoint = runs.run_folder(spec) / "checkpoint.npz"
    checkpoint.write_bytes(checkpoint.read_bytes()[:-2000])
    assert contents(train(spec, project)) == whole
    assert "checkpoint.npz is damaged: its content is computed again" in capsys.readouterr().out


def test_a_training_begun_with_another_number_of_threads_begins_anew(project, every_epoch, capsys, monkeypatch):
    spec = spec_of(project, batch_size=8)
    whole = contents(train(spec, project))
    shutil.rmtree(places.RUNS)
    with monkeypatch.context() as patched, pytest.raises(Stopped):
        patched.setattr(training, "THREADS", training.THREADS + 1)
        runs.train_once(spec, project, custom_cnn.prepare, StopAfter(2))
    assert contents(train(spec, project)) == whole
    assert "was begun with another number of threads and starts again" in capsys.readouterr().out


def test_a_training_resumed_on_another_processor_names_both(project, every_epoch, monkeypatch):
    spec = spec_of(project, batch_size=8)
    with monkeypatch.context() as patched, pytest.raises(Stopped):
        patched.setattr(training, "device_name", lambda: "the first, AVX2")
        runs.train_once(spec, project, custom_cnn.prepare, StopAfter(2))
    result = train(spec, project).result
    assert result["processor"] == f"the first, AVX2; {training.device_name()}"
    assert result["threads"] == training.THREADS


# ---------------------------------------------------------------- early stopping


def epochs_until_stopped(scores, patience=3, constant=0.1, stop_after=None):
    """How many epochs `StopEarly` lets pass of a training with these scores, and which it takes for the best.

    After the epoch `stop_after` the training goes on in another process, as from a checkpoint.
    """
    stopping = training.early_stopping(patience, constant)
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.stop_training = False
    stopping.set_model(model)
    stopping.on_train_begin()
    for epoch, score in enumerate(scores, 1):
        stopping.on_epoch_end(epoch - 1, {"val_macro_f1": score})
        if model.stop_training:
            break
        if epoch == stop_after:
            known = {key: getattr(stopping, key) for key in ("wait", "best", "best_epoch")}
            stopping = training.early_stopping(patience, constant)
            stopping.set_model(model)
            stopping.on_train_begin()
            vars(stopping).update(known, best_weights=model.get_weights())
    return epoch, stopping.best_epoch + 1


@pytest.mark.parametrize("stop_after", [None, 1, 6, 8])
@pytest.mark.parametrize(
    ("scores", "epochs", "best"),
    [
        ([0.1] * 20, 20, 1),  # a plateau at the constant answer does not stop a training
        ([0.119] * 20, 20, 1),
        ([0.1] * 7 + [0.4] + [0.3] * 20, 11, 8),  # the patience counts from the first epoch above it
        ([0.13] + [0.1] * 20, 21, 1),  # just above it is still the plateau
        ([0.23] + [0.1] * 20, 4, 1),
        ([0.2, 0.3] + [0.25] * 20, 5, 2),
        ([0.2, 0.1, 0.1, 0.3, 0.1, 0.1, 0.4] + [0.1] * 20, 10, 7),
    ],
)
def test_patience_counts_from_the_first_epoch_above_the_constant_answer(scores, epochs, best, stop_after):
    assert epochs_until_stopped(scores, stop_after=stop_after) == (epochs, best)


def test_without_patience_nothing_stops_a_training():
    assert training.early_stopping(None, 0.1) is None


def test_a_network_that_does_not_begin_to_learn_has_all_its_epochs(project):
    run = train(spec_of(project, epochs=7, patience=2, initializer="zeros", log_layers=False), project)
    assert run.result["state"] == "did not train"
    assert run.result["epochs"] == 7


# ---------------------------------------------------------------- damage


def cut_short(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def made_by_an_older_version(file):
    files.write_json(file, files.read_json(file) | {"schema": runs.SCHEMA - 1})


DAMAGES = [
    ("result.json", cut_short, "result.json is damaged"),
    ("model.keras", lambda file: file.write_bytes(b""), "model.keras is damaged"),
    ("model.keras", lambda file: file.unlink(), "model.keras is damaged"),
    ("history.csv", cut_short, "history.csv is damaged"),
    ("validation.npy", cut_short, "validation.npy is damaged"),
    ("spec.json", cut_short, "spec.json is damaged"),
    ("spec.json", made_by_an_older_version, "another version of the code made it"),
]


def test_a_damaged_run_is_named_and_trained_again(project, capsys):
    spec = spec_of(project, epochs=1)
    run = train(spec, project)
    whole = contents(run)
    for name, damage, told in DAMAGES:  # each of the run that the one before made good
        damage(run.folder / name)
        assert runs.find_run(spec) is None, told
        capsys.readouterr()
        assert contents(train(spec, project)) == whole, told
        printed = capsys.readouterr().out
        assert re.search(f"{run.folder.name} is trained again: .*{told}", printed), printed


def test_a_later_chapter_names_the_damaged_run_and_the_chapter(project):
    run = train(spec_of(project, epochs=1), project)
    helpers.record_runs("02", {"Tiny": run})
    (run.folder / "model.keras").write_bytes(b"")
    with pytest.raises(files.InputError, match="model.keras is damaged; run the notebook of chapter 02 again"):
        helpers.recorded_runs("02", "02_custom_cnn")


def test_a_split_that_was_edited_by_hand_is_refused(project):
    files.write_with_checksum(places.SPLIT_CSV, places.SPLIT_CSV.read_text())
    assert dataset.load_split().equals(project)
    places.SPLIT_CSV.write_text(places.SPLIT_CSV.read_text().replace("test", "train", 1))
    with pytest.raises(files.InputError, match="split.csv was changed after chapter 1 wrote it: run notebook 01"):
        dataset.load_split()


# ---------------------------------------------------------------- locks


HOLD = """
import pathlib, time
from leaves import locks
with locks.locked(pathlib.Path({!r})):
    print("held", flush=True)
    time.sleep(SECONDS)
"""


def test_a_lock_names_the_process_that_holds_it_and_ends_with_it(tmp_path):
    hold = HOLD.replace("SECONDS", "60")
    command = [sys.executable, "-c", hold.format(str(tmp_path / "lock"))]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        with (
            pytest.raises(files.InputError, match=f"in use by process {holder.pid} on .*: wait until that process"),
            locks.locked(tmp_path / "lock", patience=0.1),
        ):
            pytest.fail("locked twice")
        holder.kill()
    with locks.locked(tmp_path / "lock", patience=5):
        assert f"process {os.getpid()}" in (tmp_path / "lock.holder").read_text()


def test_who_waits_for_a_training_says_so_once(tmp_path, capsys):
    hold = HOLD.replace("SECONDS", "1")
    command = [sys.executable, "-c", hold.format(str(tmp_path / "lock"))]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        with locks.locked(tmp_path / "lock", patience=20, work="The training of FinalModel, seed 0,"):
            told = capsys.readouterr().out
    assert told.count("\n") == 1
    assert f"The training of FinalModel, seed 0, is under way in process {holder.pid} on" in told
    with locks.locked(tmp_path / "lock", work="The training"):
        assert capsys.readouterr().out == ""  # nobody is waited for


# ---------------------------------------------------------------- the real command


def scores_of(folder):
    """scores.csv without its timings, as text."""
    return pd.read_csv(folder / "report" / "scores.csv", dtype=str).drop(columns=TIMINGS, errors="ignore").to_csv()


def results_of(folder):
    """What the runs of a project ended with, but for their timings: dict of folder name to result and files."""
    found = {}
    for file in folder.glob("runs/*/result.json"):
        result = {key: value for key, value in json.loads(file.read_text()).items() if key not in TIMINGS}
        if result.get("initial_weights") == "random":  # in what way the network failed may differ from run to run
            result.pop("weights_source", None)  # of a network on a backbone
        found[file.parent.name] = [
            result,
            (file.parent / "history.csv").read_text(),
            np.load(file.parent / "validation.npy").tobytes(),
        ]
    return found


def children(process):
    """The process numbers of all descendants of a process."""
    try:
        with open(f"/proc/{process}/task/{process}/children", encoding="utf-8") as told:
            own = [int(number) for number in told.read().split()]
    except FileNotFoundError:
        return []
    return own + [number for child in own for number in children(child)]


def kill(command, whole_tree):
    """SIGKILL to a running command; its kernels die with it, or notice a little later."""
    for number in (children(command.pid) if whole_tree else []) + [command.pid]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(number, signal.SIGKILL)
    command.wait()


@pytest.fixture(scope="module")
def undisturbed(request, tmp_path_factory):
    """A project after one whole run that nothing disturbed."""
    if PROFILE == "tiny":
        return request.getfixturevalue("whole_run")[0] / "whole_run"
    copy = clone(tmp_path_factory.mktemp("undisturbed") / "leaves")
    subprocess.run([copy / "run_all.sh", "--profile", PROFILE], check=True, capture_output=True)
    return copy


def remaining(copy):
    """The command that executes the chapters which have not come to their end yet."""
    numbers = ["01", "02", "03", "04", "05", "06"]
    left = [number for number in numbers if not list(copy.glob(f"report/{number}_*.ipynb"))] or numbers[-1:]
    return [copy / "run_all.sh", "--profile", PROFILE, "--only", ",".join(left)]


@pytest.mark.long
def test_a_run_that_is_killed_again_and_again_ends_with_the_same_scores(undisturbed, tmp_path):
    """Without a home, without UTF-8, through a link, in a folder whose name is not ASCII.

    Some of the commands train in this process, some in two processes of a Dask cluster: that makes no difference.
    """
    nowhere = {"PATH": os.environ["PATH"], "LC_ALL": "C"}
    chance, kills, copies = random.Random(seed := os.environ.get("KILL_SEED", time.time())), 0, 0
    while kills < KILLS:
        copies, finished, chapters = copies + 1, False, {}
        copy = tmp_path / f"link {copies}"
        copy.symlink_to(clone(tmp_path / f"Blätter {copies} 葉"))
        while not finished:
            wait = chance.uniform(*SECONDS) if kills < KILLS else None
            command = remaining(copy) + (["--scheduler", "local:2"] if chance.random() < 0.5 else [])
            with open(copy / "log.txt", "w", encoding="utf-8") as log:
                process = subprocess.Popen(command, stdout=log, stderr=log, env=nowhere, start_new_session=True)
                try:
                    assert process.wait(wait) == 0, (copy / "log.txt").read_text(encoding="utf-8")[-3000:]
                    finished = True
                except subprocess.TimeoutExpired:
                    kill(process, whole_tree=chance.random() < 0.5)
                    kills += 1
                    chapters[command[4][:2]] = chapters.get(command[4][:2], 0) + 1
        print(f"run {copies}, KILL_SEED={seed}: kills by first chapter left: {chapters}", flush=True)
        assert scores_of(copy) == scores_of(undisturbed)
        assert results_of(copy) == results_of(undisturbed)
        assert not [file for file in copy.rglob("*unfinished*") if ".venv" not in file.parts]


@pytest.mark.long
def test_a_second_command_names_the_first(whole_run, run_all):
    with locks.locked(whole_run[0] / "runs" / "lock"):
        done = run_all("--profile", "tiny", "--only", "02")
    assert done.returncode == 1
    assert re.fullmatch(
        r"run_all.sh: .*/runs is in use by process \d+ on .*: wait until that process ends, or stop it.\n", done.stderr
    )


@pytest.mark.long
def test_ctrl_c_ends_within_seconds_and_the_same_command_goes_on(whole_run, run_all):
    copy, long = whole_run[0], ["--profile", "tiny", "--only", "02", "-p", "epochs", "100", "-p", "patience", "None"]
    with open(copy / "log.txt", "w+", encoding="utf-8") as log:
        process = subprocess.Popen([copy / "run_all.sh", *long], stdout=log, stderr=log, start_new_session=True)
        while not list(copy.glob("runs/*/checkpoint.npz")) and process.poll() is None:
            time.sleep(0.1)
        assert process.poll() is None, (copy / "log.txt").read_text()
        kernels = children(process.pid)
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(timeout=5) == 1
        log.seek(0)
        assert "stopped; finished trainings are kept" in log.read()
    assert kernels
    assert not any(files.is_running(str(number)) for number in kernels)
    [checkpoint] = copy.glob("runs/*/checkpoint.npz")
    started = (checkpoint.parent / "spec.json").stat().st_mtime_ns
    assert run_all(*long).returncode == 0
    assert json.loads((checkpoint.parent / "result.json").read_text())["epochs"] >= 1
    assert max(file.stat().st_mtime_ns for file in checkpoint.parent.glob("tensorboard/train/*")) > started
    assert len(list(checkpoint.parent.glob("tensorboard/train/*"))) == 2  # one of each process


needs_mounts = pytest.mark.skipif(
    subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode != 0,
    reason="small and read-only disks can be mounted by root only",
)


def in_own_mounts(script, **names):
    """Run a shell script that may mount what it likes, and nobody else sees it."""
    command = ["unshare", "--mount", "sh", "-ec", script]
    return subprocess.run(command, env=os.environ | names, capture_output=True, text=True, check=False)


@pytest.mark.long
@needs_mounts
def test_a_full_disk_is_one_sentence_and_room_lets_it_go_on(tmp_path):
    """The project on a small disk: chapter 1 cannot store its images, then there is room."""
    small, source = tmp_path / "small", clone(tmp_path / "copy")
    small.mkdir()
    for published in ("results", "figures"):  # larger than the disk
        shutil.rmtree(source / published)
    done = in_own_mounts(
        """mount -t tmpfs -o size=4700k tmpfs "$SMALL"
        cp -a "$SOURCE/." "$SMALL"
        "$SMALL/run_all.sh" --only 01 -p sample_count 300 2> "$SMALL/../told" && exit 9
        mount -o remount,size=200m "$SMALL"
        "$SMALL/run_all.sh" --only 01 -p sample_count 300 2> "$SMALL/../log"
        """,
        SMALL=str(small),
        SOURCE=str(source),
    )
    told = (tmp_path / "told").read_text().strip().splitlines()[-1]
    assert re.search(
        "run_all.sh: .*No space left on device; make room on the disk, then run the same command again", told
    )
    assert done.returncode == 0, done.stderr + (tmp_path / "log").read_text()


@pytest.mark.long
@needs_mounts
def test_a_data_folder_that_is_read_only_is_enough(whole_run, photos):
    done = in_own_mounts(
        """mount --bind "$DATA" "$DATA"
        mount -o remount,ro,bind "$DATA"
        ! touch "$DATA/x" 2> /dev/null
        "$COPY/run_all.sh" --profile tiny --only 01 --data "$DATA"
        """,
        DATA=str(photos),
        COPY=str(whole_run[0]),
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.long
@needs_mounts
def test_a_project_that_is_read_only_is_one_sentence(tmp_path):
    copy = clone(tmp_path / "copy")
    script = 'mount --bind "$COPY" "$COPY"; mount -o remount,ro,bind "$COPY"; "$COPY/run_all.sh" --only 01'
    done = in_own_mounts(script, COPY=str(copy))
    assert done.returncode == 1
    assert re.fullmatch(
        "run_all.sh: .*Read-only file system; check that this path exists and can be read and.*\n", done.stderr
    )
