import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlmreward.errors import CheckpointError, ConfigError, NonFiniteError
from vlmreward.rewards.shaping import LagrangeWeights
from vlmreward.rewards.transform import MIN_STD, TRANSFORM_KEYS, RewardTransform

finite = st.floats(-2, 2, width=32)


def all_valid(raw):
    return np.ones(np.shape(raw), dtype=bool)


def test_plain_transform_only_scales():
    raw = np.array([[0.25, -0.5]], np.float32)
    out = RewardTransform(scale=4.0).apply(raw)
    assert out.dtype == np.float32
    np.testing.assert_array_equal(out, [[1.0, -2.0]])


def test_order_is_normalise_then_scale_then_add_the_environment():
    transform = RewardTransform(scale=10.0, normalise="running", combine="add", env_weight=2.0)
    transform.update(np.array([1.0, 3.0]), np.array([True, True]))  # mean 2, standard deviation 1
    out = transform.apply(np.array([4.0, 2.0]), np.array([0.5, -1.0]))
    np.testing.assert_allclose(out, [10 * 2 + 2 * 0.5, 10 * 0 - 2], rtol=1e-6)


def test_env_learns_from_the_environments_reward_alone_under_the_same_normalisation():
    transform = RewardTransform(scale=10.0, normalise="running", combine="env", env_weight=7.0)
    env_reward = np.array([1.0, 3.0, 50.0])  # the third row could not be scored
    raw = np.array([0.4, -0.2, np.nan])
    transform.update(raw, np.isfinite(raw), env_reward)
    assert (transform.stats.mean, transform.stats.std) == (2.0, 1.0)
    np.testing.assert_array_equal(transform.apply(raw, env_reward), [-10.0, 10.0, np.nan])
    for call in (transform.apply, lambda r, e: transform.update(r, np.isfinite(r), e)):
        with pytest.raises(ConfigError, match="combine=env needs the environment's own rewards"):
            call(raw, None)


@given(chunks=st.lists(st.lists(st.tuples(finite, st.booleans()), max_size=9), max_size=9))
def test_running_statistics_equal_those_of_all_valid_rows_at_once(chunks):
    transform = RewardTransform(normalise="running")
    for chunk in chunks:
        values = np.array([v if ok else np.nan for v, ok in chunk], np.float32)
        transform.update(values, np.array([ok for _, ok in chunk], dtype=bool))
    seen = np.array([v for chunk in chunks for v, ok in chunk if ok], np.float64)
    assert transform.stats.count == len(seen)
    if len(seen):
        assert transform.stats.mean == pytest.approx(seen.mean(), abs=1e-9)
        assert transform.stats.m2 == pytest.approx(seen.var() * len(seen), abs=1e-9)
    if len(seen) >= 2:
        expected = (seen - seen.mean()) / max(seen.std(), MIN_STD)
        np.testing.assert_allclose(transform.apply(seen), expected, rtol=1e-5, atol=1e-5)


def test_statistics_survive_a_large_offset():
    # a naive sum of squares loses this spread in rounding
    values = 1e6 + np.random.default_rng(0).normal(scale=0.01, size=10_000)
    transform = RewardTransform(normalise="running")
    for chunk in np.split(values, 100):
        transform.update(chunk, all_valid(chunk))
    assert transform.stats.std == pytest.approx(values.std(), rel=1e-4)


def test_constant_rewards_do_not_explode():
    transform = RewardTransform(normalise="running")
    raw = np.full(100, 0.37, np.float32)
    transform.update(raw, all_valid(raw))
    np.testing.assert_allclose(transform.apply(raw), 0, atol=1e-6)
    assert transform.apply(np.array([0.38]))[0] == pytest.approx(0.01 / MIN_STD, rel=1e-3)


def test_little_evidence_does_not_divide():
    transform = RewardTransform(normalise="running")
    np.testing.assert_allclose(transform.apply(np.array([0.3])), [0.3], rtol=1e-6)
    transform.update(np.array([0.3]), np.array([True]))
    np.testing.assert_allclose(transform.apply(np.array([0.35])), [0.05], rtol=1e-5)


def test_apply_leaves_the_statistics_alone():
    transform = RewardTransform(normalise="running")
    transform.update(np.array([0.1, 0.2]), np.array([True, True]))
    before = transform.state_dict()
    transform.apply(np.array([5.0]))
    assert transform.state_dict() == before


def test_unscored_rows_stay_unscored():
    transform = RewardTransform(normalise="running", combine="add")
    transform.update(np.array([0.0, 1.0, np.nan]), np.array([True, True, False]))
    out = transform.apply(np.array([0.5, np.nan]), np.array([1.0, 1.0]))
    assert np.isfinite(out).tolist() == [True, False]


def test_frozen_transform_ignores_updates_and_keeps_its_statistics():
    transform = RewardTransform(scale=2.0, normalise="running", combine="add", env_weight=0.5)
    transform.update(np.array([0.0, 2.0]), np.array([True, True]))
    frozen = transform.frozen_copy()
    assert frozen.frozen
    frozen.update(np.array([100.0]), np.array([True]))
    assert frozen.stats == transform.stats
    raw, env_reward = np.array([3.0]), np.array([1.0])
    np.testing.assert_array_equal(frozen.apply(raw, env_reward), transform.apply(raw, env_reward))
    transform.update(np.array([100.0]), np.array([True]))
    assert frozen.stats.count == 2
    assert not transform.frozen


def test_state_goes_through_json_to_the_last_bit():
    transform = RewardTransform(normalise="running")
    raw = np.random.default_rng(1).normal(size=77)
    transform.update(raw, all_valid(raw))
    other = RewardTransform(normalise="running")
    other.load_state_dict(json.loads(json.dumps(transform.state_dict())))
    assert other.stats == transform.stats
    other.update(raw, all_valid(raw))
    transform.update(raw, all_valid(raw))
    assert other.stats == transform.stats


@pytest.mark.parametrize(
    "state",
    [
        {},
        {"count": 1, "mean": 0.0},
        {"count": "many", "mean": 0.0, "m2": 0.0},
        {"count": -1, "mean": 0.0, "m2": 0.0},
        {"count": 3, "mean": float("nan"), "m2": 0.0},
        {"count": 3, "mean": 0.0, "m2": -1.0},
        {"count": 3, "mean": 0.0, "m2": None},
    ],
)
def test_damaged_state_is_rejected(state):
    with pytest.raises(CheckpointError, match="reward statistics"):
        RewardTransform().load_state_dict(state)


def test_non_finite_row_marked_valid_is_rejected():
    with pytest.raises(NonFiniteError, match="1 of 2 rewards marked valid are not finite"):
        RewardTransform(normalise="running").update(np.array([0.1, np.inf]), np.array([True, True]))


def test_none_keeps_no_statistics():
    transform = RewardTransform(normalise="none")
    transform.update(np.array([5.0, 6.0]), np.array([True, True]))
    assert transform.stats.count == 0


@pytest.mark.parametrize("env_reward", [None, np.zeros(3), np.zeros((2, 1))])
def test_add_without_matching_environment_rewards_is_rejected(env_reward):
    with pytest.raises(ConfigError, match="combine=add needs the environment's own rewards"):
        RewardTransform(combine="add").apply(np.zeros(2), env_reward)


def test_replace_ignores_the_environment():
    out = RewardTransform(combine="replace", env_weight=5.0).apply(np.array([1.0]), np.array([100.0]))
    np.testing.assert_array_equal(out, [1.0])


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"scale": 0}, "scale must be a finite number > 0, got 0"),
        ({"scale": float("nan")}, "scale must be a finite number > 0, got nan"),
        ({"normalise": "batch"}, "normalise must be one of none, running, got 'batch'"),
        ({"combine": "multiply"}, "combine must be one of replace, add, env, got 'multiply'"),
        ({"env_weight": -1}, "env_weight must be a finite number >= 0, got -1"),
        ({"env_weight": "1"}, "env_weight must be a finite number >= 0, got '1'"),
    ],
)
def test_bad_settings_are_rejected(setting, message):
    with pytest.raises(ConfigError, match=message):
        RewardTransform(**setting)


def test_keys_name_every_setting():
    transform = RewardTransform()
    assert all(hasattr(transform, key) for key in TRANSFORM_KEYS)


def weigh(*multipliers, **settings):
    names, thresholds = ("a", "b")[: len(multipliers)], (0.5,) * len(multipliers)
    return RewardTransform(weights=LagrangeWeights(names, thresholds, 0.1, 5.0, multipliers), **settings)


def test_parts_are_weighed_before_all_else():
    transform = weigh(1.0, scale=10.0, normalise="running", combine="add", env_weight=2.0, frozen=True)
    raw, parts, env_reward = np.array([1.0, 3.0]), np.array([[0.0], [2.0]]), np.array([0.5, -1.0])
    np.testing.assert_allclose(transform.apply(raw, env_reward, parts), [10 * 0.5 + 1, 10 * 2.5 - 2])
    transform.load_state_dict({"count": 2, "mean": 1.5, "m2": 2.0, "multipliers": [1.0]})
    np.testing.assert_allclose(transform.apply(raw, env_reward, parts), [10 * -1 + 1, 10 * 1 - 2])


def test_weights_learn_from_valid_rows_before_the_statistics_do():
    transform = weigh(0.0, normalise="running")
    raw, parts = np.array([1.0, 0.0, 9.0]), np.array([[0.0], [0.2], [-99.0]])
    transform.update(raw, np.array([True, True, False]), None, parts)
    # 0.5 + 0.3 are missing: the multiplier is 0.08, and the weighed rewards are 1 / 1.08 and 0.016 / 1.08
    assert transform.state_dict()["multipliers"] == pytest.approx([0.08])
    assert transform.stats.mean == pytest.approx(1.016 / 1.08 / 2)
    assert transform.log_values() == {"reward/weight/a": pytest.approx(0.08 / 1.08)}
    before = transform.state_dict()
    transform.update(raw, np.zeros(3, bool), None, parts)
    transform.apply(raw, None, parts)
    frozen = transform.frozen_copy()
    frozen.update(raw, np.array([True, True, False]), None, parts)
    assert transform.state_dict() == frozen.state_dict() == before
    np.testing.assert_array_equal(frozen.apply(raw, None, parts), transform.apply(raw, None, parts))


def test_weights_come_back_and_go_on_alike():
    parts = np.random.default_rng(0).uniform(0, 1, (40, 2))
    raw, valid = parts.sum(axis=1), all_valid(parts[:, 0])
    first, second = weigh(0.0, 0.0), weigh(4.0, 4.0)
    first.update(raw, valid, None, parts)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    for transform in (first, second):
        transform.update(raw, valid, None, parts)
    assert first.state_dict() == second.state_dict()
    np.testing.assert_array_equal(first.apply(raw, None, parts), second.apply(raw, None, parts))
    with pytest.raises(CheckpointError, match="multipliers of the reward must be 2 numbers"):
        second.load_state_dict(RewardTransform().state_dict())


def test_baseline_on_the_environments_reward_weighs_nothing():
    transform = weigh(1.0, combine="env")
    assert (transform.parts, transform.log_values()) == ((), {})
    transform.update(np.zeros(2), all_valid(np.zeros(2)), np.ones(2))
    np.testing.assert_array_equal(transform.apply(np.zeros(2), np.array([3.0, 4.0])), [3, 4])
    assert "multipliers" not in transform.state_dict()
