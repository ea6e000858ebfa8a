"""Calibrate a critic's "done" on held-out episodes, and say what it makes of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from vlmreward.agents.fit.critic_pairs import CriticEpisode
from vlmreward.audit.progress_metrics import antisymmetry, auroc, brier, calibration_error, voc, voc_f1, vroc
from vlmreward.rewards.accumulation import accumulate
from vlmreward.rewards.critic import Critic
from vlmreward.types import BoolArray, FloatArray


def fit_done(logits: FloatArray, marks: BoolArray) -> tuple[float, float]:
    """Fit ``sigmoid(logit / temperature + bias)`` to outcomes by cross-entropy (Platt scaling).

    Args:
        logits: Shape (N,).
        marks: Shape (N,).

    Returns:
        Temperature and bias; 1 and 0 where only one kind of outcome was seen, or where higher logits mean less often
        done, which no temperature mends.
    """
    if marks.all() or not marks.any():
        return 1.0, 0.0
    x, y = torch.from_numpy(logits).double(), torch.from_numpy(marks).double()
    slope, bias = torch.ones((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    parameters = [slope.requires_grad_(), bias.requires_grad_()]
    optimiser = torch.optim.LBFGS(parameters, max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimiser.zero_grad()
        value = F.binary_cross_entropy_with_logits(slope * x + bias, y)
        value.backward()
        return value

    optimiser.step(loss)
    found = slope.detach().item()
    return (1 / found, bias.detach().item()) if found > 1e-3 else (1.0, 0.0)


def judge_episode(
    critic: Critic, text: FloatArray, frames: FloatArray, stride: int
) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """Return an episode's progress every ``stride`` frames, that of the clip played backwards, residuals, and "done".

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
    before = frames[np.maximum(np.arange(len(frames)) - stride, 0)]
    every = critic.compare(text, np.tile(frames[0], (len(frames), 1)), before, frames, both_ways=False)
    forward, backward = accumulate(steps.delta)[1:], accumulate(back.delta, start=1.0)[1:]
    return forward.astype(np.float32), backward.astype(np.float32), steps.residual, every.done


def held_out_figures(
    critic: Critic, episodes: Sequence[CriticEpisode], texts: dict[str, FloatArray], others: dict[str, str], stride: int
) -> dict[str, Any]:
    """Return what a critic makes of episodes that it was not fitted on.

    Time and recorded outcomes are all the truth there is here: a critic that does well may still follow time.

    Args:
        critic: Calibrated.
        episodes: Held out.
        texts: Embeddings of instructions.
        others: For each instruction another one.
        stride: Frames of a step.
    """
    names = ("voc", "vroc", "voc_f1", "end", "end_of_other", "end_of_failures")
    rows: dict[str, list[float]] = {name: [] for name in names}
    residuals, done, marks = [], [], []
    for episode in episodes:
        text = texts[episode.instruction]
        forward, backward, residual, judged = judge_episode(critic, text, episode.embeddings, stride)
        other, *_ = judge_episode(critic, texts[others[episode.instruction]], episode.embeddings, stride)
        residuals.append(residual)
        done.append(judged)
        marks.append(episode.done)
        if not episode.shows_how:
            rows["end_of_failures"].append(float(forward[-1]))
            continue
        there, back = voc(forward), vroc(backward)
        for name, value in (("voc", there), ("vroc", back), ("voc_f1", voc_f1(there, back))):
            rows[name].append(value)
        rows["end"].append(float(forward[-1]))
        rows["end_of_other"].append(float(other[-1]))
    probability, truth = np.concatenate(done), np.concatenate(marks)
    told = np.isfinite(truth)
    probability, outcome = probability[told], truth[told] > 0.5
    every = np.concatenate(residuals)
    return {
        "episodes": len(episodes),
        "failures": len(rows["end_of_failures"]),
        **{name: _mean(values) for name, values in rows.items()},
        "residual": _plain(antisymmetry(every, np.zeros_like(every))),
        "done_auroc": _plain(auroc(probability, outcome)),
        "done_brier": _plain(brier(probability, outcome)),
        "done_calibration_error": _plain(calibration_error(probability, outcome)),
    }


def _mean(values: list[float]) -> float | None:
    known = [value for value in values if np.isfinite(value)]
    return _plain(float(np.mean(known))) if known else None


def _plain(value: float) -> float | None:
    return round(value, 4) if np.isfinite(value) else None
