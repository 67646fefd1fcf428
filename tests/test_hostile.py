"""Names and photos that somebody chose to make trouble, and many of them: chapter 1 works, or says one sentence."""

import os

from conftest import paint, short
from leaves import dataset, duplicates, photos, places, plots, splitting
from leaves.figures import split as figures

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from PIL import Image

SETTINGS = {"validation_share": 0.2, "test_share": 0.2, "phash_distance": 4}
NAMES = [
    *(
        'new\nline "quoted"',
        "it's",
        "$(touch pwned)",
        "`id`",
        "'; rm -rf ~",
        "$x^2$",
        "%s {x}",
        "a,b;c|d",
        "C:\\x",
        "#~",
    ),
    *("\ttab", "bell\x07", "right\u202eleft", "\u200bnothing", "line\u2028end", "next\x85line", "end\x1c"),
    *("e\u0301pine", "\u00e9pine", "🍁🍂", "x" * 255, "葉" * 85),
    *("CON", "NUL.txt", "dot.", "space ", "oak", "Oak", "OAK"),
    *("null", "NaN", "None", "True", "1", "1.0", "01", "1e5", "train", "_", "__"),
]


def chapter_1(folder):
    """What chapter 1 writes and reads again; returns the split, the findings and images of two subsets."""
    images, issues = photos.find_images(folder)
    images, _ = photos.inspect_images(images, 32)
    kept, pairs, issues = duplicates.keep_usable(images, issues, folder, SETTINGS["phash_distance"])
    kept, bridges = splitting.split_photos(kept, pairs, 0.2, 0.2, 0, {})
    issues = pd.concat([issues, bridges])
    near = splitting.nearest_elsewhere(kept)
    split = splitting.write_split(kept, issues, str(folder), "x", SETTINGS)
    splitting.check_leaks(split, near, SETTINGS)
    splitting.link_folders(split, places.DATA / "split")
    return dataset.load_split(), issues, dataset.load_images(split, dataset.DEVELOPMENT, 32)[0]


def test_classes_and_files_of_any_name(working_folder, capsys):
    folder = working_folder / "own"
    for number, label in enumerate(NAMES):
        for copy in range(5):
            name = f"{NAMES[(number + copy) % len(NAMES)].encode()[:240].decode(errors='ignore')}{copy}.jpg"
            paint(folder / label / name, seed=[3, number, copy], size=40)
    split, issues, images = chapter_1(folder)
    assert set(split["label"]) == {*NAMES}
    assert split["label"].value_counts().eq(5).all()
    assert issues.empty
    assert len(images[:]) == (split["split"] != "test").sum()
    assert {file.name for file in places.DATA.glob("split/*/*")} == {*NAMES}
    assert not [file for file in working_folder.rglob("pwned")]


def test_folded_classes_bring_the_same_long_name(working_folder):
    for label in ("Oak___a", "Oak___b", "Elm"):
        for number in range(6):
            name = f"{number}{'x' * 250}.jpg"
            paint(working_folder / "own" / label / name, seed=[4, ord(label[-1]), number], size=40)
    split, _, _ = chapter_1(working_folder / "own")
    assert len([*places.DATA.glob("split/*/*/*")]) == len(split) == 18


def test_photos_of_one_pixel_to_twenty_thousand(working_folder):
    rng = np.random.default_rng(0)
    for label in ("Elm", "Oak"):
        for number in range(5):
            paint(
                working_folder / "own" / label / f"{number}.jpg", seed=[5, len(label), ord(label[0]), number], size=40
            )
    for width, height in ((1, 1), (1, 20000), (20000, 1), (2, 2)):
        pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(working_folder / "own" / "Oak" / f"{width} x {height}.png")
    Image.new("1", (20000, 20000)).save(working_folder / "own" / "Oak" / "vast.png")
    split, issues, _ = chapter_1(working_folder / "own")
    is_out = issues[issues["action"] == "excluded"]
    assert dict(zip(is_out["path"].map(os.path.basename), is_out["check"], strict=True)) == {
        "1 x 1.png": "blank",
        "1 x 20000.png": "blank",
        "20000 x 1.png": "blank",
        "vast.png": "too large",
    }
    assert "Oak/2 x 2.png" in set(split["path"].map(short))


@pytest.mark.parametrize("count", [2, 200])
def test_two_classes_and_two_hundred(working_folder, count):
    for number in range(5 * count):
        paint(working_folder / "own" / f"class {number // 5}" / f"{number}.png", seed=[6, number], size=32)
    split, issues, images = chapter_1(working_folder / "own")
    assert issues.empty
    assert pd.crosstab(split["label"], split["split"]).to_numpy().min() >= 1
    plots.set_style()
    labels, classes = np.arange(len(images)) % count, split.attrs["classes"]
    drawn = (
        figures.draw_classes(images, labels, classes, 0),
        figures.draw_backgrounds(images[:][:, :8, 0], labels, classes),
    )
    told = "first 50 of 200 classes" if count == 200 else "Two training photos of each of the 2 classes"
    assert told in drawn[0][1]
    assert len(drawn[1][0].axes) == min(count, figures.MOST_CLASSES)
    plt.close("all")
