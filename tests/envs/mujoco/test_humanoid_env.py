"""The humanoid environment against Gymnasium's checker, the stock model and its own page."""

import os
import re
from importlib.resources import files
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import yaml
from gymnasium.utils.env_checker import check_env

import vlmreward.envs  # noqa: F401  (registers)
from vlmreward.envs.mujoco.gl import import_mujoco
from vlmreward.envs.mujoco.humanoid.env import FRAME_SKIP, HumanoidEnv, describe
from vlmreward.envs.mujoco.humanoid.facts import FACTS
from vlmreward.envs.mujoco.humanoid.model import JOINTS, MOTORS, load_model, model_xml
from vlmreward.envs.mujoco.humanoid.poses import sample_pose, start_pose
from vlmreward.envs.mujoco.humanoid.tasks import TASKS, pose_distance
from vlmreward.errors import ConfigError, NonFiniteError, RenderingError, UnknownNameError

mujoco = import_mujoco()


def _stock():
    return mujoco.MjModel.from_xml_path(str(files("gymnasium") / "envs/mujoco/assets/humanoid.xml"))


def _set_pose(env, qpos):
    env.data.qpos[:], env.data.qvel[:] = qpos, 0
    mujoco.mj_forward(env.model, env.data)


def _hold(env, qpos):
    """Return the action of position control that steers to a pose."""
    low, high = env.model.actuator_ctrlrange.T
    angles = qpos[[7 + JOINTS.index(name) for name in MOTORS]]
    return 2 * (angles - low) / (high - low) - 1


@pytest.mark.parametrize("control", ["torque", "position"])
def test_gymnasiums_checker_is_content(control):
    env = gym.make("vlmreward/Humanoid-v0", width=48, height=48, control=control)
    check_env(env.unwrapped)
    env.close()


def test_physics_is_the_stock_humanoids():
    stock, rng = _stock(), np.random.default_rng(0)
    data = mujoco.MjData(stock)
    env = HumanoidEnv(task=None, render_mode=None)
    env.reset(seed=0)
    data.qpos[:], data.qvel[:] = env.data.qpos, env.data.qvel
    mujoco.mj_forward(stock, data)
    for _ in range(100):
        action = rng.uniform(-1, 1, 17)
        env.step(action)
        data.ctrl[:] = 0.4 * action  # Humanoid-v5's motors take -0.4 .. 0.4
        mujoco.mj_step(stock, data, nstep=5)
    np.testing.assert_allclose(env.data.qpos, data.qpos, atol=1e-9)
    np.testing.assert_allclose(env.data.qvel, data.qvel, atol=1e-7)


def test_same_seed_same_episode_pictures_included():
    def episode(seed):
        env = HumanoidEnv(width=48, height=48)
        obs = [env.reset(seed=seed)[0]]
        rewards, frames = [], [env.render()]
        rng = np.random.default_rng(seed)
        for _ in range(40):
            o, reward, *_ = env.step(rng.uniform(-1, 1, 17))
            obs.append(o)
            rewards.append(reward)
            frames.append(env.render())
        env.close()
        return np.stack(obs), np.array(rewards), np.stack(frames)

    one, two, other = episode(3), episode(3), episode(4)
    for a, b in zip(one, two, strict=True):
        np.testing.assert_array_equal(a, b)
    assert (one[0][0] != other[0][0]).any()
    frames = one[2]
    assert all(frame.std() > 10 for frame in frames)
    assert (frames[0] != frames[-1]).any()


def test_time_limit_truncates_after_six_seconds_and_nothing_terminates():
    env = gym.make("vlmreward/Humanoid-v0", render_mode=None)
    env.reset(seed=0)
    rng = np.random.default_rng(0)
    ends = [env.step(rng.uniform(-1, 1, 17))[2:4] for _ in range(400)]
    assert [e for e in ends if e[0]] == []
    assert [t for _, t in ends] == [False] * 399 + [True]
    inner = env.unwrapped
    assert isinstance(inner, HumanoidEnv)
    assert inner.dt * 400 == pytest.approx(6.0)
    assert inner.data.time == pytest.approx(6.0)


def test_observation_is_what_the_page_says():
    env = HumanoidEnv(task=None, render_mode=None)
    env.reset(seed=1)
    rng = np.random.default_rng(1)
    obs = [env.step(rng.uniform(-1, 1, 17))[0] for _ in range(30)][-1]
    assert obs.dtype == np.float32
    data = mujoco.MjData(_stock())
    data.qpos[:], data.qvel[:] = env.data.qpos, env.data.qvel
    mujoco.mj_forward(_stock(), data)
    torso = data.body("torso")
    rotation = torso.xmat.reshape(3, 3)
    expected = [torso.xpos, rotation[:, 0], rotation[:, 2], data.qpos[7:], data.qvel]
    np.testing.assert_allclose(obs[:49], np.concatenate(expected), rtol=1e-5, atol=1e-5)
    for index, name, radius in ((53, "right_foot", 0.075), (54, "left_foot", 0.075), (56, "left_hand", 0.04)):
        assert obs[index] == pytest.approx(data.geom(name).xpos[2] - radius, abs=1e-5)
    assert obs.shape == env.observation_space.shape == (57,)


def test_action_table_of_the_page_is_the_model():
    rows = re.findall(r"\| (\d+) \| (\w+) \| (\d+) \| (-?\d+) to (-?\d+) \|", str(HumanoidEnv.__doc__))
    stock = _stock()
    assert len(rows) == stock.nu
    for index, name, torque, low, high in rows:
        motor = stock.actuator(int(index))
        assert motor.name == name == MOTORS[int(index)]
        assert float(torque) == pytest.approx(0.4 * motor.gear[0])
        np.testing.assert_allclose(np.degrees(stock.joint(name).range), (float(low), float(high)), atol=1e-6)


def test_servos_have_the_largest_torques_of_the_motors():
    servos, stock = load_model("position"), _stock()
    for i in range(stock.nu):
        assert servos.actuator(i).name == stock.actuator(i).name
        np.testing.assert_allclose(servos.actuator(i).forcerange[1], 0.4 * stock.actuator(i).gear[0])


def test_actions_are_scaled_and_clipped():
    env = HumanoidEnv(task=None, render_mode=None)
    env.reset(seed=0)
    env.step(np.linspace(-2, 2, 17))
    np.testing.assert_allclose(env.data.ctrl, 0.4 * np.clip(np.linspace(-2, 2, 17), -1, 1))


def test_start_stands_on_the_ground_facing_the_camera():
    for seed in range(5):
        env = HumanoidEnv(task="standing", render_mode=None)
        env.reset(seed=seed)
        facts = env.facts()
        assert facts == describe(env.data.qpos)
        assert abs(facts["low_foot_clearance"]) < 1e-9
        assert facts["high_foot_clearance"] < 0.02
        assert abs(facts["turn"]) < 2
        assert facts["torso_tilt"] < 3
    assert len({HumanoidEnv(task=None, render_mode=None).reset(seed=s)[0][2] for s in range(5)}) == 5


def test_random_start_varies():
    env = HumanoidEnv(task=None, render_mode=None, start="random")
    heights = [env.reset(seed=s)[0][2] for s in range(20)]
    assert np.ptp(heights) > 0.5
    np.testing.assert_array_equal(env.reset(seed=4)[0], env.reset(seed=4)[0])


def test_success_needs_one_second_and_is_lost_with_the_pose():
    env = HumanoidEnv(task="splits", render_mode=None, control="position")
    assert env.reset(seed=0)[1]["success"] is False
    goal = sample_pose("splits", np.random.default_rng(2))
    _set_pose(env, goal)
    successes = [env.step(_hold(env, goal))[4]["success"] for _ in range(80)]
    # 1 s is 67 steps of 15 ms
    assert successes == [False] * 66 + [True] * 14
    _set_pose(env, start_pose())
    assert env.step(_hold(env, start_pose()))[4]["success"] is False
    _set_pose(env, goal)
    assert env.step(_hold(env, goal))[4]["success"] is False  # the second starts anew
    again = [env.step(_hold(env, goal))[4]["success"] for _ in range(70)]
    assert again == [False] * 65 + [True] * 5
    assert env.reset(seed=1)[1]["success"] is False
    assert env.step(_hold(env, goal))[4]["success"] is False


def test_own_reward_is_one_minus_the_distance():
    env = HumanoidEnv(task="lotus", render_mode=None)
    env.reset(seed=0)
    for _ in range(5):
        _, reward, _, _, info = env.step(np.zeros(17))
        assert reward == pytest.approx(1 - pose_distance("lotus", env.data.qpos))
        assert info["pose_distance"] == pytest.approx(1 - reward)


def test_without_a_task_success_is_unknown():
    env = HumanoidEnv(task=None, render_mode=None)
    assert env.reset(seed=0)[1] == {"success": None}
    _, reward, *_, info = env.step(np.zeros(17))
    assert (reward, info) == (0.0, {"success": None})


@pytest.mark.parametrize("task", list(TASKS))
@pytest.mark.parametrize("policy", ["zero", "random", "hold"])
def test_doing_nothing_is_no_success(task, policy):
    env = HumanoidEnv(task=task, render_mode=None, control="position" if policy == "hold" else "torque")
    rng = np.random.default_rng(0)
    env.reset(seed=0)
    action = _hold(env, env.data.qpos.copy()) if policy == "hold" else np.zeros(17)
    successes = []
    for _ in range(400):
        if policy == "random":
            action = rng.uniform(-1, 1, 17)
        successes.append(env.step(action)[4]["success"])
    assert successes[-1] is False


def test_a_closed_environment_leaves_another_whole():
    a, b = HumanoidEnv(width=48, height=48), HumanoidEnv(width=48, height=48)
    a.reset(seed=0)
    b.reset(seed=1)
    a.render()
    before = b.render()
    a.close()
    a.close()
    np.testing.assert_array_equal(b.render(), before)
    b.close()


@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [
        ({"task": "kneling"}, UnknownNameError, "did you mean 'kneeling'"),
        ({"quality": "best"}, ConfigError, "unknown quality 'best'"),
        ({"control": "velocity"}, ConfigError, "unknown control 'velocity'"),
        ({"start": "lying"}, ConfigError, "unknown start 'lying'"),
        ({"render_mode": "human"}, ConfigError, "render_mode must be"),
        ({"width": 0}, ConfigError, "at least 1 pixel"),
        ({"camera_distance": -1.0}, ConfigError, "distance of a camera"),
    ],
)
def test_wrong_arguments_are_named(kwargs, error, message):
    with pytest.raises(error, match=message):
        HumanoidEnv(**kwargs)


def test_hold_action_keeps_the_joints_where_they_start():
    env = HumanoidEnv(task="standing", render_mode=None, control="position")
    env.reset(seed=0)
    first = env.data.qpos[7:].copy()
    for _ in range(20):  # 0.3 s: later the robot, which does not balance, falls over and is bent
        env.step(env.hold_action)
    assert np.abs(env.data.qpos[7:] - first).max() < np.radians(6)
    assert env.action_space.contains(env.hold_action)
    assert not HumanoidEnv(render_mode=None, control="torque").hold_action.any()


def test_wrong_actions_and_missing_pictures_are_named():
    env = HumanoidEnv(render_mode=None)
    env.reset(seed=0)
    with pytest.raises(ConfigError, match=re.escape("action must have shape (17,), got (16,)")):
        env.step(np.zeros(16))
    with pytest.raises(NonFiniteError, match="action must be finite"):
        env.step(np.full(17, np.nan))
    with pytest.raises(RenderingError, match="made without pictures"):
        env.render()


def test_another_gymnasium_without_our_elements_is_named(monkeypatch):
    import vlmreward.envs.mujoco.humanoid.model as module

    monkeypatch.setattr(module.ET, "fromstring", lambda text: module.ET.Element("mujoco"))
    with pytest.raises(ConfigError, match="has no element 'asset'"):
        model_xml()


def test_config_builds_the_environment():
    config = yaml.safe_load((files("vlmreward.configs") / "env" / "humanoid.yaml").read_text(encoding="utf-8"))
    assert config["default_task"] in TASKS
    env = gym.make(config["id"], task=config["default_task"], **config["kwargs"])
    env.reset(seed=0)
    frame: Any = env.render()
    assert frame.shape == (config["kwargs"]["height"], config["kwargs"]["width"], 3)
    assert gym.spec(config["id"]).max_episode_steps == 400
    env.close()


def test_facts_are_all_documented_and_the_back_end_is_settled():
    assert set(describe(start_pose())) == set(FACTS)
    assert FRAME_SKIP == 5
    assert "MUJOCO_GL" in os.environ  # settled by the environments above
