from __future__ import annotations

import math

import gymnasium as gym
import numpy as np
import pytest

from vlmreward.cli.environments import EnvFactory
from vlmreward.errors import ConfigError
from vlmreward.testing.fakes import PixelEnv
from vlmreward.wrappers.action_repeat import ActionRepeat

CARTPOLE = "vlmreward/CartPole-v0"


class Counts(gym.Wrapper):
    """Counts steps; the reward is the number of the step, so that a sum tells which steps are in it."""

    steps = 0

    def step(self, action):
        obs, _, terminated, truncated, info = self.env.step(action)
        self.steps += 1
        return obs, float(self.steps), terminated, truncated, {**info, "step": self.steps}


def test_action_is_held_rewards_are_summed_and_the_last_step_is_seen():
    env = ActionRepeat(Counts(PixelEnv(length=8)), 3)
    env.reset(seed=0)
    seen = [env.step(0) for _ in range(3)]
    assert [s[1] for s in seen] == [1 + 2 + 3, 4 + 5 + 6, 7 + 8]  # the episode ends inside the third
    assert [s[4]["step"] for s in seen] == [3, 6, 8]
    assert [s[2] or s[3] for s in seen] == [False, False, True]


@pytest.mark.parametrize("repeat", [1, 2, 3])
def test_state_follows_the_environment_stepped_by_hand(repeat):
    kwargs = {"task": "left"}  # pushing left most of the time reaches it, so that the success is seen to turn true
    repeated, by_hand = EnvFactory(CARTPOLE, kwargs, repeat)(), EnvFactory(CARTPOLE, kwargs)()
    obs, _ = repeated.reset(seed=4)
    np.testing.assert_array_equal(obs, by_hand.reset(seed=4)[0])
    rng = np.random.default_rng(0)
    actions, ended, successes = 0, False, set()
    while not ended:
        action = int(rng.choice(3, p=[0.1, 0.8, 0.1]))
        obs, reward, terminated, truncated, info = repeated.step(action)
        actions, ended = actions + 1, terminated or truncated
        steps = [by_hand.step(action) for _ in range(min(repeat, 200 - repeat * (actions - 1)))]
        expected = steps[-1]
        np.testing.assert_array_equal(obs, expected[0])
        assert (terminated, truncated, info["success"]) == (*expected[2:4], expected[4]["success"])
        assert reward == pytest.approx(sum(float(step[1]) for step in steps))
        successes.add(info["success"])
        np.testing.assert_array_equal(repeated.render(), by_hand.render())
    assert successes == {True, False}
    assert actions == math.ceil(200 / repeat)


def test_films_run_at_the_pace_of_the_frames_that_are_seen():
    env = PixelEnv()
    assert ActionRepeat(env, 2).metadata["render_fps"] == env.metadata["render_fps"] / 2
    assert env.metadata["render_fps"] == 30


@pytest.mark.parametrize("repeat", [0, -1, 1.5, True, "2"])
def test_other_numbers_are_refused(repeat):
    with pytest.raises(ConfigError, match="action_repeat must be a whole number >= 1"):
        ActionRepeat(PixelEnv(), repeat)
