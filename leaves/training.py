"""Fit a model epoch by epoch, and resume a training that was interrupted."""

import copy
import functools
import json
import os
import random
import shutil
import time
import unittest.mock
from contextlib import contextmanager
from dataclasses import dataclass, replace

from leaves.batches import class_weights, evaluation_batches, rows_of_epoch, training_batches
from leaves.cache import read_arrays
from leaves.files import atomic_file, sync
from leaves.hardware import own_cores, processor_kind
from leaves.scoring import constant_score

import keras
import numpy as np
import pandas as pd
import tensorflow as tf
from tensorboard.plugins.histogram.summary_v2 import histogram_pb
from tensorboard.plugins.scalar.summary_v2 import scalar_pb

tf.get_logger().setLevel("ERROR")  # hides the warning that a function is traced again for each of many models


# Threads per operation. Their number affects the last digits of sums, so it stays the same within a training.
THREADS = int(os.environ.get("TF_NUM_INTRAOP_THREADS") or len(own_cores()))


# A constant answer predicts the commonest class for every photo. Until a network's validation macro F1 exceeds that of
# the constant answer by this much, the network has hardly begun to learn, and `StopEarly` does not stop it.
PLATEAU = 0.1

MOST_STEPS = 20  # largest number of steps in one call, see `steps_at_once`; Ctrl-C waits for the end of the call


@dataclass
class Training:
    """The model that `fit` trains, the whole network that contains this model, and the data."""

    model: keras.Model
    whole: keras.Model
    train: tuple  # (inputs of `model`, labels)
    validation: tuple
    summary: dict  # entries added to result.json
    targets: np.ndarray | None = None  # float32, shape (n, classes): soft labels that replace the training labels


def fit(spec, split, prepare, *callbacks, folder=None):
    """Prepare and fit a model, until validation macro F1 stops rising or all epochs are trained.

    Parameters
    ----------
    spec : dict, see `runs.training_spec`
    prepare : callable(spec, split) -> Training
    *callbacks : keras.callbacks.Callback
    folder : Path, optional
        For TensorBoard's files and a checkpoint. A resumed training ends with the same weights as an uninterrupted one.

    Returns
    -------
    training : Training; its model has the weights of the best epoch or, if the spec's patience is None, of the last one
    history : DataFrame, one row per epoch
    seconds : float, wall time; it includes the time of earlier processes that were interrupted
    """
    start = time.perf_counter()
    training = prepare_training(spec, split, prepare)
    (x, labels), (held_out, held_out_labels) = training.train, training.validation
    rows = rows_of_epoch(labels, spec["balance"])
    steps = -(-len(rows) // spec["batch_size"])
    model = compiled_like(training.model, spec, steps_at_once(steps))
    one_hot = np.eye(model.output_shape[-1], dtype=np.float32)
    stopping = early_stopping(spec["patience"], constant_score(held_out_labels))
    checkpoint = Checkpoint(folder and folder / "checkpoint.npz", stopping)
    callbacks = [keras.callbacks.TerminateOnNaN(), *callbacks, *([stopping] if stopping else [])]
    targets = one_hot[labels] if training.targets is None else training.targets
    callbacks += loggers(folder / "tensorboard", spec["log_layers"], x, targets) if folder else []
    with computing_in([model], spec["precision"]):
        model.fit(
            training_batches(x, targets, rows, spec, checkpoint.epochs),
            steps_per_epoch=steps,
            initial_epoch=checkpoint.epochs,
            epochs=checkpoint.epochs if checkpoint.over else spec["epochs"],
            validation_data=evaluation_batches(held_out, one_hot[held_out_labels]),
            class_weight=class_weights(labels, spec["balance"]),
            callbacks=[*callbacks, checkpoint],  # last, so it stores the new state of all other callbacks
            shuffle=False,  # the batches are shuffled already
            verbose=0,
        )
    training.model.set_weights(model.get_weights())
    summary = training.summary | {"processor": "; ".join(checkpoint.processors), "threads": THREADS}
    seconds = checkpoint.seconds + time.perf_counter() - start
    return replace(training, model=model, summary=summary), checkpoint.table(), seconds


def prepare_training(spec, split, prepare):
    """Prepare a training with the spec's seed, in a new Keras session in which all operations are deterministic."""
    keras.backend.clear_session(free_memory=False)
    tf.config.experimental.enable_op_determinism()
    with seeded(spec["seed"]):
        return prepare(spec, split)


def early_stopping(patience, constant):
    """Make the callback that stops a training after `patience` epochs without a better validation macro F1.

    Return None if `patience` is None, because such a training never stops early. `constant` is the macro F1 of
    predicting the commonest class for every photo, see `StopEarly`.
    """
    return None if patience is None else StopEarly(patience, constant)


class StopEarly(keras.callbacks.EarlyStopping):
    """Stop early, but count epochs without improvement only after macro F1 has reached `constant` + `PLATEAU`.

    `constant` is the macro F1 of predicting the commonest class for every photo. A network with a macro F1 that is
    hardly higher has hardly begun to learn, so its training is not stopped.
    """

    def __init__(self, patience, constant):
        super().__init__("val_macro_f1", mode="max", patience=patience, restore_best_weights=True)
        self.constant = constant

    def on_epoch_end(self, epoch, logs=None):
        if max(self.best or 0, logs["val_macro_f1"]) < self.constant + PLATEAU:
            self.wait = -1  # Keras adds 1 in the next line
        super().on_epoch_end(epoch, logs)


def loggers(folder, log_layers, x, targets):
    """Make callbacks that log losses and scores to TensorBoard and, with `log_layers`, histograms and gradients too."""
    epochs = EpochLog(folder, write_graph=False)
    if not log_layers:
        return [epochs]
    rows = np.linspace(0, len(targets) - 1, 64).astype(int)
    return [epochs, LayerLog(folder, x[rows], targets[rows])]


def batch_function(network):
    """Compile a function that runs a network in inference mode; it is traced once for batches of any length."""
    signature = tf.TensorSpec([None, *network.input_shape[1:]], tf.float32)
    return tf.function(lambda batch: network(batch, training=False), input_signature=[signature])


def predictions(network, images, labels):
    """Predict class probabilities batch by batch: float32 (n, classes), on one GPU even if there are several.

    `images` are the network's inputs, and `labels` only give n. Keras's `predict` is not used: a call that takes
    several steps (see `steps_at_once`) would hold the images of several batches in memory. With several GPUs, Keras's
    `predict_on_batch` would repeat the batch on each GPU, so the network is called directly.
    """
    predict = network if len(gpus()) > 1 else network.predict_on_batch
    return np.concatenate([np.asarray(predict(batch)) for batch, _ in evaluation_batches(images, labels)])


def gpus():
    """List the GPUs that TensorFlow sees."""
    return tf.config.list_physical_devices("GPU")


def device_name():
    """Return the names of the GPUs that TensorFlow sees or, without a GPU, the name of the processor."""
    names = [tf.config.experimental.get_device_details(gpu).get("device_name", "a GPU") for gpu in gpus()]
    return ", ".join(names) or processor_kind()


@contextmanager
def seeded(seed):
    """Make `seed` alone decide the seeds of layers that are created in this context, whatever other threads do.

    Keras draws the seeds of layers from Python's global random generator, which the threads of a Dask worker share.
    """
    keras.utils.set_random_seed(seed)
    with unittest.mock.patch("keras.src.random.seed_generator.python_random", random.Random(seed)):
        yield


def steps_at_once(steps):
    """Return how many of an epoch's `steps` TensorFlow takes in one call: the largest divisor up to `MOST_STEPS`.

    Between two calls, Keras does some work that takes longer than a step of a small classification head. Several steps
    in one call save most of this work. With several GPUs the answer is 1, because there Keras cannot take several steps
    in one call. Unless a training diverges, its scores do not depend on the answer.
    """
    most = 1 if len(gpus()) > 1 else MOST_STEPS
    return next(count for count in range(min(steps, most), 0, -1) if steps % count == 0)


def compiled_like(model, spec, steps):
    """Return a compiled copy of a model, with the same weights; each call of TensorFlow executes `steps` steps.

    Trainings that differ only in seed, data or learning rate, and have equal `steps`, share one copy, so TensorFlow
    traces it only once. This function sets the copy's weights to those of `model`, and the variables of its optimizer
    to their initial values.
    """
    optimizer = copy.deepcopy(spec["optimizer"])  # Keras changes the dict that it gets
    fresh = keras.optimizers.get(copy.deepcopy(optimizer))
    if not isinstance(optimizer["config"].get("learning_rate"), dict):  # a constant rate is a variable, set below
        optimizer["config"]["learning_rate"] = 0.001
    twin = compiled_model(model.to_json(), json.dumps(optimizer), spec["label_smoothing"], spec["precision"], steps)
    fresh.build(twin.trainable_variables)
    for networks in ((twin, model), (twin.optimizer, fresh)):
        for own, given in zip(*(network.variables for network in networks), strict=True):
            own.assign(given)
    return twin


@functools.lru_cache(maxsize=4)
def compiled_model(architecture, optimizer, label_smoothing, precision, steps):
    """Compile a model from its JSON. Each `precision` has its own cached copy, because tracing fixes the precision."""
    strategy = tf.distribute.MirroredStrategy() if len(gpus()) > 1 else tf.distribute.get_strategy()
    with strategy.scope():  # one training divides each of its batches among all GPUs
        return compile_model(keras.models.model_from_json(architecture), json.loads(optimizer), label_smoothing, steps)


def compile_model(model, optimizer, label_smoothing, steps):
    """Compile a model, create all variables (otherwise the training step is traced twice), and return the model."""
    f1, count = keras.metrics.F1Score(average="macro", name="macro_f1"), model.output_shape[-1]
    f1.update_state(np.zeros((1, count), np.float32), np.zeros((1, count), np.float32))  # creates its variables
    model.compile(
        optimizer=keras.optimizers.get(optimizer),
        loss=keras.losses.CategoricalCrossentropy(label_smoothing=label_smoothing),
        metrics=[f1, keras.metrics.CategoricalAccuracy(name="accuracy")],
        steps_per_execution=steps,
    )
    model.optimizer.build(model.trainable_variables)
    return model


class Checkpoint(keras.callbacks.Callback):
    """Record the history, and write a file from which a training can resume as if it had not been interrupted.

    Keras's BackupAndRestore saves weights, optimizer and epoch. This class also saves the state of dropout's random
    numbers, the history and the state of early stopping. The order of the images is a function of seed and epoch, so
    it is not saved. The time between two checkpoints is at least thirty times the time to write a checkpoint. If
    `file` is None, only the history is recorded.
    """

    times_its_cost = 30

    def __init__(self, file, stopping):
        super().__init__()
        self.file, self.stopping = file, stopping
        self.history, self.seconds, self.over, self.processors = [], 0.0, False, []
        self.started = self.written = time.perf_counter()
        self.cost, self.arrays, self.stopping_knows = 0.0, {}, {}
        arrays = read_arrays(file) if file else {}
        known = json.loads(str(arrays.pop("known"))) if arrays else {}
        if known and known.get("threads") != THREADS:
            print(f"{file.parent.name} was begun with another number of threads and starts again.")
            shutil.rmtree(file.parent / "tensorboard", ignore_errors=True)
        elif known:
            self.history, self.seconds, self.over = known["history"], known["seconds"], known["over"]
            self.arrays, self.stopping_knows = arrays, known["stopping"]
            self.processors = known.get("processors", ["not recorded"])
        self.processors = [*dict.fromkeys([*self.processors, device_name()])]  # a resumed training may have several

    @property
    def epochs(self):
        """Return the number of epochs trained so far."""
        return len(self.history)

    def table(self):
        """Return the history as a DataFrame, one row per epoch."""
        return pd.DataFrame({"epoch": np.arange(1, self.epochs + 1), **pd.DataFrame(self.history)})

    def variables(self):
        return [*self.model.variables, *self.model.optimizer.variables]

    def on_train_begin(self, logs=None):
        if not self.arrays:
            return
        for number, variable in enumerate(self.variables()):
            variable.assign(self.arrays[f"variable {number}"])
        if self.stopping:
            best = [self.arrays[f"best {number}"] for number in range(len(self.model.weights))]
            vars(self.stopping).update(self.stopping_knows, best_weights=best)
        self.arrays = {}

    def on_epoch_end(self, epoch, logs=None):
        self.history.append({name: float(value) for name, value in logs.items()})
        begun = time.perf_counter()
        if not self.file or begun - self.written < self.times_its_cost * self.cost:
            return
        arrays = {f"variable {number}": value.numpy() for number, value in enumerate(self.variables())}
        known = {"history": self.history, "over": self.model.stop_training, "stopping": {}, "threads": THREADS}
        known |= {"seconds": self.seconds + begun - self.started, "processors": self.processors}
        if self.stopping:
            arrays |= {f"best {number}": value for number, value in enumerate(self.stopping.best_weights)}
            known["stopping"] = {key: getattr(self.stopping, key) for key in ("wait", "best", "best_epoch")}
        for log in self.file.parent.rglob("events.out.*"):
            sync(log)
        with atomic_file(self.file) as out:
            np.savez(out, known=json.dumps(known), **arrays)
        self.written = time.perf_counter()
        self.cost = self.written - begun


@contextmanager
def computing_in(models, precision):
    """Make models compute feature maps in `precision`; weights, feature vectors, softmax and loss stay float32.

    `precision` is "bfloat16" or "float32"; "float32" changes nothing. After the context, the models compute in float32.
    """
    layers = [layer for model in models for layer in flat_layers(model) if len(layer.output.shape) == 4]
    try:
        for layer in layers:
            layer.dtype_policy = "mixed_bfloat16" if precision == "bfloat16" else "float32"
        yield
    finally:
        for layer in layers:
            layer.dtype_policy = "float32"


def flat_layers(model):
    """Yield the layers of a model and of the models nested in it, without input layers."""
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from flat_layers(layer)
        elif not isinstance(layer, keras.layers.InputLayer):
            yield layer


class EpochLog(keras.callbacks.TensorBoard):
    """Log each epoch with Keras's TensorBoard callback, but skip the callback's work per batch, which logs nothing."""

    def on_train_batch_end(self, batch, logs=None):
        """Do nothing, which saves a millisecond per batch."""


class LayerLog(keras.callbacks.Callback):
    """Log to TensorBoard, after each epoch, a histogram of each weight and, for each kernel, two norms.

    The first is the norm of the loss's gradient. It is computed on a few training images, the same in every epoch,
    without augmentation and dropout. The second is the norm of the kernel's change: the kernel at the end of the epoch
    minus the kernel at the start. Both norms are divided by the kernel's norm, so different kernels can be compared.
    """

    def __init__(self, folder, images, targets):
        super().__init__()
        self.writer = tf.summary.create_file_writer(str(folder / "layers"))
        self.batch = tf.constant(images, tf.float32), tf.constant(targets)

    def on_train_begin(self, logs=None):
        self.kernels = {layer.name: layer.kernel for layer in self.model.layers if hasattr(layer, "kernel")}

    def on_epoch_begin(self, epoch, logs=None):
        self.before = [kernel.numpy() for kernel in self.kernels.values()]

    def on_epoch_end(self, epoch, logs=None):
        now = [kernel.numpy() for kernel in self.kernels.values()]
        gradients = gradient_norms(self.model)(*self.batch)
        with np.errstate(all="ignore"):  # the weights of a diverged training are not numbers
            summaries = [histogram_pb(f"{weight.path}/histogram", weight.numpy()) for weight in self.model.weights]
            for name, gradient, new, old in zip(self.kernels, gradients, now, self.before, strict=True):
                size = np.linalg.norm(new)
                summaries.append(scalar_pb(f"gradient/{name}", gradient.numpy() / size))
                summaries.append(scalar_pb(f"change/{name}", np.linalg.norm(new - old) / size))
        with self.writer.as_default():
            for summary in summaries:  # made with NumPy, in a tenth of the time that TensorFlow's operations take
                tf.summary.experimental.write_raw_pb(summary.SerializeToString(), epoch)
        self.writer.flush()

    def on_train_end(self, logs=None):
        self.writer.close()


@functools.lru_cache(maxsize=4)
def gradient_norms(model):
    """Compile a function of (images, targets) that returns a list: for each kernel, the norm of the loss's gradient."""

    @tf.function
    def norms(images, targets):
        kernels = [layer.kernel.value for layer in model.layers if hasattr(layer, "kernel")]
        with tf.GradientTape() as tape:
            loss = model.compute_loss(images, targets, model(images, training=False))
        return [tf.norm(gradient) for gradient in tape.gradient(loss, kernels)]

    return norms


class OnEpoch(keras.callbacks.Callback):
    """Call a function at the start and at the end of every epoch.

    The function gets two arguments: the number of epochs trained so far, and a score. At the start of an epoch, the
    score is None. At the end of an epoch, the score is the validation macro F1 of this epoch.
    """

    def __init__(self, call):
        super().__init__()
        self.call = call

    def on_epoch_begin(self, epoch, logs=None):
        self.call(epoch, None)

    def on_epoch_end(self, epoch, logs=None):
        self.call(epoch + 1, logs["val_macro_f1"])
