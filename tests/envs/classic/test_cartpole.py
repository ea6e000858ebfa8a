import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.classic_control import CartPoleEnv as GymCartPole
from gymnasium.utils.env_checker import check_env

import vlmreward.envs  # noqa: F401
from vlmreward.envs.classic.cartpole import TRACK, CartPoleEnv, describe
from vlmreward.errors import ConfigError, UnknownNameError

HOLD_STEPS = 100


def test_environment_passes_gymnasiums_checker():
    check_env(gym.make("vlmreward/CartPole-v0").unwrapped, skip_render_check=False)


@pytest.mark.parametrize(("action", "gym_action"), [(1, 0), (2, 1)])
def test_pushes_move_the_state_as_gymnasiums_cartpole_does(action, gym_action):
    ours, theirs = CartPoleEnv(), GymCartPole()
    ours.reset(seed=0)
    theirs.reset(seed=0)
    ours.state = np.array([0.1, -0.2, 0.05, 0.3])
    theirs.state = ours.state.copy()
    for _ in range(8):
        ours.step(action)
        theirs.step(gym_action)
    np.testing.assert_allclose(ours.state, np.asarray(theirs.state), rtol=1e-12)


def test_energy_is_kept_without_a_push():
    env = CartPoleEnv()
    env.reset(seed=0)
    env.state = np.array([0.0, 0.0, 2.0, 0.0])

    def energy(state):
        x_dot, theta, theta_dot = state[1], state[2], state[3]
        pole = np.array([x_dot + 0.5 * theta_dot * np.cos(theta), -0.5 * theta_dot * np.sin(theta)])
        kinetic = 0.5 * 1.0 * x_dot**2 + 0.5 * 0.1 * pole @ pole + 0.5 * (0.1 * 1.0 / 12) * theta_dot**2
        return kinetic + 0.1 * 9.8 * 0.5 * np.cos(theta)

    before = energy(env.state)
    for _ in range(10):
        env.step(0)
    assert energy(env.state) == pytest.approx(before, abs=0.05)  # explicit Euler gains a little


def test_cart_pressed_against_the_stop_does_not_swing_the_pole():
    pressed, free = CartPoleEnv(), CartPoleEnv()
    for env in (pressed, free):
        env.reset(seed=0)
    pressed.state = np.array([TRACK, 0.0, 0.1, 0.0])
    pressed.step(2)
    # a pole hinged to a wall: theta_acc = 3 g sin(theta) / (4 l)
    assert pressed.state[3] == pytest.approx(0.02 * 9.8 * np.sin(0.1) / (0.5 * 4 / 3))
    assert pressed.state[0] == TRACK


def test_hitting_the_stop_passes_the_momentum_to_the_pole():
    env = CartPoleEnv()
    env.reset(seed=0)
    env.state = np.array([TRACK - 0.001, 2.0, 0.0, 0.0])
    env.step(0)
    assert env.state[0] == TRACK
    assert env.state[1] == 0.0
    # angular momentum about the hinge: (4/3) m l^2 w = m l v
    assert env.state[3] == pytest.approx(2.0 / (0.5 * 4 / 3), rel=1e-3)


def test_success_needs_an_unbroken_hold_and_is_not_sticky():
    env = CartPoleEnv(task="upright")
    env.reset(seed=0)
    upright = np.zeros(4)

    def step_at(state):
        env.state = state.copy()
        return env.step(0)[4]["success"]

    assert [step_at(upright) for _ in range(HOLD_STEPS)] == [False] * (HOLD_STEPS - 1) + [True]
    assert step_at(np.array([0.0, 0.0, 1.0, 0.0])) is False
    assert step_at(upright) is False
    for _ in range(HOLD_STEPS):
        assert step_at(upright) in (True, False)
    assert step_at(upright) is True
    assert env.reset(seed=1)[1]["success"] is False


@pytest.mark.parametrize(
    ("task", "state", "expected"),
    [
        ("upright", [0, 0, np.radians(11.9), 0], True),
        ("upright", [0, 0, np.radians(12.1), 0], False),
        ("upright", [TRACK, 0, 0, 0], False),
        ("hanging", [0, 0, np.radians(-170), 0], True),
        ("hanging", [0, 0, np.radians(160), 0], False),
        ("left", [-1.95, 0, 0, 0], True),
        ("left", [-1.85, 0, 0, 0], False),
        ("right", [1.95, 0, 3, 0], True),
        ("right", [-1.95, 0, 3, 0], False),
    ],
)
def test_predicates_at_their_borders(task, state, expected):
    env = CartPoleEnv(task=task)
    env.state = np.array(state, dtype=float)
    assert env.holds(task) is expected


def test_truncated_at_200_steps_and_never_terminated():
    env = gym.make("vlmreward/CartPole-v0")
    env.reset(seed=3)
    flags = [env.step(2)[2:4] for _ in range(200)]
    assert flags[-1] == (False, True)
    assert all(f == (False, False) for f in flags[:-1])


def test_without_a_task_success_is_none():
    env = CartPoleEnv(task=None)
    assert env.reset(seed=0)[1]["success"] is None
    assert env.step(0)[4]["success"] is None


def test_unknown_task_and_start_are_refused():
    with pytest.raises(UnknownNameError, match="did you mean 'upright'"):
        CartPoleEnv(task="uprigth")
    with pytest.raises(ConfigError, match="start must be one of"):
        CartPoleEnv(start="everywhere")


def test_describe_wraps_the_angle():
    assert describe(np.array([0, 0, np.pi + 0.1, 0]))["angle_deg"] == pytest.approx(-180 + np.degrees(0.1))


@pytest.mark.parametrize("quality", ["fast", "fine"])
def test_picture_shows_where_cart_and_pole_are(quality):
    env = CartPoleEnv(width=120, height=80, quality=quality)
    env.reset(seed=0)

    def centre_of(mask):
        rows, columns = np.nonzero(mask)
        return rows.mean(), columns.mean()

    env.state = np.array([-1.5, 0, 0, 0])
    frame = env.render().astype(int)
    assert frame.shape == (80, 120, 3)
    pole = (frame[..., 0] > 150) & (frame[..., 2] < 140)
    cart = frame.sum(-1) < 60
    cart[:, 60:] = False
    # 20 pixels per metre: x = -1.5 is at column 30, the middle of a 1 m pole half a metre above the cart at row 44
    assert centre_of(pole)[1] == pytest.approx(30, abs=1)
    assert centre_of(pole)[0] == pytest.approx(44 - 10, abs=2)
    env.state = np.array([1.5, 0, np.pi, 0])
    frame = env.render().astype(int)
    pole = (frame[..., 0] > 150) & (frame[..., 2] < 140)
    assert centre_of(pole)[1] == pytest.approx(90, abs=1)
    assert centre_of(pole)[0] == pytest.approx(44 + 10, abs=2)
