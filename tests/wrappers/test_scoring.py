"""The scoring core against a plain per-episode computation in float64, for every context and any cut into jobs."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlmreward.errors import ConfigError
from vlmreward.testing.fakes import BrightnessReward, LinearReward, ProjectionEncoder
from vlmreward.types import RewardBatch
from vlmreward.wrappers.scoring import ROW_DTYPE, FrameScorer, gather

DIM = 24
SIZE = 5


def make_stream(rng, n_envs, n_steps, invalid_share, cut_share=0.0):
    """Rows and frames of a vector environment with random episode ends, in the order in which they are captured."""
    rows, frames = [], []
    episode, step = np.zeros(n_envs, int), np.zeros(n_envs, int)

    def emit(ticket, env, reset, terminated=False, truncated=False):
        bad = rng.random() < invalid_share
        env_reward = rng.random()
        number = episode[env] * n_envs + env
        rows.append((ticket, env, len(frames), number, step[env], env_reward, terminated, truncated, reset, int(bad)))
        frames.append(rng.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8))

    for env in range(n_envs):
        emit(-1, env, True)
    for ticket in range(n_steps):
        ends = []
        for env in range(n_envs):
            step[env] += 1
            draw = rng.random()
            emit(ticket, env, False, terminated=draw < 0.1, truncated=0.1 <= draw < 0.2)
            if draw < 0.2 or rng.random() < cut_share:
                ends.append(env)
        for env in ends:
            episode[env] += 1
            step[env] = 0
            emit(-1, env, True)
    return np.array(rows, dtype=ROW_DTYPE), np.array(frames)


def expected(rows, frames, model):
    """Worked out one episode at a time, in float64: {(ticket, env): reward or reason}."""
    encoder = ProjectionEncoder(DIM)
    dots = np.array([encoder.encode_images(frame[None])[0].astype(np.float64) @ model.direction for frame in frames])
    result = {}
    for number in np.unique(rows["episode"]):
        own = np.flatnonzero(rows["episode"] == number)
        own = own[np.argsort(rows["step"][own])]
        assert rows["step"][own].tolist() == list(range(len(own)))
        ended = bool(rows["terminated"][own[-1]] or rows["truncated"][own[-1]])
        good = rows["reason"][own] == 0
        for place in range(1, len(own)):
            key = int(rows["ticket"][own[place]]), int(rows["env"][own[place]])
            value = dots[own[place]]
            if not good[place]:
                result[key] = "constant frame"
            elif model.context == "pair" or "previous" in model.needs:
                result[key] = value - dots[own[place - 1]] if good[place - 1] else "no valid previous frame"
            elif "initial" in model.needs:
                result[key] = value - dots[own[0]] if good[0] else "no valid initial frame"
            elif model.context == "prefix":
                result[key] = dots[own[: place + 1]][good[: place + 1]].mean()
            elif model.context == "episode":
                if ended:
                    result[key] = dots[own][good].mean()
                elif number + 1 <= rows["episode"].max() and (rows["episode"] == number + rows["env"].max() + 1).any():
                    result[key] = "episode cut off by a reset"
            else:
                result[key] = value
    return result


def score_in_jobs(rows, frames, model, cuts):
    scorer = FrameScorer(ProjectionEncoder(DIM), model, int(rows["env"].max()) + 1)
    result = {}
    for part in np.split(np.arange(len(rows)), sorted(cuts)):
        if len(part) == 0:
            continue
        scored = scorer.score(rows[part], gather(rows[part], frames))
        assert sorted(scored.reasons) == np.flatnonzero(~scored.valid).tolist()
        for number, (row, raw, valid) in enumerate(zip(scored.rows, scored.raw, scored.valid, strict=True)):
            key = int(row["ticket"]), int(row["env"])
            assert key not in result, "a row was scored twice"
            result[key] = float(raw) if valid else scored.reasons[number]
            assert valid or raw == 0
    return result


def assert_same(got, want, tolerance):
    assert got.keys() == want.keys()
    for key, value in want.items():
        if isinstance(value, str):
            assert got[key] == value, key
        else:
            assert got[key] == pytest.approx(value, abs=tolerance), key


class PrefixDelta(LinearReward):
    """Sees whole prefixes, and also reads the frame before: the same numbers as the pair model."""

    def __init__(self):
        super().__init__(DIM, "prefix", ("embeddings", "previous"))

    def compute_reward(self, batch):
        assert batch.embeddings is not None
        dots = self._dots(batch.embeddings) - self._dots(batch.previous)
        return RewardBatch(dots, np.ones(len(batch), bool))


MODELS = {
    "frame": lambda: LinearReward(DIM),
    "pair": lambda: LinearReward(DIM, "pair"),
    "initial": lambda: LinearReward(DIM, "frame", ("embeddings", "initial")),
    "prefix": lambda: LinearReward(DIM, "prefix"),
    "prefix, initial": lambda: LinearReward(DIM, "prefix", ("embeddings", "initial")),
    "prefix, previous": PrefixDelta,
    "episode": lambda: LinearReward(DIM, "episode"),
}


@pytest.mark.parametrize("name", MODELS)
@given(seed=st.integers(0, 10_000), n_envs=st.integers(1, 4), data=st.data())
@settings(max_examples=25, deadline=None)
def test_rewards_equal_the_plain_computation_wherever_jobs_end(name, seed, n_envs, data):
    rng = np.random.default_rng(seed)
    rows, frames = make_stream(rng, n_envs, 15, invalid_share=0.15, cut_share=0.05)
    cuts = data.draw(st.lists(st.integers(0, len(rows)), max_size=8))
    model = MODELS[name]()
    # Contexts that keep whole episodes keep them as float16: 3e-4 of an embedding's entries of about 0.2.
    tolerance = 1e-3 if name.startswith(("prefix", "episode")) else 1e-6
    assert_same(score_in_jobs(rows, frames, model, cuts), expected(rows, frames, model), tolerance)


@pytest.mark.parametrize("name", MODELS)
def test_cutting_into_jobs_changes_nothing_to_1e_5(name):
    rows, frames = make_stream(np.random.default_rng(5), 3, 60, invalid_share=0.1)
    whole = score_in_jobs(rows, frames, MODELS[name](), [])
    single = score_in_jobs(rows, frames, MODELS[name](), range(len(rows)))
    assert_same(single, whole, 1e-5)
    assert any(isinstance(value, str) for value in whole.values())
    assert len(whole) > 100


def test_equal_frames_are_encoded_once_and_scored_each():
    frames = np.random.default_rng(0).integers(0, 256, (3, SIZE, SIZE, 3), dtype=np.uint8)
    rows = np.zeros(7, ROW_DTYPE)
    rows["slot"] = [0, 1, 0, 2, 1, 1, 0]
    rows["ticket"] = np.arange(7)
    rows["step"] = 1 + np.arange(7)
    rows["reason"][3] = 1
    gathered = gather(rows, frames)
    assert gathered.index.tolist() == [0, 1, 0, -1, 1, 1, 0]
    np.testing.assert_array_equal(gathered.unique, frames[:2])
    encoder = ProjectionEncoder(DIM)
    scored = FrameScorer(encoder, LinearReward(DIM), 1).score(rows, gathered)
    assert encoder.batches == [2]
    assert scored.pictures == 2
    assert len(set(scored.raw[[0, 2, 6]])) == 1
    assert scored.raw[0] != scored.raw[1]
    assert scored.valid.tolist() == [True, True, True, False, True, True, True]


def test_frames_that_differ_in_one_byte_anywhere_are_not_taken_for_equal():
    base = np.random.default_rng(0).integers(0, 255, (9, 9, 3), dtype=np.uint8)
    frames = np.repeat(base[None], 1 + base.size, axis=0)
    for number in range(base.size):
        frames[number].reshape(-1)[number] += 1
    rows = np.zeros(2 * len(frames), ROW_DTYPE)
    rows["slot"] = np.tile(np.arange(len(frames)), 2)
    gathered = gather(rows, frames)
    np.testing.assert_array_equal(gathered.unique, frames)
    np.testing.assert_array_equal(gathered.index, rows["slot"])


def test_reset_frames_are_needed_only_for_their_context():
    for name, model in MODELS.items():
        assert FrameScorer(ProjectionEncoder(DIM), model(), 1).needs_reset_frames == (name != "frame")


def test_model_on_pixels_gets_pixels_and_no_encoder():
    rows, frames = make_stream(np.random.default_rng(1), 2, 5, invalid_share=0.2)
    scored = FrameScorer(None, BrightnessReward(), 2).score(rows, gather(rows, frames))
    red = frames[scored.rows["slot"]][..., 0].reshape(len(scored.rows), -1).mean(1) / 255
    np.testing.assert_allclose(scored.raw[scored.valid], red[scored.valid], atol=1e-6)
    assert scored.pictures == 0
    assert (scored.valid == (scored.rows["reason"] == 0)).all()


def test_job_without_a_single_good_frame():
    rows, frames = make_stream(np.random.default_rng(1), 2, 5, invalid_share=1.0)
    for make in MODELS.values():
        encoder = ProjectionEncoder(DIM)
        scored = FrameScorer(encoder, make(), 2).score(rows, gather(rows, frames))
        assert encoder.batches == []
        assert not scored.valid.any()


def test_bad_frames_only_after_good_ones_keep_the_state_usable():
    """The second job has nothing to encode, the third needs what the first one left."""
    frames = np.random.default_rng(0).integers(0, 256, (4, SIZE, SIZE, 3), dtype=np.uint8)
    rows = np.zeros(4, ROW_DTYPE)
    rows["slot"], rows["step"], rows["ticket"] = np.arange(4), np.arange(4), np.arange(4) - 1
    rows["reset"][0], rows["reason"][1] = True, 1
    model = LinearReward(DIM, "frame", ("embeddings", "initial"))
    assert_same(score_in_jobs(rows, frames, model, [1, 2, 3]), expected(rows, frames, model), 1e-6)


class Strange(LinearReward):
    def __init__(self, reward, valid, reasons=None):
        super().__init__(DIM)
        self.answer = RewardBatch(np.array(reward, np.float32), np.array(valid), reasons=reasons or {})

    def compute_reward(self, batch):
        return self.answer


def three_rows():
    rows, frames = make_stream(np.random.default_rng(1), 1, 3, invalid_share=0)
    rows = rows[~rows["reset"]][:3]
    return rows, gather(rows, frames)


def test_what_is_not_finite_or_refused_is_invalid_with_a_reason_and_no_number():
    rows, gathered = three_rows()
    model = Strange([np.nan, 5.0, 0.25], [True, False, True], {1: "too dark"})
    scored = FrameScorer(ProjectionEncoder(DIM), model, 1).score(rows, gathered)
    assert scored.valid.tolist() == [False, False, True]
    assert scored.raw.tolist() == [0.0, 0.0, 0.25]
    assert scored.reasons == {0: "reward is not finite", 1: "too dark"}


def test_embedding_that_is_not_finite_is_invalid():
    class Broken(ProjectionEncoder):
        def encode_images(self, frames):
            embeddings = super().encode_images(frames)
            embeddings[1, 3] = np.inf
            return embeddings

    rows, gathered = three_rows()
    scored = FrameScorer(Broken(DIM), LinearReward(DIM), 1).score(rows, gathered)
    assert scored.valid.tolist() == [True, False, True]
    assert scored.reasons == {1: "embedding is not finite"}


def test_model_and_encoder_that_break_their_contract_are_named():
    rows, gathered = three_rows()
    with pytest.raises(ValueError, match=r"Strange returned reward \(2,\) and valid \(3,\) for 3 rows"):
        FrameScorer(ProjectionEncoder(DIM), Strange([0, 0], [True] * 3), 1).score(rows, gathered)

    class Short(ProjectionEncoder):
        def encode_images(self, frames):
            return super().encode_images(frames)[:-1]

    with pytest.raises(ValueError, match=r"projection-24-0 returned shape \(2, 24\) for 3 frames"):
        FrameScorer(Short(DIM), LinearReward(DIM), 1).score(rows, gathered)


def test_models_that_cannot_be_served_are_refused():
    with pytest.raises(ConfigError, match="needs embeddings, got no encoder"):
        FrameScorer(None, LinearReward(DIM), 1)
    with pytest.raises(ConfigError, match="looks at pixels with context 'prefix'"):
        FrameScorer(ProjectionEncoder(DIM), LinearReward(DIM, "prefix", ("frames",)), 1)
    with pytest.raises(ConfigError, match="reference trajectory"):
        FrameScorer(ProjectionEncoder(DIM), LinearReward(DIM, "frame", ("embeddings", "reference")), 1)


@pytest.mark.parametrize("context", ["frame", "prefix"])
def test_parts_come_with_the_rewards_and_one_that_is_not_finite_has_none(context):
    class Parts(LinearReward):
        def compute_reward(self, batch):
            rows = batch.step.astype(np.float32)
            parts = {"step": rows, "late": np.where(rows == 3, np.float32(np.inf), -rows), "other": rows + 9}
            return RewardBatch(rows + 1, rows != 2, parts=parts)

    rng = np.random.default_rng(0)
    rows = np.zeros(5, ROW_DTYPE)
    rows["step"], rows["reset"], rows["ticket"], rows["slot"] = (
        np.arange(5),
        np.arange(5) == 0,
        np.arange(5) - 1,
        range(5),
    )
    frames = rng.integers(0, 255, (5, 4, 4, 3), np.uint8)
    scorer = FrameScorer(ProjectionEncoder(DIM), Parts(DIM, context), 1, parts=("late", "step"))
    scored = scorer.score(rows, gather(rows, frames))
    assert scored.raw.tolist() == [2, 0, 0, 5]
    assert scored.valid.tolist() == [True, False, False, True]
    assert scored.parts.tolist() == [[-1, 1], [0, 0], [0, 0], [-4, 4]]
    assert scored.parts.dtype == np.float32
    assert scored.reasons == {1: "refused by the model", 2: "reward is not finite"}
    assert FrameScorer(ProjectionEncoder(DIM), Parts(DIM, context), 1).score(
        rows, gather(rows, frames)
    ).parts.shape == (4, 0)
