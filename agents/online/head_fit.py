"""Fit a head to answers: Bradley-Terry's cross-entropy on pairs, cross-entropy on ratings."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vlmreward.agents.online.questions import Examples
from vlmreward.rewards.head_net import EmbeddingHead, FrameHead, HeadSettings, make_net, squash

NOISE = 1.0
"""Standard deviation of what is added to embeddings, in their own standard deviations."""


@dataclass(frozen=True)
class FitSettings:
    """Settings of a fit.

    Attributes:
        steps: Optimiser steps.
        lapses: Share of answers that is taken to be drawn at random.
        batch: Examples a step, for each member of the ensemble.
        learning_rate: Of AdamW.
        weight_decay: Of AdamW.
    """

    steps: int = 150
    lapses: float = 0.1
    batch: int = 64
    learning_rate: float = 1e-3
    weight_decay: float = 0.01


def fit_head(
    shape: HeadSettings, examples: Examples, settings: FitSettings, seed: tuple[int, ...]
) -> tuple[EmbeddingHead | FrameHead, float]:
    """Fit a network from new weights; each member draws its own weights and its own examples.

    torch's and NumPy's own generators are left alone: an agent may draw from them at the same time.

    Args:
        shape: Of the network.
        examples: M of them, M >= 1.
        settings: See FitSettings.
        seed: Of every draw.

    Returns:
        The network and its mean loss over the last tenth of the steps.
    """
    draws = np.random.default_rng(seed)
    generator = torch.Generator().manual_seed(int(draws.integers(2**62)))
    net = make_net(shape)
    net.draw_weights(generator)
    x, target = torch.from_numpy(examples.x), torch.from_numpy(examples.target)
    if isinstance(net, EmbeddingHead):
        x = x.float()
        seen = x.reshape(-1, x.shape[-1])
        net.mean.copy_(seen.mean(dim=0))
        net.scale.copy_(1 / (seen.std(dim=0, correction=0) + 1e-4))
    optimiser = torch.optim.AdamW(net.parameters(), settings.learning_rate, weight_decay=settings.weight_decay)
    last: list[float] = []
    for step in range(settings.steps):
        rows = torch.from_numpy(draws.integers(0, len(examples), (shape.members, settings.batch)))
        said = [_look(net, x[:, k][rows], generator) for k in range(x.shape[1])]
        loss = cross_entropy(said, target[rows], shape, settings.lapses)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if step >= settings.steps * 9 // 10:
            last.append(float(loss.detach()))
    return net, float(np.mean(last))


def cross_entropy(said: list[Tensor], target: Tensor, shape: HeadSettings, lapses: float) -> Tensor:
    """Return the mean cross-entropy of answers.

    Of a pair with rewards r0 and r1, ``P = exp r1 / (exp r0 + exp r1)`` is the probability of "the second"; of a frame
    its reward is that of "yes". Who answers is taken to draw lots in a share of the cases:
    ``(1 - lapses) P + lapses / 2``.

    Args:
        said: Scores before the squashing, shape (E, B), of one frame or of two.
        target: The answers, shape (E, B).
        shape: Its ``output`` squashes the scores.
        lapses: The share.
    """
    rewards = [squash(scores, shape.output) for scores in said]
    p = torch.sigmoid(rewards[1] - rewards[0]) if len(rewards) == 2 else rewards[0]
    p = ((1 - lapses) * p + lapses / 2).clamp(1e-6, 1 - 1e-6)
    return -(target * p.log() + (1 - target) * (1 - p).log()).mean()


def _look(net: EmbeddingHead | FrameHead, x: Tensor, generator: torch.Generator) -> Tensor:
    if isinstance(net, EmbeddingHead):
        x = x + NOISE * torch.randn(x.shape, generator=generator) / net.scale
    return net(x)
