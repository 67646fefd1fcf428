"""Define the meaning and the accepted values of the notebooks' parameters, in one place for all chapters.

The command line (`leaves/report/options.py`) and every notebook check the values of parameters with this module. It
uses only the standard library.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

from leaves.files import InputError

LARGEST_SEED = 2**31 - 1000  # well below 2**31, because each repeat adds its number to the seed


@dataclass(frozen=True)
class Parameter:
    """One parameter, with the same meaning and the same bounds in all chapters that have it."""

    meaning: str  # the comment beside the parameter in every notebook begins with these words
    takes: str  # the type and the bounds of its values, in words
    accepts: Callable[[object], bool]  # returns whether the parameter can have a given value
    place: str = ""  # "folder" or "file" if its value is a path; the folder or file must exist


def is_whole(value, low, high):
    """Return whether a value is an int (not a bool) between two bounds, both included."""
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def is_number(value, low, high):
    """Return whether a value is an int or a float (finite, not a bool) between two bounds, both included."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and low <= value <= high


def is_list(value, accepts, least, most=math.inf):
    """Return whether a value is a list or tuple of `least` to `most` entries, each accepted by `accepts`."""
    return isinstance(value, (list, tuple)) and least <= len(value) <= most and all(map(accepts, value))


def whole(meaning, low, high, none=False):
    """Make a `Parameter` that takes a whole number between two bounds. If `none` is true, it also takes None."""
    takes = f"a whole number from {low} to {high}" + " or None" * none
    return Parameter(meaning, takes, lambda value: (none and value is None) or is_whole(value, low, high))


def number(meaning, low, high):
    """Make a `Parameter` that takes a number between two bounds."""
    return Parameter(meaning, f"a number from {low:g} to {high:g}", lambda value: is_number(value, low, high))


def numbers(meaning, low, high, least):
    """Make a `Parameter` that takes a list of at least `least` numbers, each between two bounds."""
    takes = f"a list of {'numbers' if least == 0 else 'one or more numbers'} from {low:g} to {high:g}"
    return Parameter(meaning, takes, lambda value: is_list(value, lambda one: is_number(one, low, high), least))


def choice(meaning, *words):
    """Make a `Parameter` that takes one of a few words."""
    return Parameter(meaning, f"one of {', '.join(words)}", lambda value: value in words)


def text(meaning, takes, place="", none=False):
    """Make a `Parameter` that takes a string, for example a path. If `none` is true, it also takes None."""
    return Parameter(meaning, takes, lambda value: (none and value is None) or isinstance(value, str), place)


AUGMENTATION_BOUNDS = {"rotation": 180, "shift": 1, "zoom": 0.9}  # maxima: degrees, share of side, zoom factor - 1


def is_augmentation(value):
    """Return whether a value is None or a dict of flip (bool), rotation, shift and zoom within `AUGMENTATION_BOUNDS`.

    The rotation may also be "quarter turns".
    """
    return value is None or (
        isinstance(value, dict)
        and set(value) == {"flip", *AUGMENTATION_BOUNDS}
        and isinstance(value["flip"], bool)
        and all(
            is_number(value[name], 0, most) or (name, value[name]) == ("rotation", "quarter turns")
            for name, most in AUGMENTATION_BOUNDS.items()
        )
    )


# A variant cannot change these settings, because all variants share them.
SHARED_BY_VARIANTS = ("seed", "fold", "without", "split", "size", "chapter", "name", "refit", "log_layers")


def are_variants(value):
    """Return whether a value maps names of variants to dicts of settings that are not in `SHARED_BY_VARIANTS`."""
    return isinstance(value, dict) and all(
        isinstance(name, str)
        and isinstance(changes, dict)
        and all(isinstance(key, str) for key in changes)
        and not {*SHARED_BY_VARIANTS} & {*changes}
        for name, changes in value.items()
    )


# Pretrained networks. A Python package contains the weights of the first network, so it can be used without a download.
BACKBONES = ("EfficientNetLite0", "ResNet50", "VGG16", "EfficientNetB4")

PARAMETERS = {
    # chapter 1
    "data": text("the photos", 'a folder, "sample", "plant_village" or None', place="folder", none=True),
    "photos": text("a table of photos", "a CSV file with a column sha256, or an empty text", place="file"),
    "sample_count": whole("leaves in the synthetic sample", 70, 1_000_000),
    "sample_size": whole("pixels per side of a synthetic leaf", 32, 1024),
    "image_size": whole("pixels per side", 32, 512, none=True),
    "validation_share": number("share of validation", 0.02, 0.5),
    "test_share": number("share of test", 0.02, 0.5),
    "phash_distance": whole("bits of 64", 0, 8),
    "data_seed": whole("seed of the data", 0, LARGEST_SEED),
    # training of the custom CNN (chapter 2); other chapters have some of these parameters too
    "epochs": whole("epochs at most", 1, 1000),
    "patience": whole("epochs without a better validation macro F1", 1, 1000, none=True),
    "batch_size": whole("photos in a batch", 1, 1024),
    "learning_rate": number("Adam's learning rate", 1e-7, 1),
    "filters": Parameter(
        "filters of the convolutions",
        "a list of 1 to 8 whole numbers from 1 to 2048",
        lambda value: is_list(value, lambda one: is_whole(one, 1, 2048), 1, 8),
    ),
    "augmentation": Parameter(
        "augmentation",
        'None or a dict like {"flip": True, "rotation": 30, "shift": 0.2, "zoom": 0.3} '
        '(rotation up to 180 or "quarter turns", shift up to 1, zoom up to 0.9)',
        is_augmentation,
    ),
    "backgrounds": choice("backgrounds of the training photos", "kept", "replaced"),
    "balance": choice("treatment of rare classes", "none", "class_weight", "oversample", "sqrt_oversample"),
    "precision": choice("precision of feature maps", "float32", "bfloat16", "auto"),
    "backbone_precision": choice("precision of the backbones' feature maps", "float32", "bfloat16", "auto"),
    "seed": whole("the first seed", 0, LARGEST_SEED),
    "repeats": whole("trainings of each network", 1, 100),
    "shrink": whole("divisor of the photos' side", 1, 8),
    # chapter 3
    "variants": Parameter(
        "variants that are trained",
        'a list of names of variants or "all"',
        lambda value: value == "all" or is_list(value, lambda name: isinstance(name, str), 0),
    ),
    "own_variants": Parameter(
        "your own variants",
        f'a dict like {{"few filters": {{"filters": [8, 16, 32]}}}} (without {", ".join(SHARED_BY_VARIANTS)})',
        are_variants,
    ),
    "search_trials": whole("trials of the search", 1, 100_000),
    "search_epochs": whole("epochs of each trial in the first round", 1, 1000),
    # chapters 4 and 5
    "backbones": Parameter(
        "pretrained networks",
        f"a list that contains {BACKBONES[0]} and may contain {', '.join(BACKBONES[1:])}",
        lambda value: is_list(value, lambda name: name in BACKBONES, 1) and BACKBONES[0] in value,
    ),
    "weights": text("folder of weights", "a folder", place="folder"),
    "views": whole("augmented views of each training photo", 0, 100),
    "head_epochs": whole("epochs of each head at most", 1, 1000),
    "learning_rates": numbers("Adam's learning rates", 1e-7, 1, least=1),
    "fine_tuning_epochs": whole("epochs of fine tuning at most", 1, 1000),
    "distilled_epochs": whole("epochs of the small network", 1, 1000),
    "fine_tuning_rate": number("Adam's learning rate in fine tuning", 1e-7, 1),
    "background_sizes": numbers("image sizes of the model for any background", 0.1, 4, least=1),
    "background_views": Parameter(
        "views with other backgrounds",
        "a list of one or more whole numbers from 1 to 100",
        lambda value: is_list(value, lambda one: is_whole(one, 1, 100), 1),
    ),
    "background_passes": whole("passes of fine-tuning through the views of background_views", 0, 100),
    # chapter 6
    "external": text("a second test set", "a folder or an empty text", place="folder"),
    "photo": text("a photo of yours", "the path of a photo or an empty text", place="file"),
    "saved_model": choice("the model in best_model.keras", "best", "any background"),
    "draws": whole("bootstrap resamples", 100, 100_000),
    "probe_images": whole("largest number of test photos for the robustness", 1, 1_000_000),
    "fractions": numbers("shares of the training photos", 0.001, 0.999, least=0),
}


def fault_of_value(name, value):
    """Say in a sentence why a parameter cannot have this value; return None if the value is accepted."""
    if PARAMETERS[name].accepts(value):
        return None
    return f"the parameter {name} takes {PARAMETERS[name].takes}, not {value!r}"


def check(names):
    """Check the values of a notebook's parameters.

    Parameters
    ----------
    names : dict
        The notebook's ``globals()``; names that are not in `PARAMETERS` are ignored.

    Raises
    ------
    InputError
        When a parameter has a wrong value; the message names the first such parameter and the values that it takes.
    """
    for name in PARAMETERS:
        if name in names and (fault := fault_of_value(name, names[name])):
            raise InputError(f"{fault[0].upper()}{fault[1:]}.")
