"""Plan a chapter: run its code up to the first result that is missing, and note the trainings, but write nothing."""

from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path

PLAN = ContextVar("plan", default=None)  # the `Plan` that is being made; None while chapters are executed normally


@dataclass
class Plan:
    """The finished and the waiting trainings of a chapter, as far as they can be known before it is executed."""

    folder: Path  # the only folder in which a file may be written
    cached: set = field(default_factory=set)  # names of the finished runs' folders
    waiting: list = field(default_factory=list)  # the unfinished specs of the first queue that is not finished

    def note(self, waiting, finished):
        """Note the waiting specs and the finished runs of a queue of trainings; end the plan if any spec is waiting."""
        self.cached |= {run.folder.name for run in finished}
        self.waiting = [*waiting]
        if self.waiting:
            end_plan("trainings")


class AheadError(BaseException):  # not an Exception: no `except Exception` may catch it as a failure
    """Raised to end a plan, because something that the chapter needs does not exist yet; the message names it."""


@contextmanager
def planned(folder):
    """Make code that runs in this context fill a `Plan`, which is yielded, instead of training and writing a report."""
    plan = Plan(folder)
    token = PLAN.set(plan)
    try:
        yield plan
    finally:
        PLAN.reset(token)


def end_plan(missing):
    """Raise `AheadError` if a plan is being made (--plan), before something is computed, downloaded or written."""
    if PLAN.get():
        raise AheadError(missing)
