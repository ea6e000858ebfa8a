"""Environments in one process each, whose errors keep their class and whose death is always noticed."""

from __future__ import annotations

import contextlib
import multiprocessing
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Literal

import cloudpickle  # type: ignore[import-untyped]
import gymnasium as gym
import numpy as np
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvObs, VecEnvStepReturn

from vlmreward.wrappers.env_worker import Answer, run_env, unpack_error

StartMethod = Literal["spawn", "forkserver", "fork"]

CLOSE_SECONDS = 10.0
"""How long workers have to close their environments before they are terminated."""


class ProcessVecEnv(VecEnv):
    """Steps each environment in its own process; a stand-in for SubprocVecEnv.

    What differs: workers load neither torch nor Stable-Baselines3, nor the running script; an error in an environment
    is raised here, with its class if it is one of ``vlmreward.errors``, and the environments can be reset after it; a
    dead worker is an error under every start method, never a hang. Step rewards are 0: frames are scored elsewhere.

    Args:
        env_fns: Functions that build the environments; they travel by cloudpickle.
        start_method: ``"spawn"``, ``"forkserver"`` or ``"fork"``.

    Raises:
        RuntimeError: An environment can't be built; one of ``vlmreward.errors`` where it raised one.
    """

    def __init__(self, env_fns: Sequence[Callable[[], gym.Env]], start_method: StartMethod = "spawn") -> None:
        self.closed = False
        self.processes: list[BaseProcess] = []
        self._pipes: list[Connection] = []
        context: Any = multiprocessing.get_context(start_method)
        for env_fn in env_fns:
            pipe, far_end = context.Pipe()
            main_end = pipe if start_method == "fork" else None
            args = (far_end, main_end, cloudpickle.dumps(env_fn))
            process = context.Process(target=run_env, args=args, daemon=True)
            with _without_main_module():
                process.start()
            far_end.close()  # at once: a worker forked next must not hold it
            self._pipes.append(pipe)
            self.processes.append(process)
        try:
            observation_space, action_space = self._ask("get_spaces", None, range(len(env_fns)))[0]
            super().__init__(len(env_fns), observation_space, action_space)
        except BaseException:
            self.close()
            raise

    def step_async(self, actions: np.ndarray) -> None:
        """Start a step."""
        for index, action in enumerate(actions):
            self._send(index, "step", action)

    def step_wait(self) -> VecEnvStepReturn:
        """Wait for the step.

        Raises:
            RuntimeError: An environment failed; one of ``vlmreward.errors`` where it raised one.
        """
        obs, dones, infos, reset_infos = zip(*self._collect(range(self.num_envs)), strict=True)
        for index, reset_info in enumerate(reset_infos):
            if reset_info is not None:
                self.reset_infos[index] = reset_info
        rewards = np.zeros(self.num_envs, dtype=np.float32)
        return stack_obs(obs, self.observation_space), rewards, np.array(dones), list(infos)

    def reset(self) -> VecEnvObs:
        """Reset every environment."""
        for index in range(self.num_envs):
            self._send(index, "reset", (self._seeds[index], self._options[index]))
        obs, reset_infos = zip(*self._collect(range(self.num_envs)), strict=True)
        self.reset_infos = list(reset_infos)
        self._reset_seeds()
        self._reset_options()
        return stack_obs(obs, self.observation_space)

    def close(self) -> None:
        """End the workers, also when some are dead, or when a step was interrupted and its answers were lost."""
        if self.closed:
            return
        self.closed = True
        for pipe in self._pipes:
            with contextlib.suppress(OSError):  # that worker is dead
                pipe.send(("close", None))
        deadline = time.monotonic() + CLOSE_SECONDS
        for pipe, process in zip(self._pipes, self.processes, strict=True):
            while process.is_alive() and time.monotonic() < deadline:
                try:
                    if pipe.poll(0.02):
                        pipe.recv_bytes()  # a worker that can't get rid of its last answer would never end
                except (EOFError, OSError):
                    process.join(0.02)
            process.terminate()
            process.join()
            pipe.close()

    def get_images(self) -> Sequence[np.ndarray | None]:
        """Return a picture of every environment; this one does go through the pipe."""
        return self._ask("render", None, None)

    def has_attr(self, attr_name: str) -> bool:
        """Return whether every environment has the attribute."""
        return all(self._ask("has_attr", attr_name, None))

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """Return an attribute of these environments."""
        return self._ask("get_attr", attr_name, indices)

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Set an attribute of these environments' outermost wrappers."""
        self._ask("set_attr", (attr_name, value), indices)

    def env_method(
        self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **kwargs: Any
    ) -> list[Any]:
        """Call a method of these environments."""
        return self._ask("env_method", (method_name, method_args, kwargs), indices)

    def env_is_wrapped(self, wrapper_class: type[gym.Wrapper], indices: VecEnvIndices = None) -> list[bool]:
        """Return which of these environments have such a wrapper."""
        return self._ask("is_wrapped", wrapper_class, indices)

    def _ask(self, command: str, data: Any, indices: VecEnvIndices) -> list[Any]:
        chosen = list(self._get_indices(indices))
        for index in chosen:
            self._send(index, command, data)
        return self._collect(chosen)

    def _send(self, index: int, command: str, data: Any) -> None:
        try:
            self._pipes[index].send((command, data))
        except OSError as e:
            raise self._died(index) from e

    def _collect(self, indices: Iterable[int]) -> list[Any]:
        """Take every answer, so that questions and answers stay in step, then raise the first error among them."""
        answers = [(index, *self._receive(index)) for index in indices]
        for index, error, _ in answers:
            if error:
                raise unpack_error(error, index)
        return [result for _, _, result in answers]

    def _receive(self, index: int) -> Answer:
        pipe, process = self._pipes[index], self.processes[index]
        wait([pipe, process.sentinel])
        try:
            if pipe.poll():
                return pipe.recv()
        except (EOFError, OSError) as e:
            raise self._died(index) from e
        raise self._died(index)

    def _died(self, index: int) -> RuntimeError:
        """Close all, for the other workers' answers are out of step now, and return the error."""
        process = self.processes[index]
        if not self.closed:
            process.join(1)  # the pipe breaks a moment before the exit code is there
        code = process.exitcode
        self.close()
        return RuntimeError(f"the process of environment {index} died (exit code {code}): its own output says why")


@contextlib.contextmanager
def _without_main_module() -> Iterator[None]:
    """Keep a spawned worker from importing the script that runs.

    What the worker needs of it travels by value; importing it again would load all that the script imports, and run
    it where it does not ask for its name.
    """
    main = sys.modules["__main__"]
    names = {name: getattr(main, name) for name in ("__spec__", "__file__") if hasattr(main, name)}
    try:
        for name in names:
            setattr(main, name, None)
        yield
    finally:
        for name, value in names.items():
            setattr(main, name, value)


def stack_obs(obs: Sequence[Any], space: spaces.Space) -> VecEnvObs:
    """Return the environments' observations as arrays whose first axis is the environment."""
    if isinstance(space, spaces.Dict):
        return {key: np.stack([one[key] for one in obs]) for key in space.spaces}
    if isinstance(space, spaces.Tuple):
        return tuple(np.stack([one[k] for one in obs]) for k in range(len(space.spaces)))
    return np.stack(obs)
