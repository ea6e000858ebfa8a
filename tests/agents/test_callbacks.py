"""What log lines and saved counts say, compared with what the environments and the encoder saw."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from stable_baselines3.common.logger import KVWriter, Logger

from vlmreward.agents.callbacks import Cadence, Clock, StopRequest, TrainingCallback, TrainingStopped
from vlmreward.agents.catalogue import get_agent
from vlmreward.agents.checkpoint import CheckpointStore
from vlmreward.agents.checkpointer import Checkpointer
from vlmreward.agents.episode_log import EpisodeLog
from vlmreward.agents.frame_log import FrameLog
from vlmreward.agents.metrics import JsonLinesWriter
from vlmreward.agents.progress import Progress
from vlmreward.agents.sb3 import make_algorithm, prepare_env

SETTINGS: dict[str, dict[str, Any]] = {
    "ppo": {"n_steps": 16, "batch_size": 16, "n_epochs": 1},
    "dqn": {"buffer_size": 500, "learning_starts": 300},
}
N_ENVS = 2


class Session:
    """Trains on the dot environment in a folder, from its newest checkpoint on; remembers what happened.

    Attributes:
        lines: Step, numbers and encoder calls so far, of each log line.
        calls: Pictures in each call of the encoder.
        steps: Vec steps taken.
    """

    def __init__(self, dots: Any, folder: Path, name: str, encode_batch: int = 16) -> None:
        self.scorer, self.frames, self.clock = dots.scorer(encode_batch), FrameLog(), Clock()
        self.calls: list[int] = []
        self.lines: list[tuple[int, dict[str, Any], int]] = []
        self.steps = 0
        self.stop = StopRequest()
        encode = self.scorer.encoder.encode_images

        def count(frames: Any) -> Any:
            self.calls.append(len(frames))
            return encode(frames)

        self.scorer.encoder.encode_images = count
        venv = prepare_env(dots.venv(self.scorer, N_ENVS), get_agent(name), False)
        step = venv.step_wait

        def count_step() -> Any:
            self.steps += 1
            return step()

        venv.step_wait = count_step  # type: ignore[method-assign]
        self.model: Any = make_algorithm({"name": name, "policy": "MlpPolicy", **SETTINGS[name]}, venv, self.scorer, 0)
        store = CheckpointStore(folder / "checkpoints")
        self.parts: dict[str, Any] = {"clock": self.clock, "episodes": EpisodeLog(), "frames": self.frames}
        metrics = JsonLinesWriter(folder / "metrics.jsonl")
        self.checkpointer = Checkpointer(store, self.model, self.scorer, self.parts, metrics)
        if store.names():
            self.checkpointer.resume(store.find())
        session = self

        class Recorder(KVWriter):
            def write(self, key_values: dict[str, Any], key_excluded: Any, step: int = 0) -> None:
                session.lines.append((step, dict(key_values), len(session.calls)))

        self.model.set_logger(Logger(None, [Recorder()]))

    def learn(self, until: int, cadence: Cadence, select: Any = None) -> None:
        parts, left = self.parts, until - self.model.num_timesteps
        with Progress("test", until) as progress:
            callback = TrainingCallback(
                *(self.scorer, self.checkpointer, parts["episodes"], parts["frames"], parts["clock"]),
                *(progress, cadence, self.stop, select),
            )
            try:
                self.model.learn(left, callback=callback, log_interval=None, reset_num_timesteps=False)
            except TrainingStopped:
                callback.save()
        self.scorer.close()


@pytest.fixture
def black_third_step(dots: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The third step of every episode of 10 steps shows nothing."""
    real = dots.Env.render
    monkeypatch.setattr(dots.Env, "render", lambda self: real(self) * (self.t != 3))


def count_black(first: int, last: int) -> int:
    """Return how many of the steps ``first`` to ``last`` of one environment, from 1, are the third of an episode."""
    return sum(step % 10 == 3 for step in range(first, last + 1))


@pytest.mark.usefixtures("black_third_step")
@pytest.mark.parametrize("checkpoint", [32, 10_000])
def test_log_line_covers_everything_since_the_last_one(dots: Any, tmp_path: Path, checkpoint: int) -> None:
    """Whatever is saved between two lines, at 32, 96 and 160 steps."""
    session = Session(dots, tmp_path, "ppo")
    session.learn(192, Cadence(log=64, checkpoint=checkpoint))
    assert [step for step, *_ in session.lines] == [64, 128, 192]
    calls_before = 0
    for step, values, calls in session.lines:
        black = count_black((step - 64) // N_ENVS + 1, step // N_ENVS)
        assert values["rollout/invalid_frac"] == black / 32
        since = session.calls[calls_before:calls]
        assert values["rollout/encode_batch_mean"] == pytest.approx(sum(since) / len(since))
        calls_before = calls


@pytest.mark.usefixtures("black_third_step")
def test_first_line_of_a_resumed_run_covers_what_its_checkpoint_knew(
    dots: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Session(dots, tmp_path, "ppo").learn(64, Cadence(log=10_000, checkpoint=32))
    shutil.rmtree(tmp_path / "checkpoints" / "step_000000000064")  # as if it had been killed before
    monkeypatch.undo()  # the pictures of the second session are all good
    second = Session(dots, tmp_path, "ppo")
    second.learn(64, Cadence(log=10_000, checkpoint=10_000))
    black = N_ENVS * count_black(1, 16)
    assert [(step, values["rollout/invalid_frac"]) for step, values, _ in second.lines] == [(64, black / 64)]


def test_line_without_scored_frames_says_nothing_about_them(dots: Any, tmp_path: Path) -> None:
    """A replay buffer hands over its first frames after 64 transitions."""
    session = Session(dots, tmp_path, "dqn", encode_batch=200)
    session.learn(120, Cadence(log=20, checkpoint=10_000))
    for step, values, _ in session.lines[:3]:
        assert step <= 64
        assert not {"rollout/invalid_frac", "rollout/encode_batch_mean"} & values.keys()
        assert "rollout/episodes" in values
    assert session.lines[-1][1]["rollout/invalid_frac"] == 0


@pytest.mark.usefixtures("black_third_step")
@pytest.mark.parametrize("name", ["ppo", "dqn"])
def test_frames_are_counted_over_all_sessions_of_a_run(dots: Any, tmp_path: Path, name: str) -> None:
    until = 0
    for number in (1, 2):
        until += 160
        session = Session(dots, tmp_path, name)
        session.learn(until, Cadence(log=48, checkpoint=32))
        black = number * N_ENVS * count_black(1, 80)  # each session starts with new episodes
        assert session.frames.summary() == {
            "scored": until - black,
            "invalid": black,
            "reasons": {"constant frame": black},
        }


def test_time_of_evaluations_and_of_waiting_is_counted(
    dots: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import time

    session = Session(dots, tmp_path, "ppo")
    encode = session.scorer.encoder.encode_images

    def slow(frames: Any) -> Any:
        time.sleep(0.02)
        return encode(frames)

    session.scorer.encoder.encode_images = slow

    def select() -> float:
        with session.clock.measure("evaluate"):
            time.sleep(0.1)
        return 1.0

    session.learn(64, Cadence(log=32, checkpoint=32, select=32), select)
    last = session.lines[-1][1]
    assert last["time/evaluate_seconds"] >= 0.1
    assert last["time/wait_seconds"] >= 0.02  # a rollout's last frames are encoded when it is complete
    assert last["time/wall_seconds"] >= last["time/evaluate_seconds"] + last["time/wait_seconds"]


@pytest.mark.parametrize("name", ["ppo", "dqn"])
def test_stop_that_is_asked_for_during_a_selection_comes_right_after_it(dots: Any, tmp_path: Path, name: str) -> None:
    session = Session(dots, tmp_path, name)
    steps_before = []

    def select() -> float:
        session.stop.requested = True
        steps_before.append(session.steps)
        return 1.0

    session.learn(10_000, Cadence(log=32, checkpoint=10_000, select=32), select)
    assert len(steps_before) == 1
    assert session.steps <= steps_before[0] + 1
    assert session.checkpointer.store.names() == ["step_000000000032"]
