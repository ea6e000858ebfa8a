from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from vlmreward.agents.catalogue import get_agent, list_agents
from vlmreward.agents.sb3 import load_algorithm, make_algorithm, prepare_env
from vlmreward.errors import ConfigError, UnknownNameError

SMALL: dict[str, dict[str, Any]] = {
    "rollout": {"n_steps": 16},
    "replay": {"buffer_size": 200, "learning_starts": 20},
    "step": {},
}
OWN: dict[str, dict[str, Any]] = {
    "recurrent_ppo": {"policy": "MlpLstmPolicy", "n_steps": 16},
    "ars": {"policy": "LinearPolicy", "n_delta": 2},
    "trpo": {"n_steps": 16, "batch_size": 16},
}


def build(dots: Any, name: str, n_envs: int = 2, scorer: Any = None, **settings: Any) -> tuple[Any, Any]:
    spec = get_agent(name)
    scorer = scorer or dots.scorer()
    venv = dots.venv(scorer, n_envs, continuous="Discrete" not in spec.actions)
    config = {"name": name, "policy": "MlpPolicy", **SMALL[spec.scoring], **OWN.get(name, {}), **settings}
    model = make_algorithm(config, prepare_env(venv, spec, False), scorer, seed=0)
    return model, scorer


ONLINE = [name for name in list_agents() if not get_agent(name).is_offline]


@pytest.mark.parametrize("name", [name for name in ONLINE if name != "maskable_ppo"])
def test_every_algorithm_learns_from_the_scored_reward(dots: Any, name: str) -> None:
    """What sits in the buffer after a short run is the model's reward of the frames, worked out from the state."""
    model, scorer = build(dots, name)
    model.learn(64, log_interval=None)
    spec = get_agent(name)
    if spec.scoring == "rollout":
        buffer = model.rollout_buffer
        env_reward = scorer.scores(int(buffer.tickets[0]), int(buffer.tickets[-1])).env_reward
        np.testing.assert_allclose(buffer.raw, np.cos((env_reward - 7) / 7), atol=1e-5)
        assert buffer.valid.all()
    elif spec.scoring == "replay":
        buffer = model.replay_buffer
        buffer.score_now()
        rows = slice(0, buffer.pos)
        np.testing.assert_allclose(buffer.rewards[rows], np.cos((buffer.env_rewards[rows] - 7) / 7), atol=1e-5)
        assert model._n_updates > 0
    else:
        assert scorer.stats()["rows"] >= 64
        assert scorer.transform.stats.count >= 64
    scorer.close()


def test_unscored_placeholder_would_be_seen(dots: Any) -> None:
    """The control of the test above: without our buffer the rewards are the placeholder."""
    from stable_baselines3 import DQN

    scorer = dots.scorer()
    model: Any = DQN("MlpPolicy", dots.venv(scorer, 2), learning_starts=1000, buffer_size=100)
    model.learn(40, log_interval=None)
    assert (model.replay_buffer.rewards[:20] == 0).all()
    scorer.close()


def test_time_limits_are_bootstrapped_and_true_ends_are_not(dots: Any) -> None:
    """SB3's own collection: what it learns from is the scored reward, and gamma V(last) more where a limit cut."""
    model, scorer = build(dots, "a2c", n_steps=25, gamma=0.5)
    values: list[float] = []

    class Constant(type(model.policy)):  # type: ignore[misc]
        def predict_values(self, obs: Any) -> Any:
            values.append(float(obs[0, 0]))
            return super().predict_values(obs) * 0 + 3.0

    model.policy.__class__ = Constant
    seen: dict[str, np.ndarray] = {}
    buffer = model.rollout_buffer
    finish = buffer.compute_returns_and_advantage

    def spy(*args: Any, **kwargs: Any) -> None:
        seen["bootstrap"] = buffer.rewards.copy()  # what SB3 has put there: nothing but the bootstrap
        finish(*args, **kwargs)
        seen["rewards"] = buffer.rewards.copy()

    buffer.compute_returns_and_advantage = spy
    model.learn(50, log_interval=None)
    cut = np.zeros((25, 2), bool)
    cut[dots.length - 1 :: dots.length] = True
    np.testing.assert_allclose(seen["bootstrap"], np.where(cut, 0.5 * 3.0, 0.0))
    scored = scorer.scores(0, 24)
    learned = scorer.transform.apply(scored.raw.reshape(-1), scored.env_reward.reshape(-1)).reshape(25, 2)
    np.testing.assert_allclose(seen["rewards"] - seen["bootstrap"], learned, atol=1e-5)
    scorer.close()


def test_n_step_returns_use_our_buffer(dots: Any) -> None:
    model, scorer = build(dots, "dqn", n_steps=3, gamma=0.9)
    assert type(model.replay_buffer).__name__ == "ScoredNStepReplayBuffer"
    assert (model.replay_buffer.n_steps, model.replay_buffer.gamma) == (3, 0.9)
    scorer.close()


def test_policy_arguments_reach_the_network(dots: Any) -> None:
    model, scorer = build(dots, "ppo", policy_kwargs={"net_arch": [7], "activation_fn": "relu"})
    assert model.policy.mlp_extractor.policy_net[0].out_features == 7
    scorer.close()


def test_action_noise_is_a_number(dots: Any) -> None:
    model, scorer = build(dots, "td3", action_noise=0.3)
    assert model.action_noise._sigma.tolist() == [pytest.approx(0.3)]
    scorer.close()


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        ("ppo", {"gama": 0.9}, "ppo has no hyper-parameter 'gama'"),
        ("ppo", {"policy": "MlpPolciy"}, "ppo refuses these settings: .*MlpPolciy"),
        ("ppo", {"policy": "CnnPolicy"}, "ppo refuses these settings"),
        ("dqn", {"train_freq": [1, "epoch"]}, "dqn refuses these settings"),
        ("dqn", {"optimize_memory_usage": True}, "lower buffer_size instead"),
        ("ppo", {"learning_rate": "x"}, "lin_<number>"),
        ("dqn", {"n_steps": 0}, "agent.n_steps of dqn must be at least 1, got 0"),
        ("dqn", {"replay_buffer_kwargs": 3}, "agent.replay_buffer_kwargs must be a mapping, got 3"),
    ],
)
def test_wrong_settings_are_one_line(dots: Any, name: str, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        build(dots, name, **settings)
    assert "\n" not in str(caught.value)


def test_wrong_actions_name_what_fits(dots: Any) -> None:
    scorer = dots.scorer()
    with pytest.raises(ConfigError, match="sac takes Box actions, the environment has Discrete: choose agent=a2c"):
        make_algorithm({"name": "sac", "policy": "MlpPolicy"}, dots.venv(scorer, 1), scorer, 0)
    scorer.close()


def test_unknown_algorithm_suggests_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="unknown agent 'pppo': did you mean 'ppo'"):
        get_agent("pppo")


@pytest.mark.parametrize("name", ONLINE)
def test_catalogue_agrees_with_the_classes(name: str) -> None:
    """Where an algorithm gets its reward, and the actions it takes, read from the class itself."""
    import inspect

    spec = get_agent(name)
    algorithm = load_algorithm(spec)
    arguments = inspect.signature(algorithm).parameters
    own_buffer = name in ("recurrent_ppo", "maskable_ppo")  # take a class, but one with more fields than ours
    takes = {"rollout_buffer_class": "rollout", "replay_buffer_class": "replay"}
    found = next((scoring for key, scoring in takes.items() if key in arguments), "step")
    assert spec.scoring == ("step" if own_buffer else found)
    source = next(
        s for cls in algorithm.__mro__ if "spaces." in (s := inspect.getsource(cls.__init__))
    )  # ddpg is a td3
    for kind in ("Box", "Discrete", "MultiDiscrete", "MultiBinary"):
        assert (f"spaces.{kind}," in source or f"spaces.{kind})" in source) == (kind in spec.actions), kind


def test_acting_only_needs_no_scorer_and_no_room(dots: Any) -> None:
    venv = dots.venv(dots.scorer(), 1, continuous=True)
    model: Any = make_algorithm({"name": "sac", "policy": "MlpPolicy"}, venv, None, 0)
    assert model.replay_buffer.buffer_size == 1
    assert model.predict(np.zeros(2, np.float32))[0].shape == (1,)
