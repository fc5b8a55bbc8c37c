"""Progress of long work: a bar with an ETA on a terminal, plain lines elsewhere, silence by default."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import Protocol, TypeVar

T = TypeVar("T")


class Progress(Protocol):
    """Told of the start, the steps and the end of one piece of work."""

    def start(self, description: str, total: int, done: int = 0) -> None:
        """Work called `description` begins, with `done` of `total` steps behind it."""
        ...

    def advance(self, steps: int = 1, note: str = "") -> None:
        """`steps` more are done; `note` is a short state such as "force RMSE 31 meV/Å"."""
        ...

    def stop(self) -> None:
        """The work is over, finished or not."""
        ...


class Silent:
    """Progress that nobody watches."""

    def start(self, description: str, total: int, done: int = 0) -> None:
        """Ignored."""

    def advance(self, steps: int = 1, note: str = "") -> None:
        """Ignored."""

    def stop(self) -> None:
        """Ignored."""


class Console:
    """A rich bar on a terminal; a line with percentage and ETA every `interval` seconds in a log file."""

    def __init__(self, interval: float = 15.0) -> None:
        self.interval = interval
        self._bar = None
        self._task = None
        self._description = ""
        self._total = self._done = 0
        self._running, self._told, self._note = False, True, ""
        self._first = self._began = self._printed = 0.0

    def start(self, description: str, total: int, done: int = 0) -> None:
        """Shows the bar, or prints the first line."""
        self.stop()
        self._description, self._total, self._done, self._first = description, total, done, done
        self._began = self._printed = time.monotonic()
        self._running, self._told, self._note = True, True, ""
        if sys.stderr.isatty():
            from rich.console import Console as RichConsole
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
            from rich.progress import Progress as RichProgress

            self._bar = RichProgress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}"),
                console=RichConsole(stderr=True),
            )
            self._task = self._bar.add_task(description, total=total, completed=done, note="")
            self._bar.start()
        else:
            print(f"{description}: {done}/{total}", file=sys.stderr, flush=True)

    def advance(self, steps: int = 1, note: str = "") -> None:
        """Moves the bar, or prints a line when one is due; outside of `start` and `stop` nothing is shown.

        Work that takes more steps than it was thought to moves its end along.
        """
        if not self._running:
            return
        self._done += steps
        self._total = max(self._total, self._done)
        self._note = note
        self._told = False
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, advance=steps, total=self._total, note=note)
        elif time.monotonic() - self._printed >= self.interval:
            self._print()

    def _print(self) -> None:
        now = time.monotonic()
        pace = (now - self._began) / max(self._done - self._first, 1)
        eta = time.strftime("%H:%M:%S", time.gmtime(pace * (self._total - self._done)))
        share = 100 * self._done / max(self._total, 1)
        line = f"{self._description}: {self._done}/{self._total} ({share:.0f} %), ETA {eta}"
        print(f"{line}  {self._note}".rstrip(), file=sys.stderr, flush=True)
        self._printed, self._told = now, True

    def stop(self) -> None:
        """Removes the bar, or prints where the work ended."""
        if self._bar is not None:
            self._bar.stop()
        elif self._running and not self._told:
            self._print()
        self._bar = self._task = None
        self._running = False


def unheard(text: str) -> None:
    """What is told to nobody."""
    del text


def track(items: Iterable[T], total: int, description: str, progress: Progress) -> Iterator[T]:
    """The items, each counted as one step once the caller asks for the next."""
    progress.start(description, total)
    try:
        for item in items:
            yield item
            progress.advance()
    finally:
        progress.stop()
