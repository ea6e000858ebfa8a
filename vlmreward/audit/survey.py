"""Draw the frames of an audit from an environment: states set one by one, and episodes of a policy.

Frames come in blocks, so that memory does not grow with their number. The same seed gives the same states and
episodes under another camera or quality, since neither has a part in the physics.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol

import gymnasium as gym
import numpy as np
import numpy.typing as npt

from vlmreward.types import BoolArray, Frames, Surveyable
from vlmreward.wrappers.capture_frames import capture_frame

BLOCK = 256
"""Frames of a block at most."""

MOST_STEPS = 2_000
"""Steps of one episode at most: an environment without a time limit is left there."""


class Acts(Protocol):
    """Chooses the actions of one environment."""

    def start(self, slot: int, seed: int) -> None:
        """Note that an episode begins."""
        ...

    def act(self, obs: Any) -> np.ndarray:
        """Return one action, shape (1, ...), for stacked observations, shape (1, ...)."""
        ...


@dataclass(frozen=True)
class Block:
    """Some frames and what is true of them.

    Attributes:
        frames: uint8, shape (N, H, W, 3).
        source: Where they come from: ``"states"``, a policy's name, or a folder's.
        episode: Rollout of each, int64, shape (N,); a state that was set is one of its own.
        step: Place in it, int64, shape (N,).
        success: Whether each shows the goal reached, shape (N,); None where nobody knows.
        progress: How near each is to the goal, float64, shape (N,); None where nobody knows.
        refused: Pictures of one colour that were left out since the last block.
    """

    frames: Frames
    source: str
    episode: npt.NDArray[np.int64]
    step: npt.NDArray[np.int64]
    success: BoolArray | None
    progress: npt.NDArray[np.float64] | None
    refused: int = 0


class _Rows:
    """Collects frames and labels into blocks."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.added = 0
        self._rows: list[tuple[Frames, int, int, bool | None, float | None]] = []
        self._refused = 0

    def add(self, env: gym.Env, episode: int, step: int, label: tuple[bool | None, float | None]) -> None:
        """Take the present picture, unless it is of one colour and so shows nothing."""
        frame, reason = capture_frame(env)
        if frame is None or reason:
            self._refused += 1
        else:
            self._rows.append((frame, episode, step, *label))
            self.added += 1

    def take(self, least: int = BLOCK) -> Iterator[Block]:
        """Yield what there is, if it is at least so much."""
        if len(self._rows) < least:
            return
        frames, episode, step, success, progress = zip(*self._rows, strict=True)
        yield Block(
            np.stack(frames),
            self.source,
            np.array(episode, np.int64),
            np.array(step, np.int64),
            None if None in success else np.array(success, bool),
            None if None in progress else np.array(progress, np.float64),
            self._refused,
        )
        self._rows.clear()
        self._refused = 0


def survey_states(env: gym.Env, task: str | None, count: int, seed: int, first_episode: int = 0) -> Iterator[Block]:
    """Yield pictures of states over everything that the environment can reach.

    Args:
        env: Whose ``unwrapped`` is :class:`vlmreward.types.Surveyable`.
        task: The goal whose success and progress are the labels; None: there are none.
        count: How many.
        seed: Of the states.
        first_episode: Number of the first frame's rollout.

    Raises:
        RenderingError: A picture can't be made.
    """
    bare = env.unwrapped
    assert isinstance(bare, Surveyable)
    env.reset(seed=seed)  # a wrapper refuses to render before that
    rows = _Rows("states")
    for number, state in enumerate(bare.sample_states(np.random.default_rng(seed), count, task)):
        bare.set_state(state)
        rows.add(env, first_episode + number, 0, _label(env, task, {}))
        yield from rows.take()
    yield from rows.take(1)


def survey_episodes(
    env: gym.Env,
    task: str | None,
    policy: Acts,
    source: str,
    count: int,
    seed: int,
    stride: int = 1,
    first_episode: int = 0,
) -> Iterator[Block]:
    """Yield pictures of a policy's episodes.

    Args:
        env: Environment with pictures.
        task: The goal whose success and progress are the labels; where the environment can't judge it, its info says
            whether there is success. Where it says so of its steps but not of its reset, as is usual, the
            reset's frame has no label and is left out.
        policy: Chooses the actions, built for one environment.
        source: The policy's name.
        count: How many frames; fewer if none can be taken from ``count`` episodes on end.
        seed: Of the first episode's reset; the next ones count on.
        stride: Steps from one frame to the next.
        first_episode: Number of the first frame's rollout.

    Raises:
        RenderingError: A picture can't be made.
    """
    rows = _Rows(source)
    first_step = _first_step(env, task, policy, seed)
    for number in range(count):
        for step, info in _play(env, policy, seed + number):
            if step >= first_step and (step - first_step) % stride == 0:
                rows.add(env, first_episode + number, step, _label(env, task, info))
                yield from rows.take()
            if rows.added == count:
                break
        if rows.added == count:
            break
    yield from rows.take(1)


def _first_step(env: gym.Env, task: str | None, policy: Acts, seed: int) -> int:
    """Return the step of the first frame to take: 1 where the first step has a label of success but the reset not."""
    labels = [_label(env, task, info)[0] for _, info in islice(_play(env, policy, seed), 2)]
    return int([label is None for label in labels] == [True, False])


def _play(env: gym.Env, policy: Acts, seed: int) -> Iterator[tuple[int, dict[str, Any]]]:
    """Play one episode; yield the number and the info of every step, the reset's first."""
    obs, info = env.reset(seed=seed)
    policy.start(0, seed)
    step, ended = 0, False
    yield step, info
    while not ended and step < MOST_STEPS:
        obs, _, terminated, truncated, info = env.step(policy.act(_stack(obs))[0])
        step, ended = step + 1, terminated or truncated
        yield step, info


def _stack(obs: Any) -> Any:
    return {key: value[None] for key, value in obs.items()} if isinstance(obs, dict) else np.asarray(obs)[None]


def _label(env: gym.Env, task: str | None, info: dict[str, Any]) -> tuple[bool | None, float | None]:
    """Return success and progress of the present state: the environment's judgement, or what it says of success."""
    bare = env.unwrapped
    if task is not None and isinstance(bare, Surveyable):
        success, progress = bare.judge(task)
        return bool(success), float(progress)
    said = info.get("success")
    return (None if said is None else bool(said)), None
