"""Train the heads of chapter 4; train a network again if another starts from it and only its evidence is left.

A fine-tuned network starts from a head, and a distilled network from its teacher. The head and the teacher are the
*parents*. The training of a child needs the weights of its parent. A child that is trained already does not need them;
the first repeat of a network counts as trained only if it has weights itself, because chapter 6 examines it.
"""

import functools
from itertools import zip_longest

from leaves.any_background import check_weights
from leaves.backbones import find_weights
from leaves.runs import NUMBERS, WEIGHTS, find_runs, folder_named, read_run, spec_hash
from leaves.transfer import at_best_rate, prepare_head, prepare_tail, wider_specs


def needed_files(specs):
    """List the file that is needed of the run of each spec: the weights of the first repeats, the numbers of others.

    Chapter 6 examines the first repeat of each network. Of the other repeats it reads only the scores.

    Parameters
    ----------
    specs : list of dict, the repeats of one network or of several; the first repeats have the lowest seed

    Returns
    -------
    list of str, see `runs.find_runs`
    """
    first = min((spec["seed"] for spec in specs), default=0)
    return [WEIGHTS if spec["seed"] == first else NUMBERS for spec in specs]


def trained_heads(train, specs, learning_rates):
    """Train the heads of all backbones; try further learning rates where the best rate is the lowest or the highest.

    At most `transfer.MOST_STEPS` further rates are tried on each side. Chapter 6 needs the weights of the first repeats
    at the best rates. If one of these has no weights, it is trained again. On another processor it may get another
    score, so another rate may become the best; then this is repeated.

    Parameters
    ----------
    train : callable(specs, needs=str) -> list of Run, see `helpers.train_all`
    specs : list of dict, see `transfer.head_specs`
    learning_rates : list of float, the rates in `specs`

    Returns
    -------
    list of Run, the heads of all backbones, learning rates and repeats
    """
    trained = train(specs, needs=NUMBERS)
    while wider := wider_specs(trained, learning_rates):
        trained += train(wider, needs=NUMBERS)
    while lacking := [heads[0].spec for heads in at_best_rate(trained).values() if not has_weights(heads[0])]:
        trained = replaced(trained, train(lacking, needs=WEIGHTS))
    return trained


def replaced(runs, again):
    """Return `runs`, each replaced by the run in `again` that has the same spec, if there is one: list of Run."""
    by_spec = {spec_hash(run.spec): run for run in again}
    return [by_spec.get(spec_hash(run.spec), run) for run in runs]


def with_weights(train_all, split, weights, parents, specs_of):
    """Return the parents; those without weights are trained again if their children have to be trained.

    On another processor a parent may get other predictions than before. Then its children get other specs.

    Parameters
    ----------
    train_all : see `helpers.train_all`
    split : DataFrame, see `dataset.load_split`
    weights : str or Path
        The folder of the backbones' weights, see `backbones.find_weights`.
    parents : list of Run, either all of them heads or all of them fine-tuned networks
    specs_of : callable(list of Run) -> list of dict, the specs of the children, in the order of the parents
        The list may be shorter than the list of parents.

    Returns
    -------
    list of Run, in the order of `parents`

    Raises
    ------
    InputError
        When the folder has other weights of a backbone than chapter 4 used for the heads.
    """
    specs = specs_of(parents)
    missing = [not child for child in find_runs(specs, needed_files(specs))]
    waits = list(zip_longest(missing, parents, fillvalue=False))
    again = iter(trained_again(train_all, split, weights, [parent for has_to, parent in waits if has_to]))
    return [next(again) if has_to else parent for has_to, parent in waits]


def trained_again(train_all, split, weights, runs):
    """Return `runs`; those without weights are trained again, each after the head from which it starts.

    See `with_weights` for the parameters.

    Returns
    -------
    list of Run, in the order of `runs`
    """
    lacking = [number for number, run in enumerate(runs) if not has_weights(run)]
    specs = [runs[number].spec for number in lacking]
    if specs and "starts_from" in specs[0]:
        heads = [read_run(folder_named(spec["starts_from"].split()[0])) for spec in specs]
        heads = trained_again(train_all, split, weights, heads)
        specs = [spec | {"starts_from": head.identity} for spec, head in zip(specs, heads, strict=True)]
        prepare = prepare_tail
    elif specs:
        # A cluster's workers load the weights that are found here.
        origins = find_weights(sorted({spec["backbone"] for spec in specs}), weights)
        for spec in specs:
            check_weights(spec, origins)
        prepare = functools.partial(prepare_head, origins=origins)
    again = dict(zip(lacking, train_all(specs, split, prepare), strict=True)) if specs else {}
    return [again.get(number, run) for number, run in enumerate(runs)]


def has_weights(run):
    """Return whether the weights of a run are in its folder."""
    return (run.folder / WEIGHTS).exists()
