"""The formulas against hand numbers, and what their sources promise of them."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlmreward.errors import CheckpointError
from vlmreward.rewards.shaping import (
    LagrangeWeights,
    bounded_centred,
    clip_above,
    delta,
    driving_product,
    potential,
    product,
    rewards_at,
    soft_and,
    unit_range,
)

LN3 = np.log(3)
rewards = st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=12).map(np.array)


# Bounded and centred.


def test_par_hand_numbers():
    # margins of 0, ln 3 and -ln 3 units: 1/2, 3/(3+1), 1/(1+3)
    reward = np.array([0.2, 0.2 + 0.1 * LN3, 0.2 - 0.1 * LN3, np.nan])
    out = bounded_centred(reward, 0.2, 0.1)
    assert out.dtype == np.float32
    np.testing.assert_allclose(out, [0.5, 0.75, 0.25, np.nan], atol=1e-6)


def test_par_of_several_references_is_the_mean():
    references = np.array([[0.0, 1.0], [LN3, 1.0]])  # of two rows
    np.testing.assert_allclose(bounded_centred(np.array([LN3, 1.0]), references), [(0.75 + 0.5) / 2, 0.5], atol=1e-6)


@given(reward=rewards, reference=st.floats(-1, 1), temperature=st.floats(1e-3, 10))
def test_par_is_bounded_monotone_and_antisymmetric(reward, reference, temperature):
    reward = np.sort(reward)
    out = bounded_centred(reward, reference, temperature)
    assert ((out >= 0) & (out <= 1)).all()
    assert (np.diff(out) >= 0).all()
    np.testing.assert_allclose(bounded_centred(2 * reference - reward, reference, temperature), 1 - out, atol=1e-5)


def test_par_does_not_overflow():
    with np.errstate(over="raise"):
        np.testing.assert_array_equal(bounded_centred(np.array([-1.0, 1.0]), 0.0, 1e-3)[1], 1)


# Clip and delta.


def test_clip_hand_numbers():
    out = clip_above(np.array([0.2, 0.5, 0.9, np.nan]), 0.5)
    assert out.dtype == np.float32
    np.testing.assert_allclose(out, [-0.3, 0, 0, np.nan], atol=1e-7)


def test_delta_hand_numbers_over_two_mixed_episodes():
    episode = np.array([4, 9, 4, 9, 4])
    step = np.array([2, 1, 0, 0, 1])
    reward = np.array([0.9, 0.4, 0.1, 0.7, 0.3])
    before = rewards_at(reward, episode, step, step - 1)
    np.testing.assert_allclose(before, [0.3, 0.7, np.nan, np.nan, 0.1], atol=1e-7)
    np.testing.assert_allclose(delta(reward, before), [0.6, -0.3, np.nan, np.nan, 0.2], atol=1e-6)
    np.testing.assert_allclose(rewards_at(reward, episode, step, 0), [0.1, 0.7, 0.1, 0.7, 0.1], atol=1e-7)


@given(reward=rewards, threshold=st.floats(-1, 1))
def test_clip_and_delta_pay_neither_for_staying_nor_for_passing_the_threshold(reward, threshold):
    clipped = clip_above(reward, threshold).astype(np.float64)
    gains = delta(clipped[1:], clipped[:-1])
    assert gains.sum() == pytest.approx(min(reward[-1], threshold) - min(reward[0], threshold), abs=1e-5)


@given(reward=rewards, gamma=st.floats(0.1, 1))
def test_discounted_deltas_pay_for_staying_high(reward, gamma):
    """The identity that the docstring states, with the term at the end of a finite episode."""
    gains = delta(reward[1:], reward[:-1]).astype(np.float64)
    times = np.arange(len(gains))
    staying = sum(gamma ** (t - 1) * reward[t] for t in range(1, len(reward)))
    last = gamma ** len(gains) * reward[-1] if len(gains) else reward[0]
    assert (gamma**times * gains).sum() == pytest.approx(-reward[0] + (1 - gamma) * staying + last, abs=1e-5)


@given(
    steps=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 6)), max_size=20, unique=True), shift=st.integers(-3, 3)
)
def test_rewards_at_equals_looking_them_up(steps, shift):
    episode = np.array([e * 1000 for e, _ in steps], np.int64)
    step = np.array([s for _, s in steps], np.int64)
    reward = np.arange(len(steps), dtype=np.float32)
    table = {(e * 1000, s): reward[k] for k, (e, s) in enumerate(steps)}
    want = [table.get((e, s + shift), np.nan) for e, s in zip(episode, step, strict=True)]
    np.testing.assert_array_equal(rewards_at(reward, episode, step, step + shift), np.array(want, np.float32))


# Potential.


def test_potential_hand_numbers():
    after, before = np.array([0.8, 0.8, 0.2, np.nan]), np.array([0.5, 0.5, 0.4, 0.5])
    out = potential(after, before, np.array([False, True, False, True]), 0.9)
    assert out.dtype == np.float32
    np.testing.assert_allclose(out, [0.72 - 0.5, -0.5, 0.18 - 0.4, np.nan], atol=1e-6)


@given(phi=rewards.filter(lambda phi: len(phi) > 1), gamma=st.floats(0, 1), ends=st.booleans())
def test_discounted_sum_telescopes(phi, gamma, ends):
    terminated = np.zeros(len(phi) - 1, bool)
    terminated[-1] = ends
    shaped = potential(phi[1:], phi[:-1], terminated, gamma).astype(np.float64)
    last = 0.0 if ends else gamma ** len(shaped) * phi[-1]
    assert (gamma ** np.arange(len(shaped)) * shaped).sum() == pytest.approx(last - phi[0], abs=1e-5)


class Mdp:
    """A random MDP whose last two states end an episode."""

    def __init__(self, seed, states=7, actions=3, gamma=0.9):
        rng = np.random.default_rng(seed)
        self.next = rng.dirichlet(np.full(states, 0.3), (states, actions))
        self.reward = rng.normal(size=(states, actions, states))
        self.ends = np.arange(states) >= states - 2
        self.phi = rng.normal(scale=3, size=states)
        self.gamma = gamma

    def values(self, reward):
        """Q of the optimal policy, by value iteration; nothing follows an end."""
        q = np.zeros(self.reward.shape[:2])
        for _ in range(1000):
            after = np.where(self.ends, 0, q.max(axis=1))
            q = (self.next * (reward + self.gamma * after)).sum(axis=2)
        return q

    def shaped(self, gamma, ends):
        """The reward with potential differences, which ``ends`` says where F is 0."""
        after = np.broadcast_to(self.phi, self.reward.shape)
        before = np.broadcast_to(self.phi[:, None, None], self.reward.shape)
        return self.reward + potential(after, before, np.broadcast_to(ends, self.reward.shape), gamma)


@pytest.mark.parametrize("seed", range(20))
def test_potential_leaves_the_optimum_and_shifts_its_values(seed):
    mdp = Mdp(seed)
    plain = mdp.values(mdp.reward)
    shaped = mdp.values(mdp.shaped(mdp.gamma, mdp.ends))
    live = ~mdp.ends
    np.testing.assert_array_equal(shaped[live].argmax(axis=1), plain[live].argmax(axis=1))
    np.testing.assert_allclose(shaped[live], plain[live] - mdp.phi[live, None], atol=1e-4)


def test_without_zero_at_ends_or_with_another_gamma_the_optimum_moves():
    def moved(gamma, ends):
        mdps = [Mdp(seed) for seed in range(20)]
        plain = [mdp.values(mdp.reward)[~mdp.ends].argmax(axis=1) for mdp in mdps]
        other = [mdp.values(mdp.shaped(gamma, ends))[~mdp.ends].argmax(axis=1) for mdp in mdps]
        return sum((a != b).any() for a, b in zip(plain, other, strict=True))

    ends = Mdp(0).ends
    assert moved(0.9, ends) == 0
    assert moved(0.9, np.zeros_like(ends)) > 5  # F stays at true ends
    assert moved(1.0, ends) > 5  # the raw gain, for an agent that discounts


def test_a_time_limit_bootstraps_to_the_same_advantages():
    """An episode cut after three steps: the shaped return with its bootstrap is the plain one less F(s_0)."""
    rng = np.random.default_rng(0)
    phi, value, reward, gamma = rng.normal(size=4), rng.normal(size=4), rng.normal(size=3), 0.9
    shaped = reward + potential(phi[1:], phi[:-1], np.zeros(3, bool), gamma)
    discount = gamma ** np.arange(3)
    plain_return = (discount * reward).sum() + gamma**3 * value[3]
    shaped_return = (discount * shaped).sum() + gamma**3 * (value[3] - phi[3])  # the shaped value is V - F
    assert shaped_return == pytest.approx(plain_return - phi[0], abs=1e-6)


# Several rewards.


def test_soft_and_hand_numbers():
    parts = np.array([[0.0, 0.1 * LN3, 0.3], [0.0, -0.1 * LN3, np.nan]])
    out = soft_and(parts, 0.0, 0.1)
    assert out.dtype == np.float32
    np.testing.assert_allclose(out, [2 * np.log(0.5), np.log(0.75) + np.log(0.25), np.nan], atol=1e-6)


@given(first=rewards, reference=st.floats(-1, 1), temperature=st.floats(0.05, 10), gain=st.floats(0, 1))
def test_soft_and_is_the_log_of_a_product_and_below_its_worst_part(first, reference, temperature, gain):
    parts = np.stack([first, first[::-1], np.cos(first)])
    out = soft_and(parts, reference, temperature)
    each = np.stack([bounded_centred(part, reference, temperature) for part in parts])
    np.testing.assert_allclose(np.exp(out), product(each), atol=1e-6)
    assert (np.exp(out) <= each.min(axis=0) + 1e-6).all()
    better = parts.copy()
    better[1] += gain
    assert (soft_and(better, reference, temperature) >= out).all()


def test_soft_and_gains_most_from_the_worst_part():
    base, up = np.array([[-0.2], [0.3]]), 0.05
    worst, best = base + np.array([[up], [0]]), base + np.array([[0], [up]])
    out = [float(soft_and(parts, 0.0, 0.1)[0]) for parts in (base, worst, best)]
    assert out[1] - out[0] > 5 * (out[2] - out[0]) > 0


def test_unit_range_and_product_hand_numbers():
    np.testing.assert_allclose(unit_range(np.array([-1.0, 0.2, 0.3, 0.9]), 0.1, 0.5), [0, 0.25, 0.5, 1], atol=1e-6)
    out = product(np.array([[0.5, 0.0, 1.0], [0.5, 0.9, np.nan]]))
    assert out.dtype == np.float32
    np.testing.assert_allclose(out, [0.25, 0, np.nan], atol=1e-7)


def test_driving_product_hand_numbers():
    ones = np.ones(5)
    out = driving_product(
        # half of the alarm: the car may drive 12.5 km/h; then a clear road; then one on which it should stand
        contrast=np.array([-0.015, 0.0, -0.05, -0.05, 0.02]),
        speed_kmh=np.array([10.0, 25.0, 35.0, 0.0, 30.0]),
        centre_distance_m=np.array([-1.5, 0.0, 0.0, 0.0, 4.0]),
        angle_deg=np.array([-45.0, 0.0, 0.0, 0.0, 0.0]),
        centre_spread_m=np.array([0.1, 0.0, 0.0, 0.0, 0.0]),
        env_reward=0 * ones,
    )
    assert out.dtype == np.float32
    np.testing.assert_allclose(out, [0.9 * 0.5 * 0.5 * 0.75, 1, -0.4, 1, 0], atol=1e-6)


def test_penalty_of_the_environment_takes_the_place_of_the_driving_product():
    nothing = np.zeros(2)
    out = driving_product(nothing, np.full(2, 25.0), nothing, nothing, nothing, np.array([-10.0, 3.0]))
    np.testing.assert_array_equal(out, [-10, 1])


# Constrained weights.


def make_weights(*multipliers, thresholds=(0.5, 0.2), rate=0.1, limit=2.0):
    return LagrangeWeights(("a", "b"), thresholds, rate, limit, multipliers or (0.0, 0.0))


def test_dual_step_hand_numbers():
    # missing: 0.2 + 0.4 and -0.2 - 0.4
    moved = make_weights(0.0, 1.0).updated(np.array([[0.3, 0.4], [0.1, 0.6]]))
    assert moved.multipliers == pytest.approx((0.06, 0.94))
    assert make_weights().updated(np.array([[0.9, 0.9]])).multipliers == (0, 0)
    assert make_weights(1.95, 0).updated(np.array([[-1.0, 0.2]])).multipliers == (2, 0)


def test_weighed_mean_hand_numbers():
    weights = make_weights(0.5, 1.5)  # of 3 in all
    main, parts = np.array([[0.6], [0.0]]), np.array([[[0.2, 1.0]], [[0.3, -0.3]]])
    np.testing.assert_allclose(weights.combine(main, parts), [[(0.6 + 0.1 + 1.5) / 3], [(0.15 - 0.45) / 3]])
    assert weights.shares() == pytest.approx({"a": 0.5 / 3, "b": 0.5})
    np.testing.assert_array_equal(make_weights().combine(main, parts), main)


def test_steps_do_not_depend_on_the_batches_while_no_bound_is_met():
    parts = np.random.default_rng(0).uniform(0, 0.19, (60, 2))
    whole = make_weights(limit=100.0).updated(parts)
    cut = make_weights(limit=100.0)
    for rows in np.split(parts, [1, 8, 40]):
        cut = cut.updated(rows)
    assert cut.multipliers == pytest.approx(whole.multipliers)


@pytest.mark.parametrize("threshold", [0.1, 0.3, 0.8])
def test_dual_ascent_keeps_the_mean_at_its_threshold_and_no_higher(threshold):
    """An agent that always takes the better of two actions: (main 1, part 0) or (main 0, part 1)."""
    weights = LagrangeWeights(("part",), (threshold,), 0.01, 10.0, (0.0,))
    taken = []
    for _ in range(20_000):
        values = weights.combine(np.array([1.0, 0.0]), np.array([[0.0], [1.0]]))
        taken.append(int(values[1] > values[0]))
        weights = weights.updated(np.array([[float(taken[-1])]]))
    assert np.mean(taken[10_000:]) == pytest.approx(threshold, abs=0.01)


def test_multipliers_come_back_through_json():
    weights = make_weights().updated(np.random.default_rng(0).uniform(0, 0.1, (7, 2)))
    assert 0 < weights.multipliers[0] < weights.limit
    assert make_weights().restored(json.loads(json.dumps(list(weights.multipliers)))) == weights


@pytest.mark.parametrize("state", [None, [0.1], [0.1, 2.1], [0.1, -0.1], [0.1, float("nan")], ["a", "b"], {"a": 1}])
def test_damaged_multipliers_are_refused(state):
    with pytest.raises(CheckpointError, match="multipliers of the reward must be"):
        make_weights().restored(state)
