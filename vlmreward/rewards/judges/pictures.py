"""Pictures as files and of one size: what judges are sent, without loss."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from vlmreward.errors import ConfigError
from vlmreward.rewards.judges.questions import Picture


def data_url(picture: Picture) -> str:
    """Return a picture as the URL of a PNG file that holds itself."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG", compress_level=1)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode("ascii")


def resize(picture: Picture, size: int) -> Picture:
    """Return a picture of ``size`` x ``size`` pixels, its aspect ratio lost (Lanczos)."""
    return np.asarray(Image.fromarray(picture).resize((size, size), Image.Resampling.LANCZOS))


def read_picture(name: str, path: str | Path) -> Picture:
    """Read a picture that a setting names.

    Args:
        name: Of the setting, for the error message.
        path: PNG, JPEG, ...

    Raises:
        ConfigError: There is none.
    """
    try:
        with Image.open(path) as file:
            return np.array(file.convert("RGB"))
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError, SyntaxError) as e:
        raise ConfigError(f"{name} must be a picture file, got {path} ({type(e).__name__}): give a PNG or JPEG") from e
