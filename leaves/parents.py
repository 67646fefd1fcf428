"""Train a network again if another network starts from it, but only its evidence in results/runs is left.

A fine-tuned network starts from a head, and a distilled network from its teacher. The head and the teacher are the
*parents*. A child that has to be trained needs its parent's weights; a child that is trained already does not.
"""

import functools

from leaves.any_background import check_weights
from leaves.backbones import find_weights
from leaves.runs import NUMBERS, WEIGHTS, find_runs, folder_named, read_run
from leaves.transfer import prepare_head, prepare_tail


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


def with_weights(train_all, split, weights, parents, specs_of):
    """Return the parents; those without weights are trained again if their children have to be trained.

    Parameters
    ----------
    train_all : see `helpers.train_all`
    split : DataFrame, see `dataset.load_split`
    weights : str or Path
        The folder of the backbones' weights, see `backbones.find_weights`.
    parents : list of Run, all of them heads or all of them fine-tuned networks; a mixture is allowed for heads only
    specs_of : callable(list of Run) -> list of dict, the specs of the children, in the order of the parents
        The list may be shorter than the list of parents.

    Returns
    -------
    list of Run, in the order of `parents`
    """
    specs = specs_of(parents)
    children = find_runs(specs, needed_files(specs))
    waiting = [parent for parent, child in zip(parents, children, strict=False) if not child]
    return replaced(parents, trained_again(train_all, split, weights, waiting))


def trained_again(train_all, split, weights, runs):
    """Train those of `runs` again that have no weights, each after the head from which it starts: list of Run."""
    runs = [run for run in runs if not (run.folder / WEIGHTS).exists()]
    specs, prepare = [run.spec for run in runs], functools.partial(prepare_head_again, weights=weights)
    if runs and "starts_from" in specs[0]:
        heads = [read_run(folder_named(spec["starts_from"].split()[0])) for spec in specs]
        heads = replaced(heads, trained_again(train_all, split, weights, heads))
        specs = [spec | {"starts_from": head.identity} for spec, head in zip(specs, heads, strict=True)]
        prepare = prepare_tail
    return train_all(specs, split, prepare) if runs else []


def replaced(runs, again):
    """Return `runs`, with those in `again` in place of the runs with the same folder names: list of Run."""
    by_name = {run.folder.name: run for run in again}
    return [by_name.get(run.folder.name, run) for run in runs]


def prepare_head_again(spec, split, weights):
    """Prepare the `Training` of a head; raise InputError if the folder has other weights than chapter 4 used."""
    origins = find_weights([spec["backbone"]], weights)
    check_weights(spec, origins)
    return prepare_head(spec, split, origins)
