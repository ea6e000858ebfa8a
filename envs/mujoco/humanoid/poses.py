"""Reference poses of the eight tasks, with natural variation, resting on the ground; and poses between them.

Angles are in degrees and belong to the right side; the left side mirrors them. ``sample_pose`` draws angles around a
variant of the task, turns the body so that it rests on the right parts (or is balanced over its feet), and lowers it on
to the ground.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from vlmreward.envs.mujoco.gl import import_mujoco
from vlmreward.envs.mujoco.humanoid.facts import describe, place
from vlmreward.envs.mujoco.humanoid.model import JOINTS, ROOT, load_model
from vlmreward.envs.mujoco.humanoid.tasks import TASKS, holds
from vlmreward.envs.task import find_task

mujoco = import_mujoco()

Pose = npt.NDArray[np.float64]  # qpos, shape (24,): position, quaternion (w x y z), joint angles in radians
Angles = Mapping[str, float]
_MIRRORED = ("shoulder1", "shoulder2")  # joints whose left side turns the other way for the same posture
_LEGS = ("hip_x", "hip_z", "hip_y", "knee")
_ARMS = ("shoulder1", "shoulder2", "elbow")
_MAX_TRIES = 200
_SPREAD = 4.0  # degrees, standard deviation of every joint around its variant

# arms: shoulder1, shoulder2, elbow of the right side, then of the left side if it differs
ARMS: dict[str, tuple[tuple[float, float, float], ...]] = {
    "hanging": ((47, -50, -60),),
    "ready": ((0, 0, 0),),  # elbows bent, hands in front: all angles zero
    "sideways": ((-50, -55, -46),),
    "forward": ((-14, 23, -52),),
    "raised": ((-84, 20, -88),),
    "raised_wide": ((-80, 0, -80),),
    "on_hips": ((47, -74, -8),),
    "crossed": ((57, 20, -26), (57, 3, -31)),
    "on_knees": ((23, -26, -56),),
    "in_lap": ((50, -26, -36),),
}


@dataclass(frozen=True)
class Variant:
    """One way to take on a task's pose.

    Attributes:
        rest: What the body rests on: ``"feet"``, ``"foot"`` (the right one), ``"knees"`` or ``"seat"``.
        arms: Names in ``ARMS``, one is drawn.
        legs: Angles of the right leg: hip_x (inwards), hip_z (outwards negative), hip_y (forward negative), knee
            (bent negative).
        left: The same for the left leg, where it differs.
        trunk: abdomen_z, abdomen_y (forward negative), abdomen_x.
        bend: Most that ``knee`` is bent further, in degrees; the hip follows, keeping the torso as it is.
    """

    rest: Literal["feet", "foot", "knees", "seat"]
    arms: tuple[str, ...]
    legs: tuple[float, float, float, float]
    left: tuple[float, float, float, float] | None = None
    trunk: tuple[float, float, float] = (0, 0, 0)
    bend: float = 0.0


_FREE_ARMS = ("hanging", "ready", "sideways", "forward", "on_hips", "in_lap")
_STAND = (-3.0, 0.0, -4.0, -8.0)
VARIANTS: dict[str, tuple[Variant, ...]] = {
    "kneeling": (
        Variant("knees", (*_FREE_ARMS, "raised", "crossed"), legs=(-14, 0, -8, -98), bend=54),
        Variant("knees", ("on_knees", "in_lap", "hanging"), legs=(-14, -10, -60, -150), bend=6),
    ),
    "lotus": (
        Variant("seat", ("on_knees", "in_lap", "ready", "sideways"), legs=(3, -57, -50, -157), trunk=(0, -72, 0)),
    ),
    "standing": (Variant("feet", _FREE_ARMS[:4], legs=_STAND, bend=16),),
    "arms_raised": (Variant("feet", ("raised", "raised_wide"), legs=_STAND, bend=8),),
    "splits": (Variant("seat", (*_FREE_ARMS[:4], "raised"), legs=(-12, -56, -84, -8)),),
    "hands_on_hips": (Variant("feet", ("on_hips",), legs=_STAND, bend=8),),
    "arms_crossed": (Variant("feet", ("crossed",), legs=_STAND, bend=8),),
    "one_leg": (
        Variant("foot", (*_FREE_ARMS[:4], "raised"), legs=_STAND, left=(-4, 0, -70, -85)),
        Variant("foot", (*_FREE_ARMS[:4],), legs=_STAND, left=(-4, 0, -5, -80)),
    ),
}


def sample_pose(task: str, rng: np.random.Generator) -> Pose:
    """Draw a pose that fulfils a task.

    Args:
        task: Name of the task.
        rng: Source of the variation: joint angles, arms, lean, turn (at most 35 degrees), place on the ground.

    Returns:
        ``qpos``, float64, shape (24,). The task's predicate is true of it, and its lowest part touches the ground.

    Raises:
        UnknownNameError: There is no such task.
    """
    find_task(TASKS, task)
    for _ in range(_MAX_TRIES):
        qpos = propose_pose(task, rng)
        if holds(task, describe(qpos)):
            return qpos
    raise AssertionError(f"no pose in {_MAX_TRIES} fulfils {task}")  # our own tables are at fault


def propose_pose(task: str, rng: np.random.Generator) -> Pose:
    """Draw a pose as :func:`sample_pose` does, without looking at the predicate."""
    variants = VARIANTS[task]
    variant = variants[rng.integers(len(variants))]
    qpos = _place(variant, _draw_angles(variant, rng), rng)
    return mirror(qpos) if rng.random() < 0.5 else qpos


def start_pose() -> Pose:
    """Return the pose an episode starts in: standing, all joints straight, elbows in the model's rest position."""
    qpos = np.zeros(24)
    qpos[3] = 1.0
    for joint in ("right_knee", "left_knee"):
        qpos[ROOT + JOINTS.index(joint)] = np.radians(-2.0)  # as straight as its limit allows
    return put_on_ground(qpos)


def interpolate(a: Pose, b: Pose, share: float) -> Pose:
    """Return the pose between two: joint angles and turn in proportion, resting on the ground.

    Args:
        a: First pose, ``qpos``.
        b: Second pose.
        share: 0 gives ``a``, 1 gives ``b``.
    """
    qpos = (1 - share) * a + share * b
    delta = np.zeros(3)
    mujoco.mju_subQuat(delta, b[3:7], a[3:7])  # b = a * exp(delta)
    quat = a[3:7].copy()
    mujoco.mju_quatIntegrate(quat, delta, share)
    qpos[3:7] = quat
    return put_on_ground(qpos)


def mirror(qpos: Pose) -> Pose:
    """Return the pose seen in a mirror: right and left swapped."""
    swapped = qpos.copy()
    swapped[[1, 4, 6]] *= -1  # y; the x and z parts of the quaternion
    for i, joint in enumerate(JOINTS):
        other = joint.replace("right", "LEFT").replace("left", "right").replace("LEFT", "left")
        turns = -1.0 if joint in ("abdomen_z", "abdomen_x") or joint.endswith(_MIRRORED) else 1.0
        swapped[ROOT + i] = turns * qpos[ROOT + JOINTS.index(other)]
    return swapped


def put_on_ground(qpos: Pose) -> Pose:
    """Return the pose moved vertically, so that its lowest part touches the ground."""
    qpos = qpos.copy()
    model, data = load_model(), place(qpos)
    # capsules and balls alone: a capsule's axis is its z axis
    is_capsule = model.geom_type == mujoco.mjtGeom.mjGEOM_CAPSULE
    half = np.where(is_capsule, model.geom_size[:, 1], 0.0)
    lowest = data.geom_xpos[:, 2] - half * np.abs(data.geom_xmat[:, 8]) - model.geom_size[:, 0]
    qpos[2] -= lowest[model.geom_bodyid > 0].min()
    return qpos


def _draw_angles(variant: Variant, rng: np.random.Generator) -> dict[str, float]:
    """Draw joint angles, in degrees, around a variant."""
    right, left = variant.legs, variant.left or variant.legs
    arms = ARMS[variant.arms[rng.integers(len(variant.arms))]]
    bend = rng.uniform(0, variant.bend) if variant.bend else 0.0
    angles: dict[str, float] = dict(zip(("abdomen_z", "abdomen_y", "abdomen_x"), variant.trunk, strict=True))
    for side, legs, arm in (("right", right, arms[0]), ("left", left, arms[-1])):
        for name, angle in zip(_LEGS, legs, strict=True):
            # bending the knees: on the feet the hip takes half of it, on the knees all of it
            share = {"knee": 1.0, "hip_y": 1.0 if variant.rest == "knees" else 0.5}.get(name, 0.0)
            angles[f"{side}_{name}"] = angle - share * bend
        for name, angle in zip(_ARMS, arm, strict=True):
            angles[f"{side}_{name}"] = -angle if side == "left" and name in _MIRRORED else angle
    return {name: angle + rng.normal(0, _SPREAD) for name, angle in angles.items()}


def _place(variant: Variant, angles: Angles, rng: np.random.Generator) -> Pose:
    """Turn angles into a pose that rests on the ground."""
    model = load_model()
    qpos = np.zeros(24)
    joints = np.radians([angles[name] for name in JOINTS])
    limits = model.jnt_range[1:]
    qpos[ROOT:] = np.clip(joints, limits[:, 0], limits[:, 1])
    lean = _balance(qpos, variant.rest)
    yaw = rng.normal(0, np.radians(12))
    qpos[3:7] = _quaternion(np.clip(yaw, -0.6, 0.6), *lean)
    qpos[:2] = np.clip(rng.normal(0, 0.08, 2), -0.25, 0.25)
    return put_on_ground(qpos)


def _balance(qpos: Pose, rest: str) -> tuple[float, float]:
    """Find the lean (pitch, roll in radians) with which a pose rests on its parts, by Newton's method."""

    def error(pitch: float, roll: float) -> npt.NDArray[np.float64]:
        qpos[3:7] = _quaternion(0.0, pitch, roll)
        data = place(qpos)
        if rest in ("feet", "foot"):
            mujoco.mj_comPos(load_model(), data)
        right, left = (data.geom(f"{side}_foot").xpos for side in ("right", "left"))
        com = data.subtree_com[1]
        if rest == "foot":  # centre of mass above the foot
            return (com - right)[:2]
        if rest == "feet":  # above the line between the feet, both on the ground
            return np.array((com[0] - (right[0] + left[0]) / 2, right[2] - left[2]))
        knees = [data.body(f"{side}_shin").xpos[2] - 0.049 for side in ("right", "left")]  # less radii of the geoms
        feet = np.array((right[2], left[2])) - 0.075
        if rest == "knees":
            return np.array((np.mean(knees) - feet.mean(), knees[0] - knees[1]))
        return np.array((data.geom("butt").xpos[2] - 0.09 - feet.mean(), feet[0] - feet[1]))

    qpos = qpos.copy()
    x = np.zeros(2)
    step = 1e-4
    for _ in range(6):
        e = error(*x)
        jacobian = np.stack(((error(x[0] + step, x[1]) - e), (error(x[0], x[1] + step) - e)), axis=1) / step
        x = np.clip(x - np.linalg.lstsq(jacobian, e, rcond=None)[0], -0.7, 0.7)
    return float(x[0]), float(x[1])


def _quaternion(yaw: float, pitch: float, roll: float) -> npt.NDArray[np.float64]:
    """Return the rotation: roll about x, then pitch about y, then yaw about z."""
    result = np.zeros(4)
    mujoco.mju_euler2Quat(result, np.array((yaw, pitch, roll)), "zyx")
    return result
