"""The pretrained networks of chapters 4 and 5: where their weights come from, where they are cut, and what their frozen
part makes of the images, computed once.
"""

import functools
import hashlib
import json
import os
import shutil
import socket
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import fitting
import helpers  # before Keras: helpers.py makes TensorFlow's settings
from helpers import InputError, slug

# isort: split
import h5py
import keras
import numpy as np
import tensorflow as tf
from tqdm import tqdm

import efficientnet_lite
from batches import augment
from data import image_store


@dataclass(frozen=True)
class Backbone:
    """A network of keras.applications or of this project, and where its last convolutional block begins."""

    cut: str  # the last frozen layer in fine tuning
    preprocessing: str  # of RGB pixels 0..255, before the network: see `preprocess`
    bfloat16: bool = True  # whether these numbers make it faster, where the processor has them


BACKBONES = {
    "ResNet50": Backbone("conv4_block6_out", "caffe"),  # the 143rd layer: the original froze as many
    "VGG16": Backbone("block4_pool", "caffe"),
    "EfficientNetB4": Backbone("block6h_add", "efficientnet"),
    "EfficientNetLite0": Backbone("block6d_add", "none", bfloat16=False),
}


# ---------------------------------------------------------------- weights


def find_weights(names, folder, seed=0, timeout=5):
    """Say where the initial weights of each backbone come from.

    In this order: a file in `folder`, `<name>.weights.h5` or one with Keras's own name for it; for EfficientNetLite0
    an installed package; Keras's own ImageNet weights, downloaded if need be; else random numbers from `seed`. Once
    Keras's server has not answered within `timeout` seconds, it is given up for all. InputError when the package of
    EfficientNetLite0 is missing or not whole.

    Returns
    -------
    dict of name to {"kind": "imagenet" or "random", "source": str, "hash": first 16 hex digits of the file's SHA-256 or
    "random-<seed>", "file": path str or None}
    """
    found, unreachable = {}, None
    for name in names:
        pattern = f"{name.lower()}_*notop.h5"  # what Keras calls its files
        given = [Path(folder).expanduser() / f"{name}.weights.h5", *Path(folder).expanduser().glob(pattern)]
        kept = keras_files(pattern)
        file = next((file for file in given if file.exists()), None)
        source = file and f"the file {file.name}"
        if not file and name == "EfficientNetLite0":
            file = efficientnet_lite.packaged_weights()
            source = f"the package {efficientnet_lite.PACKAGE} {efficientnet_lite.VERSION}"
        if not file and (not unreachable or kept):
            unreachable = download(name, timeout)
            kept = keras_files(pattern)
            file = kept[0] if kept and not unreachable else None
            source = file and f"Keras's download {file.name}"
        if file:
            known = {"hash": helpers.file_hash(file), "file": str(Path(file).resolve())}
            found[name] = {"kind": "imagenet", "source": source, **known}
        else:
            source = f"random numbers: no {name}.weights.h5 in {folder}, and Keras's download failed ({unreachable})"
            found[name] = {"kind": "random", "source": source, "hash": f"random-{seed}", "file": None}
    return found


def keras_files(pattern):
    """Weights that Keras has downloaded: in its home, or where that cannot be written in /tmp."""
    homes = Path(os.environ.get("KERAS_HOME", "~/.keras")).expanduser(), Path("/tmp/.keras")
    return [file for home in homes for file in sorted((home / "models").glob(pattern))]


def download(name, timeout):
    """Let Keras fetch its ImageNet weights of a backbone; returns why it could not, or None."""
    usual_timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(timeout)
    try:
        getattr(keras.applications, name)(include_top=False, input_shape=(64, 64, 3))
    except Exception as error:  # noqa: BLE001 - keras.utils.get_file raises plain Exception when it cannot reach the server
        return str(error).strip().splitlines()[-1]
    finally:
        socket.setdefaulttimeout(usual_timeout)


def load_backbone(name, source, size):
    """A headless network for preprocessed pictures of size x size x 3, with the weights of `find_weights`.

    Raises
    ------
    InputError
        When the file does not fit the architecture, or the pictures are too small for it.
    """
    if size < 32:
        raise InputError(f"{name} takes pictures of 32 x 32 pixels or more, not {size} x {size}: set image_size.")
    with fitting.seeded(int(source["hash"].removeprefix("random-")) if source["kind"] == "random" else 0):
        if name == "EfficientNetLite0":
            network = efficientnet_lite.build_network((size, size, 3))
        else:
            network = getattr(keras.applications, name)(include_top=False, weights=None, input_shape=(size, size, 3))
    if source["kind"] == "random":
        return network
    if source["file"].endswith(".pth"):
        efficientnet_lite.load_torch_weights(network, source["file"])
        return network
    try:
        if not h5py.is_hdf5(source["file"]):
            raise ValueError("it is no HDF5 file, or cut short")
        network.load_weights(source["file"])
    except (ValueError, OSError, KeyError) as error:
        reason = str(error).strip().splitlines()[0].rstrip(".")
        way_out = "take a file of headless ImageNet weights, or remove it to do without"
        raise InputError(f"{source['file']} does not fit a headless {name} ({reason}): {way_out}.") from error
    return network


# ---------------------------------------------------------------- networks


def preprocess(name, kind, pixels):
    """What the backbone expects of RGB pixels 0..255, as layers, so that a saved model holds it.

    "caffe" is blue, green, red, less ImageNet's mean; "none" is for a network that rescales inside. So does Keras's
    EfficientNet, but for a division by the root of ImageNet's standard deviation, which it leaves out unless it
    fetches the weights itself: that is made up for here.
    """
    if BACKBONES[name].preprocessing == "caffe":
        blue_green_red = keras.ops.flip(pixels, axis=-1)
        return keras.layers.Rescaling(1.0, offset=[-103.939, -116.779, -123.68])(blue_green_red)
    if BACKBONES[name].preprocessing == "efficientnet" and kind == "imagenet":
        mean, scale = np.array([0.485, 0.456, 0.406]), np.sqrt([0.229, 0.224, 0.225])
        offset = 255 * mean * (1 - 1 / scale)  # the division is about the mean
        return keras.layers.Rescaling((1 / scale).tolist(), offset=offset.tolist())(pixels)
    return pixels


def cut_backbone(name, network, kind):
    """Cut a headless network in two, at the layer that `BACKBONES` names; the parts share its layers.

    Returns
    -------
    front : keras.Model, RGB pixels 0..255 to the activations at the cut
    last_block : keras.Model, these activations to the features, the mean of each feature map: shape (n, channels)
    """
    cut = network.get_layer(BACKBONES[name].cut).output
    pixels = keras.Input(network.input_shape[1:])
    inner = keras.Model(network.input, cut)
    front = keras.Model(pixels, inner(preprocess(name, kind, pixels)), name="front")
    pooled = keras.layers.GlobalAveragePooling2D(name="pooling")(network.output)
    return front, keras.Model(cut, pooled, name="last_block")


@functools.lru_cache(maxsize=len(BACKBONES))
def load_parts(name, size, **source):
    """The two parts of a frozen backbone, read once for all the heads on top of it; see `cut_backbone`."""
    front, last_block = cut_backbone(name, load_backbone(name, source, size), source["kind"])
    front.trainable = last_block.trainable = False
    return front, last_block


def put_together(front, last_block, head):
    """The whole network, RGB pixels 0..255 to class probabilities; the backbone in inference mode throughout."""
    pixels = keras.Input(front.input_shape[1:])
    features = last_block(front(pixels, training=False), training=False)
    return keras.Model(pixels, head(features), name="whole")


def trainable_tail(whole):
    """The tail of a network of `put_together`: activations at the cut to class probabilities, shares its layers.

    Last block and head learn, in the whole network too. Batch normalisation stays in inference mode and keeps its
    parameters.
    """
    front, last_block, head = (whole.get_layer(part) for part in ("front", "last_block", "head"))
    last_block.trainable = True
    for layer in fitting.leaves(last_block):
        layer.trainable = not isinstance(layer, keras.layers.BatchNormalization)
    activations = keras.Input(front.output_shape[1:])
    return keras.Model(activations, head(last_block(activations, training=False)), name="tail")


# ---------------------------------------------------------------- features


@dataclass(frozen=True)
class View:
    """Images under augmentation number `number`, a function of (seed, number, index); computed when sliced."""

    images: np.ndarray  # or StoredImages: shape (n, size, size, 3)
    augmentation: dict
    seed: int
    number: int

    def __len__(self):
        return len(self.images)

    def __getitem__(self, rows):
        uniform = tf.random.stateless_uniform([len(self), 6], [self.seed, self.number])[rows]
        return augment(tf.constant(self.images[rows], tf.float32), uniform, self.augmentation).numpy()


@dataclass(frozen=True)
class Views:
    """Arrays of one shape (n, ...), read by number as one array after another: shape (views * n, ...)."""

    arrays: tuple

    @property
    def shape(self):
        return len(self), *self.arrays[0].shape[1:]

    def __len__(self):
        return len(self.arrays) * len(self.arrays[0])

    def __getitem__(self, rows):
        return np.stack([self.arrays[view][row] for view, row in zip(*divmod(rows, len(self.arrays[0])), strict=True)])


@dataclass(frozen=True)
class Frozen:
    """What the frozen part of a backbone makes of one part of the split: float16, memory-mapped."""

    at_cut: np.ndarray  # or Views: shape (n, height, width, channels)
    features: np.ndarray  # or Views: shape (n, channels)
    labels: np.ndarray  # int, shape (n of one view,)
    seconds: float  # that the computation took, whenever that was


def frozen_outputs(spec, split, part, load):
    """What a frozen backbone makes of the images, computed once, whatever is trained on top and how often.

    Of the training part there are 1 + `spec["views"]["count"]` views: the photos as they are, then augmented ones.

    Parameters
    ----------
    spec : dict
        Of it `backbone`, `weights`, `image_size`, `split`, `views` and `precision` are read.
    part : "train", "validation" or "test" (chapter 6 alone asks for "test")
    load : callable without arguments, called only if something is not on disk
        Gives `front` and `last_block` of `cut_backbone`.

    Returns
    -------
    Frozen; of the training part as `Views`

    Raises
    ------
    InputError
        When the disk has no room for the outputs.
    """
    images, labels = helpers.load_images(split, part, spec["image_size"])
    settings = {key: spec["views"][key] for key in ("augmentation", "seed")}
    stored = []
    for number in range(1 + spec["views"]["count"] if part == "train" else 1):
        key = {key: spec[key] for key in ("backbone", "weights", "image_size", "split", "precision")}
        key |= {"cut": BACKBONES[spec["backbone"]].cut, "part": part}
        key |= {"view": settings | {"number": number} if number else None}
        view = View(images, **settings, number=number) if number else images
        title = f"{spec['backbone']}, {part}" + (f", view {number}" if number else "")
        stored.append(compute_once(load, view, key, title))
    at_cut, features, seconds = zip(*stored, strict=True)
    if part == "train":
        return Frozen(Views(at_cut), Views(features), labels, sum(seconds))
    return Frozen(at_cut[0], features[0], labels, seconds[0])


@functools.lru_cache(maxsize=1)
def compiled(front, last_block, precision):
    """One function for both outputs of a frozen backbone, traced once for all its views and parts."""
    both = keras.Model(front.input, [front.output, last_block(front.output, training=False)])
    run = helpers.batch_function(both)
    with fitting.computing_in([front, last_block], precision):
        run.get_concrete_function()
    return run


def compute_once(load, images, key, title):
    """The activations at the cut and the features of images, and the seconds they took; from disk if they are there.

    Parameters
    ----------
    load : see `frozen_outputs`
    images : array or View, sliced 32 rows at a time: memory does not grow with their number
    key : dict, JSON-able
        Says all that the outputs depend on.

    Returns
    -------
    at_cut, features : memory maps of float16
    seconds : float
    """
    content = json.dumps([1, image_store.CODE, key], sort_keys=True)  # 1: version of this code
    name = f"{slug(title)}-{hashlib.sha256(content.encode()).hexdigest()[:16]}"
    at_cut, features, note = (helpers.CACHE / f"{name}{end}" for end in ("-cut.npy", "-features.npy", ".json"))
    stored = [open_whole(at_cut), open_whole(features)]
    with suppress(OSError, ValueError, KeyError):  # a note that is missing or damaged: as the arrays
        seconds = json.loads(note.read_text(encoding="utf-8"))["seconds"]
        if all(array is not None for array in stored):
            return *stored, seconds
    start = time.perf_counter()
    front, last_block = load()
    run = compiled(front, last_block, key["precision"])
    made_by = {at_cut: front, features: last_block}
    shapes = {file: (len(images), *network.output_shape[1:]) for file, network in made_by.items()}
    check_room(shapes.values(), title)
    with ExitStack() as stack:
        outs = [stack.enter_context(helpers.whole_file(file)) for file in shapes]
        for out, shape in zip(outs, shapes.values(), strict=True):
            np.lib.format.write_array_header_1_0(out, {"descr": "<f2", "fortran_order": False, "shape": shape})
        for first in tqdm(range(0, len(images), 32), title, unit="batch", mininterval=2):
            for out, made in zip(outs, run(images[first : first + 32].astype(np.float32)), strict=True):
                values = made.numpy().astype("<f2")
                if not np.isfinite(values).all():
                    raise InputError(f"{title}: the weights give numbers that are not finite: take another file.")
                out.write(values.tobytes())
    seconds = round(time.perf_counter() - start, 2)
    helpers.write_whole(note, json.dumps({"seconds": seconds, "key": key}, indent=1))
    return open_whole(at_cut), open_whole(features), seconds


def check_room(shapes, title):
    """Raise InputError if float16 arrays of these shapes do not fit on the disk."""
    helpers.CACHE.mkdir(parents=True, exist_ok=True)
    needed, free = 2 * sum(np.prod(shape, dtype=float) for shape in shapes), shutil.disk_usage(helpers.CACHE).free
    if needed > free:
        raise InputError(
            f"{title}: its outputs take {needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free in {helpers.CACHE}: "
            "make room, or lower views or image_size."
        )


def open_whole(file):
    """A stored array as a memory map; None if it is not there whole."""
    try:
        return np.load(file, mmap_mode="r")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, EOFError):
        print(f"data/cache/{file.name} is damaged: it is computed again.")
        return None
