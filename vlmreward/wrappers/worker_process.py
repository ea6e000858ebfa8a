"""What an environment's process does beside its environment: report errors, and end with the main process.

An error travels as one line of text, never as a pickle.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading

from vlmreward import errors


def pack_error(error: BaseException) -> str:
    """Return an error as ``"ClassName: message"`` on one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def unpack_error(text: str, env_index: int) -> Exception:
    """Return the error to raise in the main process.

    Args:
        text: What :func:`pack_error` returned.
        env_index: Number of the environment.

    Returns:
        An error of the same class where it is one of ``vlmreward.errors``, else a RuntimeError with the text.
    """
    name, _, message = text.partition(": ")
    kind = getattr(errors, name, None)
    if isinstance(kind, type) and issubclass(kind, errors.VlmRewardError):
        return kind(message)
    return RuntimeError(f"environment {env_index} failed: {text}")


def ignore_ctrl_c() -> None:
    """Leave Ctrl-C, which reaches every process of the terminal, to the main process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def exit_with_parent() -> None:
    """End this process when the main process ends, even by ``kill -9``.

    A closed pipe tells that too, but not under ``fork``, where workers inherit each other's pipes.
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, name="vlmreward-exit-with-parent", daemon=True).start()
