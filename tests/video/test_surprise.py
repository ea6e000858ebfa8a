import statistics

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlmreward.video.surprise import APART, WINDOW, Surprise, find_surprises

SOME = st.one_of(st.none(), st.integers(-8, 8))


def curve(values):
    return np.array([np.nan if v is None else v for v in values], np.float32)


def one_by_one(values, count):
    """The same in plain Python, by the definition."""
    changes = {
        t: values[t] - values[t - 1]
        for t in range(1, len(values))
        if values[t] is not None and values[t - 1] is not None
    }
    half = WINDOW // 2
    beyond = {}
    for t, change in changes.items():
        beyond[t] = change - statistics.median(changes[u] for u in range(t - half, t + half + 1) if u in changes)
    found = []
    for t in sorted(beyond, key=lambda t: (-abs(beyond[t]), t)):
        if beyond[t] and len(found) < count and all(abs(t - other) >= APART for other in found):
            found.append(t)
    return [Surprise(t, changes[t], beyond[t]) for t in found]


def test_a_jump_against_a_steady_rise_is_found_with_its_figures():
    """By hand: +1 a frame, but -4 into frame 20 and +1 again: the change is -4, the trend 1, so -5 beyond it."""
    steps = np.ones(40)
    steps[20] = -4
    assert find_surprises(np.cumsum(steps).astype(np.float32)) == [Surprise(20, -4, -5)]


def test_a_steady_rise_and_its_rounding_surprise_nobody():
    assert find_surprises(np.linspace(0.2, 0.3, 500, dtype=np.float32)) == []
    assert find_surprises(np.full(30, 0.7, np.float32)) == []


def test_a_spike_is_listed_once_and_what_is_not_there_is_no_jump():
    values = np.zeros(50, np.float32)
    values[10] = 1
    values[30:32] = np.nan
    values[32:] = 5
    assert [s.frame for s in find_surprises(values)] == [10]


def test_the_largest_come_first_and_no_more_than_asked_for():
    values = np.zeros(100, np.float32)
    for number, frame in enumerate(range(5, 95, 9)):
        values[frame:] += (-1) ** number * (number + 1)
    found = find_surprises(values, 4)
    assert [(s.frame, s.beyond) for s in found] == [(86, -10), (77, 9), (68, -8), (59, 7)]


@pytest.mark.parametrize("values", [[], [1.0], [np.nan] * 5, [np.nan, 1, np.nan]])
def test_too_few_values_have_no_jump(values):
    assert find_surprises(np.array(values, np.float32)) == []


@settings(max_examples=200, deadline=None)
@given(st.lists(SOME, max_size=60), st.integers(0, 10))
def test_agrees_with_the_definition_one_by_one(values, count):
    assert find_surprises(curve(values), count) == one_by_one(values, count)
