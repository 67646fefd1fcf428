"""Show the progress of the running chapters: in one live line on a terminal, or in one new line a minute in a log."""

import os
import re
import shutil
import sys
import time

from tqdm import tqdm

# Environment variables that tqdm reads in the kernels. With them, tqdm writes each state of a bar as a line of text
# that replaces the previous state, and it clears a finished bar.
AS_TEXT = {"TQDM_BAR_FORMAT": "{percentage:.0f} %, {remaining} left; {desc}", "TQDM_POSITION": "0", "TQDM_LEAVE": ""}
EVERY = 60  # seconds between two lines in a log


class Said:
    """A file object that keeps only the last state of the progress bars that a chapter writes to it."""

    def __init__(self):
        self.state = self.cell = "begins"

    def write(self, text):
        """Set `state` to the last state of a progress bar in `text`; each state begins with a carriage return.

        `text` comes from a progress bar in a cell, or from Papermill's bar, which shows the number of the running
        cell, as in "cell 3 of 20". When a cell clears its bar, `state` is the last state of Papermill's bar again.
        """
        for state in re.findall(r"\r([^\r\n\x1b]*)", text):
            state = state.strip().replace(", ? left", "")
            self.cell = state if state.startswith("cell ") else self.cell
            self.state = state or self.cell

    def flush(self):
        """Do nothing; a file object must have this method."""


class Line:
    """The progress of all chapters in one line: live if `sys.stderr` is a terminal, else printed once a minute."""

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
        """Print that a chapter begins, and return the `Said` to which its progress is written."""
        tqdm.write(f"{notebook.stem}: begun at {clock(time.monotonic() - self.start)}")
        self.under_way[notebook.name[:2]] = said = Said()
        return said

    def end(self, notebook, sentence):
        """Print how a chapter ended: its name, followed by `sentence`."""
        self.ended += 1
        del self.under_way[notebook.name[:2]]
        tqdm.write(f"{notebook.stem}{sentence}")

    def show(self):
        """Show the progress of the running chapters; call this about once a second."""
        now = time.monotonic()
        if self.bar is not None:
            self.bar.set_description_str(self.text(now, shutil.get_terminal_size().columns - 1))
        elif now - self.printed >= EVERY:
            self.printed = now
            print(self.text(now), flush=True)

    def text(self, now, width=1000):
        """Return the elapsed time, the number of finished chapters and the state of each running chapter, as one line.

        If the line would be longer than `width` characters, its longest pieces are shortened.
        """
        parts = [f"{clock(now - self.start)}, {self.ended} of {self.count} chapters done"]
        parts += [f"{number}: {said.state}" for number, said in self.under_way.items()]
        room = width - len(" | ") * (len(parts) - 1)
        for left, number in enumerate(sorted(range(len(parts)), key=lambda number: len(parts[number])), -len(parts)):
            share = room // -left
            parts[number] = parts[number] if len(parts[number]) <= share else f"{parts[number][: share - 1]}…"
            room -= len(parts[number])
        return " | ".join(parts)


def clock(seconds):
    """Format seconds as minutes and seconds, as in "3:07"."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
