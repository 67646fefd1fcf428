"""FinalModel and its variants as data: layers are checked before anything trains, then built by Keras.

A model of your own is a list of Keras layers, or a difference to FinalModel::

    split = helpers.load_split()
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

from helpers import (
    PRECISIONS,
    InputError,
    load_images,
    training_spec,
)  # before Keras: it makes TensorFlow's settings

# isort: split
import keras
from sklearn.model_selection import GroupKFold

from batches import AUGMENTATION
from fitting import Training


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
    """FinalModel of the original study as a list of Keras layers, each [class name, config].

    Five blocks of convolution, activation and max pooling; global average pooling, dropout, dense 512,
    dropout, softmax. The arguments are the choices that chapter 3 varies; dropout is (after the reduction,
    after the dense layer), 0 leaves the layer out.
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


def cnn_spec(chapter, name, split, size, epochs, seed, layers=None, **changes):
    """The spec of a custom CNN: FinalModel under the original study's settings, but for the changes named.

    Parameters
    ----------
    size : int
        Pixels per side.
    layers : list of [class name, config], optional
        Takes the place of FinalModel's layers.
    changes
        Arguments of `final_model_layers` (filters, activation, dropout ...), or keys of the spec: image_size,
        batch_size, optimizer, augmentation, mixup, label_smoothing, balance, patience, precision; `refit` is
        {"folds": k, "fold": i}, see `move_validation`; `log_layers` writes what chapter 2 draws of every layer.

    Raises
    ------
    InputError
        When a change is unknown or `check_layers` or Keras refuses what is described.
    """
    choices = [choice for choice in inspect.signature(final_model_layers).parameters if choice != "classes"]
    of_layers = {choice: changes.pop(choice) for choice in choices if choice in changes}
    classes = len(split.attrs["classes"])
    balance = changes.pop("balance", "none")
    spec = training_spec(chapter, name, split, epochs, seed, balance, layers=layers, image_size=size, refit=None)
    spec |= {"augmentation": AUGMENTATION, "precision": "float32"}
    if unknown := set(changes) - set(spec):
        raise InputError(f"{name}: {unlike('choice', unknown.pop(), [*choices, *spec])}.")
    if layers and of_layers:
        raise InputError(f"{name}: a list of layers takes no {next(iter(of_layers))}, which changes FinalModel's.")
    spec |= changes | {"layers": layers or final_model_layers(classes, **of_layers)}
    check_layers(spec["layers"], (spec["image_size"], spec["image_size"], 3), classes, name)
    check_training(spec)
    return spec


def unlike(kind, name, known):
    """The clause that names something unknown, what it may have meant, and all that is known."""
    near = difflib.get_close_matches(str(name), known, n=1)
    meant = f" (did you mean {near[0]}?)" if near else ""
    return f"there is no {kind} {name!r}{meant}: it can be {', '.join(known)}"


def check_training(spec):
    """Raise InputError with one sentence if the spec cannot be trained."""
    for key in ("image_size", "batch_size", "epochs"):
        if not isinstance(spec[key], int) or spec[key] < 1:
            raise InputError(f"{spec['name']}: {key} is {spec[key]!r}, but it must be a whole number from 1.")
    if spec["precision"] not in PRECISIONS:
        raise InputError(f"{spec['name']}: precision is {spec['precision']!r}, not one of {', '.join(PRECISIONS)}.")
    augmentation = spec["augmentation"]
    if augmentation is not None and set(augmentation) != set(AUGMENTATION):
        raise InputError(f"{spec['name']}: augmentation is {augmentation}, but it must be None or like {AUGMENTATION}.")
    try:
        keras.optimizers.get(copy.deepcopy(spec["optimizer"]))
    except (TypeError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"{spec['name']}: Keras cannot make the optimizer {spec['optimizer']}: {reason}") from error


def make_layer(position, description):
    """A Keras layer from [class name, config]; InputError names the layer and the valid arguments."""
    try:
        class_name, config = description
        own = set(config)
    except (TypeError, ValueError):
        raise InputError(f"layer {position} is {description!r}, but a layer is [class name, config].") from None
    kind = getattr(keras.layers, str(class_name), None)
    if not (inspect.isclass(kind) and issubclass(kind, keras.layers.Layer)):
        known = [name for name, value in vars(keras.layers).items() if inspect.isclass(value)]
        near = difflib.get_close_matches(str(class_name), known, n=3)
        raise InputError(
            f"Keras has no layer {class_name!r} (layer {position}): "
            f"{'did you mean ' + ' or '.join(near) if near else 'their names are at https://keras.io/api/layers'}?"
        )
    signature = list(inspect.signature(kind.__init__).parameters.values())[1:]
    named = [argument.name for argument in signature if argument.kind is not argument.VAR_KEYWORD]
    valid = dict.fromkeys([*named, "name", "dtype", "trainable"])
    where = f"layer {position}, {class_name}"
    if wrong := own - set(valid):
        raise InputError(f"{where}: {unlike('argument', wrong.pop(), valid)}.")
    required = [argument.name for argument in signature if argument.default is argument.empty]
    if missing := [name for name in required if name in named and name not in own]:
        raise InputError(f"{where}: the argument {missing[0]!r} is missing; it takes {', '.join(valid)}.")
    try:
        return keras.layers.deserialize({"module": "keras.layers", "class_name": class_name, "config": dict(config)})
    except (TypeError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[-1]
        raise InputError(f"{where}: Keras cannot build it with {config}: {reason}") from error


def check_layers(layers, input_shape, classes, name):
    """Raise InputError with one sentence if a list of layers does not make a classifier; nothing is built.

    Parameters
    ----------
    layers : list of [class name, config]
    input_shape : tuple of int, without the number of images
    classes : int
        How many probabilities must come out.
    name : str
        Of the model, for the sentence.
    """
    shape = (None, *input_shape)
    layer = None
    for position, description in enumerate(layers, 1):
        try:
            layer = make_layer(position, copy.deepcopy(description))
            shape = layer.compute_output_shape(shape)
        except InputError as error:
            raise InputError(f"{name}: {error}") from error
        except Exception as error:  # whatever a layer of Keras raises at shapes it does not take
            where, sides = f"{name}: layer {position}, {description[0]}", " x ".join(map(str, shape[1:]))
            if "zero or negative" in str(error):
                way_out = "take fewer poolings or larger images"
                raise InputError(f"{where}, would shrink {sides} to less than one pixel: {way_out}.") from error
            raise InputError(f"{where}, does not take {sides}: {str(error).strip().splitlines()[0]}") from error
    if shape != (None, classes):
        sides = " x ".join(map(str, shape[1:]))
        raise InputError(f"{name}: the last layer gives {sides} numbers, but there are {classes} classes.")
    if getattr(layer, "activation", None) is not keras.activations.softmax and not isinstance(
        layer, keras.layers.Softmax
    ):
        raise InputError(f"{name}: the last layer must end in softmax, so that its outputs are probabilities.")


def build_model(layers, input_shape, name):
    """Build a keras.Sequential from a list of [class name, config], for inputs of `input_shape`."""
    made = [make_layer(position, copy.deepcopy(description)) for position, description in enumerate(layers, 1)]
    return keras.Sequential([keras.Input(input_shape), *made], name=name)


def move_validation(split, folds, fold):
    """The split with all but one fold of the validation part moved to training; groups stay together.

    With 20 folds a validation part of 0.2 becomes one of 0.01, the original study's refit.
    """
    validation = split.index[split["split"] == "validation"]
    groups = split.loc[validation, "group"]
    folding = GroupKFold(min(folds, groups.nunique()), shuffle=True, random_state=0)
    _, kept = list(folding.split(validation, groups=groups))[fold]
    moved = split.copy()
    moved.loc[validation.delete(kept), "split"] = "train"
    return moved


def prepare(spec, split):
    """A `Training` for a spec of `cnn_spec`: the model learns from decoded images."""
    if spec["refit"]:
        split = move_validation(split, **spec["refit"])
    size = spec["image_size"]
    model = build_model(spec["layers"], (size, size, 3), "custom_cnn")
    train, validation = (load_images(split, part, size) for part in ("train", "validation"))
    summary = {"initial_weights": "none", "classes": split.attrs["classes"]}
    return Training(model, model, train, validation, summary)
