"""Train a progress critic: squared error of step and progress, cross-entropy of "done", on pairs from time's order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vlmreward.agents.fit.critic_episodes import CriticEpisode
from vlmreward.agents.fit.critic_pairs import PairBatch, PairSampler, PairSettings
from vlmreward.errors import ConfigError
from vlmreward.rewards.critic_net import Comparison, CriticNet, NetSettings
from vlmreward.types import BoolArray, FloatArray


@dataclass(frozen=True)
class CriticFitSettings:
    """Settings of the fit.

    Attributes:
        steps: Optimiser steps.
        groups: Groups of four pairs a step.
        learning_rate: Peak of a one-cycle rate.
        weight_decay: Of AdamW.
        progress: Weight of the squared error of the later frame's progress beside that of the step.
        done: Weight of the cross-entropy beside it.
        push_back: Weight of the push-back on own rollouts, 0 for none.
        decay: What share of its own estimate a rollout's frame is pushed to.
        pairs: How pairs are drawn.
        seed: Of every draw.
    """

    steps: int = 800
    groups: int = 64
    learning_rate: float = 2e-3
    weight_decay: float = 0.5
    progress: float = 3.0
    done: float = 0.1
    push_back: float = 0.0
    decay: float = 0.9
    pairs: PairSettings = field(default_factory=PairSettings)
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "groups"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, got {getattr(self, name)}")


class CriticFit:
    """Fits a critic.

    Args:
        net: Shape of the network.
        episodes: Demonstrations, and episodes recorded as failures.
        texts: Embedding of every instruction, and of sentences that have nothing to do with any, by text.
        settings: See CriticFitSettings.
        rollouts: Own rollouts of unknown outcome, for the push-back (PROGRESSOR, arXiv 2411.17764: estimates on own
            rollouts are trained towards a share of themselves, so that frames that no demonstration shows are not taken
            for progress; the published text does not give the loss, this is the squared error).

    Attributes:
        model: The network.

    Raises:
        DatasetError: No episode shows how a task is done.
    """

    def __init__(
        self,
        net: NetSettings,
        episodes: Sequence[CriticEpisode],
        texts: dict[str, FloatArray],
        settings: CriticFitSettings,
        rollouts: Sequence[CriticEpisode] = (),
    ) -> None:
        self.settings = settings
        torch.manual_seed(settings.seed)
        self.model = CriticNet(net)
        frames = np.concatenate([e.embeddings for e in episodes])
        self.model.mean.copy_(torch.from_numpy(frames.mean(axis=0)))
        self.model.scale.copy_(torch.from_numpy(1 / (frames.std(axis=0) + 1e-4)))
        rng = np.random.default_rng([settings.seed, 1])
        self._pairs = PairSampler(episodes, texts, settings.pairs, rng)
        self._own: PairSampler | None = None
        if settings.push_back > 0:
            if not rollouts:
                raise ConfigError("push_back trains on own rollouts, got none: give rollouts=<dataset>")
            plain = replace(settings.pairs, mismatched=0.0, failures=0.0, shown=0.0)
            unjudged = [replace(e, success=None) for e in rollouts]
            self._own = PairSampler(unjudged, texts, plain, np.random.default_rng([settings.seed, 2]))

    def fit(self, progress: Callable[[dict[str, float]], None] = lambda terms: None) -> None:
        """Run the optimisation; ``progress`` gets the loss terms of each step."""
        s, model = self.settings, self.model
        optimiser = torch.optim.AdamW(model.parameters(), s.learning_rate, weight_decay=s.weight_decay)
        rise = min(0.9, max(0.1, 1.5 / s.steps))  # ends between two steps: one that ends at step 0 is no schedule
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, s.learning_rate, total_steps=s.steps, pct_start=rise)
        model.train()
        for _ in range(s.steps):
            terms = self._losses()
            loss = terms["delta"] + s.progress * terms["progress"] + s.done * terms["done"]
            if "push_back" in terms:
                loss = loss + s.push_back * terms["push_back"]
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            schedule.step()
            progress({name: float(value.detach()) for name, value in terms.items()})
        model.eval()

    def _losses(self) -> dict[str, Tensor]:
        batch = self._pairs.draw(self.settings.groups)
        seen = self._compare(batch)
        done = torch.from_numpy(batch.done)
        judged = torch.isfinite(done)
        terms = {
            "delta": squared_error(seen.delta, torch.from_numpy(batch.delta)),
            "progress": squared_error(seen.progress, torch.from_numpy(batch.progress)),
            "done": balanced_cross_entropy(seen.done[judged], done[judged]),
        }
        if self._own is not None:
            own = self._own.draw(self.settings.groups)
            own = replace(own, earlier=own.initial)  # how far each frame seems from the first one
            far = self._compare(own)
            terms["push_back"] = sum(
                (F.mse_loss(x, self.settings.decay * x.detach()) for x in (far.delta, far.progress)), torch.zeros(())
            )
        return terms

    def _compare(self, batch: PairBatch) -> Comparison:
        frames = (torch.from_numpy(x) for x in (batch.text, batch.initial, batch.earlier, batch.later))
        if batch.reference is None or batch.percent is None:
            return self.model(*frames)
        return self.model(*frames, torch.from_numpy(batch.reference), torch.from_numpy(batch.percent))


def squared_error(said: Tensor, label: Tensor) -> Tensor:
    """Return the mean squared error over what is labelled, shape (N,) both; 0 where every label is NaN."""
    known = torch.isfinite(label)
    return (said[known] - label[known]).square().sum() / known.sum().clamp(min=1)


def balanced_cross_entropy(logit: Tensor, marks: Tensor) -> Tensor:
    """Return the cross-entropy of logits with marks in {0, 1}, both kinds weighing the same; shape (N,) both.

    Done frames are few in every batch; what share of frames is done in reality is up to the calibration.
    """
    loss = F.binary_cross_entropy_with_logits(logit, marks, reduction="none")
    kinds = [(loss * kind).sum() / kind.sum().clamp(min=1.0) for kind in (marks, 1 - marks)]
    return (kinds[0] + kinds[1]) / 2


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
