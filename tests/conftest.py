"""Fixtures that several test files share."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent


def paint(path, seed, size=96, quality=95):
    """Write a photo-like picture: smooth random colours, different for every seed."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse.resize((size, size), Image.Resampling.BICUBIC).save(path, quality=quality)


@pytest.fixture
def photos(tmp_path):
    """A folder of two classes with ten and twenty distinct pictures."""
    for label, count in (("Oak", 10), ("Elm", 20)):
        for number in range(count):
            paint(tmp_path / "photos" / label / f"{number}.jpg", seed=[len(label), count, number])
    return tmp_path / "photos"


@pytest.fixture(scope="session")
def project_copy(tmp_path_factory):
    """The project's own files in a folder of their own (with a space in its name), sharing the .venv."""
    copy = tmp_path_factory.mktemp("a copy") / "leaf report"
    ignored = shutil.ignore_patterns(".git", ".venv", "__pycache__", ".*cache", "runs", "report", "sample-*", "split*")
    shutil.copytree(ROOT, copy, ignore=ignored)
    shutil.rmtree(copy / "data" / "cache", ignore_errors=True)
    environment = Path(sys.prefix)
    if environment == Path(sys.base_prefix) or not (environment / "requirements.installed").exists():
        pytest.skip("the tests of run_all.sh need the .venv that ./run_tests.sh makes")
    (copy / ".venv").symlink_to(environment)
    return copy


@pytest.fixture(scope="session")
def run_all(project_copy):
    """Call run_all.sh of the copy; returns the finished process with its output as text."""

    def call(*arguments, **environment):
        return subprocess.run(
            [project_copy / "run_all.sh", *map(str, arguments)],
            env=os.environ | environment,
            capture_output=True,
            text=True,
            check=False,
        )

    return call
