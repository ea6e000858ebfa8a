"""Mountain car with text goals: a weak car in a valley, a yellow flag on the right peak.

The physics is Gymnasium's MountainCarContinuous (Moore, 1990). The variant follows VLM-RM (arXiv 2310.12921,
appendix C.1): painted landscape, no early termination. What differs from VLM-RM, and why:

- the car is stopped at the peak (x = 0.52, where the slope is zero) instead of at 0.45 on the slope, so that
  "at the peak" is a state in which it can stay;
- success is read from the true state at every step and forgotten at a reset (VLM-RM's stays true for ever);
- the 300-step limit is a truncation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Unpack

import gymnasium as gym
import numpy as np

from vlmreward.envs.classic.canvas import Canvas, Colour, View
from vlmreward.envs.classic.task_env import Picture, TaskEnv
from vlmreward.envs.task import Task
from vlmreward.types import Axis, Sweep

POWER = 0.0015
GRAVITY = 0.0025
MAX_SPEED = 0.07
LEFT, PEAK = -1.2, float(np.pi / 6)
BOTTOM = -float(np.pi / 6)

VIEW = View(left=-1.3, right=0.75, bottom=0.0, top=1.35)


@dataclass(frozen=True)
class Appearance:
    """How the scene is drawn; the default is what the environment shows. Colours are RGB, 0-255."""

    sky_top: Colour = (120, 175, 235)
    sky_bottom: Colour = (215, 232, 248)
    mountain: Colour = (96, 128, 72)
    car: Colour = (210, 30, 30)
    wheel: Colour = (25, 25, 25)
    flag: Colour = (250, 210, 20)
    flagpole: Colour = (60, 50, 40)
    car_half_length: float = 0.11
    car_half_height: float = 0.045
    view: View = VIEW


def height(x: np.ndarray | float) -> np.ndarray:
    """Return the height of the mountain, in [0.1, 1.0]."""
    return np.sin(3.0 * np.asarray(x)) * 0.45 + 0.55


def describe(state: np.ndarray) -> dict[str, float]:
    """Return facts about a true state.

    Args:
        state: (position, velocity).

    Returns:
        ``position`` in [-1.2, 0.52], ``velocity``, ``height``, and ``climb`` in [0, 1]: 0 in the valley's bottom,
        1 at the right peak, measured along x.
    """
    x = float(state[0])
    climb = float(np.clip((x - BOTTOM) / (PEAK - BOTTOM), 0.0, 1.0))
    return {"position": x, "velocity": float(state[1]), "height": float(height(x)), "climb": climb}


def make_canvas(width: int, height_px: int, quality: str, look: Appearance) -> Canvas:
    """Return a canvas with sky, mountain and flag drawn as its background."""
    canvas = Canvas(look.view, width, height_px, quality)
    canvas.fill(look.sky_top, look.sky_bottom)
    xs = np.linspace(look.view.left, look.view.right, 80)
    outline = list(zip(xs.tolist(), height(xs).tolist(), strict=True))
    canvas.polygon([*outline, (look.view.right, look.view.bottom), (look.view.left, look.view.bottom)], look.mountain)
    x, y = PEAK + 0.06, float(height(PEAK + 0.06))
    canvas.box((x, y + 0.11), 0.008, 0.11, look.flagpole)
    canvas.polygon([(x, y + 0.22), (x + 0.1, y + 0.18), (x, y + 0.13)], look.flag)
    canvas.keep_background()
    return canvas


def sample_state(rng: np.random.Generator) -> np.ndarray:
    """Draw a state at rest, (x, 0), evenly over the positions."""
    return np.array([rng.uniform(LEFT, PEAK), 0.0])


def draw(canvas: Canvas, state: np.ndarray, look: Appearance) -> np.ndarray:
    """Draw the car, turned along the slope, over the canvas's remembered background.

    Returns:
        uint8, shape (height, width, 3).
    """
    x = float(state[0])
    canvas.restore()
    slope = float(np.arctan(np.cos(3.0 * x) * 0.45 * 3.0))
    along, up = np.array([np.cos(slope), np.sin(slope)]), np.array([-np.sin(slope), np.cos(slope)])
    foot = np.array([x, float(height(x))])
    half, tall = look.car_half_length, look.car_half_height
    canvas.box(tuple(foot + up * (tall + 0.025)), half, tall, look.car, angle=slope)
    canvas.box(tuple(foot + up * (2.6 * tall + 0.025)), half * 0.5, tall * 0.7, look.car, angle=slope)
    for side in (-0.6, 0.6):
        canvas.disc(tuple(foot + along * half * side + up * 0.025), 0.03, look.wheel)
    return canvas.to_array()


class MountainCarEnv(TaskEnv):
    """A car too weak to drive straight up the hill, told in words where to be.

    ## Action space
    `Box(-1, 1, (1,))`, float32: share of the motor's power, negative to the left.

    ## Observation space
    `Box(2,)`, float32: position in [-1.2, 0.52]; velocity in [-1, 1], in units of the largest one, 0.07 a step.

    ## Rewards
    The environment's own reward is the height of the car for task `top`, minus it for `bottom`, minus the position for
    `left_slope`, and 0 without a task.

    ## Starting state
    Position uniform in [-0.6, -0.4], at rest.

    ## Success
    `info["success"]`: the predicate has held for the last second (50 steps) without a break.

    | task | predicate |
    |---|---|
    | top | position > 0.45 |
    | bottom | position within 0.08 of the lowest point (-0.52) |
    | left_slope | position < -0.95 |

    ## Episode end
    Never terminates; truncated after 300 steps (6 s).

    ## Arguments
    `task` (a name above, or None), `width`, `height`, `quality` ("fast" or "fine"), `render_mode` ("rgb_array").

    ## Version history
    - v0: first version.
    """

    TASKS: ClassVar[dict[str, Task]] = {
        task.name: task
        for task in (
            Task(
                "top",
                "a car at the peak of the mountain, next to the yellow flag",
                "a car in the mountain",
                1.0,
                "the position is beyond 0.45",
            ),
            Task(
                "bottom",
                "a car at the bottom of the valley",
                "a car in the mountain",
                1.0,
                "the position is within 0.08 of the lowest point",
            ),
            Task(
                "left_slope",
                "a car high up on the left slope",
                "a car in the mountain",
                1.0,
                "the position is below -0.95",
            ),
        )
    }
    DT = 0.02

    def __init__(self, task: str | None = "top", **picture: Unpack[Picture]) -> None:
        super().__init__(task, **picture)
        self.action_space = gym.spaces.Box(-1.0, 1.0, (1,), dtype=np.float32)
        low = np.array([LEFT, -1.0], dtype=np.float32)
        high = np.array([PEAK, 1.0], dtype=np.float32)
        self.observation_space = gym.spaces.Box(low, high, dtype=np.float32)
        self.state = np.zeros(2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        """Start an episode at rest near the bottom of the valley."""
        super().reset(seed=seed)
        self.state = np.array([self.np_random.uniform(-0.6, -0.4), 0.0])
        return self._obs(), self.begin_task()

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        """Advance by one step of Gymnasium's MountainCarContinuous."""
        force = float(np.clip(np.asarray(action).reshape(-1)[0], -1.0, 1.0))
        x, v = self.state.tolist()
        v = float(np.clip(v + force * POWER - GRAVITY * np.cos(3.0 * x), -MAX_SPEED, MAX_SPEED))
        x = x + v
        if x <= LEFT or x >= PEAK:
            x, v = float(np.clip(x, LEFT, PEAK)), 0.0
        self.state = np.array([x, v])
        return self._obs(), self.env_reward(), False, False, self.update_task()

    def holds(self, task: str) -> bool:
        """Return whether a task's predicate is true of the present state."""
        x = float(self.state[0])
        if task == "top":
            return x > 0.45
        return abs(x - BOTTOM) < 0.08 if task == "bottom" else x < -0.95

    def render(self) -> np.ndarray:
        """Return the picture, uint8, shape (height, width, 3)."""
        if self._canvas is None:
            self._canvas = make_canvas(self.width, self.height, self.quality, Appearance())
        return draw(self._canvas, self.state, Appearance())

    def _obs(self) -> np.ndarray:
        obs = (np.float32(self.state[0]), np.float32(self.state[1] / MAX_SPEED))
        return np.clip(obs, self.observation_space.low, self.observation_space.high)  # type: ignore[attr-defined]

    def progress(self, task: str) -> float:
        """Return the height, its negative, or the negative position, by task."""
        x = float(self.state[0])
        return {"top": float(height(x)), "bottom": -float(height(x)), "left_slope": -x}[task]

    def sample_states(self, rng: np.random.Generator, count: int, task: str | None) -> np.ndarray:
        """Draw states at rest, evenly over the positions, whatever the task."""
        return np.stack([sample_state(rng) for _ in range(count)])

    def sweeps(self, task: str | None) -> tuple[Sweep, ...]:
        """Return the position, which is all that a picture shows."""
        return (Sweep((Axis("position", LEFT, PEAK),), lambda x: np.array([x, 0.0])),)
