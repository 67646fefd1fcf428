"""Train a queue of runs in parallel, on the workers of a Dask cluster or on local worker processes.

Every worker reads and writes the same project folder. The weights of a run do not depend on the worker that trained
it, if all workers have the same kind of processor.
"""

import functools
import operator
import os
import threading
from contextlib import suppress
from queue import Empty, Queue

from leaves import places
from leaves.files import InputError
from leaves.hardware import own_cores
from leaves.progress import training_name

import cloudpickle
import dask
import toolz
from distributed import Client, KilledWorker, LocalCluster, as_completed, get_worker

TOPIC = "leaf-epochs"
ONE_AT_A_TIME = threading.Lock()  # a worker with several threads trains one run at a time
ATTEMPTS = 3  # per run; an attempt fails if the training raises an error or its worker dies
PATIENCE = 10  # seconds to wait for a scheduler's answer


@functools.lru_cache(maxsize=1)
def connect(address):
    """Return a Dask Client of the scheduler at an address or, for "local:N", of N new workers on this computer.

    The N workers are processes that end when this process ends. InputError if no scheduler answers.
    """
    if not address.startswith("local:"):
        try:
            return Client(address, timeout=PATIENCE)
        except (OSError, ValueError) as error:
            raise InputError(
                f"No Dask scheduler answers at {address}: start a scheduler there, or omit --scheduler."
            ) from error
    count = int(address.removeprefix("local:"))
    with dask.config.set({"distributed.scheduler.allowed-failures": ATTEMPTS - 1}):
        workers = LocalCluster(
            n_workers=count,
            threads_per_worker=1,
            memory_limit=None,
            dashboard_address=None,
            env={"TF_NUM_INTEROP_THREADS": str(max(1, len(own_cores()) // count))},
        )
    return Client(workers)


def share_out(number, count):
    """Bind this process (worker `number` of `count` on this computer) to its share of the cores and to one GPU."""
    os.environ["CUDA_VISIBLE_DEVICES"] = gpu_of(number)
    if not hasattr(os, "sched_setaffinity"):  # macOS cannot bind a process to cores
        return
    cores = own_cores()
    own = cores[number::count] or [cores[number % len(cores)]]
    for thread in os.listdir("/proc/self/task"):
        with suppress(ProcessLookupError):  # the thread has just ended
            os.sched_setaffinity(int(thread), own)


def gpu_of(number):
    """Return the value of CUDA_VISIBLE_DEVICES for worker `number`: its GPU's number, or "" if there is no GPU."""
    gpus = [name for name in os.listdir("/dev") if name.startswith("nvidia") and name[6:].isdecimal()]
    return str(number % len(gpus)) if gpus else ""


def train_on_worker(spec, split_hash, prepare, count, threads):
    """Train one spec on a worker; the worker reads the split itself and reports each epoch to the client.

    The worker writes the run to the project folder, see `runs.train_once`. Nothing is returned.

    An operation of TensorFlow must use as many threads on a worker as in the client's process, because the number of
    threads affects the last digits of the results.

    Parameters
    ----------
    spec : dict, see `runs.training_spec`
    split_hash : str
        The hash of the client's split; InputError if the worker's split has another hash.
    prepare : bytes
        Pickled callable(spec, split) -> Training.
    count : int
        The number of local worker processes that share the cores; 0 on a Dask cluster.
    threads : int
        Threads per operation in the client's process; InputError if the worker uses another number.
    """
    os.environ.setdefault("TF_NUM_INTRAOP_THREADS", str(threads))
    worker = get_worker()
    if count and not hasattr(worker, "has_its_share"):  # this must come before TensorFlow is imported
        share_out(int(worker.name), count)
        worker.has_its_share = True
    prepare = cloudpickle.loads(prepare)  # this imports TensorFlow, with the settings above
    from leaves import dataset, runs
    from leaves.training import THREADS, OnEpoch

    if threads != THREADS:
        raise InputError(
            f"The worker {worker.address} uses {THREADS} threads per operation, but the command uses {threads}: set "
            "TF_NUM_INTRAOP_THREADS to the same number for both, because the number affects the last digits of scores."
        )
    split, hashed = dataset.load_split(), runs.spec_hash(spec)
    if split.attrs["hash"] != split_hash:
        raise InputError(
            f"{places.SPLIT_CSV} on {worker.address} is not the command's: start that worker in the project folder in "
            "which the command runs."
        )
    with ONE_AT_A_TIME:
        announce = OnEpoch(lambda *told: worker.log_event(TOPIC, (hashed, *told)))
        # If an earlier command was killed, its worker may still be training this run: wait for that worker.
        runs.train_once(spec, split, prepare, announce, patience=float("inf"))


def ended(futures, events, progress):
    """Yield each future when it has ended, and pass the workers' events to `progress` in the meantime.

    The client receives the events in a thread of its own, but `progress` is called in the thread that reads from this
    generator. The reason is that `progress` prints. Jupyter would show the output of the client's thread below the cell
    that connected the client, not below the cell that is running.

    Parameters
    ----------
    futures : collection of distributed.Future
    events : Queue of tuple, each with the arguments for one call of `progress`
    progress : callable, see `train_queue`
    """
    waiting = as_completed(futures)
    while waiting.count() or not events.empty():
        is_ready = waiting.has_ready()  # ask this first: when a training has ended, all its events are in `events`
        try:
            progress(*events.get(timeout=0 if is_ready else 0.2))
        except Empty:
            if is_ready:
                yield next(waiting)


def reason_of(future):
    """Say in one line why the training of a future did not finish: str."""
    error = future.exception()
    if isinstance(error, KilledWorker):
        return "its worker processes were killed or stopped answering; if the memory was full, use fewer workers"
    return [*str(error).strip().splitlines(), type(error).__name__][0] if error else future.status


def train_queue(queue, split, prepare, address, progress):
    """Train all specs of a queue on a cluster; each worker trains one spec at a time.

    If a worker dies during a training, another worker continues this training from the last checkpoint.

    Parameters
    ----------
    queue : dict of the spec's hash to spec
    split : DataFrame, see `dataset.load_split`
    prepare : callable(spec, split) -> Training
    address : str, see `connect`
    progress : callable(hash, number of epochs trained so far or None, validation macro F1 or None)
        Called when an epoch begins (with None as macro F1), when it ends, and when a run ends (with None for both).

    Raises
    ------
    InputError
        When a run failed `ATTEMPTS` times; raised after all other runs have ended. The message says which and why.
    """
    from leaves.training import THREADS  # not at the top: workers set their threads before TensorFlow

    client = connect(address)
    count = int(address.removeprefix("local:")) if address.startswith("local:") else 0
    events = Queue()
    client.subscribe_topic(TOPIC, lambda event: events.put(event[1]) if event[1][0] in queue else None)
    run = toolz.compose(operator.call, cloudpickle.loads)  # tasks are bytes, unpickled only by the worker
    prepare = cloudpickle.dumps(prepare)  # unpickling it imports TensorFlow, so a worker sets its threads first
    settings = split.attrs["hash"], prepare, count, THREADS
    tasks = {key: cloudpickle.dumps(functools.partial(train_on_worker, spec, *settings)) for key, spec in queue.items()}
    futures = {client.submit(run, task, pure=False, retries=ATTEMPTS - 1): key for key, task in tasks.items()}
    failed = []
    try:
        for future in ended(futures, events, progress):
            key = futures[future]
            if future.status == "finished":
                progress(key, None, None)
            else:
                failed.append(f"{training_name(queue[key])} ({reason_of(future)})")
    except BaseException:  # also Ctrl-C: trainings that have not begun are cancelled
        client.cancel([*futures])
        raise
    finally:
        client.unsubscribe_topic(TOPIC)
    if failed:
        raise InputError(f"These runs failed {ATTEMPTS} times: {'; '.join(failed)}. The other runs are finished.")
