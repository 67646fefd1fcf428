"""Train each spec (the settings of a run) once, and write the run to a folder; a finished run has a result.json."""

import hashlib
import json
import math
import os
import shutil
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from leaves import places
from leaves.batches import BALANCES
from leaves.cache import computed_once
from leaves.files import InputError, atomic_file, atomic_path, disk_errors_explained, file_hash, read_json, write_json
from leaves.hardware import instructions
from leaves.locks import locked
from leaves.progress import training_name
from leaves.scoring import constant_score, macro_f1, state_of
from leaves.training import fit, gpus, predictions

import keras
import numpy as np
import pandas as pd
import tensorflow as tf

PRECISIONS = ("float32", "bfloat16")  # data types of feature maps
WEIGHTS, NUMBERS, LAYERS = "model.keras", "result.json", "reading-layers.npz"  # files of a run, see `find_run`
SCHEMA = 3  # version of the runs; raise it if code changes their results, their files or the arrays of `Run.reading`


@dataclass(frozen=True)
class Run:
    """A finished training: its folder, and two dicts: its spec (the settings) and its result (scores and times)."""

    folder: Path
    spec: dict
    result: dict

    @property
    def name(self):
        return self.spec["name"]

    @property
    def identity(self):
        """Name the run and its predictions, for the spec of a run that starts from this one: str.

        It holds the name of the folder and the hash of the held-out predictions, before `publish.keep_evidence` rounded
        them.
        """
        return f"{self.folder.name} {self.result.get('predictions') or self.result['hashes']['validation.npy']}"

    @property
    def history(self):
        """Read the history: DataFrame, one row per epoch.

        The columns are epoch (from 1), loss, accuracy, macro_f1, val_loss, val_accuracy and val_macro_f1.
        """
        return pd.read_csv(self.folder / "history.csv")

    @property
    def validation_probabilities(self):
        """Read the probabilities of held-out photos, in the order of the split: float32, shape (photos, classes)."""
        return np.load(self.folder / "validation.npy").astype(np.float32)

    def load_model(self):
        """Load the whole network, from RGB pixels 0..255 to class probabilities."""
        return keras.models.load_model(self.folder / "model.keras")

    def load_weights(self, network):
        """Load this run's weights into a network with the same layers; this is much faster than `load_model`."""
        with zipfile.ZipFile(self.folder / "model.keras") as archive, tempfile.TemporaryDirectory() as folder:
            network.load_weights(archive.extract("model.weights.h5", folder))

    def reading(self, file, compute):
        """Read a dict of arrays from the run's .npz `file`; if missing, old or damaged, save `compute()` there."""
        return computed_once(self.folder / file, f"{file}, schema {SCHEMA}", compute)


def fast_precision():
    """Return "bfloat16" if all GPUs or, without a GPU, the processor can multiply in this type, otherwise "float32".

    GPUs of compute capability 8 or higher and processors with AVX-512 BF16 or AMX can do this.
    """
    if found := gpus():
        details = [tf.config.experimental.get_device_details(gpu) for gpu in found]
        return "bfloat16" if all(own.get("compute_capability", (0,)) >= (8,) for own in details) else "float32"
    return "bfloat16" if {"avx512_bf16", "amx_bf16"} & instructions() else "float32"


def chosen_precision(precision, size):
    """Return `precision`; if it is "auto", return `fast_precision()`, or "float32" for `size` < 64 without a GPU."""
    if precision != "auto":
        return precision
    return fast_precision() if gpus() or size >= 64 else "float32"


def training_spec(chapter, name, split, epochs, seed, balance="none", fold=0, **more):
    """Make a spec, the dict of a run's settings: by default Adam, batches of 32, early stopping with a patience of 10.

    The defaults are those of the original study; `more` adds or replaces entries. `fold` is the fold that is held out,
    see `dataset.hold_out`. `balance`, one of `BALANCES`, says how classes of unequal size are treated; any other value
    raises InputError. The entry `schema` is the version of the code: runs of another version are trained again.
    """
    if balance not in BALANCES:
        raise InputError(f"balance is {balance!r}, but it must be one of {', '.join(BALANCES)}.")
    return {
        "chapter": chapter,
        "name": name,
        "batch_size": 32,
        "epochs": epochs,
        "patience": 10,  # None: train all epochs, and keep the weights of the last epoch instead of the best
        "optimizer": {"class_name": "Adam", "config": {"learning_rate": 0.001}},
        "augmentation": None,
        "mixup": 0.0,
        "label_smoothing": 0.0,
        "balance": balance,
        "log_layers": False,
        "precision": fast_precision(),
        "seed": seed,
        "fold": fold,
        "split": split.attrs["hash"],
        "schema": SCHEMA,
        **more,
    }


def repeat(number, seed, split):
    """Return a dict with the seed (`seed` + `number`) and the fold (from 0) of repeat `number` (from 0) of a training.

    Both differ between repeats (Bouthillier et al. 2021, arXiv:2103.03098); fold 0 comes again after the last fold.
    """
    return {"seed": seed + number, "fold": number % split.attrs["folds"]}


def spec_hash(spec):
    """Hash a spec without chapter, name and schema, which do not affect training: first 8 hex digits of SHA-256."""
    content = {key: value for key, value in spec.items() if key not in ("chapter", "name", "schema")}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:8]


def run_folder(spec):
    """Find the folder of a spec's run by the spec's hash; if there is none, return the folder for a new run."""
    own = places.RUNS / f"{spec['chapter']}-{slug(spec['name'])}-{spec_hash(spec)}"
    return next((file.parent for file in places.RUNS.glob(f"*-{spec_hash(spec)}/spec.json")), own)


def folder_named(name):
    """Return the folder runs/<name>, or results/runs/<name> if only that one has a finished and undamaged run.

    If runs/<name> is damaged, a message says so.
    """
    own, published = places.RUNS / name, places.RESULTS / "runs" / name
    if not (fault := fault_of_run(own)) or fault_of_run(published):
        return own
    if (own / "result.json").exists():
        print(f"results/runs/{name} is used, because runs/{name} cannot be used: {fault}.")
    return published


def find_run(spec, needs=WEIGHTS):
    """Find the finished run of a spec, whichever chapter trained it; return None if the spec has to be trained.

    If the run is not in runs/, its evidence in results/runs is used, see `publish.keep_evidence`. It must contain the
    file `needs`, which the caller will read. If the run diverged, this is required only for `WEIGHTS`, because callers
    do not read any other `needs`. With `--force` (LEAVES_NO_EVIDENCE in the environment), no evidence is used.
    """
    folders = [run_folder(spec)]
    if "LEAVES_NO_EVIDENCE" not in os.environ:
        folders += (places.RESULTS / "runs").glob(f"*-{spec_hash(spec)}")
    for folder in folders:
        if not fault_of_run(folder, spec):
            run = Run(folder, spec, read_json(folder / "result.json"))
            unread = needs != WEIGHTS and run.result["diverged"]  # callers do not read `needs` of a diverged run
            if folder.parent == places.RUNS or unread or (folder / needs).exists():
                return run
    return None


def find_runs(specs, needs):
    """Return, for each spec, its finished run, or None if the spec has to be trained: list, see `find_run`.

    Parameters
    ----------
    specs : list of dict
    needs : str or list of str
        The file that every run must have (see `find_run`), or a list of one file per spec. If the list is shorter than
        `specs`, its last file applies to the remaining specs.
    """
    needs = [needs] if isinstance(needs, str) else needs
    return [find_run(spec, needs[min(number, len(needs) - 1)]) for number, spec in enumerate(specs)]


def fault_of_run(folder, spec=None):
    """Say in a few words why the run in a folder cannot be used; return None if it is finished and undamaged."""
    if not (result := read_json(folder / "result.json")):
        return "result.json is damaged" if (folder / "result.json").exists() else "it is not finished"
    if not (trained := read_json(folder / "spec.json")):
        return "spec.json is damaged"
    if trained.get("schema") != SCHEMA or (spec and without_labels(trained) != without_labels(spec)):
        return "another version of the code made it"
    for name, expected in result["hashes"].items():
        if not (folder / name).exists() or file_hash(folder / name) != expected:
            return f"{name} is damaged"
    return None


def without_labels(spec):
    """Return a spec without the chapter and the name, which only label the run; tuples become lists, as in JSON."""
    return json.loads(json.dumps({key: value for key, value in spec.items() if key not in ("chapter", "name")}))


def train_once(spec, split, prepare, *callbacks, patience=10):
    """Train a spec or resume its training, and write the folder of the run; result.json is written last.

    If the run is finished, nothing is done. The callbacks are passed to `fit`. The result's `train_seconds` include the
    time of `prepare`. Raise InputError if another process is still training the spec after `patience` seconds.
    """
    with locked(places.RUNS / "locks" / spec_hash(spec), patience, f"The training of {training_name(spec)},"):
        folder = run_folder(spec)
        if not (fault := fault_of_run(folder, spec)):  # another process has just finished it
            return
        if (folder / "result.json").exists():
            print(f"{folder.name} is trained again: {fault}.")
        another = without_labels(read_json(folder / "spec.json")) != without_labels(spec)
        if another or (folder / "result.json").exists():
            shutil.rmtree(folder, ignore_errors=True)
        for kept in (places.RESULTS / "runs").glob(f"*-{spec_hash(spec)}"):
            if reason := fault_of_run(kept, spec):
                print(f"results/runs/{kept.name} is not used: {reason}.")
        write_json(folder / "spec.json", spec)
        training, history, seconds = fit(spec, split, prepare, *callbacks, folder=folder)
        write_run(folder, spec, training, history, seconds)
        (folder / "checkpoint.npz").unlink(missing_ok=True)


def free_first(queue):
    """Yield the specs of a queue one by one; a spec that another process is training at that moment comes later.

    Parameters
    ----------
    queue : dict of hash (see `spec_hash`) to spec

    Yields
    ------
    tuple of hash and spec
    """
    left, locks = dict(queue), places.RUNS / "locks"
    while left:
        free = [key for key in left if not (locks / f"{key}.holder").exists()]
        key = [*free, *left][0]
        yield key, left.pop(key)


def forget_run(folder):
    """Delete a run; raise InputError if another process is training it."""
    with locked(places.RUNS / "locks" / folder.name[-8:]), disk_errors_explained(folder):
        (folder / "result.json").unlink(missing_ok=True)  # first: a half-deleted run must not count as finished
        shutil.rmtree(folder)


def write_run(folder, spec, training, history, seconds):
    """Write the files of a finished training: history, validation probabilities, model and, last, the result."""
    with atomic_file(folder / "history.csv") as out:
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
        "state": state_of_training(spec, training, history),
    }
    for part, (x, labels) in (("train", training.train), ("validation", training.validation)):
        probabilities = predictions(training.model, x, labels)
        result[f"{part}_macro_f1"] = None if diverged else float(macro_f1(labels, probabilities.argmax(axis=1)))
    with atomic_file(folder / "validation.npy") as out:
        np.save(out, probabilities)
    with atomic_path(folder / "model.keras") as unfinished:
        training.whole.save(unfinished)
    result["hashes"] = {name: file_hash(folder / name) for name in ("history.csv", "validation.npy", "model.keras")}
    write_json(folder / "result.json", result)


def state_of_training(spec, training, history):
    """Return the state of a training, see `scoring.state_of`.

    A refit holds out too few photos for a reliable score, so the state of a refit is judged by its training macro F1. A
    refit is never "still rising", because an earlier training chose its number of epochs.
    """
    if spec.get("refit"):
        score, (_, truth), epochs = "macro_f1", training.train, math.inf
    else:
        score, (_, truth), epochs = "val_macro_f1", training.validation, spec["epochs"]
    return state_of(history[score].where(np.isfinite(history["loss"])), epochs, constant_score(truth))


def training_table(runs):
    """Tabulate the repeats of one network: DataFrame with one row per repeat, indexed "repeat 0", "repeat 1" ...

    Columns: fold, seed, epochs and best epoch: int; state: str; train and validation (macro F1) and seconds: float.
    """
    columns = {"epochs": "epochs", "best_epoch": "best epoch", "state": "state"}
    columns |= {"train_macro_f1": "train", "validation_macro_f1": "validation", "train_seconds": "seconds"}
    rows = [
        {key: run.spec[key] for key in ("fold", "seed")} | {name: run.result[key] for key, name in columns.items()}
        for run in runs
    ]
    table = pd.DataFrame(rows, index=[f"repeat {number}" for number in range(len(runs))])
    return table.astype({"train": float, "validation": float})


def state_sentence(runs, epochs="epochs", rate="learning_rate"):
    """Say how many trainings converged, and how to change the parameters named `epochs` and `rate` for the others."""
    ways = {
        "still rising": f"raise {epochs}",
        "did not train": f"raise {epochs} or change {rate}",
        "diverged": f"lower {rate}",
    }
    counts = pd.Series([run.result["state"] for run in runs]).value_counts()
    others = [f"{counts[state]} {state}: {way}" for state, way in ways.items() if state in counts]
    return "; ".join([f"{counts.get('converged', 0)} of {len(runs)} trainings converged", *others]) + "."


def logged(run, folder, kind):
    """Read one kind of values from a run's TensorBoard files: dict of tag to list, with one value per epoch.

    Parameters
    ----------
    folder, kind : str
        `folder` is a folder in the run's tensorboard/. A tag is read if it contains the text `kind`. In the folder
        "layers", each tag contains a layer's name and "gradient", "change" or "histogram". Gradients and changes are
        numbers. A histogram is an array of shape (buckets, 3): two edges and a count for each bucket.
    """
    found, is_whole, files = {}, True, sorted((run.folder / "tensorboard" / folder).glob("events.*"))
    for file in files:
        try:
            for record in tf.data.TFRecordDataset(str(file)).as_numpy_iterator():
                event = tf.compat.v1.Event.FromString(record)
                for value in event.summary.value:  # a training that was resumed may have logged an epoch twice
                    if kind in value.tag:
                        found.setdefault(value.tag, {})[event.step] = tf.make_ndarray(value.tensor)
        except tf.errors.DataLossError:  # a killed training may leave a cut-off file; the next file has the rest
            is_whole = file != files[-1]
    if not (found and is_whole) or any(len(steps) != run.result["epochs"] for steps in found.values()):
        raise InputError(f"runs/{run.folder.name}/tensorboard is damaged: delete runs/{run.folder.name} and run again.")
    return {tag: [steps[step] for step in sorted(steps)] for tag, steps in found.items()}


def layer_log(run, kind):
    """Read one kind of values that `training.LayerLog` logged: DataFrame, one row per epoch, one column per layer.

    Parameters
    ----------
    kind : "gradient" or "change", both relative to the norm of the layer's kernel
    """
    values = run.reading(LAYERS, lambda: logged(run, "layers", "gradient/") | logged(run, "layers", "change/"))
    return pd.DataFrame(values).astype(float).filter(like=f"{kind}/").rename(columns=lambda tag: tag.split("/")[1])


def smallest_change(runs):
    """Find the smallest change of any layer's kernel in any epoch of any run, as a share of the kernel's norm.

    Parameters
    ----------
    runs : list of Run, trained with `log_layers`; runs that diverged are skipped
    """
    return float(min(layer_log(run, "change").min(axis=None) for run in runs if not run.result["diverged"]))


def gradient_ratios(runs):
    """Compute how weak the gradients of the convolutions are, compared with those of the dense layers, in each run.

    In each epoch, the weakest gradient of a convolution is divided by the strongest of a dense layer, see `layer_log`.

    Parameters
    ----------
    runs : see `smallest_change`

    Returns
    -------
    list of float: for each run that did not diverge, the smallest of these ratios over its epochs
    """
    ratios = []
    for run in (run for run in runs if not run.result["diverged"]):
        gradients = layer_log(run, "gradient")
        convolutions = gradients.columns.str.contains("conv")
        weakest, strongest = gradients.loc[:, convolutions].min(axis=1), gradients.loc[:, ~convolutions].max(axis=1)
        ratios.append(float((weakest / strongest).min()))
    return ratios


def read_run(folder, **labels):
    """Read a finished run (InputError if it is damaged); `labels` replace the chapter and the name in its spec."""
    spec, result = (read_json(folder / f"{part}.json") for part in ("spec", "result"))
    if fault := fault_of_run(folder):
        raise InputError(f"runs/{folder.name}: {fault}; run the notebook of chapter {folder.name[:2]} again.")
    return Run(folder, spec | labels, result)


def slug(name):
    """Turn a model's name into a part of a file name: letters, digits and underscores."""
    return "_".join("".join(letter if letter.isalnum() else " " for letter in name).split())
