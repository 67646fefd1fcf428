"""Compare two ways to do transfer learning and fine-tuning: in the usual loop, and with features computed once.

    ./run_all.sh --only 01 --data DIR
    .venv/bin/python benchmarks/transfer_learning.py --weights DIR

The usual loop is plain Keras in float32: augmentation layers, the frozen backbone in the forward pass of every epoch,
and `fit` on images in memory. Both methods have the same backbone, photos, head, optimizer, augmentation (flips) and
number of epochs. The whole network of each method is scored in float32 on the validation subset, at its best epoch.
"""

import argparse
import tempfile
import time
from pathlib import Path

import helpers
from leaves import backbones, custom_cnn, dataset, features, places, runs, training
from leaves.scoring import macro_f1

import keras
import numpy as np
import pandas as pd

FLIPS = {"flip": True, "rotation": 0, "shift": 0, "zoom": 0}


def head_layers(classes):
    """Return the layers of chapter 4's head: list of [class name, config], see `custom_cnn.build_model`."""
    return [
        ["Dropout", {"rate": 0.3}],
        ["Dense", {"units": 512}],
        ["LeakyReLU", {"negative_slope": 0.3}],
        ["Dropout", {"rate": 0.3}],
        ["Dense", {"units": classes, "activation": "softmax"}],
    ]


def score(whole, validation):
    """Compute the macro F1 of a whole network on `validation`, a tuple of images and labels: float."""
    images, labels = validation
    return float(macro_f1(labels, whole.predict(images, verbose=0).argmax(axis=1)))


def usual_way(name, source, size, classes, data, epochs, tuning_epochs):
    """Train the head and then the tail in plain Keras.

    Returns
    -------
    list of dict, one per stage, with the keys way, stage, seconds and macro F1
    """
    keras.utils.set_random_seed(0)
    (images, labels), validation = data["train"], data["validation"]
    front, last_block = backbones.load_parts(name, size, **source)
    head = custom_cnn.build_model(head_layers(classes), last_block.output_shape[1:], "head")
    pixels = keras.Input((size, size, 3))
    turned = keras.layers.RandomFlip("horizontal_and_vertical")(pixels)
    features = last_block(front(turned, training=False), training=False)
    whole, rows = keras.Model(pixels, head(features)), []
    one_hot = np.eye(classes, dtype=np.float32)
    for stage, learning_rate, count in (("head", 0.001, epochs), ("tail", 0.0001, tuning_epochs)):
        if stage == "tail":
            last_block.trainable = True
            for layer in training.flat_layers(last_block):
                layer.trainable = not isinstance(layer, keras.layers.BatchNormalization)
        metric = keras.metrics.F1Score(average="macro", name="macro_f1")
        whole.compile(keras.optimizers.Adam(learning_rate), "categorical_crossentropy", metrics=[metric])
        best = keras.callbacks.EarlyStopping("val_macro_f1", mode="max", patience=count, restore_best_weights=True)
        start = time.perf_counter()
        held_out = (validation[0], one_hot[validation[1]])
        fitted = {"epochs": count, "batch_size": 32, "validation_data": held_out, "callbacks": [best], "verbose": 2}
        whole.fit(images, one_hot[labels], **fitted)
        rows.append({"way": "usual", "stage": stage, "seconds": time.perf_counter() - start})
        rows[-1]["macro F1"] = score(whole, validation)
    return rows


def cached_way(name, source, size, split, data, epochs, tuning_epochs, views):
    """Compute the features, then train the head and the tail from stored arrays, as chapters 4 and 5 do.

    Returns
    -------
    list of dict, one per stage, with the keys way, stage, seconds and macro F1; the stage "features" has no macro F1
    """
    classes = len(split.attrs["classes"])
    spec = runs.training_spec("04", name, split, epochs, 0, backbone=name, image_size=size, patience=epochs)
    spec |= {
        "views": {"count": views, "augmentation": FLIPS, "seed": 0},
        "weights": {key: source[key] for key in ("kind", "hash")},
    }
    tail_spec = spec | {"epochs": tuning_epochs, "patience": tuning_epochs}
    tail_spec |= {"optimizer": {"class_name": "Adam", "config": {"learning_rate": 0.0001}}}
    parts = backbones.load_parts(name, size, **source)
    start = time.perf_counter()
    outputs = features.frozen_outputs(spec, split, dataset.DEVELOPMENT, lambda: parts)
    rows = [{"way": "cached", "stage": "features", "seconds": time.perf_counter() - start}]

    def prepare_head(_, __):
        head = custom_cnn.build_model(head_layers(classes), parts[1].output_shape[1:], "head")
        whole = backbones.join_parts(*parts, head)
        inputs = features.fold_data(outputs.features, outputs.labels, split, 0)
        return training.Training(head, whole, *inputs, summary={})

    def prepare_tail(_, __):
        inputs = features.fold_data(outputs.at_cut, outputs.labels, split, 0)
        return training.Training(backbones.trainable_tail(whole), whole, *inputs, summary={})

    for stage, one_spec, prepare in (("head", spec, prepare_head), ("tail", tail_spec, prepare_tail)):
        start = time.perf_counter()
        finished, *_ = training.fit(one_spec, split, prepare)
        whole = finished.whole
        rows.append({"way": "cached", "stage": stage, "seconds": time.perf_counter() - start})
        rows[-1]["macro F1"] = score(whole, data["validation"])
    return rows


def one_round(split, views, common):
    """Measure both methods once: list of dict, the rows of `usual_way` and then those of `cached_way`.

    The dict `common` has the arguments that both functions take: name, source, size, epochs and tuning_epochs.
    """
    with tempfile.TemporaryDirectory() as cache:
        places.CACHE = Path(cache)  # an empty cache; the images are decoded here, before either method is timed
        size, classes = common["size"], len(split.attrs["classes"])
        data = {part: dataset.load_images(split, part, size) for part in ("train", "validation")}
        data = {part: (images[:].astype(np.float32), labels) for part, (images, labels) in data.items()}
        backbones.load_parts.cache_clear()  # load the backbone again: an earlier round fine-tuned the cached one
        training.compiled_model.cache_clear()  # make `cached_way` trace its networks again, like `usual_way`
        rows = usual_way(classes=classes, data=data, **common)
        backbones.load_parts.cache_clear()
        return rows + cached_way(split=split, data=data, views=views, **common)


def main():
    """Measure both methods in turn; print all rounds, then compare the medians of the seconds and of macro F1."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", default="data/weights", metavar="DIR", help="a folder with <Backbone>.weights.h5")
    parser.add_argument("--backbone", choices=backbones.BACKBONES, default="ResNet50")
    parser.add_argument("--size", type=int, default=128, help="pixels per side (default: 128)")
    parser.add_argument("--epochs", type=int, default=50, help="epochs of the head (default: 50)")
    parser.add_argument("--tuning-epochs", type=int, default=10, help="epochs of fine-tuning (default: 10)")
    parser.add_argument("--views", type=int, default=2, help="augmented views of each photo (default: 2)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds; each measures both methods (default: 3)")
    options = parser.parse_args()
    split = dataset.load_split()
    source = backbones.find_weights([options.backbone], options.weights)[options.backbone]
    print(helpers.provenance(split), f"{options.backbone}, {source['kind']} weights from {source['source']}", sep="\n")
    common = {"name": options.backbone, "source": source, "size": options.size}
    common |= {"epochs": options.epochs, "tuning_epochs": options.tuning_epochs}
    rounds = [
        row | {"round": number} for number in range(options.rounds) for row in one_round(split, options.views, common)
    ]
    table = pd.DataFrame(rounds)
    print(table.to_string(index=False, float_format="{:.3f}".format, na_rep=""))
    seconds, scores = (table.pivot_table(value, "stage", "way", "median") for value in ("seconds", "macro F1"))
    for stage, parts, count in (
        ("head", ["features", "head"], options.epochs),
        ("tail", ["tail"], options.tuning_epochs),
    ):
        ratio = seconds.loc[stage, "usual"] / seconds.loc[parts, "cached"].sum()
        difference = scores.loc[stage, "cached"] - scores.loc[stage, "usual"]
        print(f"{' and '.join(parts)}, {count} epochs: {ratio:.1f} times faster, macro F1 {difference:+.3f}")


if __name__ == "__main__":
    main()
