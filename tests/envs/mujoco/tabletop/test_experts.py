"""Scripted policies: the expert succeeds, those that are to fail do, and all of them follow their seed."""

import gymnasium as gym
import numpy as np
import pytest

import vlmreward.envs  # noqa: F401  (registers)
from vlmreward.envs.mujoco.tabletop.env import TabletopEnv
from vlmreward.envs.mujoco.tabletop.experts import BEHAVIOURS, make_behaviour, make_expert
from vlmreward.envs.mujoco.tabletop.tasks import GOALS
from vlmreward.errors import ConfigError, UnknownNameError


def episode(env, policy, seed, steps=100):
    """Return the actions and the last info of an episode."""
    _, info = env.reset(seed=seed)
    policy.reset(env)
    actions = []
    for _ in range(steps):
        actions.append(policy.act(env))
        info = env.step(actions[-1])[4]
    return np.stack(actions), info


@pytest.mark.parametrize("task", list(GOALS))
def test_the_expert_succeeds_and_stays_there(task):
    env = TabletopEnv(task=task, render_mode=None)
    infos = [episode(env, make_expert(task), seed)[1] for seed in range(5)]
    assert [info["success"] for info in infos] == [True] * 5
    assert all(info["progress"] == 1 for info in infos)


@pytest.mark.parametrize("split", ["new_positions", "new_colours"])
@pytest.mark.parametrize("task", ["stack", "bin"])
def test_the_expert_knows_other_splits(task, split):
    env = TabletopEnv(task=task, render_mode=None, split=split)
    assert all(episode(env, make_expert(task), seed)[1]["success"] for seed in range(2))


@pytest.mark.parametrize("task", list(GOALS))
def test_near_comes_far_and_does_not_arrive_and_failed_does_not(task):
    env = TabletopEnv(task=task, render_mode=None)
    last = {}
    for name in ("near", "failed"):
        rng = np.random.default_rng(0)
        infos = [episode(env, make_behaviour(name, task, rng), seed)[1] for seed in range(4)]
        assert sum(info["success"] for info in infos) <= 1  # a miss may hit by accident
        last[name] = np.mean([info["progress"] for info in infos])
    assert last["failed"] < last["near"] < 1
    assert last["near"] > 0.5


def test_noise_lowers_success_and_zero_noise_is_the_plain_expert():
    env = TabletopEnv(task="stack", render_mode=None)
    rates = []
    for noise in (0.0, 0.3, 1.5):
        rng = np.random.default_rng(1)
        rates.append(np.mean([episode(env, make_expert("stack", noise, rng), s, 150)[1]["success"] for s in range(5)]))
    assert rates[0] == 1
    assert rates[2] < 0.5
    quiet, plain = (episode(env, p, 3)[0] for p in (make_expert("stack", 0.0), make_behaviour("expert", "stack", rng)))
    np.testing.assert_array_equal(quiet, plain)


@pytest.mark.parametrize("name", list(BEHAVIOURS))
def test_a_behaviour_follows_its_seed_and_gives_actions_of_the_space(name):
    env = TabletopEnv(task="bin", render_mode=None)
    first, second = (episode(env, make_behaviour(name, "bin", np.random.default_rng(7)), 2, 60)[0] for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert all(env.action_space.contains(action) for action in first)
    assert np.abs(first[:, :3]).max() > 0.1


def test_behaviours_are_of_different_quality():
    assert list(BEHAVIOURS) == ["expert", "noisy", "random", "failed", "near"]
    env = TabletopEnv(task="lift", render_mode=None)
    progress = {}
    for name in BEHAVIOURS:
        policies = [make_behaviour(name, "lift", np.random.default_rng(seed)) for seed in range(6)]
        infos = [episode(env, policy, seed)[1] for seed, policy in enumerate(policies)]
        progress[name] = np.mean([info["progress"] for info in infos])
    assert progress["expert"] == 1
    assert progress["expert"] > progress["near"] > progress["failed"] > progress["random"]


def test_policies_act_under_wrappers_and_refuse_other_environments():
    env = gym.make("vlmreward/Tabletop-v0", task="touch", render_mode=None)
    assert episode(env, make_expert("touch"), 0, 60)[1]["success"]
    env.close()
    other = gym.make("vlmreward/CartPole-v0")
    with pytest.raises(ConfigError, match="act in vlmreward/Tabletop-v0, got CartPoleEnv"):
        make_expert("touch").reset(other)
    other.close()


def test_wrong_names_and_numbers_are_named():
    with pytest.raises(UnknownNameError, match="unknown behaviour 'exprt': did you mean 'expert'"):
        make_behaviour("exprt", "lift", np.random.default_rng(0))
    with pytest.raises(UnknownNameError, match="unknown task 'lfit'"):
        make_behaviour("random", "lfit", np.random.default_rng(0))
    with pytest.raises(UnknownNameError, match="unknown task 'lfit'"):
        make_expert("lfit")
    with pytest.raises(ConfigError, match="noise must be at least 0, got -1"):
        make_expert("lift", -1)
    with pytest.raises(ConfigError, match="call reset"):
        make_expert("lift").act(TabletopEnv(render_mode=None))
