"""The eight tasks of VLM-RM, each with a success predicate and a graded distance on the true state.

Prompts are those of the paper (arXiv 2310.12921, table 3), which had no predicate: a person judged videos. Ours is a
list of ranges on facts. A pose succeeds when every fact is in its range; the distance is the root mean square of how
far the facts are outside, each measured in its own scale and capped at 1. So the distance is 0 exactly where the
predicate holds, and falls from far away: a lying robot that lifts its head is closer to standing.

What the stock body can't do: it has no ankles and wrists, and hips and shoulders reach less far than a person's. Side
splits end at about 125 degrees between the thighs. In the lotus seat the feet meet in front of the body: they can't be
put on the thighs, and the pelvis has to roll back for it. Crossed arms cross at the hands, in front of the chest: they
can't be folded. The predicates ask for what can be reached.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from math import inf

import numpy.typing as npt

from vlmreward.envs.mujoco.humanoid.facts import FACTS, describe
from vlmreward.envs.task import Task
from vlmreward.errors import ConfigError, UnknownNameError
from vlmreward.registry import suggest


@dataclass(frozen=True)
class Criterion:
    """A range that a fact must lie in.

    Attributes:
        fact: Name of the fact.
        low: Smallest allowed value.
        high: Largest allowed value.
        scale: Distance from the range at which the violation counts as 1, in the fact's unit.
    """

    fact: str
    low: float
    high: float
    scale: float

    def __post_init__(self) -> None:
        """Check name and numbers."""
        if self.fact not in FACTS:
            raise UnknownNameError(f"unknown fact {self.fact!r}: {suggest(self.fact, FACTS)}")
        if not self.low < self.high:
            raise ConfigError(f"low must be below high for {self.fact}, got {self.low} .. {self.high}")
        if not self.scale > 0:
            raise ConfigError(f"scale of {self.fact} must be positive, got {self.scale}")

    def violation(self, value: float) -> float:
        """Return how far a value is outside the range, 0 inside, at most 1."""
        return min(1.0, max(0.0, self.low - value, value - self.high) / self.scale)


def _both(fact: str, low: float, high: float, scale: float) -> tuple[Criterion, Criterion]:
    """Return the same range for the right and the left side."""
    return Criterion(f"right_{fact}", low, high, scale), Criterion(f"left_{fact}", low, high, scale)


# standing up: head high, torso upright, weight on both feet
_UP = (Criterion("head_height", 1.33, inf, 1.25), Criterion("torso_tilt", -inf, 25, 90))
_ON_BOTH_FEET = (Criterion("high_foot_clearance", -inf, 0.05, 0.5), *_both("knee_flexion", -inf, 50, 110))

CRITERIA: dict[str, tuple[Criterion, ...]] = {
    "kneeling": (
        Criterion("torso_tilt", -inf, 30, 90),
        Criterion("head_height", 0.70, 1.20, 0.6),
        Criterion("pelvis_clearance", 0.08, 0.60, 0.5),  # on the knees or on the heels, not on the ground
        *_both("knee_clearance", -inf, 0.06, 0.45),
        *_both("foot_clearance", -inf, 0.10, 0.5),
        *_both("foot_behind", 0.15, inf, 0.5),
        Criterion("knee_gap", -inf, 0.55, 0.5),
    ),
    "lotus": (
        Criterion("torso_tilt", -inf, 45, 90),
        Criterion("pelvis_clearance", -inf, 0.10, 0.8),
        *_both("knee_flexion", 120, inf, 120),
        Criterion("feet_gap", -inf, 0.35, 0.6),
        Criterion("knee_gap", 0.45, inf, 0.4),
        Criterion("high_knee_clearance", -inf, 0.35, 0.4),
        *_both("foot_clearance", -inf, 0.15, 0.5),
    ),
    "standing": (*_UP, *_ON_BOTH_FEET),
    "arms_raised": (*_UP, *_ON_BOTH_FEET, *_both("hand_above_head", 0.15, inf, 0.7)),
    "splits": (
        Criterion("torso_tilt", -inf, 40, 90),
        Criterion("pelvis_clearance", -inf, 0.20, 0.8),
        Criterion("thigh_spread", 100, inf, 100),
        *_both("knee_flexion", -inf, 35, 110),
        *_both("foot_clearance", -inf, 0.15, 0.5),
    ),
    "hands_on_hips": (
        *_UP,
        *_ON_BOTH_FEET,
        *_both("hand_to_hip", -inf, 0.13, 0.5),
        *_both("elbow_out", 0.04, inf, 0.3),
    ),
    "arms_crossed": (
        *_UP,
        *_ON_BOTH_FEET,
        *_both("hand_across", 0.0, inf, 0.4),
        *_both("hand_front", 0.10, inf, 0.4),
        *_both("hand_chest_height", -0.25, 0.20, 0.4),
    ),
    "one_leg": (
        *_UP,
        Criterion("low_foot_clearance", -inf, 0.05, 0.5),
        Criterion("high_foot_clearance", 0.15, inf, 0.15),
    ),
}
# poses that are no task, but have words of their own: half-way and failed states
OTHER_CRITERIA: dict[str, tuple[Criterion, ...]] = {
    "lying": (
        Criterion("head_height", -inf, 0.35, 1.1),
        Criterion("torso_tilt", 60, inf, 60),
        Criterion("torso_clearance", -inf, 0.15, 0.8),
        Criterion("pelvis_clearance", -inf, 0.15, 0.8),
    ),
    "crouching": (
        Criterion("torso_tilt", -inf, 60, 90),
        Criterion("head_height", 0.50, 1.25, 0.5),
        Criterion("pelvis_clearance", 0.10, 0.60, 0.4),
        *_both("knee_flexion", 70, inf, 70),
        *_both("knee_clearance", 0.15, inf, 0.3),
        *_both("foot_clearance", -inf, 0.06, 0.4),
    ),
}
# a pose of the first kind is also one of the second: "standing up, with ..." is standing up
IMPLIES: dict[str, tuple[str, ...]] = {
    "arms_raised": ("standing",),
    "hands_on_hips": ("standing",),
    "arms_crossed": ("standing",),
}

_BASELINE = "a humanoid robot"
HOLD_SECONDS = 1.0


def _task(name: str, goal: str, success: str) -> tuple[str, Task]:
    """Return a table row."""
    return name, Task(name=name, goal=goal, baseline=_BASELINE, hold_seconds=HOLD_SECONDS, success=success)


_STANDING = (
    "head above 1.33 m, torso within 25 degrees of upright, both feet on the ground, knees bent below 50 degrees"
)
TASKS: dict[str, Task] = dict(
    (
        _task(
            "kneeling",
            "a humanoid robot kneeling",
            "Both knees and feet on the ground, feet behind the knees, bottom at least 8 cm up (upright, or sitting on "
            "the heels), torso within 30 degrees of upright, head between 0.70 and 1.20 m.",
        ),
        _task(
            "lotus",
            "a humanoid robot seated down, meditating in the lotus position",
            "Bottom within 10 cm of the ground, torso within 45 degrees of upright, both knees bent by at least 120 "
            "degrees, at least 45 cm apart and below 35 cm, feet on the ground and within 35 cm of each other (an "
            "approximation: the hips can't put the feet on the thighs).",
        ),
        _task("standing", "a humanoid robot standing up", f"Standing: {_STANDING}."),
        _task(
            "arms_raised",
            "a humanoid robot standing up, with both arms raised",
            "Standing, and both hands at least 15 cm above the centre of the head.",
        ),
        _task(
            "splits",
            "a humanoid robot practicing gymnastics, doing the side splits",
            "Bottom within 20 cm of the ground, at least 100 degrees between the thighs (the body reaches about 125), "
            "knees bent less than 35 degrees, feet on the ground, torso within 40 degrees of upright.",
        ),
        _task(
            "hands_on_hips",
            "a humanoid robot standing up with hands on hips",
            "Standing, both hands within 13 cm of the side of the pelvis, elbows farther out than the hands.",
        ),
        _task(
            "arms_crossed",
            "a humanoid robot standing up, with its arms crossed",
            "Standing, each hand past the body's middle plane, in front of the chest and at its height (an "
            "approximation: the shoulders don't let the arms be folded).",
        ),
        _task(
            "one_leg",
            "a humanoid robot standing up on one leg",
            "Head above 1.33 m, torso within 25 degrees of upright, one foot on the ground, the other 15 cm up.",
        ),
    )
)


def get_criteria(task: str) -> tuple[Criterion, ...]:
    """Return the ranges of a task, or of one of the other poses.

    Raises:
        UnknownNameError: There is no such task.
    """
    criteria = CRITERIA.get(task) or OTHER_CRITERIA.get(task)
    if criteria is None:
        raise UnknownNameError(f"unknown task {task!r} of the humanoid: {suggest(task, CRITERIA)}")
    return criteria


def holds(task: str, facts: Mapping[str, float]) -> bool:
    """Return whether a task's predicate is true of a pose, given its facts."""
    return all(c.low <= facts[c.fact] <= c.high for c in get_criteria(task))


def facts_distance(task: str, facts: Mapping[str, float]) -> float:
    """Return the distance from a task's goal, given the facts: 0 at the goal, at most 1."""
    criteria = get_criteria(task)
    return math.sqrt(sum(c.violation(facts[c.fact]) ** 2 for c in criteria) / len(criteria))


def pose_distance(task: str, state: npt.ArrayLike) -> float:
    """Return how far a pose is from a task's goal.

    Args:
        task: Name of the task.
        state: ``qpos``, shape (24,).

    Returns:
        0 exactly where the predicate holds, else in (0, 1].

    Raises:
        UnknownNameError: There is no such task.
        ConfigError: The state is not 24 finite numbers.
    """
    return facts_distance(task, describe(state))
