"""Processes of environments whose death is always noticed.

Under ``fork`` a worker inherits the pipes of workers that start after it, so that the main process does not see the end
of a dead worker's pipe and would wait for ever.
"""

from __future__ import annotations

import contextlib
import time
from multiprocessing.connection import Connection, wait
from typing import Any

from stable_baselines3.common.vec_env import SubprocVecEnv

CLOSE_SECONDS = 10.0
"""How long workers have to close their environments before they are terminated."""


class WatchedRemote:
    """The main process's end of a worker's pipe.

    Args:
        remote: The pipe.
        owner: The vector environment that starts the worker.
        index: Number of the worker.
    """

    def __init__(self, remote: Connection, owner: SubprocVecEnv, index: int) -> None:
        self._remote, self._owner, self._index = remote, owner, index

    def recv(self) -> Any:
        """Return the next message.

        Raises:
            EOFError: The worker died.
        """
        wait([self._remote, self._owner.processes[self._index].sentinel])
        if not self._remote.poll():
            raise EOFError
        return self._remote.recv()

    def send(self, message: Any) -> None:
        """Send a message."""
        self._remote.send(message)

    def discard(self, seconds: float) -> None:
        """Throw away a message, if one comes within this time."""
        if self._remote.poll(seconds):
            self._remote.recv_bytes()

    def close(self) -> None:
        """Close this end."""
        self._remote.close()

    def __reduce__(self) -> tuple[Any, tuple[Connection]]:
        """Travel to a worker, which only closes it, as the plain pipe."""
        return _same, (self._remote,)


class WatchedSubprocVecEnv(SubprocVecEnv):
    """SubprocVecEnv that raises EOFError when a worker has died, however it was started."""

    @property
    def remotes(self) -> tuple[WatchedRemote, ...]:
        """The main process's ends of the pipes."""
        return self._remotes

    @remotes.setter
    def remotes(self, remotes: tuple[Connection, ...]) -> None:
        self._remotes = tuple(WatchedRemote(remote, self, index) for index, remote in enumerate(remotes))

    def close(self) -> None:
        """End the workers, also when some are dead, or when a step was interrupted and its answers were lost."""
        if self.closed:
            return
        self.closed = True
        for remote in self.remotes:
            with contextlib.suppress(OSError):  # that worker is dead
                remote.send(("close", None))
        deadline = time.monotonic() + CLOSE_SECONDS
        for remote, process in zip(self.remotes, self.processes, strict=True):
            while process.is_alive() and time.monotonic() < deadline:
                try:
                    remote.discard(0.02)  # a worker that can't get rid of its last answer would never end
                except (EOFError, OSError):
                    process.join(0.02)
            process.terminate()
            process.join()
            remote.close()


def _same(remote: Connection) -> Connection:
    return remote
