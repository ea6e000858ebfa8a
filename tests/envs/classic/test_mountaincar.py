import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.classic_control.continuous_mountain_car import Continuous_MountainCarEnv
from gymnasium.utils.env_checker import check_env

import vlmreward.envs  # noqa: F401
from vlmreward.envs.classic.mountaincar import LEFT, PEAK, MountainCarEnv, describe


def test_environment_passes_gymnasiums_checker():
    check_env(gym.make("vlmreward/MountainCar-v0").unwrapped, skip_render_check=False)


def test_motion_is_that_of_gymnasiums_continuous_mountain_car():
    ours, theirs = MountainCarEnv(), Continuous_MountainCarEnv()
    ours.reset(seed=0)
    theirs.reset(seed=0)
    ours.state = np.array([-0.5, 0.0])
    theirs.state = ours.state.astype(np.float32)
    for i in range(40):
        action = np.array([np.sin(i / 5)], dtype=np.float32)
        ours.step(action)
        theirs.step(action)
    np.testing.assert_allclose(ours.state, theirs.state, atol=1e-5)


def test_car_rests_at_the_peak_without_power_of_its_own():
    env = MountainCarEnv()
    env.reset(seed=0)
    env.state = np.array([PEAK, 0.0])
    for _ in range(100):
        env.step(np.zeros(1))
    assert env.state[0] == pytest.approx(PEAK, abs=1e-6)


def test_full_power_alone_does_not_reach_the_peak_but_pumping_does():
    def run(policy):
        env = MountainCarEnv()
        env.reset(seed=0)
        info = {}
        for _ in range(300):
            info = env.step(np.array([policy(env.state)]))[4]
        return info["success"]

    assert not run(lambda s: 1.0)
    assert run(lambda s: 1.0 if s[1] >= 0 else -1.0)


def test_success_is_forgotten_at_a_reset():
    env = MountainCarEnv(task="bottom")
    env.reset(seed=0)
    env.state = np.array([-np.pi / 6, 0.0])
    assert [env.step(np.zeros(1))[4]["success"] for _ in range(50)][-1] is True
    assert env.reset(seed=1)[1]["success"] is False
    assert env.step(np.zeros(1))[4]["success"] is False


@pytest.mark.parametrize(
    ("task", "x", "expected"),
    [
        ("top", 0.46, True),
        ("top", 0.44, False),
        ("bottom", -0.5, True),
        ("bottom", -0.4, False),
        ("left_slope", -1.0, True),
        ("left_slope", -0.9, False),
    ],
)
def test_predicates_at_their_borders(task, x, expected):
    env = MountainCarEnv(task=task)
    env.state = np.array([x, 0.0])
    assert env.holds(task) is expected


def test_facts_at_hand_picked_states():
    assert describe(np.array([PEAK, 0.0]))["climb"] == 1.0
    assert describe(np.array([PEAK, 0.0]))["height"] == pytest.approx(1.0)
    assert describe(np.array([LEFT, 0.0]))["climb"] == 0.0


def test_picture_shows_a_red_car_where_it_is():
    env = MountainCarEnv(width=96, height=96)
    env.reset(seed=0)
    columns = []
    places = (-np.pi / 6, np.pi / 6)  # level ground: on a slope the car's body leans away from its wheels
    for x in places:
        env.state = np.array([x, 0.0])
        frame = env.render().astype(int)
        red = (frame[..., 0] > 170) & (frame[..., 1] < 80)
        columns.append(np.nonzero(red)[1].mean())
    # 2.05 wide view from -1.3: 46.8 pixels a unit
    np.testing.assert_allclose(columns, [(x + 1.3) * 96 / 2.05 for x in places], atol=1.5)
