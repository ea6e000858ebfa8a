"""One background thread that runs jobs in order and never loses an error."""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Callable

Job = Callable[[], None]

STOP_SECONDS = 30.0
"""How long to wait, when closing, for the job that is running: a thread killed inside a native library can crash."""


class _State:
    """What the thread and its owner share; the thread holds no reference to the owner, so the owner can be freed."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.jobs: deque[Job] = deque()
        self.posted = 0
        self.done = 0
        self.error: BaseException | None = None
        self.closing = False
        self.thread: threading.Thread | None = None


class WorkerThread:
    """Runs jobs one after another beside the main thread; starts with the first job.

    After a job has raised, no other job runs, and every later call raises that error.

    Args:
        name: Name of the thread.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._state = _State()
        self._stop = weakref.finalize(self, _stop, self._state)  # also at interpreter exit

    @property
    def changed(self) -> threading.Condition:
        """Guards what jobs and the main thread share; notified after each job."""
        return self._state.changed

    def post(self, job: Job) -> None:
        """Add a job.

        Raises:
            BaseException: What an earlier job raised.
        """
        state = self._state
        with state.changed:
            self._check()
            state.jobs.append(job)
            state.posted += 1
            if state.thread is None:
                state.thread = threading.Thread(target=_loop, args=(state,), name=self._name, daemon=True)
                state.thread.start()
            state.changed.notify_all()

    def check(self) -> None:
        """Raise what a job raised, if one did."""
        with self._state.changed:
            self._check()

    def wait_for(self, ready: Callable[[], bool]) -> None:
        """Block until a condition holds, which jobs bring about under ``changed``.

        Raises:
            BaseException: What a job raised.
        """
        state = self._state
        with state.changed:
            self._check()
            while not ready():
                # With no job left nothing can change any more: better a crash than a hang.
                assert state.done < state.posted, "waiting for a job that was never posted"
                state.changed.wait()
                self._check()

    def drain(self) -> None:
        """Block until every posted job is done."""
        self.wait_for(lambda: self._state.done == self._state.posted)

    def close(self) -> None:
        """Stop after the running job; jobs that have not started are dropped."""
        self._stop()

    def _check(self) -> None:
        if self._state.error is not None:
            raise self._state.error
        if self._state.closing:
            raise RuntimeError(f"{self._name} is closed: build a new one")


def _loop(state: _State) -> None:
    while True:
        with state.changed:
            while not state.jobs and not state.closing:
                state.changed.wait()
            if state.closing:
                return
            job = state.jobs.popleft()
        try:
            job()
        except BaseException as e:  # not swallowed: every later call of the owner raises it
            with state.changed:
                state.error = e
                state.jobs.clear()
                state.changed.notify_all()
            return
        del job  # it may hold frames, and its owner
        with state.changed:
            state.done += 1
            state.changed.notify_all()


def _stop(state: _State) -> None:
    with state.changed:
        state.closing = True
        state.jobs.clear()
        state.changed.notify_all()
        thread = state.thread
    if thread is not None and thread is not threading.current_thread():
        thread.join(STOP_SECONDS)
