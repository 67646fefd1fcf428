"""Measure time and peak memory of chapter 1 on a folder of photos, and on 20,000 images made from these photos.

    .venv/bin/python benchmarks/data_chapter.py DIR [--count 20000]

The images are copies of the photos, 256 x 256 pixels each. The photos are copied in turn, and after the last photo the
first comes again, until there are enough images. Each copy is shifted, rotated and made brighter or darker at random.
The chapter runs twice on each folder, in a copy of the project: first with nothing cached, then with nothing changed.
"""

import argparse
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from report import copy_of_project

import numpy as np
import pandas as pd
from PIL import Image, ImageEnhance
from tqdm import tqdm


def jitter(task):
    """Write one randomly changed copy of a photo, 256 x 256 pixels; `task` is (source, target, seed)."""
    source, target, seed = task
    rng = np.random.default_rng(seed)
    with Image.open(source) as image:
        turned = image.convert("RGB").rotate(rng.uniform(-30, 30), Image.Resampling.BICUBIC)
    left, top, right, bottom = rng.uniform(0.1, 0.25, 4) * min(turned.size)
    cut = turned.crop((left, top, turned.width - right, turned.height - bottom)).resize((256, 256))
    ImageEnhance.Brightness(cut).enhance(rng.uniform(0.8, 1.2)).save(target, quality=90)


def make_images(photos, folder, count):
    """Fill a folder with `count` randomly changed copies of the photos, about equally many of each photo."""
    tasks = []
    for number in range(count):
        source = photos[number % len(photos)]
        target = folder / source.parent.name / f"{number:06d}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        tasks.append((source, target, number))
    with multiprocessing.Pool() as pool:
        list(tqdm(pool.imap_unordered(jitter, tasks, chunksize=64), "making images", count, mininterval=10))


def measure(project, data):
    """Run chapter 1 on the folder `data`; return its seconds, and the largest peak memory (GB) of any process."""
    command = [project / "run_all.sh", "--only", "01", "--data", data]
    start = time.monotonic()
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    told = child.stderr.read()
    _, status, usage = os.wait4(child.pid, 0)
    seconds = time.monotonic() - start
    if status:
        sys.exit(told.decode()[-2000:])
    unit = 2**30 if sys.platform == "darwin" else 2**20
    return seconds, usage.ru_maxrss / unit


def main():
    """Make the images, measure, print a table, and clean up."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, metavar="DIR", help="a folder with one sub-folder of photos per class")
    parser.add_argument("--count", type=int, default=20_000, help="images to make (default: 20000)")
    options = parser.parse_args()
    photos = sorted(file for file in options.data.resolve().glob("*/*") if file.suffix.lower() in (".jpg", ".png"))
    if not photos:
        parser.error(f"{options.data} has no .jpg or .png photos in sub-folders: make one sub-folder per class")
    with tempfile.TemporaryDirectory() as place, copy_of_project() as project:
        made = Path(place) / "made"
        make_images(photos, made, options.count)
        rows = []
        for data, count in ((options.data.resolve(), len(photos)), (made, options.count)):
            for state in ("first run", "unchanged"):
                seconds, gigabytes = measure(project, data)
                rows.append({"images": count, "run": state, "seconds": round(seconds), "peak GB": round(gigabytes, 2)})
                print(rows[-1], flush=True)
    print(pd.DataFrame(rows).to_string(index=False))


if __name__ == "__main__":
    main()
