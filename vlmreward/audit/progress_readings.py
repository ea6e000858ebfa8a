"""What a reward model makes of one recorded episode: forwards, backwards, so far, and for other instructions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from vlmreward.audit.pixels import distance
from vlmreward.audit.progress_metrics import last_known
from vlmreward.errors import ConfigError
from vlmreward.rewards.accumulation import accumulate_strided
from vlmreward.types import FloatArray, FrameBatch, Frames, RewardBatch, RewardModel

Array = npt.NDArray[np.float64]

ANCHORS = 8
"""Frames of an episode at which a model that looks ahead is asked again, with the episode up to there alone."""

READS = frozenset({"embeddings", "frames", "initial", "previous"})


@dataclass(frozen=True)
class Film:
    """A recorded episode, and what is known of it.

    Attributes:
        number: Its place in the dataset.
        instruction: What was to be done.
        success: The recorded outcome, or None.
        frames: uint8, shape (F, H, W, 3), F > 1.
        step: Number of each frame in the recording, int64, shape (F,).
        thumbs: Thumbnails, float32, shape (F, K).
        embeddings: By the name of an encoder, float32, shape (F, D).
        progress: True progress of each frame, shape (F,), or None.
        done: Whether each frame truly shows it done, 0 or 1, shape (F,), or None.
    """

    number: int
    instruction: str
    success: bool | None
    frames: Frames
    step: npt.NDArray[np.int64]
    thumbs: FloatArray
    embeddings: Mapping[str, FloatArray] = field(default_factory=dict)
    progress: Array | None = None
    done: Array | None = None


@dataclass(frozen=True)
class Reading:
    """What one model makes of a film; NaN where it says nothing.

    Attributes:
        forward: Its value of each frame, shape (F,).
        backward: Of the film shown backwards, in the order in which it is shown, shape (F,).
        anchors: Places of frames, shape (A,).
        prefix: Its value of each of them, from the film up to there alone, shape (A,).
        bounded: Its values are progress in [0, 1].
        done: Its probability that each frame shows it done, shape (F,), or None.
        residual: ``|c(a, b) + c(b, a)|`` of its comparisons, or None where it compares nothing twice.
        ends: Its last value, by the instruction that it was given.
        reworded: Its last value for other wordings of the instruction.
        reasons: Why frames have no value, and how many.
    """

    forward: Array
    backward: Array
    anchors: npt.NDArray[np.int64]
    prefix: Array
    bounded: bool
    done: Array | None = None
    residual: Array | None = None
    ends: Mapping[str, float] = field(default_factory=dict)
    reworded: Sequence[float] = ()
    reasons: Mapping[str, int] = field(default_factory=dict)


def check_reads_films(model: RewardModel, name: str) -> None:
    """Refuse a reward model that can't be shown a recorded episode.

    Raises:
        ConfigError: It needs something else, two frames for one value, or a head that it has not.
    """
    more = sorted(set(model.needs) - READS)
    if more:
        raise ConfigError(f"reward {name} looks at {', '.join(more)}, which recorded episodes have not: choose another")
    if model.context == "pair":
        raise ConfigError(f"reward {name} pays differences, which are no progress: audit the reward in it")
    if getattr(model, "learns", False):
        raise ConfigError(
            f"reward {name} learns beside training and has no head yet: give reward.path=<head.safetensors of a run>"
        )


def read_film(
    film: Film,
    make_model: Callable[[str], RewardModel],
    encoder: str,
    others: Sequence[str] = (),
    rewordings: Sequence[str] = (),
) -> Reading:
    """Show a film to a model in every way that tells something.

    Args:
        film: The episode.
        make_model: Returns the model for an instruction.
        encoder: Whose embeddings it reads.
        others: Instructions that are not the film's own.
        rewordings: Other wordings of the film's own.
    """
    model, rows = make_model(film.instruction), np.arange(len(film.step))
    scored = _show(model, film, encoder, rows)
    forward, bounded = progress_of(model, scored)
    anchors = anchors_of(len(rows))
    if model.causal:
        prefix = forward[anchors]
    else:
        prefix = np.array([_values(model, film, encoder, rows[: anchor + 1])[-1] for anchor in anchors.tolist()])
    ends = {text: last_known(_values(make_model(text), film, encoder, rows)) for text in others}
    residual = scored.parts.get("residual")
    reasons: dict[str, int] = {}
    for reason in scored.reasons.values():
        reasons[reason] = reasons.get(reason, 0) + 1
    return Reading(
        forward,
        _backward(model, _show(model, film, encoder, rows[::-1])),
        anchors,
        prefix,
        bounded,
        None if scored.success is None else np.where(scored.valid, scored.success, np.nan).astype(np.float64),
        None if residual is None else residual[1:].astype(np.float64),  # the first frame ends no step
        {film.instruction: last_known(forward), **ends},
        [last_known(_values(make_model(text), film, encoder, rows)) for text in rewordings],
        reasons,
    )


def progress_of(model: RewardModel, scored: RewardBatch) -> tuple[Array, bool]:
    """Return a model's values of frames, NaN where they are not valid, and whether they are progress in [0, 1]."""
    progress = scored.parts.get("progress")
    values = np.where(scored.valid, scored.reward if progress is None else progress, np.nan).astype(np.float64)
    return values, progress is not None or tuple(model.range) == (0.0, 1.0)


def anchors_of(count: int) -> npt.NDArray[np.int64]:
    """Return evenly spaced places among ``count`` frames, the second and the last among them, shape (A,)."""
    return np.unique(np.rint(np.linspace(1, count - 1, ANCHORS)).astype(np.int64))


def baselines(
    film: Film, longest: int, seed: int, others: Sequence[str] = (), rewordings: Sequence[str] = ()
) -> dict[str, Reading]:
    """Return what needs no model: time, a constant, random numbers, and how near the last frame is in pixels.

    Args:
        film: The episode.
        longest: Last step of the longest episode, by which time is counted.
        seed: Of the random numbers, with the film's number.
        others: As for :func:`read_film`; no baseline reads instructions.
        rewordings: Likewise.
    """
    count = len(film.step)
    time = film.step / max(longest, 1)
    rng = np.random.default_rng([seed, 17, film.number])
    anchors = anchors_of(count)
    backward = nearness(film.thumbs[::-1])
    named = {
        "time index": (time, time, time[anchors]),
        "constant": (*[np.full(count, 0.5)] * 2, np.full(len(anchors), 0.5)),
        "random": (rng.random(count), rng.random(count), rng.random(len(anchors))),
        # up to a frame, that frame is the last one
        "pixel distance to the last frame": (nearness(film.thumbs), backward, np.ones(len(anchors))),
    }
    read = {}
    for name, (forward, back, prefix) in named.items():
        ends = dict.fromkeys([film.instruction, *others], float(forward[-1]))
        reworded = [float(forward[-1])] * len(rewordings)
        read[f"baseline: {name}"] = Reading(forward, back, anchors, prefix, True, ends=ends, reworded=reworded)
    return read


def nearness(thumbs: FloatArray) -> Array:
    """Return 1 less each picture's distance to the last one as a share of the first one's, in [0, 1], shape (F,)."""
    far = distance(thumbs, thumbs[-1])
    return np.clip(1 - far / far[0], 0, 1) if far[0] > 0 else np.ones(len(far))


def _show(model: RewardModel, film: Film, encoder: str, rows: npt.NDArray[np.int64]) -> RewardBatch:
    """Score some frames of a film in the order of ``rows``, as if they were the whole episode."""
    count = len(rows)
    own = film.embeddings[encoder][rows]
    return model.compute_reward(
        FrameBatch(
            np.zeros(count, np.int64),
            film.step[:count],  # of a film shown backwards too
            film.instruction,
            frames=film.frames[rows] if "frames" in model.needs else None,
            embeddings=own,
            initial=np.broadcast_to(own[0], own.shape) if "initial" in model.needs else None,
            previous=np.concatenate([own[:1], own[:-1]]) if "previous" in model.needs else None,
        )
    )


def _values(model: RewardModel, film: Film, encoder: str, rows: npt.NDArray[np.int64]) -> Array:
    return progress_of(model, _show(model, film, encoder, rows))[0]


def _backward(model: RewardModel, scored: RewardBatch) -> Array:
    """Return a model's values of a film shown backwards.

    A sum of steps (a model with a ``rule``) begins at 0, from where nothing can be lost: here it is taken from 1. Of a
    model that reads more than its steps, it is these alone.
    """
    rule, steps = getattr(model, "rule", None), scored.parts.get("delta")
    values = progress_of(model, scored)[0]
    if rule is None or model.context == "frame":
        return values
    if steps is None:  # not told: from 0 the sum says nothing
        return np.full(len(values), np.nan)
    return accumulate_strided(steps, getattr(model, "stride", 1), rule, start=1.0)
