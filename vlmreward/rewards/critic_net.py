"""The network of the progress critic: a small causal transformer on frozen embeddings.

One row is a sequence of tokens: the instruction, the frames of a reference trajectory with their percent, the episode's
first frame, an earlier frame, a later frame. Each token sees those before it, and the last one tells how far the later
frame is ahead of the earlier one, how far along it is itself, and whether the task is done in it. VLAC (arXiv
2509.15937) asks a vision-language model the same question, in the same order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

TEXT, REFERENCE, INITIAL, EARLIER, LATER = range(5)


@dataclass(frozen=True)
class NetSettings:
    """Shape of the network.

    Attributes:
        dim: Length of an embedding, D.
        width: Of a token.
        layers: Number of transformer blocks.
        heads: Attention heads of a block.
        dropout: Share of activations that are dropped in training.
        noise: Standard deviation of what is added to frames in training, in that of their embeddings.
        blind: Share of rows whose embeddings are hidden in training, so that what is seen of the instruction and of the
            reference must do. A few hundred episodes are soon learned by heart, and these two keep it from that.
    """

    dim: int
    width: int = 64
    layers: int = 2
    heads: int = 4
    dropout: float = 0.1
    noise: float = 1.0
    blind: float = 0.3


class Comparison(NamedTuple):
    """What the network says of B pairs.

    Attributes:
        delta: Signed progress from the earlier to the later frame, in [-1, 1], shape (B,).
        progress: Of the later frame, in [0, 1], shape (B,).
        done: Logit of the task being done in the later frame, shape (B,).
    """

    delta: Tensor
    progress: Tensor
    done: Tensor


class CriticNet(nn.Module):
    """Compares two frames of an episode.

    Frames come with what a comparison needs and a small network would have to learn: their product with the
    instruction, element by element, and where along the reference they are nearest to.

    Args:
        settings: See NetSettings.

    Attributes:
        settings: The same.
        mean: Mean embedding of the frames it was trained on, shape (D,).
        scale: One over the embeddings' standard deviation, shape (D,).
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, settings: NetSettings) -> None:
        super().__init__()
        self.settings = settings
        dim, width = settings.dim, settings.width
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("scale", torch.full((dim,), dim**0.5))
        self.text = nn.Linear(dim, width)
        self.frame = nn.Linear(2 * dim + 3, width)
        self.percent = nn.Linear(1, width, bias=False)
        self.role = nn.Embedding(5, width)
        self.sharpness = nn.Parameter(torch.tensor(3.0))  # logarithm of the one that finds places in a reference
        block = nn.TransformerEncoderLayer(
            width, settings.heads, 4 * width, settings.dropout, "gelu", batch_first=True, norm_first=True
        )
        self.blocks = nn.TransformerEncoder(block, settings.layers, nn.LayerNorm(width), enable_nested_tensor=False)
        self.heads = nn.Linear(width, 3)
        # The encoder's own opinion, a line in how much the later frame looks like the instruction; the network learns
        # what to add to it.
        self.likeness = nn.Linear(1, 3)

    def forward(
        self,
        text: Tensor,
        initial: Tensor,
        earlier: Tensor,
        later: Tensor,
        reference: Tensor | None = None,
        percent: Tensor | None = None,
    ) -> Comparison:
        """Compare.

        Args:
            text: Embedding of the instruction, float32, unit norm, shape (B, D).
            initial: Embedding of the episode's first frame, shape (B, D).
            earlier: Shape (B, D).
            later: Shape (B, D).
            reference: Embeddings of a reference trajectory's frames, in order, shape (B, K, D).
            percent: Progress of each of them in [0, 1], shape (B, K).

        Returns:
            See Comparison.
        """
        frames = torch.stack([initial, earlier, later], dim=1)
        hidden = None
        if self.training and self.settings.blind:
            hidden = (torch.rand(len(frames), 1, 1, device=frames.device) >= self.settings.blind).float()
        tokens = [self.text(self._standard(text)) + self.role.weight[TEXT]]
        if reference is not None:
            assert percent is not None
            marked = self._frame_tokens(reference, text, hidden, None, None) + self.percent(percent[..., None])
            tokens += list((marked + self.role.weight[REFERENCE]).unbind(1))
        shown = self._frame_tokens(frames, text, hidden, reference, percent) + self.role.weight[INITIAL:]
        sequence = torch.stack([*tokens, *shown.unbind(1)], dim=1)
        mask = nn.Transformer.generate_square_subsequent_mask(sequence.shape[1], device=sequence.device)
        last = self.blocks(sequence, mask=mask, is_causal=True)[:, -1]
        like = torch.einsum("bmd,bd->bm", frames, text)
        delta, progress, done = self.heads(last).unbind(-1)
        gain, *opinions = self.likeness.weight[:, 0].unbind()
        progress, done = (
            learned + opinion * like[:, 2] + bias
            for learned, opinion, bias in zip((progress, done), opinions, self.likeness.bias[1:], strict=True)
        )
        return Comparison(torch.tanh(delta + gain * (like[:, 2] - like[:, 1])), torch.sigmoid(progress), done)

    def _standard(self, x: Tensor) -> Tensor:
        return (x - self.mean) * self.scale

    def _frame_tokens(
        self,
        frames: Tensor,
        text: Tensor,
        hidden: Tensor | None,
        reference: Tensor | None,
        percent: Tensor | None,
    ) -> Tensor:
        """Return the tokens of frames, shape (B, M, width), without their roles."""
        like = (frames * text[:, None]).sum(-1, keepdim=True)
        shaken = frames
        if self.training:
            shaken = frames + self.settings.noise / self.scale * torch.randn_like(frames)
        seen, product = self._standard(shaken), shaken * text[:, None] * self.settings.dim
        if hidden is not None:
            seen, product = seen * hidden, product * hidden
        place = torch.zeros_like(like).expand(-1, -1, 2)
        if reference is not None and percent is not None:
            alike = torch.einsum("bmd,bkd->bmk", self._unit(frames), self._unit(reference))
            where = (torch.softmax(alike * self.sharpness.exp(), dim=-1) * percent[:, None]).sum(-1)
            place = torch.stack([where, alike.amax(-1)], dim=-1)
        return self.frame(torch.cat([seen, product, like, place], dim=-1))

    def _unit(self, x: Tensor) -> Tensor:
        return F.normalize(self._standard(x), dim=-1)
