"""Models that shape another one's rewards: where the compared frame comes from, bounds, refusals."""

import dataclasses

import numpy as np
import pytest

from vlmreward.errors import ConfigError, FramesError
from vlmreward.rewards.shaped import ClipDeltaReward, ParReward, PotentialReward, SuccessReward
from vlmreward.testing.fakes import BrightnessReward, LinearReward
from vlmreward.types import Context, FrameBatch, RewardBatch

LN3 = np.log(3)


class PlainReward:
    """The first number of an embedding is its reward; negative ones can't be scored."""

    context: Context = "frame"
    causal = True
    needs: tuple[str, ...] = ("embeddings",)
    range = (0.0, 2.0)

    def compute_reward(self, batch: FrameBatch) -> RewardBatch:
        reward = np.asarray(batch.embeddings)[:, 0].astype(np.float32)
        valid = reward >= 0
        reasons = {int(row): "too dark" for row in np.flatnonzero(~valid)}
        return RewardBatch(reward, valid, success=valid.astype(np.float32), parts={"red": 2 * reward}, reasons=reasons)


class PrefixReward(PlainReward):
    """The same for a model that sees the episode so far."""

    context: Context = "prefix"


def rows(values):
    return np.array([[value, 0] for value in values], np.float32)


def make_batch(now, previous=None, initial=None, terminated=None, truncated=None, episode=None, step=None):
    n = len(now)
    return FrameBatch(
        episode=np.zeros(n, np.int64) if episode is None else np.array(episode),
        step=np.arange(1, n + 1) if step is None else np.array(step),
        embeddings=rows(now),
        previous=None if previous is None else rows(previous),
        initial=None if initial is None else rows(initial),
        terminated=np.zeros(n, bool) if terminated is None else np.array(terminated, bool),
        truncated=np.zeros(n, bool) if truncated is None else np.array(truncated, bool),
    )


def test_par_is_centred_on_the_frame_of_the_reset():
    model = ParReward(PlainReward(), temperature=0.1)
    assert (model.context, model.needs) == ("frame", ("embeddings", "initial"))
    scored = model.compute_reward(make_batch([0.5, 0.5, 0.5], initial=[0.5, 0.5 - 0.1 * LN3, 0.5 + 0.1 * LN3]))
    np.testing.assert_allclose(scored.reward, [0.5, 0.75, 0.25], atol=1e-6)
    np.testing.assert_allclose(scored.parts["unshaped"], [0.5, 0.5, 0.5])
    np.testing.assert_allclose(scored.parts["red"], [1, 1, 1])
    assert scored.success is not None


def test_par_on_a_number_needs_no_other_frame():
    model = ParReward(PlainReward(), reference=0.4, temperature=0.1)
    assert model.needs == ("embeddings",)
    assert model.range == pytest.approx((1 / (1 + np.exp(4)), 1 / (1 + np.exp(-16))))
    assert model.compute_reward(make_batch([0.4 + 0.1 * LN3])).reward[0] == pytest.approx(0.75, abs=1e-6)


def test_clip_delta_compares_with_the_frame_before():
    model = ClipDeltaReward(PlainReward(), clip_at=0.6)
    assert (model.context, model.needs) == ("pair", ("embeddings", "previous"))
    scored = model.compute_reward(make_batch([0.5, 0.9, 0.9], previous=[0.1, 0.5, 1.5]))
    np.testing.assert_allclose(scored.reward, [0.4, 0.1, 0], atol=1e-6)
    assert model.range == pytest.approx((-0.6, 0.6))


def test_clip_alone_and_delta_alone():
    clip = ClipDeltaReward(PlainReward(), clip_at=0.6, delta=False)
    assert (clip.context, clip.needs, clip.range) == ("frame", ("embeddings",), pytest.approx((-0.6, 0)))
    np.testing.assert_allclose(clip.compute_reward(make_batch([0.5, 0.9])).reward, [-0.1, 0], atol=1e-6)
    plain = ClipDeltaReward(PlainReward())
    np.testing.assert_allclose(plain.compute_reward(make_batch([0.5], previous=[0.9])).reward, [-0.4], atol=1e-6)
    assert plain.range == (-2, 2)


def test_potential_is_zero_at_true_ends_and_not_at_time_limits():
    model = PotentialReward(PlainReward(), gamma=0.9, success_at=0.95)
    assert (model.context, model.needs) == ("pair", ("embeddings", "previous", "terminated"))
    batch = make_batch([0.8, 0.8, 0.8, 1], [0.5] * 4, terminated=[0, 1, 0, 1], truncated=[0, 0, 1, 0])
    scored = model.compute_reward(batch)
    np.testing.assert_allclose(scored.reward, [0.22, -0.5, 0.22, 0.5], atol=1e-6)
    assert model.range == pytest.approx((0.9 * 0 - 2, 0.9 * 2 - 0 + 1))


def test_bounds_of_a_potential_hold_at_true_ends_too():
    class Shifted(PlainReward):
        range = (1.0, 2.0)

    model = PotentialReward(Shifted(), gamma=0.5)
    batch = make_batch([2, 1, 1], [1, 2, 2], terminated=[False, False, True])
    reward = model.compute_reward(batch).reward
    np.testing.assert_allclose(reward, [0, -1.5, -2])
    assert model.range == (-2, 0)


@pytest.mark.parametrize(
    ("model", "field"),
    [
        (ParReward(PlainReward()), "initial"),
        (ClipDeltaReward(PlainReward()), "previous"),
        (PotentialReward(PlainReward()), "previous"),
    ],
)
def test_rows_without_a_known_frame_to_compare_with_are_invalid(model, field):
    batch = make_batch([0.5, -1, 0.5], **{field: [0.1, 0.1, -1]})
    scored = model.compute_reward(batch)
    assert scored.valid.tolist() == [True, False, False]
    assert np.isnan(scored.reward).tolist() == [False, True, True]
    assert scored.reasons == {1: "too dark", 2: f"no valid {field} frame"}
    with pytest.raises(FramesError, match=f"lacks the {field} frames"):
        model.compute_reward(make_batch([0.5]))


def test_a_batch_that_does_not_tell_true_ends_is_refused():
    batch = dataclasses.replace(make_batch([0.5], previous=[0.1]), terminated=None)
    with pytest.raises(FramesError, match="does not say which rows are true ends"):
        PotentialReward(PlainReward()).compute_reward(batch)


class ToldReward(PlainReward):
    """Gives the second number of an embedding as success probability."""

    def compute_reward(self, batch: FrameBatch) -> RewardBatch:
        scored = super().compute_reward(batch)
        return dataclasses.replace(scored, success=np.asarray(batch.embeddings)[:, 1].astype(np.float32))


def test_success_is_the_probability_or_whether_it_is_enough():
    told = np.array([[0.9, 0.2], [0.1, 0.8], [0.1, 0.7], [-1, 1], [0.5, np.nan]], np.float32)
    batch = dataclasses.replace(make_batch([0] * 5), embeddings=told)
    scored = SuccessReward(ToldReward()).compute_reward(batch)
    np.testing.assert_array_equal(scored.reward, np.array([0.2, 0.8, 0.7, np.nan, np.nan], np.float32))
    assert scored.valid.tolist() == [True, True, True, False, False]
    assert scored.reasons == {3: "too dark", 4: "no success probability"}
    enough = SuccessReward(ToldReward(), at=0.8)
    assert (enough.context, enough.needs, enough.range) == ("frame", ("embeddings",), (0, 1))
    scored = enough.compute_reward(batch)
    np.testing.assert_array_equal(scored.reward, [0, 1, 0, np.nan, np.nan])
    np.testing.assert_array_equal(scored.parts["unshaped"], np.array([0.2, 0.8, 0.7, np.nan, np.nan], np.float32))


def test_success_of_a_model_that_tells_none_is_refused():
    with pytest.raises(ConfigError, match="needs a success probability, and LinearReward gives none: choose"):
        SuccessReward(LinearReward(dim=2)).compute_reward(make_batch([0.5]))


def test_models_of_episodes_are_compared_within_their_rows():
    """Two episodes, mixed; the second lacks its step 2, and its step 3 what to compare with."""
    episode = [7, 8, 7, 8, 7, 8]
    step = [0, 0, 1, 1, 2, 3]
    now = [0.2, 0.4, 0.5, 0.3, 0.1, 0.9]
    batch = make_batch(now, episode=episode, step=step)
    gains = ClipDeltaReward(PrefixReward())
    assert (gains.context, gains.needs) == ("prefix", ("embeddings",))
    scored = gains.compute_reward(batch)
    np.testing.assert_allclose(scored.reward, [np.nan, np.nan, 0.3, -0.1, -0.4, np.nan], atol=1e-6)
    assert set(scored.reasons) == {0, 1, 5}
    centred = ParReward(PrefixReward(), temperature=0.1)
    assert centred.needs == ("embeddings",)
    want = 1 / (1 + np.exp(-(np.array(now) - np.array([0.2, 0.4] * 3)) / 0.1))
    np.testing.assert_allclose(centred.compute_reward(batch).reward, want, atol=1e-6)


def test_shaped_rewards_can_be_shaped_again():
    model = PotentialReward(ParReward(PlainReward(), temperature=0.1), gamma=1.0)
    assert model.needs == ("embeddings", "initial", "previous", "terminated")
    batch = make_batch([0.5 + 0.1 * LN3], previous=[0.5], initial=[0.5])
    np.testing.assert_allclose(model.compute_reward(batch).reward, [0.25], atol=1e-6)


@pytest.mark.parametrize("build", [ClipDeltaReward, PotentialReward, ParReward])
def test_models_that_give_one_frame_no_reward_are_refused(build):
    for pair in (LinearReward(context="pair"), LinearReward(needs=("embeddings", "previous"))):
        with pytest.raises(ConfigError, match="LinearReward needs two frames for one reward"):
            build(pair)
    with pytest.raises(ConfigError, match="BrightnessReward looks at pixels, which are not kept"):
        build(BrightnessReward())


def test_models_on_pixels_are_shaped_where_no_other_frame_is_needed():
    frames = np.full((1, 4, 4, 3), 255, np.uint8)
    batch = dataclasses.replace(make_batch([0]), frames=frames)
    assert ParReward(BrightnessReward(), reference=1.0).compute_reward(batch).reward[0] == 0.5


@pytest.mark.parametrize(
    ("build", "settings", "message"),
    [
        (ParReward, {"temperature": 0}, "temperature must be a finite number > 0, got 0"),
        (ParReward, {"reference": "first"}, "reference must be a number or initial, got 'first'"),
        (ParReward, {"reference": None}, "reference must be a finite number, got None"),
        (ClipDeltaReward, {"delta": False}, "clip_at is null and delta is false, which shapes nothing"),
        (ClipDeltaReward, {"delta": "no"}, "delta must be true or false, got 'no'"),
        (ClipDeltaReward, {"clip_at": 0.0}, "clip_at=0.0 is not above the least reward 0, so nothing"),
        (ClipDeltaReward, {"clip_at": "high"}, "clip_at must be a finite number, got 'high'"),
        (SuccessReward, {"at": 0}, "at=0 pays every frame 1: set a probability above 0"),
        (SuccessReward, {"at": 1.1}, r"at must be a finite number in \[0, 1\], got 1.1"),
        (PotentialReward, {"gamma": None}, "gamma must be the agent's discount factor, got null"),
        (PotentialReward, {"gamma": 1.01}, r"gamma must be a finite number in \[0, 1\], got 1.01"),
        (PotentialReward, {"success_at": np.inf}, "success_at must be a finite number, got inf"),
    ],
)
def test_bad_settings_are_rejected(build, settings, message):
    with pytest.raises(ConfigError, match=message):
        build(PlainReward(), **settings)


def test_transforms_that_would_undo_a_potential_are_refused():
    model, paid = PotentialReward(PlainReward()), PotentialReward(PlainReward(), success_at=0.9)
    with pytest.raises(ConfigError, match="needs normalise=none, got 'running'"):
        model.make_transform(combine="add", normalise="running")
    with pytest.raises(ConfigError, match=r"pays every policy the same: set reward\.combine=add"):
        model.make_transform()
    assert paid.make_transform().combine == "replace"
    assert model.make_transform(combine="add", scale=3).scale == 3
    assert model.make_transform(combine="env", normalise="running").normalise == "running"
