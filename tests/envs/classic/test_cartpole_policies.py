from collections.abc import Callable

import numpy as np
import pytest

from vlmreward.envs.classic.cartpole import CartPoleEnv
from vlmreward.envs.classic.cartpole_policies import hang, swing_up

EPISODES = 40


def ends(act: Callable[[np.ndarray], int]) -> tuple[float, float]:
    """Return how often the pole stands after 200 steps from any start, and the mean cosine of its angle."""
    env = CartPoleEnv(task="upright", render_mode=None)
    standing, cosine = [], []
    for seed in range(EPISODES):
        obs, _ = env.reset(seed=seed)
        for _ in range(200):
            obs, *_ = env.step(act(obs))
        standing.append(env.holds("upright"))
        cosine.append(np.cos(env.state[2]))
    return float(np.mean(standing)), float(np.mean(cosine))


def test_one_makes_the_pole_stand_and_one_takes_it_down() -> None:
    (up, _), (idle, between), (_, down) = ends(swing_up), ends(lambda obs: 0), ends(hang)
    assert up > 0.5
    assert idle < 0.2
    assert down < between - 0.2


@pytest.mark.parametrize("task", ["upright", "left"])
def test_environment_names_them_whatever_its_task(task: str) -> None:
    env = CartPoleEnv(task=task, render_mode=None)
    obs, _ = env.reset(seed=1)
    assert list(env.scripted_policies) == ["swing_up", "hang"]
    for name, policy in (("swing_up", swing_up), ("hang", hang)):
        act = env.scripted_policies[name](env, np.random.default_rng(0))
        assert act().item() == policy(obs)
