"""A progress bar with rate and time left; plain lines where standard error is not a terminal."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any, Self

LINE_SECONDS = 15.0  # between two plain lines


class Progress:
    """Shows how far a long piece of work is.

    Args:
        what: What is being done, e.g. ``"training"``.
        total: How many units it takes.
        done: How many were done before, e.g. by a run that is resumed.
        unit: What is counted.
    """

    def __init__(self, what: str, total: int, done: int = 0, unit: str = "steps") -> None:
        self._what, self._total, self._first, self._unit = what, total, done, unit
        self._done = done
        self._started = self._printed = time.monotonic()
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> Self:
        """Show the bar."""
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            columns = (
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                TextColumn("{task.completed:.0f}/{task.total:.0f}"),
                TextColumn("{task.fields[rate]:.0f}/s"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[words]}"),
            )
            self._bar = Bar(*columns, console=Console(stderr=True), refresh_per_second=4)
            self._bar.start()
            self._task = self._bar.add_task(self._what, total=self._total, completed=self._first, rate=0.0, words="")
        return self

    def update(self, done: int, **numbers: float | None) -> None:
        """Show a new state.

        Args:
            done: Units done.
            **numbers: What else to show, e.g. ``vlm_return=12.3``; None shows nothing.
        """
        now = time.monotonic()
        rate = (done - self._first) / max(now - self._started, 1e-9)
        words = "  ".join(f"{name} {value:.3g}" for name, value in numbers.items() if value is not None)
        if self._bar is not None:
            self._bar.update(self._task, completed=done, rate=rate, words=words)
        elif now - self._printed >= LINE_SECONDS:
            self._printed = now
            left = max(0, self._total - done) / rate if rate > 0 else float("inf")
            text = f"{self._what}: {done}/{self._total} {self._unit}, {rate:.0f}/s, {_clock(left)} left"
            print(f"{text}  {words}".rstrip(), file=sys.stderr, flush=True)

    def advance(self, count: int, **numbers: float | None) -> None:
        """Show that ``count`` more units are done; see :meth:`update`."""
        self._done += count
        self.update(self._done, **numbers)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the bar as it is and give the terminal back."""
        if self._bar is not None:
            self._bar.stop()


def _clock(seconds: float) -> str:
    if seconds == float("inf"):
        return "?"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
