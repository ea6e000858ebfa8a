from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from vlmreward.errors import CheckpointError, ConfigError, RenderingError
from vlmreward.rewards.shaping import LagrangeWeights
from vlmreward.rewards.transform import RewardTransform
from vlmreward.testing.fakes import LinearReward
from vlmreward.types import Context
from vlmreward.wrappers.replay_buffer import (
    ScoredDictReplayBuffer,
    ScoredNStepReplayBuffer,
    ScoredReplayBuffer,
    choose_replay_buffer,
)
from vlmreward.wrappers.score_table import INVALID, UNSCORED, VALID
from vlmreward.wrappers.scorer import Scores

OBS = spaces.Box(0, 10_000, (1,), np.float32)
ACTIONS = spaces.Box(-1, 1, (1,), np.float32)


class KnownScorer:
    """The reward of ticket t in environment e is 10 * t + e, the environment's own its negative, any part its half."""

    def __init__(self, n_envs=1, invalid=(), starts=(0,), unscored=(), context: Context = "frame", transform=None):
        self.n_envs, self.invalid, self.starts, self.unscored = n_envs, set(invalid), set(starts), set(unscored)
        self.transform = transform or RewardTransform()
        self.reward_model = LinearReward(context=context)
        self.log = []

    def require_history(self, tickets):
        pass

    def post(self):
        self.log.append("post")

    def scores(self, first, last):
        self.log.append((first, last))
        tickets = np.arange(first, last + 1)
        raw = (10 * tickets[:, None] + np.arange(self.n_envs)).astype(np.float32)
        valid, scored = np.ones(raw.shape, bool), np.ones(raw.shape, bool)
        step = np.where(np.isin(tickets, list(self.starts)), 1, 2)[:, None] * np.ones(self.n_envs, np.int64)
        for ticket in tickets:
            for env in range(self.n_envs):
                if (ticket, env) in self.unscored:
                    scored[ticket - first, env] = False
                elif ticket in self.invalid or (ticket, env) in self.invalid:
                    valid[ticket - first, env] = False
        raw[~valid | ~scored] = 0
        parts = np.repeat(raw[..., None] / 2, len(self.transform.parts), axis=2)
        return Scores(raw, valid & scored, -raw, scored, step, parts)

    def stats(self):
        return {"reasons": {"constant frame": 1}}


def add(buffer, ticket, done=False, truncated=False):
    """Add the step of a ticket: observation 10 * ticket + environment, next observation 5 more."""
    n_envs = buffer.n_envs
    obs = 10 * ticket + np.arange(n_envs, dtype=np.float32)[:, None]
    next_obs = obs + 5
    if isinstance(buffer, ScoredDictReplayBuffer):
        obs, next_obs = {"x": obs, "y": obs + 1000}, {"x": next_obs, "y": next_obs + 1000}
    infos = [
        {"score_ticket": ticket, "env_reward": -10.0 * ticket - env, "TimeLimit.truncated": truncated}
        for env in range(n_envs)
    ]
    buffer.add(obs, next_obs, np.zeros((n_envs, 1)), np.zeros(n_envs), np.full(n_envs, done or truncated), infos)


def make(size, scorer: Any, cls: Any = ScoredReplayBuffer, space: spaces.Space = OBS, **kwargs):
    return cls(size * scorer.n_envs, space, ACTIONS, n_envs=scorer.n_envs, scorer=scorer, **kwargs)


def sampled(buffer, number=500, dict_obs=False):
    batch = buffer.sample(number)
    names = batch.observations["x"] if dict_obs else batch.observations
    return dict(zip(names[:, 0].int().tolist(), batch.rewards[:, 0].tolist(), strict=True)), batch


def test_scores_are_handed_over_every_score_every_transitions_and_taken_in_at_the_next():
    scorer = KnownScorer(n_envs=2)
    buffer = make(100, scorer, score_every=6)
    events = []
    for ticket in range(12):
        add(buffer, ticket)
        events.append((len(scorer.log), int((buffer.status == VALID).sum())))
    # 6 transitions are 3 steps of 2 environments: post at steps 2, 5, 8, 11; take in what was posted before.
    assert scorer.log == ["post", (0, 2), "post", (3, 5), "post", (6, 8), "post"]
    assert [ready for _, ready in events] == [0] * 5 + [6] * 3 + [12] * 3 + [18]


def test_sampling_gives_only_rows_whose_reward_is_known_and_valid():
    scorer = KnownScorer(n_envs=2, invalid=[1, (3, 0)])
    buffer = make(100, scorer, score_every=4)
    for ticket in range(9):
        add(buffer, ticket)
    known, batch = sampled(buffer)
    # posted at steps 1, 3, 5, 7 and taken in up to 5; ticket 1 and environment 0 of ticket 3 are invalid
    want = {10 * t + e for t in range(6) for e in range(2)} - {10, 11, 30}
    assert known == {name: float(name) for name in want}
    np.testing.assert_array_equal(batch.next_observations, batch.observations + 5)
    assert buffer.status[1].tolist() == [INVALID, INVALID]
    assert buffer.status[8].tolist() == [UNSCORED, UNSCORED]


@pytest.mark.parametrize("invalid_share", [0.0, 0.5, 0.97])
def test_sampling_is_uniform_over_rows_and_environments(invalid_share):
    """Both ways of drawing: by rejection, and from a list when few rows can be sampled."""
    rng = np.random.default_rng(0)
    invalid = [(t, e) for t in range(100) for e in range(2) if rng.random() < invalid_share]
    scorer = KnownScorer(n_envs=2, invalid=invalid)
    buffer = make(150, scorer)
    for ticket in range(100):
        add(buffer, ticket)
    buffer.score_now()
    np.random.seed(0)
    drawn = buffer._draw(40_000)
    counts = np.bincount(drawn, minlength=300).reshape(150, 2)
    assert (counts[buffer.status != VALID] == 0).all()
    good = counts[buffer.status == VALID]
    expected = 40_000 / len(good)
    chi2 = ((good - expected) ** 2 / expected).sum()
    assert chi2 < len(good) + 5 * np.sqrt(2 * len(good)) + 5  # five standard deviations


def test_nothing_ready_is_scored_at_once():
    scorer = KnownScorer()
    buffer = make(100, scorer, score_every=64)
    for ticket in range(5):
        add(buffer, ticket)
    assert sampled(buffer)[0] == {10 * t: 10.0 * t for t in range(5)}
    assert scorer.log == [(0, 4)]
    sampled(buffer)
    assert scorer.log == [(0, 4)]  # what is ready is enough


def test_late_scores_of_an_overwritten_row_are_dropped():
    scorer = KnownScorer(invalid=[1])
    buffer = make(4, scorer, score_every=100)
    for ticket in range(7):  # rows now hold tickets 4, 5, 6, 3
        add(buffer, ticket)
    assert sampled(buffer)[0] == {40: 40.0, 50: 50.0, 60: 60.0, 30: 30.0}
    assert scorer.log == [(3, 6)]
    assert buffer._n_valid == 4
    add(buffer, 7)  # overwrites ticket 3, a valid row
    assert buffer._n_valid == 3
    assert sampled(buffer)[0] == {40: 40.0, 50: 50.0, 60: 60.0}


def test_scores_that_were_posted_before_their_row_was_overwritten_are_dropped():
    scorer = KnownScorer()
    buffer = make(3, scorer, score_every=2)
    for ticket in range(5):
        add(buffer, ticket)
        ready = buffer.status[:, 0] == VALID
        np.testing.assert_array_equal(buffer.rewards[ready, 0], 10 * buffer.tickets[ready])
        assert buffer._n_valid == ready.sum()
    buffer.score_now()
    np.testing.assert_array_equal(buffer.rewards[:, 0], 10 * buffer.tickets)


def test_transform_is_applied_when_sampling_with_the_statistics_of_then():
    transform = RewardTransform(scale=2, normalise="running", combine="add", env_weight=0.5)
    buffer = make(10, KnownScorer(invalid=[2], transform=transform), score_every=2)
    for ticket in range(4):
        add(buffer, ticket)
    # taken in: tickets 0 and 1, raw 0 and 10, mean 5, deviation 5; the environment's own are 0 and -10
    assert transform.stats.count == 2
    assert sampled(buffer)[0] == {0: pytest.approx(-2), 10: pytest.approx(2 - 5)}
    buffer.score_now()  # 30 comes in, 20 is invalid: mean 40/3
    values = np.array([0, 10, 30])
    assert sampled(buffer)[0] == {
        int(v): pytest.approx(2 * (v - values.mean()) / values.std() - 0.5 * v, abs=1e-5) for v in values
    }
    assert buffer.rewards[:4, 0].tolist() == [0, 10, 0, 30]  # what is stored stays raw
    np.testing.assert_array_equal(buffer.env_rewards[:4, 0], [0, -10, -20, -30])


def test_dictionary_observations():
    space = spaces.Dict({"x": OBS, "y": OBS})
    buffer = make(10, KnownScorer(n_envs=2, invalid=[1]), choose_replay_buffer(space), space)
    for ticket in range(3):
        add(buffer, ticket)
    known, batch = sampled(buffer, dict_obs=True)
    assert known == {0: 0.0, 1: 1.0, 20: 20.0, 21: 21.0}
    np.testing.assert_array_equal(batch.observations["y"], batch.observations["x"] + 1000)
    np.testing.assert_array_equal(batch.next_observations["y"], batch.observations["x"] + 1005)


def test_time_limit_does_not_end_the_task_and_a_true_end_does():
    buffer = make(10, KnownScorer(starts=(0, 1, 2)))
    add(buffer, 0, done=True)
    add(buffer, 1, truncated=True)
    add(buffer, 2)
    batch = buffer.sample(200)
    ends = dict(zip(batch.observations[:, 0].int().tolist(), batch.dones[:, 0].tolist(), strict=True))
    assert ends == {0: 1.0, 10: 0.0, 20: 0.0}


def test_whole_episode_model_rows_wait_for_their_episode():
    scorer = KnownScorer(n_envs=2, context="episode", unscored=[(t, 1) for t in range(4)])
    buffer = make(50, scorer, score_every=4)
    for ticket in range(4):
        add(buffer, ticket)
    buffer.score_now()
    assert sampled(buffer)[0] == {10 * t: 10.0 * t for t in range(4)}
    assert buffer.rows_since(0)["actions"].shape[0] == 0  # nothing is final
    scorer.unscored.clear()
    buffer.score_now()
    assert sampled(buffer)[0] == {10 * t + e: 10.0 * t + e for t in range(4) for e in range(2)}
    assert buffer.scorer.transform.stats.count == 0
    assert len(buffer.rows_since(0)["actions"]) == 4


def test_late_scores_of_a_whole_episode_do_not_reach_rows_that_were_overwritten():
    scorer = KnownScorer(n_envs=2, context="episode", unscored=[(0, 1)])
    buffer = make(4, scorer, score_every=2)
    for ticket in range(6):  # rows hold tickets 4, 5, 2, 3
        add(buffer, ticket)
    scorer.unscored.clear()
    buffer.score_now()
    np.testing.assert_array_equal(buffer.rewards, [[40, 41], [50, 51], [20, 21], [30, 31]])
    assert buffer._n_valid == 8


# n-step returns by hand, gamma = 1/2, three steps, reward of ticket t is 10 * t.


def nstep(size, tickets, events=(), **kwargs):
    """A buffer with these tickets; returns {observation: (return, next observation, done, discount)}."""
    scorer = KnownScorer(**kwargs)
    buffer = make(size, scorer, ScoredNStepReplayBuffer, n_steps=3, gamma=0.5, score_every=1000)
    events = dict(events)
    for ticket in tickets:
        add(buffer, ticket, done=events.get(ticket) == "end", truncated=events.get(ticket) == "limit")
    buffer.score_now()
    return buffer, nstep_samples(buffer)


def nstep_samples(buffer: Any):
    batch = buffer.sample(400)
    columns = (batch.observations, batch.rewards, batch.next_observations, batch.dones, batch.discounts)
    return {int(o): (float(r), float(n), float(d), float(g)) for o, r, n, d, g in zip(*columns, strict=True)}


def test_nstep_returns_stop_at_ends_limits_and_the_newest_row():
    _, got = nstep(20, range(8), {2: "end", 5: "limit"}, starts=(0, 3, 6))
    assert got == {
        0: (0 + 10 / 2 + 20 / 4, 25, 1, 1 / 8),
        10: (10 + 20 / 2, 25, 1, 1 / 4),
        20: (20, 25, 1, 1 / 2),
        30: (30 + 40 / 2 + 50 / 4, 55, 0, 1 / 8),
        40: (40 + 50 / 2, 55, 0, 1 / 4),
        50: (50, 55, 0, 1 / 2),
        60: (60 + 70 / 2, 75, 0, 1 / 4),  # the newest row is the last
        70: (70, 75, 0, 1 / 2),
    }


def test_nstep_returns_stop_before_an_invalid_row():
    _, got = nstep(20, range(5), invalid=[2])
    assert got == {
        0: (0 + 10 / 2, 15, 0, 1 / 4),
        10: (10, 15, 0, 1 / 2),
        30: (30 + 40 / 2, 45, 0, 1 / 4),
        40: (40, 45, 0, 1 / 2),
    }


def test_nstep_returns_stop_before_an_unscored_row():
    buffer, _ = nstep(20, range(3))
    add(buffer, 3)
    assert nstep_samples(buffer) == {
        0: (0 + 10 / 2 + 20 / 4, 25, 0, 1 / 8),
        10: (10 + 20 / 2, 25, 0, 1 / 4),
        20: (20, 25, 0, 1 / 2),
    }


def test_nstep_returns_cross_the_seam_of_the_ring_but_not_from_newest_to_oldest():
    _, got = nstep(4, range(6))  # rows hold tickets 4, 5, 2, 3
    assert got == {
        20: (20 + 30 / 2 + 40 / 4, 45, 0, 1 / 8),
        30: (30 + 40 / 2 + 50 / 4, 55, 0, 1 / 8),
        40: (40 + 50 / 2, 55, 0, 1 / 4),
        50: (50, 55, 0, 1 / 2),
    }


def test_nstep_returns_stop_before_an_episode_that_began_with_a_reset_from_outside():
    """No row says that the episode before it ended: a run was resumed, or learn() was called again."""
    _, got = nstep(20, range(4), starts=(0, 2))
    assert got == {
        0: (0 + 10 / 2, 15, 0, 1 / 4),
        10: (10, 15, 0, 1 / 2),
        20: (20 + 30 / 2, 35, 0, 1 / 4),
        30: (30, 35, 0, 1 / 2),
    }


def test_nstep_with_one_step_is_the_plain_buffer():
    scorer = KnownScorer(n_envs=2, invalid=[(1, 0)])
    plain, nstep_buffer = make(20, scorer), make(20, scorer, ScoredNStepReplayBuffer, n_steps=1, gamma=0.5)
    for ticket in range(6):
        add(plain, ticket, done=ticket == 3)
        add(nstep_buffer, ticket, done=ticket == 3)
    np.random.seed(1)
    one = plain.sample(50)
    np.random.seed(1)
    other = nstep_buffer.sample(50)
    for name in ("observations", "actions", "next_observations", "dones", "rewards"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    assert one.discounts is None
    assert set(other.discounts.unique().tolist()) == {0.5}


# Saving.


def contents(buffer):
    """Everything that sampling can see, by ticket order."""
    rows = np.arange(max(0, buffer.n_added - buffer.buffer_size), buffer.n_added) % buffer.buffer_size
    names = ("observations", "next_observations", "actions", "rewards", "env_rewards", "status", "episode_starts")
    result = {}
    for name in (*names, "dones", "timeouts"):
        stored = getattr(buffer, name)
        for key, values in stored.items() if isinstance(stored, dict) else [("", stored)]:
            result[name + key] = values[rows].copy()
    return result | {"place": (buffer.pos, buffer.full, buffer.n_added, buffer._n_valid)}


def assert_equal_contents(one, other):
    assert one.keys() == other.keys()
    for key in one:
        np.testing.assert_array_equal(one[key], other[key])


@pytest.mark.parametrize("size", [5, 12, 100])
@pytest.mark.parametrize("dict_obs", [False, True])
def test_rows_saved_bit_by_bit_come_back(size, dict_obs, tmp_path):
    """Chunks of uneven length through npz files, with and without wrap-around, some longer than the buffer."""
    space = spaces.Dict({"x": OBS, "y": OBS}) if dict_obs else OBS
    cls = choose_replay_buffer(space)
    scorer = KnownScorer(n_envs=2, invalid=[3, (7, 1)], starts=(0, 5))
    buffer = make(size, scorer, cls, space)
    files, saved, ticket = [], 0, 0
    for count in (3, 1, 9, 0, 7):
        for _ in range(count):
            add(buffer, ticket, truncated=ticket % 5 == 4)
            ticket += 1
        arrays = buffer.rows_since(saved)
        saved = int(arrays["first"]) + len(arrays["actions"])
        assert saved == ticket
        files.append(tmp_path / f"{len(files)}.npz")
        np.savez(files[-1], **arrays)
    restored = make(size, KnownScorer(n_envs=2), cls, space)
    for file in files:
        with np.load(file, allow_pickle=False) as arrays:
            chunk = dict(arrays)
        if int(chunk["first"]) > restored.n_added:  # rows that were overwritten before they could be saved
            restored = make(size, KnownScorer(n_envs=2), cls, space)
        restored.restore_rows(chunk)
    assert_equal_contents(contents(restored), contents(buffer))
    np.random.seed(0)
    one = buffer.sample(100)
    np.random.seed(0)
    assert (one.rewards == restored.sample(100).rewards).all()
    add(restored, 0)  # a resumed scorer counts its tickets from 0 again
    restored.score_now()
    assert restored.rewards[(restored.pos - 1) % size].tolist() == [0.0, 1.0]


def test_parts_are_weighed_when_sampled_and_come_back():
    def weigh(multiplier):
        return RewardTransform(weights=LagrangeWeights(("half",), (0.0,), 1e-9, 10.0, (multiplier,)))

    buffer = make(6, KnownScorer(n_envs=2, invalid=[3], transform=weigh(1.0)))
    for ticket in range(8):
        add(buffer, ticket)
    buffer.score_now()
    rows = np.array([7, 6, 4]) % 6, np.array([0, 1, 1])  # of tickets 7, 6 and 4; ticket 3 is in between, and invalid
    np.testing.assert_allclose(buffer._learned(rows), 0.75 * np.array([70, 61, 41]), rtol=1e-6)
    assert (buffer.parts[3] == 0).all()
    # what has moved since a row was scored applies to it as well
    buffer.scorer.transform = weigh(3.0)
    np.testing.assert_allclose(buffer._learned(rows), 0.625 * np.array([70, 61, 41]), rtol=1e-6)
    restored = make(6, KnownScorer(n_envs=2, transform=weigh(3.0)))
    restored.restore_rows(buffer.rows_since(0))
    np.testing.assert_array_equal(restored._learned(rows), buffer._learned(rows))
    with pytest.raises(CheckpointError, match="lack parts"):
        make(6, KnownScorer(n_envs=2, transform=weigh(1.0))).restore_rows(
            {name: values for name, values in buffer.rows_since(0).items() if name != "parts"}
        )
    assert "parts" not in make(6, KnownScorer()).rows_since(0)


def test_oldest_chunks_may_be_deleted_when_their_rows_are_overwritten():
    scorer = KnownScorer()
    buffer = make(6, scorer)
    chunks = []
    for start in (0, 4, 8):
        for ticket in range(start, start + 4):
            add(buffer, ticket)
        chunks.append(buffer.rows_since(start))
    restored = make(6, KnownScorer())
    for chunk in chunks[1:]:  # rows 0 to 3 are gone from a buffer of 6 after 12
        restored.restore_rows(chunk)
    assert_equal_contents(contents(restored), contents(buffer))


def test_damaged_or_foreign_rows_are_refused():
    buffer = make(6, KnownScorer())
    for ticket in range(4):
        add(buffer, ticket)
    good = buffer.rows_since(0)
    fresh = make(6, KnownScorer())
    with pytest.raises(CheckpointError, match="lack status"):
        fresh.restore_rows({name: values for name, values in good.items() if name != "status"})
    with pytest.raises(CheckpointError, match="'actions' must be float32"):
        fresh.restore_rows(good | {"actions": good["actions"].astype(np.float64)})
    with pytest.raises(CheckpointError, match="'rewards' must be"):
        fresh.restore_rows(good | {"rewards": good["rewards"][:2]})
    with pytest.raises(CheckpointError, match="of a buffer of 6 rows, this one has 7"):
        make(7, KnownScorer()).restore_rows(good)
    assert fresh.n_added == 0
    fresh.restore_rows(good)
    with pytest.raises(CheckpointError, match="begin at 0, expected 4"):
        fresh.restore_rows(good)
    with pytest.raises(CheckpointError, match="begin at 6, expected 4"):
        fresh.restore_rows(good | {"first": np.array(6)})


# Misuse.


def test_settings_are_checked():
    with pytest.raises(ConfigError, match="score_every must be at least 1, got 0"):
        make(4, KnownScorer(), score_every=0)
    with pytest.raises(ConfigError, match="optimize_memory_usage=True"):
        make(4, KnownScorer(), optimize_memory_usage=True)
    with pytest.raises(ConfigError, match="n_steps must be at least 1, got 0"):
        make(4, KnownScorer(), ScoredNStepReplayBuffer, n_steps=0)
    with pytest.raises(ConfigError, match="dictionary observations"):
        choose_replay_buffer(spaces.Dict({"x": OBS}), n_steps=3)
    assert choose_replay_buffer(OBS) is ScoredReplayBuffer
    assert choose_replay_buffer(OBS, 3) is ScoredNStepReplayBuffer


def test_step_that_was_not_captured_is_noticed():
    buffer = make(4, KnownScorer())
    with pytest.raises(ConfigError, match="a step without 'score_ticket'"):
        buffer.add(np.zeros((1, 1)), np.zeros((1, 1)), np.zeros((1, 1)), np.zeros(1), np.zeros(1), [{}])
    assert buffer.n_added == 0


def test_no_valid_row_at_all_is_an_error():
    buffer = make(10, KnownScorer(invalid=range(5)))
    for ticket in range(5):
        add(buffer, ticket)
    with pytest.raises(RenderingError, match=r"none of 5 frames could be scored \(constant frame\)"):
        buffer.sample(3)


def test_no_ended_episode_for_a_whole_episode_model_is_an_error():
    buffer = make(10, KnownScorer(context="episode", unscored=[(t, 0) for t in range(5)]))
    for ticket in range(5):
        add(buffer, ticket)
    with pytest.raises(ConfigError, match="raise learning_starts above an episode's length"):
        buffer.sample(3)
