"""Names of the datasets that labels are written to, beside the recorded ones of an episode."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from vlmreward.errors import ConfigError

RECORDED = "rewards_recorded"
"""Where the recorded rewards stay when labels take their place."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
_PREFIXES = ("rewards_", "reward_")


@dataclass(frozen=True)
class LabelNames:
    """Names of the datasets of one set of labels.

    Attributes:
        reward: e.g. ``"rewards_vlm"``; ``"rewards"`` where labels take the place of the recorded ones.
        valid: e.g. ``"rewards_vlm_valid"``.
        success: e.g. ``"success_vlm"``.
        progress: e.g. ``"progress_vlm"``.
    """

    reward: str
    valid: str
    success: str
    progress: str

    @property
    def all(self) -> tuple[str, ...]:
        """All four."""
        return (self.reward, self.valid, self.success, self.progress)

    @property
    def in_place(self) -> bool:
        """Whether the labels stand in the place of the recorded rewards."""
        return self.reward == "rewards"


def name_labels(name: str) -> LabelNames:
    """Return where labels go.

    Args:
        name: As the user gave it, e.g. ``"vlm"``, ``"reward_vlm"`` or ``"rewards_vlm"``, which mean the same; or
            ``"rewards"``.

    Raises:
        ConfigError: It can't be a name, or belongs to something else.
    """
    stem = "rewards" if name in ("reward", "rewards") else label_stem(name)
    if not _NAME.fullmatch(stem) or stem.endswith("_valid") or stem == "recorded":
        raise ConfigError(f"name {name!r} can't be that of labels: use letters, digits and '_', e.g. reward_vlm")
    reward = "rewards" if stem == "rewards" else f"rewards_{stem}"
    return LabelNames(reward, f"{reward}_valid", f"success_{stem}", f"progress_{stem}")


def label_names(column: str) -> Iterator[str]:
    """Yield where a column of labels may stand whose name was made from the one the user gave."""
    yield f"rewards_{label_stem(column)}"
    for part in ("success", "progress"):
        for bare in (column.removeprefix(f"{part}_"), column.removesuffix(f"_{part}")):
            if bare != column:
                yield f"{part}_{label_stem(bare)}"


def label_stem(name: str) -> str:
    """Return the name of labels without the ``reward_`` that users may write before it."""
    prefix = next((p for p in _PREFIXES if name.startswith(p)), "")
    return name.removeprefix(prefix)
