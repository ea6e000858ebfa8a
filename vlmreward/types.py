"""The contracts between encoders, reward models, environments and datasets.

Arrays are NumPy. Frames are RGB, uint8, shape (N, H, W, 3).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from vlmreward.errors import FramesError

Frames = npt.NDArray[np.uint8]
Keys = npt.NDArray[np.uint64]
FloatArray = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]
Context = Literal["frame", "pair", "prefix", "episode"]

NORM_TOLERANCE = 1e-2
"""How far from 1 the norm of an image embedding may be: float16 and bfloat16 storage move it by less."""


def check_frames(frames: np.ndarray) -> None:
    """Check that frames obey the contract.

    Args:
        frames: What should be uint8, shape (N, H, W, 3), N > 0.

    Raises:
        FramesError: It is not.
    """
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or 0 in frames.shape:
        raise FramesError(
            f"frames must be uint8 of shape (N, H, W, 3) with N > 0, got {frames.dtype} {frames.shape}: "
            "convert with frames.astype(np.uint8) and put the colour channels last"
        )


@dataclass(frozen=True)
class FrameBatch:
    """What a reward model sees: frames or their embeddings, and where they come from.

    Attributes:
        episode: Episode number of each row, int64, shape (N,).
        step: Number of the frame in its episode, int64, shape (N,); 0 is the frame of the reset.
        instruction: What the agent was asked to do; one for all rows, or one per row.
        frames: uint8, shape (N, H, W, 3), for models that look at pixels.
        embeddings: Unit-norm image embeddings, float, shape (N, D), for heads on a frozen encoder.
        initial: Embeddings of each episode's first frame, shape (N, D), if the model declares ``needs``.
        previous: Embeddings of the frame before each row, shape (N, D), if declared.
        reference: Embeddings of a reference trajectory, shape (K, D), if declared.
        terminated: True at true ends of an episode, shape (N,).
        truncated: True at time limits, shape (N,).
        env_reward: The environment's own reward, float32, shape (N,).
        quantities: Named numbers that the environment reports, each of shape (N,). Read only by composers.
    """

    episode: npt.NDArray[np.int64]
    step: npt.NDArray[np.int64]
    instruction: str | Sequence[str] = ""
    frames: Frames | None = None
    embeddings: npt.NDArray[np.floating] | None = None
    initial: npt.NDArray[np.floating] | None = None
    previous: npt.NDArray[np.floating] | None = None
    reference: npt.NDArray[np.floating] | None = None
    terminated: BoolArray | None = None
    truncated: BoolArray | None = None
    env_reward: FloatArray | None = None
    quantities: Mapping[str, FloatArray] = field(default_factory=dict)

    def __len__(self) -> int:
        """Return the number of rows, N."""
        return len(self.episode)


@dataclass(frozen=True)
class RewardBatch:
    """What a reward model returns for a FrameBatch of N rows.

    Attributes:
        reward: float32, shape (N,). Meaningless where ``valid`` is False.
        valid: False where the row could not be scored; such a row is counted and never learned from.
        success: Probability that the instruction is done, float32 in [0, 1], shape (N,), or None.
        parts: Named terms of the reward, each float32, shape (N,).
        reasons: Why rows are invalid: row number to reason.
    """

    reward: FloatArray
    valid: BoolArray
    success: FloatArray | None = None
    parts: Mapping[str, FloatArray] = field(default_factory=dict)
    reasons: Mapping[int, str] = field(default_factory=dict)


@runtime_checkable
class Encoder(Protocol):
    """A frozen model that maps pictures and texts into one space of unit vectors.

    Attributes:
        id: Changes whenever weights or preprocessing change; the cache key of embeddings.
        image_size: Side of the square picture that the image tower takes, in pixels.
        dim: Length of an embedding, D.
        licence: Licence of the weights, as an SPDX id where there is one.
    """

    id: str
    image_size: int
    dim: int
    licence: str

    def encode_images(self, frames: Frames) -> FloatArray:
        """Return unit-norm embeddings, float32, shape (N, D), of frames uint8, shape (N, H, W, 3).

        A row that could not be computed is NaN: whoever scores it marks it invalid.
        """
        ...

    def encode_texts(self, texts: Sequence[str]) -> FloatArray:
        """Return unit-norm embeddings, float32, shape (M, D)."""
        ...


@runtime_checkable
class KeyedEncoder(Protocol):
    """An encoder that knows frames by their keys (``vlmreward.encoders.frame_hash``), and need not make them again."""

    def encode_keyed(self, frames: Frames, keys: Keys) -> FloatArray:
        """Return what ``encode_images`` does, for frames whose keys are known: uint64, shape (N, 2)."""
        ...


@runtime_checkable
class RewardModel(Protocol):
    """Scores a batch of frames or embeddings against an instruction.

    Attributes:
        context: What one row's reward depends on: its frame, the pair with the previous frame, all
            frames before it in the episode, or the whole episode.
        causal: True if no reward depends on a later frame.
        range: Smallest and largest possible reward, before scaling.
        needs: Names of the optional FrameBatch fields the model reads, e.g. ``("embeddings", "initial")``.
    """

    context: Context
    causal: bool
    range: tuple[float, float]
    needs: tuple[str, ...]

    def compute_reward(self, batch: FrameBatch) -> RewardBatch:
        """Score every row of the batch."""
        ...


@dataclass(frozen=True)
class Axis:
    """One quantity of an environment's state, over the range in which it is looked at.

    Attributes:
        name: What it is, e.g. ``"angle"``.
        low: Smallest value.
        high: Largest value.
        unit: e.g. ``"degrees"``; "" for a share.
    """

    name: str
    low: float
    high: float
    unit: str = ""


@dataclass(frozen=True)
class Sweep:
    """A line or a plane through an environment's states, along which a reward can be drawn.

    Attributes:
        axes: One or two.
        state_at: Returns the state at one value for each axis, float64, shape (S,).
    """

    axes: tuple[Axis, ...]
    state_at: Callable[..., npt.NDArray[np.float64]]


@runtime_checkable
class Surveyable(Protocol):
    """An environment whose states can be set and judged, so that a reward can be examined before there is an agent."""

    def sample_states(self, rng: np.random.Generator, count: int, task: str | None) -> npt.NDArray[np.float64]:
        """Draw states over everything that the environment can reach, with enough of them near a task's goal.

        Returns:
            float64, shape (count, S).
        """
        ...

    def set_state(self, state: npt.NDArray[np.float64]) -> None:
        """Put the environment into a state, float64, shape (S,), at rest where the state has no velocities."""
        ...

    def judge(self, task: str) -> tuple[bool, float]:
        """Return whether a task's predicate is true of the present state, and how near it is: higher is nearer."""
        ...

    def sweeps(self, task: str | None) -> tuple[Sweep, ...]:
        """Return the lines and planes along which a task's reward is worth looking at."""
        ...
