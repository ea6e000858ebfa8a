"""What a progress critic makes of episodes that it was not fitted on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vlmreward.audit.progress_metrics import antisymmetry, auroc, brier, calibration_error, voc, voc_f1, vroc
from vlmreward.rewards.accumulation import accumulate
from vlmreward.rewards.critic import Critic, Judgement, direct
from vlmreward.types import FloatArray


@dataclass(frozen=True)
class HeldOut:
    """An episode that a critic was not fitted on.

    Attributes:
        embeddings: Of its frames, float32, shape (F, D), F > 1.
        text: Embedding of its instruction, shape (D,).
        other: Embedding of an instruction that is not its own, shape (D,).
        done: What is known of "done" in each frame: 0, 1, or NaN; shape (F,).
        failed: Whether it is recorded as a failure.
        spans: What counts as 0 and as 1 for the two instructions.
    """

    embeddings: FloatArray
    text: FloatArray
    other: FloatArray
    done: FloatArray
    failed: bool
    spans: tuple[tuple[float, float], tuple[float, float]] = ((0.0, 1.0), (0.0, 1.0))


def judge_episode(
    critic: Critic, text: FloatArray, frames: FloatArray, stride: int
) -> tuple[FloatArray, FloatArray, Judgement, Judgement]:
    """Return added-up progress every ``stride`` frames, that of the clip played backwards, the steps, and every frame.

    Args:
        critic: Judges.
        text: Embedding of the instruction, shape (D,).
        frames: Embeddings, shape (F, D).
        stride: Frames of a step.
    """
    shown = frames[np.arange((len(frames) - 1) % stride, len(frames), stride)]
    count = len(shown) - 1
    steps = critic.compare(text, np.tile(frames[0], (count, 1)), shown[:-1], shown[1:])
    back = critic.compare(text, np.tile(frames[-1], (count, 1)), shown[:0:-1], shown[-2::-1])
    first = np.tile(frames[0], (len(frames), 1))
    every = critic.compare(text, first, first, frames, both_ways=False)
    forward, backward = accumulate(steps.delta)[1:], accumulate(back.delta, start=1.0)[1:]
    return forward.astype(np.float32), backward.astype(np.float32), steps, every


def held_out_figures(critic: Critic, episodes: Sequence[HeldOut], stride: int) -> dict[str, Any]:
    """Return a critic's figures on held-out episodes.

    Time and recorded outcomes are all the truth there is here: a critic that does well may still follow time.

    Args:
        critic: Calibrated.
        episodes: At least one.
        stride: Frames of a step.
    """
    names = ("voc", "vroc", "voc_f1", "end", "end_of_other", "end_of_failures")
    rows: dict[str, list[float]] = {name: [] for name in names}
    residuals, done, marks = [], [], []
    for episode in episodes:
        forward, backward, steps, every = judge_episode(critic, episode.text, episode.embeddings, stride)
        *_, other = judge_episode(critic, episode.other, episode.embeddings, stride)
        residuals.append(steps.residual)
        done.append(every.done)
        marks.append(episode.done)
        if episode.failed:
            rows["end_of_failures"].append(float(direct(every, episode.spans[0])[-1]))
            continue
        there, back = voc(forward), vroc(backward)
        for name, value in (("voc", there), ("vroc", back), ("voc_f1", voc_f1(there, back))):
            rows[name].append(value)
        rows["end"].append(float(direct(every, episode.spans[0])[-1]))
        rows["end_of_other"].append(float(direct(other, episode.spans[1])[-1]))
    probability, truth = np.concatenate(done), np.concatenate(marks)
    told = np.isfinite(truth)
    probability, outcome = probability[told], truth[told] > 0.5
    residual = np.concatenate(residuals)
    return {
        "episodes": len(episodes),
        "failures": len(rows["end_of_failures"]),
        **{name: _mean(values) for name, values in rows.items()},
        "residual": _plain(antisymmetry(residual, np.zeros_like(residual))),
        "done_auroc": _plain(auroc(probability, outcome)),
        "done_brier": _plain(brier(probability, outcome)),
        "done_calibration_error": _plain(calibration_error(probability, outcome)),
    }


def _mean(values: list[float]) -> float | None:
    known = [value for value in values if np.isfinite(value)]
    return _plain(float(np.mean(known))) if known else None


def _plain(value: float) -> float | None:
    return round(value, 4) if np.isfinite(value) else None
