"""Save and resume a whole run: algorithm, replay buffer, normalisers, random generators, counters, logs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from stable_baselines3.common.base_class import BaseAlgorithm

from vlmreward.agents.checkpoint import CheckpointStore, StoredFile
from vlmreward.agents.checkpoint_replay import ReplayChunks
from vlmreward.agents.checkpoint_state import capture, restore
from vlmreward.agents.metrics import JsonLinesWriter
from vlmreward.errors import CheckpointError
from vlmreward.wrappers.scorer import Scorer


class Stateful(Protocol):
    """A part of a run that has state of its own."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state as plain numbers."""
        ...

    def load_state_dict(self, state: Any) -> None:
        """Take over a state."""
        ...


class Checkpointer:
    """Writes the checkpoints of one run.

    Args:
        store: Where they go.
        model: The algorithm.
        scorer: Its statistics are saved too.
        parts: Other parts of the run with state, by name.
        metrics: Its number of lines is saved, so that a resumed run drops those written after the checkpoint.
    """

    def __init__(
        self,
        store: CheckpointStore,
        model: BaseAlgorithm,
        scorer: Scorer,
        parts: Mapping[str, Stateful],
        metrics: JsonLinesWriter,
    ) -> None:
        self.store = store
        self.best_name, self.best_value = "", float("-inf")
        self._model, self._scorer, self._parts, self._metrics = model, scorer, parts, metrics
        buffer = getattr(model, "replay_buffer", None)
        self._replay = ReplayChunks(store.folder, buffer) if buffer is not None else None

    def save(self, num_timesteps: int) -> Path:
        """Write a checkpoint.

        Args:
            num_timesteps: Environment steps whose results are in the algorithm's state.

        Raises:
            StorageError: It can't be written.
        """
        rows: dict[str, Any] = {}
        shared: list[StoredFile] = []
        if self._replay is not None:  # first: it scores what waits, and that moves the reward's statistics
            rows, shared = self._replay.save()
        state = {**self._state(num_timesteps), "replay": rows}
        return self.store.save(num_timesteps, state, self._meta(num_timesteps), shared)

    def offer_best(self, num_timesteps: int, value: float | None) -> None:
        """Keep the agent as the best one if its VLM return on the selection seeds is the highest so far.

        Args:
            num_timesteps: Environment steps so far.
            value: The VLM return; None if it is not known.
        """
        if value is None or value <= self.best_value:
            return
        self.best_name, self.best_value = f"best_{num_timesteps:012d}", value
        self.store.save(num_timesteps, self._state(num_timesteps), self._meta(num_timesteps), best=True)

    def resume(self, path: Path) -> dict[str, Any]:
        """Give every part the state of a checkpoint.

        Args:
            path: The checkpoint's folder.

        Returns:
            Its ``meta``.

        Raises:
            CheckpointError: It is damaged, or does not fit the config.
        """
        state, meta, shared = self.store.load(path)
        missing = [name for name in self._parts if name not in state]
        if missing:
            raise CheckpointError(
                f"checkpoint {path} holds no {', '.join(missing)}: use the version of vlmreward that wrote it"
            )
        restore(self._model, state["model"])
        self._scorer.load_state_dict(state["scorer"])
        for name, part in self._parts.items():
            part.load_state_dict(state[name])
        if self._replay is not None:
            self._replay.load(state["replay"], shared)
        self.best_name, self.best_value = meta["best"], float(meta["best_value"])
        self.store.forget_after(self.best_name)
        return meta

    def _state(self, num_timesteps: int) -> dict[str, Any]:
        return {
            "model": capture(self._model, num_timesteps),
            "scorer": self._scorer.state_dict(),
            **{name: part.state_dict() for name, part in self._parts.items()},
        }

    def _meta(self, num_timesteps: int) -> dict[str, Any]:
        return {
            "num_timesteps": num_timesteps,
            "metrics_lines": self._metrics.lines,
            "best": self.best_name,
            "best_value": self.best_value,
        }
