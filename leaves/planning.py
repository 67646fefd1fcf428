"""Plan a chapter: run its code up to the first missing result and list its trainings, but train nothing."""

from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path

PLAN = ContextVar("plan", default=None)  # the `Plan` that is being made; None while chapters are executed normally


@dataclass
class Plan:
    """The finished and the waiting trainings of a chapter, as far as they are known before the chapter is executed."""

    folder: Path  # the only folder in which a plan may write files; a write to another folder ends the plan
    cached: set = field(default_factory=set)  # names of the finished runs' folders
    # The trainings that a chapter requests together form a queue. The plan ends at the first unfinished queue.
    waiting: list = field(default_factory=list)  # the specs of that queue that are not trained yet

    def note(self, waiting, finished):
        """Record the waiting specs and the finished runs of a queue; end the plan if a spec waits for its training."""
        self.cached |= {run.folder.name for run in finished}
        self.waiting = [*waiting]
        if self.waiting:
            end_plan("trainings")


class AheadError(BaseException):  # so no `except Exception` can catch it
    """Raised to end a plan if something that the chapter needs does not exist yet; the message says what it is."""


@contextmanager
def planned(folder):
    """Yield a `Plan`; code that runs in this context fills the plan instead of training and writing a report."""
    plan = Plan(folder)
    token = PLAN.set(plan)
    try:
        yield plan
    finally:
        PLAN.reset(token)


def end_plan(missing):
    """Raise `AheadError` if a plan is being made (--plan); otherwise do nothing.

    Call this before a result is computed or written; `missing` is a str that says which result.
    """
    if PLAN.get():
        raise AheadError(missing)
