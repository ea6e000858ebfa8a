import gc
import threading
import time
from functools import partial
from typing import Any

import numpy as np
import pytest

from vlmreward.errors import CheckpointError, ConfigError, StorageError
from vlmreward.rewards.transform import RewardTransform
from vlmreward.testing.fakes import LinearReward, PixelEnv, ProjectionEncoder
from vlmreward.types import FrameBatch
from vlmreward.wrappers import frame_ring
from vlmreward.wrappers.frame_gate import FrameGate, GateCounts
from vlmreward.wrappers.scorer import Scorer
from vlmreward.wrappers.vec_capture_frames import VecCaptureFrames

ACTIONS = np.random.default_rng(7).integers(0, 3, (200, 8))


def build(n_envs=3, encode_batch=16, encoder=None, model=None, **env):
    scorer = Scorer(encoder or ProjectionEncoder(), model or LinearReward(), RewardTransform(), encode_batch)
    return scorer, VecCaptureFrames([partial(PixelEnv, **env)] * n_envs, scorer=scorer)


def run(venv, steps, start=0):
    for step in range(start, start + steps):
        venv.step(ACTIONS[step, : venv.num_envs])


def test_batches_are_cut_by_counts_at_vec_steps_whatever_the_timing():
    """The encoder sees the same batches when it is slow as when it is fast."""
    seen = []
    for seconds in (0.0, 0.01):
        encoder = ProjectionEncoder(seconds=seconds)
        scorer, venv = build(encoder=encoder)
        venv.seed(0)
        venv.reset()
        run(venv, 30)
        scorer.flush()
        seen.append(encoder.batches)
        venv.close()
        scorer.close()
    assert seen[0] == seen[1]
    # 3 environments, 16 wanted: the sixth step is the first boundary with at least 16 frames
    assert seen[0] == [18] * 5


def test_reset_frames_count_only_where_the_model_needs_them():
    scorer, venv = build(n_envs=1, model=LinearReward(context="pair"), length=5)
    venv.reset()
    run(venv, 20)
    scorer.flush()
    assert scorer.stats()["rows"] == 20
    assert scorer.stats()["frames"] == 25  # 20 transitions, a first reset and 4 more
    scorer, venv = build(n_envs=1, length=5)
    venv.reset()
    run(venv, 20)
    scorer.flush()
    assert scorer.stats()["frames"] == 20


@pytest.mark.parametrize("encode_batch", [1, 2, 7, 64])
def test_more_environments_than_a_batch_holds(encode_batch):
    """The ring never locks up, however small it is beside one vec step."""
    scorer, venv = build(n_envs=8, encode_batch=encode_batch, model=LinearReward(context="pair"), length=3)
    reference_scorer, reference = build(n_envs=8, encode_batch=200, model=LinearReward(context="pair"), length=3)
    for each in (venv, reference):
        each.scorer.require_history(12)
        each.seed(1)
        each.reset()
        run(each, 12)
    np.testing.assert_allclose(scorer.scores(0, 11).raw, reference_scorer.scores(0, 11).raw, atol=1e-6)
    assert venv.ring.spec.slots == 2 * encode_batch + 16


def test_stepping_and_encoding_overlap():
    """24 steps of 20 ms and 6 batches of 80 ms take less than the 960 ms that one after the other would."""
    encoder = ProjectionEncoder(seconds=0.08)
    scorer, venv = build(n_envs=1, encode_batch=4, encoder=encoder, step_seconds=0.02)
    venv.reset()
    start = time.perf_counter()
    run(venv, 24)
    scorer.flush()
    took = time.perf_counter() - start
    assert encoder.batches == [4] * 6
    assert 0.48 < took < 0.85  # 0.56 when nothing else runs


def test_environments_wait_when_the_ring_is_full():
    """Frames are copied out when their batch starts, so at most one batch waits beside the one that is encoded."""
    encoder = ProjectionEncoder(seconds=0.1)
    scorer, venv = build(n_envs=2, encode_batch=4, encoder=encoder)
    venv.reset()
    run(venv, 20)
    assert len(encoder.batches) >= 8  # 10 batches in all; without back-pressure few would be done by now
    assert scorer.stats()["wait_seconds"] > 0.4


def test_encoder_error_reaches_the_main_thread_at_the_next_call():
    scorer, venv = build(encoder=ProjectionEncoder(fail_at=2), encode_batch=6)
    venv.reset()
    with pytest.raises(RuntimeError, match="the fake encoder was told to fail"):
        run(venv, 200)
    for call in (
        scorer.flush,
        lambda: scorer.scores(0, 0),
        lambda: venv.step(ACTIONS[0, :3]),
        scorer.state_dict,
        venv.reset,
    ):
        with pytest.raises(RuntimeError, match="the fake encoder was told to fail"):
            call()
    venv.close()
    scorer.close()


def test_counts_of_a_gate_are_those_of_the_rows_that_are_counted():
    """Also while the thread is between the two: it has embedded a job's frames, and the model scores them."""
    embedded, go_on = threading.Event(), threading.Event()

    class Waits(LinearReward):
        def compute_reward(self, batch):
            embedded.set()
            assert go_on.wait(10)
            return super().compute_reward(batch)

    scorer = Scorer(ProjectionEncoder(), Waits(), RewardTransform(), 4, gate=FrameGate(3))
    venv = VecCaptureFrames([PixelEnv] * 2, scorer=scorer)
    venv.reset()
    assert scorer.stats()["gate"] == GateCounts()
    run(venv, 2)
    assert embedded.wait(10)
    assert (scorer.stats()["rows"], scorer.stats()["gate"].seen) == (0, 0)
    go_on.set()
    scorer.flush()
    assert (scorer.stats()["rows"], scorer.stats()["gate"].seen) == (4, 4)
    venv.close()
    scorer.close()


def test_error_reaches_one_who_is_waiting():
    scorer, venv = build(encoder=ProjectionEncoder(fail_at=0, seconds=0), encode_batch=100)
    venv.reset()
    run(venv, 3)
    with pytest.raises(RuntimeError, match="told to fail"):
        scorer.scores(0, 2)


def test_scores_by_range():
    scorer, venv = build(length=5)
    venv.seed(0)
    venv.reset()
    run(venv, 12)
    whole, part = scorer.scores(0, 11), scorer.scores(4, 6)
    assert whole.raw.shape == (12, 3)
    assert whole.learned is None  # the model does not learn, and nothing is kept for it
    for all_rows, some_rows in zip(whole[:-1], part[:-1], strict=True):
        np.testing.assert_array_equal(all_rows[4:7], some_rows)
    assert whole.step[:, 0].tolist() == [1, 2, 3, 4, 5, 1, 2, 3, 4, 5, 1, 2]
    assert whole.scored.all()
    assert whole.env_reward.dtype == np.float32
    for first, last in ((-1, 3), (5, 12), (7, 6)):
        with pytest.raises(ValueError, match=f"no scores of tickets {first} to {last}: known are 0 to 11"):
            scorer.scores(first, last)


def test_history_is_bounded_and_can_be_asked_for():
    scorer, venv = build(encode_batch=2)  # keeps 8 tickets
    venv.reset()
    run(venv, 10)
    with pytest.raises(ValueError, match="known are 2 to 9"):
        scorer.scores(1, 9)
    before = scorer.scores(2, 9)
    scorer.require_history(20)
    for old, new in zip(before, scorer.scores(2, 9), strict=True):
        np.testing.assert_array_equal(old, new)
    run(venv, 12, 10)
    assert scorer.scores(2, 21).raw.shape == (20, 3)
    np.testing.assert_array_equal(scorer.scores(2, 9).raw, before.raw)


class Recorder(LinearReward):
    """Keeps what the model is told of each row."""

    def __init__(self):
        super().__init__()
        self.seen: list[FrameBatch] = []

    def compute_reward(self, batch):
        self.seen.append(batch)
        return super().compute_reward(batch)

    def column(self, name):
        return np.concatenate([getattr(batch, name) for batch in self.seen])


def test_model_is_told_which_frame_of_which_episode_it_sees():
    model = Recorder()
    scorer = Scorer(ProjectionEncoder(), model, RewardTransform(), encode_batch=7, instruction="go right")
    venv = VecCaptureFrames([partial(PixelEnv, length=5, goal=0.45)] * 3, scorer=scorer)
    venv.seed(0)
    venv.reset()
    ends, truncations, own = [], [], []
    for step in range(30):
        _, _, dones, infos = venv.step(ACTIONS[step, :3])
        ends.append(dones)
        truncations.append([info["TimeLimit.truncated"] for info in infos])
        own.append([info["env_reward"] for info in infos])
    scorer.flush()
    terminated, truncated = model.column("terminated").reshape(30, 3), model.column("truncated").reshape(30, 3)
    np.testing.assert_array_equal(terminated | truncated, ends)
    np.testing.assert_array_equal(truncated & ~terminated, truncations)
    assert terminated.any()
    np.testing.assert_allclose(model.column("env_reward").reshape(30, 3), own, atol=1e-6)
    episode, step = model.column("episode").reshape(30, 3), model.column("step").reshape(30, 3)
    assert len({(int(e), int(s)) for e, s in zip(episode.flat, step.flat, strict=True)}) == 90
    for env in range(3):
        assert len(np.unique(episode[:, env])) == np.sum(ends, axis=0)[env] + (not ends[-1][env])
        assert (step[1:, env] == np.where(np.array(ends)[:-1, env], 1, step[:-1, env] + 1)).all()
    assert {batch.instruction for batch in model.seen} == {"go right"}


def test_episode_sums_come_with_their_rewards_and_once():
    scorer, venv = build(n_envs=2, length=4, black_steps=[2])
    venv.seed(0)
    venv.reset()
    run(venv, 9)
    assert scorer.pop_episodes() == []  # nobody has asked for a reward
    scores = scorer.scores(0, 8)
    episodes = scorer.pop_episodes()
    assert [(e.env, e.ticket, e.length, e.invalid, e.terminated) for e in episodes] == [
        (0, 3, 4, 1, False),
        (1, 3, 4, 1, False),
        (0, 7, 4, 1, False),
        (1, 7, 4, 1, False),
    ]
    for episode in episodes:
        rows = slice(episode.ticket - 3, episode.ticket + 1)
        raw, valid = scores.raw[rows, episode.env], scores.valid[rows, episode.env]
        assert valid.tolist() == [True, False, True, True]
        assert episode.vlm_return == pytest.approx(raw[valid].sum(), abs=1e-6)
        assert episode.env_return == pytest.approx(scores.env_reward[rows, episode.env].sum(), abs=1e-6)
    assert scorer.pop_episodes() == []


def test_whole_episode_model_scores_at_the_end_and_sums_stay_right():
    scorer, venv = build(n_envs=2, length=4, model=LinearReward(context="episode"), black_steps=[1])
    venv.reset()
    run(venv, 6)
    scores = scorer.scores(0, 5)
    assert scores.scored[:, 0].tolist() == [True] * 4 + [True, False]  # a black frame is known to be invalid at once
    assert scores.valid[:, 0].tolist() == [False, True, True, True, False, False]
    run(venv, 2, 6)
    assert scorer.scores(0, 7).scored.all()
    assert [(e.length, e.invalid) for e in scorer.pop_episodes()] == [(4, 1)] * 4


def test_statistics():
    encoder = ProjectionEncoder()
    scorer, venv = build(n_envs=2, length=6, black_steps=[3], encoder=encoder, encode_batch=10)
    venv.reset()
    run(venv, 12)
    scorer.flush()
    stats = scorer.stats()
    assert stats["rows"] == 24
    assert stats["invalid"] == 4
    assert stats["reasons"] == {"constant frame": 4}
    assert stats["encode_calls"] == len(encoder.batches)
    assert stats["pictures"] == sum(encoder.batches)
    assert stats["env_seconds"] > 0
    assert stats["render_seconds"] > 0


def test_frames_that_repeat_are_encoded_once():
    encoder = ProjectionEncoder()
    scorer, venv = build(n_envs=4, encode_batch=40, encoder=encoder)
    venv.seed(0)
    venv.reset()
    inner: Any = venv.venv
    for env in inner.envs:
        env.unwrapped.position = 0.25  # all four in the same place from now on
    for _ in range(5):
        venv.step(np.ones(4, int))
    scores = scorer.scores(0, 4)
    assert encoder.batches == [5]
    assert (scores.raw == scores.raw[:, :1]).all()


def test_state_is_plain_numbers_and_comes_back():
    scorer, venv = build()
    scorer.transform = RewardTransform(normalise="running")
    venv.reset()
    run(venv, 10)
    scores = scorer.scores(0, 9)
    scorer.transform.update(scores.raw, scores.valid)
    state = scorer.state_dict()
    assert state["transform"]["count"] == 30
    fresh = Scorer(ProjectionEncoder(), LinearReward(), RewardTransform(normalise="running"))
    fresh.load_state_dict(state)
    np.testing.assert_array_equal(fresh.transform.apply(scores.raw), scorer.transform.apply(scores.raw))
    with pytest.raises(CheckpointError, match="must hold 'transform'"):
        fresh.load_state_dict({})
    with pytest.raises(CheckpointError, match="scored by encoder another-1, this one is"):
        fresh.load_state_dict({**state, "encoder_id": "another-1"})


def test_one_vector_environment_at_a_time_one_after_another():
    scorer, first = build(n_envs=2)
    first.seed(0)
    first.reset()
    run(first, 5)
    with pytest.raises(ConfigError, match="serves another vector environment"):
        VecCaptureFrames([PixelEnv], scorer=scorer)
    first.close()
    waiting = scorer.scores(0, 4)  # frames that waited when the environments were closed
    assert waiting.valid.all()
    second = VecCaptureFrames([PixelEnv] * 3, scorer=scorer)
    second.reset()
    run(second, 2)
    assert scorer.scores(5, 6).raw.shape == (2, 3)
    with pytest.raises(ValueError, match="known are 5 to 6"):
        scorer.scores(4, 6)


def test_settings_are_checked():
    with pytest.raises(ConfigError, match="encode_batch must be at least 1, got 0"):
        Scorer(ProjectionEncoder(), LinearReward(), RewardTransform(), encode_batch=0)
    with pytest.raises(ConfigError, match="no encoder"):
        Scorer(None, LinearReward(), RewardTransform())


def test_no_room_for_the_ring_is_said_and_the_scorer_stays_free(monkeypatch):
    scorer = Scorer(ProjectionEncoder(), LinearReward(), RewardTransform())
    monkeypatch.setattr(frame_ring, "free_bytes", lambda directory: 1000)
    with pytest.raises(StorageError, match="lower encode_batch"):
        VecCaptureFrames([PixelEnv], scorer=scorer)
    monkeypatch.undo()
    VecCaptureFrames([PixelEnv], scorer=scorer).close()


def test_thread_ends_when_the_scorer_is_freed():
    scorer, venv = build()
    venv.reset()
    run(venv, 10)
    scorer.flush()
    threads = [t for t in threading.enumerate() if t.name == "vlmreward-scorer"]
    venv.close()
    del scorer, venv
    gc.collect()
    for thread in threads:
        thread.join(0.5)
    assert not all(thread.is_alive() for thread in threads)


def test_memory_does_not_grow_with_the_run():
    """Nothing that a long run without a reader leaves behind depends on its length."""
    scorer, venv = build(n_envs=2, encode_batch=8, length=4)
    venv.reset()
    run(venv, 100)
    scorer.flush()
    assert scorer._table is not None
    assert len(scorer._table.raw) == 32
    assert scorer._pending == []
    assert len(scorer._free) == venv.ring.spec.slots - int((venv.ring.assigned >= 0).sum())
