"""Other backgrounds, a model for any of them, unknown species, and where networks look."""

import functools
from pathlib import Path

from leaves import (
    any_background,
    backbones,
    explain,
    export,
    familiarity,
    features,
    files,
    other_photos,
    runs,
    transfer,
)
from leaves.dataset import load_images
from leaves.evaluation import Answers
from leaves.figures import holding as figures

import keras
import numpy as np
import pandas as pd
import pytest
from scipy.ndimage import distance_transform_edt

CLASSES = ["Ash", "Birch", "Oak"]


def masks_of(count, side=32):
    masks = np.zeros((count, side, side), bool)
    masks[:, side // 4 : -side // 4, side // 3 : -side // 3] = True
    return masks


# ---------------------------------------------------------------- the background alone


def test_the_background_alone_has_no_pixel_of_the_leaf():
    image, [mask] = np.full((64, 64, 3), (150, 140, 150), np.uint8), masks_of(1)
    image[mask.repeat(2, 0).repeat(2, 1)] = (30, 160, 30)
    picture = other_photos.background_alone(image, mask, np.random.default_rng(0))
    assert picture.shape == image.shape
    assert (np.abs(picture.astype(int) - (150, 140, 150)) <= 1).all()


def test_free_patches_keep_away_from_the_leaf():
    [mask] = masks_of(1)
    away = distance_transform_edt(~mask)
    patches = other_photos.free_patches(mask)
    assert len(patches)
    for y, x in patches:
        assert away[y : y + 4, x : x + 4].min() > 1


def test_photos_without_a_leaf_or_without_room_beside_it_take_no_part():
    masks = masks_of(3)
    masks[0], masks[2] = False, True
    assert other_photos.usable_rows(masks).tolist() == [1]


# ---------------------------------------------------------------- what holds


def answers(*predicted):
    """Answers of the models "a", "b" ... to six photos."""
    one_hot = np.eye(3, dtype=np.float32)
    labels = ("X, transfer learning", "X, fine tuning", "Y (any background)")
    return Answers(
        np.array([0, 1, 2, 0, 1, 2]), {label: one_hot[list(row)] for label, row in zip(labels, predicted, strict=True)}
    )


TRUTH = np.array([0, 1, 2, 0, 1, 2])
GOOD, HALF, NONE = (0, 1, 2, 0, 1, 2), (0, 1, 2, 1, 2, 0), (1, 2, 0, 1, 2, 0)


def test_scores_elsewhere_stand_beside_those_of_the_same_photos(monkeypatch):
    masks = masks_of(6)
    masks[[1, 4]] = False  # two photos without a leaf
    monkeypatch.setattr(other_photos, "leaf_masks", lambda split, subset: masks)
    rows = [0, 2, 3, 5]

    def part(*predicted):
        return Answers(TRUTH[rows], {label: row[rows] for label, row in answers(*predicted).probabilities.items()})

    elsewhere = {other_photos.OTHER: part(GOOD, NONE, HALF), other_photos.ALONE: part(NONE, NONE, NONE)}
    labels = [*elsewhere[other_photos.OTHER].probabilities]
    on_test = answers((0, 0, 2, 0, 0, 2), GOOD, HALF)  # the first model errs on the two other photos only
    table = other_photos.holding_table(labels, on_test, elsewhere, None, answers(HALF, HALF, HALF))
    assert table["unchanged"].tolist() == [1, 1, part(GOOD, GOOD, HALF).macro_f1(labels[2])]
    assert table["other backgrounds"].tolist() == [1, 0, table["unchanged"].iloc[2]]
    assert table["background alone"].tolist() == [0, 0, 0]
    told = other_photos.holding_sentence(table, labels[0], labels[2], elsewhere, 100)
    assert told.startswith(
        "**Other backgrounds.** 4 test images have a leaf that can be cut out. With these leaves on other "
        "backgrounds, the macro F1 of X, transfer learning changes from 1.000 to 1.000, and that of "
    )
    assert f"**Second test set** (3 species): macro F1 0.500 (X, transfer learning) and 0.500 ({labels[2]})." in told
    of_loser = other_photos.holding_sentence(table, labels[1], labels[2], elsewhere, 100)
    assert of_loser.startswith("**Other backgrounds: no.** 4 test images")
    assert f"the macro F1 of {labels[1]} falls from 1.000 to 0.000, and" in of_loser
    assert "With the leaf removed, the best model scores 0.000 (95 % interval 0.000 to 0.000; guessing" in told
    assert "**The background alone: no better than guessing.** With" in told
    figure, _, drawn = figures.draw_holding(table, 1 / 3)
    [axis] = figure.axes
    assert drawn.index[-1] == "X, transfer learning"
    assert axis.get_title() == "Best on other backgrounds: X, transfer learning"
    assert len(axis.lines) == 5


def test_whether_fine_tuning_harms_is_told_by_its_interval():
    many = [np.tile(row, 20) for row in (GOOD, NONE, HALF)]
    of_all = answers(*many)
    told = Answers(np.tile(of_all.truth, 20), of_all.probabilities)
    sentence = other_photos.effect_of_fine_tuning([*told.probabilities], told, 200)
    assert "X -1.000 (-1.000 to -1.000: harms)" in sentence
    assert "no backbone" in other_photos.effect_of_fine_tuning(["Y (any background)"], told, 200)
    assert other_photos.effect_of_fine_tuning(["a"], None, 200) == ""


def test_without_any_outline_nothing_is_said_of_other_backgrounds(project, monkeypatch):
    monkeypatch.setattr(other_photos, "leaf_masks", lambda split, subset: np.zeros((6, 32, 32), bool))
    assert other_photos.answers_elsewhere({}, project, {}) == {}
    inputs = ["X, fine tuning"], answers(GOOD, GOOD, GOOD), {}, project
    table = other_photos.holding_table(*inputs, external=answers(HALF, HALF, HALF))
    assert table.loc["X, fine tuning"].tolist() == [1, 0.5]
    told = other_photos.holding_sentence(table, "X, fine tuning", "X, fine tuning", {}, 100)
    assert told.startswith("**Second test set** (3 species): macro F1 0.500 (X, fine tuning). No leaf of the test")
    assert "other backgrounds were not tested" in told
    assert figures.draw_holding(table, 1 / 3)[0].axes[0].get_title() == "Best on the test photos: X, fine tuning"
    assert other_photos.pictures_elsewhere(project, 32)[other_photos.ALONE].shape == (0, 32, 32, 3)


def test_both_kinds_of_pictures_are_of_the_same_photos(project, monkeypatch):
    count = (project["split"] == "test").sum()
    masks = masks_of(count)
    masks[::2] = False
    monkeypatch.setattr(other_photos, "leaf_masks", lambda split, subset: masks)
    pictures = other_photos.pictures_elsewhere(project, 32)
    assert {name: of_kind.shape for name, of_kind in pictures.items()} == dict.fromkeys(
        (other_photos.OTHER, other_photos.ALONE), (count // 2, 32, 32, 3)
    )
    truth = other_photos.subset_truth(project, "test")[1::2]
    blue = pictures[other_photos.ALONE][..., 2].mean(axis=(1, 2)) > 100
    np.testing.assert_array_equal(blue, truth == 1)  # class B is blue all over


# ---------------------------------------------------------------- windows and the head on them


def test_windows_are_means_over_parts_of_the_maps():
    maps = keras.Input((12, 12, 2))
    means = keras.Model(maps, backbones.window_means(maps, 0.7))
    values = np.random.default_rng(0).normal(size=(2, 12, 12, 2)).astype(np.float32)
    result = np.asarray(means(values))
    assert result.shape == (2, 10, 2)
    np.testing.assert_allclose(result[:, 0], values.mean(axis=(1, 2)), atol=1e-6)
    np.testing.assert_allclose(result[:, 1], values[:, :8, :8].mean(axis=(1, 2)), atol=1e-6)
    np.testing.assert_allclose(result[:, -1], values[:, 4:, 4:].mean(axis=(1, 2)), atol=1e-6)


@pytest.mark.parametrize("side", [1, 2, 4, 7, 8])
def test_maps_of_any_size_have_windows(side):
    assert backbones.window_means(keras.Input((side, side, 3)), 0.7).shape[1] in (2, 5, 10)


@pytest.fixture
def head(project, tmp_path):
    """A run of chapter 4 as far as its spec is read."""
    [origin] = backbones.find_weights(["EfficientNetLite0"], tmp_path).values()
    spec = runs.training_spec("04", "EfficientNetLite0", project, 1, 7, backbone="EfficientNetLite0")
    spec |= {"weights": {key: origin[key] for key in ("kind", "hash")}, "precision": "float32"}
    return runs.Run(Path("04-x"), spec | {"views": {"seed": 7, "count": 0, "augmentation": None}}, {})


def test_candidates_are_all_sizes_views_and_penalties(project, head):
    specs = any_background.candidate_specs(head, project, [1.0, 1.5], [2, 4])
    assert [(spec["image_size"], spec["views"]["count"]) for spec in specs[::2]] == [(40, 2), (40, 4), (60, 2), (60, 4)]
    assert len({runs.spec_hash(spec) for spec in specs}) == 8
    for spec in specs:
        assert (spec["name"], spec["fold"], spec["seed"]) == ("EfficientNetLite0 (any background)", 0, 7)
        assert spec["views"]["backgrounds"] == "replaced"
        assert spec["epochs"] == any_background.PASSES * (1 + spec["views"]["count"])
    chosen = runs.Run(Path("05-x"), specs[3], {})
    repeats = any_background.repeats_of(chosen, project, 3)
    assert repeats[0] == specs[3]
    assert [(spec["seed"], spec["fold"]) for spec in repeats] == [(7, 0), (8, 1), (9, 2)]
    for spec in repeats:
        photos = ((project["split"] != "test") & (project["fold"] != spec["fold"])).sum()
        steps = spec["optimizer"]["config"]["learning_rate"]["config"]["decay_steps"]
        assert steps == spec["epochs"] * -(-photos // spec["batch_size"])


def test_other_weights_than_those_of_chapter_four_are_refused(head):
    any_background.check_weights(head.spec, {"EfficientNetLite0": head.spec["weights"]})
    with pytest.raises(files.InputError, match="Chapter 4 used other weights"):
        any_background.check_weights(head.spec, {"EfficientNetLite0": {"hash": "other"}})


def test_a_head_with_windows_stores_features_only_in_plain_and_replaced_views(project, head, tmp_path):
    [spec, _] = any_background.candidate_specs(head, project, [1.0], [1])
    [origin] = backbones.find_weights(["EfficientNetLite0"], tmp_path).values()
    parts = backbones.load_parts("EfficientNetLite0", 40, spec["windows"], **origin)
    stored = features.frozen_outputs(spec, project, "development", lambda: parts)
    assert stored.at_cut is None
    assert stored.features.shape == (80, *parts[1].output_shape[1:])
    assert len(stored.features.shape) == 3
    whole = familiarity.of_whole_picture(stored.features[:])
    assert whole.shape == (80, 1280)
    again = features.frozen_outputs(spec, project, "development", lambda: pytest.fail("computed again"))
    np.testing.assert_array_equal(stored.features[:], again.features[:])


@pytest.fixture
def tail(project, head, tmp_path, monkeypatch):
    """A head and a short tail of the model for any background, and the origins of the weights."""
    monkeypatch.setattr(any_background, "PASSES", 2)
    origins = backbones.find_weights(["EfficientNetLite0"], tmp_path)
    [spec, _] = any_background.candidate_specs(head, project, [1.0], [1])
    runs.train_once(spec, project, functools.partial(transfer.prepare_head, origins=origins))
    frozen = runs.find_run(spec)
    [spec] = any_background.tail_specs([frozen], project, 1)
    runs.train_once(spec, project, transfer.prepare_tail)
    return frozen, runs.find_run(spec), origins


@pytest.mark.long
def test_a_frozen_network_its_tail_and_their_mean(project, tail):
    frozen, run, origins = tail
    assert any_background.tail_specs([frozen], project, 0) == []
    assert any_background.ways_on([frozen], [], project) == {"frozen": [frozen]}
    ways = any_background.ways_on([frozen], [run], project)
    [mean] = ways["mean of both"]
    for key in ("windows", "views", "name", "fold", "seed"):
        assert run.spec[key] == frozen.spec[key]
    assert run.result["epochs"] == 2  # one pass through two views
    assert run.spec["optimizer"]["config"]["learning_rate"]["config"]["initial_learning_rate"] == 1e-4
    assert run.result["trainable_params"] > frozen.result["trainable_params"]

    networks = [of.load_model() for of in (frozen, run, mean)]
    moved = 0
    for low, high, middle in zip(*(network.get_weights() for network in networks), strict=True):
        np.testing.assert_allclose(middle, (low + high) / 2, atol=1e-6)
        moved += np.abs(high - low).max() > 1e-6
    assert moved >= 5
    predicted = networks[2].predict(load_images(project, "validation", 40)[0][:].astype(np.float32), verbose=0)
    np.testing.assert_allclose(predicted, mean.validation_probabilities, atol=0.02)  # stored activations are float16
    modified = (mean.folder / "result.json").stat().st_mtime_ns
    table = any_background.ways_table(any_background.ways_on([frozen], [run], project), project, origins)
    assert (mean.folder / "result.json").stat().st_mtime_ns == modified  # it is made once
    assert [*table.index] == ["frozen", "mean of both", "fine-tuned"]
    assert table.loc["fine-tuned", "unchanged"] == run.result["validation_macro_f1"]

    # Familiarity compares features that no leaf has shaped.
    learnt, same = (familiarity.learn(of, project) for of in (run, mean))
    assert learnt.folder == same.folder == frozen.folder
    np.testing.assert_array_equal(learnt.known, same.known)


# ---------------------------------------------------------------- familiarity


def clusters(species, count=40, channels=12, seed=0):
    """Features of some species, each around a direction of its own: values and labels."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(species), count)
    values = 5 * np.eye(species, channels)[labels] + rng.normal(0, 0.5, (len(labels), channels))
    return values.astype(np.float32), labels


def test_a_fifth_neighbour_is_counted_by_angle():
    known = np.eye(6)
    assert familiarity.similarity(np.array([[0.0, 0, 0, 0, 0, 9]]), known).tolist() == [0]
    assert familiarity.similarity(np.array([[3.0, 3, 3, 3, 3, 0]]), known)[0] == pytest.approx(1 / np.sqrt(5))
    assert familiarity.similarity(np.array([[2.0, 0]]), np.array([[1.0, 0]])).tolist() == [1]  # fewer than five


def test_the_score_rises_with_both_parts_and_keeps_most_validation_photos():
    rng = np.random.default_rng(0)
    nearness, probability = (rng.uniform(0.5, 1, 200).astype(np.float32) for _ in range(2))
    familiar = familiarity.Familiarity(Path(), 32, np.eye(3, dtype=np.float32), nearness, probability)
    rising, same = np.linspace(0.2, 1, 50), np.full(50, 0.8)
    for values in ((rising, same), (same, rising)):
        joined = familiarity.join(*values, nearness, probability)
        assert (np.diff(joined) > 0).all()
        scores = familiarity.share_below(joined, familiar.usual)
        assert 0 <= scores.min() < 0.05
        assert scores.max() < 1
    assert (familiar.usual_scores >= familiar.cut).mean() == pytest.approx(0.95, abs=0.006)


def test_every_method_tells_far_photos_from_near_ones():
    values, labels = clusters(6)
    known, unknown = labels < 4, labels >= 4
    near, _ = clusters(4, seed=1)
    photos = np.concatenate([near, values[unknown]])
    for method, score in familiarity.scores_of_methods(values[known], labels[known], photos).items():
        assert np.median(score[: len(near)]) > np.median(score[len(near) :]), method


def test_two_known_species_are_enough():
    values, labels = clusters(2)
    assert all(score.shape == (80,) for score in familiarity.scores_of_methods(values, labels, values).values())


def split_of(labels, subsets, names):
    split = pd.DataFrame({"label": np.array(names)[labels], "split": subsets})
    split.attrs.update(classes=names, hash="x")
    return split


@pytest.fixture
def run_of():
    return runs.Run(Path("05-x"), {"image_size": 32}, {"hashes": {"model.keras": "x"}})


@pytest.mark.parametrize("species", [3, 5])
def test_each_species_is_excluded_once(species, run_of, working_folder, monkeypatch):
    values, labels = clusters(species)
    monkeypatch.setattr(familiarity, "stored_features", lambda run, split: values)
    subsets = np.where(np.arange(len(labels)) % 4 == 0, "validation", "train")
    split = split_of(labels, subsets, ["Ash", "Birch", "Elm", "Lime", "Oak"][:species])
    table, excluded = familiarity.leave_species_out(run_of, split)
    if species < 4:
        assert table is None
        assert "fewer than four species" in familiarity.sentence(table, [])
        return
    assert table.loc[familiarity.BOTH, "AUROC"] > 0.97
    assert excluded.shape == labels.shape
    assert np.median(excluded) < 0.05
    assert table.loc[familiarity.BOTH, "warned"] > 0.8
    told = familiarity.sentence(table, np.array([True, False, False, False]))
    assert "excluded species (AUROC" in told
    assert "75% of 4 pictures without a leaf" in told
    count = (subsets == "validation").sum()
    shares = np.linspace(0.2, 0.9, count)
    monkeypatch.setattr(runs.Run, "validation_probabilities", np.stack([shares, 1 - shares], axis=1))
    learned = familiarity.learn(run_of, split)
    assert learned.known.shape == ((subsets == "train").sum(), 12)
    assert learned.probability.tolist() == np.maximum(shares, 1 - shares).tolist()
    train, validation = (values[subsets == part] for part in ("train", "validation"))
    expected = familiarity.similarity(validation, familiarity.normalize(train))
    np.testing.assert_allclose(learned.nearness, expected, rtol=1e-6)
    assert learned.usual.shape == (count,)


@pytest.fixture(scope="module")
def small_network(tmp_path_factory):
    """A network in the pieces of `backbones.join_parts`, saved as a run's; its folder."""
    pixels = keras.Input((32, 32, 3))
    front = keras.Model(pixels, keras.layers.Conv2D(4, 3, strides=2, activation="relu")(pixels), name="front")
    maps = keras.Input(front.output_shape[1:])
    last_block = keras.Model(maps, backbones.window_means(keras.layers.Conv2D(6, 3)(maps), 0.7), name="last_block")
    pooled = keras.Input(last_block.output_shape[1:])
    answer = keras.layers.Dense(3, activation="softmax")(pooled)
    head = keras.Model(pooled, keras.layers.GlobalAveragePooling1D()(answer), name="head")
    folder = tmp_path_factory.mktemp("run")
    backbones.join_parts(front, last_block, head).save(folder / "model.keras")
    return folder


def test_the_exported_model_answers_how_familiar_a_photo_is(small_network, tmp_path):
    """With the network whose features are compared as the best model: each layer is saved in one place."""
    images = np.random.default_rng(0).uniform(0, 255, (12, 32, 32, 3)).round().astype(np.float32)
    network = keras.models.load_model(small_network / "model.keras")
    values, answer = keras.Model(network.input, familiarity.parts_of_answer(network))(images)
    values, probability = np.asarray(values), np.asarray(answer).max(axis=1)
    known = familiarity.normalize(values[:8])
    nearness = familiarity.similarity(values, known)
    usual = nearness[8:], probability[8:]
    familiar = familiarity.Familiarity(small_network, 32, known, *usual)
    exported = export.with_labels(network, 32, CLASSES, familiar)
    exported.save(tmp_path / "best.keras")
    reloaded = keras.models.load_model(tmp_path / "best.keras")
    expected = familiarity.share_below(familiarity.join(nearness, probability, *usual), familiar.usual)
    np.testing.assert_allclose(familiar.of_images(images), expected, atol=2e-3)
    for model in (exported, reloaded):
        answer = model(images)
        np.testing.assert_allclose(answer["familiar"], expected, atol=2e-3)
        np.testing.assert_array_equal(answer["is_familiar"], np.asarray(answer["familiar"]) >= familiar.cut)
        np.testing.assert_allclose(answer["probabilities"], network(images), atol=1e-5)
    species, shares, is_familiar = export.classify(reloaded, images[0], CLASSES)
    assert species == CLASSES[int(shares.argmax())]
    assert is_familiar == (expected[0] >= familiar.cut)


# ---------------------------------------------------------------- where a network looks


def test_the_map_is_bright_where_the_answer_comes_from():
    """A network that sums the red of the picture: the red square alone raises its answer."""
    network = keras.Sequential(
        [
            keras.Input((32, 32, 3)),
            keras.layers.Conv2D(1, 1, use_bias=False, name="red"),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(2, activation="softmax", use_bias=False),
        ]
    )
    network.set_weights([np.array([1.0, 0, 0]).reshape(1, 1, 3, 1), np.array([[0.01, -0.01]])])
    image = np.zeros((1, 32, 32, 3), np.uint8)
    image[0, 4:12, 20:28, 0] = 200
    heat = explain.layer_cam(network, image)
    heat /= heat.max()
    assert heat.shape == (1, 32, 32)
    assert set(np.argwhere(heat[0] > 0.5)[:, 0]) == {*range(4, 12)}
    assert set(np.argwhere(heat[0] > 0.5)[:, 1]) == {*range(20, 28)}
    assert explain.share_on_leaf(heat, image[..., 0] > 0) == pytest.approx(1)
    assert explain.share_on_leaf(heat, image[..., 0] == 0) == pytest.approx(0)


def test_maps_are_those_of_the_last_layer_that_is_fine_enough(small_network):
    network = keras.models.load_model(small_network / "model.keras")
    assert explain.fine_layer(network).output.shape[1] == 15  # all are coarser than 16: the finest
    heat = explain.layer_cam(network, np.random.default_rng(0).uniform(0, 255, (2, 32, 32, 3)))
    assert heat.shape == (2, 15, 15)
    drawn = explain.brightness(heat)
    assert drawn.min() >= 0
    assert drawn.max(axis=(1, 2)).tolist() == pytest.approx([1, 1])


def test_a_map_of_nothing_has_no_share():
    assert np.isnan(explain.share_on_leaf(np.zeros((1, 4, 4)), np.ones((1, 8, 8), bool))).all()
