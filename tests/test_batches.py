"""Tests of batches.py: augmentation, mixing, order."""

from leaves import batches

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf


def test_augmentation_of_nothing_changes_nothing():
    images = np.random.default_rng(0).uniform(0, 255, (5, 16, 16, 3)).astype(np.float32)
    still = {"flip": False, "rotation": 0, "shift": 0, "zoom": 0}
    uniform = tf.random.stateless_uniform([5, 6], [0, 0])
    np.testing.assert_allclose(batches.augment(images, uniform, still), images, atol=1e-3)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_no_augmentation_gives_the_images_as_float32(dtype):
    images = np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3)).astype(dtype)
    uniform = tf.random.stateless_uniform([5, 6], [0, 0])
    for given in (images, tf.constant(images)):
        same = batches.augment(given, uniform, None)
        assert same.dtype == tf.float32
        assert (same.numpy() == images).all()


def test_flips_are_flips():
    images = np.random.default_rng(0).uniform(0, 255, (4, 16, 16, 3)).astype(np.float32)
    uniform = np.full((4, 6), 0.5, np.float32)
    uniform[:, :2] = [[0, 0], [0, 0.9], [0.9, 0], [0.9, 0.9]]
    turned = batches.augment(images, uniform, batches.AUGMENTATION).numpy()
    expected = [images[0, ::-1, ::-1], images[1, :, ::-1], images[2, ::-1], images[3]]
    np.testing.assert_allclose(turned, expected, atol=1e-3)


def test_a_quarter_turn_turns_about_the_middle():
    images = np.random.default_rng(0).uniform(0, 255, (1, 16, 16, 3)).astype(np.float32)
    uniform = np.array([[0.9, 0.9, 1, 0.5, 0.5, 0.5]], np.float32)
    quarter = {"flip": True, "rotation": 90, "shift": 0.2, "zoom": 0.3}
    turned = batches.augment(images, uniform, quarter).numpy()[0]
    assert min(np.abs(turned - np.rot90(images[0], turns)).max() for turns in (1, 3)) < 1e-2


def collect(spec, count=10, rows=None):
    x = np.arange(count, dtype=np.float32)[:, None, None, None] * np.ones((1, 4, 4, 3), np.float32)
    spec = {"augmentation": None, "mixup": 0.0} | spec
    made = batches.training_batches(x, np.eye(count), np.arange(count) if rows is None else rows, spec)
    return [images[:, 0, 0, 0].numpy().tolist() for images, _ in made]


def fold_split(*photos, classes=("Oak",)):
    """Make a split in which fold k has photos[k] photos; the classes take turns, but the first has twice as many."""
    fold = np.repeat(np.arange(len(photos)), photos)
    label = np.resize([*classes, classes[0]], len(fold))
    split = pd.DataFrame({"label": label, "fold": fold, "split": np.where(fold == 0, "validation", "train")})
    split.attrs |= {"classes": sorted(classes), "folds": len(photos)}
    return split


@pytest.mark.parametrize(
    ("photos", "smallest", "size"),
    [
        ((3, 3, 3), 4, 4),  # six photos: batches of 4 and 2
        ((8, 9, 8), 4, 6),  # 16 or 17 photos: 17 would leave one photo in batches of 4, and two in batches of 5
        ((3, 3, 3), 128, 128),  # one batch
    ],
)
def test_large_batches_leave_no_very_small_batch(photos, smallest, size):
    assert batches.large_batch(fold_split(*photos), "none", smallest) == size


def test_large_batches_count_the_photos_that_oversampling_repeats():
    split = fold_split(6, 6, 6, classes=("Oak", "Ash"))  # eight photos of oaks and four of ashes in two folds
    assert batches.large_batch(split, "none", 7) == 7  # twelve photos: batches of seven and five
    assert batches.large_batch(split, "oversample", 7) == 8  # sixteen photos would leave two in batches of seven


def test_every_epoch_shows_every_image_once_in_another_order():
    spec = {"seed": 5, "epochs": 3, "batch_size": 4}
    seen = collect(spec)
    epochs = [[*a, *b, *c] for a, b, c in zip(*[iter(seen)] * 3, strict=True)]
    assert [sorted(epoch) for epoch in epochs] == [list(range(10))] * 3
    assert epochs[0] != epochs[1]
    assert collect(spec) == seen
    assert collect(spec | {"seed": 6}) != seen


def test_oversampling_shows_every_class_equally_often():
    labels = np.array([0, 0, 0, 0, 0, 0, 0, 1, 1, 2])
    rows = batches.rows_of_epoch(labels, "oversample")
    assert np.bincount(labels[rows]).tolist() == [7, 7, 7]
    assert set(rows) == set(range(10))
    seen = collect({"seed": 5, "epochs": 1, "batch_size": 4}, rows=rows)
    assert sorted(number for batch in seen for number in batch) == sorted(rows)
    assert batches.rows_of_epoch(labels, "none").tolist() == list(range(10))


def test_class_weights_make_every_class_weigh_the_same():
    labels = np.array([0, 0, 0, 0, 0, 0, 0, 1, 1, 2])
    weights = batches.class_weights(labels, "class_weight")
    assert [weights[label] * count for label, count in enumerate((7, 2, 1))] == pytest.approx([10 / 3] * 3)
    assert batches.class_weights(labels, "none") is None


def test_mixing_blends_images_and_targets_alike():
    images = np.arange(3, dtype=np.float32)[:, None, None, None] * np.ones((1, 2, 2, 3), np.float32)
    gamma = tf.constant([[1.0, 3.0], [5.0, 5.0], [0.0, 0.0]])
    mixed, targets = batches.mix_up(tf.constant(images), tf.eye(3), gamma)
    np.testing.assert_allclose(mixed[:, 0, 0, 0], [0.25 * 0 + 0.75 * 2, 1, 0])
    np.testing.assert_allclose(targets, [[0.25, 0, 0.75], [0, 1, 0], [1, 0, 0]])


def test_mixed_batches_keep_their_order_and_probability():
    x = np.zeros((8, 4, 4, 3), np.float32)
    spec = {"seed": 1, "epochs": 1, "batch_size": 8, "augmentation": None, "mixup": 0.2}
    [(_, targets)] = batches.training_batches(x, np.eye(8, dtype=np.float32), np.arange(8), spec)
    np.testing.assert_allclose(targets.numpy().sum(axis=1), 1, rtol=1e-5)
    assert (targets.numpy().max(axis=1) < 1).any()


@pytest.mark.parametrize(("side", "most"), [(32, 64), (128, 64), (384, 7), (2000, 1)])
def test_large_images_come_in_small_batches(side, most):
    images = np.zeros((9, 1, side, side * 3), np.uint8).reshape(9, side, side, 3)
    found = [*batches.in_batches(images)]
    assert [len(batch) for batch in found[:-1]] == [most] * (len(found) - 1)
    assert sum(map(len, found)) == 9
