"""A critic with random weights, for tests of everything but what it has learned."""

from __future__ import annotations

from pathlib import Path

import torch

from vlmreward.rewards.critic import Critic, CriticMeta
from vlmreward.rewards.critic_net import CriticNet, NetSettings
from vlmreward.types import Encoder


def save_random_critic(path: Path, encoder: Encoder) -> Path:
    """Write a small critic of an encoder's embeddings, the same every time, and return its path."""
    meta = CriticMeta(encoder.id, "MIT", stride=1, temperature=1.0, bias=0.0, reference_frames=3, made={})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = CriticNet(NetSettings(encoder.dim, width=16, layers=1))
    path.parent.mkdir(parents=True, exist_ok=True)
    Critic(net, meta).save(path)
    return path
