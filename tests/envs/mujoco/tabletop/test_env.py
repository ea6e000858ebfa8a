"""The tabletop against Gymnasium's checker, its own page and MuJoCo's own measurements."""

import re
from importlib.resources import files

import gymnasium as gym
import numpy as np
import pytest
import yaml
from gymnasium.utils.env_checker import check_env

import vlmreward.envs  # noqa: F401  (registers)
from vlmreward.envs.mujoco.tabletop.constants import GRIP, STATE_SIZE, WORKSPACE
from vlmreward.envs.mujoco.tabletop.env import FRAME_SKIP, MAX_DELTA, TabletopEnv
from vlmreward.envs.mujoco.tabletop.goals import holds
from vlmreward.envs.mujoco.tabletop.layouts import SPLITS
from vlmreward.envs.mujoco.tabletop.tasks import GOALS, TASKS
from vlmreward.errors import ConfigError, NonFiniteError, RenderingError, UnknownNameError


def make(**kwargs):
    return TabletopEnv(**{"render_mode": None, **kwargs})


@pytest.mark.parametrize("observe", ["state", "proprio"])
def test_gymnasiums_checker_is_content(observe):
    env = gym.make("vlmreward/Tabletop-v0", width=48, height=48, observe=observe, split="moved_camera")
    check_env(env.unwrapped)
    env.close()


def test_same_seed_gives_the_same_trajectory_and_pictures():
    def run():
        env = make(render_mode="rgb_array", width=32, height=32, split="unseen", instruction="paraphrase")
        rng = np.random.default_rng(3)
        out = []
        for seed in (5, None):  # the second episode goes on with the stream
            obs, info = env.reset(seed=seed)
            out += [obs, info["instruction"]]
            for _ in range(40):
                obs, reward, _, _, info = env.step(rng.uniform(-1, 1, 4))
                out += [obs, reward, info["success"]]
            out += [env.render(), env.state]
        env.close()
        return out

    for a, b in zip(run(), run(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_another_episode_does_not_depend_on_the_one_before():
    env = make(task="stack")
    env.reset(seed=1)
    for _ in range(60):
        env.step(np.array((0.3, -0.4, -1.0, 1.0)))
    first = env.reset(seed=2)[0]
    moved = env.step(np.ones(4))[0]
    fresh = make(task="stack")
    np.testing.assert_array_equal(first, fresh.reset(seed=2)[0])
    np.testing.assert_array_equal(moved, fresh.step(np.ones(4))[0])


def test_zero_action_holds_everything():
    env = make()
    env.reset(seed=0)
    before = env.state
    for _ in range(40):
        env.step(np.zeros(4))
    np.testing.assert_allclose(env.state, before, atol=1e-3)


@pytest.mark.parametrize(("axis", "sign"), [(0, 1), (0, -1), (1, 1), (1, -1), (2, 1), (2, -1)])
def test_an_action_moves_the_gripper_along_its_axis_until_the_workspace_ends(axis, sign):
    env = make()
    env.reset(seed=0)
    start = env.state[:3]
    action = np.zeros(4)
    action[axis] = sign
    for _ in range(3):
        env.step(action)
    for _ in range(10):
        env.step(np.zeros(4))
    moved = env.state[:3] - start
    assert moved[axis] == pytest.approx(sign * 3 * MAX_DELTA, abs=0.012)  # the leash may cut the first steps
    np.testing.assert_allclose(np.delete(moved, axis), 0, atol=2e-3)
    for _ in range(60):
        env.step(action)
    edge = WORKSPACE[axis][1 if sign > 0 else 0]
    assert env.state[axis] == pytest.approx(edge, abs=0.012)


def test_gripper_closes_opens_and_keeps():
    env = make()
    env.reset(seed=0)
    widths = []
    for command, steps in ((1.0, 12), (0.1, 3), (-1.0, 12), (-0.1, 3)):
        for _ in range(steps):
            env.step(np.array((0, 0, 0, command)))
        widths.append((env.facts()["opening"], env.state[GRIP]))
    assert [grip for _, grip in widths] == [0, 0, 1, 1]
    assert max(widths[0][0], widths[1][0]) < 0.01
    assert min(widths[2][0], widths[3][0]) > 0.078


def test_the_page_tells_the_observation_by_index():
    env = make()
    obs, _ = env.reset(seed=4)
    obs = env.step(np.array((1.0, 0.5, -1.0, 1.0)))[0]  # the fingers are on their way
    facts, page = env.facts(), TabletopEnv.__doc__ or ""
    assert "`Box(-inf, inf, (56,), float32)`" in page
    assert obs.shape == (56,)
    np.testing.assert_allclose(obs[:3], [facts[f"gripper_{a}"] for a in "xyz"], rtol=1e-6)
    assert obs[3] == pytest.approx(facts["opening"])
    assert obs[4] > 0.1  # to the right
    assert obs[6] < -0.1  # down
    assert obs[7] < -0.05  # closing
    assert (obs[8], facts["open_command"]) == (0, 0)
    assert obs[9] == pytest.approx(facts["drawer_open"])
    cubes = [[facts[f"{c}_{a}"] for a in "xyz"] for c in ("red", "blue", "green", "yellow")]
    np.testing.assert_allclose(obs[10:22].reshape(4, 3), cubes, rtol=1e-5)
    np.testing.assert_allclose(obs[22:34].reshape(4, 3), np.array(cubes) - obs[:3], atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(obs[34:50].reshape(4, 4), axis=1), 1, rtol=1e-5)
    names = ("green_target_x", "green_target_y", "white_target_x", "white_target_y", "bin_x", "bin_y")
    np.testing.assert_allclose(obs[50:], [facts[n] for n in names], rtol=1e-5)
    proprio = make(observe="proprio")
    np.testing.assert_array_equal(proprio.reset(seed=4)[0], make().reset(seed=4)[0][:9])
    assert "first 9 numbers" in page


def test_time_is_what_the_page_says():
    env = make()
    assert env.dt == pytest.approx(0.05)
    assert FRAME_SKIP * env.model.opt.timestep == pytest.approx(env.dt)
    assert env.metadata["render_fps"] == round(1 / env.dt)
    assert gym.spec("vlmreward/Tabletop-v0").max_episode_steps == 150


def test_success_needs_the_predicate_for_half_a_second_and_is_lost_with_it():
    env = make(task="close_drawer")
    env.reset(seed=0)
    state = env.state
    state[5] = 0.0  # the drawer is shut by hand
    env.set_state(state)
    assert holds(GOALS["close_drawer"], env.facts())
    seen = [env.step(np.zeros(4))[4]["success"] for _ in range(11)]
    assert seen == [False] * 9 + [True] * 2
    state[5] = 0.05
    env.set_state(state)
    assert env.step(np.zeros(4))[4]["success"] is False


@pytest.mark.parametrize("task", list(TASKS))
@pytest.mark.parametrize("policy", ["zero", "random"])
def test_doing_nothing_is_no_success(task, policy):
    env = make(task=task)
    rng = np.random.default_rng(0)
    for seed in range(2):
        env.reset(seed=seed)
        info: dict = {}
        for _ in range(150):
            info = env.step(np.zeros(4) if policy == "zero" else rng.uniform(-1, 1, 4))[4]
        assert info["success"] is False
        assert 0 <= info["progress"] < 1


def test_reward_is_the_progress_and_nothing_without_a_task():
    env = make(task="lift")
    env.reset(seed=0)
    _, reward, _, _, info = env.step(np.zeros(4))
    assert reward == info["progress"] == env.judge("lift")[1]
    free = make(task=None)
    assert free.reset(seed=0)[1] == {"success": None, "instruction": ""}
    assert free.step(np.zeros(4))[1] == 0.0


def test_instructions_follow_the_setting_the_option_and_the_colours():
    env = make(task="push")
    assert env.reset(seed=0)[1]["instruction"] == TASKS["push"].goal == "push the red cube onto the green target"
    start = env.state
    said = {env.reset(seed=s, options={"instruction": "paraphrase"})[1]["instruction"] for s in range(60)}
    assert said == set(env.instructions)
    assert len(said) == 6
    assert env.reset(options={"instruction": "do, as I say"})[1]["instruction"] == "do, as I say"
    assert env.step(np.zeros(4))[4]["instruction"] == "do, as I say"
    env.reset(seed=0, options={"instruction": "paraphrase"})
    np.testing.assert_array_equal(env.state, start)  # words change nothing on the table
    other = make(task="push", split="new_colours")
    for seed in range(5):
        text = other.reset(seed=seed)[1]["instruction"]
        look = other.scene.look
        assert text == f"push the {look.cubes[0]} cube onto the {look.targets[0]} target"
        assert not {"red", "blue", "green", "yellow", "white"} & set(text.split())


def test_every_task_has_at_least_four_paraphrases_that_name_its_things():
    for task, goal in GOALS.items():
        texts = make(task=task).instructions
        assert len(set(texts)) == len(texts) >= 5
        assert all(goal.cube in text and goal.onto in text and "{" not in text for text in texts)


@pytest.mark.parametrize("camera", ["front", "top", "wrist"])
def test_cameras_see_different_things(camera):
    env = make(render_mode="rgb_array", width=64, height=48, camera=camera)
    env.reset(seed=0)
    first = env.render()
    assert (first.shape, first.dtype) == ((48, 64, 3), np.uint8)
    for _ in range(10):
        env.step(np.array((1, 0, 0, 0)))
    assert (env.render() != first).mean() > 0.01
    env.close()


def test_pictures_show_the_present_state_not_the_one_a_physics_step_before():
    env = make(render_mode="rgb_array", width=64, height=64)
    env.reset(seed=0)
    for _ in range(7):
        env.step(np.array((0.7, -1, -1, 0)))
    seen = env.render()
    env.set_state(env.state)
    np.testing.assert_array_equal(env.render(), seen)
    env.close()


def test_a_closed_environment_leaves_another_whole():
    a, b = (make(render_mode="rgb_array", width=32, height=32) for _ in range(2))
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
        ({"task": "psuh"}, UnknownNameError, "did you mean 'push'"),
        ({"quality": "best"}, ConfigError, "unknown quality 'best'"),
        ({"camera": "frnt"}, ConfigError, "unknown camera 'frnt': did you mean 'front'"),
        ({"observe": "pixels"}, ConfigError, "unknown observe 'pixels'"),
        ({"reward": "dense"}, ConfigError, "unknown reward 'dense'"),
        ({"split": "unsene"}, ConfigError, "unknown split 'unsene': did you mean 'unseen'"),
        ({"instruction": "any"}, ConfigError, "unknown instruction 'any'"),
        ({"render_mode": "human"}, ConfigError, "render_mode must be"),
        ({"width": 0}, ConfigError, "at least 1 pixel"),
    ],
)
def test_wrong_arguments_are_named(kwargs, error, message):
    with pytest.raises(error, match=message):
        make(**kwargs)


def test_wrong_calls_are_named():
    env = make()
    env.reset(seed=0)
    with pytest.raises(ConfigError, match=re.escape("action must have shape (4,), got (5,)")):
        env.step(np.zeros(5))
    with pytest.raises(NonFiniteError, match="action must be finite"):
        env.step(np.full(4, np.nan))
    with pytest.raises(RenderingError, match="made without pictures"):
        env.render()
    with pytest.raises(ConfigError, match=f"{STATE_SIZE} finite numbers"):
        env.set_state(np.zeros(3))
    with pytest.raises(ConfigError, match="unknown option of reset 'task'"):
        env.reset(options={"task": "lift"})
    with pytest.raises(ConfigError, match="must be a text, got 3"):
        env.reset(options={"instruction": 3})
    with pytest.raises(UnknownNameError, match="unknown task 'tuch'"):
        env.judge("tuch")


def test_config_builds_the_environment():
    config = yaml.safe_load((files("vlmreward.configs") / "env" / "tabletop.yaml").read_text(encoding="utf-8"))
    assert config["default_task"] in TASKS
    assert config["kwargs"]["split"] in SPLITS
    env = gym.make(config["id"], task=config["default_task"], **config["kwargs"])
    env.reset(seed=0)
    assert np.asarray(env.render()).shape == (config["kwargs"]["height"], config["kwargs"]["width"], 3)
    env.close()
