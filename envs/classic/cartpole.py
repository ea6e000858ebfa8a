"""Cart-pole with text goals: balance, hang, or park the cart, starting from any angle.

The physics is Gymnasium's CartPole (Barto, Sutton and Anderson, 1983). The variant follows VLM-RM
(arXiv 2310.12921, appendix C.1): no early termination, the angle is wrapped, the cart stops at the ends of
the track. What differs from VLM-RM, and why:

- the picture is 20 % wider and the cart sits at its middle, so that a hanging pole and a cart at the end of
  the track are in view (Gymnasium's own picture cuts both);
- there is a third action, "no force", without which neither a hanging nor a parked cart can be held;
- the observation holds cos and sin of the angle instead of the wrapped angle, which jumps, in units of like size;
- the stops at the ends of the track are inelastic and take up the force of a cart pressed against them. VLM-RM
  clips the position alone, so that pressing a standing cart against the end still swings the pole, and an
  agent learns to balance there;
- the 200-step limit is a truncation.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Unpack

import gymnasium as gym
import numpy as np

from vlmreward.envs.classic.canvas import Canvas, Colour, View
from vlmreward.envs.classic.cartpole_policies import POLICIES
from vlmreward.envs.classic.task_env import Picture, TaskEnv
from vlmreward.envs.task import Task
from vlmreward.errors import ConfigError
from vlmreward.types import Axis, Sweep

GRAVITY = 9.8  # m/s^2
CART_MASS = 1.0  # kg
POLE_MASS = 0.1  # kg
HALF_LENGTH = 0.5  # m, half the pole
FORCE = 10.0  # N
DT = 0.02  # s
TRACK = 2.4  # m, from the middle of the track to either end
SPEED_UNIT, SPIN_UNIT = 3.0, 6.0  # m/s, rad/s: units of the observation

BASELINE = "pole and cart"
UPRIGHT_DEG = 12.0
END_ZONE = 1.9  # m: closer to the end of the track than 0.5 m

VIEW = View(left=-3.0, right=3.0, bottom=-1.8, top=2.2)


@dataclass(frozen=True)
class Appearance:
    """How the scene is drawn; the default is what the environment shows.

    Colours are RGB, 0-255; lengths are metres.
    """

    background_top: Colour = (255, 255, 255)
    background_bottom: Colour = (255, 255, 255)
    track: Colour = (0, 0, 0)
    cart: Colour = (0, 0, 0)
    pole: Colour = (202, 152, 101)
    axle: Colour = (129, 132, 203)
    pole_half_width: float = 0.06
    cart_half_width: float = 0.25
    cart_half_height: float = 0.15
    view: View = VIEW


def describe(state: np.ndarray) -> dict[str, float]:
    """Return facts about a true state.

    Args:
        state: (x, x_dot, theta, theta_dot) in m, m/s, rad, rad/s; theta is 0 upright, positive to the right.

    Returns:
        ``angle_deg`` in [-180, 180), ``x_m``, ``speed_m_s``, ``angular_speed_rad_s``.
    """
    x, x_dot, theta, theta_dot = np.asarray(state, np.float64).tolist()
    return {
        "angle_deg": (math.degrees(theta) + 180.0) % 360.0 - 180.0,
        "x_m": x,
        "speed_m_s": x_dot,
        "angular_speed_rad_s": theta_dot,
    }


def accelerations(force: float, theta: float, theta_dot: float) -> tuple[float, float]:
    """Return the cart's acceleration in m/s^2 and the pole's in rad/s^2, away from the ends of the track.

    Source: Florian (2007), "Correct equations for the dynamics of the cart-pole system", without friction, as
    in Gymnasium's CartPole.
    """
    cos, sin = np.cos(theta), np.sin(theta)
    total = CART_MASS + POLE_MASS
    push = (force + POLE_MASS * HALF_LENGTH * theta_dot**2 * sin) / total
    theta_acc = (GRAVITY * sin - cos * push) / (HALF_LENGTH * (4.0 / 3.0 - POLE_MASS * cos**2 / total))
    return float(push - POLE_MASS * HALF_LENGTH * theta_acc * cos / total), float(theta_acc)


def sample_state(rng: np.random.Generator) -> np.ndarray:
    """Draw a state at rest, (x, 0, theta, 0): evenly over track and circle, with the track's two ends made likely."""
    state = np.array([rng.uniform(-TRACK, TRACK), 0.0, rng.uniform(-np.pi, np.pi), 0.0])
    if rng.random() < 0.15:  # the ends of the track are a point each in a uniform draw: an agent parks there
        state[0] = rng.choice((-1.0, 1.0)) * rng.uniform(2.2, TRACK)
    return state


def draw(canvas: Canvas, state: np.ndarray, look: Appearance) -> np.ndarray:
    """Draw cart and pole over the canvas's remembered background.

    Returns:
        uint8, shape (height, width, 3).
    """
    x, theta = float(state[0]), float(state[2])
    canvas.restore()
    canvas.box((x, 0.0), look.cart_half_width, look.cart_half_height, look.cart)
    middle = (x + HALF_LENGTH * np.sin(theta), HALF_LENGTH * np.cos(theta))
    canvas.box(middle, look.pole_half_width, HALF_LENGTH, look.pole, angle=-theta)
    canvas.disc((x, 0.0), look.pole_half_width * 0.8, look.axle)
    return canvas.to_array()


def make_canvas(width: int, height: int, quality: str, look: Appearance) -> Canvas:
    """Return a canvas with the track drawn as its background."""
    canvas = Canvas(look.view, width, height, quality)
    canvas.fill(look.background_top, look.background_bottom)
    canvas.box((0.0, 0.0), TRACK + look.cart_half_width, 0.012, look.track)
    canvas.keep_background()
    return canvas


class CartPoleEnv(TaskEnv):
    """A pole hinged to a cart on a straight track, told in words what to do.

    ## Action space
    `Discrete(3)`: 0 no force, 1 push left with 10 N, 2 push right with 10 N.

    ## Observation space
    `Box(5,)`, float32:

    | index | what | min | max | unit |
    |---|---|---|---|---|
    | 0 | cart position | -1 | 1 | 2.4 m |
    | 1 | cart speed | -inf | inf | 3 m/s |
    | 2 | cosine of the pole's angle (1 upright) | -1 | 1 | |
    | 3 | sine of the pole's angle (positive to the right) | -1 | 1 | |
    | 4 | angular speed of the pole | -inf | inf | 6 rad/s |

    The units make every number about 1 in size, which is what small networks learn from.

    ## Rewards
    The environment's own reward is the cosine of the pole's angle for task `upright` (a hand-written reward to
    compare with), minus it for `hanging`, and minus or plus x / 2.4 for `left` and `right`; 0 without a task.

    ## Starting state
    `start="any"`: angle uniform over the circle, position uniform in +-0.6 m, speeds in +-0.1 (m/s, rad/s).
    `start="upright"`: each of the four numbers uniform in +-0.05, as in Gymnasium.

    ## Success
    `info["success"]`: the task's predicate has held for the last 2 s (100 steps) without a break.

    | task | predicate |
    |---|---|
    | upright | angle within 12 degrees of upright, cart not at an end of the track |
    | hanging | angle within 12 degrees of straight down |
    | left | cart within 0.5 m of the left end |
    | right | cart within 0.5 m of the right end |

    ## Episode end
    Never terminates; truncated after 200 steps (4 s).

    ## Arguments
    `task` (a name above, or None for a goal without a true success), `start`, `width`, `height`,
    `quality` ("fast" or "fine"), `render_mode` ("rgb_array").

    ## Version history
    - v0: first version.
    """

    TASKS: ClassVar[dict[str, Task]] = {
        task.name: task
        for task in (
            Task(
                "upright",
                "pole vertically upright on top of the cart",
                BASELINE,
                2.0,
                "the angle is within 12 degrees of upright and the cart is not at an end of the track",
            ),
            Task(
                "hanging",
                "pole hanging down and cart somewhere on the track",
                BASELINE,
                2.0,
                "the angle is within 12 degrees of straight down",
            ),
            Task(
                "left", "cart at the left end of the track", BASELINE, 2.0, "the cart is within 0.5 m of the left end"
            ),
            Task(
                "right",
                "cart at the right end of the track",
                BASELINE,
                2.0,
                "the cart is within 0.5 m of the right end",
            ),
        )
    }
    DT = DT
    STARTS = ("any", "upright")

    def __init__(self, task: str | None = "upright", start: str = "any", **picture: Unpack[Picture]) -> None:
        super().__init__(task, **picture)
        if start not in self.STARTS:
            raise ConfigError(f"start must be one of {list(self.STARTS)}, got {start!r}")
        self.start = start
        self.action_space = gym.spaces.Discrete(3)
        high = np.array([1.0, np.inf, 1.0, 1.0, np.inf], dtype=np.float32)
        self.observation_space = gym.spaces.Box(-high, high, dtype=np.float32)
        self.state = np.zeros(4)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        """Start an episode; see the class for the distribution of starting states."""
        super().reset(seed=seed)
        if self.start == "upright":
            self.state = self.np_random.uniform(-0.05, 0.05, size=4)
        else:
            high = np.array([0.6, 0.1, np.pi, 0.1])
            self.state = self.np_random.uniform(-high, high)
        return self._obs(), self.begin_task()

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        """Advance by 0.02 s, explicit Euler as in Gymnasium's CartPole."""
        force = FORCE * (0.0, -1.0, 1.0)[int(action)]
        x, x_dot, theta, theta_dot = self.state.tolist()
        x_acc, theta_acc = accelerations(force, theta, theta_dot)
        if abs(x) >= TRACK and x * x_acc > 0.0:  # pressed against the stop, which takes up the force
            x_acc, theta_acc = 0.0, GRAVITY * np.sin(theta) / (HALF_LENGTH * 4.0 / 3.0)
        x, x_dot = x + DT * x_dot, x_dot + DT * x_acc
        theta, theta_dot = theta + DT * theta_dot, theta_dot + DT * theta_acc
        if abs(x) >= TRACK and x * x_dot > 0.0:  # the cart hits the stop and passes its momentum on to the pole
            theta_dot += x_dot * np.cos(theta) / (HALF_LENGTH * 4.0 / 3.0)
            x_dot = 0.0
        x = float(np.clip(x, -TRACK, TRACK))
        self.state = np.array([x, x_dot, (theta + np.pi) % (2 * np.pi) - np.pi, theta_dot])
        return self._obs(), self.env_reward(), False, False, self.update_task()

    def holds(self, task: str) -> bool:
        """Return whether a task's predicate is true of the present state."""
        facts = describe(self.state)
        if task == "upright":
            return abs(facts["angle_deg"]) < UPRIGHT_DEG and abs(facts["x_m"]) < TRACK
        if task == "hanging":
            return 180.0 - abs(facts["angle_deg"]) < UPRIGHT_DEG
        return facts["x_m"] < -END_ZONE if task == "left" else facts["x_m"] > END_ZONE

    def render(self) -> np.ndarray:
        """Return the picture, uint8, shape (height, width, 3)."""
        if self._canvas is None:
            self._canvas = make_canvas(self.width, self.height, self.quality, Appearance())
        return draw(self._canvas, self.state, Appearance())

    @property
    def scripted_policies(self) -> dict[str, Callable[[CartPoleEnv, np.random.Generator], Callable[[], np.ndarray]]]:
        """Policies by name, whatever the task; called in a begun episode, one gives what chooses its actions."""

        def begin(name: str, env: CartPoleEnv, rng: np.random.Generator) -> Callable[[], np.ndarray]:
            return lambda: np.asarray(POLICIES[name](env._obs()))

        return {name: partial(begin, name) for name in POLICIES}

    def _obs(self) -> np.ndarray:
        x, x_dot, theta, theta_dot = self.state
        obs = (x / TRACK, x_dot / SPEED_UNIT, np.cos(theta), np.sin(theta), theta_dot / SPIN_UNIT)
        return np.array(obs, dtype=np.float32)

    def progress(self, task: str) -> float:
        """Return the cosine of the angle, its negative, or the position's share of the track, by task."""
        x, theta = float(self.state[0]), float(self.state[2])
        return {"upright": np.cos(theta), "hanging": -np.cos(theta), "left": -x / TRACK, "right": x / TRACK}[task]

    def sample_states(self, rng: np.random.Generator, count: int, task: str | None) -> np.ndarray:
        """Draw states at rest, whatever the task: positions over the track and its two ends, angles over the circle."""
        return np.stack([sample_state(rng) for _ in range(count)])

    def sweeps(self, task: str | None) -> tuple[Sweep, ...]:
        """Return the angle with the cart in the middle, the position with the task's pole, and both."""
        angle, position = Axis("angle", -180.0, 180.0, "degrees"), Axis("position", -TRACK, TRACK, "m")
        still = np.pi if task == "hanging" else 0.0
        return (
            Sweep((angle,), lambda degrees: np.array([0.0, 0.0, math.radians(degrees), 0.0])),
            Sweep((position,), lambda x: np.array([x, 0.0, still, 0.0])),
            Sweep((angle, position), lambda degrees, x: np.array([x, 0.0, math.radians(degrees), 0.0])),
        )
