"""Measure how much time checkpoints cost: train FinalModel with and without them.

    .venv/bin/python benchmarks/checkpoints.py [--size 64] [--epochs 20] [--rounds 3]

In each round, FinalModel is trained on random images without checkpoints, with a checkpoint after every epoch, and with
the default checkpoints. For each of these settings the benchmark prints the seconds of all rounds and their median.
"""

import argparse
import tempfile
from pathlib import Path
from unittest.mock import patch

from leaves import custom_cnn, training
from leaves.batches import AUGMENTATION

import numpy as np

PHOTOS, CLASSES = 640, 14


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=64, help="pixels per side")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3, help="rounds to measure (default: 3)")
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (PHOTOS, options.size, options.size, 3), dtype=np.uint8)
    data = images, rng.integers(0, CLASSES, PHOTOS)

    def prepare(*_):
        layers = custom_cnn.final_model_layers(CLASSES)
        model = custom_cnn.build_model(layers, images.shape[1:], "custom_cnn")
        return training.Training(model, model, data, tuple(part[:160] for part in data), {})

    spec = {"optimizer": {"class_name": "Adam", "config": {"learning_rate": 0.001}}, "label_smoothing": 0.0}
    spec |= {"epochs": options.epochs, "patience": options.epochs, "batch_size": 32, "augmentation": AUGMENTATION}
    spec |= {"mixup": 0.0, "balance": "none", "log_layers": False, "precision": "float32", "seed": 0}
    usual = training.Checkpoint.times_its_cost
    ways = {"none": {"on_epoch_end": lambda self, epoch, logs=None: self.history.append(dict(logs))}}
    ways |= {"after every epoch": {"times_its_cost": 0}, "by default": {"times_its_cost": usual}}
    seconds = {way: [] for way in ways}
    for turn in range(1 + options.rounds):  # the first turn warms up
        for way in sorted(ways, reverse=turn % 2):
            with (
                patch.multiple(training.Checkpoint, **ways[way]),
                tempfile.TemporaryDirectory(dir=Path(__file__).parent) as folder,
            ):
                spent = training.fit(spec, None, prepare, folder=Path(folder))[2]
            seconds[way] += [spent] if turn else []
    base = np.median(seconds["none"])
    for way, spent in seconds.items():
        rounds = ", ".join(f"{one:.2f}" for one in spent)
        print(f"checkpoints {way}: {np.median(spent):.2f} s ({rounds}), {np.median(spent) / base - 1:+.1%}")


if __name__ == "__main__":
    main()
