"""From photos to a split without a leak: which photos are the same, which part each gets, and the split as folders."""

import hashlib
import os
import shutil
import warnings
from fractions import Fraction
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from sklearn.model_selection import StratifiedGroupKFold
from tqdm import tqdm

import helpers
from data import image_store
from data.intake import issue_table, usable
from helpers import PARTS, InputError

# Correlation of grey levels at 16 x 16 pixels. Of 1,402 real photos, those near by their hashes reached 0.90 if they
# showed different leaves, 0.96 and 0.97 if one leaf was photographed twice; photos saved anew, resized or brightened
# kept 0.988 or more.
SAME_LEAF, SAME_PHOTO = 0.93, 0.98


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
        once = rows + row < columns + column
        rows, columns = rows[once], columns[once]
        found.append(np.stack([rows + row, columns + column, block[rows, columns]], axis=1))
    return pd.DataFrame(np.concatenate(found), columns=["first", "second", "distance"])


def nearest(photos, among):
    """For each of some photos the nearest of some others: (row number in `among`, distance in bits)."""
    place, fewest = np.zeros(len(photos), int), np.full(len(photos), 65)
    blocks = distance_blocks(hash_array(photos["phashes"]), hash_array(among["phashes"]), "looking for neighbours")
    for row, column, block in blocks:
        rows = np.arange(row, row + len(block))
        nearer = rows[block.min(axis=1) < fewest[rows]]
        place[nearer], fewest[nearer] = column + block[nearer - row].argmin(axis=1), block[nearer - row].min(axis=1)
    return place, fewest


def find_duplicates(images, distance):
    """Tell exact copies, near duplicates, two shots of one leaf and photos under two labels.

    A near duplicate differs in at most `distance` bits of the perceptual hash. Up to twice as far, photos whose pixels
    agree as well are taken for two shots of one leaf. Photos of two labels count as one photo under two labels only if
    both hash and pixels say so. All this is told from the photos alone, whatever lies beside them.

    Returns
    -------
    pairs : DataFrame of photos that belong in one part, with the columns first, second (SHA-256), distance, likeness
    issues : DataFrame, see `issue_table`
    """
    if not 0 <= distance <= 8:
        raise InputError(f"phash_distance is {distance}, but it must lie between 0 and 8 (of 64 bits).")
    copies = equal_files(images)
    photos = usable(images, copies)
    pairs = near_pairs(photos, 2 * distance)
    pairs["likeness"] = likeness(photos["thumb"].iloc[pairs["first"]], photos["thumb"].iloc[pairs["second"]])
    labels, near = photos["label"].to_numpy(), pairs["distance"] <= distance
    conflict = near & (pairs["likeness"] >= SAME_PHOTO) & (labels[pairs["first"]] != labels[pairs["second"]])
    kinds = {"label conflict": conflict, "near duplicate": near, "same leaf": pairs["likeness"] >= SAME_LEAF}
    pairs["check"] = np.select(list(kinds.values()), list(kinds), "")
    pairs = pairs[pairs["check"] != ""]
    torn = pairs["check"] == "label conflict"
    found = pd.concat([pairs, pairs[torn].rename(columns={"first": "second", "second": "first"})])  # both are left out
    found["kept"] = found["check"] != "label conflict"
    found = found.sort_values(["kept", "distance"], kind="stable").drop_duplicates("second")  # one finding a photo
    names, paths = [short_name(path) for path in photos["path"]], photos["path"].to_numpy()
    issues = []
    for pair in found.sort_values("second", kind="stable").itertuples():
        told = f"{pair.distance} of 64 bits from {names[pair.first]}, correlation {pair.likeness:.2f}"
        issues.append((paths[pair.second], labels[pair.second], pair.check, told, paths[pair.first]))
    pairs = pairs[~torn].drop(columns="check").reset_index(drop=True)
    pairs[["first", "second"]] = photos["sha256"].to_numpy()[pairs[["first", "second"]]]
    return pairs, pd.concat([copies, issue_table(issues)], ignore_index=True)


def seen_before(photos, known, distance):
    """Tell which photos equal a known photo, nearly equal one or are another shot of its leaf.

    The rules and constants are those of `find_duplicates`; labels do not count.

    Parameters
    ----------
    photos, known : DataFrames with the columns sha256, phashes and thumb, from `intake.inspect_images`
        A photo that did not open is compared by its SHA-256 alone.
    distance : int
        Bits of the perceptual hash in which near duplicates may differ.

    Returns
    -------
    array of bool, shape (len(photos),)
    """
    seen = ((photos["sha256"] != "") & photos["sha256"].isin(known["sha256"])).to_numpy(bool, copy=True)
    rows, known = np.flatnonzero(~seen & (photos["phashes"] != "")), known[known["phashes"] != ""]
    photos = photos.iloc[rows]
    thumbs, known_thumbs = photos["thumb"].to_numpy(), known["thumb"].to_numpy()
    hashes, known_hashes = hash_array(photos["phashes"]), hash_array(known["phashes"])
    for row, column, block in distance_blocks(hashes, known_hashes, "comparing with known photos"):
        here = rows[row : row + len(block)]
        seen[here] |= (block <= distance).any(axis=1)
        one, other = np.nonzero((block <= 2 * distance) & ~seen[here, None])
        same_leaf = likeness(thumbs[row + one], known_thumbs[column + other]) >= SAME_LEAF
        seen[here[one[same_leaf]]] = True
    return seen


def short_name(path):
    """The class folder and the name of a photo."""
    return "/".join(Path(path).parts[-2:])


def equal_files(images):
    """The issues of photos whose files are equal: all of them if their labels differ, else all but the first."""
    issues = []
    for _, files in images[images.duplicated("sha256", keep=False)].groupby("sha256"):
        paths, labels = files["path"].tolist(), files["label"].tolist()
        if len(set(labels)) > 1:
            told = f"the same file under {' and '.join(sorted(set(labels)))}"
            others = [paths[1], *paths[:1] * (len(paths) - 1)]
            issues += [(*row, "label conflict", told, other) for *row, other in zip(paths, labels, others, strict=True)]
        else:
            told = f"equal to {short_name(paths[0])}"
            issues += [(path, labels[0], "exact copy", told, paths[0]) for path in paths[1:]]
    return issue_table(issues)


def likeness(ones, others):
    """Correlation of grey levels in pairs of thumbnails, the highest over all ways to turn or mirror one of them.

    Parameters
    ----------
    ones, others : sequences of hex digits from `inspect_image`, length n

    Returns
    -------
    array of float32, shape (n,)
    """
    found = [np.empty(0, np.float32)]
    for start in range(0, len(ones), 4096):
        one, other = (grey_levels(thumbs[start : start + 4096]) for thumbs in (ones, others))
        turned = [np.rot90(view, quarter, (1, 2)) for view in (other, other.swapaxes(1, 2)) for quarter in range(4)]
        found.append(np.max([(one * view).sum(axis=(1, 2)) for view in turned], axis=0))
    return np.concatenate(found)


def grey_levels(thumbs):
    """Thumbnails in hex as float32, shape (n, 16, 16), each with mean 0 and norm 1."""
    levels = np.frombuffer(bytes.fromhex("".join(thumbs)), np.uint8).reshape(-1, 16, 16).astype(np.float32)
    levels -= levels.mean(axis=(1, 2), keepdims=True)
    return levels / np.maximum(np.linalg.norm(levels, axis=(1, 2), keepdims=True), 1e-6)


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
        What an earlier split decided: adding photos moves none of these. A new photo that is like photos of two
        parts is left out; so is, of earlier photos that turn out to be alike, the one in the lesser part.

    Returns
    -------
    photos : DataFrame with the columns given and group (int) and split
    issues : DataFrame, see `issue_table`

    Raises
    ------
    InputError
        When a fraction is not between 0.02 and 0.5, or a class would be missing from a part.
    """
    photos, issues = leave_out_bridges(photos, pairs, before)
    group = group_photos(photos["sha256"], pairs)
    earlier = photos["sha256"].map(before).groupby(group).transform("first")
    proposed = pd.Series(split_images(photos["label"], group, validation, test, seed))
    photos = photos.assign(group=group, split=earlier.where(earlier.notna(), proposed))
    return fill_gaps(photos, earlier.isna()), issue_table(issues)


def leave_out_bridges(photos, pairs, before):
    """Photos without those that would tie two parts together, and the rows of `issue_table` about these."""
    issues = []
    for whose in ("new", "earlier"):
        earlier = photos["sha256"].map(before)
        group = group_photos(photos["sha256"], pairs)
        torn = earlier.groupby(group).transform("nunique") > 1
        rank = earlier.map({"test": 0, "validation": 1, "train": 2})
        lesser = rank.isna() if whose == "new" else rank > rank.groupby(group).transform("min")
        out = photos[torn & lesser]
        issues += [
            (row.path, row.label, "bridge", f"{whose}, and like photos of two subsets", "") for row in out.itertuples()
        ]
        photos = photos.drop(out.index).reset_index(drop=True)
    return photos, issues


def fill_gaps(photos, is_free):
    """Move a group of free photos into each part that misses a class; InputError where there is none to move."""
    for label in sorted(set(photos["label"])):
        own = photos["label"] == label
        for part in PARTS:
            if (photos.loc[own, "split"] == part).any():
                continue
            size = photos.groupby("group")["label"].transform("size")
            pure = (own & is_free).groupby(photos["group"]).transform("all")
            groups = photos[own].groupby("split")["group"].nunique()
            spare = photos.assign(size=size)[pure & photos["split"].isin(groups.index[groups > 1])]
            if spare.empty:
                raise InputError(
                    f"No photo of the class {label} can be given to {part}: they are too few, too alike or bound by an "
                    "earlier split; add photos, lower phash_distance, or split anew with another data_seed or after "
                    "deleting data/splits."
                )
            fullest = spare["split"].map(photos.loc[own, "split"].value_counts())
            chosen = spare.assign(fullest=-fullest).sort_values(["fullest", "size", "group"])["group"].iloc[0]
            photos.loc[photos["group"] == chosen, "split"] = part
    return photos


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
    if seed < 0:
        raise InputError(f"data_seed is {seed}, but a seed must be 0 or more.")
    labels, groups = np.asarray(labels), np.asarray(groups)
    part = np.full(len(labels), "train", dtype=object)
    for name, fraction in (("test", test), ("validation", validation)):
        if not 0.02 <= fraction <= 0.5:
            raise InputError(f"The {name} fraction is {fraction}, but it must lie between 0.02 and 0.5.")
        rest = np.flatnonzero(part == "train")
        most_folds = min(50, int(pd.Series(labels[rest]).value_counts().max()))
        share = Fraction(fraction).limit_denominator(most_folds) or Fraction(1, most_folds)
        folds = StratifiedGroupKFold(share.denominator, shuffle=True, random_state=seed)
        with warnings.catch_warnings():  # of a class with fewer photos than folds: `fill_gaps` looks after it
            warnings.simplefilter("ignore", UserWarning)
            held_out = [fold for _, fold in folds.split(rest, labels[rest], groups[rest])][: share.numerator]
        part[rest[np.concatenate(held_out)]] = name
    return part


def memory_of_split(**settings):
    """Find the file that remembers to which subset each photo went under these settings, and read it.

    Photos are known by their content: the folder in which they lie does not count.

    Parameters
    ----------
    **settings : float or int
        The parameters of the split: shares, phash_distance, data_seed.

    Returns
    -------
    file : Path in data/splits
    before : dict of SHA-256 to subset, empty if there is no such file

    Raises
    ------
    InputError
        When the file is damaged.
    """
    key = hashlib.sha256(repr(sorted(settings.items())).encode()).hexdigest()[:8]
    file = helpers.DATA / "splits" / f"split-{key}.csv"
    try:
        before = pd.read_csv(file, index_col="sha256")["split"]
    except FileNotFoundError:
        if others := [other.name for other in file.parent.glob("*.csv") if not other.name.startswith("split-")]:
            print(f"Not read: {', '.join(sorted(others))}, by an earlier version; the photos are divided anew.")
        return file, {}
    except (ValueError, KeyError):
        before = pd.Series(["damaged"])
    if not before.isin(PARTS).all():
        raise InputError(
            f"data/splits/{file.name} is damaged: bring back a copy, or delete it to divide all photos anew."
        )
    return file, before.to_dict()


def remember_split(file, before, photos):
    """Write all decisions ever made under the settings of a file: those of `memory_of_split` and the new ones.

    Parameters
    ----------
    file, before : from `memory_of_split`
    photos : DataFrame with the columns sha256 and split
    """
    decisions = before | dict(zip(photos["sha256"], photos["split"], strict=True))
    helpers.write_whole(file, pd.Series(decisions, name="split").to_csv(index_label="sha256"))


def lay_out(split, folder):
    """Make the split as folders of hard links, or of copies on another file system: <part>/<class>/<file name>.

    Nothing is done if they stand already; the originals are never touched.

    Returns
    -------
    bool, whether the folders were made
    """
    stamp_file = folder / ".made-for"
    wanted = hashlib.sha256(split[["path", "label", "split", "sha256"]].to_csv(index=False).encode()).hexdigest()
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
