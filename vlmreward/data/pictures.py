"""Pictures that are encoded as JPEG or PNG."""

from __future__ import annotations

import io
import math

import numpy as np

from vlmreward.data.dataset import Frame, Undecodable
from vlmreward.data.paths import one_line

MAX_PIXELS = 1 << 26
"""A picture that says it has more is damaged, or made to fill the memory."""

STARTS = (b"\xff\xd8\xff", b"\x89PNG\r\n")
"""What an encoded picture begins with."""


def decode_picture(encoded: bytes) -> Frame | Undecodable:
    """Decode one picture; palettes, grey and transparency become RGB."""
    from PIL import Image

    if not encoded.startswith(STARTS):
        return Undecodable(f"{len(encoded)} bytes that are no JPEG or PNG picture")
    try:
        with Image.open(io.BytesIO(encoded), formats=("JPEG", "PNG")) as picture:
            if math.prod(picture.size) > MAX_PIXELS:
                return Undecodable(f"a picture of {picture.size[0]}x{picture.size[1]} pixels, more than {MAX_PIXELS}")
            return np.array(picture.convert("RGB"))
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as e:
        return Undecodable(f"damaged picture: {one_line(e)}")
