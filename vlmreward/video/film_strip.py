"""One picture of an episode: some of its frames side by side, each with its step, reward and success."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from vlmreward.atomic import write_bytes
from vlmreward.errors import ConfigError
from vlmreward.types import Frames, check_frames
from vlmreward.video.overlay import (
    BACKGROUND,
    CURVE,
    QUIET,
    TEXT,
    OverlaySettings,
    Success,
    draw_mark,
    load_font,
    wrap_text,
)

GAP = 4  # pixels between two pictures


def choose_frames(total: int, count: int) -> list[int]:
    """Return the numbers of ``count`` frames spread evenly from the first to the last, or all if fewer."""
    if count < 2:
        raise ConfigError(f"a film strip needs at least 2 frames, got {count}")
    return sorted({round(i * (total - 1) / (count - 1)) for i in range(count)})


def film_strip(
    frames: Frames,
    rewards: npt.ArrayLike,
    success: Success | None = None,
    goal: str = "",
    count: int = 8,
    columns: int = 8,
    width: int = 160,
    settings: OverlaySettings | None = None,
) -> npt.NDArray[np.uint8]:
    """Return a picture of ``count`` frames of an episode.

    Args:
        frames: RGB, uint8, shape (T, H, W, 3).
        rewards: Shape (T,); NaN where there is none.
        success: True, False or None for each frame, length T; no marks when missing.
        goal: Written above the frames.
        count: How many frames.
        columns: Most frames in a row.
        width: Width of a frame in the strip, pixels.
        settings: The font.

    Returns:
        RGB, uint8, shape (H', W', 3).

    Raises:
        FramesError: ``frames`` is not uint8 (T, H, W, 3).
        ConfigError: Lengths differ, or a number is too small.
    """
    check_frames(frames)
    values = np.asarray(rewards, dtype=np.float64)
    if values.shape != (len(frames),) or (success is not None and len(success) != len(frames)):
        raise ConfigError(f"rewards {values.shape} and success must have one value for each of {len(frames)} frames")
    if columns < 1 or width < 32:
        raise ConfigError(f"columns must be at least 1 and width at least 32, got {columns} and {width}")
    font_path = (settings or OverlaySettings()).font
    font = load_font(max(9, width // 13), font_path)
    line = int(font.size * 1.5)
    chosen = choose_frames(len(frames), count)
    columns = min(columns, len(chosen))
    rows = -(-len(chosen) // columns)
    height = max(1, round(frames.shape[1] * width / frames.shape[2]))
    full_width = columns * (width + GAP) + GAP
    title = load_font(max(11, width // 10), font_path)
    goal_lines = wrap_text(goal, title, full_width - 2 * GAP, 3) if goal else []
    head = GAP + int(title.size * 1.4) * len(goal_lines)

    sheet = Image.new("RGB", (full_width, head + rows * (height + line + GAP)), BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    for number, text in enumerate(goal_lines):
        draw.text((GAP, GAP // 2 + int(title.size * 1.4) * number), text, font=title, fill=TEXT)
    for place, index in enumerate(chosen):
        x = GAP + place % columns * (width + GAP)
        y = head + place // columns * (height + line + GAP)
        picture = Image.fromarray(frames[index])
        if picture.size != (width, height):
            picture = picture.resize((width, height), Image.Resampling.LANCZOS)
        sheet.paste(picture, (x, y))
        below = y + height + int(font.size) // 4
        draw.text((x, below), str(index), font=font, fill=QUIET)
        value = f"{values[index]:.3f}" if np.isfinite(values[index]) else "-"
        draw.text((x + width / 2, below), value, font=font, fill=CURVE, anchor="ma")
        if success is not None:
            size = int(font.size)
            draw_mark(draw, (x + width - size, below), size, success[index])
    return np.array(sheet)


def write_png(path: Path, picture: npt.NDArray[np.uint8]) -> None:
    """Write one picture, RGB, uint8, shape (H, W, 3), as a PNG.

    Raises:
        ConfigError: ``path`` does not end in .png.
        StorageError: The disk is full, or the folder can't be written.
    """
    if path.suffix.lower() != ".png":
        raise ConfigError(f"a picture's name must end in .png, got {path.name}")
    content = io.BytesIO()
    Image.fromarray(picture).save(content, format="PNG", optimize=True)
    write_bytes(path, content.getvalue())
