"""Compare how fast FinalModel trains in this project, in PyTorch (single steps) and in plain Keras (whole epochs).

    .venv/bin/python benchmarks/custom_cnn.py [--size 128] [--torch PYTHON] [--quick]

PYTHON is an interpreter that has PyTorch, perhaps in another environment. Each contestant (one way to train) runs
in a separate process. The contestants take turns, each with several rounds, and the benchmark reports the median over
all rounds. On a processor that does not multiply bfloat16 numbers in hardware, only float32 is compared.
"""

import argparse
import functools
import json
import shutil
import statistics
import subprocess
import sys
import time

BATCH, STEPS, ROUNDS, CLASSES, PHOTOS = 32, 40, 3, 14, 640
TURNS = 3  # processes of each contestant; each process measures `ROUNDS` rounds
PEAK_SIDE = 2048  # side of the matrices in `matrix_peak`
QUICK = {"STEPS": 1, "ROUNDS": 1, "PHOTOS": 64, "TURNS": 1, "PEAK_SIDE": 256}  # enough to see that the benchmark runs
FILTERS = (16, 32, 64, 128, 256)
STEP_KIND, EPOCH_KIND = "step: ", "epoch: "  # labels of trainings begin with one of these two


def rates(step, count=None):
    """Measure the images per second of `step`, which trains on one batch: list of float, one per round.

    A round has `count` steps; the default is `STEPS`.
    """
    for _ in range(5):
        step()
    found = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        for _ in range(count or STEPS):
            step()
        found.append(BATCH * (count or STEPS) / (time.perf_counter() - start))
    return found


def fit_rate(model, data):
    """Measure the images per second of a model's `fit` on the batches of `data`: float."""
    model.fit(data, steps_per_epoch=5, verbose=0, shuffle=False)
    start = time.perf_counter()
    model.fit(data, steps_per_epoch=STEPS, verbose=0, shuffle=False)
    return BATCH * STEPS / (time.perf_counter() - start)


def with_keras(size, precision):
    """Measure the images per second of this project's training step: dict of label to list of float, one per round.

    Every step trains on the same batch, which is in memory.
    """
    from leaves import custom_cnn, training
    from leaves.batches import without_autotuning

    import keras
    import numpy as np
    import tensorflow as tf

    layers = custom_cnn.final_model_layers(CLASSES, FILTERS)
    spec = {"optimizer": {"class_name": "Adam", "config": {"learning_rate": 0.001}}, "label_smoothing": 0.0}
    keras.utils.set_random_seed(0)
    model = training.compiled_like(
        custom_cnn.build_model(layers, (size, size, 3), "m"), spec | {"precision": precision}, steps=1
    )
    images = np.random.default_rng(0).integers(0, 256, (BATCH, size, size, 3)).astype(np.float32)
    batch = images, np.eye(CLASSES, dtype=np.float32)[np.arange(BATCH) % CLASSES]
    data = without_autotuning(tf.data.Dataset.from_tensors(batch).repeat())
    with training.computing_in([model], precision):
        return {f"{STEP_KIND}this project, {precision}": [fit_rate(model, data) for _ in range(ROUNDS)]}


def plain_epoch(size):
    """Measure the images per second of plain Keras, with augmentation: dict of label to list of float, one per epoch.

    Keras layers augment the images, which are in memory. The network computes in float32. The images come as a
    tf.data.Dataset without autotuning: with arrays, Keras waits at the end of an epoch for the thread that tunes.
    """
    from leaves import custom_cnn
    from leaves.batches import AUGMENTATION, without_autotuning

    import keras
    import numpy as np
    import tensorflow as tf

    turn, shift, zoom = AUGMENTATION["rotation"] / 360, AUGMENTATION["shift"], AUGMENTATION["zoom"]
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((size, size, 3)),
            keras.layers.RandomFlip(),
            keras.layers.RandomRotation(turn),
            keras.layers.RandomTranslation(shift, shift),
            keras.layers.RandomZoom(zoom),
            *custom_cnn.build_model(custom_cnn.final_model_layers(CLASSES, FILTERS), (size, size, 3), "m").layers,
        ]
    )
    model.compile("adam", "categorical_crossentropy", metrics=[keras.metrics.F1Score(average="macro"), "accuracy"])
    images, labels = photos(size)
    targets = np.eye(CLASSES, dtype=np.float32)[labels]
    data, clock = tf.data.Dataset.from_tensor_slices((images.astype(np.float32), targets)), stopwatch()
    data = without_autotuning(data.shuffle(PHOTOS).batch(BATCH).prefetch(2))
    model.fit(data, epochs=2 + ROUNDS, callbacks=[clock], verbose=0)
    return {
        f"{EPOCH_KIND}plain Keras with augmentation layers, float32": [
            PHOTOS / seconds for seconds in clock.seconds[1:-1]
        ]
    }


def own_epoch(size, precision):
    """Measure the images per second of this project, with augmentation: dict of label to list of float, one per epoch.

    Augmentation is one affine transform per image, and the images are read from a memory-mapped file.
    """
    import tempfile

    from leaves import custom_cnn, training
    from leaves.batches import AUGMENTATION, rows_of_epoch, training_batches

    import numpy as np
    import tensorflow as tf

    spec = {"optimizer": {"class_name": "Adam", "config": {"learning_rate": 0.001}}, "label_smoothing": 0.0}
    spec |= {"precision": precision, "seed": 0, "epochs": 2 + ROUNDS, "batch_size": BATCH, "mixup": 0.0}
    spec |= {"augmentation": AUGMENTATION}
    layers = custom_cnn.final_model_layers(CLASSES, FILTERS)
    tf.config.experimental.enable_op_determinism()  # as in every training of this project
    with training.seeded(0):
        network, steps = custom_cnn.build_model(layers, (size, size, 3), "m"), PHOTOS // BATCH
        model = training.compiled_like(network, spec, training.steps_at_once(steps))
    images, labels = photos(size)
    with tempfile.NamedTemporaryFile(suffix=".npy") as file:
        np.save(file.name, images)
        mapped = np.load(file.name, mmap_mode="r")
        targets = np.eye(CLASSES, dtype=np.float32)[labels]
        data, clock = training_batches(mapped, targets, rows_of_epoch(labels, "none"), spec), stopwatch()
        epochs = {"epochs": spec["epochs"], "steps_per_epoch": steps}
        with training.computing_in([model], precision):
            model.fit(data, **epochs, callbacks=[clock], shuffle=False, verbose=0)
    return {f"{EPOCH_KIND}this project, {precision}": [PHOTOS / seconds for seconds in clock.seconds[1:-1]]}


def stopwatch():
    """Make a Keras callback that records the seconds of each epoch in its list `seconds`.

    The callers ignore the first and the last epoch, because their times are not typical. During the first epoch, Keras
    traces the network. During the last epoch, this project prefetches no batches for a following epoch.
    """
    import keras

    class Stopwatch(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            self.seconds, self.start = [], time.perf_counter()

        def on_epoch_end(self, epoch, logs=None):
            now = time.perf_counter()
            self.seconds.append(now - self.start)
            self.start = now

    return Stopwatch()


def photos(size):
    """Make images and labels to train on: random numbers, because the speed does not depend on the content."""
    import numpy as np

    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (PHOTOS, size, size, 3), dtype=np.uint8), rng.integers(0, CLASSES, PHOTOS)


def matrix_peak(precision):
    """Measure the floating point operations per second of a large matrix product: dict of label to list of float."""
    import leaves  # noqa: F401 - importing it applies TensorFlow's settings

    import tensorflow as tf

    side = PEAK_SIDE
    left, right = (tf.cast(tf.random.stateless_normal((side, side), (0, 0)), precision) for _ in "ab")
    product = tf.function(tf.matmul)
    return {f"peak, {precision}": [found / BATCH * 2 * side**3 for found in rates(lambda: product(left, right), 10)]}


def with_torch(size, precision, compiled):
    """Measure the images per second of PyTorch's training step: dict of label to list of float, one per round.

    There is one label for each memory layout: channels last and channels first. If `compiled` is true, the network is
    compiled, but the loss and the optimizer are not.
    """
    import torch
    from torch import nn

    images = torch.rand(BATCH, 3, size, size)
    labels, loss = torch.arange(BATCH) % CLASSES, nn.CrossEntropyLoss()
    found = {}
    for layout, kept in (("channels last", torch.channels_last), ("channels first", torch.contiguous_format)):
        blocks = []
        for before, after in zip((3, *FILTERS), FILTERS, strict=False):
            blocks += [nn.Conv2d(before, after, 3, padding=1), nn.LeakyReLU(0.3), nn.MaxPool2d(2)]
        head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.3), nn.Linear(FILTERS[-1], 512), nn.ReLU()]
        model = nn.Sequential(*blocks, *head, nn.Dropout(0.3), nn.Linear(512, CLASSES)).to(memory_format=kept)
        optimizer, batch = torch.optim.Adam(model.parameters()), images.to(memory_format=kept)
        network = torch.compile(model) if compiled else model

        def step(network=network, optimizer=optimizer, batch=batch):
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bfloat16"):
                answer = network(batch)
            loss(answer.float(), labels).backward()
            optimizer.step()

        found[f"{STEP_KIND}PyTorch{', compiled' * compiled}, {layout}, {precision}"] = rates(step)
    return found


def operations(size):
    """Count the floating point operations to train on one image once: three times those of the forward pass."""
    side, before, count = size, 3, 0
    for after in FILTERS:
        count += 2 * side**2 * 9 * before * after
        side, before = side // 2, after
    return 3 * (count + 2 * (before * 512 + 512 * CLASSES))


def contestants(precisions):
    """List the contestants: dict of name to callable(size) -> dict of label to list of float, see `with_keras`."""
    found = {"plain epoch": plain_epoch}
    for precision in precisions:
        found |= {
            f"step {precision}": functools.partial(with_keras, precision=precision),
            f"torch {precision}": functools.partial(with_torch, precision=precision, compiled=False),
            f"torch compiled {precision}": functools.partial(with_torch, precision=precision, compiled=True),
            f"epoch {precision}": functools.partial(own_epoch, precision=precision),
            f"peak {precision}": lambda size, precision=precision: matrix_peak(precision),
        }
    return found


def table(title, measured, peaks, size):
    """Return a Markdown table with the median and the range of each contestant over all rounds, the fastest first."""
    lines = [f"| {title} | images/s | lowest to highest | share of the peak |", "|---|---|---|---|"]
    for label, values in sorted(measured.items(), key=lambda item: -statistics.median(item[1])):
        middle, peak = statistics.median(values), peaks.get(label.rpartition(", ")[2], float("nan"))
        share = middle * operations(size) / peak
        lines.append(f"| {label} | {middle:,.0f} | {min(values):,.0f} to {max(values):,.0f} | {share:.0%} |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=128, help="pixels per side")
    parser.add_argument("--torch", default=sys.executable, metavar="PYTHON", help="an interpreter that has PyTorch")
    parser.add_argument("--quick", action="store_true", help="check in a minute that all parts run; ignore the rates")
    parser.add_argument("--contestant", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not shutil.which(options.torch):
        parser.error(f"--torch {options.torch} cannot be executed: give the path of a Python that has PyTorch")
    globals().update(QUICK if options.quick else {})
    if options.contestant:
        print(json.dumps(contestants(("float32", "bfloat16"))[options.contestant](options.size)))
        return
    from leaves.runs import fast_precision

    measured, precisions = {}, dict.fromkeys(["float32", fast_precision()])
    for turn in range(TURNS):
        for name in contestants(precisions):
            python = options.torch if name.startswith("torch") else sys.executable
            command = [
                python,
                __file__,
                "--size",
                str(options.size),
                "--contestant",
                name,
                *["--quick"] * options.quick,
            ]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                print(f"{name} is skipped: {done.stderr.strip().splitlines()[-1]}")
                continue
            for label, values in json.loads(done.stdout.splitlines()[-1]).items():
                measured.setdefault(label, []).extend(values)
            print(f"turn {turn + 1}: {name} done", flush=True)
    report(measured, options.size)


def report(measured, size):
    """Print the speeds of single steps, those of whole epochs, and the peak speed in float32 and bfloat16.

    For the peak, see `matrix_peak`. Below each of the two tables there is one line for each number format (float32,
    bfloat16): this project's speed divided by the speed of the fastest other contestant in this format. If no other
    contestant was measured in a format, its line is missing.
    """
    peaks = {label.removeprefix("peak, "): statistics.median(measured[label]) for label in measured if "peak" in label}
    kinds = {"step on one batch": STEP_KIND, "epoch with augmentation": EPOCH_KIND}
    print()
    for title, kind in kinds.items():
        rows = {label.removeprefix(kind): measured[label] for label in measured if label.startswith(kind)}
        print(table(f"{title}, {size} x {size} pixels, batches of {BATCH}", rows, peaks, size))
        for precision in peaks:
            of_precision = {label: statistics.median(rows[label]) for label in rows if label.endswith(precision)}
            own = of_precision.pop(f"this project, {precision}", None)
            if own and of_precision:
                other = max(of_precision, key=of_precision.get)
                print(f"{title}: this project to {other}: {own / of_precision[other]:.2f}")
        print()
    for precision, peak in peaks.items():
        print(f"peak, {precision}: {peak / 1e9:,.0f} billion operations a second, matrices of {PEAK_SIDE:,} rows")


if __name__ == "__main__":
    main()
