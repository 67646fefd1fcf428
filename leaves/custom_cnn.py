"""Describe FinalModel, its variants and your own models as lists of Keras layers; check these lists and build models.

The layers are checked before any training. Your own model is a list of Keras layers, or a set of changes to
FinalModel, the network of the original study::

    split = dataset.load_split()
    spec = cnn_spec("03", "few filters", split, size=64, epochs=8, seed=0, filters=[8, 16, 32])
    spec = cnn_spec("03", "my own", split, size=64, epochs=8, seed=0, batch_size=16, layers=[
        ["Rescaling", {"scale": 1 / 255}],
        ["Conv2D", {"filters": 32, "kernel_size": 5, "activation": "relu"}],
        ["GlobalMaxPooling2D", {}],
        ["Dense", {"units": 14, "activation": "softmax"}],
    ])
    [run] = helpers.train_all([spec], split, custom_cnn.prepare)
"""

import copy
import difflib
import inspect
import math

from leaves import claims
from leaves.batches import AUGMENTATION, other_backgrounds
from leaves.dataset import check_folds, hold_out, load_images, move_validation
from leaves.files import InputError
from leaves.parameters import PARAMETERS, Parameter, choice, is_list, is_number, is_whole, number, whole
from leaves.runs import PRECISIONS, gradient_ratios, repeat, smallest_change, training_spec
from leaves.training import Training

import keras
import pandas as pd


def final_model_layers(
    classes,
    filters=(16, 32, 64, 128, 256),
    kernel_size=3,
    activation=("LeakyReLU", {"negative_slope": 0.3}),
    initializer="glorot_uniform",
    l2=0.0,
    batch_normalization=False,
    reduction="GlobalAveragePooling2D",
    dropout=(0.3, 0.3),
    dense_units=512,
):
    """List the Keras layers of the original study's FinalModel; chapter 3 varies the arguments.

    By default the layers are a rescaling of the pixels, five blocks of convolution, activation and max pooling, then
    global average pooling, dropout, a dense layer of 512 units, dropout, and a dense layer with softmax.

    Parameters
    ----------
    classes : int
    filters : sequence of int, the number of filters in each block
    activation : (class name, config) of the layer after each convolution
    reduction : str
        Class name of the layer that turns the last feature maps into a vector of features.
    dropout : (float, float)
        Rates after the reduction and after the dense layer; a rate of 0 means no dropout layer.

    Returns
    -------
    list of [class name, config]
    """
    decay = {"module": "keras.regularizers", "class_name": "L2", "config": {"l2": l2}} if l2 else None
    weights = {"kernel_initializer": initializer, "kernel_regularizer": decay}
    layers = [["Rescaling", {"scale": 1 / 255, "offset": 0.0}]]
    for count in filters:
        layers.append(["Conv2D", {"filters": count, "kernel_size": kernel_size, "padding": "same", **weights}])
        layers += [list(activation), ["MaxPooling2D", {"pool_size": 2}]]
        if batch_normalization:
            layers.append(["BatchNormalization", {"momentum": 0.99}])
    after_reduction, after_dense = ([["Dropout", {"rate": rate}]] if rate else [] for rate in dropout)
    layers += [[reduction, {}], *after_reduction]
    layers += [["Dense", {"units": dense_units, "activation": "relu", **weights}], *after_dense]
    return [*layers, ["Dense", {"units": classes, "activation": "softmax", **weights}]]


def is_share(value):
    """Return whether a value is a number that is at least 0 and below 1."""
    return is_number(value, 0, 1) and value < 1


def is_refit(value):
    """Return whether a value fits the setting `refit`: None, or {"folds": int from 2, "fold": int, 0 to folds - 1}."""
    return value is None or (
        isinstance(value, dict)
        and set(value) == {"folds", "fold"}
        and is_whole(value["folds"], 2, math.inf)
        and is_whole(value["fold"], 0, value["folds"] - 1)
    )


def is_described(value):
    """Return whether a value describes an object of Keras: a dict with a class_name (str) and a config (dict)."""
    return (
        isinstance(value, dict) and isinstance(value.get("class_name"), str) and isinstance(value.get("config"), dict)
    )


# The settings that `cnn_spec` accepts, and the values that each setting may have. Keras itself checks the names of its
# classes, for example the name of an initializer.
CHOICES = {
    # the layers of FinalModel
    "filters": PARAMETERS["filters"],
    "kernel_size": Parameter(
        "sides of the kernels",
        "a whole number from 1 to 99 or a pair of such numbers",
        lambda value: is_whole(value, 1, 99) or is_list(value, lambda side: is_whole(side, 1, 99), 2, 2),
    ),
    "activation": Parameter(
        "layer after each convolution",
        'a Keras layer like ["ReLU", {}]',
        lambda value: is_list(value, lambda _: True, 2, 2) and isinstance(value[0], str) and isinstance(value[1], dict),
    ),
    "initializer": Parameter(
        "initial weights",
        'the name of a Keras initializer like "he_uniform"',
        lambda value: isinstance(value, str) or is_described(value),
    ),
    "l2": number("weight decay", 0, 1),
    "batch_normalization": Parameter("normalise", "True or False", lambda value: isinstance(value, bool)),
    "reduction": Parameter(
        "from feature maps to features",
        'the name of a Keras layer like "Flatten"',
        lambda value: isinstance(value, str),
    ),
    "dropout": Parameter(
        "dropout after the reduction and after the dense layer",
        "a pair of numbers that are at least 0 and below 1",
        lambda value: is_list(value, is_share, 2, 2),
    ),
    "dense_units": whole("units of the dense layer", 1, 65_536),
    # your own layers
    "layers": Parameter(
        "layers in place of FinalModel's",
        "None or a list of one layer or more, each [class name, config]",
        lambda value: value is None or is_list(value, lambda _: True, 1),
    ),
    # the training
    "image_size": Parameter("pixels per side", "a whole number from 1", lambda value: is_whole(value, 1, math.inf)),
    **{name: PARAMETERS[name] for name in ("batch_size", "epochs", "patience", "augmentation", "balance")},
    "backgrounds": PARAMETERS["backgrounds"],
    "optimizer": Parameter(
        "optimizer",
        'a dict like {"class_name": "Adam", "config": {"learning_rate": 0.001}}',
        is_described,
    ),
    "mixup": number("parameter of MixUp's beta distribution", 0, 1),
    "label_smoothing": Parameter("label smoothing", "a number that is at least 0 and below 1", is_share),
    "precision": choice("precision of feature maps", *PRECISIONS),
    "fold": whole("fold that is held out", 0, 49),
    "without": whole("fold that is not used", 0, 49, none=True),
    "refit": Parameter("fold that is held out", 'None or a dict like {"folds": 20, "fold": 0}', is_refit),
    "log_layers": Parameter("log every layer", "True or False", lambda value: isinstance(value, bool)),
}


def cnn_spec(chapter, name, split, size, epochs, seed, layers=None, **changes):
    """Make the spec of a run of a custom CNN: FinalModel with the original study's settings, except for the changes.

    Parameters
    ----------
    chapter, name : str
        Labels of the run, for example "03" and "few filters"; they do not affect the training.
    split : DataFrame, see `dataset.load_split`
    size, epochs, seed : int
        Pixels per side (unless `changes` has an image_size), the largest number of epochs, and the seed.
    layers : list of [class name, config], optional
        Replaces FinalModel's layers.
    changes
        Arguments of `final_model_layers` (filters, activation, dropout ...), or keys of the spec. These keys are
        image_size, batch_size, optimizer, augmentation, mixup, label_smoothing, balance, patience, precision,
        `backgrounds` (see `batches.other_backgrounds`), `fold` and `without` (see `dataset.hold_out`), `refit` (None or
        {"folds": k, "fold": i}, see `dataset.move_validation`), and `log_layers` (if True, measurements of every
        layer are recorded for the figures of chapter 2).

    Returns
    -------
    dict, JSON-able; see `runs.training_spec`

    Raises
    ------
    InputError
        When a change is unknown, when `CHOICES`, `check_layers`, `dataset.check_folds` or Keras rejects its value, or
        when an argument of `final_model_layers` is given together with `layers`.
    """
    check_choices({"image_size": size, "epochs": epochs, "layers": layers} | changes, name)
    of_final_model = inspect.signature(final_model_layers).parameters
    of_layers = {choice: changes.pop(choice) for choice in of_final_model if choice in changes}
    if layers and of_layers:
        raise InputError(f"{name}: remove the setting {next(iter(of_layers))!r}: your own layers replace FinalModel's.")
    classes = len(split.attrs["classes"])
    spec = training_spec(chapter, name, split, epochs, seed, image_size=size, without=None, refit=None)
    spec |= {"augmentation": AUGMENTATION, "precision": "float32"}
    if changes.get("backgrounds") == "kept":  # the default: leave it out, so naming it does not change the hash
        del changes["backgrounds"]
    spec |= changes | {"layers": layers or final_model_layers(classes, **of_layers)}
    check_layers(spec["layers"], (spec["image_size"], spec["image_size"], 3), classes, name)
    check_optimizer(spec["optimizer"], name)
    check_folds(split, spec["fold"], spec["without"])
    return spec


def final_model_settings(filters, augmentation, learning_rate, **settings):
    """Return the settings of FinalModel in chapters 2 and 3, as a dict of changes for `cnn_spec`.

    If the settings of both chapters are equal, each chapter reuses the runs of the other.

    Parameters
    ----------
    filters, augmentation, learning_rate, **settings
        Parameters of the notebooks of these chapters; `settings` are patience, batch_size, balance and precision (see
        `runs.chosen_precision`).
    """
    optimizer = {"class_name": "Adam", "config": {"learning_rate": learning_rate}}
    return {"filters": filters, "augmentation": augmentation, "optimizer": optimizer, "log_layers": True, **settings}


def cnn_specs(chapter, name, split, size, epochs, seed, repeats, **changes):
    """List a spec for each of `repeats` trainings, see `runs.repeat`; the other arguments are those of `cnn_spec`."""
    return [
        cnn_spec(chapter, name, split, size, epochs, **repeat(number, seed, split), **changes)
        for number in range(repeats)
    ]


def check_choices(choices, name):
    """Raise InputError about the first setting that the constant `CHOICES` does not allow.

    Parameters
    ----------
    choices : dict, the settings to check, for example {"l2": 0.001}
    name : str
        The model's name, for the message.
    """
    for key, value in choices.items():
        if key not in CHOICES:
            raise InputError(f"{name}: {unlike('setting', key, CHOICES)}.")
        if not CHOICES[key].accepts(value):
            raise InputError(f"{name}: {key} takes {CHOICES[key].takes}, not {value!r}.")


def unlike(kind, name, known):
    """Return a text like "there is no setting 'filter' (did you mean filters?); the settings are filters, l2"."""
    near = difflib.get_close_matches(str(name), known, n=1)
    meant = f" (did you mean {near[0]}?)" if near else ""
    return f"there is no {kind} {name!r}{meant}; the {kind}s are {', '.join(known)}"


def check_optimizer(optimizer, name):
    """Raise InputError with one sentence if Keras cannot make an optimizer from a dict; `name` is the model's name."""
    try:
        keras.optimizers.get(copy.deepcopy(optimizer))
    except (TypeError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"{name}: Keras cannot make the optimizer {optimizer}: {reason}") from error


def make_layer(position, description):
    """Make a Keras layer from [class name, config]; if that fails, raise InputError, which names the layer."""
    try:
        class_name, config = description
        given = set(config)
    except (TypeError, ValueError):
        raise InputError(f"layer {position} is {description!r}, but a layer is [class name, config].") from None
    kind = getattr(keras.layers, str(class_name), None)
    if not (inspect.isclass(kind) and issubclass(kind, keras.layers.Layer)):
        known = [name for name, value in vars(keras.layers).items() if inspect.isclass(value)]
        near = " or ".join(difflib.get_close_matches(str(class_name), known, n=3))
        raise InputError(
            f"Keras has no layer {class_name!r} (layer {position}): "
            f"{f'did you mean {near}?' if near else 'https://keras.io/api/layers lists the layers.'}"
        )
    signature = list(inspect.signature(kind.__init__).parameters.values())[1:]
    named = [argument.name for argument in signature if argument.kind is not argument.VAR_KEYWORD]
    valid = dict.fromkeys([*named, "name", "dtype", "trainable"])
    where = f"layer {position}, {class_name}"
    if wrong := given - set(valid):
        raise InputError(f"{where}: {unlike('argument', wrong.pop(), valid)}.")
    required = [argument.name for argument in signature if argument.default is argument.empty]
    if missing := [name for name in required if name in named and name not in given]:
        raise InputError(f"{where}: the argument {missing[0]!r} is missing; the arguments are {', '.join(valid)}.")
    try:
        description = {"module": "keras.layers", "class_name": class_name, "config": dict(config)}
        if class_name == "Rescaling":  # its from_config has no default for the offset
            description["config"].setdefault("offset", 0.0)
        return keras.layers.deserialize(description)
    except (TypeError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[-1]
        raise InputError(f"{where}: Keras cannot build the layer with {config}: {reason}") from error


def make_layers(layers, input_shape, name):
    """Make a list of Keras layers, and compute the shape of the last layer's output.

    Parameters
    ----------
    layers : list of [class name, config]
    input_shape : tuple of int, the shape of one image
    name : str
        The model's name, for the message.

    Returns
    -------
    built : list of keras.layers.Layer, without weights
    shape : tuple, the shape of the last layer's output, with None for the number of images

    Raises
    ------
    InputError
        When a layer cannot be made or does not accept the output of the layer before it; the message is one sentence.
    """
    built, shape = [], (None, *input_shape)
    for position, description in enumerate(layers, 1):
        try:
            built.append(make_layer(position, copy.deepcopy(description)))
            shape = built[-1].compute_output_shape(shape)
        except InputError as error:
            raise InputError(f"{name}: {error}") from error
        except Exception as error:  # Keras layers raise many types of exceptions for a wrong shape
            where, sides = f"{name}: layer {position}, {description[0]}", " x ".join(map(str, shape[1:]))
            if "zero or negative" in str(error):
                way_out = "use fewer pooling layers or larger images"
                raise InputError(f"{where}, would shrink {sides} to less than one pixel: {way_out}.") from error
            raise InputError(f"{where}, does not take {sides}: {str(error).strip().splitlines()[0]}") from error
    return built, shape


def check_layers(layers, input_shape, classes, name):
    """Raise InputError with one sentence if a list of layers is not a classifier; no weights are created.

    Parameters
    ----------
    layers, input_shape, name : see `make_layers`
    classes : int
        The number of probabilities that the last layer must return.
    """
    built, shape = make_layers(layers, input_shape, name)
    if shape != (None, classes):
        sides = " x ".join(map(str, shape[1:]))
        raise InputError(f"{name}: the last layer returns {sides} numbers, but there are {classes} classes.")
    last = built[-1]
    softmax = getattr(last, "activation", None) is keras.activations.softmax or isinstance(last, keras.layers.Softmax)
    if not softmax:
        raise InputError(f"{name}: the last layer must apply softmax, because its outputs must be probabilities.")


def build_model(layers, input_shape, name):
    """Build a keras.Sequential from a list of [class name, config]; see `make_layers` for the errors."""
    built, _ = make_layers(layers, input_shape, name)
    return keras.Sequential([keras.Input(input_shape), *built], name=name)


def layer_settings(model):
    """List a model's layers as [class name, config without the name], so layers with equal settings compare equal."""
    return [
        [type(layer).__name__, {key: value for key, value in layer.get_config().items() if key != "name"}]
        for layer in model.layers
    ]


def layer_table(model):
    """List the layers of a model, one per row: DataFrame of layer, output shape (both str) and parameters (int)."""
    rows = [
        {
            "layer": type(layer).__name__,
            "output shape": " x ".join(str(side) for side in layer.output.shape[1:]),
            "parameters": layer.count_params(),
        }
        for layer in model.layers
    ]
    return pd.DataFrame(rows)


def evidence_that_weights_move(runs):
    """Collect the evidence on claim C14 (the weights change in all epochs), and a note on vanishing gradients.

    The note is about a question that the original study left open: do gradients vanish in a longer training?

    Parameters
    ----------
    runs : list of Run, trained with `log_layers`, see `runs.smallest_change`

    Returns
    -------
    dict with the keys comparisons and note, see `claims.judge`
    """
    change, ratios = smallest_change(runs), gradient_ratios(runs)
    what = f"the smallest change of a kernel in an epoch is {100 * change:.2g} % of its norm"
    reason = claims.pairs(runs, runs, lambda _: 0)["reason"]  # why the runs are no evidence, or None
    note = (
        f"in every epoch the weakest gradient of a convolution is at least {min(ratios):.2g} times the strongest of a "
        "dense layer (each divided by the norm of its kernel)"
    )
    return {"comparisons": [claims.known(what, change >= claims.MOVING, reason)], "note": note}


def prepare(spec, split):
    """Prepare the `Training` for a spec from `cnn_spec`: build the model, and load training and validation images."""
    split = hold_out(split, spec["fold"], spec["without"])
    if spec["refit"]:
        split = move_validation(split, **spec["refit"])
    size = spec["image_size"]
    model = build_model(spec["layers"], (size, size, 3), "custom_cnn")
    (images, labels), validation = (load_images(split, subset, size) for subset in ("train", "validation"))
    if spec.get("backgrounds") == "replaced":
        images = other_backgrounds(images, split, spec)
    train = images, labels
    summary = {"initial_weights": "none", "classes": split.attrs["classes"]}
    return Training(model, model, train, validation, summary)
