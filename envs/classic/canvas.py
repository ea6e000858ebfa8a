"""Antialiased flat-colour pictures, drawn with Pillow at a multiple of the wanted size and averaged down."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from vlmreward.envs.size import check_size
from vlmreward.errors import ConfigError

Colour = tuple[int, int, int]
Point = tuple[float, float]

SUPERSAMPLE = {"fast": 3, "fine": 4}


@dataclass(frozen=True)
class View:
    """The part of the world that a picture shows.

    Attributes:
        left: World x at the left edge.
        right: World x at the right edge.
        bottom: World y at the lower edge.
        top: World y at the upper edge.
    """

    left: float
    right: float
    bottom: float
    top: float


class Canvas:
    """Draws shapes given in world units on a picture of any size.

    Args:
        view: What part of the world is shown; stretched to the picture if the aspect differs.
        width: Picture width in pixels.
        height: Picture height in pixels.
        quality: ``"fast"`` averages 3 x 3 samples a pixel, ``"fine"`` 4 x 4.

    Raises:
        ConfigError: A size is not positive or the quality is unknown.
    """

    def __init__(self, view: View, width: int, height: int, quality: str = "fast") -> None:
        check_size(width, height)
        if quality not in SUPERSAMPLE:
            raise ConfigError(f"quality must be one of {sorted(SUPERSAMPLE)}, got {quality!r}")
        self.view = view
        self._factor = SUPERSAMPLE[quality]
        self._size = (width * self._factor, height * self._factor)
        self._scale_x = self._size[0] / (view.right - view.left)
        self._scale_y = self._size[1] / (view.top - view.bottom)
        self._image = Image.new("RGB", self._size)
        self._draw = ImageDraw.Draw(self._image)
        self._background = self._image.copy()

    def _pixels(self, points: Sequence[Point]) -> list[Point]:
        left, top = self.view.left, self.view.top
        return [((x - left) * self._scale_x, (top - y) * self._scale_y) for x, y in points]

    def fill(self, top: Colour, bottom: Colour) -> None:
        """Paint the whole picture with a vertical gradient."""
        ramp = np.linspace(np.array(top, np.float32), np.array(bottom, np.float32), self._size[1])
        column = np.rint(ramp).astype(np.uint8)[:, None, :]
        self._image.paste(Image.fromarray(np.repeat(column, self._size[0], axis=1)))

    def polygon(self, points: Sequence[Point], colour: Colour) -> None:
        """Fill a polygon."""
        self._draw.polygon(self._pixels(points), fill=colour)

    def box(self, centre: Point, half_width: float, half_height: float, colour: Colour, angle: float = 0.0) -> None:
        """Fill a rectangle, turned counter-clockwise by ``angle`` radians about its centre."""
        c, s = np.cos(angle), np.sin(angle)
        w, h = half_width, half_height
        corners = ((-w, -h), (w, -h), (w, h), (-w, h))
        self.polygon([(centre[0] + c * x - s * y, centre[1] + s * x + c * y) for x, y in corners], colour)

    def disc(self, centre: Point, radius: float, colour: Colour) -> None:
        """Fill a circle."""
        (x, y) = self._pixels([centre])[0]
        rx, ry = radius * self._scale_x, radius * self._scale_y
        self._draw.ellipse((x - rx, y - ry, x + rx, y + ry), fill=colour)

    def keep_background(self) -> None:
        """Remember the picture as it is: ``restore`` starts the next one from it."""
        self._background = self._image.copy()

    def restore(self) -> None:
        """Go back to the picture that ``keep_background`` remembered."""
        self._image.paste(self._background)

    def to_array(self) -> np.ndarray:
        """Return the picture, uint8, shape (height, width, 3)."""
        return np.asarray(self._image.reduce(self._factor))
