"""A fitted head: an ensemble that scores frames, and its file."""

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
from vlmreward.errors import CheckpointError, FramesError, WeightsError
from vlmreward.rewards.head_net import EmbeddingHead, FrameHead, HeadSettings, make_net, squash
from vlmreward.types import FloatArray

KIND = "vlmreward head"
BATCH = 4096
HEAD_FILE = "head.safetensors"
"""In the folder of a run whose reward learns."""


@dataclass(frozen=True)
class HeadMeta:
    """What is known of a head.

    Attributes:
        reward: Name of the reward model it belongs to: ``preference`` or ``distilled``.
        encoder: Id of the encoder whose embeddings it reads.
        licence: Of that encoder's weights.
        goal: What its answers were about.
        version: Number of fits before and including this one, from 1.
        made: How it was made, for people: answers, calls, who answered.
    """

    reward: str
    encoder: str
    licence: str
    goal: tuple[str, ...]
    version: int
    made: dict[str, Any] = field(default_factory=dict)


class Head:
    """Scores frames. It never changes: a better one takes its place.

    Args:
        net: The fitted network.
        meta: See HeadMeta.
    """

    def __init__(self, net: EmbeddingHead | FrameHead, meta: HeadMeta) -> None:
        self.net, self.meta = net.eval().requires_grad_(False), meta

    @property
    def version(self) -> int:
        """Its number."""
        return self.meta.version

    def members(self, x: npt.NDArray[Any]) -> FloatArray:
        """Return what each of E members says, float32, shape (E, N).

        Args:
            x: Embeddings, shape (N, D), which are rounded to float16 as they are stored, so that a row is scored the
                same now and later; or frames, uint8, shape (N, H, W, 3). A row that is not finite gives NaN.

        Raises:
            FramesError: The shape does not fit.
        """
        settings = self.net.settings
        fits = x.ndim == 4 if settings.input == "frames" else x.ndim == 2 and x.shape[1] == settings.dim
        if not fits:
            wanted = "(N, H, W, 3)" if settings.input == "frames" else f"(N, {settings.dim})"
            raise FramesError(
                f"the head takes {settings.input} of shape {wanted}, got {x.shape}: encode frames as it was"
            )
        out = np.empty((settings.members, len(x)), np.float32)
        with torch.inference_mode():
            for start in range(0, len(x), BATCH):
                rows = x[start : start + BATCH]
                if settings.input == "embeddings":
                    rows = rows.astype(np.float16).astype(np.float32)
                tensor = torch.from_numpy(np.ascontiguousarray(rows))
                out[:, start : start + BATCH] = squash(self.net(tensor), settings.output).numpy()
        return out

    def score(self, x: npt.NDArray[Any]) -> FloatArray:
        """Return the mean over the members, float32, shape (N,); arguments as for :meth:`members`."""
        return self.members(x).mean(axis=0)

    def state_dict(self) -> dict[str, Any]:
        """Return plain values and tensors."""
        meta = {**asdict(self.meta), "goal": list(self.meta.goal)}
        return {"meta": meta, "net": asdict(self.net.settings), "weights": dict(self.net.state_dict())}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Head:
        """Build what ``state_dict`` was taken from.

        Raises:
            CheckpointError: It is damaged.
        """
        try:
            net = make_net(HeadSettings(**state["net"]))
            net.load_state_dict(state["weights"])
            return cls(net, HeadMeta(**{**state["meta"], "goal": tuple(state["meta"]["goal"])}))
        except (KeyError, TypeError, ValueError, RuntimeError) as e:
            raise CheckpointError(f"the head is damaged ({' '.join(str(e).split())})") from e

    def save(self, path: Path) -> None:
        """Write the head to one file, whole or not at all."""
        state = self.state_dict()
        # one entry: safetensors writes several in any order, and the same head would not be the same bytes
        about = {KIND: json.dumps({"meta": state["meta"], "net": state["net"]})}
        write_bytes(path, save({name: value.contiguous() for name, value in state["weights"].items()}, about))

    @classmethod
    def load(cls, path: str | Path) -> Head:
        """Read a head.

        Raises:
            WeightsError: The file is missing, damaged, or something else.
        """
        if not Path(path).is_file():
            raise WeightsError(f"no head at {path}: train with reward=preference or reward=distilled to make one")
        try:
            with safe_open(path, framework="pt") as f:
                about = f.metadata() or {}
                weights = {name: f.get_tensor(name) for name in list(f.keys())}
            if KIND not in about:
                raise WeightsError(f"{path} is no head of a reward: give head.safetensors of a run")
            return cls.from_state({**json.loads(about[KIND]), "weights": weights})
        except (SafetensorError, CheckpointError, OSError, ValueError, KeyError, TypeError) as e:
            if isinstance(e, WeightsError):
                raise
            raise WeightsError(f"the head {path} can't be read ({' '.join(str(e).split())}): make it anew") from e
