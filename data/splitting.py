"""From photos to a split without a leak: which photos are the same, who goes where, and the split as folders."""

import hashlib
import os
import shutil
import warnings
from fractions import Fraction
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from sklearn.model_selection import StratifiedGroupKFold
from tqdm import tqdm

import helpers
from data import image_store
from data.intake import issue_table
from helpers import PARTS, InputError

# Correlation of grey levels at 32 x 32 pixels. Of 1,402 real photos, those near by their hashes reached 0.87 if they
# showed different leaves, 0.93 and 0.95 if one leaf was photographed twice; a photo saved anew, resized or brightened
# kept 0.96 or more.
SAME_LEAF, SAME_PHOTO = 0.9, 0.955


# ---------------------------------------------------------------- tell which are the same


def hash_array(phashes):
    """The hex digits of `inspect_image` as an array of uint64, shape (n, 8)."""
    return np.frombuffer(bytes.fromhex("".join(phashes)), ">u8").reshape(-1, 8).astype(np.uint64)


def hash_distances(left, right):
    """Bits in which two photos' perceptual hashes differ, the fewest over all ways to turn or mirror one of them.

    Parameters
    ----------
    left, right : arrays from `hash_array`, shapes (n, 8) and (m, 8)

    Returns
    -------
    array of uint8, shape (n, m); symmetric: each photo is turned against the other
    """
    fewest = np.full((len(left), len(right)), 64, np.uint8)
    for turn in range(8):
        for one, other in ((left[:, :1], right[None, :, turn]), (left[:, turn, None], right[None, :, 0])):
            np.minimum(fewest, np.bitwise_count(one ^ other), out=fewest)
    return fewest


def distance_blocks(left, right, title):
    """Yield (first row, first column, block) of the matrix of `hash_distances`, in blocks that fit a cache."""
    corners = [(row, column) for row in range(0, len(left), 64) for column in range(0, len(right), 4096)]

    def block(corner):
        row, column = corner
        return row, column, hash_distances(left[row : row + 64], right[column : column + 4096])

    return image_store.in_parallel(block, corners, len(corners), title)


def near_pairs(photos, distance):
    """The pairs of photos whose hashes differ in at most `distance` of 64 bits, turned and mirrored photos included.

    Parameters
    ----------
    photos : DataFrame with the column phashes
    distance : int

    Returns
    -------
    DataFrame with the columns first, second (row numbers, first < second) and distance
    """
    hashes, found = hash_array(photos["phashes"]), []
    for row, column, block in distance_blocks(hashes, hashes, "comparing"):
        rows, columns = np.nonzero(block <= distance)
        found.append(np.stack([rows + row, columns + column, block[rows, columns]], axis=1))
    pairs = pd.DataFrame(np.concatenate(found), columns=["first", "second", "distance"])
    return pairs[pairs["first"] < pairs["second"]].reset_index(drop=True)


def nearest(photos, among):
    """For each of some photos the nearest of some others: (row number in `among`, distance in bits)."""
    place, fewest = np.zeros(len(photos), int), np.full(len(photos), 65)
    blocks = distance_blocks(hash_array(photos["phashes"]), hash_array(among["phashes"]), "looking for neighbours")
    for row, column, block in blocks:
        rows = np.arange(row, row + len(block))
        nearer = rows[block.min(axis=1) < fewest[rows]]
        place[nearer], fewest[nearer] = column + block[nearer - row].argmin(axis=1), block[nearer - row].min(axis=1)
    return place, fewest


def find_duplicates(images, distance, size):
    """Tell exact copies, near duplicates, two shots of one leaf and photos under two labels.

    A near duplicate differs in at most `distance` bits of the perceptual hash. Up to twice as far, photos whose pixels
    agree as well are taken for two shots of one leaf. Photos of two labels are called one photo under two labels only
    if both hash and pixels say so.

    Returns
    -------
    pairs : DataFrame of photos that belong on one side, with the columns first, second (SHA-256), distance, likeness
    issues : DataFrame, see `issue_table`
    """
    if not 0 <= distance <= 8:
        raise InputError(f"phash_distance is {distance}, but it must lie between 0 and 8 (of 64 bits).")
    name = images["label"] + "/" + images["path"].map(os.path.basename)
    files = images.groupby("sha256")
    conflict = files["label"].transform("nunique") > 1
    copy = files.cumcount().gt(0) & ~conflict
    told = pd.Series("", images.index).mask(copy, "equal to " + name.groupby(images["sha256"]).transform("first"))
    told = told.mask(
        conflict, "filed under " + files["label"].transform(lambda labels: " and ".join(sorted(set(labels))))
    )
    check = told.mask(copy, "exact copy").mask(conflict, "label conflict")
    first, last = (files["path"].transform(place) for place in ("first", "last"))
    equal = zip(images["path"], images["label"], check, told, first.where(first != images["path"], last), strict=True)
    issues = [row for row in equal if row[2]]

    photos = images[~conflict & ~copy].reset_index(drop=True)
    name = photos["label"] + "/" + photos["path"].map(os.path.basename)
    pairs = near_pairs(photos, 2 * distance)
    pixels = image_store.open_images(helpers.CACHE, size, photos["sha256"])
    rows = zip(pairs["first"], pairs["second"], strict=True)
    pairs["likeness"] = [likeness(pixels[first], pixels[second]) for first, second in rows]
    labels = photos["label"].to_numpy()
    near = pairs["distance"] <= distance
    conflict = near & (pairs["likeness"] >= SAME_PHOTO) & (labels[pairs["first"]] != labels[pairs["second"]])
    pairs["check"] = np.select(
        [conflict, near, pairs["likeness"] >= SAME_LEAF], ["label conflict", "near duplicate", "same leaf"], ""
    )
    pairs = pairs[pairs["check"] != ""]
    for pair in pairs.itertuples():
        for one, other in ((pair.second, pair.first), (pair.first, pair.second))[
            : 1 + (pair.check == "label conflict")
        ]:
            detail = f"{pair.distance} of 64 bits from {name[other]}, correlation {pair.likeness:.2f}"
            issues.append((photos["path"][one], photos["label"][one], pair.check, detail, photos["path"][other]))
    pairs[["first", "second"]] = photos["sha256"].to_numpy()[pairs[["first", "second"]]]
    return pairs[pairs["check"] != "label conflict"].drop(columns="check"), issue_table(issues)


def likeness(one, other):
    """Correlation of two decoded images' grey levels, the highest over all ways to turn or mirror one of them.

    Parameters
    ----------
    one, other : uint8 arrays, shape (size, size, 3)
    """

    def grey(image):
        shrunk = Image.fromarray(image).convert("L").resize((32, 32), Image.Resampling.LANCZOS)
        levels = np.asarray(shrunk, np.float32) - np.mean(shrunk)
        return levels / max(np.linalg.norm(levels), 1e-6)

    one, other = grey(one), grey(other)
    return max(float((one * np.rot90(view, quarter)).sum()) for view in (other, other.T) for quarter in range(4))


# ---------------------------------------------------------------- split


def group_photos(sha256, pairs):
    """Number the groups of photos that are joined by `pairs`, directly or through others: array of int, shape (n,)."""
    row = pd.Series(np.arange(len(sha256)), index=sha256)
    pairs = pairs[pairs["first"].isin(row.index) & pairs["second"].isin(row.index)]
    edges = row[pairs["first"]].to_numpy(), row[pairs["second"]].to_numpy()
    graph = coo_matrix((np.ones(len(pairs), bool), edges), shape=(len(row), len(row)))
    return connected_components(graph, directed=False)[1]


def divide(photos, pairs, validation, test, seed, before):
    """Give every photo its group and its part: stratified by label, groups whole, earlier decisions kept.

    Parameters
    ----------
    photos : DataFrame with the columns sha256 (unique), path, label
    pairs : DataFrame from `find_duplicates`
    validation, test : float
        Fractions: `test` of all photos, then `validation` of what is left.
    before : dict of SHA-256 to part
        What an earlier split decided: adding photos moves none of these. A new photo that is near to photos of
        two parts is left out.

    Returns
    -------
    photos : DataFrame with the columns given and group (int) and split
    issues : DataFrame, see `issue_table`

    Raises
    ------
    InputError
        When a fraction is not between 0.02 and 0.5, or a class would be missing from a part.
    """
    earlier = photos["sha256"].map(before)
    bridge = earlier.isna() & (earlier.groupby(group_photos(photos["sha256"], pairs)).transform("nunique") > 1)
    issues = [(row.path, row.label, "bridge", "", "") for row in photos[bridge].itertuples()]
    photos = photos[~bridge].reset_index(drop=True)
    group = group_photos(photos["sha256"], pairs)
    proposed = pd.Series(split_images(photos["label"], group, validation, test, seed))
    kept = photos["sha256"].map(before).groupby(group).transform("first")  # of the group's earlier photos
    photos = photos.assign(group=group, split=kept.where(kept.notna(), proposed))
    counts = pd.crosstab(photos["label"], photos["split"]).reindex(columns=PARTS, fill_value=0)
    for label, part in zip(*np.nonzero(counts == 0), strict=True):
        raise InputError(
            f"No image of the class {counts.index[label]} is left for {PARTS[part]}: its photos are too few or too "
            "alike; add photos, lower phash_distance or change the fractions."
        )
    return photos, issue_table(issues)


def split_images(labels, groups, validation, test, seed):
    """Assign every image to train, validation or test: stratified by label, groups never torn apart.

    Parameters
    ----------
    labels, groups : array, shape (n,)
    validation, test : float, as of `divide`

    Returns
    -------
    array of str, shape (n,)
    """
    labels, groups = np.asarray(labels), np.asarray(groups)
    part = np.full(len(labels), "train", dtype=object)
    for name, fraction in (("test", test), ("validation", validation)):
        if not 0.02 <= fraction <= 0.5:
            raise InputError(f"The {name} fraction is {fraction}, but it must lie between 0.02 and 0.5.")
        rest = np.flatnonzero(part == "train")
        most_folds = min(50, int(pd.Series(labels[rest]).value_counts().max()))
        share = Fraction(fraction).limit_denominator(most_folds) or Fraction(1, most_folds)
        folds = StratifiedGroupKFold(share.denominator, shuffle=True, random_state=seed)
        fold = np.empty(len(rest), int)
        with warnings.catch_warnings():  # a class with fewer photos than folds is looked after below
            warnings.simplefilter("ignore", UserWarning)
            for number, (_, held_out) in enumerate(folds.split(rest, labels[rest], groups[rest])):
                fold[held_out] = number
        # Take neighbouring folds as the part, from where it misses the fewest classes.
        choices = [(fold - first) % share.denominator < share.numerator for first in range(share.denominator)]
        part[rest[max(choices, key=lambda chosen: len(set(labels[rest[chosen]])))]] = name
    return part


def memory_of_split(folder, **settings):
    """The file in data/splits that remembers which part each photo of a folder got under these settings."""
    key = hashlib.sha256(repr((str(folder), sorted(settings.items()))).encode()).hexdigest()[:8]
    return helpers.DATA / "splits" / f"{helpers.slug(Path(folder).name)}-{key}.csv"


def lay_out(split, folder):
    """Make the split as folders of hard links, or of copies on another file system: <part>/<class>/<file name>.

    Nothing is done if they stand already; the originals are never touched.

    Returns
    -------
    bool, whether the folders were made
    """
    stamp_file = folder / ".made-for"
    wanted = hashlib.sha256(split[["path", "label", "split"]].to_csv(index=False).encode()).hexdigest()
    made = sum(len(files) for _, _, files in os.walk(folder)) - 1
    if stamp_file.exists() and stamp_file.read_text() == wanted and made == len(split):
        return False
    unfinished = folder.with_name(f"{folder.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    with helpers.disk_trouble_told(unfinished):
        for row in tqdm(split.itertuples(), "linking", len(split), mininterval=2):
            original = os.path.realpath(helpers.ROOT / row.path)
            link = unfinished / row.split / row.label / Path(row.path).name
            if link.exists():  # folded classes may bring the same name twice
                link = link.with_name(f"{row.sha256[:8]}-{link.name}")
            link.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(original, link)
            except OSError:
                shutil.copy2(original, link)
        (unfinished / stamp_file.name).write_text(wanted)
        shutil.rmtree(folder, ignore_errors=True)
        unfinished.rename(folder)
    return True
