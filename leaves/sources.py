"""Locate the photos of a run: the synthetic sample, the PlantVillage download, or a folder."""

import hashlib
import os
import shutil
import socket
import zipfile
from contextlib import suppress
from pathlib import Path

from leaves import places, sample
from leaves.cache import code_hash
from leaves.files import InputError, disk_errors_explained, link_or_copy, read_json, read_regular, user_path
from leaves.photos import IMAGE_SUFFIXES, find_images
from leaves.progress import tqdm

import keras
import pandas as pd

DATA_WORDS = {"sample": "the synthetic sample", "plant_village": "PlantVillage"}  # `data` values that are not folders
PLANT_VILLAGE = {
    # The archive of the photos without augmentation from "Data for: Identification of Plant Leaf Diseases" (Arun
    # Pandian and Geetharamani, Mendeley Data 2019, CC0). tensorflow-datasets lists the same archive and SHA-256.
    "url": "https://data.mendeley.com/public-files/datasets/tywbtsjrjv/files/"
    "d5652a28-c1d8-4b76-97f3-72fb80f94efc/file_downloaded",
    "sha256": "ac3432453984d02a86197987e775a5429d0d59e7cc7c35bcf5a8f50349b90ff0",
    "photos": 54305,
}


def last_source():
    """Read data/source.json, which records the data of the current split.

    Returns
    -------
    dict with the keys data ("sample", "plant_village" or an absolute path), name (the source in words), split (the hash
    of the split) and settings (dict of the parameters of the split); empty if there is no valid data/source.json
    """
    source = read_json(places.SOURCE_JSON)
    return source if isinstance(source, dict) and isinstance(source.get("data"), str) else {}


def photos_in_words():
    """Describe the photos of the current split in a few words; InputError if data/source.json is damaged."""
    source = last_source()
    if not source and places.SOURCE_JSON.exists():
        raise InputError("data/source.json is damaged: run notebook 01_data_split again.")
    if source.get("name", "").startswith("synthetic"):
        return "synthetic leaves, which a program has drawn, not photographs"
    return f"photos of {source.get('name', 'an unknown source')}"


def chosen_data(data):
    """Resolve the parameter `data`; None stands for the data of the last run or, before the first run, for the sample.

    Returns
    -------
    str, "sample", "plant_village" or the absolute path of a folder

    Raises
    ------
    InputError
        When `data` is None, and the photos of the last run are not found. This has one of two causes. Either the folder
        of the photos cannot be opened, or data/source.json, which names the photos of the split, is missing or damaged.
    """
    if data is not None:
        return data if data in DATA_WORDS else os.path.realpath(user_path(data, places.ROOT))
    if "data" not in last_source() and places.SPLIT_CSV.exists():
        raise InputError(
            "There is a split, but data/source.json, which names its photos, is missing or damaged: name the photos "
            "with --data DIR, or use the synthetic sample with --data sample."
        )
    data = last_source().get("data", "sample")
    if data not in DATA_WORDS and not os.path.isdir(data):
        raise InputError(
            f"The folder {data} of the last run is gone or cannot be opened: name another folder with --data DIR, or "
            "use the synthetic sample with --data sample."
        )
    return data


def origin_sentence(data):
    """Say in one sentence which photos the parameter `data` means, and whether the last run used others."""
    last, chosen = last_source().get("data"), chosen_data(data)
    name = name_of_data(chosen)
    if data is None and last is None:
        return f"The photos are those of {name}; set the parameter `data` to a folder to use your own photos."
    if data is None:
        return f"Using {name}, as in the last run; set the parameter `data` to use other photos."
    if last in (None, chosen):
        return f"The photos are those of {name}" + (", as in the last run." if last else ".")
    return f"The photos were those of {name_of_data(last)}; from now on they are those of {name}."


def name_of_data(data):
    """Describe the result of `chosen_data` in words, such as "PlantVillage" or "the folder DIR"."""
    return DATA_WORDS.get(data, f"the folder {data}")


def locate(data, sample_count, sample_size, seed):
    """Return the folder of the photos that `data` names, and their source in words; render or download them if needed.

    Parameters
    ----------
    data : "sample", "plant_village", a folder (relative to the project's folder) or None, see `chosen_data`
    sample_count, sample_size, seed : int
        Number of images, pixels per side and seed of the synthetic sample. The name of its folder contains a hash of
        these three numbers and of the renderer's code.

    Returns
    -------
    folder : Path
    source : str

    Raises
    ------
    InputError
        When `chosen_data` or `fetch_plant_village` raises it, or the sample cannot be written to the disk.
    """
    data = chosen_data(data)
    if data == "plant_village":
        folder = fetch_plant_village(places.DATA / "plant_village", **PLANT_VILLAGE)
        return folder, "PlantVillage without augmentation (Mendeley Data, doi:10.17632/tywbtsjrjv.1)"
    if data == "sample":
        folder = sample_folder(sample_count, sample_size, seed)
        if not folder.exists():
            with disk_errors_explained(folder):
                sample.render_dataset(folder, sample_count, sample_size, seed)
        return folder, f"synthetic leaves, {sample_size} x {sample_size} pixels, seed {seed} (leaves/sample.py)"
    return Path(data), f"the folder {Path(data).name}"


def sample_folder(*settings):
    """Return the path of the folder of the synthetic sample with these settings, see `locate`; it need not exist."""
    return places.DATA / f"sample-{code_hash(Path(sample.__file__), *map(str, settings))[:8]}"


def listed_photos(folder, table):
    """Make a folder of links to the photos of `folder` that are also listed in a table.

    Parameters
    ----------
    folder : Path, with one sub-folder per class
    table : path of a CSV file such as results/photos.csv
        The column `sha256` has the SHA-256 of each photo's file. The optional column `name` has the path of the link to
        each photo: <class>/<file name>. The split depends on the order of the names, so this column reproduces the
        split of the run that wrote the table.

    Returns
    -------
    Path of the folder of links, in data/

    Raises
    ------
    InputError
        When the file is not such a table, or the folder has none of the listed photos.
    """
    table = user_path(table, places.ROOT)
    try:
        listed = pd.read_csv(table, dtype=str)
        listed = listed[~listed["sha256"].duplicated()]
    except (OSError, ValueError, KeyError) as error:
        like = "choose a table such as results/photos.csv"
        raise InputError(f"{table} is not a CSV file with a column sha256: {like}.") from error
    hashes = files_by_hash(folder)
    listed = listed[listed["sha256"].isin(hashes)]
    if listed.empty:
        raise InputError(f"{folder} has none of the photos of {table.name}: name their folder with --data.")
    print(f"{len(listed)} of the photos of {table.name} are in {Path(folder).name}.")
    paths = map(Path, listed.get("name", [hashes[sha256] for sha256 in listed["sha256"]]))
    names = [f"{path.parent.name}/{path.name}" for path in paths]
    links = dict(zip(names, listed["sha256"], strict=True))
    made = places.DATA / f"listed-{hashlib.sha256(repr(sorted(links.items())).encode()).hexdigest()[:8]}"
    if not made.exists():
        unfinished = made.with_name(f"{made.name}.unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        with disk_errors_explained(unfinished):
            for name, sha256 in links.items():
                link_or_copy(hashes[sha256], unfinished / name)
            unfinished.rename(made)
    return made


def files_by_hash(folder):
    """Map the SHA-256 of each image in a folder to its path: dict of str to Path; unreadable files are skipped."""
    hashes, paths = {}, find_images(folder)[0]["path"]
    for file in tqdm(map(Path, paths), "finding the photos", total=len(paths), unit="file", mininterval=2):
        with suppress(OSError):
            hashes.setdefault(hashlib.sha256(read_regular(file)).hexdigest(), file)
    return hashes


def fetch_plant_village(folder, url, sha256, photos, timeout=30):
    """Download and unpack PlantVillage into `folder`, unless the folder exists; return `folder`.

    The archive is checked by its SHA-256, and the unpacked photos are counted. A call that fails does not create
    `folder`, and the next call starts again.

    Raises
    ------
    InputError
        When the server cannot be reached, does not answer for `timeout` seconds or sends another file, or when the
        archive does not hold `photos` photos.
    """
    if folder.exists():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)  # otherwise Keras would use another folder
    unfinished, usual_timeout = folder.with_name(f"{folder.name}.unfinished"), socket.getdefaulttimeout()
    try:
        socket.setdefaulttimeout(timeout)
        name = f"{folder.name}.zip"
        archive = keras.utils.get_file(name, url, file_hash=sha256, cache_dir=folder.parent, cache_subdir="download")
    except Exception as error:
        message = " ".join(str(error).split())
        raise InputError(
            f"PlantVillage could not be downloaded: {message}; run the same command again later, or name a folder of "
            "photos with --data DIR."
        ) from error
    finally:
        socket.setdefaulttimeout(usual_timeout)
    shutil.rmtree(unfinished, ignore_errors=True)
    with disk_errors_explained(unfinished), zipfile.ZipFile(archive) as packed:
        unfinished.mkdir()
        for member in tqdm(packed.infolist(), "unpacking PlantVillage", unit="file", mininterval=2):
            place = Path(member.filename)
            if place.suffix.lower() in IMAGE_SUFFIXES and "___" in place.parent.name:
                target = unfinished / place.parent.name / place.name
                target.parent.mkdir(exist_ok=True)
                with packed.open(member) as source, open(target, "wb") as copy:
                    shutil.copyfileobj(source, copy)
    if (count := sum(1 for _ in unfinished.glob("*/*"))) != photos:
        raise InputError(f"{archive} holds {count} photos instead of {photos}: it is not the archive of PlantVillage.")
    unfinished.rename(folder)
    shutil.rmtree(Path(archive).parent)
    return folder
