"""The facts that are true of a state: where things are, what the gripper holds, how far the drawer is open."""

from __future__ import annotations

import math

import numpy.typing as npt

from vlmreward.envs.mujoco.tabletop.constants import (
    CABINET_FRONT,
    CABINET_X,
    CUBE_HALF,
    CUBE_SIZE,
    CUBES,
    CUBES_START,
    DRAWER,
    FINGER_HALF,
    FINGER_LIFT,
    GRIP,
    HANDLE_REACH,
    TARGETS,
    TARGETS_START,
)
from vlmreward.envs.mujoco.tabletop.state import State, check_state

FACTS: dict[str, str] = {
    "gripper_x": "m, of the point between the finger pads; to the right",
    "gripper_y": "m, away from the front camera",
    "gripper_z": "m, above the table",
    "opening": "m, between the inner faces of the fingers",
    "open_command": "1 if the gripper is told to be open, 0 if closed",
    "drawer_open": "m",
    "handle_x": "m, of the drawer's handle",
    "handle_y": "m",
    "bin_x": "m, of the middle of the bin",
    "bin_y": "m",
    **{f"{t}_target_{axis}": "m" for t in TARGETS for axis in "xy"},
    **{f"{c}_{axis}": "m, of the middle of the cube" for c in CUBES for axis in "xyz"},
    **{f"{c}_held": "1 if the closed gripper has the cube between its fingers, else 0" for c in CUBES},
    **{f"{c}_touch": "m, from the nearer finger to an upright box around the cube's place" for c in CUBES},
}
_HELD_X, _HELD_Y, _HELD_Z = 0.012, 0.026, 0.026  # how far the middle of a held cube may be from the gripper's point
_HELD_OPENING = (0.035, 0.069)  # a cube is 0.05 wide, 0.0685 with a turn of 30 degrees


def describe(state: npt.ArrayLike) -> dict[str, float]:
    """Return the facts of a state.

    Args:
        state: See ``constants``, float, shape (STATE_SIZE,).

    Returns:
        One number for each name in ``FACTS``.

    Raises:
        ConfigError: The state is not ``STATE_SIZE`` finite numbers.
    """
    return compute_facts(check_state(state))


def compute_facts(state: State) -> dict[str, float]:
    """Do the same for a state that is known to be one."""
    s: list[float] = state.tolist()
    x, y, z = s[0], s[1], s[2]
    left, right, drawer, grip = s[3], s[4], s[DRAWER], s[GRIP]
    facts = {
        "gripper_x": x, "gripper_y": y, "gripper_z": z, "opening": left + right, "open_command": grip,
        "drawer_open": drawer, "handle_x": CABINET_X, "handle_y": CABINET_FRONT - drawer - HANDLE_REACH + 0.009,
    }  # fmt: skip
    at = TARGETS_START
    for target in TARGETS:
        facts[f"{target}_target_x"], facts[f"{target}_target_y"] = s[at], s[at + 1]
        at += 2
    facts["bin_x"], facts["bin_y"] = s[at], s[at + 1]
    closed_on_cube = grip < 0.5 and _HELD_OPENING[0] <= left + right <= _HELD_OPENING[1]
    middle = x + (right - left) / 2
    at = CUBES_START
    for cube in CUBES:
        cx, cy, cz = s[at], s[at + 1], s[at + 2]
        facts[f"{cube}_x"], facts[f"{cube}_y"], facts[f"{cube}_z"] = cx, cy, cz
        held = (
            closed_on_cube
            and abs(cx - middle) <= _HELD_X
            and abs(cy - y) <= _HELD_Y
            and abs(cz - z) <= _HELD_Z
        )  # fmt: skip
        facts[f"{cube}_held"] = 1.0 if held else 0.0
        gap_x = min(abs(cx - x + left + FINGER_HALF[0]), abs(cx - x - right - FINGER_HALF[0]))
        facts[f"{cube}_touch"] = math.hypot(
            max(0.0, gap_x - FINGER_HALF[0] - CUBE_HALF),
            max(0.0, abs(cy - y) - FINGER_HALF[1] - CUBE_HALF),
            max(0.0, abs(cz - z - FINGER_LIFT) - FINGER_HALF[2] - CUBE_HALF),
        )
        at += CUBE_SIZE
    return facts
