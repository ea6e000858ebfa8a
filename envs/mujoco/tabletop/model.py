"""The tabletop's MuJoCo model: a gripper on three slides, four cubes, two targets, a bin, a cabinet with a drawer.

It is made for speed: one plane and few boxes touch, everything else is drawn only. The arm is drawn too, and has no
physics: the scene puts it between its base and the gripper when a picture is asked for.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from vlmreward.envs.mujoco.gl import import_mujoco
from vlmreward.envs.mujoco.tabletop.constants import (
    BIN_HALF,
    BIN_HEIGHT,
    BIN_WALL,
    CABINET_FRONT,
    CABINET_X,
    CUBE_HALF,
    CUBES,
    DRAWER_TRAVEL,
    FINGER_HALF,
    FINGER_LIFT,
    FINGER_OPEN,
    HANDLE_REACH,
    HANDLE_Z,
    PALM_Z,
    TARGET_HALF,
    TARGETS,
    WORKSPACE,
    WRIST_Z,
)

mujoco = import_mujoco()

TIME_STEP = 0.005
ARM_BASE = (0.0, 0.42, 0.16)  # the shoulder
ARM_LENGTHS = (0.38, 0.40)  # upper arm, forearm
_DRAWER_HALF = (0.055, 0.045, 0.035)  # of the box that slides
_CABINET_HALF = (0.065, 0.06, 0.045)

# Who touches whom: contype & conaffinity. The table and the bin touch cubes; cubes touch each other; the gripper
# touches cubes, bin, cabinet and drawer, but not the table, above which its slides keep it.
_TABLE = 'contype="1" conaffinity="0"'
_SOLID = 'contype="9" conaffinity="0"'
_CUBE = 'contype="2" conaffinity="3"'
_GRIPPER = 'contype="0" conaffinity="10"'
_DRAWN = 'contype="0" conaffinity="0" mass="0"'


@cache
def load_model() -> Any:
    """Compile the model once; callers copy what they change.

    Returns:
        An ``mujoco.MjModel`` with 34 positions, 30 velocities and 5 controls (x, y, z, two fingers; metres).
    """
    return mujoco.MjModel.from_xml_string(model_xml())


def model_xml() -> str:
    """Return the model as MJCF text."""
    return f"""
<mujoco model="tabletop">
  <option timestep="{TIME_STEP}" integrator="implicitfast" cone="pyramidal" iterations="10" ls_iterations="10"
    tolerance="1e-6"/>
  <compiler autolimits="true"/>
  <size memory="2M"/>
  <visual><map znear="0.02" zfar="10"/></visual>
  <statistic extent="1" center="0 0 0"/>
  <default>
    <geom solref="0.01 1" friction="0.8 0.01 0.0005" condim="3"/>
    <position inheritrange="0"/>
  </default>
  <worldbody>
    <light name="sun" directional="true" dir="0.3 0.4 -1" pos="-0.6 -0.8 2" castshadow="true"/>
    <geom name="floor" type="box" size="3 3 0.1" pos="0 0 -0.6" {_DRAWN}/>
    <geom name="wall" type="box" size="3 0.1 2" pos="0 1.2 0.5" {_DRAWN}/>
    <geom name="surface" type="plane" size="2 2 1" group="4" {_TABLE}/>
    <geom name="table" type="box" size="0.45 0.34 0.02" pos="0 0.06 -0.02" {_DRAWN}/>
    <geom name="arm_base" type="cylinder" size="0.05 0.08" pos="{ARM_BASE[0]} {ARM_BASE[1]} {ARM_BASE[2] - 0.08}"
      {_DRAWN}/>
    <geom name="shoulder" type="sphere" size="0.052" pos="{ARM_BASE[0]} {ARM_BASE[1]} {ARM_BASE[2]}" {_DRAWN}/>
    {_arm()}
    {_gripper()}
    {_cabinet()}
    {"".join(_cube(name) for name in CUBES)}
    {"".join(_target(name) for name in TARGETS)}
    {_bin()}
  </worldbody>
  <actuator>
    <position name="x" joint="x" kp="1500" kv="70" ctrlrange="{_range(WORKSPACE[0])}" forcerange="-40 40"/>
    <position name="y" joint="y" kp="1500" kv="70" ctrlrange="{_range(WORKSPACE[1])}" forcerange="-40 40"/>
    <position name="z" joint="z" kp="1500" kv="70" ctrlrange="{_range(WORKSPACE[2])}" forcerange="-40 40"/>
    <position name="left" joint="left" kp="500" kv="10" ctrlrange="0 {FINGER_OPEN}" forcerange="-6 6"/>
    <position name="right" joint="right" kp="500" kv="10" ctrlrange="0 {FINGER_OPEN}" forcerange="-6 6"/>
  </actuator>
</mujoco>"""


def _range(limits: tuple[float, float]) -> str:
    return f"{limits[0]} {limits[1]}"


def _arm() -> str:
    """Return the drawn arm: two links that the scene places."""
    links = "".join(
        f'<body name="{name}" mocap="true"><geom name="{name}" type="capsule" size="{radius} {length / 2}" '
        f"{_DRAWN}/></body>"
        for name, radius, length in (("upper_arm", 0.028, ARM_LENGTHS[0]), ("forearm", 0.022, ARM_LENGTHS[1]))
    )
    return links


def _gripper() -> str:
    fx, fy, fz = FINGER_HALF
    fingers = "".join(
        f"""
        <body name="{side}_finger" gravcomp="1">
          <joint name="{side}" type="slide" axis="{sign} 0 0" range="0 {FINGER_OPEN}" damping="2"/>
          <geom name="{side}_finger" type="box" size="{fx} {fy} {fz}" pos="{sign * fx} 0 {FINGER_LIFT}" mass="0.05"
            friction="1.5 0.02 0.001" {_GRIPPER}/>
        </body>"""
        for side, sign in (("left", -1), ("right", 1))
    )
    return f"""
    <body name="gripper" gravcomp="1">
      <joint name="x" type="slide" axis="1 0 0" range="{_range(WORKSPACE[0])}"/>
      <joint name="y" type="slide" axis="0 1 0" range="{_range(WORKSPACE[1])}"/>
      <joint name="z" type="slide" axis="0 0 1" range="{_range(WORKSPACE[2])}"/>
      <geom name="palm" type="box" size="0.05 0.016 0.013" pos="0 0 {PALM_Z}" mass="0.6" {_GRIPPER}/>
      <geom name="wrist" type="cylinder" size="0.02 {(WRIST_Z - PALM_Z) / 2}" pos="0 0 {(WRIST_Z + PALM_Z) / 2}"
        {_DRAWN}/>
      {fingers}
    </body>"""


def _cabinet() -> str:
    cx, cy, cz = _CABINET_HALF
    dx, dy, dz = _DRAWER_HALF
    depth = CABINET_FRONT + 0.012  # y where the cabinet begins: the drawer's front panel stands before it
    reach = HANDLE_REACH
    sides = "".join(
        f'<geom name="cabinet_{name}" type="box" size="0.004 {cy} {cz}" pos="{CABINET_X + sign * (cx - 0.004)} '
        f'{depth + cy} {cz}" {_SOLID}/>'
        for name, sign in (("left", -1), ("right", 1))
    )
    drawer_sides = "".join(
        f'<geom name="drawer_{name}" type="box" size="0.003 {dy} {dz * 0.7}" pos="{sign * (dx - 0.003)} '
        f'{0.008 + dy} {dz * 0.7 + 0.008}" {_DRAWN}/>'
        for name, sign in (("left", -1), ("right", 1))
    )
    return f"""
    {sides}
    <geom name="cabinet_top" type="box" size="{cx} {cy} 0.004" pos="{CABINET_X} {depth + cy} {2 * cz}" {_SOLID}/>
    <geom name="cabinet_back" type="box" size="{cx} 0.004 {cz}" pos="{CABINET_X} {depth + 2 * cy} {cz}" {_DRAWN}/>
    <body name="drawer" pos="{CABINET_X} {CABINET_FRONT} 0">
      <joint name="drawer" type="slide" axis="0 -1 0" range="0 {DRAWER_TRAVEL}" frictionloss="1.5" damping="8"/>
      <geom name="drawer_front" type="box" size="{cx} 0.006 {cz - 0.003}" pos="0 0.006 {cz}" mass="0.3" {_SOLID}/>
      <geom name="drawer_floor" type="box" size="{dx} {dy} 0.003" pos="0 {0.008 + dy} 0.008" {_DRAWN}/>
      {drawer_sides}
      <geom name="drawer_back" type="box" size="{dx} 0.003 {dz * 0.7}" pos="0 {0.005 + 2 * dy} {dz * 0.7 + 0.008}"
        {_DRAWN}/>
      <geom name="handle" type="box" size="0.009 0.009 0.025" pos="0 {-reach + 0.009} {HANDLE_Z}" mass="0.03"
        friction="1.5 0.02 0.001" {_SOLID}/>
      <geom name="stalk" type="box" size="0.006 {(reach - 0.018) / 2} 0.006" pos="0 {-(reach - 0.018) / 2} {HANDLE_Z}"
        {_DRAWN}/>
    </body>"""


def _cube(name: str) -> str:
    return f"""
    <body name="{name}_cube" pos="0 0 {CUBE_HALF}">
      <freejoint name="{name}_cube"/>
      <geom name="{name}_cube" type="box" size="{CUBE_HALF} {CUBE_HALF} {CUBE_HALF}" mass="0.06" {_CUBE}/>
    </body>"""


def _target(name: str) -> str:
    return f"""
    <body name="{name}_target" mocap="true">
      <geom name="{name}_target" type="box" size="{TARGET_HALF} {TARGET_HALF} 0.0015" {_DRAWN}/>
    </body>"""


def _bin() -> str:
    outer, height = BIN_HALF + BIN_WALL, BIN_HEIGHT / 2
    walls = "".join(
        f'<geom name="bin_{name}" type="box" size="{sx} {sy} {height}" pos="{x} {y} {height}" {_SOLID}/>'
        for name, sx, sy, x, y in (
            ("left", BIN_WALL, outer, -outer, 0),
            ("right", BIN_WALL, outer, outer, 0),
            ("front", outer, BIN_WALL, 0, -outer),
            ("back", outer, BIN_WALL, 0, outer),
        )
    )
    return f"""
    <body name="bin" mocap="true">
      {walls}
      <geom name="bin_floor" type="box" size="{BIN_HALF} {BIN_HALF} 0.001" pos="0 0 0.001" {_DRAWN}/>
    </body>"""
