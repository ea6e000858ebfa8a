"""One session of training from a dataset: read, resume, learn, evaluate in an environment if one is given, report."""

from __future__ import annotations

import math
import shlex
import sys
import time
from pathlib import Path
from typing import Any

import gymnasium as gym
import torch

from vlmreward.agents.callbacks import Clock, StopRequest
from vlmreward.agents.evaluation import run_episodes, summarise
from vlmreward.agents.metrics import JsonLinesWriter, make_logger
from vlmreward.agents.offline_agent import (
    Minibatches,
    OfflineAgent,
    OfflinePolicy,
    build_agent,
    check_fits,
    count_choices,
)
from vlmreward.agents.offline_data import OfflineData, Shape, measure_scales, read_offline_data, settle_shape
from vlmreward.agents.progress import Progress
from vlmreward.cli.build import build_scoring, set_threads
from vlmreward.cli.environments import settle_rendering
from vlmreward.cli.offline_settings import NO_ENV, check_actions, check_offline_agent
from vlmreward.cli.results import describe_run, format_summary
from vlmreward.cli.run_folder import RunFolder
from vlmreward.cli.run_training import REPORT_OFFSET, SIDE_BY_SIDE
from vlmreward.cli.settings import TrainSettings
from vlmreward.data import open_dataset
from vlmreward.encoders.device import resolve_devices
from vlmreward.errors import CheckpointError, NonFiniteError
from vlmreward.wrappers.scoring import FrameScorer

LOG_EVERY = 100  # updates


class OfflineSession:
    """Trains until the run's end or until it is stopped.

    Args:
        settings: The run's settings.
        run: Its folder, where it is resumed.

    Raises:
        VlmRewardError: The dataset can't be read, or a part can't be built from the settings.
    """

    def __init__(self, settings: TrainSettings, run: RunFolder | None = None) -> None:
        self.settings, self.stop, self.clock = settings, StopRequest(), Clock()
        self.agent_settings = check_offline_agent(settings.agent)
        self.threads = set_threads(settings.threads)
        self.device = str(resolve_devices(settings.device)[0])
        self._envs: list[gym.Env] = []
        assert settings.dataset is not None, "check_dataset() wants one"
        self.dataset = open_dataset(settings.dataset)
        self.data: OfflineData = read_offline_data(self.dataset, settings.labels)
        self.weights = self.agent_settings.weigh(self.data)
        try:
            shape = self._settle_shape(check_actions(settings.agent))
            self.scoring = build_scoring(settings) if self._envs else None  # last: weights may take minutes
        except BaseException:
            self.close()
            raise
        self.agent: OfflineAgent = build_agent(self.agent_settings, shape, settings.seed, self.device)
        self.agent.set_scales(measure_scales(self.data, self.weights))
        self.done = 0

    def _settle_shape(self, kind: str) -> Shape:
        """Return what the policy takes and gives; make the environment, if there is one, and check that it fits."""
        env = self._make_env() if self.settings.env.name != NO_ENV else None
        choices = None if env is None or kind != "auto" else count_choices(env.action_space)
        if kind == "choices":
            choices = max(1, int(self.data.action.max()) + 1)
        shape = settle_shape(self.data, choices)
        if env is not None:
            check_fits(shape, env)
        return shape

    def close(self) -> None:
        """Stop the environments."""
        for env in self._envs:
            env.close()
        self._envs = []

    def audit(self, mode: Any, command: str) -> None:
        """Return None: labels are looked at before they are written."""

    def run(self, run: RunFolder, note: str = "") -> int:
        """Train in a run folder and return the exit code.

        Args:
            run: The folder; its newest checkpoint is gone on from, if it has one.
            note: What the result should say about the settings.
        """
        lines = self._resume(run)
        logger, metrics = make_logger(run.path, lines, self.done)
        rows, total = int((self.weights > 0).sum()), len(self.data)
        print(f"dataset: {self.dataset.root}, {self.data.episodes} episodes; {rows} of {total} rows are learned from")
        if note:
            print(f"note: {note}", file=sys.stderr)
        print(f"run folder: {run.path}" + (f" (from update {self.done})" if self.done else ""), flush=True)
        try:
            try:
                self._learn(run, logger, metrics)
            except KeyboardInterrupt:
                return self._leave(run)
        finally:
            logger.close()
        if self.stop.requested and self.done < self.settings.total_timesteps:
            return self._leave(run)
        return self._finish(run, note)

    def _resume(self, run: RunFolder) -> int:
        """Take over the newest checkpoint, if there is one; return how many lines of the log belong to it."""
        if not run.checkpoints.names():
            return 0
        path = run.checkpoints.find("last")
        state, meta, _ = run.checkpoints.load(path)
        if meta.get("data") != self.data.fingerprint():
            raise CheckpointError(
                f"dataset {self.dataset.root} has changed since {run.path} learned from it: start a new run"
            )
        self.agent.restore(state["model"])
        self.clock.load_state_dict(state["clock"])
        self.done = int(meta["num_timesteps"])
        return int(meta["metrics_lines"])

    def _learn(self, run: RunFolder, logger: Any, metrics: JsonLinesWriter) -> None:
        settings, total = self.settings, self.settings.total_timesteps
        if self.done >= total:
            return
        run.remove_result()  # that of fewer updates
        batches = Minibatches(
            self.data, self.weights, self.agent, self.agent_settings.batch_size, settings.seed, self.device
        )
        fingerprint = self.data.fingerprint()
        began, spent = time.perf_counter(), self.clock.wall
        sums: dict[str, torch.Tensor] = {}
        summed = 0
        with Progress("training", total, self.done, unit="updates") as progress:
            while self.done < total and not self.stop.requested:
                for key, value in self.agent.update(batches.draw(self.done)).items():
                    sums[key] = sums.get(key, torch.zeros_like(value)) + value
                self.done += 1
                summed += 1
                if self.done % LOG_EVERY == 0 or self.done == total:
                    means = {key: float(value) / summed for key, value in sums.items()}
                    self._log(logger, means)
                    progress.update(self.done, loss=means["policy_loss"])
                    sums, summed = {}, 0
                self.clock.wall = spent + time.perf_counter() - began
                self.clock.phases["learn"] = self.clock.wall
                if self.done % settings.checkpoint_every == 0 or self.done == total or self.stop.requested:
                    self._save(run, metrics, fingerprint)

    def _log(self, logger: Any, means: dict[str, float]) -> None:
        if not all(map(math.isfinite, means.values())):
            raise NonFiniteError(f"the losses are no numbers any more at update {self.done}: lower agent.learning_rate")
        for key, value in means.items():
            logger.record(f"train/{key}", value)
        logger.record("time/seconds", self.clock.wall)
        logger.dump(self.done)

    def _save(self, run: RunFolder, metrics: JsonLinesWriter, fingerprint: str) -> None:
        state = {"model": self.agent.capture(), "clock": self.clock.state_dict()}
        meta = {"num_timesteps": self.done, "metrics_lines": metrics.lines, "best": "", "data": fingerprint}
        run.checkpoints.save(self.done, state, meta)

    def _leave(self, run: RunFolder) -> int:
        last = run.checkpoints.names()
        kept = f"saved at update {int(last[-1].removeprefix('step_'))}" if last else "nothing was saved yet"
        print(f"interrupted, {kept}: go on with vlmreward train resume={_shell(run.path)}", file=sys.stderr)
        return 130

    def _finish(self, run: RunFolder, note: str) -> int:
        """Evaluate, write the result and return the exit code; training is over and saved, so a signal ends it."""
        try:
            self.stop.at_once = True
            if self.stop.requested:
                raise KeyboardInterrupt
            self._report(run, note)
        except KeyboardInterrupt:
            print(f"interrupted, training is complete and saved: {run.path}", file=sys.stderr)
            return 130
        return 0

    def _report(self, run: RunFolder, note: str) -> None:
        seed = self.settings.eval.seed + REPORT_OFFSET
        summary = self._evaluate(seed) if self._envs else None
        data = self.data
        result = {
            "command": "train",
            **describe_run(self.settings, self.scoring, note),
            "dataset": {
                "path": str(self.dataset.root),
                "format": self.dataset.format,
                "labels": self.settings.labels,
                "episodes": data.episodes,
                "rows": len(data),
                "rows_without_label": int((~data.valid).sum()),
                "rows_learned_from": int((self.weights > 0).sum()),
                "fingerprint": data.fingerprint(),
            },
            "timesteps": self.done,
            "threads": self.threads,
            "wall_seconds": self.clock.wall,
            "phase_seconds": self.clock.phases,
            "evaluation": None if summary is None else {"checkpoint": "last", "seed": seed, **summary},
        }
        path = run.write_result(result)
        if summary is not None:
            print(format_summary(summary))
        print(f"result: {path}")
        if summary is not None:
            print(f"next: vlmreward evaluate run={_shell(run.path)}   vlmreward record run={_shell(run.path)}")

    def _evaluate(self, seed: int) -> dict[str, Any]:
        settings = self.settings
        assert self.scoring is not None, "made with the environment"
        count = min(SIDE_BY_SIDE, settings.eval.episodes)
        with self.clock.measure("evaluate"):
            while len(self._envs) < count:
                self._make_env()
            scorer = FrameScorer(self.scoring.encoder, self.scoring.model, count, " / ".join(settings.goal))
            policy = OfflinePolicy(self.agent, self._envs[0].action_space)
            return summarise(
                run_episodes(self._envs, policy, settings.eval.episodes, seed, scorer, settings.encode_batch)
            )

    def _make_env(self) -> gym.Env:
        settle_rendering(self.settings.env.id)
        self._envs.append(self.settings.env.factory()())
        return self._envs[-1]


def _shell(path: Path) -> str:
    return shlex.quote(str(path))
