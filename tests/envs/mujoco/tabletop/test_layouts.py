"""Starts: what fits on the table, and splits that share none."""

import numpy as np
import pytest

from vlmreward.envs.mujoco.tabletop.constants import CUBES, TARGETS, cube_slice, target_slice
from vlmreward.envs.mujoco.tabletop.env import TabletopEnv
from vlmreward.envs.mujoco.tabletop.facts import describe
from vlmreward.envs.mujoco.tabletop.goals import holds
from vlmreward.envs.mujoco.tabletop.layouts import NEW_CUBES, NEW_TARGETS, NEW_YS, SPLITS, YS, free_orders
from vlmreward.envs.mujoco.tabletop.scene import DEFAULT_LOOK
from vlmreward.envs.mujoco.tabletop.tasks import GOALS


def starts(split, task="push", count=40):
    env = TabletopEnv(task=task, render_mode=None, split=split)
    out = []
    for seed in range(count):
        env.reset(seed=seed)
        out.append((env.state, env.scene.look))
    return out


def test_no_two_splits_share_a_start():
    seen = {split: {state.tobytes() for state, _ in starts(split, count=60)} for split in SPLITS}
    assert all(len(s) == 60 for s in seen.values())
    assert len(set().union(*seen.values())) == 60 * len(SPLITS)


def test_seen_and_unseen_have_one_distribution():
    a, b = (np.stack([s for s, _ in starts(split, count=300)]) for split in ("seen", "unseen"))
    spread = np.maximum(a.std(axis=0), 1e-9)
    off = np.abs(a.mean(axis=0) - b.mean(axis=0)) / spread
    assert off.max() < 4 * np.sqrt(2 / 300)
    assert all(look == DEFAULT_LOOK for _, look in starts("unseen"))


@pytest.mark.parametrize("task", list(GOALS))
@pytest.mark.parametrize("split", SPLITS)
def test_nothing_overlaps_and_nothing_is_done_at_the_start(split, task):
    for state, _ in starts(split, task, count=15):
        assert not holds(GOALS[task], describe(state))
        places = [state[cube_slice(i)][:2] for i in range(len(CUBES))]
        places += [state[target_slice(i)] for i in range(len(TARGETS))]
        gaps = [np.hypot(*(a - b)) for i, a in enumerate(places) for b in places[:i]]
        assert min(gaps) >= 0.085


def test_a_start_is_at_rest():
    env = TabletopEnv(render_mode=None)
    for seed in range(10):
        env.reset(seed=seed)
        before = env.state
        for _ in range(20):
            env.step(np.zeros(4))
        np.testing.assert_allclose(env.state, before, atol=2e-3)


def test_new_positions_are_where_nothing_of_seen_lies():
    red, green = cube_slice(0), target_slice(0)
    for state, _ in starts("new_positions"):
        for y in (state[red][1], state[green][1]):
            assert any(low <= y <= high for low, high in NEW_YS)
    for split in ("seen", "unseen", "new_colours", "moved_camera"):
        for state, _ in starts(split):
            ys = [state[cube_slice(i)][1] for i in range(4)] + [state[target_slice(i)][1] for i in range(2)]
            assert YS[0] <= min(ys) <= max(ys) <= YS[1]
    assert all(high < YS[0] or low > YS[1] for low, high in NEW_YS)


def test_new_colours_and_moved_cameras_are_new():
    for _, look in starts("new_colours"):
        assert set(look.cubes) == set(NEW_CUBES)
        assert set(look.targets) == set(NEW_TARGETS)
        assert not set(look.cubes + look.targets) & {*DEFAULT_LOOK.cubes, *DEFAULT_LOOK.targets}
    shifts = [look.shift for _, look in starts("moved_camera")]
    assert all(12 <= abs(shift.azimuth) <= 28 for shift in shifts)
    assert {np.sign(shift.azimuth) for shift in shifts} == {-1, 1}


def test_a_moved_camera_sees_the_same_table_from_elsewhere():
    env = TabletopEnv(split="moved_camera", width=48, height=48)
    env.reset(seed=0)
    moved, state = env.render(), env.state
    env.close()
    usual = TabletopEnv(width=48, height=48)
    usual.reset(seed=0)
    usual.set_state(state)
    assert (usual.render() != moved).mean() > 0.2
    usual.close()


def test_ways_to_push_by_hand():
    env = TabletopEnv(render_mode=None)
    env.reset(seed=0)
    state = env.state
    away = [(0.4, 0.4), (0.5, 0.5), (0.6, 0.6)]
    state[cube_slice(0)][:2], state[target_slice(0)] = (-0.1, -0.1), (0.1, 0.05)

    def orders(*others):
        for number, place in enumerate([*others, *away][:3], start=1):
            state[cube_slice(number)][:2] = place
        return free_orders(state, 0, 0)

    assert orders() == ["xy", "yx"]
    assert orders((0.0, -0.1)) == ["yx"]  # in the way of the first push along x
    assert orders((-0.1, 0.0)) == ["xy"]
    assert orders((0.0, -0.1), (-0.1, 0.0)) == []
    assert orders((-0.2, -0.1)) == ["yx"]  # where the gripper would have to begin
    assert orders((0.0, -0.02)) == ["xy", "yx"]  # between the two ways
