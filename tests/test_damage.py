"""Whatever a run leaves on disk may be damaged: it is named, computed again or not needed; no answer changes silently.

The test walks the folders, so a new kind of file is damaged without being named here.
"""

import base64
import shutil

import helpers
from conftest import paint
from leaves import custom_cnn, features, image_store, places, published, runs, sources, splitting
from leaves.cache import read_arrays
from leaves.dataset import load_images, load_split
from leaves.duplicates import keep_usable
from leaves.files import InputError, file_hash, write_json
from leaves.photos import find_images, inspect_images
from leaves.report import keep, plan, render, unchanged
from leaves.report.chapters import CHAPTERS
from leaves.report.execute import stamped
from leaves.report.publish import keep_evidence
from leaves.vector import save_figure

import keras
import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pandas as pd
import pytest

SETTINGS = {"validation_share": 0.2, "test_share": 0.2, "phash_distance": 4, "data_seed": 0}
SIZE = 8
SCORES = {"chapter": [2, 4], "model": ["FinalModel", "VGG16"], "initial_weights": ["none", "imagenet"]}
SCORES |= {"test_macro_f1": [0.7, 0.9], "test_macro_f1_low": [0.6, 0.8], "test_macro_f1_high": [0.8, 0.99]}
SCORES |= {"replaced_background_macro_f1": [0.2, 0.3], "params": [1000, 9000], "train_seconds": [10.0, 20.0]}


def cut(content):
    return content[: len(content) // 2]


def empty(content):
    return b""


def flip(content):
    """Another lowest bit in the middle: a digit becomes another digit."""
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


# ---------------------------------------------------------------- what a run leaves


def chapter_1():
    """Chapter 1's work; returns what it found."""
    images, issues = find_images(places.ROOT / "photos")
    images, _ = inspect_images(images, SIZE)
    photos, pairs, issues = keep_usable(images, issues, places.ROOT / "photos", SETTINGS["phash_distance"])
    memory, before = splitting.memory_of_split(**SETTINGS)
    photos, bridges = splitting.split_photos(photos, pairs, 0.2, 0.2, 0, before)
    splitting.remember_split(memory, before, photos)
    issues = pd.concat([issues, bridges])
    split = splitting.write_split(photos, issues, str(places.ROOT / "photos"), "the folder photos", SETTINGS)
    splitting.link_folders(split, places.DATA / "split")
    return split.to_csv() + (places.DATA / "data_issues.csv").read_text()


def spec_of(split):
    layers = [["Rescaling", {"scale": 1 / 255}], ["Conv2D", {"filters": 2, "kernel_size": 3}]]
    layers += [["GlobalAveragePooling2D", {}], ["Dense", {"units": 2, "activation": "softmax"}]]
    return custom_cnn.cnn_spec("02", "Tiny", split, SIZE, 1, 0, layers=layers, log_layers=True)


@pytest.fixture(scope="module")
def backbone():
    """Two parts of a network without weights, as `cut_backbone` gives them."""
    pixels = keras.Input((SIZE, SIZE, 3))
    front = keras.Model(pixels, keras.layers.AveragePooling2D(4)(pixels))
    middle = keras.Input(front.output.shape[1:])
    return front, keras.Model(middle, keras.layers.GlobalAveragePooling2D()(middle))


def outputs_of(split, backbone):
    spec = {"backbone": "VGG16", "weights": {}, "image_size": SIZE, "split": split.attrs["hash"], "views": {"count": 0}}
    outputs = features.frozen_outputs(spec | {"precision": "float32"}, split, "development", lambda: backbone)
    return outputs.at_cut[:].tobytes(), outputs.features[:].tobytes(), outputs.labels.tolist()


def execute(chapter, name):
    """Put a chapter into report/ as if it had been executed, with one figure."""
    figure, axes = plt.subplots(figsize=(6, 2))
    axes.plot([1, 2], [3, 4], label="line")
    file = places.REPORT / "figures" / f"{name}.png"
    save_figure(figure, file, {"Title": name})
    plt.close(figure)
    executed = nbformat.v4.new_notebook()
    data = {"image/png": base64.b64encode(file.read_bytes()).decode()}
    output = nbformat.v4.new_output("display_data", data, metadata={"image/png": {"name": name, "alt": "a line"}})
    parameters = nbformat.v4.new_code_cell("seed = 0", metadata={"tags": ["parameters"]}, execution_count=1)
    drawn = nbformat.v4.new_code_cell("show()", outputs=[output], execution_count=2)
    executed.cells = [nbformat.v4.new_markdown_cell(f"# {chapter.stem}"), parameters, drawn]
    (places.REPORT / chapter.name).write_text(stamped(executed, chapter.name[:2], ""), encoding="utf-8")


def publish():
    """Leave the tables of a published study in results/."""
    places.RESULTS.mkdir(exist_ok=True)
    verdicts = {"claim": ["C1"], "said": ["x"], "evidence": ["y"], "verdict": ["confirmed"], "reason": [""]}
    tables = {"scores": SCORES, "ranking": {"model": ["FinalModel"], "score": [0.9]}, "verdicts": verdicts}
    for name, table in tables.items():
        pd.DataFrame(table).to_csv(places.RESULTS / f"{name}.csv", index=False)
    record = {
        "trainings": 1,
        "hours": 1,
        "date": "2026-01-01",
        "photos": 9,
        "species": 2,
        "commit": "x",
        "split": "y",
        "parameters": {},
    }
    record |= {"weights": {"VGG16": {"kind": "imagenet"}}}
    record["files"] = {f"results/{name}.csv": file_hash(places.RESULTS / f"{name}.csv") for name in tables}
    write_json(places.RESULTS / "provenance.json", record)


@pytest.fixture
def finished(working_folder, backbone):
    """A project after a small run; returns the spec of its training."""
    for label in ("Elm", "Oak"):
        for number in range(8):
            paint(
                working_folder / "photos" / label / f"{number}.jpg", seed=[len(label), ord(label[0]), number], size=40
            )
    chapter_1()
    split = load_split()
    spec = spec_of(split)
    run = helpers.train(spec, split, custom_cnn.prepare)
    runs.layer_log(run, "change")
    helpers.record_runs("02", {"Tiny": run}, [{"claim": "C1"}], {"Tiny": [run]})
    keep_evidence(run)
    outputs_of(split, backbone)
    publish()
    places.REPORT.mkdir()
    pd.DataFrame(SCORES).to_csv(places.REPORT / "scores.csv", index=False)
    execute(CHAPTERS[1], "02-line")
    execute(CHAPTERS[5], "06-line")
    page()
    unchanged.remember_state({CHAPTERS[1]: "digest"}, {})
    return spec


# ---------------------------------------------------------------- what reads it next


def page():
    """The page of the executed chapters."""
    keep.forget_stale()
    if not (shown := keep.shown_chapters()):
        return ""
    long_run = 1e6  # seconds; so no training is older than the run, however long the test takes
    file = render.render_report(shown, places.REPORT / "report.html", "tiny", "./run_all.sh", long_run)
    return file.read_text(encoding="utf-8")


def facts(run):
    answers = run.validation_probabilities.tolist(), run.history.to_csv(), runs.layer_log(run, "change").to_csv()
    return {key: value for key, value in run.result.items() if key != "hashes"}, run.spec, answers


def readers(spec, backbone):
    """All that reads a file: dict of the folders and files that it reads to functions without arguments."""
    own, kept = (place / runs.run_folder(spec).name for place in (places.RUNS, places.RESULTS / "runs"))
    return {
        ("data",): [lambda: load_split().to_csv(), sources.photos_in_words, lambda: outputs_of(load_split(), backbone)]
        + [lambda: [load_images(load_split(), part, SIZE)[0][:].tobytes() for part in ("train", "test")], chapter_1],
        ("runs",): [
            lambda: facts(helpers.train(spec, load_split(), custom_cnn.prepare)),
            lambda: facts(helpers.recorded_runs("02", "02_custom_cnn")["Tiny"]),
            lambda: (
                helpers.recorded("02", "evidence"),
                [facts(run) for run in helpers.recorded("02", "repeats")["Tiny"]],
            ),
            lambda: str(runs.logged(runs.read_run(own), "layers", "gradient/")),
        ],
        ("results/runs",): [lambda: facts(runs.read_run(kept)), lambda: evidence(spec, own)],
        ("report/state",): [unchanged.known_chapters],
        ("runs", "results/runs"): [lambda: len(plan.measured_runs())],  # times of other runs are as good
        ("results/",): [lambda: str(published.published_study())],
        ("report", "results/p", "results/s", "data/source"): [page],
    }


def evidence(spec, own):
    """What chapters read of a training whose run is elsewhere."""
    shutil.rmtree(own)
    return facts(helpers.train_all([spec], load_split(), custom_cnn.prepare, [runs.LAYERS])[0])


class Again(BaseException):
    """A training that would begin."""


def fault_of(read, expected, name, capsys):
    """What is wrong with how a reader takes a damaged file; None if all is well."""
    capsys.readouterr()
    try:
        answer = read()
    except InputError as error:
        parts = name.removesuffix(".sha256").split("/")[1:]
        named = {*parts, parts[-1].removesuffix(".json")} & {*str(error).replace("/", " ").replace(":", " ").split()}
        return None if named and str(error).endswith(".") else f"does not name it: {error}"
    except Again:
        answer = None
    except Exception as error:  # noqa: BLE001 - this is what is looked for
        return f"{type(error).__name__}: {error}"
    if answer == expected or any(part in capsys.readouterr().out for part in name.split("/")[1:]):
        return None
    return "another answer, silently"


@pytest.mark.long
def test_no_damaged_file_changes_an_answer_silently(finished, backbone, capsys, monkeypatch):
    monkeypatch.setattr(render, "commit", lambda: "a commit")  # the checkout may change while this test runs
    root, whole = places.ROOT, places.ROOT.with_name("whole")
    folders = ("data", "runs", "results", "report")
    table = readers(finished, backbone)
    expected = {read: read() for reads in table.values() for read in reads if read is not table[("results/runs",)][1]}
    for folder in folders:
        shutil.copytree(root / folder, whole / folder)

    def restore():
        for folder in folders:
            shutil.rmtree(root / folder)
            shutil.copytree(whole / folder, root / folder)

    def begin(*_, **__):
        raise Again

    monkeypatch.setattr(runs, "fit", begin)
    expected[table[("results/runs",)][1]] = table[("results/runs",)][1]()
    names = [str(file.relative_to(whole)) for file in sorted(whole.rglob("*")) if file.is_file()]
    names = [name for name in names if not name.startswith("data/split/") and "lock" not in name]
    wrong = []
    for name in names:
        for damage in (cut, empty, flip):
            content = (whole / name).read_bytes()
            if damage(content) == content:
                continue
            for read in (
                read for places_read, reads in table.items() if name.startswith(places_read) for read in reads
            ):
                restore()
                (root / name).write_bytes(damage(content))
                if fault := fault_of(read, expected[read], name, capsys):
                    wrong.append(f"{name}, {damage.__name__}: {fault}")
    assert len(names) > 30
    assert not wrong, "\n".join(wrong)


def test_no_flipped_bit_of_stored_arrays_is_read(tmp_path, capsys):
    """Each bit of the archive's directory: zipfile would pass over arrays, or raise many kinds of errors."""
    file = tmp_path / "arrays.npz"
    stored = {"a": np.arange(3, dtype=np.float32), "name_of_18_let": np.array([1.5]), "b": np.array(["x"])}
    np.savez(file, **stored)
    content = file.read_bytes()
    for bit in range(8 * content.index(b"PK\1\2"), 8 * len(content)):
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        file.write_bytes(flipped)
        if arrays := read_arrays(file):
            assert {name: array.tolist() for name, array in arrays.items()} == {
                name: array.tolist() for name, array in stored.items()
            }
        else:
            assert "arrays.npz is damaged" in capsys.readouterr().out


def test_a_changed_index_gives_no_image_to_another_photo(tmp_path):
    """A digit that becomes a space once shifted all photos that follow."""
    images = {f"{number:064x}": np.full((8, 8, 3), number, np.uint8) for number in range(1, 5)}
    image_store.store_images(tmp_path, 8, images.items())
    index = image_store.store_files(tmp_path, 8)[1]
    content = index.read_bytes()
    for place in (70, 74, 80, 140):
        for bit in range(8):
            index.write_bytes(content[:place] + bytes([content[place] ^ 1 << bit]) + content[place + 1 :])
            known = image_store.stored_rows(tmp_path, 8)
            for name in known.keys() & images.keys():
                try:
                    assert (image_store.open_images(tmp_path, 8, [name])[:] == images[name]).all()
                except InputError as error:
                    assert "images-8" in str(error)
            assert len(known.keys() & images.keys()) >= 3
