"""From a folder to photos that can be trusted: chapter 1 finds them, looks into each and says what is wrong."""

import errno
import hashlib
import io
import json
import os
import re
import shutil
import socket
import stat
import warnings
import zipfile
from contextlib import contextmanager
from pathlib import Path

import imagehash
import keras
import numpy as np
import pandas as pd
from PIL import Image
from tqdm import tqdm

import files
import helpers
from data import image_store, sample_leaves
from helpers import InputError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
DATA_WORDS = {"sample": "the synthetic sample", "plant_village": "PlantVillage"}  # in the place of a folder

# Every check: what happens to a photo that it finds, and why.
CHECKS = {
    "zero bytes": ("left out", "there is no picture in it"),
    "does not open": ("left out", "it would stop a training hours later"),
    "truncated": ("left out", "part of the picture is missing or damaged"),
    "too large": ("left out", "so many pixels or bytes could fill the memory"),
    "blank": ("left out", "there is nothing to see"),
    "label conflict": ("left out", "the same photo under two labels: nobody knows which is right"),
    "exact copy": ("left out", "the same file again would count twice"),
    "bridge": ("left out", "like photos of two subsets of the split: it fits in neither"),
    "no class": ("left out", "lies beside the class folders, not in one"),
    "no photo": ("left out", "not a leaf, or not named .jpg, .jpeg or .png"),
    "no regular file": ("left out", "a pipe, a socket or a device: reading it could wait for ever"),
    "nested folder": ("left out", "photos count only directly below their class"),
    "hidden folder": ("left out", "its name begins with a dot: no class has such a name"),
    "name": ("left out", "the file name is not valid UTF-8, or has a carriage return in it"),
    "near duplicate": ("kept", "in the same part of the split as its like"),
    "same leaf": ("kept", "looks like another shot of a leaf: in the same part of the split"),
    "wrong extension": ("kept", "read by its content"),
    "grayscale": ("kept", "the grey stands in all three channels"),
    "CMYK": ("kept", "converted to RGB"),
    "palette": ("kept", "converted to RGB"),
    "transparency": ("kept", "laid on white paper"),
    "EXIF rotation": ("kept", "turned upright"),
    "tiny": ("kept", "the shorter side is under 32 pixels: it is blown up"),
    "extreme shape": ("kept", "over three times as long as wide: squeezed to a square"),
}
FACTS = ("sha256", "width", "height", "phashes", "thumb", "checks")  # columns that `inspect_image` fills
BLANK = 3.0  # standard deviation of the grey levels, of 255; real leaf photos start at about 10

PLANT_VILLAGE = {
    # Data for: Identification of Plant Leaf Diseases (Arun Pandian and Geetharamani, Mendeley Data 2019, CC0),
    # the photos without augmentation; archive and SHA-256 are those that tensorflow-datasets names too.
    "url": "https://data.mendeley.com/public-files/datasets/tywbtsjrjv/files/"
    "d5652a28-c1d8-4b76-97f3-72fb80f94efc/file_downloaded",
    "sha256": "ac3432453984d02a86197987e775a5429d0d59e7cc7c35bcf5a8f50349b90ff0",
    "photos": 54305,
}
BACKGROUND = "Background_without_leaves"  # a 39th folder of that archive


# ---------------------------------------------------------------- find


def last_source():
    """Read from data/source.json which data the present split is made from.

    Returns
    -------
    dict with the keys data ("sample", "plant_village" or an absolute path), name (the source in words), split (its
    hash) and settings (dict of the parameters of the split); empty before the first split
    """
    source = helpers.read_json(helpers.DATA / "source.json")
    return source if isinstance(source, dict) and isinstance(source.get("data"), str) else {}


def chosen_data(data):
    """Decide which data the parameter `data` means; None means those used last, at first the sample.

    Returns
    -------
    str, "sample", "plant_village" or the absolute path of a folder

    Raises
    ------
    InputError
        When the folder used last has gone.
    """
    if data is not None:
        return data if data in DATA_WORDS else os.path.realpath(files.user_path(data, helpers.ROOT))
    if "data" not in last_source() and helpers.SPLIT_CSV.exists():
        raise InputError(
            "There is a split, but data/source.json, which names its photos, is missing or damaged: name the photos "
            "with --data DIR, or take the synthetic sample with --data sample."
        )
    data = last_source().get("data", "sample")
    if data not in DATA_WORDS and not os.path.isdir(data):
        raise InputError(
            f"The folder {data}, used last, has gone or cannot be opened: name another one with --data DIR, or take "
            "the synthetic sample with --data sample."
        )
    return data


def origin_sentence(data):
    """Say which photos the parameter `data` means, and whether the last run had others: one sentence."""
    last, chosen = last_source().get("data"), chosen_data(data)
    name = name_of_data(chosen)
    if data is None and last is None:
        return f"The photos are those of {name}; set the parameter data to a folder to use your own."
    if data is None:
        return f"Going on with {name}, used last; set the parameter data to use other photos."
    if last in (None, chosen):
        return f"The photos are those of {name}" + (", as in the last run." if last else ".")
    return f"The photos were those of {name_of_data(last)}; from now on they are those of {name}."


def name_of_data(data):
    """Name the data that `chosen_data` gives in a sentence."""
    return DATA_WORDS.get(data, f"the folder {data}")


def locate(data, sample_count, sample_size, seed):
    """The folder of photos that `data` names, made or downloaded if need be, and what to call its source.

    Parameters
    ----------
    data : "sample", "plant_village", a folder (a relative one begins at the project's) or None, see `chosen_data`
    sample_count, sample_size, seed : int
        Of the synthetic sample; its folder's name carries a hash of them and of the renderer.

    Returns
    -------
    folder : Path
    source : str
    """
    data = chosen_data(data)
    if data == "plant_village":
        folder = fetch_plant_village(helpers.DATA / "plant_village", **PLANT_VILLAGE)
        return folder, "PlantVillage without augmentation (Mendeley Data, doi:10.17632/tywbtsjrjv.1)"
    if data == "sample":
        settings = f"{sample_count} {sample_size} {seed} {Path(sample_leaves.__file__).read_text(encoding='utf-8')}"
        folder = helpers.DATA / f"sample-{hashlib.sha256(settings.encode()).hexdigest()[:8]}"
        if not folder.exists():
            sample_leaves.render_dataset(folder, sample_count, sample_size, seed)
        return folder, f"synthetic leaves, {sample_size} x {sample_size} pixels, seed {seed} (data/sample_leaves.py)"
    return Path(data), f"the folder {Path(data).name}"


def fetch_plant_village(folder, url, sha256, photos, timeout=30):
    """Download PlantVillage into `folder`, once: later calls find it there.

    The archive is checked by its SHA-256 and the unpacked photos by their number. Whatever breaks off leaves no
    folder behind, and the next call starts anew.

    Raises
    ------
    InputError
        When the server cannot be reached, falls silent for `timeout` seconds, or sends something else.
    """
    if folder.exists():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)  # else Keras would take another place
    unfinished, usual_timeout = folder.with_name(f"{folder.name}.unfinished"), socket.getdefaulttimeout()
    try:
        socket.setdefaulttimeout(timeout)
        name = f"{folder.name}.zip"
        archive = keras.utils.get_file(name, url, file_hash=sha256, cache_dir=folder.parent, cache_subdir="download")
    except Exception as error:
        told = " ".join(str(error).split())
        raise InputError(
            f"PlantVillage could not be downloaded: {told}; run the same command again later, or name a folder of "
            "photos with --data DIR."
        ) from error
    finally:
        socket.setdefaulttimeout(usual_timeout)
    shutil.rmtree(unfinished, ignore_errors=True)
    with helpers.disk_trouble_told(unfinished), zipfile.ZipFile(archive) as packed:
        unfinished.mkdir()
        for member in tqdm(packed.infolist(), "unpacking PlantVillage", unit="file", mininterval=2):
            place = Path(member.filename)
            if place.suffix.lower() in IMAGE_SUFFIXES and "___" in place.parent.name:
                target = unfinished / place.parent.name / place.name
                target.parent.mkdir(exist_ok=True)
                with packed.open(member) as source, open(target, "wb") as copy:
                    shutil.copyfileobj(source, copy)
    if (found := sum(1 for _ in unfinished.glob("*/*"))) != photos:
        raise InputError(f"The archive of PlantVillage holds {found} photos instead of {photos}: {archive} is not it.")
    unfinished.rename(folder)
    shutil.rmtree(Path(archive).parent)
    return folder


def find_images(folder):
    """List the images of a folder with one sub-folder per class.

    Folders named Species___disease, as PlantVillage's, are folded into their species.

    Returns
    -------
    images : DataFrame with the columns path (absolute str), label and disease ("" if not told), sorted by path
    issues : DataFrame, see `issue_table`
        What lies there besides, from a thumbnail index to a nested folder.

    Raises
    ------
    InputError
        When the folder is missing, cannot be read, is written by chapter 1 itself, or a class folder has no images.
    """
    folder = files.user_path(folder, helpers.ROOT)
    if not folder.is_dir():
        raise InputError(f"There is no data folder {folder}: name a folder with one sub-folder of images per class.")
    if folder.resolve().is_relative_to(helpers.DATA / "split"):
        raise InputError(f"The folder {folder} is written by chapter 1: name the folder that it was made from.")
    if not can_be_written(str(folder)):
        raise InputError(f"The path {str(folder)!a} is not UTF-8 or has a carriage return in it: rename it.")
    images, issues = [], []
    try:
        for entry in sorted(folder.iterdir()):
            if entry.name.startswith("."):
                if entry.is_dir():
                    issues.append((entry, "", "hidden folder", "rename it to use it as a class", ""))
            elif entry.is_dir():
                found, others = find_in_class(entry)
                images += found
                issues += others
            elif is_special(entry):
                issues.append((entry, "", "no regular file", "lies beside the class folders", ""))
            elif entry.suffix.lower() in IMAGE_SUFFIXES:
                issues.append((entry, "", "no class", "move it into the folder of its class", ""))
    except OSError as error:
        raise InputError(f"{error.filename} cannot be read ({error.strerror}): check its permissions.") from error
    images = pd.DataFrame(images, columns=["path", "label", "disease"])
    if images.empty:
        raise InputError(f"The data folder {folder} holds no sub-folders with images, one per class.")
    return images, issue_table(issues)


def find_in_class(folder):
    """The images of one class folder, as (path, label, disease), and its issues, as rows of `issue_table`."""
    if folder.name == BACKGROUND:
        return [], [(folder, BACKGROUND, "no photo", "PlantVillage's photos without a leaf", "")]
    if not can_be_written(folder.name):
        raise InputError(
            f"The name of the class folder {folder.name!a} is not UTF-8 or has a carriage return in it: rename it."
        )
    label, disease = fold_class(folder.name)
    images, issues = [], []
    for entry in visible(folder):
        if not can_be_written(entry.name):
            issues.append((entry, label, "name", "rename it to use it", ""))
        elif entry.is_dir():
            issues.append((entry, label, "nested folder", "its files are not looked at", ""))
        elif is_special(entry):
            issues.append((entry, label, "no regular file", "remove it", ""))
        elif entry.suffix.lower() in IMAGE_SUFFIXES:
            images.append((str(entry), label, disease))
        else:
            issues.append((entry, label, "no photo", f"{entry.suffix} file" if entry.suffix else "no suffix", ""))
    if not images:
        held = ", ".join(sorted({check for _, _, check, *_ in issues})) or "nothing"
        raise InputError(
            f"The class folder {folder} holds no JPEG or PNG images, but {held}: move the photos directly into it, "
            "move it away, or name the folder that holds the classes."
        )
    return images, issues


def is_special(entry):
    """Whether an entry of a folder is a pipe, a socket or a device, links followed; False for a broken link."""
    try:
        mode = os.stat(entry).st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def visible(folder):
    """The sorted entries of a folder without the hidden ones."""
    return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))


def fold_class(name):
    """Species and disease of a folder named like PlantVillage's: Pepper,_bell___healthy is (Pepper, healthy)."""
    species, told, disease = name.partition("___")
    species = re.split(r"_*\(|,|__", species)[0]
    return (species, disease) if told and species else (name, "")


def can_be_written(name):
    """Whether a file name can stand in a CSV file: Python keeps bytes that are not UTF-8 as lone surrogates."""
    return not any("\ud800" <= letter <= "\udfff" or letter == "\r" for letter in name)


def issue_table(issues):
    """Rows of findings as a DataFrame: path, label, check, detail, other (path of a photo like it), action.

    A path that cannot stand in a CSV file is written with escapes.
    """
    table = pd.DataFrame(issues, columns=["path", "label", "check", "detail", "other"])
    paths = table["path"].astype(str)
    table["path"] = paths.where(paths.map(can_be_written).astype(bool), paths.map(lambda path: ascii(path).strip("'")))
    table["action"] = table["check"].map({check: action for check, (action, _) in CHECKS.items()})
    return table


def settled(issues):
    """Findings in the order of `CHECKS`, with one action a photo.

    Of a photo that is left out, the findings for which it would be kept are dropped.
    """
    is_out = issues["action"] == "left out"
    issues = issues[is_out | ~issues["path"].isin(issues.loc[is_out, "path"])]
    order = {check: number for number, check in enumerate(CHECKS)}
    return issues.sort_values("check", key=lambda check: check.map(order), kind="stable", ignore_index=True)


def check_class_counts(labels, classes, folder):
    """Raise InputError unless there are two classes or more, each with five images or more."""
    counts = labels.value_counts().reindex(sorted(set(classes)), fill_value=0)
    if len(counts) < 2:
        raise InputError(f"The data folder {folder} has only the class {counts.index[0]}; a classifier needs two.")
    if counts.min() < 5:
        raise InputError(
            f"The class {counts.idxmin()} in {folder} has {counts.min()} usable images, but a split into train, "
            "validation and test needs 5: add images or remove the class."
        )


# ---------------------------------------------------------------- look into each


def inspect_image(path, size):
    """Decode one image completely, look at it and shrink it.

    Returns
    -------
    facts : dict
        sha256; width and height (pixels, upright if the photo opens); phashes (eight 64-bit perceptual hashes in hex,
        one for each way to turn and mirror the photo; Zauner 2010, as imagehash computes it); thumb (16 x 16 grey
        levels in hex); checks (JSON of a dict: names from `CHECKS` to a detail each).
    pixels : uint8 array of shape (size, size, 3), or None if the image does not open
    """
    facts = dict.fromkeys(FACTS, "") | {"width": 0, "height": 0, "checks": "{}"}

    def unusable(check, detail=""):
        return facts | {"checks": json.dumps({check: detail})}, None

    try:
        content = files.read_regular(path)
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
            found = header_checks(header, Path(path).suffix.lower())
            facts |= {"width": header.width, "height": header.height}
        check = "truncated"
        image = image_store.read_image(content)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        return unusable("too large", str(error))
    except Image.UnidentifiedImageError:
        return unusable(check, "no image of a known kind")
    except Exception as error:  # noqa: BLE001 - Pillow raises many kinds, for as many ways to be broken
        return unusable(check, str(error) or type(error).__name__)
    grey = image.convert("L").resize((32, 32), Image.Resampling.LANCZOS)
    turned = [grey, *(grey.transpose(way) for way in Image.Transpose)]
    hashes = [np.packbits(imagehash.phash(view).hash.ravel()).tobytes().hex() for view in turned]
    if np.asarray(grey).std() < BLANK:
        found["blank"] = f"grey levels differ by {np.asarray(grey).std():.1f} of 255"
    thumb = image.convert("L").resize((16, 16), Image.Resampling.LANCZOS).tobytes().hex()
    facts |= {"width": image.width, "height": image.height, "phashes": "".join(hashes), "thumb": thumb}
    facts["checks"] = json.dumps(found)
    return facts, image_store.shrink_image(image, size)


def header_checks(header, suffix):
    """What an opened Pillow image tells before it is decoded: dict of a check's name to a detail."""
    found = {}
    if (header.format == "PNG") != (suffix == ".png") or header.format not in ("JPEG", "MPO", "PNG"):
        found["wrong extension"] = f"{header.format} named {suffix}"
    if header.mode in ("1", "L", "LA") or header.mode.startswith("I"):
        found["grayscale"] = f"mode {header.mode}"
    elif header.mode in ("CMYK", "P", "PA"):
        found["CMYK" if header.mode == "CMYK" else "palette"] = f"mode {header.mode}"
    if header.has_transparency_data:
        found["transparency"] = f"mode {header.mode}"
    if (orientation := header.getexif().get(0x0112, 1)) != 1:
        found["EXIF rotation"] = f"orientation {orientation}"
    if min(header.size) < 32:
        found["tiny"] = f"{header.width} x {header.height} pixels"
    if max(header.size) > 3 * min(header.size):
        found["extreme shape"] = f"{header.width} x {header.height} pixels"
    return found


@contextmanager
def huge_images_refused():
    """Turn the warning of Pillow's guard against decompression bombs into an error, in all threads."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


@huge_images_refused()
def inspect_images(images, size=None):
    """Add the facts of `inspect_image` to a table of images, and put the decoded images into the store.

    A file that was inspected before, and has kept its path, length and time of change, is not opened again.

    Parameters
    ----------
    size : int or None
        Pixels per side in the store; None: half the photos' median shorter side, as their headers tell it.

    Returns
    -------
    images : DataFrame with the columns given and the `FACTS`
    size : int
    """
    if size is not None and size < 8:
        raise InputError(f"image_size is {size}, but images of fewer than 8 pixels a side show nothing.")
    code = Path(__file__).read_text(encoding="utf-8") + image_store.CODE + imagehash.__version__
    record = helpers.CACHE / f"inspected-{hashlib.sha256(code.encode()).hexdigest()[:8]}.csv"
    key, found = ["path", "bytes", "changed"], []
    images = images.reset_index(drop=True)
    images = images.join(pd.DataFrame([stamp(path) for path in images["path"]], columns=key[1:]))
    known = images[key].merge(read_record(record, [*key, *FACTS]), on=key, how="left")
    if size is None:
        sides = known[["width", "height"]].to_numpy(float)
        unknown = np.flatnonzero(known["sha256"].isna())
        if len(unknown):
            sides[unknown] = [header_size(path) for path in known["path"].iloc[unknown]]
        size = helpers.half_side(pd.DataFrame(sides, columns=["width", "height"]).replace(0, np.nan))
    in_store = known["sha256"].isin(image_store.stored_rows(helpers.CACHE, size)) | (known["phashes"] == "")
    new, known = known.loc[~in_store, key], known[in_store]

    def decoded():
        looks = image_store.in_parallel(lambda path: inspect_image(path, size), new["path"], len(new), "checking")
        for stamped, (facts, pixels) in zip(new.itertuples(index=False), looks, strict=False):
            if pixels is not None:
                yield facts["sha256"], pixels
            found.append([*stamped, *facts.values()])  # only now the pixels are written

    try:
        with helpers.disk_trouble_told(helpers.CACHE):
            image_store.store_images(helpers.CACHE, size, decoded())
    finally:  # an interrupted check goes on where it stopped
        known = pd.concat([known, pd.DataFrame(found, columns=[*key, *FACTS])])
        known = known.astype({"bytes": int, "changed": int, "width": int, "height": int})
        others = read_record(record, [*key, *FACTS])
        others = others[~others["path"].isin(images["path"])]
        helpers.write_whole(record, pd.concat([others, known[known["sha256"] != ""]]).to_csv(index=False))
    return images.merge(known, on=key).drop(columns=key[1:]), size


def read_record(file, columns):
    """What was found out about files that were inspected before; nothing without a sound record."""
    try:
        known = pd.read_csv(file, dtype={"phashes": str, "thumb": str}, keep_default_na=False)
        return known[columns].astype({"bytes": int, "changed": int, "width": int, "height": int})
    except FileNotFoundError:
        pass
    except (ValueError, KeyError):
        print(f"data/cache/{file.name} is damaged: the photos are inspected again.")
    return pd.DataFrame(columns=columns).astype({"bytes": int, "changed": int})


def stamp(path):
    """Length in bytes and time of change in nanoseconds of a file, -1 where it cannot be told."""
    try:
        told = os.stat(path)
    except OSError:
        return -1, -1
    return told.st_size, told.st_mtime_ns


def header_size(path):
    """Width and height of an image file by its header, not a number where it does not open or must not be opened."""
    try:
        told = os.stat(path)
        if not stat.S_ISREG(told.st_mode) or told.st_size > files.LARGEST_FILE:
            return np.nan, np.nan
        with Image.open(path, formats=image_store.FORMATS) as header:
            return header.size
    except Exception:  # noqa: BLE001 - it is named when it is inspected
        return np.nan, np.nan


def issues_of(images):
    """The checks that `inspect_image` noted, as an `issue_table` with one row for each photo and check."""
    noted = [
        (row.path, row.label, check, detail, "")
        for row in images.itertuples()
        for check, detail in json.loads(row.checks).items()
    ]
    return issue_table(noted)


def reason(row):
    """Say why an inspected photo is left out, for example "truncated (image file is truncated)".

    Parameters
    ----------
    row : a row of the table that `inspect_images` returns, as its ``itertuples()`` gives it

    Returns
    -------
    str, empty for a photo that no check leaves out
    """
    noted = {check: detail for check, detail in json.loads(row.checks).items() if CHECKS[check][0] == "left out"}
    return "; ".join(f"{check} ({detail})" if detail else check for check, detail in noted.items())


def examples(issues, images, count=6):
    """Photos to look at: of each check the first `count` that open, each beside the photo that it is like.

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
    """The images that no issue leaves out."""
    return images[~images["path"].isin(issues.loc[issues["action"] == "left out", "path"])].reset_index(drop=True)
