from __future__ import annotations

from typing import Any

import pytest
from stable_baselines3 import DQN, PPO, SAC, TD3, HerReplayBuffer
from torch import nn, optim

from vlmreward.agents.hyperparameters import check_hyperparameters
from vlmreward.errors import ConfigError


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"gama": 0.9}, "ppo has no hyper-parameter 'gama': did you mean 'gamma'"),
        ({"seed": 3}, "agent.seed is set by vlmreward: write seed="),
        ({"n_envs": 8}, "agent.n_envs is set by vlmreward: write n_envs="),
        ({"gamma": 5.0}, "agent.gamma of .* must be between 0 and 1, got 5"),
        ({"batch_size": 0}, "agent.batch_size of .* must be at least 1, got 0"),
        ({"rollout_buffer_class": "x"}, "agent.rollout_buffer_class is set by vlmreward"),
        ({"replay_buffer_class": "HerReplayBuffer"}, "HerReplayBuffer is not supported: it asks env.compute_reward"),
        ({"replay_buffer_class": HerReplayBuffer}, "HerReplayBuffer is not supported: it asks env.compute_reward"),
        ({"replay_buffer_class": "x"}, "agent.replay_buffer_class is set by vlmreward"),
        ({"n_steps": "many"}, "agent.n_steps of ppo must be a number such as 2048, got 'many'"),
        ({"n_steps": 10.5}, "agent.n_steps of ppo must be a whole number such as 2048, got 10.5"),
        ({"use_sde": 1}, "agent.use_sde of ppo must be true or false, got 1"),
        ({"learning_rate": "fast"}, "agent.learning_rate must be a number or lin_<number>, got 'fast'"),
        ({"policy_kwargs": [1]}, "agent.policy_kwargs must be a mapping"),
        ({"policy_kwargs": {"activation_fn": "rellu"}}, "activation_fn 'rellu' is unknown: did you mean 'relu'"),
    ],
)
def test_wrong_hyperparameter_is_refused(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        check_hyperparameters("ppo", PPO, given)


def test_names_become_classes() -> None:
    ready = check_hyperparameters(
        "ppo", PPO, {"policy_kwargs": {"activation_fn": "ELU", "optimizer_class": "adamw", "net_arch": [8, 8]}}
    )["policy_kwargs"]
    assert (ready["activation_fn"], ready["optimizer_class"], ready["net_arch"]) == (nn.ELU, optim.AdamW, [8, 8])


def test_given_config_is_left_as_it_is() -> None:
    given = {"policy_kwargs": {"activation_fn": "relu"}}
    check_hyperparameters("ppo", PPO, given)
    assert given == {"policy_kwargs": {"activation_fn": "relu"}}


def test_linear_schedule_falls_to_zero() -> None:
    schedule = check_hyperparameters("ppo", PPO, {"learning_rate": "lin_0.01"})["learning_rate"]
    assert [schedule(left) for left in (1.0, 0.5, 0.0)] == pytest.approx([0.01, 0.005, 0.0])


def test_other_yaml_forms() -> None:
    assert check_hyperparameters("sac", SAC, {"train_freq": [1, "episode"]})["train_freq"] == (1, "episode")
    assert check_hyperparameters("sac", SAC, {"ent_coef": "auto_0.1"})["ent_coef"] == "auto_0.1"
    assert check_hyperparameters("dqn", DQN, {"buffer_size": 10, "gamma": 1})["gamma"] == 1
    with pytest.raises(ConfigError, match="standard deviation of normal noise"):
        check_hyperparameters("td3", TD3, {"action_noise": "ou"})
