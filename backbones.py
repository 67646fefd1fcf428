"""The pretrained networks of chapters 4 and 5: where their weights come from, what they expect, where they are cut."""

import hashlib
import os
import socket
from dataclasses import dataclass
from pathlib import Path

from helpers import InputError  # before Keras: helpers.py makes TensorFlow's settings

import keras  # isort: skip


@dataclass(frozen=True)
class Backbone:
    """A network of keras.applications, and the layer after which its last convolutional block begins."""

    module: str
    cut: str


BACKBONES = {
    "ResNet50": Backbone("resnet50", "conv4_block6_out"),  # the original's first 143 layers
    "VGG16": Backbone("vgg16", "block4_pool"),
    "EfficientNetB4": Backbone("efficientnet", "block6h_add"),
}


def find_weights(names, folder, timeout=5):
    """Say where the initial weights of each backbone come from.

    In this order: the file `<name>.weights.h5` in `folder`; Keras's own ImageNet weights, downloaded if need
    be; else random. Once Keras's server has not answered within `timeout` seconds, it is given up for all.

    Returns
    -------
    dict of name to {"kind": "imagenet" or "random", "source": str, "file": path str or None, "hash": str}
    """
    found, online, usual_timeout = {}, True, socket.getdefaulttimeout()
    for name in names:
        file = Path(folder).expanduser() / f"{name}.weights.h5"
        if file.exists():
            digest = hashlib.sha256(file.read_bytes()).hexdigest()[:16]
            found[name] = {"kind": "imagenet", "source": file.name, "file": str(file), "hash": digest}
            continue
        kept = Path(os.environ.get("KERAS_HOME", "~/.keras")).expanduser() / "models"
        try:
            if not online and not any(kept.glob(f"{name.lower()}*notop.h5")):
                raise OSError("given up")
            socket.setdefaulttimeout(timeout)
            load_backbone(name, "imagenet", 64)
            found[name] = {"kind": "imagenet", "source": "Keras", "file": "imagenet", "hash": "keras"}
        except Exception:  # noqa: BLE001 - keras.utils.get_file raises plain Exception when it cannot reach the server
            online = False
            found[name] = {"kind": "random", "source": "random numbers", "file": None, "hash": "random"}
        finally:
            socket.setdefaulttimeout(usual_timeout)
    return found


def load_backbone(name, weights, size):
    """A headless keras.applications model for pictures of size x size x 3, with weights from a file.

    Raises
    ------
    InputError
        When the file does not fit the architecture, or the pictures are too small for it.
    """
    if size < 32:
        raise InputError(f"{name} takes pictures of 32 x 32 pixels or more, not {size} x {size}: set image_size.")
    try:
        return getattr(keras.applications, name)(include_top=False, weights=weights, input_shape=(size, size, 3))
    except (ValueError, OSError, KeyError) as error:
        if weights in (None, "imagenet"):
            raise
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"The weights file {weights} does not fit a headless {name}: {reason}") from error


def preprocessing(name, pixels):
    """What the backbone's family does to RGB pixels 0..255, as layers, so that a saved model holds it."""
    if BACKBONES[name].module == "efficientnet":
        return pixels  # EfficientNet rescales inside
    blue_green_red = keras.ops.flip(pixels, axis=-1)
    return keras.layers.Rescaling(1.0, offset=[-103.939, -116.779, -123.68])(blue_green_red)


def cut_backbone(name, backbone):
    """Cut a backbone at the layer that `BACKBONES` names.

    Returns
    -------
    front : keras.Model, RGB pixels 0..255 to the activations at the cut
    last_block : keras.Model, activations at the cut to the backbone's feature maps; shares the backbone's layers
    """
    cut = backbone.get_layer(BACKBONES[name].cut).output
    pixels = keras.Input(backbone.input_shape[1:])
    front = keras.Model(backbone.input, cut)
    return keras.Model(pixels, front(preprocessing(name, pixels))), keras.Model(cut, backbone.output)
