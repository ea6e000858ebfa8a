"""A fitted progress critic: how far along is the task, and is it done? Written by ``vlmreward fit-critic``."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from vlmreward.atomic import write_bytes
from vlmreward.errors import WeightsError
from vlmreward.rewards.critic_net import Comparison, CriticNet, NetSettings
from vlmreward.types import FloatArray

Embeddings = npt.NDArray[np.floating]
BATCH = 1024
KIND = "vlmreward progress critic"


@dataclass(frozen=True)
class CriticMeta:
    """What a critic's file says of it.

    Attributes:
        encoder: Id of the encoder whose embeddings it reads.
        licence: Of that encoder's weights.
        stride: Frames between the earlier and the later one that its steps are best taken over.
        temperature: What logits of "done" are divided by, and
        bias: what is added then, both fitted on held-out episodes.
        reference_frames: Length of a reference trajectory, K.
        made: How it was made, for people.
        spans: What ``direct`` lies between for each instruction that it was fitted on: the 1 % and the 99 % quantile
            over the frames of the episodes it learned from.
    """

    encoder: str
    licence: str
    stride: int
    temperature: float
    bias: float
    reference_frames: int
    made: dict[str, Any]
    spans: dict[str, tuple[float, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Judgement:
    """What a critic says of N pairs; NaN where one of the frames is not known.

    Attributes:
        delta: Signed progress from the earlier to the later frame, in [-1, 1], float32, shape (N,).
        residual: ``|c(a, b) + c(b, a)|``: how little it agrees with itself, shape (N,); NaN where it was asked one way.
        done: Probability that the task is done in the later frame, shape (N,).
        progress: How far along the later frame is, in [0, 1], shape (N,).
    """

    delta: FloatArray
    residual: FloatArray
    done: FloatArray
    progress: FloatArray


def direct(seen: Judgement, span: tuple[float, float] = (0.0, 1.0)) -> FloatArray:
    """Return how far along the later frames are, from what was learned of time and what was learned of outcomes.

    Two thirds progress and one third the probability of done, between the ends of the span.

    Args:
        seen: Of N pairs whose earlier frame is the episode's first one.
        span: What counts as 0 and as 1.

    Returns:
        In [0, 1], float32, shape (N,).
    """
    low, high = span
    value = (2 * seen.progress + seen.done) / 3
    return np.clip((value - low) / max(high - low, 1e-6), 0.0, 1.0).astype(np.float32)


@dataclass(frozen=True)
class Reference:
    """A trajectory that shows how it is done: embeddings, float32, shape (K, D), and progress in [0, 1], shape (K,)."""

    embeddings: FloatArray
    percent: FloatArray


class Critic:
    """Compares frames by their embeddings.

    Args:
        net: The fitted network.
        meta: See CriticMeta.
    """

    def __init__(self, net: CriticNet, meta: CriticMeta) -> None:
        self.net, self.meta = net.eval(), meta

    @torch.inference_mode()
    def compare(
        self,
        text: Embeddings,
        initial: Embeddings,
        earlier: Embeddings,
        later: Embeddings,
        reference: Reference | None = None,
        both_ways: bool = True,
    ) -> Judgement:
        """Judge pairs.

        Args:
            text: Embedding of the instruction, shape (D,).
            initial: First frame of each pair's episode, shape (N, D).
            earlier: Shape (N, D).
            later: Shape (N, D).
            reference: How it is done, for all of them.
            both_ways: Ask both ways round and take ``(c(a, b) - c(b, a)) / 2``: right for small steps. A large step
                forward is a share of what was left, and the one back of something else: ask one way only.
        """
        frames = [np.asarray(x, np.float32) for x in (initial, earlier, later)]
        count = len(frames[0])
        known = np.flatnonzero(np.all([np.isfinite(x).all(axis=1) for x in frames], axis=0))
        out = np.full((4, count), np.nan, np.float32)
        for start in range(0, len(known), BATCH):
            rows = known[start : start + BATCH]
            first, before, after = (torch.from_numpy(x[rows]) for x in frames)
            delta, progress, logit = self._run(text, first, before, after, reference)
            residual = torch.full_like(delta, torch.nan)
            if both_ways:
                back = self._run(text, first, after, before, reference).delta
                delta, residual = (delta - back) / 2, (delta + back).abs()
            done = torch.sigmoid(logit / self.meta.temperature + self.meta.bias)
            out[:, rows] = torch.stack([delta, residual, done, progress]).numpy()
        return Judgement(*out)

    def _run(
        self,
        text: Embeddings,
        initial: torch.Tensor,
        earlier: torch.Tensor,
        later: torch.Tensor,
        reference: Reference | None,
    ) -> Comparison:
        words = torch.from_numpy(np.asarray(text, np.float32)).expand(len(initial), -1)
        shown = percent = None
        if reference is not None:
            shown = torch.from_numpy(reference.embeddings).expand(len(initial), -1, -1)
            percent = torch.from_numpy(reference.percent).expand(len(initial), -1)
        return self.net(words, initial, earlier, later, shown, percent)

    def save(self, path: Path) -> None:
        """Write the critic to one file, whole or not at all."""
        about = json.dumps({"meta": asdict(self.meta), "net": asdict(self.net.settings)})
        state = {name: value.contiguous() for name, value in self.net.state_dict().items()}
        write_bytes(path, save(state, {KIND: about}))  # one entry: several come in any order, and bytes should repeat

    @classmethod
    def load(cls, path: str | Path) -> Critic:
        """Read a critic.

        Raises:
            WeightsError: The file is missing, damaged, or something else.
        """
        if not Path(path).is_file():
            raise WeightsError(f"no critic at {path}: make one with vlmreward fit-critic dataset=... out={path}")
        try:
            with safe_open(path, framework="pt") as f:
                metadata = f.metadata() or {}
                state = {name: f.get_tensor(name) for name in list(f.keys())}
            about = json.loads(metadata.get(KIND, "null"))
            if about is None:
                raise WeightsError(f"{path} is no progress critic: give a file of vlmreward fit-critic")
            net = CriticNet(NetSettings(**about["net"]))
            net.load_state_dict(state)
            spans = {text: (float(low), float(high)) for text, (low, high) in about["meta"].pop("spans").items()}
            return cls(net, CriticMeta(**about["meta"], spans=spans))
        except WeightsError:
            raise
        except (SafetensorError, OSError, ValueError, KeyError, TypeError, RuntimeError) as e:
            raise WeightsError(f"the critic {path} can't be read ({e}): make it anew with vlmreward fit-critic") from e
