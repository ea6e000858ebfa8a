"""What can be done on the table: kinds of goals, each with a predicate and a staged progress on the true state.

Progress is in [0, 1] and 1 exactly where the predicate holds. Below, it rises in stages: the gripper comes near, it
holds the thing, the thing goes where it belongs, it is let go.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from vlmreward.envs.mujoco.tabletop.constants import BIN_HALF, CUBE_HALF, CUBES, TARGETS
from vlmreward.errors import ConfigError, UnknownNameError
from vlmreward.registry import suggest

Facts = Mapping[str, float]

KINDS = ("push", "lift", "bin", "stack", "touch", "open", "close")
ON_TARGET = 0.03  # m, between the middles of cube and target
LIFTED = 0.08  # m, of a cube above where it lies
IN_BIN = BIN_HALF - 0.02  # m, of the cube's middle from the bin's, along x and along y
BIN_DEPTH = 0.045  # m, height of the middle of a cube that is in the bin
ON_CUBE, ON_CUBE_HEIGHT = 0.022, 0.01  # m, of the upper cube from above the middle of the lower one
DRAWER_OPEN, DRAWER_CLOSED = 0.08, 0.008  # m
TOUCHING = 0.004  # m
_LYING = CUBE_HALF + 0.01  # m, highest middle of a cube that lies on the table
_NEAR, _NEAR_TOUCH = 0.35, 0.25  # m, from where coming near counts
_FAR = {"push": 0.25, "bin": 0.40, "stack": 0.40}  # m, from where pushing and carrying counts


@dataclass(frozen=True)
class Goal:
    """Something to be done.

    Attributes:
        kind: One of ``KINDS``.
        cube: Role of the cube to be moved or touched; "" for the drawer.
        onto: Role of the target (push) or of the cube below (stack), else "".
    """

    kind: str
    cube: str = ""
    onto: str = ""

    def __post_init__(self) -> None:
        """Check that kind and things fit each other."""
        if self.kind not in KINDS:
            raise UnknownNameError(f"unknown kind of goal {self.kind!r}: {suggest(self.kind, KINDS)}")
        cubes = ("",) if self.kind in ("open", "close") else CUBES
        below = {"push": TARGETS, "stack": CUBES}.get(self.kind, ("",))
        if self.cube not in cubes or self.onto not in below or (self.kind == "stack" and self.cube == self.onto):
            raise ConfigError(
                f"goal {self.kind!r} does not go with cube {self.cube!r} and onto {self.onto!r}: "
                f"cubes are {', '.join(CUBES)}, targets {', '.join(TARGETS)}, and a cube is not stacked on itself"
            )

    @property
    def name(self) -> str:
        """Return a short name, e.g. ``"push_red_green"``."""
        return "_".join(part for part in (self.kind, self.cube, self.onto) if part)


def holds(goal: Goal, facts: Facts) -> bool:
    """Return whether a goal's predicate is true of a state, given its facts."""
    kind = goal.kind
    if kind == "open":
        return facts["drawer_open"] >= DRAWER_OPEN
    if kind == "close":
        return facts["drawer_open"] <= DRAWER_CLOSED
    if kind == "touch":
        return facts[f"{goal.cube}_touch"] <= TOUCHING
    held, z = facts[f"{goal.cube}_held"] > 0.5, facts[f"{goal.cube}_z"]
    if kind == "lift":
        return held and z >= CUBE_HALF + LIFTED
    if held:
        return False
    if kind == "push":
        return z <= _LYING and offset(goal, facts) <= ON_TARGET
    if kind == "bin":
        return z <= BIN_DEPTH and _over_bin(goal.cube, facts)
    return offset(goal, facts) <= ON_CUBE and abs(z - facts[f"{goal.onto}_z"] - 2 * CUBE_HALF) <= ON_CUBE_HEIGHT


def progress(goal: Goal, facts: Facts) -> float:
    """Return how far a goal is done, given the facts of a state: 1 exactly where the predicate holds, else below."""
    if holds(goal, facts):
        return 1.0
    kind = goal.kind
    if kind == "touch":
        return 0.95 * _closeness(facts[f"{goal.cube}_touch"], _NEAR_TOUCH)
    if kind in ("open", "close"):
        way = facts["drawer_open"] / DRAWER_OPEN
        done = min(1.0, way) if kind == "open" else max(0.0, 1.0 - facts["drawer_open"] / 0.10)
        return _moved(done, _near_handle(facts))
    if kind == "push":
        return _moved(_closeness(offset(goal, facts) - ON_TARGET, _FAR[kind]), _near_cube(goal.cube, facts))
    return _carried(goal, facts)


def _carried(goal: Goal, facts: Facts) -> float:
    """Return the progress of a goal whose cube has to be grasped."""
    held, z = facts[f"{goal.cube}_held"] > 0.5, facts[f"{goal.cube}_z"]
    if goal.kind == "bin" and _over_bin(goal.cube, facts):
        return 0.95 if z <= BIN_DEPTH else 0.9
    if not held:
        return 0.3 * _near_cube(goal.cube, facts)
    height = min(1.0, max(0.0, z - CUBE_HALF) / LIFTED)
    if goal.kind == "lift":
        return 0.4 + 0.55 * height
    if goal.kind == "stack":
        above = z - facts[f"{goal.onto}_z"] - 2 * CUBE_HALF
        if offset(goal, facts) <= ON_CUBE and abs(above) <= 2 * ON_CUBE_HEIGHT:
            return 0.9
    return 0.4 + 0.15 * height + 0.3 * height * _closeness(offset(goal, facts), _FAR[goal.kind])


def _moved(done: float, near: float) -> float:
    """Return the progress of something pushed or pulled: how far it is, and before it is anywhere how near we are."""
    return 0.95 * (done + 0.25 * near * (1.0 - done))


def offset(goal: Goal, facts: Facts) -> float:
    """Return the distance, seen from above, of the cube from where it belongs, in metres."""
    place = {"push": f"{goal.onto}_target", "stack": goal.onto, "bin": "bin"}[goal.kind]
    return math.hypot(facts[f"{goal.cube}_x"] - facts[f"{place}_x"], facts[f"{goal.cube}_y"] - facts[f"{place}_y"])


def _over_bin(cube: str, facts: Facts) -> bool:
    return all(abs(facts[f"{cube}_{axis}"] - facts[f"bin_{axis}"]) <= IN_BIN for axis in "xy")


def _near_cube(cube: str, facts: Facts) -> float:
    off = math.hypot(*(facts[f"gripper_{axis}"] - facts[f"{cube}_{axis}"] for axis in "xyz"))
    return _closeness(off, _NEAR)


def _near_handle(facts: Facts) -> float:
    off = math.hypot(
        facts["gripper_x"] - facts["handle_x"], facts["gripper_y"] - facts["handle_y"], facts["gripper_z"] - 0.045
    )
    return _closeness(off, _NEAR)


def _closeness(distance: float, scale: float) -> float:
    """Return 1 at a distance of 0, falling to 0 at ``scale``."""
    return 1.0 - min(1.0, max(0.0, distance) / scale)
