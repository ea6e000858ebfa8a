"""What is equal after a resumption and what is not; docs/resume.md states the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vlmreward.agents.callbacks import Cadence, Clock, StopRequest, TrainingCallback, TrainingStopped
from vlmreward.agents.catalogue import get_agent
from vlmreward.agents.checkpoint import CheckpointStore
from vlmreward.agents.checkpoint_state import capture
from vlmreward.agents.checkpointer import Checkpointer
from vlmreward.agents.episode_log import EpisodeLog
from vlmreward.agents.frame_log import FrameLog
from vlmreward.agents.metrics import make_logger
from vlmreward.agents.progress import Progress
from vlmreward.agents.sb3 import make_algorithm, prepare_env
from vlmreward.errors import CheckpointError

SETTINGS: dict[str, dict[str, Any]] = {
    "ppo": {"n_steps": 16, "batch_size": 16, "n_epochs": 2},
    "dqn": {"buffer_size": 160, "learning_starts": 20, "train_freq": 2, "exploration_fraction": 0.8},
    "sac": {"buffer_size": 160, "learning_starts": 20},
    "tqc": {"buffer_size": 160, "learning_starts": 20},
    "recurrent_ppo": {"policy": "MlpLstmPolicy", "n_steps": 16, "batch_size": 16, "n_epochs": 2},
    "ars": {"policy": "LinearPolicy", "n_delta": 2},
}


class Run:
    """A training run of the dot environment in a folder; goes on from the folder's newest checkpoint."""

    def __init__(self, dots: Any, folder: Path, name: str, normalise: bool = False, seed: int = 0) -> None:
        spec = get_agent(name)
        self.scorer = dots.scorer()
        venv = prepare_env(dots.venv(self.scorer, 2, continuous="Discrete" not in spec.actions), spec, normalise)
        config = {"name": name, "policy": "MlpPolicy", **SETTINGS[name]}
        self.model: Any = make_algorithm(config, venv, self.scorer, seed)
        self.clock, self.episodes, self.frames, self.stop = Clock(), EpisodeLog(), FrameLog(), StopRequest()
        store = CheckpointStore(folder / "checkpoints")
        meta = store.load(store.find())[1] if store.names() else {}
        logger, lines = make_logger(folder, meta.get("metrics_lines", 0))
        parts = {"clock": self.clock, "episodes": self.episodes, "frames": self.frames}
        self.checkpointer = Checkpointer(store, self.model, self.scorer, parts, lines)  # type: ignore[arg-type]
        if store.names():
            self.checkpointer.resume(store.find())
        self.model.set_logger(logger)
        venv.seed(1000 + self.model.num_timesteps)

    def close(self) -> None:
        self.scorer.close()

    def learn(self, until: int, cadence: Cadence | None = None, select: Any = None) -> None:
        with Progress("test", until) as progress:
            callback = TrainingCallback(
                self.scorer,
                self.checkpointer,
                self.episodes,
                self.frames,
                self.clock,
                progress,
                cadence or Cadence(log=32, checkpoint=64),
                self.stop,
                select,
            )
            try:
                left = until - self.model.num_timesteps
                self.model.learn(left, callback=callback, log_interval=None, reset_num_timesteps=False)
            except TrainingStopped:
                callback.save()


def assert_same(a: Any, b: Any, where: str = "") -> None:
    """Compare nested states exactly."""
    assert type(a) is type(b), where
    if isinstance(a, dict):
        assert list(a) == list(b), where
        for key in a:
            assert_same(a[key], b[key], f"{where}/{key}")
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), where
        for number, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_same(x, y, f"{where}/{number}")
    elif isinstance(a, torch.Tensor):
        assert torch.equal(a, b), where
    elif isinstance(a, np.ndarray):
        np.testing.assert_array_equal(a, b, err_msg=where)
    else:
        assert a == b, where


def buffer_rows(model: Any) -> dict[str, np.ndarray]:
    buffer = model.replay_buffer
    return {name: getattr(buffer, name)[: buffer.size()].copy() for name in ("observations", "rewards", "status")}


@pytest.mark.parametrize("normalise", [False, True])
@pytest.mark.parametrize("name", SETTINGS)
def test_everything_comes_back(dots: Any, tmp_path: Path, name: str, normalise: bool) -> None:
    first = Run(dots, tmp_path, name, normalise)
    first.learn(160)
    # another seed: nothing below is equal because it was built equal
    second = Run(dots, tmp_path, name, normalise, seed=99)
    before, after = capture(first.model), capture(second.model)
    for state in (before, after):
        state.pop("random")  # `first` has moved on, for capturing and comparing draws nothing but building did
    assert_same(before, after)
    assert first.scorer.state_dict() == second.scorer.state_dict()
    assert first.scorer.transform.stats.count > 0
    assert (first.episodes.total, list(first.episodes.episodes)) == (
        second.episodes.total,
        list(second.episodes.episodes),
    )
    assert second.clock.phases == first.clock.phases
    assert second.clock.phases["env"] > 0
    assert second.frames.summary() == first.frames.summary()
    assert second.frames.summary()["scored"] > 0
    if name in ("dqn", "sac", "tqc"):
        assert_same(buffer_rows(first.model), buffer_rows(second.model))
    first.close()
    second.close()


@pytest.mark.parametrize("name", ["ppo", "dqn", "sac"])
def test_two_resumptions_of_one_checkpoint_are_the_same_run(dots: Any, tmp_path: Path, name: str) -> None:
    import shutil

    Run(dots, tmp_path / "a", name).learn(128)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    states = []
    for folder, seed in (("a", 1), ("b", 2)):
        run = Run(dots, tmp_path / folder, name, seed=seed)
        run.learn(256)
        states.append(capture(run.model))
    assert_same(states[0], states[1])


@pytest.mark.parametrize("name", ["ppo", "dqn"])
def test_random_generators_come_back(dots: Any, tmp_path: Path, name: str) -> None:
    import random

    from vlmreward.agents.checkpoint_state import capture_random, restore_random

    run = Run(dots, tmp_path, name)
    run.learn(64)

    def draw() -> list[Any]:
        space = run.model.action_space
        return [torch.rand(3).tolist(), np.random.rand(3).tolist(), random.random(), space.sample().tolist()]

    state = capture_random(run.model)
    first = draw()
    assert draw() != first
    restore_random(run.model, state)
    assert draw() == first


def test_log_lines_after_the_checkpoint_are_dropped(dots: Any, tmp_path: Path) -> None:
    run = Run(dots, tmp_path, "ppo")
    run.learn(128)
    path = tmp_path / "metrics.jsonl"
    kept = path.read_text().splitlines()
    with path.open("a") as file:
        file.write('{"step": 999}\n{"st')
    Run(dots, tmp_path, "ppo").learn(192)
    lines = path.read_text().splitlines()
    assert lines[: len(kept)] == kept
    steps = [json.loads(line)["step"] for line in lines]
    assert steps == sorted(steps)
    assert steps[-1] == 192


def test_resumed_run_starts_new_episodes(dots: Any, tmp_path: Path) -> None:
    """The environments are reset, with seeds that the run had not used."""
    run = Run(dots, tmp_path, "dqn")
    run.learn(130)  # inside an episode of 10 steps x 2 environments
    resumed = Run(dots, tmp_path, "dqn")
    row = resumed.model.replay_buffer.pos
    resumed.learn(150)
    assert resumed.model.replay_buffer.episode_starts[row].all()


@pytest.mark.parametrize("name", ["ppo", "dqn", "ars"])
def test_stop_saves_at_once_and_counts_only_what_was_kept(dots: Any, tmp_path: Path, name: str) -> None:
    run = Run(dots, tmp_path, name)
    venv = run.model.get_env()
    step, count = venv.step_wait, 0

    def stop_at_70() -> Any:
        nonlocal count
        count += 2
        run.stop.requested = count >= 70
        return step()

    venv.step_wait = stop_at_70
    run.learn(10_000)
    resumed = Run(dots, tmp_path, name)
    if name == "dqn":  # the buffer holds every step but the one in which the stop was seen
        assert resumed.model.num_timesteps == 68
        assert resumed.model.replay_buffer.n_added * 2 == 68
    else:  # whole rollouts: 2 x 16 steps for PPO, 4 candidates of 2 x 10 steps for ARS
        assert resumed.model.num_timesteps == (64 if name == "ppo" else 0)
    assert_same(capture(run.model)["parameters"], capture(resumed.model)["parameters"])
    run.close()
    resumed.close()


def test_best_is_chosen_by_the_highest_value(dots: Any, tmp_path: Path) -> None:
    values = iter([1.0, 5.0, None, 3.0])
    seen: list[dict[str, torch.Tensor]] = []
    run = Run(dots, tmp_path, "ppo")

    def select() -> float | None:
        seen.append({k: v.clone() for k, v in run.model.policy.state_dict().items()})
        return next(values)

    run.learn(128, Cadence(log=32, checkpoint=64, select=32), select)
    store = run.checkpointer.store
    state, meta, _ = store.load(store.find("best"))
    assert (meta["best_value"], meta["num_timesteps"]) == (5.0, 64)
    for key, value in seen[1].items():
        assert torch.equal(state["model"]["parameters"]["policy"][key], value)
    assert Run(dots, tmp_path, "ppo").checkpointer.best_value == 5.0


def test_checkpoint_of_another_algorithm_is_refused(dots: Any, tmp_path: Path) -> None:
    Run(dots, tmp_path, "dqn").learn(64)
    with pytest.raises(CheckpointError, match="the checkpoint is of DQN, the config says PPO"):
        Run(dots, tmp_path, "ppo")


def test_checkpoint_without_a_part_is_refused(dots: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As one of an earlier version is, which did not count frames."""
    run = Run(dots, tmp_path, "dqn")
    del run.checkpointer._parts["frames"]  # type: ignore[attr-defined]
    run.learn(64)
    with pytest.raises(CheckpointError, match="holds no frames: use the version of vlmreward that wrote it"):
        Run(dots, tmp_path, "dqn")


def test_checkpoint_of_another_network_is_refused(dots: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Run(dots, tmp_path, "ppo").learn(64)
    monkeypatch.setitem(SETTINGS, "ppo", {**SETTINGS["ppo"], "policy_kwargs": {"net_arch": [5]}})
    with pytest.raises(CheckpointError, match="does not fit the config's network") as caught:
        Run(dots, tmp_path, "ppo")
    assert "\n" not in str(caught.value)


def test_normaliser_must_agree(dots: Any, tmp_path: Path) -> None:
    Run(dots, tmp_path, "ppo").learn(64)
    with pytest.raises(CheckpointError, match="disagree on normalise_obs"):
        Run(dots, tmp_path, "ppo", normalise=True)


def test_no_file_of_a_checkpoint_is_a_pickle(dots: Any, tmp_path: Path) -> None:
    import zipfile

    Run(dots, tmp_path, "dqn").learn(64)
    files = [p for p in (tmp_path / "checkpoints").rglob("*") if p.is_file()]
    assert {p.suffix for p in files} == {".json", ".npz", ".safetensors", ""}
    for path in files:
        content = path.read_bytes()
        assert not content.startswith(b"\x80"), path  # the opcode that every pickle since protocol 2 begins with
        if path.suffix == ".npz":
            with zipfile.ZipFile(path) as archive:
                assert all(archive.read(name).startswith(b"\x93NUMPY") for name in archive.namelist())
                with np.load(path, allow_pickle=False) as arrays:
                    assert all(not arrays[name].dtype.hasobject for name in arrays.files)
