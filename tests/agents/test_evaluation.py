from __future__ import annotations

import math
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec

from vlmreward.agents.evaluation import Episode, mean_interval, proportion, run_episodes, summarise
from vlmreward.agents.policies import HoldPolicy, RandomPolicy, ZeroPolicy
from vlmreward.errors import ConfigError, ConstantFrameError
from vlmreward.wrappers.scoring import FrameScorer


class GoRight:
    """Always moves right."""

    def __init__(self, n_envs: int) -> None:
        self.n_envs = n_envs
        self.started: list[tuple[int, int]] = []

    def start(self, slot: int, seed: int) -> None:
        self.started.append((slot, seed))

    def act(self, obs: Any) -> np.ndarray:
        assert obs.shape == (self.n_envs, 2)
        return np.full(self.n_envs, 2)


def start_of(dots: Any, seed: int) -> int:
    env = dots.Env()
    env.reset(seed=seed)
    return env.x


def test_episode_numbers_are_those_worked_out_by_hand(dots: Any) -> None:
    envs = [dots.Env() for _ in range(2)]
    scorer = FrameScorer(dots.Encoder(), dots.Reward(), 2)
    episodes = run_episodes(envs, GoRight(2), 5, 40, scorer, encode_batch=7)
    assert [e.seed for e in episodes] == [40, 41, 42, 43, 44]
    for episode in episodes:
        x = np.minimum(start_of(dots, episode.seed) + np.arange(1, dots.length + 1), 7)
        assert episode.env_rewards == x.tolist()
        assert episode.success == (x == 7).tolist()
        np.testing.assert_allclose(episode.vlm_rewards, np.cos((x - 7) / 7), atol=1e-6)
        assert episode.vlm_return == pytest.approx(np.cos((x - 7) / 7).sum(), abs=1e-5)


def test_episode_that_never_ends_is_refused(dots: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vlmreward.agents.evaluation.MOST_STEPS", dots.length - 1)
    with pytest.raises(ConfigError, match=r"not ended after 9 steps.*env\.kwargs\.max_episode_steps"):
        run_episodes([dots.Env()], GoRight(1), 1, 0)
    limited = dots.Env()
    limited.spec = EnvSpec("Dots-v0", max_episode_steps=50)
    assert run_episodes([limited], GoRight(1), 1, 0)[0].length == dots.length


@pytest.mark.parametrize(("n_envs", "encode_batch"), [(1, 256), (3, 1), (7, 16), (20, 64)])
def test_result_does_not_depend_on_how_many_run_side_by_side(dots: Any, n_envs: int, encode_batch: int) -> None:
    def run(count: int, batch: int) -> list[Episode]:
        envs = [dots.Env() for _ in range(count)]
        policy = RandomPolicy(envs[0].action_space, count)
        return run_episodes(envs, policy, 9, 3, FrameScorer(dots.Encoder(), dots.Reward(), count), batch)

    one, many = run(2, 100), run(n_envs, encode_batch)
    assert [e.env_rewards for e in one] == [e.env_rewards for e in many]
    assert [e.success for e in one] == [e.success for e in many]
    for a, b in zip(one, many, strict=True):
        np.testing.assert_allclose(a.vlm_rewards, b.vlm_rewards, atol=1e-6)


def test_without_scorer_nothing_is_rendered(dots: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dots.Env, "render", lambda self: pytest.fail("rendered"))
    episodes = run_episodes([dots.Env()], GoRight(1), 2, 0)
    assert summarise(episodes)["vlm_return"] is None
    assert summarise(episodes)["episodes_unscored"] is None


def test_environment_without_success_reports_null(dots: Any) -> None:
    episodes = run_episodes([dots.Env(states_success=False)], GoRight(1), 2, 0)
    assert summarise(episodes)["success"] is None


def test_success_is_that_of_the_last_step(dots: Any) -> None:
    """Right to the goal and away again is no success."""

    class ThereAndBack(GoRight):
        def act(self, obs: Any) -> np.ndarray:
            return np.where(obs[:, 1] < 7, 2, 0)

    env = dots.Env(length=8)
    episodes = run_episodes([env], ThereAndBack(1), 3, 0)
    assert all(True in e.success for e in episodes)
    assert summarise(episodes)["success"]["rate"] == 0.0


def test_frame_that_cannot_be_scored_is_never_a_number(dots: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    real = dots.Env.render

    def black_once(self: Any) -> np.ndarray:
        return np.zeros((8, 8, 3), np.uint8) if self.t == 4 and self.black else real(self)

    monkeypatch.setattr(dots.Env, "render", black_once)
    envs = [dots.Env(), dots.Env()]
    envs[0].black, envs[1].black = True, False
    episodes = run_episodes(envs, GoRight(2), 2, 0, FrameScorer(dots.Encoder(), dots.Reward(), 2))
    assert [math.isnan(r) for r in episodes[0].vlm_rewards] == [step == 4 for step in range(1, 11)]
    summary = summarise(episodes)
    assert summary["episodes_unscored"] == 1
    assert summary["vlm_return"]["n"] == 1
    assert summary["vlm_return"]["mean"] == pytest.approx(episodes[1].vlm_return)


@pytest.mark.parametrize(("count", "total"), [(0, 10), (10, 10), (3, 10), (95, 100), (1, 1), (0, 1), (500, 501)])
def test_wilson_interval_is_that_of_scipy(count: int, total: int) -> None:
    stats = pytest.importorskip("scipy.stats")
    expected = stats.binomtest(count, total).proportion_ci(method="wilson")
    interval = proportion(count, total)
    assert (interval["low"], interval["high"]) == pytest.approx((expected.low, expected.high), abs=1e-9)
    assert interval["rate"] == count / total


def test_wilson_interval_of_the_textbook() -> None:
    """81 of 263: 0.2553 to 0.3662 (Newcombe 1998, table I)."""
    interval = proportion(81, 263)
    assert (interval["low"], interval["high"]) == pytest.approx((0.2553, 0.3662), abs=5e-5)


def test_mean_interval_by_hand() -> None:
    result = mean_interval([1.0, 2.0, 3.0, 4.0])
    assert result["mean"] == 2.5
    assert result["std"] == pytest.approx(math.sqrt(5 / 3))
    assert result["high"] - 2.5 == pytest.approx(1.959964 * math.sqrt(5 / 3) / 2, abs=1e-6)
    assert mean_interval([2.0]) == {"mean": 2.0, "low": 2.0, "high": 2.0, "std": 0.0, "n": 1}


@pytest.mark.parametrize("batch", [2, 100])
def test_frame_that_the_renderer_refuses_leaves_its_episode_unscored(dots: Any, batch: int) -> None:
    class Flawed(dots.Env):
        def render(self) -> Any:
            if self.x == 5:
                raise ConstantFrameError("the picture is one constant colour")
            return super().render()

    episodes = run_episodes([Flawed()], GoRight(1), 6, 40, FrameScorer(dots.Encoder(), dots.Reward(), 1), batch)
    met_five = [start_of(dots, e.seed) + 1 <= 5 for e in episodes]
    assert any(met_five)
    assert [e.vlm_return is None for e in episodes] == met_five
    assert summarise(episodes)["episodes_unscored"] == sum(met_five)


def test_zero_policy_does_nothing(dots: Any) -> None:

    assert ZeroPolicy(gym.spaces.Discrete(3), 2).act(None).tolist() == [0, 0]
    assert ZeroPolicy(gym.spaces.Discrete(3, start=2), 1).act(None).tolist() == [2]
    box = gym.spaces.Box(np.array([-1.0, 0.5]), np.array([1.0, 2.0]), dtype=np.float64)
    assert ZeroPolicy(box, 1).act(None).tolist() == [[0.0, 0.5]]


def test_hold_policy_takes_the_action_that_the_environment_names(dots: Any) -> None:
    env = dots.Env()
    with pytest.raises(ConfigError, match="policy=hold needs an environment with a pose to hold"):
        HoldPolicy(env, 1)
    env.hold_action = np.array([0.5, -0.5])
    assert HoldPolicy(env, 2).act(None).tolist() == [[0.5, -0.5]] * 2
