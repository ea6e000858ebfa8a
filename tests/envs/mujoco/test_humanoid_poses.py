"""Reference poses against the predicates, MuJoCo's own contacts and the physics."""

import numpy as np
import pytest

from vlmreward.envs.mujoco.gl import import_mujoco
from vlmreward.envs.mujoco.humanoid.env import HumanoidEnv
from vlmreward.envs.mujoco.humanoid.facts import describe
from vlmreward.envs.mujoco.humanoid.model import JOINTS, MOTORS, load_model
from vlmreward.envs.mujoco.humanoid.poses import (
    interpolate,
    mirror,
    propose_pose,
    put_on_ground,
    sample_pose,
    start_pose,
)
from vlmreward.envs.mujoco.humanoid.states import sample_between, sample_random_state, sample_random_states
from vlmreward.envs.mujoco.humanoid.tasks import IMPLIES, TASKS, holds, pose_distance
from vlmreward.errors import UnknownNameError

mujoco = import_mujoco()
TASK_NAMES = list(TASKS)


def _poses(task, count=20, seed=0):
    rng = np.random.default_rng(seed)
    return [sample_pose(task, rng) for _ in range(count)]


@pytest.mark.parametrize("task", TASK_NAMES)
def test_poses_are_true_of_their_task_and_of_no_other(task):
    for qpos in _poses(task):
        facts = describe(qpos)
        true = {other for other in TASKS if holds(other, facts)}
        assert true == {task, *IMPLIES.get(task, ())}


@pytest.mark.parametrize("task", TASK_NAMES)
def test_proposals_are_mostly_right_by_themselves(task):
    # were the predicate and the pose tables at odds, rejection would hide it
    rng = np.random.default_rng(1)
    assert np.mean([holds(task, describe(propose_pose(task, rng))) for _ in range(60)]) > 0.8


@pytest.mark.parametrize("task", TASK_NAMES)
def test_poses_touch_the_ground_within_joint_limits(task):
    model = load_model()
    data = mujoco.MjData(model)
    floor = model.geom("floor").id
    for qpos in _poses(task, 10):
        data.qpos[:] = qpos
        mujoco.mj_forward(model, data)
        depths = [c.dist for c in data.contact if floor in (c.geom1, c.geom2)]
        assert depths, "hangs in the air"
        assert min(depths) > -1e-6
        limits = model.jnt_range[1:]
        assert (qpos[7:] >= limits[:, 0] - 1e-9).all()
        assert (qpos[7:] <= limits[:, 1] + 1e-9).all()
        assert np.linalg.norm(qpos[3:7]) == pytest.approx(1)


@pytest.mark.parametrize("task", TASK_NAMES)
def test_poses_vary_and_repeat_with_the_seed(task):
    one, two = _poses(task, 10), _poses(task, 10)
    np.testing.assert_array_equal(one, two)
    assert np.degrees(np.std(one, axis=0)[7:]).min() > 0.5
    assert np.degrees(np.std(one, axis=0)[7:]).mean() > 3


@pytest.mark.parametrize("task", ["kneeling", "lotus", "splits"])
def test_resting_poses_can_be_held(task):
    env = HumanoidEnv(task=task, render_mode=None, control="position")
    low, high = env.model.actuator_ctrlrange.T
    order = [7 + JOINTS.index(name) for name in MOTORS]
    held = 0
    for qpos in _poses(task, 10):
        env.reset(seed=0)
        env.data.qpos[:], env.data.qvel[:] = qpos, 0
        mujoco.mj_forward(env.model, env.data)
        action = 2 * (qpos[order] - low) / (high - low) - 1
        held += [env.step(action)[4]["success"] for _ in range(200)][-1]
    assert held >= 7


@pytest.mark.parametrize("task", TASK_NAMES)
def test_a_mirrored_pose_is_as_good(task):
    for qpos in _poses(task, 5):
        twin = mirror(qpos)
        facts, twin_facts = describe(qpos), describe(twin)
        assert holds(task, twin_facts)
        for name, value in facts.items():
            other = name.replace("right", "LEFT").replace("left", "right").replace("LEFT", "left")
            sign = -1 if name in ("turn", "side_offset") else 1
            # the stock model is not quite symmetric: its waist leans by 0.002 in a quaternion
            assert twin_facts[other] == pytest.approx(sign * value, abs=0.5 if "deg" in name or value > 5 else 0.02)
        np.testing.assert_allclose(mirror(twin), qpos, atol=1e-12)


@pytest.mark.parametrize("task", TASK_NAMES)
@pytest.mark.parametrize("origin", ["start", "lying"])
def test_distance_falls_on_the_way_to_the_goal(task, origin):
    lying = start_pose()
    lying[3:7] = (np.sqrt(0.5), 0, -np.sqrt(0.5), 0)  # on its back
    begin = start_pose() if origin == "start" else put_on_ground(lying)
    if holds(task, describe(begin)):
        pytest.skip("it starts at the goal")
    falls = []
    for goal in _poses(task, 8):
        path = [pose_distance(task, interpolate(begin, goal, share)) for share in np.linspace(0, 1, 11)]
        assert path[-1] == 0
        falls.append(path)
    mean = np.mean(falls, axis=0)
    # a slope from far away, not a spike at the goal; a joint-space path may pass a small hill
    assert mean[0] > 0.15
    assert mean[0] > mean[4] > mean[8]
    ranks = np.argsort(np.argsort(mean))
    assert np.corrcoef(ranks, np.arange(11))[0, 1] < -0.7, mean.round(2)


def test_interpolation_ends_where_it_says():
    rng = np.random.default_rng(0)
    a, b = sample_pose("kneeling", rng), sample_pose("one_leg", rng)
    np.testing.assert_allclose(interpolate(a, b, 0.0), a, atol=1e-9)
    end = interpolate(a, b, 1.0)
    end[3:7] *= np.sign(end[3] * b[3])
    np.testing.assert_allclose(end, b, atol=1e-9)


def test_random_states_are_plausible_and_varied():
    states = sample_random_states(np.random.default_rng(0), 150)
    assert states.shape == (150, 24)
    facts = [describe(s) for s in states]
    tilt, head = np.array([f["torso_tilt"] for f in facts]), np.array([f["head_height"] for f in facts])
    assert (tilt < 30).mean() > 0.1
    assert ((tilt > 60) & (head < 0.4)).mean() > 0.15  # lying
    assert np.ptp(head) > 1.0
    lowest = [min(v for k, v in f.items() if k.endswith("clearance")) for f in facts]
    assert min(lowest) > -0.1  # nobody is buried
    assert np.mean([holds(t, f) for f in facts for t in TASKS]) < 0.15
    np.testing.assert_array_equal(states, sample_random_states(np.random.default_rng(0), 150))
    assert sample_random_state(np.random.default_rng(1)).shape == (24,)


def test_poses_between_are_graded():
    rng = np.random.default_rng(0)
    distances = np.array([pose_distance("kneeling", sample_between("kneeling", rng)) for _ in range(60)])
    assert distances.std() > 0.08
    assert (distances == 0).mean() < 0.5


def test_an_unknown_task_has_no_poses():
    with pytest.raises(UnknownNameError, match="did you mean 'splits'"):
        sample_pose("split", np.random.default_rng(0))
