"""Tests of custom_cnn.py: models as data, their checks, repeats, and the refit."""

import inspect

from leaves import batches, custom_cnn, dataset, files, runs

import keras
import numpy as np
import pandas as pd
import pytest

SOFTMAX = ["Dense", {"units": 14, "activation": "softmax"}]


@pytest.fixture
def split():
    """A split of 14 classes that names no real photos."""
    rows = [
        {"label": f"species {number % 14:02d}", "group": number // 2, "split": "train" if number % 10 else "validation"}
        for number in range(800)
    ]
    table = pd.DataFrame(rows)
    table.attrs.update(classes=sorted(table["label"].unique()), hash="0", folds=5)
    return table


def spec(split, **changes):
    return custom_cnn.cnn_spec("03", "mine", split, 64, epochs=1, seed=0, **changes)


def test_final_model_has_the_originals_parameters():
    model = custom_cnn.build_model(custom_cnn.final_model_layers(14), (128, 128, 3), "FinalModel")
    convolutions = [layer.count_params() for layer in model.layers if isinstance(layer, keras.layers.Conv2D)]
    assert convolutions == [448, 4640, 18496, 73856, 295168]
    assert model.count_params() == sum(convolutions) + 257 * 512 + 513 * 14
    assert model.output_shape == (None, 14)


def test_variants_change_what_they_say():
    def kinds(**changes):
        return [name for name, _ in custom_cnn.final_model_layers(14, **changes)]

    assert kinds(dropout=(0, 0)).count("Dropout") == 0
    assert kinds(batch_normalization=True).count("BatchNormalization") == 5
    assert "Flatten" in kinds(reduction="Flatten")
    assert kinds(activation=["ReLU", {}]).count("ReLU") == 5
    model = custom_cnn.build_model(custom_cnn.final_model_layers(3, l2=0.01), (64, 64, 3), "decayed")
    assert len(model.losses) == 7


def test_a_layer_may_leave_out_what_has_a_default(split):
    """As in the example of README: Keras's own Rescaling.from_config asks for the offset."""
    own = [["Rescaling", {"scale": 0.004}], ["Flatten", {}], SOFTMAX]
    assert spec(split, layers=own)["layers"] == own
    assert custom_cnn.build_model(own, (8, 8, 3), "own").layers[0].offset == 0


def test_a_difference_goes_to_the_layers_or_to_the_training(split):
    assert spec(split, filters=[8, 16])["layers"] == custom_cnn.final_model_layers(14, filters=[8, 16])
    assert spec(split, batch_size=8)["batch_size"] == 8
    own = [["Flatten", {}], SOFTMAX]
    assert spec(split, layers=own)["layers"] == own
    assert spec(split)["layers"] == custom_cnn.final_model_layers(14)


@pytest.mark.parametrize("side", [1, 31])
def test_images_too_small_for_the_poolings_are_named_before_keras_builds(side):
    layers = custom_cnn.final_model_layers(14)
    sentence = "^FinalModel: layer .*, MaxPooling2D, would shrink 1 x 1 x .* use fewer pooling layers or larger images"
    with pytest.raises(files.InputError, match=sentence):
        custom_cnn.build_model(layers, (side, side, 3), "FinalModel")


def test_building_checks_no_number_of_classes():
    head = custom_cnn.build_model([["Dropout", {"rate": 0.3}], ["Dense", {"units": 5}]], (8,), "head")
    assert head.output_shape == (None, 5)
    with pytest.raises(files.InputError, match="^head: layer 1, Conv2D, does not take 8"):
        custom_cnn.build_model([["Conv2D", {"filters": 4, "kernel_size": 3}]], (8,), "head")


WRONG_LAYERS = [
    ([["Conv2d", {"filters": 4, "kernel_size": 3}]], "Keras has no layer 'Conv2d'.*did you mean Conv2D"),
    (
        [["Conv2D", {"filtres": 4, "kernel_size": 3}]],
        "layer 1, Conv2D: there is no argument 'filtres'.*mean filters.*pad",
    ),
    ([["Conv2D", {"filters": 4}]], "layer 1, Conv2D: the argument 'kernel_size' is missing; the arguments are fil"),
    ([["Conv2D", {"filters": 4, "kernel_size": 3, "padding": "some"}]], "layer 1, Conv2D: Keras cannot build"),
    ([["Flatten"]], "a layer is \\[class name, config\\]"),
    (
        [["Flatten", {}], ["Dense", {"units": 10, "activation": "softmax"}]],
        "returns 10 numbers, but there are 14 classes",
    ),
    ([["Flatten", {}], ["Dense", {"units": 14}]], "must apply softmax"),
    ([["MaxPooling2D", {"pool_size": 2}]] * 7, "layer 7, MaxPooling2D, would shrink 1 x 1 x 3 to less than one pixel"),
    ([["Flatten", {}], ["Conv2D", {"filters": 4, "kernel_size": 3}]], "layer 2, Conv2D, does not take 12288"),
]


@pytest.mark.parametrize(("layers", "sentence"), WRONG_LAYERS, ids=lambda value: str(value)[:30])
def test_a_list_of_layers_is_answered_before_anything_is_built(split, layers, sentence):
    with pytest.raises(files.InputError, match=f"mine: .*{sentence}") as caught:
        spec(split, layers=layers)
    assert "\n" not in str(caught.value)


WRONG_CHANGES = [
    ({"filtres": [8]}, "mine: there is no setting 'filtres' .did you mean filters.*batch_size"),
    ({"filters": [8], "layers": [["Flatten", {}], SOFTMAX]}, "remove the setting .filters.: your own layers replace"),
    ({"batch_size": 0}, "^mine: batch_size takes a whole number from 1 to 1024, not 0.$"),
    ({"batch_size": 2.5}, "batch_size takes a whole number from 1 to 1024, not 2.5"),
    ({"batch_size": True}, "batch_size takes .*, not True"),
    ({"epochs": 0}, "epochs takes a whole number from 1 to 1000, not 0"),
    ({"patience": 0}, "patience takes a whole number from 1 to 1000 or None, not 0"),
    ({"filters": "abc"}, "^mine: filters takes a list of 1 to 8 whole numbers from 1 to 2048, not 'abc'.$"),
    ({"filters": []}, "filters takes a list of 1 to 8 .*, not \\[\\]"),
    ({"filters": [8, "16"]}, "filters takes .*, not \\[8, '16'\\]"),
    ({"kernel_size": 0}, "kernel_size takes a whole number from 1 to 99 or a pair of such numbers, not 0"),
    ({"kernel_size": [3, 3, 3]}, "kernel_size takes"),
    ({"activation": "relu"}, "activation takes a Keras layer like .*, not 'relu'"),
    ({"activation": ["ReLUU", {}]}, "Keras has no layer 'ReLUU'"),
    ({"initializer": None}, "initializer takes the name of a Keras initializer like .*, not None"),
    ({"l2": -0.1}, "l2 takes a number from 0 to 1, not -0.1"),
    ({"l2": float("nan")}, "l2 takes a number from 0 to 1, not nan"),
    ({"batch_normalization": "yes"}, "batch_normalization takes True or False, not 'yes'"),
    ({"reduction": 2}, "reduction takes the name of a Keras layer like .*, not 2"),
    ({"reduction": "Flaten"}, "Keras has no layer 'Flaten' .*did you mean Flatten"),
    ({"dropout": 0.3}, "dropout takes a pair of numbers that are at least 0 and below 1, not 0.3"),
    ({"dropout": [0.3, 1]}, "dropout takes a pair of numbers that are at least 0 and below 1, not \\[0.3, 1\\]"),
    ({"dropout": [0.3]}, "dropout takes"),
    ({"dense_units": 0}, "dense_units takes a whole number from 1 to 65536, not 0"),
    ({"image_size": 0}, "image_size takes a whole number from 1, not 0"),
    ({"image_size": "64"}, "image_size takes a whole number from 1, not '64'"),
    ({"mixup": 1.5}, "mixup takes a number from 0 to 1, not 1.5"),
    ({"label_smoothing": 1}, "label_smoothing takes a number that is at least 0 and below 1, not 1"),
    ({"precision": "auto"}, "precision takes one of float32, bfloat16, not 'auto'"),
    ({"log_layers": 1}, "log_layers takes True or False, not 1"),
    ({"refit": {"folds": 2, "fold": 2}}, "refit takes None or a dict like"),
    ({"layers": []}, "layers takes None or a list of one layer or more, .* not \\[\\]"),
    ({"optimizer": "adam"}, "optimizer takes a dict like .*, not 'adam'"),
    ({"schema": 2}, "there is no setting 'schema'"),
    ({"image_size": 16}, "would shrink 1 x 1 x 256 to less than one pixel"),
    ({"optimizer": {"class_name": "Adamm", "config": {}}}, "cannot make the optimizer.*Adamm"),
    ({"optimizer": {"class_name": "Adam", "config": {"rate": 1}}}, "cannot make the optimizer"),
    ({"initializer": "he_unifrom"}, "Conv2D: Keras cannot build the layer.*he_unifrom"),
    ({"augmentation": {"flips": True}}, "augmentation takes None or a dict like .*, not {'flips': True}"),
    ({"augmentation": batches.AUGMENTATION | {"zoom": 1}}, "augmentation takes .*zoom up to 0.9"),
    ({"fold": 50}, "^mine: fold takes a whole number from 0 to 49, not 50"),
    ({"fold": None}, "^mine: fold takes a whole number from 0 to 49, not None"),
    ({"fold": 5}, "^There is no fold 5: the split has the folds 0 to 4.$"),
    ({"without": "0"}, "^mine: without takes a whole number from 0 to 49 or None, not '0'"),
    ({"fold": 3, "without": 3}, "^Fold 3 is held out: `without` must be another fold.$"),
    ({"balance": "smote"}, "^mine: balance takes one of none, class_weight, oversample, sqrt_oversample, not 'smote'"),
]


@pytest.mark.parametrize(("changes", "sentence"), WRONG_CHANGES, ids=lambda value: str(value)[:30])
def test_a_change_that_cannot_be_made_is_one_sentence(split, changes, sentence):
    with pytest.raises(files.InputError, match=sentence) as caught:
        custom_cnn.cnn_spec("03", "mine", split, 64, **({"epochs": 1, "seed": 0} | changes))
    assert "\n" not in str(caught.value)


def test_every_choice_is_checked(split):
    of_final_model = set(inspect.signature(custom_cnn.final_model_layers).parameters) - {"classes"}
    about = {"chapter", "name", "seed", "split", "schema"}
    assert set(custom_cnn.CHOICES) == of_final_model | set(spec(split, backgrounds="replaced")) - about


def test_backgrounds_that_are_kept_leave_the_spec_as_it_was(split):
    assert spec(split, backgrounds="kept") == spec(split)
    assert runs.spec_hash(spec(split, backgrounds="replaced")) != runs.spec_hash(spec(split))


def test_every_second_epoch_sees_other_backgrounds(project):
    replaced = custom_cnn.cnn_spec("02", "FinalModel", project, 32, 4, 0, filters=[4], backgrounds="replaced")
    plain = {key: value for key, value in replaced.items() if key != "backgrounds"}
    (views, labels), validation = (
        getattr(custom_cnn.prepare(replaced, project), part) for part in ("train", "validation")
    )
    (photos, _), _ = custom_cnn.prepare(plain, project).train, None
    count = len(labels)
    assert len(views) == 4 * count
    np.testing.assert_array_equal(views[:count], photos[:])
    np.testing.assert_array_equal(views[2 * count : 3 * count], photos[:])
    first, second = views[count : 2 * count], views[3 * count :]
    assert (first != photos[:]).any(axis=(1, 2, 3)).all()
    assert (first != second).any(axis=(1, 2, 3)).all()
    assert validation[0].shape[0] == len(validation[1])


def test_chapters_two_and_three_share_the_trainings_of_final_model(split):
    settings = {"patience": 10, "batch_size": 32, "balance": "none", "precision": "float32"}
    of_both = []
    for chapter in ("02", "03"):
        changes = custom_cnn.final_model_settings([8, 16], batches.AUGMENTATION, 0.01, **settings)
        of_both.append(custom_cnn.cnn_specs(chapter, "FinalModel", split, 64, 150, 3, 6, **changes))
    second, third = ([runs.spec_hash(spec) for spec in specs] for specs in of_both)
    assert second == third
    assert len(set(second)) == 6
    assert [(spec["seed"], spec["fold"]) for spec in of_both[0]] == [(3, 0), (4, 1), (5, 2), (6, 3), (7, 4), (8, 0)]
    for spec in of_both[0]:
        assert spec["layers"] == custom_cnn.final_model_layers(14, [8, 16])
        assert spec["optimizer"]["config"] == {"learning_rate": 0.01}
        assert (spec["epochs"], spec["log_layers"], spec["augmentation"]) == (150, True, batches.AUGMENTATION)


def test_tuples_are_taken_as_lists_are(split):
    lists = {"filters": [8, 16], "kernel_size": [3, 5], "activation": ["ReLU", {}], "dropout": [0.1, 0]}
    tuples = {choice: tuple(value) for choice, value in lists.items()}
    assert runs.spec_hash(spec(split, **tuples)) == runs.spec_hash(spec(split, **lists))


def test_the_ends_of_the_bounds_are_taken(split):
    ends = {"mixup": 1, "label_smoothing": 0, "dropout": [0, 0.99], "l2": 0, "patience": None, "augmentation": None}
    assert spec(split, **ends)["patience"] is None
    small = [["Flatten", {}], SOFTMAX]
    assert spec(split, image_size=1, layers=small)["image_size"] == 1


@pytest.mark.parametrize("folds", [2, 20])
def test_the_folds_of_a_refit_share_out_the_validation_part(split, folds):
    validation = split.index[split["split"] == "validation"]
    held_out = []
    for fold in range(folds):
        moved = dataset.move_validation(split, folds, fold)
        assert (moved["split"] != split["split"]).sum() > 0
        assert set(moved.index[moved["split"] != split["split"]]) <= set(validation)
        assert moved.attrs == split.attrs
        held_out += list(moved.index[moved["split"] == "validation"])
    assert sorted(held_out) == list(validation)


def test_groups_of_validation_images_move_together():
    table = pd.DataFrame({"label": "a", "group": np.repeat(range(10), 3), "split": "validation"})
    for fold in (0, 1):
        moved = dataset.move_validation(table, 2, fold)
        assert moved.groupby("group")["split"].agg(set).map(len).eq(1).all()
