"""What the humanoid looks like: sky, ground, body, light and camera, with a default look and random ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from vlmreward.envs.mujoco.gl import import_mujoco
from vlmreward.envs.mujoco.humanoid.model import FLOOR, GROUND, SKY, STONE, Control, load_model
from vlmreward.envs.mujoco.renderer import Camera
from vlmreward.envs.mujoco.scene import Scene, place_parts
from vlmreward.errors import ConfigError
from vlmreward.types import Frames

mujoco = import_mujoco()

Colour = tuple[float, float, float]  # RGB in [0, 1]
PATTERNS = ("stone", "checker", "plain")
VLMRM_CAMERA = Camera(distance=3.5, lookat=(0.0, 0.0, 1.0), azimuth=180.0, elevation=-10.0)


@dataclass(frozen=True)
class Appearance:
    """One look of the scene.

    Attributes:
        camera: From where; fixed in the world, it does not follow the robot. The default is VLM-RM's: it looks
            along -x at the robot's front.
        sky: Colour straight up.
        horizon: Colour of the sky at the horizon.
        ground: Mean colour of the ground.
        contrast: Spread of the ground's pattern around its mean, 0 to 1.
        pattern: ``"stone"`` (noise), ``"checker"`` or ``"plain"``.
        body: Colour of the robot.
        sun: Direction in which the light shines.
        brightness: Strength of that light, 0 to 1.
        headlight: Strength of the light at the camera, 0 to 1.
        seed: Seed of the stone's noise.
    """

    camera: Camera = VLMRM_CAMERA
    sky: Colour = (0.22, 0.45, 0.80)
    horizon: Colour = (0.72, 0.84, 0.95)
    ground: Colour = (0.21, 0.21, 0.21)
    contrast: float = 0.35
    pattern: str = "stone"
    body: Colour = (0.94, 0.94, 0.93)
    sun: Colour = (0.0, 0.0, -1.0)
    brightness: float = 0.6
    headlight: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the numbers."""
        if self.pattern not in PATTERNS:
            raise ConfigError(f"pattern must be one of {', '.join(PATTERNS)}, got {self.pattern!r}")
        for name in ("contrast", "brightness", "headlight"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} must be within 0 .. 1, got {getattr(self, name)}")
        if not self.sun[2] < 0:
            raise ConfigError(f"sun must shine downwards (third number below 0), got {self.sun}")


def random_appearance(rng: np.random.Generator) -> Appearance:
    """Draw a look at random: another camera near the default one, other colours, patterns and light.

    The robot's front stays visible: the camera goes at most 50 degrees to either side.
    """
    bright = rng.uniform(0.15, 0.9)
    tint = rng.uniform(-0.12, 0.12, 3)
    ground_grey, ground_tint = rng.uniform(0.08, 0.6), rng.uniform(-0.1, 0.1, 3)
    body = np.array((0.94, 0.94, 0.93)) if rng.random() < 0.4 else rng.uniform(0.15, 1.0, 3)
    return Appearance(
        camera=Camera(
            distance=float(rng.uniform(2.6, 4.6)),
            lookat=(float(rng.normal(0, 0.1)), float(rng.normal(0, 0.15)), float(rng.uniform(0.75, 1.1))),
            azimuth=float(180 + np.clip(rng.normal(0, 20), -50, 50)),
            elevation=float(rng.uniform(-25, 0)),
        ),
        sky=_colour(bright * np.array((0.4, 0.6, 1.0)) + tint),
        horizon=_colour(min(1.0, bright + rng.uniform(0, 0.4)) + tint),
        ground=_colour(ground_grey + ground_tint),
        contrast=float(rng.uniform(0, 0.8)),
        pattern=str(rng.choice(PATTERNS)),
        body=_colour(body),
        sun=(float(rng.normal(0, 0.4)), float(rng.normal(0, 0.4)), -1.0),
        brightness=float(rng.uniform(0.35, 0.9)),
        headlight=float(rng.uniform(0.2, 0.6)),
        seed=int(rng.integers(2**31)),
    )


class HumanoidScene(Scene):
    """The model, a state to draw, and a renderer made when the first picture is asked for.

    Args:
        width: Width of the pictures, in pixels.
        height: Height of the pictures, in pixels.
        quality: ``"fast"`` (no shadows, no antialiasing) or ``"fine"`` (MuJoCo's default).
        control: Kind of the motors; see :func:`vlmreward.envs.mujoco.humanoid.model.load_model`.
        appearance: The look that :meth:`restore` goes back to.

    Raises:
        ConfigError: Unknown quality or control, or a size below 1.

    Example:
        >>> import numpy as np
        >>> from vlmreward.envs.mujoco.humanoid.poses import sample_pose
        >>> rng = np.random.default_rng(0)
        >>> with HumanoidScene(width=96, height=96) as scene:
        ...     appearance = scene.randomise(rng)
        ...     scene.render_pose(sample_pose("kneeling", rng)).shape
        (96, 96, 3)
    """

    def __init__(
        self,
        width: int = 224,
        height: int = 224,
        quality: str = "fast",
        control: Control = "torque",
        appearance: Appearance | None = None,
    ) -> None:
        super().__init__(load_model(control), width, height, quality)
        self._default = appearance or Appearance()
        self.appearance = self._default
        self.apply(self._default)

    def apply(self, appearance: Appearance) -> None:
        """Take on a look."""
        model = self.model
        self.appearance = appearance
        model.geom_rgba[:, :3] = appearance.body
        model.geom_rgba[model.geom(GROUND).id] = 1.0  # the texture has the colour
        model.geom_rgba[model.geom(FLOOR).id, :3] = 1.0
        sun = np.asarray(appearance.sun) / np.linalg.norm(appearance.sun)
        model.light_dir[0] = sun
        model.light_diffuse[0] = appearance.brightness
        head = model.vis.headlight
        head.diffuse[:], head.ambient[:], head.specular[:] = appearance.headlight, appearance.headlight / 2, 0.1
        _paint(model, SKY, _sky_picture(model, appearance))
        _paint(model, STONE, _ground_picture(model, appearance))
        if self._renderer is not None:
            self._renderer.upload_textures()

    def randomise(self, rng: np.random.Generator) -> Appearance:
        """Take on a random look and return it."""
        self.apply(random_appearance(rng))
        return self.appearance

    def restore(self) -> None:
        """Go back to the default look."""
        if self.appearance != self._default:
            self.apply(self._default)

    def render(self, data: Any | None = None) -> Frames:
        """Draw a state.

        Args:
            data: ``mujoco.MjData`` of this model with positions computed; the scene's own by default.

        Returns:
            uint8, shape (height, width, 3).

        Raises:
            RenderingError: No GL back end works, or the picture is one constant colour.
        """
        return self._draw(self.data if data is None else data, self.appearance.camera)

    def render_pose(self, qpos: npt.ArrayLike) -> Frames:
        """Draw a pose.

        Args:
            qpos: Position, quaternion and joint angles, shape (24,).

        Returns:
            uint8, shape (height, width, 3).
        """
        self.data.qpos[:] = qpos
        place_parts(self.model, self.data)
        return self.render()


def _colour(rgb: npt.ArrayLike) -> Colour:
    """Clip to [0, 1] and return plain floats."""
    r, g, b = (float(c) for c in np.clip(rgb, 0, 1))
    return (r, g, b)


def _paint(model: Any, name: str, picture: npt.NDArray[np.floating]) -> None:
    """Write a picture, shape (height, width, 3), values in [0, 1], into the pixels of a texture."""
    texture = model.texture(name).id
    start = model.tex_adr[texture]
    pixels = (np.clip(picture, 0, 1) * 255).astype(np.uint8).reshape(-1)
    model.tex_data[start : start + len(pixels)] = pixels


def _sky_picture(model: Any, appearance: Appearance) -> npt.NDArray[np.floating]:
    """Colour the sky's ramp (1 straight up, 0 straight down; the horizon lies at 1/2)."""
    up = np.clip(2 * _sky_ramp(model)[..., None] - 1, 0, 1) ** 0.6
    return up * np.asarray(appearance.sky) + (1 - up) * np.asarray(appearance.horizon)


def _sky_ramp(model: Any) -> npt.NDArray[np.floating]:
    """Return the brightness that MuJoCo's own gradient had when the model was compiled, shape (height, width)."""
    compiled = load_model()
    texture = compiled.texture(SKY).id
    height, width = compiled.tex_height[texture], compiled.tex_width[texture]
    start = compiled.tex_adr[texture]
    pixels = compiled.tex_data[start : start + 3 * height * width].reshape(height, width, 3)
    return pixels[..., 0] / 255.0


def _ground_picture(model: Any, appearance: Appearance) -> npt.NDArray[np.floating]:
    """Draw the ground's texture; it repeats without a seam."""
    texture = model.texture(STONE).id
    side = int(model.tex_width[texture])
    if appearance.pattern == "checker":
        half = np.arange(side) < side // 2
        noise = np.where(half[:, None] == half[None, :], 1.0, -1.0)
    elif appearance.pattern == "stone":
        # white noise with a 1/f spectrum: periodic, as the discrete Fourier transform is
        frequency = np.fft.fftfreq(side)
        radius = np.hypot(frequency[:, None], frequency[None, :])
        spectrum = np.fft.fft2(np.random.default_rng(appearance.seed).standard_normal((side, side)))
        noise = np.real(np.fft.ifft2(spectrum / np.maximum(radius, 2 / side)))
        noise /= 2 * noise.std()
    else:
        noise = np.zeros((side, side))
    return np.asarray(appearance.ground) * (1 + appearance.contrast * noise[..., None])
