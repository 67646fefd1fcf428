"""Find equal files, near duplicates, two shots of one leaf, and photos that appear under two labels."""

from pathlib import Path

from leaves.files import InputError
from leaves.image_store import in_parallel
from leaves.photos import check_class_counts, issue_table, issues_of, usable

import numpy as np
import pandas as pd

# Two photos with similar perceptual hashes (see `find_duplicates`) count as shots of the same leaf if the correlation
# of their grey levels at 16 x 16 pixels is at least `SAME_LEAF`, and as the same photo if it is at least `SAME_PHOTO`.
# Among 1,402 real photos, the pairs with similar perceptual hashes had a correlation of at most 0.90 if they showed
# different leaves, and of 0.96 or 0.97 if they showed the same leaf. A photo that was saved again, resized or
# brightened had a correlation of 0.988 or more with the original.
SAME_LEAF, SAME_PHOTO = 0.93, 0.98


def keep_usable(images, issues, folder, distance):
    """Exclude unusable images, exact copies (all but the first of equal files) and photos under two labels.

    Near duplicates and two shots of one leaf are kept. They are returned as pairs, which must stay in one subset.

    Parameters
    ----------
    images : DataFrame from `photos.inspect_images`
    issues : DataFrame from `photos.find_images`, see `issue_table`
    folder : Path
        The folder of the photos, which the error message names.
    distance : int, see `find_duplicates`

    Returns
    -------
    photos : DataFrame, the rows of `images` that can be used
    pairs : DataFrame of pairs of similar photos, see `find_duplicates`
    issues : DataFrame, the given issues followed by those found here

    Raises
    ------
    InputError
        When fewer than five usable photos of a class remain, or there is only one class.
    """
    issues = pd.concat([issues, issues_of(images)])
    photos = usable(images, issues)
    check_class_counts(photos["label"], images["label"], folder)
    pairs, twice = find_duplicates(photos, distance)
    photos = usable(photos, twice)
    check_class_counts(photos["label"], images["label"], folder)
    return photos, pairs, pd.concat([issues, twice])


def hash_array(phashes):
    """Convert the perceptual hashes of n photos from hex digits to an array of uint64, shape (n, 8).

    Each row has the hashes of one photo: first of the unchanged photo, then of its seven turned or mirrored versions.

    Parameters
    ----------
    phashes : sequence of n str, see `photos.inspect_image`
    """
    return np.frombuffer(bytes.fromhex("".join(phashes)), ">u8").reshape(-1, 8).astype(np.uint64)


def hash_distances(left, right):
    """Count the bits in which the hashes of two photos differ, for every photo of `left` and every photo of `right`.

    The count of a pair is the smallest count over all ways to turn or mirror one of the two photos.

    Parameters
    ----------
    left, right : arrays from `hash_array`, shapes (n, 8) and (m, 8)

    Returns
    -------
    array of uint8, shape (n, m)
        If `left` and `right` are exchanged, the result is the transpose of this array.
    """
    fewest = np.full((len(left), len(right)), 64, np.uint8)
    for turn in range(8):
        for upright, turned in ((left[:, :1], right[None, :, turn]), (right[None, :, 0], left[:, turn, None])):
            np.minimum(fewest, np.bitwise_count(upright ^ turned), out=fewest)
    return fewest


def distance_blocks(left, right, title):
    """Compute the array of `hash_distances` in blocks that fit into the processor's cache, and show a progress bar.

    `title` is the text beside the progress bar.

    Yields
    ------
    (row, column, block) : the position of the block's upper left corner in the whole array, and the block
    """
    corners = [(row, column) for row in range(0, len(left), 64) for column in range(0, len(right), 4096)]

    def block(corner):
        row, column = corner
        return row, column, hash_distances(left[row : row + 64], right[column : column + 4096])

    return in_parallel(block, corners, len(corners), title)


def near_pairs(photos, distance):
    """List the pairs of photos with perceptual hashes that differ in at most `distance` of 64 bits.

    Parameters
    ----------
    photos : DataFrame with the column phashes
    distance : int

    Returns
    -------
    DataFrame with the columns first, second (row numbers in `photos`, first < second) and distance (in bits, see
    `hash_distances`)
    """
    hashes, pairs = hash_array(photos["phashes"]), []
    for row, column, block in distance_blocks(hashes, hashes, "comparing"):
        rows, columns = np.nonzero(block <= distance)
        once = rows + row < columns + column
        rows, columns = rows[once], columns[once]
        pairs.append(np.stack([rows + row, columns + column, block[rows, columns]], axis=1))
    return pd.DataFrame(np.concatenate(pairs), columns=["first", "second", "distance"])


def nearest(photos, among):
    """Find for each row of `photos` the row of `among` with the most similar perceptual hash.

    Parameters
    ----------
    photos, among : DataFrames with the column phashes; `photos` has n rows

    Returns
    -------
    place : array of int, shape (n,), the row numbers of the most similar photos in `among`
    fewest : array of int, shape (n,), the number of bits in which the hashes differ, see `hash_distances`
    """
    place, fewest = np.zeros(len(photos), int), np.full(len(photos), 65)
    blocks = distance_blocks(hash_array(photos["phashes"]), hash_array(among["phashes"]), "finding the nearest photos")
    for row, column, block in blocks:
        rows = np.arange(row, row + len(block))
        nearer = rows[block.min(axis=1) < fewest[rows]]
        place[nearer], fewest[nearer] = column + block[nearer - row].argmin(axis=1), block[nearer - row].min(axis=1)
    return place, fewest


def find_duplicates(images, distance):
    """Find exact copies, near duplicates, two shots of one leaf and photos under two labels.

    Near duplicates differ in at most `distance` bits of the perceptual hash. Two photos that differ in more bits, up to
    2 x `distance`, are two shots of one leaf if their grey levels also correlate strongly (see `SAME_LEAF`). Two near
    duplicates with different labels are one photo under two labels only if their grey levels correlate even more
    strongly (see `SAME_PHOTO`). Each pair is judged by its two photos alone: two photos that both resemble a
    third photo, but not each other, are not a pair.

    Parameters
    ----------
    images : DataFrame from `photos.inspect_images`
    distance : int, bits of the perceptual hash in which near duplicates may differ: 0 to 8, else InputError

    Returns
    -------
    pairs : DataFrame, the pairs of photos that must be in the same subset of the split
        Its columns are first and second (SHA-256), distance (bits) and likeness (correlation of the grey levels).
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
    findings = pd.concat([pairs, pairs[torn].rename(columns={"first": "second", "second": "first"})])  # exclude both
    findings["kept"] = findings["check"] != "label conflict"
    findings = findings.sort_values(["kept", "distance"], kind="stable").drop_duplicates("second")  # one per photo
    names, paths = [short_name(path) for path in photos["path"]], photos["path"].to_numpy()
    issues = []
    for pair in findings.sort_values("second", kind="stable").itertuples():
        detail = f"{pair.distance} of 64 bits from {names[pair.first]}, correlation {pair.likeness:.2f}"
        issues.append((paths[pair.second], labels[pair.second], pair.check, detail, paths[pair.first]))
    pairs = pairs[~torn].drop(columns="check").reset_index(drop=True)
    pairs[["first", "second"]] = photos["sha256"].to_numpy()[pairs[["first", "second"]]]
    return pairs, pd.concat([copies, issue_table(issues)], ignore_index=True)


def seen_before(photos, known, distance):
    """Mark the photos that repeat a known photo: the same file, a near duplicate, or another shot of the same leaf.

    The rules and constants are those of `find_duplicates`, except that the labels are ignored.

    Parameters
    ----------
    photos, known : DataFrames with the columns sha256, phashes and thumb, from `photos.inspect_images`
        A photo that could not be opened is compared by its SHA-256 alone.
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
        rows_near, columns_near = np.nonzero((block <= 2 * distance) & ~seen[here, None])
        same_leaf = likeness(thumbs[row + rows_near], known_thumbs[column + columns_near]) >= SAME_LEAF
        seen[here[rows_near[same_leaf]]] = True
    return seen


def short_name(path):
    """Return the class folder and the file name of a photo, as in "Apple/1.jpg"."""
    return "/".join(Path(path).parts[-2:])


def equal_files(images):
    """Make an `issue_table` of files with equal content: all of them if their labels differ, else all but the first."""
    issues = []
    for _, files in images[images.duplicated("sha256", keep=False)].groupby("sha256"):
        paths, labels = files["path"].tolist(), files["label"].tolist()
        if len(set(labels)) > 1:
            detail = f"the same file under {' and '.join(sorted(set(labels)))}"
            others = [paths[1], *paths[:1] * (len(paths) - 1)]
            rows = zip(paths, labels, others, strict=True)
            issues += [(path, label, "label conflict", detail, other) for path, label, other in rows]
        else:
            detail = f"equal to {short_name(paths[0])}"
            issues += [(path, labels[0], "exact copy", detail, paths[0]) for path in paths[1:]]
    return issue_table(issues)


def likeness(ones, others):
    """Compute the correlation of the grey levels of the two photos in each of n pairs.

    The result for a pair is the highest correlation over all ways to turn or mirror one of the two photos.

    Parameters
    ----------
    ones, others : sequences of n str
        The thumbnails of the first and of the second photos in hex digits, see `photos.inspect_image`.

    Returns
    -------
    array of float32, shape (n,)
    """
    correlations = [np.empty(0, np.float32)]
    for start in range(0, len(ones), 4096):
        left, right = (grey_levels(thumbs[start : start + 4096]) for thumbs in (ones, others))
        turned = [np.rot90(view, quarter, (1, 2)) for view in (right, right.swapaxes(1, 2)) for quarter in range(4)]
        correlations.append(np.max([(left * view).sum(axis=(1, 2)) for view in turned], axis=0))
    return np.concatenate(correlations)


def grey_levels(thumbs):
    """Convert n thumbnails in hex digits to float32, shape (n, 16, 16), each scaled to mean 0 and norm 1."""
    levels = np.frombuffer(bytes.fromhex("".join(thumbs)), np.uint8).reshape(-1, 16, 16).astype(np.float32)
    levels -= levels.mean(axis=(1, 2), keepdims=True)
    return levels / np.maximum(np.linalg.norm(levels, axis=(1, 2), keepdims=True), 1e-6)
