"""True-state facts of a humanoid pose: heights, angles and places of hands and feet, computed from kinematics.

Clearances are distances of a part's lowest point from the ground, in metres: a part rests on the ground where its
clearance is near zero. They need no contact solver, so a picture and its facts always belong together.
"""

from __future__ import annotations

import math
import threading
from typing import Any

import numpy as np
import numpy.typing as npt

from vlmreward.envs.mujoco.gl import import_mujoco
from vlmreward.envs.mujoco.humanoid.model import load_model
from vlmreward.errors import ConfigError

mujoco = import_mujoco()

# what describe() returns, with units
FACTS: dict[str, str] = {
    "head_height": "m, centre of the head",
    "torso_tilt": "degrees between the torso's axis and the vertical; 0 upright, 90 lying, 180 head down",
    "torso_clearance": "m, chest and waist",
    "pelvis_clearance": "m, bottom",
    "right_knee_clearance": "m, upper end of the shin",
    "left_knee_clearance": "m",
    "right_foot_clearance": "m",
    "left_foot_clearance": "m",
    "right_hand_clearance": "m",
    "left_hand_clearance": "m",
    "low_foot_clearance": "m, the lower one of the feet",
    "high_foot_clearance": "m, the higher one of the feet",
    "high_knee_clearance": "m, the higher one of the knees",
    "right_knee_flexion": "degrees; 2 straight, 160 folded",
    "left_knee_flexion": "degrees",
    "thigh_spread": "degrees between the thighs",
    "knee_gap": "m between the knees",
    "feet_gap": "m between the feet",
    "right_foot_behind": "m that the foot lies behind its knee, along the pelvis",
    "left_foot_behind": "m",
    "right_hand_above_head": "m, hand above the centre of the head",
    "left_hand_above_head": "m",
    "right_hand_to_hip": "m from a point on the side of the pelvis",
    "left_hand_to_hip": "m",
    "right_elbow_out": "m that the elbow is farther from the body's middle plane than the hand",
    "left_elbow_out": "m",
    "right_hand_across": "m that the hand is past the body's middle plane, towards the other side",
    "left_hand_across": "m",
    "right_hand_front": "m in front of the chest",
    "left_hand_front": "m",
    "right_hand_chest_height": "m above the centre of the chest, along the torso",
    "left_hand_chest_height": "m",
    "forward_offset": "m along x from the start",
    "side_offset": "m along y from the start",
    "turn": "degrees by which the robot is turned about the vertical; 0 faces the camera",
}
_HIP_POINT = (-0.01, 0.17, 0.06)  # m in the pelvis' frame, y towards the side of the hand
_local_data = threading.local()


def describe(state: npt.ArrayLike) -> dict[str, float]:
    """Return facts of a pose in numbers.

    Args:
        state: ``qpos``: position (3), quaternion (4) and joint angles (17) in radians, shape (24,).

    Returns:
        One number for each name in ``FACTS``.

    Raises:
        ConfigError: Not 24 finite numbers.
    """
    qpos = np.asarray(state, np.float64)
    if qpos.shape != (24,) or not np.isfinite(qpos).all():
        raise ConfigError(f"a humanoid state is 24 finite numbers (qpos), got shape {qpos.shape}")
    return compute_facts(load_model(), place(qpos))


def place(qpos: npt.NDArray[np.float64]) -> Any:
    """Put the model into a pose and compute where its parts are.

    Args:
        qpos: Position, quaternion and joint angles, shape (24,).

    Returns:
        An ``mujoco.MjData`` that the next call in this thread changes.
    """
    if not hasattr(_local_data, "data"):
        _local_data.data = mujoco.MjData(load_model())
    data = _local_data.data
    data.qpos[:] = qpos
    mujoco.mj_kinematics(load_model(), data)
    return data


class _Parts:
    """Numbers of geoms and bodies, looked up once; the same for every variant of the model."""

    def __init__(self, model: Any) -> None:
        geoms = {model.geom(i).name: i for i in range(model.ngeom)}
        self.radius: list[float] = model.geom_size[:, 0].tolist()
        self.half: list[float] = [
            float(size[1]) if kind == mujoco.mjtGeom.mjGEOM_CAPSULE else 0.0
            for size, kind in zip(model.geom_size, model.geom_type, strict=True)
        ]
        self.torso, self.pelvis = model.body("torso").id, model.body("pelvis").id
        self.head, self.butt = geoms["head"], geoms["butt"]
        self.trunk = [geoms[n] for n in ("torso1", "uwaist", "lwaist")]
        self.sides = [
            (
                side,
                {n: geoms[f"{side}_{n}"] for n in ("foot", "shin1", "hand", "larm", "uarm1")},
                {n: model.body(f"{side}_{n}").id for n in ("thigh", "shin", "lower_arm")},
                model.joint(f"{side}_knee").qposadr[0],
            )
            for side in ("right", "left")
        ]


_parts: list[_Parts] = []


def compute_facts(model: Any, data: Any) -> dict[str, float]:
    """Return the facts of a state whose kinematics are computed.

    Args:
        model: A humanoid ``mujoco.MjModel``.
        data: Its ``mujoco.MjData``.

    Returns:
        One number for each name in ``FACTS``.
    """
    if not _parts:
        _parts.append(_Parts(model))
    parts = _parts[0]
    # plain floats: small formulas on arrays of three would cost several times as much
    gpos, gmat = data.geom_xpos.tolist(), data.geom_xmat.tolist()
    bpos, bmat = data.xpos.tolist(), data.xmat.tolist()
    torso, pelvis = parts.torso, parts.pelvis

    def clearance(geom: int) -> float:
        # a capsule's axis is its z axis; half is 0 for a ball
        return gpos[geom][2] - parts.half[geom] * abs(gmat[geom][8]) - parts.radius[geom]

    facts: dict[str, float] = {
        "head_height": gpos[parts.head][2],
        "torso_tilt": math.degrees(math.acos(max(-1.0, min(1.0, bmat[torso][8])))),
        "torso_clearance": min(clearance(g) for g in parts.trunk),
        "pelvis_clearance": clearance(parts.butt),
    }
    thighs, knees, feet = [], [], []
    for sign, (side, geom, body, knee_joint) in zip((-1.0, 1.0), parts.sides, strict=True):
        knee, foot, hand = bpos[body["shin"]], gpos[geom["foot"]], gpos[geom["hand"]]
        hip = bpos[body["thigh"]]
        thighs.append(_minus(knee, hip))
        knees.append(knee)
        feet.append(foot)
        facts[f"{side}_knee_clearance"] = knee[2] - parts.radius[geom["shin1"]]  # the shin's capsule starts here
        facts[f"{side}_foot_clearance"] = clearance(geom["foot"])
        facts[f"{side}_hand_clearance"] = clearance(geom["hand"])
        facts[f"{side}_knee_flexion"] = -math.degrees(data.qpos[knee_joint])
        facts[f"{side}_foot_behind"] = -_local(_minus(foot, knee), bmat[pelvis])[0]
        facts[f"{side}_hand_above_head"] = hand[2] - gpos[parts.head][2]
        in_pelvis = _local(_minus(hand, bpos[pelvis]), bmat[pelvis])
        point = (_HIP_POINT[0], sign * _HIP_POINT[1], _HIP_POINT[2])
        facts[f"{side}_hand_to_hip"] = math.dist(in_pelvis, point)
        in_torso = _local(_minus(hand, bpos[torso]), bmat[torso])
        elbow = _local(_minus(bpos[body["lower_arm"]], bpos[torso]), bmat[torso])
        facts[f"{side}_elbow_out"] = sign * (elbow[1] - in_torso[1])
        facts[f"{side}_hand_across"] = -sign * in_torso[1]
        facts[f"{side}_hand_front"] = in_torso[0]
        facts[f"{side}_hand_chest_height"] = in_torso[2]
    low, high = sorted((facts["right_foot_clearance"], facts["left_foot_clearance"]))
    facts["low_foot_clearance"], facts["high_foot_clearance"] = low, high
    facts["high_knee_clearance"] = max(facts["right_knee_clearance"], facts["left_knee_clearance"])
    cosine = sum(a * b for a, b in zip(*thighs, strict=True)) / math.sqrt(
        sum(a * a for a in thighs[0]) * sum(b * b for b in thighs[1])
    )
    facts["thigh_spread"] = math.degrees(math.acos(max(-1.0, min(1.0, cosine))))
    facts["knee_gap"] = math.dist(knees[0], knees[1])
    facts["feet_gap"] = math.dist(feet[0], feet[1])
    facts["forward_offset"], facts["side_offset"] = bpos[torso][0], bpos[torso][1]
    facts["turn"] = math.degrees(math.atan2(bmat[torso][3], bmat[torso][0]))
    return facts


def _minus(a: list[float], b: list[float]) -> tuple[float, float, float]:
    """Return a - b."""
    return a[0] - b[0], a[1] - b[1], a[2] - b[2]


def _local(v: tuple[float, float, float], mat: list[float]) -> tuple[float, float, float]:
    """Turn a world vector into the frame whose rotation matrix is given row by row."""
    return (
        v[0] * mat[0] + v[1] * mat[3] + v[2] * mat[6],
        v[0] * mat[1] + v[1] * mat[4] + v[2] * mat[7],
        v[0] * mat[2] + v[1] * mat[5] + v[2] * mat[8],
    )
