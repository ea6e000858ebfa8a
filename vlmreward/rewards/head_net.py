"""Small networks that score frames: an ensemble on frozen embeddings, and one of convolutions on pictures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import skip_init

from vlmreward.errors import ConfigError
from vlmreward.rewards.settings import check_choice

Input = Literal["embeddings", "frames"]
Output = Literal["tanh", "sigmoid"]
LAYERS = ((16, 5, 3), (32, 3, 2), (64, 3, 2), (128, 3, 2))
"""Channels, kernel and stride of the convolutions (RL-VLM-F)."""


@dataclass(frozen=True)
class HeadSettings:
    """Shape of a head.

    Attributes:
        dim: Length of an embedding, D; not used on frames.
        members: Size of the ensemble, E.
        width: Of the hidden layer.
        input: What it looks at.
        output: ``tanh``, in [-1, 1], for preferences; ``sigmoid``, in [0, 1], for ratings.
    """

    dim: int
    members: int = 3
    width: int = 64
    input: Input = "embeddings"
    output: Output = "tanh"

    def __post_init__(self) -> None:
        check_choice("input", self.input, get_args(Input))
        check_choice("output", self.output, get_args(Output))
        for name in ("dim", "members", "width"):
            if type(getattr(self, name)) is not int or getattr(self, name) < 1:
                raise ConfigError(f"{name} must be a whole number >= 1, got {getattr(self, name)!r}")


class EmbeddingHead(nn.Module):
    """E networks of one hidden layer on embeddings, worked out together.

    Args:
        settings: See HeadSettings.

    Attributes:
        mean: Mean of the embeddings it was fitted on, shape (D,).
        scale: One over their standard deviation, shape (D,).
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, settings: HeadSettings) -> None:
        super().__init__()
        e, d, w = settings.members, settings.dim, settings.width
        self.settings = settings
        self.register_buffer("mean", torch.zeros(d))
        self.register_buffer("scale", torch.full((d,), d**0.5))
        self.hidden = nn.Parameter(torch.zeros(e, d, w))
        self.hidden_bias = nn.Parameter(torch.zeros(e, 1, w))
        self.out = nn.Parameter(torch.zeros(e, w, 1))
        self.out_bias = nn.Parameter(torch.zeros(e, 1, 1))

    def draw_weights(self, generator: torch.Generator) -> None:
        """Draw the weights anew."""
        with torch.no_grad():
            for weight in (self.hidden, self.out):
                weight.normal_(0, weight.shape[1] ** -0.5, generator=generator)

    def forward(self, x: Tensor) -> Tensor:
        """Return scores before the squashing, shape (E, N), of embeddings (N, D), or (E, N, D) of each member's own."""
        x = (x - self.mean) * self.scale
        x = x.expand(self.settings.members, *x.shape[-2:])
        x = F.relu(torch.baddbmm(self.hidden_bias, x, self.hidden))
        return torch.baddbmm(self.out_bias, x, self.out)[..., 0]


class FrameHead(nn.Module):
    """E convolutional networks on pictures.

    Args:
        settings: See HeadSettings.
    """

    def __init__(self, settings: HeadSettings) -> None:
        super().__init__()
        self.settings = settings
        self.members = nn.ModuleList(_convolutions() for _ in range(settings.members))

    def draw_weights(self, generator: torch.Generator) -> None:
        """Draw the weights anew."""
        for weight in self.parameters():
            if weight.ndim > 1:
                nn.init.kaiming_uniform_(weight, nonlinearity="relu", generator=generator)

    def forward(self, x: Tensor) -> Tensor:
        """Return scores before the squashing, shape (E, N), of pictures uint8 (N, H, W, 3), or (E, N, H, W, 3)."""
        own = x if x.ndim == 5 else [x] * len(self.members)
        scaled = [pictures.permute(0, 3, 1, 2).float() / 255 for pictures in own]
        return torch.stack([net(pictures)[:, 0] for net, pictures in zip(self.members, scaled, strict=True)])


def _convolutions() -> nn.Sequential:
    layers: list[nn.Module] = []
    channels = 3
    for out, kernel, stride in LAYERS:
        layers += [skip_init(nn.Conv2d, channels, out, kernel, stride, padding=kernel // 2), nn.ReLU()]
        channels = out
    last = skip_init(nn.Linear, 9 * channels, 1)
    net = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(3), nn.Flatten(), last)
    for weight in net.parameters():
        nn.init.zeros_(weight)
    return net


def make_net(settings: HeadSettings) -> EmbeddingHead | FrameHead:
    """Build a head whose weights are 0.

    Neither this nor ``draw_weights`` takes numbers from torch's own generator: heads are made on a thread beside an
    agent that draws from it.
    """
    return EmbeddingHead(settings) if settings.input == "embeddings" else FrameHead(settings)


def squash(scores: Tensor, output: Output) -> Tensor:
    """Return what a head's scores mean."""
    return torch.tanh(scores) if output == "tanh" else torch.sigmoid(scores)
