"""The line that says what the chapters under way do: one live line on a terminal, one line a minute in a log."""

import os
import re
import shutil
import sys
import time

from tqdm import tqdm

# The bars of chapters as lines of text, by settings that tqdm reads in their kernels: each replaces the last one,
# and a finished one is cleared.
AS_TEXT = {"TQDM_BAR_FORMAT": "{percentage:.0f} %, {remaining} left; {desc}", "TQDM_POSITION": "0", "TQDM_LEAVE": ""}
EVERY = 60  # seconds between two lines in a log


class Said:
    """What a chapter says of itself: a file that keeps only the last state of the bars that are written into it."""

    def __init__(self):
        self.state = self.cell = "begins"

    def write(self, text):
        """Take what a kernel or papermill writes; tqdm begins every state of a bar with a carriage return.

        Where no bar is shown, the cell that is executed is what the chapter says.
        """
        for state in re.findall(r"\r([^\r\n\x1b]*)", text):
            state = state.strip().replace(", ? left", "")
            self.cell = state if state.startswith("cell ") else self.cell
            self.state = state or self.cell

    def flush(self):
        """Nothing, which files have to be able to do."""


class Line:
    """One line for the whole run, on the terminal that `sys.stderr` is, or else in the log that `print` writes."""

    def __init__(self, count):
        self.count, self.ended, self.under_way = count, 0, {}
        self.start = self.printed = time.monotonic()
        on_terminal = sys.stderr.isatty()
        self.bar = tqdm(bar_format="{desc}", leave=False, position=0) if on_terminal else None
        os.environ.update(AS_TEXT)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.bar is not None:
            self.bar.close()

    def begin(self, notebook):
        """Say that a chapter begins; returns the file that takes what it says of itself."""
        tqdm.write(f"{notebook.stem}: begun at {clock(time.monotonic() - self.start)}")
        self.under_way[notebook.name[:2]] = said = Said()
        return said

    def end(self, notebook, sentence):
        """Say how a chapter ended."""
        self.ended += 1
        del self.under_way[notebook.name[:2]]
        tqdm.write(f"{notebook.stem}{sentence}")

    def show(self):
        """Show what the chapters under way do; to be called every second or so."""
        now = time.monotonic()
        if self.bar is not None:
            self.bar.set_description_str(self.text(now, shutil.get_terminal_size().columns - 1))
        elif now - self.printed >= EVERY:
            self.printed = now
            print(self.text(now), flush=True)

    def text(self, now, width=1000):
        """The time, the number of finished chapters and the state of the running ones; cut if need be."""
        parts = [f"{clock(now - self.start)}, {self.ended} of {self.count} chapters done"]
        parts += [f"{number}: {said.state}" for number, said in self.under_way.items()]
        room = width - len(" | ") * (len(parts) - 1)
        for left, number in enumerate(sorted(range(len(parts)), key=lambda number: len(parts[number])), -len(parts)):
            share = room // -left
            parts[number] = parts[number] if len(parts[number]) <= share else f"{parts[number][: share - 1]}…"
            room -= len(parts[number])
        return " | ".join(parts)


def clock(seconds):
    """Seconds as minutes and seconds, 3:07."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
