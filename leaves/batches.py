"""Make the batches of a training, shuffled and augmented differently in every epoch, and batches for evaluation."""

import itertools
import mmap
from dataclasses import dataclass

from leaves.backgrounds import OtherBackgrounds, leaf_masks
from leaves.dataset import DEVELOPMENT, hold_out
from leaves.files import without_stderr

import numpy as np
from sklearn.utils.class_weight import compute_class_weight

with without_stderr():  # whatever the log level, TensorFlow prints a message here; hide it
    import keras
    import tensorflow as tf

# The original study's augmentation. It flips the image, rotates it by up to 30 degrees, shifts it by up to 0.2 of the
# side (originally 50 of 256 pixels), zooms by a factor of 0.7 to 1.3, and mirrors the image at its border to fill gaps.
AUGMENTATION = {"flip": True, "rotation": 30, "shift": 0.2, "zoom": 0.3}
QUARTER_TURNS = "quarter turns"  # a value of "rotation" in place of a number of degrees


@dataclass(frozen=True)
class Views:
    """Photos in one or more views, indexed like one array of shape (views * photos, ...).

    Each view holds all photos: unchanged, augmented or with other backgrounds. All photos of the first view come first,
    then all photos of the second view, and so on.
    """

    arrays: tuple  # for each view, an array of shape (n, ...)
    photos: np.ndarray  # array of int: the rows of the chosen photos, the same rows in each array

    @property
    def shape(self):
        return len(self), *self.arrays[0].shape[1:]

    def __len__(self):
        return len(self.arrays) * len(self.photos)

    def __getitem__(self, rows):
        of_view, photos = divmod(np.arange(len(self))[rows], len(self.photos))
        parts = {view: self.arrays[view][self.photos[photos[of_view == view]]] for view in np.unique(of_view)}
        values = np.empty((len(of_view), *self.shape[1:]), next(iter(parts.values())).dtype)
        for view, part in parts.items():
            values[of_view == view] = part
        return values

    def of(self, photos, views=None):
        """Return a `Views` of the selected photos, in the first `views` views, or in all views if `views` is None.

        The parameter `photos` is an array of positions in `self.photos`.
        """
        return Views(self.arrays[:views], self.photos[photos])


def other_backgrounds(images, split, spec):
    """Make views of the training photos for the epochs of a training, alternately unchanged and with new backgrounds.

    Parameters
    ----------
    images : StoredImages, shape (n, size, size, 3), of the training photos
    split : DataFrame, see `dataset.hold_out`; `images` are its training subset
    spec : dict
        Its keys `epochs` and `seed` are read.

    Returns
    -------
    `Views`: the first, third ... view is the unchanged photos; the second, fourth ... view is a new
    `backgrounds.OtherBackgrounds`. Each epoch has its own view, except that the last epoch reads the first view again
    if the number of epochs is odd and above 1.
    """
    trained_on = (split["split"] == "train")[split["split"] != "test"].to_numpy()
    masks = leaf_masks(split, DEVELOPMENT)[trained_on]
    others = [OtherBackgrounds(images, masks, spec["seed"], number) for number in range(1, spec["epochs"] // 2 + 1)]
    views = [view for other in others for view in (images, other)] or [images]
    return Views(tuple(views), np.arange(len(images)))


def augment(images, uniform, augmentation):
    """Flip, rotate, shift and zoom each image by one affine transform.

    Parameters
    ----------
    images : float32 tensor, shape (n, height, width, 3)
    uniform : float32 tensor, shape (n, 6)
        Random numbers in [0, 1), one row per image, for two flips, one angle, two shifts and one zoom.
    augmentation : dict with the keys of `AUGMENTATION`, or None
        If it is None, the images are unchanged. If "rotation" is `QUARTER_TURNS`, each image is turned by 0, 90, 180
        or 270 degrees, without an interpolation that would blur it.

    Returns
    -------
    float32 tensor of the shape of `images`
    """
    if augmentation is None:
        return tf.cast(images, tf.float32)
    side = tf.cast(tf.shape(images)[1], tf.float32)
    signed = 2 * uniform - 1
    if augmentation["rotation"] == QUARTER_TURNS:
        angle = tf.floor(4 * uniform[:, 2]) * np.pi / 2
    else:
        angle = signed[:, 2] * augmentation["rotation"] * np.pi / 180
    shift = signed[:, 3:5] * augmentation["shift"] * side
    zoom = 1 + signed[:, 5] * augmentation["zoom"]
    flip = tf.where(uniform[:, :2] < 0.5, -1.0, 1.0) if augmentation["flip"] else tf.ones_like(shift)
    a, b = tf.cos(angle) * zoom * flip[:, 0], -tf.sin(angle) * zoom * flip[:, 1]
    c, d = tf.sin(angle) * zoom * flip[:, 0], tf.cos(angle) * zoom * flip[:, 1]
    centre = (side - 1) / 2  # rotate and zoom about the middle, then shift
    offset_x = centre - a * centre - b * centre + shift[:, 0]
    offset_y = centre - c * centre - d * centre + shift[:, 1]
    zero = tf.zeros_like(a)
    transform = tf.stack([a, b, offset_x, c, d, offset_y, zero, zero], axis=1)
    return keras.ops.image.affine_transform(images, transform, fill_mode="reflect")


def mix_up(images, targets, gamma):
    """Blend each image and its target with those of another image of the batch (MixUp, Zhang et al. 2018).

    Parameters
    ----------
    images : float32 tensor, shape (n, height, width, 3)
    targets : float32 tensor, shape (n, classes)
    gamma : float32 tensor, shape (n, 2)
        Two draws of a gamma distribution per image. The first draw divided by the sum of both has a beta distribution;
        this quotient is the share of the image in the blend.

    Returns
    -------
    images, targets : float32 tensors of the same shapes
    """
    share = gamma[:, 0] / tf.maximum(gamma[:, 0] + gamma[:, 1], 1e-30)
    of_image, of_target = share[:, None, None, None], share[:, None]
    mixed = of_image * images + (1 - of_image) * images[::-1]
    return mixed, of_target * targets + (1 - of_target) * targets[::-1]


BALANCES = ("none", "class_weight", "oversample", "sqrt_oversample")


def rows_of_epoch(labels, balance):
    """Return the row numbers of the photos in one epoch; with oversampling, photos of small classes occur repeatedly.

    Parameters
    ----------
    labels : array of int, shape (n,)
    balance : str
        With "oversample", each class gets as many rows as the largest class has photos. With "sqrt_oversample", each
        class gets the geometric mean of this number and its own number of photos, rounded up. Otherwise each photo
        occurs once.

    Returns
    -------
    array of int, indices into `labels`
    """
    if balance not in ("oversample", "sqrt_oversample"):
        return np.arange(len(labels))
    counts = np.bincount(labels)
    wanted = np.full(len(counts), counts.max())
    if balance == "sqrt_oversample":
        wanted = np.ceil(np.sqrt(counts * counts.max())).astype(int)
    rows = [np.resize(np.flatnonzero(labels == label), wanted[label]) for label in np.unique(labels)]
    return np.concatenate(rows)


def large_batch(split, balance, smallest):
    """Return the smallest batch size, `smallest` or more, that avoids very small batches whichever fold is held out.

    In each epoch, the last batch has the remaining photos. It counts as very small if it has less than half of the
    batch size and is not the only batch. With large batches there are few updates in an epoch, so one update from a
    single photo in each epoch can hinder a training.

    Parameters
    ----------
    split : DataFrame, see `dataset.load_split`
    balance : str, see `rows_of_epoch`
    smallest : int

    Returns
    -------
    int
    """
    trained_on = [hold_out(split, fold)["split"] == "train" for fold in range(split.attrs["folds"])]
    labels = np.searchsorted(split.attrs["classes"], split["label"])
    counts = [len(rows_of_epoch(labels[chosen], balance)) for chosen in trained_on]
    sizes = itertools.count(smallest)
    return next(size for size in sizes if all(count <= size or -count % size <= size // 2 for count in counts))


def class_weights(labels, balance):
    """Return each class's weight in the loss (inverse frequency) as a dict; None unless `balance` is "class_weight"."""
    if balance != "class_weight":
        return None
    present = np.unique(labels)
    return dict(zip(present.tolist(), compute_class_weight("balanced", classes=present, y=labels), strict=True))


def training_batches(x, targets, rows, spec, first=0):
    """Make a tf.data.Dataset of the shuffled and augmented batches of all epochs from `first` on.

    All random numbers of an epoch follow from the seed and the number of the epoch, so a run can be repeated exactly.

    Parameters
    ----------
    x : array, shape (views * n, ...), or memory map
        All images of the first view come first, then those of the next view. Each epoch uses one view; the epochs take
        the views in turn.
    targets : float32 array, shape (n, classes), the same for all views
    rows : array of int
        Row numbers of the photos of an epoch, from `rows_of_epoch`.
    spec : dict
        Its keys `seed`, `epochs`, `batch_size`, `augmentation` and `mixup` are read.
    """
    count, seed, views = len(rows), spec["seed"], len(x) // len(targets)

    def one_epoch(epoch):
        key = tf.stack([tf.constant(seed, tf.int64), epoch])
        order = tf.random.experimental.stateless_shuffle(tf.range(count), key)
        uniform = tf.random.stateless_uniform([count, 6], key)
        gamma = tf.random.stateless_gamma([count, 2], key, spec["mixup"] or 1.0)
        of_view = rows + len(targets) * (epoch % views)
        drawn = tuple(tf.gather(values, order) for values in (of_view, uniform, gamma))
        return tf.data.Dataset.from_tensor_slices(drawn).batch(spec["batch_size"])

    def load(index, uniform, gamma):
        batch, target = rows_of(x, index), tf.gather(targets, index % len(targets))
        batch = augment(batch, uniform, spec["augmentation"])
        return mix_up(batch, target, gamma) if spec["mixup"] else (batch, target)

    epochs = tf.data.Dataset.range(first, spec["epochs"]).flat_map(one_epoch)
    return without_autotuning(epochs.map(load, num_parallel_calls=2).prefetch(2))


def evaluation_batches(x, targets):
    """Make batches of the images of the first view, in their order, without augmentation; `x` may be a memory map."""

    def load(index):
        return rows_of(x, index), tf.gather(targets, index)

    return without_autotuning(tf.data.Dataset.range(len(targets)).batch(64).map(load).prefetch(2))


def in_batches(images):
    """Yield images in batches of 64; if images are larger than 128 x 128 pixels, the batches are smaller."""
    count = max(1, min(64, 64 * 128 * 128 * 3 // int(np.prod(images.shape[1:]))))
    for first in range(0, len(images), count):
        yield images[first : first + count]


def without_autotuning(dataset):
    """Turn off autotuning in a dataset, because the tuning thread delays the dataset's end by up to ten seconds."""
    options = tf.data.Options()
    options.autotune.enabled = False
    return dataset.with_options(options)


def rows_of(x, index):
    """Return the rows `index` of `x`, an array or memory map: float32 tensor.

    Functions for `Dataset.map` call this. The rows are read when tf.data makes the batch, not earlier.
    """

    def read(rows):
        batch = np.asarray(x[rows], np.float32)
        for array in getattr(x, "arrays", [x]):
            if mapped := getattr(array, "_mmap", None):
                mapped.madvise(mmap.MADV_DONTNEED)  # otherwise the pages that were read count as used memory
        return batch

    batch = tf.numpy_function(read, [index], tf.float32, stateful=False)  # tf.data cannot prefetch stateful functions
    batch.set_shape([None, *x.shape[1:]])
    return batch
