"""Pictures that are encoded as JPEG or PNG."""

from __future__ import annotations

import io
from pathlib import Path
from typing import BinaryIO

import numpy as np

from vlmreward.data.dataset import Frame, Undecodable
from vlmreward.data.paths import one_line

MAX_PIXELS = 1 << 26
"""A picture that says it has more is damaged, or made to fill the memory."""

STARTS = (b"\xff\xd8\xff", b"\x89PNG\r\n")
"""What an encoded picture begins with."""


def decode_picture(encoded: bytes) -> Frame | Undecodable:
    """Decode one picture; palettes, grey and transparency become RGB."""
    if not encoded.startswith(STARTS):
        return Undecodable(f"{len(encoded)} bytes that are no JPEG or PNG picture")
    return read_picture(io.BytesIO(encoded), ("JPEG", "PNG"))


def read_picture(source: Path | BinaryIO, formats: tuple[str, ...]) -> Frame | Undecodable:
    """Decode the picture in a file; palettes, grey and transparency become RGB.

    Args:
        source: The file.
        formats: Pillow's names of those that it may have.
    """
    from PIL import Image

    try:
        with Image.open(source, formats=formats) as picture:
            if picture.width * picture.height > MAX_PIXELS:
                return Undecodable(f"a picture of {picture.width}x{picture.height} pixels, more than {MAX_PIXELS}")
            return np.array(picture.convert("RGB"))
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as e:
        return Undecodable(f"damaged picture: {one_line(e)}")
