"""Where things are when an episode starts, in five splits that share no start.

Each split draws from a stream of random numbers of its own, so a start of one is never a start of another, whatever
the seeds. Three of them differ in kind too: other colours (in the instruction as well), places that the first two never
use, or a camera that stands elsewhere.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from vlmreward.envs.mujoco.tabletop.constants import (
    BIN,
    CUBE_HALF,
    CUBE_SIZE,
    CUBES,
    CUBES_START,
    DRAWER,
    DRAWER_TRAVEL,
    GRIPPER,
    TARGETS,
    cube_slice,
    target_slice,
)
from vlmreward.envs.mujoco.tabletop.goals import Goal
from vlmreward.envs.mujoco.tabletop.scene import DEFAULT_LOOK, CameraShift, Look
from vlmreward.envs.mujoco.tabletop.state import State, empty_state

SPLITS = ("seen", "unseen", "new_colours", "new_positions", "moved_camera")
NEW_CUBES = ("purple", "orange", "turquoise", "pink")
NEW_TARGETS = ("black", "brown")

XS = (-0.125, 0.115)  # m, where cubes and targets lie
YS = (-0.15, 0.08)
NEW_YS = ((-0.19, -0.155), (0.085, 0.12))  # where the things that matter lie in the split new_positions
_GAPS = {"cc": 0.085, "ct": 0.085, "tt": 0.10}  # m, smallest distance of cubes (c) and targets (t)
_CORRIDOR = 0.062  # m, that a pushed cube needs on either side of its middle
_RUN_UP = 0.06  # m, that the gripper needs behind it
_TRIES = 400
_BEST = 40


def make_rng(seed: int | None, split: str) -> np.random.Generator:
    """Return the stream of a split for a seed; None draws one from the system."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(SPLITS.index(split),)))


def sample_look(rng: np.random.Generator, split: str) -> Look:
    """Draw colours and camera of an episode; the default ones but for ``new_colours`` and ``moved_camera``."""
    if split == "new_colours":
        cubes = tuple(NEW_CUBES[i] for i in rng.permutation(len(NEW_CUBES)))
        targets = tuple(NEW_TARGETS[i] for i in rng.permutation(len(NEW_TARGETS)))
        return replace(DEFAULT_LOOK, cubes=cubes, targets=targets, table=(0.55, 0.60, 0.62), cabinet=(0.25, 0.30, 0.38))
    if split == "moved_camera":
        side = 1 if rng.random() < 0.5 else -1
        shift = CameraShift(
            azimuth=float(side * rng.uniform(12, 28)),
            elevation=float(rng.uniform(-10, 10)),
            distance=float(rng.uniform(0.95, 1.12)),
        )
        return replace(DEFAULT_LOOK, shift=shift)
    return DEFAULT_LOOK


def sample_layout(rng: np.random.Generator, goal: Goal | None = None, split: str = "seen") -> State:
    """Draw a start.

    Args:
        rng: Source of randomness.
        goal: What is to be done: it isn't yet, and can be. None: nothing in particular.
        split: One of ``SPLITS``.

    Returns:
        A state at rest, float64, shape (STATE_SIZE,).
    """
    new = split == "new_positions"
    state = empty_state()
    for _ in range(_TRIES):
        if _place_things(rng, state, goal if new else None) and (goal is None or _can_be_pushed(state, goal)):
            break
    else:
        raise AssertionError("no layout found: the table is too small for its things")
    for start in range(CUBES_START, CUBES_START + CUBE_SIZE * len(CUBES), CUBE_SIZE):
        half = np.radians(rng.uniform(-15, 15)) / 2
        state[start + 3 : start + 7] = np.cos(half), 0.0, 0.0, np.sin(half)
    state[BIN] = rng.uniform(0.235, 0.25), rng.uniform(-0.13, -0.06) if new else rng.uniform(0.0, 0.08)
    state[DRAWER] = _drawer(rng, goal, new)
    if new:
        state[GRIPPER] = rng.choice((-1, 1)) * rng.uniform(0.12, 0.18), rng.uniform(-0.16, 0.0), rng.uniform(0.15, 0.22)
    else:
        state[GRIPPER] = rng.uniform(-0.09, 0.09), rng.uniform(-0.10, 0.06), rng.uniform(0.12, 0.19)
    return state


def _drawer(rng: np.random.Generator, goal: Goal | None, new: bool) -> float:
    """Draw how far the drawer is open, in metres."""
    kind = goal.kind if goal is not None else ""
    if kind == "close":
        return float(rng.uniform(0.03, 0.05) if new else rng.uniform(0.06, DRAWER_TRAVEL))
    if kind == "open":
        return float(rng.uniform(0.01, 0.03)) if new else 0.0
    return 0.0 if rng.random() < 0.7 else float(rng.uniform(0.02, DRAWER_TRAVEL))


def _place_things(rng: np.random.Generator, state: State, outside: Goal | None) -> bool:
    """Put cubes and targets on the table, those of a goal in the strips of new places; return whether they fit."""
    placed: list[tuple[str, float, float]] = []
    names = [("c", name) for name in CUBES] + [("t", name) for name in TARGETS]
    goal = outside
    special = set()
    if goal is not None:
        special = {("c", goal.cube), ("t" if goal.kind == "push" else "c", goal.onto)}
    for number in sorted(range(len(names)), key=lambda i: names[i] not in special):  # those with least room first
        kind = names[number][0]
        for _ in range(_BEST):
            ys = NEW_YS[int(rng.integers(2))] if names[number] in special else YS
            x, y = float(rng.uniform(*XS)), float(rng.uniform(*ys))
            if all(np.hypot(x - a, y - b) >= _GAPS["".join(sorted(kind + k))] for k, a, b in placed):
                break
        else:
            return False
        placed.append((kind, x, y))
        if kind == "c":
            state[cube_slice(number)] = x, y, CUBE_HALF
        else:
            state[target_slice(number - len(CUBES))] = x, y
    return True


def _can_be_pushed(state: State, goal: Goal) -> bool:
    """Return whether a cube can be pushed to its target along x and then y, or the other way round."""
    return goal.kind != "push" or bool(free_orders(state, CUBES.index(goal.cube), TARGETS.index(goal.onto)))


def free_orders(state: State, cube: int, target: int) -> list[str]:
    """Return which of ``"xy"`` and ``"yx"`` push a cube to a target without meeting another cube.

    Args:
        state: float64, shape (STATE_SIZE,).
        cube: Number of the cube.
        target: Number of the target.
    """
    start, end = state[cube_slice(cube)][:2], state[target_slice(target)]
    others = [state[cube_slice(i)][:2] for i in range(len(CUBES)) if i != cube]
    orders = []
    for order in ("xy", "yx"):
        corner = np.array((end[0], start[1]) if order == "xy" else (start[0], end[1]))
        if all(_clear(a, b, other) for a, b in ((start, corner), (corner, end)) for other in others):
            orders.append(order)
    return orders


def _clear(start: np.ndarray, end: np.ndarray, other: np.ndarray) -> bool:
    """Return whether a cube is off the way of one push, run-up included; the way runs along an axis."""
    length = np.abs(end - start).sum()
    if length < 0.01:  # not worth a push
        return True
    back = start - _RUN_UP * (end - start) / length
    low, high = np.minimum(back, end) - _CORRIDOR, np.maximum(back, end) + _CORRIDOR
    return not bool(((low < other) & (other < high)).all())
