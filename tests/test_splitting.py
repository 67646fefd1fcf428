"""Which photos are the same, and a split that tears none of them apart."""

import itertools
import os
import shutil
from pathlib import Path

from conftest import ROOT, make_dirty, paint, short
from leaves import files, places, splitting
from leaves.duplicates import find_duplicates, near_pairs, nearest, seen_before
from leaves.files import InputError
from leaves.photos import CHECKS, find_images, inspect_images, issues_of, settled, usable

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageEnhance, ImageOps

REAL_PHOTOS = ROOT.parent / "shared" / "leaves14"
ALTERED = {
    "re-encoded": lambda image: image,  # saved at a low quality below
    "smaller": lambda image: image.resize((image.width // 2, image.height // 2)),
    "larger": lambda image: image.resize((image.width * 3 // 2, image.height * 3 // 2)),
    "brightened": lambda image: ImageEnhance.Brightness(image).enhance(1.15),
    "darkened": lambda image: ImageEnhance.Brightness(image).enhance(0.7),
    "mirrored": ImageOps.mirror,
    "upside down": ImageOps.flip,
    "turned": lambda image: image.transpose(Image.Transpose.ROTATE_90),
}


def plant(file):
    """Put altered copies of a photo beside it; returns their names."""
    with Image.open(file) as image:
        for name, alter in ALTERED.items():
            alter(image.convert("RGB")).save(file.with_name(f"{file.stem} {name}.jpg"), quality=60)
    return [f"{file.parent.name}/{file.stem} {name}.jpg" for name in ALTERED]


def divided(folder, seed=0, before=None, distance=4, validation=0.2, test=0.2):
    """The whole of chapter 1's work on a folder: photos with group and part, pairs, issues."""
    images, issues = find_images(folder)
    images, _size = inspect_images(images)
    issues = pd.concat([issues, issues_of(images)])
    photos = usable(images, issues)
    pairs, duplicates = find_duplicates(photos, distance)
    photos = usable(photos, duplicates)
    photos, bridges = splitting.split_photos(photos, pairs, validation, test, seed, before or {})
    return photos, pairs, settled(pd.concat([issues, duplicates, bridges]))


def names(table):
    return table["path"].map(short).tolist()


def distances_by_hand(photos):
    """Hamming distance of each pair of photos, the fewest bits over all ways to turn one of the two."""
    hashes = [[int(digits[place : place + 16], 16) for place in range(0, 128, 16)] for digits in photos["phashes"]]
    for (a, one), (b, other) in itertools.combinations(enumerate(hashes), 2):
        ways = [(one[0] ^ view).bit_count() for view in other] + [(other[0] ^ view).bit_count() for view in one]
        yield a, b, min(ways)


# ---------------------------------------------------------------- which are the same


def test_altered_copies_are_found(photos, working_folder):
    planted = plant(photos / "Elm" / "3.jpg")
    table, _, issues = divided(photos)
    group = table.set_index(table["path"].map(short))["group"]
    assert set(group[[*planted, "Elm/3.jpg"]]) == {group["Elm/3.jpg"]}
    assert (group == group["Elm/3.jpg"]).sum() == len(planted) + 1
    assert issues["action"].eq("kept").all()
    assert len(issues) == issues["path"].nunique() == len(planted)


def test_no_near_photos_lie_on_two_sides(photos, working_folder):
    planted = [plant(photos / label / f"{number}.jpg") for label in ("Oak", "Elm") for number in range(6)]
    for seed in range(3):
        divided_photos, _, _ = divided(photos, seed)
        part, group = divided_photos["split"], divided_photos["group"]
        near = [(a, b) for a, b, bits in distances_by_hand(divided_photos) if bits <= 4]
        assert len(near) >= len(planted) * 20
        for a, b in near:
            assert part[a] == part[b]
            assert group[a] == group[b]


@pytest.mark.skipif(not REAL_PHOTOS.exists(), reason="no real leaf photos beside this project")
def test_altered_copies_of_real_leaves_stay_on_one_side(tmp_path, working_folder):
    for label in ("Apple", "Orange", "Soybean"):
        for file in sorted((REAL_PHOTOS / label).iterdir())[:15]:
            (tmp_path / "photos" / label).mkdir(parents=True, exist_ok=True)
            shutil.copy(file, tmp_path / "photos" / label)
    for file in list((tmp_path / "photos").glob("*/*")):
        plant(file)
    photos, _, issues = divided(tmp_path / "photos")
    assert not (issues["check"] == "label conflict").any()
    leaf = photos["path"].map(lambda path: Path(path).stem.rsplit("_", 1)[0])
    sides = photos.groupby(leaf)["split"].nunique()
    assert (sides > 1).sum() <= 1  # a leaf that fills the frame may lose more than four bits when brightened
    assert all(photos["split"][a] == photos["split"][b] for a, b, bits in distances_by_hand(photos) if bits <= 4)


def test_pairs_and_neighbours_are_those_found_by_hand(photos, working_folder):
    plant(photos / "Elm" / "3.jpg")
    images, _ = inspect_images(find_images(photos)[0])
    by_hand = {(a, b): bits for a, b, bits in distances_by_hand(images)}
    pairs = near_pairs(images, 16)
    found = {(pair.first, pair.second): pair.distance for pair in pairs.itertuples()}
    assert found == {pair: bits for pair, bits in by_hand.items() if bits <= 16}
    place, bits = nearest(images[:10], images[10:])
    for row in range(10):
        apart = [by_hand[row, other] for other in range(10, len(images))]
        assert bits[row] == min(apart) == apart[place[row]]


def test_blocks_of_the_distance_matrix_fit_together(monkeypatch):
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 2**63, (5000, 8), dtype=np.uint64)
    hashes[4321] = hashes[17]
    hashes[4999] = hashes[4095]
    digits = ["".join(f"{value:016x}" for value in row) for row in hashes.tolist()]
    pairs = near_pairs(pd.DataFrame({"phashes": digits}), 4)
    assert pairs[["first", "second"]].to_numpy().tolist() == [[17, 4321], [4095, 4999]]
    assert pairs["distance"].tolist() == [0, 0]


def test_label_conflicts_and_copies_are_left_out_and_named(working_folder):
    planted = make_dirty(working_folder / "photos")
    photos, _, issues = divided(working_folder / "photos")
    told = dict(zip(names(issues), issues["check"], strict=True))
    told["Oak/original.jpg"] = told.pop("Oak/mirrored.jpg", told.get("Oak/original.jpg"))  # either names the other
    assert told == planted
    left_out = {file for file, check in planted.items() if CHECKS[check][0] == "excluded"}
    assert not left_out & set(names(photos))
    assert len(photos) == 36 - 2 + 10
    conflicts = issues[issues["check"] == "label conflict"]
    assert conflicts["detail"].str.contains("the same file under Ash and Oak").sum() == 2
    assert conflicts["other"].ne("").all()


def give_hash(images, row, like, bits):
    """Give a photo the perceptual hashes of another one, but for a few bits."""
    flipped = "".join(
        f"{int(images.loc[like, 'phashes'][place : place + 16], 16) ^ bits:016x}" for place in range(0, 128, 16)
    )
    images.loc[row, "phashes"] = flipped


def test_two_leaves_alike_are_no_label_conflict(photos, working_folder):
    """Near by their hashes but not by their pixels: kept, on one side."""
    images, _size = inspect_images(find_images(photos)[0])
    oak = images.index[images["label"] == "Oak"][0]
    give_hash(images, 0, like=oak, bits=0b1)
    pairs, issues = find_duplicates(images, 4)
    assert images.loc[0, "label"] == "Elm"
    assert issues["check"].tolist() == ["near duplicate"]
    assert len(pairs) == 1


def inspected(folder):
    """The photos of a folder with the facts of `inspect_images`."""
    return inspect_images(find_images(folder)[0])[0]


def test_known_photos_are_recognised(photos, working_folder):
    other = working_folder / "other"
    for number, file in enumerate(sorted(photos.glob("*/*"))):
        paint(other / "Oak" / f"{number}.jpg", seed=[3, 3, number])  # not known
        if number % 9 == 0:
            planted = other / "Oak" / f"known {number}.jpg"
            shutil.copy(file, planted)
            plant(planted)
    (other / "Oak" / "empty.jpg").write_bytes(b"")
    (other / "Oak" / "gone.jpg").symlink_to(other / "nowhere.jpg")
    table, known = inspected(other), inspected(photos)
    seen = seen_before(table, known, 4)
    assert seen.dtype == bool
    assert (seen == table["path"].map(short).str.contains("known")).all()
    assert seen.sum() == 4 * (1 + len(ALTERED))
    (photos / "Oak" / "empty.jpg").write_bytes(b"")
    (photos / "Oak" / "gone.jpg").symlink_to(photos / "nowhere.jpg")
    again = seen_before(table.sample(frac=1, random_state=0), inspected(photos), 4)
    assert again.sum() == seen.sum() + 1  # files of zero bytes are equal, those that cannot be read are not
    assert not seen_before(table, known.iloc[:0], 4).any()
    assert seen_before(table.iloc[:0], known, 4).shape == (0,)


def test_known_photos_are_recognised_by_the_rules_of_duplicates(photos, working_folder):
    """Beyond the threshold of the hash, up to twice as far, the pixels decide."""
    with Image.open(photos / "Elm" / "3.jpg") as image:
        image.save(photos / "Elm" / "another shot.jpg", quality=60)
    images = inspected(photos)
    row = {name: number for number, name in enumerate(names(images))}
    new = [row[name] for name in ("Elm/another shot.jpg", "Oak/0.jpg", "Oak/2.jpg", "Oak/4.jpg")]
    give_hash(images, new[0], like=row["Elm/3.jpg"], bits=0b111111)
    give_hash(images, new[1], like=row["Oak/1.jpg"], bits=0b111111)
    give_hash(images, new[2], like=row["Oak/1.jpg"], bits=0b1111)
    table, known = images.iloc[new], images.drop(new)
    assert seen_before(table, known, 4).tolist() == [True, False, True, False]
    assert seen_before(table, known, 2).tolist() == [False, False, False, False]
    assert seen_before(table, known, 6).tolist() == [True, True, True, False]


def test_comparing_with_known_photos_fits_together_in_blocks():
    rng = np.random.default_rng(0)
    digits = ["".join(f"{value:016x}" for value in row) for row in rng.integers(0, 2**63, (5300, 8)).tolist()]
    table = pd.DataFrame({"phashes": digits, "thumb": "00ff" * 128, "sha256": [f"{number}" for number in range(5300)]})
    new = table.iloc[[*range(200)]].copy()
    known = table.iloc[200:].copy()
    known.iloc[[3, 4500, 5099], 0] = new["phashes"].iloc[[150, 7, 64]].to_numpy()
    assert np.flatnonzero(seen_before(new, known, 4)).tolist() == [7, 64, 150]


def test_two_shots_of_one_leaf_stay_together(photos, working_folder):
    """Somewhat beyond the threshold of the hash, the pixels decide."""
    with Image.open(photos / "Elm" / "3.jpg") as image:
        image.save(photos / "Elm" / "another shot.jpg", quality=60)
    images, _size = inspect_images(find_images(photos)[0])
    row = {name: number for number, name in enumerate(names(images))}
    give_hash(images, row["Elm/another shot.jpg"], like=row["Elm/3.jpg"], bits=0b111111)
    give_hash(images, row["Oak/0.jpg"], like=row["Oak/1.jpg"], bits=0b111111)
    pairs, issues = find_duplicates(images, 4)
    assert issues["check"].tolist() == ["same leaf"]
    assert {names(issues)[0], short(issues["other"][0])} == {"Elm/3.jpg", "Elm/another shot.jpg"}
    assert pairs["distance"].tolist() == [6]


@pytest.mark.parametrize("distance", [-1, 9])
def test_a_distance_that_makes_no_sense_is_named(photos, working_folder, distance):
    with pytest.raises(InputError, match=f"phash_distance is {distance}, but it must lie between 0 and 8"):
        divided(photos, distance=distance)


# ---------------------------------------------------------------- split


def test_split_keeps_groups_whole_and_shares_equal():
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(500), rng.integers(1, 4, 500))
    labels = (groups % 7 % 3).astype(str)  # three classes of unequal size
    for validation, test in ((0.2, 0.2), (0.3, 0.1), (0.4, 0.15)):
        part = splitting.split_images(labels, groups, validation, test, seed=1)
        for group in np.unique(groups):
            assert len(set(part[groups == group])) == 1
        for label in "012":
            of_label = part[labels == label]
            assert np.mean(of_label == "test") == pytest.approx(test, abs=0.03)
            assert np.mean(of_label == "validation") == pytest.approx((1 - test) * validation, abs=0.03)


def table_of(labels, groups=None):
    """Photos with these labels, and pairs that make these groups."""
    photos = pd.DataFrame({"sha256": [f"{n:03d}" for n in range(len(labels))], "label": labels})
    photos["path"] = photos["sha256"]
    groups = pd.Series(range(len(labels)) if groups is None else groups)
    first = photos["sha256"].groupby(groups).transform("first")
    pairs = pd.DataFrame({"first": first, "second": photos["sha256"]})
    return photos, pairs[pairs["first"] != pairs["second"]]


@pytest.mark.parametrize("sizes", [[5, 300], [6] * 38, [5] * 6 + [50] * 8])
def test_five_images_of_a_class_suffice(sizes):
    photos, pairs = table_of(np.repeat([f"class {n:02d}" for n in range(len(sizes))], sizes))
    for seed in range(3):
        for fraction in (0.2, 0.1):
            divided, issues = splitting.split_photos(photos, pairs, fraction, fraction, seed, {})
            assert pd.crosstab(divided["label"], divided["split"]).to_numpy().min() >= 1
            assert issues.empty


def test_gaps_are_filled_with_whole_new_groups():
    photos, pairs = table_of(["a"] * 9 + ["b"] * 30, [0, 0, 0, 0, 1, 1, 1, 2, 2, *range(3, 33)])
    for seed in range(10):
        divided, _ = splitting.split_photos(photos, pairs, 0.2, 0.2, seed, {})
        assert divided.groupby("group")["split"].nunique().max() == 1
        assert divided.groupby("label")["split"].nunique().min() == 3
    before = {"000": "train", "004": "train", "007": "train"}
    told = "class a can be given to validation.*an earlier split fixed.*another data_seed, or delete data/splits"
    with pytest.raises(InputError, match=told):
        splitting.split_photos(photos, pairs, 0.2, 0.2, 0, before)


def test_a_split_that_cannot_be_made_is_named(photos, working_folder):
    oak = sorted((photos / "Oak").iterdir())
    for file in oak[1:]:
        file.unlink()
    plant(oak[0])  # all of the class in one group
    with pytest.raises(InputError, match="No photo of the class Oak can be given to"):
        divided(photos)
    with pytest.raises(InputError, match="test_share is 0.7"):
        divided(photos, test=0.7)


def test_split_depends_on_the_seed_alone():
    labels, groups = np.tile(["a", "b"], 50), np.arange(100)
    first, again, other = (splitting.split_images(labels, groups, 0.2, 0.2, seed) for seed in (3, 3, 4))
    assert (first == again).all()
    assert (first != other).any()


def test_added_photos_move_no_old_photo(photos, working_folder):
    first, _, _ = divided(photos)
    before = dict(zip(first["sha256"], first["split"], strict=True))
    for number in range(25):
        paint(photos / "Oak" / f"added {number}.jpg", seed=[7, number])
    plant(photos / "Elm" / "3.jpg")
    (photos / "Elm" / "0.jpg").rename(photos / "Elm" / "renamed.jpg")
    second, _, _ = divided(photos, before=before)
    after = second.set_index("sha256")["split"]
    assert len(second) == 30 + 25 + len(ALTERED)
    assert after[list(before)].to_dict() == before
    assert second.groupby("group")["split"].nunique().max() == 1
    added = second[second["path"].str.contains("added")]
    assert set(added["split"]) == {"train", "validation", "test"}
    anew, _, _ = divided(photos)
    moved = anew.set_index("sha256")["split"][list(before)] != pd.Series(before)
    assert moved.any()  # without the memory some would have moved


def test_a_new_photo_between_two_parts_is_left_out():
    photos = pd.DataFrame({"sha256": list("abcdefghijkl"), "path": list("abcdefghijkl"), "label": ["A", "B"] * 6})
    pairs = pd.DataFrame([("a", "l"), ("b", "l"), ("c", "k")], columns=["first", "second"])
    before = {"a": "train", "b": "test", "c": "validation", "d": "validation", "e": "test", "f": "train"}
    kept, issues = splitting.split_photos(photos, pairs, 0.2, 0.2, 0, before)
    assert issues[["path", "check", "action"]].to_numpy().tolist() == [["l", "bridge", "excluded"]]
    part = kept.set_index("sha256")["split"]
    assert part[list(before)].to_dict() == before
    assert part["k"] == "validation"


@pytest.mark.parametrize("order", [("a", "b"), ("b", "a")])
def test_earlier_photos_of_two_parts_that_turn_out_alike_change_no_part(order):
    """It can happen when a photo was away while its copy came."""
    photos, _ = table_of(["A", "B"] * 10)
    photos["sha256"] = list("abcdefghijklmnopqrst")
    pairs = pd.DataFrame([order, ("c", "d")], columns=["first", "second"])
    before = {"a": "train", "b": "test", "c": "validation", "d": "validation"}
    kept, issues = splitting.split_photos(photos, pairs, 0.2, 0.2, 0, before)
    assert issues[["path", "check"]].to_numpy().tolist() == [["000", "bridge"]]
    part = kept.set_index("sha256")["split"]
    assert "a" not in part
    assert part[["b", "c", "d"]].tolist() == ["test", "validation", "validation"]


# ---------------------------------------------------------------- folds


def in_groups(count, largest, seed):
    """Photos of three classes of unequal size, in groups of up to `largest` photos each, and their pairs."""
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(count), rng.integers(1, largest + 1, count))
    return table_of((groups % 7 % 3).astype(str), groups)


@pytest.mark.parametrize("largest", [1, 4, 25])
@pytest.mark.parametrize(("validation", "folds"), [(0.2, 5), (0.1, 10), (0.3, 3), (0.5, 2)])
def test_folds_keep_groups_whole_and_validation_is_the_first(largest, validation, folds):
    photos, pairs = in_groups(80, largest, seed=largest)
    for seed in range(3):
        divided, _ = splitting.split_photos(photos, pairs, validation, 0.2, seed, {})
        again, _ = splitting.split_photos(photos, pairs, validation, 0.2, seed, {})
        pd.testing.assert_frame_equal(divided, again)
        assert divided.groupby("group")["fold"].nunique().max() == 1
        assert set(divided.loc[divided["split"] == "validation", "fold"]) == {0}
        assert set(divided.loc[divided["split"] == "test", "fold"]) == {-1}
        train = divided.loc[divided["split"] == "train", "fold"]
        assert set(train) == set(range(1, folds))
        if largest < 25:
            assert train.value_counts(normalize=True).to_numpy() == pytest.approx(1 / (folds - 1), abs=0.06)
            shares = pd.crosstab(divided["fold"], divided["label"], normalize="index").drop(index=-1)
            assert np.ptp(shares.to_numpy(), axis=0).max() < 0.25
    other, _ = splitting.split_photos(photos, pairs, validation, 0.2, seed=9, before=split_before(divided))
    assert folds == 2 or (other["fold"] != divided["fold"]).any()


def split_before(photos):
    return dict(zip(photos["sha256"], photos["split"], strict=True))


def train_of(labels, groups):
    return pd.DataFrame({"label": labels, "group": groups, "split": "train"})


@pytest.mark.parametrize(
    ("photos", "count"),
    [
        (train_of([*"abab"], [7, 7, 7, 7]), 1),  # one group
        (train_of([*"abcd"], [1, 2, 3, 4]), 1),  # one photo of each class
        (train_of([*"aabb"], [1, 2, 3, 4]), 2),
        (train_of([*"aabb"], [1, 1, 1, 2]), 2),
        (train_of([*"aaab"], [1, 2, 3, 4]), 3),  # the rare class is in one of them
        (train_of([*"aaaaaab"], range(7)), 4),
    ],
)
def test_few_training_photos_make_fewer_folds(photos, count):
    folds = splitting.divide_folds(photos, 5, seed=0)
    assert set(folds) == set(range(1, count + 1))
    assert pd.Series(folds).groupby(photos["group"]).nunique().max() == 1


def test_no_fold_is_empty_though_groups_are_large():
    for seed in range(200):
        rng = np.random.default_rng(seed)
        groups = np.minimum((rng.pareto(1, 40) * 2).astype(int), 12)
        folds = splitting.divide_folds(train_of(groups % 3, groups), 13, seed)
        assert set(folds) == set(range(1, max(folds) + 1))


def test_two_classes_of_five_photos_have_folds():
    photos, pairs = table_of(["a"] * 5 + ["b"] * 5)
    for seed in range(5):
        divided, _ = splitting.split_photos(photos, pairs, 0.2, 0.2, seed, {})
        outside = divided[divided["fold"] >= 0]
        counts = pd.crosstab(outside["label"], outside["fold"])
        assert 3 <= len(counts.columns) <= 5
        assert counts.loc[:, 0].min() >= 1
        for fold in counts.columns:  # the others have a photo of each class to learn from
            assert counts.drop(columns=fold).sum(axis=1).min() >= 1
        assert splitting.fold_sentence(divided).count(".") == 1


def test_a_class_that_is_not_in_every_fold_is_named():
    split = pd.DataFrame({"label": [*"aaabbbccc"], "fold": [0, 1, 2, 0, 1, -1, 0, 0, 2]})
    told = splitting.fold_sentence(split)
    assert told == (
        "Train and validation make up 3 folds of about 3 photos; some folds lack b or c; "
        "a fold's macro F1 covers only the classes in it."
    )
    told = splitting.fold_sentence(split.assign(label="a"))
    assert told == "Train and validation make up 3 folds of about 3 photos, each with all classes."


def test_a_group_torn_between_folds_is_counted(photos, working_folder):
    plant(photos / "Elm" / "3.jpg")
    table, _, _ = divided(photos)
    settings = {"phash_distance": 4, "validation_share": 0.2, "test_share": 0.2}
    near = splitting.nearest_elsewhere(table)
    sound = splitting.check_leaks(table, near, settings).loc["groups split across folds"]
    assert (sound["found"], sound["match"]) == (0, "✓")
    sizes = table["group"].map(table["group"].value_counts())
    torn = table.copy()
    torn.loc[sizes[sizes > 1].index[0], "fold"] = 77
    leaks = splitting.check_leaks(torn, near, settings).loc["groups split across folds"]
    assert (leaks["found"], leaks["match"]) == (1, "✗")


@pytest.mark.parametrize("labels", [["Oak"], ["Oak", "Elm"]])
def test_many_photos_alike_are_one_finding_each(working_folder, labels):
    for number in range(24):
        label = labels[number % len(labels)]
        paint(working_folder / "photos" / label / f"{number}.jpg", seed=1, quality=60 + number)
    for label, number in itertools.product(("Oak", "Elm"), range(12)):
        paint(working_folder / "photos" / label / f"sound {number}.jpg", seed=[len(label), ord(label[0]), number])
    _, _, issues = divided(working_folder / "photos")
    counts = issues["check"].value_counts().to_dict()
    assert counts == ({"near duplicate": 23} if len(labels) == 1 else {"label conflict": 24})


def test_the_memory_of_a_split_belongs_to_its_settings(working_folder):
    file, before = splitting.memory_of_split(validation_share=0.2, test_share=0.2)
    assert file == splitting.memory_of_split(test_share=0.2, validation_share=0.2)[0]
    assert before == {}
    assert file != splitting.memory_of_split(validation_share=0.2, test_share=0.3)[0]
    file.parent.mkdir()
    file.write_text("sha256,split\nab,nowhere\n")
    with pytest.raises(
        InputError, match=f"data/splits/{file.name} is damaged: restore it and its .sha256, or delete it"
    ):
        splitting.memory_of_split(validation_share=0.2, test_share=0.2)


def remembered(folder, **settings):
    """The split of a folder by chapter 1, with its memory, as a Series of SHA-256 to subset."""
    file, before = splitting.memory_of_split(**settings)
    photos, _, _ = divided(folder, before=before)
    splitting.remember_split(file, before, photos)
    return photos.set_index("sha256")["split"]


def test_a_moved_folder_keeps_its_split(photos, working_folder):
    first = remembered(photos, data_seed=0)
    elm = photos.with_name("elsewhere") / "Elm only a few"
    photos = photos.rename(photos.with_name("moved and renamed"))
    for number in range(25):
        paint(photos / "Oak" / f"added {number}.jpg", seed=[7, number])
    second = remembered(photos, data_seed=0)
    assert len(second) == 55
    assert second[first.index].to_dict() == first.to_dict()
    shutil.copytree(photos, elm)
    for file in sorted(elm.glob("*/*"))[::3]:
        file.unlink()
    third = remembered(elm, data_seed=0)
    assert third.to_dict() == second[third.index].to_dict()
    assert remembered(photos, data_seed=0).to_dict() == second.to_dict()  # what was away is not forgotten
    assert len(list((places.DATA / "splits").glob("*.csv"))) == 1


# ---------------------------------------------------------------- folders


@pytest.fixture
def split(working_folder, photos):
    """A split in which two folded folders bring the same file name."""
    for number in range(5):
        paint(photos / "Elm___ill" / f"{number}.jpg", seed=[5, number])
    table, _, _ = divided(photos)
    return table


def contents(folder):
    return {file.relative_to(folder): file.read_bytes() for file in folder.rglob("*.*g")}


def test_folders_are_links_and_touch_no_original(split, photos, working_folder):
    originals, folder = contents(photos), working_folder / "data" / "split"
    assert splitting.link_folders(split, folder)
    assert contents(photos) == originals
    assert sorted(contents(folder).values()) == sorted(originals.values())
    for part, label in {(row.split, row.label) for row in split.itertuples()}:
        own = split[(split["split"] == part) & (split["label"] == label)]
        assert len(list((folder / part / label).iterdir())) == len(own)
    assert all(file.stat().st_nlink == 2 for file in folder.rglob("*.jpg"))


def test_folders_are_made_anew_only_when_the_split_changed(split, working_folder):
    folder = working_folder / "data" / "split"
    assert splitting.link_folders(split, folder)
    assert not splitting.link_folders(split, folder)
    assert splitting.link_folders(split.iloc[1:], folder)
    assert len(contents(folder)) == len(split) - 1
    next(folder.rglob("*.jpg")).unlink()  # somebody tidied up
    assert splitting.link_folders(split.iloc[1:], folder)
    assert len(contents(folder)) == len(split) - 1
    assert [entry.name for entry in folder.parent.iterdir() if entry.name.startswith("split")] == ["split"]


def test_a_photo_replaced_under_its_name_is_linked_anew(split, photos, working_folder):
    folder = working_folder / "data" / "split"
    splitting.link_folders(split, folder)
    row = split.index[0]
    paint(working_folder / "new.jpg", seed=99)
    (working_folder / "new.jpg").replace(split.loc[row, "path"])
    changed = split.assign(sha256=split["sha256"].where(split.index != row, "another"))
    assert splitting.link_folders(changed, folder)
    assert Path(split.loc[row, "path"]).read_bytes() in contents(folder).values()


def test_an_interrupted_linking_is_no_obstacle(split, working_folder, monkeypatch):
    usual, links = os.link, []

    def until_ctrl_c(*paths):
        links.append(paths)
        if len(links) == 5:
            raise KeyboardInterrupt
        usual(*paths)

    monkeypatch.setattr(os, "link", until_ctrl_c)
    with pytest.raises(KeyboardInterrupt):
        splitting.link_folders(split, places.DATA / "split")
    files.write_atomic(places.SPLIT_CSV, "as before")
    assert splitting.link_folders(split, places.DATA / "split")
    assert len(contents(places.DATA / "split")) == len(split)


def test_an_original_that_has_gone_is_named(split, working_folder):
    Path(split["path"][3]).unlink()
    with pytest.raises(
        InputError, match=f"{Path(split['path'][3]).name}: No such file or directory; check that this path exists"
    ):
        splitting.link_folders(split, places.DATA / "split")


def test_copies_are_made_where_links_are_impossible(split, photos, working_folder, monkeypatch):
    def refuse(*_):
        raise OSError(18, "Invalid cross-device link")

    originals = contents(photos)
    monkeypatch.setattr(os, "link", refuse)
    splitting.link_folders(split, working_folder / "data" / "split")
    assert sorted(contents(working_folder / "data" / "split").values()) == sorted(originals.values())
    assert contents(photos) == originals


def test_the_folders_made_are_no_input(split, working_folder):
    splitting.link_folders(split, places.DATA / "split")
    with pytest.raises(InputError, match="is written by chapter 1: set `data` to the original photos"):
        find_images(places.DATA / "split" / "train")
