"""The rendered data set: repeatable, in proportion, of the asked size, and never half done."""

import os
import subprocess
import sys
import time
from pathlib import Path

from leaves import sample
from leaves.sample import SPECIES, class_counts, render_dataset, render_leaf

import numpy as np
import pytest
from PIL import Image

SCRIPT = Path(sample.__file__)
SMALL = 5 * len(SPECIES)


def contents(folder):
    """Return the bytes of every file under ``folder`` by relative path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def small_set(tmp_path_factory):
    """Render the smallest data set, in this process."""
    return render_dataset(tmp_path_factory.mktemp("one") / "leaves", count=SMALL, size=32, seed=3, workers=1)


def test_same_seed_gives_same_bytes_for_any_number_of_workers(small_set, tmp_path):
    again = render_dataset(tmp_path / "leaves", count=SMALL, size=32, seed=3, workers=2)
    assert contents(again) == contents(small_set)


def test_other_seed_gives_other_bytes(small_set, tmp_path):
    other = contents(render_dataset(tmp_path / "leaves", count=SMALL, size=32, seed=4, workers=1))
    mine = contents(small_set)
    assert other.keys() == mine.keys()
    assert all(other[name] != mine[name] for name in mine)


def test_files_are_numbered_and_of_the_asked_size(small_set):
    assert sorted(path.name for path in small_set.iterdir()) == sorted(SPECIES)
    for species, total in class_counts(SMALL).items():
        names = sorted(path.name for path in (small_set / species).iterdir())
        assert names == [f"{species}_{k:04d}.jpg" for k in range(1, total + 1)]
        with Image.open(small_set / species / names[0]) as image:
            assert (image.size, image.mode) == ((32, 32), "RGB")


@pytest.mark.parametrize("count", [SMALL, 100, 1000, 17728])
def test_class_counts_are_in_proportion(count):
    counts = class_counts(count)
    assert sum(counts.values()) == count
    assert min(counts.values()) >= 5
    photos = sum(plan.photos for plan in SPECIES.values())
    if count >= 1000:
        assert all(abs(counts[name] - count * plan.photos / photos) < 1 for name, plan in SPECIES.items())


def test_full_count_is_the_photographed_set():
    assert class_counts(17728) == {name: plan.photos for name, plan in SPECIES.items()}


@pytest.mark.parametrize("species", SPECIES)
def test_every_species_renders_a_leaf(species):
    image = render_leaf(species, np.random.default_rng([0, 1]), size=97)
    assert (image.size, image.mode) == ((97, 97), "RGB")
    assert np.asarray(image).std() > 8  # something lies on the paper


def test_disease_shares_leave_room_for_healthy_leaves():
    for plan in SPECIES.values():
        assert sum(disease.share for disease in plan.diseases) <= 1 + 1e-9


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--count", "69"], "count"),
        (["--size", "31"], "size"),
        (["--seed", "-1"], "seed"),
        (["--size", "x"], "size"),
    ],
)
def test_bad_arguments_end_with_status_2_and_one_sentence(arguments, word, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        sample.main(["--out", str(tmp_path / "leaves"), *arguments])
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert stop.value.code == 2
    assert "error:" in last
    assert word in last
    assert not (tmp_path / "leaves").exists()


def test_command_line_refuses_a_folder_that_holds_something(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    command = [sys.executable, str(SCRIPT), "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "not an empty folder" in done.stderr
    assert "Traceback" not in done.stderr
    assert contents(tmp_path) == {"notes.txt": b"mine"}


@pytest.mark.parametrize("bad", [{"count": 10}, {"size": 8}, {"seed": -1}, {"workers": 0}])
def test_bad_values_raise(bad, tmp_path):
    with pytest.raises(ValueError, match="must"):
        render_dataset(tmp_path / "leaves", **bad)


def test_unknown_species_raises():
    with pytest.raises(ValueError, match="Unknown species"):
        render_leaf("Oak", np.random.default_rng(0))


@pytest.mark.parametrize("stop", [KeyboardInterrupt, OSError])
def test_interrupted_render_leaves_nothing(stop, tmp_path, monkeypatch):
    def fail_at_the_third(task, calls=[]):  # noqa: B006  (the list counts the calls)
        calls.append(task)
        if len(calls) == 3:
            raise stop

    monkeypatch.setattr(sample, "_render_file", fail_at_the_third)
    with pytest.raises(stop):
        render_dataset(tmp_path / "leaves", count=SMALL, size=32, workers=1)
    assert list(tmp_path.iterdir()) == []


def test_workers_end_when_the_program_is_killed(tmp_path):
    command = [sys.executable, "-m", "leaves.sample", "--out", tmp_path / "leaves", "--count", "20000"]
    program = subprocess.Popen(command, cwd=sample.__file__.removesuffix("leaves/sample.py"), start_new_session=True)
    deadline = time.monotonic() + 60
    while not [*tmp_path.rglob("*.jpg")] and time.monotonic() < deadline:
        time.sleep(0.1)
    program.kill()
    program.wait()
    with pytest.raises(ProcessLookupError):  # no process is left in the program's group
        while time.monotonic() < deadline:
            os.killpg(program.pid, 0)
            time.sleep(0.1)
