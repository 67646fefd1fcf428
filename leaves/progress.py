"""The progress bar of a queue of trainings."""

from contextlib import contextmanager

from tqdm import tqdm


@contextmanager
def training_bar(queue):
    """Show one bar for all trainings of a queue, which counts their epochs.

    Parameters
    ----------
    queue : dict of the spec's hash to spec

    Yields
    ------
    callable(hash, epoch or None, validation macro F1 or None), to be called after each epoch of a run, and with None
    at its end
    """
    done = dict.fromkeys(queue, 0)
    total = sum(spec["epochs"] for spec in queue.values())
    with tqdm(total=total, unit="epoch", mininterval=2, disable=not queue) as bar:

        def progress(key, epoch, score):
            end = queue[key]["epochs"]
            bar.update((end if epoch is None else epoch) - done[key])
            done[key] = end if epoch is None else epoch
            finished = sum(done[other] == spec["epochs"] for other, spec in queue.items())
            name = f"{queue[key]['name']}, seed {queue[key]['seed']}"
            bar.set_description(f"{finished} of {len(queue)} runs; {name}", refresh=False)
            if score is not None:
                bar.set_postfix({"epoch": f"{epoch} of {end}", "validation macro F1": f"{score:.3f}"}, refresh=False)

        yield progress
