"""What two or more chapters share, in the order of the flow: data, runs, figures.

Every chapter starts with ``import helpers``; nothing is read, written or trained at import. All paths hang
on ``ROOT``, so that a notebook finds the same files from JupyterLab, from papermill and from a test.
"""

import copy
import errno
import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # off by default without AVX-512, yet up to four times faster

import keras
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
import tensorflow as tf
from IPython.display import Image as DisplayImage
from IPython.display import display
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tqdm import tqdm

from batches import BALANCES, class_weights, evaluation_batches, rows_of_epoch, training_batches
from data import image_store
from scoring import macro_f1

tf.get_logger().setLevel("ERROR")  # no warning for each of many models that a function is traced anew

ROOT = Path(__file__).resolve().parent
DATA, RUNS, REPORT = ROOT / "data", ROOT / "runs", ROOT / "report"
SPLIT_CSV, CACHE = DATA / "split.csv", DATA / "cache"
PARTS = ("train", "validation", "test")
PRECISIONS = ("float32", "bfloat16")  # of feature maps


class InputError(ValueError):
    """Input that the run cannot use; the message is one sentence that names it and the way out."""


# ---------------------------------------------------------------- data


def load_split(path=None):
    """Read data/split.csv as a DataFrame; its attrs hold the sorted `classes` and the `hash` of the split.

    The hash covers the content of the photos, their labels and their parts, and not where they lie.
    """
    path = Path(path or SPLIT_CSV)
    if not path.exists():
        raise InputError("There is no data/split.csv yet: run notebook 01_data_split first.")
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
            content = (ROOT / row.path).read_bytes()
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


@contextmanager
def disk_trouble_told(place):
    """Turn an OSError of writing to a file or folder into an InputError that says what to do."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        way_out = "make room on the disk" if full else "check that it is there and can be read and written"
        where = error.filename or place
        raise InputError(f"{where}: {error.strerror}; {way_out}, then run the same command again.") from error


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


@dataclass
class Training:
    """What `train` needs: the part that learns, the whole network around it, and their data."""

    model: keras.Model
    whole: keras.Model
    train: tuple  # (inputs of `model`, labels)
    validation: tuple
    summary: dict  # rows added to result.json


def fast_precision():
    """The name "bfloat16" on a processor that multiplies such numbers itself (AVX-512 BF16, AMX), else "float32"."""
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8").split()
    except OSError:
        flags = []
    return "bfloat16" if {"avx512_bf16", "amx_bf16"} & set(flags) else "float32"


def training_spec(chapter, name, split, epochs, seed, balance="none", **more):
    """A spec with the original study's settings: batches of 32, Adam, early stopping after 10 idle epochs.

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
        **more,
    }


def spec_hash(spec):
    """First 8 hex digits of the spec's SHA-256; chapter and name do not count: they only label a training."""
    content = {key: value for key, value in spec.items() if key not in ("chapter", "name")}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:8]


def find_run(spec):
    """The finished run of this spec, whichever chapter made it, or None.

    Runs that ended before the time RETRAIN_BEFORE (seconds, set by ./run_all.sh --force) do not count.
    """
    since = float(os.environ.get("RETRAIN_BEFORE", "0"))
    for result in RUNS.glob(f"*-{spec_hash(spec)}/result.json"):
        if result.stat().st_mtime >= since:
            return Run(result.parent, spec, json.loads(result.read_text()))
    return None


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
    """Train a queue of specs one after another, each once; a bar shows which run of how many, score and time left.

    A run that was stopped before its end is trained from the start. One that diverges is marked so in its
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
    with tqdm(total=sum(spec["epochs"] for spec in waiting.values()), unit="epoch", mininterval=2) as bar:
        for number, spec in enumerate(waiting.values(), 1):
            bar.set_description(f"run {number} of {len(waiting)}: {spec['name']}, seed {spec['seed']}")
            train_once(spec, split, prepare, Progress(bar, spec["epochs"]))
    runs = [find_run(spec) for spec in specs]
    for run in runs:
        if run.result["diverged"]:
            print(f"{run.name}, seed {run.spec['seed']}, diverged in epoch {run.result['epochs']}.")
    return runs


def train_once(spec, split, prepare, *callbacks):
    """Train a spec and write its run folder; `train_seconds` counts the preparation too."""
    own_folder = RUNS / f"{spec['chapter']}-{slug(spec['name'])}-{spec_hash(spec)}"
    folder = next(RUNS.glob(f"*-{spec_hash(spec)}"), own_folder)  # another chapter may know it by this name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    write_whole(folder / "spec.json", json.dumps(spec, indent=1))
    start = time.perf_counter()
    training, history = fit(spec, split, prepare, *callbacks, log_folder=folder / "tensorboard")
    seconds = time.perf_counter() - start
    history.to_csv(folder / "history.csv", index=False)
    training.whole.save(folder / "model.keras")
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
    np.save(folder / "validation.npy", probabilities)
    write_whole(folder / "result.json", json.dumps(result, indent=1))


def fit(spec, split, prepare, *callbacks, log_folder=None):
    """Prepare and fit a model until validation macro F1 stops rising; TensorBoard's files go to `log_folder`.

    Returns
    -------
    training : Training, its model with the weights of the best epoch
    history : DataFrame, one row per epoch
    """
    keras.backend.clear_session()
    keras.utils.set_random_seed(spec["seed"])
    tf.config.experimental.enable_op_determinism()
    training = prepare(spec, split)
    (x, labels), (held_out, held_out_labels) = training.train, training.validation
    one_hot = np.eye(training.model.output_shape[-1], dtype=np.float32)
    rows = rows_of_epoch(labels, spec["balance"])
    training.model.compile(
        optimizer=keras.optimizers.get(copy.deepcopy(spec["optimizer"])),  # Keras writes into what it is given
        loss=keras.losses.CategoricalCrossentropy(label_smoothing=spec["label_smoothing"]),
        metrics=[keras.metrics.F1Score(average="macro", name="macro_f1"), "accuracy"],
    )
    training.model.optimizer.build(training.model.trainable_variables)  # slower while the step is traced
    callbacks = [keras.callbacks.TerminateOnNaN(), *callbacks]
    if spec["patience"] is not None:
        best = {"monitor": "val_macro_f1", "mode": "max", "restore_best_weights": True}
        callbacks.append(keras.callbacks.EarlyStopping(patience=spec["patience"], **best))
    if log_folder:
        callbacks.append(keras.callbacks.TensorBoard(log_folder, int(spec["log_layers"]), write_graph=False))
    if log_folder and spec["log_layers"]:
        some = np.linspace(0, len(labels) - 1, 64).astype(int)
        callbacks.append(LayerLog(log_folder, x[some], one_hot[labels[some]]))
    with computing_in([training.model], spec["precision"]):
        history = training.model.fit(
            training_batches(x, one_hot[labels], rows, spec),
            steps_per_epoch=-(-len(rows) // spec["batch_size"]),
            epochs=spec["epochs"],
            validation_data=evaluation_batches(held_out, one_hot[held_out_labels]),
            class_weight=class_weights(labels, spec["balance"]),
            callbacks=callbacks,
            shuffle=False,  # the batches come shuffled
            verbose=0,
        )
    table = pd.DataFrame(history.history)
    table.insert(0, "epoch", np.arange(1, len(table) + 1))
    return training, table


@contextmanager
def computing_in(models, precision):
    """Let models compute their feature maps in "bfloat16"; weights, vectors (so the softmax) and loss stay float32.

    With precision "float32" nothing changes.
    """
    layers = [layer for model in models for layer in leaves(model) if len(layer.output.shape) == 4]
    try:
        for layer in layers:
            layer.dtype_policy = "mixed_bfloat16" if precision == "bfloat16" else "float32"
        yield
    finally:
        for layer in layers:
            layer.dtype_policy = "float32"


def leaves(model):
    """The layers of a model and of the models in it, without their inputs."""
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from leaves(layer)
        elif not isinstance(layer, keras.layers.InputLayer):
            yield layer


class LayerLog(keras.callbacks.Callback):
    """Logs to TensorBoard, for each layer and epoch, the gradient's norm and how far the weights moved.

    The gradient is that of the loss on fixed training images, without augmentation and dropout. Both norms are
    divided by the norm of the layer's kernel: a share that compares layers of different size.
    """

    def __init__(self, folder, images, targets):
        super().__init__()
        self.writer = tf.summary.create_file_writer(str(folder / "layers"))
        self.batch = tf.constant(images, tf.float32), tf.constant(targets)

    def on_train_begin(self, logs=None):
        self.kernels = {layer.name: layer.kernel for layer in self.model.layers if hasattr(layer, "kernel")}
        self.before = [kernel.numpy() for kernel in self.kernels.values()]
        self.gradients = tf.function(self.gradients_of_kernels)

    def gradients_of_kernels(self):
        images, targets = self.batch
        with tf.GradientTape() as tape:
            loss = self.model.compute_loss(images, targets, self.model(images, training=False))
        return [
            tf.norm(gradient) for gradient in tape.gradient(loss, [kernel.value for kernel in self.kernels.values()])
        ]

    def on_epoch_end(self, epoch, logs=None):
        now = [kernel.numpy() for kernel in self.kernels.values()]
        with self.writer.as_default(step=epoch):
            for name, gradient, new, old in zip(self.kernels, self.gradients(), now, self.before, strict=True):
                size = np.linalg.norm(new)
                tf.summary.scalar(f"gradient/{name}", gradient / size)
                tf.summary.scalar(f"change/{name}", np.linalg.norm(new - old) / size)
        self.before = now

    def on_train_end(self, logs=None):
        self.writer.close()


def logged(run, folder, kind):
    """What TensorBoard's files of a run hold of one kind, as dict of layer to one value per epoch.

    Parameters
    ----------
    folder, kind : str
        "layers" and "gradient" or "change" (numbers, see `LayerLog`); "train" and "histogram" (arrays of shape
        (buckets, 3): left edge, right edge, count).
    """
    events = EventAccumulator(str(run.folder / "tensorboard" / folder), size_guidance={"tensors": 0}).Reload()
    found = {}
    for tag in events.Tags()["tensors"]:
        if kind in tag:
            found[tag] = [tf.make_ndarray(event.tensor_proto) for event in events.Tensors(tag)]
    return found


class Progress(keras.callbacks.Callback):
    """Moves the bar of a queue by the epochs of one run, and shows the validation macro F1."""

    def __init__(self, bar, epochs):
        super().__init__()
        self.bar, self.epochs = bar, epochs

    def on_epoch_end(self, epoch, logs=None):
        shown = {"epoch": f"{epoch + 1} of {self.epochs}", "validation macro F1": f"{logs['val_macro_f1']:.3f}"}
        self.bar.set_postfix(shown, refresh=False)
        self.bar.update()
        self.done = epoch + 1

    def on_train_end(self, logs=None):
        self.bar.update(self.epochs - self.done)  # those that early stopping saved


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
    found = json.loads((RUNS / f"{chapter}.json").read_text(encoding="utf-8"))[what]
    return found if what == "verdicts" else {name: [read_run(RUNS / one) for one in own] for name, own in found.items()}


def read_run(folder, **labels):
    """A finished run by its folder; labels take the place of the chapter and name that it was trained under."""
    spec, result = (json.loads((folder / f"{part}.json").read_text(encoding="utf-8")) for part in ("spec", "result"))
    return Run(folder, spec | labels, result)


def file_hash(file):
    """First 16 hex digits of a file's SHA-256."""
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()[:16]


def recorded_runs(chapter, notebook):
    """The runs that an earlier chapter recorded for the present split, as a dict of model name to Run.

    Raises
    ------
    InputError
        Names the notebook to run first.
    """
    index = RUNS / f"{chapter}.json"
    record = json.loads(index.read_text()) if index.exists() else {}
    folders = {name: RUNS / folder for name, folder in record.get("runs", {}).items()}
    done = all((folder / "result.json").exists() for folder in folders.values())
    if not folders or not done or record["split"] != load_split().attrs["hash"]:
        raise InputError(
            f"The runs of chapter {chapter} for the present split are missing: run notebook {notebook} first."
        )
    # The folder may carry the name that another chapter gave this training.
    return {name: read_run(folder, chapter=chapter, name=name) for name, folder in folders.items()}


@contextmanager
def whole_file(file):
    """Open a file for writing bytes under another name, then rename: it is there whole or not at all."""
    unfinished = file.with_name(f"{file.name}.{os.getpid()}.unfinished")
    try:
        with disk_trouble_told(file):
            file.parent.mkdir(parents=True, exist_ok=True)
            with open(unfinished, "wb") as out:
                yield out
            unfinished.replace(file)
    finally:
        unfinished.unlink(missing_ok=True)


def write_whole(file, text):
    """Write a text whole or not at all."""
    with whole_file(file) as out:
        out.write(text.encode())


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


def show(figure, name, caption):
    """Save a figure as report/figures/<name>.png and display it with its caption as alternative text."""
    file = REPORT / "figures" / f"{name}.png"
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, metadata={"Title": name, "Description": caption})
    plt.close(figure)
    display(DisplayImage(file.read_bytes(), alt=caption, metadata={"name": name}))


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
