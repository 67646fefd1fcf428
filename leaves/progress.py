"""Show progress bars, forecast the time of a queue of trainings, and name trainings in messages."""

import math
import os
from contextlib import contextmanager

from leaves import places
from leaves.planning import PLAN

AS_TEXT = "TQDM_BAR_FORMAT" in os.environ  # run_all.sh sets this variable and reads the chapters' bars as text
if AS_TEXT:
    from tqdm import tqdm
else:
    from tqdm.auto import tqdm  # a widget in JupyterLab

BAR = {} if AS_TEXT else {"bar_format": "{desc}: {percentage:3.0f}%|{bar}| {elapsed} gone, {remaining} left{postfix}"}

# Two trainings count as similar only if their sizes (see `training_size`) differ by at most this factor. A much smaller
# training spends most of its time on preparation, so its time does not predict how long a large training takes.
ALIKE = 32

# For each chapter that trains backbones: the words that follow a backbone's name in the label of its run.
STEPS = {"04": ", transfer learning", "05": ", fine tuning"}


def training_name(spec):
    """Return the name by which messages refer to a training, for example "FinalModel, seed 1, fold 1"."""
    return f"{spec['name']}, seed {spec['seed']}, fold {spec['fold']}"


# ---------------------------------------------------------------- how long trainings take


def training_size(spec):
    """Return the size of a training: epochs x pixels x share of the photos.

    The training time is assumed to be proportional to this size.
    """
    return spec["epochs"] * spec.get("image_size", 1) ** 2 * spec.get("fraction", 1)


def estimated_seconds(waiting, finished, photos=None):
    """Estimate how long each waiting training will take, from the finished trainings that are most similar to it.

    The ratio of two sizes (see `training_size`) is rounded to a power of two. The closer it is to 1, the more similar
    the trainings are. Among equally similar trainings, those with the same name as the waiting training are preferred.

    Parameters
    ----------
    waiting : collection of dict, the specs of the waiting trainings
    finished : list of Run
    photos : dict of a split's hash to the number of photos in one fold of the split, optional
        The size of a training is multiplied by this number. Without `photos`, all splits count as equally large.

    Returns
    -------
    list of float, the seconds for each waiting training that has a similar finished training
        A similar training is of the same kind (whole network, head or fine-tuning), and its size differs by at most the
        factor `ALIKE`. If a waiting training has no similar one, the list is shorter than `waiting`.
    """

    def size(spec):
        return training_size(spec) * (photos[spec["split"].split()[0]] if photos else 1)

    def part(spec):  # a whole network, a head on a frozen backbone, or a head with the backbone's last block
        return "backbone" in spec, "cut" in spec

    def likeness(spec, other):
        return -abs(round(math.log2(size(other) / size(spec)))), spec.get("name") == other.get("name")

    found = []
    for spec in waiting:
        alike = [(likeness(spec, run.spec), run) for run in finished if part(run.spec) == part(spec)]
        best = max((likely for likely, _ in alike), default=(-math.inf, False))
        chosen = [run for likely, run in alike if likely == best]
        if best[0] >= -math.log2(ALIKE):
            speed = sum(run.result["train_seconds"] for run in chosen) / sum(size(run.spec) for run in chosen)
            found.append(speed * size(spec))
    return found


def in_words(seconds):
    """Express a time in words, for example "about 12 minutes"."""
    minutes = seconds / 60
    if minutes < 1.5:
        return "about a minute" if minutes > 0.5 else "less than a minute"
    return f"about {minutes / 60:.1f} hours" if minutes > 90 else f"about {round(minutes)} minutes"


def forecast(finished, waiting):
    """Say how long a queue of trainings will take, estimated from the times of finished trainings.

    Parameters
    ----------
    finished : list of Run
    waiting : collection of dict, the specs that are not trained yet

    Returns
    -------
    str; empty if at most three trainings wait, or if one of them has no similar finished training
    """
    seconds = estimated_seconds(waiting, finished)
    if len(waiting) <= 3 or len(seconds) < len(waiting):
        return ""
    count, time = len(finished) + len(waiting), in_words(sum(seconds))
    return f"{len(finished)} of {count} trainings are done; the others take {time}, one after another."


def tell_outcomes(runs):
    """Print which runs diverged, and how many were read from results/runs instead of being trained again."""
    if kept := sum(run.folder.parent != places.RUNS for run in runs):
        print(f"{kept} of these {len(runs)} trainings are read from results/runs.")
    for run in runs:
        if run.result["diverged"]:
            print(f"{training_name(run.spec)}, diverged in epoch {run.result['epochs']}.")


# ---------------------------------------------------------------- bars


@contextmanager
def training_bar(queue, finished=()):
    """Print the forecast of a queue of trainings, and show one progress bar for the whole queue.

    An empty queue has no bar. While a plan is being made (see `planning`), nothing is trained: the queue is only
    recorded in the plan. If the queue is not empty, `planning.AheadError` is raised, which ends the chapter's plan.

    Parameters
    ----------
    queue : dict of the spec's hash to spec
    finished : list of Run
        The runs that were requested together with the queue and are finished already.

    Yields
    ------
    callable(hash, number of epochs trained so far or None, validation macro F1 or None)
        Call it when an epoch of a training begins (with None as macro F1), when the epoch ends (with its macro F1), and
        when the training ends (with None for both).
    """
    if plan := PLAN.get():
        plan.note(queue.values(), finished)
    if line := forecast(finished, queue.values()):
        print(line)
    total = sum(map(training_size, queue.values()))
    # Without smoothing, the time left is estimated from the mean speed since the beginning.
    with tqdm(total=total, mininterval=2, miniters=1, smoothing=0, delay=0.01, disable=not queue, **BAR) as bar:
        yield Reporter(bar, queue)


class Reporter:
    """Advance the progress bar of a queue whenever one of its trainings reports an epoch, see `training_bar`."""

    def __init__(self, bar, queue):
        self.bar, self.queue = bar, queue
        self.done, self.ended = {}, set()  # epochs done by each training; trainings that have ended

    def __call__(self, key, epoch, score):
        spec, begins = self.queue[key], key not in self.done
        if epoch is None:
            self.ended.add(key)
        done = spec["epochs"] if epoch is None else epoch
        moved = (done - self.done.get(key, 0)) * training_size(spec) / spec["epochs"]
        if begins:
            self.bar.initial += moved  # epochs from before an interruption: tqdm leaves `initial` out of the speed
        now = f"epoch {min(done + (score is None), spec['epochs'])} of {spec['epochs']}"
        told = f"{len(self.ended)} of {len(self.queue)} trainings; {training_name(spec)}, {now}"
        self.bar.set_description_str(told, refresh=False)
        if score is not None:
            self.bar.set_postfix_str(f"validation macro F1 {score:.3f}", refresh=False)
        self.bar.update(moved)
        self.done[key] = done
        if begins:
            self.bar.refresh()
