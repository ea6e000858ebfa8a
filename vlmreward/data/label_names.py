"""Names of labels: where each part of a set of them is written to, and what the name of a column means.

``vlmreward label`` writes a set: reward, success, progress, and one validity for all three.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from vlmreward.errors import ConfigError

RECORDED = "rewards_recorded"
"""Where the recorded rewards stay when labels take their place."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
_PREFIXES = ("rewards_", "reward_")
_PARTS = ("success", "progress", "valid")


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
    stem = _stem(name)
    if not _NAME.fullmatch(stem) or stem in ("recorded", "valid") or len([*label_parts(stem)]) > 1:
        raise ConfigError(
            f"name {name!r} can't be that of labels: use letters, digits and '_', e.g. reward_vlm, and none of "
            f"{', '.join(_PARTS)} at either end, which tell the parts of labels"
        )
    return _names(stem)


def label_names(column: str) -> Iterator[str]:
    """Yield where a column of labels may stand whose name was made from the one the user gave."""
    for labels, part in label_parts(column):
        yield getattr(_names(_stem(labels)), part)


def label_parts(column: str) -> Iterator[tuple[str, str]]:
    """Yield what the name of a column may mean: the name of labels, and which part of them it is.

    ``"progress_vlm"`` and ``"vlm_progress"`` may be labels of their own, or the progress of ``"vlm"``.
    """
    yield column, "reward"
    for part in _PARTS:
        for labels in (column.removeprefix(f"{part}_"), column.removesuffix(f"_{part}")):
            if labels != column:
                yield labels, part


def validity_names(column: str) -> Iterator[str]:
    """Yield the names of the column that says which rows of a column hold a label, its own first.

    Success and progress have no validity of their own but that of their set, which stands beside its reward: for
    ``"reward_vlm_progress"`` it is ``"reward_vlm_valid"``, for ``"progress_vlm"`` it is ``"vlm_valid"``.
    """
    return (f"{labels}_valid" for labels, part in label_parts(column) if part != "valid")


def label_stem(name: str) -> str:
    """Return the name of labels without the ``reward_`` that users may write before it."""
    prefix = next((p for p in _PREFIXES if name.startswith(p)), "")
    return name.removeprefix(prefix)


def _stem(name: str) -> str:
    return "rewards" if name in ("reward", "rewards") else label_stem(name)


def _names(stem: str) -> LabelNames:
    reward = "rewards" if stem == "rewards" else f"rewards_{stem}"
    return LabelNames(reward, f"{reward}_valid", f"success_{stem}", f"progress_{stem}")
