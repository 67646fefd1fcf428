"""A plan: what a chapter would train, counted while its code runs up to what does not exist yet; nothing is written."""

from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path

PLAN = ContextVar("plan", default=None)  # the `Plan` that is being made; None while chapters are really executed


@dataclass
class Plan:
    """What a chapter has and would train, as far as it can be counted."""

    folder: Path  # the one place where anything may be written
    cached: set = field(default_factory=set)  # names of the finished runs' folders
    waiting: list = field(default_factory=list)  # the specs of the first queue that is not finished

    def note(self, waiting, finished):
        """Note a queue of trainings, the specs that wait and the finished runs; if any waits, the plan ends here."""
        self.cached |= {run.folder.name for run in finished}
        self.waiting = [*waiting]
        if self.waiting:
            end_plan("trainings")


class AheadError(BaseException):  # no `except Exception` on the way may take it for a failure
    """What a chapter needs next does not exist yet, so a plan ends here; the message says what is missing."""


@contextmanager
def planned(folder):
    """Let the code that runs inside make a plan, the `Plan` that is given, in place of a report."""
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
