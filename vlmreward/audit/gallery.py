"""The frames of an audit, encoded once by each encoder: embeddings, labels, and small pictures to show."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from vlmreward.audit.pixels import brightness, nearness_to_last, nearness_to_success, pixel_change, thumbnails
from vlmreward.audit.sample import Array
from vlmreward.audit.survey import Block
from vlmreward.errors import ConfigError, FramesError
from vlmreward.types import BoolArray, Encoder, FloatArray, FrameBatch, Frames, RewardModel

SHOWN = 128
"""Longer side of the pictures that are kept for the report, pixels."""


@dataclass(frozen=True)
class Gallery:
    """N frames of one look (camera, quality) of a scene.

    Attributes:
        embeddings: By the encoder's id, float32, shape (N, D).
        episode: Rollout of each frame, int64, shape (N,).
        step: Place in it, int64, shape (N,).
        sources: Where each frame comes from, length N.
        success: Shape (N,), or None where nobody knows.
        progress: Shape (N,), or None.
        thumbs: Of :func:`vlmreward.audit.pixels.thumbnails`, shape (N, K).
        pictures: Small JPEG of each frame.
        refused: Pictures of one colour that were left out.
    """

    embeddings: Mapping[str, FloatArray]
    episode: npt.NDArray[np.int64]
    step: npt.NDArray[np.int64]
    sources: tuple[str, ...]
    success: BoolArray | None
    progress: Array | None
    thumbs: FloatArray
    pictures: tuple[bytes, ...]
    refused: int

    def __len__(self) -> int:
        """Return the number of frames."""
        return len(self.episode)

    @property
    def cues(self) -> dict[str, Array]:
        """Return what any picture has, by name: a score that follows one of these may be no more than it."""
        return {
            "brightness": brightness(self.thumbs),
            "pixel_change": pixel_change(self.thumbs, self.episode, self.step),
        }

    def baselines(self, seed: int) -> dict[str, Array]:
        """Return scores that need no model, by name, each of shape (N,)."""
        scores = {
            "time index": self.step.astype(np.float64),
            "constant": np.zeros(len(self)),
            "random": np.random.default_rng(seed).random(len(self)),
            "pixels: near the last frame": nearness_to_last(self.thumbs, self.episode, self.step),
        }
        if self.success is not None:
            scores["pixels: near success"] = nearness_to_success(self.thumbs, self.success, self.episode)
        return scores

    def score(self, model: RewardModel, encoder_id: str) -> Array:
        """Return a reward model's rewards, float64, shape (N,); NaN where a frame could not be scored."""
        batch = FrameBatch(episode=self.episode, step=self.step, embeddings=self.embeddings[encoder_id])
        scored = model.compute_reward(batch)
        return np.where(scored.valid, scored.reward.astype(np.float64), np.nan)


def check_scores_frames(model: RewardModel, name: str) -> None:
    """Refuse a reward model that can't score frames by their embeddings one by one.

    Raises:
        ConfigError: It looks at more than that.
    """
    if model.context != "frame" or not set(model.needs) <= {"embeddings"}:
        looks = f"context {model.context!r}" if model.context != "frame" else f"{', '.join(model.needs)}"
        raise ConfigError(f"an audit scores frames one by one, and reward {name} needs {looks}: audit the reward in it")


def build_gallery(blocks: Iterable[Block], encoders: Iterable[Encoder]) -> Gallery:
    """Encode the frames of a survey.

    Args:
        blocks: Of one look, all frames of one size.
        encoders: Each encodes every frame once.

    Raises:
        ConfigError: There are no frames, or an encoder gives all of them the same embedding.
        FramesError: The frames of two blocks differ in size.
    """
    models = list(encoders)
    found: list[Block] = []
    rows: dict[str, list[FloatArray]] = {encoder.id: [] for encoder in models}
    thumbs: list[FloatArray] = []
    pictures: list[bytes] = []
    shape: tuple[int, ...] | None = None
    for block in blocks:
        shape = shape or block.frames.shape[1:]
        if block.frames.shape[1:] != shape:
            raise FramesError(f"frames of one audit must be of one size, got {shape} and {block.frames.shape[1:]}")
        for encoder in models:
            rows[encoder.id].append(encoder.encode_images(block.frames))
        thumbs.append(thumbnails(block.frames))
        pictures.extend(small_picture(frame) for frame in block.frames)
        found.append(Block(block.frames[:0], *_labels(block)))  # without the frames, which are most of it
    if not found:
        raise ConfigError("there are no frames to audit: every picture was of one colour, or none was asked for")
    embeddings = {name: np.concatenate(parts) for name, parts in rows.items()}
    for name, table in embeddings.items():
        if len(table) > 1 and np.ptp(table[np.isfinite(table).all(axis=1)], axis=0).max(initial=0.0) == 0:
            raise ConfigError(f"encoder {name} maps all {len(table)} frames to one vector: no text can tell them apart")
    return Gallery(
        embeddings=embeddings,
        episode=np.concatenate([b.episode for b in found]),
        step=np.concatenate([b.step for b in found]),
        sources=tuple(b.source for b in found for _ in b.episode),
        success=_joined([b.success for b in found]),
        progress=_joined([b.progress for b in found]),
        thumbs=np.concatenate(thumbs),
        pictures=tuple(pictures),
        refused=sum(b.refused for b in found),
    )


def small_picture(frame: Frames) -> bytes:
    """Return a frame as a small JPEG, for a page."""
    picture = Image.fromarray(frame)
    picture.thumbnail((SHOWN, SHOWN))
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=85)
    return out.getvalue()


def _labels(block: Block) -> tuple:
    return block.source, block.episode, block.step, block.success, block.progress, block.refused


def _joined(parts: list) -> np.ndarray | None:
    return None if any(part is None for part in parts) else np.concatenate(parts)
