from __future__ import annotations

from typing import Any

import pytest
import torch

from vlmreward.cli.arguments import parse_arguments
from vlmreward.cli.build import Scoring, build_training, policy_device, set_threads
from vlmreward.cli.compose import compose
from vlmreward.cli.settings import TrainSettings, resolve
from vlmreward.errors import ConfigError
from vlmreward.rewards.transform import RewardTransform
from vlmreward.testing.fakes import LinearReward, ProjectionEncoder


def settle(*argv: str) -> TrainSettings:
    return resolve(
        compose("train", parse_arguments(["env=cartpole", "env.action_repeat=1", "agent=ppo", "n_envs=1", *argv]))
    )[0]


def build(*argv: str) -> Any:
    scoring = Scoring(ProjectionEncoder(), LinearReward(context="episode"), RewardTransform())
    return build_training(settle("agent.batch_size=50", *argv), scoring)


@pytest.mark.parametrize(
    ("cores", "beside_updates", "threads"), [(4, False, 4), (4, True, 2), (1, True, 1), (32, False, 8), (32, True, 8)]
)
def test_threads_are_halved_where_updates_run_beside_encoding(
    cores: int, beside_updates: bool, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    monkeypatch.setattr(torch, "get_num_threads", lambda: asked[-1] if asked else cores)
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    assert set_threads("auto", beside_updates) == threads
    assert set_threads(3, beside_updates) == 3


@pytest.mark.parametrize(
    "arguments",
    [
        ("agent.n_steps=200",),
        ("agent.n_steps=50", "env.kwargs.max_episode_steps=50"),
        ("agent.n_steps=100", "env.action_repeat=2"),
    ],
)
def test_whole_episodes_are_scored_where_every_rollout_holds_some(arguments: tuple[str, ...]) -> None:
    """CartPole's episodes have 200 steps."""
    training = build(*arguments)
    try:
        training.model.learn(training.model.n_steps, log_interval=None)
        assert training.model.rollout_buffer.valid.all()
    finally:
        training.close()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("agent.n_steps=150",), "n_steps=150 and episodes have 200 steps"),
        (("agent.n_steps=150", "env.action_repeat=2"), "n_steps=150 and episodes have 100 steps"),
        (("agent.n_steps=200", "env.kwargs.max_episode_steps=300"), "n_steps=200 and episodes have 300 steps"),
        (("agent.n_steps=200", "env.kwargs.max_episode_steps=-1"), "n_steps=200 and episodes can end early"),
    ],
)
def test_whole_episodes_are_refused_where_a_rollout_cuts_them(arguments: tuple[str, ...], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        build(*arguments)


@pytest.mark.parametrize(
    ("device", "expected"),
    [
        ("cuda:1", "cuda:1"),
        ("cuda:1,cuda:0", "cuda:1"),
        ("cuda", "cuda:0"),
        ("auto", "cuda:0"),
        ("cpu", "cpu"),
        ("cpu,cuda:1", "cpu"),
    ],
)
def test_policy_of_pictures_lives_on_the_first_device_asked_for(
    monkeypatch: pytest.MonkeyPatch, device: str, expected: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert policy_device(settle("agent.policy=CnnPolicy", f"device='{device}'")) == expected
    assert policy_device(settle(f"device='{device}'")) == "cpu"


def test_policy_of_pictures_lives_on_the_cpu_where_there_is_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert policy_device(settle("agent.policy=CnnPolicy", "device=auto")) == "cpu"
    with pytest.raises(ConfigError, match="cuda:1"):
        policy_device(settle("agent.policy=CnnPolicy", "device=cuda:1"))
