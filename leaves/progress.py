"""The progress of long work: its bars, the forecast of a queue of trainings and the name of each training."""

import math
import os
from contextlib import contextmanager

from leaves import places
from leaves.planning import PLAN

AS_TEXT = "TQDM_BAR_FORMAT" in os.environ  # run_all.sh sets it for the chapters, and reads their bars as lines of text
if AS_TEXT:
    from tqdm import tqdm
else:
    from tqdm.auto import tqdm  # a widget in JupyterLab

BAR = {} if AS_TEXT else {"bar_format": "{desc}: {percentage:3.0f}%|{bar}| {elapsed} gone, {remaining} left{postfix}"}

ALIKE = 32  # times: a much shorter training spent its time on preparation, which tells nothing of a long one

# What follows a backbone's name in a label, by the chapter of its training.
STEPS = {"04": ", transfer learning", "05": ", fine tuning"}


def training_name(spec):
    """The name of a training in messages, as in "FinalModel, seed 1, fold 1"."""
    return f"{spec['name']}, seed {spec['seed']}, fold {spec['fold']}"


# ---------------------------------------------------------------- how long trainings take


def training_size(spec):
    """What the time of a training is proportional to: its epochs, pixels and share of the photos."""
    return spec["epochs"] * spec.get("image_size", 1) ** 2 * spec.get("fraction", 1)


def estimated_seconds(waiting, finished, photos=None):
    """Estimate how long each waiting training will take, from finished ones of the nearest size, then of the same name.

    Parameters
    ----------
    waiting : collection of dict, their specs
    finished : list of Run
    photos : dict of a split's hash to its number of photos, optional
        Without it all are on the same photos.

    Returns
    -------
    list of float, seconds; a training is left out if no finished one trains the same part of a network and differs in
    size by at most `ALIKE` times
    """

    def size(spec):
        return training_size(spec) * (photos[spec["split"].split()[0]] if photos else 1)

    def part(spec):  # what learns: a whole network, a head on a frozen backbone, or a backbone's last block too
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
    """A time in words, as in "about 12 minutes"."""
    minutes = seconds / 60
    if minutes < 1.5:
        return "about a minute" if minutes > 0.5 else "less than a minute"
    return f"about {minutes / 60:.1f} hours" if minutes > 90 else f"about {round(minutes)} minutes"


def forecast(finished, waiting):
    """Say how long a queue of trainings will take, from the times of those that are finished.

    Parameters
    ----------
    finished : list of Run
    waiting : collection of dict, the specs that are not trained yet

    Returns
    -------
    str; empty if at most three wait, or if for one of them nothing like it is finished
    """
    seconds = estimated_seconds(waiting, finished)
    if len(waiting) <= 3 or len(seconds) < len(waiting):
        return ""
    count, time = len(finished) + len(waiting), in_words(sum(seconds))
    return f"{len(finished)} of {count} trainings are done; the others take {time}, one after another."


def tell_outcomes(runs):
    """Print which trainings of a list diverged, and how many were not made here: results/runs has their numbers."""
    if kept := sum(run.folder.parent != places.RUNS for run in runs):
        print(f"{kept} of {len(runs)} trainings were not repeated: results/runs has their numbers.")
    for run in runs:
        if run.result["diverged"]:
            print(f"{training_name(run.spec)}, diverged in epoch {run.result['epochs']}.")


# ---------------------------------------------------------------- bars


@contextmanager
def training_bar(queue, finished=()):
    """Print the forecast of a queue of trainings, and show one bar for all of them, if there are any.

    In a plan the queue is noted instead, and the plan ends here unless the queue is empty.

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
    if plan := PLAN.get():
        plan.note(queue.values(), finished)
    if line := forecast(finished, queue.values()):
        print(line)
    total = sum(map(training_size, queue.values()))
    # Without smoothing the time left follows from all that was trained since the beginning.
    with tqdm(total=total, mininterval=2, miniters=1, smoothing=0, delay=0.01, disable=not queue, **BAR) as bar:
        yield Reporter(bar, queue)


class Reporter:
    """Moves the bar of a queue on with every epoch that one of its trainings reports."""

    def __init__(self, bar, queue):
        self.bar, self.queue = bar, queue
        self.done, self.ended = {}, set()  # epochs of each training, and those that came to their end

    def __call__(self, key, epoch, score):
        spec, begins = self.queue[key], key not in self.done
        if epoch is None:
            self.ended.add(key)
        done = spec["epochs"] if epoch is None else epoch
        moved = (done - self.done.get(key, 0)) * training_size(spec) / spec["epochs"]
        if begins:
            self.bar.initial += moved  # trained before, by a process that was stopped
        now = f"epoch {min(done + (score is None), spec['epochs'])} of {spec['epochs']}"
        told = f"{len(self.ended)} of {len(self.queue)} trainings; {training_name(spec)}, {now}"
        self.bar.set_description_str(told, refresh=False)
        if score is not None:
            self.bar.set_postfix_str(f"validation macro F1 {score:.3f}", refresh=False)
        self.bar.update(moved)
        self.done[key] = done
        if begins:
            self.bar.refresh()
