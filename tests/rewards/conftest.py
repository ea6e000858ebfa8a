"""Encoders whose answers are known."""

import hashlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pytest


class FakeEncoder:
    """Gives chosen vectors to chosen texts, and a seeded random direction to any other text or picture."""

    id = "fake"
    image_size = 8
    licence = "MIT"

    def __init__(self, dim: int = 16, texts: Mapping[str, Sequence[float] | np.ndarray] | None = None) -> None:
        self.dim = dim
        self.texts = dict(texts or {})
        self.text_calls = 0
        self.image_calls = 0

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        self.text_calls += 1
        return np.stack([np.asarray(self.texts.get(t, self._random(t.encode())), dtype=np.float32) for t in texts])

    def encode_images(self, frames: np.ndarray) -> np.ndarray:
        self.image_calls += 1
        return np.stack([self._random(frame.tobytes()) for frame in frames])

    def _random(self, key: bytes) -> np.ndarray:
        seed = int.from_bytes(hashlib.sha256(key).digest()[:8], "little")
        vector = np.random.default_rng(seed).normal(size=self.dim)
        return (vector / np.linalg.norm(vector)).astype(np.float32)


@pytest.fixture(scope="session")
def fake_encoder() -> Callable[..., FakeEncoder]:
    return FakeEncoder
