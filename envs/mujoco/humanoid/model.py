"""The humanoid's MuJoCo model: Gymnasium's ``humanoid.xml``, changed in memory.

Body, joints, masses, friction and time step are the stock ones. Changed are what one sees (sky, ground, near-white
body, light) and, with ``control="position"``, the kind of the motors.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from functools import cache
from importlib import resources
from typing import Any, Literal

from vlmreward.envs.mujoco.gl import import_mujoco
from vlmreward.errors import ConfigError
from vlmreward.registry import suggest

mujoco = import_mujoco()

Control = Literal["torque", "position"]
CTRL_LIMIT = 0.4  # largest control signal of the stock motors; torque = gear * signal
GEARS = {"hip_y": 300, "knee": 200, "shoulder": 25, "elbow": 25}  # Nm per unit of signal, 100 for every other joint
FLOOR, GROUND = "floor", "ground"  # geoms: the stock plane that carries, and the box that is seen
SKY, STONE = "sky", "stone"  # textures, of one brightness channel until the scene colours them
JOINTS = (
    "abdomen_z", "abdomen_y", "abdomen_x",
    "right_hip_x", "right_hip_z", "right_hip_y", "right_knee",
    "left_hip_x", "left_hip_z", "left_hip_y", "left_knee",
    "right_shoulder1", "right_shoulder2", "right_elbow",
    "left_shoulder1", "left_shoulder2", "left_elbow",
)  # fmt: skip
ROOT = 7  # qpos starts with the free joint of the torso: position (3), quaternion (4)
_EXTENT = 4.0  # metres; the stock model has it
_STIFFNESS = 10.0  # position control: share of the largest torque per radian of error
_DAMPING = 0.06  # position control: seconds; damping = stiffness * this


def gear(joint: str) -> float:
    """Return the torque of a joint's motor at signal 1, in Nm."""
    return float(next((g for part, g in GEARS.items() if part in joint), 100))


@cache
def load_model(control: Control = "torque") -> Any:
    """Compile the model once per kind of control; callers copy what they change.

    Args:
        control: ``"torque"``: motors as in the stock model, signals in [-0.4, 0.4]. ``"position"``: servos with the
            same largest torques, signals are joint angles in radians.

    Returns:
        An ``mujoco.MjModel`` with 24 positions, 23 velocities and 17 controls.

    Raises:
        ConfigError: Unknown kind of control.
    """
    return mujoco.MjModel.from_xml_string(model_xml(control))


def model_xml(control: Control = "torque") -> str:
    """Return the changed model as MJCF text.

    Raises:
        ConfigError: Unknown kind of control.
    """
    kinds = ("torque", "position")
    if control not in kinds:
        raise ConfigError(f"unknown control {control!r}: {suggest(control, kinds)}")
    stock = resources.files("gymnasium").joinpath("envs/mujoco/assets/humanoid.xml").read_text(encoding="utf-8")
    root = ET.fromstring(stock)
    _change_looks(root)
    if control == "position":
        _replace_motors(root)
    return ET.tostring(root, encoding="unicode")


def _find(root: ET.Element, path: str) -> ET.Element:
    """Return an element of the stock model.

    Raises:
        ConfigError: It isn't there: another version of Gymnasium.
    """
    found = root.find(path)
    if found is None:
        raise ConfigError(f"Gymnasium's humanoid.xml has no element {path!r}: install a gymnasium within our pins")
    return found


def _change_looks(root: ET.Element) -> None:
    """Replace textures and light, and draw the ground as a box."""
    asset = _find(root, "asset")
    for child in list(asset):
        asset.remove(child)
    # both are ramps or noise in grey; HumanoidScene writes their colours
    ET.SubElement(asset, "texture", name=SKY, type="skybox", builtin="gradient", rgb1="1 1 1", rgb2="0 0 0",
                  width="64", height="64")  # fmt: skip
    ET.SubElement(asset, "texture", name=STONE, type="2d", builtin="flat", rgb1=".2 .2 .2", width="128", height="128")
    ET.SubElement(asset, "material", name="ground", texture=STONE, texrepeat="120 120", specular="0", shininess="0")
    ET.SubElement(asset, "material", name="geom", specular=".4", shininess=".5")
    # fixed, because the drawn ground would change it (near plane, size of the shadow map)
    ET.SubElement(root, "statistic", extent=f"{_EXTENT}", center="0 0 1")
    _find(root, "default/geom").set("rgba", "0.94 0.94 0.93 1")
    world = _find(root, "worldbody")
    light = _find(world, "light")
    light.attrib.update(name="sun", dir="0 0 -1", pos="0 0 3", specular=".4 .4 .4")
    floor = _find(world, f"geom[@name='{FLOOR}']")
    floor.attrib.pop("material")
    floor.set("group", "4")  # not drawn: MuJoCo cuts a plane into so many triangles that it costs 3/4 of a fast frame
    # thick, because the shadow map sees a thin box's underside through its top
    ET.SubElement(world, "geom", name=GROUND, type="box", size="60 60 5", pos="0 0 -5", material="ground",
                  contype="0", conaffinity="0", mass="0", rgba="1 1 1 1")  # fmt: skip


def _replace_motors(root: ET.Element) -> None:
    """Replace each torque motor by a servo of the same largest torque."""
    # the stock Runge-Kutta method diverges on the servos' damping at this time step
    _find(root, "option").set("integrator", "implicitfast")
    actuator = _find(root, "actuator")
    for motor in list(actuator):
        actuator.remove(motor)
    ranges = {j.get("name"): j.get("range") for j in root.iter("joint")}
    for motor_joint in _motor_order():
        limit = CTRL_LIMIT * gear(motor_joint)
        low, high = (float(x) * 3.141592653589793 / 180 for x in str(ranges[motor_joint]).split())
        stiffness = _STIFFNESS * limit
        ET.SubElement(
            actuator, "position", name=motor_joint, joint=motor_joint, kp=f"{stiffness:g}",
            kv=f"{stiffness * _DAMPING:g}", ctrllimited="true", ctrlrange=f"{low:.6f} {high:.6f}",
            forcelimited="true", forcerange=f"{-limit:g} {limit:g}",
        )  # fmt: skip


def _motor_order() -> tuple[str, ...]:
    """Return the joints in the order of the stock motors, which swaps the first two."""
    return ("abdomen_y", "abdomen_z", *JOINTS[2:])


MOTORS = _motor_order()
