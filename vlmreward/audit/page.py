"""Pages of audits: templates of this folder, rendered to one file that needs nothing else."""

from __future__ import annotations

import base64
import math
from importlib.resources import files
from typing import Any


def render(template: str, **values: Any) -> str:
    """Return a page.

    Args:
        template: Name of its file.
        **values: What it shows.
    """
    import jinja2

    def read(name: str) -> str:
        return (files("vlmreward.audit") / name).read_text(encoding="utf-8")

    loader = jinja2.FunctionLoader(read)
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["uri"] = _uri
    return environment.get_template(template).render(**values)


def show_cell(value: float, low: float, high: float) -> dict[str, str]:
    """Return a cell of a table: by what it is sorted, the value, and its interval; NaN is not shown."""
    return {
        "sort": "" if math.isnan(value) else f"{value:.6g}",
        "value": "–" if math.isnan(value) else f"{value:.3g}",
        "interval": "" if math.isnan(low) else f"{low:.2g} to {high:.2g}",
    }


def _uri(data: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
