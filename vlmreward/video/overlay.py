"""Draw the goal, the reward curve and the true success into a band below each picture.

The picture itself is never drawn on: a small one is enlarged by a whole factor, and the band is added
underneath, so what the reward model saw stays visible as it was.
"""

from __future__ import annotations

import functools
import importlib.util
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from vlmreward.errors import ConfigError, DependencyNotInstalled, FramesError
from vlmreward.types import Frames, check_frames

Colour = tuple[int, int, int]
Success = Sequence[bool | None]

BACKGROUND: Colour = (24, 26, 31)
TEXT: Colour = (238, 238, 238)
QUIET: Colour = (150, 155, 165)
PLOT: Colour = (38, 41, 48)
CURVE: Colour = (255, 190, 60)
CURSOR: Colour = (255, 255, 255)
MARKS: dict[bool | None, Colour] = {True: (80, 210, 120), False: (240, 90, 90), None: QUIET}


@dataclass(frozen=True)
class OverlaySettings:
    """How the band looks.

    Attributes:
        min_width: Pictures narrower than this are enlarged by a whole factor until they reach it, pixels.
        text_height: Size of the letters, pixels; 0 chooses a thirtieth of the width, at least 11.
        curve_height: Height of the box of the reward curve, pixels; 0 chooses an eighth of the width.
        goal_lines: Longest goal in lines; what is beyond ends in an ellipsis.
        font: A TrueType or OpenType file for scripts that DejaVu Sans lacks; empty means DejaVu Sans.
    """

    min_width: int = 320
    text_height: int = 0
    curve_height: int = 0
    goal_lines: int = 3
    font: str = ""

    def __post_init__(self) -> None:
        for name, low in (("min_width", 64), ("text_height", 0), ("curve_height", 0), ("goal_lines", 1)):
            value = getattr(self, name)
            if value < low:
                raise ConfigError(f"video.{name} must be at least {low}, got {value}")
        if self.font and not Path(self.font).is_file():
            raise ConfigError(f"font={self.font} is no file: give the path of a .ttf or .otf file")


@functools.lru_cache(maxsize=16)
def load_font(size: int, path: str = "") -> ImageFont.FreeTypeFont:
    """Return a font of a size in pixels.

    Pillow's own font has no umlauts; DejaVu Sans, which matplotlib ships, covers Latin, Greek and Cyrillic.

    Raises:
        ConfigError: ``path`` is not a font.
        DependencyNotInstalled: matplotlib is missing.
    """
    if not path:
        spec = importlib.util.find_spec("matplotlib")  # finds the folder, imports nothing
        if spec is None or not spec.submodule_search_locations:
            raise DependencyNotInstalled("package 'matplotlib' is not installed: run pip install matplotlib")
        path = str(Path(spec.submodule_search_locations[0]) / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf")
    try:
        return ImageFont.truetype(path, size)
    except OSError as e:
        raise ConfigError(f"can't read the font {path}: give the path of a .ttf or .otf file") from e


def missing_letters(text: str, path: str = "") -> str:
    """Return the letters of a text that a font lacks, each once; it would show a box in their place.

    Args:
        text: What is to be drawn.
        path: As for :func:`load_font`.
    """
    font = load_font(24, path)
    box = _draw_letter(font, "\U0010ffff")  # the last code point, which never stands for a letter
    shown = (c for c in dict.fromkeys(text) if unicodedata.category(c)[0] not in "CZ")  # no control, no space
    return "".join(c for c in shown if _draw_letter(font, c) == box)


def _draw_letter(font: ImageFont.FreeTypeFont, letter: str) -> bytes:
    picture = Image.new("L", (64, 64))
    ImageDraw.Draw(picture).text((8, 8), letter, font=font, fill=255)
    return picture.tobytes()


def wrap_text(text: str, font: ImageFont.FreeTypeFont, width: int, lines: int) -> list[str]:
    """Break a text at spaces, and words that are too long anywhere, into lines of at most ``width`` pixels.

    Returns:
        One to ``lines`` lines; the last one ends in an ellipsis when something had to be left out.
    """
    wrapped: list[str] = []
    line = ""
    for word in text.split():
        while word:
            joined = f"{line} {word}" if line else word
            if font.getlength(joined) <= width:
                line, word = joined, ""
            elif line:
                wrapped.append(line)
                line = ""
            else:
                cut = max(1, _fitting(word, font, width))
                wrapped.append(word[:cut])
                word = word[cut:]
    if line or not wrapped:
        wrapped.append(line)
    if len(wrapped) > lines:
        last = wrapped[lines - 1]
        while last and font.getlength(last + "…") > width:
            last = last[:-1]
        wrapped = [*wrapped[: lines - 1], last.rstrip() + "…"]
    return wrapped


def _fitting(word: str, font: ImageFont.FreeTypeFont, width: int) -> int:
    count = 0
    while count < len(word) and font.getlength(word[: count + 1]) <= width:
        count += 1
    return count


class Overlay:
    """Draws the bands of one episode.

    Args:
        frame_shape: (H, W) of the pictures, pixels.
        goal: The sentence that the agent was given.
        rewards: Reward of each picture, shape (T,); NaN where there is none (the picture of the reset, or
            one that could not be scored): the curve has a gap there.
        success: True state of each picture, True, False or None (the environment doesn't say), length T.
        seconds_per_frame: Time between two pictures in the environment.
        note: One more line in small letters, for example which run this is.
        settings: How the band looks.

    Attributes:
        scale: Whole factor by which the pictures are enlarged.
        size: (height, width) of the result, pixels.
        plot: The curve's box, (left, top, right, bottom), both ends included, pixels of the result.

    Raises:
        ConfigError: ``rewards`` and ``success`` are not of one length.
        FramesError: There is no picture.
    """

    def __init__(
        self,
        frame_shape: tuple[int, int],
        goal: str,
        rewards: npt.ArrayLike,
        success: Success,
        seconds_per_frame: float,
        note: str = "",
        settings: OverlaySettings | None = None,
    ) -> None:
        settings = settings or OverlaySettings()
        self.rewards = np.asarray(rewards, dtype=np.float64)
        self.success = list(success)
        if self.rewards.ndim != 1 or len(self.rewards) != len(self.success):
            raise ConfigError(
                f"rewards {self.rewards.shape} and success ({len(self.success)},) must have one value per frame"
            )
        if not len(self.rewards):
            raise FramesError("an episode without frames can't be drawn: give at least one")
        self.seconds_per_frame = seconds_per_frame
        height, width = frame_shape
        self.scale = max(1, -(-settings.min_width // width))
        self.picture_height = height * self.scale
        width *= self.scale

        text = settings.text_height or max(11, width // 30)
        self._font = load_font(text, settings.font)
        self._small = load_font(max(9, text * 3 // 4), settings.font)
        pad = max(6, text // 2)
        step = text * 4 // 3
        goal_lines = wrap_text(goal, self._font, width - 2 * pad, settings.goal_lines)
        note_lines = wrap_text(note, self._small, width - 2 * pad, 2) if note else []
        self._status_y = self.picture_height + pad + step * len(goal_lines)
        top = self._status_y + step + pad // 2 + 4
        finite = self.rewards[np.isfinite(self.rewards)]
        self.low, self.high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 0.0)
        labels = [f"{value:.3g}" for value in (self.high, self.low)] if len(finite) else ["", ""]
        margin = int(max(self._small.getlength(label) for label in labels)) + pad
        bottom = top + (settings.curve_height or max(40, width // 8)) - 1
        self.plot = (pad + margin + 4, top, width - pad - 5, bottom)  # 4 pixels of background around it
        note_y = bottom + 5 + pad // 2
        small_step = self._small.size * 4 // 3
        end = note_y + int(small_step) * len(note_lines) + pad // 2
        self.size = (end + end % 2, width + width % 2)  # h264 with 4:2:0 colour wants even sides
        self._pad, self._text = pad, text
        longest = self._font.getlength(self._progress(len(self.rewards) - 1))
        self._reward_x = max(width * 2 // 5, pad + int(longest) + pad)

        # Everything that is the same on each picture is drawn once.
        self._blank = Image.new("RGB", (self.size[1], self.size[0] - self.picture_height), BACKGROUND)
        draw = ImageDraw.Draw(self._blank)
        for number, line in enumerate(goal_lines):
            draw.text((pad, pad + step * number), line, font=self._font, fill=TEXT)
        for number, line in enumerate(note_lines):
            y = note_y - self.picture_height + int(small_step) * number
            draw.text((pad, y), line, font=self._small, fill=QUIET)
        left, top, right, bottom = self._in_band(self.plot)
        draw.rectangle((left - 4, top - 4, right + 4, bottom + 4), fill=PLOT)
        draw.text((left - 4 - pad // 2, top - 4), labels[0], font=self._small, fill=QUIET, anchor="rt")
        draw.text((left - 4 - pad // 2, bottom + 4), labels[1], font=self._small, fill=QUIET, anchor="rb")

    def curve_point(self, index: int) -> tuple[int, int]:
        """Return the pixel (x, y) of one picture's reward in the result.

        The first picture is at the left side of the box and the last at the right; the episode's lowest
        reward is at the bottom and the highest at the top; a constant reward runs through the middle.
        """
        _, top, _, bottom = self.plot
        spread = self.high - self.low
        level = (self.rewards[index] - self.low) / spread if spread > 0 else 0.5
        return self._column(index), bottom - round(level * (bottom - top))

    def draw(self, index: int, frame: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """Return one picture with its band.

        Args:
            index: Number of the picture in the episode.
            frame: RGB, uint8, shape (H, W, 3).

        Returns:
            RGB, uint8, shape ``(*size, 3)``.
        """
        band = self._blank.copy()
        draw = ImageDraw.Draw(band)
        self._draw_status(draw, index)
        self._draw_curve(draw, index)
        picture = frame.repeat(self.scale, axis=0).repeat(self.scale, axis=1)
        odd = self.size[1] - picture.shape[1]
        if odd:
            picture = np.pad(picture, ((0, 0), (0, odd), (0, 0)), mode="edge")
        return np.concatenate([picture, np.asarray(band)])

    def _in_band(self, box: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
        left, top, right, bottom = box
        return left, top - self.picture_height, right, bottom - self.picture_height

    def _progress(self, index: int) -> str:
        return f"step {index}/{len(self.rewards) - 1}  {index * self.seconds_per_frame:.1f} s"

    def _draw_status(self, draw: ImageDraw.ImageDraw, index: int) -> None:
        y = self._status_y - self.picture_height
        draw.text((self._pad, y), self._progress(index), font=self._font, fill=QUIET)
        reward = self.rewards[index]
        shown = f"reward {reward:.3f}" if np.isfinite(reward) else "reward -"
        draw.text((self._reward_x, y), shown, font=self._font, fill=CURVE)
        size = self._text
        x = self.size[1] - self._pad - size
        draw.text((x - self._pad // 2, y), "success", font=self._font, fill=QUIET, anchor="ra")
        draw_mark(draw, (x, y + size // 8), size, self.success[index])

    def _draw_curve(self, draw: ImageDraw.ImageDraw, index: int) -> None:
        x = self._column(index)
        _, top, _, bottom = self._in_band(self.plot)
        draw.line((x, top, x, bottom), fill=QUIET)
        run: list[tuple[int, int]] = []
        for i in range(index + 1):
            if np.isfinite(self.rewards[i]):
                px, py = self.curve_point(i)
                run.append((px, py - self.picture_height))
            if run and (i == index or not np.isfinite(self.rewards[i])):
                draw.line(run if len(run) > 1 else run * 2, fill=CURVE, width=2, joint="curve")
                run = []
        if np.isfinite(self.rewards[index]):
            px, py = self.curve_point(index)
            py -= self.picture_height
            draw.ellipse((px - 3, py - 3, px + 3, py + 3), fill=CURSOR)

    def _column(self, index: int) -> int:
        left, _, right, _ = self.plot
        return left + round(index * (right - left) / max(1, len(self.rewards) - 1))


def draw_mark(draw: ImageDraw.ImageDraw, corner: tuple[float, float], size: int, success: bool | None) -> None:
    """Draw a tick, a cross or, when the environment doesn't say, a dash.

    Args:
        draw: Where to draw.
        corner: Left and upper side of the mark's square, pixels.
        size: Side of the square, pixels.
        success: What the true state says.
    """
    x, y = corner
    colour = MARKS[success]
    width = max(2, size // 6)

    def line(*points: tuple[float, float]) -> None:
        draw.line([(x + a * size, y + b * size) for a, b in points], fill=colour, width=width, joint="curve")

    if success is None:
        line((0.15, 0.5), (0.85, 0.5))
    elif success:
        line((0.1, 0.55), (0.4, 0.85), (0.9, 0.15))
    else:
        line((0.15, 0.15), (0.85, 0.85))
        line((0.85, 0.15), (0.15, 0.85))


def annotate(
    frames: Frames,
    rewards: npt.ArrayLike,
    success: Success,
    goal: str,
    seconds_per_frame: float,
    note: str = "",
    settings: OverlaySettings | None = None,
) -> Iterator[npt.NDArray[np.uint8]]:
    """Yield each picture of an episode with its band; one at a time, so a long episode needs no more memory.

    Args:
        frames: RGB, uint8, shape (T, H, W, 3).
        rewards: Shape (T,); NaN where there is none.
        success: True, False or None for each picture, length T.
        goal: The sentence that the agent was given.
        seconds_per_frame: Time between two pictures in the environment.
        note: One more line in small letters.
        settings: How the band looks.

    Raises:
        FramesError: ``frames`` is not uint8 (T, H, W, 3).
        ConfigError: ``rewards`` or ``success`` is not of length T.
    """
    check_frames(frames)
    overlay = Overlay(frames.shape[1:3], goal, rewards, success, seconds_per_frame, note, settings)
    if len(overlay.rewards) != len(frames):
        raise ConfigError(f"rewards {overlay.rewards.shape} must have one value for each of {len(frames)} frames")
    for index, frame in enumerate(frames):
        yield overlay.draw(index, frame)
