"""The frames of an audit, encoded once by each encoder: embeddings, labels, and small pictures to show."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from PIL import Image

from vlmreward.audit.pixels import brightness, nearness_to_last, nearness_to_success, pixel_change, thumbnails
from vlmreward.audit.sample import Array
from vlmreward.audit.survey import Block
from vlmreward.errors import ConfigError, FramesError, NonFiniteError
from vlmreward.types import BoolArray, Encoder, FloatArray, FrameBatch, Frames, RewardModel

SHOWN = 128
"""Longer side of the pictures that are kept for the report, pixels."""

SAME = 1e-4
"""Embeddings no further apart than this are one: less than it is rounding, and no text can tell them apart."""


@dataclass(frozen=True)
class Gallery:
    """N frames of one look (camera, quality) of a scene.

    Attributes:
        embeddings: By the encoder's name, float32, shape (N, D).
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
        """Return what any picture has, by name: a score that follows one of these may be no more than it.

        NaN where it needs a rollout and the picture stands alone.
        """
        return {
            "brightness": brightness(self.thumbs),
            "pixel_change": pixel_change(self.thumbs, self.episode, self.step),
        }

    def baselines(self, seed: int) -> dict[str, Array]:
        """Return scores that need no model, by name, each of shape (N,).

        Those of time are NaN for a picture that stands alone: it is the first and the last of its rollout at once.
        """
        _, rollout, sizes = np.unique(self.episode, return_inverse=True, return_counts=True)
        scores = {
            "time index": np.where(sizes[rollout] > 1, self.step, np.nan),
            "constant": np.zeros(len(self)),
            "random": np.random.default_rng(seed).random(len(self)),
            "pixels: near the last frame": nearness_to_last(self.thumbs, self.episode, self.step),
        }
        if self.success is not None:
            scores["pixels: near success"] = nearness_to_success(self.thumbs, self.success, self.episode)
        return scores

    def score(self, model: RewardModel, encoder: str) -> Array:
        """Return a reward model's rewards, float64, shape (N,); NaN where a frame could not be scored.

        Raises:
            ConfigError: The model compares frames with those that their episodes began with, and there is no episode.
        """
        table = self.embeddings[encoder]
        initial = table[self.initial_rows()] if "initial" in model.needs else None
        batch = FrameBatch(episode=self.episode, step=self.step, embeddings=table, initial=initial)
        scored = model.compute_reward(batch)
        return np.where(scored.valid, scored.reward.astype(np.float64), np.nan)

    def initial_rows(self) -> npt.NDArray[np.int64]:
        """Return for each frame the row of the one that its episode began with, shape (N,).

        A frame that stands alone (a state that was set) takes the first one of some episode: an agent that got there
        would have begun there too.

        Raises:
            ConfigError: Every frame stands alone.
        """
        order = np.lexsort((self.step, self.episode))
        _, start, inverse, sizes = np.unique(
            self.episode[order], return_index=True, return_inverse=True, return_counts=True
        )
        if sizes.max() < 2:
            raise ConfigError(
                "the reward compares frames with the first one of their episode: give columns episode, step"
            )
        first = order[start]
        first[sizes < 2] = first[int(np.argmax(sizes >= 2))]
        rows = np.empty(len(self), np.int64)
        rows[order] = first[inverse]
        return rows


def check_scores_frames(model: RewardModel, name: str) -> None:
    """Refuse a reward model that can't score frames by their embeddings, one by one or beside an episode's first.

    Raises:
        ConfigError: It looks at more than that.
    """
    if model.context != "frame" or not set(model.needs) <= {"embeddings", "initial"}:
        looks = f"context {model.context!r}" if model.context != "frame" else f"{', '.join(model.needs)}"
        raise ConfigError(f"an audit scores frames one by one, and reward {name} needs {looks}: audit the reward in it")


@dataclass(frozen=True)
class _Part:
    """What is kept of a block."""

    block: Block
    embeddings: Mapping[str, FloatArray]
    thumbs: FloatArray
    pictures: tuple[bytes, ...]


def build_gallery(blocks: Iterable[Block], encoders: Mapping[str, Encoder]) -> Gallery:
    """Encode the frames of a survey.

    Where some sources know their frames' success throughout and others don't, the others' frames are left out.

    Args:
        blocks: Of one look, all frames of one size.
        encoders: By name; each encodes every frame once.

    Raises:
        ConfigError: There are no frames, or an encoder gives all of them the same embedding.
        FramesError: The frames of two blocks differ in size.
        NonFiniteError: An encoder gives no frame a finite embedding.
    """
    parts: list[_Part] = []
    shape: tuple[int, ...] | None = None
    for block in blocks:
        shape = shape or block.frames.shape[1:]
        if block.frames.shape[1:] != shape:
            raise FramesError(f"frames of one audit must be of one size, got {shape} and {block.frames.shape[1:]}")
        parts.append(
            _Part(
                replace(block, frames=np.empty((0, *shape), np.uint8)),  # a slice would keep all of them in memory
                {name: encoder.encode_images(block.frames) for name, encoder in encoders.items()},
                thumbnails(block.frames),
                tuple(small_picture(frame) for frame in block.frames),
            )
        )
    if not parts:
        raise ConfigError("there are no frames to audit: every picture was of one colour, or none was asked for")
    silent = {part.block.source for part in parts if part.block.success is None}
    kept = [part for part in parts if part.block.source not in silent] or parts
    embeddings = {name: np.concatenate([part.embeddings[name] for part in kept]) for name in encoders}
    for name, table in embeddings.items():
        _check_embeddings(encoders[name].id, table)
    found = [part.block for part in kept]
    return Gallery(
        embeddings=embeddings,
        episode=np.concatenate([b.episode for b in found]),
        step=np.concatenate([b.step for b in found]),
        sources=tuple(b.source for b in found for _ in b.episode),
        success=_joined([b.success for b in found]),
        progress=_joined([b.progress for b in found]),
        thumbs=np.concatenate([part.thumbs for part in kept]),
        pictures=tuple(picture for part in kept for picture in part.pictures),
        refused=sum(part.block.refused for part in parts),
    )


def small_picture(frame: Frames) -> bytes:
    """Return a frame as a small JPEG, for a page."""
    picture = Image.fromarray(frame)
    picture.thumbnail((SHOWN, SHOWN))
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=85)
    return out.getvalue()


def _check_embeddings(name: str, table: FloatArray) -> None:
    """Refuse embeddings, shape (N, D), that no text can tell apart."""
    known = table[np.isfinite(table).all(axis=1)]
    if not len(known):
        raise NonFiniteError(
            f"encoder {name} gives none of {len(table)} frames a finite embedding: check its weights, or encode with "
            "precision fp32"
        )
    # a cosine with a text of unit norm differs by no more than this distance
    if len(known) > 1 and np.linalg.norm(known - known[0], axis=1).max() <= SAME:
        raise ConfigError(f"encoder {name} maps all {len(table)} frames to one vector: no text can tell them apart")


def _joined(parts: list) -> np.ndarray | None:
    return None if any(part is None for part in parts) else np.concatenate(parts)
