"""The process of one environment: answers commands that come through a pipe, until the main process is gone.

Written anew beside Stable-Baselines3's worker because importing that package imports torch: seconds and half a gigabyte
for each process. This module needs neither.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import traceback
from multiprocessing.connection import Connection
from typing import Any

import cloudpickle  # type: ignore[import-untyped]
import gymnasium as gym

from vlmreward import errors

Answer = tuple[str, Any]
"""The error as one line of text, or an empty text and the result."""


def pack_error(error: BaseException) -> str:
    """Return an error as ``"ClassName: message"`` on one line; errors never travel as pickles."""
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


def run_env(pipe: Connection, main_end: Connection | None, env_fn: bytes) -> None:
    """Build an environment and serve it.

    Args:
        pipe: Commands come in as ``(name, data)``, an ``Answer`` goes out for each.
        main_end: The main process's end, to be closed where a fork has copied it.
        env_fn: The function that builds the environment, by cloudpickle.
    """
    if main_end is not None:
        main_end.close()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process of a terminal: the main one decides
    _exit_with_parent()
    # Unpickled, for Python has no other way to hand a function over: the bytes are our own parent's, through a pipe
    # that only it and this process hold; never from a file or a socket.
    failure, env = _attempt(lambda: cloudpickle.loads(env_fn)())
    while True:
        try:
            command, data = pipe.recv()
        except EOFError:
            return
        if command == "close":
            if env is not None:
                env.close()
            pipe.close()
            return
        answer = (failure, None) if failure else _attempt(lambda: _COMMANDS[command](env, data))  # noqa: B023
        failed_to_send, _ = _attempt(lambda: pipe.send(answer))  # noqa: B023
        if failed_to_send:  # it can't be pickled
            pipe.send((failed_to_send, None))


def _attempt(action: Any) -> Answer:
    """Return what an action returns, or its error; the stack of an error that is not the user's goes to stderr."""
    try:
        return "", action()
    except errors.VlmRewardError as e:
        return pack_error(e), None
    except Exception as e:
        traceback.print_exc()
        return pack_error(e), None


def _step(env: gym.Env, action: Any) -> tuple[Any, bool, dict[str, Any], dict[str, Any] | None]:
    """Step, and reset after the end of an episode, as Stable-Baselines3's vector environments do."""
    obs, _, terminated, truncated, info = env.step(action)
    info["TimeLimit.truncated"] = truncated and not terminated
    if not (terminated or truncated):
        return obs, False, info, None
    info["terminal_observation"] = obs
    obs, reset_info = env.reset()
    return obs, True, info, reset_info


def _has_attr(env: gym.Env, name: str) -> bool:
    try:
        env.get_wrapper_attr(name)
    except AttributeError:
        return False
    return True


def _is_wrapped(env: gym.Env, wrapper_class: type) -> bool:
    while isinstance(env, gym.Wrapper):
        if isinstance(env, wrapper_class):
            return True
        env = env.env
    return False


_COMMANDS = {
    "step": _step,
    "reset": lambda env, data: env.reset(seed=data[0], **({"options": data[1]} if data[1] else {})),
    "render": lambda env, _: env.render(),
    "get_spaces": lambda env, _: (env.observation_space, env.action_space),
    "env_method": lambda env, data: env.get_wrapper_attr(data[0])(*data[1], **data[2]),
    "get_attr": lambda env, name: env.get_wrapper_attr(name),
    "has_attr": _has_attr,
    "set_attr": lambda env, data: setattr(env, *data),
    "is_wrapped": _is_wrapped,
}


def _exit_with_parent() -> None:
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
