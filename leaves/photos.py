"""Find the photos of a folder, decode each photo once and report its faults."""

import errno
import hashlib
import io
import json
import os
import re
import stat
import warnings
from contextlib import contextmanager
from pathlib import Path

from leaves import files, image_store, places
from leaves.cache import code_hash
from leaves.dataset import shrunk_side
from leaves.files import InputError, disk_errors_explained, read_regular, user_path

import imagehash
import numpy as np
import pandas as pd
from PIL import Image

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")

# For each check: whether a photo with this finding is excluded or kept, and why.
CHECKS = {
    "zero bytes": ("excluded", "the file holds no picture"),
    "does not open": ("excluded", "it would stop a training hours later"),
    "truncated": ("excluded", "part of the picture is missing or damaged"),
    "too large": ("excluded", "so many pixels or bytes could fill the memory"),
    "blank": ("excluded", "there is nothing to see"),
    "label conflict": ("excluded", "the same photo under two labels: nobody knows which is right"),
    "exact copy": ("excluded", "the same file again would count twice"),
    "bridge": ("excluded", "it resembles photos of two subsets of the split, so it fits in neither"),
    "no class": ("excluded", "it lies beside the class folders, not in one"),
    "no photo": ("excluded", "it shows no leaf, or its name does not end in .jpg, .jpeg or .png"),
    "no regular file": ("excluded", "reading a pipe, a socket or a device might never end"),
    "nested folder": ("excluded", "photos count only directly below their class"),
    "hidden folder": ("excluded", "its name begins with a dot: no class has such a name"),
    "name": ("excluded", "the file name is not valid UTF-8 or contains a carriage return"),
    "near duplicate": ("kept", "it stays in the same subset as the photo that it resembles"),
    "same leaf": ("kept", "it seems to show the same leaf as another photo, and both stay in the same subset"),
    "wrong extension": ("kept", "its content, not its name, decides how it is read"),
    "grayscale": ("kept", "the grey value is copied to all three channels"),
    "CMYK": ("kept", "converted to RGB"),
    "palette": ("kept", "converted to RGB"),
    "transparency": ("kept", "placed on a white background"),
    "EXIF rotation": ("kept", "rotated upright"),
    "tiny": ("kept", "the shorter side has fewer than 32 pixels: it is enlarged"),
    "extreme shape": ("kept", "it is over three times as long as wide: resized to a square"),
}
FACTS = ("sha256", "width", "height", "phashes", "thumb", "checks")  # columns that `inspect_image` fills
BLANK = 3.0  # a photo is blank below this standard deviation of grey levels (0 to 255); leaf photos start at about 10

BACKGROUND = "Background_without_leaves"  # the 39th folder of PlantVillage's archive: photos without a leaf


# ---------------------------------------------------------------- find


def find_images(folder):
    """List the images of a folder with one sub-folder per class.

    Folders named Species___disease, like PlantVillage's, are merged into one class per species.

    Returns
    -------
    images : DataFrame with the columns path (absolute str), label and disease ("" if unknown), sorted by path
    issues : DataFrame, see `issue_table`
        Other entries of the folder, such as a thumbnail index or a nested folder.

    Raises
    ------
    InputError
        When the folder is missing, unreadable or written by chapter 1, or a class folder has no images or a bad name.
    """
    folder = user_path(folder, places.ROOT)
    if not folder.is_dir():
        raise InputError(f"There is no data folder {folder}: set `data` to a folder with one sub-folder per class.")
    if folder.resolve().is_relative_to(places.DATA / "split"):
        raise InputError(f"The folder {folder} is written by chapter 1: set `data` to the original photos.")
    if not can_be_written(str(folder)):
        raise InputError(f"The path {str(folder)!a} is not UTF-8 or has a carriage return: rename the folder.")
    images, issues = [], []
    try:
        for entry in sorted(folder.iterdir()):
            if entry.name.startswith("."):
                if entry.is_dir():
                    issues.append((entry, "", "hidden folder", "rename it to use it as a class", ""))
            elif entry.is_dir():
                class_images, others = find_in_class(entry)
                images += class_images
                issues += others
            elif is_special(entry):
                issues.append((entry, "", "no regular file", "lies beside the class folders", ""))
            elif entry.suffix.lower() in IMAGE_SUFFIXES:
                issues.append((entry, "", "no class", "move it into the folder of its class", ""))
    except OSError as error:
        raise InputError(f"{error.filename} cannot be read ({error.strerror}): check its permissions.") from error
    images = pd.DataFrame(images, columns=["path", "label", "disease"])
    if images.empty:
        raise InputError(f"The data folder {folder} holds no sub-folders with images: make one for each class.")
    return images, issue_table(issues)


def find_in_class(folder):
    """List a class folder's images as tuples (path, label, disease), and other entries as tuples for `issue_table`."""
    if folder.name == BACKGROUND:
        return [], [(folder, BACKGROUND, "no photo", "PlantVillage's photos without a leaf", "")]
    if not can_be_written(folder.name):
        raise InputError(f"The folder name {folder.name!a} is not UTF-8 or has a carriage return: rename the folder.")
    label, disease = fold_class(folder.name)
    if {label[:1], disease[:1]} & {*"=+-@"}:
        raise InputError(f"Species or disease in folder {folder.name!a} begins like a spreadsheet formula: rename it.")
    images, issues = [], []
    for entry in visible(folder):
        if not can_be_written(entry.name):
            issues.append((entry, label, "name", "rename it to use it", ""))
        elif entry.is_dir():
            issues.append((entry, label, "nested folder", "its files are not read", ""))
        elif is_special(entry):
            issues.append((entry, label, "no regular file", "remove it", ""))
        elif entry.suffix.lower() in IMAGE_SUFFIXES:
            images.append((str(entry), label, disease))
        else:
            issues.append((entry, label, "no photo", f"{entry.suffix} file" if entry.suffix else "no suffix", ""))
    if not images:
        found = ", ".join(dict.fromkeys(f"{entry.name} ({check})" for entry, _, check, *_ in issues[:3])) or "nothing"
        raise InputError(
            f"The class folder {folder} holds no JPEG or PNG images (found: {found}): move its photos directly into "
            "this folder, move the folder away, or set `data` to the folder that holds the class folders."
        )
    return images, issues


def is_special(entry):
    """Return whether a path is a pipe, a socket or a device, or links to one; False for a broken link."""
    try:
        mode = os.stat(entry).st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def visible(folder):
    """List the entries of a folder, sorted by name and without hidden ones."""
    return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))


def fold_class(name):
    """Split a class name into species and disease: Pepper,_bell___healthy gives (Pepper, healthy), Oak (Oak, "")."""
    species, separator, disease = name.partition("___")
    species = re.split(r"_*\(|,|__", species)[0]
    return (species, disease) if separator and species else (name, "")


def can_be_written(name):
    """Return whether a CSV file can hold a name: no carriage return, no lone surrogates (bytes that are not UTF-8)."""
    return not any("\ud800" <= letter <= "\udfff" or letter == "\r" for letter in name)


def issue_table(issues):
    """Make a DataFrame of findings with the columns path, label, check, detail, other (a similar photo's path), action.

    `issues` lists tuples of the first five columns. A path that a CSV file cannot hold gets escape sequences.
    """
    table = pd.DataFrame(issues, columns=["path", "label", "check", "detail", "other"])
    paths = table["path"].astype(str)
    table["path"] = paths.where(paths.map(can_be_written).astype(bool), paths.map(lambda path: ascii(path).strip("'")))
    table["action"] = table["check"].map({check: action for check, (action, _) in CHECKS.items()})
    return table


def settled(issues):
    """Sort findings in the order of `CHECKS`; for an excluded photo, keep only the findings that exclude it.

    So all findings that remain for an excluded photo have the action "excluded".
    """
    is_out = issues["action"] == "excluded"
    issues = issues[is_out | ~issues["path"].isin(issues.loc[is_out, "path"])]
    order = {check: number for number, check in enumerate(CHECKS)}
    return issues.sort_values("check", key=lambda check: check.map(order), kind="stable", ignore_index=True)


def check_class_counts(labels, classes, folder):
    """Raise InputError unless there are two classes or more, each with five images or more."""
    counts = labels.value_counts().reindex(sorted(set(classes)), fill_value=0)
    if len(counts) < 2:
        raise InputError(f"The data folder {folder} has only the class {counts.index[0]}: add a second class.")
    if counts.min() < 5:
        raise InputError(
            f"The class {counts.idxmin()} in {folder} has {counts.min()} usable images, but a split into train, "
            "validation and test needs 5: add images or remove the class."
        )


# ---------------------------------------------------------------- inspect


def inspect_image(path, size):
    """Decode one image completely, check it and shrink it.

    Returns
    -------
    facts : dict
        sha256; width and height (pixels of the upright photo; from the header if decoding fails); phashes (eight
        64-bit perceptual hashes in hex, one per way to turn and mirror the photo; Zauner 2010, made with imagehash);
        thumb (16 x 16 grey levels in hex); checks (JSON of a dict from names in `CHECKS` to details).
    pixels : uint8 array of shape (size, size, 3), or None if the image was not decoded completely
    """
    facts = dict.fromkeys(FACTS, "") | {"width": 0, "height": 0, "checks": "{}"}

    def unusable(check, detail=""):
        return facts | {"checks": json.dumps({check: detail})}, None

    try:
        content = read_regular(path)
    except OSError as error:
        if error.errno == errno.EFBIG:
            return unusable("too large", f"{os.path.getsize(path) / 1e6:,.0f} MB, {error.strerror}")
        return unusable("no regular file" if error.errno == errno.EINVAL else "does not open", error.strerror)
    facts["sha256"] = hashlib.sha256(content).hexdigest()
    if not content:
        return unusable("zero bytes")
    check = "does not open"
    try:
        with Image.open(io.BytesIO(content), formats=image_store.FORMATS) as header:
            checks = header_checks(header, Path(path).suffix.lower())
            facts |= {"width": header.width, "height": header.height}
        check = "truncated"
        image = image_store.read_image(content)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        return unusable("too large", str(error))
    except Image.UnidentifiedImageError:
        return unusable(check, "unknown image format")
    except Exception as error:  # noqa: BLE001 - Pillow raises many types of exceptions for broken files
        return unusable(check, str(error) or type(error).__name__)
    facts |= {"width": image.width, "height": image.height}
    facts["phashes"], facts["thumb"], contrast = fingerprints(image)
    if contrast < BLANK:
        checks["blank"] = f"grey levels differ by {contrast:.1f} of 255"
    facts["checks"] = json.dumps(checks)
    return facts, image_store.shrink_image(image, size)


def fingerprints(image):
    """Compute a Pillow image's phashes and thumb (see `inspect_image`), and the spread of its grey levels (std)."""
    grey = image.convert("L").resize((32, 32), Image.Resampling.LANCZOS)
    turned = [grey, *(grey.transpose(way) for way in Image.Transpose)]
    hashes = [np.packbits(imagehash.phash(view).hash.ravel()).tobytes().hex() for view in turned]
    thumb = image.convert("L").resize((16, 16), Image.Resampling.LANCZOS).tobytes().hex()
    return "".join(hashes), thumb, np.asarray(grey).std()


def header_checks(header, suffix):
    """Check the header of a Pillow image before it is decoded: dict of each problem's name to a detail."""
    checks = {}
    if (header.format == "PNG") != (suffix == ".png") or header.format not in ("JPEG", "MPO", "PNG"):
        checks["wrong extension"] = f"{header.format} named {suffix}"
    if header.mode in ("1", "L", "LA") or header.mode.startswith("I"):
        checks["grayscale"] = f"mode {header.mode}"
    elif header.mode in ("CMYK", "P", "PA"):
        checks["CMYK" if header.mode == "CMYK" else "palette"] = f"mode {header.mode}"
    if header.has_transparency_data:
        checks["transparency"] = f"mode {header.mode}"
    if (orientation := header.getexif().get(0x0112, 1)) != 1:
        checks["EXIF rotation"] = f"orientation {orientation}"
    if min(header.size) < 32:
        checks["tiny"] = f"{header.width} x {header.height} pixels"
    if max(header.size) > 3 * min(header.size):
        checks["extreme shape"] = f"{header.width} x {header.height} pixels"
    return checks


@contextmanager
def huge_images_refused():
    """Make Pillow raise an error, in all threads, where it would only warn of a decompression bomb (a huge image)."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


@huge_images_refused()
def inspect_images(images, size=None):
    """Add the facts of `inspect_image` to the table of `find_images`, and put the decoded images into the image store.

    A file is opened if its path, length or modification time is new, or if it could not be read the last time. It is
    also opened if an earlier call decoded it and its image is missing from the store for `size`.

    Parameters
    ----------
    size : int or None
        Pixels per side in the store; None means half the median of the photos' shorter sides (read from the headers).

    Returns
    -------
    images : DataFrame, a copy of the given table with the columns `FACTS` added
    size : int, the given size or, if it was None, the size computed from the photos
    """
    if size is not None and size < 8:
        raise InputError(f"image_size is {size}, but images need 8 or more pixels per side: set a larger size.")
    record = places.CACHE / f"inspected-{code_hash(Path(__file__), image_store.CODE, imagehash.__version__)}.csv"
    key, inspected = ["path", "bytes", "changed"], []
    images = images.reset_index(drop=True)
    images = images.join(pd.DataFrame([stamp(path) for path in images["path"]], columns=key[1:]))
    known = images[key].merge(read_record(record, [*key, *FACTS]), on=key, how="left")
    size = size or half_median_side(known)
    in_store = known["sha256"].isin(image_store.stored_rows(places.CACHE, size)) | (known["phashes"] == "")
    new, known = known.loc[~in_store, key], known[in_store]

    def decoded():
        looks = image_store.in_parallel(lambda path: inspect_image(path, size), new["path"], len(new), "checking")
        for stamped, (facts, pixels) in zip(new.itertuples(index=False), looks, strict=False):
            if pixels is not None:
                yield facts["sha256"], pixels
            inspected.append([*stamped, *facts.values()])  # recorded only after its pixels are stored

    try:
        with disk_errors_explained(places.CACHE):
            image_store.store_images(places.CACHE, size, decoded())
    finally:  # the next call continues an interrupted check
        known = pd.concat([known, pd.DataFrame(inspected, columns=[*key, *FACTS])])
        known = known.astype({"bytes": int, "changed": int, "width": int, "height": int})
        others = read_record(record, [*key, *FACTS])
        others = others[~others["path"].isin(images["path"])]
        files.write_with_checksum(record, pd.concat([others, known[known["sha256"] != ""]]).to_csv(index=False))
    return images.merge(known, on=key).drop(columns=key[1:]), size


def half_median_side(known):
    """Return half the median of the shorter sides in the table `known`; missing sides are read from file headers."""
    sides = known[["width", "height"]].to_numpy(float)
    unknown = np.flatnonzero(known["sha256"].isna())
    if len(unknown):
        sides[unknown] = [header_size(path) for path in known["path"].iloc[unknown]]
    return shrunk_side(pd.DataFrame(sides, columns=["width", "height"]).replace(0, np.nan), 2)


def read_record(file, columns):
    """Read the facts that earlier inspections found: DataFrame, empty if the file is missing or damaged."""
    nothing = pd.DataFrame(columns=columns).astype({"bytes": int, "changed": int})
    if not file.exists():
        return nothing
    try:
        known = pd.read_csv(file, dtype={"phashes": str, "thumb": str}, keep_default_na=False)
        if files.matches_checksum(file):
            return known[columns].astype({"bytes": int, "changed": int, "width": int, "height": int})
    except (ValueError, KeyError):
        pass
    print(f"data/cache/{file.name} is damaged: the photos are inspected again.")
    return nothing


def stamp(path):
    """Return a file's length in bytes and modification time in nanoseconds, both -1 if they cannot be read."""
    try:
        status = os.stat(path)
    except OSError:
        return -1, -1
    return status.st_size, status.st_mtime_ns


def header_size(path):
    """Read width and height from a file's header; both NaN if it is unreadable, too large or not a regular file."""
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode) or status.st_size > files.LARGEST_FILE:
            return np.nan, np.nan
        with Image.open(path, formats=image_store.FORMATS) as header:
            return header.size
    except Exception:  # noqa: BLE001 - `inspect_image` reports the error
        return np.nan, np.nan


def issues_of(images):
    """Return the findings of `inspect_image` as an `issue_table`, with one row per photo and check."""
    noted = [
        (row.path, row.label, check, detail, "")
        for row in images.itertuples()
        for check, detail in json.loads(row.checks).items()
    ]
    return issue_table(noted)


def reason(row):
    """Say why an inspected photo is excluded, for example "truncated (image file is truncated)".

    Parameters
    ----------
    row : a row of the table from `inspect_images`, as ``itertuples()`` yields it

    Returns
    -------
    str, empty for a photo that no check excludes
    """
    noted = {check: detail for check, detail in json.loads(row.checks).items() if CHECKS[check][0] == "excluded"}
    return "; ".join(f"{check} ({detail})" if detail else check for check, detail in noted.items())


def examples(issues, images, count=4):
    """Choose up to `count` readable photos as examples of each check; photos that are alike follow one another.

    Returns
    -------
    DataFrame with the columns check, path, label, sha256
    """
    images = images[images["phashes"] != ""]
    shown = issues.merge(images, on="path", suffixes=("", "_"))
    pair = [frozenset(two) for two in zip(shown["path"], shown["other"], strict=True)]
    shown = shown[~shown.assign(pair=pair).duplicated(["check", "pair"])]
    both = pd.concat([shown[["check", "path"]], shown[["check", "other"]].set_axis(["check", "path"], axis=1)])
    both = both.sort_index(kind="stable").merge(images[["path", "label", "sha256"]], on="path")
    return both.groupby("check", sort=False).head(count)


def usable(images, issues):
    """Return the images that no issue excludes."""
    return images[~images["path"].isin(issues.loc[issues["action"] == "excluded", "path"])].reset_index(drop=True)
