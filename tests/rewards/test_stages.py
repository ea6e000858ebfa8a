"""Stages against brute force and hand numbers."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlmreward.rewards.stages import (
    Marks,
    arrival,
    best_borders,
    combine_stages,
    find_marks,
    reference_frames,
    scatter,
    split_demos,
)


def spread(x):
    return float(((x - x.mean(axis=0)) ** 2).sum()) if len(x) else 0.0


def all_borders(count, stages, shortest):
    for inner in itertools.combinations(range(1, count), stages - 1):
        borders = (0, *inner, count)
        if all(b - a >= shortest for a, b in itertools.pairwise(borders)):
            yield borders


def joint_cost(demos, splits):
    """Sum of squared distances to the means of stages over all demonstrations, each less its own mean."""
    centred = [x - x.mean(axis=0) for x in demos]
    parts = [[x[a:b] for a, b in itertools.pairwise(s)] for x, s in zip(centred, splits, strict=True)]
    return sum(spread(np.concatenate(stage)) for stage in zip(*parts, strict=True))


def test_scatter_equals_the_definition():
    x = np.random.default_rng(0).normal(size=(9, 3))
    cost = scatter(x)
    for i in range(10):
        for j in range(10):
            assert cost[i, j] == pytest.approx(spread(x[i:j]) if i < j else 0, abs=1e-9)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), count=st.integers(6, 10), stages=st.integers(1, 4), shortest=st.integers(1, 2))
def test_one_demo_is_split_as_by_brute_force(seed, count, stages, shortest):
    shortest = min(shortest, count // stages)
    x = np.random.default_rng(seed).normal(size=(count, 2))
    (found,) = split_demos([x], stages, shortest)
    least = min(joint_cost([x], [borders]) for borders in all_borders(count, stages, shortest))
    assert joint_cost([x], [found]) == pytest.approx(least, abs=1e-9)
    assert (np.diff(found) >= shortest).all()


def test_borders_by_hand():
    x = np.array([0, 0, 5, 5, 5, 9], float)[:, None]
    borders, cost = best_borders(np.broadcast_to(scatter(x), (3, 7, 7)))
    assert borders.tolist() == [0, 2, 5, 6]
    assert cost == pytest.approx(0)
    borders, cost = best_borders(np.broadcast_to(scatter(x), (3, 7, 7)), shortest=2)
    assert borders.tolist() == [0, 2, 4, 6]
    assert cost == pytest.approx(8)  # 5 and 9 lie 2 from their mean


def test_costs_that_differ_by_stage_decide_the_borders():
    costs = np.full((2, 4, 4), 9.0)
    costs[0, 0, 1], costs[1, 1, 3] = 1, 2
    costs[1, 0, 1], costs[0, 1, 3] = 0, 0  # cheaper, but in the wrong order
    borders, cost = best_borders(costs)
    assert (borders.tolist(), cost) == ([0, 1, 3], 3)


@pytest.mark.parametrize("seed", range(12))
def test_no_border_of_a_demo_alone_betters_a_joint_split(seed):
    rng = np.random.default_rng(seed)
    levels = rng.normal(scale=2, size=(3, 2))
    demos = [np.repeat(levels, rng.integers(2, 4, 3), axis=0) for _ in range(3)]
    demos = [x + rng.normal(size=2) + 0.3 * rng.normal(size=x.shape) for x in demos]
    splits = split_demos(demos, 3)
    alone = [split_demos([x], 3)[0] for x in demos]
    assert joint_cost(demos, splits) <= joint_cost(demos, alone) + 1e-9
    # under the means of the stages, every demonstration's borders are the best by brute force
    centred = [x - x.mean(axis=0) for x in demos]
    stage = np.concatenate([np.repeat(np.arange(3), np.diff(s)) for s in splits])
    means = [np.concatenate(centred)[stage == k].mean(axis=0) for k in range(3)]

    def cost(x, borders):
        return sum(((x[a:b] - m) ** 2).sum() for (a, b), m in zip(itertools.pairwise(borders), means, strict=True))

    for x, found in zip(centred, splits, strict=True):
        least = min(cost(x, borders) for borders in all_borders(len(x), 3, 1))
        assert cost(x, found) == pytest.approx(least, abs=1e-6)


def test_demos_of_other_speeds_and_places_get_the_true_stages():
    levels = np.array([[0, 0], [3, 0], [3, 3]], float)
    lengths = [(3, 5, 4), (6, 2, 8), (2, 9, 3)]
    demos = [np.repeat(levels, n, axis=0) + place for n, place in zip(lengths, (0, 20, -7), strict=True)]
    noise = np.random.default_rng(0)
    demos = [x + 0.05 * noise.normal(size=x.shape) for x in demos]
    assert [np.diff(s).tolist() for s in split_demos(demos, 3)] == [list(n) for n in lengths]


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), order=st.permutations(range(4)))
def test_order_of_demos_does_not_matter(seed, order):
    rng = np.random.default_rng(seed)
    demos = [rng.normal(size=(rng.integers(8, 15), 3)).cumsum(axis=0) for _ in range(4)]
    splits = split_demos(demos, 3, 2)
    shuffled = split_demos([demos[i] for i in order], 3, 2)
    assert [s.tolist() for s in shuffled] == [splits[i].tolist() for i in order]
    probe = rng.normal(size=(5, 3))
    for one, two in zip(find_marks(demos, splits, 2), find_marks([demos[i] for i in order], shuffled, 2), strict=True):
        assert one.reached(probe) == pytest.approx(two.reached(probe))


def test_reached_by_hand():
    marks = Marks(np.array([2, 0]), np.array([[0.0, 1.0], [2.0, 1.0]]), np.array([[1.0, 1.0], [1.0, 4.0]]))
    # feature 2: N(0, 1) before, N(2, 1) after; feature 0: N(1, 1) before, N(1, 4) after
    x = np.array([[1.0, 99, 1], [3.0, 99, 2], [np.nan, 0, 2]])
    odds = np.array([(0 - np.log(4) / 2) / 2, ((4 / 2) + (4 / 2 - 4 / 8 - np.log(4) / 2)) / 2, np.nan])
    assert marks.reached(x) == pytest.approx(1 / (1 + np.exp(-odds)), nan_ok=True)


def test_marks_take_the_features_that_tell_by_hand():
    # feature 0 changes at the second stage, feature 1 at the third, feature 2 by noise alone
    demo = np.array([[0, 0, 0], [0, 0, 1], [6, 0, 0], [6, 0, 1], [6, 6, 0], [6, 6, 1]], float)
    second, third = find_marks([demo], [np.array([0, 2, 4, 6])], 1)
    assert (second.features.tolist(), third.features.tolist()) == ([0], [1])
    assert second.mean.tolist() == [[0], [6]]
    shrunk = 0.1 * demo.var(axis=0).mean()  # variances of (0,0,6,6,6,6), (0,0,0,0,6,6), (0,1,...): 8, 8, 1/4
    assert shrunk == pytest.approx(0.1 * 16.25 / 3)
    assert second.variance == pytest.approx(shrunk * np.ones((2, 1)))
    assert third.mean.tolist() == [[0], [6]]
    assert len(find_marks([demo], [np.array([0, 2, 4, 6])], 9)[0].features) == 3


def test_combination_by_hand():
    reached = np.array([[0, 1, 1, 1, 0.5], [0, 0, 1, 1, 0.5], [0, 0, 0, 1, 0.5]])
    assert combine_stages(reached) == pytest.approx([0, 1 / 7, 3 / 7, 1, 0.5])


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), count=st.integers(4, 15), dim=st.integers(1, 3))
def test_arrival_is_the_best_line_and_mean_by_brute_force(seed, count, dim):
    x = np.random.default_rng(seed).normal(size=(count, dim))

    def error(border):
        time = np.arange(border)
        line = sum(((v - np.polyval(np.polyfit(time, v, 1), time)) ** 2).sum() for v in x[:border].T)
        return line + spread(x[border:])

    errors = [error(border) for border in range(2, count)]
    assert error(arrival(x)) == pytest.approx(min(errors), abs=1e-9)


def test_arrival_by_hand():
    rest = np.minimum(np.arange(21), 10.0)[:, None]
    assert arrival(rest) == 10
    noisy = rest + np.random.default_rng(0).normal(scale=0.5, size=(21, 1))
    assert abs(arrival(noisy) - 10) <= 2
    assert arrival(np.arange(21.0)[:, None]) == 20  # moves to the end
    assert arrival(np.ones((9, 2))) == 8  # nothing moves
    assert [arrival(np.arange(float(n))[:, None]) for n in (2, 3, 4)] == [1, 2, 3]


def test_reference_frames_hold_both_ends():
    frames = np.arange(11, dtype=np.float32)[:, None]
    assert reference_frames(frames, 5)[:, 0].tolist() == [0, 2, 5, 8, 10]  # 2.5 and 7.5 to the even neighbour
    assert reference_frames(frames[:2], 3)[:, 0].tolist() == [0, 0, 1]
