"""The network of the progress critic: a small causal transformer on frozen embeddings.

One row is a sequence of tokens: the instruction, the frames of a reference trajectory with their percent, the episode's
first frame, an earlier frame, a later frame. Each token sees those before it, and the last one tells how far the later
frame is ahead of the earlier one, and whether the task is done in it. VLAC (arXiv 2509.15937) asks a
vision-language model the same question, in the same order.
"""

from __future__ import annotations

from dataclasses import dataclass

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
        blind: Share of rows whose embeddings are hidden in training, so that what is seen of the instruction and of the
            reference must do: a few hundred episodes are soon learned by heart.
    """

    dim: int
    width: int = 128
    layers: int = 2
    heads: int = 4
    dropout: float = 0.1
    blind: float = 0.5


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
        self.heads = nn.Linear(width, 2)
        # The encoder's own opinion, a line in how much more the later frame looks like the instruction; the network
        # learns what to add to it.
        self.likeness = nn.Linear(1, 2)

    def forward(
        self,
        text: Tensor,
        initial: Tensor,
        earlier: Tensor,
        later: Tensor,
        reference: Tensor | None = None,
        percent: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Compare.

        Args:
            text: Embedding of the instruction, float32, unit norm, shape (B, D).
            initial: Embedding of the episode's first frame, shape (B, D).
            earlier: Shape (B, D).
            later: Shape (B, D).
            reference: Embeddings of a reference trajectory's frames, in order, shape (B, K, D).
            percent: Progress of each of them in [0, 1], shape (B, K).

        Returns:
            Signed progress from the earlier to the later frame, in [-1, 1], and the logit of the task being done in the
            later one, shape (B,) both.
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
        delta, done = self.heads(last).unbind(-1)
        gain, opinion = self.likeness.weight[:, 0].unbind()
        delta = delta + gain * (like[:, 2] - like[:, 1])
        return torch.tanh(delta), done + opinion * like[:, 2] + self.likeness.bias[1]

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
        product = frames * text[:, None]
        like = product.sum(-1, keepdim=True)
        seen, product = self._standard(frames), product * self.settings.dim
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
