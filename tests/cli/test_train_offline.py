"""``train agent=iql`` and ``agent=bc``: run folders like those of other agents, from a dataset."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from vlmreward import data
from vlmreward.agents.checkpoint_tree import read_tree
from vlmreward.data.dataset import Transitions
from vlmreward.testing.datasets import ArrayEpisode, save_arrays

OFFLINE = ("dataset=recordings", "total_timesteps=20", "agent.hidden=[8]", "agent.batch_size=16", "run_dir=run")
IN_ENV = ("env=cartpole", "encoder=fake", "eval.episodes=1", "env.kwargs.max_episode_steps=20")
IQL = ("agent=iql", "labels=reward_vlm", *OFFLINE)


def save_recordings(folder: Path, poison: float = 0.0, success: bool | None = True, seed: int = 0) -> Path:
    """Write six episodes of the sizes of cart-pole; every fifth row has no label, and ``poison`` in its place."""
    rng = np.random.default_rng(seed)
    episodes = []
    for _ in range(6):
        label, valid = rng.random(10).astype(np.float32), np.arange(10) % 5 < 4
        columns = {
            "reward_vlm": np.where(valid, label, poison).astype(np.float32),
            "reward_vlm_valid": valid.astype(np.float32),
        }
        rows = Transitions(
            rng.normal(size=(11, 5)).astype(np.float32),
            rng.integers(0, 3, (10, 1)).astype(np.float32),
            rng.random(10).astype(np.float32),
            np.zeros(10, bool),
            np.arange(10) == 9,
        )
        episodes.append(ArrayEpisode(rows, columns, success))
    return save_arrays(folder, episodes)


@pytest.fixture(autouse=True)
def recordings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A dataset in the working directory, of a format that only this test knows."""
    monkeypatch.setattr(data._FORMATS, "_targets", {"arrays": "vlmreward.testing.datasets:FORMAT"})
    return save_recordings(tmp_path / "recordings")


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


def parameters(run: Path) -> dict[str, np.ndarray]:
    """Return the newest checkpoint's parameters."""
    (newest,) = sorted(run.glob("checkpoints/step_*"))[-1:]
    return {name: value.numpy() for name, value in read_tree(newest)["model"]["parameters"].items()}


def assert_same(one: Path, other: Path) -> None:
    first, second = parameters(one), parameters(other)
    assert first.keys() == second.keys()
    for name, value in first.items():
        np.testing.assert_array_equal(value, second[name], err_msg=name)


@pytest.mark.parametrize("agent", [IQL, ("agent=bc", *OFFLINE)], ids=["iql", "bc"])
def test_run_in_an_environment_is_evaluated_and_recorded_like_any_other(cli: Any, tmp_path: Path, agent: Any) -> None:
    outcome = cli("train", *agent, *IN_ENV)
    assert outcome.code == 0, outcome.err
    result = read(tmp_path / "run" / "result.json")
    assert result["timesteps"] == 20
    assert result["evaluation"]["episodes"] == 1
    assert result["evaluation"]["vlm_return"] is not None
    assert result["versions"]["torch"]
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [20]
    assert "train/policy_loss" in lines[0]
    outcome = cli("evaluate", "run=run", "episodes=2", "out=measured.json")
    assert outcome.code == 0, outcome.err
    assert read(tmp_path / "measured.json")["agent"]["name"] == result["agent"]["name"]
    assert cli("evaluate", "run=run", "episodes=2", "deterministic=false", "score=false", "out=b.json").code == 0
    outcome = cli("record", "run=run", "episodes=1", "formats=[gif]", "size=64")
    assert outcome.code == 0, outcome.err
    labels = "reward_vlm" if agent is IQL else "recorded"
    assert (tmp_path / "videos" / f"cartpole__{labels}__{agent[0].removeprefix('agent=')}__seed0.gif").is_file()


def test_rows_are_counted(cli: Any, tmp_path: Path) -> None:
    assert cli("train", *IQL).code == 0
    dataset = read(tmp_path / "run" / "result.json")["dataset"]
    counts = {key: dataset[key] for key in ("episodes", "rows", "rows_without_label", "rows_learned_from", "labels")}
    expected = {"episodes": 6, "rows": 60, "rows_without_label": 12, "rows_learned_from": 48, "labels": "reward_vlm"}
    assert counts == expected


def test_without_an_environment_it_trains_and_is_saved(cli: Any, tmp_path: Path) -> None:
    outcome = cli("train", *IQL)
    assert outcome.code == 0, outcome.err
    result = read(tmp_path / "run" / "result.json")
    assert (result["env"]["name"], result["evaluation"]) == ("none", None)
    outcome = cli("evaluate", "run=run")
    assert outcome.code == 2
    assert "has no environment to act in: train with env=<name>" in outcome.err


def test_environment_has_no_say_in_what_is_learned(cli: Any, tmp_path: Path) -> None:
    assert cli("train", *IQL, *IN_ENV).code == 0
    assert cli("train", *IQL, "agent.actions=choices", "run_dir=other").code == 0
    assert_same(tmp_path / "run", tmp_path / "other")


@pytest.mark.parametrize(
    "more",
    [("agent=iql",), ("agent=bc", "agent.episodes=top"), ("agent=bc", "agent.weights=progress", "agent.lookahead=3")],
)
def test_poison_in_invalid_rows_changes_no_bit(cli: Any, tmp_path: Path, more: Any) -> None:
    for number, poison in enumerate((0.0, float("nan"), 1e9)):
        save_recordings(tmp_path / f"d{number}", poison)
        rest = [setting for setting in IQL if not setting.startswith(("agent=", "run_dir", "dataset"))]
        outcome = cli("train", *more, *rest, f"dataset=d{number}", f"run_dir=r{number}", "agent.actions=choices")
        assert outcome.code == 0, outcome.err
    assert_same(tmp_path / "r0", tmp_path / "r1")
    assert_same(tmp_path / "r0", tmp_path / "r2")


def test_same_seed_same_weights(cli: Any, tmp_path: Path) -> None:
    for folder, seed in (("run", 0), ("again", 0), ("other", 1)):
        assert cli("train", *IQL, f"run_dir={folder}", f"seed={seed}").code == 0
    assert_same(tmp_path / "run", tmp_path / "again")
    with pytest.raises(AssertionError):
        assert_same(tmp_path / "run", tmp_path / "other")


def test_resumed_run_is_equal_to_one_that_was_not_stopped(cli: Any, tmp_path: Path) -> None:
    assert cli("train", *IQL, "total_timesteps=250").code == 0
    assert cli("train", *IQL, "total_timesteps=130", "run_dir=parts").code == 0
    outcome = cli("train", "resume=parts", "total_timesteps=250")
    assert outcome.code == 0, outcome.err
    assert "(from update 130)" in outcome.out
    assert_same(tmp_path / "run", tmp_path / "parts")
    steps = [json.loads(line)["step"] for line in (tmp_path / "parts" / "metrics.jsonl").read_text().splitlines()]
    assert steps == [100, 130, 200, 250]
    assert read(tmp_path / "parts" / "result.json")["timesteps"] == 250


def test_run_that_is_stopped_is_saved_and_gone_on_with(
    cli: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vlmreward.agents.iql import IQL as Agent
    from vlmreward.cli import train_offline

    sessions = []
    init, update = train_offline.OfflineSession.__init__, Agent.update

    def keep(self: Any, *arguments: Any) -> None:
        init(self, *arguments)
        sessions.append(self)

    def stop_at_seven(self: Any, batch: Any) -> Any:
        sessions[-1].stop.requested = sessions[-1].done == 6
        return update(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(train_offline.OfflineSession, "__init__", keep)
        patch.setattr(Agent, "update", stop_at_seven)
        outcome = cli("train", *IQL, "run_dir=parts")
    assert outcome.code == 130
    assert "interrupted, saved at update 7" in outcome.err
    assert cli("train", "resume=parts").code == 0
    assert cli("train", *IQL).code == 0
    assert_same(tmp_path / "run", tmp_path / "parts")


def test_dataset_that_has_changed_is_not_gone_on_with(cli: Any, tmp_path: Path, refused: Any, recordings: Path) -> None:
    assert cli("train", *IQL).code == 0
    (recordings / "arrays.npz").unlink()
    recordings.rmdir()
    save_recordings(recordings, seed=1)
    refused(cli("train", "resume=run", "total_timesteps=30"), "train", "has changed since run learned from it")


def test_default_length_and_name(cli: Any) -> None:
    outcome = cli("train", "agent=iql", "dataset=recordings", "--cfg")
    settings = yaml.safe_load(outcome.out)
    assert settings["total_timesteps"] == 20_000
    assert Path(settings["dataset"]).is_absolute()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (("agent=iql", "env=cartpole"), "agent=iql learns from a dataset: write dataset="),
        (("dataset=recordings", "env=cartpole"), "dataset is not used by agent=ppo"),
        (("dataset=recordings",), "dataset is not used by agent=ppo, which learns in an environment: use agent=bc or"),
        (("agent=sac", "env=none"), "env=none is for agents that learn from a dataset, got agent=sac"),
        ((*IQL, "n_envs=2"), "n_envs is not used by agent=iql"),
        ((*IQL, "eval.every=5"), "eval.every is not used by agent=iql"),
        ((*IQL, "audit=require"), "audit=off"),
        ((*IQL, "goal=a red cube"), "goal is what an agent is measured by in an environment"),
        ((*IQL, "dataset=nowhere"), "does not exist"),
        ((*IQL, "labels=reward_vlmm"), "has no column 'reward_vlmm'"),
        ((*IQL, "agent.expectil=0.8"), "iql has no hyper-parameter 'expectil': did you mean 'expectile'"),
        ((*IQL, "agent.expectile=1"), "agent.expectile of iql must be above 0 and below 1"),
        ((*IQL, "agent.actions=discrete"), "unknown agent.actions='discrete'"),
        (("agent=bc", "labels=reward_vlm", *OFFLINE), "labels=reward_vlm is not used by agent=bc with episodes=all"),
        ((*IQL, "env=mountaincar", "encoder=fake"), "choose the environment that it is of"),
    ],
)
def test_wrong_settings_are_one_line_and_leave_nothing(
    cli: Any, refused: Any, tmp_path: Path, settings: Any, words: str
) -> None:
    refused(cli("train", *settings), "train", words)
    assert not (tmp_path / "run").exists()
    assert not (tmp_path / "runs").exists()


def test_success_that_nobody_recorded_can_not_be_filtered_by(cli: Any, tmp_path: Path, refused: Any) -> None:
    save_recordings(tmp_path / "unknown", success=None)
    outcome = cli("train", "agent=bc", "agent.episodes=success", *OFFLINE, "dataset=unknown")
    refused(outcome, "train", "finds no successful episode (0 of 6 have a recorded outcome)")


def test_agents_are_listed(cli: Any) -> None:
    lines = cli("list", "agents").out.splitlines()
    assert any(line.startswith("iql") and "learns from a dataset" in line for line in lines)
    assert any(line.startswith("none") for line in cli("list", "envs").out.splitlines())
