"""Find the weights of pretrained networks, cut each network in two, and join both pieces with a classification head."""

import functools
import http.client
import os
import re
import socket
import ssl
import unittest.mock
import urllib.error
import urllib.request
import warnings
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from leaves import efficientnet_lite, places
from leaves.files import InputError, disk_errors_explained, file_hash, user_path
from leaves.planning import PLAN, end_plan
from leaves.training import flat_layers, seeded

import h5py
import keras
import numpy as np


@dataclass(frozen=True)
class Backbone:
    """A network of keras.applications or of this project: where it is cut in two, and how its input is prepared."""

    cut: str  # name of the last layer that stays frozen in fine-tuning
    preprocessing: str  # how RGB pixels 0..255 become the network's input, see `preprocess`
    bfloat16: bool = True  # whether the network is faster in bfloat16 on a processor that supports it


BACKBONES = {
    "ResNet50": Backbone("conv4_block6_out", "caffe"),  # the 143rd layer: the original study froze the first 143
    "VGG16": Backbone("block4_pool", "caffe"),
    "EfficientNetB4": Backbone("block6h_add", "efficientnet"),
    "EfficientNetLite0": Backbone("block6d_add", "none", bfloat16=False),
}


# ---------------------------------------------------------------- weights


def find_weights(names, folder, seed=0, timeout=5):
    """Find the initial weights of each backbone.

    For each backbone, four sources are tried in this order: (1) a file in `folder`, named `<name>.weights.h5` or as
    Keras names its downloads; (2) for EfficientNetLite0, an installed package; (3) a download by Keras; (4) random
    numbers, drawn with `seed`. If Keras's server does not answer within `timeout` seconds, no other
    download is tried. After any other failure, the next backbone's download is still tried.

    Parameters
    ----------
    names : iterable of str, keys of `BACKBONES`
    folder : str or Path
        A relative path is resolved against the project's folder.

    Returns
    -------
    dict of name to {"kind": "imagenet" or "random", "source": str, "hash": first 16 hex digits of the file's SHA-256 or
    "random-<seed>", "file": path str or None}

    Raises
    ------
    InputError
        When a file in `folder` is not regular or cannot be read, or EfficientNetLite0's package is incomplete.
    """
    folder = user_path(folder, places.ROOT)
    origins, silent_for = {}, None  # silent_for: the backbone for which Keras's server did not answer
    for name in names:
        file, source = local_weights(name, folder)
        if not file and silent_for and not keras_files(name):
            fault = f"was not tried, because Keras's server did not answer when asked for {silent_for}"
        elif not file:
            reason, silent = download(name, timeout)
            fault = f"failed ({reason})"
            silent_for = silent_for or (name if silent else None)
            file = None if reason else next(iter(keras_files(name)), None)
            source = file and f"Keras's download {file.name}"
        if file:
            with disk_errors_explained(file):
                known = {"source": source, "hash": file_hash(file), "file": str(file.resolve())}
            origins[name] = {"kind": "imagenet", **known}
        else:
            place = folder.relative_to(places.ROOT) if folder.is_relative_to(places.ROOT) else folder
            source = f"random numbers: no {name}.weights.h5 in {place}, and Keras's download of {name} {fault}"
            origins[name] = {"kind": "random", "source": source, "hash": f"random-{seed}", "file": None}
    return origins


def local_weights(name, folder):
    """Find a backbone's weights in `folder` or an installed package: (path, name of the source), or (None, None)."""
    given = [folder / f"{name}.weights.h5", *folder.glob(keras_pattern(name))]
    if file := next((file for file in given if file.exists()), None):
        check_regular(file, name)
        return file, f"the file {file.name}"
    if name == "EfficientNetLite0":
        package = f"the package {efficientnet_lite.PACKAGE} {efficientnet_lite.VERSION}"
        return Path(efficientnet_lite.packaged_weights()), package
    return None, None


def check_regular(file, name):
    """Raise InputError if a weights file is in fact a folder, or a pipe, which the program might read forever."""
    if Path(file).exists() and not Path(file).is_file():
        raise InputError(f"{file} is not a regular file: replace it with the weights file of {name}, or remove it.")


def keras_pattern(name):
    """Return a pattern for `Path.glob` that finds the weights (without a head) that Keras downloads for a backbone."""
    return f"{name.lower()}_*notop.h5"


def keras_files(name):
    """List a backbone's weights files in Keras's download folder (/tmp/.keras if the usual one is not writable)."""
    home = os.path.expanduser(os.environ.get("KERAS_HOME", "~/.keras"))
    home = home if os.access(home, os.W_OK) else "/tmp/.keras"  # the same rule as in keras.utils.get_file
    return sorted(Path(home, "models").glob(keras_pattern(name)))


def download(name, timeout):
    """Let Keras download the ImageNet weights of a backbone, or check the file that it downloaded earlier.

    With `--plan` (see `planning`), nothing is downloaded: the function asks the server whether it has the weights.
    If it has them, the function raises `AheadError`, because the plan cannot go on before the weights are downloaded.

    Returns
    -------
    reason : str or None
        Why the download failed; None if it did not fail.
    silent : bool
        True if the server did not answer at all. In that case no other download needs to be tried.
    """
    usual_timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(timeout)
    asked = unittest.mock.patch("keras.src.utils.file_utils.urlretrieve", ask_server) if PLAN.get() else nullcontext()
    try:
        with asked:
            getattr(keras.applications, name)(include_top=False, input_shape=(64, 64, 3))
        return None, False
    except Exception as error:  # noqa: BLE001 - keras.utils.get_file turns urllib's errors into plain Exception
        cause = error.__context__ if type(error) is Exception and error.__context__ else error
        return reason_of(cause, str(error)), is_silence(cause)
    finally:
        socket.setdefaulttimeout(usual_timeout)


def ask_server(address, *_):
    """Ask whether the server has a file; with `--plan`, Keras calls this function instead of downloading the file.

    If the server has the file, the plan of the chapter ends here, because the next steps need the file. If not, the
    error of `urlopen` is raised.
    """
    urllib.request.urlopen(address).close()
    end_plan("ImageNet weights that Keras downloads")


def is_silence(error):
    """Return whether a download's error means that the server cannot be reached or does not answer."""
    if isinstance(error, (urllib.error.HTTPError, urllib.error.ContentTooShortError)):
        return False
    if isinstance(error, urllib.error.URLError):  # OSError: connection refused, unknown host, no route
        return isinstance(error.reason, OSError) and not isinstance(error.reason, ssl.SSLError)
    return isinstance(error, (TimeoutError, http.client.RemoteDisconnected))


def reason_of(error, message):
    """Say briefly why a download failed: str, with the file's address if Keras's error `message` has the address."""
    address = re.search(r"URL fetch failure on (\S+): ", message)
    of_file = f" for {address[1]}" if address else ""
    if isinstance(error, urllib.error.HTTPError):
        return f"the server answered {error.code} {error.msg}{of_file}"
    if isinstance(error, urllib.error.ContentTooShortError):
        return f"the download was cut off{of_file}"
    if isinstance(error, urllib.error.URLError):
        return f"the server did not answer{of_file}: {getattr(error.reason, 'strerror', None) or error.reason}"
    if is_silence(error):
        return "the server did not answer"
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}"
    if "file hash does not match" in message:
        return "the downloaded file is damaged"
    return " ".join(message.split()) or type(error).__name__


def load_backbone(name, source, size):
    """Build a headless network (without a classification head), and load the weights that `find_weights` found.

    Parameters
    ----------
    name : str, a key of `BACKBONES`
    source : dict that `find_weights` returned for this backbone
    size : int
        Pixels per side: the network takes preprocessed pictures of shape (size, size, 3).

    Returns
    -------
    keras.Model with feature maps as output

    Raises
    ------
    InputError
        When the file does not fit the architecture or is not regular, or the pictures are too small for the network.
    """
    if size < 32:
        raise InputError(f"{name} takes pictures of 32 x 32 pixels or more, not {size} x {size}: raise image_size.")
    with seeded(int(source["hash"].removeprefix("random-")) if source["kind"] == "random" else 0):
        if name == "EfficientNetLite0":
            network = efficientnet_lite.build_network((size, size, 3))
        else:
            network = getattr(keras.applications, name)(include_top=False, weights=None, input_shape=(size, size, 3))
    if source["kind"] == "random":
        return network
    check_regular(source["file"], name)
    if source["file"].endswith(".pth"):
        efficientnet_lite.load_torch_weights(network, source["file"])
        return network
    try:
        if not h5py.is_hdf5(source["file"]):
            raise ValueError("it is not an HDF5 file, or is truncated")
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Skipping nested container")  # a wrong file causes dozens of warnings
            network.load_weights(source["file"])
    except (ValueError, OSError, KeyError) as error:
        way_out = f"use headless ImageNet weights of {name}, or remove the file"
        raise InputError(f"{source['file']} does not fit a headless {name} ({misfit(error)}): {way_out}.") from error
    return network


OTHER_SHAPE = "the layer {} expects weights of shape {}, but the file has {}"
OTHER_COUNT = "the layer {} expects {} arrays of weights, but the file has {}"
# Keys: patterns of Keras's long messages about weights that do not fit; its two file formats have different messages.
# Values: the short texts that replace the messages.
MISFITS = {
    r"name=([^,>]+).* variable\.shape=(\([^)]*\)), Received: value\.shape=(\([^)]*\))": OTHER_SHAPE,
    r"\(named ([^ )]+).* expects shape (\([^)]*\))\. .* with shape (\([^)]*\))": OTHER_SHAPE,
    r"name=([^,>]+).* expected (\d+) variables, but received (\d+) ": OTHER_COUNT,
    r"\(named ([^ )]+).* expects (\d+) weight\(s\)\. Received (\d+) ": OTHER_COUNT,
    r"expected (\d+) layers, found (\d+) saved": "the network expects {} layers with weights, but the file has {}",
}


def misfit(error):
    """Say briefly why a weights file does not fit: str (Keras's own message is long because it lists every layer)."""
    message = " ".join(str(error).split())
    for pattern, clause in MISFITS.items():
        if words := re.search(pattern, message):
            return clause.format(*words.groups())
    if isinstance(error, OSError):
        return "the file is truncated or damaged"
    if layer := re.search(r"error message for object <\w+ name=([^,>]+)", message):
        return f"the file has no weights for the layer {layer[1]}"
    return message if len(message) < 200 else "Keras cannot read the file"


# ---------------------------------------------------------------- networks


def preprocess(name, kind, pixels):
    """Convert RGB pixels 0..255 to the input of a backbone, with Keras layers that become part of the saved model.

    `BACKBONES` gives each backbone one of three ways of preprocessing. "caffe" changes the order of the colours to
    blue, green, red and subtracts ImageNet's mean. "none" adds no layer, because the network rescales its input itself.
    "efficientnet" is for Keras's EfficientNet, which also rescales its input itself. Its ImageNet weights need one more
    step: a division by the square root of ImageNet's standard deviation. Keras adds this step only if it loads the
    weights itself (`weights="imagenet"`). This project loads them from a file, so this function adds the step.

    Parameters
    ----------
    name : str, a key of `BACKBONES`
    kind : "imagenet" or "random", the kind of weights, see `find_weights`
    pixels : Keras tensor, shape (n, height, width, 3)

    Returns
    -------
    Keras tensor of the same shape
    """
    if BACKBONES[name].preprocessing == "caffe":
        blue_green_red = keras.ops.flip(pixels, axis=-1)
        return keras.layers.Rescaling(1.0, offset=[-103.939, -116.779, -123.68])(blue_green_red)
    if BACKBONES[name].preprocessing == "efficientnet" and kind == "imagenet":
        mean, scale = np.array([0.485, 0.456, 0.406]), np.sqrt([0.229, 0.224, 0.225])
        offset = 255 * mean * (1 - 1 / scale)  # the division keeps ImageNet's mean unchanged
        return keras.layers.Rescaling((1 / scale).tolist(), offset=offset.tolist())(pixels)
    return pixels


def cut_backbone(name, network, kind, windows=None):
    """Cut a headless network in two after the layer that `BACKBONES` names; both models share the network's layers.

    Parameters
    ----------
    name, kind : see `preprocess`
    network : keras.Model, see `load_backbone`
    windows : float, optional
        Side of the windows of `window_means`, as a share of the picture's side.

    Returns
    -------
    front : keras.Model from RGB pixels 0..255 to the activations at the cut
    last_block : keras.Model from these activations to the features: the mean of each feature map, shape (n, channels),
        or, if `windows` is given, the result of `window_means`, shape (n, 1 + number of windows, channels)
    """
    cut = network.get_layer(BACKBONES[name].cut).output
    pixels = keras.Input(network.input_shape[1:])
    inner = keras.Model(network.input, cut)
    front = keras.Model(pixels, inner(preprocess(name, kind, pixels)), name="front")
    if windows:
        pooled = window_means(network.output, windows)
    else:
        pooled = keras.layers.GlobalAveragePooling2D(name="pooling")(network.output)
    return front, keras.Model(cut, pooled, name="last_block")


def window_means(maps, share):
    """Average each feature map over the whole picture and over each window of a grid.

    A head that classifies each window and averages the predictions also recognises a leaf that does not fill the
    picture. One pass through the backbone serves all windows, whereas each crop of the photo would need its own pass.

    Parameters
    ----------
    maps : Keras tensor, shape (n, side, side, channels)
    share : float
        Side of a window, as a share of the maps' side. The grid has 3 x 3 windows, which overlap if the share is above
        a third. If the maps have few positions per side, rounding can make the grid smaller, or 4 x 4.

    Returns
    -------
    Keras tensor, shape (n, 1 + number of windows, channels), the means over the whole picture first
    """
    side, channels = maps.shape[2:]
    width = max(1, round(share * side))
    whole = keras.layers.GlobalAveragePooling2D(keepdims=True, name="pooling")(maps)
    parts = keras.layers.AveragePooling2D(width, strides=max(1, (side - width) // 2), name="windows")(maps)
    rows = [keras.layers.Reshape((-1, channels))(means) for means in (whole, parts)]
    return keras.layers.Concatenate(axis=1)(rows)


@functools.lru_cache(maxsize=len(BACKBONES))
def load_parts(name, size, windows=None, **source):
    """Load a frozen backbone as two models, its front and its last block, see `cut_backbone`.

    The result is cached, so all heads on a backbone share these models. `source` is the dict that `find_weights`
    returned for the backbone, passed as keyword arguments.
    """
    front, last_block = cut_backbone(name, load_backbone(name, source, size), source["kind"], windows)
    front.trainable = last_block.trainable = False
    return front, last_block


def join_parts(front, last_block, head):
    """Join a backbone's front, its last block and a head into one keras.Model.

    The model maps RGB pixels 0..255 to class probabilities. The backbone always runs in inference mode.
    """
    pixels = keras.Input(front.input_shape[1:])
    features = last_block(front(pixels, training=False), training=False)
    return keras.Model(pixels, head(features), name="whole")


def trainable_tail(whole):
    """Unfreeze the last block of a network from `join_parts`, and return the tail: a model of this block and the head.

    The tail is a keras.Model from the activations at the cut to class probabilities. It shares the last block and the
    head with the whole network, so the last block becomes trainable there, too. The batch normalisation of the last
    block stays in inference mode and keeps its parameters.
    """
    front, last_block, head = (whole.get_layer(part) for part in ("front", "last_block", "head"))
    last_block.trainable = True
    for layer in flat_layers(last_block):
        layer.trainable = not isinstance(layer, keras.layers.BatchNormalization)
    activations = keras.Input(front.output_shape[1:])
    return keras.Model(activations, head(last_block(activations, training=False)), name="tail")
