"""What happens around learning: log lines, progress, choosing the best checkpoint, saving, stopping.

Everything is done at the start of a rollout, when the update before it is complete: there an algorithm's state is
whole, and a checkpoint of it can be resumed.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from stable_baselines3.common.callbacks import BaseCallback

from vlmreward.agents.checkpointer import Checkpointer
from vlmreward.agents.episode_log import EpisodeLog
from vlmreward.agents.frame_log import FrameLog
from vlmreward.agents.last_step import LastStep, find_last_step
from vlmreward.agents.online.learner import OnlineLearner
from vlmreward.agents.progress import Progress
from vlmreward.errors import ConfigError
from vlmreward.rewards.head import HEAD_FILE
from vlmreward.wrappers.scorer import Scorer

SCORER_PHASES = ("env", "render", "encode", "wait")  # whose time the scorer counts
PHASES = (*SCORER_PHASES, "learn", "evaluate")


class TrainingStopped(Exception):  # noqa: N818 (it is no error)
    """Raised inside ``learn`` when the user has asked to stop."""


@dataclass
class StopRequest:
    """The user's wish to stop.

    Attributes:
        requested: Set by a signal handler, read between two environment steps.
        at_once: Set when training is over: nothing is left to save, so that a signal handler needn't wait.
    """

    requested: bool = False
    at_once: bool = False


@dataclass
class Clock:
    """Seconds spent so far, earlier sessions of the run included as far as their work was saved.

    Attributes:
        wall: By the clock on the wall, in ``learn``: steps, updates, waiting for rewards, the evaluations that choose
            the best checkpoint, and checkpoints but for the last. Building the parts of a run and its final
            evaluation are not in it.
        phases: ``env`` and ``render``: in environments, summed over them. ``encode``: in the encoder, beside all
            others. ``wait``: the main thread waited for rewards. ``learn``: in the algorithm's updates. ``evaluate``:
            in evaluations, those that choose the best checkpoint and the final one; what they step, draw and encode
            is in no other phase.
    """

    wall: float = 0.0
    phases: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PHASES, 0.0))

    @contextlib.contextmanager
    def measure(self, phase: str) -> Iterator[None]:
        """Count the time of a ``with`` block as a phase's."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.phases[phase] += time.perf_counter() - began

    def state_dict(self) -> dict[str, Any]:
        """Return plain numbers."""
        return {"wall": self.wall, **self.phases}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what ``state_dict`` returned."""
        self.wall = float(state["wall"])
        self.phases = {name: float(state[name]) for name in PHASES}


@dataclass(frozen=True)
class Cadence:
    """How often things happen, in environment steps.

    Attributes:
        log: Between two log lines, at least.
        checkpoint: Between two checkpoints.
        select: Between two evaluations that choose the best checkpoint; None for none.
    """

    log: int = 1000
    checkpoint: int = 50_000
    select: int | None = None

    def __post_init__(self) -> None:
        """Check that all are positive."""
        for name, value in (("checkpoint_every", self.checkpoint), ("eval.every", self.select), ("log", self.log)):
            if value is not None and value < 1:
                raise ConfigError(f"{name} must be at least 1 step, got {value}")


class TrainingCallback(BaseCallback):
    """Logs, saves, selects and stops.

    Args:
        scorer: Scores the training frames.
        checkpointer: Saves the run.
        episodes: Collects finished episodes.
        frames: Counts scored frames.
        clock: Counts time.
        progress: Shows how far it is.
        cadence: How often.
        stop: The user's wish to stop.
        select: Returns the VLM return on the selection seeds, or None if frames could not be scored.
        learner: Learns the reward beside training; None for a reward that does not learn.
    """

    def __init__(
        self,
        scorer: Scorer,
        checkpointer: Checkpointer,
        episodes: EpisodeLog,
        frames: FrameLog,
        clock: Clock,
        progress: Progress,
        cadence: Cadence,
        stop: StopRequest,
        select: Callable[[], float | None] | None = None,
        learner: OnlineLearner | None = None,
    ) -> None:
        super().__init__()
        self._scorer, self._checkpointer, self._episodes, self._frames = scorer, checkpointer, episodes, frames
        self._clock, self._progress, self._cadence, self._stop, self._select = clock, progress, cadence, stop, select
        self._learner = learner
        self.safe_timesteps = 0  # environment steps whose results are in the algorithm's state
        self._last_step: LastStep | None = None
        self._next: dict[str, int] = {}
        self._update_began: float | None = None
        self._tick, self._stats = time.perf_counter(), scorer.stats()  # at the last count()

    def _on_training_start(self) -> None:
        self._tick, self._stats = time.perf_counter(), self._scorer.stats()
        self._last_step = find_last_step(self.training_env)
        done = self.model.num_timesteps
        self._next = {
            "log": _after(done, self._cadence.log),
            "checkpoint": _after(done, self._cadence.checkpoint),
            "select": _after(done, self._cadence.select) if self._cadence.select else -1,
        }

    def _on_rollout_start(self) -> None:
        if self._update_began is not None:
            self._clock.phases["learn"] += time.perf_counter() - self._update_began
            self._update_began = None
        done = self.safe_timesteps = self.model.num_timesteps
        if self._learner is not None:  # here, so that all rows of a rollout have one version of the reward
            self._learner.step(done)
        if done >= self._next["log"]:
            self._next["log"] = _after(done, self._cadence.log)
            self.write_log()
        if self._select is not None and done >= self._next["select"]:
            assert self._cadence.select is not None
            self._next["select"] = _after(done, self._cadence.select)
            self._checkpointer.offer_best(done, self._select())
        if done >= self._next["checkpoint"]:
            self._next["checkpoint"] = _after(done, self._cadence.checkpoint)
            self.save()

    def _on_step(self) -> bool:
        assert self._last_step is not None, "learn() starts training before it steps"
        self._episodes.note_step(self._scorer.last_ticket, self._last_step.dones, self._last_step.infos)
        if self._stop.requested:
            if getattr(self.model, "replay_buffer", None) is not None:
                # all that was collected is in the buffer, except this step
                self.safe_timesteps = self.model.num_timesteps - self.training_env.num_envs
            raise TrainingStopped
        return True

    def _on_rollout_end(self) -> None:
        self._update_began = time.perf_counter()

    def _on_training_end(self) -> None:
        if self._update_began is not None:  # the last update has no rollout after it
            self._clock.phases["learn"] += time.perf_counter() - self._update_began
            self._update_began = None
        self.safe_timesteps = self.model.num_timesteps
        self._scorer.flush()  # the last line counts every frame
        self.write_log()
        self.save()

    def save(self) -> None:
        """Write a checkpoint of the last whole state."""
        self._scorer.flush()  # what is saved counts the frames whose rewards are saved
        self.count()
        self._episodes.collect(self._scorer)
        if (
            self._learner is not None
        ):  # for evaluations, and to label datasets; a run that is resumed has its checkpoint
            self._learner.save_head(self._checkpointer.store.folder.parent / HEAD_FILE)
        self._checkpointer.save(self.safe_timesteps)

    def write_log(self) -> None:
        """Write one line of numbers."""
        self._episodes.collect(self._scorer)
        self.count()
        means = self._episodes.means()
        done = self.model.num_timesteps
        learned = {} if self._learner is None else self._learner.log_values()
        values = {**means, **self._frames.next_line(), **self._scorer.transform.log_values(), **learned}
        for key, value in values.items():
            self.logger.record(key, value)
        self.logger.record("rollout/episodes", self._episodes.total)
        self.logger.record("time/wall_seconds", self._clock.wall)
        for name, seconds in self._clock.phases.items():
            self.logger.record(f"time/{name}_seconds", seconds)
        self.logger.dump(step=done)
        self._progress.update(done, vlm_return=means["rollout/vlm_return"], success=means["rollout/success_rate"])

    def count(self) -> None:
        """Take the time and the scored frames since the last call into the clock and the frame log."""
        now, stats = time.perf_counter(), self._scorer.stats()
        self._clock.wall += now - self._tick
        for name in SCORER_PHASES:
            self._clock.phases[name] += stats[f"{name}_seconds"] - self._stats[f"{name}_seconds"]
        self._frames.add(stats, self._stats)
        self._tick, self._stats = now, stats


def _after(done: int, every: int) -> int:
    """Return the first multiple of ``every`` beyond ``done``."""
    return (done // every + 1) * every
