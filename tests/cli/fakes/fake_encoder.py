"""An encoder that needs no weights: a picture is its 8 x 8 grey thumbnail, a text a fixed vector.

The text "pole vertically upright on top of the cart" is the thumbnail of that state, so that a short run can learn.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np


class FakeEncoder:
    image_size = 8
    dim = 64
    licence = "MIT"

    def __init__(self, device: str = "auto", salt: str = "") -> None:
        self.id = f"fake{salt}"

    def encode_images(self, frames: np.ndarray) -> np.ndarray:
        count, height, width, _ = frames.shape
        grey = frames[:, : height // 8 * 8, : width // 8 * 8].astype(np.float32).mean(axis=3) / 255
        small = 1 - grey.reshape(count, 8, height // 8, 8, width // 8).mean(axis=(2, 4)).reshape(count, 64)
        return small / np.linalg.norm(small, axis=1, keepdims=True)

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        return np.stack([self._text(text) for text in texts]).astype(np.float32)

    def _text(self, text: str) -> np.ndarray:
        if text == "pole vertically upright on top of the cart":
            from vlmreward.envs.classic.cartpole import Appearance, draw, make_canvas

            picture = draw(make_canvas(64, 64, "fast", Appearance()), np.zeros(4), Appearance())
            return self.encode_images(picture[None])[0]
        seed = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest(), "little")
        vector = np.random.default_rng(seed).uniform(0, 1, 64)
        return vector / np.linalg.norm(vector)
