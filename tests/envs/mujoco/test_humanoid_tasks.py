"""Facts and predicates on poses made by hand, and laws that hold for any pose."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlmreward.envs.mujoco.gl import import_mujoco
from vlmreward.envs.mujoco.humanoid.facts import FACTS, describe
from vlmreward.envs.mujoco.humanoid.model import JOINTS, load_model
from vlmreward.envs.mujoco.humanoid.poses import put_on_ground, start_pose
from vlmreward.envs.mujoco.humanoid.tasks import (
    CRITERIA,
    HOLD_SECONDS,
    IMPLIES,
    OTHER_CRITERIA,
    TASKS,
    Criterion,
    facts_distance,
    get_criteria,
    holds,
    pose_distance,
)
from vlmreward.errors import ConfigError, UnknownNameError

mujoco = import_mujoco()


def _pose(pitch=0.0, **degrees):
    """Return a pose on the ground: joint angles in degrees, body pitched forward by an angle in degrees."""
    qpos = start_pose()
    for name, angle in degrees.items():
        qpos[7 + JOINTS.index(name)] = np.radians(angle)
    half = np.radians(pitch) / 2
    qpos[3:7] = (np.cos(half), 0, np.sin(half), 0)
    return put_on_ground(qpos)


def _both(**degrees):
    return {f"{side}_{name}": angle for side in ("right", "left") for name, angle in degrees.items()}


@st.composite
def random_poses(draw):
    """Draw any joint angles, orientation and place."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    limits = load_model().jnt_range[1:]
    qpos = np.zeros(24)
    qpos[:3] = rng.uniform((-1, -1, 0.2), (1, 1, 1.6))
    qpos[3:7] = rng.standard_normal(4)
    qpos[3:7] /= np.linalg.norm(qpos[3:7])
    qpos[7:] = rng.uniform(limits[:, 0], limits[:, 1])
    return qpos


def test_prompts_are_those_of_the_paper():
    assert [t.goal for t in TASKS.values()] == [
        "a humanoid robot kneeling",
        "a humanoid robot seated down, meditating in the lotus position",
        "a humanoid robot standing up",
        "a humanoid robot standing up, with both arms raised",
        "a humanoid robot practicing gymnastics, doing the side splits",
        "a humanoid robot standing up with hands on hips",
        "a humanoid robot standing up, with its arms crossed",
        "a humanoid robot standing up on one leg",
    ]
    assert {t.baseline for t in TASKS.values()} == {"a humanoid robot"}
    assert {t.hold_seconds for t in TASKS.values()} == {HOLD_SECONDS} == {1.0}
    assert set(CRITERIA) == set(TASKS)
    assert all(name == task.name for name, task in TASKS.items())


def test_standing_by_hand():
    facts = describe(_pose())
    # torso to sole: .26 + .165 + .04 + .403 + .35 + .075 (all but straight), head .19 above the torso
    assert facts["head_height"] == pytest.approx(0.26 + 0.165 + 0.04 + 0.403 + 0.35 + 0.075 + 0.19, abs=0.01)
    assert facts["right_knee_clearance"] == pytest.approx(0.35 + 0.075 - 0.049, abs=0.01)
    assert facts["right_knee_flexion"] == pytest.approx(2)
    assert facts["feet_gap"] == pytest.approx(2 * (0.1 - 0.01), abs=0.01)
    assert facts["right_hand_chest_height"] == pytest.approx(0.06, abs=1e-6)  # -.18 + .18 above the shoulder at .06
    assert facts["right_hand_front"] == pytest.approx(0.18 + 0.18, abs=1e-6)
    assert facts["right_hand_across"] == pytest.approx(-0.17 - 0.18 + 0.18, abs=1e-6)
    assert facts["right_elbow_out"] == pytest.approx(0.18, abs=1e-6)
    assert [t for t in TASKS if holds(t, facts)] == ["standing"]


def test_lying_is_no_task():
    for pitch in (90, -90):
        facts = describe(_pose(pitch=pitch))
        assert facts["torso_tilt"] == pytest.approx(90, abs=0.5)
        assert [t for t in TASKS if holds(t, facts)] == []
        assert facts_distance("standing", facts) > 0.5
    assert holds("lying", facts)  # on its back; on its front the arms of this pose prop it up


def test_head_down_is_not_standing():
    facts = describe(_pose(pitch=180))
    assert facts["torso_tilt"] == pytest.approx(180, abs=0.5)
    assert facts_distance("standing", facts) > 0.6


@pytest.mark.parametrize("flexion", [90, 120, 150])
def test_kneeling_by_hand(flexion):
    # shins flat on the ground, torso upright: the hip bends by what the knee bends beyond a right angle
    facts = describe(_pose(**_both(knee=-flexion, hip_y=90 - flexion)))
    assert [t for t in TASKS if holds(t, facts)] == ["kneeling"]


def test_kneeling_fails_when_the_torso_lies_or_the_bottom_sits():
    assert not holds("kneeling", describe(_pose(pitch=60, **_both(knee=-90))))
    sitting = describe(_pose(**_both(knee=-150, hip_y=-100)))
    assert not holds("kneeling", sitting)


def test_crouching_is_neither_standing_nor_kneeling():
    facts = describe(_pose(pitch=20, **_both(knee=-130, hip_y=-95)))
    assert [t for t in TASKS if holds(t, facts)] == []
    assert holds("crouching", facts)


def test_arms_and_legs_by_hand():
    raised = {"right_shoulder1": -84, "right_shoulder2": 20, "right_elbow": -88,
              "left_shoulder1": 84, "left_shoulder2": -20, "left_elbow": -88}  # fmt: skip
    assert holds("arms_raised", describe(_pose(**raised)))
    one_arm = {k: v for k, v in raised.items() if k.startswith("right")}
    assert not holds("arms_raised", describe(_pose(**one_arm)))
    assert holds("standing", describe(_pose(**one_arm)))
    assert holds("one_leg", describe(_pose(left_knee=-80)))
    assert not holds("standing", describe(_pose(left_knee=-80)))
    assert not holds("one_leg", describe(_pose(left_knee=-20)))
    straddle = describe(_pose(**_both(hip_z=-60, hip_y=-84, hip_x=-12)))
    assert straddle["thigh_spread"] > 100
    assert [t for t in TASKS if holds(t, straddle)] == ["splits"]
    assert not holds("splits", describe(_pose(**_both(hip_y=-84))))  # sitting with the legs together


@settings(max_examples=60, deadline=None)
@given(random_poses())
def test_distance_is_zero_exactly_at_the_goal(qpos):
    facts = describe(qpos)
    for task in (*CRITERIA, *OTHER_CRITERIA):
        distance = facts_distance(task, facts)
        assert 0 <= distance <= 1
        assert (distance == 0) == holds(task, facts)
        assert distance == pytest.approx(
            math.sqrt(np.mean([c.violation(facts[c.fact]) ** 2 for c in get_criteria(task)]))
        )
    for task, implied in IMPLIES.items():
        assert all(holds(i, facts) for i in implied) or not holds(task, facts)


@settings(max_examples=40, deadline=None)
@given(random_poses(), st.floats(-3, 3), st.floats(-1, 1), st.floats(-1, 1))
def test_turning_and_moving_on_the_ground_changes_nothing_else(qpos, yaw, x, y):
    moved = qpos.copy()
    turn = np.array((np.cos(yaw / 2), 0, 0, np.sin(yaw / 2)))
    mujoco.mju_mulQuat(moved[3:7], turn, qpos[3:7])
    moved[:2] += (x, y)
    before, after = describe(qpos), describe(moved)
    for name in set(FACTS) - {"turn", "forward_offset", "side_offset"}:
        assert after[name] == pytest.approx(before[name], abs=1e-5), name
    assert after["forward_offset"] == pytest.approx(before["forward_offset"] + x)


@settings(max_examples=30, deadline=None)
@given(random_poses())
def test_clearances_are_the_distances_that_mujoco_measures(qpos):
    model = load_model()
    data = mujoco.MjData(model)
    data.qpos[:] = qpos
    mujoco.mj_forward(model, data)
    facts = describe(qpos)
    for geom, fact in (("butt", "pelvis"), ("right_foot", "right_foot"), ("left_hand", "left_hand")):
        heights = [
            data.geom(geom).xpos[2] + sign * data.geom(geom).xmat[8] * model.geom(geom).size[1] for sign in (-1, 1)
        ]
        assert facts[f"{fact}_clearance"] == pytest.approx(min(heights) - model.geom(geom).size[0], abs=1e-9)
    assert facts["head_height"] == data.geom("head").xpos[2]


@pytest.mark.parametrize("state", [np.zeros(23), np.full(24, np.nan), np.zeros((1, 24))])
def test_what_is_no_state_is_refused(state):
    with pytest.raises(ConfigError, match="24 finite numbers"):
        describe(state)


def test_wrong_names_and_ranges_are_named():
    with pytest.raises(UnknownNameError, match="unknown task 'sitting'"):
        pose_distance("sitting", start_pose())
    with pytest.raises(UnknownNameError, match="did you mean 'head_height'"):
        Criterion("head_hight", 0, 1, 1)
    with pytest.raises(ConfigError, match="low must be below high"):
        Criterion("head_height", 1, 1, 1)
    with pytest.raises(ConfigError, match="scale of head_height must be positive"):
        Criterion("head_height", 0, 1, 0)


def test_violation_by_hand():
    criterion = Criterion("torso_tilt", -math.inf, 30, 90)
    assert [criterion.violation(v) for v in (0, 30, 75, 120, 180)] == [0, 0, 0.5, 1, 1]
    assert Criterion("head_height", 0.7, 1.2, 0.5).violation(0.6) == pytest.approx(0.2)
