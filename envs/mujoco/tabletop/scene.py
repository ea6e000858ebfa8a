"""What the tabletop looks like: colours, light and cameras, with a default look and other ones."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from vlmreward.envs.mujoco.gl import import_mujoco
from vlmreward.envs.mujoco.renderer import Camera
from vlmreward.envs.mujoco.scene import Scene, place_parts
from vlmreward.envs.mujoco.tabletop.constants import CUBES, GRIPPER, TARGETS, WRIST_Z
from vlmreward.envs.mujoco.tabletop.model import ARM_BASE, ARM_LENGTHS, load_model
from vlmreward.envs.mujoco.tabletop.state import write_state
from vlmreward.errors import ConfigError
from vlmreward.registry import suggest
from vlmreward.types import Frames

mujoco = import_mujoco()

Colour = tuple[float, float, float]  # RGB in [0, 1]

COLOURS: dict[str, Colour] = {
    "red": (0.86, 0.10, 0.10),
    "blue": (0.10, 0.25, 0.88),
    "green": (0.10, 0.62, 0.16),
    "yellow": (0.95, 0.82, 0.10),
    "white": (0.96, 0.96, 0.96),
    # of the split new_colours alone
    "purple": (0.48, 0.12, 0.66),
    "orange": (0.96, 0.48, 0.05),
    "turquoise": (0.10, 0.76, 0.76),
    "pink": (0.98, 0.50, 0.72),
    "black": (0.06, 0.06, 0.06),
    "brown": (0.36, 0.19, 0.08),
}
CAMERAS = ("front", "top", "wrist")
FRONT = Camera(distance=0.81, lookat=(0.0, 0.03, 0.02), azimuth=90.0, elevation=-53.0)
TOP = Camera(distance=0.88, lookat=(0.0, 0.0, 0.0), azimuth=90.0, elevation=-89.9)
WRIST = Camera(distance=0.26, lookat=(0.0, 0.0, 0.0), azimuth=90.0, elevation=-50.0)  # about the point of the gripper


@dataclass(frozen=True)
class CameraShift:
    """How a camera stands off its usual place.

    Attributes:
        azimuth: Degrees; positive turns it to the right around the table.
        elevation: Degrees; positive makes it look less steeply.
        distance: Factor.
    """

    azimuth: float = 0.0
    elevation: float = 0.0
    distance: float = 1.0


@dataclass(frozen=True)
class Look:
    """One look of the scene.

    Attributes:
        cubes: Colour of each cube, names in ``COLOURS``.
        targets: Colour of each target.
        shades: Added to the colours of the four cubes and the two targets, RGB each.
        table, floor, wall, cabinet, drawer, bin, arm, gripper: Colours.
        sun: Direction in which the light shines.
        brightness: Strength of that light, 0 to 1.
        headlight: Strength of the light at the camera, 0 to 1.
        shift: How the camera stands.
    """

    cubes: tuple[str, ...] = CUBES
    targets: tuple[str, ...] = TARGETS
    shades: tuple[Colour, ...] = ((0.0, 0.0, 0.0),) * (len(CUBES) + len(TARGETS))
    table: Colour = (0.72, 0.58, 0.42)
    floor: Colour = (0.30, 0.32, 0.35)
    wall: Colour = (0.55, 0.60, 0.66)
    cabinet: Colour = (0.34, 0.23, 0.16)
    drawer: Colour = (0.52, 0.36, 0.24)
    bin: Colour = (0.34, 0.36, 0.40)
    arm: Colour = (0.86, 0.87, 0.88)
    gripper: Colour = (0.16, 0.17, 0.19)
    sun: Colour = (0.3, 0.4, -1.0)
    brightness: float = 0.55
    headlight: float = 0.45
    shift: CameraShift = field(default_factory=CameraShift)

    def __post_init__(self) -> None:
        """Check names and numbers."""
        for name in (*self.cubes, *self.targets):
            if name not in COLOURS:
                raise ConfigError(f"unknown colour {name!r}: {suggest(name, COLOURS)}")
        if (len(self.cubes), len(self.targets)) != (len(CUBES), len(TARGETS)):
            raise ConfigError(
                f"a look needs {len(CUBES)} colours of cubes and {len(TARGETS)} of targets, "
                f"got {len(self.cubes)} and {len(self.targets)}"
            )


DEFAULT_LOOK = Look()
_HANDLE: Colour = (0.85, 0.85, 0.86)


class TabletopScene(Scene):
    """The model, a state to draw, and a renderer made when the first picture is asked for.

    Args:
        width: Width of the pictures, in pixels.
        height: Height of the pictures, in pixels.
        quality: ``"fast"`` (no shadows, no antialiasing) or ``"fine"`` (MuJoCo's default).
        camera: One of ``CAMERAS``.

    Raises:
        ConfigError: Unknown quality or camera, or a size below 1.

    Example:
        >>> import numpy as np
        >>> from vlmreward.envs.mujoco.tabletop.layouts import sample_layout
        >>> with TabletopScene(width=64, height=64) as scene:
        ...     scene.render_state(sample_layout(np.random.default_rng(0))).shape
        (64, 64, 3)
    """

    def __init__(self, width: int = 96, height: int = 96, quality: str = "fast", camera: str = "front") -> None:
        super().__init__(load_model(), width, height, quality)
        if camera not in CAMERAS:
            raise ConfigError(f"unknown camera {camera!r}: {suggest(str(camera), CAMERAS)}")
        self.camera = camera
        self._links = tuple((self.model.body(n).mocapid[0], self.model.geom(n).id) for n in ("upper_arm", "forearm"))
        self.look = DEFAULT_LOOK
        self.apply(DEFAULT_LOOK)

    def apply(self, look: Look) -> None:
        """Take on a look."""
        self.look = look
        model = self.model
        plain: dict[str, Colour] = {"table": look.table, "floor": look.floor, "wall": look.wall}
        plain |= dict.fromkeys(("arm_base", "shoulder", "upper_arm", "forearm", "wrist"), look.arm)
        plain |= dict.fromkeys(("palm", "left_finger", "right_finger"), look.gripper)
        plain |= dict.fromkeys(("handle", "stalk"), _HANDLE)
        plain |= dict.fromkeys((f"cabinet_{part}" for part in ("left", "right", "top", "back")), look.cabinet)
        plain |= dict.fromkeys((f"drawer_{part}" for part in ("front", "floor", "left", "right", "back")), look.drawer)
        plain |= dict.fromkeys((f"bin_{part}" for part in ("left", "right", "front", "back")), look.bin)
        plain["bin_floor"] = _clip(0.6 * np.asarray(look.bin))
        drawn = [f"{role}_cube" for role in CUBES] + [f"{role}_target" for role in TARGETS]
        for name, colour, shade in zip(drawn, (*look.cubes, *look.targets), look.shades, strict=True):
            plain[name] = _clip(np.asarray(COLOURS[colour]) + shade)
        for name, rgb in plain.items():
            model.geom_rgba[model.geom(name).id] = (*rgb, 1.0)
        model.light_dir[0] = np.asarray(look.sun) / np.linalg.norm(look.sun)
        model.light_diffuse[0], model.light_specular[0] = look.brightness, 0.2
        head = model.vis.headlight
        head.diffuse[:], head.ambient[:], head.specular[:] = look.headlight, look.headlight / 2, 0.05

    def render(self, data: Any | None = None) -> Frames:
        """Draw a state.

        Args:
            data: ``mujoco.MjData`` of this model with positions computed; the scene's own by default.

        Returns:
            uint8, shape (height, width, 3).

        Raises:
            RenderingError: No GL back end works, or the picture is one constant colour.
        """
        shown: Any = self.data if data is None else data
        x, y, z = shown.qpos[GRIPPER].tolist()
        self._place_arm(shown, (x, y, z + WRIST_Z))
        return self._draw(shown, view(self.camera, self.look.shift, (x, y, z)))

    def render_state(self, state: npt.NDArray[np.float64]) -> Frames:
        """Draw a state, float64, shape (STATE_SIZE,); returns uint8, shape (height, width, 3)."""
        write_state(self.data, state)
        place_parts(self.model, self.data)
        return self.render()

    def _place_arm(self, data: Any, wrist: tuple[float, float, float]) -> None:
        """Put the drawn arm between its base and the gripper, elbow up."""
        elbow = elbow_of(wrist)
        for (mocap, geom), start, end in zip(self._links, (ARM_BASE, elbow), (elbow, wrist), strict=True):
            middle = [(a + b) / 2 for a, b in zip(start, end, strict=True)]
            quat = _quat_along([b - a for a, b in zip(start, end, strict=True)])
            data.mocap_pos[mocap], data.mocap_quat[mocap] = middle, quat
            data.geom_xpos[geom] = middle  # positions were computed before: put the geom there by hand
            mujoco.mju_quat2Mat(data.geom_xmat[geom], quat)


def view(camera: str, shift: CameraShift, gripper: tuple[float, float, float]) -> Camera:
    """Return where a camera stands; the one at the wrist moves with the gripper."""
    usual = {"front": FRONT, "top": TOP, "wrist": WRIST}[camera]
    lookat = gripper if camera == "wrist" else usual.lookat
    elevation = min(-5.0, max(-89.9, usual.elevation + shift.elevation))
    return Camera(usual.distance * shift.distance, lookat, usual.azimuth + shift.azimuth, elevation)


def elbow_of(wrist: tuple[float, float, float]) -> tuple[float, float, float]:
    """Return where the elbow of the drawn arm is, in metres, by the law of cosines in the vertical plane."""
    dx, dy, dz = (b - a for a, b in zip(ARM_BASE, wrist, strict=True))
    flat = math.hypot(dx, dy)
    upper, fore = ARM_LENGTHS
    reach = min(math.sqrt(flat * flat + dz * dz), upper + fore - 1e-6)
    cosine = (upper * upper + reach * reach - fore * fore) / (2 * upper * reach)
    rise = math.atan2(dz, flat) + math.acos(min(1.0, max(-1.0, cosine)))
    out = upper * math.cos(rise)
    return (ARM_BASE[0] + out * dx / flat, ARM_BASE[1] + out * dy / flat, ARM_BASE[2] + upper * math.sin(rise))


def random_look(rng: np.random.Generator) -> Look:
    """Draw a look at random: shades, light, furniture and camera; the names of the colours stay true."""
    light = rng.uniform(0.25, 0.8)

    def near(colour: Colour, spread: float) -> Colour:
        return _clip(np.asarray(colour) + rng.uniform(-spread, spread, 3))

    shades = tuple(
        (float(r), float(g), float(b)) for r, g, b in rng.uniform(-0.08, 0.08, (len(CUBES) + len(TARGETS), 3))
    )
    default = DEFAULT_LOOK
    grey = _clip(min(light, 0.65) + rng.uniform(-0.12, 0.12, 3))  # not so bright that a white target is lost on it
    return Look(
        shades=shades,
        table=grey if rng.random() < 0.5 else near(default.table, 0.15),
        floor=near((light, light, light), 0.2),
        wall=near((light, light, light), 0.2),
        cabinet=near(default.cabinet, 0.15),
        drawer=near(default.drawer, 0.15),
        bin=near(default.bin, 0.15),
        arm=near(default.arm, 0.2),
        gripper=near(default.gripper, 0.12),
        sun=(float(rng.normal(0.2, 0.4)), float(rng.normal(0.3, 0.4)), -1.0),
        brightness=float(rng.uniform(0.35, 0.75)),
        headlight=float(rng.uniform(0.3, 0.6)),
        shift=CameraShift(float(rng.normal(0, 10)), float(rng.normal(0, 5)), float(rng.uniform(0.9, 1.12))),
    )


def _clip(rgb: npt.ArrayLike) -> Colour:
    """Clip to [0, 1] and return plain floats."""
    r, g, b = (float(c) for c in np.clip(rgb, 0, 1))
    return (r, g, b)


def _quat_along(direction: list[float]) -> list[float]:
    """Return the quaternion that turns the z axis into a direction."""
    x, y, z = direction
    length = math.sqrt(x * x + y * y + z * z)
    half = math.sqrt(max(0.0, (1 + z / length) / 2))
    if half < 1e-6:
        return [0.0, 1.0, 0.0, 0.0]
    return [half, -y / length / (2 * half), x / length / (2 * half), 0.0]
