"""A vector environment whose frames are captured inside each environment and scored later, in batches."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

from vlmreward.errors import ConfigError
from vlmreward.wrappers.capture_frames import EnvFn, make_capture
from vlmreward.wrappers.frame_ring import FREE, RESET, STEP, FrameRing
from vlmreward.wrappers.process_vec_env import ProcessVecEnv, StartMethod
from vlmreward.wrappers.scorer import Scorer
from vlmreward.wrappers.scoring import ROW_DTYPE

TICKET_KEY = "score_ticket"
"""Key in ``info`` of the number under which a step's rewards are found at the scorer, an int."""


class VecCaptureFrames(VecEnvWrapper):
    """Steps environments in this process or in one process each, and hands their frames to a scorer.

    Rewards are the placeholder 0.0: they are scored by the buffers of this package, or by ``VecReplaceReward``.
    ``info["env_reward"]`` is the environment's own reward, ``info["score_ticket"]`` the step's ticket;
    ``terminal_observation`` and ``TimeLimit.truncated`` are as Stable-Baselines3 has them. Every environment is reset
    once here, to learn the frames' size; the seeds of :meth:`seed` apply to the next reset as usual.

    Args:
        env_fns: Functions that build the environments, with ``render_mode="rgb_array"``.
        scorer: Scores the frames; it serves one vector environment at a time.
        subprocess: True to run each environment in its own process.
        start_method: How processes start: ``"spawn"``, ``"forkserver"`` or ``"fork"``.

    Raises:
        RenderingError: An environment has no pixels.
        FramesError: Its frames are not uint8 (H, W, 3).
        ConfigError: There is no environment, their frames differ in size, or the scorer is taken.
        StorageError: There is no room for the ring of frames.
    """

    def __init__(
        self,
        env_fns: Sequence[EnvFn],
        scorer: Scorer,
        subprocess: bool = False,
        start_method: StartMethod = "spawn",
    ) -> None:
        if not env_fns:
            raise ConfigError("a vector environment needs at least one environment, got none")
        factories: list[EnvFn] = [partial(make_capture, env_fn) for env_fn in env_fns]
        inner: VecEnv = ProcessVecEnv(factories, start_method) if subprocess else DummyVecEnv(factories)
        try:
            shape = _frame_shape(inner)
            ring = scorer.open_ring(inner.num_envs, shape)
            try:
                for index in range(inner.num_envs):
                    inner.env_method("attach_ring", ring.spec, index, indices=index)
            except BaseException:
                scorer.release_ring()
                raise
        except BaseException:
            inner.close()
            raise
        ring.seal()
        super().__init__(inner)
        self.scorer = scorer
        self.ring: FrameRing = ring
        self.frame_shape = shape
        self._envs = np.arange(inner.num_envs)
        self._held = ring.assigned.copy()  # slots whose frame was not submitted yet
        self._open = True

    def step_async(self, actions: np.ndarray) -> None:
        """Give every environment slots for its next frames, waiting if the ring is full, and start the step."""
        self._assign()
        self.venv.step_async(actions)

    def step_wait(self) -> VecEnvStepReturn:
        """Wait for the step and hand its frames to the scorer.

        Raises:
            RuntimeError: An environment's process died.
            Exception: What an environment raised; from another process, one of ``vlmreward.errors`` or a RuntimeError.
        """
        obs, _, dones, infos = self.venv.step_wait()
        steps = self._rows(STEP, self._envs)
        resets = self._rows(RESET, np.flatnonzero(steps["terminated"] | steps["truncated"]))
        ticket = self.scorer.submit(steps, resets)
        for info in infos:
            info[TICKET_KEY] = ticket
        self.reset_infos = self.venv.reset_infos
        # A new array for each step: Stable-Baselines3 adds the bootstrap of time limits to it in place.
        return obs, np.zeros(self.num_envs, dtype=np.float32), dones, infos

    def reset(self) -> VecEnvObs:
        """Reset every environment; frames of the resets go to the scorer too."""
        self._assign()
        obs = self.venv.reset()
        self.scorer.submit(np.empty(0, ROW_DTYPE), self._rows(RESET, self._envs))
        self.reset_infos = self.venv.reset_infos
        return obs

    def close(self) -> None:
        """Close the environments; frames that wait can still be scored."""
        if self._open:
            self._open = False
            self.scorer.release_ring()
            self.venv.close()

    def _assign(self) -> None:
        """Give a slot to each environment that has none for its next step or its next reset.

        After a step that failed half-way the environments get back the slots that they have filled in vain.
        """
        needed = self._held == FREE
        if needed.any():
            self._held[needed] = self.scorer.take_slots(int(needed.sum()))
        self.ring.assigned[:] = self._held

    def _rows(self, kind: int, envs: np.ndarray) -> np.ndarray:
        """Return a row for the frame that each of these environments has just written."""
        assert (self.ring.assigned[envs, kind] == FREE).all(), "an environment has not written its frame"
        slots = self._held[envs, kind]
        self._held[envs, kind] = FREE
        meta = self.ring.meta[slots]
        rows = np.zeros(len(envs), ROW_DTYPE)
        rows["ticket"], rows["env"], rows["slot"], rows["reset"] = -1, envs, slots, kind == RESET
        rows["episode"] = meta["episode"] * self.num_envs + envs  # unique over the environments
        for name in ("step", "env_reward", "terminated", "truncated", "reason"):
            rows[name] = meta[name]
        self.scorer.add_seconds("env", float(meta["step_seconds"].sum()))
        self.scorer.add_seconds("render", float(meta["render_seconds"].sum()))
        return rows


def _frame_shape(inner: VecEnv) -> tuple[int, int, int]:
    """Return the shape of all environments' frames."""
    shapes: list[tuple[int, int, int]] = inner.env_method("probe_frames")
    if len(set(shapes)) > 1:
        raise ConfigError(f"all environments must render frames of one size, got {sorted(set(shapes))}")
    return shapes[0]
