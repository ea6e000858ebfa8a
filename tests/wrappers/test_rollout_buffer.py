from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3.common.buffers import RolloutBuffer

from vlmreward.errors import ConfigError, RenderingError
from vlmreward.rewards.transform import RewardTransform
from vlmreward.testing.fakes import LinearReward
from vlmreward.wrappers.rollout_buffer import (
    ScoredDictRolloutBuffer,
    ScoredRolloutBuffer,
    choose_rollout_buffer,
    compute_gae,
)
from vlmreward.wrappers.scorer import Scores

OBS = spaces.Box(0, 100, (1,), np.float32)
ACTIONS = spaces.Discrete(2)


class KnownScorer:
    """Gives rewards that the test has written down."""

    def __init__(self, raw, valid=None, env_reward=None, scored=None, transform=None):
        self.raw = np.array(raw, np.float32)
        self.valid = np.ones(self.raw.shape, bool) if valid is None else np.array(valid, bool)
        self.env_reward = np.zeros_like(self.raw) if env_reward is None else np.array(env_reward, np.float32)
        self.scored = np.ones(self.raw.shape, bool) if scored is None else np.array(scored, bool)
        self.transform = transform or RewardTransform()
        self.reward_model = LinearReward()
        self.last_ticket = 99
        self.asked = []
        self.history = 0

    def require_history(self, tickets):
        self.history = max(self.history, tickets)

    def scores(self, first, last):
        self.asked.append((first, last))
        rows = slice(first - 100, last - 99)
        raw, env_reward = self.raw[rows], self.env_reward[rows]
        step, parts = np.zeros(raw.shape, np.int64), np.zeros((*raw.shape, 0), np.float32)
        return Scores(raw, self.valid[rows], env_reward, self.scored[rows], step, parts)

    def stats(self):
        return {"reasons": {"constant frame": 1}}


def fill(buffer, scorer, values, bootstraps=None, starts=None):
    """Add what an algorithm would: the reward is the bootstrap of a time limit, else 0."""
    values = np.array(values, np.float32)
    n_envs = values.shape[1]
    for row in range(len(values)):
        scorer.last_ticket += 1
        obs = np.full((n_envs, 1), 10 * row, np.float32) + np.arange(n_envs, dtype=np.float32)[:, None]
        if isinstance(buffer, ScoredDictRolloutBuffer):
            obs = {"x": obs, "y": obs + 1}
        reward = np.zeros(n_envs) if bootstraps is None else np.array(bootstraps[row], float)
        start = np.zeros(n_envs) if starts is None else np.array(starts[row], float)
        action = np.zeros((n_envs, 1), int)
        buffer.add(obs, action, reward, start, th.tensor(values[row]), th.zeros(n_envs))


# Worked out by hand with gamma = lambda = 1/2: delta = r + V'/2 - V, A = delta + A'/4.
# Environment 0: no episode ends, the state after the last row has value 8, row 2 is invalid.
#   row 3: 4 + 8/2 - 4 = 4              A = 4
#   row 2: invalid                      A = 0, nothing is carried over it
#   row 1: 2 + 3/2 - 2 = 1.5            A = 1.5
#   row 0: 1 + 2/2 - 1 = 1              A = 1 + 1.5/4 = 1.375
# Environment 1: row 1 ends at a time limit whose state has value 6, bootstrap 6/2 = 3; row 3 is a true end.
#   row 3: 1 - 2 = -1                   A = -1
#   row 2: 1 + 2/2 - 2 = 0              A = -1/4
#   row 1: 1 + 3 - 2 = 2                A = 2
#   row 0: 1 + 2/2 - 2 = 0              A = 2/4
RAW = [[1, 1], [2, 1], [77, 1], [4, 1]]
VALID = [[1, 1], [1, 1], [0, 1], [1, 1]]
VALUES = [[1, 2], [2, 2], [3, 2], [4, 2]]
BOOTSTRAPS = [[0, 0], [0, 3], [0, 0], [0, 0]]
STARTS = [[0, 0], [0, 0], [0, 1], [0, 0]]
ADVANTAGES = [[1.375, 0.5], [1.5, 2], [0, -0.25], [4, -1]]


def by_hand(space: spaces.Space = OBS, cls: Any = ScoredRolloutBuffer, **kwargs):
    scorer: Any = KnownScorer(RAW, VALID, **kwargs)
    buffer = cls(4, space, ACTIONS, gamma=0.5, gae_lambda=0.5, n_envs=2, scorer=scorer)
    fill(buffer, scorer, VALUES, BOOTSTRAPS, STARTS)
    return scorer, buffer


def test_advantages_and_returns_equal_hand_numbers():
    scorer, buffer = by_hand()
    buffer.compute_returns_and_advantage(th.tensor([8.0, 5.0]), np.array([False, True]))
    np.testing.assert_array_equal(buffer.advantages, ADVANTAGES)
    valid = np.array(VALID, bool)
    np.testing.assert_array_equal(buffer.returns[valid], (np.array(ADVANTAGES) + VALUES)[valid])
    assert scorer.asked == [(100, 103)]
    assert scorer.history == 4


def test_second_call_does_not_add_the_rewards_twice():
    scorer, buffer = by_hand()
    for _ in range(2):
        buffer.compute_returns_and_advantage(th.tensor([8.0, 5.0]), np.array([False, True]))
    np.testing.assert_array_equal(buffer.advantages, ADVANTAGES)
    assert len(scorer.asked) == 1


def test_next_rollout_starts_afresh():
    scorer, buffer = by_hand()
    buffer.compute_returns_and_advantage(th.tensor([8.0, 5.0]), np.array([False, True]))
    list(buffer.get())
    buffer.reset()
    scorer.last_ticket = 99
    buffer._newest = 99
    fill(buffer, scorer, VALUES, BOOTSTRAPS, STARTS)
    buffer.compute_returns_and_advantage(th.tensor([8.0, 5.0]), np.array([False, True]))
    np.testing.assert_array_equal(buffer.advantages, ADVANTAGES)


@pytest.mark.parametrize("batch_size", [None, 1, 3, 7, 50])
@pytest.mark.parametrize("dict_obs", [False, True])
def test_minibatches_hold_each_valid_row_once_and_no_invalid_one(batch_size, dict_obs):
    space = spaces.Dict({"x": OBS, "y": OBS}) if dict_obs else OBS
    _, buffer = by_hand(space, choose_rollout_buffer(space))
    buffer.compute_returns_and_advantage(th.tensor([8.0, 5.0]), np.array([False, True]))
    for _ in range(2):  # several epochs
        batches = list(buffer.get(batch_size))
        seen = {}
        for batch in batches:
            assert len(batch.returns) <= (batch_size or 7)
            names = batch.observations["x"] if dict_obs else batch.observations
            for name, advantage, value in zip(names, batch.advantages, batch.old_values, strict=True):
                seen[int(name)] = (float(advantage), float(value))
        # Observations are 10 * row + environment; row 2 of environment 0 is missing.
        assert seen == {
            10 * row + env: (ADVANTAGES[row][env], VALUES[row][env])
            for row in range(4)
            for env in range(2)
            if VALID[row][env]
        }
        assert sum(len(batch.returns) for batch in batches) == 7


def reference_advantages(rewards, values, starts, valid, last_values, dones, gamma, lam):
    """SB3's own buffer, run on every stretch between invalid rows by itself."""
    n, n_envs = rewards.shape
    result = np.zeros_like(rewards)
    for env in range(n_envs):
        edges = [-1, *np.flatnonzero(~valid[:, env]), n]
        for before, end in pairwise(edges):
            rows = range(before + 1, end)
            if not rows:
                continue
            buffer = RolloutBuffer(len(rows), OBS, ACTIONS, gamma=gamma, gae_lambda=lam, n_envs=1)
            for row in rows:
                buffer.add(
                    np.zeros((1, 1)),
                    np.zeros((1, 1)),
                    rewards[row, [env]],
                    starts[row, [env]],
                    th.tensor(values[row, [env]]),
                    th.zeros(1),
                )
            if end == n:
                last, done = last_values[[env]], dones[[env]]
            else:
                last, done = values[end, [env]], starts[end, [env]].astype(bool)
            buffer.compute_returns_and_advantage(th.tensor(last), done)
            result[list(rows), env] = buffer.advantages[:, 0]
    return result


@given(
    st.integers(0, 100_000), st.integers(1, 12), st.integers(1, 3), st.floats(0, 1), st.floats(0, 1), st.floats(0, 1)
)
@settings(max_examples=100, deadline=None)
def test_gae_is_that_of_each_stretch_between_invalid_rows(seed, n, n_envs, gamma, lam, invalid_share):
    rng = np.random.default_rng(seed)
    rewards, values = rng.normal(size=(2, n, n_envs)).astype(np.float32)
    starts = (rng.random((n, n_envs)) < 0.2).astype(np.float32)
    valid = rng.random((n, n_envs)) >= invalid_share
    last, dones = rng.normal(size=n_envs).astype(np.float32), rng.random(n_envs) < 0.3
    got = compute_gae(rewards, values, starts, valid, last, dones, gamma, lam)
    want = reference_advantages(rewards, values, starts, valid, last, dones, gamma, lam)
    np.testing.assert_allclose(got, want, atol=1e-5)
    assert (got[~valid] == 0).all()


def test_transform_is_updated_once_before_it_is_applied_and_never_touches_the_bootstrap():
    """Valid rewards 1, 2, 4, 1, 1, 1, 1: mean 11/7; the bootstrap of 3 is neither normalised nor scaled."""
    transform = RewardTransform(scale=10, normalise="running")
    _, buffer = by_hand(transform=transform)
    buffer.compute_returns_and_advantage(th.tensor([8.0, 5.0]), np.array([False, True]))
    assert transform.stats.count == 7
    values = np.array([1, 2, 4, 1, 1, 1, 1])
    want = 10 * (np.array(RAW) - values.mean()) / values.std() + BOOTSTRAPS
    valid = np.array(VALID, bool)
    np.testing.assert_allclose(buffer.rewards[valid], want[valid], rtol=1e-5)
    np.testing.assert_array_equal(buffer.raw, RAW)


def test_environment_reward_is_added_when_asked_for():
    env_reward = [[5, 6], [7, 8], [9, 10], [11, 12]]
    _, buffer = by_hand(env_reward=env_reward, transform=RewardTransform(scale=2, combine="add", env_weight=0.5))
    buffer.compute_returns_and_advantage(th.tensor([8.0, 5.0]), np.array([False, True]))
    want = 2 * np.array(RAW) + 0.5 * np.array(env_reward) + BOOTSTRAPS
    valid = np.array(VALID, bool)
    np.testing.assert_array_equal(buffer.rewards[valid], want[valid])
    assert buffer.rewards[2, 0] == 0


def test_rollout_without_a_valid_row_is_an_error():
    scorer: Any = KnownScorer(RAW, np.zeros((4, 2)))
    buffer = ScoredRolloutBuffer(4, OBS, ACTIONS, n_envs=2, scorer=scorer)
    fill(buffer, scorer, VALUES)
    with pytest.raises(RenderingError, match=r"none of the rollout's 8 frames could be scored \(constant frame\)"):
        buffer.compute_returns_and_advantage(th.zeros(2), np.zeros(2, bool))


def test_rollout_that_cuts_an_episode_of_a_whole_episode_model_is_an_error():
    scorer: Any = KnownScorer(RAW, VALID, scored=[[1, 1], [1, 1], [1, 0], [1, 0]])
    buffer = ScoredRolloutBuffer(4, OBS, ACTIONS, n_envs=2, scorer=scorer)
    fill(buffer, scorer, VALUES)
    with pytest.raises(ConfigError, match="2 rows of the rollout belong to running episodes"):
        buffer.compute_returns_and_advantage(th.zeros(2), np.zeros(2, bool))


def test_environment_of_another_scorer_is_noticed():
    scorer: Any = KnownScorer(RAW)
    buffer = ScoredRolloutBuffer(4, OBS, ACTIONS, n_envs=2, scorer=scorer)
    with pytest.raises(ConfigError, match="a step that its scorer has not seen"):
        buffer.add(np.zeros((2, 1)), np.zeros((2, 1)), np.zeros(2), np.zeros(2), th.zeros(2), th.zeros(2))
    fill(buffer, scorer, VALUES[:1])
    with pytest.raises(ConfigError, match="a step that its scorer has not seen"):
        buffer.add(np.zeros((2, 1)), np.zeros((2, 1)), np.zeros(2), np.zeros(2), th.zeros(2), th.zeros(2))
