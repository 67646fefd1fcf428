"""What two or more chapters share, in the order of the flow: data, runs, figures.

Every chapter starts with ``import helpers``; nothing is read, written or trained at import. All paths hang
on ``ROOT``, so that a notebook finds the same files from JupyterLab, from papermill and from a test.
"""

import functools
import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from files import (
    InputError,
    disk_trouble_told,
    file_hash,
    is_as_signed,
    locked,
    read_regular,
    whole_file,
    whole_path,
    write_whole,
)
from fitting import OnEpoch, fit, gpus  # before Keras: it makes TensorFlow's settings

# isort: split
import keras
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
import tensorflow as tf
from IPython.display import Image as DisplayImage
from IPython.display import Markdown, display
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tqdm import tqdm

import parameters
import plots
from batches import BALANCES, evaluation_batches
from data import image_store
from scoring import RULES, macro_f1

ROOT = Path(__file__).resolve().parent
DATA, RUNS, REPORT = ROOT / "data", ROOT / "runs", ROOT / "report"
SPLIT_CSV, CACHE = DATA / "split.csv", DATA / "cache"
PARTS = ("train", "validation", "test")
PRECISIONS = ("float32", "bfloat16")  # of feature maps
SCHEMA = 1  # of a run: raised by every change of the code that changes what a training gives or writes


# ---------------------------------------------------------------- data


def load_split(path=None):
    """Read data/split.csv as a DataFrame; its attrs hold the sorted `classes` and the `hash` of the split.

    The hash covers the content of the photos, their labels and their parts, and not where they lie.
    """
    path = Path(path or SPLIT_CSV)
    if not path.exists():
        raise InputError("There is no data/split.csv yet: run notebook 01_data_split first.")
    if not is_as_signed(path):
        raise InputError(f"{path.name} is not as chapter 1 wrote it: run notebook 01_data_split, which makes it again.")
    split = pd.read_csv(path, dtype={"label": str}, keep_default_na=False)
    split = split.sort_values(["label", "sha256"], ignore_index=True)  # an order that a renamed file does not change
    rows = split[["sha256", "label", "split"]].to_csv(index=False)
    split.attrs["hash"] = hashlib.sha256(rows.encode()).hexdigest()[:16]
    split.attrs["classes"] = sorted(split["label"].unique())
    return split


def half_side(split):
    """Half the photos' median shorter side in pixels: the original study's image size (at most 128)."""
    side = split[["width", "height"]].min(axis=1).median()
    return int(min(128, max(32, side // 2)))


def load_images(split, part, size):
    """Decoded images and labels of one part of the split; each image is decoded once for the whole series.

    Parameters
    ----------
    part : "train", "validation" or "test" (chapter 6 alone asks for "test")
    size : int
        Pixels per side.

    Returns
    -------
    images : StoredImages, uint8, shape (n, size, size, 3), RGB
    labels : array of int, shape (n,), indices into split.attrs["classes"]

    Raises
    ------
    InputError
        When a photo is no longer what chapter 1 saw, or the disk is full.
    """
    missing = split[~split["sha256"].isin(image_store.stored_rows(CACHE, size))]

    def decode(row):
        try:
            content = read_regular(ROOT / row.path)
        except OSError:
            content = b""
        if hashlib.sha256(content).hexdigest() != row.sha256:
            raise InputError(f"{row.path} has changed or gone since the split: run notebook 01_data_split again.")
        return row.sha256, image_store.shrink_image(image_store.read_image(content), size)

    if len(missing):
        title = f"decoding to {size} x {size}"
        with disk_trouble_told(CACHE):
            decoded = image_store.in_parallel(decode, missing.itertuples(), len(missing), title)
            image_store.store_images(CACHE, size, decoded)
    own = split[split["split"] == part]
    labels = np.searchsorted(split.attrs["classes"], own["label"])
    return image_store.open_images(CACHE, size, own["sha256"]), labels


def batch_function(network):
    """A compiled function of the network in inference mode, traced once for batches of any length."""
    signature = tf.TensorSpec([None, *network.input_shape[1:]], tf.float32)
    return tf.function(lambda batch: network(batch, training=False), input_signature=[signature])


# ---------------------------------------------------------------- runs


@dataclass(frozen=True)
class Run:
    """One finished training: its folder and its plain, JSON-able spec and result."""

    folder: Path
    spec: dict
    result: dict

    @property
    def name(self):
        return self.spec["name"]

    @property
    def history(self):
        """DataFrame, one row per epoch: epoch (from 1), loss, macro_f1, val_loss, val_macro_f1."""
        return pd.read_csv(self.folder / "history.csv")

    @property
    def validation_probabilities(self):
        """Array of float32, shape (images, classes), in the order of the validation rows of split.csv."""
        return np.load(self.folder / "validation.npy")

    def load_model(self):
        """The whole network, from RGB pixels 0..255 to class probabilities."""
        return keras.models.load_model(self.folder / "model.keras")

    def load_weights(self, network):
        """Give a network of the same layers this run's weights, several times faster than `load_model`."""
        with zipfile.ZipFile(self.folder / "model.keras") as archive, tempfile.TemporaryDirectory() as folder:
            network.load_weights(archive.extract("model.weights.h5", folder))


def fast_precision():
    """The name "bfloat16" where such numbers are multiplied by the hardware itself, else "float32".

    That is on GPUs from compute capability 8 on, and on processors with AVX-512 BF16 or AMX.
    """
    if found := gpus():
        details = [tf.config.experimental.get_device_details(gpu) for gpu in found]
        return "bfloat16" if all(own.get("compute_capability", (0,)) >= (8,) for own in details) else "float32"
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8").split()
    except OSError:
        flags = []
    return "bfloat16" if {"avx512_bf16", "amx_bf16"} & set(flags) else "float32"


def chosen_precision(precision, size):
    """`precision`, or for "auto" the faster one: on a processor bfloat16 pays from about 64 pixels per side on."""
    if precision != "auto":
        return precision
    return fast_precision() if gpus() or size >= 64 else "float32"


def training_spec(chapter, name, split, epochs, seed, balance="none", **more):
    """A spec with the original study's settings: batches of 32, Adam, early stopping after 10 idle epochs.

    `schema` says which version of the code it was made for: runs of another one are trained again.

    `balance` says what is done about classes of unequal size: one of `BALANCES`; InputError for anything else.
    """
    if balance not in BALANCES:
        raise InputError(f"balance is {balance!r}, but it must be one of {', '.join(BALANCES)}.")
    return {
        "chapter": chapter,
        "name": name,
        "batch_size": 32,
        "epochs": epochs,
        "patience": 10,  # None: all epochs, and no look back for the best
        "optimizer": {"class_name": "Adam", "config": {"learning_rate": 0.001}},
        "augmentation": None,
        "mixup": 0.0,
        "label_smoothing": 0.0,
        "balance": balance,
        "log_layers": False,
        "precision": fast_precision(),
        "seed": seed,
        "split": split.attrs["hash"],
        "schema": SCHEMA,
        **more,
    }


def spec_hash(spec):
    """First 8 hex digits of the spec's SHA-256; chapter, name and schema do not count: they do not describe it."""
    content = {key: value for key, value in spec.items() if key not in ("chapter", "name", "schema")}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:8]


def run_folder(spec):
    """The folder of a spec's run; another chapter may have given it another name."""
    own = RUNS / f"{spec['chapter']}-{slug(spec['name'])}-{spec_hash(spec)}"
    return next((file.parent for file in RUNS.glob(f"*-{spec_hash(spec)}/spec.json")), own)


def find_run(spec):
    """The finished run of this spec, whichever chapter made it, or None if it has to be trained."""
    folder = run_folder(spec)
    return None if fault_of(folder, spec) else Run(folder, spec, read_json(folder / "result.json"))


def fault_of(folder, spec=None):
    """What keeps the run in a folder from being taken as finished and sound, in a few words, or None.

    With ./run_all.sh --force (it sets RETRAIN) the run of a spec counts only if the same command has trained it.
    """
    if not (folder / "result.json").exists():
        return "it is not finished"
    sums = read_json(folder / "checksums.json")
    for name in ("spec.json", "history.csv", "validation.npy", "model.keras", "result.json"):
        if not (folder / name).exists() or sums.get(name) != file_hash(folder / name):
            return f"{name} is damaged"
    made_for = read_json(folder / "spec.json")
    if made_for.get("schema") != SCHEMA or (spec and unnamed(made_for) != unnamed(spec)):
        return "another version of the code made it"
    return "--force was given" if spec and not is_as_forced(folder) else None


def is_as_forced(folder):
    """Whether a run was begun by the present command, where that has to train again (--force)."""
    forced, file = os.environ.get("RETRAIN"), folder / "forced"
    return not forced or (file.exists() and file.read_text(encoding="utf-8") == forced)


def unnamed(spec):
    """What a spec describes, as JSON holds it, without the chapter and name that label it."""
    return json.loads(json.dumps({key: value for key, value in spec.items() if key not in ("chapter", "name")}))


def read_json(file):
    """What a JSON file holds; nothing if it is missing or damaged."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def train(spec, split, prepare):
    """Train what a spec describes, once: a second call with the same spec returns the finished run.

    Raises
    ------
    InputError
        When the training diverged: its loss was no longer a number.
    """
    [run] = train_all([spec], split, prepare)
    if run.result["diverged"]:
        raise InputError(
            f"{run.name} diverged: its loss was no longer a number in epoch {run.result['epochs']}; "
            f"lower the learning rate of {spec['optimizer']['config'].get('learning_rate')}."
        )
    return run


def train_all(specs, split, prepare):
    """Train a queue of specs, each once; a bar shows which run of how many, score and time left.

    One after another in this process, or with DASK_SCHEDULER_ADDRESS set (./run_all.sh --scheduler) on the workers of a
    Dask cluster, see `cluster`; the results are the same.

    A run that was stopped before its end goes on after its last epoch. One that diverges is marked so in its
    result, and the queue goes on.

    Parameters
    ----------
    specs : list of dict
        JSON-able, as `training_spec` makes them, with what `prepare` reads. Early stopping looks at the validation
        macro F1 and restores the best weights.
    prepare : callable(spec, split) -> Training
        Called only if the spec has not been trained yet.

    Returns
    -------
    list of Run, in the order of the specs
    """
    waiting = {spec_hash(spec): spec for spec in specs if not find_run(spec)}
    address = os.environ.get("DASK_SCHEDULER_ADDRESS")
    if not address and len(waiting) > 1 and len(gpus()) > 1:
        address = f"local:{len(gpus())}"  # one training per GPU keeps them busier than one training on all of them
    with tqdm(total=sum(spec["epochs"] for spec in waiting.values()), unit="epoch", mininterval=2) as bar:
        progress = functools.partial(show_progress, bar, waiting, dict.fromkeys(waiting, 0))
        if address and waiting:
            import cluster  # Dask takes a second

            cluster.train_queue(waiting, split, prepare, address, progress)
        else:
            for key, spec in waiting.items():
                train_once(spec, split, prepare, OnEpoch(functools.partial(progress, key)), patience=np.inf)
                progress(key, None, None)
    runs = [find_run(spec) for spec in specs]
    for run in runs:
        if run.result["diverged"]:
            print(f"{run.name}, seed {run.spec['seed']}, diverged in epoch {run.result['epochs']}.")
    return runs


def show_progress(bar, queue, done, key, epoch, score):
    """Move the bar of a queue to a run's epoch, None at its end; `done` holds how far each run is."""
    end = queue[key]["epochs"]
    bar.update((end if epoch is None else epoch) - done[key])
    done[key] = end if epoch is None else epoch
    finished = sum(done[other] == spec["epochs"] for other, spec in queue.items())
    bar.set_description(
        f"{finished} of {len(queue)} runs; {queue[key]['name']}, seed {queue[key]['seed']}", refresh=False
    )
    if score is not None:
        bar.set_postfix({"epoch": f"{epoch} of {end}", "validation macro F1": f"{score:.3f}"}, refresh=False)


def train_once(spec, split, prepare, *callbacks, patience=10):
    """Train a spec, or go on with its training, and write its run folder; result.json, written last, makes it a run.

    `train_seconds` counts the preparation too. InputError if another process is still training it after `patience`
    seconds.
    """
    work = f"The training of {spec['name']}, seed {spec['seed']},"
    with locked(RUNS / "locks" / spec_hash(spec), patience, work):
        folder = run_folder(spec)
        fault = fault_of(folder, spec)
        if not fault:  # another process has just finished it
            return
        if (folder / "result.json").exists():
            print(f"{folder.name} is trained again: {fault}.")
        another = unnamed(read_json(folder / "spec.json")) != unnamed(spec)
        if another or (folder / "result.json").exists() or not is_as_forced(folder):
            shutil.rmtree(folder, ignore_errors=True)
        write_whole(folder / "spec.json", json.dumps(spec, indent=1))
        write_whole(folder / "forced", os.environ.get("RETRAIN", ""))
        training, history, seconds = fit(spec, split, prepare, *callbacks, folder=folder)
        write_run(folder, spec, training, history, seconds)
        (folder / "checkpoint.npz").unlink(missing_ok=True)


def write_run(folder, spec, training, history, seconds):
    """Write what a finished training leaves: history, model, validation probabilities, checksums, result."""
    with whole_file(folder / "history.csv") as out:
        history.to_csv(out, index=False)
    diverged = not np.isfinite(history["loss"]).all()
    result = {
        **training.summary,
        "params": training.whole.count_params(),
        "trainable_params": int(sum(np.prod(weight.shape) for weight in training.model.trainable_weights)),
        "epochs": len(history),
        "best_epoch": len(history) if spec["patience"] is None else int(history["val_macro_f1"].argmax()) + 1,
        "train_seconds": round(seconds, 2),
        "diverged": bool(diverged),
    }
    for part, (x, labels) in (("train", training.train), ("validation", training.validation)):
        probabilities = training.model.predict(evaluation_batches(x, labels), verbose=0)
        score = macro_f1(labels, probabilities.argmax(axis=1))
        result[f"{part}_macro_f1"] = None if diverged else float(score)
    with whole_file(folder / "validation.npy") as out:
        np.save(out, probabilities)
    with whole_path(folder / "model.keras") as unfinished:
        training.whole.save(unfinished)
    text = json.dumps(result, indent=1)
    sums = {name: file_hash(folder / name) for name in ("spec.json", "history.csv", "validation.npy", "model.keras")}
    sums["result.json"] = hashlib.sha256(text.encode()).hexdigest()[:16]
    write_whole(folder / "checksums.json", json.dumps(sums, indent=1))
    write_whole(folder / "result.json", text)


def logged(run, folder, kind):
    """What TensorBoard's files of a run hold of one kind, as dict of layer to one value per epoch.

    Parameters
    ----------
    folder, kind : str
        "layers" and "gradient" or "change" (numbers, see `LayerLog`); "train" and "histogram" (arrays of shape
        (buckets, 3): left edge, right edge, count).
    """
    place, everything = str(run.folder / "tensorboard" / folder), {"tensors": 0}
    events = EventAccumulator(place, size_guidance=everything, purge_orphaned_data=False).Reload()
    found = {}
    for tag in events.Tags()["tensors"]:
        if kind in tag:  # a training that was stopped may have logged an epoch twice
            steps = {event.step: event.tensor_proto for event in events.Tensors(tag)}
            found[tag] = [tf.make_ndarray(steps[step]) for step in sorted(steps)]
    return found


def record_runs(chapter, runs, verdicts=(), repeats=None):
    """Write runs/<chapter>.json: what the later chapters read of this one.

    Parameters
    ----------
    runs : dict of model name to Run
    verdicts : list of dict of str: claim (C1 ...), said, evidence, verdict, and figure, the name that shows it
    repeats : dict of model name to list of Run, its trainings with all seeds
    """
    record = {"split": load_split().attrs["hash"], "runs": {name: run.folder.name for name, run in runs.items()}}
    record["results"] = {name: file_hash(run.folder / "result.json") for name, run in runs.items()}
    record["repeats"] = {name: [run.folder.name for run in own] for name, own in (repeats or {}).items()}
    write_whole(RUNS / f"{chapter}.json", json.dumps(record | {"verdicts": list(verdicts)}, indent=1))


def recorded(chapter, what):
    """The `verdicts` or `repeats` that a chapter recorded, see `record_runs`; repeats as lists of Run."""
    record = read_json(RUNS / f"{chapter}.json")
    if what not in record:
        raise InputError(f"runs/{chapter}.json is missing or damaged: run the notebook of chapter {chapter} again.")
    found = record[what]
    return found if what == "verdicts" else {name: [read_run(RUNS / one) for one in own] for name, own in found.items()}


def read_run(folder, **labels):
    """A finished run by its folder; labels take the place of the chapter and name that it was trained under.

    InputError if the folder is damaged.
    """
    spec, result = (read_json(folder / f"{part}.json") for part in ("spec", "result"))
    if fault := fault_of(folder):
        raise InputError(f"runs/{folder.name}: {fault}; run the notebook of chapter {folder.name[:2]} again.")
    return Run(folder, spec | labels, result)


def recorded_runs(chapter, notebook):
    """The runs that an earlier chapter recorded for the present split, as a dict of model name to Run.

    Raises
    ------
    InputError
        Names the notebook to run first.
    """
    record = read_json(RUNS / f"{chapter}.json")
    folders = {name: RUNS / folder for name, folder in record.get("runs", {}).items()}
    done = all((folder / "result.json").exists() for folder in folders.values())
    if not folders or not done or record["split"] != load_split().attrs["hash"]:
        raise InputError(
            f"The runs of chapter {chapter} for the present split are missing: run notebook {notebook} first."
        )
    # The folder may carry the name that another chapter gave this training.
    return {name: read_run(folder, chapter=chapter, name=name) for name, folder in folders.items()}


def slug(name):
    """A model's name as part of a file name: letters, digits and underscores."""
    return "_".join("".join(letter if letter.isalnum() else " " for letter in name).split())


# ---------------------------------------------------------------- figures

_COLOUR_BLIND_SAFE = sns.color_palette("colorblind").as_hex()
MODEL_COLOURS = {
    "FinalModel": _COLOUR_BLIND_SAFE[0],
    "FinalModel (refit)": _COLOUR_BLIND_SAFE[9],
    "FinalModel (tuned)": _COLOUR_BLIND_SAFE[3],
    "ResNet50": _COLOUR_BLIND_SAFE[1],
    "VGG16": _COLOUR_BLIND_SAFE[2],
    "EfficientNetB4": _COLOUR_BLIND_SAFE[4],
    "EfficientNetLite0": _COLOUR_BLIND_SAFE[5],
    "Test-time augmentation": _COLOUR_BLIND_SAFE[6],
    "Ensemble": _COLOUR_BLIND_SAFE[7],
}
MODEL_MARKERS = {"FinalModel": "o", "FinalModel (refit)": "v", "FinalModel (tuned)": "P"}
MODEL_MARKERS |= {"ResNet50": "s", "VGG16": "^", "EfficientNetB4": "D", "EfficientNetLite0": "X"}
MODEL_MARKERS |= {"Test-time augmentation": "<", "Ensemble": "*"}


def begin(names):
    """Check the parameters among a notebook's ``globals()``, and give all figures one look.

    InputError names a parameter with a wrong value and the values it takes.
    """
    parameters.check(names)
    set_style()


def set_style():
    """One look for every figure of the series."""
    sns.set_theme(
        "notebook",
        "whitegrid",
        "colorblind",
        rc={
            "figure.dpi": 110,
            "savefig.dpi": 110,
            "figure.constrained_layout.use": True,
            "text.parse_math": False,  # a class may have a dollar in its name
        },
    )


def show(figure, name, caption, table=None):
    """Save a figure as report/figures/<name>.png and display it with its caption as alternative text.

    Parameters
    ----------
    table : DataFrame or Series, optional
        What a figure with names on an axis was drawn from; it is compared with the drawn marks, see
        `plots.check_drawn`. The file's metadata say whether that was done.
    """
    plots.plain_log_ticks(figure)
    names = "on an axis" if plots.has_categories(figure) else "none"
    if names != "none" and table is not None:
        plots.check_drawn(figure, table)
        names = "compared with the table"
    file = REPORT / "figures" / f"{name}.png"
    with whole_path(file) as unfinished:
        figure.savefig(unfinished, metadata={"Title": name, "Description": caption, "Names": names})
    plt.close(figure)
    display(DisplayImage(file.read_bytes(), alt=caption, metadata={"name": name}))


def explain(*rules):
    """Display rules of verdicts by their names in `scoring.RULES`."""
    display(Markdown(" ".join(RULES[rule] for rule in rules)))


def plot_curves(runs, title):
    """Training and validation loss and macro F1 over epochs, for a dict of name to Run; returns the figure."""
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.8))
    one_model = len({run.name for run in runs.values()}) == 1  # then the colours tell its seeds apart
    for axis, metric, label in zip(axes, ("loss", "macro_f1"), ("cross-entropy loss", "macro F1"), strict=True):
        for number, (name, run) in enumerate(runs.items()):
            colour = _COLOUR_BLIND_SAFE[number % 10] if one_model else MODEL_COLOURS[run.name]
            history = run.history
            axis.plot(history["epoch"], history[metric], "--", color=colour, alpha=0.7)
            axis.plot(history["epoch"], history[f"val_{metric}"], color=colour, label=name)
            best = history.iloc[run.result["best_epoch"] - 1]
            fill = "none" if run.result["initial_weights"] == "random" else "full"
            axis.plot(best["epoch"], best[f"val_{metric}"], MODEL_MARKERS[run.name], color=colour, fillstyle=fill)
        axis.set(xlabel="epoch", ylabel=label)
        axis.xaxis.get_major_locator().set_params(integer=True)
    axes[1].set_ylim(0, 1)
    side = {"loc": "upper left", "bbox_to_anchor": (1, 1), "fontsize": "small"}
    axes[1].legend(title="solid: validation\ndashed: training\nmark: best epoch", **side)
    figure.suptitle(title)
    return figure


def provenance(split=None):
    """One line that says with which versions, and on which split, a notebook was run."""
    versions = [
        f"{name} {importlib.metadata.version(name)}" for name in ("tensorflow", "keras", "numpy", "scikit-learn")
    ]
    on = f"split {split.attrs['hash']}, " if split is not None else ""
    return f"{on}Python {platform.python_version()}, {', '.join(versions)}, {os.cpu_count()} processor cores"
