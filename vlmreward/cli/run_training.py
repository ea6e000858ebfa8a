"""One session of training: build, resume, learn, evaluate, write the result."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym

from vlmreward.agents.callbacks import Cadence, Clock, StopRequest, TrainingCallback, TrainingStopped
from vlmreward.agents.catalogue import get_agent
from vlmreward.agents.checkpoint_state import capture_random, restore_random
from vlmreward.agents.checkpointer import Checkpointer, Stateful
from vlmreward.agents.episode_log import EpisodeLog
from vlmreward.agents.evaluation import run_episodes, summarise
from vlmreward.agents.frame_log import FrameLog
from vlmreward.agents.metrics import make_logger
from vlmreward.agents.policies import AgentPolicy
from vlmreward.agents.progress import Progress
from vlmreward.atomic import write_bytes
from vlmreward.cli.build import Scoring, build_scoring, build_training, check_agent, seed_envs, set_threads
from vlmreward.cli.calibration import FILE as INT8_FILE
from vlmreward.cli.gate import audit_before_training, check_mode
from vlmreward.cli.results import describe_judge, describe_run, format_summary
from vlmreward.cli.run_folder import RunFolder
from vlmreward.cli.settings import TrainSettings
from vlmreward.errors import VlmRewardError
from vlmreward.wrappers.frame_gate import describe_gate
from vlmreward.wrappers.scoring import FrameScorer

REPORT_OFFSET = 10_000  # between the first seed of the selection episodes and that of the reported ones
SIDE_BY_SIDE = 10  # episodes of an evaluation


class Session:
    """Trains until the run's end or until it is stopped.

    Args:
        settings: The run's settings.
        run: Its folder, where it is resumed.

    Raises:
        VlmRewardError: A part can't be built from them.
    """

    def __init__(self, settings: TrainSettings, run: RunFolder | None = None) -> None:
        self.settings = settings
        self.stop = StopRequest()
        self.clock, self.episodes, self.frames = Clock(), EpisodeLog(), FrameLog()
        check_agent(settings)  # first: it takes no time, and weights may take minutes
        self.threads = set_threads(settings.threads, get_agent(settings.agent["name"]).scoring == "replay")
        # before the first checkpoint nothing has been learned, so an int8 tower is made anew
        learned = run.path if run is not None and run.checkpoints.names() else None
        self.scoring: Scoring = build_scoring(settings, learned)
        self.training = build_training(settings, self.scoring)
        self._eval_envs: list[gym.Env] = []

    def close(self) -> None:
        """Stop environments and threads."""
        self.training.close()
        for env in self._eval_envs:
            env.close()
        self._eval_envs = []

    def audit(self, mode: Any, command: str) -> dict[str, Any] | None:
        """Look at the reward before anything is learned from it; see :func:`audit_before_training`.

        Raises:
            ConfigError: The mode is unknown, or it requires more of the reward than it is.
        """
        state = capture_random(self.training.model)
        found = audit_before_training(self.settings, self.scoring, self._make_audited, check_mode(mode), command)
        restore_random(self.training.model, state)
        return found

    def _make_audited(self) -> gym.Env:
        # kept for the evaluations: closing one MuJoCo environment of Gymnasium's blackens the others' pictures
        self._eval_envs.append(self.settings.env.factory()())
        return self._eval_envs[0]

    def run(self, run: RunFolder, note: str = "") -> int:
        """Train in a run folder and return the exit code.

        Args:
            run: The folder; its newest checkpoint is gone on from, if it has one.
            note: What the result should say about the settings.
        """
        settings, model = self.settings, self.training.model
        if self.scoring.quantised is not None:
            write_bytes(run.path / INT8_FILE, self.scoring.quantised.tower.to_bytes())
        resumable = run.checkpoints.find("last") if run.checkpoints.names() else None
        meta: dict[str, Any] = run.checkpoints.load(resumable)[1] if resumable else {}
        logger, metrics = make_logger(run.path, meta.get("metrics_lines", 0), meta.get("num_timesteps", 0))
        parts: dict[str, Stateful] = {"clock": self.clock, "episodes": self.episodes, "frames": self.frames}
        if self.scoring.cache is not None:
            parts["cache"] = self.scoring.cache
        if self.training.learner is not None:
            parts["reward"] = self.training.learner
        checkpointer = Checkpointer(run.checkpoints, model, self.training.scorer, parts, metrics)
        if resumable:
            checkpointer.resume(resumable)
        model.set_logger(logger)
        seed_envs(self.training.vec_env, settings.seed, model.num_timesteps)
        print(f"goal: {' | '.join(settings.goal)}")
        if note:
            print(f"note: {note}", file=sys.stderr)
        print(f"run folder: {run.path}" + (f" (from step {model.num_timesteps})" if resumable else ""), flush=True)
        try:
            with Progress("training", settings.total_timesteps, model.num_timesteps) as progress:
                callback = TrainingCallback(
                    self.training.scorer,
                    checkpointer,
                    self.episodes,
                    self.frames,
                    self.clock,
                    progress,
                    Cadence(checkpoint=settings.checkpoint_every, select=settings.eval.every),
                    self.stop,
                    self._select if settings.eval.every else None,
                    self.training.learner,
                )
                try:
                    self._learn(run, callback)
                except (TrainingStopped, KeyboardInterrupt) as e:
                    return self._leave(run, callback, save=isinstance(e, TrainingStopped))
                except VlmRewardError:
                    self._leave(run, callback, save=False)
                    raise
        finally:
            logger.close()
        return self._finish(run, note)

    def _learn(self, run: RunFolder, callback: TrainingCallback) -> None:
        model = self.training.model
        left = self.settings.total_timesteps - model.num_timesteps
        if left > 0:
            run.remove_result()  # that of fewer steps
            # log_interval=None: the callback writes the log, for SB3's own would show placeholder rewards
            model.learn(left, callback=callback, log_interval=None, reset_num_timesteps=False)  # type: ignore[arg-type]

    def _leave(self, run: RunFolder, callback: TrainingCallback, save: bool) -> int:
        if save:
            callback.save()
        last = run.checkpoints.names()
        kept = f"saved at step {int(last[-1].removeprefix('step_'))}" if last else "nothing was saved yet"
        print(f"interrupted, {kept}: go on with vlmreward train resume={_shell(run.path)}", file=sys.stderr)
        return 130

    def _select(self) -> float | None:
        """Return the VLM return on the selection seeds; training's random numbers are left as they were."""
        model = self.training.model
        state = capture_random(model)
        summary = self._evaluate(self.settings.eval.seed)
        restore_random(model, state)
        return summary["vlm_return"]["mean"] if summary["vlm_return"] else None

    def _evaluate(self, seed: int) -> dict[str, Any]:
        count = min(SIDE_BY_SIDE, self.settings.eval.episodes)
        with self.clock.measure("evaluate"):
            # Kept until the end: closing one MuJoCo environment of Gymnasium's blackens the pictures of the others.
            while len(self._eval_envs) < count:
                self._eval_envs.append(self.settings.env.factory()())
            scorer = FrameScorer(self.scoring.encoder, self.scoring.model, count, " / ".join(self.settings.goal))
            policy = AgentPolicy(self.training.model, count)
            episodes = run_episodes(
                self._eval_envs, policy, self.settings.eval.episodes, seed, scorer, self.settings.encode_batch
            )
        return summarise(episodes)

    def _finish(self, run: RunFolder, note: str) -> int:
        """Evaluate, write the result and return the exit code; training is over and saved, so a signal ends it."""
        try:
            self.stop.at_once = True
            if self.stop.requested:  # too late for the last environment step
                raise KeyboardInterrupt
            self._report(run, note)
        except KeyboardInterrupt:
            done = "interrupted, training is complete and saved"
            print(f"{done}: measure it with vlmreward evaluate run={_shell(run.path)}", file=sys.stderr)
            return 130
        return 0

    def _report(self, run: RunFolder, note: str) -> None:
        seed = self.settings.eval.seed + REPORT_OFFSET
        summary = self._evaluate(seed)
        learner = self.training.learner
        threshold = self.settings.frame_gate
        gate = None if threshold is None else self.frames.gate.report(threshold)
        result = {
            "command": "train",
            **describe_run(self.settings, self.scoring, note),
            "audit": run.read_audit(),
            "timesteps": self.training.model.num_timesteps,
            "threads": self.threads,
            "frames": self.frames.summary(),
            "frame_gate": gate,
            "learned_reward": None if learner is None else learner.report(),
            **({} if learner is None else describe_judge(learner.annotator)),
            "wall_seconds": self.clock.wall,
            "phase_seconds": self.clock.phases,
            "evaluation": {"checkpoint": "last", "seed": seed, **summary},
        }
        path = run.write_result(result)
        print(format_summary(summary))
        if gate is not None:
            print(describe_gate(gate))
        print(f"result: {path}")
        print(f"next: vlmreward evaluate run={_shell(run.path)}   vlmreward record run={_shell(run.path)}")


def _shell(path: Path) -> str:
    return shlex.quote(str(path))
