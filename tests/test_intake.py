"""Chapter 1's data: what is found, what is left out, what stays together."""

import shutil

import numpy as np
import pytest
from conftest import paint
from PIL import Image

from data import intake
from helpers import InputError


def test_finds_the_images_of_each_class(photos):
    (photos / "Oak" / "notes.txt").write_text("no image")
    (photos / "Elm" / "UPPER.JPEG").write_bytes((photos / "Elm" / "0.jpg").read_bytes())
    images = intake.find_images(photos)
    assert images["label"].value_counts().to_dict() == {"Elm": 21, "Oak": 10}


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda folder: folder.rename(folder.with_name("moved")), "There is no data folder"),
        (lambda folder: [file.unlink() for file in folder.glob("*/*")], "no JPEG or PNG images"),
        (lambda folder: shutil.rmtree(folder / "Oak"), "only the class Elm"),
        (lambda folder: [file.unlink() for file in folder.glob("Oak/*")], "Oak in .* has 0 usable images"),
        (lambda folder: [file.unlink() for file in folder.glob("Oak/[4-9].jpg")], "Oak in .* has 4 usable images"),
    ],
)
def test_a_folder_that_cannot_be_used_is_named(photos, spoil, sentence):
    spoil(photos)
    with pytest.raises(InputError, match=sentence):
        intake.find_images(photos)


def test_unreadable_images_are_told_apart(photos):
    whole = (photos / "Oak" / "0.jpg").read_bytes()
    (photos / "Oak" / "0.jpg").write_bytes(whole[: len(whole) // 2])
    (photos / "Oak" / "1.jpg").write_bytes(b"")
    (photos / "Oak" / "2.jpg").write_text("hello")
    images = intake.inspect_images(intake.find_images(photos))
    broken = images[images["problem"] != ""]
    assert [path.rsplit("/", 1)[1] for path in broken["path"]] == ["0.jpg", "1.jpg", "2.jpg"]
    whole = images[images["problem"] == ""]
    assert whole["width"].eq(96).all()
    assert whole["phash"].tolist() == [intake.inspect_image(path)["phash"] for path in whole["path"]]  # all 64 bits


def test_exif_rotation_counts_for_the_size(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    Image.new("RGB", (40, 20)).save(tmp_path / "turned.jpg", exif=exif)
    found = intake.inspect_image(tmp_path / "turned.jpg")
    assert (found["width"], found["height"]) == (20, 40)


def test_near_duplicates_form_a_group(photos):
    with Image.open(photos / "Elm" / "3.jpg") as original:
        original.save(photos / "Elm" / "recompressed.jpg", quality=60)
        original.resize((192, 192)).save(photos / "Elm" / "resized.png")
    (photos / "Elm" / "copied.jpg").write_bytes((photos / "Elm" / "3.jpg").read_bytes())
    images = intake.inspect_images(intake.find_images(photos))
    groups = intake.duplicate_groups(images["sha256"], images["phash"], distance=4)
    planted = images["path"].str.contains("Elm/3.jpg|recompressed|resized|copied")
    assert len(set(groups[planted])) == 1
    assert len(set(groups)) == 30


def test_equal_files_are_one_group_even_at_distance_zero():
    groups = intake.duplicate_groups(["a", "b", "a", "c"], [1, 2, 3, 2], distance=0)
    assert groups[0] == groups[2]
    assert groups[1] == groups[3]
    assert groups[0] != groups[1]


def test_split_keeps_groups_whole_and_shares_equal():
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(500), rng.integers(1, 4, 500))
    labels = (groups % 7 % 3).astype(str)  # three classes of unequal size
    part = intake.split_images(labels, groups, validation=0.2, test=0.2, seed=1)
    for group in np.unique(groups):
        assert len(set(part[groups == group])) == 1
    for label in "012":
        of_label = part[labels == label]
        assert np.mean(of_label == "test") == pytest.approx(0.2, abs=0.03)
        assert np.mean(of_label == "validation") == pytest.approx(0.16, abs=0.03)


def test_five_images_of_a_class_suffice():
    labels = np.repeat(["a", "b"], [5, 30])
    part = intake.split_images(labels, np.arange(35), 0.2, 0.2, seed=0)
    assert set(part[labels == "a"]) == {"train", "validation", "test"}


def test_a_split_that_cannot_be_made_is_named():
    labels = np.repeat(["a", "b"], [6, 30])
    with pytest.raises(InputError, match="class a is left for"):
        intake.split_images(labels, np.maximum(np.arange(36), 5), 0.2, 0.2, seed=0)  # all of a in one group
    with pytest.raises(InputError, match="test fraction is 0.7"):
        intake.split_images(labels, np.arange(36), 0.2, 0.7, seed=0)


def test_split_depends_on_the_seed_alone():
    labels, groups = np.tile(["a", "b"], 50), np.arange(100)
    first, again, other = (intake.split_images(labels, groups, 0.2, 0.2, seed) for seed in (3, 3, 4))
    assert (first == again).all()
    assert (first != other).any()


def test_a_painted_picture_is_not_like_another(tmp_path):
    for number in range(20):
        paint(tmp_path / f"{number}.jpg", number)
    hashes = [intake.inspect_image(tmp_path / f"{number}.jpg")["phash"] for number in range(20)]
    apart = [(a ^ b).bit_count() for a in hashes for b in hashes if a != b]
    assert min(apart) > 4
