"""From captured frames to raw rewards: encode each picture once, keep per-environment state, ask the reward model.

No threads and no buffers here. Rows are given in the order in which they happened, in jobs of any size, and the result
does not depend on where one job ends and the next begins.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from vlmreward.encoders.frame_hash import distinct, hash_frames
from vlmreward.errors import ConfigError
from vlmreward.types import (
    BoolArray,
    Encoder,
    FloatArray,
    FrameBatch,
    Frames,
    KeyedEncoder,
    Keys,
    RewardBatch,
    RewardModel,
)
from vlmreward.wrappers.capture_frames import REASONS
from vlmreward.wrappers.episode_history import EpisodeHistory, Segment
from vlmreward.wrappers.frame_gate import FrameGate, GatedEmbeddings
from vlmreward.wrappers.relabelling import VERSION, LearnedRows, does_learn

ROW_DTYPE = np.dtype(
    [
        ("ticket", "<i8"),  # number of the vec step; -1 for the frame of a reset
        ("env", "<i8"),
        ("slot", "<i8"),  # where the frame is
        ("episode", "<i8"),
        ("step", "<i8"),
        ("env_reward", "<f4"),
        ("terminated", "?"),
        ("truncated", "?"),
        ("reset", "?"),
        ("reason", "u1"),
    ],
    align=True,
)
"""One captured frame."""

_ENCODER_LOCK = threading.Lock()
"""An encoder may own buffers, and a training and an evaluation scorer may share it: one call at a time."""


class Transform(Protocol):
    """What turns raw rewards into the number an agent learns from (see ``vlmreward.rewards.transform``)."""

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of those parts of a reward, K, that are needed beside it; usually none."""
        ...

    def update(
        self,
        raw: npt.NDArray[np.floating],
        valid: BoolArray,
        env_reward: npt.NDArray[np.floating] | None = None,
        parts: npt.NDArray[np.floating] | None = None,
    ) -> None:
        """Take the valid rows into the statistics."""
        ...

    def apply(
        self,
        raw: npt.NDArray[np.floating],
        env_reward: npt.NDArray[np.floating] | None = None,
        parts: npt.NDArray[np.floating] | None = None,
    ) -> FloatArray:
        """Return the rewards to learn from, in the shape of ``raw``."""
        ...

    def restart(self) -> None:
        """Forget the statistics: rewards are labelled anew."""
        ...

    def log_values(self) -> dict[str, float]:
        """Return numbers for the log, by key."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return the statistics as plain numbers."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over statistics."""
        ...


@dataclass(frozen=True)
class Gathered:
    """The pictures of a job, each content once.

    Attributes:
        unique: uint8, shape (U, H, W, 3).
        index: Row of ``unique`` for each of the job's M rows, shape (M,); -1 for a frame that the guard refused.
        keys: Of ``unique``, as ``hash_frames`` gives them, uint64, shape (U, 2).
    """

    unique: Frames
    index: npt.NDArray[np.int64]
    keys: Keys


@dataclass(frozen=True)
class ScoredRows:
    """Raw rewards of K transitions.

    Attributes:
        rows: ``ROW_DTYPE``, shape (K,).
        raw: float32, shape (K,); 0 where not valid.
        valid: shape (K,).
        parts: The parts of the rewards that were asked for, float32, shape (K, number of parts).
        reasons: Row number to reason, for every invalid row.
        pictures: Number of pictures that were encoded.
        seconds: Time in the encoder.
        learned: What a reward that learns is scored anew from; None for others.
    """

    rows: np.ndarray
    raw: FloatArray
    valid: BoolArray
    parts: FloatArray
    reasons: dict[int, str] = field(default_factory=dict)
    pictures: int = 0
    seconds: float = 0.0
    learned: LearnedRows | None = None


def stack_frames(frames: Sequence[Frames]) -> Frames:
    """Return pictures, each (H, W, 3), as a store for ``gather``; of none, a black pixel that no row points at."""
    return np.stack(frames) if frames else np.zeros((1, 1, 1, 3), np.uint8)


def gather(rows: np.ndarray, store: Frames) -> Gathered:
    """Copy the frames of a job out of shared memory, equal ones once.

    Args:
        rows: ``ROW_DTYPE``, shape (M,).
        store: uint8, shape (slots, H, W, 3), contiguous.
    """
    good = np.flatnonzero(rows["reason"] == 0)
    slots = rows["slot"][good]
    keys = hash_frames(store[slot] for slot in slots)
    first, index_of_good = distinct(keys)
    index = np.full(len(rows), -1, dtype=np.int64)
    index[good] = index_of_good
    return Gathered(store[slots[first]], index, keys[first])


class FrameScorer:
    """Scores rows of ``n_envs`` environments with one encoder and one reward model.

    Args:
        encoder: Frozen encoder; None for a model that looks at pixels alone.
        reward_model: Scores embeddings or frames.
        n_envs: Number of environments.
        instruction: Handed to the reward model with every batch.
        parts: Names of parts of the rewards that are wanted beside them.
        gate: Decides which frames are encoded; None: all.

    Raises:
        ConfigError: The model needs what can't be given.
    """

    def __init__(
        self,
        encoder: Encoder | None,
        reward_model: RewardModel,
        n_envs: int,
        instruction: str = "",
        parts: tuple[str, ...] = (),
        gate: FrameGate | None = None,
    ) -> None:
        needs, context = set(reward_model.needs), reward_model.context
        self._whole = context in ("prefix", "episode")  # the model sees episodes from their start, not single rows
        self._previous = "previous" in needs or context == "pair"
        self._initial = "initial" in needs
        self._pixels = "frames" in needs
        self._embed = bool(needs & {"embeddings", "initial", "previous"}) or not self._pixels or self._previous
        if self._embed and encoder is None:
            raise ConfigError(f"{type(reward_model).__name__} needs embeddings, got no encoder: give one")
        if self._pixels and self._whole:
            raise ConfigError(
                f"{type(reward_model).__name__} looks at pixels with context {context!r}: while an agent is trained "
                "pixels are not kept; use a model with context 'frame', or one on embeddings"
            )
        if "reference" in needs:
            raise ConfigError(
                f"{type(reward_model).__name__} needs a reference trajectory, which there is none of here"
            )
        if gate is not None and (self._whole or self._previous or not self._embed):
            why = "looks at pixels alone" if not self._embed else "compares frames with earlier ones"
            raise ConfigError(
                f"frame_gate={gate.threshold:g} is for rewards that score the embedding of each frame by itself, and "
                f"{type(reward_model).__name__} {why}: leave it out"
            )
        self._encoder, self._model, self._instruction, self._parts = encoder, reward_model, instruction, parts
        self._learns = does_learn(reward_model)
        self._keyed = encoder if isinstance(encoder, KeyedEncoder) else None
        self._gate = gate
        self._history = EpisodeHistory(n_envs, whole_episodes=context == "episode") if self._whole else None
        # Two vectors per environment, float32: rounded ones would make a reward depend on where a batch ends.
        self._state: dict[str, list[FloatArray | None]] = {
            "initial": [None] * n_envs,
            "previous": [None] * n_envs,
        }

    @property
    def needs_reset_frames(self) -> bool:
        """Whether frames of resets are scored rows' context; if not, they need not be encoded."""
        return self._whole or self._initial or self._previous

    def score(self, rows: np.ndarray, gathered: Gathered) -> ScoredRows:
        """Score the transitions of a job.

        Args:
            rows: ``ROW_DTYPE``, shape (M,), in the order in which the frames were captured.
            gathered: Their pictures.

        Returns:
            One row for each transition that can be scored now: all of the job's, except with context ``"episode"``,
            where an episode's rows come when it has ended.
        """
        reasons = {int(row): REASONS[rows["reason"][row]] for row in np.flatnonzero(rows["reason"])}
        embeddings: FloatArray | None = None
        gated: GatedEmbeddings | None = None
        pictures, seconds = 0, 0.0
        if self._gate is not None:
            gated = self._gate.embed(rows, gathered, self._encode)
            embeddings, pictures, seconds = gated.embeddings, gated.pictures, gated.seconds
        elif self._embed:
            unique, seconds = self._encode(gathered.unique, gathered.keys)
            embeddings = unique[gathered.index] if len(unique) else np.zeros((len(rows), 1), np.float32)
            pictures = len(gathered.unique)
        if embeddings is not None:
            for row in np.flatnonzero((gathered.index >= 0) & ~np.isfinite(embeddings).all(axis=1)):
                reasons[int(row)] = "embedding is not finite"
        if self._history is not None:
            assert embeddings is not None
            scored = self._score_segments(*self._history.advance(rows, embeddings, reasons))
        else:
            scored = self._score_rows(rows, gathered, embeddings, reasons, gated)
        return replace(scored, pictures=pictures, seconds=seconds)

    def _encode(self, frames: Frames, keys: Keys) -> tuple[FloatArray, float]:
        assert self._encoder is not None
        if len(frames) == 0:
            return np.empty((0, 1), np.float32), 0.0
        with _ENCODER_LOCK:
            start = time.perf_counter()
            known = self._keyed
            found = self._encoder.encode_images(frames) if known is None else known.encode_keyed(frames, keys)
            embeddings = np.asarray(found, dtype=np.float32)
            seconds = time.perf_counter() - start
        if embeddings.ndim != 2 or len(embeddings) != len(frames):
            raise ValueError(
                f"encoder {self._encoder.id} returned shape {embeddings.shape} for {len(frames)} frames, not (N, D)"
            )
        return embeddings, seconds

    def _score_rows(
        self,
        rows: np.ndarray,
        gathered: Gathered,
        embeddings: FloatArray | None,
        reasons: dict[int, str],
        gated: GatedEmbeddings | None = None,
    ) -> ScoredRows:
        """Score each transition by itself, with its initial and previous frame where they are needed."""
        initial = previous = None
        if embeddings is not None and (self._initial or self._previous):
            initial, previous = self._contexts(rows, embeddings, reasons)
        out = np.flatnonzero(~rows["reset"])
        good = np.array([row for row in out if int(row) not in reasons], dtype=np.int64)
        result = self._ask(
            rows[good],
            embeddings=None if embeddings is None else embeddings[good],
            initial=initial[good] if self._initial and initial is not None else None,
            previous=previous[good] if self._previous and previous is not None else None,
            frames=gathered.unique[gathered.index[good]] if self._pixels else None,
        )
        raw, valid = np.zeros(len(rows), np.float32), np.zeros(len(rows), bool)
        parts = np.zeros((len(rows), len(self._parts)), np.float32)
        raw[good], valid[good], parts[good] = result.reward, result.valid, self._columns(result)
        if gated is not None:
            self._compare(rows, gathered, initial, np.column_stack([raw, parts]), valid, gated)
        reasons |= {int(good[number]): reason for number, reason in result.reasons.items()}
        position = {int(row): number for number, row in enumerate(out)}
        reasons = {position[row]: why for row, why in reasons.items() if row in position}
        learned = None
        if self._learns and embeddings is not None:
            versions = np.zeros(len(rows), np.int32)
            versions[good] = result.parts[VERSION]
            learned = LearnedRows(embeddings[out].astype(np.float16), versions[out])
        return ScoredRows(rows[out], raw[out], valid[out], parts[out], reasons, learned=learned)

    def _compare(
        self,
        rows: np.ndarray,
        gathered: Gathered,
        initial: FloatArray | None,
        given: FloatArray,
        valid: BoolArray,
        gated: GatedEmbeddings,
    ) -> None:
        """Score sampled frames with their own embeddings, beside what all rows were given, (M, 1 + number of parts)."""
        assert self._gate is not None
        usable = np.isfinite(gated.own).all(axis=1)
        if self._initial and initial is not None:
            usable &= np.isfinite(initial[gated.sample]).all(axis=1)
        sample = gated.sample[usable]
        result = self._ask(
            rows[sample],
            embeddings=gated.own[usable],
            initial=initial[sample] if self._initial and initial is not None else None,
            frames=gathered.unique[gathered.index[sample]] if self._pixels else None,
        )
        own, own_valid = np.zeros((len(gated.sample), given.shape[1]), np.float32), np.zeros(len(gated.sample), bool)
        own[usable] = np.column_stack([result.reward, self._columns(result)])
        own_valid[usable] = result.valid
        self._gate.compare(given[gated.sample], own, valid[gated.sample], own_valid)

    def _contexts(
        self, rows: np.ndarray, embeddings: FloatArray, reasons: dict[int, str]
    ) -> tuple[FloatArray, FloatArray]:
        """Return each row's initial and previous embedding, (M, D) both, and bring the state up to date.

        A row whose needed context was a bad frame gets a reason; its own frame is still the next row's previous. What
        is not known is NaN.
        """
        first, before = (np.full_like(embeddings, np.nan) for _ in range(2))
        initial, previous = self._state["initial"], self._state["previous"]
        bad_frames = set(reasons)
        for row, (env, reset) in enumerate(zip(rows["env"].tolist(), rows["reset"].tolist(), strict=True)):
            own = None if row in bad_frames else embeddings[row]
            if reset:
                initial[env] = previous[env] = own
                continue
            contexts = (
                (self._initial, "initial", initial[env], first),
                (self._previous, "previous", previous[env], before),
            )
            for needed, name, value, out in contexts if own is not None else ():
                if needed and value is None:
                    reasons.setdefault(row, f"no valid {name} frame")
                elif value is not None:
                    out[row] = value
            previous[env] = own
        for state in self._state.values():  # copies: a view would keep the whole job's embeddings alive
            state[:] = [None if value is None else value.copy() for value in state]
        return first, before

    def _score_segments(self, segments: list[Segment], lost: list[tuple[np.void, str]]) -> ScoredRows:
        """Score episodes from their start, and return the rows that are new."""
        rows: list[np.void] = [row for row, _ in lost]
        nothing = np.zeros(len(self._parts), np.float32)
        raw, parts, why = [0.0] * len(lost), [nothing] * len(lost), [reason for _, reason in lost]
        for segment in segments:
            steps = segment.rows["step"]
            before = np.maximum(np.arange(len(steps)) - 1, 0)
            result = self._ask(
                segment.rows,
                embeddings=segment.embeddings,
                initial=np.repeat(segment.embeddings[:1], len(steps), axis=0) if self._initial else None,
                previous=segment.embeddings[before] if self._previous else None,
            )
            columns = self._columns(result)
            for row in np.flatnonzero(segment.fresh).tolist():
                reason = result.reasons.get(row, "")
                if self._initial and steps[0] != 0:
                    reason = "no valid initial frame"
                elif self._previous and steps[row] != steps[before[row]] + 1:
                    reason = "no valid previous frame"
                rows.append(segment.rows[row])
                raw.append(0.0 if reason else float(result.reward[row]))
                parts.append(nothing if reason else columns[row])
                why.append(reason)
        order = sorted(range(len(rows)), key=lambda k: (rows[k]["ticket"], rows[k]["env"]))
        return ScoredRows(
            np.array([rows[k] for k in order], dtype=ROW_DTYPE),
            np.array([raw[k] for k in order], dtype=np.float32),
            np.array([not why[k] for k in order], dtype=bool),
            np.array([parts[k] for k in order], dtype=np.float32).reshape(len(order), len(self._parts)),
            {number: why[k] for number, k in enumerate(order) if why[k]},
        )

    def _columns(self, result: RewardBatch) -> FloatArray:
        """Return the parts that are wanted, float32, shape (N, number of parts); 0 where a row is not valid."""
        parts = np.zeros((len(result.valid), len(self._parts)), np.float32)
        for column, name in enumerate(self._parts):
            parts[:, column] = np.where(result.valid, result.parts[name], np.float32(0))
        return parts

    def _ask(
        self,
        rows: np.ndarray,
        embeddings: FloatArray | None = None,
        initial: FloatArray | None = None,
        previous: FloatArray | None = None,
        frames: Frames | None = None,
    ) -> RewardBatch:
        """Ask the reward model; every row of the answer is finite, or invalid with a reason."""
        if len(rows) == 0:
            nothing = np.empty(0, np.float32)
            return RewardBatch(nothing, np.empty(0, bool), parts=dict.fromkeys((*self._parts, VERSION), nothing))
        batch = FrameBatch(
            episode=np.ascontiguousarray(rows["episode"]),
            step=np.ascontiguousarray(rows["step"]),
            instruction=self._instruction,
            frames=frames,
            embeddings=embeddings,
            initial=initial,
            previous=previous,
            terminated=np.ascontiguousarray(rows["terminated"]),
            truncated=np.ascontiguousarray(rows["truncated"]),
            env_reward=np.ascontiguousarray(rows["env_reward"]),
        )
        result = self._model.compute_reward(batch)
        reward, valid = np.asarray(result.reward, np.float32), np.asarray(result.valid, bool)
        if reward.shape != (len(rows),) or valid.shape != (len(rows),):
            name = type(self._model).__name__
            raise ValueError(f"{name} returned reward {reward.shape} and valid {valid.shape} for {len(rows)} rows")
        finite = np.isfinite(reward)
        for name in self._parts:
            finite &= np.isfinite(result.parts[name])
        reasons = {int(row): "reward is not finite" for row in np.flatnonzero(valid & ~finite)}
        refused = "refused by the model"
        reasons |= {int(row): result.reasons.get(int(row)) or refused for row in np.flatnonzero(~valid)}
        good = valid & finite
        return RewardBatch(np.where(good, reward, np.float32(0)), good, parts=result.parts, reasons=reasons)
