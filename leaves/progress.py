"""The progress of a queue of trainings: its bar, its forecast and the name of each training."""

from contextlib import contextmanager

from leaves import places

from tqdm import tqdm

# What follows a backbone's name in a label, by the chapter of its training.
STEPS = {"04": ", transfer learning", "05": ", fine tuning"}


def training_name(spec):
    """The name of a training in messages, as in "FinalModel, seed 1, fold 1"."""
    return f"{spec['name']}, seed {spec['seed']}, fold {spec['fold']}"


def forecast(finished, waiting):
    """Say how long a queue of trainings will take, from the times of those that are finished.

    A training's time is taken as proportional to its epochs and pixels.

    Parameters
    ----------
    finished : list of Run
    waiting : collection of dict, the specs that are not trained yet

    Returns
    -------
    str; empty if at most three wait or none is finished
    """

    def size(spec):
        return spec["epochs"] * spec.get("image_size", 1) ** 2

    if len(waiting) <= 3 or not finished:
        return ""
    seconds = sum(run.result["train_seconds"] for run in finished) / sum(size(run.spec) for run in finished)
    minutes = seconds * sum(map(size, waiting)) / 60
    time = f"{minutes / 60:.1f} hours" if minutes > 90 else f"{max(1, round(minutes))} minutes"
    count = len(finished) + len(waiting)
    return f"{len(finished)} of {count} trainings are done; the others take about {time}, one after another."


def tell_outcomes(runs):
    """Print which trainings of a list diverged, and how many were not made here: results/runs has their numbers."""
    if kept := sum(run.folder.parent != places.RUNS for run in runs):
        print(f"{kept} of {len(runs)} trainings were not repeated: results/runs has their numbers.")
    for run in runs:
        if run.result["diverged"]:
            print(f"{training_name(run.spec)}, diverged in epoch {run.result['epochs']}.")


@contextmanager
def training_bar(queue, finished=()):
    """Print the forecast of a queue of trainings, and show one bar for all of them, which counts their epochs.

    Parameters
    ----------
    queue : dict of the spec's hash to spec
    finished : list of Run
        The trainings of the same list that need not be trained.

    Yields
    ------
    callable(hash, epoch or None, validation macro F1 or None), to be called after each epoch of a run, and with None
    at its end
    """
    if line := forecast(finished, queue.values()):
        print(line)
    done = dict.fromkeys(queue, 0)
    total = sum(spec["epochs"] for spec in queue.values())
    with tqdm(total=total, unit="epoch", mininterval=2, disable=not queue) as bar:

        def progress(key, epoch, score):
            end = queue[key]["epochs"]
            bar.update((end if epoch is None else epoch) - done[key])
            done[key] = end if epoch is None else epoch
            ended = sum(done[other] == spec["epochs"] for other, spec in queue.items())
            bar.set_description(f"{ended} of {len(queue)} runs; {training_name(queue[key])}", refresh=False)
            if score is not None:
                bar.set_postfix({"epoch": f"{epoch} of {end}", "validation macro F1": f"{score:.3f}"}, refresh=False)

        yield progress
