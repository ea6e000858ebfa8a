"""Rows of a replay buffer have the newest version of a reward that learns, and say which."""

from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from vlmreward.errors import NonFiniteError
from vlmreward.rewards.transform import RewardTransform
from vlmreward.testing.fakes import PixelEnv, ProjectionEncoder
from vlmreward.types import Context, FrameBatch, RewardBatch
from vlmreward.wrappers import Scorer, VecCaptureFrames
from vlmreward.wrappers.replay_buffer import ScoredReplayBuffer
from vlmreward.wrappers.score_table import INVALID, VALID

N_ENVS, DIM = 2, 24


class VersionedReward:
    """The first number of an embedding plus 10 for every version."""

    context: Context = "frame"
    causal = True
    range = (-1000.0, 1000.0)
    needs: tuple[str, ...] = ("embeddings",)
    learns = True

    def __init__(self) -> None:
        self.version = 0
        self.broken = False

    def compute_reward(self, batch: FrameBatch) -> RewardBatch:
        assert batch.embeddings is not None
        reward = batch.embeddings[:, 0].astype(np.float16).astype(np.float32) + 10 * self.version
        valid = np.full(len(batch), not self.broken)
        return RewardBatch(reward, valid, parts={"version": np.full(len(batch), self.version, np.float32)})


class Setup:
    """A vector environment, its buffer, and steps with random actions."""

    def __init__(self, size: int = 100, score_every: int = 8, **env: Any) -> None:
        self.model = VersionedReward()
        self.scorer = Scorer(ProjectionEncoder(), self.model, RewardTransform(normalise="running"), encode_batch=8)
        self.venv = VecCaptureFrames([lambda: PixelEnv(**env)] * N_ENVS, scorer=self.scorer)
        self.buffer = self.make(size, score_every)
        self.venv.seed(0)
        self.obs = self.venv.reset()
        self.rng = np.random.default_rng(0)

    def make(self, size: int = 100, score_every: int = 8) -> ScoredReplayBuffer:
        space, actions = self.venv.observation_space, self.venv.action_space
        assert isinstance(actions, spaces.Discrete)
        return ScoredReplayBuffer(
            size * N_ENVS, space, actions, n_envs=N_ENVS, scorer=self.scorer, score_every=score_every
        )

    def run(self, steps: int) -> None:
        for _ in range(steps):
            actions = self.rng.integers(0, 3, N_ENVS)
            obs, reward, done, infos = self.venv.step(actions)
            self.buffer.add(self.obs, obs, actions[:, None], reward, done, infos)
            self.obs = obs

    def versions(self) -> np.ndarray:
        assert self.buffer.relabelling is not None
        return self.buffer.relabelling.versions[: self.buffer.size()]

    def expected(self) -> np.ndarray:
        """What each row must say, worked out from the stored embeddings and versions."""
        assert self.buffer.relabelling is not None
        return self.buffer.relabelling.embeddings[..., 0].astype(np.float32) + 10 * self.buffer.relabelling.versions


@pytest.fixture
def setup():
    made = []

    def make(**kwargs):
        made.append(Setup(**kwargs))
        return made[-1]

    yield make
    for one in made:
        one.venv.close()
        one.scorer.close()


def check(s: Setup, version: int) -> None:
    valid = s.buffer.status == VALID
    assert valid.any()
    np.testing.assert_array_equal(s.buffer.rewards[valid], s.expected()[valid])
    assert (s.versions()[valid[: s.buffer.size()]] == version).all()


def test_rows_are_stamped_and_labelled_anew_before_they_are_sampled(setup):
    s = setup()
    s.run(10)
    s.buffer.score_now()
    check(s, 0)
    s.model.version = 1
    s.run(3)  # their frames may be scored by the new version, the others were by the old one
    s.buffer.sample(4)
    s.buffer.score_now()
    s.buffer.sample(4)
    check(s, 1)
    s.model.version = 5
    batch = s.buffer.sample(200)
    check(s, 5)
    valid = s.buffer.status == VALID
    raw = s.buffer.rewards[valid].astype(np.float64)
    # normalised by the statistics of what is in the buffer now, not of what was said before
    assert s.scorer.transform.stats.count == len(raw)
    assert s.scorer.transform.stats.mean == pytest.approx(raw.mean())
    learned = (raw - raw.mean()) / raw.std()
    assert set(np.round(batch.rewards[:, 0].tolist(), 3)) <= set(np.round(learned.astype(np.float32).tolist(), 3))


def test_rows_that_an_old_version_scored_late_are_labelled_anew(setup):
    s = setup(score_every=8)
    s.run(4)  # handed over, not taken in
    s.scorer.flush()
    s.model.version = 1
    s.buffer.relabel()  # there is nothing to label yet
    s.buffer.score_now()  # takes in what version 0 has said
    assert (s.versions() == 0).all()
    s.buffer.sample(4)
    check(s, 1)


def test_overwritten_rows_take_the_stamp_of_the_new_ones(setup):
    s = setup(size=6)
    s.run(6)
    s.model.version = 2
    s.buffer.sample(4)
    s.run(9)
    s.buffer.score_now()
    s.buffer.sample(4)
    check(s, 2)


def test_rows_without_a_frame_stay_invalid(setup):
    s = setup(black_steps=[2])
    s.run(8)
    s.buffer.score_now()
    invalid = s.buffer.status == INVALID
    assert invalid.sum() >= N_ENVS
    s.model.version = 1
    s.buffer.sample(50)
    np.testing.assert_array_equal(s.buffer.status == INVALID, invalid)
    assert (s.buffer.rewards[invalid] == 0).all()
    check(s, 1)


def test_saved_rows_are_labelled_anew_when_they_come_back(setup):
    s = setup()
    s.run(10)
    saved = s.buffer.rows_since(0)
    assert saved["embeddings"].dtype == np.float16
    s.model.version = 3
    again = s.make()
    again.restore_rows(saved)
    s.buffer = again
    again.sample(4)
    check(s, 3)


def test_a_version_that_takes_rewards_away_is_an_error(setup):
    s = setup()
    s.run(10)
    s.buffer.score_now()
    s.model.version, s.model.broken = 1, True
    with pytest.raises(NonFiniteError, match="version 1 of the reward gives rows no reward that had one"):
        s.buffer.sample(4)
