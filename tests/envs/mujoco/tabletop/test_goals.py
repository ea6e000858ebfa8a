"""Predicates and progress on states set by hand, and laws that hold for any state."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr

from vlmreward.envs.mujoco.gl import import_mujoco
from vlmreward.envs.mujoco.tabletop.constants import (
    BIN,
    CUBE_HALF,
    CUBES,
    DRAWER,
    FINGERS,
    GRIP,
    GRIPPER,
    STATE_SIZE,
    TARGETS,
    cube_slice,
    target_slice,
)
from vlmreward.envs.mujoco.tabletop.facts import FACTS, describe
from vlmreward.envs.mujoco.tabletop.goals import Goal, holds, progress
from vlmreward.envs.mujoco.tabletop.layouts import sample_layout
from vlmreward.envs.mujoco.tabletop.model import load_model
from vlmreward.envs.mujoco.tabletop.pictures import all_goals
from vlmreward.envs.mujoco.tabletop.state import empty_state, read_state, write_state
from vlmreward.envs.mujoco.tabletop.states import sample_states, state_at, way
from vlmreward.errors import ConfigError, UnknownNameError

mujoco = import_mujoco()
PLACES = {"red": (-0.1, -0.1), "blue": (0.1, -0.1), "green": (0.1, 0.05), "yellow": (-0.1, 0.05)}


def table(drawer=0.0, gripper=(0.0, 0.0, 0.2), closed=False, width=None, **cubes):
    """Return a state: every cube at its place, or where its keyword says."""
    state = empty_state()
    state[DRAWER], state[GRIPPER], state[GRIP] = drawer, gripper, float(not closed)
    state[FINGERS] = width if width is not None else (0.001 if closed else 0.042)
    for number, name in enumerate(CUBES):
        place = cubes.get(name, PLACES[name])
        state[cube_slice(number)] = (*place, CUBE_HALF)[:3]
    state[target_slice(0)], state[target_slice(1)], state[BIN] = (0.0, -0.05), (0.0, -0.18), (0.24, 0.04)
    return state


def held(x, y, z, **others):
    return table(gripper=(x, y, z), closed=True, width=CUBE_HALF, **others)


def done(goal, state):
    facts = describe(state)
    assert (progress(goal, facts) == 1.0) == holds(goal, facts)
    return holds(goal, facts)


@pytest.mark.parametrize(("off", "expected"), [(0.0, True), (0.029, True), (0.031, False), (0.06, False)])
def test_pushed_within_three_centimetres_of_the_target(off, expected):
    goal = Goal("push", "red", "green")
    assert done(goal, table(red=(off, -0.05))) is expected
    assert done(goal, table(red=(0.0, -0.05 - off))) is expected
    assert not done(Goal("push", "blue", "green"), table(red=(off, -0.05)))
    assert not done(Goal("push", "red", "white"), table(red=(off, -0.05)))


def test_a_cube_above_its_target_or_in_the_hand_is_not_pushed_there():
    assert not done(Goal("push", "red", "green"), table(red=(0.0, -0.05, 0.08)))
    assert not done(Goal("push", "red", "green"), held(0.0, -0.05, CUBE_HALF, red=(0.0, -0.05)))


def test_lifted_means_held_and_eight_centimetres_up():
    goal = Goal("lift", "blue")
    assert done(goal, held(0.1, -0.1, 0.107, blue=(0.1, -0.1, 0.107)))
    assert not done(goal, held(0.1, -0.1, 0.103, blue=(0.1, -0.1, 0.103)))
    assert not done(goal, table(blue=(0.1, -0.1, 0.15)))  # thrown into the air
    assert not done(goal, held(0.1, -0.1, 0.15, red=(0.1, -0.1, 0.15)))  # another cube
    assert not done(goal, table(gripper=(0.1, -0.1, 0.15), width=CUBE_HALF, blue=(0.1, -0.1, 0.15)))  # lets go


def test_binned_means_between_the_walls_low_and_let_go():
    goal = Goal("bin", "red")
    assert done(goal, table(red=(0.24, 0.04)))
    assert done(goal, table(red=(0.278, 0.005)))
    assert not done(goal, table(red=(0.285, 0.04)))  # on the wall
    assert not done(goal, table(red=(0.24, 0.04, 0.06)))
    assert not done(goal, held(0.24, 0.04, 0.03, red=(0.24, 0.04, 0.03)))
    assert not done(goal, table(blue=(0.24, 0.04)))


def test_stacked_means_on_top_within_limits_and_let_go():
    goal = Goal("stack", "red", "blue")
    assert done(goal, table(red=(0.1, -0.1, 0.075)))
    assert done(goal, table(red=(0.12, -0.1, 0.075)))
    assert not done(goal, table(red=(0.125, -0.1, 0.075)))
    assert not done(goal, table(red=(0.1, -0.1, 0.09)))
    assert not done(goal, table(red=(0.1, -0.1, 0.025), blue=(0.1, -0.1, 0.075)))  # the other way round
    assert not done(goal, held(0.1, -0.1, 0.075, red=(0.1, -0.1, 0.075)))
    assert not done(goal, table(red=(0.1, 0.05, 0.075)))  # on the green one


@pytest.mark.parametrize(("drawer", "expected"), [(0.0, "close"), (0.007, "close"), (0.04, None), (0.081, "open")])
def test_the_drawer_is_open_closed_or_neither(drawer, expected):
    assert {kind for kind in ("open", "close") if done(Goal(kind), table(drawer))} == ({expected} - {None})


def test_touch_is_a_finger_at_the_cube():
    goal = Goal("touch", "yellow")
    top = 2 * CUBE_HALF + 0.018  # tips 18 mm below the gripper's point
    assert done(goal, table(gripper=(-0.1, 0.05, top + 0.003), closed=True))
    assert not done(goal, table(gripper=(-0.1, 0.05, top + 0.005), closed=True))
    assert not done(goal, table(gripper=(-0.1, 0.05, 0.03)))  # open fingers around it, 17 mm off on either side
    assert done(goal, held(-0.1, 0.05, 0.03))
    assert not done(Goal("touch", "red"), held(-0.1, 0.05, 0.03))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_touch_is_the_distance_that_mujoco_measures(seed):
    rng = np.random.default_rng(seed)
    model = load_model()
    data = mujoco.MjData(model)
    state = table(gripper=rng.uniform((-0.2, -0.2, 0.03), (0.2, 0.15, 0.2)), width=rng.uniform(0.0, 0.042))
    write_state(data, state)
    mujoco.mj_kinematics(model, data)
    for name in CUBES:
        cube = model.geom(f"{name}_cube").id
        fingers = [
            mujoco.mj_geomDistance(model, data, model.geom(f"{side}_finger").id, cube, 1.0, None)
            for side in ("left", "right")
        ]
        assert describe(state)[f"{name}_touch"] == pytest.approx(max(0.0, min(fingers)), abs=1e-4)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_progress_is_one_exactly_where_a_predicate_holds(seed):
    for state in sample_states(np.random.default_rng(seed), 4, None):
        facts = describe(state)
        assert set(facts) == set(FACTS)
        for goal in all_goals():
            value = progress(goal, facts)
            assert 0 <= value <= 1
            assert (value == 1) == holds(goal, facts)


@pytest.mark.parametrize("goal", all_goals(), ids=lambda g: g.name)
def test_progress_rises_on_the_way_and_ends_at_one(goal):
    for seed in range(3):
        keys = way(goal, sample_layout(np.random.default_rng(seed), goal))
        shares = np.linspace(0, 1, 50)
        values = [progress(goal, describe(state_at(keys, share))) for share in shares]
        assert values[0] < 0.85
        assert values[-1] == 1
        falls = np.maximum.accumulate(values) - values
        assert falls.max() < 0.1
        assert np.asarray(spearmanr(values, shares))[0] > 0.4


def test_stages_of_a_carried_cube_by_hand():
    goal = Goal("stack", "red", "blue")
    stages = [
        table(gripper=(-0.1, -0.1, 0.025 + 0.35)),  # as far as coming near counts
        table(gripper=(-0.1, -0.1, 0.025)),  # around it
        held(-0.1, -0.1, 0.025),
        held(-0.1, -0.1, 0.105, red=(-0.1, -0.1, 0.105)),  # lifted, half of the 40 cm away
        held(0.1, -0.1, 0.08, red=(0.1, -0.1, 0.08)),  # above
        table(red=(0.1, -0.1, 0.075)),
    ]
    assert [round(progress(goal, describe(s)), 6) for s in stages] == [0.0, 0.3, 0.4, 0.7, 0.9, 1.0]


def test_a_state_survives_the_simulator():
    model = load_model()
    data = mujoco.MjData(model)
    state = table(drawer=0.03, closed=True, red=(0.0, 0.0))
    write_state(data, state)
    np.testing.assert_array_equal(read_state(data), state)
    assert state.shape == (STATE_SIZE,)


@pytest.mark.parametrize("state", [np.zeros(STATE_SIZE - 1), np.full(STATE_SIZE, np.nan), np.zeros((1, STATE_SIZE))])
def test_what_is_no_state_is_refused(state):
    with pytest.raises(ConfigError, match="finite numbers"):
        describe(state)


def test_goals_that_make_no_sense_are_named():
    with pytest.raises(UnknownNameError, match="did you mean 'push'"):
        Goal("puhs", "red", "green")
    for wrong in (("push", "red", "blue"), ("stack", "red", "red"), ("lift", ""), ("open", "red"), ("bin", "pink")):
        with pytest.raises(ConfigError, match="does not go with"):
            Goal(*wrong)
    assert len({goal.name for goal in all_goals()}) == len(all_goals()) == 4 * len(TARGETS) + 3 * 4 + 12 + 2
