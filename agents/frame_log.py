"""Count the frames of training that were scored: over the whole run, and since the last log line."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from vlmreward.wrappers.frame_gate import GateCounts

COUNTS = ("rows", "invalid", "pictures", "encode_calls")


class FrameLog:
    """Counts the frames that steps led to, earlier sessions of the run included; those of resets get no reward.

    Evaluations are not part of it; steps that a resumed run takes again are counted again.
    """

    def __init__(self) -> None:
        self._total: Counter[str] = Counter()
        self._logged: Counter[str] = Counter()  # the total at the last log line
        self._reasons: Counter[str] = Counter()
        self._gate = self._gate_logged = GateCounts()

    @property
    def gate(self) -> GateCounts:
        """What the frame gate has done."""
        return self._gate

    def add(self, stats: Mapping[str, Any], before: Mapping[str, Any]) -> None:
        """Take in what a scorer counted between two calls of its ``stats``.

        Args:
            stats: What the second call returned.
            before: What the first call returned.
        """
        self._total.update({name: stats[name] - before[name] for name in COUNTS})
        self._reasons.update(Counter(stats["reasons"]) - Counter(before["reasons"]))
        self._gate += stats["gate"].since(before["gate"])

    def next_line(self) -> dict[str, float]:
        """Return averages, and counts of the frame gate, since the last call under their log names.

        There are none if no frame was scored since then, and no counts without a gate.
        """
        new = self._total - self._logged
        self._logged = self._total.copy()
        line = {}
        if new["rows"]:
            line["rollout/invalid_frac"] = new["invalid"] / new["rows"]
            if new["encode_calls"]:
                line["rollout/encode_batch_mean"] = new["pictures"] / new["encode_calls"]
        gate = self._gate.since(self._gate_logged)
        self._gate_logged = self._gate
        if gate.seen:
            line |= {"gate/seen": gate.seen, "gate/encoded": gate.encoded, "gate/skipped": gate.skipped}
        return line

    def summary(self) -> dict[str, Any]:
        """Return what a result says: frames with a reward, frames that could not be scored, and why, counted."""
        scored, invalid = self._total["rows"] - self._total["invalid"], self._total["invalid"]
        return {"scored": scored, "invalid": invalid, "reasons": dict(self._reasons)}

    def state_dict(self) -> dict[str, Any]:
        """Return the counts as plain numbers."""
        counts = {"total": dict(self._total), "logged": dict(self._logged), "reasons": dict(self._reasons)}
        return {**counts, "gate": asdict(self._gate), "gate_logged": asdict(self._gate_logged)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what ``state_dict`` returned."""
        self._total, self._logged, self._reasons = (Counter(state[name]) for name in ("total", "logged", "reasons"))
        # a checkpoint from before there were gates has none
        self._gate, self._gate_logged = (GateCounts(**state.get(name, {})) for name in ("gate", "gate_logged"))
