"""What two or more chapters share, in the order of the flow: data, models, runs, scores, figures.

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
from sklearn.utils.class_weight import compute_class_weight
from tqdm import tqdm

from data import image_store

tf.get_logger().setLevel("ERROR")  # no warning for each of many models that a function is traced anew

ROOT = Path(__file__).resolve().parent
DATA, RUNS, REPORT = ROOT / "data", ROOT / "runs", ROOT / "report"
SPLIT_CSV, CACHE = DATA / "split.csv", DATA / "cache"
PARTS = ("train", "validation", "test")


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


def cached_outputs(network, inputs, key):
    """What a frozen network makes of an array of inputs, computed once for each `key`.

    Parameters
    ----------
    inputs : array, shape (n, ...)
    key : str
        Says all that the outputs depend on: network, weights, data.

    Returns
    -------
    memory-mapped array of float16, shape (n, *network.output_shape[1:])
    """
    file = CACHE / f"outputs-{hashlib.sha256(key.encode()).hexdigest()[:16]}.npy"
    if not file.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        predict = batch_function(network)
        header = {"descr": "<f2", "fortran_order": False, "shape": (len(inputs), *network.output_shape[1:])}
        unfinished = file.with_suffix(f".{os.getpid()}.unfinished")
        try:
            with disk_trouble_told(file), open(unfinished, "wb") as out:
                np.lib.format.write_array_header_1_0(out, header)
                for start in tqdm(range(0, len(inputs), 64), key.split()[0], unit="batch", mininterval=2):
                    batch = predict(inputs[start : start + 64].astype(np.float32))
                    out.write(batch.numpy().astype("<f2").tobytes())
            unfinished.replace(file)
        finally:
            unfinished.unlink(missing_ok=True)
    return np.load(file, mmap_mode="r")


def batch_function(network):
    """A compiled function of the network in inference mode, traced once for batches of any length."""
    signature = tf.TensorSpec([None, *network.input_shape[1:]], tf.float32)
    return tf.function(lambda batch: network(batch, training=False), input_signature=[signature])


# The original study's augmentation: shifts of 50 of 256 pixels, mirrored at the border.
AUGMENTATION = {"flip": True, "rotation": 30, "shift": 0.2, "zoom": 0.3}  # degrees, share of the side, share


def augment(images, uniform, augmentation):
    """Flip, rotate, shift and zoom each image by one affine transform.

    Parameters
    ----------
    images : float32 tensor, shape (n, height, width, 3)
    uniform : float32 tensor, shape (n, 6)
        Random numbers in [0, 1), one row per image: two flips, angle, two shifts, zoom.
    augmentation : dict like `AUGMENTATION`
    """
    side = tf.cast(tf.shape(images)[1], tf.float32)
    signed = 2 * uniform - 1
    angle = signed[:, 2] * augmentation["rotation"] * np.pi / 180
    shift = signed[:, 3:5] * augmentation["shift"] * side
    zoom = 1 + signed[:, 5] * augmentation["zoom"]
    flip = tf.where(uniform[:, :2] < 0.5, -1.0, 1.0) if augmentation["flip"] else tf.ones_like(shift)
    a, b = tf.cos(angle) * zoom * flip[:, 0], -tf.sin(angle) * zoom * flip[:, 1]
    c, d = tf.sin(angle) * zoom * flip[:, 0], tf.cos(angle) * zoom * flip[:, 1]
    centre = (side - 1) / 2  # rotate and zoom about the middle, then shift
    offset_x = centre - a * centre - b * centre + shift[:, 0]
    offset_y = centre - c * centre - d * centre + shift[:, 1]
    zero = tf.zeros_like(a)
    transform = tf.stack([a, b, offset_x, c, d, offset_y, zero, zero], axis=1)
    return keras.ops.image.affine_transform(images, transform, fill_mode="reflect")


BALANCES = ("none", "class_weight", "oversample")


def rows_of_epoch(labels, balance):
    """Training images of an epoch, as row numbers: each once, or with "oversample" each class like the largest."""
    if balance != "oversample":
        return np.arange(len(labels))
    largest = np.bincount(labels).max()
    return np.concatenate([np.resize(np.flatnonzero(labels == label), largest) for label in np.unique(labels)])


def class_weights(labels, balance):
    """Weight of each class in the loss, for Keras: inverse to its frequency with "class_weight", else None."""
    if balance != "class_weight":
        return None
    present = np.unique(labels)
    return dict(zip(present.tolist(), compute_class_weight("balanced", classes=present, y=labels), strict=True))


def training_batches(x, targets, rows, spec):
    """Shuffled, augmented batches for all epochs, one after another, as a tf.data.Dataset.

    Order and augmentation are pure functions of (seed, epoch, index), so that a run can be repeated.

    Parameters
    ----------
    rows : array of int
        The images that an epoch consists of, from `rows_of_epoch`.
    """
    count, seed = len(rows), spec["seed"]

    def one_epoch(epoch):
        key = tf.stack([tf.constant(seed, tf.int64), epoch])
        order = tf.random.experimental.stateless_shuffle(tf.range(count), key)
        uniform = tf.random.stateless_uniform([count, 6], key)
        drawn = tf.gather(rows, order), tf.gather(uniform, order)
        return tf.data.Dataset.from_tensor_slices(drawn).batch(spec["batch_size"])

    def load(index, uniform):
        batch = rows_of(x, index)
        if spec.get("augmentation"):
            batch = augment(batch, uniform, spec["augmentation"])
        return batch, tf.gather(targets, index)

    return tf.data.Dataset.range(spec["epochs"]).flat_map(one_epoch).map(load, num_parallel_calls=2).prefetch(2)


def evaluation_batches(x, targets=None):
    """Batches in the order of the split, without shuffling or augmentation; `x` may be a memory map."""

    def load(index):
        return rows_of(x, index) if targets is None else (rows_of(x, index), tf.gather(targets, index))

    return tf.data.Dataset.range(len(x)).batch(64).map(load).prefetch(2)


def rows_of(x, index):
    """Rows of a NumPy array or memory map as a float32 tensor, read only when a dataset asks for them."""
    batch = tf.numpy_function(lambda rows: np.asarray(x[rows], np.float32), [index], tf.float32)
    batch.set_shape([None, *x.shape[1:]])
    return batch


# ---------------------------------------------------------------- models


def final_model_layers(
    classes,
    filters=(16, 32, 64, 128, 256),
    activation=("LeakyReLU", {"negative_slope": 0.3}),
    initializer="glorot_uniform",
    l2=0.0,
    batch_normalization=False,
    reduction="GlobalAveragePooling2D",
    dropout=(0.3, 0.3),
):
    """FinalModel of the original study as a list of Keras layers, each [class name, config].

    Five blocks of convolution, activation and max pooling; global average pooling, dropout, dense 512,
    dropout, softmax. The arguments are the choices that chapter 3 varies; dropout is (after the reduction,
    after the dense layer), 0 leaves the layer out.
    """
    decay = {"module": "keras.regularizers", "class_name": "L2", "config": {"l2": l2}} if l2 else None
    weights = {"kernel_initializer": initializer, "kernel_regularizer": decay}
    layers = [["Rescaling", {"scale": 1 / 255, "offset": 0.0}]]
    for count in filters:
        layers.append(["Conv2D", {"filters": count, "kernel_size": 3, "padding": "same", **weights}])
        layers += [list(activation), ["MaxPooling2D", {"pool_size": 2}]]
        if batch_normalization:
            layers.append(["BatchNormalization", {"momentum": 0.99}])
    after_reduction, after_dense = ([["Dropout", {"rate": rate}]] if rate else [] for rate in dropout)
    layers += [[reduction, {}], *after_reduction]
    layers += [["Dense", {"units": 512, "activation": "relu", **weights}], *after_dense]
    return [*layers, ["Dense", {"units": classes, "activation": "softmax", **weights}]]


def build_model(layers, input_shape, name):
    """Build a keras.Sequential from a list of [class name, config] by Keras's own deserialisation.

    Raises
    ------
    InputError
        Names the layer that Keras does not know or whose configuration it refuses.
    """
    model = keras.Sequential([keras.Input(input_shape)], name=name)
    for class_name, config in layers:
        if not hasattr(keras.layers, class_name):
            raise InputError(f"Keras has no layer {class_name}: see https://keras.io/api/layers for their names.")
        try:
            described = {"module": "keras.layers", "class_name": class_name, "config": copy.deepcopy(config)}
            model.add(keras.layers.deserialize(described))
        except (TypeError, ValueError, KeyError) as error:
            reason = str(error).strip().splitlines()[-1]
            raise InputError(f"Keras cannot build the layer {class_name} with {config}: {reason}") from error
    return model


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
        "patience": 10,
        "optimizer": {"class_name": "Adam", "config": {"learning_rate": 0.001}},
        "augmentation": None,
        "balance": balance,
        "seed": seed,
        "split": split.attrs["hash"],
        **more,
    }


def cnn_spec(chapter, name, split, size, layers, epochs, seed, balance="none"):
    """The spec of a network that learns from augmented images, given as a list of layers."""
    more = {"layers": layers, "image_size": size, "augmentation": AUGMENTATION}
    return training_spec(chapter, name, split, epochs, seed, balance, **more)


def spec_hash(spec):
    """First 8 hex digits of the spec's SHA-256; chapter and name do not count: they only label a training."""
    content = {key: value for key, value in spec.items() if key not in ("chapter", "name")}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:8]


def find_run(spec):
    """The finished run of this spec, whichever chapter made it, or None.

    Runs that ended before the time RETRAIN_BEFORE (seconds, set by ./run_all.sh --force) do not count.
    """
    for result in RUNS.glob(f"*-{spec_hash(spec)}/result.json"):
        if result.stat().st_mtime >= float(os.environ.get("RETRAIN_BEFORE", "0")):
            return Run(result.parent, spec, json.loads(result.read_text()))
    return None


def prepare_custom_cnn(spec, split):
    """A `Training` for a spec that lists layers: the model learns from decoded images."""
    size, classes = spec["image_size"], split.attrs["classes"]
    model = build_model(spec["layers"], (size, size, 3), "custom_cnn")
    train, validation = (load_images(split, part, size) for part in ("train", "validation"))
    return Training(model, model, train, validation, {"initial_weights": "none", "classes": classes})


def train(spec, split, prepare=prepare_custom_cnn):
    """Train what a spec describes, once: a second call with the same spec returns the finished run.

    A run that was stopped before its end is trained from the start. `train_seconds` counts the preparation too.

    Parameters
    ----------
    spec : dict
        JSON-able, as `training_spec` makes it, with what `prepare` reads. Early stopping looks at the validation
        macro F1 and restores the best weights.
    prepare : callable(spec, split) -> Training
        Called only if the spec has not been trained yet.
    """
    if run := find_run(spec):
        return run
    keras.backend.clear_session()
    keras.utils.set_random_seed(spec["seed"])
    tf.config.experimental.enable_op_determinism()
    own_folder = RUNS / f"{spec['chapter']}-{slug(spec['name'])}-{spec_hash(spec)}"
    folder = next(RUNS.glob(f"*-{spec_hash(spec)}"), own_folder)  # another chapter may know it by this name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    write_whole(folder / "spec.json", json.dumps(spec, indent=1))
    start = time.perf_counter()
    training = prepare(spec, split)
    history = fit(training, spec, folder / "tensorboard")
    seconds = time.perf_counter() - start
    history.to_csv(folder / "history.csv", index=False)
    held_out, labels = training.validation
    probabilities = training.model.predict(evaluation_batches(held_out), verbose=0)
    np.save(folder / "validation.npy", probabilities)
    training.whole.save(folder / "model.keras")
    result = {
        **training.summary,
        "params": training.whole.count_params(),
        "trainable_params": int(sum(np.prod(weight.shape) for weight in training.model.trainable_weights)),
        "epochs": len(history),
        "best_epoch": int(history["val_macro_f1"].idxmax()) + 1,
        "train_seconds": round(seconds, 2),
        "validation_macro_f1": float(macro_f1(labels, probabilities.argmax(axis=1))),
    }
    write_whole(folder / "result.json", json.dumps(result, indent=1))
    return Run(folder, spec, result)


def fit(training, spec, log_folder):
    """Fit a `Training`'s model until validation macro F1 stops rising; return its history, one row per epoch."""
    (x, labels), (held_out, held_out_labels) = training.train, training.validation
    one_hot = np.eye(training.model.output_shape[-1], dtype=np.float32)
    rows = rows_of_epoch(labels, spec["balance"])
    training.model.compile(
        optimizer=keras.optimizers.get(copy.deepcopy(spec["optimizer"])),  # Keras writes into what it is given
        loss="categorical_crossentropy",
        metrics=[keras.metrics.F1Score(average="macro", name="macro_f1"), "accuracy"],
    )
    best = {"monitor": "val_macro_f1", "mode": "max", "patience": spec["patience"], "restore_best_weights": True}
    history = training.model.fit(
        training_batches(x, one_hot[labels], rows, spec),
        steps_per_epoch=-(-len(rows) // spec["batch_size"]),
        epochs=spec["epochs"],
        validation_data=evaluation_batches(held_out, one_hot[held_out_labels]),
        class_weight=class_weights(labels, spec["balance"]),
        callbacks=[
            keras.callbacks.EarlyStopping(**best),
            keras.callbacks.TensorBoard(log_folder, write_graph=False),
            Progress(spec["name"], spec["epochs"]),
        ],
        verbose=0,
    )
    table = pd.DataFrame(history.history)
    table.insert(0, "epoch", np.arange(1, len(table) + 1))
    return table


class Progress(keras.callbacks.Callback):
    """A progress bar over epochs that shows the validation macro F1."""

    def __init__(self, name, epochs):
        super().__init__()
        self.bar = tqdm(total=epochs, desc=name, unit="epoch", mininterval=2)

    def on_epoch_end(self, epoch, logs=None):
        self.bar.set_postfix({"validation macro F1": f"{logs['val_macro_f1']:.3f}"}, refresh=False)
        self.bar.update()

    def on_train_end(self, logs=None):
        self.bar.close()


def record_runs(chapter, runs):
    """Write runs/<chapter>.json: which runs of this chapter, by model name, the later chapters read."""
    record = {"split": load_split().attrs["hash"], "runs": {name: run.folder.name for name, run in runs.items()}}
    write_whole(RUNS / f"{chapter}.json", json.dumps(record, indent=1))


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
    runs = {}
    for name, folder in folders.items():  # the folder may carry the name that another chapter gave this training
        spec = json.loads((folder / "spec.json").read_text()) | {"chapter": chapter, "name": name}
        runs[name] = Run(folder, spec, json.loads((folder / "result.json").read_text()))
    return runs


def write_whole(file, text):
    """Write a text under another name, then rename: the file is there whole or not at all."""
    unfinished = file.with_name(f"{file.name}.{os.getpid()}.unfinished")
    with disk_trouble_told(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        unfinished.write_text(text, encoding="utf-8")
        unfinished.replace(file)


def slug(name):
    """A model's name as part of a file name: letters, digits and underscores."""
    return "_".join("".join(letter if letter.isalnum() else " " for letter in name).split())


# ---------------------------------------------------------------- scores


def macro_f1(truth, prediction):
    """Macro F1 over the classes that occur, along the last axis.

    Parameters
    ----------
    truth, prediction : array of int, shape (..., n)

    Returns
    -------
    array of float, shape (...); equal to scikit-learn's f1_score(average="macro"), and vectorised over resamples
    """
    truth, prediction = np.asarray(truth), np.asarray(prediction)
    scores = []
    for label in np.union1d(truth, prediction):
        hit = ((truth == label) & (prediction == label)).sum(axis=-1)
        either = (truth == label).sum(axis=-1) + (prediction == label).sum(axis=-1)
        scores.append(np.where(either, 2 * hit / np.maximum(either, 1), np.nan))
    return np.nanmean(scores, axis=0)


def resamples(truth, draws, seed=0):
    """Row numbers of bootstrap resamples (Efron 1979), drawn within each class so that no rare class is lost.

    Parameters
    ----------
    truth : array of int, shape (n,)

    Returns
    -------
    array of int, shape (draws, n)
    """
    rng, rows = np.random.default_rng(seed), np.empty((draws, len(truth)), int)
    for label in np.unique(truth):
        of_label = np.flatnonzero(truth == label)
        rows[:, of_label] = rng.choice(of_label, (draws, len(of_label)))
    return rows


def bootstrap_interval(truth, prediction, draws=2000):
    """95 % percentile bootstrap interval of the macro F1 over images: (low, high)."""
    truth, prediction = np.asarray(truth), np.asarray(prediction)
    rows = resamples(truth, draws)
    return np.percentile(macro_f1(truth[rows], prediction[rows]), [2.5, 97.5])


def paired_difference(truth, prediction, baseline, draws=2000):
    """Macro F1 of `prediction` less that of `baseline` on the same images: (difference, low, high).

    The interval is the 95 % percentile of a paired bootstrap: both models are scored on the same resample.
    """
    truth, prediction, baseline = map(np.asarray, (truth, prediction, baseline))
    rows = resamples(truth, draws)
    drawn = macro_f1(truth[rows], prediction[rows]) - macro_f1(truth[rows], baseline[rows])
    return macro_f1(truth, prediction) - macro_f1(truth, baseline), *np.percentile(drawn, [2.5, 97.5])


# ---------------------------------------------------------------- figures

_COLOUR_BLIND_SAFE = sns.color_palette("colorblind").as_hex()
MODEL_COLOURS = {
    "FinalModel": _COLOUR_BLIND_SAFE[0],
    "ResNet50": _COLOUR_BLIND_SAFE[1],
    "VGG16": _COLOUR_BLIND_SAFE[2],
    "EfficientNetB4": _COLOUR_BLIND_SAFE[4],
}
MODEL_MARKERS = {"FinalModel": "o", "ResNet50": "s", "VGG16": "^", "EfficientNetB4": "D"}


def set_style():
    """One look for every figure of the series."""
    sns.set_theme(
        "notebook",
        "whitegrid",
        "colorblind",
        rc={"figure.dpi": 110, "savefig.dpi": 110, "figure.constrained_layout.use": True},
    )


def show(figure, name, caption):
    """Save a figure as report/figures/<name>.png and display it with its caption as alternative text."""
    file = REPORT / "figures" / f"{name}.png"
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, metadata={"Title": name, "Description": caption})
    plt.close(figure)
    display(DisplayImage(file.read_bytes(), alt=caption))


def plot_curves(runs, title):
    """Training and validation loss and macro F1 over epochs, for a dict of name to Run; returns the figure."""
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.8))
    for axis, metric, label in zip(axes, ("loss", "macro_f1"), ("cross-entropy loss", "macro F1"), strict=True):
        for number, (name, run) in enumerate(runs.items()):
            colour = MODEL_COLOURS.get(run.name, _COLOUR_BLIND_SAFE[number % 10])
            history = run.history
            axis.plot(history["epoch"], history[metric], "--", color=colour, alpha=0.7)
            axis.plot(history["epoch"], history[f"val_{metric}"], color=colour, label=name)
            best = history.iloc[run.result["best_epoch"] - 1]
            axis.plot(best["epoch"], best[f"val_{metric}"], MODEL_MARKERS.get(run.name, "o"), color=colour)
        axis.set(xlabel="epoch", ylabel=label)
        axis.xaxis.get_major_locator().set_params(integer=True)
    axes[1].set_ylim(0, 1)
    axes[1].legend(title="solid: validation\ndashed: training\nmark: best epoch", fontsize="small")
    figure.suptitle(title)
    return figure


def provenance(split=None):
    """One line that says with which versions, and on which split, a notebook was run."""
    versions = [
        f"{name} {importlib.metadata.version(name)}" for name in ("tensorflow", "keras", "numpy", "scikit-learn")
    ]
    on = f"split {split.attrs['hash']}, " if split is not None else ""
    return f"{on}Python {platform.python_version()}, {', '.join(versions)}, {os.cpu_count()} processor cores"
