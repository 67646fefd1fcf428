"""Define the fixtures that several test files share, and the order of the tests."""

import hashlib
import math
import os
import resource
import shutil
import signal
import subprocess
import time
from pathlib import Path

from benchmarks.report import copy_project
from leaves import dataset, locks, places

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageOps
from playwright.sync_api import sync_playwright

ROOT = Path(__file__).resolve().parent.parent
START = time.monotonic()
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell's background jobs ignore it
    signal.signal(signal.SIGINT, signal.default_int_handler)


# Groups of tests, by the expensive fixture that the tests of a group share. A group stays in one process.
SHARED = {"own_copy": "benchmarks", "copy": "documented", "run_all": "run_all.sh", "undisturbed": "run_all.sh"}
LONG = {"copy", "dirty", "undisturbed"}  # fixtures that run commands for minutes


def pytest_itemcollected(item):
    """Assign a test to the group of its expensive fixture, or to that of its file; mark the long tests."""
    group = next((SHARED[name] for name in SHARED if name in item.fixturenames), item.path.stem)
    item.add_marker(pytest.mark.xdist_group(group))
    if LONG & {*item.fixturenames}:
        item.add_marker(pytest.mark.long)


def pytest_addoption(parser):
    parser.addoption("--all", action="store_true", help="run the long tests, too")
    parser.addoption("--seconds", type=float, default=math.inf, help="begin no long test after so many seconds")


def pytest_collection_modifyitems(config, items):
    """Skip the long tests unless --all is given, and sort the tests, so the longest group begins first.

    Within a group, the tests of a project in which nothing has been run come first, and short tests come before long
    ones. The tests of faults, of JupyterLab and of the page come last.
    """
    for item in items:
        if item.get_closest_marker("long") and not config.getoption("--all"):
            item.add_marker(pytest.mark.skip(reason="long: give --all to run it"))
    # The first group takes longest. "" stands for all groups that are not listed: those of single files.
    groups = ["run_all.sh", "", "documented", "benchmarks"]

    def turn(item):
        group = item.get_closest_marker("xdist_group").args[0]
        place = groups.index(group if group in groups else "")
        late = item.path.name in ("test_faults.py", "test_jupyterlab.py", "test_run_page.py")
        used = bool({"whole_run", "undisturbed"} & {*item.fixturenames})
        return place, late, used, bool(item.get_closest_marker("long"))

    items.sort(key=turn)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    """Skip a long test if more time has passed than --seconds allows."""
    if item.get_closest_marker("long") and time.monotonic() - START > item.config.getoption("--seconds"):
        pytest.skip("no time left for it: give --all without --seconds")


def paint(path, seed, size=96, quality=95):
    """Write a photo-like picture: smooth random colours, different for every seed."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse.resize((size, size), Image.Resampling.BICUBIC).save(path, quality=quality)


def short(path):
    """Return the class folder and the name of a file, as in "Oak/1.jpg"."""
    return "/".join(Path(path).parts[-2:])


def make_dirty(folder):
    """Write three classes of twelve sound pictures and one file for every check: dict of class/file to check."""
    for number, label in enumerate(("Elm", "Oak", "Ash")):
        for seed in range(12):
            paint(folder / label / f"{seed}.jpg", seed=[number, seed])
    sound = (folder / "Elm" / "0.jpg").read_bytes()
    oak = folder / "Oak"
    (oak / "empty.jpg").write_bytes(b"")
    (oak / "text.jpg").write_text("no picture")
    (oak / "half.jpg").write_bytes(sound[: len(sound) // 2])
    (oak / "notes.txt").write_text("not even called a picture")
    (oak / ".hidden.jpg").write_bytes(b"not looked at")
    (oak / "deeper").mkdir()
    shutil.copy(oak / "1.jpg", oak / "deeper" / "1.jpg")
    shutil.copy(oak / "2.jpg", oak / "copy.jpg")
    shutil.copy(oak / "3.jpg", folder / "Ash" / "filed twice.jpg")
    with Image.open(oak / "4.jpg") as other:
        other.save(folder / "Ash" / "saved anew.jpg", quality=70)
    Image.new("RGB", (10000, 10000)).save(oak / "huge.png")  # 100 million pixels in 300 kilobytes
    Image.new("RGB", (60, 60), "white").save(oak / "white.png")
    Image.new("RGBA", (60, 60), (0, 99, 0, 0)).save(oak / "clear.png")  # transparent too, but reported as blank
    os.mkfifo(oak / "pipe.JPG")
    (oak / "endless.JPG").symlink_to("/dev/zero")
    paint(folder / ".Birch" / "0.jpg", seed=[9, 97])
    for number, (name, change) in enumerate(
        {
            "grey.jpg": lambda image: image.convert("L"),
            "cmyk.jpg": lambda image: image.convert("CMYK"),
            "palette.png": lambda image: image.quantize(64),
            "alpha.png": lambda image: image.convert("RGBA"),
            "tiny.png": lambda image: image.resize((20, 20)),
            "long.png": lambda image: image.resize((400, 90)),
            "mirrored.jpg": ImageOps.mirror,
        }.items()
    ):
        paint(oak / "new.png", seed=[9, number])
        with Image.open(oak / "new.png") as image:
            image.load()
        if name == "alpha.png":
            image.putalpha(200)
        if name == "mirrored.jpg":
            image.save(oak / "original.jpg", quality=95)
        change(image).save(oak / name, **({"quality": 95} if name.endswith("jpg") else {}))
    (oak / "new.png").unlink()
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    paint(oak / "turned.png", seed=[9, 98])
    with Image.open(oak / "turned.png") as image:
        image.resize((90, 60)).save(oak / "turned.jpg", exif=exif)
    (oak / "turned.png").unlink()
    paint(oak / "named.png", seed=[9, 99])
    (oak / "named.png").rename(oak / "named.jpg")
    return {
        "Oak/empty.jpg": "zero bytes",
        "Oak/text.jpg": "does not open",
        "Oak/half.jpg": "truncated",
        "Oak/notes.txt": "no photo",
        "Oak/deeper": "nested folder",
        "Oak/copy.jpg": "exact copy",
        "Oak/3.jpg": "label conflict",
        "Ash/filed twice.jpg": "label conflict",
        "Oak/4.jpg": "label conflict",
        "Ash/saved anew.jpg": "label conflict",
        "Oak/huge.png": "too large",
        "Oak/white.png": "blank",
        "Oak/clear.png": "blank",
        "Oak/pipe.JPG": "no regular file",
        "Oak/endless.JPG": "no regular file",
        f"{folder.name}/.Birch": "hidden folder",
        "Oak/grey.jpg": "grayscale",
        "Oak/cmyk.jpg": "CMYK",
        "Oak/palette.png": "palette",
        "Oak/alpha.png": "transparency",
        "Oak/tiny.png": "tiny",
        "Oak/long.png": "extreme shape",
        "Oak/original.jpg": "near duplicate",
        "Oak/turned.jpg": "EXIF rotation",
        "Oak/named.jpg": "wrong extension",
    }


@pytest.fixture
def working_folder(tmp_path, monkeypatch):
    """Make an empty project: everything is read from and written to a temporary folder."""
    for name, folder in {
        "ROOT": "",
        "DATA": "data",
        "RUNS": "runs",
        "REPORT": "report",
        "RESULTS": "results",
        "CACHE": "data/cache",
    }.items():
        monkeypatch.setattr(places, name, tmp_path / folder)
    for name in ("split.csv", "source.json"):
        monkeypatch.setattr(places, name.replace(".", "_").upper(), tmp_path / "data" / name)
    (tmp_path / "runs").mkdir()
    (tmp_path / "data").mkdir()
    return tmp_path


@pytest.fixture
def project(working_folder):
    """Make a split of 60 pictures, of two colours, in `working_folder`, with five folds outside its test subset."""
    rng = np.random.default_rng(0)
    rows = []
    for number in range(60):
        label, part = "AB"[number % 2], dataset.SUBSETS[number % 3]
        pixels = rng.integers(0, 100, (40, 40, 3)) + [0, 0, 150 * (number % 2)]
        file = working_folder / f"{number}.png"
        Image.fromarray(pixels.astype(np.uint8)).save(file)
        sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
        fold = {"train": 1 + number // 6 % 4, "validation": 0, "test": -1}[part]
        rows.append([file.name, label, part, number, sha256, 40, 40, fold])
    columns = ["path", "label", "split", "group", "sha256", "width", "height", "fold"]
    pd.DataFrame(rows, columns=columns).to_csv(places.SPLIT_CSV, index=False)
    return dataset.load_split()


@pytest.fixture
def small_disk():
    """Let no file grow beyond 100,000 bytes, as on a full disk; yield a function that removes this limit."""
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, usual[1]))
    yield lambda: resource.setrlimit(resource.RLIMIT_FSIZE, usual)
    resource.setrlimit(resource.RLIMIT_FSIZE, usual)


@pytest.fixture
def photos(tmp_path):
    """Make a folder of two classes with ten and twenty distinct pictures."""
    for label, count in (("Oak", 10), ("Elm", 20)):
        for number in range(count):
            paint(tmp_path / "photos" / label / f"{number}.jpg", seed=[len(label), count, number])
    return tmp_path / "photos"


@pytest.fixture(scope="module")
def browser():
    """Start an installed Chromium or Chrome by Playwright; skip the test if there is none."""
    found = [path for path in map(shutil.which, ("chromium", "chromium-browser", "google-chrome")) if path]
    if not found:
        pytest.skip("there is no Chromium: apt-get install chromium")
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=found[0], args=["--no-sandbox"])
        yield started
        started.close()


def clone(copy):
    """Copy the project's own files to a folder that shares the .venv, and return the folder."""
    if not (ROOT / ".venv" / "requirements.installed").exists():
        pytest.skip("the tests of run_all.sh need the .venv that ./run_tests.sh makes")
    return copy_project(copy)


@pytest.fixture(scope="session")
def project_copy(tmp_path_factory):
    """Copy the project's own files to a folder with a space in its name, and return the folder."""
    return clone(tmp_path_factory.mktemp("a copy") / "leaf report")


@pytest.fixture(scope="session")
def run_all(project_copy):
    """Return a function that calls run_all.sh of the copy and returns the process, with its output as text."""

    def call(*arguments, **environment):
        return subprocess.run(
            [project_copy / "run_all.sh", *map(str, arguments)],
            env=os.environ | environment,
            capture_output=True,
            text=True,
            check=False,
        )

    return call


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory):
    """Return a folder that all processes of this pytest share."""
    folder = tmp_path_factory.getbasetemp()
    return folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder


@pytest.fixture(scope="session")
def whole_run(run_all, project_copy, shared_folder):
    """Run all chapters in the copy with the tiny profile; return the folder of the copy and the finished process.

    The folder `whole_run` in the copy keeps the files of this run, because other tests run chapters again.
    """
    with locks.locked(shared_folder / "whole run", math.inf):
        done = run_all("--profile", "tiny")
        assert done.returncode == 0, done.stderr[-3000:]
        for name in ("data", "report", "runs"):
            shutil.copytree(project_copy / name, project_copy / "whole_run" / name)
        if not (shared_folder / "report").exists():
            shutil.copytree(project_copy / "report", shared_folder / "report")
    return project_copy, done


@pytest.fixture(scope="session")
def whole_report(request, shared_folder):
    """Return the folder report/ of a whole run with the tiny profile, which one process makes for all."""
    with locks.locked(shared_folder / "whole run", math.inf):
        pass  # another process may be making it
    if not (shared_folder / "report").exists():
        request.getfixturevalue("whole_run")
    return shared_folder / "report"
