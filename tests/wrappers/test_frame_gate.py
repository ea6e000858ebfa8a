"""The frame gate against decisions worked out by hand, and against a plain loop over each stream."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlmreward.encoders.cached import open_cached
from vlmreward.errors import ConfigError
from vlmreward.rewards.composite import ConstrainedReward
from vlmreward.rewards.shaped import ClipDeltaReward
from vlmreward.rewards.transform import RewardTransform
from vlmreward.testing.fakes import BrightnessReward, LinearReward, ProjectionEncoder
from vlmreward.wrappers import frame_gate
from vlmreward.wrappers.frame_gate import SAMPLE, FrameGate, GateCounts, describe_gate, difference
from vlmreward.wrappers.scorer import Scorer
from vlmreward.wrappers.scoring import ROW_DTYPE, FrameScorer, gather

DIM = 24


def grey(level, size=16):
    return np.full((size, size, 3), level, np.uint8)


def make_rows(places):
    """Rows of (env, episode, step) in the order of capture, each with its own slot; step 0 is a reset's."""
    return np.array(
        [(n, env, n, episode, step, 0, False, False, step == 0, 0) for n, (env, episode, step) in enumerate(places)],
        dtype=ROW_DTYPE,
    )


class FiniteOnly(LinearReward):
    """A model that is never handed what is not finite."""

    def compute_reward(self, batch):
        for rows in (batch.embeddings, batch.initial):
            assert rows is None or np.isfinite(rows).all()
        return super().compute_reward(batch)


def own_embeddings(frames):
    return ProjectionEncoder(DIM).encode_images(np.asarray(frames))


def embed(gate, rows, frames, cuts=()):
    """Run rows through a gate in jobs; return each row's embedding, and what the encoder was given."""
    encoder, found = ProjectionEncoder(DIM), []
    for part in np.split(np.arange(len(rows)), sorted(cuts)):
        gated = gate.embed(rows[part], gather(rows[part], np.asarray(frames)), lambda f, _: (encode(encoder, f), 0.0))
        found.extend(gated.embeddings if len(part) else [])
    return np.array(found), encoder.batches


def encode(encoder, frames):
    return encoder.encode_images(frames) if len(frames) else np.empty((0, 1), np.float32)


def taken_from(embeddings, frames):
    """Which frame each embedding is of: the nearest one, which it must equal."""
    own = own_embeddings(frames)
    apart = np.abs(embeddings[:, None] - own[None]).max(axis=2)
    assert apart.min(axis=1).max() < 1e-6
    return apart.argmin(axis=1).tolist()


# How far two pictures are apart.


def test_small_thing_counts_as_much_in_a_large_picture():
    one = np.full((96, 96, 3), 100, np.uint8)
    other = one.copy()
    other[33:41, 50:54] += 60  # 32 pixels of one block of 256
    assert difference(one, other) == difference(other, one) == 60 * 32 / 256
    assert np.abs(one.astype(float) - other).mean() < 0.3
    other[..., 2] = one[..., 2]  # in two colours of three
    assert difference(one, other) == pytest.approx(60 * 32 / 256 * 2 / 3)


def test_blocks_at_the_border_are_as_large_as_what_is_left():
    one, other = np.zeros((20, 35, 3), np.uint8), np.zeros((20, 35, 3), np.uint8)
    assert difference(one, other) == 0
    other[19, 34] = 255  # a corner of 4 x 3 pixels
    assert difference(one, other) == 255 / 12


@given(st.integers(1, 50), st.integers(1, 50), st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_difference_is_that_of_a_plain_loop(height, width, seed):
    rng = np.random.default_rng(seed)
    one, other = rng.integers(0, 256, (2, height, width, 3), dtype=np.uint8)
    blocks = [
        np.abs(one[y : y + 16, x : x + 16].astype(int) - other[y : y + 16, x : x + 16]).mean()
        for y in range(0, height, 16)
        for x in range(0, width, 16)
    ]
    assert difference(one, other) == pytest.approx(max(blocks))


# What is encoded.


def test_drift_does_not_add_up():
    """Each step is below the threshold; compared with the frame before, none would ever be encoded again."""
    frames = [grey(level) for level in (10, 12, 14, 16, 18, 20, 22)]
    rows = make_rows([(0, 0, step) for step in range(7)])
    gate = FrameGate(4)
    embeddings, batches = embed(gate, rows, frames)
    np.testing.assert_array_equal(embeddings, own_embeddings(frames)[[0, 0, 0, 3, 3, 3, 6]])
    assert batches == [3]
    assert gate.counts == GateCounts(seen=7, encoded=3, skipped=4)


def test_streams_do_not_mix():
    noise = np.random.default_rng(0).integers(0, 200, (2, 16, 16, 3), dtype=np.uint8)  # two scenes
    frames = [noise[0], noise[1], noise[0] + 1, noise[1] + 3, noise[0] + 2, noise[1] + 4, noise[0] + 3, noise[1] + 5]
    rows = make_rows([(env, env, step) for step in range(4) for env in (0, 1)])
    for cuts in ((), (3,), range(1, 8)):
        gate = FrameGate(2)
        embeddings, batches = embed(gate, rows, frames, cuts)
        assert taken_from(embeddings, frames) == [0, 1, 0, 3, 0, 3, 6, 3]
        assert sum(batches) == 4
        assert gate.counts == GateCounts(seen=8, encoded=4, skipped=4)


@pytest.mark.parametrize("cuts", [(), (2,), (1, 2, 3)])
@pytest.mark.parametrize("first_step", [0, 1])
def test_first_frame_of_an_episode_is_encoded_whatever_it_looks_like(cuts, first_step):
    """Also where frames of resets are not scored, and the first one that comes is that of a step."""
    rng = np.random.default_rng(0)
    frames = [grey(100)] * 2 + [grey(101)] + [grey(100)] + [rng.integers(0, 9, (16, 16, 3), dtype=np.uint8)]
    places = [(0, 7, first_step), (0, 7, first_step + 1), (0, 9, first_step), (0, 9, first_step + 1)]
    gate = FrameGate(5)
    embeddings, batches = embed(gate, make_rows(places), frames, cuts)
    np.testing.assert_array_equal(embeddings, own_embeddings(frames)[[0, 0, 2, 2]])
    assert sum(batches) == 2
    assert gate.counts == GateCounts(seen=4, encoded=2, skipped=2)


def test_refused_frame_is_not_seen_and_nothing_is_compared_with_it():
    frames = [grey(100), grey(0), grey(101), grey(0)]
    rows = make_rows([(0, 0, step) for step in range(4)])
    rows["reason"][[1, 3]] = 1
    for cuts in ((), (1,), (1, 2, 3)):
        gate = FrameGate(5)
        embeddings, _ = embed(gate, rows, frames, cuts)
        np.testing.assert_array_equal(embeddings[[0, 2]], own_embeddings(frames)[[0, 0]])
        assert gate.counts == GateCounts(seen=2, encoded=1, skipped=1)
    assert embed(FrameGate(5), rows[1:2], frames)[1] == []


def test_other_streams_begin_anew():
    gate, frames = FrameGate(255), [grey(5)]
    first, second, third = (make_rows([(0, 0, step)]) for step in (1, 2, 3))
    assert embed(gate, first, frames)[1] == [1]
    assert embed(gate, second, frames)[1] == []
    gate.forget()
    assert embed(gate, third, frames)[1] == [1]


@pytest.mark.parametrize("cuts", [(), (3,), range(1, 6)])
def test_episode_that_is_begun_again_under_its_number_begins_anew(cuts):
    """Two evaluations with one scorer number their episodes alike."""
    frames = [grey(level) for level in (10, 11, 12, 13, 14, 15)]
    gate = FrameGate(5)
    embeddings, batches = embed(gate, make_rows([(0, 0, step) for step in (1, 2, 3, 1, 2, 3)]), frames, cuts)
    np.testing.assert_array_equal(embeddings, own_embeddings(frames)[[0, 0, 0, 3, 3, 3]])
    assert sum(batches) == 2
    assert gate.counts == GateCounts(seen=6, encoded=2, skipped=4)


@pytest.mark.parametrize("batch", [1, 2, 4, 16, 80])
def test_counts_are_the_gates_own_whatever_a_batch_holds_twice(batch):
    """Four environments show the same 20 pictures: each has 20 to encode, though a batch encodes equal ones once."""
    pictures = np.random.default_rng(0).integers(0, 255, (20, 16, 16, 3), dtype=np.uint8)
    rows = make_rows([(env, env, 1 + step) for step in range(20) for env in range(4)])
    gate = FrameGate(0)
    _, batches = embed(gate, rows, np.repeat(pictures, 4, axis=0), range(batch, 80, batch))
    assert gate.counts == GateCounts(seen=80, encoded=80)
    assert sum(batches) == (80 if batch == 1 else 40 if batch == 2 else 20)


def test_equal_frames_of_a_job_are_not_compared(monkeypatch):
    compared = []

    def count(one, other):
        compared.append(1)
        return difference(one, other)

    monkeypatch.setattr(frame_gate, "difference", count)
    frames = [grey(10)] * 3 + [grey(11)] * 2
    embeddings, _ = embed(FrameGate(0), make_rows([(0, 0, 1 + step) for step in range(5)]), frames)
    assert taken_from(embeddings, frames) == [0, 0, 0, 3, 3]
    assert len(compared) == 1


@pytest.mark.parametrize("gate", [None, FrameGate(0)])
def test_embedding_that_is_not_finite_is_given_to_no_frame_of_a_later_job(gate):
    class NanOnce(ProjectionEncoder):
        def encode_images(self, frames):
            rows = super().encode_images(frames)
            return rows * np.nan if len(self.batches) == 1 else rows

    rows, frames = make_rows([(0, 0, 1 + step) for step in range(100)]), np.stack([grey(50)] * 100)
    scorer = FrameScorer(encoder := NanOnce(DIM), LinearReward(DIM), 1, gate=gate)
    scored = [scorer.score(part, gather(part, frames)) for part in np.split(rows, 10)]
    assert [job.valid.all() for job in scored] == [False] + [True] * 9
    assert scored[0].reasons == dict.fromkeys(range(10), "embedding is not finite")
    if gate is not None:
        counts = gate.counts
        assert (counts.seen, counts.encoded, counts.skipped) == (100, 2, 98)
        assert encoder.batches[:2] == [1, 1]


def test_error_of_the_encoder_leaves_a_gate_that_works():
    rows, frames = make_rows([(0, 0, 1 + step) for step in range(4)]), [grey(level) for level in (10, 12, 100, 101)]
    gate, encoder = FrameGate(5), ProjectionEncoder(DIM, fail_at=1)
    scorer = FrameScorer(encoder, model := LinearReward(DIM), 1, gate=gate)
    first, failing, last = rows[:1], rows[1:3], rows[3:]
    scorer.score(first, gather(first, np.array(frames)))
    with pytest.raises(RuntimeError, match="told to fail"):
        scorer.score(failing, gather(failing, np.array(frames)))
    assert gate.counts == GateCounts(seen=1, encoded=1)
    encoder.fail_at = None
    raw = scorer.score(last, gather(last, np.array(frames))).raw
    assert raw == pytest.approx(own_embeddings(frames)[3:] @ model.direction)
    assert gate.counts == GateCounts(seen=2, encoded=2)


def test_gate_stands_before_a_cache(tmp_path):
    """What is skipped is not looked up; with all frames in the cache the gate still decides what it would without."""
    rows, frames = walk(2, 2, 60)
    source = plain(rows, frames, 6)
    open_cached(ProjectionEncoder(DIM), tmp_path).encode_images(frames)
    cached = open_cached(inner := ProjectionEncoder(DIM), tmp_path)
    gate = FrameGate(6)
    scorer, model = FrameScorer(cached, LinearReward(DIM), 2, gate=gate), LinearReward(DIM)
    jobs = [scorer.score(part, gather(part, frames)) for part in np.array_split(rows, 9)]
    raw, valid = (np.concatenate([getattr(job, name) for job in jobs]) for name in ("raw", "valid"))
    assert valid.all()
    want = (own_embeddings(frames)[source] @ model.direction)[~rows["reset"]]
    np.testing.assert_allclose(raw, want, atol=2e-3)  # float16 is stored
    assert inner.batches == []
    assert gate.counts.encoded == (source == np.arange(len(rows))).sum() < 0.6 * len(rows)
    assert gate.counts.sampled > 2
    assert cached.stats()["hits"] == sum(job.pictures for job in jobs) <= gate.counts.encoded + gate.counts.sampled


def walk(seed, n_envs, n_steps):
    """Pictures that change a little or a lot, in episodes that end at random; rows and frames."""
    rng = np.random.default_rng(seed)
    places, frames = [], []
    episode, step = list(range(n_envs)), [0] * n_envs
    now = rng.integers(20, 60, (n_envs, 20, 20, 3))
    for _ in range(n_steps):
        for env in range(n_envs):
            places.append((env, episode[env], step[env]))
            frames.append(now[env].astype(np.uint8))
            step[env] += 1
            change = rng.random()
            if change < 0.1:  # a reset to the very same picture
                episode[env], step[env] = episode[env] + n_envs, 0
            elif change < 0.8:
                now[env, :3, :3] += rng.integers(-9, 10)
            elif change < 0.9:
                now[env] = rng.integers(20, 60, (20, 20, 3))
            now[env] = np.clip(now[env], 1, 254)
    return make_rows(places), np.array(frames)


def plain(rows, frames, threshold):
    """Return the frame whose embedding each row takes, by a loop over the streams."""
    source = np.full(len(rows), -1)
    for env in np.unique(rows["env"]):
        last = None
        for row in np.flatnonzero(rows["env"] == env):
            first = last is None or rows["episode"][row] != rows["episode"][last]
            if first or difference(frames[row], frames[last]) > threshold:
                last = row
            source[row] = last
    return source


@given(seed=st.integers(0, 10_000), n_envs=st.integers(1, 4), threshold=st.floats(0, 8), data=st.data())
@settings(max_examples=40, deadline=None)
def test_any_cut_into_jobs_gives_the_plain_loop_and_counts_add_up(seed, n_envs, threshold, data):
    rows, frames = walk(seed, n_envs, 12)
    cuts = data.draw(st.lists(st.integers(0, len(rows)), max_size=8))
    source = plain(rows, frames, threshold)
    gate = FrameGate(threshold)
    scorer = FrameScorer(encoder := ProjectionEncoder(DIM), model := LinearReward(DIM), n_envs, gate=gate)
    rewards = {}
    for part in np.split(np.arange(len(rows)), sorted(cuts)):
        if len(part):
            scored = scorer.score(rows[part], gather(rows[part], frames))
            assert scored.valid.all()
            rewards |= dict(zip(scored.rows["ticket"].tolist(), scored.raw.tolist(), strict=True))
    want = own_embeddings(frames[source]) @ model.direction
    for ticket, reward in rewards.items():
        assert reward == pytest.approx(want[ticket], abs=1e-6)
    counts = gate.counts
    assert counts.seen == len(rows) == counts.encoded + counts.skipped
    assert counts.encoded == (source == np.arange(len(rows))).sum()
    assert sum(encoder.batches) <= counts.encoded + counts.sampled  # equal ones of a batch once


@pytest.mark.parametrize("needs", [("embeddings",), ("embeddings", "initial")])
def test_threshold_0_gives_the_same_bits(needs):
    rows, frames = walk(3, 3, 100)
    gate, found = FrameGate(0), []
    for own in (None, gate):
        encoder = ProjectionEncoder(DIM)
        scorer = FrameScorer(encoder, LinearReward(DIM, needs=needs), 3, gate=own)
        jobs = [scorer.score(part, gather(part, frames)) for part in np.array_split(rows, 100)]
        found.append((np.concatenate([job.raw for job in jobs]), sum(encoder.batches)))
    (want, encoded), (got, fewer) = found
    assert got.tobytes() == want.tobytes()
    assert fewer < encoded
    assert gate.counts.skipped > 20
    assert gate.counts.largest == 0
    assert gate.counts.compared == gate.counts.sampled > 1


# What it does to the reward.


def test_differences_are_those_from_the_ungated_rewards(monkeypatch):
    """With every skipped frame in the sample the figures are exact."""
    monkeypatch.setattr(frame_gate, "SAMPLE", 1)
    rows, frames = walk(5, 3, 60)
    rewards = own_embeddings(frames).astype(np.float64) @ LinearReward(DIM).direction
    source = plain(rows, frames, 6)
    skipped = (source != np.arange(len(rows))) & ~rows["reset"]
    farthest = np.abs(rewards - rewards[source]).argmax()
    most = (rewards[farthest] + rewards[source[farthest]]) / 2
    model, gate = LinearReward(DIM, refuse_above=most), FrameGate(6)
    scorer = FrameScorer(ProjectionEncoder(DIM), model, 3, gate=gate)
    for part in np.array_split(rows, 7):
        scorer.score(part, gather(part, frames))
    both = skipped & (rewards <= most) & (rewards[source] <= most)  # refused by the model: there is nothing to compare
    apart = np.abs(rewards - rewards[source])[both]
    differs = skipped & ((rewards <= most) != (rewards[source] <= most))
    assert 0 < differs.sum() < skipped.sum() - both.sum()  # some are refused both ways
    counts = gate.counts
    assert (counts.sampled, counts.compared, counts.validity_differs) == (skipped.sum(), both.sum(), differs.sum())
    moved = gate.report()["reward_difference"]
    assert moved["max"] == pytest.approx(apart.max(), abs=1e-6)
    assert moved["mean"] == pytest.approx(apart.mean(), abs=1e-6)
    assert moved["max"] > moved["mean"] > 0.001


def test_parts_that_are_learned_from_are_compared_too(monkeypatch):
    """Where the reward itself does not move but a part of it does, the part counts."""
    monkeypatch.setattr(frame_gate, "SAMPLE", 1)
    still, moving = LinearReward(DIM), LinearReward(DIM)
    still.direction = np.zeros(DIM, np.float32)
    model = ConstrainedReward({"still": still, "moving": moving}, thresholds=0.0)
    rows, frames = walk(5, 2, 40)
    source = plain(rows, frames, 6)
    skipped = (source != np.arange(len(rows))) & ~rows["reset"]
    rewards = own_embeddings(frames) @ moving.direction
    for parts, most in (((), 0), (("moving",), np.abs(rewards - rewards[source])[skipped].max())):
        gate = FrameGate(6)
        FrameScorer(ProjectionEncoder(DIM), model, 2, parts=parts, gate=gate).score(rows, gather(rows, frames))
        assert gate.counts.compared == skipped.sum() > 10
        assert gate.counts.largest == pytest.approx(most, abs=1e-6)
    assert most > 0.001


def test_embedding_of_its_own_that_is_not_finite_makes_a_sampled_frame_differ(monkeypatch):
    monkeypatch.setattr(frame_gate, "SAMPLE", 1)

    class NanWhereBright(ProjectionEncoder):
        def encode_images(self, frames):
            rows = super().encode_images(frames)
            rows[frames[:, 0, 0, 0] > 100] = np.nan
            return rows

    rows, frames = make_rows([(0, 0, 1 + step) for step in range(3)]), np.array([grey(100), grey(101), grey(99)])
    gate = FrameGate(5)
    assert FrameScorer(NanWhereBright(DIM), FiniteOnly(DIM), 1, gate=gate).score(rows, gather(rows, frames)).valid.all()
    counts = gate.counts
    assert (counts.sampled, counts.compared, counts.validity_differs) == (2, 1, 1)


def test_sampled_frame_without_an_initial_one_is_invalid_both_ways(monkeypatch):
    monkeypatch.setattr(frame_gate, "SAMPLE", 1)
    rows, frames = make_rows([(0, 0, step) for step in range(4)]), np.array([grey(9)] + [grey(100)] * 3)
    rows["reason"][0] = 1
    gate = FrameGate(5)
    scorer = FrameScorer(ProjectionEncoder(DIM), FiniteOnly(DIM, needs=("embeddings", "initial")), 1, gate=gate)
    assert not scorer.score(rows, gather(rows, frames)).valid.any()
    assert gate.counts == GateCounts(seen=3, encoded=1, skipped=2, sampled=2)


@pytest.mark.parametrize("cuts", [(), range(0, 10 * SAMPLE, 7)])
def test_one_of_every_16_skipped_frames_is_sampled(cuts):
    rng = np.random.default_rng(0)
    frames = rng.integers(100, 103, (1 + 10 * SAMPLE, 16, 16, 3), dtype=np.uint8)
    rows = make_rows([(0, 0, 1 + step) for step in range(len(frames))])
    gate = FrameGate(20)
    scorer = FrameScorer(encoder := ProjectionEncoder(DIM), LinearReward(DIM), 1, gate=gate)
    for part in np.split(rows, list(cuts)):
        if len(part):
            scorer.score(part, gather(part, frames))
    assert sum(encoder.batches) == 11
    counts = gate.counts
    assert (counts.seen, counts.encoded, counts.skipped, counts.sampled) == (161, 1, 160, 10)


def test_report_and_line():
    more = GateCounts(10, 4, 6, 1, 1, 0, 0.005, 0.005)
    counts = GateCounts(1000, 300, 700, 6, 4, 0, 0.02, 0.011) + more
    assert counts.report(4) == {
        "threshold": 4,
        "seen": 1010,
        "encoded": 304,
        "skipped": 706,
        "sampled": 7,
        "compared": 5,
        "validity_differs": 0,
        "reward_difference": {"max": 0.011, "mean": pytest.approx(0.005)},
    }
    assert counts.since(more).skipped == 700
    assert describe_gate(counts.report(4)) == (
        "frame gate 4: 1,010 frames seen, 304 handed to the encoder or its cache, 706 skipped; "
        "rewards differ by up to 0.011, 0.005 on average, in a sample of 5"
    )
    assert describe_gate(GateCounts(5, 5, 0).report(0)).endswith("rewards differ by an unknown amount in a sample of 0")
    some = GateCounts(1000, 300, 700, 6, 4, 2, 0.02, 0.011).report(4)
    assert describe_gate(some).endswith("; 2 of 6 sampled frames are valid with one embedding and not with the other")


# What is refused.


@pytest.mark.parametrize(
    ("model", "why"),
    [
        (LinearReward(DIM, "pair"), "compares frames with earlier ones"),
        (LinearReward(DIM, "frame", ("embeddings", "previous")), "compares frames with earlier ones"),
        (LinearReward(DIM, "prefix"), "compares frames with earlier ones"),
        (LinearReward(DIM, "episode"), "compares frames with earlier ones"),
        (BrightnessReward(), "looks at pixels alone"),
    ],
)
def test_model_that_needs_more_than_single_embeddings_is_refused(model, why):
    with pytest.raises(ConfigError, match=why):
        FrameScorer(ProjectionEncoder(DIM), model, 1, gate=FrameGate(3))
    with pytest.raises(ConfigError, match="frame_gate=3 is for rewards that score the embedding of each frame"):
        Scorer(ProjectionEncoder(DIM), model, RewardTransform(), gate=FrameGate(3))


def test_clipped_reward_of_single_frames_is_accepted():
    rows, frames = make_rows([(0, 0, 1 + step) for step in range(3)]), np.array([grey(10), grey(11), grey(12)])
    gate, model = FrameGate(3), ClipDeltaReward(LinearReward(DIM), clip_at=0.5, delta=False)
    assert FrameScorer(ProjectionEncoder(DIM), model, 1, gate=gate).score(rows, gather(rows, frames)).valid.all()
    assert gate.counts.skipped == 2
    with pytest.raises(ConfigError, match="ClipDeltaReward compares frames with earlier ones"):
        FrameScorer(ProjectionEncoder(DIM), ClipDeltaReward(LinearReward(DIM), clip_at=0.5), 1, gate=gate)


@pytest.mark.parametrize("threshold", [-1, 256, float("nan"), True, "x"])
def test_threshold_that_is_no_level_is_refused(threshold):
    with pytest.raises(ConfigError, match="frame_gate must be a number of levels from 0 to 255, or null, got"):
        FrameGate(threshold)
