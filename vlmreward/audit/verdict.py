"""Say in words what the figures of one variant mean, and whether it beats chance."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vlmreward.audit.audit import SCORE, View

FEW = 20
"""Successes below which an interval says little."""

TRIVIAL = 0.8
"""Rank correlation with brightness or with the change of pixels from which on a warning is due."""

NOISY = 10.0
"""Span of the reward, in units of its noise, below which a warning is due."""


@dataclass(frozen=True)
class Verdict:
    """What an audit says of one variant.

    Attributes:
        beats_chance: Whether the interval of the figure lies above chance, that of all variants at once where this is
            one of several; None where there are no labels, or too few of a kind, to tell.
        figure: The figure, in words.
        warnings: What else to know, a sentence each.
    """

    beats_chance: bool | None
    figure: str
    warnings: tuple[str, ...]


def judge(view: View, number: int = 0) -> Verdict:
    """Judge one variant of a view.

    Chance is an AUROC of 0.5 against the labels of success, or a Spearman of 0 with progress where the frames don't
    show both success and its absence.

    Args:
        view: The result.
        number: Of the variant.
    """
    warnings = list(_warnings(view, number))
    for name, words, chance in (
        ("auroc", "AUROC of success", 0.5),
        ("spearman_progress", "Spearman with progress", 0.0),
    ):
        if name in view.table.columns:
            column = view.table.columns[name]
            value, low, high = (float(c[number]) for c in (column.value, column.low, column.high))
            if np.isnan(value):
                return Verdict(False, f"{words} undefined: {column.undefined}", tuple(warnings))
            if np.isnan(low):
                return Verdict(
                    None, f"{words} {value:.3f}, on too few labels of a kind for an interval", tuple(warnings)
                )
            text = f"{words} {value:.3f} (95 % interval {low:.3f} to {high:.3f}, chance {chance:g})"
            floor = float(view.floors[name][number])
            if floor < low:
                text += f"; as one of {len(view.variants)} at least {floor:.3f}"
            return Verdict(bool(floor > chance), text, tuple(warnings))
    shown = view.table.columns["range_in_noise"].value[number]
    return Verdict(None, f"no labels; the reward spans {shown:.0f} times the noise of its embeddings", tuple(warnings))


def _warnings(view: View, number: int) -> list[str]:
    table, found = view.table, []

    def value(name: str, row: int = number) -> float:
        return float(table.columns[name].value[row]) if name in table.columns else float("nan")

    if view.variants[number].note:
        found.append(view.variants[number].note)
    success = view.gallery.success
    if success is not None:
        shown, other = int(success.sum()), int((~success).sum())
        if min(shown, other) < FEW:
            what = (
                f"{shown} of {len(success)} frames show" if shown <= other else f"{other} of {len(success)} do not show"
            )
            found.append(f"only {what} success: the figures are coarse")
    if SCORE in table.columns and not table.columns[SCORE].low[number] > 0:
        found.append(
            f"the audit score {value(SCORE):.2f} is not clearly above 0: the reward may not rise towards the goal"
        )
    if value("range_in_noise") < NOISY:
        found.append(f"the reward spans only {value('range_in_noise'):.1f} times the noise of its embeddings")
    for cue in ("brightness", "pixel_change"):
        if abs(value(f"spearman_{cue}")) > TRIVIAL:
            words = cue.replace("_", " ")
            found.append(f"its rank correlation with {words} is {value(f'spearman_{cue}'):.2f}: it may be little else")
    if "prompt_margin" in table.columns and not table.columns["prompt_margin"].low[number] > 0:
        found.append("other goals' prompts do as well by these labels: the text may not matter")
    if value("prompt_correlation") > 0.9:
        found.append(f"rewards of other goals correlate by {value('prompt_correlation'):.2f}: the text may not matter")
    for row in range(len(view.variants), len(table.sweeps)):
        if SCORE in table.columns and value(SCORE, row) > value(SCORE):
            on = "" if table.frames[row] == table.frames[number] else f" on the {table.frames[row]} frames that have it"
            found.append(f"{table.sweeps[row]} does better{on} ({value(SCORE, row):.2f} against {value(SCORE):.2f})")
    return found
