"""Split photos without leaks between subsets: give each photo a group and a subset, then write and check the split."""

import hashlib
import os
import shutil
import warnings
from fractions import Fraction
from pathlib import Path

from leaves import files, places
from leaves.dataset import SUBSETS, load_split
from leaves.duplicates import nearest
from leaves.files import InputError, disk_errors_explained, link_or_copy, write_atomic, write_json
from leaves.photos import issue_table
from leaves.progress import tqdm

import numpy as np
import pandas as pd
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from sklearn.model_selection import StratifiedGroupKFold, train_test_split

COLUMNS = ["path", "label", "split", "group", "sha256", "width", "height", "disease", "fold"]  # of data/split.csv

# ---------------------------------------------------------------- divide


def group_photos(sha256, pairs):
    """Return each photo's group number: int, shape (n,); photos linked by `pairs`, even indirectly, share a group."""
    row = pd.Series(np.arange(len(sha256)), index=sha256)
    pairs = pairs[pairs["first"].isin(row.index) & pairs["second"].isin(row.index)]
    edges = row[pairs["first"]].to_numpy(), row[pairs["second"]].to_numpy()
    graph = coo_matrix((np.ones(len(pairs), bool), edges), shape=(len(row), len(row)))
    return connected_components(graph, directed=False)[1]


def split_photos(photos, pairs, validation, test, seed, before):
    """Give each photo a group, a subset and a fold, stratified by label; the photos of a group stay together.

    Parameters
    ----------
    photos : DataFrame with the columns sha256 (unique), path, label
    pairs : DataFrame from `find_duplicates`
    validation, test : float
        Fractions: `test` of all photos, then `validation` of the remaining photos.
    seed : int, 0 or more
    before : dict of SHA-256 to subset
        The subset of each photo in an earlier split. A photo keeps its subset unless it is excluded. First, each new
        photo that resembles photos of two subsets, even indirectly, is excluded. Then, if a group has
        earlier photos of several subsets, only those of one subset are kept: the test photos or, if the group has
        none, the validation photos.

    Returns
    -------
    photos : DataFrame, the photos that are not excluded, with the new columns group (int), split (str) and fold (int)
    issues : DataFrame, see `issue_table`

    Raises
    ------
    InputError
        When a fraction is not between 0.02 and 0.5, `seed` is negative, or a class would be missing from a subset.
    """
    photos, issues = exclude_bridges(photos, pairs, before)
    group = group_photos(photos["sha256"], pairs)
    earlier = photos["sha256"].map(before).groupby(group).transform("first")
    proposed = pd.Series(split_images(photos["label"], group, validation, test, seed))
    photos = photos.assign(group=group, split=earlier.where(earlier.notna(), proposed))
    photos = fill_gaps(photos, earlier.isna())
    return photos.assign(fold=divide_folds(photos, round(1 / validation), seed)), issue_table(issues)


def divide_folds(photos, folds, seed):
    """Divide the training photos into folds, stratified by label; groups stay whole. The validation subset is fold 0.

    Parameters
    ----------
    photos : DataFrame with the columns label, group and split
    folds : int
        The largest number of folds, including the validation subset. If there are few training photos, they are divided
        into fewer folds. If two folds of training photos are impossible, all training photos are in fold 1.

    Returns
    -------
    array of int, shape (n,): 0 for validation, 1, 2 ... for the folds of the training photos, -1 for test
    """
    fold = photos["split"].map({"train": 1, "validation": 0, "test": -1}).to_numpy(copy=True)
    rows = np.flatnonzero(fold == 1)
    train = photos.iloc[rows]
    count = min(folds - 1, int(train["label"].value_counts().max()), train["group"].nunique())
    if count < 2:
        return fold
    division = StratifiedGroupKFold(count, shuffle=True, random_state=seed)
    with warnings.catch_warnings():  # scikit-learn warns if a class has fewer photos than folds, see `fold_sentence`
        warnings.simplefilter("ignore", UserWarning)
        held_out = [part for _, part in division.split(train, train["label"], train["group"])]
    for number, part in enumerate(filter(len, held_out), 1):  # large groups may leave a fold empty
        fold[rows[part]] = number
    return fold


def fold_sentence(split):
    """Say how many photos the folds of a split have, and which classes are not in all of them."""
    outside = split[split["fold"] >= 0]
    sizes = outside["fold"].value_counts()
    counts = pd.crosstab(outside["label"], outside["fold"])
    sentence = f"Train and validation make up {len(sizes)} folds of about {sizes.mean():.0f} photos"
    lacking = counts.index[(counts == 0).any(axis=1)]
    if lacking.empty:
        return f"{sentence}, each with all classes."
    return f"{sentence}; some folds lack {' or '.join(lacking)}; a fold's macro F1 covers only the classes in it."


def exclude_bridges(photos, pairs, before):
    """Exclude photos, see `before` in `split_photos`; return the rest, and a list of tuples for `issue_table`."""
    issues = []
    for whose in ("new", "earlier"):
        earlier = photos["sha256"].map(before)
        group = group_photos(photos["sha256"], pairs)
        torn = earlier.groupby(group).transform("nunique") > 1
        rank = earlier.map({"test": 0, "validation": 1, "train": 2})
        lesser = rank.isna() if whose == "new" else rank > rank.groupby(group).transform("min")
        out = photos[torn & lesser]
        detail = f"{whose}, resembles photos of two subsets"
        issues += [(row.path, row.label, "bridge", detail, "") for row in out.itertuples()]
        photos = photos.drop(out.index).reset_index(drop=True)
    return photos, issues


def fill_gaps(photos, is_free):
    """Give each subset that lacks a class one group of new photos (`is_free`) of that class, or raise InputError."""
    for label in sorted(set(photos["label"])):
        own = photos["label"] == label
        for subset in SUBSETS:
            if (photos.loc[own, "split"] == subset).any():
                continue
            size = photos.groupby("group")["label"].transform("size")
            pure = (own & is_free).groupby(photos["group"]).transform("all")
            groups = photos[own].groupby("split")["group"].nunique()
            spare = photos.assign(size=size)[pure & photos["split"].isin(groups.index[groups > 1])]
            if spare.empty:
                raise InputError(
                    f"No photo of the class {label} can be given to {subset}: the class has too few photos, too many "
                    "of them resemble each other, or an earlier split fixed their subsets; add photos, lower "
                    "phash_distance, choose another data_seed, or delete data/splits to divide all photos again."
                )
            fullest = spare["split"].map(photos.loc[own, "split"].value_counts())
            chosen = spare.assign(fullest=-fullest).sort_values(["fullest", "size", "group"])["group"].iloc[0]
            photos.loc[photos["group"] == chosen, "split"] = subset
    return photos


def split_images(labels, groups, validation, test, seed):
    """Assign every image to train, validation or test, stratified by label; groups stay whole.

    Parameters
    ----------
    labels, groups : array, shape (n,)
    validation, test, seed : see `split_photos`; InputError if one of them has an invalid value

    Returns
    -------
    array of str, shape (n,)
    """
    if seed < 0:
        raise InputError(f"data_seed is {seed}, but a seed must be 0 or more.")
    labels, groups = np.asarray(labels), np.asarray(groups)
    subset = np.full(len(labels), "train", dtype=object)
    for name, fraction in (("test", test), ("validation", validation)):
        if not 0.02 <= fraction <= 0.5:
            raise InputError(f"{name}_share is {fraction}, but it must lie between 0.02 and 0.5.")
        rest = np.flatnonzero(subset == "train")
        most_folds = min(50, int(pd.Series(labels[rest]).value_counts().max()))
        share = Fraction(fraction).limit_denominator(most_folds) or Fraction(1, most_folds)
        folds = StratifiedGroupKFold(share.denominator, shuffle=True, random_state=seed)
        with warnings.catch_warnings():  # scikit-learn warns of classes with fewer photos than folds; see `fill_gaps`
            warnings.simplefilter("ignore", UserWarning)
            held_out = [fold for _, fold in folds.split(rest, labels[rest], groups[rest])][: share.numerator]
        subset[rest[np.concatenate(held_out)]] = name
    return subset


def split_sentences(photos, before, bridges):
    """Say how many photos keep their subset, are new, are excluded (see `split_photos`), and resemble another one."""
    old, group_sizes = photos["sha256"].isin(before), photos["group"].value_counts()
    return (
        f"Photos that keep their subset: {old.sum()}; new: {(~old).sum()}; excluded, because they resemble photos of "
        f"two subsets: {len(bridges)}.\n"
        f"Of {len(photos)} photos, {group_sizes[group_sizes > 1].sum()} resemble another photo."
    )


def random_split_sentence(photos, pairs, test, seed):
    """Say how many pairs of similar photos a random test subset would have separated."""
    drawn = set(train_test_split(photos["sha256"], test_size=test, random_state=seed)[1])
    torn = pairs["first"].isin(drawn) != pairs["second"].isin(drawn)
    return f"A random test subset would have separated {torn.sum()} of {len(pairs)} pairs of similar photos."


# ---------------------------------------------------------------- remember and write


def memory_of_split(**settings):
    """Find and read the file in which earlier splits with the same settings recorded the subset of each photo.

    A photo is recognised by its content, wherever its file is.

    Parameters
    ----------
    **settings : float, int or str
        The parameters of the split: validation_share, test_share, phash_distance, data_seed. A synthetic sample also
        has `sample`, the name of its folder, because a smaller sample shares leaves with a larger one.

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
    file = places.DATA / "splits" / f"split-{key}.csv"
    try:
        before = pd.read_csv(file, index_col="sha256")["split"]
    except FileNotFoundError:
        if others := [other.name for other in file.parent.glob("*.csv") if not other.name.startswith("split-")]:
            print(f"Splits from older code are not read: {', '.join(sorted(others))}; the photos are divided again.")
        return file, {}
    except (ValueError, KeyError):
        before = pd.Series(["damaged"])
    if not (files.matches_checksum(file) and before.isin(SUBSETS).all()):
        raise InputError(
            f"data/splits/{file.name} is damaged: restore it and its .sha256, or delete it to divide all photos again."
        )
    return file, before.to_dict()


def remember_split(file, before, photos):
    """Write the subset of each photo, from earlier splits and from this one, to the file that `memory_of_split` reads.

    Parameters
    ----------
    file, before : from `memory_of_split`
    photos : DataFrame with the columns sha256 and split
    """
    decisions = before | dict(zip(photos["sha256"], photos["split"], strict=True))
    files.write_with_checksum(file, pd.Series(decisions, name="split").to_csv(index_label="sha256"))


def write_split(photos, issues, data, name, settings):
    """Write split.csv, data_issues.csv and source.json to data/; files inside the project get paths relative to it.

    Parameters
    ----------
    photos : DataFrame from `split_photos`, with the columns of `photos.inspect_images`
    issues : DataFrame, see `issue_table`
    data : str, from `sources.chosen_data`
    name : str, a description of the source of the photos
    settings : dict of the parameters of the split

    Returns
    -------
    DataFrame, see `dataset.load_split`
    """
    inside = str(places.ROOT) + os.sep
    photos = photos.assign(path=photos["path"].str.removeprefix(inside))
    issues = issues.assign(**{column: issues[column].str.removeprefix(inside) for column in ("path", "other")})
    files.write_with_checksum(places.SPLIT_CSV, photos[COLUMNS].to_csv(index=False))
    write_atomic(places.DATA / "data_issues.csv", issues.to_csv(index=False))
    split = load_split()
    write_json(places.SOURCE_JSON, {"data": data, "name": name, "split": split.attrs["hash"], "settings": settings})
    return split


def link_folders(split, folder):
    """Link each photo as <subset>/<class>/<file name> in `folder`, or copy it if a hard link is impossible.

    If the folder is already complete for this split, it is kept. The original photos are never changed.

    Returns
    -------
    bool, True if the folder was filled, False if it was kept
    """
    stamp_file = folder / ".made-for"
    stamp = hashlib.sha256(split[["path", "label", "split", "sha256"]].to_csv(index=False).encode()).hexdigest()
    count = sum(len(names) for _, _, names in os.walk(folder)) - 1  # without the stamp file
    if stamp_file.exists() and stamp_file.read_text() == stamp and count == len(split):
        return False
    unfinished = folder.with_name(f"{folder.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    with disk_errors_explained(unfinished):
        for row in tqdm(split.itertuples(), "linking", len(split), mininterval=2):
            original = os.path.realpath(places.ROOT / row.path)
            link = unfinished / row.split / row.label / Path(row.path).name
            if link.exists():  # folders merged into one class may contain equal file names
                link = link.with_name(f"{row.sha256[:8]}-{link.stem[:50]}{link.suffix}")
            link_or_copy(original, link)
        (unfinished / stamp_file.name).write_text(stamp)
        shutil.rmtree(folder, ignore_errors=True)
        unfinished.rename(folder)
    return True


# ---------------------------------------------------------------- check the result


def count_classes(split):
    """Count the photos of each class in each subset, largest class first: DataFrame of int, one column per subset."""
    counts = pd.crosstab(split["label"], split["split"])[list(SUBSETS)]
    return counts.loc[counts.sum(axis=1).sort_values(ascending=False).index]


def subset_sizes(split):
    """Say how many photos each subset has, as in "train 640, validation 160, test 200"."""
    return ", ".join(f"{subset} {(split['split'] == subset).sum()}" for subset in SUBSETS)


def nearest_elsewhere(photos):
    """Find, for each photo, the nearest photo of another subset.

    Parameters
    ----------
    photos : DataFrame with the columns split, label, sha256 and phashes

    Returns
    -------
    DataFrame with the columns of `photos`, bits (the number of bits in which the perceptual hashes of the photo and its
    nearest photo differ) and twin (the SHA-256 of the nearest photo), ordered by subset
    """
    tables = []
    for subset in SUBSETS:
        own, others = photos[photos["split"] == subset], photos[photos["split"] != subset]
        rows, bits = nearest(own, others)
        tables.append(own.assign(bits=bits, twin=others["sha256"].to_numpy()[rows]))
    return pd.concat(tables)


def check_leaks(split, near, settings):
    """Check that a split has the requested shares, no leak and no missing class.

    Parameters
    ----------
    split : DataFrame from `dataset.load_split`
    near : DataFrame from `nearest_elsewhere`
    settings : dict of the parameters of the split

    Returns
    -------
    DataFrame with the columns found, expected and match, one row per check

    Raises
    ------
    InputError
        When photos of two subsets are too similar.
    """
    too_near = (near["bits"] <= settings["phash_distance"]).sum()
    if too_near:
        raise InputError("The split has a leak: delete data/splits and run this chapter again.")
    outside_test = 1 - settings["test_share"]
    shares = {"validation": outside_test * settings["validation_share"], "test": settings["test_share"]}
    shares["train"] = 1 - sum(shares.values())
    checks = {
        "photos too similar to a photo in another subset": (too_near, 0),
        "groups split across folds": (len(split.groupby(["group", "split", "fold"])) - split["group"].nunique(), 0),
        "classes missing from a subset": ((count_classes(split) == 0).any(axis=1).sum(), 0),
        **{f"share of {subset}": ((split["split"] == subset).sum() / len(split), shares[subset]) for subset in SUBSETS},
    }
    table = pd.DataFrame(checks, index=["found", "expected"]).T
    return table.assign(match=np.where((table["found"] - table["expected"]).abs() < 0.03, "✓", "✗"))


def closest_pairs(near, count=6):
    """Find the `count` most similar pairs of photos from different subsets; no photo is in two pairs.

    Parameters
    ----------
    near : DataFrame from `nearest_elsewhere`

    Returns
    -------
    DataFrame with the columns bits, sha256, twin (SHA-256 of the second photo), and name and twin_name (class and
    subset of the two photos)
    """
    pairs, used = [], set()
    for photo in near.sort_values("bits", kind="stable").itertuples():
        if len(pairs) < count and not used & {photo.sha256, photo.twin}:
            pairs.append((photo.bits, photo.sha256, photo.twin))
            used |= {photo.sha256, photo.twin}
    pairs = pd.DataFrame(pairs, columns=["bits", "sha256", "twin"])
    names = (near["label"] + "\n" + near["split"]).set_axis(near["sha256"])
    return pairs.assign(name=pairs["sha256"].map(names), twin_name=pairs["twin"].map(names))


def data_card(split, issues, name):
    """Describe the data of a run: Series of topic to text; `name` is the source in words."""
    counts = count_classes(split).sum(axis=1)
    sides, is_out = split[["width", "height"]], issues["action"] == "excluded"
    low, middle, high = (" x ".join(f"{side:.0f}" for side in sides.agg(how)) for how in ("min", "median", "max"))
    span = f" (median), sides from {sides.min().min()} to {sides.max().max()}" if low != high else ""
    size, ratio = f"{middle} pixels{span}", f"{counts.max() / counts.min():.1f}"
    told = "" if size in name else f"; {size}"
    card = {
        "Data": name,
        "Images": f"{len(split):,} of {len(counts)} classes: {subset_sizes(split)}{told}",
        "Imbalance": f"{counts.index[0]} {counts.max():,} to {counts.index[-1]} {counts.min():,}, a ratio of {ratio}",
    }
    for topic, rows in (("Excluded", issues[is_out]), ("Kept with a note", issues[~is_out])):
        if len(rows):
            card[topic] = count_checks(rows)
    return pd.Series(card)


def count_checks(issues):
    """List the number of findings per check, as in "blank (1), exact copy (2)"."""
    counts = issues["check"].value_counts(sort=False)
    return ", ".join(f"{check} ({count})" for check, count in counts.items())
