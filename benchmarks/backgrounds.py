"""Compare the time to place leaves on other backgrounds with the time of the affine augmentation, on one core.

Command line: ``python benchmarks/backgrounds.py [--size 128] [--count 64] [--rounds 5]``. The images are synthetic
leaves. The benchmark times three steps: the affine augmentation, finding the pixels of the leaf (the mask), and
placing the leaf on another background. Each step runs once per round. For each step the benchmark prints the median
over the rounds, in milliseconds per image, and this median divided by the median of the affine augmentation.
"""

import argparse
import os
import time

os.environ |= {"TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1", "OMP_NUM_THREADS": "1"}

from leaves import backgrounds, batches
from leaves.sample import SPECIES, render_leaf

import numpy as np
import tensorflow as tf


def main():
    """Render the leaves, time all steps in turn, and print one line per step."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("size", 128), ("count", 64), ("rounds", 5)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # one core
    rng, names = np.random.default_rng(0), list(SPECIES)
    images = np.stack([render_leaf(names[row % len(names)], rng, options.size) for row in range(options.count)])
    masks = [backgrounds.leaf_mask(image) for image in images]
    uniform = tf.random.stateless_uniform([options.count, 6], [0, 0])
    pixels = tf.constant(images, tf.float32)

    def replaced():
        for row, (image, mask) in enumerate(zip(images, masks, strict=True)):
            backgrounds.replace_background(image, mask, images[row - 1], np.random.default_rng(row))

    steps = {
        "affine augmentation": lambda: batches.augment(pixels, uniform, batches.AUGMENTATION).numpy(),
        "mask": lambda: [backgrounds.leaf_mask(image) for image in images],
        "other background": replaced,
    }
    seconds = {name: [] for name in steps}
    for _ in range(options.rounds + 1):  # the first round warms up
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            seconds[name].append(time.perf_counter() - start)
    medians = {name: 1000 * np.median(times[1:]) / options.count for name, times in seconds.items()}
    size = f"{options.size} x {options.size} pixels"
    print(f"{options.count} images of {size} on one core, median of {options.rounds} rounds")
    for name, milliseconds in medians.items():
        ratio = milliseconds / medians["affine augmentation"]
        print(f"{name:20} {milliseconds:6.2f} ms an image, {ratio:.1f} times the affine augmentation")


if __name__ == "__main__":
    main()
