"""FinalModel's training step: plain Keras in float32, this project, and PyTorch, side by side in one run.

    .venv/bin/python benchmarks/custom_cnn.py [--size 128] [--torch PYTHON] [--quick]

PYTHON is an interpreter that has PyTorch, of another environment perhaps. Each contestant runs in a process of its own,
and they take turns; the best of its rounds counts.
"""

import argparse
import json
import shutil
import subprocess
import sys
import time

BATCH, STEPS, ROUNDS, CLASSES, PHOTOS = 32, 40, 3, 14, 640
TURNS, PEAK_SIDE = 2, 2048  # of the contestants; of the matrices whose product gives the peak
QUICK = {"STEPS": 1, "ROUNDS": 1, "PHOTOS": 64, "TURNS": 1, "PEAK_SIDE": 256}  # enough to see that all of it runs
FILTERS = (16, 32, 64, 128, 256)


def rate(step, count=STEPS):
    """Images per second of a function that trains on one batch."""
    for _ in range(5):
        step()
    start = time.perf_counter()
    for _ in range(count):
        step()
    return BATCH * count / (time.perf_counter() - start)


def fit_rate(model, data):
    """Images per second of Keras's fit."""
    model.fit(data, steps_per_epoch=5, verbose=0, shuffle=False)
    start = time.perf_counter()
    model.fit(data, steps_per_epoch=STEPS, verbose=0, shuffle=False)
    return BATCH * STEPS / (time.perf_counter() - start)


def with_keras(size, precision):
    """Images per second of the training step on one batch that lies in memory."""
    from leaves import custom_cnn, training

    import keras
    import numpy as np
    import tensorflow as tf

    layers = custom_cnn.final_model_layers(CLASSES, FILTERS)
    spec = {"optimizer": {"class_name": "Adam", "config": {"learning_rate": 0.001}}, "label_smoothing": 0.0}
    keras.utils.set_random_seed(0)
    model = training.compiled_like(
        custom_cnn.build_model(layers, (size, size, 3), "m"), spec | {"precision": precision}
    )
    images = np.random.default_rng(0).integers(0, 256, (BATCH, size, size, 3)).astype(np.float32)
    batch = images, np.eye(CLASSES, dtype=np.float32)[np.arange(BATCH) % CLASSES]
    data = tf.data.Dataset.from_tensors(batch).repeat()
    with training.computing_in([model], precision):
        return {f"Keras, {precision}": max(fit_rate(model, data) for _ in range(ROUNDS))}


def plain_epoch(size):
    """Images per second of an epoch in plain Keras: augmentation layers in front, images in memory, float32."""
    from leaves import custom_cnn
    from leaves.batches import AUGMENTATION

    import keras
    import numpy as np

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
    clock = stopwatch()
    model.fit(images.astype(np.float32), targets, batch_size=BATCH, epochs=2 + ROUNDS, callbacks=[clock], verbose=0)
    return {"plain Keras with augmentation layers": PHOTOS / min(clock.seconds[1:-1])}


def own_epoch(size, precision):
    """Images per second of an epoch here: one affine transform per image, read ahead from a memory map."""
    import tempfile

    from leaves import custom_cnn, training
    from leaves.batches import AUGMENTATION, rows_of_epoch, training_batches

    import numpy as np
    import tensorflow as tf

    spec = {"optimizer": {"class_name": "Adam", "config": {"learning_rate": 0.001}}, "label_smoothing": 0.0}
    spec |= {"precision": precision, "seed": 0, "epochs": 2 + ROUNDS, "batch_size": BATCH, "mixup": 0.0}
    spec |= {"augmentation": AUGMENTATION}
    layers = custom_cnn.final_model_layers(CLASSES, FILTERS)
    tf.config.experimental.enable_op_determinism()  # as in every training here
    with training.seeded(0):
        model = training.compiled_like(custom_cnn.build_model(layers, (size, size, 3), "m"), spec)
    images, labels = photos(size)
    with tempfile.NamedTemporaryFile(suffix=".npy") as file:
        np.save(file.name, images)
        mapped = np.load(file.name, mmap_mode="r")
        targets = np.eye(CLASSES, dtype=np.float32)[labels]
        data, clock = training_batches(mapped, targets, rows_of_epoch(labels, "none"), spec), stopwatch()
        epochs = {"epochs": spec["epochs"], "steps_per_epoch": PHOTOS // BATCH}
        with training.computing_in([model], precision):
            model.fit(data, **epochs, callbacks=[clock], shuffle=False, verbose=0)
    return {f"one affine transform, {precision}": PHOTOS / min(clock.seconds[1:-1])}


def stopwatch():
    """A callback that notes the seconds of each epoch; the first traces, the last has nothing to read ahead for."""
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
    """Images and labels to train on: noise, for nothing here depends on what they show."""
    import numpy as np

    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (PHOTOS, size, size, 3), dtype=np.uint8), rng.integers(0, CLASSES, PHOTOS)


def matrix_peak():
    """Billions of floating point operations per second of a large bfloat16 matrix product in TensorFlow."""
    import leaves  # noqa: F401 - makes TensorFlow's settings

    import tensorflow as tf

    side = PEAK_SIDE
    left, right = (tf.cast(tf.random.stateless_normal((side, side), (0, 0)), tf.bfloat16) for _ in "ab")
    product = tf.function(tf.matmul)
    return {"matrix product": max(rate(lambda: product(left, right), 10) for _ in range(ROUNDS)) / BATCH * 2 * side**3}


def with_torch(size):
    """Images per second of PyTorch's training step, for each way to lay out and to compute."""
    import torch
    from torch import nn

    images = torch.rand(BATCH, 3, size, size)
    labels, loss = torch.arange(BATCH) % CLASSES, nn.CrossEntropyLoss()
    found = {}
    for layout, kept in (("channels last", torch.channels_last), ("channels first", torch.contiguous_format)):
        for low in (True, False):
            blocks = []
            for before, after in zip((3, *FILTERS), FILTERS, strict=False):
                blocks += [nn.Conv2d(before, after, 3, padding=1), nn.LeakyReLU(0.3), nn.MaxPool2d(2)]
            head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.3), nn.Linear(FILTERS[-1], 512), nn.ReLU()]
            model = nn.Sequential(*blocks, *head, nn.Dropout(0.3), nn.Linear(512, CLASSES)).to(memory_format=kept)
            optimizer, batch = torch.optim.Adam(model.parameters()), images.to(memory_format=kept)

            def step(model=model, optimizer=optimizer, batch=batch, low=low):
                optimizer.zero_grad(set_to_none=True)
                with torch.autocast("cpu", dtype=torch.bfloat16, enabled=low):
                    answer = model(batch)
                loss(answer.float(), labels).backward()
                optimizer.step()

            name = f"PyTorch, {layout}, {'bfloat16' if low else 'float32'}"
            found[name] = max(rate(step) for _ in range(ROUNDS))
    return found


def operations(size):
    """Floating point operations of one image's training step: three times those of the forward pass."""
    side, before, count = size, 3, 0
    for after in FILTERS:
        count += 2 * side**2 * 9 * before * after
        side, before = side // 2, after
    return 3 * (count + 2 * (before * 512 + 512 * CLASSES))


CONTESTANTS = {
    "plain": lambda size: with_keras(size, "float32"),
    "ours": lambda size: with_keras(size, "bfloat16"),
    "torch": with_torch,
    "plain epoch": plain_epoch,
    "own epoch": lambda size: own_epoch(size, "bfloat16"),
    "own epoch 32": lambda size: own_epoch(size, "float32"),
    "peak": lambda size: matrix_peak(),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=128, help="pixels per side")
    parser.add_argument("--torch", default=sys.executable, metavar="PYTHON", help="an interpreter that has PyTorch")
    parser.add_argument("--quick", action="store_true", help="see in a minute that it runs; its figures mean nothing")
    parser.add_argument("--contestant", choices=CONTESTANTS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not shutil.which(options.torch):
        parser.error(f"--torch {options.torch} is no program that can be run")
    globals().update(QUICK if options.quick else {})
    if options.contestant:
        print(json.dumps(CONTESTANTS[options.contestant](options.size)))
        return
    best = {}
    for turn in range(TURNS):
        for name in CONTESTANTS:
            python = options.torch if name == "torch" else sys.executable
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
                print(f"{name} left out: {done.stderr.strip().splitlines()[-1]}")
                continue
            for label, speed in json.loads(done.stdout.splitlines()[-1]).items():
                best[label] = max(best.get(label, 0), speed)
            print(f"turn {turn + 1}: {name} done", flush=True)
    peak = best.pop("matrix product")
    print(f"\n| {options.size} x {options.size} pixels, batches of {BATCH} | images/s | share of the peak |")
    print("|---|---|---|")
    for label, speed in best.items():
        print(f"| {label} | {speed:,.0f} | {speed * operations(options.size) / peak:.0%} |")
    print(f"\npeak: {peak / 1e9:,.0f} billion operations a second,", end=" ")
    print(f"a bfloat16 matrix product of {PEAK_SIDE:,} x {PEAK_SIDE:,}")
    torch = max((speed for label, speed in best.items() if label.startswith("PyTorch")), default=None)
    ours = max(best["Keras, bfloat16"], best["Keras, float32"])
    if torch:
        print(f"step, ours to PyTorch's best: {ours / torch:.2f}")
    epoch = max(best["one affine transform, bfloat16"], best["one affine transform, float32"])
    print(f"epoch with augmentation, ours to plain Keras: {epoch / best['plain Keras with augmentation layers']:.2f}")


if __name__ == "__main__":
    main()
