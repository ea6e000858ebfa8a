"""Write an audit of rewards on recorded episodes: as JSON, as one page, and as lines for the terminal."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vlmreward.atomic import write_bytes
from vlmreward.audit.page import render, show_cell
from vlmreward.audit.progress_readings import Film, Reading
from vlmreward.audit.progress_table import METRICS, Confusion
from vlmreward.audit.report_card import Figure

Table = Mapping[str, Mapping[str, Figure]]
MOST_REASONS = 5
"""Reasons of missing values that are named, the most frequent ones."""


def write_progress_report(
    folder: Path,
    about: Mapping[str, Any],
    films: Sequence[Film],
    readings: Mapping[str, Sequence[Reading]],
    table: Table,
) -> tuple[Path, Path]:
    """Write ``audit.json`` and ``audit.html``.

    Args:
        folder: Where to; made if it is not there.
        about: What was asked, on which machine; goes into both files.
        films: The episodes.
        readings: By the row's name, one for each film.
        table: Of ``progress_table.measure``.

    Returns:
        The JSON file and the page.

    Raises:
        StorageError: The folder can't be written.
    """
    rows = [_row(name, films, readings[name], table[name]) for name in readings]
    result = {**about, "metrics": {key: metric.says for key, metric in METRICS.items()}, "rows": rows}
    json_path, html_path = folder / "audit.json", folder / "audit.html"
    write_bytes(json_path, (json.dumps(result, indent=2, ensure_ascii=False) + "\n").encode())
    write_bytes(html_path, render_progress(about, rows, table).encode())
    return json_path, html_path


def render_progress(about: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], table: Table) -> str:
    """Return the page."""
    known = known_metrics(table)
    shown = [
        {
            "name": name,
            "baseline": is_baseline(name),
            "cells": [show_cell(f.value, f.low, f.high) for f in (figures[key] for key in known)],
        }
        for name, figures in table.items()
    ]
    return render(
        "progress.html.j2",
        about=about,
        headings=[{"name": METRICS[key].heading, "says": METRICS[key].says} for key in known],
        rows=shown,
        notes=[note for row in rows for note in _notes(row)],
        matrices=[_matrix(row) for row in rows if not is_baseline(row["name"]) and len(row["confusion"]["texts"]) > 1],
    )


def table_lines(table: Table) -> list[str]:
    """Return the table as lines of text: a line for each metric, a column for each row, numbered."""
    names = list(table)
    lines = [f"[{number}] {name}" for number, name in enumerate(names, 1)]
    width = max(len(METRICS[key].heading) for key in METRICS)
    lines.append(" " * width + "".join(f"{f'[{number}]':>8}" for number in range(1, len(names) + 1)))
    for key in known_metrics(table):
        values = [table[name][key].value for name in names]
        cells = "".join(f"{'-' if math.isnan(value) else f'{value:.2f}':>8}" for value in values)
        lines.append(f"{METRICS[key].heading:<{width}}{cells}   {METRICS[key].says}")
    return lines


def known_metrics(table: Table) -> list[str]:
    """Return the metrics that are defined for some row, in order."""
    return [key for key in METRICS if any(np.isfinite(figures[key].value) for figures in table.values())]


def is_baseline(name: str) -> bool:
    """Return whether a row needs no model."""
    return name.startswith("baseline: ")


def _row(
    name: str, films: Sequence[Film], readings: Sequence[Reading], figures: Mapping[str, Figure]
) -> dict[str, Any]:
    confusion = Confusion(list(zip(films, readings, strict=True)))
    reasons: Counter[str] = Counter()
    for reading in readings:
        reasons.update(reading.reasons)
    return {
        "name": name,
        "metrics": {
            key: {part: _number(getattr(f, part)) for part in ("value", "low", "high")} for key, f in figures.items()
        },
        "confusion": {
            "texts": confusion.texts,
            "ends": [[_number(v) for v in row] for row in confusion.table(np.arange(len(films))).tolist()],
        },
        "invalid": sum(reasons.values()),
        "reasons": dict(reasons.most_common(MOST_REASONS)),
    }


def _notes(row: Mapping[str, Any]) -> list[str]:
    return [f"{row['name']}: {count} frames have no value: {why}" for why, count in row["reasons"].items()]


def _matrix(row: Mapping[str, Any]) -> dict[str, Any]:
    texts, ends = row["confusion"]["texts"], row["confusion"]["ends"]
    shown = [["–" if value is None else f"{value:.3g}" for value in line] for line in ends]
    lines = [{"text": text, "shown": line} for text, line in zip(texts, shown, strict=True)]
    return {"name": row["name"], "texts": texts, "rows": lines}


def _number(value: float) -> float | None:
    return None if math.isnan(value) else round(float(value), 6)
