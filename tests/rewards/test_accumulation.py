"""Against numbers worked out by hand, and the traps of each rule."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlmreward.rewards.accumulation import accumulate, fuse, hop, remaining_delta

RULES = ("bounded", "simple", "inverse", "mix")
steps = st.lists(st.floats(-1, 1), min_size=1, max_size=30)


def percent(deltas, rule, start=0):
    return (100 * accumulate(np.array(deltas) / 100, rule, start / 100)).round(6).tolist()


def test_labels_of_a_pair_by_hand():
    # frame i of T stands at i / T: from 2 to 5 of 10 is 3 / 8 of what was left
    assert remaining_delta(0.2, 0.5) == pytest.approx(3 / 8)
    assert remaining_delta(0.5, 0.2) == pytest.approx(-0.3 / 0.5)
    assert remaining_delta(0.9, 0.2) == -1.0  # -7, cut off
    assert remaining_delta([1.0, 1.0], [1.0, 0.4]).tolist() == [0.0, -1.0]
    assert hop(0.2, 0.5) == pytest.approx(3 / 8)
    assert hop(0.5, 0.2) == pytest.approx(-3 / 5)
    assert hop([0.0, 1.0, 1.0, 0.0], [0.0, 1.0, 0.0, 1.0]).tolist() == [0.0, 0.0, -1.0, 1.0]


@pytest.mark.parametrize("rule", RULES)
def test_steps_up_are_the_same_in_every_rule(rule):
    assert percent([60, 50], rule) == [0, 60, 80]


def test_regressions_by_hand():
    assert percent([60, -50], "bounded") == [0, 60, 30]
    assert percent([60, -50], "simple") == [0, 60, 40]  # 60 + 40 * -50 %
    assert percent([60, -50], "inverse") == [0, 60, 20]  # 100 - 40 / 50 %
    assert percent([60, -50], "mix") == [0, 60, 20]
    assert percent([40, -50], "mix") == [0, 40, 20]  # at or below the half: v (1 + c)
    assert percent([50, -50], "mix") == [0, 50, 25]


def test_steps_below_nothing_stay_at_nothing():
    """VLAC's code gives -20 and -44 per cent."""
    for rule in RULES:
        assert percent([-20, -20], rule) == [0, 0, 0]


def test_the_largest_regression_divides_by_nothing():
    with np.errstate(all="raise"):
        assert percent([60, -100], "inverse") == [0, 60, 0]
        assert percent([60, -100], "mix") == [0, 60, 10]
        assert percent([40, -100], "mix") == [0, 40, 0]
        assert percent([60, -100], "bounded") == [0, 60, 0]
        assert percent([60, -100], "simple") == [0, 60, 20]


@pytest.mark.parametrize("rule", RULES)
def test_no_change_changes_nothing(rule):
    assert percent([0], rule, 100) == [100, 100]
    assert percent([0, 0], rule, 37) == [37, 37, 37]


def test_from_the_end_a_regression_leads_away():
    assert percent([-50], "bounded", 100) == [100, 50]
    assert percent([-50], "inverse", 100) == [100, 98]  # 100 - 1 / 50 %
    assert percent([-50], "simple", 100) == [100, 100]  # the paper's rule never leaves the end


def test_a_clip_played_backwards_starts_at_the_end():
    there = np.linspace(0, 1, 11)
    back = there[::-1]
    assert accumulate(hop(back[:-1], back[1:])) == pytest.approx(np.zeros(11))  # from 0 nothing can be lost
    assert accumulate(hop(back[:-1], back[1:]), start=1.0) == pytest.approx(back)


@given(steps, st.floats(0, 1), st.sampled_from(RULES))
def test_progress_stays_between_nothing_and_all(deltas, start, rule):
    values = accumulate(np.array(deltas), rule, start)
    assert values.shape == (len(deltas) + 1,)
    assert ((values >= 0) & (values <= 1)).all()


@given(st.lists(st.floats(0, 1), min_size=2, max_size=20))
def test_the_bounded_rule_takes_back_its_own_labels(progress):
    values = np.array(progress)
    assert accumulate(hop(values[:-1], values[1:]), start=values[0]) == pytest.approx(values, abs=1e-9)


@given(st.floats(0, 0.95), st.floats(0, 0.95))
def test_the_inverse_rule_undoes_a_step_up(start, step):
    values = accumulate(np.array([step, -step]), "inverse", start)
    if 1 - values[1] >= 0.01:  # within VLAC's floor
        assert values[2] == pytest.approx(start, abs=1e-9)


@pytest.mark.parametrize("rule", RULES)
def test_after_an_unknown_step_progress_is_unknown(rule):
    values = accumulate(np.array([0.5, np.nan, 0.5]), rule)
    assert values[:2].tolist() == [0, 0.5]
    assert np.isnan(values[2:]).all()


def test_many_episodes_at_once_are_each_by_itself():
    deltas = np.random.default_rng(0).uniform(-1, 1, (5, 7))
    for rule in RULES:
        assert np.array_equal(accumulate(deltas, rule), np.stack([accumulate(row, rule) for row in deltas]))


def test_agreeing_estimates_are_halfway_followed():
    # m = .4, w = 1: .5 * (.4 + 0) from 0 at the first frame; then F = .2 + .5 * ((.6 - .2) + .8 * .5)
    values, weight = fuse(np.array([0.4, 0.6]), np.array([0.4, 0.6]), np.array([0.5]))
    assert weight.tolist() == [1, 1]
    assert values == pytest.approx([0.2, 0.6])


def test_contradicting_estimates_are_not_followed():
    values, weight = fuse(np.array([0.0, 0.1]), np.array([0.0, 0.9]), np.array([0.9]))
    # D = .8 / .5; w = exp(-20 * 2.56)
    assert weight[1] == pytest.approx(np.exp(-51.2))
    assert values[1] == pytest.approx(0, abs=1e-12)


def test_a_disagreement_by_hand():
    # m = .5, D = .1 / .5, w = exp(-20 * .04) = exp(-.8); F = w / 2 * (.5 + .4)
    values, weight = fuse(np.array([0.0, 0.45]), np.array([0.0, 0.55]), np.array([0.4]))
    assert weight[1] == pytest.approx(np.exp(-0.8))
    assert values[1] == pytest.approx(np.exp(-0.8) / 2 * 0.9)


def test_an_anchor_gives_lost_progress_back():
    anchored = np.array([0.0, 0.3, 0.5, 0.7])
    values, _ = fuse(anchored, anchored, np.array([0.3, np.nan, 0.3]))
    assert values[2] == pytest.approx(0.5)
    lost = np.where(np.arange(4) == 2, np.nan, anchored)
    values, _ = fuse(lost, anchored, np.array([0.3, 0.3, 0.3]))
    assert np.isnan(values[2])
    assert values[3] == pytest.approx(0.7)
