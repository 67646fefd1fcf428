"""Publish a finished study: copy its runs, tables and page to results/, and its figures to figures/.

`.venv/bin/python -m leaves.report.publish` copies the files of `./run_all.sh --profile study`; nothing is written by
hand. Runs are copied without their weights, see `keep_evidence`.
"""

import datetime
import io
import json
import platform
import re
import shlex
import shutil
import sys
from collections import Counter
from html import escape, unescape
from pathlib import Path

from leaves import places
from leaves.dataset import load_split
from leaves.files import (
    InputError,
    atomic_file,
    atomic_path,
    file_hash,
    matches_checksum,
    read_json,
    write_atomic,
    write_json,
)
from leaves.locks import locked
from leaves.published import PROFILE
from leaves.report.chapters import CHAPTERS, chapter_parameters, read_by
from leaves.report.keep import FAILED, read_executed
from leaves.report.render import commit, versions
from leaves.runs import fault_of_run, read_run

import numpy as np
import yaml
from PIL import Image

WAY = f"run ./run_all.sh --profile {PROFILE} with real photos and ImageNet weights, then publish again"
TABLES = ("scores.csv", "ranking.csv", "verdicts.csv", "variants.csv")
COVER = "cover.png"  # the README's picture, taken from the published page afterwards
MOST_BYTES = {"report.html": 6e6, "all": 12e6}
CHOSEN_BY_THE_READER = {"data", "photos", "weights", "external", "photo"}  # parameters that may differ from the profile
RECORDED = {"variants", "search_trials", "backbones"}  # so may these; provenance.json then records their values


def main():
    """Copy the evidence of finished runs to results/runs, and publish the study; InputError if it is unfinished."""
    with locked(places.RUNS / "lock"), locked(places.REPORT / "lock"):
        check_photos()
        split = load_split()
        runs = finished_runs(split.attrs["hash"])
        for run in runs:
            if run.folder.parent == places.RUNS:
                keep_evidence(run)
        print(f"results/runs has the evidence of {len(runs)} runs.")
        publish(split, runs, check_finished())


def finished_runs(split_hash):
    """List the finished and undamaged runs on a split, in runs/ or as evidence in results/runs: list of Run."""
    places_of_runs = (places.RESULTS / "runs", places.RUNS)  # runs/ is last, so a run there replaces its evidence
    files = [file for place in places_of_runs for file in place.glob("*/result.json")]
    sound = [file.parent for file in files if not fault_of_run(file.parent)]
    of_spec = {folder.name[-8:]: folder for folder in sound}  # the key is the hash: a training may have two folders
    sound = sorted(of_spec.values(), key=lambda folder: folder.name)
    return [run for run in map(read_run, sound) if run.spec["split"].split()[0] == split_hash]


def keep_evidence(run):
    """Copy a run's evidence to results/runs: spec, result, history, validation probabilities, readings, but no weights.

    The history is rounded to seven digits and the probabilities to half precision, so a run takes about 15 KB. The
    result gets the entry `predictions`, the hash of the unrounded probabilities (see `Run.identity`). The readings are
    the .npz files in which `Run.reading` has cached arrays.
    """
    folder = places.RESULTS / "runs" / run.folder.name
    readings = sorted(file.name for file in run.folder.glob("reading-*.npz"))
    files = ["history.csv", "validation.npy", *readings]
    kept = read_json(folder / "result.json")
    result = run.result | {"predictions": run.result["hashes"]["validation.npy"]}
    same, has = kept | {"hashes": run.result["hashes"]} == result, {*kept.get("hashes", ())}
    history = run.history.to_csv(index=False, float_format="%.7g").encode()
    if not fault_of_run(folder, run.spec):
        equal = (folder / "history.csv").read_bytes() == history  # more readings of an equal training are kept
        if (equal and has > {*files}) or (same and has == {*files}):
            return
    shutil.rmtree(folder, ignore_errors=True)
    write_json(folder / "spec.json", run.spec)
    with atomic_file(folder / "history.csv") as out:
        out.write(history)
    with atomic_file(folder / "validation.npy") as out:
        np.save(out, run.validation_probabilities.astype(np.float16))
    for name in readings:
        with atomic_path(folder / name) as unfinished:
            shutil.copyfile(run.folder / name, unfinished)
    hashes = {name: file_hash(folder / name) for name in files}
    write_json(folder / "result.json", result | {"hashes": hashes})


def check_photos():
    """Raise InputError with one sentence if the current photos are synthetic or if data/source.json names no photos."""
    source = read_json(places.SOURCE_JSON)
    if source.get("data") in (None, "sample") or source.get("name", "").startswith("synthetic"):
        raise InputError(f"A study needs real photos, but the present photos are synthetic or unknown: {WAY}.")


def check_finished():
    """Check that the report on disk is that of a finished study; raise InputError with one sentence if it is not.

    Returns
    -------
    dict of name to value, the parameters in `RECORDED` that differ from the profile
    """
    recorded = {}
    wanted = yaml.safe_load((places.NOTEBOOKS / "profiles" / f"{PROFILE}.yaml").read_text(encoding="utf-8"))
    for chapter in CHAPTERS:
        executed = places.REPORT / chapter.name
        if not executed.exists() or (places.REPORT / f"{FAILED}{chapter.name}").exists():
            raise InputError(f"Chapter {chapter.stem} did not reach its end: {WAY}.")
        metadata = read_executed(executed).get("metadata", {})
        if metadata.get("read") != read_by(chapter.name[:2]):
            raise InputError(f"Chapter {chapter.stem} read a file that has changed since: {WAY}.")
        for name, expected in metadata.get("left", {}).items():
            if not (places.REPORT / name).exists() or file_hash(places.REPORT / name) != expected:
                raise InputError(f"report/{name} was changed or deleted after chapter {chapter.stem}: {WAY}.")
        given = chapter_parameters(chapter) | metadata["papermill"]["parameters"]
        expected = chapter_parameters(chapter) | wanted
        for name in sorted(given.keys() - CHOSEN_BY_THE_READER):
            if given[name] != expected.get(name) and name in RECORDED:
                recorded[name] = given[name]
            elif given[name] != expected.get(name):
                raise InputError(f"Chapter {chapter.stem} was executed with {name} {given[name]!r}: {WAY}.")
    for name in (*TABLES, "report.html"):
        if not matches_checksum(places.REPORT / name):
            raise InputError(f"report/{name} is missing or damaged: {WAY}.")
    return recorded


def publish(split, runs, recorded):
    """Copy the tables, the page and the figures of the study, write a table of its photos and, last, its provenance.

    `recorded` is from `check_finished`. `MOST_BYTES` has two limits: one for the page alone, and one for the page, the
    figures and results/runs together. If a limit is exceeded, or if the page names a folder in a way that cannot be
    shortened (see `without_folders`), raise InputError before any file is changed.
    """
    page = (places.REPORT / "report.html").read_text(encoding="utf-8")
    figures = [file for file in places.REPORT.glob("figures/*.png") if f'id="figure-{file.stem}"' in page]
    pictures = {file.name: with_palette(file) for file in figures}
    sizes = {"report.html": (places.REPORT / "report.html").stat().st_size}
    sizes["all"] = sizes["report.html"] + sum(map(len, pictures.values()))
    sizes["all"] += sum(file.stat().st_size for file in (places.RESULTS / "runs").glob("*/*"))
    for name, most in MOST_BYTES.items():
        if sizes[name] > most:
            size, what = (
                f"{sizes[name] / 1e6:.1f} MB",
                {"all": "page, figures and results/runs together"}.get(name, name),
            )
            raise InputError(f"Too large to publish: {what}, {size}; the limit is {most / 1e6:.0f} MB.")
    page = without_folders(page, chosen_paths())
    record = provenance(split, runs, recorded)  # before any file is changed
    (places.RESULTS / "provenance.json").unlink(missing_ok=True)
    published = [places.RESULTS / name for name in TABLES]
    for file in published:
        copy(places.REPORT / file.name, file)
    published.append(places.RESULTS / "report.html")
    write_atomic(published[-1], page)
    for name, picture in pictures.items():
        published.append(places.ROOT / "figures" / name)
        with atomic_file(published[-1]) as out:
            out.write(picture)
    for old in {*(places.ROOT / "figures").glob("*.png")} - {*published, places.ROOT / "figures" / COVER}:
        old.unlink()
    table = photo_table(split)
    write_atomic(places.RESULTS / "photos.csv", table.to_csv(index=False))
    published.append(places.RESULTS / "photos.csv")
    record["files"] = {str(file.relative_to(places.ROOT)): file_hash(file) for file in published}
    write_json(places.RESULTS / "provenance.json", record)
    total = f"{sizes['all'] / 1e6:.1f} MB with results/runs"
    print(f"Published: {len(pictures)} figures in figures/, the page and the tables in results/ ({total}).")


def chosen_paths():
    """List the paths that can occur in the page: the project folder, the photo folder and paths given as parameters.

    Returns
    -------
    list of str, absolute paths
    """
    given = [read_executed(places.REPORT / chapter.name)["metadata"]["papermill"]["parameters"] for chapter in CHAPTERS]
    values = {str(parameters.get(name)) for parameters in given for name in CHOSEN_BY_THE_READER}
    values |= {str(places.ROOT), str(read_json(places.SOURCE_JSON).get("data"))}
    return sorted(value for value in values if Path(value).is_absolute() and Path(value).name)


def without_folders(page, paths):
    """Shorten each of `paths` in a page to the path's last component, because other machines have other folders.

    Raise InputError if the page still contains one of the whole paths, for example in a URL.
    """
    before, after = r"(?<![\w./<-])", r"(?![\w-])"  # with them, /photos is not found in results/photos.csv or /photos-2
    for path in sorted(paths, key=len, reverse=True):
        for text in (escape(path), escape(path, quote=False), path):
            anywhere = re.sub("([_/]+)", r"\1(?:<wbr/?>)?", re.escape(text))  # `page.guard_breaks` adds these tags
            page = re.sub(f"{before}{anywhere}{after}", lambda _, text=text: text.rpartition("/")[2], page)
    plain = unescape(re.sub("<wbr/?>", "", page))
    for path in paths:
        if re.search(f"(?:{before}|(?<=//)){re.escape(path)}{after}", plain):
            raise InputError(f"The page names the folder {path} where it cannot be shortened: rename it and run again.")
    return page


def copy(file, target):
    """Copy a file with an atomic write."""
    with atomic_path(target) as unfinished:
        shutil.copyfile(file, unfinished)


def with_palette(file):
    """Return a picture as a PNG with at most 256 colours: bytes, for a figure of photos about a third as many."""
    reduced, picture = io.BytesIO(), Image.open(file).convert("RGB")
    palette = picture.quantize(256)
    picture.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG).save(reduced, "PNG", optimize=True)
    return reduced.getvalue()


def photo_table(split):
    """List the photos of a split: DataFrame of sha256, name (<folder>/<file name>), label, split and fold."""
    names = [f"{Path(path).parent.name}/{Path(path).name}" for path in split["path"]]
    return split.assign(name=names)[["sha256", "name", "label", "split", "fold"]]


def provenance(split, runs, recorded):
    """Describe the provenance of a published study: JSON-able dict; `recorded` is from `check_finished`."""
    heads = [read_run(places.RUNS / name) for name in read_json(places.RUNS / "04.json").get("runs", {}).values()]
    weights = {run.spec["backbone"]: run.spec["weights"] for run in heads}
    runs = [run for run in runs if "mean_with_start" not in run.spec]  # averages of weights are not trained
    made = datetime.datetime.fromtimestamp((places.REPORT / "scores.csv").stat().st_mtime)
    options = [word for name, value in sorted(recorded.items()) for word in ("-p", name, json.dumps(value))]
    seconds = sum(run.result["train_seconds"] for run in runs)
    return {
        "date": made.date().isoformat(),
        "commit": commit(),
        "command": shlex.join(["./run_all.sh", "--profile", PROFILE, "--data", "DIR", "--weights", "DIR", *options]),
        "parameters": recorded,
        "photos": len(split),
        "species": len(split.attrs["classes"]),
        "split": split.attrs["hash"],
        "trainings": len(runs),
        "hours": round(seconds / 3600, 1),
        "weights": {name: weights[name] for name in sorted(weights)},
        "versions": {"python": platform.python_version(), **versions()},
        "processors": dict(Counter(run.result.get("processor", "not recorded") for run in runs).most_common()),
    }


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"publish: {error}")
