"""Write an audit as JSON, as pictures, and as one page that needs nothing else."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vlmreward.atomic import write_bytes
from vlmreward.audit.audit import SCORE, View
from vlmreward.audit.page import render, show_cell
from vlmreward.audit.sample import Array
from vlmreward.audit.verdict import judge

STRIP = 8
"""Frames of a strip."""

COLUMNS = {
    SCORE: "audit score",
    "auroc": "AUROC",
    "auprc": "AUPRC",
    "spearman_progress": "Spearman",
    "pearson_progress": "Pearson",
    "epic_progress": "EPIC (progress)",
    "epic_success": "EPIC (success)",
    "pairwise_accuracy": "pairs in order",
    "cohen_d": "separation",
    "gap_share": "gap / span",
    "usable_range": "range used",
    "range_in_noise": "span / noise",
    "prompt_margin": "margin over other prompts",
    "prompt_correlation": "correlation with other prompts",
    "voc": "VOC",
    "voc_gap": "VOC gap",
    "between_share": "between rollouts",
    "constant_share": "constant rollouts",
    "spearman_brightness": "brightness",
    "spearman_pixel_change": "pixel change",
}
"""Metrics of the page's table, in order, with their headings."""


@dataclass(frozen=True)
class Figure:
    """A picture of the report.

    Attributes:
        name: Of its file, without the suffix.
        caption: What it shows.
        png: Its bytes.
    """

    name: str
    caption: str
    png: bytes


def write_report(
    folder: Path, about: Mapping[str, Any], views: Sequence[View], figures: Sequence[Figure]
) -> tuple[Path, Path]:
    """Write ``audit.json``, ``audit.html`` and the figures.

    Args:
        folder: Where to; made if it is not there.
        about: What was asked, on which machine; goes into both files.
        views: One for each look.
        figures: Landscapes.

    Returns:
        The JSON file and the page.

    Raises:
        StorageError: The folder can't be written.
    """
    for old in set(folder.glob("landscape_*.png")) - {folder / f"{figure.name}.png" for figure in figures}:
        old.unlink()  # of an audit that was written here before
    for figure in figures:
        write_bytes(folder / f"{figure.name}.png", figure.png)
    result = {**about, "views": [to_json(view) for view in views]}
    json_path, html_path = folder / "audit.json", folder / "audit.html"
    write_bytes(json_path, (json.dumps(result, indent=2, ensure_ascii=False) + "\n").encode())
    write_bytes(html_path, render_page(about, views, figures).encode())
    return json_path, html_path


def to_json(view: View) -> dict[str, Any]:
    """Return a view as plain JSON: the look, the frames, and a row for each variant and baseline."""
    gallery = view.gallery
    sources = {name: gallery.sources.count(name) for name in dict.fromkeys(gallery.sources)}
    table = view.table.to_json()
    for row, variant in zip(table["sweeps"], view.variants, strict=False):
        row["settings"] = dict(variant.settings)
    return {
        "env_kwargs": dict(view.settings),
        "frames": len(gallery),
        "sources": sources,
        "success_frames": None if gallery.success is None else int(gallery.success.sum()),
        "refused_frames": gallery.refused,
        **table,
    }


def render_page(about: Mapping[str, Any], views: Sequence[View], figures: Sequence[Figure]) -> str:
    """Return the page."""
    known = [name for name in COLUMNS if any(name in view.table.columns for view in views)]
    return render(
        "report.html.j2",
        about=about,
        headings=[{"name": COLUMNS[name]} for name in known],
        rows=[row for view in views for row in _rows(view, known, several=len(views) > 1)],
        views=[_show(view) for view in views],
        figures=figures,
    )


def _rows(view: View, known: Sequence[str], several: bool) -> list[dict[str, Any]]:
    """Return the table's rows: name, whether it is a baseline, and a cell for each metric."""
    look = ", ".join(f"{k} {v}" for k, v in view.settings.items())
    rows = []
    for i, name in enumerate(view.table.sweeps):
        cells = []
        for metric in known:
            column = view.table.columns.get(metric)
            value, low, high = (float("nan"),) * 3 if column is None else _at(column, i)
            cells.append(show_cell(value, low, high))
        shown = f"{name} [{look}]" if several and look else name
        rows.append({"name": shown, "baseline": i >= len(view.variants), "cells": cells})
    return rows


def _at(column: Any, i: int) -> tuple[float, float, float]:
    return float(column.value[i]), float(column.low[i]), float(column.high[i])


def _show(view: View) -> dict[str, Any]:
    """Return what the page shows of a view: its verdicts and the strips of its best variant."""
    verdicts = [{"name": v.name, "verdict": judge(view, i)} for i, v in enumerate(view.variants)]
    best = view.best
    return {
        "look": ", ".join(f"{k} {v}" for k, v in view.settings.items()),
        "summary": to_json(view),
        "verdict": verdicts[best],
        "strips": strips(view, best),
    }


def strips(view: View, number: int) -> list[dict[str, Any]]:
    """Return the frames that a variant likes most and least, and its most confident mistakes.

    Args:
        view: The result.
        number: Of the variant.

    Returns:
        Dicts with ``title`` and ``frames``, of which each has ``jpeg``, ``reward`` and ``caption``.
    """
    reward, success = view.scores[:, number], view.gallery.success
    order = np.argsort(reward)  # NaN goes last
    order = order[np.isfinite(reward[order])]
    found = [("highest rewards", order[::-1][:STRIP]), ("lowest rewards", order[:STRIP])]
    if success is not None and success.any() and not success.all():
        found.append(("highest rewards without success", order[::-1][~success[order[::-1]]][:STRIP]))
        found.append(("lowest rewards with success", order[success[order]][:STRIP]))
    return [{"title": title, "frames": [_frame(view, reward, int(i)) for i in rows]} for title, rows in found]


def _frame(view: View, reward: Array, i: int) -> dict[str, Any]:
    gallery = view.gallery
    truth = "" if gallery.success is None else ("success" if gallery.success[i] else "no success")
    progress = "" if gallery.progress is None else f"progress {gallery.progress[i]:.2f}"
    caption = ", ".join(filter(None, (truth, progress, gallery.sources[i])))
    return {"jpeg": gallery.pictures[i], "reward": f"{reward[i]:.4f}", "caption": caption}
